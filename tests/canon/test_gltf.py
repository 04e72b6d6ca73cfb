"""Surfaces and bodies in files: there and back, what another reader and the format's own rules find, damage."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from truth import turned

from canon.bodies import capsule_body
from canon.colour import from_linear
from canon.errors import InputError
from canon.gltf import GltfBody, Texture, read_glb, write_glb, write_ply
from canon.skeletons import Motion, Skeleton
from canon.skinned_bodies import skinned_body

NAMES = ("hips", "spine", "left", "right", "head")
PARENTS = (-1, 0, 0, 0, 1)


def a_body(vertices: int = 37, seed: int = 0, joints: int = 5) -> GltfBody:
    """Vertices that belong to at most four joints each."""
    rng = np.random.default_rng(seed)
    offsets = rng.normal(size=(joints, 3)).astype(np.float32)
    names = NAMES if joints == 5 else tuple(f"bone {k}" for k in range(joints))
    parents = PARENTS if joints == 5 else (-1, *(int(rng.integers(k)) for k in range(1, joints)))
    skeleton = Skeleton(names, parents, offsets)
    place = torch.from_numpy(rng.normal(size=3)).float()
    rest = skeleton.joints(torch.eye(3).expand(joints, 3, 3), place)
    weights = np.zeros((vertices, joints), np.float32)
    for row in weights:
        own = rng.permutation(joints)[: rng.integers(1, 5)]
        row[own] = rng.dirichlet(np.ones(len(own)))
    points = rng.normal(size=(vertices, 3)).astype(np.float32)
    faces = np.stack([rng.permutation(vertices)[:3] for _ in range(2 * vertices)]).astype(np.int32)
    return GltfBody(skeleton, rest.numpy(), weights, points, faces)


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """What a .glb says, and its binary part; read here by the format's rules alone."""
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON") and total % 4 == length % 4 == 0
    size, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and 28 + length + size == total
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def put(path: Path, document: Any, binary: bytes) -> Path:
    """A .glb of these parts."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(binary), len(text), b"JSON")
    path.write_bytes(head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary)
    return path


def numbers(document: dict[str, Any], binary: bytes, accessor: int) -> np.ndarray:
    entry = document["accessors"][accessor]
    view = document["bufferViews"][entry["bufferView"]]
    assert view["byteOffset"] % 4 == 0
    kind = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[entry["componentType"]]
    data = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    return np.frombuffer(data, kind).reshape(entry["count"], -1)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 60), st.integers(0, 1000), st.sampled_from([1, 2, 5, 70, 300]))
def test_a_body_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, joints: int
) -> None:
    path = tmp_path_factory.mktemp("glb") / "body.glb"
    body = a_body(count, seed, joints)
    write_glb(path, body, rig=body)
    found = read_glb(path)
    assert found.skeleton.names == body.skeleton.names and found.skeleton.parents == body.skeleton.parents
    for name in ("vertices", "faces", "weights", "rest"):
        one, two = getattr(found, name), getattr(body, name)
        assert one.dtype == two.dtype and np.array_equal(one, two), name
    assert np.allclose(found.skeleton.offsets, body.skeleton.offsets, atol=1e-5)
    again = path.with_name("again.glb")
    write_glb(again, found, rig=found)
    assert again.read_bytes() == path.read_bytes()


def test_of_many_weights_the_four_largest_are_kept(tmp_path: Path) -> None:
    body = a_body(joints=70)
    weights = np.random.default_rng(1).dirichlet(np.ones(70), 37).astype(np.float32)
    write_glb(tmp_path / "b.glb", body, rig=replace(body, weights=weights))
    found = read_glb(tmp_path / "b.glb").weights
    kept = np.where(weights >= np.sort(weights, axis=1)[:, -4:-3], weights, 0)
    assert np.allclose(found, kept / kept.sum(axis=1, keepdims=True), atol=1e-6)


def test_what_is_written_is_what_the_format_asks_for(tmp_path: Path) -> None:
    body, size = a_body(), (21, 34)
    rng = np.random.default_rng(2)
    colours = rng.integers(0, 256, (37, 3), np.uint8)
    normals = body.vertices / np.linalg.norm(body.vertices, axis=1, keepdims=True)
    uv = rng.uniform(-0.5, 20.5, (37, 2)).astype(np.float32)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    png = cv2.imencode(".png", image)[1].tobytes()
    texture = Texture(uv, size, png)
    write_glb(tmp_path / "b.glb", body, colours=colours, normals=normals, texture=texture, rig=body)
    document, binary = parts(tmp_path / "b.glb")
    (primitive,) = document["meshes"][0]["primitives"]
    own = {name: numbers(document, binary, number) for name, number in primitive["attributes"].items()}
    assert (numbers(document, binary, primitive["indices"]).reshape(-1, 3) == body.faces).all()
    assert (own["POSITION"] == body.vertices).all() and np.allclose(own["NORMAL"], normals)
    bounds = document["accessors"][primitive["attributes"]["POSITION"]]
    assert np.allclose(bounds["min"], body.vertices.min(0)) and np.allclose(bounds["max"], body.vertices.max(0))
    seen = from_linear(own["COLOR_0"][:, :3] / np.float32(65535))  # the format's colours are linear light
    assert (np.round(seen * 255) == colours).all() and (own["COLOR_0"][:, 3] == 65535).all()
    # The middle of the first texel is half a texel from the picture's corner; v goes down, as texels do.
    assert np.allclose(own["TEXCOORD_0"], (uv + 0.5) / [34, 21], atol=1e-6)
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    assert binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]] == png
    assert np.allclose(own["WEIGHTS_0"].sum(axis=1), 1, atol=4e-7)
    assert (own["JOINTS_0"][own["WEIGHTS_0"] == 0] == 0).all()


def test_another_reader_finds_the_same(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="trimesh is part of canon-video[nerf], which is not installed")
    body = a_body()
    colours = np.random.default_rng(2).integers(0, 256, (37, 3), np.uint8)
    png = cv2.imencode(".png", np.full((5, 9, 3), 90, np.uint8))[1].tobytes()
    texture = Texture(np.zeros((37, 2), np.float32), (5, 9), png)
    write_glb(tmp_path / "b.glb", body, texture=texture, rig=body)
    (found,) = trimesh.load_scene(tmp_path / "b.glb", process=False).geometry.values()
    assert np.array_equal(found.vertices, body.vertices) and np.array_equal(found.faces, body.faces)
    assert found.visual.material.baseColorTexture.size == (9, 5)
    write_ply(tmp_path / "b.ply", body, colours)
    found = trimesh.load_mesh(tmp_path / "b.ply", process=False)
    assert np.array_equal(found.vertices, body.vertices) and np.array_equal(found.faces, body.faces)
    assert np.array_equal(found.visual.vertex_colors[:, :3], colours)
    write_ply(tmp_path / "plain.ply", body)
    assert np.array_equal(trimesh.load_mesh(tmp_path / "plain.ply", process=False).faces, body.faces)


def posed_by_the_format(path: Path, key: int) -> np.ndarray:
    """Vertices as the file's animation moves them at one of its keys: joint matrices times inverse bind matrices."""
    document, binary = parts(path)
    nodes = document["nodes"]
    turns = {k: np.eye(3) for k in range(len(nodes))}
    places = {k: np.array(node.get("translation", (0, 0, 0)), float) for k, node in enumerate(nodes)}
    (animation,) = document["animations"]
    for channel in animation["channels"]:
        value = numbers(document, binary, animation["samplers"][channel["sampler"]]["output"])[key].astype(float)
        if channel["target"]["path"] == "translation":
            places[channel["target"]["node"]] = value
        else:
            x, y, z, w = value
            cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            turns[channel["target"]["node"]] = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    world: dict[int, np.ndarray] = {}

    def walk(node: int, above: np.ndarray) -> None:
        own = np.eye(4)
        own[:3, :3], own[:3, 3] = turns[node], places[node]
        world[node] = above @ own
        for child in nodes[node].get("children", ()):
            walk(child, world[node])

    for node in document["scenes"][0]["nodes"]:
        walk(node, np.eye(4))
    (skin,) = document["skins"]
    inverse = numbers(document, binary, skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    moves = np.stack([world[joint] @ inverse[k] for k, joint in enumerate(skin["joints"])])
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    points, joints, weights = (numbers(document, binary, attributes[n]) for n in ("POSITION", "JOINTS_0", "WEIGHTS_0"))
    points = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return np.einsum("vk,vkab,vb->va", weights, moves[joints], points)[:, :3]


def test_a_motion_moves_the_vertices_as_skinning_does(tmp_path: Path) -> None:
    body = a_body()
    rng = np.random.default_rng(3)
    turns = np.stack([[turned(tuple(rng.uniform(-3, 3, 3))) for _ in NAMES] for _ in range(7)]).astype(np.float32)
    motion = Motion(body.skeleton, turns, rng.normal(size=(7, 3)).astype(np.float32), 25.0)
    write_glb(tmp_path / "b.glb", body, rig=body, motion=motion)
    rig = skinned_body(body)
    for key in range(7):
        moved = rig.moved(torch.from_numpy(turns[key]), torch.from_numpy(motion.root[key])).numpy()
        each = np.einsum("jab,vb->vja", moved[:, :3, :3], body.vertices) + moved[:, :3, 3]
        true = (body.weights[..., None] * each).sum(axis=1)
        assert np.abs(posed_by_the_format(tmp_path / "b.glb", key) - true).max() < 1e-5
    document, binary = parts(tmp_path / "b.glb")
    samplers = document["animations"][0]["samplers"]
    assert np.allclose(numbers(document, binary, samplers[0]["input"])[:, 0], np.arange(7) / 25)
    for sampler in samplers[:-1]:  # from key to key the short way
        found = numbers(document, binary, sampler["output"])
        assert np.allclose(np.linalg.norm(found, axis=1), 1) and ((found[1:] * found[:-1]).sum(axis=1) >= 0).all()


def rearranged(path: Path) -> Path:
    """The same body as another program might write it: joints out of order, turned at rest, below a scaled node."""
    document, binary = parts(path)
    order = [4, 2, 0, 3, 1]
    document["skins"][0]["joints"] = [document["skins"][0]["joints"][k] for k in order]
    inverse = numbers(document, binary, document["skins"][0]["inverseBindMatrices"]).reshape(-1, 4, 4)[order]
    turn = np.eye(4)
    turn[:3, :3] = turned((0.3, -0.7, 1.1)) * 0.01
    inverse = (np.linalg.inv(turn) @ inverse.transpose(0, 2, 1)).transpose(0, 2, 1)
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    joints = numbers(document, binary, attributes["JOINTS_0"])
    weights = numbers(document, binary, attributes["WEIGHTS_0"])
    numbers_of = np.argsort(order)[joints].astype("<u2")
    shares = np.round(weights * 65535).astype("<u2")
    rows = np.concatenate([numbers_of, shares], axis=1).astype("<u2")  # one part of the file for both, interleaved
    extra = rows.tobytes() + inverse.astype("<f4").tobytes()
    at, long = len(binary), len(rows) * 16
    views, accessors = document["bufferViews"], document["accessors"]
    views += [{"buffer": 0, "byteOffset": at, "byteLength": long, "byteStride": 16}]
    views += [{"buffer": 0, "byteOffset": at + long, "byteLength": len(extra) - long}]
    kind = {"bufferView": len(views) - 2, "componentType": 5123, "count": len(rows), "type": "VEC4"}
    bind = {"bufferView": len(views) - 1, "componentType": 5126, "count": 5, "type": "MAT4"}
    accessors += [kind, kind | {"byteOffset": 8, "normalized": True}, bind]
    first = len(accessors) - 3
    attributes |= {"JOINTS_0": first, "WEIGHTS_0": first + 1}
    document["skins"][0]["inverseBindMatrices"] = first + 2
    document["nodes"].append({"name": "armature", "children": [1], "scale": [100, 100, 100]})
    document["nodes"][5] |= {"name": "spine"}  # a name twice
    return put(path, document, binary + extra)


def test_a_body_that_is_written_another_way_is_the_same(tmp_path: Path) -> None:
    body = a_body()
    write_glb(tmp_path / "b.glb", body, rig=body)
    found = read_glb(rearranged(tmp_path / "b.glb"))
    own = {name: k for k, name in enumerate(found.skeleton.names)}
    assert len(own) == 5 and set(own) > {"hips", "left", "right"}
    assert found.skeleton.parents[0] == -1 and all(above < k for k, above in enumerate(found.skeleton.parents))
    for k in (0, 2, 3):
        at = own[NAMES[k]]
        assert np.allclose(found.rest[at], body.rest[k], atol=1e-4)
        assert np.allclose(found.weights[:, at], body.weights[:, k], atol=2e-5)
        above = found.skeleton.parents[at]
        assert (above == -1) if k == 0 else found.skeleton.names[above] == "hips"
    assert np.allclose(found.weights.sum(axis=1), 1, atol=1e-6)
    bones = found.rest[1:] - found.rest[list(found.skeleton.parents[1:])]
    assert np.allclose(bones, found.skeleton.offsets[1:], atol=1e-6)


def damaged(document: dict[str, Any], way: str) -> Any:
    accessors, views, nodes = document["accessors"], document["bufferViews"], document["nodes"]
    primitive = document["meshes"][0]["primitives"][0]
    weights = accessors[primitive["attributes"]["WEIGHTS_0"]]
    if way == "far":
        views[0]["byteOffset"] = 1 << 40
    elif way == "long":
        accessors[0]["count"] = 1 << 40
    elif way == "negative":
        views[0]["byteLength"] = -1
    elif way == "no number":
        accessors[0]["bufferView"] = "one"
    elif way == "circle":
        nodes[5]["children"] = [1]
    elif way == "loop":
        nodes[2]["children"], nodes[1]["children"], nodes[5]["children"] = [5], [3, 4], [2]
    elif way == "two":
        nodes[3]["children"] = [5]
    elif way == "joint":
        document["skins"][0]["joints"] = document["skins"][0]["joints"][:2]
    elif way == "index":
        accessors[primitive["indices"]]["componentType"] = 5126
    elif way == "fewer":
        accessors[0]["count"] = 100
    elif way == "bind":
        document["skins"][0].pop("inverseBindMatrices")
    elif way == "kind":
        weights["type"] = "VEC3"
    elif way == "sparse":
        weights["sparse"] = {}
    elif way == "draco":
        document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    elif way == "uri":
        document["buffers"][0]["uri"] = "../../etc/passwd"
    elif way == "no skin":
        nodes[0].pop("skin")
    elif way == "list":
        return [document]
    elif way == "words":
        document["meshes"] = ["mesh"]
    elif way == "deep":
        return b"[" * 100_000
    return document


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("far", "the place of a part is 1099511627776 instead of"),
        ("long", "the length of an array is 1099511627776"),
        ("negative", "the length of a part is -1"),
        ("no number", "a number in 'bufferViews' is one"),
        ("circle", "in a circle"),
        ("loop", "in a circle"),
        ("two", "a node hangs on two others"),
        ("joint", "its weights are of joints beyond its 2"),
        ("index", "not triangles of its 300 vertices"),
        ("fewer", "not triangles of its 100 vertices"),
        ("bind", "'inverseBindMatrices' is missing"),
        ("kind", "a kind 'VEC3' that cannot be read here"),
        ("sparse", "cannot be read here"),
        ("draco", "export it without compression"),
        ("uri", "export it as one .glb"),
        ("no skin", "holds no surface with a skeleton"),
        ("list", "it describes nothing"),
        ("words", "an entry of 'meshes' is wrong"),
        ("deep", "recursion"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, way: str, sentence: str) -> None:
    body = a_body(300)
    write_glb(tmp_path / "b.glb", body, rig=body)
    document, binary = parts(tmp_path / "b.glb")
    put(tmp_path / "b.glb", damaged(document, way), binary)
    with pytest.raises(InputError, match=sentence) as error:
        read_glb(tmp_path / "b.glb")
    assert "b.glb" in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_change_of_bytes_does_harm(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("glb") / "b.glb"
    body = a_body(9)
    write_glb(path, body, rig=body)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    try:
        found = read_glb(path)
    except InputError:
        return
    assert np.isfinite(found.vertices).all() and np.isfinite(found.weights).all() and np.isfinite(found.rest).all()
    assert found.faces.min() >= 0 and found.faces.max() < len(found.vertices)
    assert found.weights.shape == (len(found.vertices), len(found.skeleton))


@pytest.mark.parametrize(
    ("changes", "options", "sentence"),
    [
        ({"vertices": np.full((37, 3), np.nan)}, {}, "finite vertices"),
        ({"faces": np.full((4, 3), 37)}, {}, "of its 37 vertices"),
        ({"weights": np.zeros((37, 5))}, {}, "must belong to a joint"),
        ({"weights": np.ones((36, 5))}, {}, "37 vertices and 5 joints"),
        ({"rest": np.zeros((4, 3))}, {}, "finite places"),
        ({}, {"colours": np.zeros((3, 3), np.uint8)}, r"colours of the vertices must be finite numbers \[37, 3\]"),
        ({}, {"rig": None, "motion": True}, "needs a rig"),
    ],
)
def test_what_fits_nothing_is_not_written(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    body = replace(a_body(), **changes)
    if "motion" in options:
        turns = np.tile(np.eye(3, dtype=np.float32), (2, 5, 1, 1))
        options = options | {"motion": Motion(body.skeleton, turns, np.zeros((2, 3), np.float32), 24)}
    with pytest.raises(InputError, match=sentence):
        write_glb(tmp_path / "b.glb", body, **{"rig": body, **options})
    assert not list(tmp_path.iterdir())


@given(hnp.arrays(np.float32, st.tuples(st.integers(3, 9), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)))
def test_a_ply_holds_the_numbers(tmp_path_factory: pytest.TempPathFactory, points: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("ply") / "a.ply"
    body = replace(a_body(), vertices=points, faces=np.array([[0, 1, 2], [2, 1, 0]]))
    write_ply(path, body)
    head, _, data = path.read_bytes().partition(b"end_header\n")
    assert f"element vertex {len(points)}\n".encode() in head
    stream = io.BytesIO(data)
    assert np.array_equal(np.frombuffer(stream.read(12 * len(points)), "<f4").reshape(-1, 3), points)
    assert stream.read() == struct.pack("<BiiiBiii", 3, 0, 1, 2, 3, 2, 1, 0)


def capsules(spread: float = 0.01) -> GltfBody:
    """The built-in body as a surface: points on its capsules, with its weights."""
    body = capsule_body()
    rng = np.random.default_rng(0)
    own = rng.integers(len(body.bones.joint), size=6000)
    away = rng.normal(size=(6000, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    share = rng.uniform(0, 1, (6000, 1))
    start, end, radius = (getattr(body.bones, name).numpy()[own] for name in ("start", "end", "radius"))
    points = (start * (1 - share) + end * share + away * radius[:, None]).astype(np.float32)
    faces = rng.permutation(6000).reshape(-1, 3).astype(np.int32)
    corners = points[faces]
    turn = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (turn * away[faces].mean(axis=1)).sum(axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    weights = body.weights(torch.from_numpy(points)).numpy()
    return GltfBody(body.skeleton, body.rest.numpy(), weights, points, faces)


def test_a_skinned_file_is_a_body(tmp_path: Path) -> None:
    own = capsules()
    write_glb(tmp_path / "b.glb", own, rig=own)
    found, built_in = read_glb(tmp_path / "b.glb"), capsule_body()
    body = skinned_body(found)
    low, high = body.box
    assert np.allclose(low, own.vertices.min(axis=0)) and np.allclose(high, own.vertices.max(axis=0))
    # At vertices, their own weights; between them, about those of the field that they were taken from.
    vertices = torch.from_numpy(own.vertices)
    assert float((body.weights(vertices) - torch.from_numpy(found.weights)).abs().max()) < 1e-5
    inner = vertices * 0.995
    assert float((body.weights(inner) - built_in.weights(inner)).abs().amax(dim=-1).median()) < 0.03
    rng = np.random.default_rng(5)
    turns = np.stack([turned(tuple(rng.uniform(-0.25, 0.25, 3))) for _ in range(24)])
    transforms = body.moved(torch.from_numpy(turns).float(), torch.tensor([0.1, 0.2, 0.3]))
    assert float((body.pose(vertices, transforms) - built_in.pose(vertices, transforms)).norm(dim=-1).max()) < 0.01
    far, likelihood = body.unpose(torch.tensor([[[3.0, 3.0, 3.0]]]), transforms)
    assert far.shape == (1, 1, 3) and float(likelihood) < 1e-6


def test_skinning_a_file_leads_back_and_has_gradients() -> None:
    body = skinned_body(capsules())
    names = list(body.skeleton.names)
    limbs = [k for k, joint in enumerate(body.bones.joint.tolist()) if names[joint].endswith(("_knee", "_elbow"))]
    places = (body.bones.start[limbs] + body.bones.end[limbs]) / 2 + torch.tensor([0.0, 0.0, 0.02])
    rng = np.random.default_rng(5)
    turns = torch.from_numpy(np.stack([turned(tuple(rng.uniform(-0.25, 0.25, 3))) for _ in range(24)])).float()
    turns.requires_grad_()
    transforms = body.moved(turns, torch.zeros(3))
    back, likelihood = body.unpose(body.pose(places, transforms.detach()), transforms)
    assert float((back.detach() - places).norm(dim=-1).max()) < 5e-3 and float(likelihood.detach().min()) > 0.3
    (back.sum() + likelihood.sum()).backward()
    assert turns.grad is not None and torch.isfinite(turns.grad).all() and float(turns.grad.abs().max()) > 0
