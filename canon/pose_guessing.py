"""What a single camera cannot tell of a pose: where a fit begins, and how people bend."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from canon.pose_landmarks import NAMES, Landmarks, landmarks
from canon.pose_refining import PARENTS, Pose, Shape, first_pose, unit
from canon.pose_tracking import ARMS_DOWN, STRADDLE, Sight, standing
from canon.skeletons import Skeleton, axis_rotation

_YAWS = 36
"""Headings that are tried in every frame."""
_TRUST = {"knee": 0.3, "ankle": 0.2, "foot": 0.1, "elbow": 0.1, "wrist": 0.03, "hand": 0.0}
"""Of a person who stands still, how much joints tell of where and which way."""


def first_guess(sight: Sight, seen: Landmarks, shape: Shape, pace: float) -> Pose:
    """A standing person at the place and in the heading that explain every frame best, without leaps between frames.

    Cameras are held upright on the whole: up in the world is what they see as up, on average.

    Args:
        pace: radians of yaw from frame to frame that cost as much as landmarks that miss by a standard deviation.
    """
    rays, weight, poses = sight.rays, sight.weight, sight.poses
    up = -poses[:, 1, :3].mean(axis=0)
    up /= np.linalg.norm(up)
    side = np.cross(up, poses[:, 2, :3].mean(axis=0))
    side /= max(float(np.linalg.norm(side)), 1e-9)
    upright = np.stack([side, up, np.cross(side, up)], axis=1)
    yaws = upright @ axis_rotation(1, 2 * np.pi * np.arange(_YAWS) / _YAWS)  # [Y, 3, 3]
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    rest = skeleton.transforms(torch.from_numpy(standing()), torch.zeros(3, dtype=torch.float64)).numpy()
    local = np.einsum("lij,lj->li", rest[seen.joint, :3, :3], shape.marks) + rest[seen.joint, :3, 3]
    trust = np.array([_TRUST.get(NAMES[joint].rpartition("_")[2], 1.0) for joint in seen.joint])
    cost = np.empty((len(rays), _YAWS))
    place = np.empty((len(rays), _YAWS, 3))
    for y, turn in enumerate(yaws):
        cost[:, y], place[:, y] = _stood(rays, weight * trust, poses, local @ turn.T)
    best = _path(cost / (0.05 * float(np.linalg.norm(shape.offsets, axis=1).sum()) / 4) ** 2, pace)
    rotations = np.tile(standing(), (len(rays), 1, 1, 1))
    rotations[:, 0] = yaws[best]
    return Pose(rotations, place[np.arange(len(rays)), best])


def _stood(rays: np.ndarray, weight: np.ndarray, poses: np.ndarray, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points local [L, 3] about a place are to be put, [T, 3], and how far they miss the rays then, squared."""
    turn, shift = poses[..., :3], poses[..., 3]
    rows = turn[:, None, :2] - rays[..., None] * turn[:, None, 2:]  # [T, L, 2, 3]
    away = np.einsum("tlij,lj->tli", rows, local) + shift[:, None, :2] - rays * shift[:, None, 2:]
    normal = np.einsum("tl,tlij,tlik->tjk", weight, rows, rows) + 1e-9 * np.eye(3)
    found = -np.linalg.solve(normal, np.einsum("tl,tlij,tli->tj", weight, rows, away)[..., None])[..., 0]
    behind = np.einsum("tj,tj->t", turn[:, 2], found) + shift[:, 2] <= 0
    error = np.einsum("tlij,tj->tli", rows, found) + away
    miss = (weight * (error**2).sum(axis=-1)).sum(axis=1)
    share = np.maximum(weight.sum(axis=1), 1e-9)
    return np.where(behind, 1e3, miss / share), found


def _path(cost: np.ndarray, pace: float) -> np.ndarray:
    """The cheapest way [T] through costs [T, Y] of headings that go round (Viterbi)."""
    step = np.arange(_YAWS)
    apart = np.abs((step[:, None] - step + _YAWS // 2) % _YAWS - _YAWS // 2) * 2 * np.pi / _YAWS
    move = (apart / pace) ** 2
    total, back = cost[0], []
    for own in cost[1:]:
        ways = total[:, None] + move
        back.append(ways.argmin(axis=0))
        total = ways.min(axis=0) + own
    found = [int(total.argmin())]
    for last in reversed(back):
        found.append(int(last[found[-1]]))
    return np.array(found[::-1])


_LIMBS = (("collar", "shoulder", "elbow", "wrist", "hand"), ("pelvis", "hip", "knee", "ankle", "foot"))
_SOFT = (0.5, 1.5, 5.0)
"""Times the usual acceleration that limbs are searched with: mirrored bones leap where they pass from side to side."""
_COMBINATIONS = np.array([(a, b) for a in (False, True) for b in (False, True)])


def unflipped(pose: Pose, shape: Shape, eyes: np.ndarray, pace: float) -> Iterator[Pose]:
    """Poses of which one limb is bent towards the camera in the place of away from it, or the other way round.

    One picture shows both alike. Of every limb the four ways are weighed in all frames together, by how naturally they
    bend and how smoothly they move (a Viterbi search over pairs of frames); what differs from the pose is given.

    Args:
        eyes: float64 [T, 3], where the camera is.
        pace: typical acceleration of joints, in metres per squared frame.
    """
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    posed = skeleton.transforms(torch.from_numpy(pose.rotations), torch.from_numpy(pose.root)).numpy()
    places, turns = posed[..., :3, 3], posed[..., :3, :3]
    for limb, side in ((limb, side) for limb in _LIMBS for side in ("left", "right")):
        above, *chain = (NAMES.index(name if name in NAMES else f"{side}_{name}") for name in limb)
        ways = _ways(places[:, chain], eyes)
        local = np.einsum("tji,tckj->tcki", turns[:, above], ways[:, :, 1:] - ways[:, :, :1])
        cost = _strain(local, limb[1] == "hip", 1.0 if side == "left" else -1.0)
        known: list[np.ndarray] = [np.zeros(len(places), np.int64)]
        for soft in _SOFT:
            best = _smoothest(cost, ways[:, :, 1:3], soft * pace)
            if not any(np.array_equal(best, one) for one in known):
                known.append(best)
                other = places.copy()
                other[:, chain] = ways[np.arange(len(best)), best]
                yield _through(other, pose, shape)


def _ways(chain: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """A limb's joints [T, 4, 3] with its two bones as they are or mirrored in depth: [T, 4 ways, 4, 3]."""
    first, second, third = (chain[:, k + 1] - chain[:, k] for k in range(3))
    found = []
    for one, two in _COMBINATIONS:
        joints = [chain[:, 0]]
        for bone, mirrored in ((first, one), (second, two), (third, False)):
            ray = unit(joints[-1] + bone / 2 - eyes)
            joints.append(joints[-1] + bone - 2 * mirrored * (bone * ray).sum(-1, keepdims=True) * ray)
        found.append(np.stack(joints, axis=1))
    return np.stack(found, axis=1)


def _strain(local: np.ndarray, leg: bool, sign: float) -> np.ndarray:
    """How unnatural limbs are, [T, 4]; their joints [T, 4, 3, 3] from the first one, in the axes of the trunk."""
    upper = unit(local[:, :, 0])
    lower = unit(local[:, :, 1] - local[:, :, 0])
    down = np.array([0.0, -1.0, 0.0])
    rest = down if leg else np.array([sign * np.cos(ARMS_DOWN), -np.sin(ARMS_DOWN), 0.0])
    swing = np.arccos(np.clip((upper * rest).sum(-1), -1, 1))
    bent = lower - (lower * upper).sum(-1, keepdims=True) * upper
    front = np.array([0.0, 0.0, 1.0])
    forward = unit(front - (upper * front).sum(-1, keepdims=True) * upper) * (-1.0 if leg else 1.0)
    if leg:
        wrong = np.linalg.norm(bent, axis=-1) - (bent * forward).sum(-1)
        behind = np.maximum(-upper[..., 2] - 0.35, 0)
        return np.asarray(
            (swing / 0.9) ** 2 + (upper[..., 0] / STRADDLE) ** 2 + (wrong / 0.15) ** 2 + (behind / 0.15) ** 2
        )
    # An elbow may bend to any side as the arm turns about itself, but hardly backwards; arms hardly reach behind.
    wrong = np.maximum(-(bent * forward).sum(-1), 0)
    behind = np.maximum(-upper[..., 2] - 0.5, 0)
    inward = np.maximum(-sign * upper[..., 0] - 0.1, 0)
    return np.asarray((swing / 1.5) ** 2 + (wrong / 0.3) ** 2 + (behind / 0.2) ** 2 + (inward / 0.2) ** 2)


def _smoothest(cost: np.ndarray, places: np.ndarray, pace: float) -> np.ndarray:
    """Of ways [T, C] with places [T, C, K, 3], those [T] that cost least with their accelerations."""
    count = len(cost)
    if count < 3:
        return cost.argmin(axis=1)
    total = cost[0][:, None] + cost[1][None]  # by the last two ways
    back = []
    for t in range(2, count):
        before, last, now = (places[t - k] for k in (2, 1, 0))
        bend = now[None, None] - 2 * last[None, :, None] + before[:, None, None]
        sums = total[:, :, None] + ((bend / pace) ** 2).sum(axis=(-1, -2)) + cost[t]
        back.append(sums.argmin(axis=0))
        total = sums.min(axis=0)
    last, now = np.unravel_index(int(total.argmin()), total.shape)
    found = [int(now), int(last)]
    for step in reversed(back):
        found.append(int(step[found[-1], found[-2]]))
    return np.array(found[::-1])


def _through(places: np.ndarray, pose: Pose, shape: Shape) -> Pose:
    """The pose of joints [T, 24, 3], with what joints cannot tell as it was."""
    everything = landmarks(NAMES)
    found = first_pose(places[:, everything.column], everything, Shape(shape.offsets, everything.offset))
    for name in ("head", "left_hand", "right_hand", "left_foot", "right_foot"):
        found.rotations[:, NAMES.index(name)] = pose.rotations[:, NAMES.index(name)]
    return found
