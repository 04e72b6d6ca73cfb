"""A panorama of the background: the canvas of what has no surface of its own that could be unwrapped well.

Convention: from its centre it looks ahead, around and up; columns go with the angle around to the right, rows with the
angle down, both as many texels to a radian (an equirectangular projection).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from canon.cameras import Camera
from canon.coordinates import Size


@dataclass(frozen=True, eq=False)
class Panorama:
    """Where places of the world lie in the picture.

    Attributes:
        centre: float64 [3].
        axes: float64 [3, 3], rows: right, down, ahead.
        start: angles (around, down) in radians at the middle of the first texel.
        density: texels to a radian.
        size: (height, width).
    """

    centre: np.ndarray
    axes: np.ndarray
    start: tuple[float, float]
    density: float
    size: Size

    @classmethod
    def of(cls, cameras: Sequence[Camera], places: np.ndarray, scale: float, most: int) -> Panorama:
        """One from the middle of all cameras that shows places [N, 3] of the world.

        Args:
            scale: texels along a pixel of the cameras.
            most: texels along a side.
        """
        centre = np.mean([camera.position for camera in cameras], axis=0)
        ahead = np.mean([camera.rotation[2] for camera in cameras], axis=0)
        down = np.mean([camera.rotation[1] for camera in cameras], axis=0)
        ahead -= down * (ahead @ down) / (down @ down)
        down, ahead = down / np.linalg.norm(down), ahead / max(np.linalg.norm(ahead), 1e-9)
        if np.linalg.norm(ahead) < 0.5:  # cameras all around, whose views cancel out
            ahead = np.cross(np.eye(3)[int(np.abs(down).argmin())], down)
            ahead /= np.linalg.norm(ahead)
        axes = np.stack([np.cross(down, ahead), down, ahead])
        density = scale * float(np.median([camera.intrinsics[0, 0] for camera in cameras]))
        angles = _angles((places - centre) @ axes.T)
        low, high = np.quantile(angles, 0.0005, axis=0), np.quantile(angles, 0.9995, axis=0)
        margin = 0.02
        low, high = low - margin, high + margin
        low[0], high[0] = max(low[0], -np.pi), min(high[0], np.pi)
        density = min(density, (most - 1) / float((high - low).max()))
        height, width = (int(np.ceil((high - low)[axis] * density)) + 1 for axis in (1, 0))
        return cls(centre, axes, (float(low[0]), float(low[1])), density, (height, width))

    def resized(self, size: Size) -> Panorama:
        """The same directions in a picture of about the same aspect and another size (height, width)."""
        scale = size[1] / self.size[1]
        half = (1 / scale - 1) / 2 / self.density  # the middle of the first texel is not the picture's corner
        start = self.start[0] + half, self.start[1] + half
        return Panorama(self.centre, self.axes, start, self.density * scale, size)

    def coordinates(self, places: np.ndarray) -> np.ndarray:
        """Places [..., 3] of the world as texels (x, y), float32 [..., 2], brought into the picture."""
        angles = _angles((places - self.centre) @ self.axes.T)
        found = (angles - np.array(self.start)) * self.density
        return np.clip(found, 0, np.array([self.size[1] - 1, self.size[0] - 1])).astype(np.float32)

    def directions(self, rows: slice = slice(None)) -> np.ndarray:
        """Where its texels look, float64 [h, w, 3] of length 1, or those of some rows."""
        height, width = self.size
        return self.towards(np.stack(np.meshgrid(np.arange(width), np.arange(height)[rows]), axis=-1))

    def towards(self, texels: np.ndarray) -> np.ndarray:
        """Where texels [..., 2] look, float64 [..., 3] of length 1."""
        around, down = np.moveaxis(np.array(self.start) + texels / self.density, -1, 0)
        level = np.cos(down)
        parts = (np.sin(around) * level, np.sin(down), np.cos(around) * level)
        return np.asarray(np.stack(parts, axis=-1) @ self.axes)


def _angles(places: np.ndarray) -> np.ndarray:
    """(around, down) of places [..., 3] in the panorama's axes."""
    x, y, z = np.moveaxis(places, -1, 0)
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], axis=-1)
