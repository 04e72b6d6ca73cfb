"""Whole pictures of a world, rendered in parts without gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.cameras import Camera
from canon.coordinates import Size
from canon.representations.dynamic_nerf.observations import chunks
from canon.representations.dynamic_nerf.rays import Rays, RaySource, person_box, same_cameras
from canon.representations.dynamic_nerf.volume import median_depth, merged_weights
from canon.representations.dynamic_nerf.world import REACH, Posed, Seen, Trace, World

_SLACK = 0.08
"""Share of the body's size by which the background may seem to lie before the person: feet stand on floors."""
_MOST_RAYS = 60_000
"""Rays by which the background's distance is found in a picture."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Of the person in one picture: rotations [J, 3, 3] of the joints, where the pelvis is [3], and a state."""

    rotations: Tensor
    root: Tensor
    state: int = 0


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture: its camera, and the person's pose."""

    camera: Camera
    pose: Pose | None


def posed(world: World, pose: Pose, count: int) -> Posed:
    """One pose for so many rays."""
    assert world.deformation is not None
    moved = world.deformation.transforms(pose.rotations[None], pose.root[None])
    state = torch.tensor([pose.state], device=moved.device)
    return Posed(moved, pose.rotations[None], state).repeated(count)


def see(world: World, camera: Camera, pose: Pose | None, device: torch.device, *, background: bool = True) -> Seen:
    """A whole picture, with fields [H, W, ...]; differentiable where gradients are on.

    Args:
        pose: None leaves the person out.
        background: whether it is there; black otherwise.
    """
    parts = []
    one = None if pose is None else posed(world, pose, 1)
    for _, own in chunks(frame_rays(camera, device)):
        parts.append(world(own, None if one is None else one.repeated(len(own.origins)), background=background))
    names = ("rgb", "human", "depth", "rest")
    found = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    shaped = {name: value.reshape(*camera.size, *value.shape[1:]) for name, value in found.items()}
    return Seen(**shaped, loss=torch.zeros((), device=device))


@dataclass(frozen=True, eq=False)
class Traced:
    """A picture of the person alone, but for their colours; see :class:`canon.spatial.Traced`.

    Attributes:
        human, depth: [H, W].
    """

    human: Tensor
    depth: Tensor
    _parts: list[tuple[Tensor, Trace, Callable[[], Tensor]]]

    def rgb(self) -> Tensor:
        """[H, W, 3], black where nothing is; differentiable."""
        found = self.human.new_zeros(self.human.numel(), 3)
        for pixels, part, colours in self._parts:
            found = found.index_put((pixels,), part.seen(colours()))
        return found.reshape(*self.human.shape, 3)


def trace(world: World, camera: Camera, pose: Pose, device: torch.device) -> Traced:
    """What a camera sees of the person, whose shape is what it is now, and whose colours are asked for later."""
    assert world.human is not None
    human, depth = (torch.zeros(camera.size[0] * camera.size[1], device=device) for _ in range(2))
    parts = []
    for numbers, rays, where in about(world, camera, pose, device, np.ones(camera.size, bool)):
        found, pixels = world.trace(rays, where, background=False), torch.from_numpy(numbers).to(device)
        human[pixels], depth[pixels] = found.human, found.depth
        parts.append((pixels, found, world.human.looked_up(found.rest, found.state)))
    return Traced(human.reshape(camera.size), depth.reshape(camera.size), parts)


def frame_rays(camera: Camera, device: torch.device) -> Rays:
    """Of all pixels of a camera, row by row."""
    pixels = torch.arange(camera.size[0] * camera.size[1], device=device)
    return RaySource([camera], device)(torch.zeros_like(pixels), pixels)


@torch.no_grad()
def pictures(world: World, shots: Sequence[Shot], device: torch.device) -> Iterator[np.ndarray]:
    """What cameras see, uint8 [H, W, 3] each; one that stands still looks at the background once."""
    same = same_cameras([shot.camera for shot in shots])
    empty: tuple[int, np.ndarray] | None = None
    for t, shot in enumerate(shots):
        still = same[t] < t or t in same[t + 1 : t + 2]
        if shot.pose is None or not still or world.deformation is None:
            yield _bytes(see(world, shot.camera, shot.pose, device).rgb)
            continue
        if empty is None or empty[0] != same[t]:
            empty = same[t], _bytes(see(world, shot.camera, None, device).rgb)
        found = empty[1].copy()
        for pixels, own, where in about(world, shot.camera, shot.pose, device):
            found.reshape(-1, 3)[pixels] = _bytes(world(own, where).rgb)
        yield found


def about(
    world: World, camera: Camera, pose: Pose, device: torch.device, there: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, Rays, Posed]]:
    """The part of a picture where the person can be, in chunks: pixels int64 [R] (row by row), rays, and poses.

    Args:
        there: bool [H, W], which pixels matter, of those whose rays come near the person; None = all of a box.
    """
    assert world.deformation is not None
    one = posed(world, pose, 1)
    box = person_box(world.deformation.body, one.transforms[0], camera, REACH)
    if box is None:
        return
    inside = np.arange(camera.size[0] * camera.size[1]).reshape(camera.size)[box]
    numbers = inside.ravel() if there is None else inside[there[box]]
    pixels = torch.from_numpy(numbers).to(device)
    for part, own in chunks(RaySource([camera], device)(torch.zeros_like(pixels), pixels)):
        where, chosen = one.repeated(len(own.origins)), numbers[part]
        if there is not None:
            hit = world.hits(own, where)
            own, where, chosen = Rays(own.origins[hit], own.directions[hit]), where.of(hit), chosen[hit.cpu().numpy()]
        if len(chosen):
            yield chosen, own, where


def _bytes(rgb: Tensor) -> np.ndarray:
    found: np.ndarray = (rgb.clamp(0, 1) * 255 + 0.5).byte().cpu().numpy()
    return found


@torch.no_grad()
def opacity(world: World, camera: Camera, pose: Pose, behind: np.ndarray, device: torch.device) -> np.ndarray:
    """The person's opacity, float32 [H, W]; rays that miss them cost nothing.

    It is their own where the background is not nearer, so that mist before them does not make them thin.

    Args:
        behind: [H, W], how far the background is; see :func:`background_distance`.
    """
    found = np.zeros(camera.size, np.float32)
    assert world.deformation is not None
    slack = _SLACK * float((world.deformation.high - world.deformation.low).amax())
    for pixels, own, where in about(world, camera, pose, device):
        seen = world(own, where, background=False)
        limit = torch.from_numpy(np.asarray(behind).reshape(-1)[pixels]).to(device) + slack
        found.reshape(-1)[pixels] = (seen.human * (seen.depth < limit * seen.human)).cpu().numpy()
    return found


def background_distance(world: World, camera: Camera, device: torch.device) -> np.ndarray:
    """How far the background is in a picture, float32 [H, W]; large pictures are looked at with fewer rays."""
    small = camera.resized(fewer(camera.size))
    far, _ = background_depth(world, frame_rays(small, device))
    return calm_distance(far.reshape(small.size).cpu().numpy(), camera.size)


def fewer(size: Size, most: int = _MOST_RAYS) -> Size:
    """(height, width) of a picture of the same aspect with at most about so many rays."""
    share = min(1.0, (most / (size[0] * size[1])) ** 0.5)
    return max(round(size[0] * share), 1), max(round(size[1] * share), 1)


def calm_distance(distance: np.ndarray, size: Size) -> np.ndarray:
    """A distance [h, w] without specks, which would jump from frame to frame, at another size."""
    calm = cv2.medianBlur(np.ascontiguousarray(distance), 5)
    return calm if calm.shape == size else cv2.resize(calm, size[::-1], interpolation=cv2.INTER_LINEAR)


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
