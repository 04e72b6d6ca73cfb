"""A stack of edits composed into one canvas per layer, once, so that every frame costs a single remap of it.

An edited layer shows the colour c' and keeps the share k of the source's residual (design, point 2). What is stored is

    e = c' - k s        and        m = 1 - k

for the canvas colour s: under paint e holds nothing of s, so opaque paint needs neither source nor canvas; where
nothing is edited both are exactly 0; and both may be averaged, which area filtering does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from canon.boxes import Box
from canon.carrying import carry_paint, on_whole_canvas
from canon.coordinates import Size, resize_points
from canon.edits import Delta, Edit, Operation, Over, Remove, fits_canvas, resize_to
from canon.errors import InputError
from canon.fits import Fit, FitLayer, View, clamped, nonzero_box
from canon.grids import grid_window, level_of_detail
from canon.sampling import fill_from_nearest, halve, mip_levels, sample_mip

log = logging.getLogger("canon")

CELL = 8
"""Texels along a cell of the map of what is touched."""
MARGIN = 64
"""Untouched texels kept around the touched ones, a power of two so that the levels of a crop stay aligned."""


@dataclass(eq=False)
class LayerEdit:
    """What a stack of edits does to one layer.

    Attributes:
        removed: the layer vanishes, its area widened by ``grow`` pixels.
        levels: e and m, float32 [h, w, 4], cropped to what is touched, and its successive halves; empty if nothing is.
        canvas: (height, width) of the layer's canvas.
        size: the same of the whole edited canvas, which may have another resolution.
        offset: (x, y) of the crop in it.
        hides: whether m is above 0 anywhere.
        cells: uint8, 1 for every cell of 8 x 8 texels of the crop that is touched anywhere; found if it is not given.
    """

    removed: bool = False
    grow: int = 0
    levels: list[np.ndarray] = field(default_factory=list, repr=False)
    canvas: Size = (0, 0)
    size: Size = (0, 0)
    offset: tuple[int, int] = (0, 0)
    hides: bool = False
    cells: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.levels:
            while max(self.levels[-1].shape[:2]) > 1:
                self.levels.append(halve(self.levels[-1]))
            cells = touched_cells(self.levels[0]) if self.cells is None else self.cells
            self._touched = cv2.integral(cells)

    def lod(self, view: View) -> float:
        """Level of detail of the edited canvas in a frame's view of it."""
        return level_of_detail(view.texels * self.size[0] / self.canvas[0])

    def nodes(self, view: View) -> np.ndarray:
        """Positions of the frame's control nodes in :attr:`levels`, float32 [gh, gw, 2]."""
        grid = torch.from_numpy(np.array(view.grid))
        if self.canvas != self.size:
            grid = resize_points(grid, self.canvas, self.size)
        found: np.ndarray = grid.numpy() - np.array(self.offset, np.float32)
        return found

    def reach(self, view: View, stride: int, size: Size) -> Box | None:
        """The box of a frame outside of which the edit touches nothing of the layer, whether it is seen or not.

        Args:
            stride: pixels between the control nodes.
            size: of the frame.
        """
        nodes = self.nodes(view)
        last = np.array([self.levels[0].shape[1] - 1, self.levels[0].shape[0] - 1], np.float32)
        corners = [nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, :-1], nodes[1:, 1:]]
        if 0 in corners[0].shape:
            return slice(0, size[0]), slice(0, size[1])
        # Between its nodes the grid stays within the box of the four; filtering looks so many texels beyond.
        slack = 1.5 * 2.0 ** math.ceil(self.lod(view)) + 1
        low = np.clip(np.minimum.reduce(corners) - slack, 0, last).astype(int) // CELL
        high = np.clip(np.maximum.reduce(corners) + slack, 0, last).astype(int) // CELL + 1
        s = self._touched
        count = s[high[..., 1], high[..., 0]] - s[low[..., 1], high[..., 0]]
        count += s[low[..., 1], low[..., 0]] - s[high[..., 1], low[..., 0]]
        cells = nonzero_box((count > 0).astype(np.uint8))
        if cells is None:
            return None
        rows, columns = (slice(c.start * stride, c.stop * stride + 1) for c in cells)
        return slice(rows.start, min(rows.stop, size[0])), slice(columns.start, min(columns.stop, size[1]))

    def look(self, view: View, stride: int, box: Box) -> np.ndarray:
        """e and m as seen in a part of a frame whose control nodes are ``stride`` apart, float32 [h, w, 4]."""
        lod, xy = self.lod(view), grid_window(self.nodes(view), stride, box)
        if view.part is not None:  # beyond its rim lies another segment's picture
            xy = clamped(xy, self._place(view.part))
        return sample_mip(self.levels[: mip_levels(lod)], xy, lod)

    def _place(self, part: Box) -> Box:
        """A part of the layer's canvas in :attr:`levels`."""
        times = self.size[0] / self.canvas[0]
        rows, columns = (
            slice(round(side.start * times) - offset, round(side.stop * times) - offset)
            for side, offset in zip(part, self.offset[::-1], strict=True)
        )
        return rows, columns


def touched_cells(total: np.ndarray) -> np.ndarray:
    """1 for every cell of 8 x 8 texels of e and m [h, w, 4] that is not all 0, uint8 [h / 8, w / 8], rounded up."""
    touched = (total != 0).any(axis=-1)
    rows, columns = -(-touched.shape[0] // CELL), -(-touched.shape[1] // CELL)
    padded = np.zeros((rows * CELL, columns * CELL), np.uint8)
    padded[: touched.shape[0], : touched.shape[1]] = touched
    return np.asarray(padded.reshape(rows, CELL, columns, CELL).max(axis=(1, 3)))


def compose(fit: Fit, edits: Sequence[Edit]) -> dict[str, LayerEdit]:
    """Every layer that a stack of edits changes, with what is done to it.

    Raises:
        InputError: an edit names a layer that the fit has not, has another aspect than its canvas, or removes the last.
    """
    for edit in edits:
        if edit.fit and edit.fit != fit.id:
            log.warning("an edit was made on another fit (%s, not %s); it may lie elsewhere now", edit.fit, fit.id)
    found = {}
    for name in dict.fromkeys(name for edit in edits for name in edit.layers):
        layer = fit.layer(name)
        operations = [_of_whole(fit, layer, operation) for edit in edits for operation in edit.operations(name)]
        removals = [operation for operation in operations if isinstance(operation, Remove)]
        if removals:
            if layer.opacity is None:
                raise InputError(f"The layer '{name}' cannot be removed: nothing lies behind it.")
            found[name] = LayerEdit(removed=True, grow=max(removal.grow for removal in removals))
            continue
        composed = _compose_layer(layer, [own for own in operations if isinstance(own, Over | Delta)])
        if composed is not None:
            found[name] = composed
    return found


def _of_whole(fit: Fit, layer: FitLayer, operation: Operation) -> Operation:
    """Paint of the aspect of a layer's first segment is meant for that and what overlaps it; the rest is as it is."""
    if not layer.segments or not isinstance(operation, Over):
        return operation
    size, first = operation.rgba.shape[:2], layer.segments[0]
    if fits_canvas(size, layer.canvas_size) or not fits_canvas(size, (first.height, first.width)):
        return operation
    return carry_paint(fit, layer.name, on_whole_canvas(fit, layer.name, operation, first.box), 0)


def _compose_layer(layer: FitLayer, operations: Sequence[Operation]) -> LayerEdit | None:
    if not operations:
        return None
    size = _working_size(layer, operations)
    total = np.zeros((*size, 4), np.float32)
    surface: np.ndarray | None = None
    for operation in operations:
        if isinstance(operation, Over):
            premultiplied = operation.rgba.copy()
            premultiplied[..., :3] *= premultiplied[..., 3:]
            paint = resize_to(premultiplied, size)
            # c' <- (1 - a) c' + a c and k <- (1 - a) k; exact where a is 0 or 1.
            total *= 1 - paint[..., 3:]
            total += paint
        elif isinstance(operation, Delta):
            if surface is None:
                surface = resize_to(np.asarray(layer.color), size)
            colour = total[..., :3] + (1 - total[..., 3:]) * surface
            change = operation.apply(colour) - colour
            if operation.mask is not None:
                change *= resize_to(operation.mask, size)[..., None]
            total[..., :3] += change
    if layer.charts:  # what lies beyond a chart's rim is looked at by filtering, too
        known = np.ascontiguousarray(layer.coverage > 0).astype(np.uint8)
        total = fill_from_nearest(total, cv2.resize(known, size[::-1], interpolation=cv2.INTER_NEAREST) > 0)
    box = nonzero_box((total != 0).any(axis=-1).astype(np.uint8))
    if box is None:
        return None
    rows, columns = widened(box, size)
    levels = [np.ascontiguousarray(total[rows, columns])]
    hides = bool((levels[0][..., 3] > 0).any())
    return LayerEdit(
        levels=levels, canvas=layer.canvas_size, size=size, offset=(columns.start, rows.start), hides=hides
    )


def widened(box: Box, size: Size) -> Box:
    """The part of an edited canvas of ``size`` that is kept when only ``box`` of it is touched."""
    rows, columns = (
        slice(
            max(part.start - MARGIN, 0) // MARGIN * MARGIN,
            min(-(-(part.stop + MARGIN) // MARGIN) * MARGIN, length),
        )
        for part, length in zip(box, size, strict=True)
    )
    return rows, columns


def _working_size(layer: FitLayer, operations: Sequence[Operation]) -> tuple[int, int]:
    """The finest resolution among the paints, and at least the canvas's own where its colours are needed."""
    canvas = layer.canvas_size
    sizes: list[tuple[int, int]] = []
    for operation in operations:
        image = operation.rgba if isinstance(operation, Over) else getattr(operation, "mask", None)
        if image is not None and not fits_canvas((image.shape[0], image.shape[1]), canvas):
            seen, wanted = f"{image.shape[1]}x{image.shape[0]}", f"{canvas[1]}x{canvas[0]}"
            raise InputError(f"An edit of '{layer.name}' is {seen} and its canvas {wanted}; keep the aspect ratio.")
        if isinstance(operation, Over):
            sizes.append((image.shape[0], image.shape[1]))  # type: ignore[union-attr]
        else:
            sizes.append(canvas)
    return max(sizes, key=lambda size: size[0])
