"""Poses of all frames at once from one camera: Gauss-Newton steps on pixels, smoothness, and how people bend.

What one camera sees leaves depth nearly free, which slow descent does not find. Here the normal equations are solved
whole: unknowns of a frame meet those of the two frames before and after it alone, so that a clip costs as it is long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from canon.pose_landmarks import NAMES, Landmarks
from canon.pose_refining import PARENTS, Pose, Shape
from canon.skeletons import Skeleton, axis_rotation

_WIDTH = 3 + 3 * len(NAMES)
"""Unknowns of a frame: where the pelvis is, and a turn of every joint."""
_AXES = 0.05
"""Metres from the joints at which points move smoothly too, so that twists do."""
_OUTLIER = 5.0
"""Standard deviations from where on errors count linearly (Huber)."""
ARMS_DOWN = 1.15
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
        found[NAMES.index(f"{side}_shoulder")] = axis_rotation(2, np.array(sign * ARMS_DOWN))
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
    cost, blocks, slope = _system(pose, shape, seen, sight, noise, pace)
    for _ in range(steps):
        step = _solved(blocks, slope, damping)
        if step is None:
            damping *= 10
            continue
        tried = _moved(pose, step)
        better, *system = _system(tried, shape, seen, sight, noise, pace)
        if better < cost:
            gain = cost - better
            pose, cost, (blocks, slope), damping = tried, better, system, max(damping / 5, 1e-9)
            if gain < 1e-4 * cost:
                break
        elif (damping := damping * 10) > 1e6:
            break
    return pose, cost


def missed(pose: Pose, shape: Shape, seen: Landmarks, sight: Sight) -> float:
    """By how much landmarks typically miss what was seen, in metres at the distance of the person."""
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    posed = skeleton.transforms(torch.from_numpy(pose.rotations), torch.from_numpy(pose.root)).numpy()
    marks = np.einsum("tlij,lj->tli", posed[..., :3, :3][:, seen.joint], shape.marks)
    marks = marks + posed[..., :3, 3][:, seen.joint]
    local = marks @ sight.poses[..., :3].swapaxes(1, 2) + sight.poses[:, None, :, 3]
    off = np.linalg.norm(local[..., :2] / np.maximum(local[..., 2:], 0.1) - sight.rays, axis=-1)
    return float(np.median((off * np.linalg.norm(pose.root - sight.eyes, axis=-1)[:, None])[sight.weight > 0]))


def _moved(pose: Pose, step: np.ndarray) -> Pose:
    turn = Rotation.from_rotvec(step[:, 3:].reshape(-1, 3)).as_matrix().reshape(pose.rotations.shape)
    return Pose(pose.rotations @ turn, pose.root + step[:, :3])


def _system(
    pose: Pose, shape: Shape, seen: Landmarks, sight: Sight, noise: float, pace: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Cost, the normal matrix of frames with themselves and the next two [3, T, 75, 75], and the right side [T, 75]."""
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    posed = skeleton.transforms(torch.from_numpy(pose.rotations), torch.from_numpy(pose.root)).numpy()
    turns, places = posed[..., :3, :3], posed[..., :3, 3]
    count = len(places)
    blocks = np.zeros((3, count, _WIDTH, _WIDTH))  # of a frame with itself, the next one, and the one after that
    slope = np.zeros((count, _WIDTH))
    marks = np.einsum("tlij,lj->tli", turns[:, seen.joint], shape.marks) + places[:, seen.joint]
    cost = 0.0
    for own, error, jacobian in (_pixels(marks, turns, places, seen, sight, noise), _habits(pose.rotations)):
        cost += own
        blocks[0] += _squared(jacobian, jacobian)
        slope -= np.einsum("tnw,tn->tw", jacobian, error)
    if count > 2:
        far = np.concatenate(
            [places[:, :, None], places[:, :, None] + _AXES * turns.swapaxes(-1, -2)[:, :, :2]], axis=2
        )
        points = far.reshape(count, -1, 3) / pace
        owners = np.repeat(np.arange(len(NAMES)), 3)
        jacobian = _levers(points * pace, owners, turns, places).reshape(count, -1, _WIDTH) / pace
        flat = points.reshape(count, -1)
        bend = flat[2:] - 2 * flat[1:-1] + flat[:-2]
        cost += float((bend**2).sum()) / 2
        share = (1.0, -2.0, 1.0)
        for a in range(3):
            first = jacobian[a : count - 2 + a]
            slope[a : count - 2 + a] -= share[a] * np.einsum("tnw,tn->tw", first, bend)
        for apart in range(3):
            both = _squared(jacobian[: count - apart], jacobian[apart:])
            for a in range(3 - apart):
                part = slice(a, count - 2 + a)
                blocks[apart, part] += share[a] * share[a + apart] * both[part]
    return cost, blocks, slope


def _levers(points: np.ndarray, owners: np.ndarray, turns: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How points [T, N, 3] that move with joints [N] move with the unknowns, [T, N, 3, 75]."""
    found = np.zeros((*points.shape, _WIDTH))
    found[..., :3] = np.eye(3)
    for joint in range(len(NAMES)):
        own = np.flatnonzero(_UNDER[joint, owners])
        away = points[:, own] - places[:, joint, None]
        # A turn w about the joint moves a point by (G w) x away.
        axes = turns[:, joint, None].swapaxes(-1, -2)  # [T, 1, 3 axes, 3]
        found[:, own, :, 3 + 3 * joint : 6 + 3 * joint] = np.cross(axes, away[:, :, None]).swapaxes(-1, -2)
    return found


def _pixels(
    marks: np.ndarray, turns: np.ndarray, places: np.ndarray, seen: Landmarks, sight: Sight, noise: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Cost of how landmarks miss their rays, by how much they do, [T, 2 L], and how that changes, [T, 2 L, 75]."""
    turn, shift = sight.poses[..., :3], sight.poses[..., 3]
    local = marks @ turn.swapaxes(1, 2) + shift[:, None]
    ahead = np.maximum(local[..., 2:], 0.1)
    off = local[..., :2] / ahead - sight.rays
    away = np.linalg.norm(places[:, 0] - sight.eyes, axis=-1)[:, None, None] / noise
    error = off * away
    size = np.linalg.norm(error, axis=-1, keepdims=True)
    huber = np.where(size > _OUTLIER, 2 * _OUTLIER * size - _OUTLIER**2, size**2)
    cost = float((sight.weight * huber[..., 0]).sum()) / 2
    scale = np.sqrt(sight.weight[..., None] * _OUTLIER / np.maximum(size, _OUTLIER))
    slope = (turn[:, None, :2] - (local[..., :2] / ahead)[..., None] * turn[:, None, 2:]) / ahead[..., None]
    jacobian = slope @ _levers(marks, seen.joint, turns, places) * (away * scale)[..., None]
    count = len(marks)
    return cost, (error * scale).reshape(count, -1), jacobian.reshape(count, -1, _WIDTH)


def _habits(rotations: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Cost of how far poses are from what people do, how far they are, [T, N], and how that changes, [T, N, 75].

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
    error = np.concatenate(errors, axis=1)
    return float((error**2).sum()) / 2, error, np.concatenate(slopes, axis=1)


def _squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of matrices [T, N, 75] the first ones' transposes times the second ones, [T, 75, 75]."""
    # By torch, whose threads the caller holds back; those of numpy's BLAS cost ten times more on a busy machine.
    return (torch.from_numpy(first).transpose(1, 2) @ torch.from_numpy(second)).numpy()


def _solved(blocks: np.ndarray, slope: np.ndarray, damping: float) -> np.ndarray | None:
    """Unknowns [T, 75] of a symmetric matrix in blocks [3, T, 75, 75], by Cholesky; None if it is not definite."""
    own, after, beyond = (torch.from_numpy(part.copy()) for part in blocks)
    diagonal = own.diagonal(dim1=1, dim2=2)
    diagonal += damping * (diagonal + 1)
    count = len(own)
    # Column by column: what is left of a frame's block, its factor, and what that says to the next two frames.
    factors: list[Tensor] = []
    nexts: list[Tensor] = []
    seconds: list[Tensor] = []
    found: list[Tensor] = []
    for t in range(count):
        block, value = own[t], torch.from_numpy(slope[t]).clone()
        link = after[t].T
        if t > 0:
            block = block - nexts[t - 1] @ nexts[t - 1].T
            link = link - seconds[t - 1] @ nexts[t - 1].T
            value = value - nexts[t - 1] @ found[t - 1]
        if t > 1:
            block = block - seconds[t - 2] @ seconds[t - 2].T
            value = value - seconds[t - 2] @ found[t - 2]
        factor, failed = torch.linalg.cholesky_ex(block)
        if failed:
            return None
        both = torch.cat([link.T, beyond[t], value[:, None]], dim=1)
        both = torch.linalg.solve_triangular(factor, both, upper=False)
        factors.append(factor)
        nexts.append(both[:, :_WIDTH].T)
        seconds.append(both[:, _WIDTH:-1].T)
        found.append(both[:, -1])
    for t in reversed(range(count)):
        value = found[t]
        if t + 1 < count:
            value = value - nexts[t].T @ found[t + 1]
        if t + 2 < count:
            value = value - seconds[t].T @ found[t + 2]
        found[t] = torch.linalg.solve_triangular(factors[t].T, value[:, None], upper=True)[:, 0]
    return torch.stack(found).numpy()
