"""The true result of an edit, and ready-made things to paint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from canon.errors import InputError
from canon.scenes.sampling import average, sample
from canon.storage import to_uint8

if TYPE_CHECKING:
    from canon.scenes.scene import Scene


class TrueEdit:
    """The video that a perfect method renders when overlays are painted over a scene's textures.

    The rule of the renderer, with true values in place of fitted ones, at every subpixel: with w the layer's weight, L
    its light, s its texture colour, and c, a the overlay's colour and opacity,

        out = source + mean(sum w a [L (c - s) - r])        where r = source - clean

    so the light falls on the paint as on the surface, and of the residual r (sensor noise and rounding) the share 1 - a
    that the paint lets through is kept. No fresh noise is laid over opaque paint. Where nothing is painted, the source
    comes back bit for bit.
    """

    def __init__(self, scene: Scene, overlays: dict[str, np.ndarray]) -> None:
        self.scene = scene
        self._overlays: dict[str, np.ndarray] = {}
        for layer, overlay in overlays.items():
            if layer not in scene.textures:
                raise InputError(f"The scene has no layer '{layer}'; its layers are {', '.join(scene.layers)}.")
            image = np.array(overlay, np.float32)
            if image.shape != scene.textures[layer].shape:
                wanted = scene.textures[layer].shape
                raise InputError(f"The overlay for '{layer}' has shape {image.shape}; the texture's is {wanted}.")
            # Bilinear samples of straight colours would mix in the colour of transparent texels.
            image[..., :3] *= image[..., 3:]
            self._overlays[layer] = image

    def __len__(self) -> int:
        return len(self.scene)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[t] for t in range(len(self)))

    def __getitem__(self, t: int) -> np.ndarray:
        """Edited frame ``t``, uint8 [H, W, 3]."""
        change, area = self._change(t)
        source = self.scene.frame(t)
        residual = source / np.float32(255.0) - self.scene.clean(t)
        edited = to_uint8(source / np.float32(255.0) + change - area[..., None] * residual)
        return np.where(area[..., None] > 0, edited, source)

    @property
    def frames(self) -> np.ndarray:
        """All edited frames at once, uint8 [T, H, W, 3]."""
        return np.stack(list(self))

    def area(self, t: int) -> np.ndarray:
        """How much of each pixel of frame ``t`` is paint, float32 [H, W] in 0..1; exactly 0 where nothing changes."""
        return self._change(t)[1]

    def _change(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Change of the noise-free frame [H, W, 3] and share of paint [H, W]."""
        change = np.zeros((*self.scene.size, 3), np.float32)
        area = np.zeros(self.scene.size, np.float32)
        for layer, share in self.scene.shares(t).items():
            overlay = self._overlays.get(layer)
            if overlay is None or share.weight.size == 0:
                continue
            paint = sample(overlay, *share.uv, outside=0.0)
            surface = sample(self.scene.textures[layer][..., :3], *share.uv)
            delta = (paint[..., :3] - paint[..., 3:] * surface) * share.visible[..., None]
            change[share.box] += average(delta) * self.scene._light(t % len(self), layer, share.box)
            area[share.box] += average(paint[..., 3] * share.visible)
        return change, area


def draw_emblem(size: tuple[int, int], centre: tuple[float, float], radius: float, soft: bool) -> np.ndarray:
    """A badge (disc, ring, lettering, a slanted bar) as an overlay, float32 [H, W, 4] in 0..1, straight alpha.

    Args:
        size: (height, width) of the overlay.
        centre: (x, y) of the badge, in texels.
        radius: its radius, in texels.
        soft: whether to band-limit it (Gaussian of about 5 % of the radius, at least 1.2 texels).
    """
    factor, bits = 4, 4
    reach = int(np.ceil(radius)) + 8
    x0, y0 = round(centre[0]) - reach, round(centre[1]) - reach
    side = 2 * reach + 1
    canvas = np.zeros((side * factor, side * factor, 4), np.uint8)
    middle = ((reach + 0.5) * factor - 0.5, (reach + 0.5) * factor - 0.5)
    unit = radius * factor

    def fixed(x: float, y: float) -> tuple[int, int]:
        return round((middle[0] + x * unit) * (1 << bits)), round((middle[1] + y * unit) * (1 << bits))

    def disc(share: float, colour: tuple[int, int, int]) -> None:
        cv2.circle(canvas, fixed(0, 0), round(unit * share * (1 << bits)), (*colour, 255), -1, cv2.LINE_8, bits)

    disc(1.0, (245, 210, 40))
    disc(0.86, (30, 70, 170))
    disc(0.76, (200, 40, 60))
    stroke = max(round(unit * 0.13), 1)
    # The letters "C N" and a bar, drawn as strokes: fonts look different from one OpenCV build to the next.
    white = (250, 250, 245, 255)
    at = (round(middle[0] - 0.33 * unit), round(middle[1] - 0.05 * unit))
    cv2.ellipse(canvas, at, (round(0.22 * unit), round(0.30 * unit)), 0, 50, 310, white, stroke)
    letter = [(0.10, 0.25), (0.10, -0.35), (0.48, 0.25), (0.48, -0.35)]
    points = np.array([fixed(x, y) for x, y in letter], np.int32)
    cv2.polylines(canvas, [points], False, white, stroke, cv2.LINE_8, bits)
    cv2.line(canvas, fixed(-0.42, 0.52), fixed(0.42, 0.46), (255, 220, 60, 255), stroke, cv2.LINE_8, bits)

    image: np.ndarray = canvas.astype(np.float32) / 255.0
    image[..., :3] *= image[..., 3:]
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    if soft:
        image = cv2.GaussianBlur(image, (0, 0), max(0.05 * radius, 1.2))
        image[image[..., 3] < 2e-3] = 0
    overlay = np.zeros((*size, 4), np.float32)
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(y0 + side, size[0]), min(x0 + side, size[1])
    overlay[top:bottom, left:right] = image[top - y0 : bottom - y0, left - x0 : right - x0]
    alpha = overlay[..., 3:]
    overlay[..., :3] = np.where(alpha > 0, overlay[..., :3] / np.maximum(alpha, 1e-6), 0)
    return np.clip(overlay, 0, 1)
