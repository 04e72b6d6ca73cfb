"""What of a fit goes to people and other programs: turntables of what is canonical, and its surface as a mesh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from canon.camera_paths import orbit
from canon.cameras import Camera, look_at, pinhole
from canon.errors import InputError
from canon.gltf import Rig, Texture, write_glb, write_ply
from canon.representations.dynamic_nerf.buffers import see
from canon.representations.dynamic_nerf.model import Model
from canon.sampling import remap_points
from canon.skeletons import Motion
from canon.spatial import Turntable
from canon.storage import encoded_image, to_uint8

if TYPE_CHECKING:
    from canon.representations.dynamic_nerf.fit import NerfFit

_AROUND = 36
"""Pictures of a turntable."""
_LARGEST = 256
"""Pixels along their longer side."""
_GREY = 0.35


def turntables(model: Model, cameras: Sequence[Camera], centre: np.ndarray) -> list[Turntable]:
    """The person in the rest pose, and the empty background."""
    found = []
    if model.world.human is not None:
        found.append(Turntable("human", _AROUND, _of_human(model)))
    share = min(1.0, _LARGEST / max(cameras[0].size))
    size = (max(round(cameras[0].size[0] * share), 1), max(round(cameras[0].size[1] * share), 1))
    around = orbit([camera.resized(size) for camera in cameras], centre, _AROUND)
    found.append(Turntable("background", _AROUND, _of_background(model, around)))
    return found


@torch.no_grad()
def _of_human(model: Model) -> Iterator[np.ndarray]:
    pose, deformation = model.rest(), model.world.deformation
    assert pose is not None and deformation is not None
    low, high = (corner.cpu().numpy().astype(np.float64) for corner in deformation.body.box)
    middle, reach = (low + high) / 2, float(np.linalg.norm(high - low))
    focal = 1.9 * _LARGEST
    matrix = pinhole((focal, focal), ((_LARGEST - 1) / 2, (_LARGEST - 1) / 2))
    for angle in np.arange(_AROUND) * 2 * np.pi / _AROUND:
        place = middle + 1.6 * reach * np.array([np.sin(angle), 0.1, np.cos(angle)])
        camera = look_at((_LARGEST, _LARGEST), matrix, place, middle)
        seen = see(model.world, camera, pose, model.device, background=False)
        yield to_uint8((seen.rgb + _GREY * (1 - seen.human[..., None])).cpu().numpy())


@torch.no_grad()
def _of_background(model: Model, cameras: Sequence[Camera]) -> Iterator[np.ndarray]:
    for camera in cameras:
        yield to_uint8(see(model.world, camera, None, model.device).rgb.cpu().numpy())


def save_mesh(fit: NerfFit, path: Path) -> None:
    """See :meth:`canon.spatial.SpatialFit.save_mesh`."""
    atlas, deformation = fit.model.atlas, fit.model.world.deformation
    if atlas is None or deformation is None:
        raise InputError("This fit has no person whose surface could be written.")
    canvas = fit.canonical("human").rgba
    suffix = path.suffix.lower()
    if suffix == ".ply":
        write_ply(path, atlas.mesh, to_uint8(remap_points(np.ascontiguousarray(canvas[..., :3]), atlas.uv)))
    elif suffix == ".glb":
        body = deformation.body
        with torch.no_grad():
            weights = (
                deformation.weights(torch.from_numpy(atlas.mesh.vertices).to(deformation.low.device)).cpu().numpy()
            )
            every = torch.arange(len(deformation.rotations), device=deformation.low.device)
            rotations, root = (part.cpu().numpy() for part in deformation.poses(every))
        motion = Motion(body.skeleton, rotations, root, float(fit.clip.fps))
        texture = Texture(atlas.uv, atlas.size, encoded_image(to_uint8(canvas[..., :3])))
        rig = Rig(body.skeleton, body.rest.cpu().numpy(), weights)
        write_glb(path, atlas.mesh, normals=atlas.normals, texture=texture, rig=rig, motion=motion)
    else:
        raise InputError(f"A mesh cannot be written as '{path.name}'; give a .glb or a .ply.")
