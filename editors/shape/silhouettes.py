"""Which places of one outline are which of another: both walked around together, at the least cost.

Outlines are matched by dynamic time warping (Sakoe and Chiba, 1978) of where their points lie and which way they go;
a walk that stands still on one of them pays for it, so that what has grown is spread over what it grew from.
"""

from __future__ import annotations

import cv2
import numpy as np

from canon.errors import InputError

_POINTS = 240
"""Along an outline."""
_TURN = 0.25
"""How much a difference of direction (0..2) counts against one of place, in shares of the shape's size."""
_STILL = 0.02
"""Cost of a step along one of the outlines alone."""
_PULL = 12.0
"""Points of an outline about a given pair that are drawn to it."""


def outline(mask: np.ndarray) -> np.ndarray:
    """The outline of the largest part of a mask, bool [H, W]: points (x, y) float64 [N, 2] at even distances, closed.

    Raises:
        InputError: the mask is empty.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not found:
        raise InputError("A silhouette is empty; there is nothing to compare.")
    largest = max(found, key=cv2.contourArea)[:, 0].astype(np.float64)
    return _even(largest, _POINTS)


def matched(before: np.ndarray, after: np.ndarray, pairs: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Places on an outline, and where they are on another.

    Args:
        before, after: [N, 2] and [M, 2], closed outlines that go around the same way.
        pairs: [K, 4], places (x, y) near the first and where they are to be found near the second.

    Returns:
        Two float64 [L, 2], in order.
    """
    size = max(float(np.linalg.norm(np.ptp(before, axis=0))), 1e-9)
    cost = np.linalg.norm(before[:, None] - after[None], axis=-1) / size
    a, b = _directions(before), _directions(after)
    cost += _TURN * (1 - a @ b.T)
    for pair in np.reshape(np.zeros((0, 4)) if pairs is None else pairs, (-1, 4)):
        i = int(np.linalg.norm(before - pair[:2], axis=1).argmin())
        j = int(np.linalg.norm(after - pair[2:], axis=1).argmin())
        # Far from the valley of the pair, all else is dear.
        apart_i, apart_j = _around(len(before), i), _around(len(after), j)
        near = np.exp(-((apart_i / _PULL) ** 2))[:, None]
        cost += near * np.minimum(np.abs(apart_i[:, None] - apart_j[None]) / _PULL, 4)
    first, second = np.unravel_index(int(cost.argmin()), cost.shape)
    own, other = _walk(np.roll(cost, (-first, -second), axis=(0, 1)))
    return before[(own + first) % len(before)], after[(other + second) % len(after)]


def _walk(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way from the first to the last cell of a matrix, one step at a time along either side or both."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for d in range(2, rows + columns + 1):  # one diagonal after another
        i = np.arange(max(1, d - columns), min(rows, d - 1) + 1)
        j = d - i
        best = np.minimum(total[i - 1, j - 1], np.minimum(total[i - 1, j], total[i, j - 1]) + _STILL)
        total[i, j] = best + cost[i - 1, j - 1]
    row, column, way = rows, columns, []
    while row > 0 and column > 0:
        way.append((row - 1, column - 1))
        options = (total[row - 1, column - 1], total[row - 1, column] + _STILL, total[row, column - 1] + _STILL)
        step = int(np.argmin(options))
        row, column = row - (step != 2), column - (step != 1)
    found = np.array(way[::-1])
    return found[:, 0], found[:, 1]


def _around(count: int, place: int) -> np.ndarray:
    """Steps, with their sign, from a place of a closed outline to all of its places, the short way round."""
    return (np.arange(count) - place + count // 2) % count - count // 2


def _directions(points: np.ndarray) -> np.ndarray:
    ahead = np.roll(points, -3, axis=0) - np.roll(points, 3, axis=0)
    return ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)


def _even(points: np.ndarray, count: int) -> np.ndarray:
    closed = np.concatenate([points, points[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    places = np.linspace(0, along[-1], count, endpoint=False)
    return np.stack([np.interp(places, along, closed[:, k]) for k in range(2)], axis=-1)
