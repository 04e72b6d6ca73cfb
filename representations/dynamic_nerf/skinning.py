"""The person's surface in any pose: found in the field, unwrapped, and moved as the deformation moves it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.bodies import BodyModel
from canon.cameras import Camera
from canon.errors import InputError
from canon.rasterise import Raster, interpolate, rasterise
from canon.representations.dynamic_nerf.deformation import Deformation
from canon.representations.dynamic_nerf.fields import HumanField
from canon.representations.dynamic_nerf.surface import Mesh, TextureAtlas, extract
from canon.sampling import fill_from_nearest

LEVEL = 30.0
"""Density per metre at which the person's surface is: half of the light is gone about two centimetres further."""
_SMOOTH = 0.8
"""Cells over which the surface is smoothed."""
_STEPS = 5
_LONGEST = 0.05
"""Metres that a vertex is moved in a step at most."""


def surface(human: HumanField, deformation: Deformation, cells: int) -> Mesh:
    """The canonical surface, by marching cubes; with several states, of all of them together.

    Raises:
        InputError: the field is empty.
    """
    states = len(human.codes)

    def density(points: Tensor) -> Tensor:
        radii = distance(deformation.body, points)
        every = [
            human.density(points, radii, points.new_full((len(points),), k, dtype=torch.long)) for k in range(states)
        ]
        found = torch.stack(every).amax(dim=0) * (radii < 2.0)
        return found / (found + LEVEL)  # so that averages are of what is inside and outside, not of how dense it is

    try:
        return extract(density, deformation.low, deformation.high, cells, 0.5, smooth=_SMOOTH)
    except ValueError as error:
        raise InputError(
            "The person vanished while they were fitted; masks, poses and cameras must be of the same person and world."
        ) from error


def distance(body: BodyModel, points: Tensor) -> Tensor:
    """How far places [..., 3] of the rest pose are from the bones, in their radii, [...]."""
    own: Tensor = body.log_weights(points[..., None, :]).amax(dim=-1)
    return (-own / 2).clamp_min(1e-6).sqrt()


@torch.no_grad()
def skin(deformation: Deformation, vertices: Tensor, transforms: Tensor, rotations: Tensor) -> Tensor:
    """Where places of the rest pose are in a pose: forward skinning, made exact against the inverse.

    The inverse asks every joint how much of its own place belongs to it, which near joints is not quite what the rest
    pose says; so what it gives is compared, and the difference taken back.

    Args:
        vertices: [V, 3].
        transforms, rotations: [J, 4, 4] and [J, 3, 3]; see :class:`Deformation`.

    Returns:
        [V, 3], which the deformation takes back to ``vertices`` wherever it can.
    """
    found, turn = deformation.blended(vertices, transforms)
    best, least = found, torch.full_like(found[:, 0], torch.inf)
    for _ in range(_STEPS):
        _, rest, _ = deformation(found[None], transforms[None], rotations[None], 1.0, torch.inf)
        missed = vertices - rest
        error = missed.norm(dim=-1)
        better_now = error < least
        best, least = torch.where(better_now[:, None], found, best), torch.minimum(error, least)
        step = (turn @ missed[..., None])[..., 0]
        found = found + step * (_LONGEST / step.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp(max=1)
    return best


@dataclass(frozen=True, eq=False)
class SurfaceView:
    """The person's surface in a picture.

    Attributes:
        uv: float32 [H, W, 2] in texels of the atlas; of the nearest place of the surface where there is none.
        raster: which face is where.
    """

    uv: np.ndarray
    raster: Raster


def look(atlas: TextureAtlas, posed: np.ndarray, camera: Camera) -> SurfaceView:
    """What a camera sees of the surface whose vertices are at ``posed`` [V, 3]."""
    raster = rasterise(posed, atlas.mesh.faces, camera)
    hit = raster.face >= 0
    uv = fill_from_nearest(interpolate(raster, atlas.mesh.faces, atlas.uv), hit)
    return SurfaceView(np.clip(uv, 0, np.array([atlas.size[1] - 1, atlas.size[0] - 1], np.float32)), raster)


def points(atlas: TextureAtlas, raster: Raster, posed: np.ndarray) -> np.ndarray:
    """Where the places of a raster are when the vertices are at ``posed`` [V, 3], float32 [H, W, 3]; 0 off the body."""
    return interpolate(raster, atlas.mesh.faces, posed)
