"""From cells to tasks: content-addressed, each once, in an order in which everything needed comes first."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from canon import registry
from canon.errors import InputError
from canon.experiments.choices import (
    EDIT_FIGURES,
    FIT_FIGURES,
    Cell,
    ClipChoice,
    EditChoice,
    Experiment,
    MetricsOptions,
    RenderOptions,
    ToolChoice,
)
from canon.experiments.contracts import Resources, Task
from canon.experiments.costs import Costs, Work, guess_edit, guess_fit
from canon.experiments.digests import Digests
from canon.experiments.output_names import OutputNames
from canon.experiments.store import Store
from canon.experiments.tasks import whole
from canon.project import EDITS, FITS, RENDERS
from canon.storage import content_hash, to_plain

DIGESTS_FILE = "digests.json"
_FORM = 1
"""Counted up where tasks of the same arguments leave something else than before."""


@dataclass
class PlannedCell:
    """A row with the tasks that it comes from."""

    cell: Cell
    clip: Task
    fit: Task
    fit_measure: Task | None = None
    edits: list[Task] = field(default_factory=list)
    render: Task | None = None
    measure: Task | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Clip, representation, editor, and seed."""
        edit = self.cell.edit
        found = [self.cell.clip.name, self.cell.fit.name]
        if edit is not None:
            found += [edit.name, *([] if edit.seed is None else [f"s{edit.seed}"])]
        return tuple(found)

    @property
    def tasks(self) -> list[Task]:
        """All of its tasks, what is needed first."""
        found = [self.clip, self.fit, self.fit_measure, *self.edits, self.render, self.measure]
        return [task for task in found if task is not None]

    def matches(self, pattern: str) -> bool:
        """Whether ``CLIP/REPRESENTATION/EDITOR/sSEED``, the beginning of it, or one of these names matches.

        ``EDITOR-sSEED``, as labels of tasks write it, is a name, too.
        """
        labelled = self.names if len(self.names) < 4 else (*self.names[:2], "-".join(self.names[2:]))
        if "/" not in pattern:
            return any(fnmatch.fnmatchcase(name, pattern) for name in (*self.names, *labelled))
        parts = pattern.strip("/").split("/")
        return any(
            len(parts) <= len(names) and all(map(fnmatch.fnmatchcase, names, parts)) for names in (self.names, labelled)
        )


@dataclass
class Plan:
    """What is to be done."""

    experiment: Experiment
    cells: list[PlannedCell]
    tasks: list[Task]
    """Each once, what is needed before what needs it."""
    done: dict[str, dict[str, Any]]
    """Records of tasks that are done, by key."""
    measured: int = 0
    """For how many of the tasks left the estimate is made of earlier runs."""
    _digests: Digests | None = None
    _names: OutputNames | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """Hashes of what the experiment reads, by path."""
        return {} if self._digests is None else self._digests.inputs

    @property
    def left(self) -> list[Task]:
        """Tasks that are not done."""
        return [task for task in self.tasks if task.key not in self.done]

    @property
    def seconds(self) -> float:
        """Estimated cost of what is left, one after the other."""
        return sum(task.seconds for task in self.left)

    def chosen(self, only: str | None) -> list[Task]:
        """Tasks left of the cells that match a pattern, with what they need.

        Raises:
            InputError: nothing matches.
        """
        return [task for task in self.matching(only) if task.key not in self.done]

    def matching(self, only: str | None) -> list[Task]:
        """All tasks of the cells that match a pattern, with what they need, whether they are done or not.

        Raises:
            InputError: nothing matches.
        """
        if only is None:
            return self.tasks
        cells = [cell for cell in self.cells if cell.matches(only)]
        if not cells:
            names = ", ".join("/".join(cell.names) for cell in self.cells[:4])
            raise InputError(f"--only '{only}' matches nothing; there are {names}, and so on.")
        wanted = {task.key for cell in cells for task in cell.tasks}
        return [task for task in self.tasks if task.key in wanted]

    def keep(self, store: Store) -> None:
        """Write down the names that were given out, and digests of inputs, before anything begins.

        Raises:
            InputError: the store cannot be written.
        """
        if self._digests is not None:
            self._digests.save()
        if self._names is not None:
            self._names.save(store)


def make_plan(experiment: Experiment, store: Store) -> Plan:
    """List the tasks of an experiment, and which of them are done; nothing is written.

    Raises:
        InputError: an input cannot be read, or the store cannot be reached.
    """
    digests = Digests(store.path(DIGESTS_FILE))
    names = OutputNames(store)
    done = {key: found for key, found in store.records().items() if whole(found, store)} if store.there else {}
    planner = _Planner(experiment, digests, names)
    cells = [planner.planned(cell) for cell in experiment.cells]
    tasks = list(planner.tasks.values())
    if len(tasks) > experiment.max_tasks:
        raise InputError(f"The experiment has {len(tasks)} tasks, and max_tasks is {experiment.max_tasks}.")
    known = {task.key for task in tasks}
    costs = Costs(done.values())
    priced, measured = {}, 0
    for task in tasks:
        seconds, from_records = costs.of(task, planner.work[task.key])
        priced[task.key] = replace(task, seconds=seconds)
        measured += from_records and task.key not in done
    for cell in cells:
        cell.clip, cell.fit = priced[cell.clip.key], priced[cell.fit.key]
        cell.edits = [priced[task.key] for task in cell.edits]
        cell.fit_measure, cell.render, cell.measure = (
            None if task is None else priced[task.key] for task in (cell.fit_measure, cell.render, cell.measure)
        )
    done = {key: found for key, found in done.items() if key in known}
    return Plan(experiment, cells, list(priced.values()), done, measured, digests, names)


class _Planner:
    """Makes the tasks of cells; equal keys are one task."""

    def __init__(self, experiment: Experiment, digests: Digests, names: OutputNames) -> None:
        self.experiment, self.digests, self.names = experiment, digests, names
        self.tasks: dict[str, Task] = {}
        self.work: dict[str, Work] = {}
        self.version = importlib.metadata.version("canon-video")
        self._clips: dict[int, Task] = {}
        self._fits: dict[tuple[str, int], Task] = {}

    def planned(self, cell: Cell) -> PlannedCell:
        """A cell's tasks."""
        clip = self._clips.get(id(cell.clip)) or self._clip(cell.clip)
        self._clips[id(cell.clip)] = clip
        fit = self._fits.get((clip.key, id(cell.fit))) or self._fit(cell, clip)
        self._fits[clip.key, id(cell.fit)] = fit
        if cell.edit is None:
            return PlannedCell(cell, clip, fit, self._measure_fit(cell, fit, cell.metrics))
        found = PlannedCell(cell, clip, fit, self._measure_fit(cell, fit, cell.edit.metrics))
        found.edits = [self._edit(cell, tool, fit) for tool in cell.edit.tools]
        if cell.edit.render is not None:
            found.render = self._render(cell, cell.edit, found.edits, fit, cell.edit.render)
        if cell.edit.metrics is not None and _wanted(cell.edit.metrics, EDIT_FIGURES):
            found.measure = self._measure(cell, cell.edit, found.edits, fit, cell.edit.metrics)
        return found

    def _add(self, task: Task, work: Work) -> Task:
        arguments = {**task.arguments, "work": [work.like, work.kind, work.megapixels]}
        task = replace(task, arguments=arguments, resources=self._resources(task.kind))
        found = self.tasks.setdefault(task.key, task)
        self.work.setdefault(task.key, work)
        return found

    def _resources(self, kind: str) -> Resources:
        return self.experiment.resources.get(kind, Resources())

    def _key(self, kind: str, *parts: Any) -> str:
        return content_hash("canon-task", _FORM, self.version, kind, *parts)

    def _clip(self, clip: ClipChoice) -> Task:
        key = self._key("clip", self.digests.clip(clip))
        project = f"projects/{self.names.give(key, 'projects', _file_name(clip.name))}"
        arguments = {"project": project, "sources": list(clip.sources), "options": dict(clip.options)}
        work = Work("clip", "clip", _megapixels(clip), 0.2 + 0.08 * _megapixels(clip))
        return self._add(Task(key, "clip", f"clip {clip.name}", arguments), work)

    def _fit(self, cell: Cell, clip: Task) -> Task:
        fit = cell.fit
        kind = registry.representation(fit.kind)
        config = self.digests.plain(fit.config)
        key = self._key("fit", clip.key, fit.kind, getattr(kind, "version", None), config, fit.seed, fit.device)
        project = clip.arguments["project"]
        arguments = {
            "project": project,
            "name": self.names.give(key, f"{project}/{FITS}", _file_name(fit.name)),
            "representation": fit.kind,
            "options": dict(fit.options),
            "seed": fit.seed,
            "device": fit.device,
            "log": self.experiment.log,
        }
        size = _megapixels(cell.clip)
        like = content_hash("fit", fit.kind, config)
        task = Task(key, "fit", f"fit {cell.clip.name} / {fit.name}", arguments, (clip.key,))
        return self._add(task, Work(like, f"fit {fit.kind}", size, guess_fit(fit, size)))

    def _edit(self, cell: Cell, tool: ToolChoice, fit: Task) -> Task:
        kind = registry.editor(tool.editor)
        configs = [self.digests.plain(config) for config in tool.configs]
        key = self._key("edit", fit.key, tool.editor, getattr(kind, "version", None), configs)
        project = fit.arguments["project"]
        wanted = _file_name(f"{tool.name}-{cell.fit.name}{_seed(tool.seed)}")
        arguments = {
            "project": project,
            "fit": fit.arguments["name"],
            "name": self.names.give(key, f"{project}/{EDITS}", wanted),
            "editor": tool.editor,
            "options": dict(tool.options),
            "layers": tool.layers,
        }
        label = f"edit {cell.clip.name} / {cell.fit.name} / {tool.name}{_seed(tool.seed)}"
        model = tool.configs[0].get("model")
        warm = f"{model}" if isinstance(model, str) else ""
        task = Task(key, "edit", label, arguments, (fit.key,), warm=warm)
        like = content_hash("edit", tool.editor, [{**config, "seed": 0, "prompt": ""} for config in configs])
        return self._add(task, Work(like, f"edit {tool.editor}", 1.0, guess_edit(tool)))

    def _render(self, cell: Cell, edit: EditChoice, edits: Sequence[Task], fit: Task, options: RenderOptions) -> Task:
        key = self._key("render", fit.key, [task.key for task in edits], asdict(options))
        project, names = fit.arguments["project"], [task.arguments["name"] for task in edits]
        wanted = "+".join(names)[:150] + (f"-x{options.scale}" if options.scale > 1 else "")
        wanted += "" if options.lit else "-unlit"
        suffix = f".{options.format}"
        name = self.names.give(key, f"{project}/{RENDERS}", wanted, suffix)
        arguments = {
            "project": project,
            "fit": fit.arguments["name"],
            "edits": names,
            "path": f"{project}/{RENDERS}/{name}{suffix}",
            "scale": options.scale,
            "lit": options.lit,
        }
        size = _megapixels(cell.clip) * options.scale**2
        task = Task(key, "render", f"render {_title(cell, edit)}", arguments, (fit.key, *(task.key for task in edits)))
        return self._add(task, Work(f"render {fit.arguments['representation']}", "render", size, 0.1 + 0.15 * size))

    def _measure_fit(self, cell: Cell, fit: Task, metrics: MetricsOptions | None) -> Task | None:
        if metrics is None or not _wanted(metrics, FIT_FIGURES):
            return None
        key = self._key("measure", fit.key, _networks(metrics, False))
        arguments = {"project": fit.arguments["project"], "fit": fit.arguments["name"], "edits": [], "options": {}}
        size = _megapixels(cell.clip)
        task = Task(key, "measure", f"measure {cell.clip.name} / {cell.fit.name}", arguments, (fit.key,))
        return self._add(task, Work("measure fit", "measure fit", size, 0.1 + 0.5 * size))

    def _measure(self, cell: Cell, edit: EditChoice, edits: Sequence[Task], fit: Task, metrics: MetricsOptions) -> Task:
        options = {name: value for name, value in to_plain(metrics).items() if name != "only"}
        asked = [self.digests.plain(options), _networks(metrics, True)]
        key = self._key("measure", fit.key, [task.key for task in edits], asked)
        names = [task.arguments["name"] for task in edits]
        project, name = fit.arguments["project"], fit.arguments["name"]
        arguments = {"project": project, "fit": name, "edits": names, "options": options}
        needs = (fit.key, *(task.key for task in edits))
        size = _megapixels(cell.clip)
        guess = 0.1 + 1.5 * size
        if metrics.framewise:
            guess += cell.clip.frames * sum(self.work[task.key].guess for task in edits)
        task = Task(key, "measure", f"measure {_title(cell, edit)}", arguments, needs)
        if metrics.framewise:
            task = replace(task, warm=edits[0].warm)
        kind = "measure edit" + (" framewise" if metrics.framewise else "")
        return self._add(task, Work(kind, kind, size, guess))


def _networks(metrics: MetricsOptions, edit: bool) -> list[Any]:
    """Which networks are there to measure with: where one is added, figures are taken again."""
    from canon.perceptual import DEFAULT_CLIP

    if not edit:
        return [importlib.util.find_spec("lpips") is not None]
    if metrics.clip_model is not None:
        return [metrics.clip_model if not Path(metrics.clip_model).exists() else "folder"]
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return [False]
    return [isinstance(try_to_load_from_cache(DEFAULT_CLIP, "config.json"), str)]


def _wanted(metrics: MetricsOptions, figures: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(f, p) or fnmatch.fnmatch(p, f) for f in figures for p in metrics.only)


def _title(cell: Cell, edit: EditChoice) -> str:
    return f"{cell.clip.name} / {cell.fit.name} / {edit.name}{_seed(edit.seed)}"


def _seed(seed: int | None) -> str:
    return "" if seed is None else f"-s{seed}"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:90] or "unnamed"


def _megapixels(clip: ClipChoice) -> float:
    return max(clip.frames * clip.size[0] * clip.size[1] / 1e6, 1e-3)
