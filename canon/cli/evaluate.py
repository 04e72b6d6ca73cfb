"""``canon eval DIR [--edit N] [--json]``."""

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
    json: bool = False
    """Print one JSON object and nothing else."""


def run(arguments: list[str]) -> int:
    """Measure and print."""
    (own,) = parse("eval", DESCRIPTION, [EvalArguments], arguments)

    from canon.metrics import evaluate
    from canon.project import Project

    project = Project.open(own.project)
    edits = [project.edit(name) for name in own.edit]
    name = project.fit_of(edits, own.fit) if edits else project.fit_name(own.fit)
    figures = evaluate(project.fit(name), edits or None)
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
