"""From fields to layers: per frame, what of each canvas is where, and the canvases themselves from the frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.coordinates import grid_size, pixel_grid
from canon.fits import FitLayer
from canon.rasterise import interpolate
from canon.representations.dynamic_nerf.buffers import (
    Shot,
    background_depth,
    background_distance,
    calm_distance,
    fewer,
    frame_rays,
    opacity,
)
from canon.representations.dynamic_nerf.model import Model
from canon.representations.dynamic_nerf.panorama import Panorama
from canon.representations.dynamic_nerf.rays import Rays, same_cameras
from canon.representations.dynamic_nerf.skinning import look, surface
from canon.representations.dynamic_nerf.surface import Mesh, unwrap
from canon.representations.dynamic_nerf.world import World
from canon.sampling import fill_from_nearest, remap_points
from canon.storage import fresh_array
from canon.timing import spread

LIGHT_STRIDE = 64
TEXELS_PER_PIXEL = 1.25
_SKIN_TEXELS = 2.0
"""The same of the atlas, whose texels are seen from the side more often than not."""
_FAINT, _SOLID = 0.1, 0.9
"""Opacities of the person that count as none and as all."""
_OUTLIER = 0.08
"""Difference in colour (0..1) at which a frame's say in a canvas has fallen to a quarter."""
_NEARER = 0.03
"""Metres by which the surface may seem to hide itself."""
_AGREES = 0.05
"""Share of its distance by which a place of the background may be off in a frame that shows it."""
_LEAST_CELLS = 128
"""Of marching cubes along the body, for frames however small."""
_MOST_FRAMES = 60
"""Frames, spread over the clip, that canvases are made from."""
_STRIP = 1 << 20
"""Texels of the panorama that are looked up together."""
_PROBED = 8
"""Pixels between the rays that say how large the panorama must be."""


@dataclass(eq=False)
class Baked:
    """What of the canvases is where in every frame.

    Attributes:
        human, background: float32 [T, H, W, 2], places on the canvases.
        opacity: uint8 [T, H, W], of the person.
        depth: float32 [T, H, W], how far the background is.
        same: number of the first frame with the same camera, for each frame.
    """

    background: np.ndarray
    depth: np.ndarray
    same: list[int]
    human: np.ndarray | None = None
    opacity: np.ndarray | None = None


def find_canvases(model: Model, shots: Sequence[Shot]) -> None:
    """Give a model its texture atlas and its panorama, as fine as the frames are."""
    cameras = [shot.camera for shot in shots]
    if model.world.human is not None and model.world.deformation is not None:
        away = [
            np.linalg.norm(shot.camera.position - shot.pose.root.cpu().numpy()) / shot.camera.intrinsics[0, 0]
            for shot in shots
            if shot.pose is not None
        ]
        pixel, sizes = float(np.median(away)), model.world.sizes
        side = float((model.world.deformation.high - model.world.deformation.low).amax())
        cells = int(np.clip(side / pixel, _LEAST_CELLS, sizes.cells))  # finer than the frames there is only noise
        mesh = surface(model.world.human, model.world.deformation, cells)
        model.atlas = unwrap(mesh, _side(mesh, pixel / _SKIN_TEXELS, sizes.texels))
    places = []
    for camera in cameras[:: max(len(cameras) // 12, 1)]:
        rays = frame_rays(camera, model.device)
        grid = np.arange(camera.size[0] * camera.size[1]).reshape(camera.size)
        rim = np.unique(
            np.concatenate([grid[::_PROBED, ::_PROBED].ravel(), grid[[0, -1]].ravel(), grid[:, [0, -1]].ravel()])
        )
        chosen = torch.from_numpy(rim).to(model.device)
        some = Rays(rays.origins[chosen], rays.directions[chosen])
        far, _ = background_depth(model.world, some)
        places.append((some.origins + far[:, None] * some.directions).cpu().numpy())
    model.panorama = Panorama.of(
        cameras, np.concatenate(places).astype(np.float64), TEXELS_PER_PIXEL, model.world.sizes.panorama
    )


def _side(mesh: Mesh, texel: float, most: int) -> int:
    """Texels along an atlas whose texels are so many metres large; charts fill about a third of it."""
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    return int(np.clip(64 * np.ceil(np.sqrt(area / 0.35) / texel / 64), 192, most))


def bake(model: Model, shots: Sequence[Shot], folder: Path, report: Callable[[float], None]) -> Baked:
    """All coordinates, depths and opacities of pictures; arrays are mapped from ``folder``."""
    count, size = len(shots), shots[0].camera.size
    assert model.panorama is not None
    baked = Baked(
        fresh_array(folder / "background.npy", (count, *size, 2), np.float32),
        fresh_array(folder / "depth.npy", (count, *size), np.float32),
        same_cameras([shot.camera for shot in shots]),
    )
    if model.atlas is not None:
        baked.human = fresh_array(folder / "human.npy", (count, *size, 2), np.float32)
        baked.opacity = fresh_array(folder / "opacity.npy", (count, *size), np.uint8)
    for t, shot in enumerate(shots):
        camera = shot.camera
        first = baked.same[t]
        if first < t:  # a camera that stands still sees the same background
            baked.depth[t], baked.background[t] = baked.depth[first], baked.background[first]
        else:
            baked.depth[t] = background_distance(model.world, camera, model.device)
            ways = camera.directions(pixel_grid(size).numpy())
            baked.background[t] = model.panorama.coordinates(camera.position + ways * baked.depth[t][..., None])
        if baked.human is not None and baked.opacity is not None and model.atlas is not None:
            if shot.pose is not None:
                seen = opacity(model.world, camera, shot.pose, baked.depth[t], model.device)
                baked.opacity[t] = solid(seen)
                baked.human[t] = look(model.atlas, model.vertices(shot.pose), camera).uv
            else:
                baked.human[t] = 0
        report((t + 1) / count)
    return baked


def solid(opacity: np.ndarray) -> np.ndarray:
    """A layer's opacity, uint8, of what a field says: what is nearly none or nearly all is made so."""
    found: np.ndarray = (np.clip((opacity - _FAINT) / (_SOLID - _FAINT), 0, 1) * 255 + 0.5).astype(np.uint8)
    return found


def layers(model: Model, baked: Baked, canvases: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[FitLayer]:
    """The layers of a fit.

    Args:
        canvases: colour [Hc, Wc, 3] and coverage [Hc, Wc] by layer.
    """
    count, size = len(baked.background), baked.background.shape[1:3]
    light = np.ones((count, *grid_size((size[0], size[1]), LIGHT_STRIDE), 3), np.float32)
    found = []
    if baked.human is not None:
        found.append(FitLayer("human", *canvases["human"], baked.human, light, baked.opacity, charts=True))
    found.append(FitLayer("background", *canvases["background"], baked.background, light))
    return found


# --- canvases ---


def paint_canvases(
    model: Model, shots: Sequence[Shot], frames: np.ndarray, baked: Baked
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Colour and coverage of each canvas: robust means of what the frames show; the fields say the rest.

    Args:
        frames: uint8 [T, H, W, 3].
    """
    found = {}
    some = spread(len(shots), _MOST_FRAMES)
    if model.atlas is not None and baked.opacity is not None:
        charts = model.charts()
        inside = charts.face >= 0
        rest = interpolate(charts, model.atlas.mesh.faces, model.atlas.mesh.vertices)[inside]
        known = field_colour(model, rest)
        colour, seen = _mean(lambda: _of_surface(model, shots, frames, baked, some), known)
        found["human"] = _canvas(colour, seen, inside)
    found["background"] = _background_canvas(model, shots, frames, baked, some)
    return found


@torch.no_grad()
def field_colour(model: Model, rest: np.ndarray) -> np.ndarray:
    """Colour float32 [N, 3] of the person at places float32 [N, 3] of the rest pose."""
    points = torch.from_numpy(rest).to(model.device)
    return np.concatenate([colour_at(model.world, own).cpu().numpy() for own in points.split(1 << 16)])


def colour_at(world: World, rest: Tensor) -> Tensor:
    """Colour [N, 3] of the person at places [N, 3] of the rest pose, in their first state; differentiable."""
    assert world.human is not None
    return world.human.colours(rest, torch.zeros(len(rest), dtype=torch.long, device=rest.device))


def repainted(model: Model, other: Model, canvases: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Canvases float32 [Hc, Wc, 3] by layer, of a model, with what the fields of another show differently there."""
    found = dict(canvases)
    if model.atlas is not None and model.world.human is not other.world.human:
        charts = model.charts()
        inside = charts.face >= 0
        rest = interpolate(charts, model.atlas.mesh.faces, model.atlas.mesh.vertices)[inside]
        image = np.zeros_like(canvases["human"])
        image[inside] = field_colour(other, rest) - field_colour(model, rest)
        found["human"] = np.clip(canvases["human"] + fill_from_nearest(image, inside), 0, 1)
    if model.panorama is not None and model.world.background is not other.world.background:
        before, after = (_panorama_of(own)[1] for own in (model, other))
        apart = cv2.resize(after - before, model.panorama.size[::-1], interpolation=cv2.INTER_LINEAR)
        found["background"] = np.clip(canvases["background"] + apart, 0, 1)
    return found


def _of_surface(
    model: Model, shots: Sequence[Shot], frames: np.ndarray, baked: Baked, some: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per frame: which texels it shows int64 [N], their colours [N, 3], and how well it shows them [N]."""
    assert model.atlas is not None and baked.opacity is not None
    charts, faces = model.charts(), model.atlas.mesh.faces
    inside = charts.face >= 0
    for t in some:
        shot = shots[t]
        if shot.pose is None:
            continue
        posed = model.vertices(shot.pose)
        normals = Mesh(posed, faces).normals
        # Vertices that were split where charts part have half of the faces each; near enough for a weight.
        both = interpolate(charts, faces, np.concatenate([posed, normals], axis=1))[inside]
        places, out = both[:, :3].astype(np.float64), both[:, 3:]
        away = shot.camera.position - places
        far = np.linalg.norm(away, axis=1)
        facing = (out * away).sum(axis=1) / far / np.maximum(np.linalg.norm(out, axis=1), 1e-6)
        chosen = np.flatnonzero(facing > 0.15)
        pixels, ahead = shot.camera.project(places[chosen])
        pixels = pixels.astype(np.float32)
        depth = look(model.atlas, posed, shot.camera).raster.depth
        size = shot.camera.size
        within = (ahead > 0) & ((pixels >= 0) & (pixels <= [size[1] - 1, size[0] - 1])).all(axis=1)
        solid = cv2.erode(np.asarray(baked.opacity[t]), np.ones((3, 3), np.uint8)).astype(np.float32) / 255
        near = np.where(np.isfinite(depth), depth, 1e6).astype(np.float32)
        packed = np.dstack([frames[t].astype(np.float32) / 255, solid, cv2.erode(near, np.ones((3, 3), np.uint8))])
        values = remap_points(packed, np.where(within[:, None], pixels, 0))
        shown = within & (values[:, 3] > 0.99) & (far[chosen] < values[:, 4] + _NEARER)
        weight = facing[chosen] ** 4 / far[chosen] ** 2
        yield chosen[shown], values[shown, :3], weight[shown]


def _background_canvas(
    model: Model, shots: Sequence[Shot], frames: np.ndarray, baked: Baked, some: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    panorama = model.panorama
    assert panorama is not None
    far, colour = _panorama_of(model)
    distance = calm_distance(far, panorama.size)
    known = cv2.resize(colour, panorama.size[::-1], interpolation=cv2.INTER_LINEAR)
    coverage = np.zeros(panorama.size, np.float32)
    strip = max(_STRIP // panorama.size[1], 1)
    for first in range(0, panorama.size[0], strip):
        rows = slice(first, first + strip)
        places = panorama.centre + panorama.directions(rows) * distance[rows, :, None].astype(np.float64)
        shows = partial(_of_background, places.reshape(-1, 3), shots, frames, baked, some)
        found, seen = _mean(shows, known[rows].reshape(-1, 3))
        known[rows], coverage[rows] = _canvas(found, seen, np.ones(places.shape[:2], bool))
    return known, coverage


def _panorama_of(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """How far the background is along a panorama's directions, with fewer of them, [h, w], and its colour [h, w, 3]."""
    assert model.panorama is not None
    size = fewer(model.panorama.size)
    coarse = model.panorama.resized(size)
    flat = torch.from_numpy(coarse.directions().reshape(-1, 3).astype(np.float32)).to(model.device)
    centre = torch.from_numpy(model.panorama.centre.astype(np.float32)).to(model.device).expand(len(flat), 3)
    far, colour = background_depth(model.world, Rays(centre, flat))
    return far.reshape(size).cpu().numpy(), colour.reshape(*size, 3).cpu().numpy()


def _of_background(
    places: np.ndarray, shots: Sequence[Shot], frames: np.ndarray, baked: Baked, some: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per frame: which of the places [N, 3] it shows int64 [M], their colours [M, 3], and ones."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    before, chosen, pixels, length = -1, np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0)
    for t in some:
        camera, size = shots[t].camera, shots[t].camera.size
        if baked.same[t] != before:  # a camera that stands still sees the same places
            before = baked.same[t]
            pixels, ahead = camera.project(places)
            within = (ahead > 0) & ((pixels >= 0) & (pixels <= [size[1] - 1, size[0] - 1])).all(axis=1)
            chosen = np.flatnonzero(within)
            pixels = pixels[chosen].astype(np.float32)
            length = np.linalg.norm(places[chosen] - camera.position, axis=1)
        if not len(chosen):
            continue
        free = np.ones(size, np.float32)
        if baked.opacity is not None:
            free = (cv2.dilate(np.asarray(baked.opacity[t]), kernel) == 0).astype(np.float32)
        packed = np.dstack([frames[t].astype(np.float32) / 255, free, baked.depth[t]])
        values = remap_points(packed, pixels)
        shown = (values[:, 3] > 0.99) & (np.abs(values[:, 4] / length - 1) < _AGREES)
        yield chosen[shown], values[shown, :3], np.ones(int(shown.sum()), np.float32)


def _mean(
    shows: Callable[[], Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]], known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means [N, 3] over frames, robust about the first mean, and whether anything was shown [N]."""
    mean, seen = known.astype(np.float64), np.zeros(len(known), bool)
    for robust in (False, True):
        total = np.zeros((len(known), 4))
        for chosen, colours, weight in shows():
            if robust:
                off = ((colours - mean[chosen]) ** 2).sum(axis=1) / (3 * _OUTLIER**2)
                weight = weight / (1 + off) ** 2
            # Each texel is there once in a frame.
            total[chosen, :3] += colours * weight[:, None]
            total[chosen, 3] += weight
        seen = total[:, 3] > 1e-9
        mean[seen] = total[seen, :3] / total[seen, 3:]
    return mean.astype(np.float32), seen


def _canvas(colour: np.ndarray, seen: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A canvas from what its texels inside of charts are; those outside take the colour of the nearest of them."""
    image, coverage = np.zeros((*inside.shape, 3), np.float32), np.zeros(inside.shape, np.float32)
    image[inside], coverage[inside] = np.clip(colour, 0, 1), np.where(seen, 1.0, 0.5)
    return fill_from_nearest(image, inside), coverage
