"""Rays of many cameras: where the pixels of any frame look, without a copy of the clip's size.

Convention: a ray starts at its camera and its direction has length 1; pixels are numbered row by row in their frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.bodies import BodyModel
from canon.boxes import Box
from canon.cameras import Camera
from canon.coordinates import pixel_grid


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
    """Gives the rays of any pixels of frames with a camera each; cameras of one lens share its table of directions."""

    def __init__(self, cameras: Sequence[Camera], device: torch.device) -> None:
        """Take cameras with pictures of one size."""
        self.size = cameras[0].size
        lenses: dict[tuple[object, ...], int] = {}
        tables, numbers = [], []
        for camera in cameras:
            key = (camera.intrinsics.tobytes(), camera.distortion, camera.fisheye)
            if key not in lenses:
                lenses[key] = len(lenses)
                own = Camera(
                    camera.size, camera.intrinsics, np.eye(3), np.zeros(3), camera.distortion, fisheye=camera.fisheye
                )
                directions = own.directions(pixel_grid(camera.size).numpy()).astype(np.float32)
                tables.append(torch.from_numpy(directions).reshape(-1, 3))
            numbers.append(lenses[key])
        self._tables = torch.stack(tables).to(device)
        self._lens = torch.tensor(numbers, device=device)
        turns = np.stack([camera.rotation.T for camera in cameras])
        self._turns = torch.from_numpy(turns.astype(np.float32)).to(device)
        places = np.stack([camera.position for camera in cameras])
        self.places = torch.from_numpy(places.astype(np.float32)).to(device)

    def __call__(self, frames: Tensor, pixels: Tensor) -> Rays:
        """Rays of pixels [...] (row * width + column) of frames [...], both int64."""
        own = self._tables[self._lens[frames], pixels]
        return Rays(self.places[frames], (self._turns[frames] @ own[..., None])[..., 0])


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
