"""Where the points that estimators of poses name lie on the 24-joint skeleton.

Names of COCO, OpenPose (BODY_25, BODY_25B), Halpe, Human3.6M and SMPL are known in any spelling: "LKnee", "left_knee"
and "L Knee" are the same. Names that are not known, such as those of fingers, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from canon.bodies import capsule_body
from canon.errors import InputError

NAMES = capsule_body().skeleton.names
"""Of the 24 joints, in SMPL's order."""
_SWAPPED = [name.replace("left_", "R_").replace("right_", "left_").replace("R_", "right_") for name in NAMES]
MIRROR = np.array([NAMES.index(name) for name in _SWAPPED])
"""Of every joint, its number on the other side of the body; its own in the middle."""

_PARTS = {
    # what the point is called: the joint that it moves with, and how far from there, in metres of a person of 1.7 m
    "hip": ("hip", (0, 0, 0)),
    "knee": ("knee", (0, 0, 0)),
    "ankle": ("ankle", (0, 0, 0)),
    "ball": ("foot", (0, 0, 0)),
    "heel": ("ankle", (0, -0.045, -0.045)),
    "bigtoe": ("ankle", (-0.015, -0.055, 0.18)),
    "smalltoe": ("ankle", (0.055, -0.06, 0.145)),
    "toe": ("ankle", (0.015, -0.055, 0.17)),
    "collar": ("collar", (0, 0, 0)),
    "shoulder": ("shoulder", (0, 0, 0)),
    "elbow": ("elbow", (0, 0, 0)),
    "wrist": ("wrist", (0, 0, 0)),
    "palm": ("hand", (0, 0, 0)),
    "eye": ("head", (0.03, 0.09, 0.085)),
    "ear": ("head", (0.07, 0.075, 0.01)),
}
_MIDDLE = {
    "pelvis": ("pelvis", (0, 0, 0)),
    "midhip": ("pelvis", (0, -0.075, 0)),
    "spine1": ("spine1", (0, 0, 0)),
    "spine2": ("spine2", (0, 0, 0)),
    "spine3": ("spine3", (0, 0, 0)),
    "midshoulder": ("spine3", (0, 0.15, 0)),
    "neck": ("neck", (0, 0, 0)),
    "skull": ("head", (0, 0, 0)),
    "nose": ("head", (0, 0.065, 0.105)),
    "top": ("head", (0, 0.2, 0)),
}
_SIDED = {"toebase": "ball", "littletoe": "smalltoe", "smltoe": "smalltoe"}
_SYNONYMS = {
    "hips": "midhip", "hip": "midhip", "root": "midhip", "middlehip": "midhip", "centerhip": "midhip",
    "thorax": "midshoulder", "sternum": "midshoulder", "chest": "midshoulder", "spine": "spine2", "torso": "spine2",
    "head": "top", "headtop": "top", "tophead": "top", "jaw": "skull",
}  # fmt: skip
_AS_SMPL = {"neck": "neck", "head": "skull", "foot": "ball", "hand": "palm", "pelvis": "pelvis"}
"""What some names mean among SMPL's; elsewhere the neck is between the shoulders, and the head is its top."""
_ELSEWHERE = {"neck": "midshoulder", "head": "top", "foot": "toe", "hand": "wrist", "pelvis": "midhip"}


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of a body that were seen.

    Attributes:
        column: int [L], which of the given points.
        part: what they are, such as ("left", "knee") or ("", "nose").
        joint: int [L], with which they move.
        offset: float64 [L, 3], how far from it in the rest pose, in metres of a person of 1.7 m.
    """

    column: np.ndarray
    part: tuple[tuple[str, str], ...]
    joint: np.ndarray
    offset: np.ndarray

    def find(self, side: str, name: str) -> int | None:
        """Number of a landmark, if it was seen."""
        return self.part.index((side, name)) if (side, name) in self.part else None

    def at_joints(self) -> dict[int, int]:
        """Of the joints that were seen themselves, the landmark."""
        return {int(j): k for k, j in enumerate(self.joint) if not self.offset[k].any()}

    @property
    def mirror(self) -> np.ndarray:
        """Number of the same landmark on the other side of the body, int [L]; its own where there is none."""
        other = {"left": "right", "right": "left", "": ""}
        pairs = ((k, self.find(other[side], name)) for k, (side, name) in enumerate(self.part))
        return np.array([k if found is None else found for k, found in pairs])

    def taken(self, keep: np.ndarray) -> Landmarks:
        """Some of them; bool [L]."""
        part = tuple(one for one, kept in zip(self.part, keep, strict=True) if kept)
        return Landmarks(self.column[keep], part, self.joint[keep], self.offset[keep])


def landmarks(names: Sequence[str]) -> Landmarks:
    """What points of these names are; the first of two that are the same counts.

    Raises:
        InputError: fewer than three are known.
    """
    plain = [_plain(name) for name in names]
    is_smpl = any(name in ("collar", "spine1", "spine3") for _, name in plain)
    special = dict(_AS_SMPL if is_smpl else _ELSEWHERE)
    if not is_smpl and not any(name == "ankle" for _, name in plain):
        special["foot"] = "ankle"  # as Human3.6M is often named
    found: dict[tuple[str, str], int] = {}
    for column, (side, name) in enumerate(plain):
        name = special.get(name, name)
        if side:
            name = _SIDED.get(name, name)
        else:
            name = _SYNONYMS.get(name, name)
        if name in (_PARTS if side else _MIDDLE):
            found.setdefault((side, name), column)
    if len(found) < 3:
        raise InputError(
            f"Of the points {', '.join(map(str, names)) or '(none)'}, fewer than three are known; "
            "name them as COCO, OpenPose, Halpe, Human3.6M or SMPL do."
        )
    joint, offset = [], []
    for side, name in found:
        at, away = _PARTS[name] if side else _MIDDLE[name]
        joint.append(NAMES.index(at if at in NAMES else f"{side}_{at}"))
        offset.append(np.array(away) * ((-1 if side == "right" else 1), 1, 1))
    return Landmarks(np.array(list(found.values())), tuple(found), np.array(joint), np.array(offset, np.float64))


def _plain(name: str) -> tuple[str, str]:
    """Side and part of a name in any spelling."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", str(name))
    words = [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]
    return side_and_part(words, {*_PARTS, "foot", "hand", "toebase"})


def side_and_part(words: Sequence[str], known: Collection[str]) -> tuple[str, str]:
    """Side ("left", "right" or "") and part of a name in lower case, in its words.

    Args:
        known: parts that may have a side's first letter before them: "lknee", as some write it.
    """
    text = "".join(words)
    for side in ("left", "right"):
        if text.startswith(side) or text.endswith(side):
            return side, text.replace(side, "", 1)
        if len(words) > 1 and side[0] in (words[0], words[-1]):
            return side, "".join(words[1:] if words[0] == side[0] else words[:-1])
    for side in ("left", "right"):
        if text[:1] == side[0] and text[1:] in known:
            return side, text[1:]
    return "", text
