"""``canon eval DIR [--edit N] [--framewise] [--json]``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import tyro

from canon.cli.arguments import Directory, parse

DESCRIPTION = """Measure how well a fit explains its video, and what an edit does to it beyond what was asked for."""


@dataclass
class EvalArguments:
    """Options of the command."""

    project: Directory
    """Project folder."""
    edit: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Name of an edit to measure too; repeat it for a stack."""
    fit: str | None = None
    """Name of the fit; that of the edit, or the one made last, without it."""
    colour: str | None = None
    """Colour that the edit is to give, as a CSS name or #rrggbb, for palette_distance; without it, the first one that
    the edit's prompt names."""
    clip_model: str | None = None
    """CLIP model for clip_text, clip_direction and frame_consistency: a folder, or a hub id that was downloaded before;
    without it, openai/clip-vit-base-patch32 if it is on this machine. Nothing is downloaded."""
    source_prompt: str | None = None
    """What the source shows, for clip_direction."""
    framewise: bool = False
    """Also make the edit on every frame by itself, with the same options, and print the same figures of that with
    framewise_ in front, and consistency_gain: how many times more it flickers."""
    json: bool = False
    """Print one JSON object and nothing else."""


def run(arguments: list[str]) -> int:
    """Measure and print."""
    (own,) = parse("eval", DESCRIPTION, [EvalArguments], arguments)

    from canon.evaluation import evaluate
    from canon.project import Project

    project = Project.open(own.project)
    edits = [project.edit(name) for name in own.edit]
    name = project.fit_of(edits, own.fit) if edits else project.fit_name(own.fit)
    figures = evaluate(
        project.fit(name),
        edits or None,
        colour=own.colour,
        clip_model=own.clip_model,
        source_prompt=own.source_prompt,
        framewise=own.framewise,
    )
    if own.json:
        found = {"fit": name, "edits": list(own.edit), **figures}
        # JSON knows no infinity and no nan.
        safe = {k: v for k, v in found.items() if not isinstance(v, float) or math.isfinite(v)}
        print(json.dumps(safe, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=f"fit '{name}'" + (f", edit {' + '.join(own.edit)}" if edits else ""))
    for key, value in figures.items():
        if isinstance(value, float):
            table.add_row(key, f"{value:.4g}")
    console = Console()
    console.print(table)
    if "notes" in figures:
        console.print(str(figures["notes"]), style="dim", markup=False)
    return 0
