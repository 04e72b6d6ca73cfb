"""Area sampling of textures: bilinear at 2 x 2 subpixels a pixel, then averaged."""

from __future__ import annotations

import cv2
import numpy as np

SUPERSAMPLE = 2
"""Subpixels along each axis of a pixel. Textures are shown at about one texel a pixel, so two are enough."""


def fine(part: slice) -> slice:
    """The subpixels of a range of pixels."""
    return slice(part.start * SUPERSAMPLE, part.stop * SUPERSAMPLE)


def sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray, outside: float | None = None) -> np.ndarray:
    """Bilinear values of a texture [Hc, Wc(, C)] at coordinates [h, w]; beyond it, its edge texels or ``outside``."""
    if u.size == 0:
        return np.zeros((*u.shape, *texture.shape[2:]), np.float32)
    mode = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    value = (0.0 if outside is None else outside,) * 4
    return cv2.remap(np.ascontiguousarray(texture), u, v, cv2.INTER_LINEAR, borderMode=mode, borderValue=value)


def sample_points(texture: np.ndarray, points: np.ndarray, outside: float | None = None) -> np.ndarray:
    """Bilinear values of a texture at any number of points [N, 2] as (x, y), float32 [N(, C)]."""
    # OpenCV refuses images with a side above 32767, so the points are laid out as a rectangle.
    row = 4096
    padded = np.zeros((-(-len(points) // row) * row, 2), np.float32)
    padded[: len(points)] = points
    u, v = padded[:, 0].reshape(-1, row), padded[:, 1].reshape(-1, row)
    values = sample(texture, np.ascontiguousarray(u), np.ascontiguousarray(v), outside)
    return values.reshape(-1, *texture.shape[2:])[: len(points)]


def average(values: np.ndarray) -> np.ndarray:
    """Mean over each pixel's subpixels, [2 h, 2 w(, C)] -> [h, w(, C)]."""
    height, width = values.shape[0] // SUPERSAMPLE, values.shape[1] // SUPERSAMPLE
    if values.size == 0:
        return np.zeros((height, width, *values.shape[2:]), np.float32)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
