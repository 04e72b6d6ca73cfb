"""A synthetic scene: frames rendered on demand, and everything that is true about them."""

from __future__ import annotations

import math
import tempfile
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from canon.coordinates import pixel_grid, resize_points
from canon.errors import InputError
from canon.scenes import textures
from canon.scenes.config import SceneConfig
from canon.scenes.edits import TrueEdit, draw_emblem
from canon.scenes.motion import Path, camera_path, extent, occluder_path, subject_path
from canon.scenes.sampling import SUPERSAMPLE, average, fine, sample, sample_points
from canon.storage import to_uint8, write_image, write_yaml

if TYPE_CHECKING:
    from canon.clip import Clip

_LARGEST = 16384
"""Largest side of a background, in texels."""


@dataclass
class Share:
    """What one layer adds to one frame, over the rectangle of the frame that it can reach, area-averaged."""

    box: tuple[slice, slice]
    """Rows and columns of the frame."""
    weight: np.ndarray
    """Contribution (opacity times transmittance of the layers in front), float32 [h, w]."""
    colour: np.ndarray
    """Contribution times texture colour, unlit, float32 [h, w, 3]."""
    visible: np.ndarray
    """Contribution at the subpixels, float32 [h * 2, w * 2]."""
    uv: tuple[np.ndarray, np.ndarray]
    """Texture coordinates at the subpixels, two float32 [h * 2, w * 2]."""


class Scene:
    """Layers with known textures moving in a known way; see :class:`SceneConfig` for what can be set.

    A frame is ``sum over layers of lighting * area average of (weight * texture colour)``, plus sensor noise, rounded
    to 8 bits. Pixels are averaged over 2 x 2 subpixels, so edges are antialiased. Only the textures and the frame last
    rendered are held in memory.

    Convention: points and texture coordinates are (x, y), pixel centres at integers.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        self.size: tuple[int, int] = (config.height, config.width)
        """(height, width) of the frames."""
        self.paths: dict[str, Path] = {}
        """Layer -> its motion."""
        self.textures: dict[str, np.ndarray] = {}
        """Layer -> true canonical image, float32 [Hc, Wc, 4] in 0..1, straight alpha."""
        # Separate streams, so that switching one feature on changes nothing else in the scene.
        streams = ("occluder", "occluder path", "fore", "fore path", "back", "light")
        rngs = {name: np.random.default_rng([config.seed, i]) for i, name in enumerate(streams)}
        short = config.short_side
        thin = max(0.011 * short, 2.2) if config.thin else 0.0
        if config.occluder:
            name = "cup" if config.subject != "cup" else "astronaut"
            image = textures.subject_texture(name, 0.17 * short, 0.0, 0.85, config.lighting, rngs["occluder"])
            self._add("occluder", image, occluder_path(config, _middle(image), rngs["occluder path"]))
        radius = config.subject_size * short
        image = textures.subject_texture(config.subject, radius, thin, 1.08, config.lighting, rngs["fore"])
        self._add("foreground", image, subject_path(config, _middle(image), rngs["fore path"]))
        camera = camera_path(config, rngs["back"])
        low, high = extent(camera, config.width, config.height)
        margin = 8.0
        size = tuple(math.ceil(s) for s in (high - low + 2 * margin)[::-1])
        if max(size) > _LARGEST:
            wanted = f"{size[1]}x{size[0]}"
            raise InputError(f"The scene's camera would need a background of {wanted} pixels; set swing_period.")
        image = textures.panorama((size[0], size[1]), config.backdrop, rngs["back"])
        image = textures.to_range(textures.band_limit(image), config.lighting)
        opaque = np.ones((*image.shape[:2], 1), np.float32)
        offset = (float(margin - low[0]), float(margin - low[1]))
        self._add("background", np.concatenate([image, opaque], axis=-1), camera.moved(offset))
        everyone = ("background", "foreground", "occluder")
        self._light_phase = {layer: rngs["light"].uniform(0, 2 * np.pi, 3) for layer in everyone}
        doubled = (config.height * SUPERSAMPLE, config.width * SUPERSAMPLE)
        subpixels = resize_points(pixel_grid(doubled), doubled, self.size).numpy().astype(np.float64)
        self._xs, self._ys = subpixels[0, :, 0].copy(), subpixels[:, 0, 1].copy()
        self._cached: tuple[int, dict[str, Share]] | None = None

    def _add(self, layer: str, texture: np.ndarray, path: Path) -> None:
        self.textures[layer] = np.ascontiguousarray(texture)
        self.paths[layer] = path

    def __len__(self) -> int:
        return self.config.frames

    @property
    def layers(self) -> list[str]:
        """Names of the layers, front to back; the last is "background"."""
        return list(self.textures)

    # --- images ---

    def frame(self, t: int) -> np.ndarray:
        """Frame ``t`` as a camera gives it, uint8 [H, W, 3]."""
        t = self._check(t)
        clean = self.clean(t)
        if self.config.noise:
            rng = np.random.default_rng([self.config.seed, 1_000_003, t])
            clean += rng.standard_normal(clean.shape, dtype=np.float32) * np.float32(self.config.noise / 255.0)
        return to_uint8(clean)

    @property
    def frames(self) -> np.ndarray:
        """All frames at once, uint8 [T, H, W, 3]; long scenes are better read one frame at a time."""
        return np.stack([self.frame(t) for t in range(len(self))])

    def clean(self, t: int) -> np.ndarray:
        """Frame ``t`` without noise and rounding, float32 [H, W, 3] in 0..1."""
        image = np.zeros((*self.size, 3), np.float32)
        for layer, share in self.shares(t).items():
            image[share.box] += share.colour * self._light(t, layer, share.box)
        return image

    def masks(self, t: int, layer: str, visible: bool = True) -> np.ndarray:
        """Soft mask of a layer at frame ``t``, uint8 [H, W] (255 = wholly this layer).

        Args:
            visible: True gives what can be seen of the layer (its contribution, what an annotator would paint);
                False gives its own opacity, also where another layer hides it.
        """
        t = self._check(t)
        if visible:
            return to_uint8(self.coordinates(t, layer)[1])
        u, v = self.paths[self._name(layer)].grid(t, self._xs, self._ys)
        alpha = sample(self.textures[layer][..., 3], u, v, outside=1.0 if layer == "background" else 0.0)
        return to_uint8(average(alpha))

    def lighting(self, t: int, layer: str) -> np.ndarray:
        """Gain of the light on the layer at frame ``t``, float32 [H, W, 3] within 1 - lighting .. 1 + lighting."""
        everything = (slice(0, self.size[0]), slice(0, self.size[1]))
        return np.array(np.broadcast_to(self._light(self._check(t), self._name(layer), everything), (*self.size, 3)))

    def _light(self, t: int, layer: str, box: tuple[slice, slice]) -> np.ndarray:
        amount = self.config.lighting
        if not amount:
            return np.ones((1, 1, 1), np.float32)
        p = self._light_phase[layer]
        turn = 2 * np.pi * t / self.config.lighting_period
        # Waves longer than the frame, drifting: a cloud's shadow, not a texture.
        x = np.cos(2 * np.pi * np.arange(box[1].start, box[1].stop) / (1.3 * self.size[1]) + p[0] + 0.7 * turn)
        y = np.cos(2 * np.pi * np.arange(box[0].start, box[0].stop) / (1.7 * self.size[0]) + p[1] - 0.4 * turn)
        gain = 0.55 * math.sin(turn + self._light_phase["background"][2]) + 0.45 * y[:, None] * x[None]
        tint = np.array([1.0, 0.94, 0.84])
        return (1 + amount * gain[..., None] * tint).astype(np.float32)

    def shares(self, t: int) -> dict[str, Share]:
        """What each layer adds to frame ``t``, front to back. Not to be changed: it is kept for the next call."""
        t = self._check(t)
        if self._cached is None or self._cached[0] != t:
            self._cached = (t, self._shares(t))
        return self._cached[1]

    def _shares(self, t: int) -> dict[str, Share]:
        result = {}
        open_ = np.ones((len(self._ys), len(self._xs)), np.float32)
        for layer, texture in self.textures.items():
            box = self._reach(t, layer)
            inner = (fine(box[0]), fine(box[1]))
            u, v = self.paths[layer].grid(t, self._xs[inner[1]], self._ys[inner[0]])
            seen = open_[inner].copy()
            if layer != "background":
                # Alpha is read from its own channel: straight colours are defined beyond the edge, so none bleeds in.
                alpha = sample(texture[..., 3], u, v, outside=0.0)
                open_[inner] *= 1 - alpha
                seen *= alpha
                colour = sample(texture[..., :3], u, v) * seen[..., None]
            else:
                colour = sample(texture[..., :3], u, v) * seen[..., None]
            result[layer] = Share(box, average(seen), average(colour), seen, (u, v))
        return result

    def _reach(self, t: int, layer: str) -> tuple[slice, slice]:
        """The rectangle of the frame that a layer's opaque part can touch at frame ``t``."""
        height, width = self.size
        if layer == "background":
            return slice(0, height), slice(0, width)
        path = self.paths[layer]
        alpha = self.textures[layer][..., 3]
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        slack = sum(bend.amplitude for bend in path.bends) + 2
        low = np.array([columns[0], rows[0]]) - slack
        high = np.array([columns[-1], rows[-1]]) + slack
        corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
        m = path.matrix(t)
        seen = (corners - m[:, 2]) @ np.linalg.inv(m[:, :2]).T
        low, high = np.floor(seen.min(axis=0)).astype(int) - 1, np.ceil(seen.max(axis=0)).astype(int) + 2
        low, high = np.clip(low, 0, [width, height]), np.clip(high, 0, [width, height])
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))

    # --- geometry ---

    def coordinates(self, t: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of frame ``t`` lies on a layer's texture, and how much of the layer it shows.

        Returns:
            uv: float32 [H, W, 2] in texture pixels, at the pixel's centre; finite everywhere, also off the texture.
            weight: float32 [H, W], contribution averaged over the pixel; sums to 1 over the layers.
        """
        t = self._check(t)
        height, width = self.size
        u, v = self.paths[self._name(layer)].grid(t, np.arange(width) * 1.0, np.arange(height) * 1.0)
        share = self.shares(t)[layer]
        weight = np.zeros(self.size, np.float32)
        weight[share.box] = share.weight
        return np.stack([u, v], axis=-1), weight

    def to_texture(self, t: int, layer: str, points: np.ndarray) -> np.ndarray:
        """Frame positions [..., 2] at frame ``t`` -> positions on the layer's texture, float64 [..., 2]."""
        return self.paths[self._name(layer)].to_texture(self._check(t), points)

    def to_frame(self, t: int, layer: str, points: np.ndarray) -> np.ndarray:
        """Positions on the layer's texture [..., 2] -> frame positions at frame ``t``, float64 [..., 2]; exact."""
        return self.paths[self._name(layer)].to_frame(self._check(t), points)

    def flow(self, t: int, s: int, layer: str) -> np.ndarray:
        """Displacement of the layer's surface from frame ``t`` to frame ``s``, float32 [H, W, 2], seen or not."""
        here = pixel_grid(self.size).numpy()
        return (self.to_frame(s, layer, self.to_texture(t, layer, here)) - here).astype(np.float32)

    def visibility(self, t: int, layer: str, points: np.ndarray) -> np.ndarray:
        """Contribution of a layer at frame positions [N, 2], float32 [N] in 0..1; 0 outside the frame."""
        t, points = self._check(t), np.asarray(points, np.float64)
        height, width = self.size
        inside = ((points >= 0) & (points <= [width - 1, height - 1])).all(axis=-1)
        weight: np.ndarray = np.asarray(inside, np.float32)
        for name, texture in self.textures.items():
            uv = self.paths[name].to_texture(t, points)
            alpha = np.ones_like(weight)
            if name != "background":
                alpha = sample_points(texture[..., 3], uv, outside=0.0)
            if name == self._name(layer):
                return weight * alpha
            weight *= 1 - alpha
        raise AssertionError(layer)

    def tracks(self, layer: str, count: int, seed: int = 0, frame: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Points of a layer's surface that can be seen in ``frame``, followed through the scene.

        Returns:
            positions: float64 [T, N, 2], exact also where the point is hidden or outside the frame.
            visible: bool [T, N], whether the layer makes up more than half of what is seen there.

        N is ``count``, or 0 if the layer is not to be seen in that frame. Points keep off the layer's edges by a pixel.
        """
        weight = self.coordinates(frame, layer)[1]
        inner = cv2.erode(weight, np.ones((3, 3)), borderType=cv2.BORDER_CONSTANT, borderValue=0.0)
        candidates = np.argwhere(inner > 0.98)[:, ::-1].astype(np.float64)
        rng = np.random.default_rng([self.config.seed, 7, seed, frame])
        if len(candidates) == 0:
            return np.zeros((len(self), 0, 2)), np.zeros((len(self), 0), bool)
        chosen = candidates[rng.choice(len(candidates), count, replace=len(candidates) < count)]
        texels = self.to_texture(frame, layer, chosen + rng.uniform(-0.5, 0.5, chosen.shape))
        positions = np.stack([self.to_frame(t, layer, texels) for t in range(len(self))])
        visible = np.stack([self.visibility(t, layer, positions[t]) > 0.5 for t in range(len(self))])
        return positions, visible

    # --- edits ---

    def true_edit(self, overlays: dict[str, np.ndarray]) -> TrueEdit:
        """The video that a perfect method renders when ``overlays`` are painted on the textures; see :class:`TrueEdit`.

        Args:
            overlays: layer -> float [Hc, Wc, 4] in 0..1, straight alpha, of the size of that layer's texture.

        Raises:
            InputError: a layer is not known or an overlay has another size.
        """
        return TrueEdit(self, overlays)

    def emblem(self, layer: str, soft: bool = True) -> np.ndarray:
        """A coloured badge with lettering, well inside what is seen of the layer, as an overlay for :meth:`true_edit`.

        Args:
            soft: band-limited edges (Gaussian, about 5 % of its radius), else edges one texel wide.

        Returns:
            float32 [Hc, Wc, 4] in 0..1, straight alpha, of the size of the layer's texture.
        """
        shape = self.textures[self._name(layer)].shape[:2]
        centre, radius = self._prominent(layer)
        overlay = draw_emblem((shape[0], shape[1]), centre, radius, soft)
        overlay[..., :3] /= 1 + self.config.lighting
        return overlay

    def _prominent(self, layer: str) -> tuple[tuple[float, float], float]:
        """Centre and radius in texels of a disc of the layer that is seen in as many frames as can be."""
        shape = self.textures[layer].shape[:2]
        times = np.unique(np.linspace(0, len(self) - 1, min(len(self), 13)).astype(int))
        margin = 0.03 * self.config.short_side
        cell = 4
        # How many of the frames show each (coarse) texel, well inside the frame.
        ys, xs = np.mgrid[0 : shape[0] : cell, 0 : shape[1] : cell]
        texels = np.stack([xs, ys], axis=-1).reshape(-1, 2).astype(np.float64)
        seen = np.zeros(len(texels))
        for t in times:
            points = self.to_frame(int(t), layer, texels)
            inside = ((points > margin) & (points < np.array(self.size[::-1]) - 1 - margin)).all(axis=-1)
            seen += (self.visibility(int(t), layer, points) > 0.9) & inside
        often = (seen / len(times)).reshape(ys.shape)
        solid = np.pad((self.textures[layer][::cell, ::cell, 3] > 0.99).astype(np.uint8), 1)
        depth = cv2.distanceTransform(solid, cv2.DIST_L2, 5)[1:-1, 1:-1] * cell
        radius = min(0.17 * self.config.short_side, 0.6 * float(depth.max()))
        window = max(int(1.8 * radius / cell) | 1, 1)
        score = cv2.blur(often, (window, window), borderType=cv2.BORDER_CONSTANT) + 0.02 * depth / depth.max()
        score[depth < min(1.4 * radius, float(depth.max()))] = -1
        row, column = np.unravel_index(int(np.argmax(score)), score.shape)
        return (float(column) * cell, float(row) * cell), radius

    # --- files ---

    def save(self, folder: FilePath | str) -> FilePath:
        """Write ``frames/00000.png`` ..., ``masks/`` and ``scene.yaml`` (the config) into ``folder``; returns it.

        One foreground layer gives a flat ``masks/``; several give ``masks/0-occluder/``, ``masks/1-foreground/``: named
        so that they sort front to back. The background has no masks.
        """
        folder = FilePath(folder)
        fronts = self.layers[:-1]
        for t in range(len(self)):
            write_image(folder / "frames" / f"{t:05d}.png", self.frame(t), compression=1)
            for i, layer in enumerate(fronts):
                place = folder / "masks" / (f"{i}-{layer}" if len(fronts) > 1 else "")
                write_image(place / f"{t:05d}.png", self.masks(t, layer), compression=1)
        config = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()}
        write_yaml(folder / "scene.yaml", config)
        return folder

    def clip(self, folder: FilePath | str | None = None) -> Clip:
        """The scene as a :class:`canon.Clip` with its masks, by way of :meth:`save`.

        Args:
            folder: where to save; None = a temporary folder that lasts as long as the clip.
        """
        from canon.clip import Clip

        temporary = tempfile.TemporaryDirectory(prefix="canon-scene-") if folder is None else None
        place = self.save(temporary.name if temporary is not None else folder)  # type: ignore[arg-type]
        clip = Clip.load(place / "frames", masks=place / "masks")
        if temporary is not None:
            weakref.finalize(clip, temporary.cleanup)
        return clip

    def _check(self, t: int) -> int:
        if not -len(self) <= t < len(self):
            raise IndexError(f"The scene has {len(self)} frames; there is no frame {t}.")
        return int(t) % len(self)

    def _name(self, layer: str) -> str:
        if layer not in self.textures:
            raise InputError(f"The scene has no layer '{layer}'; its layers are {', '.join(self.layers)}.")
        return layer


def _middle(texture: np.ndarray) -> tuple[float, float]:
    return (texture.shape[1] - 1) / 2, (texture.shape[0] - 1) / 2
