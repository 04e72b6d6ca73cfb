"""Canvases in closed form: robust weighted means of all frames in canvas space, then least squares by back-projection.

Frames are *gathered* into the canvas through the inverse coordinates; no pixel loop, no scatter.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.coordinates import grid_nodes
from canon.grids import invert_grid, jacobian
from canon.representations.solve.grids import GridBasis, fit_affine
from canon.representations.solve.layers import Problem
from canon.runtime import map_frames
from canon.sampling import fill_unseen, sample

CANVAS_STRIDE = 8
_OUTLIER = 0.3  # residual (0..1) from which a pixel counts half
_BORDER = 6  # frame pixels over which a frame fades out in the canvas, so that frame edges leave no seam


@dataclass(frozen=True)
class Footprint:
    """Where one frame falls in a layer's canvas.

    Attributes:
        rows, columns: the window of the canvas that is touched.
        pixels: [h, w, 2] frame position of each texel of the window.
        density: [h, w] frame pixels per texel, 0 where the texel is not in the frame.
    """

    rows: slice
    columns: slice
    pixels: Tensor
    density: Tensor


def footprint(problem: Problem, index: int, t: int, level: int = 0) -> Footprint | None:
    """Inverse coordinates of what frame t shows of a layer, or None when that is nothing.

    Canvas and frame are those of pyramid level ``level``.
    """
    layer, stride = problem.layers[index], problem.stride
    grid = layer.grid[t]
    seen = seen_nodes(problem, index, t)
    corners = grid[seen > 0]
    if len(corners) == 0:
        return None
    height, width = layer.levels[level].shape[:2]
    reduce = 2**level
    low = (((corners.amin(0) + 0.5) / reduce - 0.5).floor() - 2).long().tolist()
    high = (((corners.amax(0) + 0.5) / reduce - 0.5).ceil() + 3).long().tolist()
    x0, y0 = max(low[0], 0), max(low[1], 0)
    x1, y1 = min(high[0], width), min(high[1], height)
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    window = (y1 - y0, x1 - x0)
    targets = (grid_nodes(window, CANVAS_STRIDE, grid.device) + grid.new_tensor([x0, y0]) + 0.5) * reduce - 0.5
    nodes = grid_nodes(problem.size, stride, grid.device).reshape(-1, 2)
    inverse = fit_affine(grid.reshape(-1, 2), nodes, seen.reshape(-1) + 1e-6).to(grid.dtype)
    found, error = invert_grid(grid, stride, targets, targets @ inverse[:2] + inverse[2], steps=6)
    found = (found + 0.5) / reduce - 0.5
    j = jacobian(found, CANVAS_STRIDE)
    det = j[..., 0, 0] * j[..., 1, 1] - j[..., 0, 1] * j[..., 1, 0]
    valid = ((error < 0.5) & (det > 0.02)).float()
    basis = GridBasis(window, CANVAS_STRIDE, 0, grid.device)
    maps = basis.to_pixels(torch.cat([found, det.clamp(0, 1)[..., None], valid[..., None]], -1))
    pixels = maps[..., :2].contiguous()
    h, w = problem.basis(level).level_size
    margin = torch.minimum(
        torch.minimum(pixels[..., 0], w - 1 - pixels[..., 0]), torch.minimum(pixels[..., 1], h - 1 - pixels[..., 1])
    )
    density = maps[..., 2] * (maps[..., 3] > 0.99) * ((margin + 1.0) * reduce / _BORDER).clamp(0, 1)
    return Footprint(slice(y0, y1), slice(x0, x1), pixels, density)


def seen_nodes(problem: Problem, index: int, t: int) -> Tensor:
    """Nodes [gh, gw] with any of the layer in their window, as 0/1."""
    if index == len(problem.layers) - 1:
        return torch.ones(problem.layers[index].grid.shape[1:3], device=problem.device)
    return (problem.basis(2).gather(problem.weights(t, 2)[index][..., None])[..., 0] > 1e-3).float()


def gather(
    problem: Problem, index: int, t: int, image: Tensor, weight: Tensor, level: int = 0
) -> tuple[Footprint, Tensor, Tensor] | None:
    """``image`` [H, W, 3] seen with ``weight`` [H, W] -> colours [h, w, 3] and weights [h, w] in the canvas window.

    Frame and canvas are those of pyramid level ``level``.
    """
    print_ = footprint(problem, index, t, level)
    if print_ is None:
        return None
    packed = torch.cat([image * weight[..., None], weight[..., None]], dim=-1)
    found = sample(packed, print_.pixels)
    mass = found[..., 3]
    return print_, found[..., :3] / mass.clamp_min(1e-3)[..., None], mass * print_.density


def robust_canvas(
    problem: Problem, index: int, scales: tuple[float | None, ...] = (None, 0.15, 0.07), erode: int = 2
) -> None:
    """Canvas of one layer as a robust mean over all frames.

    Args:
        scales: one pass each: residual (0..1) at which a sample's weight has fallen to a quarter; None = plain mean.
        erode: pixels by which the layer's visible area is shrunk, so that no rim of another layer gets in.
    """
    layer = problem.layers[index]
    times = [int(t) for t in np.nonzero(layer.present)[0]]
    for scale in scales:
        total = torch.zeros((*layer.canvas_size, 4), device=problem.device)
        current = layer.color

        def one(t: int, scale: float | None = scale, current: Tensor = current) -> tuple[Footprint, Tensor] | None:
            light = problem.light(layer, t)
            seen = interior(problem.weights(t)[index], erode)
            found = gather(problem, index, t, problem.frame(t) / light, seen)
            if found is None:
                return None
            print_, color, weight = found
            if scale is not None:
                off = (color - current[print_.rows, print_.columns]).square().sum(-1) / (3 * scale**2)
                weight = weight / (1.0 + off).square()
            return print_, torch.cat([color * weight[..., None], weight[..., None]], -1)

        for result in map_frames(one, times):
            if result is not None:
                print_, part = result
                total[print_.rows, print_.columns] += part
        mass = total[..., 3]
        color = total[..., :3] / mass.clamp_min(1e-6)[..., None]
        layer.set_canvas(fill_unseen(color, mass), mass)


def interior(weight: Tensor, erode: int) -> Tensor:
    """The weight [H, W], zeroed within ``erode`` pixels of where it falls below one half."""
    if erode <= 0:
        return weight
    solid = (weight.cpu().numpy() > 0.5).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * erode + 1, 2 * erode + 1))
    shrunk = cv2.erode(solid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return weight * torch.from_numpy(shrunk).to(weight.device)


def back_project(problem: Problem, level: int = 0) -> float:
    """One step towards the least-squares canvases: the composite's residual is gathered back and added.

    (Irani and Peleg, 1991.) A coarse ``level`` corrects the coarse part of the canvases only, at a fraction of the
    cost.

    Returns the mean squared error before the step.
    """
    totals = [torch.zeros((*layer.levels[level].shape[:2], 4), device=problem.device) for layer in problem.layers]

    def one(t: int) -> tuple[float, list[tuple[int, Footprint, Tensor]]]:
        weights = problem.weights(t, level)
        residual = problem.frame(t, level) - problem.render(t, level)
        trust = 1.0 / (1.0 + residual.square().sum(-1) / (3 * _OUTLIER**2))
        parts = []
        for i, (layer, w) in enumerate(zip(problem.layers, weights, strict=True)):
            print_ = footprint(problem, i, t, level) if layer.present[t] else None
            if print_ is None:
                continue
            light = problem.light(layer, t, level)
            share = (w * trust)[..., None]
            gain = light.mean(-1, keepdim=True) ** 2 * w.clamp_min(0.2)[..., None]
            packed = torch.cat([residual * light * share, gain * share], -1)
            parts.append((i, print_, sample(packed, print_.pixels) * print_.density[..., None]))
        return float(residual.square().mean()), parts

    errors = []
    for value, parts in map_frames(one, range(problem.count)):
        errors.append(value)
        for i, print_, part in parts:
            totals[i][print_.rows, print_.columns] += part
    for layer, total in zip(problem.layers, totals, strict=True):
        update = total[..., :3] / (total[..., 3:] + 0.05)
        if level:
            update = enlarge(update, layer.canvas_size, 2**level)
        layer.set_canvas((layer.color + update).clamp(0, 1), layer.coverage)
    return float(np.mean(errors))


def enlarge(image: Tensor, size: tuple[int, int], factor: int) -> Tensor:
    """[h, w, C] at ``factor`` times the size, cut to ``size``."""
    planes = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None], scale_factor=factor, mode="bilinear", align_corners=False
    )
    return planes[0, :, : size[0], : size[1]].permute(1, 2, 0)
