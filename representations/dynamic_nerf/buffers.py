"""Whole pictures of a world, rendered in parts without gradient."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.cameras import Camera
from canon.representations.dynamic_nerf.observations import chunks
from canon.representations.dynamic_nerf.rays import Rays, RaySource, person_box
from canon.representations.dynamic_nerf.volume import median_depth, merged_weights
from canon.representations.dynamic_nerf.world import REACH, Posed, Seen, World

_HIDDEN, _SHOWN = 0.1, 0.4
"""Shares of the light of a person that passes what is before them, at which they count as hidden, and as seen."""
_MOST_RAYS = 60_000
"""Rays by which the background's distance is found in a picture."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Of the person in one picture: rotations [J, 3, 3] of the joints, where the pelvis is [3], and a state."""

    rotations: Tensor
    root: Tensor
    state: int = 0


def posed(world: World, pose: Pose, count: int) -> Posed:
    """One pose for so many rays."""
    assert world.deformation is not None
    moved = world.deformation.transforms(pose.rotations[None], pose.root[None])
    state = torch.full((count,), pose.state, dtype=torch.long, device=moved.device)
    return Posed(moved.expand(count, -1, -1, -1), pose.rotations[None].expand(count, -1, -1, -1), state)


def see(world: World, camera: Camera, pose: Pose | None, device: torch.device, *, background: bool = True) -> Seen:
    """A whole picture, with fields [H, W, ...]; differentiable where gradients are on.

    Args:
        pose: None leaves the person out.
        background: whether it is there; black otherwise.
    """
    parts = []
    for _, own in chunks(frame_rays(camera, device)):
        where = None if pose is None else posed(world, pose, len(own.origins))
        parts.append(world(own, where, background=background))
    names = ("rgb", "human", "own", "depth", "rest")
    found = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    shaped = {name: value.reshape(*camera.size, *value.shape[1:]) for name, value in found.items()}
    return Seen(**shaped, loss=torch.zeros((), device=device))


def frame_rays(camera: Camera, device: torch.device) -> Rays:
    """Of all pixels of a camera, row by row."""
    pixels = torch.arange(camera.size[0] * camera.size[1], device=device)
    return RaySource([camera], device)(torch.zeros_like(pixels), pixels)


@torch.no_grad()
def opacity(world: World, camera: Camera, pose: Pose, device: torch.device) -> np.ndarray:
    """The person's opacity, float32 [H, W]; rays that miss them cost nothing.

    It is their own where they are seen at all, so that mist of the background does not make them thin, and 0 where
    something stands before them.
    """
    found = np.zeros(camera.size, np.float32)
    assert world.deformation is not None
    box = person_box(world.deformation.body, posed(world, pose, 1).transforms[0], camera, REACH)
    if box is None:
        return found
    pixels = torch.from_numpy(np.arange(found.size).reshape(camera.size)[box].ravel()).to(device)
    for part, own in chunks(RaySource([camera], device)(torch.zeros_like(pixels), pixels)):
        where = posed(world, pose, len(own.origins))
        hit = world.hits(own, where)
        if bool(hit.any()):
            some = Rays(own.origins[hit], own.directions[hit])
            seen = world(some, where.of(hit))
            shown = (seen.human / seen.own.clamp_min(1e-3) - _HIDDEN) / (_SHOWN - _HIDDEN)
            found.reshape(-1)[pixels[part][hit].cpu().numpy()] = (seen.own * shown.clamp(0, 1)).cpu().numpy()
    return found


def background_distance(world: World, camera: Camera, device: torch.device) -> np.ndarray:
    """How far the background is in a picture, float32 [H, W]; large pictures are looked at with fewer rays."""
    share = min(1.0, (_MOST_RAYS / (camera.size[0] * camera.size[1])) ** 0.5)
    size = (max(round(camera.size[0] * share), 1), max(round(camera.size[1] * share), 1))
    far, _ = background_depth(world, frame_rays(camera.resized(size), device))
    small = far.reshape(size).cpu().numpy()
    # Specks would jump from frame to frame.
    calm = cv2.medianBlur(np.ascontiguousarray(small), 5)
    return calm if size == camera.size else cv2.resize(calm, camera.size[::-1], interpolation=cv2.INTER_LINEAR)


@torch.no_grad()
def background_depth(world: World, rays: Rays) -> tuple[Tensor, Tensor]:
    """Of rays [R]: how far the background is, the median [R], and its colour [R, 3]."""
    depths, colours = [], []
    for _, own in chunks(rays):
        samples = world.behind(own)
        (weights,) = merged_weights([samples.at], [samples.depth])
        depths.append(median_depth(weights, samples.at))
        colours.append((weights[..., None] * samples.colour).sum(dim=-2))
    return torch.cat(depths), torch.cat(colours)
