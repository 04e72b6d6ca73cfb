"""What other programs take of a fit in three dimensions: its surface, and how far and how solid all is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from canon.errors import InputError
from canon.fits import Fit
from canon.folders import atomic_folder
from canon.spatial import SpatialFit
from canon.storage import to_uint8, write_exr, write_image


def export_meshes(fit: SpatialFit, paths: Sequence[Path]) -> list[Path]:
    """Write the canonical surface to each path; see :meth:`canon.spatial.SpatialFit.save_mesh`."""
    for path in paths:
        fit.save_mesh(path)
    return list(paths)


def export_depth(fit: SpatialFit, folder: Path) -> Path:
    """Write ``00000.exr`` and so on, channel Z: lengths from the camera along the rays, in the world's units.

    Raises:
        InputError: files that are not canon's are in the way, or the folder cannot be written.
    """
    return _sequence(folder, ".exr", ((t, {"Z": fit.distance(t)}) for t in range(len(fit))))


def export_opacity(fit: Fit, folder: Path, layer: str) -> Path:
    """Write what a layer shows of each frame as ``00000.png`` and so on, 0 to 255; see :func:`export_depth`."""
    k = fit.layers.index(fit.layer(layer).name)
    return _sequence(folder, ".png", ((t, fit.weights(t)[k]) for t in range(len(fit))))


def _sequence(folder: Path, suffix: str, frames: Iterator[tuple[int, dict[str, np.ndarray] | np.ndarray]]) -> Path:
    if folder.suffix:
        raise InputError(f"'{folder}' is no folder; a sequence of pictures needs one.")
    with atomic_folder(folder, lambda old: {path.name for path in old.glob(f"[0-9]*{suffix}")}) as target:
        for t, image in frames:
            path = target / f"{t:05d}{suffix}"
            if isinstance(image, dict):
                write_exr(path, image)
            else:
                write_image(path, to_uint8(image))
    return folder
