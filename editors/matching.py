"""Finding one picture in another: where every texel of ours lies in a picture of the same thing that is not ours."""

from __future__ import annotations

import cv2
import numpy as np

from canon.sampling import remap

_FEWEST, _DISTINCT = 12, 0.75
"""Features that two pictures must share at least, and how much better than the second best a match must be."""


def match_pictures(ours: np.ndarray, known: np.ndarray, theirs: np.ndarray) -> np.ndarray | None:
    """Where texels of one picture lie in another one of the same thing, of another size, crop or slight bend.

    A homography through SIFT features (Lowe, 2004), then dense flow (DIS) for what bends.

    Args:
        ours, theirs: uint8 [h, w, 3].
        known: bool [h, w], where ours shows something.

    Returns:
        float32 [h, w, 2] positions in ``theirs`` (x, y), or None when too little matches.
    """
    sift = cv2.SIFT.create(nfeatures=4000, contrastThreshold=0.01)
    grays = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (ours, theirs)]
    (points, marks), (others, other_marks) = (
        sift.detectAndCompute(grays[0], known.astype(np.uint8)),
        sift.detectAndCompute(grays[1], None),
    )
    if marks is None or other_marks is None or min(len(points), len(others)) < _FEWEST:
        return None
    pairs = [pair for pair in cv2.BFMatcher().knnMatch(marks, other_marks, k=2) if len(pair) == 2]
    good = [first for first, second in pairs if first.distance < _DISTINCT * second.distance]
    if len(good) < _FEWEST:
        return None
    a = np.array([points[match.queryIdx].pt for match in good], np.float32)
    b = np.array([others[match.trainIdx].pt for match in good], np.float32)
    cv2.setRNGSeed(0)
    matrix, inliers = cv2.findHomography(a, b, cv2.RANSAC, 0.01 * max(theirs.shape[:2]))
    if matrix is None or int(inliers.sum()) < _FEWEST:
        return None
    height, width = ours.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    there = cv2.perspectiveTransform(np.dstack([x, y]).reshape(1, -1, 2), matrix).reshape(height, width, 2)
    there = np.ascontiguousarray(there, np.float32)
    moved = remap(grays[1][..., None], there)[..., 0]
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    bend = engine.calc(grays[0], moved, None)  # type: ignore[call-overload]  # no first guess
    bend = cv2.GaussianBlur(cv2.medianBlur(bend, 5), (0, 0), 3.0)
    return remap(there, np.dstack([x, y]) + bend)
