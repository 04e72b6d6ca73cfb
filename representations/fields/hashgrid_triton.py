"""The hash grid's levels in Triton: forward and backward, one program for a block of points. CUDA only.

(With ``TRITON_INTERPRET=1`` Triton runs them on the CPU, slowly, which is how they can be checked without a GPU.)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256
_PRIME_Y: tl.constexpr = tl.constexpr(2654435761)
_PRIME_Z: tl.constexpr = tl.constexpr(805459861)
_PRIME_W: tl.constexpr = tl.constexpr(3674653429)


@triton.jit
def _hash_term(cell, axis: tl.constexpr):  # type: ignore[no-untyped-def]
    if axis == 0:
        return cell
    if axis == 1:
        return cell * _PRIME_Y
    if axis == 2:
        return cell * _PRIME_Z
    return cell * _PRIME_W


@triton.jit
def _corner(  # type: ignore[no-untyped-def]
    points, row, inside, corner: tl.constexpr, scale, resolution, size,
    D: tl.constexpr, HASHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    weight = tl.full((BLOCK,), 1.0, tl.float32)
    index = tl.zeros((BLOCK,), tl.int64)
    step = tl.full((), 1, tl.int64)
    for axis in tl.static_range(D):
        position = tl.load(points + row * D + axis, mask=inside, other=0.0) * scale + 0.5
        low = tl.floor(position)
        bit: tl.constexpr = (corner >> axis) & 1
        cell = low.to(tl.int64) + bit
        weight *= (position - low) if bit == 1 else (1.0 - (position - low))
        if HASHED:
            index = index ^ _hash_term(cell, axis)
        else:
            index = index + cell * step
            step = step * resolution
    # Wrapped, also below 0: a point outside must not read elsewhere in memory.
    index = (index & (size - 1)) if HASHED else ((index % size + size) % size)
    return weight, index


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    points, table, out, count, scale, resolution, size,
    D: tl.constexpr, F: tl.constexpr, HASHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < count
    feature = tl.arange(0, F)
    total = tl.zeros((BLOCK, F), tl.float32)
    for corner in tl.static_range(2**D):
        weight, index = _corner(points, row, inside, corner, scale, resolution, size, D, HASHED, BLOCK)
        value = tl.load(table + index[:, None] * F + feature[None, :], mask=inside[:, None], other=0.0)
        total += weight[:, None] * value.to(tl.float32)
    tl.store(out + row[:, None] * F + feature[None, :], total, mask=inside[:, None])


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    points, table, gradient, to_points, to_table, count, scale, resolution, size,
    D: tl.constexpr, F: tl.constexpr, HASHED: tl.constexpr,
    POINTS: tl.constexpr, TABLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < count
    feature = tl.arange(0, F)
    axes = tl.arange(0, 4)
    given = tl.load(gradient + row[:, None] * F + feature[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    slopes = tl.zeros((BLOCK, 4), tl.float32)
    for corner in tl.static_range(2**D):
        weight, index = _corner(points, row, inside, corner, scale, resolution, size, D, HASHED, BLOCK)
        entry = index[:, None] * F + feature[None, :]
        if TABLE:
            tl.atomic_add(to_table + entry, weight[:, None] * given, mask=inside[:, None])
        if POINTS:
            value = tl.load(table + entry, mask=inside[:, None], other=0.0).to(tl.float32)
            share = tl.sum(value * given, axis=1)
            for axis in tl.static_range(D):
                rest = tl.full((BLOCK,), 1.0, tl.float32)
                for other in tl.static_range(D):
                    if other != axis:
                        position = tl.load(points + row * D + other, mask=inside, other=0.0) * scale + 0.5
                        fraction = position - tl.floor(position)
                        rest *= fraction if ((corner >> other) & 1) == 1 else (1.0 - fraction)
                sign: tl.constexpr = 1.0 if ((corner >> axis) & 1) == 1 else -1.0
                slopes += tl.where(axes[None, :] == axis, (share * rest * sign)[:, None], 0.0)
    if POINTS:
        place = to_points + row[:, None] * D + axes[None, :]
        tl.store(place, slopes * scale, mask=inside[:, None] & (axes[None, :] < D))


def forward_level(points: Tensor, table: Tensor, scale: float, resolution: int | None) -> Tensor:
    """Features [N, F] of points [N, D] (float32) in a level's table [S, F], F a power of two."""
    points, table = points.contiguous(), table.contiguous()
    out = torch.empty((len(points), table.shape[1]), dtype=torch.float32, device=table.device)
    with _on(points):
        _forward_kernel[_grid(points)](
            points, table, out, len(points), scale, resolution or 0, len(table),
            D=points.shape[1], F=table.shape[1], HASHED=resolution is None, BLOCK=_BLOCK,
        )  # fmt: skip
    return out.to(table.dtype)


def backward_level(
    points: Tensor, table: Tensor, gradient: Tensor, scale: float, resolution: int | None, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in points [N, D] and in the table [S, F] (float32), as far as they are ``wanted``."""
    points, table, gradient = points.contiguous(), table.contiguous(), gradient.contiguous()
    to_points = torch.zeros_like(points) if wanted[0] else points
    to_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device) if wanted[1] else table
    with _on(points):
        _backward_kernel[_grid(points)](
            points, table, gradient, to_points, to_table, len(points), scale, resolution or 0, len(table),
            D=points.shape[1], F=table.shape[1], HASHED=resolution is None,
            POINTS=wanted[0], TABLE=wanted[1], BLOCK=_BLOCK,
        )  # fmt: skip
    return (to_points if wanted[0] else None), (to_table if wanted[1] else None)


def _on(points: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current GPU, which need not be the one that the tensors are on."""
    return torch.cuda.device(points.device) if points.is_cuda else nullcontext()


def _grid(points: Tensor) -> tuple[int]:
    return (triton.cdiv(len(points), _BLOCK),)
