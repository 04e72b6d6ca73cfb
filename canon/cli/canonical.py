"""``canon canonical DIR``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from canon.canvas import Canvas
from canon.cli.arguments import Directory, parse
from canon.errors import InputError
from canon.layered_images import CANONICAL, SUFFIXES, LayeredImage, PaintLayer, write_layers
from canon.storage import file_digest, to_uint8

if TYPE_CHECKING:
    from canon.fits import Fit

_PICTURES = 8
"""Of a turntable, beside its video."""
_TURNTABLE_FPS = 12

DESCRIPTION = (
    """Write the canonical images of a fit to paint on. Transparent parts are where nothing is known of a layer."""
)


@dataclass
class CanonicalArguments:
    """Options of the command."""

    project: Directory
    """Project folder."""
    fit: str | None = None
    """Name of the fit; the one made last without it."""
    layer: str | None = None
    """Only this layer."""
    out: str | None = None
    """Folder to write to, or with --layer a file (.png, .exr, .ora, .psd); canonical/FIT/ in the project without it."""
    format: Literal["png", "exr", "ora", "psd"] | None = None
    """Of the files in a folder, png without it. OpenRaster (ora) and Photoshop (psd) get a layer to paint on."""
    bits: int = 8
    """Bits per channel of PNGs: 8 or 16."""
    turntable: bool = True
    """dynamic-nerf: also write views from all around, as pictures and as a video."""


def run(arguments: list[str]) -> int:
    """Write the images and print where they are."""
    (own,) = parse("canonical", DESCRIPTION, [CanonicalArguments], arguments)

    from canon.fit_folder import canvas_files
    from canon.project import Project

    project = Project.open(own.project)
    fit_name = project.fit_name(own.fit)
    fit = project.fit(fit_name)
    layers = [fit.layer(own.layer).name] if own.layer else fit.layers
    out = Path(own.out) if own.out else project.folder / "canonical" / fit_name
    single = out.suffix.lower() in (".png", ".exr", *SUFFIXES)
    if out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".xcf", ".kra"):
        raise InputError(
            f"Cannot write a canvas as '{out.name}'; use .png or .exr, .ora or .psd for layers, or give a folder."
        )
    suffix = f".{own.format}" if own.format else out.suffix.lower() if single else ".png"
    if single and suffix != out.suffix.lower():
        raise InputError(f"'{out.name}' is not of the format {own.format}; drop --format, or change the name.")
    if own.bits != 8 and suffix in SUFFIXES:
        raise InputError(f"Files of layers have 8 bits per channel, not {own.bits}; use .png for 16.")
    canvases = [(name, k, file) for name in layers for k, file in enumerate(canvas_files(fit, name))]
    if single and len(canvases) > 1:
        raise InputError(f"'{out}' is one file for {len(canvases)} images; add --layer, or give a folder.")
    for name, segment, file in canvases:
        path = out if single else (out / file).with_suffix(suffix)
        canvas = fit.canonical(name, segment)
        if own.out is None:
            path = _save_beside(canvas, path, own.bits)
        else:
            _save(canvas, path, own.bits)
        unseen = float((canvas.coverage == 0.5).mean())
        filled = f", {unseen:.0%} filled in plausibly" if unseen >= 0.005 else ""
        parts = fit.segments(name)
        frames = f", frames {parts[segment][0]} to {parts[segment][1]}" if len(parts) > 1 else ""
        print(f"{path}  {canvas.size[1]}x{canvas.size[0]}{frames}{filled}")
    if own.turntable and not single:
        _save_turntables(fit, out, layers)
    return 0


def _save_turntables(fit: Fit, out: Path, layers: Sequence[str]) -> None:
    """Write what a fit in three dimensions shows of its canonical layers from all around: pictures, and a video."""
    from canon.spatial import SpatialFit
    from canon.storage import write_image
    from canon.video import write_video

    if not isinstance(fit, SpatialFit):
        return
    for table in fit.turntables():
        if table.name not in layers:
            continue
        pictures = list(table.frames)
        for k in range(0, table.count, max(table.count // _PICTURES, 1)):
            write_image(out / f"{table.name}-turntable" / f"{360 * k // table.count:03d}.png", pictures[k])
        path = out / f"{table.name}-turntable.mp4"
        write_video(path, pictures, _TURNTABLE_FPS)
        print(f"{path}  {table.count} views from all around")


def _save(canvas: Canvas, path: Path, bits: int) -> None:
    if path.suffix.lower() not in SUFFIXES:
        canvas.save(path, bits)
        return
    empty = np.zeros((*canvas.size, 4), np.uint8)
    layers = [PaintLayer(CANONICAL, to_uint8(canvas.rgba)), PaintLayer("paint", empty)]
    write_layers(path, LayeredImage(canvas.size, layers))


def _save_beside(canvas: Canvas, path: Path, bits: int) -> Path:
    """Save, but never over an image that somebody painted on; returns where the canvas is now."""
    with tempfile.TemporaryDirectory(prefix="canon-") as folder:
        fresh = Path(folder) / path.name
        _save(canvas, fresh, bits)
        digest, number, free = file_digest(fresh), 1, path
        while free.exists() and file_digest(free) != digest:
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    if free != path:
        print(f"note: '{path}' was painted on and is left alone", file=sys.stderr)
    if not free.exists():
        _save(canvas, free, bits)
    return free
