"""The workers of an experiment on Ray: actors that stay as long as there is work of their size."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from canon.errors import InputError
from canon.experiments.contracts import Task
from canon.experiments.ray_actor import TaskActor
from canon.experiments.ray_cluster import Size, alive_nodes, fit_together, import_ray
from canon.experiments.store import Store
from canon.experiments.worker import described, task_to_json

_STUCK_SECONDS = 10.0


@dataclass(eq=False)
class Worker:
    """An actor, seen by the driver."""

    actor: Any
    size: Size
    born: float
    name: str = ""
    """Set once it has started."""
    warm: str = ""
    task: Task | None = None

    @property
    def idle(self) -> bool:
        """Whether it has started and has nothing to do."""
        return bool(self.name) and self.task is None


class Pool:
    """The worker actors of a run."""

    def __init__(self, store: Store, execute: str, probe: str, most: int | None) -> None:
        """Start none yet.

        Args:
            execute: ``module:function`` that runs a task.
            probe: a file that every worker has to see; "" = none.
            most: how many there are at most; None = as many as the cluster has room for.
        """
        self.workers: list[Worker] = []
        self._most = most
        self._greeting = {"store": store.url, "execute": execute, "probe": probe}
        self._calls: dict[Any, Worker] = {}
        self._stillborn = 0
        self._nodes: list[Size] = []
        self._nodes_seen = -1e9
        self._ray = import_ray()
        self._actor_class = self._ray.remote(TaskActor)

    def send(self, worker: Worker, task: Task) -> None:
        """Hand a task to an idle worker."""
        worker.task = task
        worker.warm = task.warm or worker.warm
        self._calls[worker.actor.run.remote(task_to_json(task))] = worker

    def wait(self) -> list[tuple[Worker, str | None, str]]:
        """Wait a little until something happens.

        Returns:
            workers that came back with an outcome, or with None and what killed them.
        """
        if not self._calls:
            time.sleep(0.05)
            return []
        calls = list(self._calls)
        if not self._ray.wait(calls, num_returns=1, timeout=1.0)[0]:
            return []
        came, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        found = []
        for call in came:
            worker = self._calls.pop(call)
            try:
                text, death = self._ray.get(call), ""
            except self._ray.exceptions.RayError as error:
                text, death = None, _cause(error)
            if worker.name:
                if text is None:
                    self.kill(worker)
                found.append((worker, text, death))
            else:
                self._greet(worker, text, death)
        return found

    def grow(self, ready: dict[Size, int]) -> None:
        """Start workers for ready tasks that have none; idle ones of other sizes give way to them."""
        for size, count in ready.items():
            starting = sum(1 for each in self.workers if each.size == size and not each.name)
            for _ in range(count - starting):
                if not self._make_room(size):
                    break
                self._start(size)
        now = time.monotonic()
        if any(not each.name and now - each.born > _STUCK_SECONDS for each in self.workers):
            # The cluster is fuller than it looks (fragments, other people's work).
            for worker in [each for each in self.workers if each.idle]:
                self.kill(worker)

    def _make_room(self, size: Size) -> bool:
        idle = [each for each in self.workers if each.idle and each.size != size]
        while not self._has_room(size):
            if not idle:
                return False
            self.kill(idle.pop())
        return True

    def _has_room(self, size: Size) -> bool:
        if self._most is not None and len(self.workers) >= self._most:
            return False
        if time.monotonic() - self._nodes_seen > 5.0:
            self._nodes, self._nodes_seen = alive_nodes(), time.monotonic()
        return fit_together([*(each.size for each in self.workers), size], self._nodes)

    def _start(self, size: Size) -> None:
        options: dict[str, Any] = {"num_cpus": size.cpus, "num_gpus": size.gpus, "max_restarts": 0}
        if size.memory_mib:
            options["memory"] = size.memory_mib << 20
        actor = self._actor_class.options(**options).remote()
        worker = Worker(actor, size, time.monotonic())
        self.workers.append(worker)
        self._calls[actor.greet.remote(json.dumps({**self._greeting, "gpus": size.gpus}))] = worker

    def _greet(self, worker: Worker, text: str | None, death: str) -> None:
        """Take note that a worker has started, or could not."""
        answer = json.loads(text) if text is not None else {"fault": death}
        if "error" in answer:
            raise InputError(answer["error"])
        if "fault" in answer:
            self.kill(worker)
            self._stillborn += 1
            if self._stillborn >= 3:
                raise InputError(
                    f"No worker can be started on the Ray cluster ({described(answer['fault'])}); "
                    f"canon {version('canon-video')} must be installed on all of its machines."
                )
            return
        self._stillborn = 0
        worker.name = answer["name"]

    def kill(self, worker: Worker) -> None:
        """End a worker at once."""
        if worker in self.workers:
            self.workers.remove(worker)
            self._calls = {call: each for call, each in self._calls.items() if each is not worker}
            with contextlib.suppress(Exception):
                self._ray.kill(worker.actor, no_restart=True)

    def kill_all(self) -> None:
        """End all workers at once."""
        for worker in list(self.workers):
            self.kill(worker)


def _cause(error: Exception) -> str:
    """The telling line of what Ray says of a dead actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "exit detail" in line or "dead because" in line]
    return described(f"{type(error).__name__}: {(telling or lines or [''])[-1]}")
