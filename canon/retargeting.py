"""Motions of one skeleton on another: joints found by their names, rest poses brought together, sizes made the same.

Names of CMU, Biovision, Mixamo, 3ds Max, Unreal and SMPL are known. Every bone of the source's rest pose is turned onto
that of the 24-joint skeleton, from the pelvis outwards and each by the shortest way; what is left of a joint's rotation
in the world is then the same for both, so that arms and legs point where they did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp

from canon.bodies import BodyModel, body_of
from canon.errors import InputError
from canon.pose_landmarks import NAMES, side_and_part
from canon.pose_refining import nearest_rotation, unit
from canon.skeletons import Motion, Skeleton

_BONES = {
    # what joints are called by the bone that begins there
    "hip": ("upleg", "upperleg", "thigh", "hip"),
    "knee": ("leg", "lowerleg", "loleg", "calf", "shin", "knee"),
    "ankle": ("foot", "ankle"),
    "foot": ("toebase", "toe", "toes", "ball", "toe0"),
    "collar": ("shoulder", "collar", "clavicle"),
    "shoulder": ("arm", "uparm", "upperarm", "shldr"),
    "elbow": ("forearm", "lowerarm", "loarm", "elbow"),
    "wrist": ("hand", "wrist"),
    "hand": ("fingerbase", "handend", "handmiddle1", "middle1", "fingers", "handindex1", "index1"),
}
_JOINTS = {
    # what they are called by the joint itself
    "hip": ("hip",),
    "knee": ("knee",),
    "ankle": ("ankle",),
    "foot": ("foot", "toe", "toebase", "ball"),
    "collar": ("collar", "clavicle"),
    "shoulder": ("shoulder",),
    "elbow": ("elbow",),
    "wrist": ("wrist",),
    "hand": ("hand",),
}
_LIMBS = (("hip", "knee", "ankle", "foot"), ("collar", "shoulder", "elbow", "wrist", "hand"))
_NEEDED = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
_UPRIGHT = 0.5
"""Cosine above which a body tells which way is up."""


@dataclass(frozen=True, eq=False)
class SourceSkeleton:
    """Joints of another skeleton by the names of ours.

    Attributes:
        joint: numbers of its joints, of all of ours but the spine's that it has.
        spine: numbers from the pelvis to the joint that the shoulders hang on, both with it.
        rest: float64 [S, 3], where its joints are in its rest pose.
    """

    joint: dict[str, int]
    spine: list[int]
    rest: np.ndarray


def retarget(motion: Motion, skeleton: Skeleton) -> Motion:
    """A motion of a person with other joints, as one of 24 joints in SMPL's order.

    The result is in the body's axes: y up, facing +z in the first frame, with the first pelvis above the origin and
    the lowest sole at y = 0. The way of the root is as much longer or shorter as the legs are.

    Args:
        skeleton: of 24 joints, which stands in a T facing +z.

    Raises:
        InputError: the motion's names are not known, or the skeleton has other joints.
    """
    body = body_of(skeleton)
    source = source_of(motion.skeleton)
    posed = motion.skeleton.transforms(torch.from_numpy(motion.rotations), torch.from_numpy(motion.root)).double()
    turns, places = posed[..., :3, :3].numpy(), posed[..., :3, 3].numpy()
    aligned = alignment(source, skeleton)
    names = skeleton_names(skeleton)
    found = np.empty((len(motion), len(names), 3, 3))
    for k, name in enumerate(names):
        above = found[:, skeleton.parents[k]] if k else None
        found[:, k] = _turned(name, source, turns, aligned, above)
    middle = (places[:, source.joint["left_hip"]] + places[:, source.joint["right_hip"]]) / 2
    up = _up(middle, (places[:, source.joint["left_shoulder"]] + places[:, source.joint["right_shoulder"]]) / 2)
    level = _facing(up, found[0, 0, :, 2], found[0, 0, :, 1]).T
    found = level @ found
    rotations = found.copy()
    rotations[:, 1:] = found[:, skeleton.parents[1:]].swapaxes(-1, -2) @ found[:, 1:]
    rest = body.rest.double().numpy()
    hips = (rest[1] + rest[2]) / 2 - rest[0]
    root = (
        middle
        @ level.T
        * (_leg(rest, 1, 4, 7) / _leg(source.rest, *(source.joint[f"left_{one}"] for one in _LIMBS[0][:3])))
    )
    root = root - found[:, 0] @ hips
    root = root - root[0] * [1, 0, 1]
    result = Motion(skeleton, nearest_rotation(rotations).astype(np.float32), root.astype(np.float32), motion.fps)
    root[:, 1] -= _lowest(body, result).min()
    return Motion(skeleton, result.rotations, root.astype(np.float32), motion.fps)


def settle(motion: Motion, onto: Motion) -> Motion:
    """A motion turned and shifted as one whole so that it begins where another does.

    Up, the heading, the place on the ground and the height of the soles are afterwards those of the other motion's
    first frame; where the motion is in the air, its lowest frame tells where its ground is.

    Args:
        motion: of 24 joints in SMPL's order, any way up.
        onto: of 24 joints in SMPL's order, any way up.

    Raises:
        InputError: one of the two has other joints, or no frames.
    """
    frames, feet = [], []
    for k, one in enumerate((motion, onto)):
        if not len(one):
            raise InputError("A motion without frames cannot be put anywhere.")
        body = body_of(one.skeleton)
        joints = one.joints.astype(np.float64)
        up = _up((joints[:, 1] + joints[:, 2]) / 2, (joints[:, 16] + joints[:, 17]) / 2)
        first = one.rotations[0, 0].astype(np.float64)
        frames.append(_facing(up, first[:, 2], first[:, 1]))
        low = _lowest(body, one, up)
        ground = low.min() if k == 0 else low[0]
        root = one.root[0].astype(np.float64)
        feet.append(root + (ground - root @ up) * up)
    turn = frames[1] @ frames[0].T
    rotations = motion.rotations.copy()
    rotations[:, 0] = turn @ rotations[:, 0]
    root = (motion.root - feet[0]) @ turn.T + feet[1]
    return Motion(motion.skeleton, rotations, root.astype(np.float32), motion.fps)


def resample(motion: Motion, fps: float) -> Motion:
    """The same motion with so many frames per second; rotations turn evenly in between (slerp).

    Raises:
        InputError: fps is not above 0.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise InputError(f"Frames per second must be above 0, not {fps:g}.")
    if fps == motion.fps or len(motion) < 2:
        return Motion(motion.skeleton, motion.rotations, motion.root, fps)
    last = (len(motion) - 1) / motion.fps
    times = np.minimum(np.arange(int(np.floor(last * fps + 1e-6)) + 1) / fps, last) * motion.fps
    own = np.arange(len(motion))
    rotations = np.stack(
        [
            Slerp(own, Rotation.from_matrix(motion.rotations[:, k]))(times).as_matrix()
            for k in range(len(motion.skeleton))
        ],
        axis=1,
    )
    root = np.stack([np.interp(times, own, motion.root[:, axis]) for axis in range(3)], axis=-1)
    return Motion(motion.skeleton, rotations.astype(np.float32), root.astype(np.float32), fps)


def skeleton_names(skeleton: Skeleton) -> tuple[str, ...]:
    """Names of the joints in SMPL's order, whatever the skeleton itself calls them."""
    return NAMES[: len(skeleton)]


def source_of(skeleton: Skeleton) -> SourceSkeleton:
    """Which joints are which.

    Raises:
        InputError: some that are needed are not found.
    """
    named: dict[tuple[str, str], int] = {}
    for k, name in enumerate(skeleton.names):
        named.setdefault(_plain(name), k)
    joint: dict[str, int] = {}
    for side in ("left", "right"):
        for limb in _LIMBS:
            by_joint = any(
                (side, name) in named for name in (("knee", "ankle") if "knee" in limb else ("elbow", "wrist"))
            )
            for part in limb:
                calls = (_JOINTS[part] if by_joint else ()) + (_BONES[part] if not by_joint else ())
                found = next((named[side, call] for call in calls if (side, call) in named), None)
                if found is not None and found not in joint.values():
                    joint[f"{side}_{part}"] = found
    missing = [f"{side}_{part}" for part in _NEEDED for side in ("left", "right") if f"{side}_{part}" not in joint]
    if missing:
        raise InputError(
            f"The motion has no joint that is known as {', '.join(missing)} among {', '.join(skeleton.names)}; "
            "name its joints as Mixamo, CMU, Biovision or SMPL do."
        )
    lines = {
        part: _line(skeleton, joint[part]) for part in ("left_hip", "right_hip", "left_shoulder", "right_shoulder")
    }
    pelvis = _together(lines["left_hip"], lines["right_hip"])
    chest = _together(lines["left_shoulder"], lines["right_shoulder"])
    above = _line(skeleton, chest)
    joint["pelvis"] = pelvis
    spine = above[above.index(pelvis) :] if pelvis in above else [pelvis, chest]
    for part, calls in (("neck", ("neck", "lowerneck", "neck1")), ("head", ("head",))):
        found = next((named["", call] for call in calls if ("", call) in named), None)
        if found is not None:
            joint[part] = found
    eye = torch.eye(3).expand(len(skeleton), 3, 3)
    return SourceSkeleton(joint, spine, skeleton.joints(eye, torch.zeros(3)).double().numpy())


def _plain(name: str) -> tuple[str, str]:
    """Side and part of a joint's name."""
    own = re.split(r"[:|]", name)[-1]
    own = re.sub(r"^(mixamorig\d*|bip0*1|b|m_avg|f_avg)[_ ]", "", own, flags=re.IGNORECASE)
    words = [word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", own).lower()) if word]
    return side_and_part(words, {call for calls in (*_BONES.values(), *_JOINTS.values()) for call in calls})


def _line(skeleton: Skeleton, joint: int) -> list[int]:
    """From the root to a joint, both with it."""
    found = [joint]
    while skeleton.parents[found[0]] >= 0:
        found.insert(0, skeleton.parents[found[0]])
    return found


def _together(first: list[int], second: list[int]) -> int:
    """The last joint that two lines share."""
    return [a for a, b in zip(first, second, strict=False) if a == b][-1]


def alignment(source: SourceSkeleton, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Rotations [3, 3] that bring the source's rest pose to ours, by the name of the joint."""
    rest, joint = source.rest, source.joint
    eye = torch.eye(3).expand(len(skeleton), 3, 3)
    own = dict(zip(skeleton_names(skeleton), skeleton.joints(eye, torch.zeros(3)).double().numpy(), strict=True))

    def middle(part: str) -> np.ndarray:
        return np.asarray((rest[joint[f"left_{part}"]] + rest[joint[f"right_{part}"]]) / 2)

    def frame(part: str) -> np.ndarray:
        up = unit(middle("shoulder") - middle("hip"))
        left = rest[joint[f"left_{part}"]] - rest[joint[f"right_{part}"]]
        left = unit(left - (left @ up) * up)
        return np.stack([left, up, np.cross(left, up)])

    found = {"pelvis": frame("hip"), "chest": frame("shoulder")}
    for name in ("spine1", "spine2"):
        found[name] = found["pelvis"]
    for name in ("spine3", "neck", "head"):
        found[name] = found["chest"]
    for side in ("left", "right"):
        for limb, start in zip(_LIMBS, ("pelvis", "chest"), strict=True):
            turn = found[start]
            for part, after in zip(limb, (*limb[1:], ""), strict=True):
                here, there = f"{side}_{part}", f"{side}_{after}"
                if here in joint and there in joint:
                    bone = turn @ (rest[joint[there]] - rest[joint[here]])
                    wanted = own[there] - own[here]
                    if np.linalg.norm(bone) > 1e-3 * np.linalg.norm(turn @ (middle("shoulder") - middle("hip"))):
                        turn = _shortest(unit(bone), unit(wanted)) @ turn
                found[here] = turn
    return found


def _shortest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The rotation by the shortest way between two unit vectors."""
    axis = np.cross(first, second)
    angle = np.arctan2(np.linalg.norm(axis), first @ second)
    if np.linalg.norm(axis) < 1e-9:  # any axis across will do for half a turn
        axis = np.cross(first, np.eye(3)[np.abs(first).argmin()])
    return Rotation.from_rotvec(angle * unit(axis)).as_matrix()


def _turned(
    name: str, source: SourceSkeleton, turns: np.ndarray, aligned: dict[str, np.ndarray], above: np.ndarray | None
) -> np.ndarray:
    """Rotations [T, 3, 3] of one of our joints in the world."""
    if name.startswith("spine"):
        # Spines of any number of joints: ours turn like what is as far along theirs.
        at = int(name[-1]) / 3 * (len(source.spine) - 1)
        low = min(int(at), len(source.spine) - 1)
        high = min(low + 1, len(source.spine) - 1)
        last = len(source.spine) - 1
        frames = [turns[:, source.spine[k]] @ aligned["chest" if k == last > 0 else "pelvis"].T for k in (low, high)]
        way = Rotation.from_matrix(frames[0].swapaxes(-1, -2) @ frames[1]).as_rotvec()
        return np.asarray(frames[0] @ Rotation.from_rotvec((at - low) * way).as_matrix())
    if name in source.joint:
        return turns[:, source.joint[name]] @ aligned[name].T
    assert above is not None
    return above


def _leg(rest: np.ndarray, hip: int, knee: int, ankle: int) -> float:
    return float(np.linalg.norm(rest[knee] - rest[hip]) + np.linalg.norm(rest[ankle] - rest[knee]))


def _up(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which way is up, [3]: the axis along which people mostly are, or are at times; else where they mostly are."""
    trunk = unit(high - low)
    up = unit(np.median(trunk, axis=0))
    axis = np.zeros(3)
    axis[np.abs(up).argmax()] = np.sign(up[np.abs(up).argmax()])
    # Who leans far for most of a clip still stands upright in some of it, unless the world is tilted.
    upright = (trunk @ axis > np.cos(np.radians(20))).mean() > 0.2
    known = np.linalg.norm(np.median(high - low, axis=0)) >= 1e-9
    return up if known and not upright and up @ axis <= np.cos(np.radians(30)) else axis


def _facing(up: np.ndarray, ahead: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Axes [3, 3] in columns: left, up, and level ahead; of who lies, the head or the feet are ahead."""
    level = ahead - (ahead @ up) * up
    if np.linalg.norm(level) < 0.2:
        level = -np.sign(ahead @ up) * (above - (above @ up) * up)
    front = unit(level)
    return np.stack([np.cross(up, front), up, front], axis=1)


def _lowest(body: BodyModel, motion: Motion, up: np.ndarray | None = None) -> np.ndarray:
    """How low the body is in every frame, float64 [T], along up."""
    along = np.array([0.0, 1.0, 0.0]) if up is None else up
    moved = body.moved(torch.from_numpy(motion.rotations), torch.from_numpy(motion.root)).double().numpy()
    own = moved[:, body.bones.joint.numpy()]
    ends = [np.einsum("tbij,bj->tbi", own[..., :3, :3], end.double().numpy()) + own[..., :3, 3]
            for end in (body.bones.start, body.bones.end)]  # fmt: skip
    return np.asarray(np.minimum(*(end @ along for end in ends)) - body.bones.radius.double().numpy()).min(axis=1)
