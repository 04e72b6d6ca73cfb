"""Reading the frames and masks of a clip, of one view or of several, into the files that they are mapped from."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from canon.clip_world import ViewFrames, path_parts
from canon.errors import InputError
from canon.folders import array_writer
from canon.masks import FrameSet, LayerMask, load_masks
from canon.sources import Source, natural_key, read_rgb, resize, resized_size
from canon.storage import inside, open_array, to_uint8
from canon.timing import DEFAULT_FPS, frame_rate
from canon.video import Frame, probe, read_frames

log = logging.getLogger("canon")

FRAMES_FILE = "frames.npy"
Layers = tuple[dict[str, LayerMask], dict[str, str]]
"""Masks by the name of their layer, front to back, and a digest of each."""


@dataclass(frozen=True)
class Wanted:
    """What is to be taken of every view: at most so many frames, in which size, and the rate of images."""

    max_frames: int | None = None
    size: int | tuple[int, int] | None = None
    fps: Fraction | float | None = None


class ViewReader:
    """Iterates the frames of one view in the size that is wanted, and knows then what was read."""

    def __init__(self, name: str, path: str | Path, source: Source, wanted: Wanted) -> None:
        self.name, self.source = name, source
        self.info = probe(source.video) if source.video is not None else None
        self.times: list[float] = []
        self.cut = False
        self.original = self.size = (0, 0)
        rate = Fraction(wanted.fps or DEFAULT_FPS).limit_denominator(100_000)
        self._announced = rate if self.info is None else self.info.fps
        self._wanted, self._parts = wanted, path_parts(path)

    def __iter__(self) -> Iterator[Frame]:
        items = self._items()
        for frame in itertools.islice(items, self._wanted.max_frames):
            if not self.times:
                self.original = frame.rgb.shape[0], frame.rgb.shape[1]
                self.size = resized_size(self.original, self._wanted.size)
            self.times.append(frame.seconds)
            yield Frame(resize(frame.rgb, self.size), frame.seconds)
        if not self.times:
            raise InputError(f"'{self.source.name}' holds no frames.")
        images = len(self.source.images)
        self.cut = images > len(self) if images else next(items, None) is not None
        if self.cut:
            log.warning("using the first %d of %s frames of '%s'", len(self), self._total or "more", self.source.name)

    def __len__(self) -> int:
        return len(self.times)

    def _items(self) -> Iterator[Frame]:
        if self.source.video is not None:
            return read_frames(self.source.video)
        return _read_images(self.source.images, self._announced)

    @property
    def _total(self) -> int | None:
        """Frames in the source, where known."""
        if not self.cut:
            return len(self)
        return len(self.source.images) or (self.info.frames if self.info is not None else None)

    @property
    def rate(self) -> Fraction:
        """Average frames per second."""
        return frame_rate(self.times, self._announced)

    @property
    def frames(self) -> ViewFrames:
        """What cameras are matched to."""
        images = self.source.images[: len(self)]
        return ViewFrames(self.name, len(self), self.original, self.size, self.cut, images, self._parts)

    def masks(self, path: str | Path | None, cache: Path) -> Layers:
        """Masks of this view's frames, written below ``cache``: given ones, or those found with the frames.

        Raises:
            InputError: the given ones cannot be used.
        """
        stems = tuple(image.stem for image in (*self.source.images, *self.source.left_out))
        frames = FrameSet(len(self), len(stems) or self._total, stems, self.original, self.size)
        if path is not None:
            return load_masks(Path(path), frames, cache)
        if self.source.masks is None:
            return {}, {}
        try:
            found = load_masks(self.source.masks, frames, cache)
        except InputError as error:
            if not self.source.guessed:
                raise
            log.warning("%s The masks found beside the frames are left out.", error)
            return {}, {}
        if self.source.guessed:
            log.info("took the masks that lie beside the frames of '%s'", self.source.name)
        return found


def read_views(readers: Sequence[ViewReader], folder: Path) -> tuple[np.ndarray, str]:
    """Store the frames of all views, one view after the other; returns the mapped array and its digest.

    Raises:
        InputError: frames cannot be read, or views differ in size or number of frames.
    """

    def frames() -> Iterator[Frame]:
        first = readers[0]
        for reader in readers:
            for k, frame in enumerate(reader):
                if k == 0 and reader.size != first.size:
                    seen, wanted = (f"{one.size[1]}x{one.size[0]}" for one in (reader, first))
                    raise InputError(
                        f"The view '{reader.name}' is {seen} and '{first.name}' is {wanted}; give both sides as the "
                        "size, to bring them to one."
                    )
                yield frame
            if len(reader) != len(first):
                raise InputError(
                    f"The view '{reader.name}' has {len(reader)} frames and '{first.name}' has {len(first)}; "
                    "synchronised views need equally many, which max_frames can see to."
                )

    return store_frames(frames(), folder, readers[0].source.name)


def read_masks(readers: Sequence[ViewReader], given: Sequence[str | Path | None], folder: Path) -> Layers:
    """Masks of all views, given or found, as layers of the whole clip.

    Raises:
        InputError: given ones cannot be used.
    """
    turned = [reader.source.inverted and path is None for reader, path in zip(readers, given, strict=True)]
    if len(readers) == 1 and not turned[0]:
        return readers[0].masks(given[0], folder)
    with tempfile.TemporaryDirectory(prefix=".views-", dir=folder) as parts:
        views = [
            reader.masks(path, Path(parts) / str(k))[0]
            for k, (reader, path) in enumerate(zip(readers, given, strict=True))
        ]
        names = sorted({name: None for layers in views for name in layers}, key=natural_key)
        if len(readers) == 1:
            names = list(views[0])
        return _joined(views, names, turned, len(readers[0]), folder)


def _joined(
    views: Sequence[Mapping[str, LayerMask]], names: Sequence[str], turned: Sequence[bool], count: int, folder: Path
) -> Layers:
    layers, digests = {}, {}
    for name in names:
        indices: list[int] = []
        path = folder / "masks" / f"{name}.npy"
        with array_writer(path) as writer:
            for k, masks in enumerate(views):
                if name in masks:
                    indices += [k * count + t for t in masks[name].indices]
                    for mask in masks[name].values:
                        writer.append(np.asarray(255 - mask if turned[k] else mask))
        layers[name], digests[name] = LayerMask(open_array(path), tuple(indices)), writer.digest
    return layers, digests


def view_times(readers: Sequence[ViewReader]) -> np.ndarray:
    """Seconds of all frames, float64 [T]: as if one view were shown after the other."""
    times = np.asarray(readers[0].times, np.float64)
    lasts = times[-1] + 1 / float(readers[0].rate)
    return np.concatenate([times + k * lasts for k in range(len(readers))])


def _read_images(paths: Sequence[Path], fps: Fraction | None) -> Iterator[Frame]:
    first: tuple[int, ...] = ()
    for t, path in enumerate(paths):
        image = read_rgb(path)
        first = first or image.shape
        if image.shape != first:
            seen, wanted = f"{image.shape[1]}x{image.shape[0]}", f"{first[1]}x{first[0]}"
            raise InputError(f"'{path}' is {seen} and '{paths[0].name}' is {wanted}; make all frames of one size.")
        yield Frame(image, t / float(fps or DEFAULT_FPS))


def store_frames(items: Iterable[Frame], folder: Path, name: str) -> tuple[np.ndarray, str]:
    """Write frames to ``folder`` as they come; returns the mapped array and its digest.

    Raises:
        InputError: there are none, they are of differing sizes, or no uint8 [H, W, 3].
    """
    path = folder / FRAMES_FILE
    with array_writer(path) as writer:
        for frame in items:
            rgb = frame.rgb
            if (
                rgb.dtype != np.uint8
                or rgb.ndim != 3
                or rgb.shape[2] != 3
                or rgb.shape != (writer.item_shape or rgb.shape)
            ):
                wanted = list(writer.item_shape) or "[H, W, 3]"
                raise InputError(f"Frame {writer.length} is {rgb.dtype} {list(rgb.shape)} instead of uint8 {wanted}.")
            writer.append(rgb)
        if writer.length == 0:
            raise InputError(f"'{name}' holds no frames.")
    return open_array(path), writer.digest


def store_masks(
    masks: Mapping[str, np.ndarray | Mapping[int, np.ndarray]], folder: Path, shape: tuple[int, ...]
) -> Layers:
    """Write masks by layer, which are given as arrays, for frames of ``shape`` [T, H, W].

    Raises:
        InputError: they are of frames that are not there, or of another size.
    """
    layers, digests = {}, {}
    for name, given in masks.items():
        by_frame = dict(sorted(given.items())) if isinstance(given, Mapping) else dict(enumerate(given))
        path = inside(folder / "masks", f"{name}.npy")
        if not by_frame or min(by_frame) < 0 or max(by_frame) >= shape[0]:
            raise InputError(f"The masks of layer '{name}' are for frames {sorted(by_frame)[:3]}..., of {shape[0]}.")
        with array_writer(path) as writer:
            for t, mask in by_frame.items():
                if mask.shape != shape[1:3]:
                    raise InputError(f"The mask of frame {t} of '{name}' is {mask.shape} and frames are {shape[1:3]}.")
                writer.append(mask if mask.dtype == np.uint8 else to_uint8(mask.astype(np.float32)))
        layers[name], digests[name] = LayerMask(open_array(path), tuple(by_frame)), writer.digest
    return layers, digests


class ClipFolder:
    """The folder of a clip under construction; a temporary one is removed with the clip, or at once on failure."""

    def __init__(self, cache: str | Path | None) -> None:
        self._temporary = cache is None
        self._path = Path(tempfile.mkdtemp(prefix="canon-clip-")) if cache is None else Path(cache)

    def __enter__(self) -> tuple[Path, Any]:
        return self._path, self._keep

    def _keep(self, clip: Any) -> None:
        if self._temporary:
            weakref.finalize(clip, shutil.rmtree, self._path, ignore_errors=True)

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._temporary and kind is not None:
            shutil.rmtree(self._path, ignore_errors=True)
