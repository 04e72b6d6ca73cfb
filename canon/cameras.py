"""Cameras that look into a world: pinholes with lens distortion.

Convention: a camera looks along +z with x to the right and y down (OpenCV), so that a point of the world is seen at
``rotation @ point + translation``; pixels are (x, y) with their centres at integers, like everywhere else
(:mod:`canon.coordinates`). Other conventions are converted where they are read (:mod:`canon.camera_files`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np

from canon.coordinates import Size
from canon.errors import InputError

_LENS = (0, 4, 5, 8)
"""Numbers of distortion coefficients that OpenCV's model of a lens takes; a fisheye takes 0 or 4."""
_WIDEST = 20.0
"""Tangent of the angle up to which a lens is looked at."""
_FAR_OUT = 1e6
"""Pixels from the middle at which what a lens cannot show is said to be."""
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 40, 1e-9)


@dataclass(frozen=True, eq=False)
class Camera:
    """One view of a world.

    Attributes:
        size: (height, width) of its pictures.
        intrinsics: float64 [3, 3].
        rotation: float64 [3, 3], from the world to the camera.
        translation: float64 [3].
        distortion: coefficients in OpenCV's order: k1, k2, p1, p2[, k3[, k4, k5, k6]], or k1 to k4 of a fisheye.
        fisheye: whether the lens is one (Kannala and Brandt, 2006).
    """

    size: Size
    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    distortion: tuple[float, ...] = ()
    fisheye: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: they are not finite, or are those of no camera.
        """
        for name, shape in (("intrinsics", (3, 3)), ("rotation", (3, 3)), ("translation", (3,))):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise InputError(f"A camera's {name} must be {'x'.join(map(str, shape))} finite numbers.")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "distortion", tuple(float(value) for value in self.distortion))
        if min(self.size) < 1 or self.intrinsics[0, 0] <= 0 or self.intrinsics[1, 1] <= 0:
            raise InputError("A camera's picture and focal lengths must be larger than 0.")
        if np.abs(self.rotation @ self.rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(self.rotation) < 0:
            raise InputError("A camera's rotation must be one: orthonormal, and no reflection.")
        allowed = (0, 4) if self.fisheye else _LENS
        if len(self.distortion) not in allowed or not np.isfinite(self.distortion).all():
            raise InputError(f"A camera's distortion must be {' or '.join(map(str, allowed))} finite numbers.")

    @classmethod
    def from_opengl(
        cls,
        size: Size,
        intrinsics: np.ndarray,
        camera_to_world: np.ndarray,
        distortion: Sequence[float] = (),
        *,
        fisheye: bool = False,
    ) -> Camera:
        """A camera of a pose in the manner of OpenGL, Blender and nerfstudio: it looks along -z, with y up.

        Args:
            camera_to_world: float [3 or 4, 4].
        """
        pose = np.asarray(camera_to_world, np.float64)
        if pose.shape not in ((3, 4), (4, 4)):
            raise InputError("A camera's pose must be 3x4 or 4x4 numbers.")
        rotation = (pose[:3, :3] * np.array([1.0, -1.0, -1.0])).T
        return cls(size, intrinsics, rotation, -rotation @ pose[:3, 3], tuple(distortion), fisheye=fisheye)

    def to_opengl(self) -> np.ndarray:
        """The pose in the manner of OpenGL, float64 [4, 4]: inverse of :meth:`from_opengl`."""
        pose = np.eye(4)
        pose[:3, :3] = self.rotation.T * np.array([1.0, -1.0, -1.0])
        pose[:3, 3] = self.position
        return pose

    @property
    def position(self) -> np.ndarray:
        """Where it stands in the world, float64 [3]."""
        return -self.rotation.T @ self.translation

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points of the world are seen.

        Args:
            points: float [..., 3].

        Returns:
            pixels: float64 [..., 2] as (x, y), also of points beside the picture; very far from it beyond
                :attr:`reach`, and meaningless behind the camera.
            depth: float64 [...], along the camera's axis; above 0 in front of it.
        """
        flat = np.ascontiguousarray(points, np.float64).reshape(-1, 3)
        shape = np.shape(points)[:-1]
        # Moved here: OpenCV takes turns as vectors, and those of less than some 1e-5 as none.
        seen = flat @ self.rotation.T + self.translation
        depth = seen[:, 2]
        if not len(flat):
            return np.zeros((*shape, 2)), depth.reshape(shape)
        kind = cv2.fisheye if self.fisheye else cv2
        found, _ = kind.projectPoints(seen[:, None], np.zeros(3), np.zeros(3), self.intrinsics, self._lens)
        if self.reach < np.inf:
            # Further out the lens's polynomial turns back, and would show there what is not in the picture.
            flat = seen[:, :2] / np.where(np.abs(depth) < 1e-12, 1e-12, depth)[:, None]
            radius = np.linalg.norm(flat, axis=1)
            beyond = radius > self.reach
            found = np.array(found).reshape(-1, 2)
            middle = self.intrinsics[:2, 2]
            found[beyond] = middle + _FAR_OUT * flat[beyond] / radius[beyond, None]
        return np.asarray(found, np.float64).reshape(*shape, 2), depth.reshape(shape)

    def directions(self, pixels: np.ndarray) -> np.ndarray:
        """Where rays through pixels go in the world, from :attr:`position`; inverse of :meth:`project`.

        Args:
            pixels: float [..., 2] as (x, y).

        Returns:
            float64 [..., 3] of length 1.
        """
        shape = np.shape(pixels)[:-1]
        flat = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
        if not len(flat):
            return np.zeros((*shape, 3))
        kind = cv2.fisheye if self.fisheye else cv2
        seen = kind.undistortPoints(flat, self.intrinsics, self._lens, criteria=_STOP)
        rays = np.concatenate([np.asarray(seen).reshape(-1, 2), np.ones((len(flat), 1))], axis=1) @ self.rotation
        return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True)).reshape(*shape, 3)

    @cached_property
    def reach(self) -> float:
        """Tangent of the largest angle from the axis that the lens's model holds for; infinite if there is none."""
        if self.fisheye or not any(self.distortion):
            return float(np.inf)
        k1, k2, _, _, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * (8 - len(self.distortion)))
        r = np.linspace(0, _WIDEST, 4001)[1:]
        square = r**2
        above = 1 + square * (k1 + square * (k2 + square * k3))
        below = 1 + square * (k4 + square * (k5 + square * k6))
        shown = r * above / np.where(np.abs(below) < 1e-9, 1e-9, below)
        falls = np.flatnonzero(np.diff(shown) <= 0)
        return float(r[falls[0]]) if len(falls) else float(np.inf)

    @property
    def _lens(self) -> np.ndarray:
        return np.array(self.distortion or (0.0,) * 4)

    def resized(self, size: Size) -> Camera:
        """The same camera with pictures of another size (height, width)."""
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0], 1.0])
        intrinsics = self.intrinsics * scale[:, None]
        intrinsics[:2, 2] += (scale[:2] - 1) / 2  # the middle of the first pixel is not the picture's corner
        return replace(self, size=size, intrinsics=intrinsics)


def pinhole(focal: Sequence[float], centre: Sequence[float]) -> np.ndarray:
    """Intrinsics float64 [3, 3] of focal lengths (x, y) and a principal point (x, y), in pixels."""
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]], np.float64)


def look_at(
    size: Size,
    intrinsics: np.ndarray,
    place: np.ndarray,
    target: np.ndarray,
    distortion: Sequence[float] = (),
    up: Sequence[float] = (0.0, 1.0, 0.0),
) -> Camera:
    """A camera at a place that looks at another, upright.

    Raises:
        InputError: the two are the same, or it would look straight along ``up``.
    """
    ahead = np.asarray(target, np.float64) - place
    right = np.cross(ahead, up)
    if min(np.linalg.norm(ahead), np.linalg.norm(right)) < 1e-9:
        raise InputError("A camera must look at another place than its own, and not straight up or down.")
    ahead, right = ahead / np.linalg.norm(ahead), right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return Camera(size, intrinsics, rotation, -rotation @ place, tuple(distortion))
