"""Hard cuts: where a clip jumps from one shot to another."""

from __future__ import annotations

import cv2
import numpy as np

from canon.runtime import map_frames
from canon.sampling import remap

_WIDTH = 160
_ALIKE, _FOREIGN = 0.6, 0.4
"""Correlation of a frame with its neighbour, moved onto it, that speaks for one shot, and that speaks for two."""
_DETAIL = 6.0  # pixels (Gaussian sigma)
_CONTRAST = 2.0  # grey levels: a plainer picture says nothing


def find_cuts(frames: np.ndarray) -> list[int]:
    """The frames that begin a new shot, ascending; frame 0 is not among them.

    A cut is where not even optical flow makes one frame look like the next, while the frames around it do go on from
    each other. A flash of a frame or two, after which the shot goes on, is none; nor is noise, where nothing matches.

    Args:
        frames: uint8 [T, H, W, 3].
    """
    count = len(frames)
    if count < 4:
        return []
    height, width = frames.shape[1:3]
    size = (min(_WIDTH, width), max(round(height * min(_WIDTH, width) / width), 16))
    if size[0] < 16:
        return []

    def small(t: int) -> np.ndarray:
        return cv2.cvtColor(cv2.resize(frames[t], size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)

    def alike(pair: tuple[int, int]) -> float:
        return _likeness(small(pair[0]), small(pair[1]))

    steps = np.array(list(map_frames(alike, [(t, t + 1) for t in range(count - 1)])))
    cuts: list[int] = []
    for t in np.nonzero(steps < _FOREIGN)[0].tolist():
        around = np.concatenate([steps[max(t - 4, 0) : t], steps[t + 1 : t + 5]])
        if np.median(around) < _ALIKE:
            continue
        flash = any(alike((a, b)) > _ALIKE for a in (t - 1, t) for b in (t + 2, t + 3) if a >= 0 and b < count)
        if not flash:
            cuts.append(t + 1)
    return cuts


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of gray pictures uint8 [h, w], the second moved onto the first by flow, or not, whichever is more."""
    best = _correlation(_detail(a), _detail(b))
    if best < _ALIKE:
        engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        x, y = np.meshgrid(np.arange(a.shape[1], dtype=np.float32), np.arange(a.shape[0], dtype=np.float32))
        # Flow bends anything into something alike: what comes back to where it was is what was found.
        forth, back = engine.calc(a, b, None), engine.calc(b, a, None)  # type: ignore[call-overload]  # no first guess
        there = np.dstack([x, y]) + forth
        off = np.linalg.norm(forth + remap(back, there), axis=-1)
        kept = off < 2.0
        if kept.mean() > 0.3:
            moved = remap(_detail(b)[..., None], there)[..., 0]
            best = max(best, float(kept.mean()) * _correlation(_detail(a)[kept], moved[kept]))
    return best


def _detail(image: np.ndarray) -> np.ndarray:
    """What stands out of its surroundings: two pictures may well have the same bright sky over the same dark ground."""
    plain = image.astype(np.float32)
    return plain - cv2.GaussianBlur(plain, (0, 0), _DETAIL)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float32), b.astype(np.float32)
    spread = float(a.std()), float(b.std())
    if max(spread) < _CONTRAST:
        return 1.0
    if min(spread) < 0.1:
        return 0.0
    return float(((a - a.mean()) * (b - b.mean())).mean()) / (spread[0] * spread[1])
