"""Poses of all frames at once from one camera: Gauss-Newton steps on pixels, smoothness, and how people bend.

What one camera sees leaves depth nearly free, which slow descent does not find. Here the normal equations are solved
whole: unknowns of a frame meet those of the two frames before and after it alone, so that their matrix is a band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import LinAlgError, solveh_banded
from scipy.spatial.transform import Rotation

from canon.pose_landmarks import NAMES, Landmarks
from canon.pose_refining import PARENTS, Pose, Shape
from canon.skeletons import Skeleton, axis_rotation

_WIDTH = 3 + 3 * len(NAMES)
"""Unknowns of a frame: where the pelvis is, and a turn of every joint."""
_AXES = 0.05
"""Metres from the joints at which points move smoothly too, so that twists do."""
_OUTLIER = 5.0
"""Standard deviations from where on errors count linearly (Huber)."""
_ARMS_DOWN = 1.15
"""Radians that arms hang down from a T."""
STRADDLE = 0.15
"""How far thighs go sideways, typically, as the sine of an angle."""
_STIFF = {"spine1": 0.25, "spine2": 0.25, "spine3": 0.25, "collar": 0.2, "neck": 0.35, "head": 0.35, "ankle": 0.35,
          "foot": 0.1, "wrist": 0.2, "hand": 0.1, "hip": 0.8, "shoulder": 1.2, "elbow": 1.0, "knee": 1.0}  # fmt: skip
"""Radians that joints turn from where they rest, typically."""
_UNDER = np.zeros((len(NAMES), len(NAMES)), bool)
"""Whether the second joint hangs on the first, or is it."""
for _joint, _above in enumerate(PARENTS):
    _UNDER[:, _joint] = _UNDER[:, _above] if _above >= 0 else False
    _UNDER[_joint, _joint] = True


@dataclass(frozen=True, eq=False)
class Sight:
    """What one camera saw.

    Attributes:
        rays: float64 [T, L, 2], x/z and y/z of landmarks in the camera's axes.
        weight: float64 [T, L].
        poses: float64 [T, 3, 4], from the world to the camera.
    """

    rays: np.ndarray
    weight: np.ndarray
    poses: np.ndarray

    @property
    def eyes(self) -> np.ndarray:
        """Where the camera is, float64 [T, 3]."""
        return -np.einsum("tji,tj->ti", self.poses[..., :3], self.poses[..., 3])


def standing() -> np.ndarray:
    """Rotations of a person who stands with hanging arms, float64 [24, 3, 3]."""
    found = np.tile(np.eye(3), (len(NAMES), 1, 1))
    for side, sign in (("left", -1), ("right", 1)):
        found[NAMES.index(f"{side}_shoulder")] = axis_rotation(2, np.array(sign * _ARMS_DOWN))
    return found


def track(
    pose: Pose, shape: Shape, seen: Landmarks, sight: Sight, noise: float, pace: float, steps: int
) -> tuple[Pose, float]:
    """Poses that fit what was seen better.

    Args:
        noise: by how much landmarks are off, in metres at the distance of the person.
        pace: typical acceleration of joints, in metres per squared frame.
        steps: at most.

    Returns:
        The poses, and half the sum of all squares, each in its standard deviation.
    """
    damping = 1e-3
    cost, normal, slope = _system(pose, shape, seen, sight, noise, pace)
    for _ in range(steps):
        try:
            step = solveh_banded(_damped(normal, damping), slope, lower=True, check_finite=False).reshape(-1, _WIDTH)
        except LinAlgError:
            damping *= 10
            continue
        tried = _moved(pose, step)
        better, *system = _system(tried, shape, seen, sight, noise, pace)
        if better < cost:
            gain = cost - better
            pose, cost, (normal, slope), damping = tried, better, system, max(damping / 5, 1e-9)
            if gain < 1e-4 * cost:
                break
        elif (damping := damping * 10) > 1e6:
            break
    return pose, cost


def _damped(normal: np.ndarray, damping: float) -> np.ndarray:
    found = normal.copy()
    found[0] += damping * (found[0] + 1.0)
    return found


def _moved(pose: Pose, step: np.ndarray) -> Pose:
    turn = Rotation.from_rotvec(step[:, 3:].reshape(-1, 3)).as_matrix().reshape(pose.rotations.shape)
    return Pose(pose.rotations @ turn, pose.root + step[:, :3])


def _system(
    pose: Pose, shape: Shape, seen: Landmarks, sight: Sight, noise: float, pace: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Cost, the band of the normal matrix, and the right side [T * 75]."""
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    posed = skeleton.transforms(torch.from_numpy(pose.rotations), torch.from_numpy(pose.root)).numpy()
    turns, places = posed[..., :3, :3], posed[..., :3, 3]
    count = len(places)
    blocks = np.zeros((3, count, _WIDTH, _WIDTH))  # of a frame with itself, the next one, and the one after that
    slope = np.zeros((count, _WIDTH))
    marks = np.einsum("tlij,lj->tli", turns[:, seen.joint], shape.marks) + places[:, seen.joint]
    cost = 0.0
    for error, jacobian in (_pixels(marks, turns, places, seen, sight, noise), _habits(pose.rotations)):
        cost += float((error**2).sum()) / 2
        blocks[0] += jacobian.swapaxes(1, 2) @ jacobian
        slope -= (jacobian.swapaxes(1, 2) @ error[..., None])[..., 0]
    if count > 2:
        far = np.concatenate([places[:, :, None], places[:, :, None] + _AXES * turns.swapaxes(-1, -2)[:, :, :2]], axis=2)
        points = far.reshape(count, -1, 3) / pace
        owners = np.repeat(np.arange(len(NAMES)), 3)
        jacobian = _levers(points * pace, owners, turns, places).reshape(count, -1, _WIDTH) / pace
        flat = points.reshape(count, -1)
        bend = flat[2:] - 2 * flat[1:-1] + flat[:-2]
        cost += float((bend**2).sum()) / 2
        share = (1.0, -2.0, 1.0)
        for a in range(3):
            first = jacobian[a : count - 2 + a]
            slope[a : count - 2 + a] -= share[a] * (first.swapaxes(1, 2) @ bend[..., None])[..., 0]
        for apart in range(3):
            both = jacobian[: count - apart].swapaxes(1, 2) @ jacobian[apart:]
            for a in range(3 - apart):
                part = slice(a, count - 2 + a)
                blocks[apart, part] += share[a] * share[a + apart] * both[part]
    return cost, _band(blocks), slope.ravel()


def _levers(points: np.ndarray, owners: np.ndarray, turns: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How points [T, N, 3] that move with joints [N] move with the unknowns, [T, N, 3, 75]."""
    found = np.zeros((*points.shape, _WIDTH))
    found[..., :3] = np.eye(3)
    for joint in range(len(NAMES)):
        own = np.flatnonzero(_UNDER[joint, owners])
        away = points[:, own] - places[:, joint, None]
        # A turn w about the joint moves a point by (G w) x away.
        for axis in range(3):
            found[:, own, :, 3 + 3 * joint + axis] = np.cross(turns[:, joint, None, :, axis], away)
    return found


def _pixels(
    marks: np.ndarray, turns: np.ndarray, places: np.ndarray, seen: Landmarks, sight: Sight, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """By how much landmarks miss their rays, [T, 2 L], and how that changes, [T, 2 L, 75]."""
    turn, shift = sight.poses[..., :3], sight.poses[..., 3]
    local = marks @ turn.swapaxes(1, 2) + shift[:, None]
    ahead = np.maximum(local[..., 2:], 0.1)
    off = local[..., :2] / ahead - sight.rays
    away = np.linalg.norm(places[:, 0] - sight.eyes, axis=-1)[:, None, None] / noise
    error = off * away
    size = np.linalg.norm(error, axis=-1, keepdims=True)
    # Weights that make squares grow linearly far out, as the root of Huber's.
    huber = np.where(size > _OUTLIER, np.sqrt(np.maximum(2 * _OUTLIER * size - _OUTLIER**2, 0)) / np.maximum(size, 1), 1.0)
    scale = np.sqrt(sight.weight)[..., None] * huber
    slope = (turn[:, None, :2] - (local[..., :2] / ahead)[..., None] * turn[:, None, 2:]) / ahead[..., None]
    jacobian = slope @ _levers(marks, seen.joint, turns, places) * (away * scale)[..., None]
    count = len(marks)
    return (error * scale).reshape(count, -1), jacobian.reshape(count, -1, _WIDTH)


def _habits(rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far poses are from what people do, [T, N], and how that changes, [T, N, 75].

    Joints stay near to where they rest; knees bend back and not sideways, elbows not over their straightness.
    """
    count = len(rotations)
    skews = np.zeros((3, 3, 3))
    for axis in range(3):
        skews[axis] = np.cross(np.eye(3)[axis], np.eye(3)).T
    change = np.einsum("tjab,xbc->tjxac", rotations, skews)  # of every joint with its turn about x, y, z
    errors, slopes = [], []

    def add(error: np.ndarray, joint: int, slope: np.ndarray) -> None:
        whole = np.zeros((count, error.shape[1], _WIDTH))
        whole[..., 3 + 3 * joint : 6 + 3 * joint] = slope
        errors.append(error)
        slopes.append(whole)

    for joint, (name, own) in enumerate(zip(NAMES, standing(), strict=True)):
        stiff = _STIFF.get(name.rpartition("_")[2])
        if stiff is not None:
            # The squared difference of two rotations is about twice the squared angle.
            scale = np.sqrt(0.5) / stiff
            slope = change[:, joint].reshape(count, 3, 9).swapaxes(1, 2)
            add(scale * (rotations[:, joint] - own).reshape(count, 9), joint, scale * slope)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        # Of the bone along a joint's axis, a part that should not be there, or only not to one side.
        for part, axis, along, row, one_sided, scale in (
            ("hip", 1, -1.0, 0, False, STRADDLE),
            ("knee", 1, -1.0, 0, False, 0.1),
            ("knee", 1, -1.0, 2, True, 0.05),
            ("elbow", 0, -sign, 2, True, 0.1),
        ):
            joint = NAMES.index(f"{side}_{part}")
            error = along * rotations[:, joint, row, axis] / scale
            live = (error > 0) if one_sided else np.ones(count, bool)
            slope = along * change[:, joint, :, row, axis] / scale
            add((error * live)[:, None], joint, (slope * live[:, None])[:, None])
    return np.concatenate(errors, axis=1), np.concatenate(slopes, axis=1)


def _band(blocks: np.ndarray) -> np.ndarray:
    """The lower band of a symmetric matrix, as `scipy.linalg.solveh_banded` takes it, of blocks [3, T, 75, 75]."""
    count = blocks.shape[1]
    found = np.zeros((3 * _WIDTH, count * _WIDTH))
    row, column = np.mgrid[:_WIDTH, :_WIDTH]
    for apart in range(min(3, count)):
        under = row + apart * _WIDTH - column
        kept = under >= 0
        for t in range(count - apart):
            # blocks couple a frame (first index) with a later one (second), and the band holds the later one's rows.
            found[under[kept], t * _WIDTH + column[kept]] = blocks[apart, t].T[kept]
    return found
