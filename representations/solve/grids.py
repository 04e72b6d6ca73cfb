"""Control grids: interpolation as matrices, least squares with a smoothness term, and inversion.

A layer's coordinates in one frame are a grid of nodes every ``stride`` pixels that holds canvas positions, bilinear in
between (:func:`canon.coordinates.grid_to_pixels`). A pyramid level ``k`` is the frame reduced 2^k times by area.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from canon.coordinates import Size, grid_size


class GridBasis:
    """Bilinear tent functions of the nodes of one frame size and stride, seen at pyramid level ``level``.

    Args:
        size: full frame size (H, W).
        stride: pixels between nodes at full size.
        level: 0 is full size, k is the frame reduced 2^k times.
    """

    def __init__(self, size: Size, stride: int, level: int = 0, device: torch.device | str | None = None) -> None:
        self.size, self.stride, self.level = size, stride, level
        self.level_size = (_reduced(size[0], level), _reduced(size[1], level))
        nodes = grid_size(size, stride)
        self.rows = _tents(self.level_size[0], nodes[0], stride, level, device)
        self.columns = _tents(self.level_size[1], nodes[1], stride, level, device)

    def to_pixels(self, grid: Tensor) -> Tensor:
        """Node values [gh, gw, C] -> values at the level's pixels [h, w, C]."""
        planes = torch.matmul(self.rows, torch.matmul(grid.permute(2, 0, 1), self.columns.T))
        return planes.permute(1, 2, 0)

    def gather(self, values: Tensor) -> Tensor:
        """Adjoint of :meth:`to_pixels`: [h, w, C] summed with tent weights onto the nodes [gh, gw, C]."""
        planes = torch.matmul(torch.matmul(self.rows.T, values.permute(2, 0, 1)), self.columns)
        return planes.permute(1, 2, 0)


def _reduced(length: int, level: int) -> int:
    for _ in range(level):
        length = -(-length // 2)
    return length


def _tents(pixels: int, nodes: int, stride: int, level: int, device: torch.device | str | None) -> Tensor:
    centres = (torch.arange(pixels, device=device, dtype=torch.float32) + 0.5) * 2**level - 0.5
    centres = (centres / stride).clamp(0, nodes - 1)
    index = torch.arange(nodes, device=device, dtype=torch.float32)
    return (1.0 - (centres[:, None] - index[None]).abs()).clamp_min(0.0)


def smoothness(grid: Tensor, stiffness: Tensor | None = None) -> Tensor:
    """The membrane operator L g (graph Laplacian with free borders) of grids [B, C, gh, gw].

    g L g is the sum of squared differences between neighbours, each times the mean ``stiffness`` of the two.

    Args:
        stiffness: of every node [B, 1, gh, gw]; 1 if not given.
    """
    out = torch.zeros_like(grid)
    dx = grid[..., 1:] - grid[..., :-1]
    dy = grid[..., 1:, :] - grid[..., :-1, :]
    if stiffness is not None:
        dx = dx * (0.5 * (stiffness[..., 1:] + stiffness[..., :-1]))
        dy = dy * (0.5 * (stiffness[..., 1:, :] + stiffness[..., :-1, :]))
    out[..., 1:] += dx
    out[..., :-1] -= dx
    out[..., 1:, :] += dy
    out[..., :-1, :] -= dy
    return out


def solve_grid(matrix: Tensor, right: Tensor, membrane: Tensor, start: Tensor | None = None, steps: int = 40) -> Tensor:
    """Minimise d.M.d / 2 - b.d + membrane |grad d|^2 / 2 by preconditioned conjugate gradients.

    Args:
        matrix: [B, 3, gh, gw], the symmetric 2x2 block (xx, xy, yy) of every node.
        right: [B, 2, gh, gw], the right-hand side b.
        membrane: stiffness of every node [B, gh, gw].
        start: first guess [B, 2, gh, gw].

    Returns:
        d, [B, 2, gh, gw].
    """
    xx, xy, yy = matrix.unbind(1)
    diagonal = 4.0 * membrane + 1e-8
    pxx, pyy = xx + diagonal, yy + diagonal
    determinant = pxx * pyy - xy * xy

    def apply(d: Tensor) -> Tensor:
        dx, dy = d.unbind(1)
        out = torch.stack([xx * dx + xy * dy, xy * dx + yy * dy], dim=1)
        return out + smoothness(d, membrane[:, None])

    def precondition(r: Tensor) -> Tensor:
        rx, ry = r.unbind(1)
        return torch.stack([(pyy * rx - xy * ry) / determinant, (pxx * ry - xy * rx) / determinant], dim=1)

    return _conjugate_gradients(apply, precondition, right, start, steps)


def solve_scalar_grid(weight: Tensor, right: Tensor, membrane: float, steps: int = 40) -> Tensor:
    """Minimise w d^2 / 2 - b d + membrane |grad d|^2 / 2, every channel on its own: [B, C, gh, gw] each."""

    def apply(d: Tensor) -> Tensor:
        return weight * d + membrane * smoothness(d)

    def precondition(r: Tensor) -> Tensor:
        return r / (weight + 4.0 * membrane + 1e-8)

    return _conjugate_gradients(apply, precondition, right, None, steps)


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor | None,
    steps: int,
) -> Tensor:
    d = torch.zeros_like(right) if start is None else start.clone()
    r = right.clone() if start is None else right - apply(d)
    z = precondition(r)
    p, rz = z, (r * z).sum((1, 2, 3), keepdim=True)
    enough = float(rz.max()) * 1e-9
    for _ in range(steps):
        q = apply(p)
        alpha = rz / (p * q).sum((1, 2, 3), keepdim=True).clamp_min(1e-20)
        d = d + alpha * p
        r = r - alpha * q
        z = precondition(r)
        rz_new = (r * z).sum((1, 2, 3), keepdim=True)
        p = z + (rz_new / rz.clamp_min(1e-20)) * p
        rz = rz_new
        if float(rz.max()) <= enough:
            break
    return d


def fit_affine(points: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Weighted least-squares affine map values ~ [x, y, 1] A: points, values [N, 2], weight [N] -> float64 [3, 2]."""
    ones = torch.ones_like(points[:, :1])
    design = torch.cat([points, ones], dim=1).double()
    weighted = design * weight[:, None].double()
    ridge = torch.eye(3, dtype=torch.float64, device=points.device) * 1e-6
    return torch.linalg.solve(
        weighted.T @ design + ridge, weighted.T @ values.double() + ridge @ _identity(points.device)
    )


def _identity(device: torch.device) -> Tensor:
    return torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64, device=device)
