"""Masks from a mask on some frames, a box or a scribble: carried by flow, trimmed to the picture by GrabCut.

Everything happens on the flow lattice (half size); masks come back at full size.
(GrabCut: Rother et al., SIGGRAPH 2004.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from canon.coordinates import Size
from canon.errors import InputError
from canon.representations.motion.flow import Flow, lattice_positions
from canon.representations.motion.segmentation import Evidence
from canon.runtime import map_frames
from canon.sampling import remap
from canon.storage import read_image

_BAND = 5  # lattice pixels around the carried outline that GrabCut may decide on
_ROUNDS = 1


def propagate(
    frames: np.ndarray,
    flow: Flow,
    known: Mapping[int, np.ndarray],
    out: np.ndarray,
    evidence: Evidence | None = None,
    counts: np.ndarray | None = None,
) -> None:
    """Fill ``out`` (uint8 [T, H, W]) from the masks of some frames.

    Every frame takes the mask of its nearest done neighbour through the flow; between two known frames the nearer one
    counts. GrabCut then decides in a narrow band around the outline.

    Args:
        frames: uint8 [T, H, W, 3].
        known: frame -> uint8 [H, W].
        evidence: what speaks for the foreground besides colour; then the outline may move further.
        counts: histograms of the evidence, taken as they are; None = learnt from the masks, and on the way.
    """
    count = len(frames)
    lattice = flow.forward.shape[2], flow.forward.shape[1]
    times = sorted(known)
    small = {t: _shrink(known[t], lattice) for t in times}
    learnt = np.zeros(0) if counts is None else counts
    if evidence is not None and counts is None:
        learnt = np.mean([evidence.counts(t, small[t]) for t in times], axis=0)
    for t in times:
        out[t] = known[t]

    def carry_on(start: int, direction: int) -> None:
        mask, t, recent = small[start], start + direction, learnt
        while 0 <= t < count and t not in known and _nearest(t, times) == start:
            image = cv2.resize(frames[t], lattice, interpolation=cv2.INTER_AREA)
            carried = _carry(flow, t, t - direction, mask)
            score = None if evidence is None else evidence.score(t, 0.5 * (learnt + recent), counts is not None)
            mask = trim(image, carried, score)
            if evidence is not None and counts is None:
                recent = 0.8 * recent + 0.2 * evidence.counts(t, mask)
            out[t] = enlarge(mask, (frames.shape[1], frames.shape[2]))
            t += direction

    runs = [(start, direction) for start in times for direction in (1, -1)]
    deque(map_frames(lambda run: carry_on(*run), runs), maxlen=0)


def _nearest(t: int, times: list[int]) -> int:
    return min(times, key=lambda k: (abs(k - t), k))


def _shrink(mask: np.ndarray, lattice: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask, lattice, interpolation=cv2.INTER_AREA)


def enlarge(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A lattice mask at full size (height, width), its outline smooth."""
    big = cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(big, (0, 0), 1.5).astype(np.float32)
    return np.clip((soft - 127.5) * 1.8 + 127.5, 0, 255).astype(np.uint8)


def _carry(flow: Flow, t: int, s: int, mask: np.ndarray) -> np.ndarray:
    """Mask of frame t read from that of its neighbour s through the flow (lattice, uint8)."""
    return remap(mask[..., None], lattice_positions(flow.between(t, s)))[..., 0]


def trim(image: np.ndarray, mask: np.ndarray, score: np.ndarray | None = None) -> np.ndarray:
    """Decide the outline of a mask by colour near where it is, and further off where ``score`` speaks clearly.

    Args:
        image: uint8 [h, w, 3].
        mask: uint8 [h, w].
        score: log-likelihood ratio foreground : background [h, w].

    Returns:
        uint8 [h, w], 0 or 255.
    """
    solid = (mask > 127).astype(np.uint8)
    if solid.sum() < 16:
        return solid * 255
    labels = _labels(solid, _BAND)
    if score is not None:
        # Distance from the carried outline, positive inside; three pixels weigh as much as one unit of the score.
        inside = cv2.distanceTransform(solid, cv2.DIST_L2, 3)
        outside = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 3)
        belief = cv2.GaussianBlur(score, (0, 0), 1.5) + np.clip(inside / 2.0 - outside / 3.0, -6.0, 6.0)
        labels = np.where(belief > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
        labels[belief > 2.5] = cv2.GC_FGD
        labels[belief < -2.5] = cv2.GC_BGD
    window = _window((labels != cv2.GC_BGD) | (solid > 0), 4 * _BAND)
    result = np.zeros_like(solid)
    result[window] = run_grabcut(image[window], labels[window].astype(np.uint8), None)
    return _tidy(result, solid)


def _labels(solid: np.ndarray, band: int) -> np.ndarray:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    inner = cv2.erode(solid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    outer = cv2.dilate(solid, kernel)
    doubt = np.where(solid > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    return np.where(inner > 0, cv2.GC_FGD, np.where(outer > 0, doubt, cv2.GC_BGD))


def run_grabcut(image: np.ndarray, labels: np.ndarray, box: tuple[int, int, int, int] | None) -> np.ndarray:
    """0/1 mask by GrabCut from labels, or from a box (x, y, w, h); falls back to the labels where it cannot decide."""
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    guess = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    try:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        mode = cv2.GC_INIT_WITH_RECT if box is not None else cv2.GC_INIT_WITH_MASK
        rounds = 5 if box is not None else _ROUNDS
        cv2.grabCut(bgr, labels, box, *models, rounds, mode)  # type: ignore[arg-type]  # no box with labels
    except cv2.error:  # one of the two sides has no pixels at all
        return guess
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)


def _window(region: np.ndarray, margin: int) -> tuple[slice, slice]:
    rows, columns = np.nonzero(region)
    return (
        slice(max(int(rows.min()) - margin, 0), int(rows.max()) + margin + 1),
        slice(max(int(columns.min()) - margin, 0), int(columns.max()) + margin + 1),
    )


def _tidy(found: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Drop specks; keep the carried mask when the cut lost or doubled it."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found)
    if count > 2:
        areas = stats[1:, cv2.CC_STAT_AREA]
        keep = 1 + np.nonzero(areas >= 0.02 * areas.max())[0]
        found = np.isin(labels, keep).astype(np.uint8)
    ratio = float(found.sum()) / float(before.sum())
    chosen = found if 0.6 < ratio < 1.6 else before
    return (chosen * 255).astype(np.uint8)


def box_within(box: tuple[int, int, int, int], size: Size) -> tuple[int, int, int, int]:
    """The part of a box (x, y, width, height) that lies in a frame of a size, as x0, y0, x1, y1.

    Raises:
        InputError: there is none worth the name.
    """
    height, width = size
    x, y, w, h = box
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x1 - x0 < 4 or y1 - y0 < 4:
        raise InputError(
            f"The box {box} has no area inside the {width}x{height} frame; give x, y, width, height in pixels."
        )
    return x0, y0, x1, y1


def mask_from_box(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The object inside a box (x, y, width, height) of an RGB image: uint8 [H, W].

    Raises:
        InputError: see :func:`box_within`.
    """
    x0, y0, x1, y1 = box_within(box, (image.shape[0], image.shape[1]))
    found = run_grabcut(image, np.zeros(image.shape[:2], np.uint8), (x0, y0, x1 - x0, y1 - y0))
    if found.sum() < 0.02 * (x1 - x0) * (y1 - y0):
        found[y0:y1, x0:x1] = 1
    return found * 255


def read_scribble(path: Path, size: Size) -> np.ndarray:
    """An image of white (> 200, the object), black (< 55, not the object) and gray (unknown): uint8 [H, W].

    Raises:
        InputError: it cannot be read, has another size than the frame, or marks no object.
    """
    image = read_image(path)
    scribble = image[..., : min(3, image.shape[2])].mean(-1).astype(np.uint8)
    if scribble.shape != size:
        raise InputError(
            f"The scribble has {scribble.shape[1]}x{scribble.shape[0]} pixels, but the frame has {size[1]}x{size[0]}."
        )
    if not (scribble > 200).any():
        raise InputError("The scribble marks no object; paint the object white, the rest black, and leave doubt gray.")
    return scribble


def mask_from_scribble(image: np.ndarray, scribble: np.ndarray) -> np.ndarray:
    """The object that a scribble (:func:`read_scribble`) marks in an RGB image: uint8 [H, W]."""
    labels = np.full(scribble.shape, cv2.GC_PR_BGD, np.uint8)
    labels[scribble > 200] = cv2.GC_FGD
    labels[scribble < 55] = cv2.GC_BGD
    if not (scribble < 55).any():
        labels[[0, -1]], labels[:, [0, -1]] = cv2.GC_BGD, cv2.GC_BGD
        labels[scribble > 200] = cv2.GC_FGD
    return run_grabcut(image, labels, None) * 255
