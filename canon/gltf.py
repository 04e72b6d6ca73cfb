"""Surfaces and bodies in files of other programs: binary glTF 2.0 (.glb), there and back, and PLY.

glTF's axes and units are those of :mod:`canon.bodies`: y upwards, a face along +z, metres. Joints keep the axes of the
world in their rest pose, as in :mod:`canon.skeletons`; how a file turns them there is taken into its rest pose.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from canon.colour import to_linear
from canon.coordinates import to_stmap
from canon.errors import InputError
from canon.gltf_file import GltfBuffer, GltfFile, whole
from canon.skeletons import Motion, Skeleton
from canon.storage import write_bytes

_MOST_JOINTS = 1024
_MOST_NUMBERS = 1 << 26
"""Weights of all vertices, and corners of faces, that are read at most."""
_VERTICES, _INDICES = 34962, 34963
"""What a part of the buffer is for."""


class Surface(Protocol):
    """What has triangles: vertices float [V, 3] and faces int [F, 3], anticlockwise when seen from outside."""

    @property
    def vertices(self) -> np.ndarray: ...
    @property
    def faces(self) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture on a surface.

    Attributes:
        uv: float [V, 2], where vertices are in it, as (x, y) in texels with their centres at integers.
        size: (height, width).
        png: the picture as the contents of a PNG file.
    """

    uv: np.ndarray
    size: tuple[int, int]
    png: bytes


@dataclass(frozen=True, eq=False)
class Rig:
    """What moves a surface.

    Attributes:
        skeleton: of J joints.
        rest: float32 [J, 3], where the joints are in the rest pose.
        weights: float32 [V, J], how much of every vertex moves with which joint.
    """

    skeleton: Skeleton
    rest: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class GltfBody(Rig):
    """A surface in its rest pose with what moves it, as a file holds them.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
    """

    vertices: np.ndarray
    faces: np.ndarray


def write_glb(
    path: str | Path,
    mesh: Surface,
    *,
    colours: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    texture: Texture | None = None,
    rig: Rig | None = None,
    motion: Motion | None = None,
) -> None:
    """Write a surface as binary glTF 2.0, atomically; what is left out here is not in the file.

    Args:
        path: of a .glb.
        colours: uint8 [V, 3], sRGB; a texture is multiplied with them.
        normals: float [V, 3] of length 1.
        rig: what moves it; of a vertex's weights the four largest are kept, so that they sum to 1.
        motion: of the rig's joints, from the file's time 0 on; its bones have the lengths of the rig's.

    Raises:
        InputError: shapes do not fit, numbers are not finite, or the file cannot be written.
    """
    vertices, faces = _checked_surface(mesh)
    buffer, document = GltfBuffer(), _document()
    attributes = {"POSITION": buffer.add(vertices, "VEC3", target=_VERTICES, bounds=True)}
    if normals is not None:
        attributes["NORMAL"] = buffer.add(_per_vertex(normals, vertices, 3, "normals"), "VEC3", target=_VERTICES)
    if colours is not None:
        light = to_linear(_per_vertex(colours, vertices, 3, "colours") / np.float32(255))
        opaque = np.concatenate([light, np.ones_like(light[:, :1])], axis=1)
        levels = np.round(opaque * 65535).astype("<u2")  # with 8 bits of linear light, dark colours would merge
        attributes["COLOR_0"] = buffer.add(levels, "VEC4", target=_VERTICES, normalized=True)
    primitive = document["meshes"][0]["primitives"][0] | {"attributes": attributes}
    document["meshes"][0]["primitives"][0] = primitive
    if texture is not None:
        uv = torch.from_numpy(_per_vertex(texture.uv, vertices, 2, "texture coordinates"))
        placed = to_stmap(uv, texture.size, flip_v=False).numpy()
        attributes["TEXCOORD_0"] = buffer.add(placed, "VEC2", target=_VERTICES)
        document |= _textured(buffer, texture.png)
        primitive["material"] = 0
    if rig is not None:
        _add_rig(document, buffer, attributes, rig, len(vertices))
    if motion is not None:
        _add_motion(document, buffer, rig, motion)
    primitive["indices"] = buffer.add(faces.reshape(-1, 1).astype("<u4"), "SCALAR", target=_INDICES)
    write_bytes(Path(path), buffer.packed(document))


def write_ply(path: str | Path, mesh: Surface, colours: np.ndarray | None = None) -> None:
    """Write a surface as binary PLY, atomically.

    Args:
        colours: uint8 [V, 3].

    Raises:
        InputError: shapes do not fit, numbers are not finite, or the file cannot be written.
    """
    vertices, faces = _checked_surface(mesh)
    columns = [(axis, "<f4") for axis in "xyz"]
    columns += [] if colours is None else [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(vertices), columns)
    values = vertices if colours is None else np.hstack([vertices, _per_vertex(colours, vertices, 3, "colours")])
    for k, (name, _) in enumerate(columns):
        rows[name] = values[:, k]
    corners = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    corners["count"], corners["corners"] = 3, faces
    kinds = {"<f4": "float", "u1": "uchar"}
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    head += [f"property {kinds[kind]} {name}" for name, kind in columns]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    write_bytes(Path(path), "\n".join(head).encode() + rows.tobytes() + corners.tobytes())


def _checked_surface(mesh: Surface) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not len(vertices) or not np.isfinite(vertices).all():
        raise InputError(f"A surface needs finite vertices [V, 3], but has {list(vertices.shape)}; give at least one.")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"A surface needs faces [F, 3] of its {len(vertices)} vertices; give at least one.")
    return vertices.astype("<f4"), faces.astype("<i4")


def _per_vertex(values: np.ndarray, vertices: np.ndarray, width: int, name: str) -> NDArray[np.float32]:
    found = np.asarray(values, np.float32)
    if found.shape != (len(vertices), width) or not np.isfinite(found).all():
        shape = f"[{len(vertices)}, {width}]"
        raise InputError(f"The {name} of the vertices must be finite numbers {shape}, not {list(found.shape)}.")
    return found


def _document() -> dict[str, Any]:
    return {
        "asset": {"version": "2.0", "generator": "canon"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"mode": 4}]}],
    }


def _textured(buffer: GltfBuffer, png: bytes) -> dict[str, Any]:
    linear, mipmapped, edge = 9729, 9987, 33071
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    return {
        "images": [{"bufferView": buffer.add_bytes(png), "mimeType": "image/png"}],
        "samplers": [{"magFilter": linear, "minFilter": mipmapped, "wrapS": edge, "wrapT": edge}],
        "textures": [{"source": 0, "sampler": 0}],
        "materials": [{"pbrMetallicRoughness": surface}],
    }


def _add_rig(document: dict[str, Any], buffer: GltfBuffer, attributes: dict[str, int], rig: Rig, count: int) -> None:
    """Joints are the nodes after the first one, which is the surface."""
    skeleton, rest, weights = rig.skeleton, np.asarray(rig.rest, np.float32), np.asarray(rig.weights, np.float32)
    if rest.shape != (len(skeleton), 3) or not np.isfinite(rest).all():
        raise InputError(f"A rig of {len(skeleton)} joints needs finite places [J, 3], not {list(rest.shape)}.")
    if weights.shape != (count, len(skeleton)) or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise InputError(f"{count} vertices and {len(skeleton)} joints need weights [V, J] of 0 or more.")
    joints, strongest = _strongest(weights)
    attributes["JOINTS_0"] = buffer.add(joints, "VEC4", target=_VERTICES)
    attributes["WEIGHTS_0"] = buffer.add(strongest, "VEC4", target=_VERTICES)
    for k, (name, above) in enumerate(zip(skeleton.names, skeleton.parents, strict=True)):
        place = rest[k] if above < 0 else rest[k] - rest[above]
        below = [j + 1 for j, other in enumerate(skeleton.parents) if other == k]
        document["nodes"].append({"name": name, "translation": place.tolist()} | ({"children": below} if below else {}))
    bind = np.tile(np.eye(4, dtype="<f4"), (len(skeleton), 1, 1))
    bind[:, 3, :3] = -rest  # column by column, as all matrices of the format
    numbers = list(range(1, len(skeleton) + 1))
    inverse = buffer.add(bind.reshape(-1, 16), "MAT4")
    document["skins"] = [{"inverseBindMatrices": inverse, "skeleton": 1, "joints": numbers}]
    document["nodes"][0]["skin"] = 0
    document["scenes"][0]["nodes"] = [0, 1]


def _strongest(weights: NDArray[np.float32]) -> tuple[np.ndarray, NDArray[np.float32]]:
    """The four largest weights of every vertex and their joints, [V, 4] and [V, 4]."""
    wide = np.pad(weights, ((0, 0), (0, max(0, 4 - weights.shape[1]))))
    joints = np.argsort(-wide, axis=1, kind="stable")[:, :4]
    found = np.take_along_axis(wide, joints, axis=1).astype("<f4")
    if not (found[:, 0] > 0).all():
        raise InputError("Every vertex of a rig must belong to a joint; give it a weight above 0.")
    return np.where(found > 0, joints, 0).astype("<u1" if weights.shape[1] <= 256 else "<u2"), _summing_to_one(found)


def _summing_to_one(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to a sum of 1; those that sum to it as nearly as float32 can stay as they are, to the last bit."""
    total = weights.sum(axis=1, dtype=np.float64, keepdims=True)
    return np.where(np.abs(total - 1) < 5e-7, weights, weights / total).astype("<f4")


def _add_motion(document: dict[str, Any], buffer: GltfBuffer, rig: Rig | None, motion: Motion) -> None:
    if rig is None or motion.skeleton.parents != rig.skeleton.parents:
        raise InputError("A motion needs a rig with the same joints; give the rig of the motion's skeleton.")
    count = len(rig.skeleton)
    if not len(motion) or not (np.isfinite(motion.rotations).all() and np.isfinite(motion.root).all()):
        raise InputError(f"A motion needs finite poses, but this one of {len(motion)} frames has others, or none.")
    times = (np.arange(len(motion)) / motion.fps).astype("<f4")[:, None]
    when = buffer.add(times, "SCALAR", bounds=True)
    turns = Rotation.from_matrix(motion.rotations.reshape(-1, 3, 3)).as_quat().reshape(-1, count, 4)
    # A rotation is two quaternions: the next one is to be the nearer of them, or players turn the long way.
    flips = np.where((turns[1:] * turns[:-1]).sum(axis=-1) < 0, -1, 1)
    turns[1:] *= np.cumprod(flips, axis=0)[..., None]
    samplers = [{"input": when, "output": buffer.add(turns[:, k].astype("<f4"), "VEC4")} for k in range(count)]
    channels = [{"sampler": k, "target": {"node": k + 1, "path": "rotation"}} for k in range(count)]
    samplers.append({"input": when, "output": buffer.add(motion.root.astype("<f4"), "VEC3")})
    channels.append({"sampler": count, "target": {"node": 1, "path": "translation"}})
    document["animations"] = [{"name": "motion", "samplers": samplers, "channels": channels}]


def read_glb(path: str | Path) -> GltfBody:
    """The first skinned surface of a binary glTF file, in its rest pose and its own units.

    Joints keep their order, but for those that a file names before the one above them. Of a file's joints without one
    above, all but the first hang on the first. Vertices that belong to no joint belong to the first.

    Raises:
        InputError: it cannot be read, is damaged, holds no skinned surface, or packs it in a way that is not known.
    """
    try:
        file = GltfFile(Path(path))
        skin, parts = _skinned(file)
        names, above = _joints(file, skin)
        rest = _rest(file, skin, len(names))
        order = _parents_first(above)
        vertices, faces, weights = _surface(file, parts, len(names))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise InputError(f"The body '{path}' cannot be read: {what}.") from error
    place = {joint: k for k, joint in enumerate(order)}
    parents = tuple(-1 if above[joint] < 0 else place[above[joint]] for joint in order)
    rest = rest[order]
    skeleton = Skeleton(tuple(names[joint] for joint in order), parents, rest - rest[list(parents)])
    return GltfBody(skeleton, rest, weights[:, order], vertices, faces)


def _parents_first(above: list[int]) -> list[int]:
    order: dict[int, None] = {}
    for joint in range(len(above)):
        chain: list[int] = []
        while joint >= 0 and joint not in order:
            if len(chain) > len(above):
                raise ValueError("its joints hang on one another in a circle")
            chain.append(joint)
            joint = above[joint]
        order |= dict.fromkeys(reversed(chain))
    return list(order)


def _skinned(file: GltfFile) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first skin that a surface has, and what that surface is made of."""
    nodes = [node for node in file.document["nodes"] if "skin" in node and "mesh" in node]
    if not nodes:
        raise ValueError("it holds no surface with a skeleton")
    skin = nodes[0]["skin"]
    meshes = [file.entry("meshes", node["mesh"]) for node in nodes if node["skin"] == skin]
    parts = [part for mesh in meshes for part in mesh["primitives"]]
    parts = [part for part in parts if part.get("mode", 4) == 4 and "JOINTS_0" in part["attributes"]]
    if not parts:
        raise ValueError("its surface has no triangles that joints move")
    return file.entry("skins", skin), parts


def _joints(file: GltfFile, skin: dict[str, Any]) -> tuple[list[str], list[int]]:
    """The names of joints, and which of them is above each; -1 for the first root alone."""
    count = len(file.document["nodes"])
    joints = [whole(joint, count - 1, "the number of a joint") for joint in skin["joints"]]
    if not joints or len(set(joints)) < len(joints) or len(joints) > _MOST_JOINTS:
        raise ValueError(f"it has {len(joints)} joints, of which some are the same or too many")
    above: dict[int, int] = {}
    for number in range(count):
        for below in file.entry("nodes", number).get("children", ()):
            if above.setdefault(whole(below, count - 1, "the number of a node"), number) != number:
                raise ValueError("a node hangs on two others")
    place = {joint: k for k, joint in enumerate(joints)}
    parents = [_joint_above(joint, above, place) for joint in joints]
    if -1 not in parents:
        raise ValueError("its joints hang on one another in a circle")
    root = parents.index(-1)
    parents = [root if found < 0 and k != root else found for k, found in enumerate(parents)]
    names: list[str] = []
    for k, joint in enumerate(joints):
        name = str(file.entry("nodes", joint).get("name", f"joint{k}"))
        while name in names:
            name += f"_{k}"
        names.append(name)
    return names, parents


def _joint_above(joint: int, above: dict[int, int], place: dict[int, int]) -> int:
    for _ in range(len(above) + 1):
        joint = above.get(joint, -1)
        if joint in place or joint < 0:
            return place.get(joint, -1)
    raise ValueError("its nodes hang on one another in a circle")


def _rest(file: GltfFile, skin: dict[str, Any], count: int) -> NDArray[np.float32]:
    """Where joints are in the rest pose, which is the one that vertices are bound in."""
    bind = file.array(skin["inverseBindMatrices"], "MAT4").astype(np.float64)
    if len(bind) < count:
        raise ValueError(f"it has {len(bind)} inverse bind matrices for {count} joints")
    matrices = bind[:count].reshape(-1, 4, 4).transpose(0, 2, 1)  # stored column by column
    found = np.linalg.solve(matrices[:, :3, :3], -matrices[:, :3, 3:])[..., 0]
    if not np.isfinite(found).all() or np.abs(found).max() > 1e30:
        raise ValueError("an inverse bind matrix has no inverse")
    return (found + 0.0).astype(np.float32)


def _surface(
    file: GltfFile, parts: list[dict[str, Any]], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Vertices, faces and weights of all parts together."""
    total, corners, pieces = 0, 0, []
    for part in parts:
        vertices = file.array(part["attributes"]["POSITION"], "VEC3").astype(np.float32)
        faces = np.arange(len(vertices)) if "indices" not in part else file.array(part["indices"], "SCALAR")[:, 0]
        if faces.dtype.kind == "f" or len(faces) % 3 or faces.min() < 0 or faces.max() >= len(vertices):
            raise ValueError(f"its faces are not triangles of its {len(vertices)} vertices")
        corners += len(faces)
        if max((total + len(vertices)) * count, corners) > _MOST_NUMBERS:
            raise ValueError(f"it has more than {_MOST_NUMBERS} weights of vertices, or corners of faces")
        weights = _weights(file, part, len(vertices), count)
        pieces.append((vertices, faces.astype(np.int64).reshape(-1, 3) + total, weights))
        total += len(vertices)
    joined = [np.concatenate(own) for own in zip(*pieces, strict=True)]
    return joined[0], joined[1].astype(np.int32), joined[2]


def _weights(file: GltfFile, part: dict[str, Any], vertices: int, count: int) -> NDArray[np.float32]:
    found = np.zeros((vertices, count), np.float32)
    attributes, number = part["attributes"], 0
    while f"JOINTS_{number}" in attributes and number < 4:
        joints = file.array(attributes[f"JOINTS_{number}"], "VEC4").astype(np.int64)
        shares = file.shares(attributes[f"WEIGHTS_{number}"])
        if (
            joints.shape != (vertices, 4)
            or shares.shape != joints.shape
            or not (0 <= shares.min() <= shares.max() < 1e3)
        ):
            raise ValueError("its weights are not those of its vertices")
        joints = np.where(shares > 0, joints, 0)  # what stands beside a weight of 0 means nothing
        if joints.min() < 0 or joints.max() >= count:
            raise ValueError(f"its weights are of joints beyond its {count}")
        np.add.at(found, (np.arange(vertices)[:, None], joints), shares)
        number += 1
    found[found.sum(axis=1) <= 0, 0] = 1
    return _summing_to_one(found)
