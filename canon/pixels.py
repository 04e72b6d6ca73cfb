"""Decoded video frames <-> sRGB arrays: colour matrix, range and display orientation are dealt with here only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without these flags swscale is off by several levels on saturated colours; they cost about 2 ms at 854x480."""

FULL, LIMITED = "full", "limited"

# The keys are the code points of ITU-T H.273 that libavcodec reports on frames.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_CODE_POINTS = {Colorspace.ITU709: 1, Colorspace.ITU601: 6}


def matrix_for(height: int, width: int) -> Colorspace:
    """The luma-chroma matrix of video that does not say: BT.709 for HD (either way up), else BT.601, as players do."""
    return Colorspace.ITU709 if min(height, width) > 576 or max(height, width) >= 1280 else Colorspace.ITU601


def _is_rgb(frame: av.VideoFrame) -> bool:
    return frame.format.is_rgb or frame.format.name == "pal8"


def color_range(frame: av.VideoFrame) -> str:
    """How luma is stored, ``"full"`` or ``"limited"``; RGB formats have none, and count as the usual, limited."""
    if not _is_rgb(frame) and (frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG):
        return FULL
    return LIMITED


def to_rgb(frame: av.VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> np.ndarray:
    """A decoded frame as uint8 [H, W, 3], before any rotation; ``size`` (H, W) rescales frames of another size."""
    matrix = None
    rgb = _is_rgb(frame)
    if not rgb:
        matrix = _MATRICES.get(int(frame.colorspace), matrix_for(frame.height, frame.width))
    source_range = ColorRange.JPEG if rgb or color_range(frame) == FULL else ColorRange.MPEG
    converted = scaler.reformat(
        frame,
        width=size[1],
        height=size[0],
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=source_range,
        dst_color_range=ColorRange.JPEG,
        interpolation=EXACT,
    )
    return converted.to_ndarray()


def from_rgb(image: np.ndarray, pixel_format: str, full_range: bool, scaler: VideoReformatter) -> av.VideoFrame:
    """uint8 [H, W, 3 | 4] (straight alpha) as a frame in ``pixel_format``, converted by :func:`matrix_for` its size."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgba" if image.shape[2] == 4 else "rgb24")
    return scaler.reformat(
        frame,
        format=pixel_format,
        dst_colorspace=matrix_for(image.shape[0], image.shape[1]),
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        interpolation=EXACT,
    )


def tag(context: av.VideoCodecContext, full_range: bool) -> None:
    """Write into the stream what :func:`from_rgb` does. Primaries and transfer are those of sRGB content, BT.709."""
    context.color_range = int(ColorRange.JPEG if full_range else ColorRange.MPEG)
    context.colorspace = _CODE_POINTS[matrix_for(context.height, context.width)]
    context.color_primaries = int(ColorPrimaries.BT709)
    context.color_trc = int(ColorTrc.BT709)


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether the transfer curve is PQ or HLG, whose values are not sRGB whatever the matrix."""
    return int(frame.color_trc) in (int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67))


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of the container's display matrix (how a phone was held), or None."""
    for side_data in cast(Iterable[SideData], frame.side_data):
        if side_data.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(bytes(side_data), np.int32)[:9].tolist())
    return None


def upright(image: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """Apply a display matrix to [H, W, C]: quarter turns and mirrors; other angles go to the nearest quarter turn.

    Convention: a source pixel (x, y) is shown at (a x + c y, b x + d y), with a, b, c, d = matrix[0, 1, 3, 4], x to the
    right and y down (ISO/IEC 14496-12, 8.2.2).
    """
    if matrix is None:
        return image
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = image.swapaxes(0, 1)
        flip_x, flip_y = c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
