"""A clip: the frames of a video on disk, memory-mapped, with what else has to survive an edit (times, sound, masks),
and the cameras and poses that fits in three dimensions need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from canon.audio import save_audio
from canon.clip_loading import (
    FRAMES_FILE,
    ClipFolder,
    ViewReader,
    Wanted,
    read_masks,
    read_views,
    store_frames,
    store_masks,
    view_times,
)
from canon.clip_world import (
    CAMERAS_FILE,
    ONE_VIEW,
    POSES_FILE,
    Cameras,
    ViewFrames,
    World,
    match_world,
    open_world,
    part_of,
    read_world,
    save_world,
    solved,
    view_names,
    world_hash,
)
from canon.errors import InputError
from canon.folders import array_digest, atomic_folder, place_array
from canon.masks import LayerMask
from canon.sources import find_source, resize
from canon.storage import content_hash, inside, open_array, read_yaml, to_uint8, write_image, write_yaml
from canon.timing import DEFAULT_FPS, is_regular, spread
from canon.video import Frame

if TYPE_CHECKING:
    from canon.cameras import Camera
    from canon.skeletons import Motion

__all__ = ["Clip", "LayerMask"]

CLIP_FILE, AUDIO_FILE, PREVIEW_FILE = "clip.yaml", "audio.mka", "preview.jpg"


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
    """uint8 [T, H, W, 3], sRGB, upright, memory-mapped; read-only. Those of several views lie view after view."""
    fps: Fraction
    """Average frames per second."""
    timestamps: np.ndarray = field(repr=False)
    """float64 [T], seconds after the first frame, several views being shown one after the other."""
    source: str = ""
    """What it was loaded from, for people."""
    audio_path: Path | None = None
    """A file whose sound belongs to the clip and starts with its first frame."""
    color_range: str = "limited"
    """``"limited"`` or ``"full"``, how luma was stored and should be again; RGB sources count as limited."""
    masks: dict[str, LayerMask] = field(default_factory=dict)
    """Masks by layer name, front to back; the background has none."""
    cameras: list[Camera] | None = None
    """One for each frame, if they are known."""
    poses: Motion | None = None
    """Of the person who is seen, one for each moment, if they are known."""
    views: tuple[str, ...] = ONE_VIEW
    """Names of the synchronised views; an ordinary clip has one."""
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
    def moments(self) -> np.ndarray:
        """Which moment each frame shows, int64 [T]: its number within its view."""
        count = len(self)
        return np.arange(count, dtype=np.int64) % (count // len(self.views))

    @property
    def content_hash(self) -> str:
        """Short hash of all frames and masks, cameras and poses; equal clips have equal hashes wherever they lie."""
        if self.known_hash is None:
            digests = {name: array_digest(mask.values) for name, mask in self.masks.items()}
            self._set_hash(array_digest(self.frames), digests)
        assert self.known_hash is not None
        return self.known_hash

    def _set_hash(self, digest: str, masks: Mapping[str, str]) -> None:
        layers = [[name, list(mask.indices), masks[name]] for name, mask in self.masks.items()]
        pictures = content_hash(list(self.frames.shape), digest, layers)
        self.known_hash = world_hash(pictures, self.cameras, self.poses, self.views)

    @classmethod
    def load(
        cls,
        source: str | Path | Sequence[str | Path],
        masks: str | Path | Sequence[str | Path | None] | None = None,
        cameras: Cameras | None = None,
        poses: str | Path | Motion | None = None,
        max_frames: int | None = None,
        size: int | tuple[int, int] | None = None,
        cache: str | Path | None = None,
        fps: Fraction | float | None = None,
    ) -> Clip:
        """Read a video and its masks; frames are decoded once into ``cache`` and memory-mapped.

        Args:
            source: a video file (mp4, mov, webm, gif, avi, mkv), an image, a folder of images, a glob, a DAVIS folder
                ``X/JPEGImages/480p/name`` (its annotations are found), or a folder with ``frames/`` and ``masks/``; a
                folder with ``transforms.json`` (nerfstudio), or in the layout of HumanNeRF or NeuMan, whose images,
                cameras, masks and poses are found; or a list of these, as synchronised views.
            masks: a folder of PNGs (the foreground, or one layer for each object of palette images), a folder of named
                sub-folders (front to back by name), or one image (frame 0). They may be given for some frames only. Of
                several views: a list of these, or None, for each view.
            cameras: what :func:`canon.camera_files.read_cameras` takes; one :class:`Camera` of all frames; a list, for
                each frame or for each view; or one or a list by the view's name. Those of a file belong to the images
                that it names, else to the views that they are called by, else to frames or views in order. They are
                resized with the frames.
                "solve" finds them from the pictures (:func:`canon.camera_solving.solve_cameras`).
            poses: a file that :func:`canon.poses.read_poses` takes, or a motion; one pose for each moment.
            max_frames: use at most so many frames of each view from the start, and so many poses; what is left out is
                logged.
            size: (height, width), or a height whose width follows the aspect; masks are resized likewise.
            cache: folder for the decoded frames; None takes a temporary one that goes with the clip.
            fps: rate of images, which carry none (24 otherwise).

        Raises:
            InputError: the source, the masks, the cameras or the poses cannot be used; one sentence says which, and
                why.
        """
        paths = [source] if isinstance(source, str | Path) else list(source)
        if not paths:
            raise InputError("There is nothing to load; give a video, a folder of images or a glob.")
        if max_frames is not None and max_frames < 1:
            raise InputError(f"max_frames is {max_frames}; give at least 1.")
        # What lies in files is read before the frames are, so that a fault in it is told at once.
        world = read_world(cameras, poses)
        if len(paths) == 1 and (Path(paths[0]) / CLIP_FILE).is_file():
            if masks is not None or max_frames is not None or size is not None:
                raise InputError(f"'{paths[0]}' is a saved clip; load its video again to change masks, frames or size.")
            return cls.open(paths[0])._with_world(world)
        given = [masks] if isinstance(masks, str | Path) else list(masks or [None] * len(paths))
        if len(given) != len(paths):
            raise InputError(f"There are masks for {len(given)} views and {len(paths)} views; give a folder for each.")
        wanted = Wanted(max_frames, size, fps)
        views = zip(view_names(paths), paths, map(find_source, paths), strict=True)
        readers = [ViewReader(*view, wanted) for view in views]
        with ClipFolder(cache) as (folder, keep):
            frames, digest = read_views(readers, folder)
            layers, digests = read_masks(readers, given, folder)
            names = ", ".join(reader.source.name for reader in readers)
            clip = cls(frames, readers[0].rate, view_times(readers), names, masks=layers)
            if len(readers) == 1 and (info := readers[0].info) is not None:
                clip.color_range = info.color_range
                clip.audio_path = readers[0].source.video if info.has_audio else None
            found = [reader.source for reader in readers]
            clip.views = tuple(reader.name for reader in readers)
            clip.cameras, clip.poses = match_world(world, [reader.frames for reader in readers], found)
            clip.cameras = solved(world, clip) or clip.cameras
            clip._set_hash(digest, digests)
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
        *,
        cameras: Cameras | None = None,
        poses: str | Path | Motion | None = None,
        views: Sequence[str] = ONE_VIEW,
    ) -> Clip:
        """A clip of frames that were made here, such as a synthetic scene.

        Args:
            frames: uint8 [H, W, 3] each (or one [T, H, W, 3]); taken one at a time.
            masks: by layer name, front to back: [T, H, W], or {t: [H, W]} where only some are known; uint8 0..255,
                bool, or float 0..1.
            cameras, poses: see :meth:`load`.
            views: names of synchronised views, whose frames come view after view.

        Raises:
            InputError: no frames, frames or masks of differing sizes, or cameras or poses that cannot be used.
        """
        with ClipFolder(cache) as (folder, keep):
            array, digest = store_frames((Frame(frame, 0.0) for frame in frames), folder, source or "frames")
            layers, digests = store_masks(masks or {}, folder, array.shape[:3])
            rate = Fraction(fps).limit_denominator(100_000)
            times = np.arange(len(array)) / float(rate)
            if len(set(views)) < max(len(views), 1) or len(array) % len(views):
                raise InputError(f"{len(array)} frames cannot be those of the views {', '.join(views) or '(none)'}.")
            clip = cls(array, rate, times, source, masks=layers, views=tuple(views))
            clip = clip._with_world(read_world(cameras, poses))
            clip._set_hash(digest, digests)
            keep(clip)
        return clip

    def _with_world(self, world: World) -> Clip:
        """This clip with other cameras or poses, as far as they are given."""
        count = len(self) // len(self.views)
        views = [ViewFrames(name, count, self.size, self.size, parts=(name,)) for name in self.views]
        cameras, poses = match_world(world, views)
        cameras = solved(world, self) or cameras
        if cameras is None and poses is None:
            return self
        return replace(self, cameras=cameras or self.cameras, poses=poses or self.poses, known_hash=None)

    def part(self, first: int, last: int) -> Clip:
        """Frames ``first`` to ``last`` (both counted) with their masks, cameras and poses, not copied; a layer without
        masks there is left out.

        Raises:
            InputError: the clip has several views.
        """
        if len(self.views) > 1:
            raise InputError(f"A clip of {len(self.views)} views cannot be cut; load one of them, or fewer frames.")
        masks = {}
        for name, mask in self.masks.items():
            chosen = [k for k, t in enumerate(mask.indices) if first <= t <= last]
            if chosen:
                indices = tuple(mask.indices[k] - first for k in chosen)
                masks[name] = LayerMask(mask.values[chosen[0] : chosen[-1] + 1], indices)
        times = self.timestamps[first : last + 1] - self.timestamps[first]
        clip = Clip(self.frames[first : last + 1], self.fps, times, self.source, masks=masks, views=self.views)
        clip.cameras = None if self.cameras is None else self.cameras[first : last + 1]
        clip.poses = None if self.poses is None else part_of(self.poses, first, last)
        return clip

    def save(self, folder: str | Path) -> None:
        """Write ``clip.yaml``, ``frames.npy``, ``masks/LAYER.npy``, ``audio.mka``, ``cameras.json``,
        ``poses.safetensors`` and ``preview.jpg``, atomically.

        An earlier clip there is replaced; other files are kept.

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
                **save_world(target, self.cameras, self.poses, self.views),
            }
            if self.variable_rate:
                record["timestamps"] = [round(float(t), 6) for t in self.timestamps]
            write_yaml(target / CLIP_FILE, record)

    def _owned(self, folder: Path) -> set[str]:
        frames = folder / FRAMES_FILE
        mine = isinstance(self.frames, np.memmap) and str(self.frames.filename) == str(frames)
        if not mine and not (folder / CLIP_FILE).is_file():
            return set()
        names = {CLIP_FILE, FRAMES_FILE, AUDIO_FILE, PREVIEW_FILE, CAMERAS_FILE, POSES_FILE}
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
            cameras, poses, views = open_world(folder, record, count)
        except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
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
        return cls(frames, fps, times, source, audio, color_range, layers, cameras, poses, views, digest)


def _require(array: np.ndarray, shape: tuple[int, ...], folder: Path) -> None:
    if array.shape != shape or array.dtype != np.uint8:
        seen = f"{array.dtype} {list(array.shape)} instead of uint8 {list(shape)}"
        raise InputError(f"'{folder}' is damaged: an array is {seen}; delete the folder and load again.")
