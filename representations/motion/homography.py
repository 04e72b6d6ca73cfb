"""Camera motion as one homography per frame: RANSAC chains, links to keyframes, bundle adjustment.

Convention: homographies map pixels (x, y) of a frame to pixels of the reference frame; pixel centres at integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from canon.representations.motion.flow import FLOW_STRIDE, DisFlow, Flow, gray
from canon.runtime import map_frames
from canon.sampling import remap

POINTS_PER_LINK = 600
INLIER_PX = 1.5
_SMALL = 200  # lattice pixels; smaller pictures are matched at their full size, and twice
_WIDEST = 2.5
"""Most that a frame's corner may be stretched against its centre, along a side, in a flat picture of all frames: some
65 degrees off the middle of that picture."""
_MOST_REFERENCES = 64


@dataclass(frozen=True)
class Link:
    """Matches between two frames: points p [N, 2] of ``source`` lie at q [N, 2] in ``target`` (pixels, float32)."""

    source: int
    target: int
    p: np.ndarray
    q: np.ndarray


@dataclass(frozen=True)
class CameraMotion:
    """``to_reference`` [T, 3, 3] float64 maps each frame's pixels to the reference frame.

    ``inliers`` [T] is the share of matches that were kept.
    """

    to_reference: np.ndarray
    reference: int
    inliers: np.ndarray

    def seen_from(self, reference: int) -> CameraMotion:
        """The same motion, to the pixels of another frame."""
        matrices = np.linalg.inv(self.to_reference[reference]) @ self.to_reference
        return CameraMotion(matrices / _nonzero(matrices[:, 2:, 2:]), reference, self.inliers)

    def directions(self, size: tuple[int, int]) -> list[tuple[range, int]]:
        """The fewest stretches of time such that one flat picture holds all that each saw, and a frame to lay it in.

        Args:
            size: (height, width) of the frames.
        """
        count = len(self.to_reference)
        choices = np.unique(np.append(np.linspace(0, count - 1, min(count, _MOST_REFERENCES)).round(), self.reference))
        stretch = np.stack([_stretch(self.seen_from(int(r)).to_reference, size) for r in choices])
        if stretch[list(choices).index(self.reference)].max() <= _WIDEST:
            return [(range(count), self.reference)]
        wide, narrow, found = _WIDEST, 1.0, _cover(stretch, _WIDEST)
        for _ in range(12):  # as many as it takes, each as little stretched as can be
            limit = (wide * narrow) ** 0.5
            other = _cover(stretch, limit)
            wide, narrow, found = (limit, narrow, other) if len(other) <= len(found) else (wide, limit, found)
        return [(times, int(choices[row])) for times, row in found]


def _nonzero(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < 1e-9, 1e-9, values)


def _stretch(matrices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much larger homographies [T, 3, 3] make a frame's corner than its centre, along a side; inf behind: [T]."""
    height, width = size
    corners = np.array([[x, y, 1.0] for x in (0, width - 1) for y in (0, height - 1)])
    centre = matrices @ np.array([(width - 1) / 2, (height - 1) / 2, 1.0])
    depth = (matrices[:, 2] @ corners.T) / _nonzero(centre[:, 2:])
    # The Jacobian's determinant of a homography is det H / w^3.
    return np.where(depth > 0.01, np.maximum(depth, 0.01) ** -1.5, np.inf).max(axis=1)


def _cover(stretch: np.ndarray, limit: float) -> list[tuple[range, int]]:
    """Stretches of time, each with the row of ``stretch`` [R, T] that is nowhere above the limit there, greedily."""
    found, first, count = [], 0, stretch.shape[1]
    while first < count:
        beyond = stretch[:, first:] > limit
        reach = np.where(beyond.any(axis=1), beyond.argmax(axis=1), count - first)
        row = int(reach.argmax())
        last = first + max(int(reach[row]), 1)
        own = stretch[:, first:last].max(axis=1)
        found.append((range(first, last), int(own.argmin())))
        first = last
    return found


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Homography [3, 3] applied to points [..., 2]."""
    q = points @ matrix[:2, :2].T + matrix[:2, 2]
    w = points @ matrix[2, :2] + matrix[2, 2]
    return q / np.where(np.abs(w) < 1e-9, 1e-9, w)[..., None]


def estimate_camera(
    frames: np.ndarray, flow: Flow, weight: np.ndarray, seed: int = 0, thorough: bool = True
) -> CameraMotion:
    """Homography of every frame to the middle one.

    Args:
        frames: uint8 [T, H, W, 3].
        weight: uint8 [T, h, w] on the flow lattice, 255 where the background is seen (all 255 when nothing is known).
        seed: of the point selection.
        thorough: as exact as can be; otherwise fit to tell what moves, in a third of the time.
    """
    count = len(frames)
    size = frames.shape[1:3]
    steps, inliers = _neighbour_homographies(flow, weight, seed)
    links = [link for _, link in steps]
    reference = count // 2
    chain = _chain([matrix for matrix, _ in steps], reference, count)
    if count > 2:
        for _ in range(2 if thorough and max(size) <= 2 * _SMALL else 1):
            direct = _keyframe_links(frames, weight, chain, seed, thorough)
            # Flow between frames that are aligned already is finer than flow across a fast pan: it takes its place.
            found = {(link.source, link.target) for link in direct}
            chain = bundle_adjust(
                chain, direct + [k for k in links if (k.source, k.target) not in found], reference, size
            )
    return CameraMotion(chain, reference, inliers)


def _neighbour_homographies(
    flow: Flow, weight: np.ndarray, seed: int
) -> tuple[list[tuple[np.ndarray, Link]], np.ndarray]:
    count = len(flow.forward)

    def one(t: int) -> tuple[np.ndarray, Link, float]:
        sure = flow.confidence(t, t + 1) * (weight[t] > 127)
        there = flow.between(t, t + 1)
        p, q = _choose(there, sure, np.random.default_rng([seed, t]))
        return _ransac(t, t + 1, p, q)

    found = list(map_frames(one, range(count)))
    shares = np.array([share for *_, share in found] + [1.0])
    return [(matrix, link) for matrix, link, _ in found], shares


def _choose(flow: np.ndarray, sure: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random sure lattice points and where the flow takes them (full-size pixels)."""
    rows, columns = np.nonzero(sure > 0.3)
    if len(rows) < 20:
        rows, columns = np.nonzero(np.ones_like(sure, bool))
    pick = rng.permutation(len(rows))[: 4 * POINTS_PER_LINK]
    rows, columns = rows[pick], columns[pick]
    p = np.stack([columns, rows], -1).astype(np.float64) * FLOW_STRIDE + (FLOW_STRIDE - 1) / 2
    return p, p + flow[rows, columns]


def _ransac(source: int, target: int, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, Link, float]:
    cv2.setRNGSeed(0)
    matrix: np.ndarray | None = None
    mask: np.ndarray | None = None
    if len(p) >= 8:
        matrix, mask = cv2.findHomography(p, q, cv2.RANSAC, INLIER_PX, maxIters=1000, confidence=0.999)
    if matrix is None or mask is None or not _plausible(matrix, p):
        matrix = np.eye(3)
        matrix[:2, 2] = np.median(q - p, axis=0) if len(p) else 0.0
        mask = np.ones((len(p), 1), np.uint8)
    keep = np.nonzero(mask.ravel())[0]
    share = len(keep) / max(len(p), 1)
    keep = keep[:POINTS_PER_LINK]
    # Thousands of links are held at once in a long clip.
    return matrix, Link(source, target, p[keep].astype(np.float32), q[keep].astype(np.float32)), share


def _plausible(matrix: np.ndarray, points: np.ndarray) -> bool:
    """No flip, no fold and no wild zoom between two frames of a film."""
    corners = np.array([[0, 0], [1, 0], [0, 1]], float) * max(float(np.ptp(points)), 1.0) * 0.5 + points.mean(0)
    moved = transform(matrix, corners)
    a, b = moved[1] - moved[0], moved[2] - moved[0]
    c, d = corners[1] - corners[0], corners[2] - corners[0]
    ratio = (a[0] * b[1] - a[1] * b[0]) / (c[0] * d[1] - c[1] * d[0])
    return bool(np.isfinite(moved).all() and 0.2 < ratio < 5.0)


def _chain(steps: list[np.ndarray], reference: int, count: int) -> np.ndarray:
    chain = np.tile(np.eye(3), (count, 1, 1))
    for t in range(reference - 1, -1, -1):
        chain[t] = chain[t + 1] @ steps[t]
    for t in range(reference + 1, count):
        chain[t] = chain[t - 1] @ np.linalg.inv(steps[t - 1])
    return chain / chain[:, 2:, 2:]


def _keyframe_links(frames: np.ndarray, weight: np.ndarray, chain: np.ndarray, seed: int, thorough: bool) -> list[Link]:
    """Direct matches of every frame to its nearest keyframes, which take the drift out of the chain.

    Besides the keyframes near in time, the overlapping keyframe that is farthest in time is linked: a camera that comes
    back to a place finds it again.
    """
    count, height, width = frames.shape[:3]
    keyframes = np.linspace(0, count - 1, max(2, min(count, round(count / 10) + 1))).round().astype(int)
    centre = np.array([[(width - 1) / 2, (height - 1) / 2]])
    centres = np.concatenate([transform(matrix, centre) for matrix in chain])
    pairs = []
    for t in range(count):
        near = sorted((k for k in keyframes if abs(k - t) > 1), key=lambda k: abs(k - t))
        overlapping = [k for k in near if np.abs(centres[k] - centres[t]).max() < 0.6 * min(width, 2 * height)]
        if thorough:
            pairs += [(t, int(k)) for k in sorted({*overlapping[:2], *overlapping[-1:]})]
            pairs += [(t, s) for s in (t + 1, t + 3) if s < count]
        else:
            pairs += [(t, int(k)) for k in sorted({*overlapping[:1], *overlapping[-1:]})]

    def one(pair: tuple[int, int]) -> Link | None:
        return _direct_link(frames, weight, chain, pair, seed)

    return [link for link in map_frames(one, pairs) if link is not None]


def _direct_link(
    frames: np.ndarray, weight: np.ndarray, chain: np.ndarray, pair: tuple[int, int], seed: int
) -> Link | None:
    t, k = pair
    height, width = frames.shape[1:3]
    guess = np.linalg.inv(chain[k]) @ chain[t]
    small = (weight.shape[2], weight.shape[1])
    scale = np.diag([width / small[0], height / small[1], 1.0])
    scale[:2, 2] = (np.diag(scale)[:2] - 1) / 2
    a, b = (cv2.resize(gray(frames[i]), small, interpolation=cv2.INTER_AREA) for i in (t, k))
    lookup = _warp_map(np.linalg.inv(scale) @ guess @ scale, small)
    x, y = lookup[..., 0], lookup[..., 1]
    usable = (x >= 0) & (x <= small[0] - 1) & (y >= 0) & (y <= small[1] - 1)
    usable &= remap(weight[k][..., None], lookup)[..., 0] > 127
    if usable.mean() < 0.1:
        return None
    warped = remap(b[..., None], lookup)[..., 0]
    engine = DisFlow(finest=0 if max(a.shape) <= _SMALL else 1)
    still = np.zeros((*a.shape, 2), np.float32)
    forth, back = engine(a, warped, still.copy()), engine(warped, a, still)
    off = forth + remap(back, _warp_map(np.eye(3), small) + forth)
    usable &= (weight[t] > 127) & (cv2.magnitude(off[..., 0], off[..., 1]) < 0.5)
    rows, columns = np.nonzero(usable)
    if len(rows) < 100:
        return None
    pick = np.random.default_rng([seed, t, k]).permutation(len(rows))[: 4 * POINTS_PER_LINK]
    rows, columns = rows[pick], columns[pick]
    p = np.stack([columns, rows], -1).astype(np.float64)
    aim = p + forth[rows, columns]
    _, link, share = _ransac(t, k, transform(scale, p), transform(guess @ scale, aim))
    return link if share > 0.4 else None


def _warp_map(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a homography takes every pixel of a picture (width, height): float32 [h, w, 2]."""
    m = matrix.astype(np.float32)
    x, y = np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32)[:, None]
    w = m[2, 0] * x + (m[2, 1] * y + m[2, 2])
    w[np.abs(w) < 1e-9] = 1e-9
    return cv2.merge([(m[i, 0] * x + (m[i, 1] * y + m[i, 2])) / w for i in range(2)])


def bundle_adjust(
    chain: np.ndarray, links: list[Link], reference: int, size: tuple[int, int], steps: int = 6
) -> np.ndarray:
    """All homographies at once, by Gauss-Newton with Huber weights on the reprojection error in the target frame.

    Each C_t is updated as C_t exp(x_t): eight generators in normalised frame coordinates. A link's error is
    q - C_target^-1 C_source p, so that zooming out is not rewarded.
    """
    normalise = _normaliser(size)
    current = chain @ np.linalg.inv(normalise)
    count, links = len(chain), [link for link in links if len(link.p) >= 8]
    unknown = np.array([t for t in range(count) if t != reference])
    column = {t: i for i, t in enumerate(unknown)}
    pixel = normalise[0, 0]
    for _ in range(steps):
        blocks: dict[tuple[int, int], np.ndarray] = {}
        right = np.zeros(8 * len(unknown))
        for link in links:
            source, target = link.source, link.target
            p, q = transform(normalise, link.p), transform(normalise, link.q)
            between = np.linalg.inv(current[target]) @ current[source]
            there = transform(between, p)
            residual = q - there
            size_px = np.linalg.norm(residual, axis=-1) / pixel
            robust = 1.0 / np.maximum(1.0, size_px / 0.7)
            jacobians = {
                source: _local(between, p) @ _generators(p),
                target: -_generators(there),
            }
            for a, ja in jacobians.items():
                if a == reference:
                    continue
                weighted = (ja * robust[:, None, None]).reshape(-1, 8).T
                right[8 * column[a] : 8 * column[a] + 8] += weighted @ residual.ravel()
                for b, jb in jacobians.items():
                    if b != reference:
                        key = (column[a], column[b])
                        blocks[key] = blocks.get(key, 0.0) + weighted @ jb.reshape(-1, 8)
        update = _solve_blocks(blocks, right, len(unknown))
        for t, x in zip(unknown, update, strict=True):
            current[t] = current[t] @ _exponential(x)
            current[t] /= current[t][2, 2]
        if np.abs(update).max() < 1e-6:
            break
    adjusted = current @ normalise
    return adjusted / adjusted[:, 2:, 2:]


def _normaliser(size: tuple[int, int]) -> np.ndarray:
    scale = 2.0 / max(size)
    return np.array([[scale, 0, -scale * (size[1] - 1) / 2], [0, scale, -scale * (size[0] - 1) / 2], [0, 0, 1.0]])


def _generators(p: np.ndarray) -> np.ndarray:
    """d exp(x) p / dx at 0: [N, 2, 8]."""
    x, y = p[:, 0], p[:, 1]
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.stack(
        [
            np.stack([x, y, one, zero, zero, zero, -x * x, -x * y], -1),
            np.stack([zero, zero, zero, x, y, one, -x * y, -y * y], -1),
        ],
        1,
    )


def _local(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Jacobian of the homography at p: [N, 2, 2]."""
    w = p @ matrix[2, :2] + matrix[2, 2]
    q = transform(matrix, p)
    return (matrix[None, :2, :2] - q[:, :, None] * matrix[2, :2][None, None]) / w[:, None, None]


def _exponential(x: np.ndarray) -> np.ndarray:
    return np.array([[1 + x[0], x[1], x[2]], [x[3], 1 + x[4], x[5]], [x[6], x[7], 1.0]])


def _solve_blocks(blocks: dict[tuple[int, int], np.ndarray], right: np.ndarray, count: int) -> np.ndarray:
    if not blocks:
        return np.zeros((count, 8))
    offsets = np.arange(8)
    keys = np.array(list(blocks))
    rows = (8 * keys[:, 0, None, None] + offsets[:, None]) + np.zeros((1, 1, 8), int)
    columns = (8 * keys[:, 1, None, None] + offsets[None]) + np.zeros((1, 8, 1), int)
    values = np.stack(list(blocks.values()))
    matrix = scipy.sparse.csc_matrix((values.ravel(), (rows.ravel(), columns.ravel())), shape=(8 * count, 8 * count))
    damping = 1e-3 * float(np.mean(matrix.diagonal())) * 0.01 + 1e-9
    matrix = matrix + damping * scipy.sparse.identity(8 * count, format="csc")
    return scipy.sparse.linalg.spsolve(matrix, right).reshape(count, 8)
