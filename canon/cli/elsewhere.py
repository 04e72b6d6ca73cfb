"""``--camera`` and ``--pose`` of the command line: a fit as other cameras see it, or in other poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from canon.errors import InputError

if TYPE_CHECKING:
    from canon.cameras import Camera
    from canon.fits import Fit
    from canon.skeletons import Motion
    from canon.spatial import SpatialFit

ORIGINAL, ORBIT = "original", "orbit"
_MOST = 10_000
"""Frames that are rendered at most: they are kept until all are there."""


def elsewhere(fit: Fit, camera: str, pose: str | None, frames: int | None, height: int | None) -> SpatialFit:
    """The fit from cameras and in poses that were asked for.

    Args:
        camera: "original", "orbit", or a file of cameras or of a camera path.
        pose: a file of poses or motion; None keeps those of the clip.
        frames: how many; None = as many as the file has, or the clip.
        height: of the pictures; None = that of the clip. A file of cameras says how wide they are.

    Raises:
        InputError: the fit has no third dimension, or a file cannot be used.
    """
    from canon.spatial import spatial

    own = spatial(fit)
    if frames is not None and not 1 <= frames <= _MOST:
        raise InputError(f"There cannot be {frames} frames; give 1 to {_MOST}.")
    if height is not None and not 8 <= height <= 8192:
        raise InputError(f"A height of {height} pixels is out of range; give 8 to 8192.")
    motion = None if pose is None else _motion(own, pose)
    moments = len(own) // len(own.clip.views)
    count = frames or (moments if motion is None else len(motion))
    cameras = _cameras(own, camera, min(count, _MOST))
    if camera not in (ORIGINAL, ORBIT):
        if len(cameras) == 1:  # it stands still
            cameras = cameras * min(count, _MOST)
        count = min(frames or len(cameras), len(cameras))
    if count > _MOST:
        raise InputError(f"There would be {count} frames; give --frames with 1 to {_MOST}.")
    if motion is not None:
        count = min(count, len(motion)) if frames is None else count
        chosen = np.minimum(np.arange(count), len(motion) - 1)
        motion = replace(motion, rotations=motion.rotations[chosen], root=motion.root[chosen])
    if height is not None:
        size = cameras[0].size
        cameras = [each.resized((height, max(round(size[1] * height / size[0]), 1))) for each in cameras]
    return own.from_elsewhere(cameras[:count], motion, [k % moments for k in range(count)])


def _cameras(fit: SpatialFit, camera: str, count: int) -> list[Camera]:
    from canon.camera_files import read_cameras
    from canon.camera_paths import is_path, orbit, read_path

    moments = len(fit) // len(fit.clip.views)
    if camera == ORIGINAL:
        return [fit.cameras[k % moments] for k in range(count)]
    if camera == ORBIT:
        return orbit(fit.cameras, fit.centre, count)
    if not Path(camera).exists():
        raise InputError(f"There is no camera path '{camera}'; give a file, 'orbit' or 'original'.")
    if is_path(camera):
        return read_path(camera, fit.size)
    found = [view.camera for view in read_cameras(camera)]
    if not found:
        raise InputError(f"'{camera}' holds no cameras; give at least one.")
    if len({each.size for each in found}) > 1:
        raise InputError(f"The cameras of '{camera}' take pictures of several sizes; give cameras of one.")
    height, width = found[0].size
    size = (fit.size[0], max(round(width * fit.size[0] / height), 1))
    return [each if each.size == size else each.resized(size) for each in found]


def _motion(fit: SpatialFit, pose: str) -> Motion:
    from canon.poses import read_poses
    from canon.retargeting import resample, settle

    if fit.clip.poses is None:
        raise InputError("This fit has no person that could be posed.")
    return settle(resample(read_poses(pose), float(fit.clip.fps)), fit.clip.poses)
