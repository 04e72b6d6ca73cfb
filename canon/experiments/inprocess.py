"""The engine that needs nothing: tasks one after another, in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence

from canon.experiments.contracts import Begun, Ended, Task
from canon.experiments.frontier import Frontier
from canon.experiments.store import Store
from canon.experiments.tasks import execute
from canon.registry import Progress


class InProcessEngine:
    """Runs tasks in the order of the plan."""

    def __init__(self, progress: Progress | None = None) -> None:
        """Keep whom to tell how far a fit is."""
        self._progress = progress or (lambda stage, done, figures: None)

    def run(self, tasks: Sequence[Task], store: Store, begun: Begun, ended: Ended) -> None:
        """See :class:`canon.experiments.contracts.Engine`; Ctrl-C ends it between or within tasks, and loses none."""
        frontier, worker = Frontier(tasks), str(os.getpid())
        stopped: set[str] = set()
        for task in tasks:
            if task.key in stopped:
                continue
            begun(task, worker)
            for one, outcome in frontier.end(task, execute(task, store, self._progress)):
                if one is not task:
                    stopped.add(one.key)
                ended(one, outcome)
