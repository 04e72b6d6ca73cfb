"""Poses from points: the synthetic person's own come back from joints in space and from keypoints of cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from truth import turned

from canon.bodies import capsule_body
from canon.camera_files import read_cameras
from canon.cameras import Camera, look_at, pinhole
from canon.errors import InputError
from canon.pose_landmarks import landmarks
from canon.pose_refining import Pose, Shape
from canon.pose_solving import solve_joints, solve_keypoints, triangulate
from canon.pose_tracking import Sight, _moved, _solved, _system
from canon.poses import read_poses
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.skeletons import Motion

PERSON = Path(__file__).parents[2].parent / "shared" / "clips" / "human_pose2sim"
NAMES = capsule_body().skeleton.names
LIMBS = [
    k for k, n in enumerate(NAMES) if n.partition("_")[2] in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
]
LENS = (0.03, -0.02, 1e-3, -1e-3)


def scene(motion: str, frames: int = 24, **more: float) -> HumanScene:
    return HumanScene(HumanSceneConfig(width=193, height=257, frames=frames, motion=motion, distortion=LENS, **more))


def posed(own: HumanScene, moving: float = 0.0) -> Motion:
    """The scene's person, who may also go forward, by so many metres a frame."""
    poses = [own.pose(t) for t in range(len(own))]
    root = np.stack([pose[1] + np.float32([0, 0, moving * t]) for t, pose in enumerate(poses)])
    return Motion(own.body.skeleton, np.stack([pose[0] for pose in poses]), root, 30.0)


def seen(joints: np.ndarray, view: Camera | list[Camera]) -> np.ndarray:
    """Keypoints [T, K, 3] of joints [T, K, 3]."""
    each = [view] * len(joints) if isinstance(view, Camera) else view
    pixels = np.stack([camera.project(own)[0] for camera, own in zip(each, joints, strict=True)])
    return np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], axis=-1)


def error(found: Motion, joints: np.ndarray, which: list[int] | None = None) -> np.ndarray:
    apart = np.linalg.norm(found.joints - joints, axis=-1)
    return np.asarray(apart if which is None else apart[:, which])


@pytest.mark.parametrize("motion", ["walk", "wave", "turn"])
def test_poses_come_back_from_their_own_joints(motion: str) -> None:
    truth = posed(scene(motion), 0.02)
    found = solve_joints(truth.joints, NAMES, 25.0)
    assert error(found, truth.joints).max() < 0.005 and found.fps == 25
    assert np.allclose(found.skeleton.offsets, truth.skeleton.offsets, atol=2e-3)
    few = solve_joints(truth.joints[:, LIMBS], [NAMES[k] for k in LIMBS])
    assert error(few, truth.joints, LIMBS).max() < 0.005
    # The rest follows: the trunk lies between hips and shoulders, hands and feet go on straight.
    assert np.median(error(few, truth.joints)) < 0.01 and error(few, truth.joints).max() < 0.08


def test_any_axes_and_sizes_of_the_world() -> None:
    truth = posed(scene("wave", 7))
    world = turned((1.2, -0.8, 2.1))
    joints = truth.joints @ world.T + [3, -2, 5]
    found = solve_joints(joints, NAMES)
    assert error(found, joints).max() < 0.01
    assert np.allclose(found.rotations[:, 0], world @ truth.rotations[:, 0], atol=0.05)


@pytest.mark.parametrize(
    "names",
    [
        [name.replace("left_", "L").replace("right_", "R") for name in NAMES],
        [name.replace("_", " ").title() for name in NAMES],
        [name.replace("left_", "L_").replace("right_", "R_").upper() for name in NAMES],
    ],
)
def test_joints_are_known_in_any_spelling(names: list[str]) -> None:
    own = landmarks(names)
    assert np.array_equal(own.joint[np.argsort(own.column)], np.arange(24)) and not own.offset.any()


def test_the_names_of_other_programs() -> None:
    coco = ["nose", "left_eye", "right_ear", "left_shoulder", "right_hip", "left_knee", "right_ankle", "left_wrist"]
    assert len(landmarks(coco).part) == 8
    body25 = landmarks(["Nose", "Neck", "RShoulder", "MidHip", "LBigToe", "LSmallToe", "LHeel", "REye", "Background"])
    assert body25.part[1] == ("", "midshoulder") and body25.part[3] == ("", "midhip") and len(body25.part) == 8
    human36 = landmarks(["Hip", "RHip", "RKnee", "RFoot", "Spine", "Thorax", "Head", "LElbow"])
    assert ("right", "ankle") in human36.part and ("", "top") in human36.part and ("", "spine2") in human36.part
    smpl = landmarks(["pelvis", "spine1", "neck", "head", "left_foot", "right_hand"])
    assert smpl.part[2:] == (("", "neck"), ("", "skull"), ("left", "ball"), ("right", "palm"))
    with pytest.raises(InputError, match="fewer than three are known"):
        landmarks(["thumb", "nose", "tail"])


def test_gaps_are_filled_and_what_is_never_seen_rests() -> None:
    truth = posed(scene("walk"))
    joints = truth.joints.copy()
    gap = NAMES.index("left_knee")
    joints[8:11, gap] = np.nan
    for name in ("right_elbow", "right_wrist", "right_hand"):
        joints[:, NAMES.index(name)] = np.nan
    found = solve_joints(joints, NAMES)
    assert error(found, truth.joints)[8:11, gap].max() < 0.06
    others = [k for k in range(24) if not np.isnan(joints[:, k]).any()]
    assert error(found, truth.joints, others).max() < 0.02
    for name in ("right_elbow", "right_wrist"):
        assert np.allclose(found.rotations[:, NAMES.index(name)], np.eye(3), atol=0.05)


def test_what_cannot_be_solved_is_told() -> None:
    with pytest.raises(InputError, match="Only 0 of the joints are ever seen"):
        solve_joints(np.full((4, 24, 3), np.nan), NAMES)
    with pytest.raises(InputError, match=r"must be \[T, 24, 3\], not \[4, 23, 3\]"):
        solve_joints(np.zeros((4, 23, 3)), NAMES)
    camera = scene("walk").orbiting(0)
    with pytest.raises(InputError, match="camera for each view"):
        triangulate(np.zeros((2, 4, 24, 3)), [camera])
    with pytest.raises(InputError, match="as many, not 3"):
        triangulate(np.zeros((1, 4, 24, 3)), [[camera] * 3])
    with pytest.raises(InputError, match="Only 0 of the keypoints"):
        solve_keypoints(np.zeros((1, 4, 24, 3)), [camera], NAMES)
    with pytest.raises(InputError, match="above 0, but it is -1"):
        solve_keypoints(np.zeros((1, 4, 24, 3)), [camera], NAMES, height=-1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), views=st.integers(2, 4))
def test_points_are_triangulated_through_lenses(seed: int, views: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.7, 0.7, (3, 5, 3))
    places = [3 * np.array([np.sin(a), 0.3, np.cos(a)]) for a in np.linspace(0, 2, views) + rng.uniform(0, 6)]
    size, matrix = (311, 173), pinhole((210, 220), (85.5, 160.0))
    cameras = [look_at(size, matrix, place, np.zeros(3), LENS) for place in places]
    keypoints = np.stack([seen(points, camera) for camera in cameras])
    assert np.allclose(triangulate(keypoints, cameras), points, atol=1e-5)
    keypoints[0, 1, 2, 2] = 0  # not seen by the first one
    keypoints[1:, 1, 3, 0] = np.nan  # seen by the first one alone
    found = triangulate(keypoints, cameras)
    assert np.isnan(found[1, 3]).all() and (np.isfinite(found[1, 2]).all() == (views > 2))
    # What a view is less sure of counts less.
    noisy = np.stack([seen(points, camera) for camera in cameras + cameras[:1]])
    noisy[-1, ..., 0] += 5
    noisy[-1, ..., 2] = 0.11
    sure = np.linalg.norm(triangulate(noisy, cameras + cameras[:1]) - points, axis=-1).mean()
    noisy[-1, ..., 2] = 1
    assert sure < 0.7 * np.linalg.norm(triangulate(noisy, cameras + cameras[:1]) - points, axis=-1).mean()


@pytest.mark.parametrize("motion", ["walk", "wave", "turn"])
def test_poses_come_back_from_two_cameras(motion: str) -> None:
    own = scene(motion)
    truth = posed(own)
    cameras: list[Camera | list[Camera]] = [own.orbiting(-40), [own.orbiting(50 + t) for t in range(len(own))]]
    keypoints = np.stack([seen(truth.joints, view) for view in cameras])
    found = solve_keypoints(keypoints, cameras, NAMES)
    assert error(found, truth.joints).max() < 0.005


def test_a_real_person_in_four_cameras(tmp_path: Path) -> None:
    if not PERSON.exists():
        pytest.skip("the shared clips are not here")
    with np.load(PERSON / "joints.npz") as content:
        joints, names = content["joints3d"], [str(name) for name in content["joint_names"]]
        marks = [str(name) for name in content["body25b_names"]]
        keypoints = np.stack([content[f"kp2d_cam0{v}"] for v in range(1, 5)])
    found = read_poses(PERSON / "joints.npz")
    own = landmarks(names)
    at = [k for k in range(len(names)) if not own.offset[k].any()]
    apart = np.linalg.norm(found.joints[:, own.joint[at]] - joints[:, own.column[at]], axis=-1)
    assert len(at) == 12 and np.median(apart) < 0.02 and found.fps == 30
    height = np.linalg.norm(found.skeleton.offsets, axis=-1)
    assert 0.35 < height[4] < 0.5 and 0.2 < height[18] < 0.35  # thigh and upper arm, in metres
    # The chest goes along the trunk, bent or not, and its front is where the nose is.
    turns = found.skeleton.transforms(torch.from_numpy(found.rotations), torch.from_numpy(found.root)).numpy()
    where = {name: joints[:, names.index(name)] for name in ("Nose", "Neck", "LHip", "RHip")}
    trunk = where["Neck"] - (where["LHip"] + where["RHip"]) / 2
    trunk /= np.linalg.norm(trunk, axis=-1, keepdims=True)
    assert (trunk * turns[:, 9, :3, 1]).sum(-1).min() > 0.9
    assert ((where["Nose"] - where["Neck"]) * turns[:, 9, :3, 2]).sum(-1).min() > 0
    cameras = [view.camera for view in read_cameras(PERSON / "cameras.json")]
    solved = solve_keypoints(keypoints, cameras, marks)
    apart = np.linalg.norm(solved.joints[:, own.joint[at]] - joints[:, own.column[at]], axis=-1)
    assert np.median(apart) < 0.03


def test_rotations_are_rotations() -> None:
    truth = posed(scene("turn", 5))
    found = solve_joints(truth.joints + np.random.default_rng(0).normal(0, 0.02, (5, 24, 3)), NAMES)
    product = found.rotations @ found.rotations.swapaxes(-1, -2)
    assert np.allclose(product, np.eye(3), atol=1e-5) and (np.linalg.det(found.rotations) > 0).all()
    assert np.degrees(Rotation.from_matrix(found.rotations[:, 1:].reshape(-1, 3, 3)).magnitude()).max() < 120


def test_one_frame_is_enough() -> None:
    truth = posed(scene("wave", 1))
    assert error(solve_joints(truth.joints, NAMES), truth.joints).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("motion", "median", "mean"), [("walk", 0.03, 0.09), ("wave", 0.01, 0.05), ("turn", 0.005, 0.01)]
)
def test_poses_come_back_from_one_moving_camera(motion: str, median: float, mean: float) -> None:
    """Limbs that one camera shows alike from both sides may still be bent to the wrong one for a while."""
    own = scene(motion, 24)
    truth = posed(own)
    cameras = [own.camera(t) for t in range(len(own))]
    found = solve_keypoints(seen(truth.joints, cameras)[None], [cameras], NAMES, height=1.7)
    apart = error(found, truth.joints)
    assert np.median(apart) < median and apart.mean() < mean
    assert apart[:, [0, 1, 2, 12, 16, 17]].max() < 0.06  # the trunk is where it was, in every frame


def test_what_one_camera_sees_lies_where_it_was_seen() -> None:
    own = scene("wave", 2)
    truth = posed(own)
    keypoints = seen(truth.joints[:, LIMBS], own.orbiting(20))
    found = solve_keypoints(keypoints[None], [own.orbiting(20)], [NAMES[k] for k in LIMBS])
    pixels = seen(found.joints[:, LIMBS], own.orbiting(20))
    assert np.abs(pixels - keypoints).max() < 3 and np.median(np.abs(pixels - keypoints)) < 0.5
    assert np.linalg.norm(found.root - truth.root, axis=-1).max() < 0.25
    twice = solve_keypoints(keypoints[None], [own.orbiting(20)], [NAMES[k] for k in LIMBS], height=0.85)
    far = [np.linalg.norm(one.root - own.orbiting(20).position, axis=-1).mean() for one in (found, twice)]
    assert far[1] / far[0] == pytest.approx(0.5, rel=0.03)  # a person half as tall is half as far away


def test_the_steps_of_a_fit_follow_its_cost() -> None:
    """The gradient against differences of the cost."""
    rng = np.random.default_rng(0)
    own = scene("walk", 5)
    turns = Rotation.from_rotvec(rng.normal(0, 0.3, (120, 3))).as_matrix().reshape(5, 24, 3, 3)
    pose = Pose(turns, rng.normal(0, 0.1, (5, 3)) + np.array([0, 0.9, 0]))
    marks = landmarks(NAMES)
    shape = Shape(own.body.skeleton.offsets.astype(np.float64), marks.offset)
    views = [own.camera(t) for t in range(5)]
    poses = np.stack([np.concatenate([view.rotation, view.translation[:, None]], axis=1) for view in views])
    sight = Sight(rng.normal(0, 0.1, (5, 24, 2)), np.ones((5, 24)), poses)

    def cost(step: np.ndarray) -> tuple[float, np.ndarray]:
        found, _, slope = _system(_moved(pose, step.reshape(5, 75)), shape, marks, sight, 0.5, 0.02)
        return found, slope.ravel()

    _, slope = cost(np.zeros(375))
    for _ in range(10):
        way = rng.normal(size=375)
        apart = (cost(1e-5 * way)[0] - cost(-1e-5 * way)[0]) / 2e-5
        assert apart == pytest.approx(-slope @ way, rel=2e-3, abs=1e-3 * np.abs(slope).max())


@settings(max_examples=10, deadline=None)
@given(frames=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_band_is_solved_as_the_whole_matrix_is(frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = np.zeros((frames * 75, frames * 75))
    for t in range(frames):
        part = slice(t * 75, min(t + 3, frames) * 75)
        rows = rng.normal(size=(150, part.stop - part.start))
        whole[part, part] += rows.T @ rows
    blocks = np.zeros((3, frames, 75, 75))
    for apart in range(min(3, frames)):
        for t in range(frames - apart):
            blocks[apart, t] = whole[t * 75 : (t + 1) * 75, (t + apart) * 75 : (t + apart + 1) * 75]
    right = rng.normal(size=(frames, 75))
    found = _solved(blocks, right, 0.0)
    assert found is not None and np.allclose(whole @ found.ravel(), right.ravel(), atol=1e-6)
    assert _solved(-blocks, right, 0.0) is None
