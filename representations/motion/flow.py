"""Dense optical flow in both directions with occlusion by forward-backward check (DIS: Kroeger et al., ECCV 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from canon.runtime import map_frames
from canon.sampling import remap
from canon.storage import create_array, open_array

PairFlow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From two RGB frames to their flow [H, W, 2] in pixels."""
FLOW_STRIDE = 2
"""Flow is kept at half the frame's size: DIS finds it there, and the file is four times smaller."""


@dataclass(frozen=True)
class Flow:
    """Flow between neighbouring frames, memory-mapped, float16, in full-size pixels on the half-size lattice.

    Attributes:
        forward: [T-1, h, w, 2], frame t to t + 1.
        backward: [T-1, h, w, 2], frame t + 1 to t.
    """

    forward: np.ndarray
    backward: np.ndarray

    def between(self, t: int, s: int) -> np.ndarray:
        """Flow from frame t to its neighbour s = t + 1 or t - 1, float32 [h, w, 2]."""
        return (self.forward[t] if s > t else self.backward[s]).astype(np.float32)

    def confidence(self, t: int, s: int) -> np.ndarray:
        """1 where the flow t -> s is undone by s -> t, towards 0 where not (occlusion, failure): float32 [h, w]."""
        there = self.between(t, s)
        back = remap(self.between(s, t), lattice_positions(there))
        error = ((there + back) ** 2).sum(-1)
        allowed = 0.25 + 0.01 * ((there**2).sum(-1) + (back**2).sum(-1))
        return np.exp(-error / allowed)


def lattice_positions(flow: np.ndarray) -> np.ndarray:
    """Where the lattice points go under a flow [h, w, 2] in full-size pixels: [h, w, 2] in lattice pixels."""
    h, w = flow.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return np.stack([x, y], -1) + flow / FLOW_STRIDE


def global_shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dominant translation from gray image a to b by phase correlation, float32 [2] (x, y) px."""
    window = cv2.createHanningWindow((a.shape[1], a.shape[0]), cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(a.astype(np.float32), b.astype(np.float32), window)
    return np.array([dx, dy], np.float32)


class DisFlow:
    """OpenCV's DIS flow, started from the dominant translation where that explains the pair better than rest does."""

    def __init__(self, finest: int = 1) -> None:
        """Args: finest: pyramid level at which the flow ends; 0 = the pictures' own size, 1 = half of it."""
        self.engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.engine.setFinestScale(finest)

    def __call__(self, a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Flow from gray uint8 a to b: float32 [H, W, 2]."""
        if min(a.shape) < 16:
            return np.zeros((*a.shape, 2), np.float32)
        if start is None:
            start = self._start(a, b)
        return self.engine.calc(a, b, start)  # type: ignore[arg-type]  # None is allowed: no first guess

    def _start(self, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
        small = [cv2.resize(g, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for g in (a, b)]
        if min(small[0].shape) < 8:
            return None
        shift = global_shift(*small)
        moved = cv2.warpAffine(
            small[1],
            np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float32),
            small[1].shape[::-1],
            borderMode=cv2.BORDER_REPLICATE,
        )
        if cv2.norm(moved, small[0], cv2.NORM_L1) > 0.8 * cv2.norm(small[1], small[0], cv2.NORM_L1):
            return None
        return np.broadcast_to(shift * 4, (*a.shape, 2)).astype(np.float32).copy()


def gray(frame: np.ndarray) -> np.ndarray:
    """RGB uint8 -> gray uint8."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def compute_flow(
    frames: np.ndarray, folder: Path, between: Callable[[int, int], np.ndarray | None] | None = None
) -> Flow:
    """Flow both ways between all neighbours of uint8 [T, H, W, 3], written to two .npy files in ``folder``.

    Args:
        between: flow [H, W, 2] in pixels from one frame to a neighbour, by their numbers; without it, or where it gives
            None or nan, DIS finds it.
    """
    count, height, width = frames.shape[:3]
    shape = (max(count - 1, 0), -(-height // FLOW_STRIDE), -(-width // FLOW_STRIDE), 2)
    if count < 2:
        empty = np.zeros(shape, np.float16)
        for name in ("forward", "backward"):
            np.save(folder / f"flow_{name}.npy", empty)
        return Flow(empty, empty)
    arrays = [create_array(folder / f"flow_{name}.npy", shape, np.float16) for name in ("forward", "backward")]

    def pair(t: int) -> tuple[int, np.ndarray, np.ndarray]:
        engine, found = DisFlow(), []
        for a, b in ((t, t + 1), (t + 1, t)):
            flow = None if between is None else between(a, b)
            unknown = None if flow is None else np.isnan(flow[..., :1])
            if flow is None or unknown is None:
                flow = engine(gray(frames[a]), gray(frames[b]))
            elif unknown.any():
                flow = np.where(unknown, engine(gray(frames[a]), gray(frames[b])), flow)
            found.append(cv2.resize(flow, (shape[2], shape[1]), interpolation=cv2.INTER_AREA))
        return t, found[0], found[1]

    # A network uses all cores by itself.
    for t, forward, backward in map(pair, range(count - 1)) if between else map_frames(pair, range(count - 1)):
        arrays[0][t], arrays[1][t] = forward, backward
    for array in arrays:
        array.flush()
    return load_flow(folder)


def load_flow(folder: Path) -> Flow:
    """Flow that :func:`compute_flow` wrote."""
    return Flow(open_array(folder / "flow_forward.npy"), open_array(folder / "flow_backward.npy"))
