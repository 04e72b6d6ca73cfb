"""Volume rendering beside nerfacc's (Li et al., ICCV 2023): rays of one length as it has them in plain PyTorch, and
rays of any length by its CUDA kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from canon.representations.dynamic_nerf.volume import composite, render_weights


def rays(count: int, samples: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Densities [R, S], thin and thick, and edges [R, S + 1]."""
    generator = torch.Generator().manual_seed(0)
    density = torch.exp(2 * torch.randn((count, samples), generator=generator)).clamp(max=60)
    density[::3, 1::2] = 0
    edges = torch.cumsum(0.01 + torch.rand((count, samples + 1), generator=generator) / samples, dim=-1)
    return density.to(device).requires_grad_(), edges.to(device).requires_grad_()


def nerfacc() -> Any:
    return pytest.importorskip("nerfacc", reason="nerfacc is not installed")


def gradients(value: Tensor, inputs: tuple[Tensor, Tensor], seed: int = 1) -> tuple[Tensor, ...]:
    """Of a colour that no two intervals share."""
    colours = torch.rand((*value.shape, 3), generator=torch.Generator().manual_seed(seed)).to(value.device)
    return torch.autograd.grad(composite(value, colours).square().sum(), inputs)


@pytest.mark.parametrize(("count", "samples"), [(1, 1), (7, 13), (64, 48)])
def test_weights_are_nerfaccs(count: int, samples: int) -> None:
    found = rays(count, samples)
    density, edges = found
    weights, passed = render_weights(density, edges)
    theirs, transmittance, _ = nerfacc().render_weight_from_density(edges[:, :-1], edges[:, 1:], density)
    assert torch.allclose(weights, theirs, atol=5e-6) and torch.allclose(passed, transmittance, atol=5e-6)
    for own, other in zip(gradients(weights, found), gradients(theirs, found), strict=True):
        assert torch.allclose(own, other, atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nerfacc's kernels need a GPU")
def test_weights_are_those_of_nerfaccs_kernels() -> None:
    density, edges = rays(65, 31, "cuda")
    weights, _ = render_weights(density, edges)
    numbers = torch.arange(65, device="cuda").repeat_interleave(31)
    flat = (part.reshape(-1) for part in (edges[:, :-1], edges[:, 1:], density))
    theirs, _, _ = nerfacc().render_weight_from_density(*flat, ray_indices=numbers, n_rays=65)
    packed = theirs.reshape(65, 31)
    assert torch.allclose(weights, packed, atol=5e-6)
    for own, other in zip(gradients(weights, (density, edges)), gradients(packed, (density, edges)), strict=True):
        assert torch.allclose(own, other, atol=1e-4, rtol=1e-3)
