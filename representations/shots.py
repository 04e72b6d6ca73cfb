"""Clips of several shots: each is fitted by itself, and their canvases go below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from canon.clip import Clip
from canon.coordinates import grid_nodes
from canon.fits import Fit, FitLayer
from canon.segments import GAP, Segment
from canon.storage import fresh_array


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
    tops = np.cumsum([0] + [layer.canvas_size[0] + GAP for _, _, layer in found]).tolist()
    size = tops[-1] - GAP, max(layer.canvas_size[1] for _, _, layer in found)
    color, coverage = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    last = found[-1][2].opacity is None
    # Where a layer is missing, it lies at rest, unseen.
    grid = np.repeat(grid_nodes(clip.size, fits[0].stride).numpy()[None], len(clip), axis=0)
    lighting = np.ones((len(clip), *found[0][2].lighting.shape[1:]), np.float32)
    opacity = None if last else fresh_array(folder / f"opacity-{name}.npy", (len(clip), *clip.size))
    segments: list[Segment] = []
    seconds: list[tuple[np.ndarray, np.ndarray]] = []
    for (fit, first, layer), top in zip(found, tops, strict=False):
        frames = slice(first, first + len(fit))
        height, width = layer.canvas_size
        whole = Segment(0, len(fit) - 1, 0, 0, height, width)
        for part in layer.segments or (whole,):
            segments.append(replace(part, first=part.first + first, last=part.last + first, top=part.top + top))
        # What lies around a canvas continues it.
        begin, end = max(top - GAP // 2, 0), min(top + height + GAP // 2, size[0])
        around = [(top - begin, end - top - height), (0, size[1] - width)]
        color[begin:end] = np.pad(layer.color, [*around, (0, 0)], mode="edge")
        coverage[top : top + height, :width] = layer.coverage
        down = np.array([0, top], np.float32)
        grid[frames] = layer.grid + down
        lighting[frames] = layer.lighting
        if layer.second_grid is not None and layer.second_lighting is not None:
            seconds.append((layer.second_grid + down, layer.second_lighting))
        if opacity is not None and layer.opacity is not None:
            opacity[frames] = layer.opacity
    made = FitLayer(name, color, coverage, grid, lighting, opacity, tuple(segments))
    if not seconds:
        return made
    grids, lights = (np.concatenate(arrays) for arrays in zip(*seconds, strict=True))
    return replace(made, second_grid=grids, second_lighting=lights)
