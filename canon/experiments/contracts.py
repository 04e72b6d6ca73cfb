"""What planner, engines and report agree on: a task, what came of it, who runs tasks, and where results lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from canon.experiments.store import Store

KINDS = ("clip", "fit", "edit", "render", "measure")
"""Kinds of tasks, in the order in which they need each other."""


@dataclass(frozen=True)
class Resources:
    """What a task may use. Threads are set to ``cpus`` wherever it runs, so that numbers are the same everywhere."""

    cpus: int = 2
    gpus: float = 0.0
    memory_mib: int = 0
    """0 = not asked for."""


@dataclass(frozen=True)
class Task:
    """One piece of work, described by plain primitives alone, so that any process can do it."""

    key: str
    """Hash of everything that the result depends on: equal keys, equal results."""
    kind: str
    """One of :data:`KINDS`."""
    label: str
    """For people: ``fit car-shadow / atlas``."""
    arguments: Mapping[str, Any]
    """JSON primitives. Paths of inputs are absolute; paths of outputs are relative to the store."""
    needs: tuple[str, ...] = ()
    """Keys of the tasks whose results it reads."""
    resources: Resources = Resources()
    seconds: float = 0.0
    """Estimated cost."""
    warm: str = ""
    """What is costly to load for it, such as a diffusion model; tasks of one warmth are best run by one worker."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    key: str
    error: str | None = None
    """One sentence where it failed; None = done."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Figures by name (floats, and texts such as notes)."""
    outputs: tuple[str, ...] = ()
    """Files and folders that it left, relative to the store."""
    seconds: float = 0.0
    peak_mib: float = 0.0
    attempts: int = 1
    worker: str = ""
    """Which process did it, for people."""
    fault: bool = False
    """Whether the error is a fault (a crash, a traceback) rather than bad input; only faults are tried again."""
    trace: str = ""
    """Traceback of a fault."""

    @property
    def ok(self) -> bool:
        """Whether it is done."""
        return self.error is None


Begun = Callable[[Task, str], None]
"""Told that a task has begun, and the name of its worker."""
Ended = Callable[[Task, Outcome], None]
"""Told what came of a task."""


class Engine(Protocol):
    """Runs tasks somewhere."""

    def run(self, tasks: Sequence[Task], store: Store, begun: Begun, ended: Ended) -> None:
        """Run all tasks, each after those that it needs (of these tasks; others are done already).

        Where one fails, those that need it are not run, and the rest goes on; they end with an error, too. ``begun``
        and ``ended`` are called in the caller's thread, as things happen. An engine writes no
        records: :func:`canon.experiments.tasks.execute`, which runs a task, does, before it returns.
        """


Row = dict[str, Any]
"""One line of the results, of JSON primitives: one for every clip x representation x editor item x seed, and before
them one for every clip x representation alone (``editor`` None). Figures that were not measured are missing keys.

What it is of:

- ``experiment``, ``clip``, ``representation``, ``editor``: names of the experiment and its items (text). Items that a
  sweep made have names of their own, such as ``gold-strength-0.3``. ``editor`` is None in the row of a fit alone.
- ``seed``: of the editor (whole number); None where there is no editor, or one that leaves nothing to chance.
- ``kind``: registered name of the representation (``atlas``); ``tool``: that of the editor (``restyle``), of a stack
  those of all joined by " + ", or None.
- ``prompt``: the editor's prompt if it has one, else None.
- ``representation.OPTION``, ``editor.OPTION`` (of an edit of several layers also ``editor.LAYER.OPTION``): every option
  that the experiment gives or sweeps (not the defaults), numbers, texts, booleans or lists; missing in rows whose item
  does not have it. ``clip.OPTION`` only if a sweep varies it.
- ``swept``: names of the columns above that a sweep varies, a list of texts (often empty).

What came of it:

- ``status``: ``ok`` (all of it), ``failed`` (some task of its own failed), ``skipped`` (a task that it needs failed, or
  it was not run yet); ``error``: sentences, or None.
- figures of :func:`canon.evaluate` by their own names (``psnr``, ``warp_error_excess_inside``, ...; docs/measures.md),
  floats and texts (``notes``). The row of an edit has those of its fit, too.
- ``seconds_fit``, ``seconds_edit``, ``seconds_render``, ``seconds_measure``: of the tasks, whenever they were done;
  ``peak_mib_fit``, ``peak_mib_edit``: their peak memory.
- ``attempts``: how often the one of its tasks was begun that needed most (1 = all went well at once); missing where
  none was run.
- ``frames``, ``height``, ``width`` of the clip.

Where it lies, relative to the store (:meth:`Store.fetch` gives a path on this machine), None where it is not there:

- ``project``: a project folder (``projects/bear``), which holds ``clip/``; ``fit``: ``projects/bear/fits/atlas``;
  ``edits``: a list of folders ``projects/bear/edits/gold-atlas-s0`` (one, or those of a stack in order; empty in the
  row of a fit alone); ``render``: a video ``projects/bear/renders/gold-atlas-s0.mp4``; ``canonical``: a list of
  canonical images ``projects/bear/fits/atlas/canonical/foreground.png``, front to back.

Provenance:

- ``key_fit``, ``key_edit`` (of a stack joined by "+"), ``key_render``, ``key_measure``: keys of the tasks, whose
  records ``done/KEY.json`` hold arguments, versions, digests of what they read, when and where they were done.
"""
