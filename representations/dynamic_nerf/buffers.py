"""Whole pictures of a world, rendered in parts without gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.cameras import Camera
from canon.representations.dynamic_nerf.observations import chunks
from canon.representations.dynamic_nerf.rays import Rays, RaySource
from canon.representations.dynamic_nerf.volume import median_depth, merged_weights
from canon.representations.dynamic_nerf.world import Posed, Seen, World


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
    names = ("rgb", "human", "depth", "rest")
    found = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    shaped = {name: value.reshape(*camera.size, *value.shape[1:]) for name, value in found.items()}
    return Seen(**shaped, loss=torch.zeros((), device=device))


def frame_rays(camera: Camera, device: torch.device) -> Rays:
    """Of all pixels of a camera, row by row."""
    pixels = torch.arange(camera.size[0] * camera.size[1], device=device)
    return RaySource([camera], device)(torch.zeros_like(pixels), pixels)


@torch.no_grad()
def opacity(world: World, camera: Camera, pose: Pose, device: torch.device) -> np.ndarray:
    """The person's share of each pixel, float32 [H, W]; rays that miss them cost nothing."""
    rays = frame_rays(camera, device)
    found = torch.zeros(len(rays.origins), device=device)
    for part, own in chunks(rays):
        where = posed(world, pose, len(own.origins))
        hit = world.hits(own, where)
        if bool(hit.any()):
            some = Rays(own.origins[hit], own.directions[hit])
            values = found[part]
            values[hit] = world(some, where.of(hit)).human
            found[part] = values
    return np.asarray(found.reshape(camera.size).cpu().numpy())


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
