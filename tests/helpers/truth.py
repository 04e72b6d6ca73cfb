"""Fits made of a scene's true maps: what the renderer and the editors are judged by, apart from any solver."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import torch

import canon
from canon.clip import Clip
from canon.coordinates import grid_nodes, pixel_grid
from canon.edits import Edit, Over, Step
from canon.fits import Fit, FitLayer
from canon.grids import affine_guess, invert_grid
from canon.scenes import Scene, make
from canon.scenes.sampling import sample_points
from canon.segments import Segment
from canon.skeletons import axis_rotation

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


def still_fit(image: np.ndarray, frames: int = 4, light: Sequence[float] | None = None) -> Fit:
    """A clip that shows one image all the time, uint8 [H, W, 3], as one layer whose canvas is that image.

    Args:
        light: factor that the fit believes to lie on each frame; the frames themselves stay as they are.
    """
    clip = Clip.from_frames([image] * frames)
    nodes, lit = (grid_nodes(clip.size, stride).numpy() for stride in (STRIDE, LIGHT_STRIDE))
    grid = np.repeat(nodes[None].astype(np.float32), frames, axis=0)
    lighting = np.ones((frames, *lit.shape[:2], 3), np.float32)
    lighting *= np.float32(light or [1.0] * frames)[:, None, None, None]
    canvas = image.astype(np.float32) / 255
    layer = FitLayer("background", canvas, np.ones(clip.size, np.float32), grid, lighting, None)
    return Fit(clip, "truth", {}, [layer], STRIDE, LIGHT_STRIDE)


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


def transfer(scene: Scene, fit: Fit, layer: str, name: str, overlay: np.ndarray, frame: int, scale: int) -> np.ndarray:
    """An overlay of the true texture, painted on a fit's canvas at ``scale`` times its size as seen in one frame.

    How bright a canvas is, and how bright its light, is a matter of taste: the paint is to look right in that frame.
    """
    height, width = fit.layer(name).canvas_size
    texels = (pixel_grid((height * scale, width * scale)) + 0.5) / scale - 0.5
    grid = torch.from_numpy(np.array(fit.layer(name).grid[frame]))
    flat = texels.reshape(-1, 2)
    pixels, error = invert_grid(grid, fit.stride, flat, affine_guess(grid, fit.stride, flat), 12)
    inside = (pixels >= 0).all(-1) & (pixels[:, 0] <= fit.size[1] - 1) & (pixels[:, 1] <= fit.size[0] - 1)
    known = (inside & (error < 0.1)).numpy()
    uv = scene.to_texture(frame, layer, pixels.numpy().astype(np.float64))
    premultiplied = np.dstack([overlay[..., :3] * overlay[..., 3:], overlay[..., 3:]])
    found = sample_points(np.ascontiguousarray(premultiplied), uv, outside=0.0) * known[:, None]
    found[:, :3] /= np.maximum(found[:, 3:], 1e-6)
    gain = scene.lighting(frame, layer) / fit.lighting(frame, name)
    found[:, :3] *= sample_points(gain, np.clip(pixels.numpy(), 0, np.array(fit.size[::-1]) - 1))
    return found.reshape(height * scale, width * scale, 4).astype(np.float32)


def painted_truth(scene: Scene, layer: str, overlay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a true edit, uint8 [T, H, W, 3], and where they are painted, bool [T, H, W]."""
    truth = scene.true_edit({layer: overlay})
    frames, areas = zip(*((truth[t], truth.area(t) > 0) for t in range(len(scene))), strict=True)
    return np.stack(frames), np.stack(areas)


def edit_psnr(
    scene: Scene,
    fit: Fit,
    layer: str,
    name: str,
    overlay: np.ndarray,
    truth: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """PSNR (dB) inside the edited area of an overlay of the true texture of ``layer``, painted on a fit's ``name``.

    Args:
        truth: what :func:`painted_truth` gives of them, where several fits are measured; None asks it.
    """
    frames, areas = painted_truth(scene, layer, overlay) if truth is None else truth
    frame = int(areas.sum(axis=(1, 2)).argmax())
    paint = Over(transfer(scene, fit, layer, name, overlay, frame, 2))
    video = canon.render(fit, Edit([Step(name, paint)]))
    return psnr(np.concatenate([video[t][area] for t, area in enumerate(areas)]), frames[areas])


def track_errors(scene: Scene, fit: Fit, layer: str, name: str, count: int) -> np.ndarray:
    """How far (px) tracks of the fit's layer ``name`` are from the true ones, started in three frames."""
    errors = []
    for frame in (0, len(scene) // 2, len(scene) - 1):
        true, seen = scene.tracks(layer, count, frame=frame)
        found, _ = fit.track(true[frame], frame=frame, layer=name)
        seen[frame] = False  # there the error is zero by definition
        errors.append(np.linalg.norm(found - true, axis=-1)[seen])
    return np.concatenate(errors)


def read_exr(path: Path) -> dict[str, np.ndarray]:
    with OpenEXR.File(str(path), separate_channels=True) as file:
        return {name: np.array(channel.pixels, np.float32) for name, channel in file.channels().items()}


def rebuilt_from_stmaps(folder: Path, t: int) -> np.ndarray:
    """Frame t as a compositor adds it up, with OpenCV and the convention written out anew."""
    total: np.ndarray | None = None
    for layer in json.loads((folder / "stmaps.json").read_text())["layers"]:
        own = folder / layer["name"]
        st, light, matte = (read_exr(own / f"{name}.{t:05d}.exr") for name in ("stmap", "light", "matte"))
        look: np.ndarray | float = 0.0
        for file, weights in zip(layer["plates"], layer["weights"], strict=True):
            plate = read_exr(own / file)
            image = np.dstack([plate[c] for c in "RGB"])
            height, width = image.shape[:2]
            x, y = st["R"] * width - np.float32(0.5), (1 - st["G"]) * height - np.float32(0.5)
            found = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            look = look + weights[t] * found
        part = look * np.dstack([light[c] for c in "RGB"]) * matte["R"][..., None]
        total = part if total is None else total + part
    assert total is not None
    return total


def split_in_two(fit: Fit, name: str, at: int, overlap: int, gain: float = 1.0) -> Fit:
    """The same fit, but that a layer has a canvas for the frames before ``at`` and another, below, for the others.

    Args:
        overlap: frames on either side of ``at`` that both have.
        gain: how much darker the second canvas is, and how much brighter the light on it.
    """
    layer = fit.layer(name)
    height, width = layer.canvas_size
    down = np.array([0, height], np.float32)
    color = np.concatenate([layer.color, layer.color / np.float32(gain)])
    grid, lighting = layer.grid.copy(), layer.lighting.copy()
    grid[at:] += down
    lighting[at:] *= np.float32(gain)
    second_grid = layer.grid[at - overlap : at + overlap].copy()
    second_lighting = layer.lighting[at - overlap : at + overlap].copy()
    second_grid[:overlap] += down
    second_lighting[:overlap] *= np.float32(gain)
    first = Segment(0, at + overlap - 1, 0, 0, height, width)
    last = Segment(at - overlap, len(fit) - 1, height, 0, height, width)
    coverage = np.concatenate([layer.coverage] * 2)
    halves = FitLayer(name, color, coverage, grid, lighting, layer.opacity, (first, last), second_grid, second_lighting)
    layers = [halves if one.name == name else one for one in fit.baked]
    return Fit(fit.clip, fit.representation, fit.config, layers, fit.stride, fit.light_stride, fit.stats)


def turned(angles: tuple[float, float, float]) -> np.ndarray:
    """A rotation float64 [3, 3]: about z, then y, then x."""
    x, y, z = (axis_rotation(axis, np.array(angle)) for axis, angle in enumerate(angles))
    return np.asarray(x @ y @ z)
