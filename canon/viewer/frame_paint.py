"""Paint on a frame, pulled back to the canvases that the frame shows, as the editor "paint" does with such frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from canon.boxes import Box
from canon.coordinates import grid_nodes
from canon.edits import Over
from canon.fits import Fit, nonzero_box
from canon.grids import grid_window, level_of_detail
from canon.sampling import mip_levels, pyramid, sample_mip
from canon.viewer.live import Made, straight_float

_RIM = 4
"""Pixels of a soft edge that go with the paint on the solid part beside it."""
_SOLID = 0.9
_LATTICE = 4
"""Texels between the places whose pixels are looked for; the rest is interpolated."""
_REACH = 3
"""Texels around what is seen that are looked up, too."""


@dataclass(frozen=True, eq=False)
class Backward:
    """Where the texels of a layer lie in one frame.

    Attributes:
        box: of the layer's canvas, that the frame shows.
        pixels: float32 [h, w, 2], (x, y) of every texel of the box.
        known: bool [h, w], where the frame has it, hidden or not.
        uv: float32 [H, W, 2], the other way round.
        weight: float32 [H, W], how much of the layer every pixel shows.
        lod: level of detail of the frame for one texel.
    """

    box: Box
    pixels: np.ndarray
    known: np.ndarray
    uv: np.ndarray
    weight: np.ndarray
    lod: float


def backward(fit: Fit, t: int, name: str) -> Backward | None:
    """The texels of a layer in frame ``t``; None if it shows nothing of the layer."""
    uv, weight = fit.coordinates(t, name)
    area = weight > 0
    box = _seen_box(uv, area, fit.layer(name).canvas_size)
    if box is None:
        return None
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    nodes = grid_nodes((height, width), _LATTICE).numpy()
    corner = np.array([box[1].start, box[0].start], np.float32)
    # Only what the frame comes near to is looked for: the search for what it does not show takes longest.
    near: np.ndarray = np.zeros(nodes.shape[:2], np.uint8)
    last_node = np.array([nodes.shape[1] - 1, nodes.shape[0] - 1])
    places = np.clip(np.rint((uv[area] - corner) / _LATTICE).astype(int), 0, last_node)
    near[places[:, 1], places[:, 0]] = 1
    wanted = cv2.dilate(near, np.ones((5, 5), np.uint8)) > 0
    lattice = np.full((*nodes.shape[:2], 3), 1e6, np.float32)
    pixels, error = fit.pixels_of(t, name, nodes[wanted] + corner, area)
    lattice[wanted] = np.concatenate([pixels, np.minimum(error, 1e6)[:, None]], axis=1)
    dense = grid_window(lattice, _LATTICE, (slice(0, height), slice(0, width)))
    found = np.ascontiguousarray(dense[..., :2])
    last = np.array([fit.size[1] - 0.5, fit.size[0] - 0.5], np.float32)
    known = (dense[..., 2] <= 0.5) & (found >= -0.5).all(axis=-1) & (found <= last).all(axis=-1)
    lod = level_of_detail(1.0 / max(fit.texels(t, name), 1e-3))
    return Backward(box, found, known, uv, weight, lod)


def _seen_box(uv: np.ndarray, area: np.ndarray, canvas: tuple[int, int]) -> Box | None:
    """The box of a canvas (height, width) in which the pixels of an area lie."""
    if not area.any():
        return None
    low = np.maximum(np.floor(uv[area].min(axis=0)).astype(int) - _REACH, 0)
    high = np.minimum(np.ceil(uv[area].max(axis=0)).astype(int) + _REACH + 1, [canvas[1], canvas[0]])
    if (low >= high).any():
        return None
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def pulled(fit: Fit, t: int, name: str, maps: Backward, rgba: np.ndarray, opacity: float, gated: bool) -> Made | None:
    """A layer of paint on frame ``t`` as paint on one layer's canvas; None where nothing falls on it.

    Args:
        rgba: uint8 [H, W, 4], as it is to look in the frame; the lighting there is divided out.
        gated: leave out soft edges beside which nothing of the layer's solid part is painted.
    """
    part = nonzero_box(np.ascontiguousarray(rgba[..., 3]))
    if part is None:
        return None
    levels = mip_levels(maps.lod)
    part = _aligned(part, max(1 << levels, 2 * _RIM), fit.size)
    painted = (rgba[part][..., 3] > 0) & (maps.weight[part] > 0)
    if gated:
        solid = (painted & (maps.weight[part] > _SOLID)).astype(np.uint8)
        painted &= cv2.dilate(solid, np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)) > 0
    box = _seen_box(maps.uv[part], painted, fit.layer(name).canvas_size)
    if box is None:
        return None
    box = _clipped(box, maps.box)
    colours = straight_float(rgba[part], opacity)
    colours[..., 3] *= painted
    colours[..., :3] /= np.maximum(fit.lighting(t, name, part), 1e-3)
    colours[..., :3] *= colours[..., 3:]
    inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, maps.box, strict=True))
    corner = np.array([part[1].start, part[0].start], np.float32)
    found = sample_mip(pyramid(colours, levels), maps.pixels[inner] - corner, maps.lod)
    found[~maps.known[inner]] = 0
    found[..., :3] /= np.maximum(found[..., 3:], 1e-6)
    return Made(Over(found), box) if (found[..., 3] > 0).any() else None


def _aligned(box: Box, step: int, size: tuple[int, int]) -> Box:
    """A box with at least ``step`` pixels around it and corners at multiples of that, where the frame has as many."""
    rows, columns = (
        slice(max(side.start // step - 1, 0) * step, min((-(-side.stop // step) + 1) * step, length))
        for side, length in zip(box, size, strict=True)
    )
    return rows, columns


def _clipped(box: Box, outer: Box) -> Box:
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, outer, strict=True))
    return rows, columns


class FramePainter:
    """Pulls paint back from frames of a fit and keeps the maps for it; not for several threads at once."""

    def __init__(self, fit: Fit, kept: int = 4) -> None:
        self._fit, self._kept = fit, kept
        self._maps: dict[tuple[int, str], Backward | None] = {}

    def maps(self, t: int, name: str) -> Backward | None:
        """See :func:`backward`."""
        key = (t, name)
        if key not in self._maps:
            while len(self._maps) >= self._kept * len(self._fit.layers):
                self._maps.pop(next(iter(self._maps)))
            self._maps[key] = backward(self._fit, t, name)
        return self._maps[key]

    def pull_back(self, t: int, rgba: np.ndarray, opacity: float, only: str | None = None) -> dict[str, Made]:
        """Paint on frame ``t``, by layer of the fit that it falls on.

        Args:
            rgba: uint8 [H, W, 4].
            only: the one layer that is painted on, whatever else lies there; None = every one.
        """
        found = {}
        for name in self._fit.layers if only is None else [only]:
            maps = self.maps(t, name)
            made = None if maps is None else pulled(self._fit, t, name, maps, rgba, opacity, only is None)
            if made is not None:
                found[name] = made
        return found
