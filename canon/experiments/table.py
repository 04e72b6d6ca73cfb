"""What people see while an experiment runs: a live table on a terminal, else one line for each task that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from canon.experiments.contracts import Outcome, Task
from canon.experiments.planning import Plan, PlannedCell
from canon.experiments.running import Callback

_WAITING, _RUNNING, _DONE, _FAILED, _STOPPED = "·", "▶", "✓", "✗", "–"
_COLUMNS = ("fit", "edits", "renders", "measures")
_REFRESH = 4


class ProgressTable(Callback):
    """Context manager and callback of :func:`canon.run`."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._live: Any = None
        self._state: dict[str, str] = {}
        self._running: dict[str, tuple[Task, str]] = {}
        self._groups: dict[tuple[str, str], dict[str, list[str]]] = {}
        self._todo, self._ended, self._failed, self._closed = 0, 0, 0, False
        self._begin, self._stage = time.perf_counter(), ""
        self._seconds_done, self._seconds = 0.0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._live is not None:
            self._live.stop()

    def planned(self, plan: Plan, tasks: Sequence[Task]) -> None:
        """Draw the table."""
        asked = {task.key for task in tasks}
        self._state = {task.key: _DONE if task.key in plan.done else _STOPPED for task in plan.tasks}
        self._state.update(dict.fromkeys(asked, _WAITING))
        self._todo, self._seconds = len(tasks), sum(task.seconds for task in tasks)
        for cell in plan.cells:
            self._note(cell)
        if not self._terminal:
            self._say(f"{len(plan.tasks)} tasks, {len(plan.done)} of them done before, {self._todo} to do")
            return
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=self._drawn, console=Console(stderr=True), refresh_per_second=_REFRESH, transient=False
        )
        self._live.start()

    def _note(self, cell: PlannedCell) -> None:
        group = self._groups.setdefault(
            (cell.cell.clip.name, cell.cell.fit.name), {name: [] for name in _COLUMNS}
        )  # fmt: skip
        parts: tuple[tuple[str, list[Task | None]], ...] = (
            ("fit", [cell.clip, cell.fit]),
            ("edits", list(cell.edits)),
            ("renders", [cell.render]),
            ("measures", [cell.fit_measure, cell.measure]),
        )
        for name, tasks in parts:
            group[name] += [task.key for task in tasks if task is not None and task.key not in group[name]]

    def begun(self, task: Task, worker: str) -> None:
        """Show what is at work."""
        self._state[task.key] = _RUNNING
        self._running[task.key] = (task, worker)
        self._stage = ""

    def progress(self, stage: str, done: float, figures: Mapping[str, float]) -> None:
        """Show how far the running fit is."""
        self._stage = f"{stage} {100 * done:.0f} %"

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Count it, and say so."""
        self._running.pop(task.key, None)
        self._ended += 1
        self._failed += not outcome.ok
        self._seconds_done += task.seconds
        never = not outcome.ok and not outcome.worker
        self._state[task.key] = _DONE if outcome.ok else _STOPPED if never else _FAILED
        if not self._terminal:
            said = f"{outcome.seconds:7.1f} s  {task.label}"
            if not outcome.ok:
                said += f": {'not run' if never else 'FAILED'}: {outcome.error}"
            self._say(f"[{self._ended:>{len(str(self._todo))}}/{self._todo}] {said}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    # --- drawing ---

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("clip", "representation", *_COLUMNS, box=None, pad_edge=False)
        shown, more = self._shown()
        for clip, fit in shown:
            parts = self._groups[clip, fit]
            table.add_row(Text(clip), Text(fit), *(_counted([self._state[key] for key in parts[c]]) for c in _COLUMNS))
        lines: list[Any] = [table]
        if more:
            lines.append(Text(f"... and {more} more", style="dim"))
        lines.append(self._summary())
        for task, worker in list(self._running.values())[:4]:
            where = "" if len(self._running) == 1 else f"  ({worker})"
            lines.append(Text(f"  {task.label}{where}  {self._stage if len(self._running) == 1 else ''}", style="dim"))
        return Group(*lines)

    def _shown(self) -> tuple[list[tuple[str, str]], int]:
        """Rows that find room: those that something happens in first."""
        from shutil import get_terminal_size

        room = max(get_terminal_size().lines - 9, 3)
        names = list(self._groups)
        if len(names) <= room:
            return names, 0

        def interest(name: tuple[str, str]) -> int:
            states = {self._state[key] for keys in self._groups[name].values() for key in keys}
            return 0 if _RUNNING in states else 1 if _FAILED in states else 2 if _WAITING in states else 3

        chosen = set(sorted(names, key=interest)[:room])
        return [name for name in names if name in chosen], len(names) - room

    def _summary(self) -> Any:
        from rich.text import Text

        spent = time.perf_counter() - self._begin
        text = Text(f"{self._ended} of {self._todo} tasks", style="bold")
        if self._failed:
            text.append(f", {self._failed} failed", style="red")
        text.append(f", {clock(spent)}")
        left = self._seconds - self._seconds_done
        if self._ended == self._todo and not self._closed:
            text.append(", writing results", style="dim")
        if 0 < self._ended < self._todo and self._seconds_done > 0:
            text.append(f", about {clock(spent * left / self._seconds_done)} left", style="dim")
        return text


def _counted(states: Sequence[str]) -> Any:
    from rich.text import Text

    if not states:
        return Text("")
    if len(states) == 1:
        return Text(states[0], style=_STYLES[states[0]])
    done, failed = states.count(_DONE), states.count(_FAILED)
    mark = next((mark for mark in (_RUNNING, _FAILED) if mark in states), _DONE if done == len(states) else "")
    text = Text(f"{done}/{len(states)} {mark}", style=_STYLES.get(mark, ""))
    if failed:
        text.append(f" {failed} failed", style="red")
    return text


_STYLES = {_WAITING: "dim", _RUNNING: "cyan", _DONE: "green", _FAILED: "red", _STOPPED: "dim"}


def clock(seconds: float) -> str:
    """Seconds for people: ``41 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
