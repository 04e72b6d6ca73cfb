"""Layers moved within their frames: a displacement of a canvas, carried to every frame, and the fit that results.

Convention: what lies at ``u`` on a layer's canvas is to lie where ``u + displacement(u)`` lies. A frame shows that at
the pixel ``q`` whose coordinates are ``u + displacement(u)``; it is found by following the frame's own coordinates from
the pixel of ``u`` (VideoSwap's propagation by the Jacobian, Gu et al., CVPR 2024, in small steps instead of one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
import torch

from canon.boxes import Box, around, box_size, grown
from canon.coordinates import Size, grid_nodes
from canon.edits import Edit, Warp
from canon.errors import InputError
from canon.fits import Fit, FitLayer, clamped, nonzero_box
from canon.grids import jacobian, level_of_detail, sample_grid
from canon.per_frame import PerFrame
from canon.rasterise import interpolate, rasterise_flat
from canon.sampling import fill_from_nearest, fill_unseen, mip_levels, remap, sample_mip
from canon.storage import to_float, to_uint8

_CELL = 4
"""Pixels between the places of a frame that are moved; what lies between is interpolated."""
_ROUGH = 0.25
"""Change of a place's way, beside the straight one, from one pixel to the next that is a kink."""
_STEPS = 4
"""In which a place is followed to where it goes."""
_SMOOTH = 2.0
"""Nodes (Gaussian sigma) about a layer's rim whose mean Jacobian continues its coordinates."""
_STILL = 0.02
"""Pixels below which nothing has moved."""
_LEAST_RIM, _RIM = 2, 0.01
"""Pixels beside a layer that still show a trace of it, and as a share of the frame's shorter side; over as many more,
that is faded."""
_STRETCH = 3.0
"""Times by which a frame's coordinates may stretch more, or less, than those around them on a layer do."""
_STRIDE = 2
"""Pixels between the nodes of coordinates that have moved, which bend more than those of a fit."""
_KEPT = 8
"""Frames that are kept once they were made."""


@dataclass(frozen=True, eq=False)
class FrameWarp:
    """How one layer moves in one frame.

    Attributes:
        box: rows and columns of the frame that it comes from or goes to.
        origin: float32 [h, w, 2], the pixel (x, y) of the frame that is seen there instead; may lie beyond the frame.
        shown: bool [h, w], where there is one.
    """

    box: Box
    origin: np.ndarray
    shown: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        """Where something else than before is seen, bool [h, w]."""
        here = _pixels(self.box)
        return ~self.shown | (np.abs(self.origin - here).max(axis=-1) > _STILL)


def warps(fit: Fit, edits: Sequence[Edit]) -> dict[str, list[Warp]]:
    """What a stack of edits moves, by layer.

    Raises:
        InputError: a warp is of a layer that the fit has not, or that cannot be moved, or of another canvas.
    """
    found: dict[str, list[Warp]] = {}
    for edit in edits:
        for step in edit.steps:
            if isinstance(step.operation, Warp):
                layer = fit.layer(step.layer)
                check_movable(layer)
                step.operation.check_canvas(layer.canvas_size, step.layer)
                found.setdefault(step.layer, []).append(step.operation)
    return found


def check_movable(layer: FitLayer) -> None:
    """Refuse a layer whose canvas is no picture of it.

    Raises:
        InputError: it is made of charts.
    """
    if layer.charts:
        raise InputError(
            f"The canvas of '{layer.name}' is a texture atlas, on which shapes cannot be moved; --pose moves a person."
        )


def warped(fit: Fit, edits: Sequence[Edit]) -> Fit:
    """The fit of the video in which layers have moved as a stack of edits says; paint on its canvases moves along.

    Frames, opacity and coordinates are made one frame at a time when they are asked for. Without a warp it is ``fit``.

    Raises:
        InputError: see :func:`warps`.
    """
    moving = warps(fit, edits)
    return _Warped(fit, moving).fit if moving else fit


class _Warped:
    """A fit, and the one that results when layers of it are moved."""

    def __init__(self, source: Fit, moving: Mapping[str, list[Warp]]) -> None:
        self.source, self.moving = source, moving
        self.at = lru_cache(maxsize=_KEPT)(self._at)
        self.frame = lru_cache(maxsize=_KEPT)(self._frame)
        clip = source.clip
        frames = PerFrame(clip.frames.shape, np.uint8, self.frame)
        shown = replace(clip, frames=cast(np.ndarray, frames), masks={}, known_hash=clip.content_hash)
        self.stride = min(_STRIDE, source.stride)
        self._nodes = grid_nodes(source.size, self.stride)
        layers = [self._layer(layer) for layer in source.baked]
        self.fit = Fit(
            shown, source.representation, source.config, layers, self.stride, source.light_stride, source.stats
        )
        self.fit.pose_as(source)

    def _layer(self, layer: FitLayer) -> FitLayer:
        name, second, size = layer.name, layer.second_grid, self._nodes.shape
        changed: dict[str, Any] = {
            "grid": PerFrame((len(layer.grid), *size), np.float32, lambda t: self._grid(name, t, layer.grid[t]))
        }
        if layer.opacity is not None and name in self.moving:
            changed["opacity"] = PerFrame(layer.opacity.shape, np.uint8, lambda t: self._opacity(layer, t))
        if second is not None:
            changed["second_grid"] = PerFrame(
                (len(second), *size), np.float32, lambda row: self._grid(name, layer.shared[row], second[row])
            )
        return replace(layer, **changed)

    def _at(self, t: int) -> dict[str, FrameWarp]:
        """The layers that move in frame ``t``."""
        found = {name: frame_warp(self.source, name, t, own) for name, own in self.moving.items()}
        return {name: warp for name, warp in found.items() if warp is not None}

    def _grid(self, name: str, t: int, grid: np.ndarray) -> np.ndarray:
        """The coordinates of a frame after its layer has moved, on the nodes of the fit that results."""
        known, size = torch.from_numpy(np.array(grid)), self.source.size
        warp = self.at(t).get(name)
        if warp is None:
            return sample_grid(known, self._nodes, self.source.stride).numpy()
        near = grown(warp.box, 4 * self.source.stride, size)
        apart = np.zeros((*size, 2), np.float32)
        apart[warp.box] = warp.origin - _pixels(warp.box)
        shown = np.zeros(size, bool)
        shown[warp.box] = warp.shown
        if shown.any():
            apart[near] = fill_from_nearest(apart[near], shown[near])  # nodes beside the layer move along
        x, y = (np.minimum(self._nodes[..., k].numpy().astype(int), size[1 - k] - 1) for k in (0, 1))
        return sample_grid(known, self._nodes + torch.from_numpy(apart[y, x]), self.source.stride).numpy()

    def _opacity(self, layer: FitLayer, t: int) -> np.ndarray:
        assert layer.opacity is not None
        before = np.asarray(layer.opacity[t])
        warp = self.at(t).get(layer.name)
        if warp is None:
            return before
        out = np.zeros_like(before)
        found = remap(before.astype(np.float32)[..., None], warp.origin)[..., 0]
        still = ~warp.moved
        out[warp.box] = np.where(still, before[warp.box], np.where(warp.shown, found + 0.5, 0).astype(np.uint8))
        return out

    # --- frames ---

    def _frame(self, t: int) -> np.ndarray:
        """Frame ``t`` as its layers lie after they have moved, uint8 [H, W, 3]."""
        fit, at = self.source, self.at(t)
        source = np.array(fit.clip.frames[t])
        if not at:
            return source
        box = grown(around([warp.box for warp in at.values()]), 8 * _rim(fit.size), fit.size)
        before, after = fit.weights(t, box), self.fit.weights(t, box)
        moved = {name: self._places(warp, box) for name, warp in at.items()}
        changed, left = np.zeros(box_size(box), bool), np.zeros(box_size(box), bool)
        for name, (_, elsewhere, away) in moved.items():
            k = fit.layers.index(name)
            opaque = fit.baked[k].opacity
            there = np.ones(box_size(box), bool) if opaque is None else np.asarray(opaque[t])[box] > 0
            changed |= elsewhere & (there | (after[k] > 0))
            if opaque is not None:
                left |= there & away
        rim = _widened(left, _rim(fit.size))
        changed |= rim > 0
        if not changed.any():
            return source
        # Each layer's own colour, and what the canvases do not explain of the frame.
        looks = [self._look(k, t, box) for k in range(len(fit.layers))]
        rest = to_float(source[box]) - sum(w[..., None] * look for w, look in zip(before, looks, strict=True))
        # What comes to light has the shade of what is around it, such as a shadow that no canvas shows.
        covered = sum((before[fit.layers.index(name)] for name in moved), np.zeros((), np.float32))
        beside = _continued(rest, (rim == 0) & (covered < 0.02))
        out = np.zeros((*box_size(box), 3), np.float32)
        for k, name in enumerate(fit.layers):
            if name in moved:
                out += after[k][..., None] * self._moved_look(k, t, box, looks[k] + rest, moved[name][0])
            else:
                share = np.minimum(before[k], after[k]) * (1 - rim)
                out += after[k][..., None] * (looks[k] + rim[..., None] * beside) + share[..., None] * rest
        source[box] = np.where(changed[..., None], to_uint8(np.clip(out, 0, 1)), source[box])
        return source

    def _places(self, warp: FrameWarp, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a box that holds a warp's: the pixels [h, w, 2] that are seen there, where they are others, and where what
        was there is more than a pixel away, bool [h, w] both."""
        origin, (elsewhere, away) = _pixels(box), np.zeros((2, *box_size(box)), bool)
        inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(warp.box, box, strict=True))
        origin[inner] = np.where(warp.shown[..., None], warp.origin, origin[inner])
        elsewhere[inner] = warp.moved
        away[inner] = ~warp.shown | (np.abs(warp.origin - _pixels(warp.box)).max(axis=-1) > 1)
        return origin, elsewhere, away

    def _look(self, k: int, t: int, box: Box) -> np.ndarray:
        fit, layer = self.source, self.source.baked[k]
        found = fit.colour(t, layer.name, box)
        return found if layer.neutral else found * fit.lighting(t, layer.name, box)

    def _moved_look(self, k: int, t: int, box: Box, image: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """A layer's image [h, w, 3] of a box, seen from elsewhere; from beyond the frame it comes from the canvas."""
        fit, layer = self.source, self.source.baked[k]
        corner = np.array([box[1].start, box[0].start], np.float32)
        # Sharper than bilinear: what is moved by a part of a pixel is not to blur.
        at = origin - corner
        found = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        last = np.array([fit.size[1] - 1, fit.size[0] - 1], np.float32)
        beyond = ((origin < 0) | (origin > last)).any(axis=-1)
        if beyond.any():
            grid = torch.from_numpy(np.array(layer.grid[t]))
            xy = sample_grid(grid, torch.from_numpy(origin[beyond]), fit.stride).numpy()
            lod = level_of_detail(fit.texels(t, layer.name))
            found[beyond] = sample_mip(layer.levels(mip_levels(lod)), xy[None], lod)[0]
        return np.asarray(found, np.float32)


def moved_area(fit: Fit, layer: str, t: int, own: Warp, rim: bool = False) -> np.ndarray:
    """Pixels of frame ``t`` from which a warp takes a layer, or to which it brings it, bool [H, W].

    Args:
        rim: whether those beside them count that may lose a trace of it.
    """
    found = np.zeros(fit.size, bool)
    warp = frame_warp(fit, layer, t, [own])
    if warp is not None:
        opacity = fit.layer(layer).opacity
        before = np.ones(fit.size, bool) if opacity is None else np.asarray(opacity[t]) > 0
        after = remap(before.astype(np.float32)[..., None], warp.origin)[..., 0] > 0
        found[warp.box] = warp.moved & (before[warp.box] | (warp.shown & after))
    side = 4 * _rim(fit.size) + 1
    return cv2.dilate(found.astype(np.uint8), np.ones((side, side), np.uint8)) > 0 if rim else found


def frame_warp(fit: Fit, layer: str, t: int, own: Sequence[Warp]) -> FrameWarp | None:
    """How a layer moves in frame ``t`` when its canvas is displaced; None if nothing that is seen there does."""
    data, size = fit.layer(layer), fit.size
    opacity = None if data.opacity is None else np.asarray(data.opacity[t])
    box = fit.whole if opacity is None else nonzero_box(opacity)
    if box is None:
        return None
    reach = _reach(fit, layer, t, own)
    if reach < _STILL:
        return None
    places, cells, shape = _lattice(box, opacity, size, int(np.ceil(reach)))
    follower, begin = Follower(fit, layer, t), torch.from_numpy(places)
    at, part = follower.texels(begin).numpy(), data.part(t)
    at = at if part is None else clamped(at, part.box)
    shift = torch.from_numpy(sum((warp.at(at) for warp in own), np.zeros_like(at)))
    goal = (follower.straight(begin, shift) + _calmed(follower, begin, shift, shape)).numpy()
    far = np.abs(goal - places).max(axis=-1)
    if far[np.unique(cells)].max(initial=0) < _STILL:
        return None
    # Of places that come to lie on one another, those are seen that moved furthest.
    order = np.argsort(-far[cells].max(axis=1), kind="stable")
    faces = np.concatenate([cells[order][:, [0, 1, 2]], cells[order][:, [1, 3, 2]]], axis=1).reshape(-1, 3)
    used = np.unique(cells)
    low, high = (np.round(edge).astype(int) for edge in (goal[used].min(axis=0) - 1, goal[used].max(axis=0) + 2))
    target = around([box, (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))])
    rows, columns = (slice(max(s.start, 0), min(s.stop, n)) for s, n in zip(target, size, strict=True))
    corner = np.array([columns.start, rows.start])
    raster = rasterise_flat(goal - corner, faces, box_size((rows, columns)))
    origin, here = interpolate(raster, faces, places), _pixels((rows, columns))
    still = np.abs(origin - here).max(axis=-1) < _STILL
    origin[still] = here[still]
    return FrameWarp((rows, columns), origin, raster.face >= 0)


class Follower:
    """Ways through the coordinates of one frame, in small steps: from pixels to texels and back.

    Beside the layer a fit's coordinates are a guess, which differs from frame to frame; there they are continued by the
    Jacobian of where the layer ends.
    """

    def __init__(self, fit: Fit, layer: str, t: int) -> None:
        """Take the coordinates of a layer in frame ``t``."""
        data, self.stride = fit.layer(layer), fit.stride
        self.grid = torch.from_numpy(np.array(data.grid[t]))
        rows, columns = self.grid.shape[:2]
        y, x = (
            np.minimum(np.arange(n) * self.stride, side - 1) for n, side in zip((rows, columns), fit.size, strict=True)
        )
        seen = np.ones((rows, columns), bool)
        if data.opacity is not None:
            near = cv2.erode(np.asarray(data.opacity[t]), np.ones((3, 3), np.uint8))
            seen = near[np.ix_(y, x)] > 127
            seen = seen if seen.any() else np.ones_like(seen)
        slopes = np.ascontiguousarray(jacobian(self.grid, self.stride).flatten(2).numpy())
        self._seen = torch.from_numpy(seen.astype(np.float32))[..., None]
        share = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), _SMOOTH, borderType=cv2.BORDER_CONSTANT)
        mean = cv2.GaussianBlur(slopes * self._seen.numpy(), (0, 0), _SMOOTH, borderType=cv2.BORDER_CONSTANT)
        beside = fill_from_nearest(mean / np.maximum(share, 1e-6)[..., None], seen)
        self._slopes, self._beside = torch.from_numpy(slopes), torch.from_numpy(beside)
        self._last = torch.tensor([columns - 1, rows - 1], dtype=torch.float32) * self.stride

    def texels(self, places: torch.Tensor) -> torch.Tensor:
        """Canvas positions [N, 2] of pixels [N, 2]."""
        return sample_grid(self.grid, places, self.stride)

    def straight(self, places: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """:meth:`moved` in one step by the mean Jacobian around each place: VideoSwap's rule, calm but less exact."""
        inside = torch.minimum(places.clamp_min(0.0), self._last)
        slope = sample_grid(self._beside, inside, self.stride).reshape(-1, 2, 2)
        flat = torch.linalg.det(slope).abs() < 1e-6
        slope = torch.where(flat[:, None, None], torch.eye(2).expand_as(slope), slope)
        return places + torch.linalg.solve(slope, shift[..., None])[..., 0]

    def moved(self, places: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Pixels [N, 2] where those of ``places`` [N, 2] lie when they shift on the canvas by texels [N, 2]."""
        at, left = places.clone(), shift.clone()
        for k in range(_STEPS):
            slope, believed = self._at(at)
            goal = at + torch.linalg.solve(slope, (left / (_STEPS - k))[..., None])[..., 0]
            made = self._change(at, goal, slope, believed)
            at, left = goal, left - made
        slope, _ = self._at(at)
        return at + torch.linalg.solve(slope, left[..., None])[..., 0]

    def shift(self, places: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """Texels [N, 2] by which pixels ``places`` [N, 2] shift on the canvas when they move by ``moves`` [N, 2].

        Inverse of :meth:`moved`.
        """
        found, step = torch.zeros_like(moves), moves / _STEPS
        for k in range(_STEPS):
            at = places + k * step
            slope, believed = self._at(at)
            found = found + self._change(at, at + step, slope, believed)
        return found

    def _change(self, a: torch.Tensor, b: torch.Tensor, slope: torch.Tensor, believed: torch.Tensor) -> torch.Tensor:
        """Texels [N, 2] from pixels ``a`` to ``b``, as the coordinates have it where both ends are believed."""
        both = (believed & self._at(b)[1])[:, None]
        return torch.where(both, self.texels(b) - self.texels(a), (slope @ (b - a)[..., None])[..., 0])

    def _at(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Jacobians [N, 2, 2] to go by at pixels [N, 2], and whether they are the coordinates' own."""
        inside = torch.minimum(at.clamp_min(0.0), self._last)
        believed = sample_grid(self._seen, inside, self.stride)[..., 0] > 0.99
        own = sample_grid(self._slopes, inside, self.stride).reshape(-1, 2, 2)
        beside = sample_grid(self._beside, inside, self.stride).reshape(-1, 2, 2)
        ratio = torch.linalg.det(own) / torch.linalg.det(beside)
        believed &= (ratio > 1 / _STRETCH) & (ratio < _STRETCH)
        found = torch.where(believed[:, None, None], own, beside)
        flat = torch.linalg.det(found).abs() < 1e-6
        return torch.where(flat[:, None, None], torch.eye(2).expand_as(found), found), believed & ~flat


def _reach(fit: Fit, layer: str, t: int, own: Sequence[Warp]) -> float:
    """Pixels by which something of the layer may move in frame ``t``, at most."""
    most = sum(float(np.abs(warp.grid).max()) for warp in own)
    return 1.5 * most / max(fit.texels(t, layer), 1e-3)


def _lattice(
    box: Box, opacity: np.ndarray | None, size: tuple[int, int], reach: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Places float32 [N, 2] in and around a box of a frame, the cells between them that show the layer, int [C, 4], and
    how many places there are down and across.

    Where the box ends with the frame it is continued by ``reach`` pixels beyond.
    """
    rows, columns = (
        np.arange(
            side.start - (reach if side.start == 0 else _CELL),
            side.stop + (reach if side.stop == length else _CELL) + _CELL,
            _CELL,
        )
        for side, length in zip(box, size, strict=True)
    )
    places = np.stack(np.meshgrid(columns, rows), axis=-1).astype(np.float32)
    if opacity is None:
        there = np.ones((len(rows) - 1, len(columns) - 1), bool)
    else:
        seen = cv2.dilate((opacity > 0).astype(np.uint8), np.ones((2 * _CELL + 1, 2 * _CELL + 1), np.uint8))
        y, x = (np.clip(part + _CELL // 2, 0, n - 1) for part, n in ((rows[:-1], size[0]), (columns[:-1], size[1])))
        there = seen[np.ix_(y, x)] > 0
    number = np.arange(len(rows) * len(columns)).reshape(len(rows), len(columns))
    corners = np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]], axis=-1)
    return places.reshape(-1, 2), corners[there], (len(rows), len(columns))


def _pixels(box: Box) -> np.ndarray:
    """float32 [h, w, 2], the pixels (x, y) of a box."""
    x, y = np.meshgrid(np.arange(box[1].start, box[1].stop), np.arange(box[0].start, box[0].stop))
    return np.stack([x, y], axis=-1).astype(np.float32)


def _continued(rest: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What canvases do not explain [h, w, 3], continued smoothly to where it is not known; nothing if it is nowhere."""
    if not known.any():
        return np.zeros_like(rest)
    # Of what surrounds a place the shade is meant, not its grain.
    share = cv2.blur(known.astype(np.float32), (9, 9))
    calm = cv2.blur(rest * known[..., None], (9, 9)) / np.maximum(share, 1e-6)[..., None]
    found = fill_unseen(torch.from_numpy(calm), torch.from_numpy(known.astype(np.float32)), 0.5)
    return np.asarray(found.numpy())


def _calmed(follower: Follower, places: torch.Tensor, shift: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """What following adds to the straight way of places [N, 2] on a lattice; where it jumps, as it is around there.

    A fit's coordinates have kinks where it is at a loss; a displacement that is smooth on the canvas must not.
    """
    extra = (follower.moved(places, shift) - follower.straight(places, shift)).reshape(*shape, 2)
    steps = [extra.diff(dim=k).norm(dim=-1) / _CELL for k in (0, 1)]
    rough = torch.zeros(shape, dtype=torch.bool)
    rough[1:] |= steps[0] > _ROUGH
    rough[:-1] |= steps[0] > _ROUGH
    rough[:, 1:] |= steps[1] > _ROUGH
    rough[:, :-1] |= steps[1] > _ROUGH
    if bool(rough.all()):
        return torch.zeros_like(places)
    padded = torch.cat([extra, torch.zeros(*shape, 1)], dim=-1)
    return fill_unseen(padded, (~rough).float(), 0.5)[..., :2].reshape(-1, 2)


def _rim(size: Size) -> int:
    return max(_LEAST_RIM, round(_RIM * min(size)))


def _widened(left: np.ndarray, rim: int) -> np.ndarray:
    """How much of a frame's own detail goes with what has left the pixels [h, w]: 1 there, fading beside it, [h, w]."""
    if not left.any():
        return np.zeros(left.shape, np.float32)
    away = cv2.distanceTransform((~left).astype(np.uint8), cv2.DIST_L2, 5)
    return np.clip(2 - away / rim, 0, 1).astype(np.float32)
