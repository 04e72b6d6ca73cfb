"""``canon render DIR --edit N [--edit M ...]``, and from other cameras."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from canon.cli.arguments import Directory, parse
from canon.cli.console import WorkProgress
from canon.errors import InputError
from canon.progress import reporting

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit

DESCRIPTION = """Render one edit, or several in the order given, onto the source. Pixels that no edit touches stay what
they are in the source (in PNGs bit for bit; video codecs round). A fit in three dimensions can be seen from other
cameras and in other poses as well, with edits or without; there the source is rendered, too."""


@dataclass
class RenderArguments:
    """Options of the command."""

    project: Directory
    """Project folder."""
    edit: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Name of an edit; repeat it to stack edits in order."""
    out: str | None = None
    """.mp4, .mov (ProRes 4444), .webm, .gif, or a folder (with a trailing /) for PNGs; renders/N.mp4 without it."""
    fit: str | None = None
    """Render on this fit instead of the one that the edit was made on."""
    scale: int = 1
    """Times the source's size, 1 to 8: the source is enlarged, a finer painted canvas keeps its detail. Not of
    dynamic-nerf, which takes --camera with --height."""
    unlit: bool = False
    """The light of the scene does not fall on the edit."""
    camera: str | None = None
    """dynamic-nerf: "orbit" (once around), "original" (the clip's own, of several views the first; the source is
    rendered), nerfstudio's camera path, or a file of cameras, which must be of the fit's world."""
    pose: str | None = None
    """dynamic-nerf: motion for the person, a .bvh or a file of poses; it begins where the person of the clip stands.
    Without --camera it is seen as by --camera original."""
    only: str | None = None
    """Only this layer: the others are removed, and what is in front has opacity where the format can hold it."""
    frames: int | None = None
    """With --camera or --pose: so many frames; without it as many as the file or the clip has."""
    height: int | None = None
    """With --camera or --pose: height of the pictures, 8 to 8192; that of the clip without it."""


def run(arguments: list[str]) -> int:
    """Render and print where the video is."""
    (own,) = parse("render", DESCRIPTION, [RenderArguments], arguments)

    from canon.project import Project
    from canon.rendering import render

    project = Project.open(own.project)
    moved = own.camera is not None or own.pose is not None
    if not own.edit and not moved and own.only is None:
        there = f"it has {', '.join(project.edits)}" if project.edits else "make one with 'canon edit'"
        raise InputError(f"canon render needs --edit with the name of an edit; {there}.")
    if not moved and (own.frames is not None or own.height is not None):
        raise InputError("--frames and --height go with --camera or --pose.")
    edits = [project.edit(name) for name in own.edit]
    fit = project.fit(project.fit_of(edits, own.fit))
    parts = list(own.edit)
    begin = time.perf_counter()
    if moved:
        from canon.cli.elsewhere import ORIGINAL, elsewhere

        fit = elsewhere(fit, own.camera or ORIGINAL, own.pose, own.frames, own.height)
        parts.append("-".join(_stem(name) for name in (own.camera, own.pose) if name))
    cutout = None
    if own.only is not None:
        edits += _without_others(fit, own.only)
        parts.append(own.only)
        cutout = own.only if own.only != fit.layers[-1] else None
    video = render(fit, edits, lit=not own.unlit, scale=own.scale)
    out = own.out or str(project.render_path(parts))
    if cutout is not None and own.out is None:
        out = out.removesuffix(".mp4") + ".mov"
    with WorkProgress("rendering", lines=False) as progress, reporting(progress):
        count = video.save(out, cutout=cutout)
    seconds = max(time.perf_counter() - begin, 1e-6)
    print(f"{count} frames in {seconds:.1f} s, with encoding", file=sys.stderr)
    print(out)
    return 0


def _stem(name: str) -> str:
    from pathlib import Path

    return Path(name).stem


def _without_others(fit: Fit, only: str) -> list[Edit]:
    """An edit that takes away what lies before a layer; what lies behind is left out by cutting the layer out."""
    from canon.editing import edit

    last = fit.layers.index(fit.layer(only).name)
    return [edit(fit, "remove", layer=name) for name in fit.layers[:last]]
