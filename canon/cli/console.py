"""What people see while they wait: a progress bar on stderr, or one line for each stage where stderr is no terminal."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from canon.fits import Fit, FitLayer


class WorkProgress:
    """Context manager that is called with stage, share done and figures; see :data:`canon.registry.Progress`."""

    def __init__(self, stage: str = "reading", lines: bool = True) -> None:
        """Begin.

        Args:
            stage: the first one.
            lines: whether stages are told where stderr is no terminal.
        """
        self._first, self._lines = stage, lines
        self._stage, self._begin = "", time.perf_counter()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
            times = (
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
            )
            self._bar = Progress(*columns, *times, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._first, total=1.0, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: float, figures: Mapping[str, float]) -> None:
        """Show how far it is."""
        if self._bar is not None:
            more = {"figures": describe(figures)} if figures else {}
            self._bar.update(self._task, description=stage, completed=done, **more)
        elif self._lines and stage != self._stage:
            print(f"{time.perf_counter() - self._begin:7.1f} s  {stage}", file=sys.stderr, flush=True)
        self._stage = stage


def describe(figures: Mapping[str, float]) -> str:
    """Figures for people: ``psnr 31.2 dB  loss 0.01``."""
    units = {"psnr": " dB"}
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return "  ".join(f"{name} {value:.4g}{units.get(name, '')}" for name, value in finite.items())


class _Handler(logging.Handler):
    """Prints a record; sys.stderr is looked up each time because a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        with contextlib.suppress(OSError, ValueError):
            print(f"note: {record.getMessage()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def warnings_to_stderr() -> Iterator[None]:
    """While a command runs, warnings of canon go to stderr, one line each."""
    logger, handler = logging.getLogger("canon"), _Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def shell(path: str | Path) -> str:
    """A path as it is typed in a shell."""
    import shlex

    return shlex.quote(str(path))


def program() -> str:
    """How canon is called here: its name, or the path of the script where that is not on the path."""
    import shutil

    called = Path(sys.argv[0])
    return shell(called) if called.name == "canon" and shutil.which("canon") is None else "canon"


def fit_summary(fit: Fit) -> list[str]:
    """Lines that say what was fitted: frames, layers and canvases, where the masks came from, time and memory."""
    sizes = ", ".join(f"{layer.name} {_sizes(layer)}" for layer in fit.baked)
    lines = [f"  clip       {len(fit)} frames of {fit.size[1]}x{fit.size[0]}", f"  canvases   {sizes}"]
    lines += [f"  mask       {origin}" for origin in fit.stats.get("masks", [])]
    if "seconds_total" in fit.stats:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in dict(fit.stats.get("seconds", {})).items())
        peak = f", {fit.stats['peak_mib']:.0f} MiB" if "peak_mib" in fit.stats else ""
        lines.append(f"  took       {fit.stats['seconds_total']:.1f} s ({stages}){peak}")
    return lines


def _sizes(layer: FitLayer) -> str:
    if not layer.segments:
        return f"{layer.canvas_size[1]}x{layer.canvas_size[0]}"
    return " and ".join(f"{part.width}x{part.height} (frames {part.first} to {part.last})" for part in layer.segments)
