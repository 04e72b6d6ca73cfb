"""The sound of a source file, carried over to a rendered one: copied where the container allows it, else re-encoded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

log = logging.getLogger("canon")

PRIMING_SECONDS = 0.05
"""AAC and Opus streams begin with a few packets before time zero that prime the decoder; these are kept."""


class AudioTrack:
    """The first audio stream of ``source``, muxed into ``container`` bit by bit as its video grows.

    Times are seconds after the source's first video frame. Failures of the sound never stop the video: they are logged
    in one sentence, except a full disk, which is the video's problem too.

    Args:
        source: a media file; its audio stream is used.
        container: an open output, to which an audio stream is added (so before anything is muxed).
        codecs: names of codecs that are copied as they are; an empty set means any.
        fallback: encoder used for other codecs.
    """

    def __init__(self, source: Path, container: OutputContainer, codecs: frozenset[str], fallback: str) -> None:
        self._output = container
        self._input = av.open(str(source.resolve()))
        try:
            stream = self._input.streams.audio[0]
            self._copied = not codecs or stream.codec_context.codec.canonical_name in codecs
            video = next(iter(self._input.streams.video), None)
            begin = video.start_time if video is not None else None
            self._begin = float(begin * video.time_base) if video is not None and begin and video.time_base else 0.0
            self._stream = self._add_stream(stream, fallback)
            self._packets = self._read(stream)
            self._next = next(self._packets, None)
        except Exception:
            self._input.close()
            raise

    def _add_stream(self, stream: AudioStream, fallback: str) -> AudioStream:
        if self._copied:
            return self._output.add_stream_from_template(stream)
        rate = 48000 if fallback == "libopus" else stream.rate
        name = stream.codec_context.codec.canonical_name
        log.info("the sound is re-encoded from %s to %s to fit the container", name, fallback)
        added = self._output.add_stream(fallback, rate=rate, layout="mono" if stream.channels == 1 else "stereo")
        assert isinstance(added, AudioStream)
        added.bit_rate = 192_000
        return added

    def _read(self, stream: AudioStream) -> Iterator[tuple[float, Packet]]:
        """(seconds, packet of the output stream), in order."""
        items = self._input.demux(stream) if self._copied else self._input.decode(stream)
        for item in items:
            if item.pts is None or item.time_base is None:
                continue
            item.pts -= round(self._begin / item.time_base)
            if item.dts is not None:
                item.dts -= round(self._begin / item.time_base)
            seconds = float(item.pts * item.time_base)
            if seconds < -PRIMING_SECONDS:
                continue
            if isinstance(item, Packet):
                item.stream = self._stream
                yield seconds, item
            else:
                for packet in self._stream.encode(item):  # type: ignore[arg-type]
                    yield seconds, packet

    def mux_until(self, seconds: float) -> None:
        """Mux every packet that begins before ``seconds``."""
        try:
            while self._next is not None and self._next[0] < seconds:
                self._output.mux(self._next[1])
                self._next = next(self._packets, None)
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            log.warning("the sound of the source ends early: it could not be read on (%s)", error.strerror)
            self._next = None

    def finish(self) -> None:
        """Write what the encoder still holds; sound after the last frame is left out."""
        if not self._copied:
            for packet in self._stream.encode(None):
                self._output.mux(packet)

    def close(self) -> None:
        """Release the source."""
        self._packets.close()  # type: ignore[attr-defined]
        self._input.close()


def open_audio(
    source: Path | None, container: OutputContainer, codecs: frozenset[str], fallback: str
) -> AudioTrack | None:
    """An :class:`AudioTrack`, or None (and one logged sentence) when the source has no sound that can be used."""
    if source is None:
        return None
    try:
        return AudioTrack(Path(source), container, codecs, fallback)
    except IndexError:
        return None
    except (av.FFmpegError, OSError, ValueError) as error:
        log.warning("written without sound: that of '%s' cannot be used (%s)", source, error)
        return None


def save_audio(source: Path, path: Path, seconds: float) -> bool:
    """Copy the first ``seconds`` of the sound of ``source`` to ``path`` (.mka); False when there is none to copy."""
    try:
        with av.open(str(path), "w", format="matroska") as container:
            track = open_audio(source, container, frozenset(), "aac")
            if track is not None:
                with contextlib.closing(track):
                    track.mux_until(seconds)
                    track.finish()
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        log.warning("saved without sound: that of '%s' cannot be copied (%s)", source, error.strerror)
        track = None
    if track is None:
        path.unlink(missing_ok=True)
    return track is not None
