"""Fits made of a scene's true maps: what the renderer and the editors are judged by, apart from any solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from canon.clip import Clip
from canon.coordinates import grid_nodes
from canon.fits import Fit, FitLayer
from canon.scenes import Scene, make

STRIDE, LIGHT_STRIDE = 8, 16


def small_scene(name: str = "pan", **overrides: object) -> Scene:
    """A preset at test size, odd and not square, moving as it would in a longer clip."""
    size = {"width": 193, "height": 109, "frames": 8, "sway_period": 24.0, "bend_period": 16.0}
    size |= {"occluder_period": 24.0}  # so that the occluder reaches the foreground by frame 4
    return make(name, **{**size, **overrides})


def true_fit(scene: Scene, cache: Path | None = None, canvas_scale: int = 1) -> Fit:
    """The fit that a perfect solver would bake.

    Args:
        canvas_scale: texels per texture texel along a side: 2 makes canvases twice as fine as the frame.
    """
    clip = Clip.from_frames((scene.frame(t) for t in range(len(scene))), fps=24, cache=cache)
    nodes = grid_nodes(scene.size, STRIDE).numpy().astype(np.float64)
    # Light is known at pixels only; nodes beyond the frame continue its last two pixels.
    light_nodes = grid_nodes(scene.size, LIGHT_STRIDE).numpy()
    layers = []
    for name in scene.layers:
        texture = scene.textures[name]
        if canvas_scale > 1:
            texture = texture.repeat(canvas_scale, axis=0).repeat(canvas_scale, axis=1)
        grid = np.stack([scene.to_texture(t, name, nodes) for t in range(len(scene))])
        grid = (grid + 0.5) * canvas_scale - 0.5
        light = np.stack([_at(scene.lighting(t, name), light_nodes) for t in range(len(scene))])
        opacity = None
        if name != "background":
            opacity = np.stack([scene.masks(t, name, visible=False) for t in range(len(scene))])
        layers.append(
            FitLayer(
                name,
                np.ascontiguousarray(texture[..., :3]),
                (texture[..., 3] > 0).astype(np.float32),
                grid.astype(np.float32),
                light.astype(np.float32),
                opacity,
            )
        )
    return Fit(clip, "truth", {"seed": scene.config.seed}, layers, STRIDE, LIGHT_STRIDE, {"seconds": {"fit": 0.0}})


def _at(image: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Values at nodes [gh, gw, 2], continued linearly where they lie beyond the image."""
    height, width = image.shape[:2]
    x, y = nodes[0, :, 0].astype(int), nodes[:, 0, 1].astype(int)
    inner = image[np.minimum(y, height - 1)][:, np.minimum(x, width - 1)].astype(np.float64)
    down = (image[-1] - image[-2])[np.minimum(x, width - 1)]
    right = (image[:, -1] - image[:, -2])[np.minimum(y, height - 1)]
    inner[-1] += down * max(y[-1] - height + 1, 0)
    inner[:, -1] += right * max(x[-1] - width + 1, 0)
    return inner


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Decibels between images in 0..1, or of uint8; over the pixels ``where`` [..., H, W]."""
    a, b = (x.astype(np.float64) / (255 if x.dtype == np.uint8 else 1) for x in (a, b))
    square = (a - b) ** 2
    mean = square.mean() if where is None else square[where].mean()
    return float("inf") if mean == 0 else float(-10 * np.log10(mean))
