"""``canon run EXPERIMENT.yaml``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from canon.cli.arguments import parse

if TYPE_CHECKING:
    from canon.experiments.contracts import Outcome, Row, Task
    from canon.experiments.planning import Plan
    from canon.experiments.results import Results

DESCRIPTION = """Run an experiment: clips x representations x editors, measured, rendered and reported. It is checked
before anything starts. Run it again after an interruption and it goes on; what is done is never done again, and a
changed file runs what changed. Failures are recorded and the rest goes on. docs/experiments.md says what to write."""

DONE, FAULT, BAD_INPUT = 0, 1, 2


@dataclass
class RunArguments:
    """Options of the command."""

    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.yaml")]
    """The experiment."""
    dry_run: bool = False
    """Check it, and print what would be run and what that may cost; nothing is written."""
    engine: Literal["in-process", "ray", "slurm"] = "in-process"
    """Where tasks run: one after another in this process, on Ray, or fits as Slurm jobs."""
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Ray cluster to use; without it, one is started on this machine."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder or URL (s3://...) for results; what the file says, else runs/NAME beside it, without it."""
    only: Annotated[str | None, tyro.conf.arg(metavar="GLOB")] = None
    """Run only what matches: names of clips, representations or editors, EDITOR-sSEED, or
    CLIP/REPRESENTATION/EDITOR/sSEED."""
    workers: int | None = None
    """With Ray or Slurm: how many tasks run at once."""
    engine_set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """An option of the engine, such as partition=gpu and time=120 of Slurm; repeat it for more."""
    report: bool = True
    """Write report.html in the end."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Change the experiment: editors.gold.strength=0.5, metrics.framewise=true; repeat it for more."""


def run(arguments: list[str]) -> int:
    """Run, and say what came of it."""
    (own,) = parse("run", DESCRIPTION, [RunArguments], arguments)

    from canon.experiments.places import SpecError

    try:
        return _dry(own) if own.dry_run else _run(own)
    except SpecError as error:
        for sentence in error.sentences:
            print(sentence, file=sys.stderr)
        return BAD_INPUT


def _run(own: RunArguments) -> int:
    from canon.experiments import running
    from canon.experiments.running import Callback
    from canon.experiments.table import ProgressTable

    class Failures(Callback):
        """Remembers what failed."""

        def __init__(self) -> None:
            self.outcomes: list[Outcome] = []

        def ended(self, task: object, outcome: Outcome) -> None:
            """Note a failure."""
            if not outcome.ok:
                self.outcomes.append(outcome)

    failures = Failures()
    with ProgressTable() as table:
        results = running.run(
            own.experiment,
            out=own.out,
            engine=own.engine,
            address=own.address,
            workers=own.workers,
            only=own.only,
            settings=own.set,
            report=own.report,
            callbacks=(table, failures),
            engine_options=_engine_options(own),
        )
    _summary(results, failures.outcomes)
    if not failures.outcomes:
        return DONE
    return FAULT if any(outcome.fault for outcome in failures.outcomes) else BAD_INPUT


def _summary(results: Results, failed: Sequence[Outcome]) -> None:
    from canon.cli.console import program, shell
    from canon.experiments.checking import counted
    from canon.experiments.results import CSV, PARQUET
    from canon.experiments.running import REPORT

    counts = Counter(str(row["status"]) for row in results.rows)
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{said} of {counted(len(results.rows), 'row')}")
    reasons: dict[str, list[str]] = {}
    for row in results.rows:
        if row["status"] == "failed":
            reasons.setdefault(str(row["error"]), []).append(_name(row))
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"failed   {names[0]}{more}: {reason}")
    store = results.store
    if store is None:
        return
    for name in (REPORT, PARQUET, CSV):
        if (store.local / name).is_file():
            print(f"{Path(name).stem:<8} {store.local / name}")
    if any(outcome.trace for outcome in failed):
        print(f"{'faults':<8} {store.local / 'failed'}  # with where they happened; please report them")
    project = next((row["project"] for row in results.rows if row.get("project")), None)
    if project is not None:
        print(f"look     {program()} view {shell(store.local / project)}")


def _name(row: Row) -> str:
    """What ``--only`` calls a row."""
    seed = None if row["seed"] is None else f"s{row['seed']}"
    parts = (row["clip"], row["representation"], row["editor"], seed)
    return "/".join(str(part) for part in parts if part is not None)


def _engine_options(own: RunArguments) -> dict[str, Any]:
    import yaml

    from canon.errors import InputError

    found = {}
    for text in own.engine_set:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"The value of --engine-set '{text}' cannot be read; write KEY=VALUE.") from error
        if not equals or not name.strip():
            raise InputError(f"--engine-set takes KEY=VALUE, not '{text}'.")
    return found


def _dry(own: RunArguments) -> int:
    from canon.experiments.planning import make_plan
    from canon.experiments.running import load_experiment, make_engine, open_store

    loaded = load_experiment(own.experiment, own.set)
    make_engine(own.engine, own.address, own.workers, options=_engine_options(own))
    store = open_store(loaded.experiment, own.out)
    plan = make_plan(loaded.experiment, store)
    _print_plan(plan, plan.matching(own.only), store.url)
    return DONE


def _print_plan(plan: Plan, chosen: Sequence[Task], url: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from canon.experiments.checking import counted
    from canon.experiments.contracts import KINDS
    from canon.experiments.table import clock

    wide = None if sys.stdout.isatty() else 160
    console = Console(width=wide, highlight=False)
    table = Table("task", "", "seconds", title=f"{plan.experiment.name}: {url}")
    for task in chosen[:_MOST_LINES]:
        found = plan.done.get(task.key)
        state = "done" if found else "run"
        seconds = f"{float(found['seconds']):.1f}" if found else f"~{task.seconds:.1f}"
        table.add_row(Text(task.label), state, seconds, style="dim" if found else None)
    console.print(table)
    if len(chosen) > _MOST_LINES:
        print(f"... and {counted(len(chosen) - _MOST_LINES, 'more task')}")
    counts = Counter(task.kind for task in chosen)
    left = [task for task in chosen if task.key not in plan.done]
    lefts = Counter(task.kind for task in left)
    print(", ".join(f"{counted(counts[kind], kind)} ({lefts[kind]} to run)" for kind in KINDS if counts[kind]))
    rows = f"{counted(len(plan.cells), 'row')} of results"
    if len(chosen) < len(plan.tasks):
        rows = f"{counted(len(plan.tasks) - len(chosen), 'task')} left out by --only; {rows}"
    if not left:
        print(f"{rows}; {'everything' if len(chosen) == len(plan.tasks) else 'what was chosen'} is done.")
        return
    known = plan.measured
    basis = "plain guesses" if not known else f"{known} of them as earlier runs took, the others plain guesses"
    basis = "as earlier runs took" if known >= len(plan.left) else basis
    seconds = clock(sum(task.seconds for task in left))
    print(f"{rows}; {counted(len(left), 'task')} to run, about {seconds} one after another ({basis})")


_MOST_LINES = 200
