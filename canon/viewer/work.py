"""What the viewer's worker does: make variants of an edit, render, measure. Arguments and results are plain JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canon.errors import InputError

if TYPE_CHECKING:
    from canon.fits import Fit

FORMATS = ("mp4", "webm", "gif", "mov")
"""What a render can be; .mov is ProRes 4444."""
VARIANTS = "variants"
"""Folder in a job's, with an edit in each of its folders 1, 2, ..."""


def edit(out: str, project: str, fit: str, editor: str, options: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """Make variants of an edit, from one seed after another, in ``OUT/variants/1``, 2, ...

    Raises:
        InputError: unknown fit, editor or option, or one that cannot be used.
    """
    from canon.editing import edit as made
    from canon.progress import part, report

    source = _fit(project, fit)
    # JSON has no tuples; editors' options are never lists.
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    seed, seeds = _first_seed(editor, given), []
    for k in range(count):
        report(_variant(k, count), k / count)
        own = given if seed is None else {**given, "seed": seed + k}
        with part(k / count, (k + 1) / count), _for_the_page(editor):
            made(source, editor, **own).save(Path(out) / VARIANTS / str(k + 1))
        seeds.append(None if seed is None else seed + k)
    return {"fit": fit, "editor": editor, "seeds": seeds}


@contextlib.contextmanager
def _for_the_page(editor: str) -> Iterator[None]:
    """Have an editor's refusals name its options as the form does."""
    from canon import registry
    from canon.viewer import forms

    try:
        yield
    except InputError as error:
        raise InputError(forms.as_labels(str(error), forms.form(registry.editor(editor).Config))) from error


def _variant(k: int, count: int) -> str:
    return "starting" if count == 1 else f"variant {k + 1} of {count}"


def _first_seed(editor: str, options: dict[str, Any]) -> int | None:
    """The seed of the first variant, or None where an editor leaves nothing to chance."""
    from dataclasses import fields

    from canon import registry

    entry = next((one for one in fields(registry.editor(editor).Config) if one.name == "seed"), None)
    if entry is None:
        return None
    default = entry.default if isinstance(entry.default, int) else 0
    return int(options.get("seed", default))


def render(
    out: str, project: str, edits: Sequence[str], scale: int = 1, format: str = "mp4", lit: bool = True
) -> dict[str, Any]:
    """Render a stack of edits into the project's ``renders``; gives the names of the files.

    Raises:
        InputError: an edit or fit that is not there, edits of several fits, a format or scale that there is not.
    """
    from canon.project import Project
    from canon.rendering import render as rendered

    if format not in FORMATS:
        raise InputError(f"A render can be {', '.join(FORMATS)}, not '{format}'.")
    place = Project.open(project)
    stack = [place.edit(name) for name in edits]
    if not stack:
        raise InputError("There is nothing to render; choose an edit.")
    video = rendered(_fit(project, place.fit_of(stack)), stack, lit=lit, scale=int(scale))
    path = place.render_path(edits)
    path = path.with_name(path.stem + (f"-{scale}x" if scale > 1 else "") + f".{format}")
    frames = video.save(path)
    files = sorted(path.parent.glob(f"{path.stem}*{path.suffix}")) if not path.exists() else [path]
    return {"files": [file.name for file in files], "frames": frames}


def measure(
    out: str, project: str, fit: str, edits: Sequence[str] = (), record: str = "", framewise: bool = False
) -> dict[str, Any]:
    """The figures of :func:`canon.evaluate`, which are also written to the file ``record``, if one is named."""
    import math

    from canon.evaluation import evaluate
    from canon.project import Project
    from canon.storage import write_json

    place = Project.open(project)
    stack = [place.edit(name) for name in edits]
    found = evaluate(_fit(project, fit), stack or None, framewise=framewise)
    figures = {k: v for k, v in found.items() if not isinstance(v, float) or math.isfinite(v)}
    if record:
        write_json(Path(record), figures)
    return figures


def _fit(project: str, name: str) -> Fit:
    from canon.fit_folder import FIT_FILE
    from canon.project import Project

    place = Project.open(project)
    return _loaded(project, name, (place.fit_folder(place.fit_name(name)) / FIT_FILE).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _loaded(project: str, name: str, changed: int) -> Fit:
    from canon.project import Project

    return Project.open(project).fit(name)


FUNCTIONS: dict[str, Callable[..., Any]] = {"edit": edit, "render": render, "measure": measure}
"""What may be asked for by name."""
