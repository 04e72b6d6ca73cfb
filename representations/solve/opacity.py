"""Opacity in closed form at the silhouettes: matting between the rendered layers, kept near the given masks."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.representations.solve.layers import Problem
from canon.runtime import map_frames

SNAP = 0.04
"""Opacity within this of 0 or 1 becomes 0 or 1: a fitted 0.97 would let the source shine through opaque paint."""
_MATTE_NOISE, _OUTLINE_NOISE = 1.0, 0.12
"""Residual (0..1) that speaks as loud as the mask: a mask that is itself a matte is believed more than an outline."""
_LEAST_THROUGH = 0.05


def refine_opacity(
    problem: Problem, masks: list[np.ndarray], mattes: list[bool], targets: list[np.ndarray], band: int
) -> None:
    """Write the opacity that explains each frame best into ``targets`` and make it the problem's.

    Within ``band`` pixels of a mask's outline,
    alpha = argmin |I - (alpha F + (1 - alpha) B)|^2 / noise^2 + (alpha - mask)^2,
    F being the lit layer and B all that lies behind it; elsewhere the mask is kept, and made solid if it is no matte.

    Args:
        masks: uint8 [T, H, W] per layer but the last, as given or propagated: what is seen of the layer.
        mattes: for each of them, whether its soft edges are to be believed.
        targets: writable arrays of the same shape.
    """

    def one(t: int) -> tuple[int, list[np.ndarray]]:
        return t, _matte_frame(problem, masks, mattes, t, band)

    for t, planes in map_frames(one, range(problem.count)):
        for target, plane in zip(targets, planes, strict=True):
            target[t] = plane
    problem.opacity = list(targets)


def _matte_frame(problem: Problem, masks: list[np.ndarray], mattes: list[bool], t: int, band: int) -> list[np.ndarray]:
    lit = [
        problem.look(layer, t)[0] * problem.light(layer, t) if layer.present[t] else None for layer in problem.layers
    ]
    known = [problem.look(layer, t)[1] if layer.present[t] else None for layer in problem.layers]
    alphas = [torch.from_numpy(o[t].astype(np.float32)).to(problem.device) / 255.0 for o in problem.opacity]
    remaining = problem.frame(t)
    through = torch.ones_like(remaining[..., 0])
    found = []
    for i, (mask, matte) in enumerate(zip(masks, mattes, strict=True)):
        given = np.ascontiguousarray(mask[t])
        colour, seen = lit[i], known[i]
        if colour is None or seen is None or not given.any():
            found.append(given)
            continue
        behind = _composite(lit[i + 1 :], alphas[i + 1 :])
        difference = (colour - behind) * through[..., None]
        error = remaining - behind * through[..., None]
        # What is seen of a layer is its opacity times what the layers in front let through.
        shown = torch.from_numpy(given.astype(np.float32)).to(problem.device) / 255.0
        prior = (shown / through.clamp_min(_LEAST_THROUGH)).clamp_max(1.0)
        noise = _MATTE_NOISE if matte else _OUTLINE_NOISE
        pull = (error * difference).sum(-1) / noise**2
        mass = difference.square().sum(-1) / noise**2
        alpha = ((pull + prior) / (mass + 1.0)).clamp(0, 1)
        alpha = torch.where(seen > 0.5, alpha, prior)
        alphas[i] = _within_band(alpha, prior if matte else (prior > 0.5).float(), given, band)
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


def _within_band(alpha: Tensor, beyond: Tensor, given: np.ndarray, band: int) -> Tensor:
    """``alpha`` within ``band`` pixels of the outline of ``given``, ``beyond`` elsewhere, snapped to 0 and 1."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    solid = (given > 127).astype(np.uint8)
    inner = cv2.erode(solid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    near = torch.from_numpy(cv2.dilate(solid, kernel) - inner).to(alpha.device)
    chosen = torch.where(near > 0, alpha, beyond)
    return ((chosen - SNAP) / (1.0 - 2 * SNAP)).clamp(0, 1)
