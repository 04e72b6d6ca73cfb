"""What runs on a Ray cluster: one process, one task at a time."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Task
from canon.experiments.store import Store
from canon.experiments.worker import (
    find_function,
    outcome_to_json,
    prepare_process,
    process_name,
    run_task,
    task_from_json,
)

_PROBE_SECONDS = 15.0


class TaskActor:
    """A worker; it speaks JSON alone, so that nothing of ours is pickled."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._execute: Callable[[Task, Store], Outcome] | None = None

    def greet(self, greeting: str) -> str:
        """Get ready; the answer is JSON with the worker's ``name``, or an ``error`` or ``fault``."""
        asked = json.loads(greeting)
        name = process_name()
        if not asked["gpus"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those are lent to others
        try:
            prepare_process()
            self._execute = find_function(asked["execute"])
            self._store = Store.open(asked["store"])
        except InputError as error:
            return json.dumps({"error": str(error)})
        except Exception as error:
            return json.dumps({"fault": f"{type(error).__name__}: {error}"})
        if asked["probe"] and not _seen(Path(asked["probe"])):
            machine = name.partition(":")[0]
            return json.dumps(
                {
                    "error": f"The machine {machine} of the Ray cluster does not see the folder '{asked['store']}'; "
                    "give a folder on a shared disk, or an object store such as s3://, as --out."
                }
            )
        return json.dumps({"name": name})

    def run(self, text: str) -> str:
        """Run the task that JSON describes; its outcome as JSON."""
        assert self._store is not None and self._execute is not None
        return outcome_to_json(run_task(task_from_json(text), self._store, self._execute))


def _seen(path: Path) -> bool:
    until = time.monotonic() + _PROBE_SECONDS  # network drives show new files late
    while not path.exists():
        if time.monotonic() > until:
            return False
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())
        time.sleep(0.2)
    return True
