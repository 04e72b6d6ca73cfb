"""``canon render DIR --edit N [--edit M ...]``."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import tyro

from canon.cli.arguments import Directory, parse
from canon.errors import InputError

DESCRIPTION = """Render one edit, or several in the order given, onto the source. Pixels that no edit touches stay what
they are in the source (in PNGs bit for bit; video codecs round)."""


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
    """Times the source's size, 1 to 8: the source is enlarged, a finer painted canvas keeps its detail."""
    unlit: bool = False
    """The light of the scene does not fall on the edit."""


def run(arguments: list[str]) -> int:
    """Render and print where the video is."""
    (own,) = parse("render", DESCRIPTION, [RenderArguments], arguments)

    from canon.project import Project
    from canon.rendering import render

    project = Project.open(own.project)
    if not own.edit:
        there = f"it has {', '.join(project.edits)}" if project.edits else "make one with 'canon edit'"
        raise InputError(f"canon render needs --edit with the name of an edit; {there}.")
    edits = [project.edit(name) for name in own.edit]
    fit = project.fit(project.fit_of(edits, own.fit))
    video = render(fit, edits, lit=not own.unlit, scale=own.scale)
    out = own.out or project.render_path(own.edit)
    begin = time.perf_counter()
    count = video.save(out)
    seconds = max(time.perf_counter() - begin, 1e-6)
    print(f"{count} frames in {seconds:.1f} s, with encoding", file=sys.stderr)
    print(out)
    return 0
