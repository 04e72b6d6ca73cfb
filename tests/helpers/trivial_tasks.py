"""Tasks of experiment engines that cost nothing: each says in ``log.txt`` that it ran, and does what it is told."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Task
from canon.experiments.store import Store


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
