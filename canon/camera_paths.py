"""Ways of a camera through a world: around what a clip shows, or as nerfstudio's viewer writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from canon.cameras import Camera, look_at, pinhole
from canon.coordinates import Size
from canon.errors import InputError
from canon.storage import write_json

_MOST = 100_000
"""Frames of a path at most."""


def read_path(path: str | Path, size: Size) -> list[Camera]:
    """The cameras of a camera path of nerfstudio (``camera_path`` with ``camera_to_world`` and ``fov``).

    Size and aspect that the file names are not used. Its field of view is that from top to bottom, so a path that was
    made for wider pictures loses its sides here, and one for narrower pictures shows more there.

    Args:
        size: (height, width) of the pictures.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    place = Path(path)
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        kind = str(content.get("camera_type", "perspective"))
        if kind != "perspective":
            raise InputError(f"'{place}' is a path of a {kind} camera; only perspective ones can be followed.")
        frames = content["camera_path"]
        if not frames or len(frames) > _MOST:
            raise ValueError(f"it has {len(frames)} frames")
        return [_camera(frame, size) for frame in frames]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise InputError(f"The camera path '{place}' cannot be read: {what}.") from error


def is_path(path: str | Path) -> bool:
    """Whether a file is a camera path, and no file of cameras."""
    try:
        return "camera_path" in json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _camera(frame: dict[str, Any], size: Size) -> Camera:
    pose = np.array(frame["camera_to_world"], np.float64).reshape(4, 4)
    fov = float(frame["fov"])
    if not 0 < fov < 180:
        raise ValueError(f"a field of view of {fov} degrees")
    focal = size[0] / 2 / np.tan(np.radians(fov) / 2)  # the field of view is that from top to bottom
    return Camera.from_opengl(size, pinhole((focal, focal), ((size[1] - 1) / 2, (size[0] - 1) / 2)), pose)


def write_path(path: str | Path, cameras: Sequence[Camera], fps: float = 30.0) -> None:
    """Write cameras without distortion as a camera path of nerfstudio; inverse of :func:`read_path`."""
    height, width = cameras[0].size
    frames = []
    for camera in cameras:
        fov = 2 * np.degrees(np.arctan(height / 2 / camera.intrinsics[1, 1]))
        frames.append(
            {"camera_to_world": camera.to_opengl().ravel().tolist(), "fov": float(fov), "aspect": width / height}
        )
    write_json(
        Path(path),
        {
            "camera_type": "perspective",
            "render_height": height,
            "render_width": width,
            "fps": fps,
            "seconds": len(cameras) / fps,
            "camera_path": frames,
        },
    )


def orbit(cameras: Sequence[Camera], centre: np.ndarray, count: int, degrees: float = 360.0) -> list[Camera]:
    """Cameras that go round a centre as far from it and as high as a clip's cameras are, looking at it.

    Args:
        cameras: of the clip; "up" and the first place are theirs.
        centre: float [3].
        degrees: of the arc, which begins at the first camera.
    """
    up = -np.mean([camera.rotation[1] for camera in cameras], axis=0)
    up = up / max(np.linalg.norm(up), 1e-9)
    first = cameras[0]
    away = first.position - centre
    height = float(away @ up)
    flat = away - up * height
    reach = np.linalg.norm(flat)
    if reach < 1e-6:
        raise InputError("The cameras look straight down, and no orbit can be found; give a camera path.")
    ahead, side = flat / reach, np.cross(up, flat / reach)
    found = []
    for angle in np.radians(np.arange(count) * degrees / max(count, 1)):
        place = centre + up * height + reach * (np.cos(angle) * ahead + np.sin(angle) * side)
        found.append(replace(look_at(first.size, first.intrinsics, place, centre, up=up.tolist()), distortion=()))
    return found
