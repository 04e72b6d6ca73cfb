"""The body: skinning there and back, what belongs to which joint, and that it is a person."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from truth import turned

from canon.bodies import BodyModel, body_of, capsule_body
from canon.errors import InputError
from canon.skeletons import Skeleton


def posed(body: BodyModel, size: float = 1.0, seed: int = 0) -> torch.Tensor:
    """A pose of moderate angles, [J, 4, 4]."""
    rng = np.random.default_rng(seed)
    turns = np.stack([turned(tuple(rng.uniform(-size, size, 3))) for _ in range(len(body.skeleton))])
    return body.moved(torch.from_numpy(turns).float(), torch.from_numpy(rng.normal(size=3)).float())


def along_the_bones(body: BodyModel, share: float, out: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Places beside the limbs' bones, and the joints that they move with."""
    bones, names = body.bones, body.skeleton.names
    limbs = [
        k
        for k, joint in enumerate(bones.joint.tolist())
        if names[joint].partition("_")[2] in ("hip", "knee", "shoulder", "elbow")
    ]
    beside = torch.tensor([0.0, 0.0, 1.0]) * bones.radius[limbs, None] * out
    places = bones.start[limbs] * (1 - share) + bones.end[limbs] * share + beside
    return places, bones.joint[limbs]


def test_the_rest_pose_is_a_person_in_a_t() -> None:
    body = capsule_body(1.8)
    low, high = body.box
    height, reach = float(high[1] - low[1]), float(high[0] - low[0])
    assert abs(height - 1.8) < 1e-3 and abs(reach - height) < 0.15
    where = dict(zip(body.skeleton.names, body.rest.tolist(), strict=True))
    assert where["left_hand"][0] > 0.6 and where["right_hand"][0] < -0.6 and where["left_foot"][2] > 0.05
    for name, place in where.items():
        if name.startswith("left"):
            mirrored = where[name.replace("left", "right")]
            assert np.allclose(place, [-mirrored[0], *mirrored[1:]])
    still = body.moved(torch.eye(3).expand(24, 3, 3), torch.zeros(3))
    assert torch.allclose(still, torch.eye(4).expand(24, 4, 4), atol=1e-6)


def test_places_belong_to_the_joints_that_they_lie_at() -> None:
    body = capsule_body()
    places, joints = along_the_bones(body, 0.5)
    weights = body.weights(places)
    assert torch.allclose(weights.sum(-1), torch.ones(len(places)))
    assert (weights.argmax(-1) == joints).all() and float(weights.amax(-1).min()) > 0.99
    elbow = body.rest[body.skeleton.names.index("left_elbow")]
    halves = body.weights(elbow)[[body.skeleton.names.index(name) for name in ("left_shoulder", "left_elbow")]]
    assert torch.allclose(halves, torch.full((2,), 0.5), atol=1e-3)


def test_skinning_leads_back() -> None:
    body = capsule_body()
    for seed in range(5):
        transforms = posed(body, 0.25, seed)
        for share in (0.35, 0.5, 0.65):
            places, _ = along_the_bones(body, share)
            back, likelihood = body.unpose(body.pose(places, transforms), transforms)
            assert float((back - places).norm(dim=-1).max()) < 5e-3, (seed, share)
            assert float(likelihood.min()) > 0.5
    far = torch.tensor([[5.0, 5.0, 5.0]])
    assert float(body.unpose(far, posed(body))[1]) < 1e-6


def test_a_joint_turns_what_hangs_on_it_alone() -> None:
    body = capsule_body()
    names = body.skeleton.names
    rotations = torch.eye(3).repeat(24, 1, 1)
    elbow = names.index("left_elbow")
    rotations[elbow] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # the forearm, from +x to +y
    transforms = body.moved(rotations, torch.zeros(3))
    hand, other = (body.rest[names.index(f"{side}_hand")] for side in ("left", "right"))
    moved = body.pose(torch.stack([hand, other]), transforms)
    arm = float(hand[0] - body.rest[elbow][0])
    assert torch.allclose(moved[0], body.rest[elbow] + torch.tensor([0.0, arm, 0.0]), atol=1e-3)
    assert torch.allclose(moved[1], other, atol=1e-5)


def test_gradients_reach_the_pose() -> None:
    body = capsule_body()
    rotations = torch.eye(3).repeat(24, 1, 1).requires_grad_()
    places, _ = along_the_bones(body, 0.5)
    rest, likelihood = body.unpose(places, body.moved(rotations, torch.zeros(3)))
    (rest.sum() + likelihood.sum()).backward()
    assert rotations.grad is not None and torch.isfinite(rotations.grad).all() and float(rotations.grad.abs().max()) > 0


def test_the_body_of_its_own_skeleton_is_the_same() -> None:
    for height in (0.6, 1.7, 2.1):
        wanted = capsule_body(height)
        found = body_of(wanted.skeleton)
        assert torch.equal(found.rest, wanted.rest) and torch.equal(found.bones.joint, wanted.bones.joint)
        for name in ("start", "end", "radius"):
            assert torch.allclose(getattr(found.bones, name), getattr(wanted.bones, name), rtol=1e-6)


def test_a_body_has_the_bones_of_its_skeleton() -> None:
    own = capsule_body().skeleton
    longer = own.offsets.copy()
    longer[[4, 5]] *= 1.5  # thighs
    body = body_of(Skeleton(tuple(f"j{k}" for k in range(24)), own.parents, longer))
    assert torch.allclose(body.rest[7], torch.from_numpy(longer[[1, 4, 7]].sum(axis=0)))
    low, high = body.box
    assert float(high[1] - low[1]) > 1.85 and float(body.bones.radius.max()) < 0.15
    with pytest.raises(InputError, match="24 joints in SMPL's order"):
        body_of(Skeleton(("a", "b"), (-1, 0), np.ones((2, 3))))


def test_a_body_moves_to_a_device_and_says_the_same_there() -> None:
    body = capsule_body()
    there = body.to("meta")
    assert there.rest.is_meta and there.bones.start.is_meta and not body.rest.is_meta
    places, _ = along_the_bones(body, 0.4)
    assert torch.equal(body.to("cpu").log_weights(places[:, None]), body.log_weights(places[:, None]))
