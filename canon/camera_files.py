"""Cameras as other programs write them: nerfstudio, COLMAP, HumanNeRF, and our own plain JSON.

Everything is converted here to what :mod:`canon.cameras` says: OpenCV's axes, pixel centres at integers; nerfstudio
and COLMAP count from the picture's corner, half a pixel further.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from canon.cameras import Camera, pinhole
from canon.coordinates import Size
from canon.errors import InputError
from canon.storage import image_size, inside, write_json

_COLMAP = (
    ("SIMPLE_PINHOLE", "fcC"),
    ("PINHOLE", "fFcC"),
    ("SIMPLE_RADIAL", "fcC1"),
    ("RADIAL", "fcC12"),
    ("OPENCV", "fFcC12pP"),
    ("OPENCV_FISHEYE", "fFcC1234"),
    ("FULL_OPENCV", "fFcC12pP3456"),
    ("FOV", ""),
    ("SIMPLE_RADIAL_FISHEYE", "fcC1"),
    ("RADIAL_FISHEYE", "fcC12"),
    ("THIN_PRISM_FISHEYE", ""),
)
"""COLMAP's models by their number, and their parameters: focal lengths, centre, coefficients; "" cannot be read."""
_NERFSTUDIO = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV_FISHEYE")


@dataclass(frozen=True)
class View:
    """A camera, and the picture that it took.

    Attributes:
        name: of the picture, without its folder.
        image: the picture, if the file says where it is.
    """

    name: str
    camera: Camera
    image: Path | None = None


def read_cameras(path: str | Path) -> list[View]:
    """Views in the order of the file, or by name.

    Args:
        path: ``transforms.json`` of nerfstudio or instant-ngp, ``metadata.json`` of HumanNeRF, ``cameras.json`` with
            OpenCV's matrices, a COLMAP model (the folder of ``cameras.bin`` or ``cameras.txt``), or a folder that holds
            one of these.

    Raises:
        InputError: nothing of these is there, or it cannot be read, is damaged, or names files outside of its folder.
    """
    found = _find(Path(path))
    try:
        if found.is_dir():
            return list(_colmap(found))
        content = json.loads(found.read_text())
        if not isinstance(content, dict):
            raise TypeError("it holds no object")
        return list(_json_reader(content)(content, found))
    except InputError as error:
        raise InputError(f"The cameras of '{found}' cannot be used: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise InputError(f"The cameras of '{found}' cannot be read: {what}.") from error


def write_cameras(path: Path, cameras: Mapping[str, Camera]) -> None:
    """Write ``cameras.json``, which :func:`read_cameras` reads back to the last bit.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    content = {
        name: {
            "width": one.size[1],
            "height": one.size[0],
            "K": one.intrinsics.tolist(),
            "R": one.rotation.tolist(),
            "t": one.translation.tolist(),
            "distortion": list(one.distortion),
            "fisheye": one.fisheye,
        }
        for name, one in cameras.items()
    }
    write_json(path, {"convention": "OpenCV: x_cam = R @ x_world + t; pixel centres at integers", "cameras": content})


def is_human_nerf(path: Path) -> bool:
    """Whether a JSON file is the ``metadata.json`` of HumanNeRF, rather than somebody else's of that name."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and _holds_human_nerf(content)


def _holds_human_nerf(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(isinstance(one, dict) and "cam_intrinsics" in one for one in content.values())


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("transforms.json", "cameras.json", "metadata.json"):
        if (path / name).is_file():
            return path / name
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0"):
        if any((folder / f"cameras.{ending}").is_file() for ending in ("bin", "txt")):
            return folder
    raise InputError(
        f"There are no cameras in '{path}'; give a transforms.json, cameras.json, metadata.json, or a COLMAP model."
    )


def _json_reader(content: Mapping[str, Any]) -> Callable[[Mapping[str, Any], Path], Iterator[View]]:
    if isinstance(content.get("frames"), list):
        return _nerfstudio
    if isinstance(content.get("cameras"), dict):
        return _plain
    if _holds_human_nerf(content):
        return _human_nerf
    raise InputError("it is neither a transforms.json, nor a cameras.json, nor a metadata.json of HumanNeRF.")


def _nerfstudio(content: Mapping[str, Any], path: Path) -> Iterator[View]:
    for frame in content["frames"]:
        own = {**content, **frame}
        if (kind := str(own.get("camera_model", "OPENCV"))) not in _NERFSTUDIO:
            raise InputError(f"a camera of the model {kind} is none of {', '.join(_NERFSTUDIO)}.")
        name = str(frame["file_path"])
        image = _image(path.parent, name)
        size = _size(own, image)
        fisheye = "FISHEYE" in kind or bool(own.get("is_fisheye"))
        if own.get("k4") and not fisheye:
            raise InputError("a k4 that is not 0 is no coefficient of OpenCV's lens; undistort the pictures first.")
        names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")[: 5 if own.get("k3") else 4]
        lens = [float(own.get(key) or 0) for key in names]
        centre = [float(own.get("cx", size[1] / 2)) - 0.5, float(own.get("cy", size[0] / 2)) - 0.5]
        pose = np.array(frame["transform_matrix"], np.float64)
        yield View(
            Path(name).name,
            Camera.from_opengl(
                size, pinhole(_focal(own, size), centre), pose, lens if any(lens) else (), fisheye=fisheye
            ),
            image,
        )


def _image(folder: Path, name: str) -> Path | None:
    """A picture that a file names, if it is there."""
    path = inside(folder, name)
    candidates = (path, *(path.with_name(path.name + ending) for ending in (".png", ".jpg", ".jpeg")))
    return next((one for one in candidates if one.is_file()), None)


def _size(own: Mapping[str, Any], image: Path | None) -> Size:
    if "w" in own and "h" in own:
        return int(own["h"]), int(own["w"])
    if image is None:
        raise InputError("neither a picture nor 'w' and 'h' tell its size.")
    return image_size(image)


def _focal(own: Mapping[str, Any], size: Size) -> tuple[float, float]:
    if "fl_x" in own:
        return float(own["fl_x"]), float(own.get("fl_y", own["fl_x"]))
    if "camera_angle_x" not in own:
        raise InputError("neither 'fl_x' nor 'camera_angle_x' tells a focal length.")
    across = size[1] / 2 / np.tan(float(own["camera_angle_x"]) / 2)
    down = size[0] / 2 / np.tan(float(own["camera_angle_y"]) / 2) if "camera_angle_y" in own else across
    return across, down


def _plain(content: Mapping[str, Any], path: Path) -> Iterator[View]:
    for name, own in content["cameras"].items():
        size = int(own["height"]), int(own["width"])
        lens = own.get("distortion", own.get("dist_k1k2p1p2", ()))
        image = _image(path.parent, str(own["image"])) if "image" in own else None
        matrix, rotation, translation = (np.array(own[key], np.float64) for key in ("K", "R", "t"))
        fisheye = bool(own.get("fisheye"))
        yield View(str(name), Camera(size, matrix, rotation, translation, tuple(lens), fisheye=fisheye), image)


def _human_nerf(content: Mapping[str, Any], path: Path) -> Iterator[View]:
    for name, own in content.items():
        image = _image(path.parent / "images", name)
        if image is None:
            raise InputError(f"there is no picture '{name}' in its folder 'images'.")
        pose = np.array(own["cam_extrinsics"], np.float64)
        if pose.shape != (4, 4):
            raise InputError(f"the 'cam_extrinsics' of '{name}' are not 4x4 numbers.")
        camera = Camera(_size({}, image), np.array(own["cam_intrinsics"], np.float64), pose[:3, :3], pose[:3, 3])
        yield View(image.name, camera, image)


def _colmap(folder: Path) -> Iterator[View]:
    binary = (folder / "cameras.bin").is_file()
    cameras = dict(_colmap_cameras_binary(folder) if binary else _colmap_cameras_text(folder))
    images = _colmap_images_binary(folder) if binary else _colmap_images_text(folder)
    root = next((one for one in (folder, *folder.parents[:3]) if (one / "images").is_dir()), None)
    for name, number, turn, shift in sorted(images, key=lambda one: one[0]):
        size, intrinsics, lens, fisheye = cameras[number]
        image = None if root is None else _image(root / "images", name)
        yield View(Path(name).name, Camera(size, intrinsics, _rotation(turn), shift, lens, fisheye=fisheye), image)


_Lens = tuple[Size, np.ndarray, tuple[float, ...], bool]
_Posed = tuple[str, int, np.ndarray, np.ndarray]


def _colmap_camera(model: str, width: int, height: int, values: np.ndarray) -> _Lens:
    signs = dict(_COLMAP).get(model, "")
    if not signs:
        readable = ", ".join(name for name, known in _COLMAP if known)
        raise InputError(f"a camera of COLMAP's model {model} is none of {readable}; undistort the pictures first.")
    own = dict(zip(signs, map(float, values), strict=True))
    fisheye = "FISHEYE" in model
    order = "1234" if fisheye else "12pP3456" if "3" in own else "12pP"
    lens = tuple(own.get(sign, 0.0) for sign in order)
    intrinsics = pinhole((own["f"], own.get("F", own["f"])), (own["c"] - 0.5, own["C"] - 0.5))
    return (height, width), intrinsics, lens if any(lens) else (), fisheye


def _colmap_cameras_text(folder: Path) -> Iterator[tuple[int, _Lens]]:
    for line in _lines(folder / "cameras.txt"):
        number, model, width, height, *values = line.split()
        yield int(number), _colmap_camera(model, int(width), int(height), np.array(values, np.float64))


def _colmap_images_text(folder: Path) -> Iterator[_Posed]:
    for line in _lines(folder / "images.txt", blank=True)[::2]:
        _, *values, number, name = line.split(maxsplit=9)
        pose = np.array(values, np.float64)
        yield name, int(number), pose[:4], pose[4:]


def _lines(path: Path, blank: bool = False) -> list[str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if (line or blank) and not line.startswith("#")]


def _colmap_cameras_binary(folder: Path) -> Iterator[tuple[int, _Lens]]:
    with (folder / "cameras.bin").open("rb") as file:
        for _ in range(*_unpack(file, "<Q")):
            number, model, width, height = _unpack(file, "<iiQQ")
            name, signs = _COLMAP[model] if 0 <= model < len(_COLMAP) else (str(model), "")
            values = np.array(_unpack(file, f"<{len(signs)}d"))
            yield number, _colmap_camera(name, width, height, values)


def _colmap_images_binary(folder: Path) -> Iterator[_Posed]:
    with (folder / "images.bin").open("rb") as file:
        for _ in range(*_unpack(file, "<Q")):
            _, *values, number = _unpack(file, "<i7di")
            name = b"".join(iter(lambda: _unpack(file, "<c")[0], b"\0")).decode()
            (points,) = _unpack(file, "<Q")
            file.seek(24 * points, 1)  # where points were found in the picture
            pose = np.array(values)
            yield name, number, pose[:4], pose[4:]


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """Of a quaternion (w, x, y, z), float64 [3, 3]."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
