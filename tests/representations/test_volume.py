"""Volume rendering against analytic answers, losses against their plain definitions, sampling against its density."""

from __future__ import annotations

import math

import pytest
import torch

from canon.representations.dynamic_nerf.volume import (
    composite,
    distortion,
    interlevel,
    middle,
    render_weights,
    resample,
)


def random_rays(count: int = 7, intervals: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.cumsum(torch.rand(count, intervals + 1, generator=generator, dtype=torch.float64) + 0.05, dim=-1)
    return torch.rand(count, intervals, generator=generator, dtype=torch.float64), edges


@pytest.mark.parametrize("intervals", [1, 10, 300])
def test_a_slab_is_as_opaque_as_beer_and_lambert_say(intervals: int) -> None:
    edges = torch.linspace(1, 3, intervals + 1, dtype=torch.float64)
    weights, transmittance = render_weights(torch.full((intervals,), 0.7, dtype=torch.float64), edges)
    assert float(weights.sum()) == pytest.approx(1 - math.exp(-1.4))
    assert torch.allclose(transmittance, torch.exp(-0.7 * (edges[:-1] - 1)))
    if intervals == 300:  # the mean depth of what is seen
        seen = float(composite(weights, middle(edges)[:, None])) / float(weights.sum())
        assert seen == pytest.approx(1 + 1 / 0.7 - 2 * math.exp(-1.4) / (1 - math.exp(-1.4)), abs=1e-4)


def test_what_is_in_front_hides_what_is_behind() -> None:
    density = torch.tensor([0.0, 1e9, 5.0, 0.0])
    weights, _ = render_weights(density, torch.tensor([0.0, 1, 2, 3, 4]))
    assert torch.allclose(weights, torch.tensor([0.0, 1, 0, 0]))
    colours = torch.eye(4)[:, :3]
    assert torch.allclose(composite(weights, colours), torch.tensor([0.0, 1, 0]))
    random, edges = random_rays()
    assert torch.autograd.gradcheck(lambda x: render_weights(x, edges)[0], random.requires_grad_())


def test_distortion_is_that_of_all_pairs() -> None:
    weights, edges = random_rays()
    at, width = middle(edges), torch.diff(edges, dim=-1)
    pairs = (weights[:, :, None] * weights[:, None] * (at[:, :, None] - at[:, None]).abs()).sum(dim=(1, 2))
    assert torch.allclose(distortion(weights, edges), pairs + (weights**2 * width).sum(-1) / 3)
    assert torch.autograd.gradcheck(lambda x: distortion(x, edges), weights.requires_grad_())


def test_a_proposal_with_room_for_all_costs_nothing() -> None:
    weights, edges = random_rays()
    weights = weights / weights.sum(-1, keepdim=True)
    coarse_edges = edges[:, ::3]
    coarse = weights.reshape(len(weights), -1, 3).sum(-1)
    assert torch.allclose(interlevel(coarse, coarse_edges, weights, edges), torch.zeros(7, dtype=torch.float64))
    proposed = (coarse * 0.1).requires_grad_()
    fine = weights.clone().requires_grad_()
    found = interlevel(proposed, coarse_edges, fine, edges)
    found.sum().backward()
    assert (found > 0.01).all() and proposed.grad is not None and fine.grad is None
    assert (proposed.grad <= 0).all() and (proposed.grad < 0).any(dim=-1).all()


def test_a_proposal_is_bound_by_what_it_overlaps() -> None:
    weights, edges = random_rays(seed=1)
    proposed, others = random_rays(intervals=5, seed=2)
    proposed = proposed * 0.2
    overlaps = (others[:, None, :-1] < edges[:, 1:, None]) & (others[:, None, 1:] > edges[:, :-1, None])
    bound = (overlaps * proposed[:, None]).sum(-1)
    wanted = ((weights - bound).clamp_min(0) ** 2 / (weights + 1e-7)).sum(-1)
    assert torch.allclose(interlevel(proposed, others, weights, edges), wanted)


def test_samples_lie_where_the_weights_are() -> None:
    edges = torch.linspace(0, 4, 5, dtype=torch.float64)[None]
    found = resample(edges, torch.tensor([[0.0, 3.0, 1.0, 0.0]], dtype=torch.float64), 4000)
    assert (torch.diff(found) >= 0).all() and float(found[0, 0]) == 0 and float(found[0, -1]) == 4
    inside = [float(((found >= low) & (found < low + 1)).double().mean()) for low in range(4)]
    assert inside == pytest.approx([0, 0.75, 0.25, 0], abs=2e-3)
    assert torch.allclose(
        resample(edges, torch.zeros(1, 4, dtype=torch.float64), 8)[0], torch.linspace(0, 4, 9).double()
    )
    weights, many = random_rays()
    moved = [resample(many, weights, 16, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(moved[0], moved[1]) and not torch.equal(moved[0], moved[2])
    assert (torch.diff(moved[0], dim=-1) > 0).all()
    assert torch.allclose(moved[0][:, [0, -1]], many[:, [0, -1]])
