"""The tasks of an experiment on Ray: ready ones go to workers of their size."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

from canon.errors import InputError
from canon.experiments.contracts import Begun, Ended, Outcome, Task
from canon.experiments.frontier import Frontier
from canon.experiments.ray_cluster import NOT_INSTALLED, Size, alive_nodes, cluster, probe_file, size_of
from canon.experiments.ray_pool import Pool, Worker
from canon.experiments.store import Store
from canon.experiments.worker import EXECUTE, outcome_from_json, refuse_private

log = logging.getLogger("canon")


class RayEngine:
    """Runs tasks on a Ray cluster of this machine, or on one that is there.

    Workers are actors with the CPUs, GPUs and memory that their tasks ask for. They stay, so that loaded fits and
    models are used again: a task goes by preference to a worker that ran one of the same ``warm`` last. A worker that
    dies is replaced, and its task is run again.

    Args:
        address: of a cluster, ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``; None = ``RAY_ADDRESS`` if set, otherwise
            a cluster of this machine's own, which ends with the run.
        workers: how many tasks run at once at most; None = as many as the cluster has room for.
        retries: how often a task is run again after a fault or the death of its worker. Bad input is not.
        execute: ``module:function`` that runs a task.

    Raises:
        InputError: Ray is not installed, or fewer than one worker.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, retries: int = 2, execute: str = EXECUTE
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"{workers} workers cannot run anything; give 1 or more.")
        if importlib.util.find_spec("ray") is None:
            raise InputError(NOT_INSTALLED)
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.workers = workers
        self.retries = retries
        self.execute = execute

    def run(self, tasks: Sequence[Task], store: Store, begun: Begun, ended: Ended) -> None:
        """See :class:`canon.experiments.contracts.Engine`.

        Raises:
            InputError: no cluster answers, its machines lack canon or cannot see the store, or a task asks for more
                than any of them has.
        """
        if not tasks:
            return
        refuse_private(store, "Ray")
        with cluster(self.address, self.workers, tasks), probe_file(store) as probe:
            nodes = alive_nodes()
            sizes = {task.key: size_of(task, nodes) for task in tasks}
            pool = Pool(store, self.execute, probe, self.workers)
            try:
                _Run(tasks, sizes, pool, self.retries, begun, ended).go()
            finally:
                pool.kill_all()


class _Run:
    """One run of the driver: hands tasks to workers as both become free, and collects what comes of them."""

    def __init__(
        self,
        tasks: Sequence[Task],
        sizes: dict[str, Size],
        pool: Pool,
        retries: int,
        begun: Begun,
        ended: Ended,
    ) -> None:
        self._frontier = Frontier(tasks)
        self._sizes = sizes
        self._pool = pool
        self._retries = retries
        self._begun, self._ended = begun, ended
        self._ready: dict[Size, dict[str, deque[Task]]] = defaultdict(lambda: defaultdict(deque))
        self._attempts: dict[str, int] = defaultdict(int)

    def go(self) -> None:
        """Run all to their ends."""
        while self._frontier.unfinished:
            for task in self._frontier.take_ready():
                self._ready[self._sizes[task.key]][task.warm].append(task)
            for worker in [each for each in self._pool.workers if each.idle]:
                if (suited := self._next_for(worker)) is not None:
                    self._send(worker, suited)
            self._pool.grow({size: sum(map(len, groups.values())) for size, groups in self._ready.items()})
            for worker, text, death in self._pool.wait():
                self._collect(worker, text, death)

    def _next_for(self, worker: Worker) -> Task | None:
        """The ready task that suits a worker best: what it has loaded, then what needs nothing loaded."""
        groups = {warm: tasks for warm, tasks in self._ready[worker.size].items() if tasks}
        if not groups:
            return None
        elsewhere = {each.warm for each in self._pool.workers if each is not worker}

        def rank(warm: str) -> tuple[bool, bool, bool]:
            return not (warm and warm == worker.warm), bool(warm), warm in elsewhere

        return groups[min(groups, key=rank)].popleft()

    def _send(self, worker: Worker, task: Task) -> None:
        self._attempts[task.key] += 1
        self._pool.send(worker, task)
        self._begun(task, worker.name)

    def _collect(self, worker: Worker, text: str | None, death: str) -> None:
        task, worker.task = worker.task, None
        if task is None:
            return
        attempts = self._attempts[task.key]
        if text is None:
            times = "" if attempts == 1 else f", the last of {attempts} times,"
            error = f"The process that ran it died{times} before it was done, perhaps for lack of memory ({death})."
            outcome = Outcome(task.key, error, fault=True)
        else:
            outcome = outcome_from_json(text)
        outcome = replace(outcome, attempts=attempts, worker=outcome.worker or worker.name)
        if outcome.fault:
            self._pool.kill(worker)  # what went wrong may have left it in a bad state
            if attempts <= self._retries:
                log.info("'%s' is run again: %s", task.label, outcome.error)
                self._ready[self._sizes[task.key]][task.warm].appendleft(task)
                return
        for each, came in self._frontier.end(task, outcome):
            self._ended(each, came)
