"""The baked result of a fit: per layer a canvas and, for every frame, coordinates, opacity and lighting."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from canon.boxes import Box
from canon.canvas import Canvas
from canon.clip import Clip
from canon.coordinates import grid_nodes, grid_size
from canon.errors import InputError
from canon.grids import (
    affine_guess,
    find_pixels,
    grid_window,
    invert_grid,
    level_of_detail,
    sample_grid,
    texels_per_pixel,
)
from canon.sampling import halve, mip_levels, mip_weights, remap_points, sample_mip, sample_mip_points
from canon.segments import Segment, Share, misplaced, shares
from canon.storage import content_hash

_RIM = 0.8
"""Softness in texels (Gaussian sigma) of the rim of an exported canvas."""


class Maps(NamedTuple):
    """How a frame looks at a canvas: float32 coordinates [gh, gw, 2] and lighting [lh, lw, 3] at their nodes."""

    grid: np.ndarray
    lighting: np.ndarray


@dataclass(eq=False)
class FitLayer:
    """What is stored of one layer. Arrays may be mapped from disk; they are not changed."""

    name: str
    color: np.ndarray = field(repr=False)
    """float32 [Hc, Wc, 3], canvas without lighting, sRGB; 0..1 but for what a fit needs beyond."""
    coverage: np.ndarray = field(repr=False)
    """float32 [Hc, Wc]: 1 seen, 0.5 filled plausibly, 0 nothing."""
    grid: np.ndarray = field(repr=False)
    """float32 [T, gh, gw, 2], canvas position (x, y) px at the control nodes, bilinear in between."""
    lighting: np.ndarray = field(repr=False)
    """float32 [T, lh, lw, 3], multiplicative, on nodes of the light stride, bilinear in between."""
    opacity: np.ndarray | None = field(default=None, repr=False)
    """uint8 [T, H, W], stick-breaking opacity (255 = hides all behind); None = opaque everywhere: the last layer."""
    segments: tuple[Segment, ...] = ()
    """Where the clip had to be split: the canvas holds a picture for each part, below each other. () = one for all."""
    second_grid: np.ndarray | None = field(default=None, repr=False)
    """float32 [N, gh, gw, 2]: the coordinates in the other segment, of the N frames that two segments share."""
    second_lighting: np.ndarray | None = field(default=None, repr=False)
    """float32 [N, lh, lw, 3]: and the lighting of that segment there."""

    charts: bool = False
    """The canvas is made of charts apart from one another; texels outside of them, whose coverage is 0, are those of
    the nearest texel inside."""

    def __post_init__(self) -> None:
        self._levels: list[np.ndarray] = [self.color]
        self._lock = threading.Lock()
        lights = [light for light in (self.lighting, self.second_lighting) if light is not None]
        self.neutral = all(bool((np.asarray(light) == 1.0).all()) for light in lights)
        """Whether the lighting changes nothing."""
        self.shares: dict[int, Share] = shares(self.segments)
        """Which segments each frame looks at; empty if there is one canvas for all."""
        self.shared = [t for t, share in self.shares.items() if share.other is not None]
        """The frames that two segments share, in order."""

    def maps(self, t: int, segment: int | None = None) -> Maps | None:
        """How frame ``t`` looks at a segment (its own without), or None where it does not."""
        share = self.shares.get(t)
        if segment is None or not self.segments or (share is not None and share.own == segment):
            return Maps(self.grid[t], self.lighting[t])
        if share is None or share.other != segment or self.second_grid is None or self.second_lighting is None:
            return None
        row = self.shared.index(t)
        return Maps(self.second_grid[row], self.second_lighting[row])

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(height, width) of the canvas."""
        return self.color.shape[0], self.color.shape[1]

    def levels(self, count: int) -> list[np.ndarray]:
        """The first ``count`` levels (fewer for a tiny canvas) of the colour's pyramid, made when first asked for."""
        with self._lock:
            while len(self._levels) < count and max(self._levels[-1].shape[:2]) > 1:
                self._levels.append(halve(np.asarray(self._levels[-1])))
            return self._levels[:count]

    def part(self, t: int) -> Segment | None:
        """The segment that is frame ``t``'s own; None where there is one canvas for all."""
        share = self.shares.get(t)
        return None if share is None else self.segments[share.own]

    def border(self, a: int, b: int) -> tuple[Maps, Maps] | None:
        """How the last frame of a segment's own, on the way to its neighbour, looks at both; None if none does."""
        own = [t for t in self.shared if self.shares[t].own == a and self.shares[t].other == b]
        if not own:
            return None
        frame = own[-1] if b > a else own[0]
        here, there = self.maps(frame, a), self.maps(frame, b)
        return None if here is None or there is None else (here, there)

    def way(self, t: int, s: int) -> list[tuple[Maps, Maps]] | None:
        """Each :meth:`border` on the way from frame ``t`` to frame ``s``; None if no overlaps lead there."""
        if not self.segments:
            return []
        if t not in self.shares or s not in self.shares:
            return None
        own, aim = self.shares[t].own, self.shares[s].own
        step = 1 if aim > own else -1
        borders = [self.border(k, k + step) for k in range(own, aim, step)]
        found = [border for border in borders if border is not None]
        return found if len(found) == len(borders) else None


@dataclass(frozen=True, eq=False)
class View:
    """A frame's look at a layer: by its own segment's canvas, or, where two overlap, by the other's.

    Attributes:
        grid: float32 [gh, gw, 2], canvas positions at the control nodes.
        lighting: float32 [lh, lw, 3].
        part: of the canvas that it looks at; None = all of it.
        texels: canvas texels along one pixel.
        fade: how much an edit seen so counts, 0..1.
    """

    grid: np.ndarray
    lighting: np.ndarray
    part: Box | None
    texels: float
    fade: float


class Fit:
    """A video explained by layers. Made by a representation, or by :func:`canon.load`.

    Convention: coordinates are canvas pixels (x, y), centres at integers; frames are counted from 0, negative ones from
    the end; layers are named front to back.
    """

    def __init__(
        self,
        clip: Clip,
        representation: str,
        config: Mapping[str, Any],
        layers: Sequence[FitLayer],
        stride: int,
        light_stride: int = 64,
        stats: Mapping[str, Any] | None = None,
    ) -> None:
        """Bake a result.

        Args:
            representation, config: what made it, for people and for provenance; plain primitives.
            stride: pixels between the control nodes of every layer's grid.
            stats: seconds per stage, PSNR and the like; plain primitives.

        Raises:
            InputError: an array has another shape or dtype than the clip and the strides ask for.
        """
        self.clip, self.representation, self.config = clip, representation, dict(config)
        self.stride, self.light_stride, self.stats = stride, light_stride, dict(stats or {})
        self.baked = list(layers)
        """The layers' data, front to back."""
        _check(self)
        self._by_name = {layer.name: layer for layer in self.baked}
        self._texels: dict[tuple[int, str, int | None], float] = {}
        self._id: str | None = None

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self.clip.size

    @property
    def layers(self) -> list[str]:
        """Names of the layers, front to back."""
        return list(self._by_name)

    @property
    def id(self) -> str:
        """Short hash that tells fits apart: clip, representation, config, and the coordinates of three frames."""
        if self._id is None:
            some = sorted({0, len(self) // 2, len(self) - 1})
            parts = [[layer.name, list(layer.canvas_size)] for layer in self.baked]
            grids = [np.asarray(layer.grid[t]) for layer in self.baked for t in some]
            self._id = content_hash(self.clip.content_hash, self.representation, self.config, parts, *grids)
        return self._id

    def pose_as(self, other: Fit) -> None:
        """Take another fit's :attr:`id`: edits that were made on it are at home here, too."""
        self._id = other.id

    def layer(self, name: str) -> FitLayer:
        """The data of one layer.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self._by_name:
            raise InputError(f"The fit has no layer '{name}'; its layers are {', '.join(self.layers)}.")
        return self._by_name[name]

    def segments(self, layer: str) -> list[tuple[int, int]]:
        """(first, last) frame of every canvas of the layer; one entry unless the clip had to be split."""
        segments = self.layer(layer).segments
        return [(part.first, part.last) for part in segments] or [(0, len(self) - 1)]

    def canonical(self, layer: str, segment: int = 0) -> Canvas:
        """The canonical image of a layer: alpha is 1 where something is known of it, with a soft rim.

        Raises:
            InputError: unknown layer or segment.
        """
        canvas, box = self.canvas(layer), self.segment_box(layer, segment)
        return Canvas(canvas.rgba[box], canvas.coverage[box])

    def segment_box(self, layer: str, segment: int) -> Box:
        """Rows and columns of a segment in the layer's whole canvas.

        Raises:
            InputError: unknown layer or segment.
        """
        data, count = self.layer(layer), len(self.segments(layer))
        if not 0 <= segment < count:
            raise InputError(f"Layer '{layer}' has {count} segment(s), counted from 0; there is no segment {segment}.")
        if data.segments:
            return data.segments[segment].box
        return slice(0, data.canvas_size[0]), slice(0, data.canvas_size[1])

    def canvas(self, layer: str) -> Canvas:
        """The whole canvas of a layer, all its segments below each other; :meth:`canonical` gives one of them."""
        data = self.layer(layer)
        known = (data.coverage > 0).astype(np.float32)
        alpha = cv2.GaussianBlur(known, (0, 0), _RIM, borderType=cv2.BORDER_REPLICATE)
        rgba = np.dstack([np.clip(data.color, 0.0, 1.0), alpha]).astype(np.float32)
        return Canvas(rgba, np.array(data.coverage, np.float32))

    # --- what is seen in a frame ---

    def weights(self, t: int, box: Box | None = None, without: Collection[str] = ()) -> list[np.ndarray]:
        """Contribution of every layer: its opacity times the transmittance of those in front; they sum to 1.

        Args:
            box: rows and columns to give; None = the whole frame.
            without: layers that are taken away: their weight is 0, and what lies behind them comes forward.

        Returns:
            one float32 [h, w] in 0..1 for each layer, front to back.
        """
        t, box = self.index(t), box or self.whole
        through = np.ones((box[0].stop - box[0].start, box[1].stop - box[1].start), np.float32)
        found = []
        for layer in self.baked:
            if layer.name in without:
                found.append(np.zeros_like(through))
            elif layer.opacity is None:
                found.append(through)
                through = np.zeros_like(through)
            else:
                alpha = np.divide(layer.opacity[t][box], np.float32(255), dtype=np.float32)
                found.append(through * alpha)
                through = through * (1 - alpha)
        return found

    def coordinates(self, t: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Where every pixel of frame ``t`` lies on the layer's canvas, and how much of the layer it shows.

        Returns:
            uv: float32 [H, W, 2] in canvas pixels (x, y), finite everywhere.
            weight: float32 [H, W] in 0..1.
        """
        data, t = self.layer(layer), self.index(t)
        return grid_window(data.grid[t], self.stride, self.whole), self.weights(t)[self.layers.index(layer)]

    def lighting(self, t: int, layer: str, box: Box | None = None) -> np.ndarray:
        """Multiplicative lighting of the layer in frame ``t``, float32 [H, W, 3] (or the part ``box`` of it)."""
        return grid_window(self.layer(layer).lighting[self.index(t)], self.light_stride, box or self.whole)

    def reconstruct(self, t: int, lit: bool = True) -> np.ndarray:
        """Frame ``t`` as the canvases explain it, float32 [H, W, 3], 0..1 but for overshoot of the lighting.

        Args:
            lit: whether the lighting is applied.
        """
        total = np.zeros((*self.size, 3), np.float32)
        for layer, weight in zip(self.baked, self.weights(t), strict=True):
            box = nonzero_box(weight)
            if box is not None:
                image = self.colour(t, layer.name, box)
                if lit and not layer.neutral:
                    image *= self.lighting(t, layer.name, box)
                total[box] += image * weight[box][..., None]
        return total

    def colour(self, t: int, layer: str, box: Box) -> np.ndarray:
        """What a part of frame ``t`` shows, or would show, of a layer's canvas, unlit, float32 [h, w, 3]."""
        data = self.layer(layer)
        xy = grid_window(data.grid[self.index(t)], self.stride, box)
        lod = level_of_detail(self.texels(t, layer))
        return sample_mip(data.levels(mip_levels(lod)), xy, lod)

    def look(self, t: int, layer: str, points: np.ndarray) -> np.ndarray:
        """Lit colour of a layer at pixels [N, 2] of frame ``t``, seen there or not, float32 [N, 3]."""
        data, t = self.layer(layer), self.index(t)
        lod = level_of_detail(self.texels(t, layer))
        xy = remap_points(data.grid[t], points / np.float32(self.stride))
        part = data.part(t)
        if part is not None:  # beyond its rim lies another segment's picture
            xy = clamped(xy, part.box)
        colour = sample_mip_points(data.levels(mip_levels(lod)), xy, lod)
        if not data.neutral:
            colour *= remap_points(data.lighting[t], points / np.float32(self.light_stride))
        return colour

    def texels(self, t: int, layer: str, segment: int | None = None) -> float:
        """Canvas texels along one pixel of frame ``t``: the median over the control nodes where the layer is.

        Args:
            segment: the one whose coordinates are meant, where two share the frame; None = the frame's own.
        """
        key = (self.index(t), layer, segment)
        if key not in self._texels:
            nodes = grid_nodes(self.size, self.stride).numpy().astype(int)
            x, y = np.minimum(nodes[..., 0], self.size[1] - 1), np.minimum(nodes[..., 1], self.size[0] - 1)
            data = self.layer(layer)
            # The layer's own opacity, not its contribution: a passing occluder must not change how it is filtered.
            seen = np.ones(x.shape, np.uint8) if data.opacity is None else np.asarray(data.opacity[key[0]])[y, x]
            maps = data.maps(key[0], segment)
            assert maps is not None
            self._texels[key] = texels_per_pixel(
                torch.from_numpy(np.array(maps.grid)), self.stride, torch.from_numpy(seen)
            )
        return self._texels[key]

    def views(self, t: int, layer: str) -> list[View]:
        """How edits of a layer are seen in frame ``t``: one way, or two that cross-fade where segments overlap."""
        data, t = self.layer(layer), self.index(t)
        share = data.shares.get(t)
        fade = 0.0 if share is None else share.fade
        own = data.part(t)
        box = None if own is None else own.box
        found = [View(data.grid[t], data.lighting[t], box, self.texels(t, layer), 1.0 - fade)]
        other = None if share is None else data.maps(t, share.other)
        if share is not None and share.other is not None and other is not None:
            box = data.segments[share.other].box
            found.append(View(*other, box, self.texels(t, layer, share.other), fade))
        return found

    def detail(self, t: int, layer: str) -> dict[int, float]:
        """The levels of the canvas's pyramid (0 = full size) that frame ``t`` looks at, and how much each counts."""
        return mip_weights(level_of_detail(self.texels(t, layer)))

    def correspondence(self, t: int, s: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Where what lies on a layer in the pixels of frame ``t`` lies in frame ``s``, by way of the canvas.

        Returns:
            positions: float32 [H, W, 2] in pixels of frame ``s``, finite, also outside of it.
            sure: bool [H, W], whether frame ``s`` has the place at all (hidden there or not).
        """
        data, (t, s) = self.layer(layer), (self.index(t), self.index(s))
        targets, together = self._handed_over(data, torch.from_numpy(np.array(data.grid[t])).reshape(-1, 2), t, s)
        grid = torch.from_numpy(np.array(data.grid[s]))
        found, error = self._inverted(grid, targets)
        packed = torch.cat([found, (error[:, None] < 0.5).float()], dim=1).reshape(*grid.shape[:2], 3).numpy()
        dense = grid_window(packed, self.stride, self.whole)
        positions = np.ascontiguousarray(dense[..., :2])
        last = np.array([self.size[1] - 0.5, self.size[0] - 0.5], np.float32)
        sure = together & (dense[..., 2] > 0.99) & ((positions >= -0.5) & (positions <= last)).all(axis=-1)
        return positions, sure

    def _inverted(self, grid: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels [N, 2] whose coordinates are ``targets`` [N, 2], and that one's error in texels, finite or inf."""
        start = affine_guess(grid, self.stride, targets)
        found, error = invert_grid(grid, self.stride, targets, start, steps=12)
        return found.nan_to_num(0.0), error.nan_to_num(torch.inf)

    def _handed_over(self, data: FitLayer, targets: torch.Tensor, t: int, s: int) -> tuple[torch.Tensor, bool]:
        """Canvas positions [N, 2] in frame ``t``'s segment -> in that of frame ``s``, and whether overlaps lead there.

        At the frames that two segments share, what lies on the one is found on the other.
        """
        way = data.way(t, s)
        for here, there in way or []:
            pixels, _ = self._inverted(torch.from_numpy(np.array(here.grid)), targets)
            targets = sample_grid(torch.from_numpy(np.array(there.grid)), pixels, self.stride)
        return targets, way is not None

    def pixels_of(self, t: int, layer: str, texels: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where texels [N, 2] of a layer's canvas lie in frame ``t``.

        Args:
            area: bool [H, W], nonempty: about where to look.

        Returns:
            pixels: float32 [N, 2] as (x, y).
            error: float32 [N], how far off in texels; large where a texel is not in the frame.
        """
        grid = self.layer(layer).grid[self.index(t)]
        return pixels_of(grid, self.stride, self.size, torch.from_numpy(np.asarray(texels, np.float32)), area)

    def track(self, points: np.ndarray, frame: int = 0, layer: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Follow points of one frame through all frames, by way of the canvas.

        Args:
            points: [N, 2] pixels (x, y) of ``frame``.
            layer: the layer that they lie on; None = for each point, the one with the largest weight there.

        Returns:
            positions: float32 [T, N, 2] in pixels, finite, also where hidden or outside the frame.
            visible: bool [T, N], inside the frame with the layer's weight above 0.5.
        """
        start = np.asarray(points, np.float32).reshape(-1, 2)
        frame = self.index(frame)
        if layer is None:
            owner = self.owners(start, frame)
        else:
            owner = np.full(len(start), self.layers.index(self.layer(layer).name))
        positions = np.repeat(start[None], len(self), axis=0)
        visible = np.zeros(positions.shape[:2], bool)
        for k in np.unique(owner).tolist():
            chosen = np.nonzero(owner == k)[0]
            positions[:, chosen], visible[:, chosen] = self._follow(start[chosen], frame, k)
        return positions, visible

    def owners(self, points: np.ndarray, frame: int) -> np.ndarray:
        """The number of the layer with the largest weight at pixels [N, 2] of a frame, int [N]."""
        return np.stack([remap_points(w[..., None], points)[:, 0] for w in self.weights(frame)]).argmax(axis=0)

    def _follow(self, start: np.ndarray, frame: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        data, last = self.baked[k], np.array([self.size[1] - 1, self.size[0] - 1], np.float32)
        here = torch.from_numpy(start)
        targets = sample_grid(torch.from_numpy(np.array(data.grid[frame])), here, self.stride)
        positions = np.empty((len(self), *start.shape), np.float32)
        visible = np.zeros(positions.shape[:2], bool)
        # Outwards from the frame: the neighbour's answer is the best first guess.
        for order in (range(frame, len(self)), range(frame - 1, -1, -1)):
            guess, aim, known = here, targets, np.ones(len(start), bool)
            for t in order:
                there = self._in_next_segment(data, guess, order, t)
                if there is not None:  # the other side of what turns is not on the canvas that shows this side
                    aim, known = there, remap_points(np.asarray(data.coverage)[..., None], there.numpy())[:, 0] > 0.5
                guess, error = find_pixels(torch.from_numpy(np.array(data.grid[t])), self.stride, aim, guess)
                positions[t] = guess.numpy()
                inside = ((positions[t] >= -0.5) & (positions[t] <= last + 0.5)).all(axis=-1)
                weight = remap_points(self.weights(t)[k][..., None], positions[t])[:, 0]
                visible[t] = known & inside & (weight > 0.5) & (error.numpy() < 0.5)
        positions[frame] = start
        return positions, visible

    def _in_next_segment(self, data: FitLayer, pixels: torch.Tensor, order: range, t: int) -> torch.Tensor | None:
        """Canvas positions [N, 2], in the segment of frame ``t``, of what lies at ``pixels`` in the frame before it in
        ``order``; None if that frame is of the same segment, or shares none with it."""
        before = t - order.step
        if before not in order or before not in data.shares or t not in data.shares:
            return None
        own = data.shares[t].own
        if data.shares[before].own == own:
            return None
        there = data.maps(before, own)
        return None if there is None else sample_grid(torch.from_numpy(np.array(there.grid)), pixels, self.stride)

    def over(self, clip: Clip) -> Fit:
        """The same layers over other frames, as many and as large; edits of this fit are at home there, too."""
        found = Fit(clip, self.representation, self.config, self.baked, self.stride, self.light_stride, self.stats)
        found.pose_as(self)
        return found

    def attachments(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What else a kind of fit has to keep: plain primitives, and arrays by name.

        See :meth:`canon.registry.Representation.restored`.
        """
        return {}, {}

    def save(self, folder: str | Path) -> None:
        """Write the fit; see :func:`canon.fit_folder.save_fit`."""
        from canon.fit_folder import save_fit

        save_fit(self, Path(folder))

    @property
    def whole(self) -> Box:
        """The box of the whole frame."""
        return slice(0, self.size[0]), slice(0, self.size[1])

    def index(self, t: int) -> int:
        """Frame number with negative ones counted from the end.

        Raises:
            IndexError: there is no such frame.
        """
        if not -len(self) <= t < len(self):
            raise IndexError(f"The clip has {len(self)} frames; there is no frame {t}.")
        return int(t) % len(self)


def pixels_of(
    grid: np.ndarray, stride: int, size: tuple[int, int], targets: torch.Tensor, area: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where texels [N, 2] lie in a frame, and the error of that in texels.

    Args:
        grid: float32 [gh, gw, 2], of the frame.
        size: (height, width) of the frame.
        area: bool [H, W], nonempty: about where to look.
    """
    box = nonzero_box(area.astype(np.uint8))
    assert box is not None
    nodes = grid_nodes(size, stride).numpy()
    near = np.ones(nodes.shape[:2], bool)
    for axis, part in ((0, box[1]), (1, box[0])):
        near &= (nodes[..., axis] > part.start - stride) & (nodes[..., axis] < part.stop + stride)
    own = torch.from_numpy(np.array(grid))
    found, error = find_pixels(own, stride, targets, affine_guess(own, stride, targets, torch.from_numpy(near)))
    return found.numpy(), error.numpy()


def clamped(xy: np.ndarray, box: Box) -> np.ndarray:
    """Positions [..., 2] (x, y) brought into a box of texels."""
    low = np.array([box[1].start, box[0].start], np.float32)
    return np.clip(xy, low, np.array([box[1].stop - 1, box[0].stop - 1], np.float32))


def nonzero_box(image: np.ndarray) -> Box | None:
    """The smallest box around the nonzero pixels of [H, W], or None when there are none."""
    rows = np.flatnonzero(cv2.reduce(image, 1, cv2.REDUCE_MAX).ravel())
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(cv2.reduce(image[rows[0] : rows[-1] + 1], 0, cv2.REDUCE_MAX).ravel())
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _check(fit: Fit) -> None:
    names = [layer.name for layer in fit.baked]
    # Names become file names, and case does not tell files apart everywhere.
    if not names or len({name.lower() for name in names}) < len(names):
        raise InputError(f"A fit needs layers with distinct names, and these are {names}.")
    if min(fit.stride, fit.light_stride) < 1:
        raise InputError(f"The strides of a fit are {fit.stride} and {fit.light_stride}; give at least 1.")
    count, size = len(fit.clip), fit.clip.size
    for layer in fit.baked:
        if not re.fullmatch(r"\w[\w .+-]*", layer.name):
            raise InputError(f"The layer name '{layer.name}' cannot be a file name; use letters, digits, '-' and '_'.")
        if (layer.opacity is None) != (layer is fit.baked[-1]):
            raise InputError(f"Layer '{layer.name}': every layer but the last needs opacity, and the last has none.")
        wrong = misplaced(layer.segments, count, layer.canvas_size)
        if wrong is not None:
            raise InputError(f"A segment of layer '{layer.name}' lies outside of the clip or the canvas: {wrong}.")
        shared = len(layer.shared)
        if shared and (layer.second_grid is None or layer.second_lighting is None):
            raise InputError(f"Segments of layer '{layer.name}' overlap, but the second coordinates there are missing.")
        wanted: dict[str, tuple[tuple[int, ...], type]] = {
            "color": ((*layer.color.shape[:2], 3), np.float32),
            "coverage": (layer.color.shape[:2], np.float32),
            "grid": ((count, *grid_size(size, fit.stride), 2), np.float32),
            "lighting": ((count, *grid_size(size, fit.light_stride), 3), np.float32),
            "opacity": ((count, *size), np.uint8),
            "second_grid": ((shared, *grid_size(size, fit.stride), 2), np.float32),
            "second_lighting": ((shared, *grid_size(size, fit.light_stride), 3), np.float32),
        }
        for key, (shape, dtype) in wanted.items():
            array = getattr(layer, key)
            if array is not None and (array.shape != shape or array.dtype != dtype or 0 in array.shape):
                seen, right = f"{array.dtype} {list(array.shape)}", f"{np.dtype(dtype)} {list(shape)}"
                raise InputError(f"The {key} of layer '{layer.name}' is {seen} instead of {right}.")
