"""Canonical images made small enough to be logged, mailed and looked at."""

from __future__ import annotations

import cv2
import numpy as np

from canon.storage import to_uint8


def thumbnail(rgba: np.ndarray, side: int) -> np.ndarray:
    """uint8 [h, w, 4] of float32 [H, W, 4] in 0..1 (straight alpha, both), shrunk so that no side is longer."""
    factor = side / max(rgba.shape[:2])
    if factor < 1:
        size = max(round(rgba.shape[1] * factor), 1), max(round(rgba.shape[0] * factor), 1)
        # By area, so that neither thin lines nor the colours of what is transparent spoil it.
        alpha = cv2.resize(np.ascontiguousarray(rgba[..., 3]), size, interpolation=cv2.INTER_AREA)
        colour = cv2.resize(rgba[..., :3] * rgba[..., 3:], size, interpolation=cv2.INTER_AREA)
        rgba = np.dstack([colour / np.maximum(alpha, 1e-6)[..., None], alpha])
    return to_uint8(rgba)
