"""What lies where: a pixel on the canvases, a texel in a frame, a point through the clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from canon.boxes import Box
from canon.errors import InputError
from canon.fits import Fit
from canon.grids import affine_guess, find_pixels, sample_grid
from canon.storage import to_uint8


def _check_pixel(fit: Fit, x: float, y: float) -> None:
    if not (-0.5 <= x <= fit.size[1] - 0.5 and -0.5 <= y <= fit.size[0] - 0.5):
        raise InputError(f"The pixel {x:g}, {y:g} is not in the frame ({fit.size[1]}x{fit.size[0]}).")


def in_frame(fit: Fit, t: int, x: float, y: float) -> list[dict[str, Any]]:
    """Where a pixel of frame ``t`` lies on each layer's canvas, with the layer's share and colour there.

    Raises:
        InputError: it is not in the frame.
    """
    _check_pixel(fit, x, y)
    row = min(max(round(y), 0), fit.size[0] - 1)
    column = min(max(round(x), 0), fit.size[1] - 1)
    box: Box = slice(row, row + 1), slice(column, column + 1)
    weights, point, found = fit.weights(t, box), np.array([[x, y]], np.float32), []
    for layer, weight in zip(fit.baked, weights, strict=True):
        u, v = sample_grid(torch.from_numpy(np.array(layer.grid[t])), torch.from_numpy(point), fit.stride)[0].tolist()
        share = layer.shares.get(t)
        segment = 0 if share is None else share.own
        rows, columns = fit.segment_box(layer.name, segment)
        found.append(
            {
                "layer": layer.name,
                "segment": segment,
                "x": u - columns.start,
                "y": v - rows.start,
                "weight": float(weight[0, 0]),
                "colour": to_uint8(fit.look(t, layer.name, point))[0].tolist(),
            }
        )
    return found


def on_canvas(fit: Fit, t: int, layer: str, x: float, y: float) -> dict[str, Any]:
    """Where a texel of a layer's whole canvas is seen in frame ``t``: the pixel, and whether it is in sight."""
    grid = torch.from_numpy(np.array(fit.layer(layer).grid[t]))
    target = torch.tensor([[x, y]], dtype=torch.float32)
    pixel, error = find_pixels(grid, fit.stride, target, affine_guess(grid, fit.stride, target))
    px, py = pixel[0].tolist()
    inside = -0.5 <= px <= fit.size[1] - 0.5 and -0.5 <= py <= fit.size[0] - 0.5 and float(error[0]) < 0.5
    weight = 0.0
    if inside:
        row, column = min(max(round(py), 0), fit.size[0] - 1), min(max(round(px), 0), fit.size[1] - 1)
        box: Box = slice(row, row + 1), slice(column, column + 1)
        weight = float(fit.weights(t, box)[fit.layers.index(layer)][0, 0])
    return {"x": px, "y": py, "inside": inside, "weight": weight}


def track(fit: Fit, t: int, x: float, y: float, layer: str | None = None) -> dict[str, Any]:
    """A point of frame ``t`` followed through the clip: pixels of every frame, and whether it is in sight there.

    Raises:
        InputError: it is not in the frame, or the layer is unknown.
    """
    _check_pixel(fit, x, y)
    if layer is not None:
        fit.layer(layer)
    positions, visible = fit.track(np.array([[x, y]], np.float32), t, layer)
    return {"points": np.round(positions[:, 0], 2).tolist(), "visible": visible[:, 0].tolist()}
