"""``canon canonical DIR``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from canon.cli.arguments import Directory, parse
from canon.errors import InputError

DESCRIPTION = """Write the canonical images of a fit to paint on. Transparent parts are where nothing is known of a layer."""


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
    """Folder to write to, or with --layer a .png or .exr file; canonical/ in the project without it."""
    bits: int = 8
    """Bits per channel of PNGs: 8 or 16."""


def run(arguments: list[str]) -> int:
    """Write the images and print where they are."""
    (own,) = parse("canonical", DESCRIPTION, [CanonicalArguments], arguments)

    from canon.project import Project

    project = Project.open(own.project)
    fit = project.fit(own.fit)
    layers = [fit.layer(own.layer).name] if own.layer else fit.layers
    out = Path(own.out) if own.out else project.folder / "canonical"
    single = out.suffix.lower() in (".png", ".exr")
    if single and len(layers) > 1:
        raise InputError(f"'{out}' is one file for {len(layers)} layers; add --layer, or give a folder.")
    for name in layers:
        path = out if single else out / f"{name}.png"
        canvas = fit.canonical(name)
        canvas.save(path, own.bits)
        unseen = float((canvas.coverage == 0.5).mean())
        filled = f", {unseen:.0%} filled in plausibly" if unseen >= 0.005 else ""
        print(f"{path}  {canvas.size[1]}x{canvas.size[0]}{filled}")
    return 0
