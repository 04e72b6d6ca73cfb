"""Tasks of experiment engines that cost nothing: each says in ``log.txt`` that it ran, and does what it is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.experiments.contracts import Engine, Outcome, Resources, Task
from canon.experiments.store import Store

TRIVIAL = "trivial_tasks:execute"
HELPERS = Path(__file__).parent
"""What other processes need on their path to find these tasks."""


def task(key: str, *needs: str, cpus: int = 1, warm: str = "", kind: str = "edit", **arguments: Any) -> Task:
    """A trivial task; see :func:`execute` for its arguments."""
    return Task(key, kind, f"task {key}", arguments, needs, Resources(cpus), warm=warm)


def run(engine: Engine, tasks: Sequence[Task], store: Store) -> dict[str, Outcome]:
    """Run tasks, each of which has to begin and end as the contract of engines has it; outcomes by key."""
    ended: dict[str, Outcome] = {}
    begun: list[str] = []

    def end(task: Task, outcome: Outcome) -> None:
        assert task.key == outcome.key and task.key not in ended
        assert threading.current_thread() is threading.main_thread()
        ended[task.key] = outcome

    engine.run(tasks, store, lambda task, worker: begun.append(task.key), end)
    assert set(ended) == {task.key for task in tasks}
    assert all(key in begun for key, outcome in ended.items() if outcome.ok)
    return ended


def executions(store: Store) -> list[list[str]]:
    """[key, process, note] of every execution of a trivial task, in order."""
    return [(line + " ").split(" ")[:3] for line in store.path("log.txt").read_text().splitlines()]


def execute(task: Task, store: Store) -> Outcome:
    """Run a trivial task; arguments: ``sleep`` (s), ``die`` / ``fault`` (times), ``bad`` (a sentence)."""
    arguments, worker = task.arguments, str(os.getpid())
    for name in task.needs:
        assert store.record(name) is not None, f"{task.key} runs before {name} is done"
    with store.path("log.txt").open("a") as log:
        log.write(f"{task.key} {worker} {arguments.get('note', '')}\n")
    ran = sum(line.split()[0] == task.key for line in store.path("log.txt").read_text().splitlines())
    time.sleep(arguments.get("sleep", 0))
    if ran <= arguments.get("die", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if ran <= arguments.get("fault", 0):
        return Outcome(task.key, "A fault.", fault=True, trace="Traceback")
    if arguments.get("raise"):
        raise InputError("Raised bad input.")
    if arguments.get("bad"):
        return Outcome(task.key, arguments["bad"], worker=worker)
    store.write_record(task.key, {"figures": {"ran": ran}})
    return Outcome(task.key, figures={"ran": ran}, worker=worker)


def execute_at_once(task: Task, store: Store) -> Outcome:
    """Note down that it is done, and nothing else."""
    store.write_record(task.key, {})
    return Outcome(task.key)


def execute_apart(task: Task, store: Store) -> Outcome:
    """Run a real task as if it had a machine of its own: what it needs comes through the store's URL alone."""
    from canon.experiments.tasks import execute

    scratch = Path(store.url.removeprefix("file://")).parent / "machines" / task.key
    return execute(task, Store.open(store.url, scratch))
