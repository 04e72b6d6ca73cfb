"""The tasks of an experiment on Ray: a pool of worker actors that any task of their size can go to."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Task
from canon.experiments.frontier import Frontier
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

CONNECT_SECONDS = 15.0
"""How long an address may take to answer."""
_OBJECT_STORE_BYTES = 100 << 20  # results lie in the experiment's store; only JSON goes through Ray
_STUCK_SECONDS = 10.0
_PROBE_SECONDS = 15.0
_NOT_INSTALLED = "The engine 'ray' needs Ray; install it with: pip install 'canon-video[ray]'."


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
            raise InputError(_NOT_INSTALLED)
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
        with self._cluster(tasks), _probe(store) as probe:
            nodes = _alive_nodes()
            sizes = {task.key: _size(task, nodes) for task in tasks}
            pool = _Pool(self, store, probe)
            try:
                _Run(tasks, sizes, pool, begun, ended).go()
            finally:
                pool.kill_all()

    @contextlib.contextmanager
    def _cluster(self, tasks: Sequence[Task]) -> Iterator[None]:
        if "ray" in sys.modules and _import_ray().is_initialized():  # the caller's own
            yield
            return
        quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        own = self.address in (None, "local")
        if not own:
            _check_answers(str(self.address))  # before Ray is imported, which then reads the environment
        ray = _import_ray()
        try:
            with _signals_kept():
                if own:
                    room = {"num_cpus": self._own_cpus(tasks), "object_store_memory": _OBJECT_STORE_BYTES}
                    ray.init("local", include_dashboard=False, **room, **quiet)
                else:
                    ray.init(self.address, **quiet)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
            where = "on this machine" if own else f"at '{self.address}'"
            raise InputError(f"No Ray cluster can be used {where} ({described(error)}).") from error
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            ray.shutdown()

    def _own_cpus(self, tasks: Sequence[Task]) -> int | None:
        """CPUs that a cluster of our own claims to have; None = what the machine has."""
        if self.workers is None:
            return None
        # The number was asked for, so more workers than cores are meant.
        return max(self.workers * max(task.resources.cpus for task in tasks), os.cpu_count() or 1)


class Size(NamedTuple):
    """What a worker holds of a machine."""

    cpus: int
    gpus: float
    memory_mib: int


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
        self._ray = _import_ray()
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
            self._nodes, self._nodes_seen = _alive_nodes(), time.monotonic()
        return _fit_together([*(each.size for each in self.workers), size], self._nodes)

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


@contextlib.contextmanager
def _probe(store: Store) -> Iterator[str]:
    """A file in the store's folder by which workers see whether it is the same one; none for a remote store."""
    if store.remote:
        yield ""
        return
    path = store.path(f".seen-{secrets.token_hex(6)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def _size(task: Task, nodes: Sequence[Size]) -> Size:
    """What a worker for a task asks the cluster for.

    Raises:
        InputError: no machine of the cluster has it.
    """
    asked = task.resources
    cpus, gpus, memory = (max(has, default=0) for has in zip(*nodes, strict=True))
    most = Size(int(cpus), gpus, int(memory))
    # CPUs are a wish: with fewer it takes longer, with the same numbers.
    size = Size(max(min(asked.cpus, int(most.cpus)), 1), asked.gpus, asked.memory_mib)
    if size.gpus > 1:
        size = size._replace(gpus=float(-(-size.gpus // 1)))  # Ray lends several GPUs whole
    if not any(_fit_together([size], [node]) for node in nodes):
        raise InputError(
            f"'{task.label}' asks for {_words(Size(1, asked.gpus, asked.memory_mib))}, but no machine of the Ray "
            f"cluster has that (at most {_words(most)}); lower its resources, or use another cluster."
        )
    return size


def _words(size: Size) -> str:
    return f"{size.cpus} CPUs, {size.gpus:g} GPUs and {size.memory_mib} MiB of memory".replace("1 CPUs", "1 CPU")


def _fit_together(sizes: Sequence[Size], nodes: Sequence[Size]) -> bool:
    """Whether workers find room on machines, largest first, each on the first that has it."""
    free = [list(node) for node in nodes]
    for size in sorted(sizes, key=lambda each: (each.gpus, each.cpus, each.memory_mib), reverse=True):
        for node in free:
            if all(has >= wants - 1e-6 for has, wants in zip(node, size, strict=True)):
                node[:] = [has - wants for has, wants in zip(node, size, strict=True)]
                break
        else:
            return False
    return True


def _alive_nodes() -> list[Size]:
    found = []
    for node in _import_ray().nodes():
        if node["Alive"]:
            has = node["Resources"]
            found.append(Size(int(has.get("CPU", 0)), has.get("GPU", 0.0), int(has.get("memory", 0)) >> 20))
    # Machines without GPUs first, so that what needs none leaves those with to others.
    return sorted(found, key=lambda size: size.gpus)


def _cause(error: Exception) -> str:
    """The telling line of what Ray says of a dead actor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "exit detail" in line or "dead because" in line]
    return described(f"{type(error).__name__}: {(telling or lines or [''])[-1]}")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The deaths of workers are told by us, not by Ray between the lines of the table.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError(_NOT_INSTALLED) from error
    return ray


def _check_answers(address: str) -> None:
    """Refuse an address at which no Ray answers, for which ``ray.init`` itself waits for minutes.

    Raises:
        InputError: nothing answers in time, or the address is not HOST:PORT.
    """
    nobody = f"No Ray cluster answers at '{address}' (%s); start one with 'ray start --head', or give its --address."
    if address != "auto":
        host, _, port = address.rpartition("://")[2].rpartition(":")
        if not host or not port.isdigit():
            raise InputError(f"'{address}' is no address of a Ray cluster; give HOST:PORT, ray://HOST:PORT or auto.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise InputError(nobody % described(error)) from error
    if address.startswith("ray://"):
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check"]
    command += [] if address == "auto" else ["--address", address]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(nobody % f"what listens there did not answer within {CONNECT_SECONDS:g} seconds") from error
    if answer.returncode and "AuthenticationError" in answer.stderr and "RAY_AUTH_MODE" not in os.environ:
        # A cluster asks for a token where its machine has one; ray.init does not look for it unless told.
        os.environ["RAY_AUTH_MODE"] = "token"
        return _check_answers(address)
    if answer.returncode:
        raise InputError(nobody % described((answer.stderr.strip().splitlines() or ["no answer"])[-1]))


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours for SIGTERM; put ours back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
