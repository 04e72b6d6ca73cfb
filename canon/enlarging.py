"""A fit seen at a multiple of its clip's size: the source enlarged, canvases and edits at their own detail.

So an edit painted finer than the video (on a canonical image that was enlarged) keeps its detail in a larger render.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import cv2
import numpy as np
import torch

from canon.coordinates import grid_nodes
from canon.errors import InputError
from canon.fits import Fit
from canon.grids import sample_grid
from canon.per_frame import PerFrame
from canon.spatial import SpatialFit

MOST = 8
"""Largest factor."""


def _enlarged_frames(frames: np.ndarray, times: int, interpolation: int) -> PerFrame:
    """Images [T, H, W] or [T, H, W, C], enlarged one at a time when they are asked for."""
    count, height, width, *channels = frames.shape
    size = (width * times, height * times)

    def make(t: int) -> np.ndarray:
        return np.asarray(cv2.resize(np.ascontiguousarray(frames[t]), size, interpolation=interpolation))

    return PerFrame((count, *size[::-1], *channels), frames.dtype, make)


def enlarged(fit: Fit, times: int) -> Fit:
    """The same fit for frames of ``times`` the size; edits of the one are edits of the other.

    Frames are enlarged by Lanczos interpolation, opacity linearly.

    Raises:
        InputError: ``times`` is no whole number from 1 to :data:`MOST`.
    """
    if not isinstance(times, int) or not 1 <= times <= MOST:
        raise InputError(f"A video can be rendered at 1 to {MOST} times its size, in whole numbers, not at {times}.")
    if times == 1:
        return fit
    if isinstance(fit, SpatialFit):
        raise InputError("A fit in three dimensions cannot be enlarged between pixels; render at scale 1.")
    clip = fit.clip
    frames = cast(np.ndarray, _enlarged_frames(clip.frames, times, cv2.INTER_LANCZOS4))
    large = replace(clip, frames=frames, masks={}, known_hash=clip.content_hash)
    layers = []
    for layer in fit.baked:
        grid = _enlarged_grid(layer.grid, fit.stride, times, large.size)
        lighting = _enlarged_grid(layer.lighting, fit.light_stride, times, large.size)
        opacity = layer.opacity
        if opacity is not None:
            opacity = cast(np.ndarray, _enlarged_frames(opacity, times, cv2.INTER_LINEAR))
        second_grid, second_lighting = layer.second_grid, layer.second_lighting
        if second_grid is not None and second_lighting is not None:
            second_grid = _enlarged_grid(second_grid, fit.stride, times, large.size)
            second_lighting = _enlarged_grid(second_lighting, fit.light_stride, times, large.size)
        layers.append(
            replace(
                layer,
                grid=grid,
                lighting=lighting,
                opacity=opacity,
                second_grid=second_grid,
                second_lighting=second_lighting,
            )
        )
    found = Fit(large, fit.representation, fit.config, layers, fit.stride * times, fit.light_stride * times, fit.stats)
    found.pose_as(fit)
    return found


def _enlarged_grid(grid: np.ndarray, stride: int, times: int, size: tuple[int, int]) -> np.ndarray:
    """Node values [T, gh, gw, C] at the nodes, ``stride * times`` pixels apart, of the enlarged frames."""
    nodes = (grid_nodes(size, stride * times) + 0.5) / times - 0.5
    return np.stack([sample_grid(torch.from_numpy(np.array(one)), nodes, stride).numpy() for one in grid])
