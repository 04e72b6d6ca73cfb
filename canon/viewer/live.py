"""Paint composed and rendered while it is being painted: only what changed is done anew.

The plain way is ``render(fit, [*edits, draft.edit()])``; what is shown here is equal to it, bit for bit (tested).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from canon.boxes import Box, around, box_size
from canon.compose import CELL, MARGIN, LayerEdit, compose, touched_cells, widened
from canon.coordinates import Size
from canon.edits import Edit, Over, Step
from canon.fits import Fit, FitLayer, nonzero_box
from canon.rendering import Video
from canon.sampling import fill_from_nearest, halve

_LEVELS = MARGIN.bit_length()
"""Levels of which a box of whole :data:`MARGIN` s is a box of whole texels."""


class Paint(Protocol):
    """One paint on a layer's whole canvas."""

    def premultiplied(self, box: Box) -> np.ndarray | None:
        """A part of it, colours multiplied with alpha, float32 [h, w, 4]; None if there is nothing."""

    def whole(self, size: Size) -> Over:
        """All of it, for a canvas of ``size``."""


@dataclass(eq=False)
class Flat:
    """Paint of 8 bits, as it is painted: straight alpha, with an opacity, on a segment's canvas.

    Attributes:
        rgba: uint8 [h, w, 4].
        place: rows and columns of the whole canvas that it lies on.
        opacity: 0..1.
    """

    rgba: np.ndarray
    place: Box
    opacity: float

    def premultiplied(self, box: Box) -> np.ndarray | None:
        """See :class:`Paint`."""
        both = overlap(box, self.place)
        if both is None:
            return None
        part = self.rgba[within(both, self.place)]
        if not part[..., 3].any():
            return None
        colours, alphas = _tables(self.opacity)
        out = np.zeros((*box_size(box), 4), np.float32)
        alpha = alphas[part[..., 3]][..., None]
        inner = out[within(both, box)]
        np.multiply(colours[part[..., :3]], alpha, out=inner[..., :3])
        inner[..., 3:] = alpha
        return out

    def whole(self, size: Size) -> Over:
        """See :class:`Paint`."""
        rgba = np.zeros((*size, 4), np.float32)
        rgba[self.place] = straight_float(self.rgba, self.opacity)
        return Over(rgba)


@dataclass(eq=False)
class Made:
    """Paint that was pulled back from a frame: a part of the canvas and what lies there."""

    over: Over
    box: Box

    def premultiplied(self, box: Box) -> np.ndarray | None:
        """See :class:`Paint`."""
        both = overlap(box, self.box)
        if both is None:
            return None
        out = np.zeros((*box_size(box), 4), np.float32)
        part = self.over.rgba[within(both, self.box)]
        inner = out[within(both, box)]
        inner[:] = part
        inner[..., :3] *= part[..., 3:]
        return out

    def whole(self, size: Size) -> Over:
        """See :class:`Paint`."""
        rgba = np.zeros((*size, 4), np.float32)
        rgba[self.box] = self.over.rgba
        return Over(rgba)


def straight_float(rgba: np.ndarray, opacity: float) -> np.ndarray:
    """uint8 [h, w, 4] -> float32 in 0..1, alpha times ``opacity``."""
    found = rgba.astype(np.float32) / np.float32(255)
    found[..., 3] *= np.float32(opacity)
    return found


def _tables(opacity: float) -> tuple[np.ndarray, np.ndarray]:
    """Colour and alpha of every value of 8 bits, rounded as :class:`canon.edits.Over` keeps them, float32 [256]."""
    values = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 4, axis=2)
    opaque, seen = straight_float(values, 1.0), straight_float(values, opacity)
    return Over.unpack(Over.pack(opaque, 1.0), 1.0)[0, :, 0], Over.unpack(Over.pack(seen, 1.0), 1.0)[0, :, 3]


class _Canvas:
    """What paint and the edits below it do to one layer's whole canvas, kept so that a part can be done anew."""

    def __init__(self, layer: FitLayer, below: LayerEdit | None) -> None:
        self.size = layer.canvas_size
        self.levels = [np.zeros((*self.size, 4), np.float32)]
        self.below: np.ndarray | None = None
        if below is not None and below.levels:
            self.below = np.zeros_like(self.levels[0])
            x, y = below.offset
            height, width = below.levels[0].shape[:2]
            self.below[y : y + height, x : x + width] = below.levels[0]
        while len(self.levels) < _LEVELS and max(self.levels[-1].shape[:2]) > 1:
            height, width = self.levels[-1].shape[:2]
            self.levels.append(np.zeros((-(-height // 2), -(-width // 2), 4), np.float32))
        cells = tuple(-(-length // CELL) for length in self.size)
        self.cells, self.hiding = np.zeros(cells, np.uint8), np.zeros(cells, np.uint8)
        self._nearest: np.ndarray | None = None
        if layer.charts:  # beyond their rims lies what the nearest texel inside holds
            texels = np.arange(self.size[0] * self.size[1]).reshape(*self.size, 1)
            self._nearest = fill_from_nearest(texels, np.asarray(layer.coverage) > 0)[..., 0]

    def update(self, box: Box, paints: Sequence[Paint]) -> None:
        """Compose a part again."""
        if self._nearest is not None:
            box = slice(0, self.size[0]), slice(0, self.size[1])
        box = _aligned(box, self.size)
        total = self.levels[0][box]
        total[:] = 0 if self.below is None else self.below[box]
        for paint in paints:
            part = paint.premultiplied(box)
            if part is not None:
                total *= 1 - part[..., 3:]
                total += part
        if self._nearest is not None:
            total[:] = total.reshape(-1, 4)[self._nearest]
        cells = slice(box[0].start // CELL, None), slice(box[1].start // CELL, None)
        for kept, found in ((self.cells, touched_cells(total)), (self.hiding, touched_cells(total[..., 3:]))):
            kept[cells][: found.shape[0], : found.shape[1]] = found
        for level in range(1, len(self.levels)):
            finer = self.levels[level - 1][_at_level(box, level - 1)]
            self.levels[level][_at_level(box, level)] = halve(finer)

    def edit(self) -> LayerEdit | None:
        """As :func:`canon.compose.compose` would give it; None if nothing is touched."""
        cells = nonzero_box(self.cells)
        if cells is None:
            return None
        touched = tuple(
            slice(side.start * CELL, min(side.stop * CELL, n)) for side, n in zip(cells, self.size, strict=True)
        )
        box = widened((touched[0], touched[1]), self.size)
        some = tuple(slice(side.start // CELL, -(-side.stop // CELL)) for side in box)
        return LayerEdit(
            levels=[image[_at_level(box, level)] for level, image in enumerate(self.levels)],
            canvas=self.size,
            size=self.size,
            offset=(box[1].start, box[0].start),
            hides=bool(self.hiding.any()),
            cells=np.ascontiguousarray(self.cells[some]),
        )


class LiveVideo(Video):
    """A video with edits and, on top of them, paint that changes: see :meth:`change`."""

    def __init__(self, fit: Fit, edits: Sequence[Edit]) -> None:
        """See :func:`canon.render`.

        Raises:
            InputError: an edit does not belong to this fit.
        """
        super().__init__(fit, edits)
        self._below = dict(self._layers)
        self._canvases: dict[str, _Canvas] = {}

    def change(self, name: str, boxes: Sequence[Box], paints: Sequence[Paint]) -> None:
        """Let the paint on one layer be another.

        Args:
            name: of the layer.
            boxes: of its canvas, outside of which nothing has changed since the last time.
            paints: all that lies on it, from the bottom to the top.
        """
        below, layer = self._below.get(name), self.fit.layer(name)
        if below is not None and below.removed:
            return
        size = layer.canvas_size
        if below is not None and below.size != size:
            found = self._plain(name, paints)
        else:
            if name not in self._canvases:
                self._canvases[name] = _Canvas(layer, below)
                boxes = [*boxes, (slice(0, size[0]), slice(0, size[1]))] if below is not None else boxes
            for box in _merged(boxes):
                self._canvases[name].update(box, paints)
            found = self._canvases[name].edit()
        if found is None:
            self._layers.pop(name, None)
        else:
            self._layers[name] = found

    def _plain(self, name: str, paints: Sequence[Paint]) -> LayerEdit | None:
        """The edits below are of another resolution than the paint: all of the layer is composed again."""
        size = self.fit.layer(name).canvas_size
        steps = [Step(name, paint.whole(size)) for paint in paints]
        return compose(self.fit, [*self.edits, Edit(steps)]).get(name)

    @property
    def composed(self) -> Mapping[str, LayerEdit]:
        """What is done to every layer that is changed."""
        return self._layers


def _aligned(box: Box, size: Size) -> Box:
    rows, columns = (
        slice(side.start // MARGIN * MARGIN, min(-(-side.stop // MARGIN) * MARGIN, length))
        for side, length in zip(box, size, strict=True)
    )
    return rows, columns


def _at_level(box: Box, level: int) -> Box:
    """An aligned box of a canvas in a level of its pyramid."""
    rows, columns = (slice(side.start >> level, -(-side.stop >> level)) for side in box)
    return rows, columns


def _merged(boxes: Sequence[Box]) -> list[Box]:
    """As few boxes as hold no more texels than the given ones."""
    found: list[Box] = []
    for box in boxes:
        if found:
            both = around([found[-1], box])
            if np.prod(box_size(both)) <= np.prod(box_size(found[-1])) + np.prod(box_size(box)):
                found[-1] = both
                continue
        found.append(box)
    return found


def overlap(a: Box, b: Box) -> Box | None:
    """What two boxes share."""
    rows, columns = (slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def within(box: Box, outer: Box) -> Box:
    """A box as seen from the corner of one that holds it."""
    rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))
    return rows, columns


def without(box: Box, outer: Box) -> Box:
    """A box that is seen from the corner of ``outer`` as seen from outside of that; the inverse of :func:`within`."""
    rows, columns = (slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, outer, strict=True))
    return rows, columns
