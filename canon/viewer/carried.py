"""Paint on one segment of a layer and what it is on the others, kept so that a part can be carried anew.

The plain way is :func:`canon.carrying.carry_paint`; what is here is equal to it, bit for bit (tested).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canon.boxes import Box
from canon.carrying import Crossing, straight
from canon.coordinates import Size
from canon.edits import Over
from canon.fits import nonzero_box
from canon.viewer.live import Paint, overlap, without


class Carried:
    """Paint that is carried on to other segments.

    Attributes:
        changed: boxes of the whole canvas that another one has been laid over since they were asked for last.
    """

    def __init__(self, size: Size, ways: Sequence[Crossing]) -> None:
        self._ways = ways
        self._out = np.zeros((*size, 4), np.float32)
        self._shown = np.zeros((*size, 4), np.float32)
        self._whole: Box = (slice(0, size[0]), slice(0, size[1]))
        self._scale = 1.0
        self._brightest: dict[int, float] = {}

    def update(self, paint: Paint | None, boxes: Sequence[Box]) -> list[Box]:
        """Carry another paint.

        Args:
            paint: on its own segment; None = none.
            boxes: of the whole canvas, outside of which it is what it was.

        Returns:
            the boxes in which the result is another.
        """
        dirty = []
        for box in boxes:
            part = None if paint is None else paint.premultiplied(box)
            self._out[box] = 0 if part is None else part
            dirty.append(box)
        for way in self._ways:
            dirty += self._carry(way, dirty)
        self._round(dirty)
        return dirty

    def _carry(self, way: Crossing, dirty: Sequence[Box]) -> list[Box]:
        """Bring what has changed over to a segment; the boxes of it that have changed."""
        x, y = way.positions[..., 0], way.positions[..., 1]
        moved = np.zeros(way.known.shape, bool)
        for rows, columns in dirty:
            if overlap((rows, columns), way.target) is not None:
                continue  # what lies on the target itself does not come from it
            moved |= (x > columns.start - 1) & (x < columns.stop) & (y > rows.start - 1) & (y < rows.stop)
        part = nonzero_box((moved & way.known).astype(np.uint8))
        if part is None:
            return []
        there = without(part, way.target)
        self._out[there] = way.bring(self._out, True, part)
        return [there]

    def _round(self, dirty: list[Box]) -> None:
        """Let what is shown be what :class:`canon.edits.Over` makes of it."""
        top = max((float(straight(self._out[box])[..., :3].max()) for box in dirty), default=0.0)
        if top > 1 or self._scale > 1:
            scale = float(2.0 ** np.ceil(np.log2(max(float(_colours(self._out).max()), 1.0))))
            if scale != self._scale:
                self._scale = scale
                dirty[:] = [self._whole]
        for box in dirty:
            rgba = straight(self._out[box])
            rgba[..., :3] *= rgba[..., 3:] > 0
            rgba = Over.unpack(Over.pack(rgba, self._scale), self._scale)
            rgba[..., :3] *= rgba[..., 3:]
            self._shown[box] = rgba

    def premultiplied(self, box: Box) -> np.ndarray | None:
        """See :class:`canon.viewer.live.Paint`."""
        part = self._shown[box]
        return part if part[..., 3].any() else None

    def whole(self, size: Size) -> Over:
        """See :class:`canon.viewer.live.Paint`."""
        return Over(straight(self._out))

    @property
    def painted(self) -> Box | None:
        """The smallest box that holds all of it."""
        return nonzero_box(np.ascontiguousarray(self._out[..., 3] > 0).astype(np.uint8))


def _colours(premultiplied: np.ndarray) -> np.ndarray:
    rgba = straight(premultiplied)
    return np.asarray(rgba[..., :3] * (rgba[..., 3:] > 0))
