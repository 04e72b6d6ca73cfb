"""A layer held still: every frame seen as one of them saw the layer, by way of the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from canon.clip import check_frame
from canon.coordinates import pixel_grid
from canon.errors import InputError
from canon.fits import Fit
from canon.runtime import map_frames
from canon.sampling import remap
from canon.storage import to_uint8

FILLS = ("canvas", "black")


def stabilised(fit: Fit, layer: str, frame: int | None = None, fill: str = "canvas") -> Iterator[np.ndarray]:
    """All frames warped so that a layer stays where one frame shows it, uint8 [H, W, 3] each.

    Args:
        frame: the one whose view is kept; the middle one without it. Other shots of the clip keep their middle one's.
        fill: what a place outside of a frame shows: ``canvas`` = the layer as its canonical image and light explain it,
            or ``black``.

    Raises:
        InputError: unknown layer or filling, or there is no such frame.
    """
    if fill not in FILLS:
        raise InputError(f"The filling '{fill}' is not known; choose one of {', '.join(FILLS)}.")
    name = fit.layer(layer).name
    if frame is not None:
        check_frame(frame, len(fit))
    views = {t: t for t in range(len(fit))}  # in shots that do not show the layer nothing is held
    for first, end in _joined(fit.segments(name)):
        chosen = frame if frame is not None and first <= frame <= end else (first + end + 1) // 2
        views |= dict.fromkeys(range(first, end + 1), chosen)

    @lru_cache(maxsize=2)
    def albedo(view: int) -> np.ndarray:
        lit = fit.look(view, name, pixel_grid(fit.size).numpy().reshape(-1, 2))
        return lit.reshape(*fit.size, 3) / fit.lighting(view, name)

    def gain(view: int, t: int) -> np.ndarray:
        """What brings light on the canvas of ``t`` to what it is on that of ``view``, a factor for each colour."""
        borders = fit.layer(name).way(view, t) or []
        factors = [(here.lighting / there.lighting).mean(axis=(0, 1)) for here, there in borders]
        return np.asarray(np.prod(factors, axis=0, dtype=np.float32)) if factors else np.ones(3, np.float32)

    last = np.array([fit.size[1] - 1, fit.size[0] - 1], np.float32)

    def one(t: int) -> np.ndarray:
        view = views[t]
        if t == view:
            return np.array(fit.clip.frames[t])
        positions, sure = fit.correspondence(view, t, name)
        warped = remap(np.asarray(fit.clip.frames[t]).astype(np.float32), positions)
        beyond = np.zeros_like(fit.clip.frames[t])
        if fill == "canvas":
            # The light at the frame's border goes on beyond it.
            light = remap(fit.lighting(t, name), positions.clip(0, last)) * gain(view, t)
            beyond = to_uint8(albedo(view) * light)
        return np.where(sure[..., None], (warped + 0.5).clip(0, 255).astype(np.uint8), beyond)

    return map_frames(one, range(len(fit)))


def _joined(segments: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first, last) frames, where segments that overlap are one."""
    found: list[tuple[int, int]] = []
    for first, last in segments:
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], last
        else:
            found.append((first, last))
    return found
