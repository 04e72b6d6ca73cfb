"""Skeletons: forward kinematics against known places, gradients, and motions in BVH files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from truth import turned

from canon.bvh import read_bvh
from canon.errors import InputError
from canon.skeletons import Skeleton, axis_rotation

MOTIONS = Path(__file__).parents[2].parent / "shared" / "clips" / "motion_bvh"
ARM = Skeleton(
    ("root", "upper", "lower", "leg"), (-1, 0, 1, 0), np.array([[9, 9, 9], [0, 2, 0], [0, 1, 0], [0, -3, 0]])
)
BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 1 2 3
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT Arm
  {
    OFFSET 0 2 0
    CHANNELS 3 Zrotation Yrotation Xrotation
    End Site
    {
      OFFSET 0 1 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.04
1 2 3 0 0 0 0 0 0
5 0 0 90 0 0 30 20 10
"""


def test_known_places() -> None:
    rotations = torch.eye(3).repeat(4, 1, 1)
    root = torch.tensor([1.0, 0, 0])
    assert torch.allclose(ARM.joints(rotations, root), torch.tensor([[1.0, 0, 0], [1, 2, 0], [1, 3, 0], [1, -3, 0]]))
    rotations[0] = torch.from_numpy(axis_rotation(2, np.array(np.pi / 2))).float()  # y goes to -x
    rotations[1] = torch.from_numpy(axis_rotation(0, np.array(np.pi / 2))).float()  # then y to z, on the arm alone
    found = ARM.joints(rotations, root)
    assert torch.allclose(found, torch.tensor([[1.0, 0, 0], [-1, 0, 0], [-1, 0, 1], [4, 0, 0]]), atol=1e-6)
    longer = torch.from_numpy(ARM.offsets) * 2
    assert torch.allclose(ARM.joints(rotations, root, longer) - root, 2 * (found - root), atol=1e-6)


def test_many_poses_at_once_and_their_gradients() -> None:
    rng = np.random.default_rng(0)
    turns = np.stack([[turned(tuple(rng.uniform(-3, 3, 3))) for _ in range(4)] for _ in range(5)])
    rotations = torch.from_numpy(turns).requires_grad_()
    root = torch.from_numpy(rng.normal(size=(5, 3))).requires_grad_()
    found = ARM.joints(rotations, root)
    assert torch.allclose(found[3], ARM.joints(rotations[3], root[3]))
    bones = torch.linalg.norm(found[:, [1, 2, 3]] - found[:, [0, 1, 0]], dim=-1)
    assert torch.allclose(bones, torch.tensor([2.0, 1, 3], dtype=bones.dtype).expand(5, 3))
    assert torch.autograd.gradcheck(ARM.joints, (rotations[:2], root[:2]))


def test_a_motion_is_read_in_the_order_of_its_channels(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(BVH)
    motion = read_bvh(tmp_path / "a.bvh")
    assert motion.skeleton.names == ("Hips", "Arm", "Arm_end") and motion.skeleton.parents == (-1, 0, 1)
    assert motion.fps == pytest.approx(25) and len(motion) == 2
    assert np.allclose(motion.joints[0], [[1, 2, 3], [1, 4, 3], [1, 5, 3]])
    # Root: y goes to -x. The arm: about x by 10 degrees, then y by 20, then z by 30, then with the root.
    x, y, z = (np.radians(angle) for angle in (10, 20, 30))
    arm = axis_rotation(2, z) @ axis_rotation(1, y) @ axis_rotation(0, x) @ [0, 1, 0]
    assert np.allclose(motion.joints[1], [[5, 0, 0], [3, 0, 0], [3 - arm[1], arm[0], arm[2]]], atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("HIERARCHY", "HELLO", "does not begin with HIERARCHY"),
        ("5 0 0 90", "5 0 90", "17 numbers instead of 2 frames of 9"),
        ("Frames: 2", "Frames: 0", "0 frames"),
        ("5 0 0 90", "5 0 0 nan", "not finite"),
        ("5 0 0 90", "5 0 0 x", "could not convert"),
        (BVH[BVH.index("MOTION") :], "", "no motion"),
        ("MOTION", "JOINT Leg { }", "not one root"),
        ("Zrotation Yrotation Xrotation\n    End", "Zscale Yrotation Xrotation\n    End", "'Zscale' is not known"),
        ("JOINT Arm", "ROOT Arm", "not one root"),
        ("JOINT Arm", "JOINT Hips", "names of their own"),
        ("    OFFSET 0 2 0", "    OFFSET 0 nan 0", "offsets must be finite"),
    ],
)
def test_what_is_no_motion_is_told(before: str, after: str, sentence: str, tmp_path: Path) -> None:
    assert before in BVH
    (tmp_path / "a.bvh").write_text(BVH.replace(before, after, 1))
    with pytest.raises(InputError, match=sentence):
        read_bvh(tmp_path / "a.bvh")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_bvh("nowhere.bvh")


@pytest.mark.skipif(not MOTIONS.exists(), reason="the shared clips are not here")
@pytest.mark.parametrize("name", ["cmu_01_01", "dab", "jumping", "jumping_jacks", "wave_hello", "zombie"])
def test_real_motions(name: str) -> None:
    motion = read_bvh(MOTIONS / f"{name}.bvh")
    joints, names = motion.joints, [one.lower() for one in motion.skeleton.names]
    head, hips = names.index("head"), next(k for k, one in enumerate(names) if "hip" in one)
    # People are upright for most of the time, along y or z; they do not stretch, and do not jump from frame to frame.
    upright = np.median(joints[:, head] - joints[:, hips], axis=0)
    height = np.abs(upright).max()
    assert upright.argmax() in (1, 2) and upright.max() == height and np.sort(np.abs(upright))[1] < 0.3 * height
    bones = np.linalg.norm(joints[:, 1:] - joints[:, np.array(motion.skeleton.parents[1:])], axis=-1)
    assert np.abs(bones - bones[0]).max() < 1e-5 * bones.max()
    steps = np.abs(np.diff(joints, axis=0)).max(axis=(1, 2))
    assert np.quantile(steps, 0.99) * motion.fps < 20 * height
