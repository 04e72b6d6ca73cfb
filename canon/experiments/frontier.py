"""Which tasks can run now, and which never can: dependencies counted as tasks end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from canon.experiments.contracts import Outcome, Task

NOT_RUN = "Not run, because "
"""What the error of a task begins with that was not run since another one failed."""


class Frontier:
    """The tasks of a run that have not ended; needs that are not among them are done already."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        keys = {task.key for task in tasks}
        self._open = {task.key: task for task in tasks}
        self._missing = {task.key: {need for need in task.needs if need in keys} for task in tasks}
        self._dependents: dict[str, list[Task]] = defaultdict(list)
        for task in self._open.values():
            for need in self._missing[task.key]:
                self._dependents[need].append(task)
        self._fresh = [task for task in self._open.values() if not self._missing[task.key]]

    @property
    def unfinished(self) -> bool:
        """Whether tasks are left that have not ended."""
        return bool(self._open)

    def take_ready(self) -> list[Task]:
        """Tasks that have become ready since the last call, in the plan's order."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def end(self, task: Task, outcome: Outcome) -> list[tuple[Task, Outcome]]:
        """Take note of what came of a task.

        Returns:
            it, and after a failure also those that cannot run any more, each with its outcome.
        """
        del self._open[task.key]
        ended = [(task, outcome)]
        if outcome.ok:
            for dependent in self._dependents.pop(task.key, ()):
                self._missing[dependent.key].discard(task.key)
                if not self._missing[dependent.key] and dependent.key in self._open:
                    self._fresh.append(dependent)
            return ended
        for failed, _ in ended:  # grows while it is read: what cannot run takes along what needs it
            for dependent in self._dependents.pop(failed.key, ()):
                if self._open.pop(dependent.key, None) is not None:
                    ended.append((dependent, Outcome(dependent.key, f"{NOT_RUN}'{task.label}' failed.")))
        return ended
