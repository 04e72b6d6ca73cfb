"""Bodies that a skeleton moves: a rest pose, what belongs to which joint, and skinning there and back.

Convention: points are (x, y, z) in metres in the world of the skeleton; the built-in body stands in a T, y upwards,
its face along +z and its left along +x, with its pelvis at the origin. Joints are those of SMPL (Loper et al., 2015),
in its order, so that poses that are estimated for SMPL can be used as they are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError
from canon.skeletons import Skeleton

_BODY = (
    # joint, the one above it, offset from there, radius of the capsule that leads there
    ("pelvis", -1, (0.0, 0.0, 0.0), 0.12),
    ("left_hip", 0, (0.09, -0.08, 0.0), 0.10),
    ("right_hip", 0, (-0.09, -0.08, 0.0), 0.10),
    ("spine1", 0, (0.0, 0.11, 0.0), 0.13),
    ("left_knee", 1, (0.02, -0.40, 0.0), 0.075),
    ("right_knee", 2, (-0.02, -0.40, 0.0), 0.075),
    ("spine2", 3, (0.0, 0.13, 0.0), 0.13),
    ("left_ankle", 4, (0.0, -0.41, -0.01), 0.055),
    ("right_ankle", 5, (0.0, -0.41, -0.01), 0.055),
    ("spine3", 6, (0.0, 0.06, 0.0), 0.14),
    ("left_foot", 7, (0.01, -0.05, 0.13), 0.045),
    ("right_foot", 8, (-0.01, -0.05, 0.13), 0.045),
    ("neck", 9, (0.0, 0.21, -0.01), 0.09),
    ("left_collar", 9, (0.07, 0.13, 0.0), 0.09),
    ("right_collar", 9, (-0.07, 0.13, 0.0), 0.09),
    ("head", 12, (0.0, 0.10, 0.03), 0.08),
    ("left_shoulder", 13, (0.11, 0.03, 0.0), 0.07),
    ("right_shoulder", 14, (-0.11, 0.03, 0.0), 0.07),
    ("left_elbow", 16, (0.26, 0.0, 0.0), 0.055),
    ("right_elbow", 17, (-0.26, 0.0, 0.0), 0.055),
    ("left_wrist", 18, (0.25, 0.0, 0.0), 0.045),
    ("right_wrist", 19, (-0.25, 0.0, 0.0), 0.045),
    ("left_hand", 20, (0.08, 0.0, 0.0), 0.045),
    ("right_hand", 21, (-0.08, 0.0, 0.0), 0.045),
)
_TIPS = {
    "head": ((0.0, 0.12, 0.0), 0.11),
    "left_hand": ((0.08, 0.0, 0.0), 0.04),
    "right_hand": ((-0.08, 0.0, 0.0), 0.04),
    "left_foot": ((0.0, 0.0, 0.06), 0.04),
    "right_foot": ((0.0, 0.0, 0.06), 0.04),
}
"""What lies beyond the last joints: how far, and its radius."""
_HEIGHT = 1.825
"""Of all this, from the soles to the crown."""
_FALL_OFF = 0.5
"""Radii from a bone over which its say fades by exp(-1/2)."""


@dataclass(frozen=True, eq=False)
class Bones:
    """Capsules of a rest pose, each of which moves with a joint.

    Attributes:
        joint: int64 [B], with which it moves.
        start, end: float32 [B, 3].
        radius: float32 [B].
    """

    joint: Tensor
    start: Tensor
    end: Tensor
    radius: Tensor

    def to(self, device: torch.device | str) -> Bones:
        """The same on a device."""
        return Bones(*(getattr(self, name).to(device) for name in ("joint", "start", "end", "radius")))

    def distance(self, points: Tensor) -> Tensor:
        """From points [..., 1 or B, 3] to the middle lines of the capsules, squared, in radii: [..., B]."""
        along = self.end - self.start
        beyond = points - self.start
        share = (beyond * along).sum(-1) / along.square().sum(-1).clamp_min(1e-12)
        return (beyond - share.clamp(0, 1)[..., None] * along).square().sum(-1) / self.radius.square()


class BodyModel:
    """A skeleton in its rest pose, and how much of every place moves with which joint.

    Skinning is linear blend skinning. What belongs to a joint is a Gaussian about its capsules, as in HumanNeRF (Weng
    et al., CVPR 2022), which needs no licensed file; a model with weights of its own overrides :meth:`log_weights`.
    """

    def __init__(self, skeleton: Skeleton, bones: Bones, rest: Tensor) -> None:
        """Take the parts.

        Args:
            rest: float32 [J, 3], where the joints are in the rest pose.
        """
        self.skeleton, self.bones, self.rest = skeleton, bones, rest

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """Corners [3] and [3] of what the body fills in its rest pose."""
        ends = torch.cat([self.bones.start, self.bones.end])
        reach = self.bones.radius.repeat(2)[:, None]
        return (ends - reach).amin(dim=0), (ends + reach).amax(dim=0)

    def to(self, device: torch.device | str) -> BodyModel:
        """The same on a device; what it is asked about must lie there too."""
        found = copy.copy(self)
        found.bones, found.rest = self.bones.to(device), self.rest.to(device)
        return found

    def moved(self, rotations: Tensor, root: Tensor, offsets: Tensor | None = None) -> Tensor:
        """What poses do to the rest pose, by joint.

        Args:
            rotations: [..., J, 3, 3] of the joints; see :class:`canon.skeletons.Skeleton`.
            root: [..., 3], where the pelvis is.
            offsets: [..., J, 3], of other bones than the skeleton's own.

        Returns:
            [..., J, 4, 4], from the rest pose to the posed body.
        """
        posed = self.skeleton.transforms(rotations, root, offsets)
        turn, place = posed[..., :3, :3], posed[..., :3, 3]
        shift = place - (turn @ self.rest.to(posed)[..., None])[..., 0]
        return torch.cat([torch.cat([turn, shift[..., None]], dim=-1), posed[..., 3:, :]], dim=-2)

    def log_weights(self, points: Tensor) -> Tensor:
        """How much places of the rest pose belong to the joints, as logarithms [..., J], not normalised.

        Args:
            points: [..., 1, 3], or [..., J, 3]: for every joint a place of its own.
        """
        bones = self.bones
        own = points if points.shape[-2] == 1 else points[..., bones.joint, :]
        near = -0.5 / _FALL_OFF**2 * bones.distance(own)
        found = near.new_full((*near.shape[:-1], len(self.skeleton)), -torch.inf)
        # Of several capsules of a joint the nearest counts.
        return found.scatter_reduce(-1, bones.joint.expand(near.shape), near, "amax", include_self=True)

    def weights(self, points: Tensor) -> Tensor:
        """Skinning weights of places [..., 3] of the rest pose, [..., J] that sum to 1."""
        return torch.softmax(self.log_weights(points[..., None, :]), dim=-1)

    def pose(self, points: Tensor, transforms: Tensor) -> Tensor:
        """Places [..., 3] of the rest pose as a pose [J, 4, 4] moves them: forward skinning."""
        each = torch.einsum("jab,...b->...ja", transforms[:, :3, :3], points) + transforms[:, :3, 3]
        return (self.weights(points)[..., None] * each).sum(dim=-2)

    def unpose(self, points: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the posed body back in the rest pose: inverse skinning.

        Every joint takes a place back by itself, and says there how much of it is its own (HumanNeRF, section 3.1).

        Args:
            points: [..., 3].
            transforms: [J, 4, 4], see :meth:`moved`.

        Returns:
            rest: [..., 3].
            likelihood: [...] in 0..1, how much of any joint is there; about 0 away from the body.
        """
        turn, shift = transforms[:, :3, :3], transforms[:, :3, 3]
        back = torch.einsum("jba,...jb->...ja", turn, points[..., None, :] - shift)
        own = self.log_weights(back)
        rest = (torch.softmax(own, dim=-1)[..., None] * back).sum(dim=-2)
        return rest, own.amax(dim=-1).exp()


def capsule_body(height: float = 1.7) -> BodyModel:
    """The built-in body: 24 joints in SMPL's order, in capsules, of a person so tall in metres."""
    names, parents, offsets, _ = zip(*_BODY, strict=True)
    scale = height / _HEIGHT
    return _in_capsules(Skeleton(tuple(names), tuple(parents), np.array(offsets, np.float32) * scale), scale)


def body_of(skeleton: Skeleton) -> BodyModel:
    """The built-in body about bones of other lengths; its capsules are as thick as the whole skeleton is large.

    Args:
        skeleton: of 24 joints in SMPL's order, which stands in a T as the built-in one does.

    Raises:
        InputError: it has other joints.
    """
    if skeleton.parents != tuple(part[1] for part in _BODY):
        raise InputError(
            f"A body needs a skeleton of {len(_BODY)} joints in SMPL's order, but this one has {len(skeleton)} joints "
            "in another; retarget the motion first."
        )
    lengths = np.linalg.norm(skeleton.offsets[1:].astype(np.float64), axis=1)
    own = np.linalg.norm(np.array([part[2] for part in _BODY[1:]]), axis=1)
    return _in_capsules(skeleton, float(lengths.sum() / own.sum()))


def _in_capsules(skeleton: Skeleton, scale: float) -> BodyModel:
    """The body of a skeleton that is so many times as large as the built-in one."""
    names, parents, _, radii = zip(*_BODY, strict=True)
    eye = torch.eye(3).expand(len(skeleton), 3, 3)
    rest = skeleton.joints(eye, torch.zeros(3))
    joint, start, end, radius = [], [], [], []
    for k, above in enumerate(parents):
        if above >= 0:  # a bone moves with the joint that it begins at
            joint.append(above)
            start.append(rest[above])
            end.append(rest[k])
            radius.append(radii[k] * scale)
        if names[k] in _TIPS:
            beyond, thick = _TIPS[names[k]]
            joint.append(k)
            start.append(rest[k])
            end.append(rest[k] + torch.tensor(beyond) * scale)
            radius.append(thick * scale)
    bones = Bones(torch.tensor(joint), torch.stack(start), torch.stack(end), torch.tensor(radius))
    return BodyModel(skeleton, bones, rest)
