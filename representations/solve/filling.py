"""Texels that no frame shows: the background behind a foreground that stays put, filled with patches from elsewhere.

Coarse-to-fine patch matching and voting (Wexler et al., PAMI 2007; Barnes et al., SIGGRAPH 2009), vectorised over
texels.
"""

from __future__ import annotations

import cv2
import numpy as np

_RADIUS = 3
_ROUNDS = 6
_COARSEST = 40
_LARGEST = 700
"""Patches are matched on canvases of up to this many texels a side; larger ones copy what the matches point to."""


def looked_at(grids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Texels inside the outline of some frame: grids float32 [T, gh, gw, 2] -> bool [Hc, Wc]."""
    area = np.zeros(size, np.uint8)
    for grid in grids:
        rim = np.concatenate([grid[0], grid[1:, -1], grid[-1, -2::-1], grid[-2:0:-1, 0]])
        cv2.fillPoly(area, [np.round(rim).astype(np.int32)], 1)
    return area > 0


def fill_holes(color: np.ndarray, seen: np.ndarray, hole: np.ndarray, seed: int = 0) -> np.ndarray:
    """Replace the texels of ``hole`` by patches of seen ones.

    Args:
        color: float32 [Hc, Wc, 3]; its values in the hole (a smooth continuation) are where the search starts.
        seen, hole: bool [Hc, Wc].

    Returns:
        float32 [Hc, Wc, 3], equal to ``color`` outside the hole.
    """
    if not hole.any() or seen.sum() < 400:
        return color
    rows, columns = np.nonzero(hole)
    margin = 16 + int(1.0 * max(np.ptp(rows), np.ptp(columns)))
    window = (
        slice(max(int(rows.min()) - margin, 0), int(rows.max()) + margin + 1),
        slice(max(int(columns.min()) - margin, 0), int(columns.max()) + margin + 1),
    )
    out = color.copy()
    out[window] = _fill_window(color[window], seen[window], hole[window], np.random.default_rng(seed))
    return out


def _fill_window(color: np.ndarray, seen: np.ndarray, hole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = hole.shape
    top = max(0, int(np.ceil(np.log2(max(height, width) / _LARGEST))))
    levels = max(top, int(np.log2(max(min(height, width) / _COARSEST, 1))))
    image: np.ndarray | None = None
    source: np.ndarray | None = None
    for level in range(levels, top - 1, -1):
        size = (max(width >> level, 8), max(height >> level, 8))
        small = cv2.resize(color, size, interpolation=cv2.INTER_AREA)
        gap = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.01
        usable = cv2.resize(seen.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        usable = _valid_centres(usable & ~gap)
        if usable.sum() < 50 or not gap.any():
            continue
        if image is not None and source is not None:
            small = np.where(gap[..., None], cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), small)
            source = cv2.resize(source, size, interpolation=cv2.INTER_NEAREST) * np.array(
                [size[0] / source.shape[1], size[1] / source.shape[0]], np.float32
            )
        image, source = _match_and_vote(small, gap, usable, source, rng)
    if image is None or source is None:
        return color
    return _copy_back(color, hole, image, source)


def _valid_centres(known: np.ndarray) -> np.ndarray:
    kernel = np.ones((2 * _RADIUS + 1, 2 * _RADIUS + 1), np.uint8)
    return cv2.erode(known.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _match_and_vote(
    image: np.ndarray, gap: np.ndarray, usable: np.ndarray, source: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Alternate nearest patches (propagation and random search) and averaging: picture and source positions (x, y)."""
    image = image.astype(np.float32).copy()
    height, width = gap.shape
    choices = np.argwhere(usable)[:, ::-1].astype(np.float32)
    field = choices[rng.integers(len(choices), size=gap.size)].reshape(height, width, 2)
    if source is not None:
        field = np.where(_is_usable(source, usable)[..., None], np.round(source), field).astype(np.float32)
    border = cv2.dilate(gap.astype(np.uint8), np.ones((2 * _RADIUS + 1,) * 2, np.uint8)) > 0
    ys, xs = np.nonzero(border)
    own = np.arange(-_RADIUS, _RADIUS + 1)
    dy, dx = (v.ravel() for v in np.meshgrid(own, own, indexing="ij"))

    def patches(px: np.ndarray, py: np.ndarray) -> np.ndarray:
        rows = np.clip(py[:, None] + dy, 0, height - 1)
        columns = np.clip(px[:, None] + dx, 0, width - 1)
        return image[rows, columns].reshape(len(px), -1)

    for _ in range(_ROUNDS):
        target = patches(xs, ys)
        best = field[ys, xs]
        cost = ((patches(*best.astype(int).T) - target) ** 2).mean(-1)
        reach = float(max(height, width))
        trials: list[tuple[int, int] | float] = [(1, 0), (-1, 0), (0, 1), (0, -1)]
        while reach > 1:
            trials.append(reach)
            reach /= 3
        for trial in trials:
            if isinstance(trial, tuple):
                near = field[np.clip(ys - trial[1], 0, height - 1), np.clip(xs - trial[0], 0, width - 1)]
                guess = near + np.array(trial, np.float32)
            else:
                guess = np.round(best + rng.uniform(-trial, trial, best.shape).astype(np.float32))
            allowed = _is_usable(guess, usable)
            guess = np.where(allowed[:, None], guess, best)
            found = ((patches(*guess.astype(int).T) - target) ** 2).mean(-1)
            better = found < cost
            best, cost = np.where(better[:, None], guess, best), np.where(better, found, cost)
            field[ys, xs] = best
        image = _vote(image, gap, field, xs, ys, cost, dx, dy)
    return image, field


def _is_usable(positions: np.ndarray, usable: np.ndarray) -> np.ndarray:
    x, y = np.round(positions[..., 0]).astype(int), np.round(positions[..., 1]).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < usable.shape[1]) & (y < usable.shape[0])
    return inside & usable[np.clip(y, 0, usable.shape[0] - 1), np.clip(x, 0, usable.shape[1] - 1)]


def _vote(
    image: np.ndarray,
    gap: np.ndarray,
    field: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    cost: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
) -> np.ndarray:
    height, width = gap.shape
    total = np.zeros((height * width, 4), np.float64)
    weight = np.exp(-cost / max(float(np.percentile(cost, 75)), 1e-6))
    sx, sy = field[ys, xs].astype(int).T
    for ox, oy in zip(dx, dy, strict=True):
        tx, ty = xs + ox, ys + oy
        ok = (tx >= 0) & (ty >= 0) & (tx < width) & (ty < height)
        flat = (ty * width + tx)[ok]
        colour = image[np.clip(sy + oy, 0, height - 1), np.clip(sx + ox, 0, width - 1)][ok]
        for c in range(3):
            total[:, c] += np.bincount(flat, weight[ok] * colour[:, c], height * width)
        total[:, 3] += np.bincount(flat, weight[ok], height * width)
    voted = (total[:, :3] / np.maximum(total[:, 3:], 1e-9)).reshape(height, width, 3)
    return np.where(gap[..., None], voted, image).astype(np.float32)


def _copy_back(color: np.ndarray, hole: np.ndarray, image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Bring the filling to full size: the voted picture, plus the fine detail of the texels that it points to."""
    height, width = hole.shape
    smooth = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    if image.shape[:2] != hole.shape:
        scale = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
        offset = cv2.resize((source - np.dstack([x, y])) * scale, (width, height), interpolation=cv2.INTER_NEAREST)
        fine_y, fine_x = np.mgrid[:height, :width].astype(np.float32)
        detail = color - cv2.GaussianBlur(color, (0, 0), float(scale.max()))
        smooth = smooth + cv2.remap(detail, fine_x + offset[..., 0], fine_y + offset[..., 1], cv2.INTER_NEAREST)
    edge = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 1.0)[..., None] * hole[..., None]
    edge = np.maximum(edge, cv2.erode(hole.astype(np.uint8), np.ones((3, 3), np.uint8))[..., None])
    return np.clip(color * (1 - edge) + smooth * edge, 0, 1).astype(np.float32)
