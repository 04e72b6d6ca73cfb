"""Every conversion between pixel, normalised, ST-map, resized and control-grid coordinates lives here.

Convention (all functions): points are (x, y) in the last axis; pixel centres lie at integers, so a frame of width W
spans -0.5 .. W - 0.5; normalised coordinates are those of ``align_corners=True`` (-1 and 1 are the *centres* of the
first and last pixel); a size is (height, width).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def pixel_grid(size: Size, device: torch.device | str | None = None) -> Tensor:
    """Coordinates of all pixel centres, float32 [H, W, 2] as (x, y)."""
    ys = torch.arange(size[0], device=device, dtype=torch.float32)
    xs = torch.arange(size[1], device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)


def _extent(xy: Tensor, size: Size) -> Tensor:
    return torch.tensor([max(size[1] - 1, 1), max(size[0] - 1, 1)], dtype=xy.dtype, device=xy.device)


def to_normalised(xy: Tensor, size: Size) -> Tensor:
    """Pixels [..., 2] -> [-1, 1] with ``align_corners=True``: 0 -> -1 and W - 1 -> 1."""
    return xy * (2.0 / _extent(xy, size)) - 1.0


def from_normalised(xy: Tensor, size: Size) -> Tensor:
    """Inverse of :func:`to_normalised`."""
    return (xy + 1.0) * (_extent(xy, size) / 2.0)


def to_square(xy: Tensor, size: Size) -> Tensor:
    """Pixels [..., 2] -> x / (max(W, H) / 2) - 1: one scale for both axes, so that the aspect is kept.

    The longer side spans -1 .. 1 - 2 / max(W, H), the shorter one less. What the networks of Layered Neural Atlases
    (Kasten et al., 2021) take; flow is to be added in pixels, before this.
    """
    return xy * (2.0 / max(size)) - 1.0


def from_square(xy: Tensor, size: Size) -> Tensor:
    """Inverse of :func:`to_square`."""
    return (xy + 1.0) * (max(size) / 2.0)


def to_stmap(xy: Tensor, size: Size, flip_v: bool = True) -> Tensor:
    """Pixels [..., 2] -> compositor ST coordinates ((x + 0.5) / W, (y + 0.5) / H), V upwards when ``flip_v``."""
    st = (xy + 0.5) / torch.tensor([size[1], size[0]], dtype=xy.dtype, device=xy.device)
    return torch.stack([st[..., 0], 1.0 - st[..., 1]], dim=-1) if flip_v else st


def from_stmap(st: Tensor, size: Size, flip_v: bool = True) -> Tensor:
    """Inverse of :func:`to_stmap`."""
    if flip_v:
        st = torch.stack([st[..., 0], 1.0 - st[..., 1]], dim=-1)
    return st * torch.tensor([size[1], size[0]], dtype=st.dtype, device=st.device) - 0.5


def resize_points(xy: Tensor, source: Size, target: Size) -> Tensor:
    """Points [..., 2] of an image of size ``source`` -> the same places in that image resized to ``target``.

    Image *areas* are aligned (pixel edges map to pixel edges), as in every image resize: x -> (x + 0.5) k - 0.5.
    """
    scale = torch.tensor([target[1] / source[1], target[0] / source[0]], dtype=xy.dtype, device=xy.device)
    return (xy + 0.5) * scale - 0.5


def apply_homography(matrix: Tensor, xy: Tensor) -> Tensor:
    """Homography [..., 3, 3] applied to points [..., N, 2] in pixels (batch axes broadcast)."""
    h = matrix.to(xy.dtype)
    q = xy @ h[..., :2, :2].transpose(-1, -2) + h[..., None, :2, 2]
    w = xy @ h[..., 2:3, :2].transpose(-1, -2) + h[..., None, 2:3, 2]
    return q / w


def grid_size(size: Size, stride: int) -> Size:
    """Number of control nodes (rows, columns) that cover a frame: nodes lie at multiples of ``stride`` pixels."""
    return -(-(size[0] - 1) // stride) + 1, -(-(size[1] - 1) // stride) + 1


def grid_nodes(size: Size, stride: int, device: torch.device | str | None = None) -> Tensor:
    """Pixel positions of the control nodes, float32 [gh, gw, 2]; the last row and column may lie outside the frame."""
    return pixel_grid(grid_size(size, stride), device) * float(stride)


def grid_to_pixels(grid: Tensor, size: Size, stride: int) -> Tensor:
    """Control-grid values [B, C, gh, gw] -> bilinear values at every pixel [B, C, H, W]. Differentiable."""
    gh, gw = grid.shape[-2:]
    full = ((gh - 1) * stride + 1, (gw - 1) * stride + 1)
    dense = F.interpolate(grid, size=full, mode="bilinear", align_corners=True) if stride > 1 else grid
    return dense[..., : size[0], : size[1]]


def pixels_to_grid(values: Tensor, stride: int) -> Tensor:
    """Adjoint of :func:`grid_to_pixels`: pixel values [B, C, H, W] summed onto the nodes with tent weights."""
    size = (values.shape[-2], values.shape[-1])
    if stride == 1:
        return values
    gh, gw = grid_size(size, stride)
    full = ((gh - 1) * stride + 1, (gw - 1) * stride + 1)
    padded = F.pad(values, (0, full[1] - size[1], 0, full[0] - size[0]))
    shape = (*values.shape[:2], gh, gw)
    return torch.ops.aten.upsample_bilinear2d_backward(padded, full, shape, True)
