"""Sampling of images at canvas or pixel coordinates: one function, a fast path on the CPU and a plain torch twin.

Convention: images are channels-last [H, W, C]; coordinates are pixels (x, y), centres at integers; outside the image
the border value is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canon.coordinates import to_normalised
from canon.errors import InputError

LARGEST_SIDE = 32767
"""OpenCV samples images whose sides are smaller than this."""

EXACT_CHANNELS = (1, 3, 4)
"""For other numbers of channels OpenCV 5 rounds positions to 1/32 px, in remap and in warpAffine alike."""

Image = TypeVar("Image", np.ndarray, Tensor)
UNSEEN = 1e-3
"""Texels whose coverage is not above this were never seen."""


def sample_plain(image: Tensor, xy: Tensor) -> Tensor:
    """Bilinear sample of ``image`` [H, W, C] at ``xy`` [h, w, 2] -> [h, w, C]; differentiable, any device."""
    grid = to_normalised(xy, (image.shape[0], image.shape[1]))[None]
    found = F.grid_sample(
        image.permute(2, 0, 1)[None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return found[0].permute(1, 2, 0)


def sample(image: Tensor, xy: Tensor) -> Tensor:
    """As :func:`sample_plain`; on the CPU, where no gradient is asked for, by OpenCV (several times faster)."""
    if image.device.type != "cpu" or image.requires_grad or xy.requires_grad or max(image.shape[:2]) >= 32767:
        return sample_plain(image, xy)
    found = remap(image.numpy(), xy.numpy())
    return torch.from_numpy(found)


def remap(image: np.ndarray, xy: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """NumPy form of :func:`sample`: float32 or uint8 [H, W, C] at float32 [h, w, 2] -> [h, w, C]."""
    if max(image.shape[:2]) >= LARGEST_SIDE:
        image, xy = _used_part(image, np.asarray(xy, np.float32))
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels not in EXACT_CHANNELS:
        # Two channels become three (the third is dropped again), more are taken four at a time.
        parts = [image[..., k : k + 4] for k in range(0, channels, 4)]
        padded = [np.dstack([part, part[..., :1]]) if part.shape[2] == 2 else part for part in parts]
        return np.dstack([remap(part, xy, border) for part in padded])[..., :channels]
    maps = np.ascontiguousarray(xy, np.float32)
    found = cv2.remap(np.ascontiguousarray(image), maps, None, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[call-overload]
    return found if found.ndim == 3 else found[..., None]


def _used_part(image: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of an image too large for OpenCV that ``xy`` looks at, and ``xy`` within that part."""
    last = np.array([image.shape[1] - 1, image.shape[0] - 1], np.float32)
    low = np.clip(np.floor(xy.min(axis=(0, 1))) - 1, 0, last).astype(int)
    high = np.clip(np.ceil(xy.max(axis=(0, 1))) + 1, 0, last).astype(int)
    if (high - low).max() + 1 >= LARGEST_SIDE:
        raise InputError(f"A frame looks at more than {LARGEST_SIDE} texels of a canvas; fit with a smaller canvas.")
    return image[low[1] : high[1] + 1, low[0] : high[0] + 1], xy - low.astype(np.float32)


def remap_points(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """:func:`remap` for any number of points: float32 [H, W, C] at float32 [N, 2] -> [N, C]."""
    if len(points) == 0:
        return np.zeros((0, image.shape[2]), image.dtype)
    return remap(image, _rectangle(points)).reshape(-1, image.shape[2])[: len(points)]


def _rectangle(points: np.ndarray) -> np.ndarray:
    """Points [N, 2] laid out as [h, w, 2], the last one repeated: OpenCV refuses destinations of 32767 or wider."""
    row = min(len(points), 1024)
    padded = np.empty((-(-len(points) // row) * row, 2), np.float32)
    padded[: len(points)] = points
    padded[len(points) :] = points[-1]
    return padded.reshape(-1, row, 2)


def splat_plain(values: Tensor, xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Exact adjoint of :func:`sample_plain` for coordinates inside the image: [h, w, C] scattered to [H, W, C]."""
    grid = to_normalised(xy, size)[None]
    target = values.new_zeros((1, values.shape[-1], *size))
    source = values.permute(2, 0, 1)[None].contiguous()
    found = torch.ops.aten.grid_sampler_2d_backward(source, target, grid, 0, 0, True, [True, False])[0]
    return found[0].permute(1, 2, 0)


def halve(image: Image) -> Image:
    """Area-average 2x2 reduction of [H, W, C] -> [ceil(H/2), ceil(W/2), C]; the last odd row or column is repeated."""
    h, w = image.shape[:2]
    if isinstance(image, np.ndarray):
        padded = np.pad(image, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge") if h % 2 or w % 2 else image
        rows = padded[0::2] + padded[1::2]
        return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
    planes = image.permute(2, 0, 1)[None]
    if h % 2 or w % 2:
        planes = F.pad(planes, (0, w % 2, 0, h % 2), mode="replicate")
    return F.avg_pool2d(planes, 2)[0].permute(1, 2, 0).contiguous()


def pyramid(image: Image, levels: int) -> list[Image]:
    """``levels`` images, each half the size of the one before; the first is ``image`` itself."""
    stack = [image]
    for _ in range(levels - 1):
        stack.append(halve(stack[-1]))
    return stack


def mip_levels(lod: float) -> int:
    """How many levels of a pyramid :func:`sample_mip` needs for a level of detail."""
    return max(mip_weights(lod)) + 1


def mip_weights(lod: float) -> dict[int, float]:
    """Which levels of a pyramid :func:`sample_mip` looks at for a level of detail, and how much each counts."""
    low, share = _split(lod)
    return {low: 1.0 - share, low + 1: share} if share else {low: 1.0}


def _split(lod: float) -> tuple[int, float]:
    """The lower level and the share of the next; shares that hardly matter are dropped, as they cost a second pass."""
    low = int(max(lod, 0.0))
    share = max(lod, 0.0) - low
    if share < 0.05:
        return low, 0.0
    return (low + 1, 0.0) if share > 0.95 else (low, share)


def sample_mip(levels: Sequence[Image], xy: Image, lod: float) -> Image:
    """Area-filtered sample of an image: bilinear in the two levels of its pyramid nearest to ``lod``, blended.

    Args:
        levels: the image [H, W, C] and its successive halves (:func:`pyramid`); the last stands in for missing ones.
        xy: positions [h, w, 2] in pixels of the first level.
        lod: 0 = full size, 1 = half; log2 of the texels that one output pixel spans.

    Returns:
        [h, w, C]. Differentiable for tensors (:func:`sample`); NumPy arrays go through OpenCV (:func:`remap`).
    """
    low, share = _split(min(lod, len(levels) - 1.0))
    found = _at_level(levels[low], xy, low)
    if share:
        found = found + (_at_level(levels[low + 1], xy, low + 1) - found) * share
    return found


def sample_mip_points(levels: Sequence[np.ndarray], points: np.ndarray, lod: float) -> np.ndarray:
    """:func:`sample_mip` for any number of points: float32 [N, 2] -> [N, C]."""
    channels = levels[0].shape[2]
    if len(points) == 0:
        return np.zeros((0, channels), np.float32)
    return sample_mip(levels, _rectangle(points), lod).reshape(-1, channels)[: len(points)]


def _at_level(image: Image, xy: Image, level: int) -> Image:
    if level:
        # The areas of the levels are aligned, not their first pixels; resize_points would round odd sizes.
        xy = xy * 0.5**level + (0.5 * 0.5**level - 0.5)
    if isinstance(image, np.ndarray):
        return remap(image, xy)
    return sample(image, xy)


def fill_unseen(color: Tensor, mass: Tensor, threshold: float = UNSEEN) -> Tensor:
    """Smooth continuation of the colours into texels never seen (pull-push), so that sampling near the rim is sane."""
    known = (mass > threshold).float()
    if bool(known.all()):
        return color
    pulled = [torch.cat([color * known[..., None], known[..., None]], -1).permute(2, 0, 1)[None]]
    while min(pulled[-1].shape[-2:]) > 1:
        pulled.append(torch.nn.functional.avg_pool2d(pulled[-1], 2, ceil_mode=True))
    out = pulled[-1][:, :3] / pulled[-1][:, 3:].clamp_min(1e-6)
    for stage in reversed(pulled[:-1]):
        out = torch.nn.functional.interpolate(out, size=stage.shape[-2:], mode="bilinear", align_corners=False)
        share = (stage[:, 3:] * 4).clamp(0, 1)
        out = out * (1 - share) + share * stage[:, :3] / stage[:, 3:].clamp_min(1e-6)
    smooth = out[0].permute(1, 2, 0)
    return torch.where(known[..., None] > 0, color, smooth).contiguous()


def fill_from_nearest(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """An image [H, W, C] whose unknown pixels are those of the nearest known one; as it is if none is known.

    Args:
        known: bool [H, W].
    """
    if known.all() or not known.any():
        return image
    _, label = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    own = np.zeros((int(label.max()) + 1, image.shape[2]), image.dtype)
    own[label[known]] = image[known]
    return np.asarray(np.where(known[..., None], image, own[label]))
