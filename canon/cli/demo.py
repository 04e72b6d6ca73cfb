"""``canon demo``."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from canon.cli.arguments import parse
from canon.cli.console import WorkProgress, program, shell

DESCRIPTION = """The whole path on an embedded clip: fit, canonical images, a painting, a grade, a removal, videos."""


@dataclass
class DemoArguments:
    """Options of the command."""

    out: str = "canon-demo"
    """Project folder to make."""
    representation: str = "atlas"
    """What explains the video."""
    preset: str = "balanced"
    """How much work to spend: fast, balanced or quality."""


def run(arguments: list[str]) -> int:
    """Run the demo; print a table and where everything is."""
    (own,) = parse("demo", DESCRIPTION, [DemoArguments], arguments)

    from canon.demo import Demo, run_demo, run_person_demo
    from canon.registry import representation

    make = run_person_demo if representation(own.representation).several_views else run_demo
    begin = time.perf_counter()
    with WorkProgress() as progress:
        demo: Demo = make(own.out, own.representation, progress, _say, own.preset)
    _table(demo.figures)
    folder = demo.project.folder
    fit_folder = demo.project.fit_folder(demo.fit_name)
    print(f"\ndone in {time.perf_counter() - begin:.0f} s; look at")
    print(f"  {demo.sheet}  (everything on one picture)")
    for path in demo.renders:
        print(f"  {path}")
    print(f"  {fit_folder / 'canonical'}/  (the canonical images)")
    print(f"  {demo.painting}  (one of them, painted on)")
    place = shell(folder)
    painting = shell(folder / "canonical" / demo.fit_name / f"{demo.fit.layers[0]}.png")
    print("\ntry next")
    print(f"  {program()} canonical {place}      # then paint on {painting} in any paint program")
    print(f"  {program()} edit {place} --editor paint --name mine --image {painting}")
    print(f"  {program()} render {place} --edit mine")
    print(f"  {program()} edit {place} --editor grade --name green --layer {demo.fit.layers[0]} --hue 120")
    print(f"  {program()} render {place} --edit green --edit emblem")
    print(f"  {program()} eval {place} --edit emblem --json")
    if make is run_person_demo:
        print(f"  {program()} render {place} --edit emblem --camera orbit")
    print(f"  {program()} fit YOUR_VIDEO.mp4 --project my-project")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _table(figures: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", show_edge=False)
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
