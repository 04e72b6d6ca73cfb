"""Opacity in closed form at the silhouettes: matting between the rendered layers, kept near the given masks."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.representations.solve.layers import Problem
from canon.runtime import map_frames

SNAP = 0.12
"""Opacity within this of 0 or 1 becomes 0 or 1: a fitted 0.97 would let the source shine through opaque paint."""


def refine_opacity(
    problem: Problem, masks: list[np.ndarray], targets: list[np.ndarray], band: int, noise: float = 0.06
) -> None:
    """Write the opacity that explains each frame best into ``targets`` and make it the problem's.

    Within ``band`` pixels of a mask's outline,
    alpha = argmin |I - (alpha F + (1 - alpha) B)|^2 / noise^2 + (alpha - mask)^2
    over a 3x3 window, F being the lit layer and B all that lies behind it; elsewhere the mask is kept, and made solid.

    Args:
        masks: uint8 [T, H, W] per layer but the last, as given or propagated.
        targets: writable arrays of the same shape.
    """

    def one(t: int) -> tuple[int, list[np.ndarray]]:
        return t, _matte_frame(problem, masks, t, band, noise)

    for t, planes in map_frames(one, range(problem.count)):
        for target, plane in zip(targets, planes, strict=True):
            target[t] = plane
    problem.opacity = list(targets)


def _matte_frame(problem: Problem, masks: list[np.ndarray], t: int, band: int, noise: float) -> list[np.ndarray]:
    lit = [
        problem.look(layer, t)[0] * problem.light(layer, t) if layer.present[t] else None for layer in problem.layers
    ]
    known = [problem.look(layer, t)[1] if layer.present[t] else None for layer in problem.layers]
    alphas = [torch.from_numpy(o[t].astype(np.float32)).to(problem.device) / 255.0 for o in problem.opacity]
    remaining = problem.frame(t)
    through = torch.ones_like(remaining[..., 0])
    found = []
    for i, mask in enumerate(masks):
        given = np.ascontiguousarray(mask[t])
        colour, seen = lit[i], known[i]
        if colour is None or seen is None or not given.any():
            found.append(given)
            continue
        behind = _composite(lit[i + 1 :], alphas[i + 1 :])
        difference = (colour - behind) * through[..., None]
        error = remaining - behind * through[..., None]
        pull = _window((error * difference).sum(-1)) / noise**2
        mass = _window(difference.square().sum(-1)) / noise**2
        prior = torch.from_numpy(given.astype(np.float32)).to(problem.device) / 255.0
        alpha = ((pull + prior) / (mass + 1.0)).clamp(0, 1)
        alpha = torch.where(seen > 0.5, alpha, prior)
        alphas[i] = _within_band(alpha, given, band)
        remaining = remaining - through[..., None] * alphas[i][..., None] * colour
        through = through * (1.0 - alphas[i])
        found.append((alphas[i] * 255.0 + 0.5).byte().cpu().numpy())
    return found


def _composite(colours: list[Tensor | None], alphas: list[Tensor]) -> Tensor:
    """Layers front to back (the last one opaque) over each other: [H, W, 3]."""
    out = colours[-1]
    assert out is not None
    for colour, alpha in zip(reversed(colours[:-1]), reversed(alphas), strict=True):
        if colour is not None:
            out = alpha[..., None] * colour + (1.0 - alpha[..., None]) * out
    return out


def _window(values: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(values[None, None], 3, 1, 1, count_include_pad=False)[0, 0]


def _within_band(alpha: Tensor, given: np.ndarray, band: int) -> Tensor:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    solid = (given > 127).astype(np.uint8)
    inner = torch.from_numpy(cv2.erode(solid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)).to(alpha.device)
    outer = torch.from_numpy(cv2.dilate(solid, kernel)).to(alpha.device)
    snapped = ((alpha - SNAP) / (1.0 - 2 * SNAP)).clamp(0, 1)
    return torch.where(inner > 0, torch.ones_like(alpha), torch.where(outer > 0, snapped, torch.zeros_like(alpha)))
