"""What layers show together, and asking networks without gradients, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from canon.runtime import map_frames

_CHUNK, _CORE_CHUNK = 1 << 16, 1 << 12
"""Points that go through a network at once: on a GPU, and on one core of the CPU."""


def in_chunks(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """``function`` of points [..., D], a part at a time and without gradients: [..., C]."""
    on_cores = points.device.type == "cpu"

    def one(part: Tensor) -> Tensor:
        # Whether gradients are kept is a setting of each thread.
        with torch.no_grad():
            return function(part)

    parts = points.reshape(-1, points.shape[-1]).split(_CORE_CHUNK if on_cores else _CHUNK)
    found = torch.cat(list(map_frames(one, parts) if on_cores and len(parts) > 1 else map(one, parts)))
    return found.reshape(*points.shape[:-1], *found.shape[1:])


def contributions(opacity: Tensor) -> Tensor:
    """Stick-breaking opacity [N - 1, ...] -> contribution of every layer [N, ...]; they sum to 1."""
    shape = (1, *opacity.shape[1:])
    through = torch.cat([opacity.new_ones(shape), torch.cumprod(1.0 - opacity, dim=0)])
    return torch.cat([opacity, opacity.new_ones(shape)]) * through
