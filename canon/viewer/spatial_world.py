"""What the viewer in three dimensions puts into the browser: the person's surface, and the world around them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from canon.compose import compose
from canon.coordinates import Size, to_stmap
from canon.edits import Edit, resize_to
from canon.errors import InputError
from canon.gltf_file import GltfBuffer
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.representations.dynamic_nerf.panorama import Panorama
from canon.sampling import fill_from_nearest
from canon.spatial import SpatialFit, with_fields
from canon.storage import encoded_image, to_uint8

Posed = tuple[np.ndarray, np.ndarray]
"""Rotations float32 [J, 3, 3] of the joints and place [3] of the pelvis, as :meth:`SpatialFit.posed` has them."""

_LARGEST_TEXTURE = 2048
"""Texels along a side that are sent."""
_NODES = 20_000
"""Vertices of the world at most."""
_FRAMES = 12
"""Frames in which it is looked how far the world is."""
_BLOCK = 256
"""Vertices that are skinned at once."""
_KEPT = 128 << 20
"""Bytes of surfaces that are remembered."""


def fields_of(fit: SpatialFit) -> NerfFit:
    """A fit whose surface and panorama are known.

    Raises:
        InputError: they are not.
    """
    if not isinstance(fit, NerfFit):
        raise InputError(f"The fit of '{fit.representation}' has no surface that could be shown; open a dynamic-nerf.")
    return fit


class Body:
    """The person's surface in any pose."""

    def __init__(self, fit: NerfFit) -> None:
        """Find how vertices move with the joints.

        Raises:
            InputError: the fit has no person.
        """
        atlas, deformation = fit.model.atlas, fit.model.world.deformation
        if atlas is None or deformation is None:
            raise InputError("This fit has no person who could be shown.")
        self._fit, self._deformation = fit, deformation
        self.faces, self.uv, self.size = atlas.mesh.faces, atlas.uv, atlas.size
        first, self._back = np.unique(atlas.source, return_index=True, return_inverse=True)[1:]
        rest = atlas.mesh.vertices[first].astype(np.float32)
        self._rest = np.concatenate([rest, np.ones_like(rest[:, :1])], axis=1)
        with torch.no_grad():
            own = torch.from_numpy(rest).to(fit.model.device)
            weights = deformation.weights(own).cpu().numpy().astype(np.float32)
        # In blocks, which are multiplied one by one: BLAS would start threads for all at once, and wait for them.
        self._weights = np.pad(weights, ((0, -len(weights) % _BLOCK), (0, 0))).reshape(-1, _BLOCK, weights.shape[1])
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints, in the order of poses."""
        return self._deformation.body.skeleton.names

    def quick(self, pose: Posed) -> np.ndarray:
        """Vertices float32 [V, 3] by linear blend skinning: a millisecond, and off by some millimetres near joints."""
        device = self._fit.model.device
        turn, root = (torch.from_numpy(np.asarray(part, np.float32)).to(device) for part in pose)
        with torch.no_grad():
            moved = self._deformation.transforms(turn, root)[:, :3].cpu().numpy()
        blended = (self._weights @ moved.reshape(len(moved), 12)).reshape(-1, 3, 4)[: len(self._rest)]
        return np.asarray(np.einsum("vij,vj->vi", blended, self._rest)[self._back])

    def exact(self, pose: Posed) -> np.ndarray:
        """Vertices float32 [V, 3] where the fit's own surface has them; remembered."""
        found = self.known(pose)
        if found is None:
            found = self._fit.model.vertices(self._fit.posing(*pose))
            with self._lock:
                self._known[_key(pose)] = found
                while len(self._known) * found.nbytes > _KEPT:
                    self._known.popitem(last=False)
        return found

    def known(self, pose: Posed) -> np.ndarray | None:
        """:meth:`exact`, if it is remembered."""
        with self._lock:
            found = self._known.get(_key(pose))
            if found is not None:
                self._known.move_to_end(_key(pose))
        return found


def _key(pose: Posed) -> bytes:
    return b"".join(np.ascontiguousarray(part, np.float32).tobytes() for part in pose)


@dataclass(frozen=True, eq=False)
class Relief:
    """The background as a surface: its panorama, as far away as the fit has it.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
        uv: float32 [V, 2], texels (x, y) of the panorama.
        size: (height, width) of the panorama.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    size: Size

    @classmethod
    def of(cls, fit: NerfFit) -> Relief | None:
        """That of a fit; None where it has no background."""
        panorama = fit.model.panorama
        if panorama is None or "background" not in fit.layers:
            return None
        height, width = panorama.size
        step = max(1.0, float(np.sqrt(height * width / _NODES)))
        rows, columns = (max(int(np.ceil((length - 1) / step)) + 1, 2) for length in (height, width))
        x, y = np.meshgrid(np.linspace(0, width - 1, columns), np.linspace(0, height - 1, rows))
        texels = np.stack([x, y], axis=-1)
        far = _distances(fit, panorama, (rows, columns))
        vertices = panorama.centre + panorama.towards(texels) * far[..., None]
        number = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
        a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
        faces = np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])
        flat = texels.reshape(-1, 2).astype(np.float32)
        return cls(vertices.reshape(-1, 3).astype(np.float32), faces, flat, panorama.size)


def _distances(fit: NerfFit, panorama: Panorama, nodes: Size) -> np.ndarray:
    """How far the world is from the panorama's centre, [rows, columns]: the median of what frames say."""
    scale = np.array([(nodes[1] - 1) / (panorama.size[1] - 1), (nodes[0] - 1) / (panorama.size[0] - 1)])
    found = []
    for t in np.unique(np.linspace(0, len(fit) - 1, min(len(fit), _FRAMES)).round().astype(int)):
        away = fit.coordinates_3d(int(t), "background").reshape(-1, 3).astype(np.float64) - panorama.centre
        far = np.linalg.norm(away, axis=1)
        texels = panorama.coordinates(panorama.centre + away)
        along = (panorama.towards(texels) * away).sum(axis=1) / np.maximum(far, 1e-9)
        shown = along > np.cos(2 / panorama.density)  # what lies beside the panorama was brought to its rim
        x, y = np.round(texels[shown] * scale).astype(int).T
        one = np.full(nodes, np.nan)
        one[y, x] = far[shown]
        found.append(one)
    every = np.stack(found)
    seen = np.isfinite(every).any(axis=0)
    middle = np.full(nodes, np.nanmedian(every) if seen.any() else 1.0)
    middle[seen] = np.nanmedian(every[:, seen], axis=0)
    filled = fill_from_nearest(np.ascontiguousarray(middle, np.float32)[..., None], seen).reshape(nodes)
    return np.asarray(cv2.medianBlur(np.ascontiguousarray(filled), 3), np.float64)


def canvases(fit: SpatialFit, edits: Sequence[Edit]) -> dict[str, np.ndarray]:
    """The canonical colours of all layers with a stack of edits, uint8 [h, w, 3]; without what they remove.

    Raises:
        InputError: see :func:`canon.render`.
    """
    changed = with_fields(fit, edits)
    composed = compose(changed, edits)
    found = {}
    for name in changed.layers:
        colour = np.ascontiguousarray(changed.canvas(name).rgba[..., :3])
        own = composed.get(name)
        if own is not None and own.removed:
            continue
        if own is not None and own.levels:
            colour = resize_to(colour, own.size).copy()
            (x, y), (height, width) = own.offset, own.levels[0].shape[:2]
            part = colour[y : y + height, x : x + width]
            part[:] = own.levels[0][..., :3] + (1 - own.levels[0][..., 3:]) * part
        found[name] = to_uint8(np.clip(_smaller(colour), 0, 1))
    return found


def _smaller(picture: np.ndarray) -> np.ndarray:
    share = min(1.0, _LARGEST_TEXTURE / max(picture.shape[:2]))
    height, width = (max(round(length * share), 1) for length in picture.shape[:2])
    return resize_to(picture, (height, width))


def textured(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, size: Size, picture: np.ndarray) -> bytes:
    """A surface as binary glTF that shows the colours of a picture as they are, from both sides.

    Args:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
        uv: float32 [V, 2], texels (x, y) of a canvas of ``size`` (height, width).
        picture: uint8 [h, w, 3] of its aspect.
    """
    buffer = GltfBuffer()
    placed = to_stmap(torch.from_numpy(np.ascontiguousarray(uv, np.float32)), size, flip_v=False).numpy()
    attributes = {
        "POSITION": buffer.add(np.ascontiguousarray(vertices, "<f4"), "VEC3", bounds=True),
        "TEXCOORD_0": buffer.add(placed.astype("<f4"), "VEC2"),
    }
    indices = buffer.add(faces.reshape(-1, 1).astype("<u4"), "SCALAR")
    image = buffer.add_bytes(encoded_image(picture, compression=1))
    unlit = {
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {"KHR_materials_unlit": {}},
        "doubleSided": True,
    }
    return buffer.packed(
        {
            "asset": {"version": "2.0", "generator": "canon"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"mode": 4, "attributes": attributes, "indices": indices, "material": 0}]}],
            "materials": [unlit],
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "images": [{"bufferView": image, "mimeType": "image/png"}],
        }
    )
