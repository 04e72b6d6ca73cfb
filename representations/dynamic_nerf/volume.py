"""Volume rendering along rays: intervals, what they weigh, where to sample next, and losses on their weights.

Convention: a ray has S intervals between S + 1 ascending edges [..., S + 1]; densities and weights are [..., S].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def render_weights(density: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """What each interval contributes to its ray's colour (Max, 1995; Mildenhall et al., 2020, equation 3).

    Args:
        density: [..., S], at least 0, per unit of length.
        edges: [..., S + 1], lengths along the ray.

    Returns:
        weights: [..., S] that sum to the ray's opacity.
        transmittance: [..., S], light that reaches each interval.
    """
    depth = density * torch.diff(edges, dim=-1)
    passed = _before(depth)
    transmittance = torch.exp(-passed)
    return transmittance * -torch.expm1(-depth), transmittance


def _before(depth: Tensor) -> Tensor:
    """Sums [..., S] of all that lies before each; not a sum less its last part, which rounds behind thick samples."""
    return torch.cumsum(F.pad(depth[..., :-1], (1, 0)), dim=-1)


def composite(weights: Tensor, values: Tensor) -> Tensor:
    """Values [..., S, C] of intervals as a ray sees them, [..., C]; nothing is put behind them."""
    return (weights[..., None] * values).sum(dim=-2)


def middle(edges: Tensor) -> Tensor:
    """Of intervals, [..., S]."""
    return (edges[..., 1:] + edges[..., :-1]) / 2


def resample(edges: Tensor, weights: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Edges of new intervals, closer together where weights are higher: inverse transform sampling.

    Args:
        weights: [..., S], at least 0; where all are 0 the new intervals are even.
        count: of the new intervals.
        generator: shifts the inner edges at random; None gives all intervals the same share of the weights.

    Returns:
        [..., count + 1], ascending, without gradient.
    """
    weights = weights.detach() + 1e-5 / weights.shape[-1]  # so that no interval is lost for good
    share = torch.cumsum(weights, dim=-1) / weights.sum(dim=-1, keepdim=True)
    share = torch.cat([torch.zeros_like(share[..., :1]), share], dim=-1)
    wanted = torch.linspace(0, 1, count + 1, dtype=edges.dtype, device=edges.device).expand(*edges.shape[:-1], -1)
    if generator is not None:
        shape = (*edges.shape[:-1], count - 1)
        moved = (torch.rand(shape, generator=generator, dtype=edges.dtype, device=generator.device) - 0.5) / count
        wanted = torch.cat([wanted[..., :1], wanted[..., 1:-1] + moved.to(edges.device), wanted[..., -1:]], dim=-1)
    wanted = wanted.contiguous()
    above = torch.searchsorted(share.contiguous(), wanted, right=True).clamp(1, edges.shape[-1] - 1)
    low, high = share.gather(-1, above - 1), share.gather(-1, above)
    begin, end = edges.gather(-1, above - 1), edges.gather(-1, above)
    return begin + ((wanted - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) * (end - begin)


def distortion(weights: Tensor, edges: Tensor) -> Tensor:
    """How far a ray's weights lie apart, [...]: 0 for a single thin surface (mip-NeRF 360, 2022, equation 15).

    In one pass over the intervals instead of over all their pairs (Sun et al., DVGO v2, 2022).
    """
    at, width = middle(edges), torch.diff(edges, dim=-1)
    mass, moment = (torch.cumsum(part, dim=-1) - part for part in (weights, weights * at))
    between = 2 * (weights * (at * mass - moment)).sum(dim=-1)
    return between + (weights.square() * width).sum(dim=-1) / 3


def interlevel(proposed: Tensor, proposed_edges: Tensor, weights: Tensor, edges: Tensor) -> Tensor:
    """How much of the weights a proposal has no room for, [...] (mip-NeRF 360, 2022, equations 11 to 13).

    Args:
        proposed, proposed_edges: of the proposal, whose weights learn from this.
        weights, edges: of what it is to propose; they do not learn from this.
    """
    weights, edges = weights.detach(), edges.detach()
    mass = torch.cat([torch.zeros_like(proposed[..., :1]), torch.cumsum(proposed, dim=-1)], dim=-1)
    own = proposed_edges.detach().contiguous()
    last = own.shape[-1] - 1
    first = torch.searchsorted(own, edges[..., :-1].contiguous(), right=True).sub(1).clamp(0, last)
    end = torch.searchsorted(own, edges[..., 1:].contiguous()).clamp(0, last)
    bound = mass.gather(-1, end) - mass.gather(-1, first)
    return ((weights - bound).clamp_min(0).square() / (weights + 1e-7)).sum(dim=-1)


def merged_weights(at: Sequence[Tensor], depth: Sequence[Tensor]) -> list[Tensor]:
    """What samples of several fields along the same rays contribute, with all of them in order of depth.

    Args:
        at: [..., S] of each field, lengths along the ray.
        depth: [..., S], optical depth of each sample: its density times the length that it stands for.

    Returns:
        weights: [..., S] of each field; together they sum to the ray's opacity.
    """
    order = torch.cat(list(at), dim=-1).argsort(dim=-1)
    thick = torch.cat(list(depth), dim=-1).gather(-1, order)
    passed = _before(thick)
    found = torch.exp(-passed) * -torch.expm1(-thick)
    back = torch.zeros_like(found).scatter(-1, order, found)
    return list(back.split([part.shape[-1] for part in at], dim=-1))


def median_depth(weights: Tensor, at: Tensor) -> Tensor:
    """Where half of what a ray sees lies before, [...]: unlike a mean, never between two surfaces.

    Args:
        weights, at: [..., S], in order of depth.
    """
    passed = torch.cumsum(weights, dim=-1)
    number = (passed < 0.5 * passed[..., -1:]).sum(dim=-1, keepdim=True).clamp(max=at.shape[-1] - 1)
    return at.gather(-1, number)[..., 0]
