"""Bodies by name or from files: the built-in one, skinned .glb files, SMPL's model files, and Anny.

Each ends in a :class:`canon.bodies.BodyModel` of 24 joints in SMPL's order, with its pelvis at the origin, so that the
same poses move all of them. A body's surface gives the blend weights; shapes and corrections that depend on the pose,
such as SMPL's, are left to what is learned from the frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from canon.bodies import BodyModel, body_of, capsule_body
from canon.errors import InputError
from canon.gltf import GltfBody, read_glb
from canon.pose_landmarks import NAMES
from canon.pose_pickles import read_npz, read_pickle
from canon.retargeting import alignment, source_of
from canon.skeletons import Skeleton
from canon.skinned_bodies import skinned_body

BODIES = ("capsules", "anny")
"""Bodies that are known by name."""
_FILES = (".glb", ".npz", ".pkl")
_PARENTS = capsule_body().skeleton.parents
_HANDS = {24: (22, 23), 52: (25, 40), 55: (28, 43)}
"""Which joints are SMPL's hands in models of so many joints: SMPL, SMPL-H and SMPL-X have the middle fingers there."""
_ONWARDS = {NAMES.index(a): NAMES.index(b) for a, b in (("spine1", "spine2"), ("spine2", "spine3"), ("spine3", "neck"))}
"""The next joint up the spine."""


def find_body(name_or_path: str | Path, skeleton: Skeleton | None = None) -> BodyModel:
    """A body that poses of SMPL's 24 joints move.

    Args:
        name_or_path: "capsules" (the built-in body) or "anny" (the mean of that model, if it is installed); or a file:
            a skinned .glb whose joints are named as SMPL, Mixamo, CMU or Biovision do, or a model of SMPL, SMPL-H or
            SMPL-X as .npz, or as .pkl that holds nothing but arrays.
        skeleton: whose bones the body is to have; without one it keeps its own. Files are as large as they say then.

    Raises:
        InputError: there is no such body, it cannot be read, its joints are not those of a person, the skeleton's are
            not SMPL's, or a package is missing.
    """
    wanted = None if skeleton is None else body_of(skeleton)
    if str(name_or_path) == "capsules":
        return wanted or capsule_body()
    if str(name_or_path) == "anny":
        found = _anny()
    else:
        path = Path(name_or_path)
        ending = path.suffix.lower()
        if ending not in _FILES:
            raise InputError(
                f"There is no body '{name_or_path}'; give {', '.join(BODIES)}, or a file ending in {', '.join(_FILES)}."
            )
        if not path.is_file():
            raise InputError(f"There is no file '{path}' with a body.")
        found = _named(read_glb(path), path) if ending == ".glb" else _smpl(path)
    return skinned_body(_centred(found) if wanted is None else _fitted(found, wanted))


def _centred(body: GltfBody) -> GltfBody:
    """The same with its pelvis at the origin."""
    return GltfBody(body.skeleton, body.rest - body.rest[0], body.weights, body.vertices - body.rest[0], body.faces)


def _fitted(body: GltfBody, wanted: BodyModel) -> GltfBody:
    """The same on the bones of another: made as large, then moved joint by joint to where the joints are."""
    lengths = [
        np.linalg.norm(bones.offsets[1:].astype(np.float64), axis=1) for bones in (body.skeleton, wanted.skeleton)
    ]
    scale = float(lengths[1].sum() / max(lengths[0].sum(), 1e-9))
    rest = wanted.rest.numpy()
    vertices = scale * body.vertices + body.weights @ (rest - scale * body.rest)
    return GltfBody(wanted.skeleton, rest, body.weights, vertices.astype(np.float32), body.faces)


def _named(body: GltfBody, origin: str | Path) -> GltfBody:
    """A body of any joints of a person as one of SMPL's 24.

    What belongs to a joint that is not among them belongs to the next one above it that is; a joint that the body has
    not got moves nothing. A body that does not have SMPL's own names, whose rest pose may be any, is put in a T.
    """
    names = body.skeleton.names
    if set(NAMES) <= set(names):
        return _reduced(body, [names.index(name) for name in NAMES])
    try:
        source = source_of(body.skeleton)
    except InputError as error:
        raise InputError(
            f"The joints of the body '{origin}' are not known as SMPL's 24 ({_few(names)}); name them as SMPL, Mixamo, "
            "CMU or Biovision do."
        ) from error
    numbers: list[int | None] = [source.joint.get(name) for name in NAMES]
    spine = source.spine[1:]
    if spine:
        # The last one carries the arms; a spine of two has none in the middle.
        numbers[NAMES.index("spine3")] = spine[-1]
        numbers[NAMES.index("spine1")] = spine[0] if len(spine) > 1 else None
        numbers[NAMES.index("spine2")] = spine[len(spine) // 2] if len(spine) > 2 else None
    aligned = alignment(source, capsule_body().skeleton)
    turns: list[np.ndarray] = []
    for name, above in zip(NAMES, _PARENTS, strict=True):
        turns.append(aligned.get(name, turns[above] if turns else np.eye(3)))
    return _in_a_t(_reduced(body, numbers, np.stack(turns)), np.stack(turns))


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _reduced(body: GltfBody, numbers: list[int | None], turns: np.ndarray | None = None) -> GltfBody:
    """The body with 24 of its joints alone.

    Args:
        numbers: of its joints; None for those that it has not got.
        turns: float64 [24, 3, 3], what brings its rest pose to the built-in body's; needed where a joint is missing.
    """
    place = {number: k for k, number in enumerate(numbers) if number is not None}
    weights = np.zeros((len(body.vertices), len(NAMES)), np.float32)
    for joint in range(len(body.skeleton)):
        at = joint
        while at not in place and at >= 0:
            at = body.skeleton.parents[at]
        weights[:, place.get(at, 0)] += body.weights[:, joint]
    rest = np.array([np.full(3, np.nan) if k is None else body.rest[k] for k in numbers], np.float64)
    if turns is not None:
        rest = _completed(rest, turns)
    skeleton = Skeleton(NAMES, _PARENTS, (rest - rest[[*_PARENTS]]).astype(np.float32))
    return GltfBody(skeleton, rest.astype(np.float32), weights, body.vertices, body.faces)


def _completed(rest: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Places [24, 3] of joints; those that are missing (NaN) lie where the built-in body has them.

    Those between two that are there, as in a spine, divide the way evenly.
    """
    own = capsule_body()
    there = np.isfinite(rest).all(axis=1)
    legs = [np.linalg.norm(at[4] - at[1]) for at in (rest, own.rest.double().numpy())]
    found = rest.copy()
    for k in np.flatnonzero(~there):
        above, line = _PARENTS[k], [int(k)]
        while line[-1] in _ONWARDS and not there[line[-1]]:
            line.append(_ONWARDS[line[-1]])
        if there[line[-1]]:
            found[k] = found[above] + (rest[line[-1]] - found[above]) / len(line)
        else:
            found[k] = found[above] + turns[above].T @ own.skeleton.offsets[k] * legs[0] / legs[1]
    return found


def _in_a_t(body: GltfBody, turns: np.ndarray) -> GltfBody:
    """The body posed anew by skinning: its joints turned in the world by [24, 3, 3]."""
    above = [*_PARENTS]
    rest = body.rest.astype(np.float64)
    for k in range(1, len(NAMES)):
        rest[k] = rest[above[k]] + turns[above[k]] @ body.skeleton.offsets[k]
    vertices = np.zeros((len(body.vertices), 3))
    for k, turn in enumerate(turns):
        vertices += body.weights[:, k, None] * ((body.vertices - body.rest[k]) @ turn.T + rest[k])
    skeleton = Skeleton(NAMES, _PARENTS, (rest - rest[above]).astype(np.float32))
    return GltfBody(skeleton, rest.astype(np.float32), body.weights, vertices.astype(np.float32), body.faces)


def _smpl(path: Path) -> GltfBody:
    """A model of SMPL, SMPL-H or SMPL-X, of the mean shape."""
    try:
        found = read_npz(path) if path.suffix.lower() == ".npz" else read_pickle(path)
    except InputError as error:
        hint = "" if path.suffix.lower() == ".npz" else " Models are also published as .npz, which holds only arrays."
        raise InputError(f"{error}{hint}") from error
    try:
        return _smpl_body(found)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise InputError(f"'{path}' is no model of SMPL, SMPL-H or SMPL-X: {what}.") from error


def _smpl_body(found: Any) -> GltfBody:
    vertices, weights, regressor = (
        np.asarray(found[key], np.float64) for key in ("v_template", "weights", "J_regressor")
    )
    faces, tree = np.asarray(found["f"]).astype(np.int64), np.asarray(found["kintree_table"]).astype(np.int64)
    joints = len(regressor)
    if joints not in _HANDS or tree.shape != (2, joints):
        raise ValueError(f"it has {joints} joints, not {', '.join(map(str, _HANDS))}")
    shapes = (vertices.shape[1:], weights.shape, regressor.shape, faces.shape[1:])
    if shapes != ((3,), (len(vertices), joints), (joints, len(vertices)), (3,)):
        raise ValueError("its arrays do not fit one another")
    if not (np.isfinite(vertices).all() and np.isfinite(regressor).all() and (weights >= 0).all()):
        raise ValueError("its numbers are not finite, or weights are below 0")
    if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices) or not (weights.sum(axis=1) > 0).all():
        raise ValueError("its faces or weights are not those of its vertices")
    parents = (-1, *tree[0, 1:].tolist())
    skeleton = Skeleton(tuple(f"joint{k}" for k in range(joints)), parents, np.zeros((joints, 3), np.float32))
    rest = (regressor @ vertices).astype(np.float32)
    whole = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    body = GltfBody(skeleton, rest, whole, vertices.astype(np.float32), faces.astype(np.int32))
    return _reduced(body, [*range(22), *_HANDS[joints]])


def _anny() -> GltfBody:
    """The mean of Anny (Brégier et al., 2025), which is free, in a T."""
    try:
        import anny
    except ImportError as error:
        raise InputError("The body 'anny' needs a package that is not installed; run: pip install anny") from error
    # Mixamo's joints are those that are known here; the shapes are asked for once, so that compacting them costs more.
    model = anny.Anny(rig="mixamo", skinning_method="lbs", phenotype_blendshapes="original")
    with torch.no_grad():
        found = model(phenotype_kwargs=dict.fromkeys(model.phenotype_labels, 0.5))
    vertices = found["rest_vertices"][0].float().numpy()
    rest = found["rest_bone_heads"][0].float().numpy()
    index, shares = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.float().numpy()
    weights = np.zeros((len(vertices), len(rest)), np.float32)
    np.add.at(weights, (np.arange(len(vertices))[:, None], index), shares)
    parents = tuple(int(above) for above in model.bone_parents)
    skeleton = Skeleton(tuple(model.bone_labels), parents, rest - rest[list(parents)])
    return _named(GltfBody(skeleton, rest, weights, vertices, model.faces.numpy().astype(np.int32)), "anny")
