"""Displacements of a whole shape from those of a few points: as rigid as possible, or by thin plates.

After Sorkine and Alexa, As-Rigid-As-Possible Surface Modeling (2007), on a lattice in two dimensions, where the best
rotations have a closed form; and Bookstein, Principal Warps: Thin-Plate Splines (1989).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from canon import progress
from canon.coordinates import Size, grid_size
from canon.errors import InputError
from canon.sampling import fill_from_nearest

KINDS = ("arap", "tps")
_VERTICES = 3000
"""About so many nodes of the lattice lie in a shape."""
_HARD = 1e4
"""How much a point that was placed counts against an edge that keeps its length."""
_ROUNDS, _SETTLED = 400, 1e-3
"""Of the solver, and the share of a cell by which nodes may still move when it ends."""
_MOST_HELD = 300
"""Held nodes that thin plates go by."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A lattice over a canvas, and the part of it where the layer is.

    Attributes:
        stride: texels between its nodes.
        inside: bool [gh, gw], nodes on the shape or beside it.
    """

    stride: int
    inside: np.ndarray

    @property
    def nodes(self) -> np.ndarray:
        """Where the nodes inside are, float64 [N, 2] (x, y) in texels, row by row."""
        rows, columns = np.nonzero(self.inside)
        return np.stack([columns, rows], axis=-1).astype(np.float64) * self.stride

    def filled(self, displacement: np.ndarray) -> np.ndarray:
        """Displacements [N, 2] of the nodes inside as those of all, float32 [gh, gw, 2].

        The others move with the nearest of them.
        """
        found = np.zeros((*self.inside.shape, 2), np.float32)
        found[self.inside] = displacement
        return fill_from_nearest(found, self.inside)


def shape_of(known: np.ndarray) -> Shape:
    """The shape that fills some texels of a canvas, bool [h, w].

    Raises:
        InputError: there is none.
    """
    if not known.any():
        raise InputError("Nothing was seen of the layer, so that it has no shape to move.")
    size: Size = (known.shape[0], known.shape[1])
    stride = max(int(np.sqrt(known.sum() / _VERTICES)), 1)
    rows, columns = grid_size(size, stride)
    near = cv2.dilate(known.astype(np.uint8), np.ones((2 * stride + 1, 2 * stride + 1), np.uint8))
    y, x = np.minimum(np.arange(rows) * stride, size[0] - 1), np.minimum(np.arange(columns) * stride, size[1] - 1)
    return Shape(stride, near[np.ix_(y, x)] > 0)


def solve(
    shape: Shape,
    places: np.ndarray,
    targets: np.ndarray,
    held: np.ndarray,
    kind: str,
    width: float = 0.0,
    smooth: float = 0.0,
) -> np.ndarray:
    """How a shape moves when some of its places are put elsewhere.

    Args:
        places, targets: float [K, 2] in texels, where points are and where they go; a place beside the shape counts as
            the nearest one on it.
        held: bool [N], the nodes that stay where they are.
        kind: one of :data:`KINDS`.
        width: texels around a place that move along with it as one.
        smooth: how much thin plates may miss points that contradict each other; 0 = they go through all of them.

    Returns:
        float32 [gh, gw, 2], displacement at all nodes of the lattice.
    """
    nodes = shape.nodes
    at, moves = [np.asarray(places, np.float64)], [np.asarray(targets, np.float64) - places]
    for place, move in zip(at[0], moves[0], strict=True):
        around = nodes[np.linalg.norm(nodes - place, axis=1) < width]
        # A single point of a lattice gives way like a spike; a patch does not.
        at.append(around)
        moves.append(np.repeat(move[None], len(around), axis=0))
    points, shifts = np.concatenate(at), np.concatenate(moves)
    if kind == "tps":
        return shape.filled(_thin_plates(nodes, points, shifts, held, smooth))
    return shape.filled(_as_rigid_as_possible(shape, points, shifts, held))


def _as_rigid_as_possible(shape: Shape, points: np.ndarray, shifts: np.ndarray, held: np.ndarray) -> np.ndarray:
    nodes, (first, second) = shape.nodes, _edges(shape.inside)
    count, edges = len(nodes), nodes[first] - nodes[second]
    ones, number = np.ones(len(first)), np.arange(len(first))
    differences = scipy.sparse.csr_matrix(
        (np.concatenate([ones, -ones]), (np.tile(number, 2), np.concatenate([first, second]))), (len(first), count)
    )
    placed, offsets = _shares(shape, points)
    still = scipy.sparse.diags(held.astype(float))
    matrix = differences.T @ differences + _HARD * (placed.T @ placed + still) + 1e-9 * scipy.sparse.eye(count)
    factors = splu(matrix.tocsc())
    fixed = _HARD * (placed.T @ (points + shifts + offsets) + still @ nodes)
    flat = edges[:, 0] + 1j * edges[:, 1]
    ends = np.concatenate([first, second])
    found = nodes + factors.solve(_HARD * (placed.T @ shifts))
    for _ in progress.parts(range(_ROUNDS), "shaping"):
        seen = (found[first] - found[second]) @ np.array([1, 1j])
        # Of the edges at a node: the turn that takes them closest to what they have become.
        turn = np.conj(flat) * seen
        total = np.bincount(ends, np.tile(turn.real, 2), count) + 1j * np.bincount(ends, np.tile(turn.imag, 2), count)
        total = np.where(np.abs(total) > 1e-12, total, 1)
        total /= np.abs(total)
        wanted = flat * (total[first] + total[second]) / 2
        after = factors.solve(differences.T @ np.stack([wanted.real, wanted.imag], axis=-1) + fixed)
        change, found = np.abs(after - found).max(), after
        if change < _SETTLED * shape.stride:
            break
    return found - nodes


def _edges(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours among the nodes inside, across and along both diagonals: numbers int64 [E] and [E]."""
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(int(inside.sum()))
    pairs = [
        (number[:, :-1], number[:, 1:]),
        (number[:-1], number[1:]),
        (number[:-1, :-1], number[1:, 1:]),
        (number[:-1, 1:], number[1:, :-1]),
    ]
    both = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in pairs], axis=1)
    kept = both[:, (both >= 0).all(axis=0)]
    return kept[0], kept[1]


def _shares(shape: Shape, points: np.ndarray) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """How nodes [N] make up points [K, 2] of their cells [K, N], and what is missing to where they lie then, [K, 2]."""
    nodes = shape.nodes
    number = np.full(shape.inside.shape, -1)
    number[shape.inside] = np.arange(len(nodes))
    high = np.array(shape.inside.shape[::-1]) - 2
    corner = np.clip(np.floor(points / shape.stride).astype(int), 0, np.maximum(high, 0))
    part = np.clip(points / shape.stride - corner, 0, 1)
    ways = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    every = np.minimum(corner[:, None] + ways, np.array(shape.inside.shape[::-1]) - 1)
    own = number[every[..., 1], every[..., 0]]  # [K, 4]
    share = np.where(ways, part[:, None], 1 - part[:, None]).prod(axis=-1) * (own >= 0)
    lost = share.sum(axis=1) <= 0
    for k in np.flatnonzero(lost).tolist():  # beside the shape
        own[k], share[k] = np.linalg.norm(nodes - points[k], axis=1).argmin(), [1, 0, 0, 0]
    share /= share.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(points)), 4)
    matrix = scipy.sparse.csr_matrix((share.ravel(), (rows, np.maximum(own, 0).ravel())), (len(points), len(nodes)))
    return matrix, matrix @ nodes - points


def _thin_plates(
    nodes: np.ndarray, points: np.ndarray, shifts: np.ndarray, held: np.ndarray, smooth: float
) -> np.ndarray:
    still = nodes[held]
    still = still[:: max(-(-len(still) // _MOST_HELD), 1)]
    known = np.concatenate([points, still])
    moves = np.concatenate([shifts, np.zeros_like(still)])
    known, first = np.unique(np.round(known, 6), axis=0, return_index=True)
    moves, scale = moves[first], max(float(np.ptp(nodes, axis=0).max()), 1.0)
    kernel = _kernel(known / scale, known / scale)
    plane = np.concatenate([np.ones((len(known), 1)), known / scale], axis=1)
    # With fewer than three points no tilt is determined; the smallest is taken.
    system = np.block([[kernel + max(smooth, 1e-10) * np.eye(len(known)), plane], [plane.T, np.zeros((3, 3))]])
    right = np.concatenate([moves, np.zeros((3, 2))])
    weights = np.linalg.lstsq(system, right, rcond=None)[0]
    seen = np.concatenate([_kernel(nodes / scale, known / scale), np.ones((len(nodes), 1)), nodes / scale], axis=1)
    found = seen @ weights
    found[held] = 0
    return np.asarray(found)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return square * np.log(np.maximum(square, 1e-20)) / 2
