"""Space as rays see it: an unbounded world drawn together into a cube, and boxes that rays hit or miss.

Convention: ``near`` and ``far`` are lengths along a ray whose direction has length 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 1e-12


def contract(points: Tensor) -> Tensor:
    """Places [..., 3] of an unbounded world in the cube -2..2: what is inside of -1..1 stays where it is.

    Scene contraction (Barron et al., mip-NeRF 360, 2022, equation 10), with the largest coordinate in the place of the
    length, so that the result fills the cube of a hash grid (Nerfacto).
    """
    reach = points.abs().amax(dim=-1, keepdim=True)
    safe = reach.clamp_min(1.0)
    return torch.where(reach <= 1, points, points * (2 - 1 / safe) / safe)


def uncontract(points: Tensor) -> Tensor:
    """Inverse of :func:`contract`; the faces of the cube, which are infinitely far, become very far."""
    reach = points.abs().amax(dim=-1, keepdim=True)
    left = (2 - reach).clamp_min(1e-7)
    return torch.where(reach <= 1, points, points / (left * reach.clamp_min(1.0)))


def box_hits(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays are inside of a box.

    Args:
        origins, directions: [..., 3].
        low, high: [3], its corners.

    Returns:
        near, far: [...], lengths along the rays; near is at least 0. Both 0 for rays that miss it.
        hit: bool [...].
    """
    safe = torch.where(directions.abs() < _SMALL, torch.full_like(directions, _SMALL), directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    near = torch.minimum(first, second).amax(dim=-1).clamp_min(0)
    far = torch.maximum(first, second).amin(dim=-1)
    hit = far > near
    return torch.where(hit, near, 0.0), torch.where(hit, far, 0.0), hit
