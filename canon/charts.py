"""Charts: the parts, apart from one another, of a canvas that is a texture atlas; and where frames change charts."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from canon.fits import FitLayer
from canon.sampling import fill_from_nearest

_JUMP = 8.0
"""Times the usual step between neighbouring nodes that is no step along the surface any more."""


def chart_numbers(layer: FitLayer) -> np.ndarray:
    """The chart that every texel of a layer's canvas belongs to, int32 [Hc, Wc], from 1.

    Charts are what of the coverage hangs together, by sides or corners. Texels outside belong to the nearest chart, as
    their colours do; of a canvas without any coverage, all to chart 0.
    """
    inside = layer.coverage > 0
    numbers, _ = scipy.ndimage.label(inside, np.ones((3, 3)), output=np.int32)
    return fill_from_nearest(numbers[..., None], inside)[..., 0]


def charts_at(numbers: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The charts at canvas positions [gh, gw, 2], those of the nearest texels, int [gh, gw].

    Args:
        numbers: of :func:`chart_numbers`.
    """
    x, y = np.rint(grid).astype(np.int64).transpose(2, 0, 1)
    return np.asarray(numbers[y.clip(0, numbers.shape[0] - 1), x.clip(0, numbers.shape[1] - 1)])


def unbroken(grid: np.ndarray, charts: np.ndarray) -> np.ndarray:
    """Nodes of a grid whose neighbours there are their neighbours on the surface, too, bool [gh, gw].

    Elsewhere derivatives say nothing: a neighbour lies on another chart, on a part of the same one that another hides,
    or beyond the surface, where the coordinates of its rim are repeated.

    Args:
        grid: float [gh, gw, 2], canvas positions at the nodes.
        charts: int [gh, gw], of the nodes; 0 where nothing of the layer is seen.
    """
    steps = [np.linalg.norm(np.diff(grid, axis=axis), axis=-1) for axis in (0, 1)]
    joined = [
        (np.diff(charts, axis=axis) == 0) & (np.delete(charts, 0, axis) > 0) & (step > 0)
        for axis, step in enumerate(steps)
    ]
    along = np.concatenate([step[kept] for step, kept in zip(steps, joined, strict=True)])
    longest = _JUMP * float(np.median(along)) if len(along) else 0.0
    found = charts > 0
    for axis, (step, kept) in enumerate(zip(steps, joined, strict=True)):
        fine, nodes = np.moveaxis(kept & (step <= longest), axis, 0), np.moveaxis(found, axis, 0)
        nodes[1:] &= fine
        nodes[:-1] &= fine
    return found
