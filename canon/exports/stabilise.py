"""A layer held still: every frame seen as one of them saw the layer, by way of the canvas."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from canon.errors import InputError
from canon.fits import Fit
from canon.runtime import map_frames
from canon.sampling import remap
from canon.storage import to_uint8

FILLS = ("canvas", "black")


def stabilised(fit: Fit, layer: str, frame: int | None = None, fill: str = "canvas") -> Iterator[np.ndarray]:
    """All frames warped so that a layer stays where one frame shows it, uint8 [H, W, 3] each.

    Args:
        frame: the one whose view is kept; the middle one without it.
        fill: what a place outside of a frame shows: ``canvas`` = the layer as its canonical image and light explain it,
            or ``black``.

    Raises:
        InputError: unknown layer or filling, or there is no such frame.
    """
    if fill not in FILLS:
        raise InputError(f"The filling '{fill}' is not known; choose one of {', '.join(FILLS)}.")
    view, name = len(fit) // 2 if frame is None else frame, fit.layer(layer).name
    if not 0 <= view < len(fit):
        raise InputError(f"Frame {view} does not exist: the clip has frames 0 to {len(fit) - 1}.")
    height, width = fit.size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    plain = np.zeros((height, width, 3), np.uint8)
    if fill == "canvas":
        plain = to_uint8(fit.look(view, name, np.stack([x, y], -1).reshape(-1, 2)).reshape(height, width, 3))

    def one(t: int) -> np.ndarray:
        if t == view:
            return np.array(fit.clip.frames[t])
        positions, sure = fit.correspondence(view, t, name)
        warped = remap(np.asarray(fit.clip.frames[t]).astype(np.float32), positions)
        return np.where(sure[..., None], (warped + 0.5).clip(0, 255).astype(np.uint8), plain)

    return map_frames(one, range(len(fit)))
