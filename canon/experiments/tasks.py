"""Running one task of an experiment in whatever process: read, do, publish, and only then note it down."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import importlib.metadata
import math
import os
import shutil
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Task
from canon.experiments.options import for_config
from canon.experiments.store import DONE, FAILED, Store
from canon.storage import explain_os_error

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.project import Project
    from canon.registry import Progress

_KEPT_FITS = 2


def no_progress(stage: str, done: float, figures: Mapping[str, float]) -> None:
    """Says nothing."""


def execute(task: Task, store: Store, progress: Progress = no_progress) -> Outcome:
    """Run a task, unless it is done already, and note what came of it in the store.

    Nothing is raised but what ends the process (Ctrl-C, SIGTERM): bad input becomes a sentence, any other error a fault
    with its traceback.

    Args:
        progress: told how far a fit is.
    """
    begin = time.perf_counter()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    figures: Mapping[str, Any] = {}
    outputs: tuple[str, ...] = ()
    error: str | None = None
    fault, trace = False, ""
    with _peak_memory() as peak:
        try:
            done = stored(task, store)
            if done is not None:
                return done
            _prepare(task.resources.cpus)
            figures, outputs = _KINDS[task.kind](task.arguments, store, progress)
            store.publish(*outputs)
        except Exception as raised:
            error, fault = _sentence(raised, task)
            trace = "".join(traceback.format_exception(raised)) if fault else ""
    seconds = round(time.perf_counter() - begin, 4)
    outcome = Outcome(
        task.key, error, _finite(figures), outputs, seconds, round(peak(), 1), 1, worker, fault, trace
    )  # fmt: skip
    try:
        store.write_record(task.key, record(task, outcome), DONE if outcome.ok else FAILED)
    except (InputError, OSError) as raised:
        if outcome.ok:
            return dataclasses.replace(outcome, error=_sentence(raised, task)[0])
    return outcome


def stored(task: Task, store: Store) -> Outcome | None:
    """The outcome of a task that is done already, or None if it is not, or its outputs are gone."""
    found = store.record(task.key)
    return None if found is None or not whole(found, store) else outcome_of(task.key, found)


def whole(found: Mapping[str, Any], store: Store) -> bool:
    """Whether what the record of a task names is there; of a remote store it is believed."""
    outputs = found.get("outputs")
    if not isinstance(outputs, list):
        return False
    return store.remote or all(store.path(str(name)).exists() for name in outputs)


def outcome_of(key: str, found: Mapping[str, Any]) -> Outcome:
    """The outcome that a record tells of."""
    return Outcome(
        key,
        found.get("error"),
        dict(found.get("figures") or {}),
        tuple(found.get("outputs") or ()),
        float(found.get("seconds") or 0),
        float(found.get("peak_mib") or 0),
        int(found.get("attempts") or 1),
        str(found.get("worker") or ""),
        bool(found.get("fault")),
        str(found.get("trace") or ""),
    )


def record(task: Task, outcome: Outcome) -> dict[str, Any]:
    """What is noted of a task: what it was, what came of it, and where and when."""
    plain = dataclasses.asdict(outcome)
    return {
        **plain,
        "outputs": list(outcome.outputs),
        "kind": task.kind,
        "label": task.label,
        "arguments": dict(task.arguments),
        "needs": list(task.needs),
        "cpus": task.resources.cpus,
        "version": _version(),
        "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@cache
def _version() -> str:
    return importlib.metadata.version("canon-video")


def _sentence(error: Exception, task: Task) -> tuple[str, bool]:
    """What to say of an error, and whether it is a fault of ours."""
    if isinstance(error, OSError) and not isinstance(error, InputError):
        explained = explain_os_error(error, Path(str(error.filename or "the output")))
        error = explained if isinstance(explained, InputError) else error
    if isinstance(error, InputError):
        return " ".join(str(error).split()), False
    text = str(error)
    if isinstance(error, MemoryError) or any(word in text for word in _OUT_OF_MEMORY):
        gc.collect()
        return f"Not enough memory for '{task.label}'; use fewer frames (max_frames) or smaller ones (size).", False
    return " ".join(f"This is a fault in canon ({type(error).__name__}: {text}".split())[:300] + ").", True


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Insufficient memory")


def _prepare(cpus: int) -> None:
    """The same number of threads wherever a task runs: sums of floats depend on how they are split."""
    import cv2
    import torch

    from canon.runtime import tune_allocator

    torch.set_num_threads(cpus)
    cv2.setNumThreads(cpus)
    tune_allocator()


@contextlib.contextmanager
def _peak_memory() -> Iterator[Callable[[], float]]:
    """Peak resident memory (MiB) since here, where Linux lets it be reset; else that of the process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    yield _peak_mib


def _peak_mib() -> float:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError, IndexError):
        pass
    from canon.runtime import peak_memory_mib

    return peak_memory_mib()


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that JSON can hold."""
    return {k: v for k, v in figures.items() if not isinstance(v, float) or math.isfinite(v)}


# --- the kinds of tasks: each gives figures and outputs ---

_Done = tuple[dict[str, Any], tuple[str, ...]]


def _clip(asked: Mapping[str, Any], store: Store, progress: Progress) -> _Done:
    """Decode a clip into its project."""
    from canon.clip import Clip
    from canon.experiments.choices import ClipOptions
    from canon.project import CLIP, PROJECT_FILE, WORK, Project

    project = Project.create(store.path(asked["project"]))
    options = for_config(ClipOptions, asked["options"])
    sources = asked["sources"]
    with project.lock(wait=True):
        cache = project.folder / WORK / "clip"
        shutil.rmtree(cache, ignore_errors=True)
        try:
            clip = project.adopt(Clip.load(sources[0] if len(sources) == 1 else sources, cache=cache, **options))
        finally:
            shutil.rmtree(cache, ignore_errors=True)
    found = {"frames": len(clip), "height": clip.size[0], "width": clip.size[1], "hash": clip.content_hash}
    return found, (f"{asked['project']}/{PROJECT_FILE}", f"{asked['project']}/{CLIP}")


def _fit(asked: Mapping[str, Any], store: Store, progress: Progress) -> _Done:
    """Fit the clip of a project, going on where a killed run was."""
    from canon import registry
    from canon.fit_folder import CANVAS_FOLDER, canvas_files
    from canon.project_fit import FitRequest, fit_beside
    from canon.trackers import LOGS

    project = _project(asked["project"], store)
    options = for_config(registry.representation(asked["representation"]).Config, asked["options"])
    request = FitRequest("", asked["representation"], asked["name"], device=asked["device"], seed=asked["seed"])
    request.options, request.log = options, asked.get("log")
    name, fit, _ = fit_beside(project, request, progress)
    folder = f"{asked['project']}/fits/{name}"
    if request.log is not None and store.path(f"{asked['project']}/{LOGS}/{name}").exists():
        store.publish(f"{asked['project']}/{LOGS}/{name}")
    _fits.keep((store.url, folder), fit)
    images = [f"{folder}/{CANVAS_FOLDER}/{file}" for layer in fit.layers for file in canvas_files(fit, layer)]
    return {"layers": list(fit.layers), "canonical": images, "id": fit.id}, (folder,)


def _edit(asked: Mapping[str, Any], store: Store, progress: Progress) -> _Done:
    """Make an edit with its editor."""
    from canon import registry
    from canon.editing import edit
    from canon.project import EDITS, Project

    kind = registry.editor(asked["editor"]).Config
    layers = asked["layers"]
    if layers is not None:
        layers = {name: for_config(kind, own) for name, own in layers.items()}
    fit = _loaded_fit(asked, store)
    made = edit(fit, asked["editor"], layers=layers, **for_config(kind, asked["options"]))
    made.save(Project(store.path(asked["project"])).edit_folder(asked["name"]))
    return {"layers": made.layers}, (f"{asked['project']}/{EDITS}/{asked['name']}",)


def _render(asked: Mapping[str, Any], store: Store, progress: Progress) -> _Done:
    """Write the video of an edit, or of a stack."""
    from canon.rendering import render

    fit, edits = _loaded_fit(asked, store), _loaded_edits(asked, store)
    path = store.path(asked["path"])
    count = render(fit, edits, lit=asked["lit"], scale=asked["scale"]).save(path)
    if path.exists():
        return {"frames": count}, (asked["path"],)
    views = [path.with_name(f"{path.stem}-{view}{path.suffix}") for view in fit.clip.views]
    return {"frames": count}, tuple(str(view.relative_to(store.local)) for view in views)


def _measure(asked: Mapping[str, Any], store: Store, progress: Progress) -> _Done:
    """Measure a fit, or what an edit did to it."""
    from canon.evaluation import evaluate_edit, evaluate_fit

    fit = _loaded_fit(asked, store)
    if not asked["edits"]:
        return dict(evaluate_fit(fit)), ()
    return dict(evaluate_edit(fit, _loaded_edits(asked, store), **asked["options"])), ()


_KINDS: dict[str, Callable[[Mapping[str, Any], Store, Any], _Done]] = {
    "clip": _clip,
    "fit": _fit,
    "edit": _edit,
    "render": _render,
    "measure": _measure,
}


# --- what tasks read ---


class _Fits:
    """The fits that were used last, loaded."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Fit] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: tuple[str, str]) -> Fit | None:
        """A fit that is kept."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def keep(self, name: tuple[str, str], fit: Fit) -> None:
        """Keep a fit, and let the one go that was not used for longest."""
        with self._lock:
            self._kept[name] = fit
            while len(self._kept) > _KEPT_FITS:
                self._kept.popitem(last=False)


_fits = _Fits()


def _project(name: str, store: Store) -> Project:
    from canon.project import CLIP, PROJECT_FILE, Project

    store.fetch(f"{name}/{PROJECT_FILE}")
    store.fetch(f"{name}/{CLIP}")
    return Project.open(store.path(name))


def _loaded_fit(asked: Mapping[str, Any], store: Store) -> Fit:
    from canon.fit_folder import FIT_FILE, load

    name = f"{asked['project']}/fits/{asked['fit']}"
    kept = _fits.get((store.url, name))
    # Someone may have removed it, and had it made again.
    if kept is not None and (store.path(name) / FIT_FILE).exists():
        return kept
    _project(asked["project"], store)
    fit = load(store.fetch(name))
    _fits.keep((store.url, name), fit)
    return fit


def _loaded_edits(asked: Mapping[str, Any], store: Store) -> list[Edit]:
    from canon.edit_folder import load_edit

    return [load_edit(store.fetch(f"{asked['project']}/edits/{name}")) for name in asked["edits"]]
