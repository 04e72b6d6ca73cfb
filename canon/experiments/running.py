"""``canon.run``: an experiment from its YAML to its results."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canon.errors import InputError
from canon.experiments.choices import Experiment
from canon.experiments.contracts import Engine, Outcome, Task
from canon.experiments.loading import from_python, read_experiment
from canon.experiments.places import Place, Problems
from canon.experiments.planning import Plan, make_plan
from canon.experiments.rows import rows_of
from canon.experiments.spec import resolve
from canon.experiments.store import FAILED, Store
from canon.experiments.tasks import record
from canon.storage import explain_os_error, read_yaml, write_yaml

if TYPE_CHECKING:
    from canon.experiments.results import Results

log = logging.getLogger("canon")

IN_PROCESS, RAY, SLURM = ENGINES = ("in-process", "ray", "slurm")
MARKER, LOCK, REPORT = "experiment.yaml", ".driver.lock", "report.html"
FORMAT, VERSION = "canon-experiment", 1
_OLD = 3600.0
"""Seconds after which what was left half-written is nobody's any more."""


class Callback:
    """Is told how a run goes on; every method may be left as it is."""

    def planned(self, plan: Plan, tasks: Sequence[Task]) -> None:
        """Before the first task: the plan, and which of its tasks are to be run now."""

    def begun(self, task: Task, worker: str) -> None:
        """A task has begun."""

    def progress(self, stage: str, done: float, figures: Mapping[str, float]) -> None:
        """How far the running fit is; in-process only."""

    def ended(self, task: Task, outcome: Outcome) -> None:
        """A task is done or failed, or cannot be run because another one failed."""


@dataclass
class Loaded:
    """An experiment with the texts that it was read from."""

    experiment: Experiment
    file: str = ""
    texts: dict[str, str] = field(default_factory=dict)


def run(
    experiment: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    engine: str | Engine = IN_PROCESS,
    address: str | None = None,
    workers: int | None = None,
    only: str | None = None,
    settings: Sequence[str] = (),
    report: bool = True,
    callbacks: Sequence[Callback] = (),
    engine_options: Mapping[str, Any] | None = None,
) -> Results:
    """Run an experiment; what was done before is found again, also after a crash.

    Args:
        experiment: a YAML file as :mod:`canon.experiments.spec` describes it, or the same as a mapping, whose relative
            paths start from the working folder.
        out: folder or URL for everything that is made; None = what the experiment says, else ``runs/NAME`` beside it.
        engine: in-process, ray or slurm; or an object that is one.
        address: of a Ray cluster; None = one on this machine.
        workers: how many tasks run at once, of Ray and Slurm; None = what there is room for.
        only: run what matches alone: a pattern for names of clips, representations or editors, or for
            ``CLIP/REPRESENTATION/EDITOR/sSEED``.
        settings: ``dotted.key=value``, laid over the experiment.
        report: whether to write ``report.html``.
        callbacks: told how it goes on.
        engine_options: more that the engine takes.

    Returns:
        a row for every clip x representation x editor x seed; failures are rows, too.

    Raises:
        InputError: the experiment cannot be run; every problem is told (:class:`canon.experiments.places.SpecError`).
            Or ``out`` holds something else, another run is at work in it, or the engine is not there.
    """
    loaded = load_experiment(experiment, settings)
    chosen = make_engine(engine, address, workers, callbacks, engine_options)
    store = open_store(loaded.experiment, out)
    begin = time.time()
    with driver_lock(store):
        plan = make_plan(loaded.experiment, store)
        tasks = plan.chosen(only)
        mark(store, loaded)
        plan.keep(store)
        clear_leftovers(plan, store)
        errors = _go(chosen, plan, tasks, store, callbacks)
        results = _results(loaded, plan, store, errors, begin, engine)
        _write(results, store, report, bool(tasks))
        return results


def load_experiment(experiment: str | Path | Mapping[str, Any], settings: Sequence[str] = ()) -> Loaded:
    """Read and check an experiment.

    Raises:
        SpecError: whatever is wrong with it, all of it.
        InputError: it is neither a file nor a mapping.
    """
    problems = Problems()
    if isinstance(experiment, Mapping):
        return Loaded(resolve(from_python(experiment, problems, settings), problems, Path.cwd(), "experiment"))
    if not isinstance(experiment, str | Path):
        given = type(experiment).__name__
        raise InputError(f"An experiment is a YAML file or a mapping, not of the type {given}.")
    path = Path(experiment)
    node, texts = read_experiment(path, problems, settings)
    return Loaded(resolve(node, problems, path.absolute().parent, path.stem), str(path), texts)


def make_engine(
    engine: str | Engine,
    address: str | None = None,
    workers: int | None = None,
    callbacks: Sequence[Callback] = (),
    options: Mapping[str, Any] | None = None,
) -> Engine:
    """An engine by name; those that are not asked for are not imported.

    Raises:
        InputError: unknown, not installed, or options that it does not take.
    """
    if not isinstance(engine, str):
        return engine
    more = {name: value for name, value in {"address": address, "workers": workers, **(options or {})}.items()
            if value is not None}  # fmt: skip
    if engine == RAY:
        from canon.experiments.ray_engine import RayEngine

        return _made(RayEngine, more)
    if address is not None:
        raise InputError("An address is that of a Ray cluster; give --engine ray with it.")
    if engine == SLURM:
        from canon.experiments.slurm_engine import SlurmEngine

        return _made(SlurmEngine, more)
    if engine != IN_PROCESS:
        raise InputError(f"There is no engine '{engine}'; choose one of {', '.join(ENGINES)}.")
    if more:
        raise InputError(f"In-process, one task runs after another; {next(iter(more))} goes with ray or slurm.")
    from canon.experiments.inprocess import InProcessEngine

    def progress(stage: str, done: float, figures: Mapping[str, float]) -> None:
        for callback in callbacks:
            callback.progress(stage, done, figures)

    return InProcessEngine(progress)


def _made(kind: Any, options: Mapping[str, Any]) -> Engine:
    parameters = inspect.signature(kind).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name not in parameters and not open_ended:
            raise InputError(f"The engine has no option '{name}'; it has {', '.join(parameters)}.")
    engine: Engine = kind(**options)
    return engine


# --- the store ---


def open_store(experiment: Experiment, out: str | Path | None = None) -> Store:
    """The store of an experiment, which is made when something is written.

    Raises:
        SpecError: the folder holds something that is not this experiment's.
    """
    place = str(out) if out is not None else experiment.out
    remote = "://" in place
    store = Store.open(place if remote else Path(place))
    where = Place("--out", 0, Path.cwd()) if out is not None or experiment.out_place is None else experiment.out_place
    problems = Problems()
    sentence = _occupied(store, experiment.name)
    if sentence is not None:
        problems.add(where, sentence)
    problems.check()
    return store


def _occupied(store: Store, name: str) -> str | None:
    """Why a store cannot be this experiment's."""
    try:
        if not store.remote and store.local.exists() and not store.local.is_dir():
            return f"'{store.local}' is a file; give a folder for the results (out:)."
        marker = store.fetch(MARKER)
        if not marker.is_file():
            there = [] if store.remote or not store.local.is_dir() else [path.name for path in store.local.iterdir()]
            others = [one for one in there if one != LOCK and not one.startswith(".partial-")]
            if others:
                return f"'{store.url}' holds '{others[0]}' and no experiment; give another folder (out:)."
            return None
    except OSError as error:
        return f"Cannot read '{store.url}' ({error.strerror}); give another folder (out:)."
    found = read_yaml(marker)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        return f"'{marker}' does not describe an experiment that this canon reads; give another folder (out:)."
    if found.get("name") != name:
        return f"'{store.url}' holds the experiment '{found.get('name')}', not '{name}'; give another folder (out:)."
    return None


def mark(store: Store, loaded: Loaded) -> None:
    """Say in the store whose it is.

    Raises:
        InputError: it cannot be written.
    """
    wanted = {"format": FORMAT, "version": VERSION, "name": loaded.experiment.name, "file": loaded.file}
    marker = store.path(MARKER)
    if not marker.is_file() or read_yaml(marker) != wanted:
        write_yaml(marker, wanted)
        store.publish(MARKER)


@contextlib.contextmanager
def driver_lock(store: Store) -> Iterator[None]:
    """Hold a store for one run.

    Raises:
        InputError: another one is at work in it, or it cannot be written.
    """
    path = store.local / LOCK
    try:
        store.local.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise explain_os_error(error, path) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise explain_os_error(error, path) from error
            raise InputError(f"Another canon run is at work in '{store.url}'; wait for it to end.") from error
        yield


def clear_leftovers(plan: Plan, store: Store) -> None:
    """Remove what killed tasks left half-written, unless it is young: an orphan of theirs may still be at work."""
    for project in {cell.clip.arguments["project"] for cell in plan.cells}:
        folder = store.path(project)
        for left in [*folder.glob(".partial-*"), *folder.glob("*/.partial-*"), *folder.glob("*/.replaced-*")]:
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _OLD:
                    _remove(left)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- running ---


def _go(
    engine: Engine, plan: Plan, tasks: Sequence[Task], store: Store, callbacks: Sequence[Callback]
) -> dict[str, str]:
    """Run tasks; returns the errors by key."""
    errors: dict[str, str] = {}

    def begun(task: Task, worker: str) -> None:
        for callback in callbacks:
            callback.begun(task, worker)

    def ended(task: Task, outcome: Outcome) -> None:
        if outcome.error is not None:
            errors[task.key] = outcome.error
        _complete_note(task, outcome, store)
        for callback in callbacks:
            callback.ended(task, outcome)

    for callback in callbacks:
        callback.planned(plan, tasks)
    if tasks:
        engine.run(tasks, store, begun, ended)
    return errors


def _complete_note(task: Task, outcome: Outcome, store: Store) -> None:
    """Note what the process that ran a task could not know: earlier attempts, and its own death."""
    if outcome.attempts == 1 and not outcome.fault:
        return
    with contextlib.suppress(InputError, OSError):  # it is a note
        if not outcome.ok:
            store.write_record(task.key, record(task, outcome), FAILED)
        elif (found := store.record(task.key)) is not None:
            store.write_record(task.key, {**found, "attempts": outcome.attempts})


def _results(
    loaded: Loaded,
    plan: Plan,
    store: Store,
    errors: Mapping[str, str],
    begin: float,
    engine: str | Engine,
) -> Results:
    from canon.experiments.results import Results

    experiment = loaded.experiment
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    provenance = {
        "spec": experiment.plain,
        "files": loaded.texts,
        "file": loaded.file,
        "description": experiment.description,
        "engine": engine if isinstance(engine, str) else type(engine).__name__,
        "ended": now,
        "seconds": round(time.time() - begin, 2),
        "inputs": plan.inputs,
        "tasks": {"planned": len(plan.tasks), "done_before": len(plan.done)},
    }
    return Results(rows_of(plan, store, errors), store, provenance)


def _write(results: Results, store: Store, report: bool, anew: bool) -> None:
    """Write tables and report; a report that says the same already stays unless it is to be made ``anew``."""
    try:
        saved = results.save(store.local)
    except InputError as error:
        log.warning("%s", error)
        saved = []
    written = [path for path in saved if path.exists()]
    if report:
        page = _report(results, store, anew)
        written += [] if page is None else [page]
    for path in written:
        store.publish(path.relative_to(store.local).as_posix())


def _report(results: Results, store: Store, anew: bool) -> Path | None:
    """The report if it was written, or None and a warning: results are not worth less for want of one."""
    try:
        from canon.experiments.report import is_current, write_report
    except ModuleNotFoundError as error:
        if error.name != "canon.experiments.report":
            log.warning("the report is left out: it needs %s, of canon-video[experiments]", error.name)
        return None
    try:
        if not anew and is_current(store.fetch(REPORT), results):
            return None
        return write_report(results, store.path(REPORT))
    except InputError as error:
        log.warning("the report is left out: %s", error)
    except Exception as error:
        log.warning("the report is left out (%s: %s); this is a fault in canon", type(error).__name__, error)
    return None
