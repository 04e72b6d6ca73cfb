"""From networks to baked layers: canvases, control grids, opacity; a chunk at a time, so memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from canon.coordinates import Size, grid_nodes, grid_size, grid_to_pixels, pixel_grid, pixels_to_grid
from canon.fits import FitLayer
from canon.grids import texels_per_pixel
from canon.representations.neural.evaluation import in_chunks
from canon.representations.neural.samples import frame_points
from canon.representations.solve.layers import light_stride
from canon.sampling import splat_plain
from canon.storage import fresh_array

SNAP = 0.05
"""Opacity within this of 0 or 1 becomes 0 or 1: the networks never say quite 1, and 0.97 leaks the source."""
_COARSE = 4
"""Pixels between the places where opacity is looked up first; only where those differ is every pixel."""
_MARGIN = 4  # texels
_SEEN = 0.02
"""Contribution above which a pixel counts as seen."""
Shape = tuple[int, int, int]


class LayerNetworks(Protocol):
    """What can be baked: layers, front to back, at points (x, y, t); see :func:`frame_points`."""

    @property
    def count(self) -> int:
        """Number of layers."""

    def uv(self, layer: int, points: Tensor) -> Tensor:
        """Position on the layer, [..., 3] -> [..., 2]."""

    def opacity(self, points: Tensor) -> Tensor:
        """Stick-breaking opacity of all layers but the last, [..., 3] -> [N - 1, ...]."""

    def colour(self, layer: int, uv: Tensor) -> Tensor:
        """Colour of a layer at its own positions, [..., 2] -> [..., 3] in 0..1."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the torch module that it is."""


def parameter_device(networks: LayerNetworks) -> torch.device:
    """Where networks live."""
    return next(networks.parameters()).device


def bake_layers(
    networks: LayerNetworks,
    names: Sequence[str],
    shape: Shape,
    stride: int,
    unit: float,
    limit: int,
    masks: Sequence[np.ndarray] | None,
    folder: Path,
    progress: Callable[[float], None],
) -> list[FitLayer]:
    """What the networks say, as canvases and maps.

    One frame pixel is about one canvas texel (the median over what is seen). A canvas spans what any frame shows of
    its layer. Coverage: 1 where a frame shows it, 0.5 where the background is only ever hidden and the network guessed.

    Args:
        names: of the layers, front to back.
        shape: (T, H, W).
        stride: pixels between control nodes.
        unit: pixels per unit of uv, about.
        limit: largest side of a canvas, in texels.
        masks: stick-breaking opacity, uint8 [T, H, W] per layer but the last; None = what the networks say.
        folder: where opacity is kept, memory-mapped.
        progress: called with the share that is done.
    """
    count, size = shape[0], (shape[1], shape[2])
    device = parameter_device(networks)
    opacity = [fresh_array(folder / f"opacity-{k}.npy", shape) for k in range(len(names) - 1)]
    nodes = grid_nodes(size, stride, device)
    grids = [np.empty((count, *nodes.shape), np.float32) for _ in names]
    for t in range(count):
        found = bake_opacity(networks, shape, t) if masks is None else [mask[t] for mask in masks]
        for plane, values in zip(opacity, found, strict=True):
            plane[t] = values
        points = frame_points(nodes, t, size, count)
        for k, grid in enumerate(grids):
            grid[t] = in_chunks(lambda p, k=k: networks.uv(k, p), points).cpu().numpy()  # type: ignore[misc]
        progress(0.6 * (t + 1) / count)
    light = np.ones((count, *grid_size(size, light_stride(size)), 3), np.float32)
    layers = []
    for k, name in enumerate(names):
        color, coverage = _bake_canvas(networks, _View(grids[k], opacity, k, size, stride), unit, limit)
        layers.append(FitLayer(name, color, coverage, grids[k], light, opacity[k] if k < len(opacity) else None))
        progress(0.6 + 0.4 * (k + 1) / len(names))
    return layers


def bake_opacity(networks: LayerNetworks, shape: Shape, t: int) -> np.ndarray:
    """Stick-breaking opacity of frame ``t``, uint8 [N - 1, H, W], snapped near 0 and 1.

    Looked up on a coarse lattice first; every pixel is where the lattice's neighbours are not all 0 or all 1.
    """
    count, size = shape[0], (shape[1], shape[2])
    device = parameter_device(networks)
    if networks.count == 1:
        return np.zeros((0, *size), np.uint8)

    def ask(xy: Tensor) -> Tensor:
        found = in_chunks(lambda p: networks.opacity(p).T, frame_points(xy, t, size, count))
        return ((found - SNAP) / (1.0 - 2.0 * SNAP)).clamp(0.0, 1.0)

    coarse = ask(grid_nodes(size, _COARSE, device)).permute(2, 0, 1)[None]
    high = torch.nn.functional.max_pool2d(coarse, 3, 1, 1)
    low = -torch.nn.functional.max_pool2d(-coarse, 3, 1, 1)
    unsure = ((high > 0.0) & (low < 1.0)).any(1, keepdim=True).float()
    planes = grid_to_pixels(coarse, size, _COARSE)[0]
    fine = grid_to_pixels(unsure, size, _COARSE)[0, 0] > 0.0
    planes[:, fine] = ask(pixel_grid(size, device)[fine]).T
    return (planes * 255.0 + 0.5).byte().cpu().numpy()


@dataclass(frozen=True)
class _View:
    """Where every frame looks at one layer.

    Attributes:
        grid: [T, gh, gw, 2] positions at the control nodes; uv at first, canvas pixels in the end.
        opacity: uint8 [T, H, W] of every layer but the last.
        layer: which one this is.
    """

    grid: np.ndarray
    opacity: Sequence[np.ndarray]
    layer: int
    size: Size
    stride: int

    @property
    def last(self) -> bool:
        return self.layer == len(self.opacity)

    def seen(self, t: int) -> Tensor:
        """Pixels that show the layer in frame t, bool [H, W]."""
        weight = np.ones(self.size, np.float32)
        for k, planes in enumerate(self.opacity[: self.layer + 1]):
            alpha = planes[t] / np.float32(255)
            weight = weight * (alpha if k == self.layer else 1.0 - alpha)
        return torch.from_numpy(weight > _SEEN)

    def nodes(self, pixels: Tensor) -> Tensor:
        """Control nodes that pixels [H, W] depend on, bool [gh, gw]."""
        return pixels_to_grid(pixels.float()[None, None], self.stride)[0, 0] > 0

    def positions(self, t: int) -> Tensor:
        """Position of every pixel of frame t, [H, W, 2]."""
        planes = torch.from_numpy(self.grid[t]).permute(2, 0, 1)[None]
        return grid_to_pixels(planes, self.size, self.stride)[0].permute(1, 2, 0)


def _bake_canvas(networks: LayerNetworks, view: _View, unit: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour [Hc, Wc, 3] and coverage [Hc, Wc] of a layer; the view's grid is changed from uv to canvas pixels."""
    low, scale, canvas = _placement(view, unit, limit)
    view.grid[...] = (view.grid - low) * np.float32(scale)
    device = parameter_device(networks)
    origin = torch.from_numpy(low).to(device)
    color = np.empty((*canvas, 3), np.float32)
    rows = max(1, (1 << 20) // canvas[1])
    for top in range(0, canvas[0], rows):
        part = pixel_grid((min(rows, canvas[0] - top), canvas[1]), device)
        part[..., 1] += top
        colours = in_chunks(lambda p: networks.colour(view.layer, p), part / scale + origin)
        color[top : top + rows] = colours.cpu().numpy()
    return color, _coverage(view, canvas)


def _placement(view: _View, nominal: float, limit: int) -> tuple[np.ndarray, float, Size]:
    """The uv of the canvas's first texel [2], texels per unit of uv, and the canvas's size.

    Args:
        nominal: texels per unit of uv before training; the result stays within a factor of 8 of it.
        limit: largest side.
    """
    found: list[np.ndarray] = []
    spans: list[float] = []
    everywhere = view.nodes(torch.ones(view.size))
    for t, grid in enumerate(view.grid):
        nodes = view.nodes(view.seen(t))
        # What is hidden of the background in one frame may be asked for when what hides it is removed.
        used = grid[(everywhere if view.last else nodes).numpy()]
        if len(used):
            found += [used.min(0), used.max(0)]
        if bool(nodes.any()):
            spans.append(texels_per_pixel(torch.from_numpy(grid), view.stride, nodes))
    ends = np.stack(found) if found else view.grid.reshape(-1, 2)
    low, high = ends.min(0), ends.max(0)
    scale = 1.0 / max(float(np.median(spans)), 1e-9) if spans else nominal
    scale = float(np.clip(scale, nominal / 8.0, nominal * 8.0))
    scale = min(scale, (limit - 2 * _MARGIN - 2) / max(float((high - low).max()), 1e-9))
    width, height = np.ceil((high - low) * scale).astype(int) + 2 * _MARGIN + 1
    return (low - _MARGIN / scale).astype(np.float32), scale, (int(height), int(width))


def _coverage(view: _View, canvas: Size) -> np.ndarray:
    """1 where a frame shows the canvas, 0.5 where frames look at the background but never see it, 0 elsewhere."""
    shown, looked = torch.zeros(canvas), torch.zeros(canvas)
    every = torch.ones((*view.size, 1))
    for t in range(len(view.grid)):
        xy, seen = view.positions(t), view.seen(t)
        shown += splat_plain(seen.float()[..., None], xy, canvas)[..., 0]
        if view.last:
            looked += splat_plain(every, xy, canvas)[..., 0]
    # Where the canvas is finer than the frames, pixels leave gaps between the texels that they fall on.
    kernel = np.ones((3, 3), np.uint8)
    masks = [cv2.morphologyEx((x.numpy() > 0.05).astype(np.uint8), cv2.MORPH_CLOSE, kernel) for x in (shown, looked)]
    return np.where(masks[0] > 0, 1.0, np.where(masks[1] > 0, 0.5, 0.0)).astype(np.float32)
