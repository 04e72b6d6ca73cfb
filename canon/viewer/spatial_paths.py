"""Cameras of the viewer in three dimensions, and the ways that are recorded with them.

Convention: both sides use OpenCV's axes (x right, y down, z ahead), and quaternions are (w, x, y, z), from the camera
to the world. The viewer's cameras have square pixels and look through the middle of their picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial.transform import Rotation, RotationSpline

from canon.camera_paths import read_path, write_path
from canon.cameras import Camera, pinhole
from canon.coordinates import Size
from canon.errors import InputError
from canon.storage import inside, write_json

MOST_KEYFRAMES, MOST_FRAMES = 200, 10_000
_LARGEST = 64 << 20
"""Bytes of a file of a path that is read."""
_SAMPLED = 12
"""Keyframes that a path without any is given."""


@dataclass(frozen=True, eq=False)
class Eye:
    """Where somebody looks from.

    Attributes:
        position: float64 [3].
        wxyz: float64 [4].
        fov: field of view from top to bottom, in radians.
    """

    position: np.ndarray
    wxyz: np.ndarray
    fov: float

    @classmethod
    def of(cls, camera: Camera) -> Eye:
        """That of a camera, but for its lens and its principal point."""
        x, y, z, w = Rotation.from_matrix(camera.rotation.T).as_quat()
        fov = 2 * np.arctan(camera.size[0] / 2 / camera.intrinsics[1, 1])
        return cls(np.array(camera.position, np.float64), np.array([w, x, y, z]), float(fov))

    @property
    def turn(self) -> Rotation:
        """From the camera's axes to the world's."""
        return Rotation.from_quat(np.roll(self.wxyz, -1))

    def camera(self, size: Size) -> Camera:
        """The camera that takes pictures of a size (height, width) from there.

        Raises:
            InputError: numbers are not finite, or the field of view is not between 0 and half a turn.
        """
        if not 0 < self.fov < np.pi or not np.isfinite([*self.position, *self.wxyz]).all():
            raise InputError(f"A camera cannot look with a field of view of {self.fov:g} radians from there.")
        rotation = self.turn.as_matrix().T
        focal = size[0] / 2 / np.tan(self.fov / 2)
        middle = ((size[1] - 1) / 2, (size[0] - 1) / 2)
        return Camera(size, pinhole((focal, focal), middle), rotation, -rotation @ self.position)


def smooth(keyframes: Sequence[Eye], between: int) -> list[Eye]:
    """A way through keyframes, which are all on it: without jumps in position, direction or their speed.

    Args:
        between: frames from one keyframe to the next; keyframe k is frame k * between.

    Raises:
        InputError: there are no keyframes, or too many frames.
    """
    if not keyframes:
        raise InputError("A camera path needs keyframes; add at least one.")
    count = (len(keyframes) - 1) * between + 1
    if between < 1 or count > MOST_FRAMES:
        raise InputError(f"A camera path of {count} frames is too long; give at most {MOST_FRAMES}.")
    if len(keyframes) == 1:
        return [keyframes[0]]
    own = np.arange(len(keyframes), dtype=np.float64)
    times = np.arange(count) / between
    places = CubicSpline(own, np.stack([key.position for key in keyframes]), bc_type="natural")(times)
    turns = RotationSpline(own, Rotation.concatenate([key.turn for key in keyframes]))(times)
    fovs = PchipInterpolator(own, [key.fov for key in keyframes])(times)
    found = [
        Eye(place, np.roll(turn, 1), float(fov)) for place, turn, fov in zip(places, turns.as_quat(), fovs, strict=True)
    ]
    found[::between] = keyframes
    return found


def child(folder: Path, name: str, suffix: str) -> Path:
    """A file of a folder by its name without suffix, as somebody typed it.

    Raises:
        InputError: the name cannot be a file's, or leads out of the folder.
    """
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name):
        raise InputError(f"The name '{name[:100]}' cannot be a file's; use letters, digits, '-' and '_'.")
    inside(folder, name + suffix)
    return folder / (name + suffix)


def save_keyframes(path: Path, keyframes: Sequence[Eye], between: int, size: Size, fps: float) -> list[Camera]:
    """Write a path for ``canon render --camera`` and for nerfstudio, with its keyframes; returns its cameras."""
    cameras = [eye.camera(size) for eye in smooth(keyframes, between)]
    write_path(path, cameras, fps)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    aspect = size[1] / size[0]
    content["default_transition_sec"] = between / fps
    content["keyframes"] = [
        {"matrix": key.camera(size).to_opengl().ravel().tolist(), "fov": float(np.degrees(key.fov)), "aspect": aspect,
         "override_transition_enabled": False, "override_transition_sec": None}
        for key in keyframes
    ]  # fmt: skip
    write_json(path, content)
    return cameras


def load_keyframes(path: Path, size: Size) -> list[Eye]:
    """The keyframes of a path; of one without any, some of its frames.

    Raises:
        InputError: it cannot be read, or is no path.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise InputError(f"The camera path '{path.name}' is missing or larger than {_LARGEST >> 20} MiB.")
    cameras = read_path(path, size)
    try:
        entries = json.loads(path.read_text(encoding="utf-8")).get("keyframes") or []
        found = [_keyframe(entry, size) for entry in entries[:MOST_KEYFRAMES]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's; its frames were read
        found = []
    if found:
        return found
    chosen = np.unique(np.linspace(0, len(cameras) - 1, min(len(cameras), _SAMPLED)).round().astype(int))
    return [Eye.of(cameras[k]) for k in chosen]


def _keyframe(entry: dict[str, Any], size: Size) -> Eye:
    pose = np.array(entry["matrix"], np.float64).reshape(4, 4)
    fov = np.radians(float(entry["fov"]))
    if not 0 < fov < np.pi:
        raise ValueError(f"a field of view of {entry['fov']} degrees")
    focal = size[0] / 2 / np.tan(fov / 2)
    return Eye.of(Camera.from_opengl(size, pinhole((focal, focal), ((size[1] - 1) / 2, (size[0] - 1) / 2)), pose))
