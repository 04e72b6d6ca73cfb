"""Scene contraction there and back, and boxes against rays whose answers are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from canon.representations.dynamic_nerf.space import box_hits, contract, uncontract


@given(st.tuples(*[st.floats(-60, 60)] * 3))
def test_contraction_there_and_back(place: tuple[float, float, float]) -> None:
    point = torch.tensor(place, dtype=torch.float64)
    found = contract(point)
    assert float(found.abs().max()) <= 2
    assert torch.allclose(uncontract(found), point, rtol=1e-6, atol=1e-9)
    if float(point.abs().max()) <= 1:
        assert torch.equal(found, point)


def test_contraction_of_known_places() -> None:
    points = torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.0, 0.0], [-4.0, 2.0, 1.0], [1e9, 1.0, 0.0]])
    wanted = torch.tensor([[0.5, -1.0, 0.0], [1.5, 0.0, 0.0], [-1.75, 0.875, 0.4375], [2.0, 0.0, 0.0]])
    assert torch.allclose(contract(points), wanted, atol=1e-6)
    inside = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6 - 3
    assert torch.autograd.gradcheck(contract, inside.requires_grad_())


@pytest.mark.parametrize(
    ("origin", "direction", "wanted"),
    [
        ((-3, 0.5, 0), (1, 0, 0), (2.0, 4.0)),
        ((0, 0, 0), (0, 1, 0), (0.0, 2.0)),  # from inside
        ((-3, 0, 0), (-1, 0, 0), None),  # behind it
        ((-3, 5, 0), (1, 0, 0), None),
        ((-2, -2, 0), (2**-0.5, 2**-0.5, 0), (2**0.5, 3 * 2**0.5)),
        ((0, -5, 3), (0, 0, -1), None),  # along a face that it is beside
    ],
)
def test_boxes(origin: tuple[float, ...], direction: tuple[float, ...], wanted: tuple[float, float] | None) -> None:
    low, high = torch.tensor([-1.0, -1, -1]), torch.tensor([1.0, 2, 1])
    near, far, hit = box_hits(torch.tensor(origin).float(), torch.tensor(direction).float(), low, high)
    assert bool(hit) == (wanted is not None)
    assert (float(near), float(far)) == pytest.approx(wanted or (0, 0), abs=1e-5)
