"""A clip: the frames of a video on disk, memory-mapped, with what else has to survive an edit (times, sound, masks)."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from canon.audio import save_audio
from canon.errors import InputError
from canon.folders import array_digest, array_writer, atomic_folder, place_array
from canon.masks import FrameSet, LayerMask, load_masks
from canon.sources import Source, find_source, read_rgb, resize, resized_size
from canon.storage import content_hash, inside, open_array, read_yaml, to_uint8, write_image, write_yaml
from canon.timing import DEFAULT_FPS, frame_rate, is_regular, spread
from canon.video import Frame, probe, read_frames

__all__ = ["Clip", "LayerMask"]

log = logging.getLogger("canon")

CLIP_FILE, FRAMES_FILE, AUDIO_FILE, PREVIEW_FILE = "clip.yaml", "frames.npy", "audio.mka", "preview.jpg"


def check_frame(frame: int, count: int) -> None:
    """Refuse the number of a frame that a clip of ``count`` frames does not have.

    Raises:
        InputError: it is negative or too large.
    """
    if not 0 <= frame < count:
        raise InputError(f"Frame {frame} does not exist: the clip has frames 0 to {count - 1}.")


@dataclass(eq=False)
class Clip:
    """Frames of a video with their times, sound and masks; from :meth:`load`, :meth:`open` or :meth:`from_frames`."""

    frames: np.ndarray = field(repr=False)
    """uint8 [T, H, W, 3], sRGB, upright, memory-mapped; read-only."""
    fps: Fraction
    """Average frames per second."""
    timestamps: np.ndarray = field(repr=False)
    """float64 [T], seconds after the first frame."""
    source: str = ""
    """What it was loaded from, for people."""
    audio_path: Path | None = None
    """A file whose sound belongs to the clip and starts with its first frame."""
    color_range: str = "limited"
    """``"limited"`` or ``"full"``, how luma was stored and should be again; RGB sources count as limited."""
    masks: dict[str, LayerMask] = field(default_factory=dict)
    """Masks by layer name, front to back; the background has none."""
    cameras: Any = None
    """As given to :meth:`load`, for 3-D representations; not saved."""
    poses: Any = None
    """As given to :meth:`load`, for 3-D representations; not saved."""
    known_hash: str | None = field(default=None, repr=False)
    """:attr:`content_hash` if it is known already."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def variable_rate(self) -> bool:
        """Whether the frames do not lie on the regular grid of :attr:`fps`."""
        return not is_regular(self.timestamps, self.fps)

    @property
    def content_hash(self) -> str:
        """Short hash of all frames and masks; equal clips have equal hashes wherever they lie."""
        if self.known_hash is None:
            digests = {name: array_digest(mask.values) for name, mask in self.masks.items()}
            self.known_hash = _hash(self.frames.shape, array_digest(self.frames), self.masks, digests)
        return self.known_hash

    @classmethod
    def load(
        cls,
        source: str | Path,
        masks: str | Path | None = None,
        cameras: Any = None,
        poses: Any = None,
        max_frames: int | None = None,
        size: int | tuple[int, int] | None = None,
        cache: str | Path | None = None,
        fps: Fraction | float | None = None,
    ) -> Clip:
        """Read a video and its masks; frames are decoded once into ``cache`` and memory-mapped.

        Args:
            source: a video file (mp4, mov, webm, gif, avi, mkv), an image, a folder of images, a glob, a DAVIS folder
                ``X/JPEGImages/480p/name`` (its annotations are found), or a folder with ``frames/`` and ``masks/``.
            masks: a folder of PNGs (the foreground, or one layer for each object of palette images), a folder of named
                sub-folders (front to back by name), or one image (frame 0). They may be given for some frames only.
            cameras, poses: kept as they are for 3-D representations.
            max_frames: use at most so many frames from the start; what is left out is logged.
            size: (height, width), or a height whose width follows the aspect; masks are resized likewise.
            cache: folder for the decoded frames; None takes a temporary one that goes with the clip.
            fps: rate of images, which carry none (24 otherwise).

        Raises:
            InputError: the source or the masks cannot be used; one sentence says which, and why.
        """
        if not isinstance(source, str | Path):
            raise InputError("Several sources in one clip cannot be used; give one video, folder or glob.")
        if max_frames is not None and max_frames < 1:
            raise InputError(f"max_frames is {max_frames}; give at least 1.")
        if (Path(source) / CLIP_FILE).is_file():
            if masks is not None or max_frames is not None or size is not None:
                raise InputError(f"'{source}' is a saved clip; load its video again to change masks, frames or size.")
            return cls.open(source)
        found = find_source(source)
        with _Folder(cache) as (folder, keep):
            chosen, guessed = found.masks if masks is None else Path(masks), masks is None and found.guessed
            try:
                clip = _load(found, chosen, max_frames, size, folder, fps)
            except InputError as error:
                if not guessed:
                    raise
                log.warning("%s The masks found beside the frames are left out.", error)
                clip = _load(found, None, max_frames, size, folder, fps)
            else:
                if guessed:
                    log.info("took the masks that lie beside the frames of '%s'", found.name)
            clip.cameras, clip.poses = cameras, poses
            keep(clip)
        return clip

    @classmethod
    def from_frames(
        cls,
        frames: Iterable[np.ndarray],
        fps: Fraction | float = DEFAULT_FPS,
        masks: Mapping[str, np.ndarray | Mapping[int, np.ndarray]] | None = None,
        source: str = "",
        cache: str | Path | None = None,
    ) -> Clip:
        """A clip of frames that were made here, such as a synthetic scene.

        Args:
            frames: uint8 [H, W, 3] each (or one [T, H, W, 3]); taken one at a time.
            masks: by layer name, front to back: [T, H, W], or {t: [H, W]} where only some are known; uint8 0..255,
                bool, or float 0..1.

        Raises:
            InputError: no frames, or frames or masks of differing sizes.
        """
        with _Folder(cache) as (folder, keep):
            array, digest = _store((Frame(frame, 0.0) for frame in frames), folder, None, source or "frames", [])
            layers, digests = _store_masks(masks or {}, folder, array.shape[:3])
            rate = Fraction(fps).limit_denominator(100_000)
            times = np.arange(len(array)) / float(rate)
            clip = cls(array, rate, times, source, masks=layers)
            clip.known_hash = _hash(array.shape, digest, layers, digests)
            keep(clip)
        return clip

    def part(self, first: int, last: int) -> Clip:
        """Frames ``first`` to ``last`` (both counted) with their masks, not copied; a layer without masks there is left
        out."""
        masks = {}
        for name, mask in self.masks.items():
            chosen = [k for k, t in enumerate(mask.indices) if first <= t <= last]
            if chosen:
                indices = tuple(mask.indices[k] - first for k in chosen)
                masks[name] = LayerMask(mask.values[chosen[0] : chosen[-1] + 1], indices)
        times = self.timestamps[first : last + 1] - self.timestamps[first]
        return Clip(self.frames[first : last + 1], self.fps, times, self.source, masks=masks)

    def save(self, folder: str | Path) -> None:
        """Write ``clip.yaml``, ``frames.npy``, ``masks/LAYER.npy``, ``audio.mka`` and ``preview.jpg``, atomically.

        An earlier clip there is replaced; other files are kept. :attr:`cameras` and :attr:`poses` are not written.

        Raises:
            InputError: files that are not canon's are in the way, the folder cannot be written, or the disk is full.
        """
        with atomic_folder(Path(folder), self._owned) as target:
            place_array(self.frames, target / FRAMES_FILE)
            for name, mask in self.masks.items():
                place_array(mask.values, inside(target / "masks", f"{name}.npy"))
            end = float(self.timestamps[-1]) + 1.0 / float(self.fps)
            audio = self.audio_path is not None and save_audio(self.audio_path, target / AUDIO_FILE, end)
            write_image(target / PREVIEW_FILE, self._preview())
            record: dict[str, Any] = {
                "source": self.source,
                "fps": f"{self.fps.numerator}/{self.fps.denominator}",
                "size": list(self.size),
                "frames": len(self),
                "color_range": self.color_range,
                "audio": AUDIO_FILE if audio else None,
                "layers": [
                    {"name": name, "frames": "all" if mask.complete(len(self)) else list(mask.indices)}
                    for name, mask in self.masks.items()
                ],
                "hash": self.content_hash,
            }
            if self.variable_rate:
                record["timestamps"] = [round(float(t), 6) for t in self.timestamps]
            write_yaml(target / CLIP_FILE, record)

    def _owned(self, folder: Path) -> set[str]:
        frames = folder / FRAMES_FILE
        mine = isinstance(self.frames, np.memmap) and str(self.frames.filename) == str(frames)
        if not mine and not (folder / CLIP_FILE).is_file():
            return set()
        names = {CLIP_FILE, FRAMES_FILE, AUDIO_FILE, PREVIEW_FILE}
        masks = folder / "masks"
        only_ours = masks.is_dir() and all(entry.suffix == ".npy" for entry in masks.iterdir())
        return names | {"masks"} if only_ours else names

    def _preview(self) -> np.ndarray:
        """Up to eight frames in two rows with the masks tinted in, uint8 [H, W, 3]."""
        height = max(2, round(self.size[0] * min(1.0, 320 / self.size[1])))
        size = (height, min(320, self.size[1]))
        tints = np.array([[235, 64, 52], [52, 140, 235], [80, 200, 90], [240, 190, 40], [180, 80, 220]], np.float32)
        cells = []
        for t in spread(len(self), 8):
            cell = resize(np.asarray(self.frames[t]), size).astype(np.float32)
            for k, mask in reversed(list(enumerate(self.masks.values()))):
                values = mask.get(t)
                if values is not None:
                    alpha = resize(np.asarray(values), size)[..., None] / np.float32(255 * 2)
                    cell = cell + alpha * (tints[k % len(tints)] - cell)
            cells.append(to_uint8(cell / 255.0))
        columns = -(-len(cells) // 2) if len(cells) > 4 else len(cells)
        cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
        rows = [cv2.hconcat(cells[i : i + columns]) for i in range(0, len(cells), columns)]
        return np.asarray(cv2.vconcat(rows))

    @classmethod
    def open(cls, folder: str | Path) -> Clip:
        """A clip that :meth:`save` wrote.

        Raises:
            InputError: the folder is missing, damaged or not canon's.
        """
        folder = Path(folder)
        record = read_yaml(folder / CLIP_FILE)
        frames = open_array(folder / FRAMES_FILE)
        try:
            fps, count = Fraction(record["fps"]), int(record["frames"])
            shape = (count, *map(int, record["size"]), 3)
            times = np.asarray(record.get("timestamps", np.arange(count) / float(fps)), dtype=np.float64)
            layers = {}
            for entry in record["layers"]:
                indices = tuple(range(count) if entry["frames"] == "all" else map(int, entry["frames"]))
                values = open_array(inside(folder / "masks", f"{entry['name']}.npy"))
                _require(values, (len(indices), *shape[1:3]), folder)
                layers[str(entry["name"])] = LayerMask(values, indices)
            audio = inside(folder, record["audio"]) if record.get("audio") else None
            digest, source, color_range = str(record["hash"]), str(record["source"]), str(record["color_range"])
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"'{folder / CLIP_FILE}' is damaged ({error!r}); delete '{folder}' and load again."
            ) from error
        _require(frames, shape, folder)
        if times.shape != (count,) or fps <= 0:
            raise InputError(
                f"'{folder / CLIP_FILE}' is damaged (fps or timestamps); delete '{folder}' and load again."
            )
        return cls(frames, fps, times, source, audio, color_range, layers, known_hash=digest)


def _require(array: np.ndarray, shape: tuple[int, ...], folder: Path) -> None:
    if array.shape != shape or array.dtype != np.uint8:
        seen = f"{array.dtype} {list(array.shape)} instead of uint8 {list(shape)}"
        raise InputError(f"'{folder}' is damaged: an array is {seen}; delete the folder and load again.")


def _hash(shape: tuple[int, ...], digest: str, layers: Mapping[str, LayerMask], digests: Mapping[str, str]) -> str:
    return content_hash(
        list(shape), digest, [[name, list(mask.indices), digests[name]] for name, mask in layers.items()]
    )


class _Folder:
    """The folder of a clip under construction; a temporary one is removed with the clip, or at once on failure."""

    def __init__(self, cache: str | Path | None) -> None:
        self._temporary = cache is None
        self._path = Path(tempfile.mkdtemp(prefix="canon-clip-")) if cache is None else Path(cache)

    def __enter__(self) -> tuple[Path, Any]:
        return self._path, self._keep

    def _keep(self, clip: Clip) -> None:
        if self._temporary:
            weakref.finalize(clip, shutil.rmtree, self._path, ignore_errors=True)

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._temporary and kind is not None:
            shutil.rmtree(self._path, ignore_errors=True)


def _load(
    source: Source,
    masks: Path | tuple[tuple[str, Path], ...] | None,
    max_frames: int | None,
    size: int | tuple[int, int] | None,
    folder: Path,
    fps: Fraction | float | None,
) -> Clip:
    info = probe(source.video) if source.video is not None else None
    announced = info.fps if info is not None else Fraction(fps or DEFAULT_FPS).limit_denominator(100_000)
    items = read_frames(source.video) if source.video is not None else _read_images(source.images, announced)
    times: list[float] = []
    original: list[tuple[int, int]] = []

    def sized() -> Iterator[Frame]:
        for frame in items:
            if not original:
                original.append((frame.rgb.shape[0], frame.rgb.shape[1]))
            yield Frame(resize(frame.rgb, resized_size(original[0], size)), frame.seconds)

    array, digest = _store(sized(), folder, max_frames, source.name, times)
    total: int | None = len(array)
    left_out = len(source.images) > len(array) if source.images else next(items, None) is not None
    if left_out:
        total = len(source.images) or (info.frames if info is not None else None)
        log.warning("using the first %d of %s frames of '%s'", len(array), total or "more", source.name)
    layers: dict[str, LayerMask] = {}
    digests: dict[str, str] = {}
    if masks is not None:
        stems = tuple(path.stem for path in source.images)
        frames = FrameSet(len(array), total, stems, original[0], (array.shape[1], array.shape[2]))
        layers, digests = load_masks(masks, frames, folder)
    rate = frame_rate(times, announced)
    clip = Clip(array, rate, np.asarray(times), source.name, masks=layers)
    if info is not None:
        clip.color_range = info.color_range
        clip.audio_path = source.video if info.has_audio else None
    clip.known_hash = _hash(array.shape, digest, layers, digests)
    return clip


def _read_images(paths: Sequence[Path], fps: Fraction | None) -> Iterator[Frame]:
    first: tuple[int, ...] = ()
    for t, path in enumerate(paths):
        image = read_rgb(path)
        first = first or image.shape
        if image.shape != first:
            seen, wanted = f"{image.shape[1]}x{image.shape[0]}", f"{first[1]}x{first[0]}"
            raise InputError(f"'{path}' is {seen} and '{paths[0].name}' is {wanted}; make all frames of one size.")
        yield Frame(image, t / float(fps or DEFAULT_FPS))


def _store(
    items: Iterable[Frame], folder: Path, max_frames: int | None, name: str, times: list[float]
) -> tuple[np.ndarray, str]:
    """Write frames to ``folder`` as they come; their times go to ``times``. Returns the mapped array and its digest."""
    path = folder / FRAMES_FILE
    with array_writer(path) as writer:
        for frame in itertools.islice(items, max_frames):
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
            times.append(frame.seconds)
        if writer.length == 0:
            raise InputError(f"'{name}' holds no frames.")
    return open_array(path), writer.digest


def _store_masks(
    masks: Mapping[str, np.ndarray | Mapping[int, np.ndarray]], folder: Path, shape: tuple[int, ...]
) -> tuple[dict[str, LayerMask], dict[str, str]]:
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
