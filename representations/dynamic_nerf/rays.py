"""Rays of many cameras: where the pixels of any frame look, without a copy of the clip's size.

Convention: a ray starts at its camera and its direction has length 1; pixels are numbered row by row in their frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canon.bodies import BodyModel
from canon.boxes import Box
from canon.cameras import Camera


@dataclass(frozen=True, eq=False)
class Rays:
    """Of pixels, in the world.

    Attributes:
        origins, directions: [..., 3].
    """

    origins: Tensor
    directions: Tensor

    def at(self, lengths: Tensor) -> Tensor:
        """Places [..., S, 3] at lengths [..., S] along each ray."""
        return self.origins[..., None, :] + lengths[..., None] * self.directions[..., None, :]


class RaySource:
    """Gives the rays of any pixels of frames with a camera each."""

    def __init__(self, cameras: Sequence[Camera], device: torch.device) -> None:
        """Take cameras with pictures of one size."""
        self.size = cameras[0].size
        self.places = _table([camera.position for camera in cameras], device)
        self._turns = _table([camera.rotation.T for camera in cameras], device)
        scale = [(camera.intrinsics[0, 0], camera.intrinsics[1, 1]) for camera in cameras]
        middle = [camera.intrinsics[:2, 2] for camera in cameras]
        self._scale, self._middle = _table(scale, device), _table(middle, device)
        # What a lens bends has no closed form: such pixels are traced back when they are asked for.
        self._lenses = [replace(camera, rotation=np.eye(3), translation=np.zeros(3)) for camera in cameras]
        self._bent = np.array([camera.fisheye or any(camera.distortion) for camera in cameras])

    def __call__(self, frames: Tensor, pixels: Tensor) -> Rays:
        """Rays of pixels [...] (row * width + column) of frames [...], both int64."""
        width = self.size[1]
        rows = torch.div(pixels, width, rounding_mode="floor")
        at = torch.stack([pixels - rows * width, rows], dim=-1)
        own = F.normalize(F.pad((at - self._middle[frames]) / self._scale[frames], (0, 1), value=1.0), dim=-1)
        if self._bent.any():
            own = self._traced(own, frames.cpu().numpy(), at.cpu().numpy())
        return Rays(self.places[frames], (self._turns[frames] @ own[..., None])[..., 0])

    def _traced(self, straight: Tensor, frames: np.ndarray, at: np.ndarray) -> Tensor:
        """Directions [..., 3] before the camera's turn, of pixels (x, y) [..., 2], with lenses that bend."""
        found = straight.cpu().numpy().copy()
        lens = self._number[frames]
        for number in np.unique(lens):
            if self._bent[number]:
                own = lens == number
                found[own] = self._lenses[number].directions(at[own].astype(np.float64))
        return torch.from_numpy(found).to(straight.device)

    @cached_property
    def _number(self) -> np.ndarray:
        """The first frame with the same lens, for each frame, int64 [T]."""
        return np.array(same_cameras(self._lenses))


def same_cameras(cameras: Sequence[Camera]) -> list[int]:
    """The number of the first frame with the same camera, for each frame."""
    first: dict[tuple[object, ...], int] = {}
    found = []
    for t, camera in enumerate(cameras):
        numbers = (camera.intrinsics, camera.rotation, camera.translation)
        key = (*(part.tobytes() for part in numbers), camera.distortion, camera.fisheye)
        found.append(first.setdefault(key, t))
    return found


def _table(values: Sequence[object], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32)).to(device)


def person_box(body: BodyModel, transforms: Tensor, camera: Camera, widened: float) -> Box | None:
    """Rows and columns of a picture outside of which no ray hits a posed body's capsules; None if none does at all.

    Args:
        transforms: [J, 4, 4], of the pose.
        widened: times the capsules' radii.
    """
    bones = body.bones
    own = transforms[bones.joint.to(transforms.device)].cpu().double().numpy()
    joints = [part.cpu().double().numpy() for part in (bones.start, bones.end)]
    ends = np.concatenate([np.einsum("bij,bj->bi", own[:, :3, :3], part) + own[:, :3, 3] for part in joints])
    radius = np.tile(bones.radius.cpu().double().numpy() * widened, 2)[:, None]
    height, width = camera.size
    whole = slice(0, height), slice(0, width)
    corners = np.concatenate(
        [ends + radius * (x * camera.rotation[0] + y * camera.rotation[1]) for x in (-1, 1) for y in (-1, 1)]
    )
    pixels, ahead = camera.project(corners)
    if (ahead < np.tile(radius[:, 0], 4) + 0.05).any():
        return whole  # so close that what is projected says nothing
    # A ball's outline reaches a little further than its middle plane, and a lens may bend it.
    margin = 0.15 * (pixels.max(axis=0) - pixels.min(axis=0)) + 2
    low, high = np.floor(pixels.min(axis=0) - margin), np.ceil(pixels.max(axis=0) + margin)
    x0, y0 = np.clip(low, 0, [width, height]).astype(int).tolist()
    x1, y1 = np.clip(high + 1, 0, [width, height]).astype(int).tolist()
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def capsule_hits(body: BodyModel, transforms: Tensor, rays: Rays, widened: float) -> tuple[Tensor, Tensor, Tensor]:
    """Between which lengths rays are in one of the posed body's capsules, made thicker.

    Args:
        transforms: [R, J, 4, 4], of each ray; see :meth:`canon.bodies.BodyModel.moved`.
        rays: [R, 3].
        widened: times the capsules' radii.

    Returns:
        near, far: [R], from the first capsule to the last; 0 where none is met.
        hit: bool [R].
    """
    bones = body.bones.to(rays.origins.device)
    own = transforms[:, bones.joint]  # [R, B, 4, 4]
    start = (own[..., :3, :3] @ bones.start[:, :, None])[..., 0] + own[..., :3, 3]
    end = (own[..., :3, :3] @ bones.end[:, :, None])[..., 0] + own[..., :3, 3]
    radius = bones.radius * widened
    apart, axis = rays.origins[:, None] - start, end - start
    way = rays.directions[:, None]
    length2 = axis.square().sum(-1).clamp_min(1e-12)
    along, beside, ahead = (axis * way).sum(-1), (axis * apart).sum(-1), (apart * way).sum(-1)
    a = length2 - along.square()
    b = length2 * ahead - beside * along
    c = length2 * apart.square().sum(-1) - beside.square() - radius.square() * length2
    found = [*_between(a, b, c, lambda t: ((beside + t * along) >= 0) & ((beside + t * along) <= length2))]
    for away in (apart, rays.origins[:, None] - end):
        inner = away.square().sum(-1) - radius.square()
        found += _between(torch.ones_like(inner), (away * way).sum(-1), inner, lambda t: torch.isfinite(t))
    lengths = torch.stack(found, dim=-1).flatten(1)
    far = torch.where(lengths.isfinite(), lengths, -torch.inf).amax(dim=-1)
    near = torch.where(lengths.isfinite(), lengths, torch.inf).amin(dim=-1).clamp_min(0)
    hit = far > near
    return torch.where(hit, near, 0.0), torch.where(hit, far, 0.0), hit


def _between(a: Tensor, b: Tensor, c: Tensor, counts: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Both roots of a t^2 + 2 b t + c where they are real and count; inf elsewhere."""
    inside = b.square() - a * c
    root = inside.clamp_min(0).sqrt()
    safe = a.clamp_min(1e-12)
    found = []
    for t in ((-b - root) / safe, (-b + root) / safe):
        found.append(torch.where((inside > 0) & (a > 1e-9) & counts(t), t, torch.inf))
    return found
