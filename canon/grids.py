"""Control grids: a layer's canvas position on nodes every ``stride`` pixels, bilinear in between, and its inverse.

Convention: grids are channels-last [gh, gw, C], node (row, column) lies at pixel (column * stride, row * stride);
positions are (x, y) with pixel centres at integers. :func:`canon.coordinates.grid_to_pixels` defines the interpolation.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canon.boxes import Box
from canon.sampling import EXACT_CHANNELS

_EXACT_STRIDES = (1, 2, 4, 8, 16, 32)
"""Where OpenCV rounds positions to 1/32 px (see :data:`canon.sampling.EXACT_CHANNELS`), nothing is lost with these."""


def sample_grid(grid: Tensor, positions: Tensor, stride: int) -> Tensor:
    """Bilinear value at any pixel position, continued linearly outside: grid [gh, gw, C], positions [..., 2] px."""
    gh, gw = grid.shape[:2]
    p = positions / stride
    x0 = p[..., 0].floor().clamp(0, max(gw - 2, 0))
    y0 = p[..., 1].floor().clamp(0, max(gh - 2, 0))
    fx, fy = (p[..., 0] - x0)[..., None], (p[..., 1] - y0)[..., None]
    x0, y0 = x0.long(), y0.long()
    x1, y1 = (x0 + 1).clamp_max(gw - 1), (y0 + 1).clamp_max(gh - 1)
    flat = grid.reshape(gh * gw, -1)
    top = flat[y0 * gw + x0] * (1 - fx) + flat[y0 * gw + x1] * fx
    bottom = flat[y1 * gw + x0] * (1 - fx) + flat[y1 * gw + x1] * fx
    return top * (1 - fy) + bottom * fy


def jacobian(grid: Tensor, stride: int) -> Tensor:
    """d(canvas)/d(pixel) at the nodes by central differences: grid [gh, gw, 2] -> [gh, gw, 2 (u, v), 2 (x, y)]."""
    planes = grid.permute(2, 0, 1)[None]
    padded = F.pad(planes, (1, 1, 1, 1), mode="replicate")[0]
    gh, gw = grid.shape[:2]
    count_x = torch.full((gw,), 2.0, device=grid.device)
    count_y = torch.full((gh,), 2.0, device=grid.device)
    count_x[[0, -1]], count_y[[0, -1]] = 1.0, 1.0
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / (count_x * stride)
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / (count_y[:, None] * stride)
    return torch.stack([dx, dy], dim=-1).permute(1, 2, 0, 3)


def invert_grid(grid: Tensor, stride: int, targets: Tensor, start: Tensor, steps: int = 8) -> tuple[Tensor, Tensor]:
    """Pixel positions whose canvas position is ``targets``: Newton's method on the bilinear grid.

    Args:
        grid: [gh, gw, 2] canvas positions at the nodes.
        targets: [..., 2] canvas positions.
        start: [..., 2] first guess in pixels.

    Returns:
        positions [..., 2] in pixels, and the remaining error [...] in canvas pixels.
    """
    packed = torch.cat([grid, jacobian(grid, stride).flatten(2)], dim=-1)
    reach = float(max(grid.shape[:2]) * stride)
    x = start
    for _ in range(steps):
        here = sample_grid(packed, _near(x, grid, stride), stride)
        j = here[..., 2:]
        error = sample_grid(grid, x, stride) - targets
        det = j[..., 0] * j[..., 3] - j[..., 1] * j[..., 2]
        det = torch.where(det.abs() < 1e-3, torch.full_like(det, 1e-3), det)
        dx = (j[..., 3] * error[..., 0] - j[..., 1] * error[..., 1]) / det
        dy = (j[..., 0] * error[..., 1] - j[..., 2] * error[..., 0]) / det
        step = torch.stack([dx, dy], dim=-1)
        limit = 8.0 * stride
        x = (x - step.clamp(-limit, limit)).clamp(-reach, 2 * reach)
    return x, (sample_grid(grid, x, stride) - targets).norm(dim=-1)


def _near(x: Tensor, grid: Tensor, stride: int) -> Tensor:
    far = torch.tensor([(grid.shape[1] - 1) * stride, (grid.shape[0] - 1) * stride], device=x.device, dtype=x.dtype)
    return torch.minimum(x.clamp_min(0.0), far)


def affine_guess(grid: Tensor, stride: int, targets: Tensor, near: Tensor | None = None) -> Tensor:
    """Pixel positions of canvas positions by the affine map that fits a grid best: a start for :func:`invert_grid`.

    Args:
        targets: [N, 2] canvas positions.
        near: bool [gh, gw], the nodes that count; all without it.
    """
    ys, xs = torch.meshgrid(torch.arange(grid.shape[0]), torch.arange(grid.shape[1]), indexing="ij")
    nodes = torch.stack([xs, ys], dim=-1).double() * stride
    chosen = torch.ones(grid.shape[:2], dtype=torch.bool) if near is None else near
    known, wanted = (F.pad(points.double(), (0, 1), value=1.0) for points in (grid[chosen], targets))
    return (wanted @ torch.linalg.lstsq(known, nodes[chosen], driver="gelsd").solution).float()


def find_pixels(grid: Tensor, stride: int, targets: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`invert_grid`, and where that does not arrive from ``start`` [N, 2], by a search through all cells.

    Returns:
        positions [N, 2] in pixels, finite, and the remaining error [N] in canvas pixels.
    """
    found, error = invert_grid(grid, stride, targets, start.nan_to_num(0.0), steps=12)
    lost = torch.nonzero(~(error < 0.05))[:, 0]
    if min(grid.shape[:2]) > 1:
        for some in lost.split(128):
            index, positions, left = _search_cells(grid, stride, targets[some])
            better = left < error[some][index].nan_to_num(torch.inf)
            index = some[index[better]]
            found[index], error[index] = positions[better], left[better]
    return found.nan_to_num(0.0), error.nan_to_num(torch.inf)


def _search_cells(grid: Tensor, stride: int, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets [N, 2] that lie in some cell: their indices [K], pixels [K, 2], and errors [K], one solution for each."""
    columns = grid.shape[1] - 1
    quads = [grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]]
    corners = torch.stack([quad.reshape(-1, 2) for quad in quads])
    slack = 0.01
    inside = (targets[:, None] >= corners.amin(0) - slack) & (targets[:, None] <= corners.amax(0) + slack)
    index, cell = torch.nonzero(inside.all(-1), as_tuple=True)
    a, b, c, d = corners[:, cell]
    right, down, twist, aim = b - a, c - a, a - b - c + d, targets[index]
    # Newton's method on the one bilinear patch, with its own derivative; s and t are the fractions of the cell.
    s = t = torch.full_like(aim[:, :1], 0.5)
    for _ in range(15):
        off = a + s * right + t * down + s * t * twist - aim
        ds, dt = right + t * twist, down + s * twist
        det = ds[:, :1] * dt[:, 1:] - ds[:, 1:] * dt[:, :1]
        det = torch.where(det.abs() < 1e-6, torch.full_like(det, 1e-6), det)
        s_step = (dt[:, 1:] * off[:, :1] - dt[:, :1] * off[:, 1:]) / det
        t_step = (ds[:, :1] * off[:, 1:] - ds[:, 1:] * off[:, :1]) / det
        s, t = (s - s_step).clamp(-0.01, 1.01), (t - t_step).clamp(-0.01, 1.01)
    error = (a + s * right + t * down + s * t * twist - aim).norm(dim=-1)
    corner = torch.stack([cell % columns, cell // columns], dim=-1)
    pixels = (corner + torch.cat([s, t], dim=-1)) * stride
    # Worst first, so that of several cells that hold a target the last one, the best, is kept for it.
    order = error.argsort(descending=True)
    last = torch.full((len(targets),), -1, dtype=torch.long, device=grid.device)
    for place in order.tolist():
        last[index[place]] = place
    chosen = last[last >= 0]
    return index[chosen], pixels[chosen], error[chosen]


def texels_per_pixel(grid: Tensor, stride: int, seen: Tensor) -> float:
    """How many canvas texels one frame pixel spans along a side: the median over the nodes where ``seen`` [gh, gw] > 0.

    A node counts only if the grid has an extent there; with no node seen, all count.
    """
    if min(grid.shape[:2]) < 2:
        return 1.0
    j = jacobian(grid, stride)
    area = (j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0]).abs()
    inside = area[seen > 0]
    return float((inside if len(inside) else area.flatten()).median().sqrt())


def level_of_detail(texels: float) -> float:
    """Mip level, 0 = full size, for pixels that span ``texels`` of the full size along a side.

    Half a level finer than where a texel is as large as a pixel: the tent of the bilinear sample widens it again.
    """
    return max(float(np.log2(max(texels, 1e-6))) - 0.5, 0.0)


def grid_window(grid: np.ndarray, stride: int, box: Box) -> np.ndarray:
    """NumPy twin of :func:`canon.coordinates.grid_to_pixels` for a part of the frame.

    Args:
        grid: float32 [gh, gw, C], C at most 4.
        box: rows and columns that are wanted, inside the frame.

    Returns:
        float32 [h, w, C].
    """
    rows, columns = box
    h, w = rows.stop - rows.start, columns.stop - columns.start
    # Only the nodes around the window: a warp of a part of the grid costs less than finding that part would.
    top, left = rows.start // stride, columns.start // stride
    part = grid[top : (rows.stop - 1) // stride + 2, left : (columns.stop - 1) // stride + 2]
    pad = part.shape[2] not in EXACT_CHANNELS and stride not in _EXACT_STRIDES
    part = np.dstack([part, part[..., :1]]) if pad else np.ascontiguousarray(part)
    dy, dx = rows.start - top * stride, columns.start - left * stride
    matrix = np.array([[1.0 / stride, 0.0, dx / stride], [0.0, 1.0 / stride, dy / stride]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(part, matrix, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    found = found if found.ndim == 3 else found[..., None]
    return np.ascontiguousarray(found[..., : grid.shape[2]])
