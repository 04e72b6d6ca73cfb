"""Boxes of pixels or texels."""

from __future__ import annotations

from collections.abc import Iterable

Box = tuple[slice, slice]
"""Rows and columns of a frame or canvas."""


def grown(box: Box, margin: int, size: tuple[int, int]) -> Box:
    """A box widened by ``margin`` on every side, as far as it stays within (height, width)."""
    rows, columns = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, length in zip(box, size, strict=True)
    )
    return rows, columns


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds some boxes, of which there is at least one."""
    rows, columns = (
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
    return rows, columns


def box_size(box: Box) -> tuple[int, int]:
    """(height, width) of a box."""
    return box[0].stop - box[0].start, box[1].stop - box[1].start
