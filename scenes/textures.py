"""What layers look like: photographs from scikit-image's wheel, procedural detail, panoramas and cut-out shapes."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from canon.errors import InputError
from canon.storage import read_image, to_float

Colour = tuple[float, float, float]

_FILES: dict[str, tuple[str, Colour]] = {
    "cat": ("chelsea.png", (1.0, 1.0, 1.0)),
    "astronaut": ("astronaut.png", (1.0, 1.0, 1.0)),
    "coffee": ("coffee.png", (1.0, 1.0, 1.0)),
    "cup": ("coffee.png", (1.0, 1.0, 1.0)),
    "rocket": ("rocket.jpg", (1.0, 1.0, 1.0)),
    "motorcycle": ("motorcycle_left.png", (1.0, 1.0, 1.0)),
    "bricks": ("brick.png", (1.0, 0.62, 0.50)),
    "grass": ("grass.png", (0.72, 0.95, 0.42)),
    "gravel": ("gravel.png", (0.95, 0.90, 0.80)),
}
"""Name -> (file inside scikit-image's wheel, colour that tints it; grey photographs need one)."""

_SUBJECTS: dict[str, tuple[float, float, float]] = {
    "cat": (248.0, 140.0, 138.0),
    "astronaut": (215.0, 195.0, 178.0),
    "cup": (290.0, 190.0, 165.0),
    "motorcycle": (470.0, 300.0, 165.0),
}
"""Photograph -> (x, y, radius) in its pixels of the part that a foreground shows."""


@lru_cache(maxsize=16)
def photograph(name: str) -> np.ndarray:
    """A photograph, float32 [H, W, 3] in 0..1. Read from the wheel itself: ``skimage.data`` may try to download.

    Raises:
        InputError: the name is not known, or scikit-image was installed without its photographs.
    """
    if name not in _FILES:
        raise InputError(f"There is no photograph called '{name}'; choose one of {', '.join(_FILES)}.")
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("Synthetic scenes need scikit-image's photographs; install scikit-image.")
    file, tint = _FILES[name]
    image = to_float(read_image(Path(spec.origin).parent / "data" / file))[..., :3]
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)) * np.array(tint, np.float32))


def smooth_noise(size: tuple[int, int], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Band-limited noise of unit variance, features about ``cell`` pixels wide, float32 [H, W]."""
    shape = (int(size[0] / cell) + 4, int(size[1] / cell) + 4)
    coarse = rng.standard_normal(shape, dtype=np.float32)
    full = cv2.resize(coarse, (int(shape[1] * cell), int(shape[0] * cell)), interpolation=cv2.INTER_CUBIC)
    full = full[int(cell) : int(cell) + size[0], int(cell) : int(cell) + size[1]]
    return full / max(float(full.std()), 1e-6)


def with_detail(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Add grain at several octaves, so that no part of a photograph is too flat to be followed; [H, W, 3] in 0..1."""
    size = (image.shape[0], image.shape[1])
    grain = sum(smooth_noise(size, cell, rng) * share for cell, share in ((3, 0.8), (6, 0.8), (13, 0.6), (40, 0.4)))
    # Partly a gain, as surface texture is, and partly added, so that dark parts are not left flat.
    return np.clip(image + amount * np.asarray(grain)[..., None] * (image + 0.35), 0, 1)


def to_range(image: np.ndarray, lighting: float) -> np.ndarray:
    """Squeeze 0..1 so that neither the brightest light nor sensor noise clips: clipping would make the truth false."""
    low, high = 0.03, 0.96 / (1 + lighting)
    return (low + (high - low) * image).astype(np.float32)


def _ramp(length: int, fade_in: int, fade_out: int) -> np.ndarray:
    """A weight over a strip that rises from its start and falls to its end, smoothly, float32 [length]."""
    x = np.arange(length, dtype=np.float32) + 0.5
    weight = np.ones(length, np.float32)
    for distance, fade in ((x, fade_in), (length - x, fade_out)):
        if fade:
            s = np.clip(distance / fade, 0, 1)
            weight *= s * s * (3 - 2 * s)
    return weight + 1e-4


def _strip(name: str, height: int, rng: np.random.Generator) -> np.ndarray:
    """A photograph at a random scale, place and flip, cropped to ``height``, float32 [height, w, 3]."""
    image = photograph(name)
    scale = height / image.shape[0] * rng.uniform(1.0, 1.2)
    size = (max(round(image.shape[1] * scale), 8), max(round(image.shape[0] * scale), height))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = np.clip(cv2.resize(image, size, interpolation=method), 0, 1)
    top = int(rng.integers(0, image.shape[0] - height + 1))
    image = image[top : top + height]
    return image[:, ::-1] if rng.random() < 0.5 else image


def panorama(size: tuple[int, int], names: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Photographs laid side by side (in rows, when tall) that melt into each other, float32 [H, W, 3] in 0..1.

    Each is used at another scale, place and flip and lies under its own grain, so that nothing repeats exactly.
    """
    total = np.zeros((*size, 3), np.float32)
    weights = np.zeros((*size, 1), np.float32)
    # Rows are at most about as high as the photographs: enlarging them further would leave a blur to follow.
    rows = max(1, round(size[0] / 480))
    overlap = 0 if rows == 1 else 64
    height = -(-(size[0] + (rows - 1) * overlap) // rows)
    order = 0
    for row in range(rows):
        top = row * (height - overlap)
        used = min(height, size[0] - top)
        across = _ramp(height, overlap if row else 0, overlap if row < rows - 1 else 0)[:used, None, None]
        x, fade = 0, max(height // 5, 8)
        while x < size[1]:
            strip = _strip(names[order % len(names)], height, rng)
            order += 1
            shown = min(strip.shape[1], size[1] - x)
            last = x + strip.shape[1] >= size[1]
            along = _ramp(strip.shape[1], fade if x else 0, 0 if last else fade)[None, :shown, None]
            weight = across * along
            total[top : top + used, x : x + shown] += weight * strip[:used, :shown]
            weights[top : top + used, x : x + shown] += weight
            x += max(strip.shape[1] - fade, 8)
    return with_detail(total / weights, 0.04, rng)


def subject_image(name: str, radius: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """The part of a photograph that a foreground shows, mirrored out to fill the texture, float32 [size, size, 3].

    Raises:
        InputError: the name is not one of the subjects.
    """
    if name not in _SUBJECTS:
        raise InputError(f"There is no subject called '{name}'; choose one of {', '.join(_SUBJECTS)}.")
    x, y, reach = _SUBJECTS[name]
    scale = radius / reach
    image = photograph(name)
    shape = (max(round(image.shape[1] * scale), 2), max(round(image.shape[0] * scale), 2))
    image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    offset = ((size - 1) / 2 - x * scale, (size - 1) / 2 - y * scale)
    matrix = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)
    placed = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return with_detail(np.clip(placed, 0, 1), 0.035, rng)


def blob(size: int, radius: float, stretch: float, rng: np.random.Generator) -> np.ndarray:
    """Outline of a smooth irregular shape about the texture's centre, float64 [N, 2] as (x, y) in texels."""
    theta = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    r = np.ones_like(theta)
    for k, share in ((2, 0.05), (3, 0.05), (4, 0.03), (5, 0.03), (7, 0.02)):
        r += share * rng.uniform(0.5, 1.0) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    r *= radius
    return (size - 1) / 2 + np.stack([r * np.cos(theta) * stretch, r * np.sin(theta) / stretch], axis=-1)


def tail(size: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Centre line of a curved tail that starts inside the shape, float64 [N, 2] as (x, y) in texels."""
    side = rng.choice((-1.0, 1.0))
    s = np.linspace(0, 1, 60)[:, None]
    points = np.array([[0.6, -0.2], [1.5, -0.15], [1.15, -1.1], [1.65, -1.35]]) * [side, 1.0] * radius
    bernstein = np.concatenate([(1 - s) ** 3, 3 * (1 - s) ** 2 * s, 3 * (1 - s) * s**2, s**3], axis=1)
    curve = bernstein @ points
    return (size - 1) / 2 + curve


def coverage(size: int, outline: np.ndarray | None, line: np.ndarray | None = None, width: float = 0.0) -> np.ndarray:
    """Area-filtered opacity of a filled outline and a stroke, float32 [size, size] in 0..1, edges about 1.5 px soft."""
    factor, bits = 4, 4
    canvas = np.zeros((size * factor, size * factor), np.uint8)

    def fixed(points: np.ndarray) -> np.ndarray:
        return np.round(((points + 0.5) * factor - 0.5) * (1 << bits)).astype(np.int32)

    if outline is not None:
        cv2.fillPoly(canvas, [fixed(outline)], (255,), lineType=cv2.LINE_8, shift=bits)
    if line is not None:
        thickness = max(round(width * factor), 1)
        cv2.polylines(canvas, [fixed(line)], False, (255,), thickness, lineType=cv2.LINE_8, shift=bits)
    alpha = cv2.resize(to_float(canvas), (size, size), interpolation=cv2.INTER_AREA)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.6)
    # The blur's far tail would make the layer's area a little larger than anyone can see.
    return np.where(alpha < 2e-3, 0, np.where(alpha > 0.998, 1, alpha)).astype(np.float32)


def band_limit(image: np.ndarray) -> np.ndarray:
    """Blur as a lens does (0.6 px), so that area sampling and bilinear sampling of the texture agree."""
    return cv2.GaussianBlur(image, (0, 0), 0.6)


def subject_texture(
    name: str, radius: float, thin: float, stretch: float, lighting: float, rng: np.random.Generator
) -> np.ndarray:
    """A cut-out photograph with a tail ``thin`` texels wide (0 = none), float32 [S, S, 4] in 0..1, straight alpha."""
    size = 2 * int(np.ceil(1.85 * radius)) + 9
    image = subject_image(name, radius, size, rng)
    outline = blob(size, radius, stretch, rng)
    alpha = coverage(size, outline)
    if thin:
        line = tail(size, radius, rng)
        stroke = cv2.GaussianBlur(coverage(size, None, line, thin + 3.0), (0, 0), 0.8)
        rings = 0.5 + 0.5 * np.sin(2 * np.pi * np.indices((size, size))[0] / (4 * thin))[..., None]
        colours = rings * np.array([0.93, 0.78, 0.45]) + (1 - rings) * np.array([0.30, 0.14, 0.07])
        share = stroke[..., None] * (1 - cv2.GaussianBlur(alpha, (0, 0), 1.5)[..., None])
        image = image * (1 - share) + colours * share
        alpha = np.maximum(alpha, coverage(size, None, line, thin))
    colour = to_range(band_limit(image.astype(np.float32)), lighting)
    return np.concatenate([colour, alpha[..., None]], axis=-1)
