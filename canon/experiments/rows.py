"""The rows of an experiment's results: what each asked for, and what came of its tasks."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from canon.experiments.choices import EditChoice
from canon.experiments.contracts import Row, Task
from canon.experiments.frontier import NOT_RUN
from canon.experiments.planning import Plan, PlannedCell
from canon.experiments.store import FAILED, Store
from canon.experiments.tasks import whole
from canon.project import EDITS, FITS


def rows_of(plan: Plan, store: Store, errors: Mapping[str, str]) -> list[Row]:
    """The rows of the results, of what is done by now.

    Args:
        errors: sentences by key of tasks that failed, or were not run because another one failed.
    """
    records = store.records()
    records = {key: found for key, found in records.items() if key in plan.done or whole(found, store)}
    failures = {key: found for key, found in store.records(FAILED).items() if key not in records}
    failed = {key: str(found.get("error")) for key, found in failures.items()} | dict(errors)
    noted = {**failures, **records}
    return [{**_row(plan, cell, records, failed), **_attempts(cell, noted)} for cell in plan.cells]


def _row(
    plan: Plan,
    cell: PlannedCell,
    records: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
) -> Row:
    clip, fit, edit = cell.cell.clip, cell.cell.fit, cell.cell.edit
    row: Row = {"experiment": plan.experiment.name, "clip": clip.name, "representation": fit.name}
    row |= {"editor": None, "seed": None, "kind": fit.kind, "tool": None, "prompt": None}
    row |= {f"representation.{name}": value for name, value in fit.options.items()}
    if fit.seed:
        row["representation.seed"] = fit.seed
    swept = [f"representation.{name}" for name in fit.swept] + [f"clip.{name}" for name in clip.swept]
    row |= {f"clip.{name}": clip.options.get(name) for name in clip.swept}
    if edit is not None:
        row |= _of_edit(edit)
        swept += ["seed" if name == "seed" else f"editor.{name}" for name in edit.swept]
    row["swept"] = [name for name in swept if name in row]
    row |= _status(cell, records, failed)
    row |= _figures(cell, records)
    project = cell.clip.arguments["project"]
    row["project"] = project if cell.clip.key in records else None
    row["fit"] = f"{project}/{FITS}/{cell.fit.arguments['name']}" if cell.fit.key in records else None
    there = [task for task in cell.edits if task.key in records]
    row["edits"] = [f"{project}/{EDITS}/{task.arguments['name']}" for task in there]
    rendered = records.get(cell.render.key) if cell.render is not None else None
    row["render"] = rendered["outputs"][0] if rendered and rendered.get("outputs") else None
    row["canonical"] = list(_recorded(cell.fit, records).get("canonical") or [])
    row |= {"key_fit": cell.fit.key, "key_edit": "+".join(task.key for task in cell.edits) or None}
    row["key_render"] = None if cell.render is None else cell.render.key
    measure = cell.measure or (cell.fit_measure if edit is None else None)
    row["key_measure"] = None if measure is None else measure.key
    return row


def _of_edit(edit: EditChoice) -> Row:
    tools = edit.tools
    prompts = [str(tool.configs[0].get("prompt")) for tool in tools if tool.configs[0].get("prompt")]
    found: Row = {"editor": edit.name, "seed": edit.seed, "tool": " + ".join(tool.editor for tool in tools)}
    found["prompt"] = " + ".join(prompts) or None
    for tool in tools:
        found |= {f"editor.{name}": value for name, value in tool.options.items() if name != "seed"}
        for layer, own in (tool.layers or {}).items():
            found |= {f"editor.{layer}.{name}": value for name, value in own.items()}
    return found


def _status(
    cell: PlannedCell,
    records: Mapping[str, Any],
    failed: Mapping[str, str],
) -> Row:
    open_tasks = [task for task in cell.tasks if task.key not in records]
    if not open_tasks:
        return {"status": "ok", "error": None}
    edits = cell.edits if len(cell.edits) == 1 else []  # those of a stack have rows of their own
    own = {task.key for task in [*edits, cell.render, cell.measure] if task is not None}
    if cell.cell.edit is None:
        own |= {task.key for task in cell.tasks}
    sentences = list(dict.fromkeys(failed[task.key] for task in open_tasks if task.key in failed))
    mine = [failed[task.key] for task in open_tasks if task.key in failed and task.key in own]
    really = [text for text in mine if not text.startswith(NOT_RUN)]
    if really:
        return {"status": "failed", "error": " ".join(dict.fromkeys(really))}
    return {"status": "skipped", "error": " ".join(text for text in sentences if not text.startswith(NOT_RUN)) or None}


def _attempts(cell: PlannedCell, noted: Mapping[str, Mapping[str, Any]]) -> Row:
    found = [int(noted[task.key].get("attempts") or 1) for task in cell.tasks if task.key in noted]
    return {"attempts": max(found)} if found else {}


def _recorded(task: Task | None, records: Mapping[str, Any]) -> Mapping[str, Any]:
    found = records.get(task.key) if task is not None else None
    figures = found.get("figures") if isinstance(found, Mapping) else None
    return figures if isinstance(figures, Mapping) else {}


def _figures(cell: PlannedCell, records: Mapping[str, Mapping[str, Any]]) -> Row:
    metrics = cell.cell.metrics if cell.cell.edit is None else cell.cell.edit.metrics
    measured = {**_recorded(cell.fit_measure, records), **_recorded(cell.measure, records)}
    notes = [_recorded(task, records).get("notes") for task in (cell.measure, cell.fit_measure)]
    patterns = () if metrics is None else metrics.only
    found: Row = {name: v for name, v in measured.items() if any(fnmatch.fnmatch(name, p) for p in patterns)}
    found.pop("notes", None)
    if any(notes):
        found["notes"] = " ".join(str(note) for note in notes if note)
    edits = [records[task.key] for task in cell.edits if task.key in records]
    measure = cell.measure if cell.cell.edit is not None else cell.fit_measure
    made = cell.edits if len(edits) == len(cell.edits) else []  # a part of a stack says nothing of the whole
    for name, tasks in (("fit", [cell.fit]), ("edit", made), ("render", [cell.render]), ("measure", [measure])):
        spent = [float(records[task.key]["seconds"]) for task in tasks if task is not None and task.key in records]
        if spent:
            found[f"seconds_{name}"] = round(sum(spent), 4)
    if cell.fit.key in records:
        found["peak_mib_fit"] = records[cell.fit.key].get("peak_mib")
    if made:
        found["peak_mib_edit"] = max(float(one.get("peak_mib") or 0) for one in edits)
    found |= {name: v for name, v in _recorded(cell.clip, records).items() if name in ("frames", "height", "width")}
    return found
