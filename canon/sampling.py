"""Sampling of images at canvas or pixel coordinates: one function, a fast path on the CPU and a plain torch twin.

Convention: images are channels-last [H, W, C]; coordinates are pixels (x, y), centres at integers; outside the image the
border value is repeated.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canon.coordinates import to_normalised


def sample_plain(image: Tensor, xy: Tensor) -> Tensor:
    """Bilinear sample of ``image`` [H, W, C] at ``xy`` [h, w, 2] -> [h, w, C]; differentiable, any device."""
    grid = to_normalised(xy, (image.shape[0], image.shape[1]))[None]
    found = F.grid_sample(image.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return found[0].permute(1, 2, 0)


def sample(image: Tensor, xy: Tensor) -> Tensor:
    """As :func:`sample_plain`; on the CPU, where no gradient is asked for, by OpenCV (several times faster)."""
    if image.device.type != "cpu" or image.requires_grad or xy.requires_grad or max(image.shape[:2]) >= 32767:
        return sample_plain(image, xy)
    found = remap(image.numpy(), xy.numpy())
    return torch.from_numpy(found)


def remap(image: np.ndarray, xy: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """NumPy form of :func:`sample`: float32 or uint8 [H, W, C] at float32 [h, w, 2] -> [h, w, C]."""
    found = cv2.remap(np.ascontiguousarray(image), np.ascontiguousarray(xy, np.float32), None, cv2.INTER_LINEAR, borderMode=border)
    return found if found.ndim == 3 else found[..., None]


def splat_plain(values: Tensor, xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Exact adjoint of :func:`sample_plain` for coordinates inside the image: [h, w, C] scattered to [H, W, C]."""
    grid = to_normalised(xy, size)[None]
    target = values.new_zeros((1, values.shape[-1], *size))
    source = values.permute(2, 0, 1)[None].contiguous()
    found = torch.ops.aten.grid_sampler_2d_backward(source, target, grid, 0, 0, True, [True, False])[0]
    return found[0].permute(1, 2, 0)


def halve(image: Tensor) -> Tensor:
    """Area-average 2x2 reduction of [H, W, C] -> [ceil(H/2), ceil(W/2), C]; the last odd row or column is repeated."""
    h, w = image.shape[:2]
    planes = image.permute(2, 0, 1)[None]
    if h % 2 or w % 2:
        planes = F.pad(planes, (0, w % 2, 0, h % 2), mode="replicate")
    return F.avg_pool2d(planes, 2)[0].permute(1, 2, 0).contiguous()


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """``levels`` images, each half the size of the one before; the first is ``image`` itself."""
    stack = [image]
    for _ in range(levels - 1):
        stack.append(halve(stack[-1]))
    return stack
