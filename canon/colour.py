"""Colour functions that a grade is made of, and colours by name.

Colours are sRGB float32 [..., 3], 0..1 but for what light adds beyond; named ones are uint8.
"""

from __future__ import annotations

import difflib
import math
import re

import numpy as np
from PIL import ImageColor

from canon.errors import InputError

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def to_linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB -> linear light (IEC 61966-2-1), continued above 1; negative values count as 0."""
    rgb = np.maximum(rgb, 0.0)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def from_linear(rgb: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_linear`."""
    rgb = np.maximum(rgb, 0.0)
    return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055).astype(np.float32)


def hue_matrix(degrees: float) -> np.ndarray:
    """Turn about the grey axis that keeps luma, float32 [3, 3] for ``rgb @ m.T``; 120 degrees make red green."""
    a = math.radians(degrees)
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) * math.cos(a) + (1 - math.cos(a)) * np.outer(axis, axis) + math.sin(a) * cross
    # The rotation keeps R + G + B; adding grey makes it keep luma instead.
    return (turn + np.outer(np.ones(3), _LUMA @ (np.eye(3) - turn))).astype(np.float32)


def saturate(rgb: np.ndarray, factor: float) -> np.ndarray:
    """0 = grey of the same luma, 1 = unchanged, above 1 = more colourful."""
    luma = (rgb @ _LUMA)[..., None]
    return luma + np.float32(factor) * (rgb - luma)


def light_gains(exposure: float, temperature: float) -> np.ndarray:
    """Gains in linear light, float32 [3]: ``exposure`` in stops; ``temperature`` from -1 (bluer) to 1 (warmer)."""
    return np.array(
        [2.0 ** (exposure + 0.5 * temperature), 2.0**exposure, 2.0 ** (exposure - 0.5 * temperature)], np.float32
    )


def named_colour(name: str) -> np.ndarray:
    """The colour of a CSS name, such as gold, or of #rrggbb; uint8 [3].

    Raises:
        InputError: neither.
    """
    try:
        return np.array(ImageColor.getrgb(name.strip())[:3], np.uint8)
    except ValueError as error:
        near = difflib.get_close_matches(name.strip().lower(), ImageColor.colormap, 1)
        hint = f"did you mean '{near[0]}'?" if near else "give a CSS name, such as gold, or #rrggbb."
        raise InputError(f"There is no colour called '{name}'; {hint}") from error


def colour_word(text: str) -> str | None:
    """The first word of a text that is the name of a colour, in lower case; None if there is none."""
    return next((word for word in re.findall(r"[a-z]+", text.lower()) if word in ImageColor.colormap), None)
