"""Frames to video files or folders of images, one frame at a time, atomically."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import av.filter
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from canon import pixels
from canon.audio import AudioTrack, open_audio
from canon.errors import InputError
from canon.folders import atomic_folder
from canon.storage import atomic_path, write_image
from canon.timing import is_regular

log = logging.getLogger("canon")

_VFR_TICKS = 90_000
_MARKER = ".canon-frames"


@dataclass(frozen=True)
class _Format:
    codec: str
    pixel_format: str
    options: dict[str, str]
    container: str
    copied_audio: frozenset[str] = frozenset()
    audio: str = ""
    alpha: bool = False
    even: bool = False
    container_options: dict[str, str] = field(default_factory=dict)


X264_EXACT = "cpu-independent=1"
"""Without it x264 gives another file each time, where a side is no multiple of 16; it costs some percent of speed."""
_QUICKTIME_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
_FORMATS = {
    ".mp4": _Format(
        codec="libx264",
        pixel_format="yuv420p",
        options={"crf": "16", "preset": "veryfast", "x264-params": X264_EXACT},
        container="mp4",
        copied_audio=_QUICKTIME_AUDIO,
        audio="aac",
        even=True,
        container_options={"movflags": "+faststart"},
    ),
    ".mov": _Format(
        codec="prores_ks",
        pixel_format="yuv444p10le",
        options={"profile": "4444", "vendor": "apl0"},
        container="mov",
        copied_audio=_QUICKTIME_AUDIO | {"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"},
        audio="aac",
        alpha=True,
    ),
    ".webm": _Format(
        codec="libvpx-vp9",
        pixel_format="yuv420p",
        options={"crf": "20", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
        container="webm",
        copied_audio=frozenset({"opus", "vorbis"}),
        audio="libopus",
        even=True,
    ),
    ".gif": _Format(codec="gif", pixel_format="pal8", options={}, container="gif"),
}


class FrameSink(Protocol):
    """What :func:`video_writer` yields."""

    count: int
    """Frames written so far."""

    def write(self, frame: np.ndarray) -> None:
        """Add uint8 [H, W, 3], or [H, W, 4] with straight alpha where the format carries opacity."""


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: Fraction | float,
    *,
    timestamps: Sequence[float] | np.ndarray | None = None,
    audio_from: Path | None = None,
    color_range: str = pixels.LIMITED,
) -> int:
    """Write frames, taken one at a time, as a video file or a folder of PNGs; returns how many there were.

    See :func:`video_writer` for the arguments, the formats and the errors.
    """
    with video_writer(path, fps, timestamps=timestamps, audio_from=audio_from, color_range=color_range) as sink:
        for frame in frames:
            sink.write(frame)
    return sink.count


@contextlib.contextmanager
def video_writer(
    path: str | Path,
    fps: Fraction | float,
    *,
    timestamps: Sequence[float] | np.ndarray | None = None,
    audio_from: Path | None = None,
    color_range: str = pixels.LIMITED,
) -> Iterator[FrameSink]:
    """A sink for frames; ``path`` appears, or is replaced, only when the block ends without an exception.

    Args:
        path: ``.mp4`` (H.264), ``.mov`` (ProRes 4444, opacity), ``.webm`` (VP9), ``.gif``, or a folder (a trailing
            ``/`` or no suffix) that gets ``00000.png`` and so on (lossless, opacity).
        fps: frames per second.
        timestamps: seconds of every frame, first 0; kept where they do not lie on the grid of ``fps``.
        audio_from: a media file whose sound is carried over, cut at the end of the last frame.
        color_range: ``"limited"`` or ``"full"``, how mp4 and webm store luma.

    Raises:
        InputError: unknown suffix, no frames, opacity in a format without, unwritable folder, full disk.
    """
    target = Path(path)
    if str(path).endswith("/") or not target.suffix or target.is_dir():
        if audio_from is not None:
            log.info("a folder of images carries no sound")
        with image_folder(target) as folder:
            images = _ImageSink(folder)
            yield images
            if images.count == 0:
                raise InputError(f"There is no frame to write to '{target}'.")
        return
    if target.suffix.lower() not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise InputError(f"Cannot write '{target.suffix}' files; use {known}, or a folder name ending with '/'.")
    with atomic_path(target) as temporary:
        rate = Fraction(fps).limit_denominator(100_000)
        times = None if timestamps is None or is_regular(timestamps, rate) else np.asarray(timestamps, np.float64)
        form = _FORMATS[target.suffix.lower()]
        encoder = _Encoder(temporary, form, rate, times, color_range == pixels.FULL, target.name)
        encoder.audio_from = audio_from
        try:
            yield encoder
            encoder.finish()
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise InputError(f"'{target}' could not be encoded ({error.strerror}).") from error
        finally:
            encoder.close()


class _Sink:
    """Checks that frames are alike, whatever becomes of them."""

    def __init__(self) -> None:
        self.count = 0
        self._shape: tuple[int, ...] = ()

    def _check(self, frame: np.ndarray) -> None:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (3, 4):
            raise InputError(f"A frame must be uint8 [H, W, 3 or 4], not {frame.dtype} {list(frame.shape)}.")
        if self.count == 0:
            self._shape = frame.shape
        if frame.shape != self._shape:
            raise InputError(f"Frame {self.count} is {list(frame.shape)} and the first was {list(self._shape)}.")


class _ImageSink(_Sink):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def write(self, frame: np.ndarray) -> None:
        self._check(frame)
        write_image(self._folder / f"{self.count:05d}.png", frame)
        self.count += 1


@contextlib.contextmanager
def image_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write 00000.png and so on into, which takes the place of ``path`` when the block ends.

    Raises:
        InputError: such a file is there that did not come from here, the folder cannot be written, or the disk is full.
    """
    with atomic_folder(path, _rendered) as folder:
        yield folder
        (folder / _MARKER).write_text(f"{len(list(folder.glob('*.png')))}\n")


def _rendered(folder: Path) -> set[str]:
    """The files in ``folder`` that an earlier :func:`image_folder` brought; only those may be replaced."""
    try:
        count = int((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return set()
    names = (entry.name for entry in folder.iterdir())
    numbered = {name for name in names if re.fullmatch(r"\d{5,}\.png", name) and int(name[:-4]) < count}
    return numbered | {_MARKER}


class _Encoder(_Sink):
    def __init__(
        self, path: Path, form: _Format, fps: Fraction, times: np.ndarray | None, full_range: bool, name: str
    ) -> None:
        super().__init__()
        self.audio_from: Path | None = None
        self._form, self._fps, self._times, self._name = form, fps, times, name
        # ProRes and GIF have no full-range variant that players know.
        self._full_range = full_range and form.even
        self._scaler = VideoReformatter()
        self._container = av.open(str(path), "w", format=form.container, container_options=form.container_options)
        self._stream: VideoStream | None = None
        self._audio: AudioTrack | None = None
        self._palette: _Palette | None = None
        self._tick = Fraction(1, _VFR_TICKS) if times is not None else 1 / fps
        self._last_pts = -1

    def _start(self, frame: np.ndarray) -> VideoStream:
        height, width, channels = frame.shape
        if channels == 4 and not self._form.alpha:
            raise InputError(f"'{self._name}' cannot carry opacity; write a .mov file or a folder of PNGs instead.")
        if self._form.even and (height % 2 or width % 2):
            height, width = height + height % 2, width + width % 2
            note = "%dx%d is odd: the last row or column is repeated, so that '%s' is %dx%d"
            log.info(note, frame.shape[1], frame.shape[0], self._name, width, height)
        stream = self._container.add_stream(self._form.codec, rate=self._fps, options=dict(self._form.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.bit_rate = width, height, 0
        stream.pix_fmt = "yuva444p10le" if channels == 4 else self._form.pixel_format
        if self._form.codec == "gif":
            self._tick = Fraction(1, 100)
            self._palette = _Palette(width, height)
        else:
            pixels.tag(stream.codec_context, self._full_range)
        stream.codec_context.time_base = self._tick
        if self._form.audio:
            self._audio = open_audio(self.audio_from, self._container, self._form.copied_audio, self._form.audio)
        elif self.audio_from is not None:
            log.info("a %s file carries no sound", self._form.container)
        return stream

    def _seconds(self, index: int) -> Fraction:
        if self._times is None:
            return index / self._fps
        if index < len(self._times):
            return Fraction(float(self._times[index] - self._times[0]))
        return self._seconds(len(self._times) - 1) + (index - len(self._times) + 1) / self._fps

    def write(self, frame: np.ndarray) -> None:
        self._check(frame)
        if self._stream is None:
            self._stream = self._start(frame)
        stream = self._stream
        pad = ((0, stream.height - frame.shape[0]), (0, stream.width - frame.shape[1]), (0, 0))
        if any(after for _, after in pad):
            frame = np.pad(frame, pad, mode="edge")
        if self._palette is not None:
            picture = self._palette.apply(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
        else:
            picture = pixels.from_rgb(frame, str(stream.pix_fmt), self._full_range, self._scaler)
        picture.time_base = self._tick
        picture.pts = max(round(self._seconds(self.count) / self._tick), self._last_pts + 1)
        end = self._seconds(self.count + 1)
        picture.duration = max(round(end / self._tick) - picture.pts, 1)
        self._last_pts = picture.pts
        for packet in stream.encode(picture):
            self._container.mux(packet)
        if self._audio is not None:
            self._audio.mux_until(float(end))
        self.count += 1

    def finish(self) -> None:
        """Flush everything into the file, errors included."""
        if self._stream is None:
            raise InputError(f"There is no frame to write to '{self._name}'.")
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        if self._audio is not None:
            self._audio.finish()
        self._container.close()

    def close(self) -> None:
        """Release files; after :meth:`finish` this does nothing more."""
        if self._audio is not None:
            self._audio.close()
        # After a failed write, closing fails again with the same error; the first one is on its way already.
        with contextlib.suppress(av.FFmpegError):
            self._container.close()


class _Palette:
    """RGB frames to 256 colours, a palette a frame: one palette for the whole clip would hold all frames in memory."""

    def __init__(self, width: int, height: int) -> None:
        self._graph = av.filter.Graph()
        rgb = av.VideoFormat("rgb24", width, height)
        source = self._graph.add_buffer(width=width, height=height, format=rgb, time_base=Fraction(1, 100))
        split = self._graph.add("split")
        generate = self._graph.add("palettegen", "stats_mode=single")
        use = self._graph.add("paletteuse", "new=1:dither=sierra2_4a")
        sink = self._graph.add("buffersink")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(generate, 1, 0)
        generate.link_to(use, 0, 1)
        use.link_to(sink)
        self._graph.configure()
        self._count = 0

    def apply(self, frame: av.VideoFrame) -> av.VideoFrame:
        frame.pts, frame.time_base = self._count, Fraction(1, 100)
        self._count += 1
        self._graph.push(frame)
        result = self._graph.pull()
        assert isinstance(result, av.VideoFrame)
        return result
