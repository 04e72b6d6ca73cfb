"""Bodies by name and from files: a body that is written comes back, other names and rests, SMPL's files, damage."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import marching_cubes
from truth import turned

from canon.bodies import BodyModel, capsule_body
from canon.body_models import find_body
from canon.errors import InputError
from canon.gltf import GltfBody, write_glb
from canon.pose_landmarks import NAMES
from canon.skeletons import Skeleton
from canon.skinned_bodies import SkinnedBody

PARENTS = capsule_body().skeleton.parents
MIXAMO = {
    "pelvis": "Hips",
    "spine1": "Spine",
    "spine2": "Spine1",
    "spine3": "Spine2",
    "neck": "Neck",
    "head": "Head",
    "hip": "UpLeg",
    "knee": "Leg",
    "ankle": "Foot",
    "foot": "ToeBase",
    "collar": "Shoulder",
    "shoulder": "Arm",
    "elbow": "ForeArm",
    "wrist": "Hand",
    "hand": "HandMiddle1",
}


def surface(body: BodyModel, step: float = 0.025) -> GltfBody:
    """The capsules as one surface, with the field's own weights."""
    low, high = (end.numpy() for end in body.box)
    axes = [np.arange(a - 2 * step, b + 3 * step, step, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    grid = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
    radii = body.bones.distance(grid[..., None, :]).amin(dim=-1).sqrt()
    found, faces, _, _ = marching_cubes(radii.numpy(), 1.0, spacing=(step,) * 3)
    vertices = (found + [axis[0] for axis in axes]).astype(np.float32)
    weights = body.weights(torch.from_numpy(vertices)).numpy()
    corners = vertices[faces].astype(np.float64)
    if np.linalg.det(corners).sum() < 0:  # six times the volume, of faces that are anticlockwise from outside
        faces = faces[:, ::-1]
    return GltfBody(body.skeleton, body.rest.numpy(), weights, vertices, faces.astype(np.int32))


@pytest.fixture(scope="module")
def capsules() -> GltfBody:
    return surface(capsule_body())


def written(path: Path, body: GltfBody) -> Path:
    write_glb(path, body, rig=body)
    return path


def some_pose(seed: int = 5, size: float = 0.25) -> torch.Tensor:
    """Rotations [24, 3, 3] of the joints, of a person who is still one."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([turned(tuple(rng.uniform(-size, size, 3))) for _ in range(24)])).float()


def in_limbs(body: BodyModel) -> torch.Tensor:
    """Places [N, 3] within arms, legs and the trunk, off the joints."""
    bones = body.bones
    rng = np.random.default_rng(3)
    share = torch.from_numpy(rng.uniform(0.3, 0.7, (len(bones.joint), 1))).float()
    side = torch.from_numpy(rng.normal(size=(len(bones.joint), 3))).float()
    side = side / side.norm(dim=-1, keepdim=True)
    return bones.start + share * (bones.end - bones.start) + 0.4 * bones.radius[:, None] * side


def test_capsules_are_the_built_in_body() -> None:
    places = in_limbs(capsule_body())
    for body in (find_body("capsules"), find_body("capsules", capsule_body().skeleton)):
        assert torch.equal(body.rest, capsule_body().rest)
        assert torch.allclose(body.weights(places), capsule_body().weights(places), atol=1e-5)
    tall = capsule_body(1.9).skeleton
    assert np.array_equal(find_body("capsules", tall).skeleton.offsets, tall.offsets)


def test_the_built_in_body_comes_back_from_a_file(tmp_path: Path, capsules: GltfBody) -> None:
    built_in, body = capsule_body(), find_body(written(tmp_path / "b.glb", capsules))
    assert body.skeleton.names == NAMES and torch.allclose(body.rest, built_in.rest, atol=1e-6)
    transforms = built_in.moved(some_pose(), torch.tensor([0.1, 0.9, -0.3]))
    assert torch.allclose(body.moved(some_pose(), torch.tensor([0.1, 0.9, -0.3])), transforms, atol=1e-5)
    places = in_limbs(built_in)
    posed = built_in.pose(places, transforms)
    assert float((body.pose(places, transforms) - posed).norm(dim=-1).max()) < 0.01
    back, likelihood = body.unpose(posed, transforms)
    truth, _ = built_in.unpose(posed, transforms)
    assert float((back - truth).norm(dim=-1).max()) < 0.012 and float(likelihood.min()) > 0.3
    assert float(body.unpose(posed + 2, transforms)[1].max()) < 1e-6


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_order_of_joints_and_those_between_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, seed: int, twists: bool
) -> None:
    body = surface(capsule_body(), 0.06)
    rng = np.random.default_rng(seed)
    extra = [("left_lower_twist", NAMES.index("left_elbow")), ("prop", NAMES.index("left_hand"))] if twists else []
    # Any order in which a joint comes after the one above it.
    order: list[int] = []
    while len(order) < 24:
        free = [k for k in range(24) if k not in order and (PARENTS[k] < 0 or PARENTS[k] in order)]
        order.append(int(rng.choice(free)))
    names = [NAMES[k] for k in order] + [name for name, _ in extra]
    parents = [order.index(PARENTS[k]) if k else -1 for k in order] + [order.index(above) for _, above in extra]
    rest = np.concatenate([body.rest[order], *(body.rest[above][None] for _, above in extra)])
    weights = np.pad(body.weights[:, order], ((0, 0), (0, len(extra))))
    for k, (_, above) in enumerate(extra):
        half = weights[:, order.index(above)] / 2
        weights[:, 24 + k] += half
        weights[:, order.index(above)] -= half
    skeleton = Skeleton(tuple(names), tuple(parents), np.zeros((len(names), 3), np.float32))
    plain = find_body(written(tmp_path_factory.mktemp("a") / "a.glb", _four(body)))
    mixed = GltfBody(skeleton, rest, _four(replace(body, weights=weights)).weights, body.vertices, body.faces)
    found = find_body(written(tmp_path_factory.mktemp("b") / "b.glb", mixed))
    vertices = torch.from_numpy(body.vertices)
    difference = (found.weights(vertices) - plain.weights(vertices)).abs()
    assert torch.equal(found.rest, plain.rest) and float(difference.max()) < (0.35 if twists else 1e-5)


def _four(body: GltfBody) -> GltfBody:
    """With the four largest weights alone, as a file keeps them."""
    least = np.sort(body.weights, axis=1)[:, -4:-3]
    weights = np.where(body.weights >= least, body.weights, 0)
    return replace(body, weights=(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def mixamo(body: GltfBody, drop: float = 0.7) -> GltfBody:
    """The same under Mixamo's names, in centimetres, facing -y with z up, its arms lowered by so many radians."""
    names = [f"mixamorig:{_mixamo(name)}" for name in NAMES]
    turns = torch.eye(3).repeat(24, 1, 1)
    for name, sign in (("left_shoulder", -1), ("right_shoulder", 1)):
        turns[NAMES.index(name)] = torch.from_numpy(turned((0.0, 0.0, sign * drop))).float()
    own = capsule_body()
    moved = own.moved(turns, torch.zeros(3))
    vertices = np.einsum("vj,vja->va", body.weights, _each(moved, body.vertices))
    rest = ((moved[:, :3, :3] @ own.rest[..., None])[..., 0] + moved[:, :3, 3]).numpy()
    axes = 100 * np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # (x, y, z) -> (x, -z, y)
    skeleton = Skeleton(tuple(names), PARENTS, ((rest - rest[[*PARENTS]]) @ axes.T).astype(np.float32))
    vertices = (vertices @ axes.T + np.array([3, 0, 95])).astype(np.float32)
    return GltfBody(
        skeleton, (rest @ axes.T + np.array([3, 0, 95])).astype(np.float32), body.weights, vertices, body.faces
    )


def _mixamo(name: str) -> str:
    side, _, part = name.rpartition("_")
    return side.capitalize() + MIXAMO[part]


def _each(moved: torch.Tensor, vertices: np.ndarray) -> np.ndarray:
    return np.einsum("jab,vb->vja", moved[:, :3, :3].numpy(), vertices) + moved[:, :3, 3].numpy()


def test_a_body_of_mixamo_is_put_in_a_t_on_the_bones_of_the_poses(tmp_path: Path, capsules: GltfBody) -> None:
    own, path = capsule_body(), written(tmp_path / "m.glb", mixamo(capsules))
    alone, body = find_body(path), find_body(path, own.skeleton)
    assert np.allclose(alone.rest.numpy() / 100, own.rest.numpy(), atol=0.012)
    assert np.array_equal(body.skeleton.offsets, own.skeleton.offsets) and torch.equal(body.rest, own.rest)
    assert isinstance(body, SkinnedBody)
    # Lowering and lifting an arm by skinning dents the shoulder; all else is where it was.
    far = (body.surface - torch.from_numpy(capsules.vertices)).norm(dim=-1)
    assert float(far.quantile(0.9)) < 0.012 and float(far.max()) < 0.08
    places = in_limbs(own)
    transforms = own.moved(some_pose(1), torch.zeros(3))
    assert float((body.pose(places, transforms) - own.pose(places, transforms)).norm(dim=-1).max()) < 0.012


def test_joints_that_a_body_has_not_got_are_put_where_they_belong(tmp_path: Path, capsules: GltfBody) -> None:
    source = mixamo(capsules, 0.0)
    left = [
        k for k, name in enumerate(NAMES) if name not in ("spine1", "spine2", "left_hand", "right_hand", "left_foot")
    ]
    parents = []
    for k in left:
        above = PARENTS[k]
        while above >= 0 and above not in left:
            above = PARENTS[above]
        parents.append(left.index(above) if above >= 0 else -1)
    weights = source.weights[:, left] + 1e-6
    names = tuple(source.skeleton.names[k] for k in left)
    skeleton = Skeleton(names, tuple(parents), np.zeros((len(left), 3), np.float32))
    fewer = GltfBody(skeleton, source.rest[left], weights, source.vertices, source.faces)
    body = find_body(written(tmp_path / "f.glb", fewer))
    assert np.allclose(body.rest.numpy() / 100, capsule_body().rest.numpy(), atol=0.05)
    assert torch.isfinite(body.weights(in_limbs(body))).all()


def test_what_is_no_person_is_refused(tmp_path: Path, capsules: GltfBody) -> None:
    names = tuple(f"bone {k}" for k in range(24))
    chair = GltfBody(Skeleton(names, PARENTS, capsules.skeleton.offsets), *_parts(capsules))
    with pytest.raises(InputError, match=r"not known as SMPL's 24.*bone 0.*and 18 more.*Mixamo"):
        find_body(written(tmp_path / "chair.glb", chair))
    with pytest.raises(InputError, match=r"There is no body 'dog'; give capsules, anny, or a file ending in \.glb"):
        find_body("dog")
    with pytest.raises(InputError, match=r"There is no file '.*none\.glb' with a body"):
        find_body(tmp_path / "none.glb")
    with pytest.raises(InputError, match="24 joints in SMPL's order, but this one has 2"):
        find_body("capsules", Skeleton(("a", "b"), (-1, 0), np.zeros((2, 3), np.float32)))


def _parts(body: GltfBody) -> tuple[np.ndarray, ...]:
    return body.rest, body.weights, body.vertices, body.faces


def smpl_arrays(body: GltfBody, joints: int = 24) -> dict[str, Any]:
    """What a model of SMPL (24 joints), SMPL-H (52) or SMPL-X (55) holds, made of the capsules: nobody's licence."""
    count, rng = len(body.vertices), np.random.default_rng(2)
    hands = {24: (22, 23), 52: (25, 40), 55: (28, 43)}[joints]
    own = {k: k for k in range(22)} | {hands[0]: 22, hands[1]: 23}
    first = {52: (22, 37), 55: (25, 40)}.get(joints, ())
    parents = []
    for k in range(joints):
        finger = next((20 + side for side, at in enumerate(first) if at <= k < at + 15), 15)
        parents.append(PARENTS[own[k]] if k in own else finger)
    weights, regressor = np.zeros((count, joints)), np.zeros((joints, count))
    for k in range(joints):
        # Whichever vertices: a joint is their mean, as far as they can say, made exact by four that surround it.
        regressor[k] = _regressed(body.vertices, body.rest[own.get(k, PARENTS[22 if k < 40 else 23])])
        if k in own:
            weights[:, k] = body.weights[:, own[k]]
    tree = np.array([[2**32 - 1, *parents[1:]], np.arange(joints)], np.int64)
    return {
        "v_template": body.vertices.astype(np.float64),
        "weights": weights,
        "J_regressor": regressor,
        "kintree_table": tree,
        "f": body.faces.astype(np.uint32),
        "shapedirs": 1e-3 * rng.normal(size=(count, 3, 10)),
        "posedirs": np.zeros((count, 3, 207)),
    }


def _regressed(vertices: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Weights [V] of nearby vertices whose mean is exactly there."""
    near = np.argsort(((vertices - place) ** 2).sum(axis=1))[:60]
    system = np.concatenate([vertices[near].astype(np.float64), np.ones((len(near), 1))], axis=1).T
    found = np.zeros(len(vertices))
    found[near] = np.linalg.lstsq(system, np.array([*place, 1.0]), rcond=None)[0]
    return found


@pytest.mark.parametrize("joints", [24, 52, 55])
def test_a_model_of_smpl_is_a_body(tmp_path: Path, capsules: GltfBody, joints: int) -> None:
    np.savez(tmp_path / "m.npz", **smpl_arrays(capsules, joints))
    body = find_body(tmp_path / "m.npz")
    assert body.skeleton.names == NAMES and body.skeleton.parents == PARENTS
    assert torch.allclose(body.rest, capsule_body().rest, atol=1e-5)
    vertices = torch.from_numpy(capsules.vertices)
    assert float((body.weights(vertices) - torch.from_numpy(capsules.weights)).abs().max()) < 1e-4


def test_a_model_of_smpl_moves_as_smplx_moves_it(tmp_path: Path, capsules: GltfBody) -> None:
    smplx = pytest.importorskip("smplx", reason="smplx is not installed")
    arrays = smpl_arrays(capsules)
    np.savez(tmp_path / "m.npz", **arrays)
    body = find_body(tmp_path / "m.npz")
    from smplx.utils import Struct

    # The extra points that it picks from SMPL's own vertices do not matter here.
    extra = dict.fromkeys(("nose", "reye", "leye", "rear", "lear"), 0)
    plain = {"use_feet_keypoints": False, "use_hands": False, "vertex_ids": extra}
    model = smplx.SMPL(model_path="", data_struct=Struct(**arrays), **plain)
    turns, root = some_pose(8, 0.5), torch.tensor([0.2, 1.0, -0.4])
    from scipy.spatial.transform import Rotation

    vectors = torch.from_numpy(Rotation.from_matrix(turns.numpy()).as_rotvec()).float()
    with torch.no_grad():
        truth = model(global_orient=vectors[None, 0], body_pose=vectors[None, 1:].flatten(1), transl=root[None])
    # SMPL's translation moves the origin of the file, ours is where the pelvis is.
    transforms = body.moved(turns, root + body.rest[0])
    posed = body.pose(torch.from_numpy(capsules.vertices), transforms)
    assert float((posed - truth.vertices[0]).norm(dim=-1).max()) < 1e-4
    assert torch.allclose(
        transforms[:, :3, :3] @ body.rest[..., None] + transforms[:, :3, 3:], truth.joints[0, :24, :, None], atol=1e-4
    )


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("harm.txt"), "done")


def test_models_are_read_without_running_anything(
    tmp_path: Path, capsules: GltfBody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = smpl_arrays(capsules)
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(arrays))
    assert torch.allclose(find_body(tmp_path / "good.pkl").rest, capsule_body().rest, atol=1e-5)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({**arrays, "J_regressor": _Harm()}))
    with pytest.raises(InputError, match=r"not data; nothing of it was run.*\.npz"):
        find_body(tmp_path / "bad.pkl")
    np.savez(tmp_path / "bad.npz", **{**arrays, "weights": np.array([_Harm()], object)}, allow_pickle=True)
    with pytest.raises(InputError, match="nothing of it was run"):
        find_body(tmp_path / "bad.npz")
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": None}, "'weights' is missing"),
        ({"v_template": np.zeros((5, 3))}, "do not fit"),
        ({"J_regressor": np.zeros((16, 9))}, "it has 16 joints, not 24, 52, 55"),
        ({"f": np.full((4, 3), 10**6)}, "its faces or weights"),
        ({"f": np.array("none")}, "is no model of SMPL"),
        ({"kintree_table": np.array([[9] * 24] * 2)}, "come after the one above"),
    ],
)
def test_a_damaged_model_is_refused(tmp_path: Path, capsules: GltfBody, change: dict[str, Any], sentence: str) -> None:
    arrays = {**smpl_arrays(capsules), **change}
    np.savez(tmp_path / "m.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=sentence) as caught:
        find_body(tmp_path / "m.npz")
    assert "m.npz" in str(caught.value)


def test_anny_is_a_body_in_a_t() -> None:
    pytest.importorskip("anny", reason="anny is not installed")
    body, own = find_body("anny"), capsule_body()
    rest = dict(zip(NAMES, body.rest.numpy(), strict=True))
    low, high = (end.numpy() for end in body.box)
    assert 1.5 < high[1] - low[1] < 1.9
    for side, sign in (("left", 1), ("right", -1)):
        arm, leg = rest[f"{side}_wrist"] - rest[f"{side}_shoulder"], rest[f"{side}_ankle"] - rest[f"{side}_knee"]
        assert sign * arm[0] > 0.99 * np.linalg.norm(arm) and -leg[1] > 0.99 * np.linalg.norm(leg)
        assert (rest[f"{side}_foot"] - rest[f"{side}_ankle"])[2] > 0.05
    fitted = find_body("anny", own.skeleton)
    assert torch.equal(fitted.rest, own.rest)
    places = in_limbs(own)
    transforms = own.moved(some_pose(4), torch.zeros(3))
    apart = (fitted.pose(places, transforms) - own.pose(places, transforms)).norm(dim=-1)
    assert float(apart.median()) < 0.01 and float(apart.max()) < 0.06
