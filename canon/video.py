"""Video files in and out, one frame at a time: sRGB uint8 [H, W, 3] on this side, any container on the other.

Reading is here; writing is :mod:`canon.encode`, whose two functions are given here as well.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from canon import pixels
from canon.encode import video_writer, write_video
from canon.errors import InputError
from canon.storage import MAX_IMAGE_PIXELS
from canon.timing import DEFAULT_FPS, frame_rate, is_regular

__all__ = ["Frame", "VideoInfo", "frame_rate", "is_regular", "probe", "read_frames", "video_writer", "write_video"]

log = logging.getLogger("canon")

# Demuxers that may be used: text, playlist and network formats could make libav open other files than the one given.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,avi,mpegts,mpeg,flv,asf,ogg,ivf,mxf,dv,nut,apng,"
    "yuv4mpegpipe,h264,hevc,av1,obu,m4v,mpegvideo,rm"
)


class Frame(NamedTuple):
    """One decoded frame."""

    rgb: np.ndarray
    """uint8 [H, W, 3], upright, sRGB."""
    seconds: float
    """Presentation time after the first frame."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself, without reading all of it."""

    size: tuple[int, int]
    """(height, width) as shown, that is after rotation."""
    fps: Fraction | None
    """Average rate that the container announces; :func:`frame_rate` gives the one that was found by reading."""
    frames: int | None
    """Number of frames that the container announces; many do not."""
    color_range: str
    """``"limited"`` (16..235) or ``"full"`` (0..255), as stored; frames that are read are always full."""
    has_audio: bool


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    path = Path(path)
    if not path.exists():
        raise InputError(f"The video '{path}' does not exist.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"The video '{path}' is empty (0 bytes); it was perhaps not copied completely.")
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(str(path.resolve()), options=options)
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"'{path}' cannot be read as a video ({error.strerror}); use mp4, mov, webm, mkv, avi or gif."
        ) from error
    with container:
        cover = Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams or streams[0].codec_context is None:
            raise InputError(f"'{path}' holds no video that can be decoded.")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _decode(container: InputContainer, stream: VideoStream, faults: list[str]) -> Iterator[av.VideoFrame]:
    """Every frame that decodes; what does not is noted in ``faults`` and passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as error:
            faults.append(str(error.strerror))
            return
        try:
            yield from packet.decode()  # type: ignore[misc]
        except av.FFmpegError as error:
            if not isinstance(error, av.EOFError):
                faults.append(str(error.strerror))


def probe(path: Path) -> VideoInfo:
    """Size, rate, colour range and presence of sound, from the header and the first frame.

    Raises:
        InputError: missing, empty, not a video, or without one frame that decodes.
    """
    with _open(path) as (container, stream):
        frame = next(_decode(container, stream, []), None)
        if frame is None:
            raise InputError(f"'{path}' holds no frame that can be decoded; it is damaged or was cut short.")
        matrix = pixels.display_matrix(frame)
        size = pixels.upright(np.empty((frame.height, frame.width, 0)), matrix).shape
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(
            size=(size[0], size[1]),
            fps=rate if rate and rate > 0 else None,
            frames=stream.frames or None,
            color_range=pixels.color_range(frame),
            has_audio=len(container.streams.audio) > 0,
        )


def read_frames(path: Path) -> Iterator[Frame]:
    """Yield every frame of a video file, one per source frame (variable rates are not resampled), upright, in sRGB.

    A file that is damaged or cut short yields what can be decoded; a warning then says how much that was.

    Raises:
        InputError: missing, empty, not a video, too large, or without one frame that decodes.
    """
    faults: list[str] = []
    count, start, last = 0, 0.0, 0.0
    scaler = VideoReformatter()
    with _open(path) as (container, stream):
        step = 1.0 / float(stream.average_rate or DEFAULT_FPS)
        announced = stream.frames
        for frame in _decode(container, stream, faults):
            if count == 0:
                _check_first(path, stream, frame)
                size, matrix = (frame.height, frame.width), pixels.display_matrix(frame)
                start = last = frame.time if frame.time is not None else 0.0
            # Some AVI and raw streams repeat or omit times; frames still have to follow one another.
            elif frame.time is None or frame.time <= last:
                last += step
            else:
                last = frame.time
            count += 1
            yield Frame(pixels.upright(pixels.to_rgb(frame, size, scaler), matrix), last - start)
        short = _ends_early(container, stream, count, last + 1.5 * step)
    if count == 0:
        raise InputError(f"'{path}' holds no frame that can be decoded; it is damaged or was cut short.")
    if faults or short:
        of = f" of the {announced} that it announces" if announced else ""
        log.warning("'%s' is damaged or cut short: %d frames%s could be read and are used", path, count, of)


def _ends_early(container: InputContainer, stream: VideoStream, count: int, end: float) -> bool:
    """Whether the frames stop before the length that the header gives; a smaller number alone may be an edit list."""
    if stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
    elif container.duration and not container.streams.audio:
        length = container.duration / av.time_base
    else:
        return False
    return end < length and (not stream.frames or count < stream.frames)


def _check_first(path: Path, stream: VideoStream, frame: av.VideoFrame) -> None:
    if frame.width * frame.height > MAX_IMAGE_PIXELS:
        raise InputError(f"'{path}' has frames of {frame.width}x{frame.height} pixels, more than canon opens.")
    if pixels.is_hdr(frame):
        log.warning("'%s' is HDR video (PQ or HLG); its values are used as they are, so colours look flat", path)
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        log.warning("'%s' has pixels of shape %s; they are used, and written, as if they were square", path, aspect)
