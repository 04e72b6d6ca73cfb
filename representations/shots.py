"""Clips of several shots: each is fitted by itself, and their canvases go below each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from canon.clip import Clip
from canon.coordinates import grid_nodes
from canon.fits import Fit, FitLayer, Segment
from canon.storage import fresh_array

_GAP = 32
"""Texels between two shots' canvases, so that a frame that looks at half or quarter size sees its own only."""


def join(clip: Clip, fits: Sequence[Fit], firsts: Sequence[int], folder: Path) -> Fit:
    """One fit of a clip from those of its shots.

    A layer that some shots do not have is not seen in them.

    Args:
        fits: of the shots, in order, with the same config.
        firsts: the frame that each begins with.
        folder: where opacity is kept, memory-mapped.
    """
    fronts = [name for name in clip.masks if any(name in fit.layers for fit in fits)]
    fronts += [name for fit in fits for name in fit.layers[:-1]]
    layers = [_joined(name, clip, fits, firsts, folder) for name in dict.fromkeys([*fronts, fits[0].layers[-1]])]
    one = fits[0]
    seconds: dict[str, float] = {}
    origins = []
    for fit, first in zip(fits, firsts, strict=True):
        for stage, spent in fit.stats["seconds"].items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)
        origins += [f"frames {first} to {first + len(fit) - 1}: {origin}" for origin in fit.stats["masks"]]
    shots = [[first, first + len(fit) - 1] for fit, first in zip(fits, firsts, strict=True)]
    stats = {"seconds": seconds, "masks": origins, "shots": shots}
    return Fit(clip, one.representation, one.config, layers, one.stride, one.light_stride, stats)


def _joined(name: str, clip: Clip, fits: Sequence[Fit], firsts: Sequence[int], folder: Path) -> FitLayer:
    """A layer's canvases in a column, its maps one after the other."""
    found = [(fit, first, fit.layer(name)) for fit, first in zip(fits, firsts, strict=True) if name in fit.layers]
    segments, top = [], 0
    for fit, first, layer in found:
        height, width = layer.canvas_size
        segments.append(Segment(first, first + len(fit) - 1, top, 0, height, width))
        top += height + _GAP
    size = top - _GAP, max(part.width for part in segments)
    color, coverage = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    last = found[-1][2].opacity is None
    # Where a layer is missing, it lies at rest, unseen.
    grid = np.repeat(grid_nodes(clip.size, fits[0].stride).numpy()[None], len(clip), axis=0)
    lighting = np.ones((len(clip), *found[0][2].lighting.shape[1:]), np.float32)
    opacity = None if last else fresh_array(folder / f"opacity-{name}.npy", (len(clip), *clip.size))
    for part, (_, _, layer) in zip(segments, found, strict=True):
        frames = slice(part.first, part.last + 1)
        # What lies around a canvas continues it.
        top, end = max(part.top - _GAP // 2, 0), min(part.top + part.height + _GAP // 2, size[0])
        around = [(part.top - top, end - part.top - part.height), (0, size[1] - part.width)]
        color[top:end] = np.pad(layer.color, [*around, (0, 0)], mode="edge")
        coverage[part.box] = layer.coverage
        grid[frames] = layer.grid + np.array([part.left, part.top], np.float32)
        lighting[frames] = layer.lighting
        if opacity is not None and layer.opacity is not None:
            opacity[frames] = layer.opacity
    return FitLayer(name, color, coverage, grid, lighting, opacity, tuple(segments))
