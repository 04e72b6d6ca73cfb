"""Motions on other skeletons: joints stay where they were, bones point the same way, nothing is mirrored or sinks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from motions import write_bvh
from scipy.spatial.transform import Rotation

from canon.bodies import body_of, capsule_body
from canon.bvh import read_bvh
from canon.errors import InputError
from canon.poses import read_poses
from canon.retargeting import resample, retarget, settle
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.skeletons import Motion, Skeleton, axis_rotation

MOTIONS = Path(__file__).parents[2].parent / "shared" / "clips" / "motion_bvh"
SIDES = ("left", "right")
LIMBS = (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
MIXAMO = ["Hips", "UpLeg", "UpLeg", "Spine", "Leg", "Leg", "Spine1", "Foot", "Foot", "Spine2", "ToeBase", "ToeBase",
          "Neck", "Shoulder", "Shoulder", "Head", "Arm", "Arm", "ForeArm", "ForeArm", "Hand", "Hand", "HandMiddle1",
          "HandMiddle1"]  # fmt: skip
BIOVISION = ["Hips", "Hip", "Hip", "Chest", "Knee", "Knee", "Chest2", "Ankle", "Ankle", "Chest3", "Toe", "Toe", "Neck",
             "Collar", "Collar", "Head", "Shoulder", "Shoulder", "Elbow", "Elbow", "Wrist", "Wrist", "hand",
             "hand"]  # fmt: skip


def named(style: str) -> tuple[str, ...]:
    """Names of our 24 joints as other programs give them."""
    own = capsule_body().skeleton.names
    if style == "SMPL":
        return tuple(name.replace("left_", "L_").replace("right_", "R_").title() for name in own)
    parts = MIXAMO if style == "Mixamo" else BIOVISION
    side = [name.partition("_")[0].title() if "_" in name else "" for name in own]
    return tuple(("mixamorig:" if style == "Mixamo" else "") + s + part for s, part in zip(side, parts, strict=True))


def scene_motion(name: str = "walk", frames: int = 13, height: float = 1.7) -> Motion:
    scene = HumanScene(HumanSceneConfig(motion=name, body_height=height))
    poses = [scene.pose(1.5 * t) for t in range(frames)]
    root = np.stack([pose[1] + np.float32([0.05 * t, 0, 0.03 * t]) for t, pose in enumerate(poses)])
    return Motion(scene.body.skeleton, np.stack([pose[0] for pose in poses]), root, 30.0)


def in_another_rest_pose(motion: Motion, names: tuple[str, ...], arms: float, world: np.ndarray, size: float) -> Motion:
    """The same motion of a skeleton that rests with hanging arms, in a world of other axes and units."""
    own = motion.skeleton
    rest = np.tile(np.eye(3), (24, 1, 1))
    for k, name in enumerate(own.names):
        if name.partition("_")[2] in ("shoulder", "elbow", "wrist", "hand"):
            rest[k] = axis_rotation(2, np.array(-arms if name.startswith("left") else arms))
    rest = world @ rest
    above = [0, *own.parents[1:]]
    offsets = np.einsum("jab,jb->ja", rest[above], own.offsets) * size
    turns = own.transforms(torch.from_numpy(motion.rotations), torch.zeros(3))[..., :3, :3].double().numpy()
    turns = world @ turns @ rest.swapaxes(-1, -2)
    local = turns.copy()
    local[:, 1:] = turns[:, own.parents[1:]].swapaxes(-1, -2) @ turns[:, 1:]
    root = (motion.root @ world.T * size).astype(np.float32)
    return Motion(Skeleton(names, own.parents, offsets.astype(np.float32)), local.astype(np.float32), root, motion.fps)


def on_the_ground(motion: Motion) -> np.ndarray:
    """Joints as `retarget` puts them, of a motion that faces +z already."""
    joints = motion.joints - motion.root[0] * np.float32([1, 0, 1])
    return np.asarray(joints - np.array([0, lowest(motion).min(), 0]))


def lowest(motion: Motion) -> np.ndarray:
    """The lowest place of the body in every frame, along y."""
    body = body_of(motion.skeleton)
    moved = body.moved(torch.from_numpy(motion.rotations), torch.from_numpy(motion.root)).numpy()[:, body.bones.joint]
    ends = [np.einsum("tbj,bj->tb", moved[..., 1, :3], end.numpy()) for end in (body.bones.start, body.bones.end)]
    return np.asarray((np.minimum(*ends) + moved[..., 1, 3] - body.bones.radius.numpy()).min(axis=1))


@pytest.mark.parametrize("name", ["walk", "wave", "turn"])
def test_the_scene_on_itself_is_the_same(name: str) -> None:
    motion = scene_motion(name)
    found = retarget(motion, motion.skeleton)
    assert np.allclose(found.joints, on_the_ground(motion), atol=1e-4)
    assert np.allclose(found.rotations, motion.rotations, atol=1e-4) and found.fps == motion.fps
    assert lowest(found).min() == pytest.approx(0, abs=1e-5) and np.allclose(found.root[0, [0, 2]], 0, atol=1e-6)


@pytest.mark.parametrize("style", ["Mixamo", "Biovision", "SMPL"])
@pytest.mark.parametrize("arms", [0.0, 1.4])
def test_bvh_files_of_other_names_rest_poses_axes_and_units(style: str, arms: float, tmp_path: Path) -> None:
    motion = scene_motion()
    world = axis_rotation(0, np.array(np.pi / 2)) @ axis_rotation(1, np.array(0.7))  # z up, facing aside
    write_bvh(in_another_rest_pose(motion, named(style), arms, world, 100.0), tmp_path / "a.bvh")
    found = retarget(read_bvh(tmp_path / "a.bvh"), motion.skeleton)
    assert np.allclose(found.joints, on_the_ground(motion), atol=2e-3)
    assert np.allclose(found.rotations, motion.rotations, atol=5e-3)
    again = read_poses(tmp_path / "a.bvh", fps=15)
    assert len(again) == 7 and again.skeleton.parents == motion.skeleton.parents and again.fps == 15


def test_smaller_people_take_smaller_steps() -> None:
    motion = scene_motion()
    found = retarget(motion, capsule_body(0.85).skeleton)
    assert np.allclose(found.joints, on_the_ground(motion) / 2, atol=1e-4)


def test_upside_up_and_sides_are_kept() -> None:
    """A motion that is seen in a mirror would have its left on the right."""
    motion = in_another_rest_pose(
        scene_motion("wave"), named("Mixamo"), 1.0, axis_rotation(2, np.array(np.pi / 2)), 3.0
    )
    found = retarget(motion, capsule_body().skeleton)
    joints = dict(zip(found.skeleton.names, found.joints[0], strict=True))
    assert joints["head"][1] > joints["pelvis"][1] + 0.5 and joints["left_foot"][2] > joints["left_ankle"][2]
    assert joints["left_shoulder"][0] > joints["right_shoulder"][0] + 0.2
    assert joints["right_wrist"][1] > joints["right_elbow"][1] and joints["left_wrist"][1] < joints["left_elbow"][1]


@pytest.mark.skipif(not MOTIONS.exists(), reason="the shared clips are not here")
@pytest.mark.parametrize("name", ["cmu_01_01", "dab", "jumping", "jumping_jacks", "wave_hello", "zombie"])
def test_real_motions(name: str) -> None:
    source = read_bvh(MOTIONS / f"{name}.bvh")
    found = retarget(source, capsule_body(1.75).skeleton)
    parts = {"hip": ("UpLeg", "Hip"), "knee": ("Leg", "Knee"), "ankle": ("Foot", "Ankle"),
             "shoulder": ("Arm", "Shoulder"), "elbow": ("ForeArm", "Elbow"), "wrist": ("Hand", "Wrist")}  # fmt: skip
    has = source.skeleton.names.index
    style = int("LeftElbow" in source.skeleton.names)
    there, here = [], []
    for side in SIDES:
        for pair in LIMBS:
            ends = [source.joints[:, has(side.title() + parts[part][style])] for part in pair]
            own = [found.joints[:, found.skeleton.names.index(f"{side}_{part}")] for part in pair]
            there.append(ends[1] - ends[0])
            here.append(own[1] - own[0])
    a, b = (np.stack(one) / np.linalg.norm(np.stack(one), axis=-1, keepdims=True) for one in (there, here))
    world, _ = Rotation.align_vectors(b.reshape(-1, 3), a.reshape(-1, 3))
    angles = np.degrees(np.arccos(np.clip((world.apply(a.reshape(-1, 3)) * b.reshape(-1, 3)).sum(-1), -1, 1)))
    assert angles.max() < 1.0
    assert lowest(found).min() == pytest.approx(0, abs=1e-4)
    assert np.median(found.joints[:, 15, 1]) > 1.2 and abs(found.root[0, 0]) + abs(found.root[0, 2]) < 1e-5
    ahead = found.rotations[0, 0, :, 2]
    assert ahead[2] > 0.8 and abs(ahead[0]) < 1e-3
    # Trunk and arms are not twisted: the chest and hips face the same way on the whole.
    turns = found.skeleton.transforms(torch.from_numpy(found.rotations), torch.from_numpy(found.root)).numpy()
    assert np.median((turns[:, 9, :3, 2] * turns[:, 0, :3, 2]).sum(-1)) > 0.8


def test_names_that_are_not_known_are_told() -> None:
    motion = scene_motion()
    names = tuple(f"joint{k}" for k in range(24))
    with pytest.raises(InputError, match="no joint that is known as left_hip"):
        retarget(
            Motion(
                Skeleton(names, motion.skeleton.parents, motion.skeleton.offsets), motion.rotations, motion.root, 30
            ),
            motion.skeleton,
        )
    with pytest.raises(InputError, match="24 joints"):
        retarget(motion, Skeleton(("a",), (-1,), np.zeros((1, 3))))


@settings(max_examples=10, deadline=None)
@given(yaw=st.floats(-3, 3), tilt=st.sampled_from(["y", "z", "-y"]), x=st.floats(-5, 5), z=st.floats(-5, 5))
def test_a_settled_motion_begins_where_the_other_does(yaw: float, tilt: str, x: float, z: float) -> None:
    ups = {"y": np.eye(3), "z": axis_rotation(0, np.array(np.pi / 2)), "-y": axis_rotation(0, np.array(np.pi))}
    world = ups[tilt] @ axis_rotation(1, np.array(yaw))
    own = scene_motion("wave", 5)
    turns = own.rotations.copy()
    turns[:, 0] = world @ turns[:, 0]
    shift = np.array([x, 0.5, z])
    onto = Motion(own.skeleton, turns, ((own.root + shift) @ world.T).astype(np.float32), 30.0)
    # The same motion settles on itself, whatever way up and wherever both were.
    start = retarget(own, own.skeleton)
    found = settle(start, onto)
    assert np.allclose(found.joints, onto.joints, atol=2e-4)
    # Another one has its first frame's heading and its feet on the same ground.
    walk = settle(retarget(scene_motion("walk"), own.skeleton), onto)
    assert np.allclose(walk.rotations[0, 0], onto.rotations[0, 0], atol=1e-5)
    up = world @ [0, 1, 0]
    apart = walk.root[0] - onto.root[0]
    assert np.allclose(apart - (apart @ up) * up, 0, atol=1e-4)
    back = Motion(own.skeleton, walk.rotations.copy(), (walk.root @ world).astype(np.float32), 30.0)
    back.rotations[:, 0] = world.T @ back.rotations[:, 0]
    assert lowest(back).min() == pytest.approx(lowest(own)[0] + 0.5, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(fps=st.floats(3, 200), frames=st.integers(1, 9))
def test_resampled_joints_turn_evenly(fps: float, frames: int) -> None:
    skeleton = Skeleton(("a", "b"), (-1, 0), np.array([[0, 0, 0], [0, 1, 0]]))
    turns = np.stack([np.eye(3)[None].repeat(frames, 0), axis_rotation(2, 0.3 * np.arange(frames))], axis=1)
    root = np.arange(frames)[:, None] * np.array([1.0, -2, 0.5])
    motion = Motion(skeleton, turns.astype(np.float32), root.astype(np.float32), 30.0)
    found = resample(motion, fps)
    times = np.arange(len(found)) / fps * 30
    assert found.fps == fps and times[-1] <= frames - 1 + 1e-3 and frames - 1 - times[-1] < 30 / fps + 1e-3
    assert np.allclose(found.rotations[:, 1], axis_rotation(2, 0.3 * times), atol=1e-4)
    assert np.allclose(found.root, times[:, None] * [1.0, -2, 0.5], atol=1e-4)


def test_a_rate_that_is_none_is_told() -> None:
    with pytest.raises(InputError, match="above 0"):
        resample(scene_motion(), 0)
