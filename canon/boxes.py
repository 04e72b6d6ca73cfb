"""Boxes of pixels or texels."""

from __future__ import annotations

Box = tuple[slice, slice]
"""Rows and columns of a frame or canvas."""


def grown(box: Box, margin: int, size: tuple[int, int]) -> Box:
    """A box widened by ``margin`` on every side, as far as it stays within (height, width)."""
    rows, columns = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, length in zip(box, size, strict=True)
    )
    return rows, columns


def box_size(box: Box) -> tuple[int, int]:
    """(height, width) of a box."""
    return box[0].stop - box[0].start, box[1].stop - box[1].start
