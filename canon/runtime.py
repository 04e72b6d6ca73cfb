"""Threads and memory of the process, set in one place.

Whole-frame tensor work is either one big operation on all cores, or many small ones: then frames go to a small pool of
threads, each operation single-threaded, which wastes no time on synchronisation.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import torch

from canon.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_KEEP_FREED_MEMORY = 1 << 28  # bytes; below this the allocator reuses pages instead of returning and faulting them anew


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def tune_allocator() -> None:
    """Let glibc keep freed whole-frame buffers: page faults otherwise cost more than the arithmetic (20x measured)."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, _KEEP_FREED_MEMORY)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, _KEEP_FREED_MEMORY)  # M_TRIM_THRESHOLD


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device of a name; of none, CUDA where there is one.

    Raises:
        InputError: PyTorch cannot use it here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device '{device}' cannot be used here; choose cpu, or cuda where PyTorch finds a GPU."
        ) from error
    return chosen


@contextlib.contextmanager
def single_threaded_operations() -> Iterator[None]:
    """Each torch and OpenCV operation uses one thread inside this block; the old setting comes back afterwards."""
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    _prepare_thread()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv_threads)


def _prepare_thread() -> None:
    torch.set_num_threads(1)
    # Weights that fade towards zero end in denormal numbers, with which arithmetic is tens of times slower.
    torch.set_flush_denormal(True)


def map_frames(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """``map`` over frames on a pool of threads, in order, with few results in flight, so that memory stays flat."""
    todo = list(items)
    workers = min(workers or cores(), max(len(todo), 1))
    with single_threaded_operations():
        if workers == 1:
            yield from map(function, todo)
            return
        with ThreadPoolExecutor(workers, initializer=_prepare_thread) as pool:
            ahead = 2 * workers
            running = [pool.submit(function, item) for item in todo[:ahead]]
            try:
                for index in range(len(todo)):
                    result = running.pop(0).result()
                    if index + ahead < len(todo):
                        running.append(pool.submit(function, todo[index + ahead]))
                    yield result
            finally:
                for future in running:
                    future.cancel()


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)
