"""Boxes of pixels or texels."""

from __future__ import annotations

Box = tuple[slice, slice]
"""Rows and columns of a frame or canvas."""


def box_size(box: Box) -> tuple[int, int]:
    """(height, width) of a box."""
    return box[0].stop - box[0].start, box[1].stop - box[1].start
