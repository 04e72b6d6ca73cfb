"""Any body's skinning weights in a volume, so that asking for them costs the same whatever they come from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.bodies import BodyModel, Bones
from canon.skeletons import Skeleton

_NODES = 96
"""Along the longest side."""
_MARGIN = 0.12
"""Of that side, around the body."""


class VolumeBody(BodyModel):
    """A body whose weights are looked up between the nodes of a volume; beyond it they fall away with the distance."""

    def __init__(
        self, skeleton: Skeleton, bones: Bones, rest: Tensor, volume: Tensor, low: Tensor, high: Tensor
    ) -> None:
        """Take the parts; see :func:`in_volume`.

        Args:
            volume: float32 [J, Z, Y, X], logarithms of weights.
            low, high: [3], its corners.
        """
        super().__init__(skeleton, bones, rest)
        self.volume, self.low, self.high = volume, low, high

    def to(self, device: torch.device | str) -> VolumeBody:
        """See :meth:`canon.bodies.BodyModel.to`."""
        parts = (self.bones, self.rest, self.volume, self.low, self.high)
        return VolumeBody(self.skeleton, *(part.to(device) for part in parts))  # type: ignore[arg-type]

    def log_weights(self, points: Tensor) -> Tensor:
        """See :meth:`canon.bodies.BodyModel.log_weights`."""
        joints, shape = len(self.volume), points.shape[:-2]
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        at = (points - middle) / half
        beyond = ((at.abs() - 1).clamp_min(0) * half).norm(dim=-1)
        if points.shape[-2] == 1:
            grid = at.reshape(1, 1, 1, -1, 3)
            found = F.grid_sample(self.volume[None], grid, align_corners=True, padding_mode="border")[0, :, 0, 0].T
        else:
            grid = at.reshape(-1, joints, 3).transpose(0, 1)[:, None, None]
            found = F.grid_sample(self.volume[:, None], grid, align_corners=True, padding_mode="border")[:, 0, 0, 0].T
        # A centimetre counts as it does next to a limb of five.
        return found.reshape(*shape, joints) - 2 * (beyond / 0.05).square()


def in_volume(body: BodyModel, nodes: int = _NODES) -> VolumeBody:
    """A body's weights in a volume around its rest pose."""
    low, high = (corner.float() for corner in body.box)
    side = float((high - low).amax())
    low, high = low - _MARGIN * side, high + _MARGIN * side
    counts = [max(int(nodes * float(length) / float((high - low).amax())), 8) for length in (high - low)]
    axes = [torch.linspace(float(a), float(b), count) for a, b, count in zip(low, high, counts, strict=True)]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 1, 3)
    with torch.no_grad():
        found = torch.cat([body.log_weights(part) for part in points.split(1 << 16)]).clamp_min(-60)
    volume = found.T.reshape(len(body.skeleton), *z.shape).contiguous()
    return VolumeBody(body.skeleton, body.bones, body.rest, volume, low, high)
