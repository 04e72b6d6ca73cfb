"""Where a layer is: an affine placement followed by smooth bends, both ways in closed form.

A bend is a *shear by a sine wave*: it moves points along a direction by an amount that depends only on their position
across that direction. That position is unchanged by the move, so the inverse is the same formula with the sign turned:
truth to machine precision without iteration, never folding, and area-preserving (textures stay at about one texel a
pixel). Chained along several directions, they bend a layer in both axes.

Convention (all functions): points are (x, y) in pixels or texels, pixel centres at integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from canon.scenes.config import SceneConfig


@dataclass(frozen=True)
class Bend:
    """``q + d * amplitude * sin(2 pi n.q / wavelength + phase(t))`` with n perpendicular to the direction d."""

    direction: float
    """Angle of the displacement, in radians."""
    amplitude: float
    """Largest displacement, in texels."""
    wavelength: float
    """Wavelength across the direction, in texels."""
    phase: float
    """Phase at frame 0, in radians."""
    period: float
    """Frames after which the wave has travelled one wavelength."""

    def apply(self, u: np.ndarray, v: np.ndarray, t: float, sign: float = 1.0) -> None:
        """Move coordinates ``u``, ``v`` [...] in place; ``sign=-1`` undoes it."""
        dx, dy = math.cos(self.direction), math.sin(self.direction)
        k = 2 * math.pi / self.wavelength
        wave = u * np.asarray(-dy * k, u.dtype)
        wave += v * np.asarray(dx * k, v.dtype)
        wave += self.phase + 2 * math.pi * t / self.period
        np.sin(wave, out=wave)
        wave *= sign * self.amplitude
        u += dx * wave
        v += dy * wave


@dataclass(frozen=True)
class Path:
    """A similarity that changes with time: the layer's ``anchor`` texel is seen at ``centre(t)`` of the frame.

    All four tracks have one entry per frame.
    """

    anchor: tuple[float, float]
    """The texel (x, y) that the placement turns and scales about."""
    centre: np.ndarray
    """[T, 2] position of the anchor in the frame, in pixels."""
    angle: np.ndarray
    """[T] rotation in radians, from x towards y."""
    scale: np.ndarray
    """[T] magnification, frame pixels per texel."""
    bends: tuple[Bend, ...] = ()
    """Non-rigid part, in texture space."""

    def matrix(self, t: int) -> np.ndarray:
        """Frame pixels -> unbent texture pixels, float64 [2, 3]."""
        c, s = math.cos(self.angle[t]), math.sin(self.angle[t])
        linear = np.array([[c, s], [-s, c]]) / self.scale[t]
        return np.hstack([linear, (np.array(self.anchor) - linear @ self.centre[t])[:, None]])

    def to_texture(self, t: int, points: np.ndarray) -> np.ndarray:
        """Frame positions [..., 2] at frame ``t`` -> texture positions, float64 [..., 2]."""
        m = self.matrix(t)
        q = np.asarray(points, np.float64) @ m[:, :2].T + m[:, 2]
        u, v = q[..., 0].copy(), q[..., 1].copy()
        for bend in self.bends:
            bend.apply(u, v, t)
        return np.stack([u, v], axis=-1)

    def to_frame(self, t: int, points: np.ndarray) -> np.ndarray:
        """Texture positions [..., 2] -> frame positions at frame ``t``, float64 [..., 2]; the exact inverse."""
        q = np.asarray(points, np.float64)
        u, v = q[..., 0].copy(), q[..., 1].copy()
        for bend in reversed(self.bends):
            bend.apply(u, v, t, sign=-1.0)
        m = self.matrix(t)
        return (np.stack([u, v], axis=-1) - m[:, 2]) @ np.linalg.inv(m[:, :2]).T

    def grid(self, t: int, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Texture coordinates of the frame positions ``xs`` [w] x ``ys`` [h]: two float32 arrays [h, w]."""
        m = self.matrix(t)
        u = ((m[0, 0] * xs + m[0, 2])[None] + (m[0, 1] * ys)[:, None]).astype(np.float32)
        v = ((m[1, 0] * xs + m[1, 2])[None] + (m[1, 1] * ys)[:, None]).astype(np.float32)
        for bend in self.bends:
            bend.apply(u, v, t)
        return u, v

    def moved(self, offset: tuple[float, float]) -> Path:
        """The same motion over a texture whose origin lies ``offset`` texels up and left of the present one.

        For layers without bends (a bend's phase belongs to texture space).
        """
        anchor = (self.anchor[0] + offset[0], self.anchor[1] + offset[1])
        return Path(anchor, self.centre, self.angle, self.scale, self.bends)


def camera_path(config: SceneConfig, rng: np.random.Generator) -> Path:
    """The background's placement: pan, zoom and roll about the frame's centre, and shake. Texel (0, 0) is arbitrary."""
    t = np.arange(config.frames, dtype=np.float64)
    period = config.swing_period
    travelled = period / (2 * np.pi) * np.sin(2 * np.pi * t / period) if period else t
    middle = np.array([(config.width - 1) / 2, (config.height - 1) / 2])
    shake = np.zeros((config.frames, 2))
    for axis in range(2):
        for frames_per_cycle in (37.0, 17.0, 8.3):
            wave = 2 * np.pi * (t / frames_per_cycle + rng.random())
            shake[:, axis] += config.shake * np.sqrt(frames_per_cycle / 37.0) / 2 * np.sin(wave)
    angle = np.deg2rad(config.rotation) * travelled
    scale = (1 + config.zoom) ** travelled
    # The anchor stays put in the texture, so a camera that pans right sees it move left, faster when zoomed in.
    offset = travelled[:, None] * np.array(config.pan) + shake
    c, s = np.cos(angle), np.sin(angle)
    turned = np.stack([c * offset[:, 0] - s * offset[:, 1], s * offset[:, 0] + c * offset[:, 1]], axis=-1)
    return Path((0.0, 0.0), middle - scale[:, None] * turned, angle, scale)


def subject_path(config: SceneConfig, anchor: tuple[float, float], rng: np.random.Generator) -> Path:
    """The foreground's placement: a Lissajous path round the frame's centre, turning, breathing and bending."""
    t = np.arange(config.frames, dtype=np.float64)
    middle = np.array([(config.width - 1) / 2, (config.height - 1) / 2])
    cycle = 2 * np.pi * t / config.sway_period
    phase = rng.uniform(0, 2 * np.pi, 4)
    sway = np.array(config.sway) * [config.width, config.height]
    centre = middle + np.stack([np.sin(cycle + phase[0]), np.sin(1.6 * cycle + phase[1])], axis=-1) * sway
    angle = np.deg2rad(config.turn) * np.sin(1.2 * cycle + phase[2])
    scale = 1 + config.breathe * np.sin(0.9 * cycle + phase[3])
    return Path(anchor, centre, angle, scale, bends(config, rng))


def occluder_path(config: SceneConfig, anchor: tuple[float, float], rng: np.random.Generator) -> Path:
    """The occluder's placement: it crosses the frame to and fro, starting at the left, in front of the subject."""
    t = np.arange(config.frames, dtype=np.float64)
    cycle = 2 * np.pi * t / config.occluder_period
    x = (config.width - 1) * (0.5 - 0.36 * np.cos(cycle))
    y = (config.height - 1) * (0.5 + 0.08 * np.sin(1.7 * cycle + rng.uniform(0, 2 * np.pi)))
    angle = np.deg2rad(8.0) * np.sin(1.3 * cycle + rng.uniform(0, 2 * np.pi))
    return Path(anchor, np.stack([x, y], axis=-1), angle, np.ones(config.frames))


def bends(config: SceneConfig, rng: np.random.Generator) -> tuple[Bend, ...]:
    """Three bends along directions about 60 degrees apart, with incommensurate periods."""
    start = rng.uniform(0, np.pi)
    result = []
    for i, slower in enumerate((1.0, 1.37, 0.83)):
        wavelength = config.bend_wavelength * config.short_side * rng.uniform(0.9, 1.15)
        period = config.bend_period * slower * rng.choice((-1.0, 1.0))
        phase = rng.uniform(0, 2 * np.pi)
        result.append(Bend(start + i * np.pi / 3, config.bend * config.short_side, wavelength, phase, float(period)))
    return tuple(result)


def extent(path: Path, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest texture coordinates (x, y) that a path without bends shows in any frame."""
    corners = np.array([[-1.0, -1.0], [width, -1.0], [width, height], [-1.0, height]])
    seen = np.concatenate([path.to_texture(t, corners) for t in range(len(path.centre))])
    return seen.min(axis=0), seen.max(axis=0)
