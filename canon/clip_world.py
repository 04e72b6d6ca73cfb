"""Cameras and poses of a clip: which frame each belongs to, and how they are kept on disk.

Frames of several synchronised views lie view after view. A camera belongs to a frame, a pose to a moment, which all
views share.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from canon.camera_files import View, read_cameras, write_cameras
from canon.cameras import Camera
from canon.errors import InputError
from canon.sources import IMAGE_SUFFIXES, Source
from canon.storage import content_hash, inside, open_arrays, write_arrays

if TYPE_CHECKING:
    from canon.clip import Clip
    from canon.coordinates import Size
    from canon.skeletons import Motion

log = logging.getLogger("canon")

CAMERAS_FILE, POSES_FILE = "cameras.json", "poses.safetensors"
ONE_VIEW = ("view",)
"""The name of the only view of an ordinary clip."""

Given: TypeAlias = Camera | Sequence[Camera] | Sequence[View] | Mapping[str, Camera | Sequence[Camera]]
"""One camera for all frames; one for each frame, or for each view; one or a list of them by the view's name; or what
was read from a file."""
Cameras: TypeAlias = str | Path | Given
"""The same, the path of what :func:`canon.camera_files.read_cameras` takes, or "solve" (see :func:`solved`)."""
SOLVE = "solve"


@dataclass(frozen=True)
class ViewFrames:
    """The frames of one view that cameras have to be matched to.

    Attributes:
        name: of the view.
        count: frames in use.
        original: (height, width) in the source.
        size: (height, width) in the clip.
        cut: whether the source has more frames, which were left out at the end.
        images: files of the frames in use, if they are images.
        parts: of the path that the view was read from; a camera may be called by one of them.
    """

    name: str
    count: int
    original: Size
    size: Size
    cut: bool = False
    images: tuple[Path, ...] = ()
    parts: tuple[str, ...] = ()


def path_parts(path: str | Path) -> tuple[str, ...]:
    """Names of a path's folders and of its end; a file's ending is left off."""
    whole = Path(path).absolute()
    return (*whole.parent.parts[1:], whole.stem if whole.is_file() else whole.name)


def view_names(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """Names for views by the part of their paths that tells them apart: ``cam01`` for ``shot/cam01/frames``.

    Raises:
        InputError: a path is given twice.
    """
    if len(paths) == 1:
        return ONE_VIEW
    parts = [path_parts(path) for path in paths]
    for k, one in enumerate(parts):
        if one in parts[:k]:
            raise InputError(f"'{paths[k]}' is given twice; give each view once.")
    for place in range(1, min(map(len, parts)) + 1):
        names = tuple(one[-place] for one in parts)
        if len(set(names)) == len(names):
            return names
    return tuple("-".join(one) for one in parts)


@dataclass(frozen=True)
class World:
    """Cameras and poses as they were given, files being read; ``solve`` asks for cameras that the frames tell."""

    cameras: Given | None = None
    poses: Motion | None = None
    solve: bool = False


def read_world(cameras: Cameras | None, poses: str | Path | Motion | None) -> World:
    """Read what is given as a file.

    Raises:
        InputError: it cannot be read.
    """
    solve = isinstance(cameras, str) and cameras == SOLVE
    given: Given | None = None
    if not solve:
        given = read_cameras(cameras) if isinstance(cameras, str | Path) else cameras
    if isinstance(poses, str | Path):
        from canon.poses import read_poses

        poses = read_poses(poses)
    return World(given, poses, solve)


def solved(given: World, clip: Clip) -> list[Camera] | None:
    """One camera for each frame of a clip, found from its pictures, if that was asked for; else None.

    Raises:
        InputError: see :func:`canon.camera_solving.solve_cameras`.
    """
    if not given.solve:
        return None
    from canon.camera_solving import solve_cameras

    return solve_cameras(clip)


def match_world(
    given: World, views: Sequence[ViewFrames], sources: Sequence[Source] = ()
) -> tuple[list[Camera] | None, Motion | None]:
    """One camera for each frame and one pose for each moment, as far as they are given or were found with the frames.

    Raises:
        InputError: see :func:`match_cameras` and :func:`match_poses`.
    """
    cameras = None
    if given.cameras is not None:
        cameras = match_cameras(given.cameras, views)
    elif any(source.cameras for source in sources):
        cameras = []
        for view, source in zip(views, sources, strict=True):
            cameras += match_cameras(source.cameras, [view])
    count, cut = views[0].count, all(view.cut for view in views)
    if given.poses is not None:
        return cameras, match_poses(given.poses, count, cut)
    found = next((source.poses for source in sources if source.poses is not None), None)
    if found is None:
        return cameras, None
    try:
        motion = read_world(None, found).poses
        poses = None if motion is None else match_poses(motion, count, cut)
    except InputError as error:
        log.warning("%s The poses found beside the frames are left out.", error)
        return cameras, None
    log.info("took the poses that lie beside the frames, in '%s'", found)
    return cameras, poses


def match_cameras(given: Given, views: Sequence[ViewFrames]) -> list[Camera]:
    """One camera for each frame, of the size of the clip's frames.

    Cameras of a file belong to frames by the images that the file names, else to views by their names, else in order.

    Raises:
        InputError: frames or views without a camera, cameras without a view, too many, or of pictures of another shape.
    """
    if isinstance(given, Mapping):
        chosen = _by_key(given, views)
    else:
        items: list[Any] = [given] if isinstance(given, Camera) or not isinstance(given, Iterable) else list(given)
        if items and all(isinstance(one, View) for one in items):
            chosen = _from_file(items, views)
        elif all(isinstance(one, Camera) for one in items):
            chosen = _in_order(items, views)
        else:
            kind = next(type(one).__name__ for one in items if not isinstance(one, Camera))
            raise InputError(f"A {kind} is no camera; give a file of cameras, a Camera, or a list of them.")
    return [camera for cameras, view in zip(chosen, views, strict=True) for camera in _fitted(cameras, view)]


def _from_file(found: Sequence[View], views: Sequence[ViewFrames]) -> list[list[Camera]]:
    if len(found) == len(views) == 1:
        return [[found[0].camera]]
    lookup = [_by_image(found, view) for view in views]
    matched = [[camera for camera in cameras if camera is not None] for cameras in lookup]
    if all(len(cameras) == view.count for cameras, view in zip(matched, views, strict=True)):
        return matched
    named = _by_view_name(found, views)
    if named is not None:
        return [[camera] for camera in named]
    if any(one.image is not None or Path(one.name).suffix.lower() in IMAGE_SUFFIXES for one in found):
        for view, cameras in zip(views, lookup, strict=True):
            missing = [image.name for image, camera in zip(view.images, cameras, strict=True) if camera is None]
            if missing:
                raise InputError(
                    f"{len(missing)} of {view.count} frames have no camera, '{missing[0]}' first of all; give cameras "
                    "for all of them, or leave these frames out."
                )
    return _in_order([one.camera for one in found], views)


def _by_image(found: Sequence[View], view: ViewFrames) -> list[Camera | None]:
    """Of each image: the camera that names this file, else the only one that names a file called so."""
    paths = {one.image.resolve(): one.camera for one in found if one.image is not None}
    stems: dict[str, list[Camera]] = {}
    for one in found:
        stems.setdefault(Path(one.name).stem, []).append(one.camera)
    unique = {stem: cameras[0] for stem, cameras in stems.items() if len(cameras) == 1}
    return [paths.get(image.resolve(), unique.get(image.stem)) for image in view.images]


def _by_view_name(found: Sequence[View], views: Sequence[ViewFrames]) -> list[Camera] | None:
    cameras = {one.name: one.camera for one in found}
    names = [next((part for part in reversed(view.parts) if part in cameras), None) for view in views]
    given = [name for name in names if name is not None]
    if not given or len(set(given)) < len(given):
        return None
    for name, view in zip(names, views, strict=True):
        if name is None:
            there = ", ".join(cameras)
            raise InputError(f"The view '{view.name}' has no camera of its name; there are cameras for {there}.")
    return [cameras[name] for name in given]


def _by_key(given: Mapping[str, Camera | Sequence[Camera]], views: Sequence[ViewFrames]) -> list[list[Camera]]:
    chosen: dict[str, list[Camera]] = {}
    for key, cameras in given.items():
        owners = [view for view in views if key == view.name] or [view for view in views if key in view.parts]
        if len(owners) != 1 or owners[0].name in chosen:
            there = ", ".join(view.name for view in views)
            raise InputError(f"The camera '{key}' belongs to no view; name cameras by the views, which are {there}.")
        several = [cameras] if isinstance(cameras, Camera) else list(cameras)
        chosen[owners[0].name] = _in_order(several, owners)[0]
    missing = [view.name for view in views if view.name not in chosen]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(views)} views have no camera, '{missing[0]}' first of all; give one for each."
        )
    return [chosen[view.name] for view in views]


def _in_order(cameras: Sequence[Camera], views: Sequence[ViewFrames]) -> list[list[Camera]]:
    if len(cameras) == len(views):
        return [[camera] for camera in cameras]
    count, (each, rest) = views[0].count, divmod(len(cameras), len(views))
    if not rest and (each == count or (each > count and all(view.cut for view in views))):
        return [list(cameras[k * each : k * each + count]) for k in range(len(views))]
    if len(views) > 1:
        raise InputError(
            f"There are {len(cameras)} cameras for {len(views)} views of {count} frames; give one for each view, or "
            "one for each frame of each view."
        )
    without = f": frame {each} is the first of {count - each} without one" if each < count else ""
    raise InputError(f"There are {each} cameras for {count} frames{without}; give one for all frames, or one for each.")


def _fitted(cameras: Sequence[Camera], view: ViewFrames) -> list[Camera]:
    """Cameras for pictures of the clip's size; one counts for all frames."""
    for camera in cameras:
        height, width = camera.size
        # A side may have been rounded to whole pixels when the pictures were resized.
        if abs(width * view.original[0] / height - view.original[1]) > 1 + view.original[1] / 100:
            raise InputError(
                f"A camera is for pictures of {width}x{height}, which are of another shape than the frames of "
                f"{view.original[1]}x{view.original[0]}; give cameras of these very frames."
            )
    resized = [camera if camera.size == view.size else camera.resized(view.size) for camera in cameras]
    return resized if len(resized) == view.count else resized * view.count


def match_poses(given: Motion, count: int, cut: bool) -> Motion:
    """One pose for each moment, whatever the motion's rate.

    Args:
        cut: whether the clip's end was left out, and that of a longer motion may be.

    Raises:
        InputError: as many poses as moments are not there, or they are not finite.
    """
    from canon.skeletons import Motion

    if not isinstance(given, Motion):
        raise InputError(f"A {type(given).__name__} holds no poses; give a file of poses, or a Motion.")
    joints = len(given.skeleton)
    if given.rotations.shape != (len(given), joints, 3, 3) or given.root.shape != (len(given), 3):
        raise InputError(
            f"Poses must be rotations [T, {joints}, 3, 3] and places [T, 3], not {list(given.rotations.shape)} and "
            f"{list(given.root.shape)}."
        )
    if len(given) < count or (len(given) > count and not cut):
        raise InputError(f"There are {len(given)} poses for {count} frames; give one for each frame.")
    motion = part_of(given, 0, count - 1)
    finite = np.isfinite(motion.rotations).all(axis=(1, 2, 3)) & np.isfinite(motion.root).all(axis=1)
    if not finite.all():
        raise InputError(f"The pose of frame {int(np.argmin(finite))} is not of finite numbers; mend it.")
    return motion


def part_of(motion: Motion, first: int, last: int) -> Motion:
    """Poses ``first`` to ``last``, both counted."""
    if (first, last) == (0, len(motion) - 1):
        return motion
    return replace(motion, rotations=motion.rotations[first : last + 1], root=motion.root[first : last + 1])


def world_hash(pictures: str, cameras: Sequence[Camera] | None, poses: Motion | None, views: Sequence[str]) -> str:
    """Hash of a clip: that of its frames and masks, unless there is more to it."""
    if cameras is None and poses is None and len(views) == 1:
        return pictures
    seen: list[Any] = []
    for one in cameras or ():
        seen += [list(one.size), one.intrinsics, one.rotation, one.translation, list(one.distortion), one.fisheye]
    moving: list[Any] = []
    if poses is not None:
        bones = poses.skeleton
        moving = [list(bones.names), list(bones.parents), bones.offsets, poses.rotations, poses.root, float(poses.fps)]
    return content_hash(pictures, list(views), content_hash(*seen), content_hash(*moving))


def save_world(
    folder: Path, cameras: Sequence[Camera] | None, poses: Motion | None, views: Sequence[str]
) -> dict[str, Any]:
    """Write ``cameras.json`` and ``poses.safetensors``, as far as there are any; returns what tells of them.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    record: dict[str, Any] = {"views": list(views)} if len(views) > 1 else {}
    if cameras is not None:
        count = len(cameras) // len(views)
        parts = [cameras[k * count : (k + 1) * count] for k in range(len(views))]
        if all(_same(part[0], one) for part in parts for one in part):
            named = {name: part[0] for name, part in zip(views, parts, strict=True)}
        else:
            named = {
                f"{name}-{t:05d}": one for name, part in zip(views, parts, strict=True) for t, one in enumerate(part)
            }
        write_cameras(folder / CAMERAS_FILE, named)
        record["cameras"] = CAMERAS_FILE
    if poses is not None:
        bones = poses.skeleton
        arrays = {
            "rotations": poses.rotations,
            "root": poses.root,
            "offsets": bones.offsets,
            "parents": np.array(bones.parents, np.int64),
            "names": np.frombuffer(json.dumps(bones.names).encode(), np.uint8),
            "fps": np.array([poses.fps], np.float64),
        }
        write_arrays(folder / POSES_FILE, arrays)
        record["poses"] = POSES_FILE
    return record


def _same(a: Camera, b: Camera) -> bool:
    numbers = ("intrinsics", "rotation", "translation")
    equal = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in numbers)
    return a is b or (equal and (a.size, a.distortion, a.fisheye) == (b.size, b.distortion, b.fisheye))


def open_world(
    folder: Path, record: Mapping[str, Any], count: int
) -> tuple[list[Camera] | None, Motion | None, tuple[str, ...]]:
    """Cameras, poses and the names of the views that :func:`save_world` wrote.

    Args:
        count: frames of the clip.

    Raises:
        InputError: they are damaged, or of another number of frames.
        KeyError, TypeError, ValueError: likewise.
    """
    views = tuple(str(name) for name in record.get("views", ONE_VIEW))
    if not views or len(set(views)) < len(views) or count % len(views):
        raise ValueError(f"{count} frames of the views {', '.join(views)}")
    cameras: list[Camera] | None = None
    if record.get("cameras"):
        stored = [one.camera for one in read_cameras(inside(folder, str(record["cameras"])))]
        if len(stored) not in (len(views), count):
            raise ValueError(f"{len(stored)} cameras for {count} frames")
        repeats = count // len(stored)
        cameras = [camera for camera in stored for _ in range(repeats)]
    poses = _open_poses(inside(folder, str(record["poses"]))) if record.get("poses") else None
    if poses is not None:
        poses = match_poses(poses, count // len(views), cut=False)
    return cameras, poses, views


def _open_poses(path: Path) -> Motion:
    from canon.skeletons import Motion, Skeleton

    # Copied: what is mapped cannot be written to, which torch warns of.
    arrays = {name: np.array(values) for name, values in open_arrays(path).items()}
    names = tuple(str(name) for name in json.loads(arrays["names"].tobytes()))
    skeleton = Skeleton(names, tuple(int(above) for above in arrays["parents"]), arrays["offsets"])
    return Motion(skeleton, arrays["rotations"], arrays["root"], float(arrays["fps"][0]))
