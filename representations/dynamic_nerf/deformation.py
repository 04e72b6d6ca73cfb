"""From the posed body back to the rest pose: inverse skinning with learned weights, a residual, and better poses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon.bodies import BodyModel
from canon.representations.fields.mlp import positional_encoding
from canon.skeletons import Motion

_VOLUME = (24, 48, 12)
"""Nodes of the volume of weight corrections along x, y and z."""
_BANDS = 4
_TWIST = 0.05
"""Most radians by which a step of 1 in a pose's correction turns a joint; keeps its learning rate that of the rest."""


def rotations_of(vectors: Tensor) -> Tensor:
    """Rotation vectors [..., 3] (axis times angle) as matrices [..., 3, 3]; smooth at 0 (Rodrigues)."""
    square = vectors.square().sum(dim=-1)[..., None, None]
    angle = square.clamp_min(1e-12).sqrt()
    x, y, z = vectors.unbind(-1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=-1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    small = square < 1e-8
    first = torch.where(small, 1 - square / 6, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - square / 24, (1 - torch.cos(angle)) / square.clamp_min(1e-12))
    return eye + first * cross + second * (cross @ cross)


class Deformation(nn.Module):
    """Of a person over all moments of a clip."""

    def __init__(self, body: BodyModel, motion: Motion, width: int, seed: int, *, non_rigid: bool = True) -> None:
        """Start from the body's own weights and the motion as it is.

        Args:
            width: of the network of the residual.
            non_rigid: whether there is one.
        """
        super().__init__()
        self.body = body
        self.rotations: Tensor
        self.root: Tensor
        self.offsets: Tensor
        self.register_buffer("rotations", torch.from_numpy(motion.rotations).float())
        self.register_buffer("root", torch.from_numpy(motion.root).float())
        self.register_buffer("offsets", torch.from_numpy(motion.skeleton.offsets))
        count, joints = motion.rotations.shape[:2]
        self.turns = nn.Parameter(torch.zeros(count, joints, 3))
        self.shifts = nn.Parameter(torch.zeros(count, 3))
        low, high = body.box
        margin = 0.1 * (high - low).amax()
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", (low - margin).float())
        self.register_buffer("high", (high + margin).float())
        x, y, z = _VOLUME
        self.volume = nn.Parameter(torch.zeros(1, joints, z, y, x))
        self.non_rigid = non_rigid
        generator = torch.Generator().manual_seed(seed)
        inputs = 3 + 6 * _BANDS
        self.place = nn.Linear(inputs, width)
        self.pose = nn.Linear(9 * (joints - 1), width, bias=False)
        self.out = nn.Linear(width, 3)
        with torch.no_grad():
            for layer in (self.place, self.pose, self.out):
                bound = layer.in_features**-0.5 * (0.01 if layer is self.out else 1.0)
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Deformation:
        found = super()._apply(fn, recurse)
        self.body = self.body.to(self.low.device)  # no module, but what it is made of goes along
        return found

    def weights(self, rest: Tensor) -> Tensor:
        """Skinning weights [N, J] of places [N, 3] of the rest pose, corrected as far as that is learned."""
        return torch.softmax(self.body.log_weights(rest[:, None]) + self._correction(rest), dim=-1)

    def blended(self, rest: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
        """Where places [N, 3] of the rest pose are in poses, and how they turn, [N, 3, 3]; by their weights alone.

        Args:
            transforms: [N, J, 4, 4] or [J, 4, 4], of the poses.
        """
        found = (self.weights(rest)[:, :, None, None] * transforms[..., :3, :]).sum(dim=1)
        turn = found[..., :3]
        return (turn @ rest[..., None])[..., 0] + found[..., 3], turn

    def _correction(self, rest: Tensor) -> Tensor:
        """What is learned to be added to the logarithms of the body's weights, [N, J]."""
        at = (2 * (rest.detach() - self.low) / (self.high - self.low) - 1)[None, None, None]
        return F.grid_sample(self.volume, at, align_corners=True, padding_mode="border")[0, :, 0, 0].T

    def poses(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations [..., J, 3, 3] of the joints and places [..., 3] of the pelvis at moments [...], corrected."""
        turned = rotations_of(_TWIST * self.turns[moments]) @ self.rotations[moments]
        return turned, self.root[moments] + _TWIST * self.shifts[moments]

    def transforms(self, rotations: Tensor, root: Tensor) -> Tensor:
        """From the rest pose to poses, [..., J, 4, 4]; see :meth:`canon.bodies.BodyModel.moved`."""
        return self.body.moved(rotations, root, self.offsets)

    def forward(
        self, points: Tensor, transforms: Tensor, rotations: Tensor, opened: float = 1.0, reach: float = 2.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places of posed bodies back in the rest pose.

        Args:
            points: [R, S, 3].
            transforms, rotations: [R, J, 4, 4] and [R, J, 3, 3], of each ray's pose.
            opened: how much of the residual counts, 0..1.
            reach: places further from all bones than so many of their radii are not asked for.

        Returns:
            near: int64 [N], which of the R * S places are within reach, ascending.
            rest: [N, 3].
            radii: [N], how far from the bones.
        """
        turn, shift = transforms[..., :3, :3], transforms[..., :3, 3]
        away = points[:, :, None] - shift[:, None]  # [R, S, J, 3]
        back = torch.einsum("rjba,rsjb->rsja", turn, away)
        own = self.body.log_weights(back)  # [R, S, J]
        near = (own.detach().amax(dim=-1).flatten() > -2 * reach**2).nonzero()[:, 0]
        back, own = (part.flatten(0, 1).index_select(0, near) for part in (back, own))
        radii = (-own.amax(dim=-1) / 2).clamp_min(1e-6).sqrt()
        rest = (torch.softmax(own, dim=-1)[..., None] * back).sum(dim=-2)
        rest = (torch.softmax(own + self._correction(rest), dim=-1)[..., None] * back).sum(dim=-2)
        if self.non_rigid and opened > 0:
            rest = rest + opened * self._residual(rest, rotations, near // points.shape[1])
        return near, rest, radii

    def _residual(self, rest: Tensor, rotations: Tensor, ray: Tensor) -> Tensor:
        """How clothes and flesh move beside the bones, [N, 3] in metres; depends on the pose of each one's ray [N]."""
        eye = torch.eye(3, device=rotations.device)
        pose = self.pose((rotations[:, 1:] - eye).flatten(1))
        place = 2 * (rest - self.low) / (self.high - self.low).amax()
        hidden = F.relu(
            self.place(torch.cat([place, positional_encoding(place / 2, _BANDS)], dim=-1)) + pose.index_select(0, ray)
        )
        found: Tensor = self.out(hidden)
        return found

    def pose_parameters(self) -> Sequence[nn.Parameter]:
        """What corrects the poses."""
        return self.turns, self.shifts
