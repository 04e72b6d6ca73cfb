"""Where cameras stand that look at a person while their field is optimised, and which poses they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from canon.cameras import Camera, look_at, pinhole
from canon.coordinates import Size
from canon.editors.spatial.parts import joints_of
from canon.errors import InputError
from canon.skeletons import Motion, axis_rotation
from canon.spatial import SpatialFit

Pose = tuple[np.ndarray, np.ndarray]

_HALF_ANGLE = np.radians(20.0)
"""Half of a camera's field of view."""
_ELEVATIONS = (-10.0, 30.0)
"""Degrees between which cameras look down."""
_BEYOND = 0.09
"""What lies beyond the joints of a body, as a share of its height: the crown, and flesh."""
_BENT = 0.25
"""Radians (standard deviation) by which joints of random poses are bent."""
CLOSE_UPS = ("head", "torso", "legs")
_SIDES = ((45.0, "front view"), (135.0, "side view"), (181.0, "back view"))


@dataclass(frozen=True, eq=False)
class Shot:
    """One view.

    Attributes:
        t: frame whose state and place in time it is of.
        kind: reference, source or random, whose pose it is.
        azimuth, elevation: degrees; 0 is the person's front, and 90 their left.
        part: one of the body's parts that it is a close-up of; "" = all of it.
    """

    t: int
    camera: Camera
    pose: Pose
    kind: str
    azimuth: float
    elevation: float
    part: str = ""

    @property
    def side(self) -> str:
        """What people call where it is seen from."""
        return next(words for most, words in _SIDES if abs(self.azimuth) < most)


@dataclass(frozen=True)
class Shares:
    """How views are drawn.

    Attributes:
        poses: shares of the pose of the reference frame, of those of the clip, and of random ones.
        close_ups: share of close-ups among them.
    """

    poses: tuple[float, float, float] = (0.4, 0.4, 0.2)
    close_ups: float = 0.3


class Shots:
    """Draws views of a person, by seed and number alone."""

    def __init__(
        self, fit: SpatialFit, size: Size, shares: Shares, reference: int, parts: Sequence[str] = (), seed: int = 0
    ) -> None:
        """Prepare.

        Args:
            size: (height, width) of a view.
            reference: frame whose pose is the reference.
            parts: of the body that close-ups are of; none = :data:`CLOSE_UPS`.

        Raises:
            InputError: the fit has no person.
        """
        if fit.clip.poses is None or "human" not in fit.layers:
            raise InputError("This fit has no person; fit a clip with --poses first.")
        self.fit, self.size, self.shares, self.reference, self.seed = fit, size, shares, fit.index(reference), seed
        self.skeleton = fit.clip.poses.skeleton
        self.parts = tuple(parts) or CLOSE_UPS
        up = -np.mean([camera.rotation[1] for camera in fit.cameras], axis=0)
        self.up = up / max(np.linalg.norm(up), 1e-9)
        rest = self._joints((np.tile(np.eye(3, dtype=np.float32), (len(self.skeleton), 1, 1)), np.zeros(3, np.float32)))
        self.beyond = _BEYOND * float(np.ptp(rest, axis=0).max())

    def __call__(self, number: int) -> Shot:
        """The view of a number."""
        rng = np.random.default_rng([self.seed, number])
        kinds, shares = ("reference", "source", "random"), np.array(self.shares.poses)
        kind = kinds[int(rng.choice(3, p=shares / shares.sum()))]
        t = self.reference if kind == "reference" else int(rng.integers(len(self.fit)))
        pose = self.pose(t)
        if kind == "random":
            pose = self._bent(pose, rng)
        part = str(rng.choice(self.parts)) if rng.random() < self.shares.close_ups else ""
        return self.around(t, pose, kind, float(rng.uniform(-180, 180)), float(rng.uniform(*_ELEVATIONS)), part)

    def pose(self, t: int) -> Pose:
        """Of a frame."""
        found = self.fit.posed(t)
        assert found is not None
        return found

    def around(self, t: int, pose: Pose, kind: str, azimuth: float, elevation: float, part: str = "") -> Shot:
        """A view from somewhere around, as far away as shows all of the person, or of the part."""
        target, radius = self._framed(pose, part)
        front, left = self._front(pose)
        angle, down = np.radians(azimuth), np.radians(elevation)
        way = np.cos(down) * (np.cos(angle) * front + np.sin(angle) * left) + np.sin(down) * self.up
        focal = 0.5 * min(self.size) / np.tan(_HALF_ANGLE)
        matrix = pinhole((focal, focal), ((self.size[1] - 1) / 2, (self.size[0] - 1) / 2))
        place = target + way * radius / np.sin(_HALF_ANGLE)
        camera = look_at(self.size, matrix, place, target, up=self.up.tolist())
        return Shot(t, camera, pose, kind, azimuth, elevation, part)

    def seen_from(self, t: int) -> tuple[float, float]:
        """Azimuth and elevation in degrees from which frame ``t`` shows the person."""
        pose = self.pose(t)
        front, left = self._front(pose)
        away = self.fit.cameras[t].position - self._framed(pose, "")[0]
        flat = away - self.up * (away @ self.up)
        across = float(np.linalg.norm(flat))
        return (
            float(np.degrees(np.arctan2(flat @ left, flat @ front))),
            float(np.degrees(np.arctan2(away @ self.up, across))),
        )

    def _joints(self, pose: Pose) -> np.ndarray:
        return np.asarray(Motion(self.skeleton, pose[0][None], pose[1][None], 1.0).joints[0], np.float64)

    def _framed(self, pose: Pose, part: str) -> tuple[np.ndarray, float]:
        """The middle [3] of what is to be seen, and how far it reaches from there."""
        joints = self._joints(pose)
        if part:
            own = {self.skeleton.names.index(name) for name in joints_of(self.skeleton, (part,))}
            joints = joints[[k for k, above in enumerate(self.skeleton.parents) if k in own or above in own]]
        middle = (joints.min(axis=0) + joints.max(axis=0)) / 2
        return middle, float(np.linalg.norm(joints - middle, axis=1).max()) + self.beyond

    def _front(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Level directions [3] in which the person looks, and to their left."""
        ahead = np.asarray(pose[0][0], np.float64)[:, 2]
        level = ahead - self.up * (ahead @ self.up)
        if np.linalg.norm(level) < 1e-3:  # they lie down
            level = np.cross(self.up, [1.0, 0.0, 0.0])
        level = level / np.linalg.norm(level)
        return level, np.cross(self.up, level)

    def _bent(self, pose: Pose, rng: np.random.Generator) -> Pose:
        rotations = np.array(pose[0])
        for k in range(1, len(rotations)):
            for axis in range(3):
                rotations[k] = rotations[k] @ axis_rotation(axis, np.array(rng.normal(0, _BENT)))
        return rotations.astype(np.float32), pose[1]
