"""Multiresolution hash encoding (Mueller et al., SIGGRAPH 2022): plain torch anywhere, Triton or tiny-cuda-nn on CUDA.

Levels, rounding, hashing and the layout of the table are those of tiny-cuda-nn, so that weights can be exchanged.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_PRIMES = (1, 2654435761, 805459861, 3674653429)
_WRAPPED = tuple(prime - (prime >> 31 << 32) for prime in _PRIMES)
"""The same, as signed numbers of 32 bits."""
BACKENDS = ("auto", "torch", "triton", "tiny-cuda-nn")
_MULTIPLE = 8  # entries of a level without collisions are rounded up to this


class HashGrid(nn.Module):
    """Points in the unit cube to features, read from one grid per level: coarse ones dense, fine ones hashed.

    Args:
        dimensions: of the points, 2 to 4.
        levels: number of grids.
        features: of each level; Triton and tiny-cuda-nn want a power of two.
        log2_size: most entries of a level, as a power of two.
        coarsest: cells along a side of the first level.
        finest: about the same of the last level.
        seed: of the table, uniform in +-1e-4.
        backend: one of :data:`BACKENDS`; auto takes the fastest that is installed and runs where the points are.

    Attributes:
        table: [entries, features], all levels one after the other.
        width: of what :meth:`forward` gives, levels * features.
    """

    def __init__(
        self,
        dimensions: int = 3,
        levels: int = 16,
        features: int = 2,
        log2_size: int = 19,
        coarsest: int = 16,
        finest: int = 2048,
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(f"the backend {backend!r} is not one of {', '.join(BACKENDS)}")
        self.backend = backend
        if not 2 <= dimensions <= len(_PRIMES) or min(levels, features) < 1 or not 1 <= coarsest <= finest:
            raise ValueError(
                "a hash grid has 2 to 4 dimensions, at least a level and a feature, and coarsest <= finest"
            )
        self.dimensions, self.levels, self.features = dimensions, levels, features
        self.log2_size, self.coarsest, self.finest = log2_size, coarsest, finest
        self.width = levels * features
        growth = math.log2(finest / coarsest) / max(levels - 1, 1)
        self.scales = [coarsest * 2.0 ** (level * growth) - 1.0 for level in range(levels)]
        self.resolutions = [math.ceil(scale) + 1 for scale in self.scales]
        whole = [-(-(resolution**dimensions) // _MULTIPLE) * _MULTIPLE for resolution in self.resolutions]
        self.sizes = [min(entries, 2**log2_size) for entries in whole]
        self.hashed = [
            resolution**dimensions > size for resolution, size in zip(self.resolutions, self.sizes, strict=True)
        ]
        generator = torch.Generator().manual_seed(seed)
        self._foreign: list[nn.Module] | None = None
        self.table = nn.Parameter((torch.rand(sum(self.sizes), features, generator=generator) - 0.5) * 2e-4)

    def forward(self, points: Tensor, opened: float = 1.0) -> Tensor:
        """Features of points; differentiable in the table and in the points.

        Args:
            points: [..., dimensions], in 0..1.
            opened: share of the levels that count, coarse to fine, the last of them faded in (:func:`level_weights`).

        Returns:
            [..., levels * features], coarse to fine; of the table's dtype, and differentiable once.
        """
        flat = points.reshape(-1, self.dimensions)
        backend, weights = self.runs_on(points.device), level_weights(self.levels, opened)
        if backend == "tiny-cuda-nn":
            counts = flat.new_tensor(weights).repeat_interleave(self.features)
            return (self._encode(flat) * counts).reshape(*points.shape[:-1], self.width)
        found, first = [], 0
        for level, (size, weight) in enumerate(zip(self.sizes, weights, strict=True)):
            if weight > 0:
                step = None if self.hashed[level] else self.resolutions[level]
                table = self.table[first : first + size]
                value: Tensor = _Level.apply(flat, table, self.scales[level], step, backend == "triton")
                found.append(value * weight if weight < 1 else value)
            else:
                found.append(flat.new_zeros((len(flat), self.features), dtype=self.table.dtype))
            first += size
        return torch.cat(found, dim=-1).reshape(*points.shape[:-1], self.width)

    def runs_on(self, device: torch.device) -> str:
        """The backend that is used there."""
        if self.backend != "auto":
            return self.backend
        if device.type != "cuda" or self.features & (self.features - 1):
            return "torch"
        able = (name for name in ("tiny-cuda-nn", "triton") if unavailable(name, device) is None)
        return next(able, "torch")

    def _encode(self, flat: Tensor) -> Tensor:
        """All levels by tiny-cuda-nn, with this grid's own table."""
        if self._foreign is None:
            import tinycudann

            growth = 2.0 ** (math.log2(self.finest / self.coarsest) / max(self.levels - 1, 1))
            config = {
                "otype": "HashGrid",
                "n_levels": self.levels,
                "n_features_per_level": self.features,
                "log2_hashmap_size": self.log2_size,
                "base_resolution": self.coarsest,
                "per_level_scale": growth,
            }
            # Not a part of this module: its parameters are lent to it for each call.
            self._foreign = [tinycudann.Encoding(self.dimensions, config, dtype=torch.float32).to(flat.device)]
        lent = {"params": self.table.flatten().float()}
        found: Tensor = torch.func.functional_call(self._foreign[0], lent, (flat.float(),))
        return found.to(self.table.dtype)


def unavailable(backend: str, device: torch.device) -> str | None:
    """Why a backend cannot be used on a device, in a few words; None when it can."""
    if backend == "torch":
        return None
    package = {"triton": "triton", "tiny-cuda-nn": "tinycudann"}[backend]
    if device.type != "cuda" and not (backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"{backend} needs a CUDA GPU"
    return None if importlib.util.find_spec(package) is not None else f"{backend} is not installed"


def corners(points: Tensor, scale: float, resolution: int | None, size: int) -> tuple[Tensor, list[Tensor]]:
    """What one level looks at.

    Args:
        points: [N, D].
        resolution: nodes along a side of a dense level; None = hashed.
        size: entries of the level.

    Returns:
        index: int32 [N, 2^D], entries of the cell's corners, the last axis fastest.
        weights: per axis [N, 2], of the lower and the upper corner; their products weigh the entries.
    """
    position = points * scale + 0.5
    low = position.floor()
    # Products of 32 bits wrap around, and the low bits that count are right: twice as fast as 64.
    fraction, cell = position - low, low.int()
    weights = [torch.stack([1.0 - part, part]).T for part in fraction.unbind(-1)]
    steps = _WRAPPED if resolution is None else [resolution**axis for axis in range(points.shape[1])]
    # Column by column: products of columns with one another are several times faster than broadcast ones.
    columns: list[Tensor] = []
    for axis, step in zip(range(points.shape[1]), steps, strict=False):
        first = cell[:, axis] * step
        pair = (first, first + step)
        if not columns:
            columns = list(pair)
        elif resolution is None:
            columns = [column ^ part for column in columns for part in pair]
        else:
            columns = [column + part for column in columns for part in pair]
    index = torch.stack(columns, dim=-1)
    # Hashed levels have powers of two; in dense ones only points on the rim come out beyond.
    return (index & (size - 1) if resolution is None else index % size), weights


def _products(weights: list[Tensor]) -> Tensor:
    """Weights of the corners [N, 2^D], the last axis fastest."""
    out = list(weights[0].unbind(-1))
    for weight in weights[1:]:
        out = [column * part for column in out for part in weight.unbind(-1)]
    return torch.stack(out, dim=-1)


class _Level(torch.autograd.Function):
    """One level: points [N, D], table [S, F] -> [N, F].

    Forward it is an embedding bag, which gathers, weighs and adds up in one pass. Its own backward pass is several
    times slower on the CPU than counting with weights, and autograd's way through the corners' weights slower still.
    """

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, table: Tensor, scale: float, resolution: int | None, triton: bool = False
    ) -> Tensor:
        ctx.scale, ctx.dtype, ctx.resolution, ctx.triton = scale, points.dtype, resolution, triton
        if triton:
            from canon.representations.fields.hashgrid_triton import forward_level

            ctx.save_for_backward(table, points.float())
            return forward_level(points.float(), table, scale, resolution)
        index, weights = corners(points.to(table.dtype), scale, resolution, len(table))
        ctx.save_for_backward(table, index, *weights)
        return nn.functional.embedding_bag(index, table, per_sample_weights=_products(weights), mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (gradient,) = gradients
        if ctx.triton:
            from canon.representations.fields.hashgrid_triton import backward_level

            table, points = ctx.saved_tensors
            wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
            found = backward_level(points, table, gradient, ctx.scale, ctx.resolution, wanted)
            kinds = ctx.dtype, table.dtype
            pair = [None if part is None else part.to(kind) for part, kind in zip(found, kinds, strict=True)]
            return pair[0], pair[1], None, None, None
        table, index, *weights = ctx.saved_tensors
        flat, to_points, to_table = index.flatten(), None, None
        if ctx.needs_input_grad[1]:
            share = _products(weights)
            parts = [(column[:, None] * share).flatten() for column in gradient.unbind(-1)]
            if table.is_cuda:
                to_table = torch.zeros_like(table).index_add_(0, flat, torch.stack(parts, -1))
            else:
                counted = [torch.bincount(flat, part, minlength=len(table)) for part in parts]
                to_table = torch.stack(counted, -1).to(table.dtype)
        if ctx.needs_input_grad[0]:
            rows = table.index_select(0, flat).view(*index.shape, -1)
            to_share = torch.bmm(rows, gradient[..., None])[..., 0]
            slopes = []
            for axis in range(len(weights)):
                rest = to_share
                for other, weight in enumerate(weights):
                    low, high = rest.view(len(rest), 2, -1).unbind(1)
                    rest = high - low if other == axis else low * weight[:, :1] + high * weight[:, 1:]
                slopes.append(rest[:, 0])
            to_points = (torch.stack(slopes, -1) * ctx.scale).to(ctx.dtype)
        return to_points, to_table, None, None, None


def level_weights(levels: int, opened: float) -> list[float]:
    """How much each level counts while they are opened one after the other: 1 where open, a raised cosine at the edge.

    (Park et al., ICCV 2021.) ``opened`` is 0 (none) to 1 (all).
    """
    edge = opened * levels
    return [0.5 - 0.5 * math.cos(math.pi * min(max(edge - level, 0.0), 1.0)) for level in range(levels)]
