"""A Ray cluster: found or started, what its machines have, and what of it a task's worker takes."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from canon.errors import InputError
from canon.experiments.contracts import Task
from canon.experiments.store import Store
from canon.experiments.worker import described

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0
"""How long an address may take to be reached, and what is there to answer as Ray does (busy machines are slow)."""
_OBJECT_STORE_BYTES = 100 << 20  # results lie in the experiment's store; only JSON goes through Ray
NOT_INSTALLED = "The engine 'ray' needs Ray; install it with: pip install 'canon-video[ray]'."


@contextlib.contextmanager
def cluster(address: str | None, workers: int | None, tasks: Sequence[Task]) -> Iterator[None]:
    """Be connected to the cluster at an address, or to one of this machine that ends with the block.

    Raises:
        InputError: none answers, or none can be started.
    """
    if "ray" in sys.modules and import_ray().is_initialized():  # the caller's own
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    own = address in (None, "local")
    if not own:
        _check_answers(str(address))  # before Ray is imported, which then reads the environment
    ray = import_ray()
    try:
        with _signals_kept():
            if own:
                room = {"num_cpus": _own_cpus(workers, tasks), "object_store_memory": _OBJECT_STORE_BYTES}
                ray.init("local", include_dashboard=False, **room, **quiet)
            else:
                ray.init(address, **quiet)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
        where = "on this machine" if own else f"at '{address}'"
        raise InputError(f"No Ray cluster can be used {where} ({described(error)}).") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _own_cpus(workers: int | None, tasks: Sequence[Task]) -> int | None:
    """CPUs that a cluster of our own claims to have; None = what the machine has."""
    if workers is None:
        return None
    # The number was asked for, so more workers than cores are meant.
    return max(workers * max(task.resources.cpus for task in tasks), os.cpu_count() or 1)


class Size(NamedTuple):
    """What a worker holds of a machine."""

    cpus: int
    gpus: float
    memory_mib: int


@contextlib.contextmanager
def probe_file(store: Store) -> Iterator[str]:
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


def size_of(task: Task, nodes: Sequence[Size]) -> Size:
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
    if not any(fit_together([size], [node]) for node in nodes):
        raise InputError(
            f"'{task.label}' asks for {_words(Size(1, asked.gpus, asked.memory_mib))}, but no machine of the Ray "
            f"cluster has that (at most {_words(most)}); lower its resources, or use another cluster."
        )
    return size


def _words(size: Size) -> str:
    return f"{size.cpus} CPUs, {size.gpus:g} GPUs and {size.memory_mib} MiB of memory".replace("1 CPUs", "1 CPU")


def fit_together(sizes: Sequence[Size], nodes: Sequence[Size]) -> bool:
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


def alive_nodes() -> list[Size]:
    """What each machine of the cluster has."""
    found = []
    for node in import_ray().nodes():
        if node["Alive"]:
            has = node["Resources"]
            found.append(Size(int(has.get("CPU", 0)), has.get("GPU", 0.0), int(has.get("memory", 0)) >> 20))
    # Machines without GPUs first, so that what needs none leaves those with to others.
    return sorted(found, key=lambda size: size.gpus)


def import_ray() -> Any:
    """The module, told to be quiet and to tell nobody of its use.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The deaths of workers are told by us, not by Ray between the lines of the table.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError(NOT_INSTALLED) from error
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
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(nobody % f"what listens there did not answer within {ANSWER_SECONDS:g} seconds") from error
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
