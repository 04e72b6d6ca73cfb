"""Pictures and videos of a report, small enough to be put into one file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from canon import pixels
from canon.clip import Clip
from canon.encode import X264_EXACT
from canon.errors import InputError
from canon.sources import resize
from canon.storage import read_image, to_float
from canon.thumbnails import thumbnail
from canon.video import read_frames

HEIGHT = 360
"""Largest height of an embedded video."""
WIDTH = 960
"""And its largest width."""
FRAMES = 600
"""Longer clips are cut there."""
CANVAS_SIDE = 900
"""Largest side of an embedded canonical image."""
_X264 = {"crf": "25", "preset": "veryfast", "profile": "baseline", "g": "12", "threads": "1", "x264-params": X264_EXACT}
"""Baseline plays everywhere; a key frame every half second makes scrubbing quick."""


@dataclass(frozen=True)
class Movie:
    """A small video."""

    data: bytes
    """MP4; empty of a still."""
    poster: bytes
    """JPEG of the frame in the middle."""


@dataclass(frozen=True)
class Source:
    """What all videos of a clip have in common."""

    frames: np.ndarray
    """uint8 [T, H, W, 3] of the first view, mapped from disk."""
    fps: Fraction
    size: tuple[int, int]
    """(height, width) of the small videos, both even."""
    view: str | None
    """Name of the view, where the clip has several."""

    @property
    def count(self) -> int:
        """How many frames the small videos have."""
        return min(len(self.frames), FRAMES)


def source(folder: Path) -> Source:
    """The source of a clip's folder.

    Raises:
        InputError: the clip is missing or damaged.
    """
    clip = Clip.open(folder)
    length = len(clip) // len(clip.views)
    several = len(clip.views) > 1
    return Source(clip.frames[:length], clip.fps, small_size(clip.size), clip.views[0] if several else None)


def small_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) within :data:`HEIGHT` and :data:`WIDTH`, of the same aspect, even, and not enlarged."""
    factor = min(HEIGHT / size[0], WIDTH / size[1], 1.0)
    height, width = (max(2 * round(side * factor / 2), 2) for side in size)
    return height, width


def rendered(path: Path, of: Source) -> Iterator[np.ndarray]:
    """Frames of a render, uint8 [H, W, 3], read one at a time; of the first view where there are several.

    Raises:
        InputError: it is missing, or cannot be read.
    """
    if of.view is not None and not path.exists():
        path = path.with_name(f"{path.stem}-{of.view}{path.suffix}")
    if not path.is_dir():
        return (frame.rgb for frame in read_frames(path))
    if of.view is not None and (path / of.view).is_dir():
        path = path / of.view
    return (_opaque(read_image(file)) for file in sorted(path.glob("*.png")))


def movie(frames: Iterable[np.ndarray], of: Source) -> Movie:
    """A small video of exactly as many frames as all others of the clip have, at the same rate.

    Where there are too few, the last one stays.

    Raises:
        InputError: there is none.
    """
    buffer = io.BytesIO()
    poster, last = b"", None
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=of.fps, options=dict(_X264))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = of.size
        stream.pix_fmt = "yuv420p"
        pixels.tag(stream.codec_context, full_range=False)
        scaler = VideoReformatter()
        found = islice(frames, of.count)
        for number in range(of.count):
            frame = next(found, last)
            if frame is None:
                raise InputError("It has no frames.")
            last = frame
            small = np.ascontiguousarray(resize(np.asarray(frame), of.size))
            if number == of.count // 2:
                poster = jpeg(small)
            picture = pixels.from_rgb(small, "yuv420p", False, scaler)
            picture.pts, picture.time_base = number, 1 / of.fps
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return Movie(buffer.getvalue(), poster)


def still(frames: Iterable[np.ndarray], of: Source) -> Movie:
    """The picture of a :func:`movie` alone.

    Raises:
        InputError: there are too few frames.
    """
    middle = next(islice(frames, of.count // 2, None), None)
    if middle is None:
        raise InputError("It ends early.")
    return Movie(b"", jpeg(resize(np.asarray(middle), of.size)))


def canvas_image(path: Path) -> tuple[bytes, tuple[int, int]]:
    """A canonical image as a small WebP with its transparency, and its true size (height, width).

    Raises:
        InputError: it is missing, or no image.
    """
    found = read_image(path)
    size = (found.shape[0], found.shape[1])
    image = to_float(found)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    if image.shape[2] == 3:
        image = np.dstack([image, np.ones(size, np.float32)])
    picture = Image.fromarray(thumbnail(image, CANVAS_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=4)
    return buffer.getvalue(), size


def jpeg(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as a small JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=72, optimize=True)
    return buffer.getvalue()


def _opaque(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of an image file; what is transparent is black."""
    floating = to_float(image)
    if floating.shape[2] == 1:
        floating = np.repeat(floating, 3, axis=2)
    if floating.shape[2] == 4:
        floating = floating[..., :3] * floating[..., 3:]
    return (floating * 255 + 0.5).astype(np.uint8)
