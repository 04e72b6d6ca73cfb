"""Running one task in a process of its own, or in a worker: tasks and outcomes travel as JSON.

``python -m canon.experiments.worker TASK.json STORE OUTCOME.json`` runs the task that a file describes and writes what
came of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from canon.errors import InputError, first_line
from canon.experiments.contracts import Outcome, Resources, Task
from canon.experiments.store import Store
from canon.storage import to_plain, write_bytes

EXECUTE = "canon.experiments.tasks:execute"
"""``module:function`` of what runs a task: ``function(task, store) -> Outcome``."""


def task_to_json(task: Task) -> str:
    """A task as text; see :func:`task_from_json`."""
    return json.dumps(to_plain(task))


def task_from_json(text: str) -> Task:
    """The task that a text describes."""
    fields = json.loads(text)
    return Task(**{**fields, "needs": tuple(fields["needs"]), "resources": Resources(**fields["resources"])})


def outcome_to_json(outcome: Outcome) -> str:
    """An outcome as text; see :func:`outcome_from_json`."""
    return json.dumps(to_plain(outcome))


def outcome_from_json(text: str) -> Outcome:
    """The outcome that a text describes."""
    fields = json.loads(text)
    return Outcome(**{**fields, "outputs": tuple(fields["outputs"])})


def find_function(name: str) -> Callable[[Task, Store], Outcome]:
    """The function behind ``module:function``."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def run_task(task: Task, store: Store, execute: Callable[[Task, Store], Outcome]) -> Outcome:
    """Run a task; whatever is raised on the way becomes an outcome, too."""
    try:
        outcome = execute(task, store)
    except Exception as error:
        fault = not isinstance(error, InputError)
        sentence = f"{type(error).__name__}: {first_line(error)}" if fault else str(error)
        outcome = Outcome(task.key, sentence, fault=fault, trace=traceback.format_exc() if fault else "")
    return outcome if outcome.worker else replace(outcome, worker=process_name())


def process_name() -> str:
    """``machine:process``, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def prepare_process() -> None:
    """Make a process that runs tasks like the command line's own; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ray sets it to the CPUs asked for. Tasks set their own threads; the rest is to be as everywhere.
    os.environ.pop("OMP_NUM_THREADS", None)


def main(argv: list[str] | None = None) -> int:
    """Run the task of a file; 0 = its outcome was written, be it a failure."""
    parser = argparse.ArgumentParser(prog="python -m canon.experiments.worker", description=__doc__)
    parser.add_argument("task", type=Path, help="file that describes the task")
    parser.add_argument("store", help="path or URL of the store")
    parser.add_argument("outcome", type=Path, help="file to write what came of it to")
    parser.add_argument("--execute", default=EXECUTE, help="module:function that runs it")
    arguments = parser.parse_args(argv)
    _end_with(os.getppid())
    prepare_process()
    task = task_from_json(arguments.task.read_text(encoding="utf-8"))
    outcome = run_task(task, Store.open(arguments.store), find_function(arguments.execute))
    write_bytes(arguments.outcome, outcome_to_json(outcome).encode())
    return 0


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, which a scheduler may kill alone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def refuse_private(store: Store, engine: str) -> None:
    """Refuse a store that other processes cannot see.

    Raises:
        InputError: it is in this process's memory.
    """
    if store.url.startswith("memory:"):
        raise InputError(
            f"The store '{store.url}' is in this process's memory, which the workers of {engine} cannot see; "
            "give a folder or an object store as --out."
        )


def described(value: Any) -> str:
    """What an error says, as one line of moderate length."""
    return " ".join(str(value).split())[:300]


if __name__ == "__main__":
    sys.exit(main())
