"""A synthetic person in a room: any motion, from any viewpoint, with all that is true of it.

The body is the built-in one of :mod:`canon.bodies`: its capsules move rigidly with their joints, so that every pixel's
place in the rest pose is known exactly. The room is a box. Nothing is lit: colours are those of the surface. Rays are
cut with both in closed form. The world's axes are those of the body, in metres, with the floor at y = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from canon.bodies import BodyModel, capsule_body
from canon.bvh import read_bvh
from canon.camera_files import write_cameras
from canon.cameras import Camera, look_at, pinhole
from canon.clip import Clip
from canon.errors import InputError
from canon.poses import save_poses
from canon.retargeting import resample, retarget
from canon.skeletons import Motion, axis_rotation
from canon.storage import to_uint8, write_image

_ROOM = (np.array([-2.6, 0.0, -2.6]), np.array([2.6, 2.7, 2.6]))
_FAR = 1e9
_OVERSAMPLED = 3
"""Rays along a side of a pixel."""

Colour = tuple[float, float, float]
Pose = tuple[np.ndarray, np.ndarray]
"""Rotations of the joints float32 [J, 3, 3], and where the pelvis is, float32 [3]."""


@dataclass(frozen=True)
class HumanSceneConfig:
    """Everything that a person in a room is made from."""

    width: int = 96
    """Frame width in pixels."""
    height: int = 96
    """Frame height in pixels."""
    frames: int = 40
    """Number of frames."""
    motion: str = "walk"
    """What the person does: "walk" (on the spot), "wave", "turn", or the motion of a .bvh file."""
    fps: float = 24.0
    """Frames per second."""
    body_height: float = 1.7
    """Of the person, in metres."""
    orbit: float = 70.0
    """Degrees that the camera goes round the person in all frames together."""
    distance: float = 2.3
    """Of the camera from the person, in metres."""
    distortion: tuple[float, ...] = ()
    """Of the camera's lens; see :class:`canon.cameras.Camera`."""
    shirt: tuple[Colour, Colour] = ((0.85, 0.25, 0.2), (0.95, 0.85, 0.7))
    """Of the stripes of the shirt: the same person with another one is what an edit is compared with."""

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 8 or self.frames < 1:
            raise InputError("A scene must have at least 8x8 pixels and 1 frame.")
        if self.motion not in _MOTIONS and not self.motion.lower().endswith(".bvh"):
            raise InputError(f"The motion '{self.motion}' is not known; give {', '.join(_MOTIONS)}, or a .bvh file.")


@dataclass(frozen=True)
class HumanView:
    """What a camera sees.

    Attributes:
        rgb: float32 [H, W, 3] in 0..1, averaged over each pixel.
        mask: float32 [H, W] in 0..1, the person's share of each pixel.
        depth: float32 [H, W], length along the ray through the pixel's centre.
        canonical: float32 [H, W, 3], place in the rest pose that the ray through the centre hits; NaN off the person.
        joint: int16 [H, W], with which that place moves; -1 off the person.
    """

    rgb: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    canonical: np.ndarray
    joint: np.ndarray


@dataclass(frozen=True)
class HumanScene:
    """A person who moves in a room, and a camera that goes round them."""

    config: HumanSceneConfig = field(default_factory=HumanSceneConfig)

    def __len__(self) -> int:
        return self.config.frames

    @cached_property
    def body(self) -> BodyModel:
        """In its rest pose."""
        return capsule_body(self.config.body_height)

    @cached_property
    def _recorded(self) -> Motion | None:
        """The motion of a file, for this body, where the room's middle is its first place."""
        if self.config.motion in _MOTIONS:
            return None
        return retarget(resample(read_bvh(self.config.motion), self.config.fps), self.body.skeleton)

    def pose(self, t: float) -> Pose:
        """Of a frame, or of a time between frames or beyond them; of a file, the nearest frame, again and again."""
        if self._recorded is not None:
            frame = round(t) % len(self._recorded)
            return self._recorded.rotations[frame], self._recorded.root[frame]
        names = self.body.skeleton.names
        rotations = np.tile(np.eye(3), (len(names), 1, 1))
        for name, turn in _MOTIONS[self.config.motion](t).items():
            rotations[names.index(name)] = turn
        root = np.array([0.0, -float(self.body.box[0][1]) + 0.01, 0.0])
        return rotations.astype(np.float32), root.astype(np.float32)

    def camera(self, t: float) -> Camera:
        """Of a frame, or of a time between frames."""
        share = t / max(self.config.frames - 1, 1) - 0.5
        return self.orbiting(self.config.orbit * share, 1.25 + 0.25 * np.sin(2 * np.pi * share))

    def orbiting(self, degrees: float, height: float = 1.25) -> Camera:
        """A camera that looks at the person from the side; 0 degrees is their front."""
        own = self.config
        angle = np.radians(degrees)
        place = np.array([own.distance * np.sin(angle), height, own.distance * np.cos(angle)])
        focal = 1.05 * own.height * own.distance / (1.4 * own.body_height)
        centre = (own.width - 1) / 2, (own.height - 1) / 2
        matrix = pinhole((focal, focal), centre)
        return look_at(
            (own.height, own.width), matrix, place, np.array([0.0, 0.52 * own.body_height, 0.0]), own.distortion
        )

    def frame(self, t: int) -> HumanView:
        """A frame of the video."""
        return self.view(self.camera(t), self.pose(t))

    def motion(self) -> Motion:
        """The poses of all frames."""
        poses = [self.pose(t) for t in range(len(self))]
        rotations, root = (np.stack(parts) for parts in zip(*poses, strict=True))
        return Motion(self.body.skeleton, rotations, root, self.config.fps)

    def clip(self, cache: str | Path | None = None) -> Clip:
        """The video with its masks (layer "human"), cameras and poses."""
        views = [self.frame(t) for t in range(len(self))]
        return Clip.from_frames(
            (to_uint8(view.rgb) for view in views),
            fps=self.config.fps,
            masks={"human": np.stack([view.mask for view in views])},
            source=f"synthetic person ({self.config.motion})",
            cache=cache,
            cameras=[self.camera(t) for t in range(len(self))],
            poses=self.motion(),
        )

    def save(self, folder: Path) -> None:
        """Write ``frames/``, ``masks/``, ``cameras.json`` and ``poses.npz``, as a person would have them."""
        for t in range(len(self)):
            view = self.frame(t)
            write_image(folder / "frames" / f"{t:05d}.png", to_uint8(view.rgb))
            write_image(folder / "masks" / f"{t:05d}.png", to_uint8(view.mask))
        write_cameras(folder / "cameras.json", {f"{t:05d}": self.camera(t) for t in range(len(self))})
        save_poses(self.motion(), folder / "poses.npz")

    def view(self, camera: Camera, pose: Pose | None = None) -> HumanView:
        """What a camera sees of a pose; of the empty room without one."""
        height, width = camera.size
        inner = (np.arange(_OVERSAMPLED) + 0.5) / _OVERSAMPLED - 0.5
        total, share = np.zeros((height, width, 3)), np.zeros((height, width))
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
        moved = None if pose is None else self.body.moved(*(torch.from_numpy(part).double() for part in pose)).numpy()
        centre = None
        for dy in inner:
            for dx in inner:
                hit = self._hit(camera, grid + np.array([dx, dy]), moved)
                total += hit.rgb
                share += hit.mask
                if dx == 0 and dy == 0:
                    centre = hit
        assert centre is not None
        count = _OVERSAMPLED**2
        return HumanView(
            (total / count).astype(np.float32),
            (share / count).astype(np.float32),
            centre.depth,
            centre.canonical,
            centre.joint,
        )

    def _hit(self, camera: Camera, pixels: np.ndarray, moved: np.ndarray | None) -> HumanView:
        directions = camera.directions(pixels)
        shape = directions.shape[:-1]
        ways = directions.reshape(-1, 3)
        depth = room_depth(camera.position, ways)
        rgb = _room_colour(camera.position + ways * depth[:, None])
        canonical = np.full((len(ways), 3), np.nan)
        joint = np.full(len(ways), -1)
        if moved is not None:
            bones = self.body.bones
            number, near = nearest_capsule(self.body, moved, camera.position, ways)
            on = near < depth
            joint[on] = bones.joint.numpy()[number[on]]
            back = moved[joint[on]]
            places = camera.position + ways[on] * near[on, None]
            canonical[on] = np.einsum("nba,nb->na", back[:, :3, :3], places - back[:, :3, 3])
            rgb[on] = _skin_colour(canonical[on], joint[on], self.config)
            depth = np.where(on, near, depth)
        return HumanView(
            rgb.reshape(*shape, 3),
            (joint >= 0).astype(np.float64).reshape(shape),
            depth.astype(np.float32).reshape(shape),
            canonical.astype(np.float32).reshape(*shape, 3),
            joint.astype(np.int16).reshape(shape),
        )


def room_depth(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """From inside of the room to its walls along rays [N, 3], float64 [N]."""
    safe = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    return np.asarray(np.maximum((_ROOM[0] - origin) / safe, (_ROOM[1] - origin) / safe).min(axis=1))


def nearest_capsule(
    body: BodyModel, moved: np.ndarray, origin: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from outside meet a posed body first.

    Args:
        moved: float64 [J, 4, 4]; see :meth:`canon.bodies.BodyModel.moved`.
        directions: float64 [N, 3] of length 1.

    Returns:
        number: int64 [N], of the bone.
        depth: float64 [N]; very large where nothing is met.
    """
    bones = body.bones
    own = moved[bones.joint.numpy()]
    start, end = (
        np.einsum("bij,bj->bi", own[:, :3, :3], part.double().numpy()) + own[:, :3, 3]
        for part in (bones.start, bones.end)
    )
    radius = bones.radius.double().numpy()
    axis = end - start
    length2 = (axis**2).sum(axis=1)
    apart = origin - start
    # The tube: all that is as far from the axis as the radius says, between the two ends.
    along, ahead = directions @ axis.T, directions @ apart.T
    beside = (axis * apart).sum(axis=1)
    a = length2 - along**2
    b = length2 * ahead - beside * along
    c = length2 * (apart**2).sum(axis=1) - beside**2 - radius**2 * length2
    found = _first_root(a, b, c)
    at = beside + found * along
    found = np.where((at >= 0) & (at <= length2), found, _FAR)
    for place in (start, end):
        away = origin - place
        sphere = _first_root(np.ones_like(along), directions @ away.T, (away**2).sum(axis=1) - radius**2)
        found = np.minimum(found, sphere)
    number = found.argmin(axis=1)
    return number, found[np.arange(len(found)), number]


def _first_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The smaller root of a x^2 + 2 b x + c that lies ahead, or very far away."""
    square = b * b - a * c
    root = (-b - np.sqrt(np.maximum(square, 0))) / np.maximum(a, 1e-12)
    return np.where((square > 0) & (root > 0), root, _FAR)


def _mixed(share: np.ndarray, first: tuple[float, ...], second: tuple[float, ...]) -> np.ndarray:
    return np.asarray(np.array(first) * share[..., None] + np.array(second) * (1 - share[..., None]))


def _wave(phase: np.ndarray, sharpness: float = 3.0) -> np.ndarray:
    """Stripes with soft edges, 0..1."""
    return np.asarray(0.5 + 0.5 * np.tanh(sharpness * np.sin(phase)))


def _room_colour(points: np.ndarray) -> np.ndarray:
    low, high = _ROOM
    wall = np.concatenate([points - low, high - points], axis=1).argmin(axis=1)
    x, y, z = points.T
    tint = np.array(
        [[0.75, 0.55, 0.4], [0.45, 0.35, 0.3], [0.5, 0.65, 0.6], [0.6, 0.6, 0.75], [0.9, 0.9, 0.85], [0.7, 0.7, 0.5]]
    )
    along = np.where(wall % 3 == 0, z, x)
    up = np.where(wall % 3 == 1, z, y)
    across, down = _wave(2 * np.pi * along / 0.9), _wave(2 * np.pi * up / 0.9)
    blocks = across * down + (1 - across) * (1 - down)
    fine = 0.5 + 0.5 * np.sin(2 * np.pi * (along / 0.41 + 0.3 * np.sin(4 * up))) * np.sin(2 * np.pi * up / 0.37)
    return np.asarray(tint[wall] * (0.62 + 0.25 * blocks + 0.13 * fine)[:, None])


def _skin_colour(points: np.ndarray, joint: np.ndarray, config: HumanSceneConfig) -> np.ndarray:
    """Of places of the rest pose: a face, a striped shirt with an emblem, trousers, shoes."""
    x, y, z = (points / config.body_height).T
    stripes = _wave(2 * np.pi * y / 0.055)
    shirt = _mixed(stripes, *config.shirt)
    sleeves = _mixed(_wave(2 * np.pi * x / 0.055), (0.25, 0.3, 0.75), (0.8, 0.85, 0.95))
    trousers = _mixed(_wave(2 * np.pi * (y + 0.5 * np.abs(x)) / 0.08), (0.2, 0.3, 0.25), (0.35, 0.5, 0.4))
    shoes = np.broadcast_to(np.array((0.15, 0.12, 0.12)), shirt.shape)
    skin = _mixed(_wave(2 * np.pi * z / 0.06, 1.5), (0.9, 0.72, 0.58), (0.75, 0.55, 0.42))
    hair = (joint == 15) & ((z < 0.012) | (y > 0.46 + 0.3 * z))
    skin = np.where(hair[:, None], np.array((0.3, 0.2, 0.12)), skin)
    emblem = (x**2 + (y - 0.17) ** 2 < 0.035**2) & (z > 0)
    shirt = np.where(emblem[:, None], np.array((0.1, 0.5, 0.75)), shirt)
    legs, feet, arms, bare = (1, 2, 4, 5), (7, 8, 10, 11), (16, 17, 18, 19), (12, 15, 20, 21, 22, 23)
    found = shirt
    for joints, colour in ((legs, trousers), (feet, shoes), (arms, sleeves), (bare, skin)):
        found = np.where(np.isin(joint, joints)[:, None], colour, found)
    return found


def _arms_down(left: float = 1.15, right: float = 1.15) -> dict[str, np.ndarray]:
    return {"left_shoulder": axis_rotation(2, np.array(-left)), "right_shoulder": axis_rotation(2, np.array(right))}


def _walk(t: float) -> dict[str, np.ndarray]:
    phase = 2 * np.pi * t / 20
    swing = 0.45 * np.sin(phase)
    arms = _arms_down()
    return {
        "left_hip": axis_rotation(0, np.array(-swing)),
        "right_hip": axis_rotation(0, np.array(swing)),
        "left_knee": axis_rotation(0, np.array(0.35 + 0.35 * np.sin(phase + 2.2))),
        "right_knee": axis_rotation(0, np.array(0.35 - 0.35 * np.sin(phase + 2.2))),
        "left_shoulder": axis_rotation(0, np.array(0.8 * swing)) @ arms["left_shoulder"],
        "right_shoulder": axis_rotation(0, np.array(-0.8 * swing)) @ arms["right_shoulder"],
        "left_elbow": axis_rotation(1, np.array(-0.4)),
        "right_elbow": axis_rotation(1, np.array(0.4)),
        "spine2": axis_rotation(1, np.array(0.25 * np.sin(phase))),
        "head": axis_rotation(1, np.array(0.3 * np.sin(phase / 2))),
    }


def _wave_hand(t: float) -> dict[str, np.ndarray]:
    swing = np.sin(2 * np.pi * t / 12)
    return {
        **_arms_down(right=-0.35),
        "right_elbow": axis_rotation(2, np.array(-1.1 - 0.4 * swing)),
        "spine1": axis_rotation(2, np.array(0.08 * swing)),
        "head": axis_rotation(2, np.array(-0.12 * swing)),
    }


def _turn(t: float) -> dict[str, np.ndarray]:
    return {**_arms_down(0.9, 0.9), "pelvis": axis_rotation(1, np.array(2 * np.pi * t / 40))}


_MOTIONS: dict[str, Callable[[float], dict[str, np.ndarray]]] = {"walk": _walk, "wave": _wave_hand, "turn": _turn}
