"""What moves against the camera: evidence for the foreground from the stabilised background and from residual flow.

The background is a robust mean of all frames under their homographies; a pixel speaks for the foreground when it
differs from that picture, or moves against it. How loudly, is learnt from the masks that are known: where an object
never leaves its place, the evidence says nothing and is not listened to.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from canon.representations.motion.flow import FLOW_STRIDE, Flow
from canon.representations.motion.homography import CameraMotion, transform
from canon.runtime import map_frames

BINS = 16
_CLEARLY_DIFFERENT, _CLEARLY_MOVING = 3, 4  # bins of the two cues
_SMALLEST_SHARE = 0.003
"""A moving region must fill this share of some frame to count as a foreground."""


@dataclass(frozen=True)
class Evidence:
    """Cues per lattice pixel, uint8 [T, h, w] bins: ``difference`` from the background, residual ``motion``."""

    difference: np.ndarray
    motion: np.ndarray

    def counts(self, t: int, mask: np.ndarray) -> np.ndarray:
        """Histograms [2 cues, 2 (inside, just outside), BINS] of the cues under a lattice mask (uint8)."""
        solid = mask > 127
        near = cv2.dilate(solid.astype(np.uint8), np.ones((81, 81), np.uint8)) > 0
        regions = solid, near & ~solid
        cues = self.difference[t], self.motion[t]
        return np.array([[np.bincount(cue[r], minlength=BINS) / max(r.sum(), 1) for r in regions] for cue in cues])

    @staticmethod
    def usual_counts() -> np.ndarray:
        """:meth:`counts` as they usually are, for when no mask is known to learn them from."""
        bins = np.arange(BINS)
        rows = []
        for middle in (2.5, 4.0):
            inside = 1.0 / (1.0 + np.exp((middle - bins) / 0.8))
            rows.append([inside / inside.sum(), (1.0 - inside) / (1.0 - inside).sum()])
        return np.array(rows)

    def score(self, t: int, counts: np.ndarray, trusted: bool = False) -> np.ndarray:
        """Log-likelihood ratio foreground : background, float32 [h, w], given :meth:`counts` of frames that are done.

        Unless it is ``trusted``, the ratio is toned down where it would not even tell the two apart in the frames that
        it was learnt from.
        """
        smooth = np.apply_along_axis(
            lambda h: np.convolve(np.pad(h, 1, mode="edge"), [0.25, 0.5, 0.25], "valid"), -1, counts
        )
        ratio = np.log(smooth[:, 0] + 2e-3) - np.log(smooth[:, 1] + 2e-3)
        tables = np.clip(ratio, -2.5, 2.5)
        right = [(counts[c, 0] @ (tables[c] > 0), counts[c, 1] @ (tables[c] < 0)) for c in range(2)]
        trust = np.clip((np.array([min(r) for r in right]) - 0.75) / 0.15, 0.0, 1.0)
        tables = (tables if trusted else tables * trust[:, None]).astype(np.float32)
        return tables[0][self.difference[t]] + tables[1][self.motion[t]]


def gather_evidence(frames: np.ndarray, flow: Flow, camera: CameraMotion) -> Evidence:
    """Cues of every frame."""
    lattice = flow.forward.shape[2], flow.forward.shape[1]
    motion = map_frames(lambda t: _residual_motion(flow, camera, t, lattice), range(len(frames)))
    bins = [np.clip(np.log2(1.0 + 2.0 * pixels) * 3.0, 0, BINS - 1).astype(np.uint8) for pixels in motion]
    return Evidence(_differences(frames, lattice, camera, None), np.stack(bins))


def unexplained(frames: np.ndarray, camera: CameraMotion, masks: np.ndarray) -> float:
    """What a foreground leaves to be said: its own size, and how much of the rest is not the background's picture.

    Parts of a moving object that the masks miss stay in the picture as ghosts, from which other frames differ.

    Args:
        frames: uint8 [T, H, W, 3].
        masks: uint8 [T, h, w], at the size at which to compare.

    Returns:
        Squared :class:`Evidence` bins per pixel; a foreground pixel costs as much as one that is clearly different.
    """
    around = np.stack([cv2.dilate(mask, np.ones((5, 5), np.uint8)) for mask in masks])
    difference = _differences(frames, (masks.shape[2], masks.shape[1]), camera, around)
    squares = np.minimum(np.arange(BINS), BINS / 2) ** 2
    return float((squares[difference] * (around < 64)).mean() + _CLEARLY_DIFFERENT**2 * (masks > 127).mean())


def _differences(
    frames: np.ndarray, lattice: tuple[int, int], camera: CameraMotion, exclude: np.ndarray | None
) -> np.ndarray:
    """Bins of the difference from the background's picture, uint8 [T, h, w]."""
    to_full = np.diag([frames.shape[2] / lattice[0], frames.shape[1] / lattice[1], 1.0])
    to_full[:2, 2] = (np.diag(to_full)[:2] - 1) / 2
    to_lattice = np.linalg.inv(to_full)
    matrices = np.stack([to_lattice @ m @ to_full for m in camera.to_reference])
    mosaic, known, matrices = _mosaic(frames, lattice, matrices, exclude)

    def one(t: int) -> np.ndarray:
        difference = _difference(_small(frames[t], lattice), mosaic, known, matrices[t])
        return np.clip(difference * 40.0, 0, BINS - 1).astype(np.uint8)

    return np.stack(list(map_frames(one, range(len(frames)))))


def _small(frame: np.ndarray, lattice: tuple[int, int]) -> np.ndarray:
    return cv2.resize(frame, lattice, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0


def _mosaic(
    frames: np.ndarray, lattice: tuple[int, int], matrices: np.ndarray, exclude: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Robust mean picture [Hm, Wm, 3], where it is known [Hm, Wm], and the homographies into it."""
    corners = np.array([[0, 0], [lattice[0] - 1, 0], [lattice[0] - 1, lattice[1] - 1], [0, lattice[1] - 1]], float)
    reach = np.concatenate([transform(m, corners) for m in matrices])
    middle = np.array(lattice) / 2
    low = np.maximum(reach.min(0), middle - 6 * np.array(lattice))
    high = np.minimum(reach.max(0), middle + 6 * np.array(lattice))
    size = tuple(int(v) for v in np.ceil(high - low) + 1)
    shift = np.eye(3)
    shift[:2, 2] = -low
    matrices = np.stack([shift @ m for m in matrices])
    picture: np.ndarray | None = None
    for scale in (None, 0.2, 0.08):
        total = np.zeros((size[1], size[0], 4), np.float32)
        current = picture

        def one(t: int, scale: float | None = scale, current: np.ndarray | None = current) -> np.ndarray:
            image = _small(frames[t], lattice)
            weight = (
                np.ones(image.shape[:2], np.float32) if exclude is None else 1.0 - exclude[t].astype(np.float32) / 255.0
            )
            packed = np.dstack([image * weight[..., None], weight])
            warped = cv2.warpPerspective(packed, matrices[t], size, flags=cv2.INTER_LINEAR)
            if scale is not None and current is not None:
                colour = warped[..., :3] / np.maximum(warped[..., 3:], 1e-3)
                off = ((colour - current) ** 2).sum(-1, keepdims=True) / (3 * scale**2)
                warped = warped / (1.0 + off) ** 2
            return warped

        for warped in map_frames(one, range(len(frames))):
            total += warped
        picture = total[..., :3] / np.maximum(total[..., 3:], 1e-3)
    assert picture is not None
    return picture, (total[..., 3] > 0.05).astype(np.float32), matrices


def _difference(image: np.ndarray, mosaic: np.ndarray, known: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """How far each pixel lies outside the range of the background's colours in a 3x3 window there: float32 [h, w]."""
    size = image.shape[1], image.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    behind = cv2.warpPerspective(mosaic, matrix, size, flags=flags)
    seen = cv2.warpPerspective(known, matrix, size, flags=flags)
    window = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(behind, window), cv2.dilate(behind, window)
    outside = np.maximum(np.maximum(low - image, image - high), 0.0)
    return cv2.GaussianBlur(np.sqrt((outside**2).sum(-1)), (0, 0), 1.0) * (seen > 0.5)


def _residual_motion(flow: Flow, camera: CameraMotion, t: int, lattice: tuple[int, int]) -> np.ndarray:
    """Pixels per frame by which the flow departs from the camera's motion: float32 [h, w]."""
    s = t + 1 if t + 1 < len(camera.to_reference) else t - 1
    if s < 0:
        return np.zeros((lattice[1], lattice[0]), np.float32)
    there = flow.between(t, s)
    x, y = np.meshgrid(np.arange(lattice[0]), np.arange(lattice[1]))
    p = np.stack([x, y], -1) * float(FLOW_STRIDE) + (FLOW_STRIDE - 1) / 2
    still = transform(np.linalg.inv(camera.to_reference[s]) @ camera.to_reference[t], p) - p
    return np.linalg.norm(there - still, axis=-1).astype(np.float32)


def moving_object(evidence: Evidence) -> tuple[int, np.ndarray] | None:
    """(frame, lattice mask uint8) where something that moves is seen most clearly; None when nothing does."""
    best: tuple[float, int, np.ndarray] | None = None
    kernel = np.ones((5, 5), np.uint8)
    for t in range(len(evidence.difference)):
        different, moving = evidence.difference[t] >= _CLEARLY_DIFFERENT, evidence.motion[t] >= _CLEARLY_MOVING
        clear = (different & moving).astype(np.uint8)
        clear = cv2.morphologyEx(cv2.morphologyEx(clear, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
        count, labels, stats, centres = cv2.connectedComponentsWithStats(clear)
        if count < 2:
            continue
        areas = stats[1:, cv2.CC_STAT_AREA].astype(float)
        # Clutter at the frame's rim is more often parallax or a passer-by than the subject.
        off = np.abs(centres[1:] / np.array(clear.shape[::-1]) - 0.5).max(-1)
        value = areas * np.clip(1.3 - 1.6 * off, 0.2, 1.0)
        k = int(np.argmax(value))
        if areas[k] < _SMALLEST_SHARE * clear.size:
            continue
        if best is None or value[k] > best[0]:
            near = cv2.dilate((labels == k + 1).astype(np.uint8), np.ones((21, 21), np.uint8))
            keep = np.isin(labels, np.unique(labels[(near > 0) & (labels > 0)]))
            best = float(value[k]), t, (keep * 255).astype(np.uint8)
    return None if best is None else (best[1], best[2])
