"""Poses for the viewer in three dimensions: of the clip's frames, at rest, of a file, and as sliders turn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from canon.errors import InputError
from canon.skeletons import Motion
from canon.spatial import SpatialFit
from canon.storage import inside
from canon.viewer.spatial_world import Posed

FRAME, REST = "of the frame", "T-pose"
_SUFFIXES = (".bvh", ".npz")
_MOST_FILES = 200
_LIMBS = {"arm": ("collar", "shoulder", "elbow", "wrist", "hand"), "leg": ("hip", "knee", "ankle", "foot")}


class Poses:
    """The person's pose at every step of the timeline."""

    def __init__(self, fit: SpatialFit) -> None:
        self._fit = fit
        self.moments = len(fit) // len(fit.clip.views)
        self.rest = False
        self.motion: Motion | None = None
        first = fit.posed(0)
        self.turns = np.zeros((0 if first is None else len(first[0]), 3))
        """Degrees by which joints are turned about their axes, [J, 3]; see :meth:`at`."""

    @property
    def count(self) -> int:
        """Steps of the timeline: the clip's frames, or those of the motion that is followed."""
        return self.moments if self.motion is None else len(self.motion)

    def time(self, k: int) -> int:
        """The frame of the clip at a step; a motion that is longer sees it again and again."""
        return k % self.moments

    def own(self, k: int) -> Posed | None:
        """The pose at a step where it is not just that of the frame; None where it is."""
        changed = self.rest or self.motion is not None or bool(self.turns.any())
        return self.at(k) if changed else None

    def at(self, k: int) -> Posed | None:
        """The pose at a step; None where the fit has no person.

        A joint's turn is a rotation vector in the joint's own axes, after those of the pose. At rest the person stands
        where the frame has them, and turned as there.
        """
        found = self._fit.posed(self.time(k))
        if found is None:
            return None
        turn, root = found
        if self.motion is not None:
            at = min(k, len(self.motion) - 1)
            turn, root = self.motion.rotations[at], self.motion.root[at]
        if self.rest:
            turn = np.concatenate([turn[:1], np.tile(np.eye(3, dtype=np.float32), (len(turn) - 1, 1, 1))])
        if self.turns.any():
            turn = turn @ Rotation.from_rotvec(self.turns, degrees=True).as_matrix().astype(np.float32)
        return turn, root


def groups(joints: tuple[str, ...]) -> dict[str, list[int]]:
    """Numbers of joints by the part of the body that they belong to, from the trunk outwards."""
    found: dict[str, list[int]] = {"trunk": []}
    for k, name in enumerate(joints):
        side, _, part = name.partition("_")
        limb = next((limb for limb, parts in _LIMBS.items() if part in parts and side in ("left", "right")), None)
        found.setdefault("trunk" if limb is None else f"{side} {limb}", []).append(k)
    return found


def motions(folder: Path | None) -> list[str]:
    """Files of motions in a folder and its folders, as paths in it."""
    if folder is None or not folder.is_dir():
        return []
    places = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    names = [str(path.relative_to(folder)) for path in places if path.suffix.lower() in _SUFFIXES and path.is_file()]
    return sorted(name for name in names if not name.startswith("."))[:_MOST_FILES]


def read_motion(fit: SpatialFit, folder: Path, name: str) -> Motion:
    """A motion for a fit's person, which begins where they stand.

    Raises:
        InputError: the file cannot be used, lies outside of the folder, or the fit has no person.
    """
    from canon.poses import read_poses
    from canon.retargeting import resample, settle

    if fit.clip.poses is None:
        raise InputError("This fit has no person that could be posed.")
    path = inside(folder, name)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"'{name}' is no motion; give a .bvh or a .npz.")
    return settle(resample(read_poses(path), float(fit.clip.fps)), fit.clip.poses)
