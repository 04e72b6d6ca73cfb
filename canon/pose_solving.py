"""Poses from points that were seen: in space, or as keypoints of one or of several cameras.

What an estimator of keypoints finds becomes a motion of the 24-joint skeleton, in the axes and units of the world that
the points or the cameras are in. Names are those of :mod:`canon.pose_landmarks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from canon.bodies import capsule_body
from canon.cameras import Camera
from canon.errors import InputError
from canon.pose_landmarks import NAMES, Landmarks, landmarks
from canon.pose_refining import PARENTS, Pose, Shape, Weights, first_pose, first_shape, refine
from canon.runtime import single_threaded_operations
from canon.skeletons import Motion, Skeleton

_SEEN = 0.1
"""Score above which a keypoint counts as seen."""
_NOISE = 0.01
"""Metres by which points are off."""
_OUTLIER = 5.0
"""Of those, from where on errors count linearly (Huber)."""
_FILLED = 0.01
"""Weight of a point that was only interpolated over time."""

_PACE = 20.0
"""Metres per second squared at which joints of a person of 1.7 m are accelerated, typically."""
_TURNS = (0.15, 0.5, 2.0)
"""How fast people may turn around, in radians a frame: what a fit begins with is guessed for each, the best is kept."""
_TRIES = 4
"""Times that limbs are looked at for whether they are seen from the other side."""

View = Camera | Sequence[Camera]
"""A camera that stands still, or one for every frame."""


@single_threaded_operations()
def solve_joints(joints: np.ndarray, names: Sequence[str], fps: float = 30.0) -> Motion:
    """The motion of the 24-joint skeleton behind points in space.

    Bones are as long as they were seen, left and right alike; a joint of which nothing was seen keeps its rest pose.

    Args:
        joints: [T, K, 3], in metres, in any axes; NaN where a point was not seen.
        names: of the K points.

    Raises:
        InputError: the shapes do not agree, too few points are known, or nothing was seen.
    """
    values = _checked(joints, names, 3)
    values = np.where(np.isfinite(values).all(axis=-1, keepdims=True), values, np.nan)
    marks = landmarks(names)
    marks = marks.taken(np.isfinite(values[:, marks.column]).all(axis=-1).any(axis=0))
    if len(marks.column) < 3:
        raise InputError(f"Only {len(marks.column)} of the joints are ever seen; at least 3 are needed for a pose.")
    points, weight = _filled(values[:, marks.column])
    shape = first_shape(points, marks)
    target = torch.from_numpy(points)
    share = torch.from_numpy(np.where(weight, 1.0, _FILLED))

    def term(found: Tensor, _: Tensor) -> Tensor:
        return (share * _huber((found - target).square().sum(-1) / _NOISE**2)).sum()

    pose, shape = refine(first_pose(points, marks, shape), shape, marks, term, fps, Weights(), 60)
    return _motion(pose, shape, fps)


def triangulate(keypoints: np.ndarray, cameras: Sequence[View]) -> np.ndarray:
    """Where points in space are that several cameras see.

    A linear solution weighted by the scores (DLT) and one Gauss-Newton step on the errors in pixels, without the
    distortion of the lenses.

    Args:
        keypoints: [V, T, K, 3], pixels x and y and a score in 0..1.
        cameras: of the V views, each one camera, or one for every frame.

    Returns:
        float64 [T, K, 3]; NaN where fewer than two views see a point, or where it would lie behind one of them.

    Raises:
        InputError: the shapes do not agree.
    """
    values = _views(keypoints, cameras)
    rays, poses, focal, weight = _sight(values, cameras)
    share = weight * focal**2  # of squared pixels
    rows = rays[..., None] * poses[:, :, None, 2:3] - poses[:, :, None, :2]  # [V, T, K, 2, 4]
    rows = rows * np.sqrt(weight)[..., None, None]
    count = (weight > 0).sum(axis=0)
    system = np.einsum("vtkij,vtkil->tkjl", rows, rows)
    scale = np.maximum(np.trace(system, axis1=-2, axis2=-1), 1e-30)[..., None, None]
    _, vectors = np.linalg.eigh(system / scale)
    last = vectors[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = last[..., :3] / last[..., 3:]
    found = np.where((count >= 2)[..., None] & np.isfinite(found), found, np.nan)
    safe = np.nan_to_num(found)
    local = np.einsum("vtij,tkj->vtki", poses[..., :3], safe) + poses[:, :, None, :, 3]
    ahead = np.where(np.abs(local[..., 2]) < 1e-9, 1e-9, local[..., 2])
    error = rays - local[..., :2] / ahead[..., None]
    slope = (poses[:, :, None, :2, :3] - (local[..., :2] / ahead[..., None])[..., None] * poses[:, :, None, 2:, :3]) / (
        ahead[..., None, None]
    )
    normal = np.einsum("vtk,vtkij,vtkil->tkjl", share, slope, slope)
    normal = normal + 1e-9 * np.maximum(np.trace(normal, axis1=-2, axis2=-1), 1e-9)[..., None, None] * np.eye(3)
    step = np.linalg.solve(normal, np.einsum("vtk,vtkij,vtki->tkj", share, slope, error)[..., None])[..., 0]
    behind = ((local[..., 2] <= 0) & (weight > 0)).any(axis=0)
    return np.where(behind[..., None], np.nan, found + step)


@single_threaded_operations()
def solve_keypoints(
    keypoints: np.ndarray, cameras: Sequence[View], names: Sequence[str], height: float = 1.7, fps: float = 30.0
) -> Motion:
    """The motion of the 24-joint skeleton behind keypoints in pictures.

    Of several views the points are triangulated first. Of one view all frames are fitted at once: what the camera
    cannot see, how far away the person is, comes from their height, from how a moving camera's view changes, and from
    joints that move smoothly and bend as they do.

    Args:
        keypoints: [V, T, K, 3], pixels x and y and a score in 0..1.
        cameras: of the V views, each one camera, or one for every frame.
        names: of the K points.
        height: of the person in the world's units; of no account where there are several views.

    Raises:
        InputError: the shapes do not agree, too few points are known, or nothing was seen.
    """
    values = _views(keypoints, cameras)
    _checked(values[0], names, 3)
    if len(values) > 1:
        return solve_joints(triangulate(values, cameras), names, fps)
    if not height > 0:
        raise InputError(f"A person's height must be above 0, but it is {height:g}.")
    marks = landmarks(names)
    _, _, _, weight = _sight(values, cameras)
    marks = marks.taken((weight[0][:, marks.column] > 0).any(axis=0))
    if len(marks.column) < 3:
        raise InputError(f"Only {len(marks.column)} of the keypoints are ever seen; at least 3 are needed for a pose.")
    return _one_view(values[:, :, marks.column], cameras, marks, height, fps)


def _one_view(values: np.ndarray, cameras: Sequence[View], marks: Landmarks, height: float, fps: float) -> Motion:
    from canon.pose_guessing import first_guess, unflipped
    from canon.pose_tracking import Sight, missed, track

    rays, poses, _, weight = (part[0] for part in _sight(values, cameras))
    scale = height / 1.7
    sight = Sight(rays, weight, poses)
    shape = Shape(capsule_body(height).skeleton.offsets.astype(np.float64), marks.offset * scale)
    pace = _PACE * scale / fps**2

    def fitted(pose: Pose, noise: float, own: float, steps: int = 30) -> tuple[Pose, float]:
        return track(pose, shape, marks, sight, noise * scale, own, steps)

    found = []
    for turn in _TURNS:
        pose = first_guess(sight, marks, shape, turn)
        for noise in (0.1, 0.05, 0.03):
            pose, cost = fitted(pose, noise, pace, 12)
        found.append((cost, pose))
    cost, pose = min(found, key=lambda one: one[0])
    for noise, own in ((0.03, pace), (0.01, pace), (0.0, 2 * pace), (0.0, 2 * pace)):
        if not noise:  # what is seen well counts more, and may move as fast as it does
            noise = float(np.clip(1.5 * missed(pose, shape, marks, sight) / scale, 0.002, 0.02))
        pose, cost = fitted(pose, noise, own)
        for _ in range(_TRIES):
            tries = [fitted(other, noise, own, 12) for other in unflipped(pose, shape, sight.eyes, own)]
            better = min(tries, key=lambda one: one[1], default=(pose, cost))
            if better[1] > 0.99 * cost:
                break
            pose, cost = better
    return _motion(pose, shape, fps)


def _motion(pose: Pose, shape: Shape, fps: float) -> Motion:
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    return Motion(skeleton, pose.rotations.astype(np.float32), pose.root.astype(np.float32), fps)


def _huber(square: Tensor) -> Tensor:
    """Of squared errors: themselves as long as they are small, and then as their root."""
    far = (square + 1e-12).sqrt()
    return torch.where(square < _OUTLIER**2, square, 2 * _OUTLIER * far - _OUTLIER**2)


def _filled(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [T, L, 3] with their gaps interpolated over time, and where they were seen, bool [T, L]."""
    known = np.isfinite(points).all(axis=-1)
    found = points.copy()
    times = np.arange(len(points))
    for k in range(points.shape[1]):
        for axis in range(3):
            found[:, k, axis] = np.interp(times, times[known[:, k]], points[known[:, k], k, axis])
    return found, known


def _checked(values: np.ndarray, names: Sequence[str], width: int) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if found.ndim != 3 or found.shape[1:] != (len(names), width) or not len(found):
        raise InputError(f"Of {len(names)} names, points must be [T, {len(names)}, {width}], not {list(found.shape)}.")
    return found


def _views(keypoints: np.ndarray, cameras: Sequence[View]) -> np.ndarray:
    values = np.asarray(keypoints, np.float64)
    if (
        values.ndim != 4
        or values.shape[-1] != 3
        or not values.shape[1]
        or len(values) != len(cameras)
        or not len(values)
    ):
        raise InputError(
            f"Keypoints must be [V, T, K, 3] with a camera for each view, not {list(values.shape)} and {len(cameras)}."
        )
    for view in cameras:
        if not isinstance(view, Camera) and len(view) != values.shape[1]:
            raise InputError(f"A view of {values.shape[1]} frames needs one camera or as many, not {len(view)}.")
    return values


def _sight(values: np.ndarray, cameras: Sequence[View]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What views see, without lenses.

    Returns:
        rays: float64 [V, T, K, 2], x/z and y/z in the camera's axes.
        poses: float64 [V, T, 3, 4], from the world to the camera.
        focal: float64 [V, 1, 1], in pixels.
        weight: float64 [V, T, K], the scores, 0 where nothing is seen.
    """
    weight = np.where(np.isfinite(values).all(axis=-1) & (values[..., 2] > _SEEN), values[..., 2], 0.0)
    pixels = np.where(weight[..., None] > 0, values[..., :2], 0.0)
    rays = np.zeros(pixels.shape)
    poses = np.zeros((*values.shape[:2], 3, 4))
    for v, view in enumerate(cameras):
        each = [view] * values.shape[1] if isinstance(view, Camera) else view
        for t, camera in enumerate(each):
            ahead = camera.directions(pixels[v, t]) @ camera.rotation.T
            rays[v, t] = ahead[:, :2] / ahead[:, 2:]
            poses[v, t] = np.concatenate([camera.rotation, camera.translation[:, None]], axis=1)
    focal = np.array([(view if isinstance(view, Camera) else view[0]).intrinsics[0, 0] for view in cameras])
    return rays, poses, focal[:, None, None], weight
