"""Bodies that come as a surface with skinning weights, such as a .glb holds them."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from canon.bodies import BodyModel, Bones
from canon.gltf import GltfBody

_NEIGHBOURS = 8
"""Vertices whose weights a place takes."""
_FADE = 0.02
"""How far from the surface a body fades by exp(-1/2), in its largest side: some centimetres of a person."""


class SkinnedBody(BodyModel):
    """A body whose places belong to the joints that the nearest vertices of its surface belong to.

    Within the surface its likelihood is that of the joints; outside, it fades over a few centimetres.
    """

    def __init__(self, body: GltfBody, bones: Bones) -> None:
        """Take the parts; see :func:`skinned_body`."""
        super().__init__(body.skeleton, bones, torch.from_numpy(np.array(body.rest, np.float32)))
        self.surface = torch.from_numpy(np.array(body.vertices, np.float32))
        self.surface_weights = torch.from_numpy(np.array(body.weights, np.float32))
        self._normals = torch.from_numpy(_normals(body))
        self._tree = cKDTree(body.vertices)
        self._fade = _FADE * float(np.ptp(body.vertices, axis=0).max())

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """Corners [3] and [3] of what the surface fills in its rest pose."""
        return self.surface.amin(dim=0).to(self.rest), self.surface.amax(dim=0).to(self.rest)

    def log_weights(self, points: Tensor) -> Tensor:
        """How much places of the rest pose belong to the joints; see :meth:`canon.bodies.BodyModel.log_weights`.

        At a vertex these are its own weights. Between vertices they are those of the nearest ones, by Franke and
        Little's modification of Shepard's interpolation (1980), which does not jump where the neighbours change. The
        neighbours are looked up on the CPU.
        """
        flat = points.reshape(-1, 3)
        count = min(_NEIGHBOURS, len(self.surface))
        _, found = self._tree.query(flat.detach().cpu().double().numpy(), k=[*range(1, count + 1)])
        index = torch.from_numpy(found).to(flat.device)
        away = flat[:, None] - self.surface.to(flat)[index]
        distance = (away.square().sum(dim=-1) + 1e-14).sqrt()
        reach = distance.detach().amax(dim=-1, keepdim=True) * 1.001  # so that a lone neighbour counts
        shares = ((reach - distance) / (reach * distance)).square()
        shares = shares / shares.sum(dim=-1, keepdim=True)
        outside = (away[:, 0] * self._normals.to(flat)[index[:, 0]]).sum(dim=-1) > 0
        fall = torch.where(outside, -0.5 * (distance[:, 0] / self._fade).square(), 0.0)
        table, joints = self.surface_weights.to(flat), len(self.skeleton)
        shape = (*points.shape[:-2], joints)
        if points.shape[-2] == 1:
            weights = F.embedding_bag(index, table, per_sample_weights=shares, mode="sum").reshape(shape)
            return weights.clamp_min(1e-12).log() + fall.reshape(*shape[:-1], 1)
        own = torch.arange(joints, device=flat.device).repeat(len(flat) // joints)
        weights = (shares * table[index, own[:, None]]).sum(dim=-1)
        return (weights.clamp_min(1e-12).log() + fall).reshape(shape)


def skinned_body(body: GltfBody) -> BodyModel:
    """A body of a file's surface, skeleton and weights."""
    return SkinnedBody(body, _bones(body))


def _bones(body: GltfBody) -> Bones:
    """A capsule from every joint to each one below it, or about a last joint, as thick as what moves with it."""
    parents, rest = body.skeleton.parents, np.asarray(body.rest, np.float64)
    below = [(above, k) for k, above in enumerate(parents) if above >= 0]
    last = [(k, k) for k in range(len(parents)) if k not in parents]
    strongest = body.weights.argmax(axis=1)
    thick = _FADE * float(np.ptp(body.vertices, axis=0).max())
    radius = []
    for joint, end in below + last:
        own = body.vertices[strongest == joint].astype(np.float64) - rest[joint]
        along = rest[end] - rest[joint]
        share = np.clip(own @ along / max(float(along @ along), 1e-12), 0, 1)
        away = np.linalg.norm(own - share[:, None] * along, axis=1)
        radius.append(max(float(np.median(away)), 1e-6) if len(own) else thick)
    joints, ends = np.array(below + last).T
    places = torch.from_numpy(rest.astype(np.float32))
    return Bones(torch.from_numpy(joints), places[joints], places[ends], torch.tensor(radius))


def _normals(body: GltfBody) -> NDArray[np.float32]:
    """Outward directions at vertices, [V, 3], as long as the faces around them are large."""
    corners = body.vertices[body.faces].astype(np.float64)
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    places, count = body.faces.ravel(), len(body.vertices)
    sums = [np.bincount(places, np.repeat(areas[:, axis], 3), minlength=count) for axis in range(3)]
    return cast(NDArray[np.float32], np.stack(sums, axis=-1).astype(np.float32))
