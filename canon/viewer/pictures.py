"""What can be seen of one frame of a fit: the clip, what the canvases explain, and maps drawn as pictures."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from canon.compose import LayerEdit
from canon.edits import resize_to
from canon.fits import Fit
from canon.storage import to_uint8

TINTS = np.array(
    [[230, 85, 60], [60, 130, 225], [75, 175, 95], [225, 170, 45], [165, 95, 205], [60, 175, 180]], np.float32
)
"""Colours of layers, front to back, again from the start after the last; the browser's legends show the same."""
ERROR_RANGE = 64
"""Levels of 255 at which the error map is brightest."""
_CHECKS = 24
"""Checks along the longer side of a canvas."""


def source(fit: Fit, t: int) -> np.ndarray:
    """The frame as it is, uint8 [H, W, 3]."""
    return np.array(fit.clip.frames[t])


def reconstruction(fit: Fit, t: int) -> np.ndarray:
    """The frame as the canvases explain it, uint8 [H, W, 3]."""
    return to_uint8(fit.reconstruct(t))


def error(fit: Fit, t: int) -> np.ndarray:
    """How far the two are apart, as a heat map: black 0, brightest from :data:`ERROR_RANGE` levels on."""
    apart = cv2.absdiff(source(fit, t), reconstruction(fit, t)).max(axis=-1)
    heat = cv2.applyColorMap(cv2.convertScaleAbs(apart, alpha=255 / ERROR_RANGE), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(heat, cv2.COLOR_BGR2RGB))


def opacity(fit: Fit, t: int, layer: str | None = None) -> np.ndarray:
    """What each layer contributes to every pixel: one layer's in grey, or all in their :data:`TINTS`."""
    weights = fit.weights(t)
    if layer is not None:
        weight = weights[fit.layers.index(fit.layer(layer).name)]
        return np.repeat(to_uint8(weight)[..., None], 3, axis=2)
    total = np.zeros((*fit.size, 3), np.float32)
    for k, weight in enumerate(weights):
        total += weight[..., None] * TINTS[k % len(TINTS)]
    return to_uint8(total / 255)


def lighting(fit: Fit, t: int, layer: str | None = None) -> np.ndarray:
    """The light on the layers: middle grey is 1, black is none, white is twice as much."""
    names = fit.layers if layer is None else [fit.layer(layer).name]
    weights = fit.weights(t) if layer is None else [np.ones(fit.size, np.float32)]
    total = np.zeros((*fit.size, 3), np.float32)
    for name, weight in zip(names, weights, strict=True):
        total += weight[..., None] * fit.lighting(t, name)
    return to_uint8(total / 2)


def checkerboard(fit: Fit, t: int, layer: str | None = None, mix: float = 0.65) -> np.ndarray:
    """A checkerboard on the canvases, as the frame sees it, over the source."""

    def board(k: int, uv: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
        cell = max(max(canvas) / _CHECKS, 1.0)
        odd = (np.floor(uv[..., 0] / cell) + np.floor(uv[..., 1] / cell)) % 2
        light = TINTS[k % len(TINTS)] * np.float32(0.35) + np.float32(165)
        dark = TINTS[k % len(TINTS)] * np.float32(0.45)
        return np.where(odd[..., None] > 0, light, dark)

    return _overlay(fit, t, layer, mix, board)


def coordinates(fit: Fit, t: int, layer: str | None = None, mix: float = 0.75) -> np.ndarray:
    """UV as colours over the source: red grows to the right of the canvas, green downwards."""

    def ramp(k: int, uv: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
        share = uv / np.array([canvas[1] - 1 or 1, canvas[0] - 1 or 1], np.float32)
        blue = np.full((*uv.shape[:2], 1), 0.25 + 0.5 * (k % 2), np.float32)
        return np.concatenate([share.clip(0, 1), blue], axis=-1) * np.float32(255)

    return _overlay(fit, t, layer, mix, ramp)


def _overlay(
    fit: Fit, t: int, layer: str | None, mix: float, draw: Callable[[int, np.ndarray, tuple[int, int]], np.ndarray]
) -> np.ndarray:
    out = source(fit, t).astype(np.float32)
    names = fit.layers if layer is None else [fit.layer(layer).name]
    for k, name in enumerate(fit.layers):
        if name in names:
            uv, weight = fit.coordinates(t, name)
            out += (mix * weight)[..., None] * (draw(k, uv, fit.layer(name).canvas_size) - out)
    return to_uint8(out / 255)


VIEWS: dict[str, Callable[..., np.ndarray]] = {
    "source": lambda fit, t, layer, mix: source(fit, t),
    "reconstruction": lambda fit, t, layer, mix: reconstruction(fit, t),
    "error": lambda fit, t, layer, mix: error(fit, t),
    "opacity": lambda fit, t, layer, mix: opacity(fit, t, layer),
    "lighting": lambda fit, t, layer, mix: lighting(fit, t, layer),
    "checkerboard": lambda fit, t, layer, mix: checkerboard(fit, t, layer, mix),
    "uv": lambda fit, t, layer, mix: coordinates(fit, t, layer, mix),
}
"""Pictures of frame ``t``, uint8 [H, W, 3], by name; called as (fit, t, layer or None, mix 0..1)."""


def canvas(fit: Fit, layer: str, segment: int = 0, edit: LayerEdit | None = None) -> np.ndarray:
    """The canonical image of a layer, uint8 [h, w, 4], with what edits do to it."""
    found: np.ndarray = fit.canonical(layer, segment).rgba
    box = fit.segment_box(layer, segment)
    if edit is not None and edit.removed:
        found = found * np.array([1, 1, 1, 0.25], np.float32)
    elif edit is not None and edit.levels:
        height, width = edit.size
        total: np.ndarray = np.zeros((height, width, 4), np.float32)
        part = edit.levels[0]
        total[edit.offset[1] : edit.offset[1] + part.shape[0], edit.offset[0] : edit.offset[0] + part.shape[1]] = part
        if edit.size != edit.canvas:
            total = resize_to(total, edit.canvas)
        added, hidden = total[box][..., :3], total[box][..., 3:]
        found = np.dstack([added + (1 - hidden) * found[..., :3], np.maximum(found[..., 3:], hidden)])
    return to_uint8(found)
