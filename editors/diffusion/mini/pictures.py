"""Procedural pictures for the looks of :mod:`canon.editors.diffusion.mini.vocabulary`: what canon-mini learns from."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from canon.editors.diffusion.mini.vocabulary import COLOURS, Look, Picture

_FINER = 2  # times the size at which a picture is drawn, to be averaged down
Colour = np.ndarray


def draw(picture: Picture, size: int, rng: np.random.Generator) -> np.ndarray:
    """A picture, float32 [size, size, 3] in 0..1, sRGB; every call draws another one that fits."""
    if picture.lit:
        return draw_lit(picture.look, draw_leaves(size, rng), rng)
    side = size * _FINER
    image = draw_look(picture.look, side, rng)
    if picture.shape is not None and picture.ground is not None:
        inside = _silhouette(picture.shape, side, rng)[..., None]
        image = image * inside + draw_look(picture.ground, side, rng) * (1 - inside)
    return _finished(image, size, rng)


def draw_made_over(picture: Picture, look: Look, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture of an object, and the same with the object in another look, both [size, size, 3] in 0..1."""
    assert picture.shape is not None and picture.ground is not None
    side = size * _FINER
    inside = _silhouette(picture.shape, side, rng)[..., None]
    ground = draw_look(picture.ground, side, rng) * (1 - inside)
    images = [draw_look(own, side, rng) * inside + ground for own in (picture.look, look)]
    state = rng.bit_generator.state
    first = _finished(images[0], size, rng)
    rng.bit_generator.state = state
    return first, _finished(images[1], size, rng)


def _finished(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Lit a little unevenly, at its size."""
    side = image.shape[0]
    light = 1.0 + rng.uniform(-0.04, 0.04) + _slope(side, rng) * rng.uniform(0, 0.1)
    image = cv2.resize(np.clip(image * light[..., None], 0, 1), (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.float32)


def draw_leaves(size: int, rng: np.random.Generator) -> np.ndarray:
    """Overlapping shapes of every size and colour, float32 [size, size, 3] in 0..1: as diverse as photographs.

    Dead leaves have the statistics of natural images (Lee, Mumford and Huang, IJCV 2001), so that an autoencoder
    learns from them what no list of materials has.
    """
    side = size * _FINER
    image: np.ndarray = np.repeat(rng.uniform(0, 1, (1, 1, 3)), side, 0).repeat(side, 1).astype(np.float32)
    palette = np.clip(rng.uniform(0, 1, 3) + rng.normal(0, rng.uniform(0.05, 0.4), (6, 3)), 0, 1)
    palette += (palette.mean(axis=1, keepdims=True) - palette) * rng.uniform(0, 0.9)
    for reach in np.sort(side / rng.uniform(1.5, 40, 60))[::-1]:
        colour = np.clip(palette[rng.integers(6)] + rng.normal(0, 0.08, 3), 0, 1)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        outline = np.stack([np.cos(angles), np.sin(angles)], -1) * reach * rng.uniform(0.4, 1, (len(angles), 1))
        points = np.round((outline + rng.uniform(0, side, 2)) * 16).astype(np.int32)
        cv2.fillPoly(image, [points], colour.tolist(), cv2.LINE_AA, 4)
    if rng.random() < 0.7:
        texture = _fractal(side, rng.uniform(4, 40), rng) * rng.uniform(0, 0.15)
        image = image + texture[..., None] * rng.uniform(0.5, 1, 3)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 4))
    return np.asarray(cv2.resize(np.clip(image, 0, 1), (size, size), interpolation=cv2.INTER_AREA), np.float32)


def draw_lit(look: Look, scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A surface that has the light and dark of a scene [size, size, 3], float32 [size, size, 3] in 0..1.

    So a thing looks that was made over in another material: its form is still there.
    """
    size = scene.shape[0]
    surface = draw(Picture("", look), size, rng)
    gray = cv2.cvtColor(np.asarray(scene, np.float32), cv2.COLOR_RGB2GRAY)
    spread = gray - gray.mean()
    light = 1 + spread * min(0.6 / max(float(np.abs(spread).max()), 1e-3), 2.0)
    return np.asarray(np.clip(surface * light[..., None], 0, 1), np.float32)


def draw_look(look: Look, side: int, rng: np.random.Generator) -> np.ndarray:
    """A surface, float32 [side, side, 3], about 0..1."""
    colours = [_shade(name, rng) for name in look.colours]
    zoom = side / 128 * float(np.exp(rng.uniform(-0.45, 0.45)))
    return np.asarray(_DRAW[look.pattern](side, zoom, colours, rng), np.float32)


def _shade(name: str, rng: np.random.Generator) -> Colour:
    """A colour that goes by a name: a little lighter, darker, warmer or duller than the middle of them."""
    colour = np.array(COLOURS[name], np.float32) / 255
    low, high, spread = (0.95, 1.03, 0.01) if name in ("black", "white", "grey") else (0.88, 1.1, 0.025)
    return np.clip(colour * rng.uniform(low, high) + rng.uniform(-spread, spread, 3), 0, 1).astype(np.float32)


def _noise(side: int, cell: float, rng: np.random.Generator, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    """Smooth noise of about unit variance, features ``cell`` pixels wide times ``stretch`` (down, across)."""
    shape = [max(int(side / (cell * s)) + 4, 5) for s in stretch]
    coarse = rng.standard_normal(shape).astype(np.float32)
    size = tuple(int(n * cell * s) + 1 for n, s in zip(shape, stretch, strict=True))
    full = cv2.resize(coarse, (max(size[1], side), max(size[0], side)), interpolation=cv2.INTER_CUBIC)
    return np.asarray(full[:side, :side])


def _fractal(side: int, cell: float, rng: np.random.Generator, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    total = sum(_noise(side, max(cell / 2**k, 1.5), rng, stretch) / 1.7**k for k in range(4))
    return np.asarray(total / 1.4)


def _grid(side: int, rng: np.random.Generator, angle: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rotated and shifted coordinates x, y in pixels."""
    turn = rng.uniform(0, 2 * np.pi) if angle is None else angle
    y, x = np.mgrid[:side, :side].astype(np.float32)
    shift = rng.uniform(0, side, 2)
    u = np.cos(turn) * x + np.sin(turn) * y + shift[0]
    return u.astype(np.float32), (np.cos(turn) * y - np.sin(turn) * x + shift[1]).astype(np.float32)


def _slope(side: int, rng: np.random.Generator) -> np.ndarray:
    u, _ = _grid(side, rng)
    return np.asarray((u - u.mean()) / side)


def _mix(a: Colour, b: Colour, share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return np.asarray(a * share + b * (1 - share))


def _edge(distance: np.ndarray) -> np.ndarray:
    """0..1 across an edge, one pixel wide, from a distance in pixels that is positive inside."""
    return np.asarray(np.clip(distance + 0.5, 0, 1))


def _wave(u: np.ndarray, period: float, duty: float = 0.5) -> np.ndarray:
    """0..1 stripes with antialiased edges: ``duty`` of every period is 1."""
    phase = (u / period) % 1.0
    return _edge((np.minimum(phase, 1 - phase) * -1 + duty / 2) * period)


def _upright(rng: np.random.Generator) -> float:
    return float(rng.choice([0, np.pi / 2, np.pi / 4, -np.pi / 4]) + rng.normal(0, 0.05))


def _plain(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    tone = 1 + rng.uniform(0, 0.05) * _fractal(side, 40 * zoom, rng)
    return colours[0] * tone[..., None]


def _stripes(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, _ = _grid(side, rng, _upright(rng))
    return _mix(colours[0], colours[1], _wave(u, rng.uniform(20, 40) * zoom, rng.uniform(0.42, 0.58)))


def _zigzag(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, v = _grid(side, rng, float(rng.choice([0, np.pi / 2])) + rng.normal(0, 0.04))
    period = rng.uniform(24, 40) * zoom
    tooth = np.abs((v / (period * 1.2)) % 1.0 - 0.5) * 2 * period * 0.9
    return _mix(colours[0], colours[1], _wave(u + tooth, period, 0.5))


def _dots(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, v = _grid(side, rng, float(rng.choice([0, np.pi / 4])) + rng.normal(0, 0.05))
    pitch = rng.uniform(24, 40) * zoom
    row = np.floor(v / pitch)
    u = u + (row % 2) * pitch / 2 * (rng.random() < 0.5)
    off = np.hypot((u / pitch) % 1.0 - 0.5, (v / pitch) % 1.0 - 0.5) * pitch
    return _mix(colours[0], colours[1], _edge(pitch * rng.uniform(0.3, 0.38) - off))


def _checks(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, v = _grid(side, rng, float(rng.choice([0, 0, np.pi / 4])) + rng.normal(0, 0.04))
    period = rng.uniform(28, 48) * zoom
    a, b = (_wave(w, period) * 2 - 1 for w in (u, v))
    return _mix(colours[0], colours[1], a * b * 0.5 + 0.5)


def _brick(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, v = _grid(side, rng, rng.normal(0, 0.04))
    high = rng.uniform(15, 22) * zoom
    wide, gap = high * rng.uniform(2.0, 2.6), max(1.6 * zoom, 1.3)
    row = np.floor(v / high)
    u = u + (row % 2) * wide / 2
    column = np.floor(u / wide)
    inside = np.minimum.reduce([u % wide, wide - u % wide, v % high, high - v % high])
    tone = 1 + 0.13 * np.sin(row * 12.9898 + column * 78.233 + 4.0) + 0.05 * _fractal(side, 6 * zoom, rng)
    mortar = np.full(3, rng.uniform(0.68, 0.85), np.float32)
    if colours[0].mean() > 0.7:
        mortar *= 0.5
    return _mix(colours[0], mortar, _edge(inside - gap)) * np.clip(tone, 0.6, 1.4)[..., None]


def _wood(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, v = _grid(side, rng, float(rng.choice([0, np.pi / 2])) + rng.normal(0, 0.03))
    along = rng.random() < 0.5
    plank = rng.uniform(34, 56) * zoom
    board = np.floor(u / plank)
    warp = u + 8 * zoom * _noise(side, 40 * zoom, rng) + board * 31.7
    rings = 0.5 + 0.5 * np.sin(warp / (rng.uniform(2.2, 4) * zoom) + 2 * np.sin(v / (35 * zoom) + board))
    grain = _noise(side, 1.6, rng, (1, 9) if np.ptp(u[0]) < np.ptp(u[:, 0]) else (9, 1))
    tone = 0.8 + 0.28 * rings + 0.05 * grain + 0.08 * np.sin(board * 5.1)
    if along:
        tone = tone * (1 - 0.55 * _edge(1.2 * zoom - np.minimum(u % plank, plank - u % plank)))
    return colours[0] * np.clip(tone, 0.25, 1.35)[..., None]


def _marble(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, _ = _grid(side, rng)
    swirl = u / (26 * zoom) + 1.5 * _fractal(side, 48 * zoom, rng)
    vein = np.abs(np.sin(swirl)) ** 0.35
    fine = np.abs(np.sin(swirl * 2.3 + _fractal(side, 30 * zoom, rng))) ** 0.25
    dark = colours[0] * 0.45 if colours[0].mean() > 0.25 else np.minimum(colours[0] + 0.55, 1)
    cloud = 1 + 0.05 * _fractal(side, 40 * zoom, rng)
    return _mix(colours[0], dark, vein * 0.75 + fine * 0.25) * cloud[..., None]


def _strokes(side: int, zoom: float, angle: np.ndarray, rng: np.random.Generator, length: int) -> np.ndarray:
    """Fine noise smeared along a direction field (radians): line integral convolution, unit variance."""
    grain = rng.standard_normal((side, side)).astype(np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    dx, dy = np.cos(angle).astype(np.float32) * zoom, np.sin(angle).astype(np.float32) * zoom
    total = np.zeros_like(grain)
    for k in range(-length, length + 1):
        total += cv2.remap(grain, x + k * dx, y + k * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray((total - total.mean()) / max(float(total.std()), 1e-6))


def _grass(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    angle = np.pi / 2 + 0.45 * _noise(side, 14 * zoom, rng)
    blades = _strokes(side, zoom, angle, rng, 7)
    tone = 0.85 + 0.3 * np.tanh(blades) + 0.08 * _noise(side, 30 * zoom, rng)
    warm = 0.06 * np.tanh(blades)[..., None] * np.array([1, 0.6, -0.3], np.float32)
    return colours[0] * np.clip(tone, 0.25, 1.5)[..., None] + warm


def _fur(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi) + 0.7 * _noise(side, 60 * zoom, rng)
    hair = _strokes(side, zoom, angle, rng, 14)
    tone = 0.9 + 0.2 * np.tanh(hair) + 0.12 * _noise(side, 28 * zoom, rng)
    return colours[0] * np.clip(tone, 0.3, 1.5)[..., None] + 0.03


def _sand(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, _ = _grid(side, rng)
    ripple = np.sin((u + 7 * zoom * _noise(side, 35 * zoom, rng)) / (rng.uniform(4, 7) * zoom))
    grain = rng.standard_normal((side, side)).astype(np.float32)
    return colours[0] * (1 + 0.1 * ripple + 0.1 * grain)[..., None]


def _water(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    ridges = sum(1 - np.abs(_noise(side, cell * zoom, rng, (1, 2.2))) for cell in (18, 11)) / 2
    bright = np.clip(ridges - 0.45, 0, 1) ** 1.5
    tone = 0.85 + 0.16 * _noise(side, 22 * zoom, rng, (1, 2.5))
    return colours[0] * np.clip(tone, 0.4, 1.3)[..., None] + bright[..., None] * np.array([0.45, 0.5, 0.5], np.float32)


def _metal(side: int, zoom: float, rng: np.random.Generator, ramp: list[tuple[float, float, float]]) -> np.ndarray:
    u, _ = _grid(side, rng)
    bumps = np.sin(u / (24 * zoom) + 1.6 * _fractal(side, 40 * zoom, rng)) * 0.5 + 0.5
    brushed = 0.05 * _noise(side, 1.5, rng, (1, 12)) * (rng.random() < 0.5)
    value = np.clip(bumps + brushed, 0, 1) * (len(ramp) - 1)
    table = np.array(ramp, np.float32)
    low = np.clip(np.floor(value).astype(int), 0, len(ramp) - 2)
    share = (value - low)[..., None]
    return np.asarray(table[low] * (1 - share) + table[low + 1] * share)


def _gold(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    ramp = [(0.45, 0.28, 0.05), (0.72, 0.5, 0.1), (0.88, 0.66, 0.18), (0.97, 0.8, 0.32), (1.0, 0.95, 0.68)]
    return _metal(side, zoom, rng, ramp)


def _silver(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    ramp = [(0.28, 0.29, 0.31), (0.5, 0.51, 0.53), (0.68, 0.69, 0.71), (0.82, 0.83, 0.84), (0.98, 0.98, 0.99)]
    return _metal(side, zoom, rng, ramp)


def _fabric(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    u, v = _grid(side, rng, rng.normal(0, 0.06))
    pitch = rng.uniform(10, 16) * zoom
    over = (np.floor(u / pitch) + np.floor(v / pitch)) % 2
    across, down = (np.sqrt(np.clip(1 - (2 * ((w / pitch) % 1.0) - 1) ** 2, 0, 1)) for w in (u, v))
    tone = 0.5 + 0.55 * np.where(over > 0, across, down) + 0.06 * _noise(side, 1.6, rng)
    return colours[0] * np.clip(tone, 0.2, 1.3)[..., None] + 0.02


def _snow(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    drift = _fractal(side, 34 * zoom, rng)
    shadow = np.clip(0.16 - 0.14 * drift, 0, 0.45)[..., None]
    image = np.array([0.97, 0.98, 1.0], np.float32) - shadow * np.array([1.0, 0.8, 0.45], np.float32)
    sparkle = (rng.random((side, side)) > 0.985).astype(np.float32)
    return image + 0.1 * cv2.GaussianBlur(sparkle, (0, 0), 0.8)[..., None] * 3


def _cells(side: int, pitch: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance to the nearest and to the second nearest of scattered points, and that point's number."""
    count = int(np.ceil(side / pitch)) + 3
    y, x = np.mgrid[:count, :count].astype(np.float32)
    points = (np.stack([x, y], -1) + rng.uniform(-0.38, 0.38, (count, count, 2)) - 1).reshape(-1, 2) * pitch
    yy, xx = np.mgrid[:side, :side].astype(np.float32)
    first, second = np.full((side, side), 1e9, np.float32), np.full((side, side), 1e9, np.float32)
    owner = np.zeros((side, side), int)
    for k, (px, py) in enumerate(points):
        distance = np.hypot(xx - px, yy - py).astype(np.float32)
        closer = distance < first
        second = np.where(closer, first, np.minimum(second, distance))
        first, owner = np.where(closer, distance, first), np.where(closer, k, owner)
    return first, second, owner


def _stone(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    first, second, owner = _cells(side, rng.uniform(24, 36) * zoom, rng)
    gap = np.clip((second - first) / (5 * zoom), 0, 1)
    tone = (0.35 + 0.65 * gap) * (1 + 0.16 * np.sin(owner * 12.9)) + 0.07 * _fractal(side, 7 * zoom, rng)
    return colours[0] * np.clip(tone, 0.15, 1.4)[..., None]


def _leaves(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    image = np.repeat((colours[0] * 0.35)[None, None], side, 0).repeat(side, 1).astype(np.float32)
    for _ in range(int(150 / zoom**2) + 20):
        x, y = rng.uniform(-8, side + 8, 2)
        long, angle = rng.uniform(10, 19) * zoom, rng.uniform(0, 360)
        tone = colours[0] * rng.uniform(0.6, 1.25) + rng.uniform(-0.04, 0.04, 3).astype(np.float32)
        shade = tuple(float(v) for v in np.clip(tone, 0, 1))
        axes = (max(int(long / 2), 1), max(int(long / 4.5), 1))
        cv2.ellipse(image, (int(x), int(y)), axes, angle, 0, 360, shade, -1, cv2.LINE_AA)
        turn = np.radians(angle)
        tip = np.array([np.cos(turn), np.sin(turn)]) * long / 2
        stalk, point = ((int(x + s * tip[0]), int(y + s * tip[1])) for s in (-1, 1))
        cv2.line(image, stalk, point, tuple(0.6 * c for c in shade), 1, cv2.LINE_AA)
    return image


def _clouds(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    share = np.clip(0.35 + 0.55 * _fractal(side, 46 * zoom, rng, (1, 1.6)), 0, 1)
    sky = np.array([0.32, 0.55, 0.9], np.float32) * rng.uniform(0.9, 1.1)
    return _mix(np.array([0.97, 0.97, 0.98], np.float32), sky, share)


def _fire(side: int, zoom: float, colours: list[Colour], rng: np.random.Generator) -> np.ndarray:
    heat = np.clip(0.5 + 0.33 * _fractal(side, 26 * zoom, rng, (2.2, 1)), 0, 1) * 4
    ramp = np.array([(0.12, 0.01, 0), (0.62, 0.07, 0.01), (0.95, 0.36, 0.03), (1, 0.72, 0.12), (1, 0.97, 0.62)])
    low = np.clip(np.floor(heat).astype(int), 0, 3)
    share = (heat - low)[..., None]
    return np.asarray(ramp[low] * (1 - share) + ramp[low + 1] * share)


def _silhouette(shape: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """Antialiased area of a shape about the middle, float32 [side, side]."""
    centre, radius = side / 2 + rng.uniform(-0.08, 0.08, 2) * side, side * rng.uniform(0.27, 0.38)
    turn = rng.normal(0, 0.15)
    if shape in ("circle", "ring"):
        y, x = np.mgrid[:side, :side]
        off = np.hypot(x - centre[0], y - centre[1])
        area = _edge(radius - off)
        return np.asarray(area * _edge(off - radius * 0.55) if shape == "ring" else area, np.float32)
    if shape == "heart":
        s = np.linspace(0, 2 * np.pi, 60)
        x = 16 * np.sin(s) ** 3
        y = -(13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s))
        points = np.stack([x, y], -1) / 17
    else:
        corners = {"square": 4, "triangle": 3, "star": 10}[shape]
        s = np.arange(corners) * 2 * np.pi / corners - np.pi / 2 + (np.pi / 4 if shape == "square" else 0)
        reach = np.where(np.arange(corners) % 2, 0.42, 1.1) if shape == "star" else np.full(corners, 1.15)
        points = np.stack([np.cos(s), np.sin(s)], -1) * reach[:, None]
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outline = np.round((points @ rotation * radius + centre) * 16).astype(np.int32)
    area = np.zeros((side, side), np.uint8)
    cv2.fillPoly(area, [outline], 255, cv2.LINE_AA, 4)
    return area.astype(np.float32) / 255


_DRAW: dict[str, Callable[[int, float, list[Colour], np.random.Generator], np.ndarray]] = {
    "plain": _plain,
    "stripes": _stripes,
    "dots": _dots,
    "checks": _checks,
    "zigzag": _zigzag,
    "brick": _brick,
    "wood": _wood,
    "marble": _marble,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "gold": _gold,
    "silver": _silver,
    "fabric": _fabric,
    "snow": _snow,
    "stone": _stone,
    "clouds": _clouds,
    "fire": _fire,
    "leaves": _leaves,
    "fur": _fur,
}
