"""The tasks of an experiment on Ray: a pool of worker actors that any task of their size can go to."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Task
from canon.experiments.frontier import Frontier
from canon.experiments.ray_cluster import (
    NOT_INSTALLED,
    Size,
    alive_nodes,
    cluster,
    fit_together,
    import_ray,
    probe_file,
    size_of,
)
from canon.experiments.store import Store
from canon.experiments.worker import (
    EXECUTE,
    described,
    find_function,
    outcome_from_json,
    outcome_to_json,
    prepare_process,
    process_name,
    refuse_private,
    run_task,
    task_from_json,
    task_to_json,
)

log = logging.getLogger("canon")

_STUCK_SECONDS = 10.0
_PROBE_SECONDS = 15.0


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

    def run(
        self,
        tasks: Sequence[Task],
        store: Store,
        begun: Callable[[Task, str], None],
        ended: Callable[[Task, Outcome], None],
    ) -> None:
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
            pool = _Pool(self, store, probe)
            try:
                _Run(tasks, sizes, pool, begun, ended).go()
            finally:
                pool.kill_all()


@dataclass(eq=False)
class _Worker:
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
        return bool(self.name) and self.task is None


class _Run:
    """One run of the driver: hands tasks to workers as both become free, and collects what comes of them."""

    def __init__(
        self,
        tasks: Sequence[Task],
        sizes: dict[str, Size],
        pool: _Pool,
        begun: Callable[[Task, str], None],
        ended: Callable[[Task, Outcome], None],
    ) -> None:
        self._frontier = Frontier(tasks)
        self._sizes = sizes
        self._pool = pool
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

    def _next_for(self, worker: _Worker) -> Task | None:
        """The ready task that suits a worker best: what it has loaded, then what needs nothing loaded."""
        groups = {warm: tasks for warm, tasks in self._ready[worker.size].items() if tasks}
        if not groups:
            return None
        elsewhere = {each.warm for each in self._pool.workers if each is not worker}

        def rank(warm: str) -> tuple[bool, bool, bool]:
            return not (warm and warm == worker.warm), bool(warm), warm in elsewhere

        return groups[min(groups, key=rank)].popleft()

    def _send(self, worker: _Worker, task: Task) -> None:
        self._attempts[task.key] += 1
        self._pool.send(worker, task)
        self._begun(task, worker.name)

    def _collect(self, worker: _Worker, text: str | None, death: str) -> None:
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
            if attempts <= self._pool.engine.retries:
                log.info("'%s' is run again: %s", task.label, outcome.error)
                self._ready[self._sizes[task.key]][task.warm].appendleft(task)
                return
        for each, came in self._frontier.end(task, outcome):
            self._ended(each, came)


class _Pool:
    """The worker actors of a run."""

    def __init__(self, engine: RayEngine, store: Store, probe: str) -> None:
        self.engine = engine
        self.workers: list[_Worker] = []
        self._greeting = {"store": store.url, "execute": engine.execute, "probe": probe}
        self._calls: dict[Any, _Worker] = {}
        self._stillborn = 0
        self._nodes: list[Size] = []
        self._nodes_seen = -1e9
        self._ray = import_ray()
        self._actor_class = self._ray.remote(_Actor)

    def send(self, worker: _Worker, task: Task) -> None:
        """Hand a task to an idle worker."""
        worker.task = task
        worker.warm = task.warm or worker.warm
        self._calls[worker.actor.run.remote(task_to_json(task))] = worker

    def wait(self) -> list[tuple[_Worker, str | None, str]]:
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
        if self.engine.workers is not None and len(self.workers) >= self.engine.workers:
            return False
        if time.monotonic() - self._nodes_seen > 5.0:
            self._nodes, self._nodes_seen = alive_nodes(), time.monotonic()
        return fit_together([*(each.size for each in self.workers), size], self._nodes)

    def _start(self, size: Size) -> None:
        options: dict[str, Any] = {"num_cpus": size.cpus, "num_gpus": size.gpus, "max_restarts": 0}
        if size.memory_mib:
            options["memory"] = size.memory_mib << 20
        actor = self._actor_class.options(**options).remote()
        worker = _Worker(actor, size, time.monotonic())
        self.workers.append(worker)
        self._calls[actor.greet.remote(json.dumps({**self._greeting, "gpus": size.gpus}))] = worker

    def _greet(self, worker: _Worker, text: str | None, death: str) -> None:
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

    def kill(self, worker: _Worker) -> None:
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


class _Actor:
    """What runs on the cluster: one process, one task at a time."""

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


def _cause(error: Exception) -> str:
    """The telling line of what Ray says of a dead actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "exit detail" in line or "dead because" in line]
    return described(f"{type(error).__name__}: {(telling or lines or [''])[-1]}")
