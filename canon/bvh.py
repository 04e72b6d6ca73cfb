"""Motions in BVH files (Biovision Hierarchy), as motion capture and animation programs write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from canon.errors import InputError
from canon.skeletons import Motion, Skeleton, axis_rotation

_LARGEST = 1 << 28
"""Bytes of a file that are read at most."""


@dataclass
class _Joint:
    name: str
    parent: int
    offset: list[float] = field(default_factory=lambda: [0.0] * 3)
    channels: list[str] = field(default_factory=list)


def read_bvh(path: str | Path) -> Motion:
    """The motion of a BVH file, in its own units and axes; the ends of its chains are joints named after the last one.

    Raises:
        InputError: it cannot be read, or is no BVH file.
    """
    place = Path(path)
    try:
        if place.stat().st_size > _LARGEST:
            raise InputError(f"'{path}' is larger than {_LARGEST >> 20} MiB, which is no motion of a person.")
        head, found, body = place.read_text().partition("MOTION")
        joints = _hierarchy(head.split())
        if not found:
            raise ValueError("it has no motion")
        return _motion(joints, body.split())
    except InputError:
        raise
    except (OSError, ValueError, IndexError) as error:
        what = "it ends too early" if isinstance(error, IndexError) else error
        raise InputError(f"The motion '{path}' cannot be read: {what}.") from error


def _hierarchy(words: list[str]) -> list[_Joint]:
    if words[:1] != ["HIERARCHY"]:
        raise ValueError("it does not begin with HIERARCHY")
    joints: list[_Joint] = []
    above: list[int] = []
    at = 1
    while at < len(words):
        word = words[at]
        if word in ("ROOT", "JOINT", "End"):
            if (word == "ROOT") != (not above):
                raise ValueError("it has not one root")
            name = f"{joints[above[-1]].name}_end" if word == "End" else words[at + 1]
            joints.append(_Joint(name, above[-1] if above else -1))
            if words[at + 2] != "{":
                raise ValueError(f"'{{' is missing after '{name}'")
            above.append(len(joints) - 1)
            at += 3
        elif word == "}":
            above.pop()
            at += 1
        elif word == "OFFSET":
            joints[above[-1]].offset = [float(value) for value in words[at + 1 : at + 4]]
            at += 4
        elif word == "CHANNELS":
            count = int(words[at + 1])
            joints[above[-1]].channels = words[at + 2 : at + 2 + count]
            at += 2 + count
        else:
            raise ValueError(f"'{word}' is not known")
    return joints


def _motion(joints: list[_Joint], words: list[str]) -> Motion:
    if words[0] != "Frames:" or words[2:4] != ["Frame", "Time:"]:
        raise ValueError("it does not say how many frames it has, and how long they are")
    count, seconds = int(words[1]), float(words[4])
    width = sum(len(joint.channels) for joint in joints)
    if count < 1 or not seconds > 0:
        raise ValueError(f"it has {count} frames of {seconds:g} seconds")
    if len(words) - 5 != count * width:
        raise ValueError(f"it has {len(words) - 5} numbers instead of {count} frames of {width}")
    values = np.array(words[5:], np.float64).reshape(count, width)
    if not np.isfinite(values).all():
        raise ValueError("it has numbers that are not finite")
    skeleton = Skeleton(
        tuple(joint.name for joint in joints),
        tuple(joint.parent for joint in joints),
        np.array([joint.offset for joint in joints], np.float32),
    )
    rotations = np.tile(np.eye(3), (count, len(joints), 1, 1))
    root = np.tile(np.array(joints[0].offset), (count, 1))
    column = 0
    for k, joint in enumerate(joints):
        for channel in joint.channels:
            axis = "XYZ".index(channel[0])
            if channel[1:] == "rotation":
                rotations[:, k] = rotations[:, k] @ axis_rotation(axis, np.radians(values[:, column]))
            elif channel[1:] != "position":
                raise ValueError(f"a channel '{channel}' is not known")
            elif k == 0:  # other joints stay on their bones
                root[:, axis] = values[:, column]
            column += 1
    return Motion(skeleton, rotations.astype(np.float32), root.astype(np.float32), 1 / seconds)
