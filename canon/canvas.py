"""A canvas: the canonical image of one layer, as people and editors see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from canon.errors import InputError
from canon.storage import to_uint8, write_exr, write_image


@dataclass(eq=False)
class Canvas:
    """Canonical image of a layer."""

    rgba: np.ndarray = field(repr=False)
    """float32 [Hc, Wc, 4] in 0..1, sRGB, straight alpha; colours are defined where alpha is 0 too."""
    coverage: np.ndarray = field(repr=False)
    """float32 [Hc, Wc] in 0..1: 1 = seen in some frame, 0.5 = filled plausibly though never seen, 0 = nothing."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in texels."""
        return self.rgba.shape[0], self.rgba.shape[1]

    def save(self, path: str | Path, bits: int = 8) -> None:
        """Write the canvas atomically: ``.png`` (RGBA of 8 or 16 bits) or ``.exr`` (float32 RGBA, as it is).

        Raises:
            InputError: another suffix or depth, an unwritable folder, or a full disk.
        """
        path = Path(path)
        if path.suffix.lower() == ".exr":
            write_exr(path, {"RGBA": np.asarray(self.rgba, np.float32)})
            return
        if path.suffix.lower() != ".png" or bits not in (8, 16):
            raise InputError(f"Cannot write a canvas as '{path.name}' with {bits} bits; use .png (8 or 16) or .exr.")
        write_image(path, to_uint8(self.rgba) if bits == 8 else to_uint16(self.rgba))


def to_uint16(image: np.ndarray) -> np.ndarray:
    """float 0..1 -> uint16, rounded to nearest and clipped."""
    # In float64: float32 has too few digits for k + 0.5 to be exact near 65535.
    return (np.clip(image, 0.0, 1.0).astype(np.float64) * 65535.0 + 0.5).astype(np.uint16)
