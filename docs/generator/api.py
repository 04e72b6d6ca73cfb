"""The reference of the Python interface, from signatures and docstrings."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from generator.text import docstring, inline

import canon
from canon.viewer.forms import field_docstrings

_WIDTH = 96
"""Characters of a signature on one line."""


@dataclass(frozen=True)
class Page:
    """What is on one page of the reference."""

    name: str
    title: str
    what: str
    things: tuple[str, ...]
    """Full names of classes and functions, as one imports them."""


PAGES = (
    Page(
        "functions",
        "Functions",
        "What the commands do, from Python: `import canon`. Names are imported when they are first used.",
        tuple(f"canon.{name}" for name in canon.__all__ if name[0].islower()),
    ),
    Page(
        "clip",
        "Clip",
        "Frames, times, sound and masks, and where the world of a clip is known, its cameras and poses.",
        ("canon.Clip",),
    ),
    Page(
        "fit",
        "Fit",
        "What a representation found: layers with a canvas each and, per frame, coordinates, opacity and light.",
        ("canon.Fit", "canon.Canvas", "canon.fits.FitLayer", "canon.segments.Segment"),
    ),
    Page(
        "spatial",
        "Fits in three dimensions",
        "What fits of `dynamic-nerf` can do besides, and what shows them in the browser.",
        (
            "canon.spatial.SpatialFit",
            "canon.spatial.spatial",
            "canon.cameras.Camera",
            "canon.skeletons.Motion",
            "canon.viewer.spatial.SpatialViewer",
        ),
    ),
    Page(
        "edit",
        "Edit",
        "What is to change on which canvas, in order, and where that came from.",
        (
            "canon.Edit",
            "canon.edits.Step",
            "canon.edits.Over",
            "canon.edits.Delta",
            "canon.edits.Remove",
            "canon.edits.Warp",
            "canon.edits.Field",
            "canon.edits.Provenance",
        ),
    ),
    Page("video", "Video", "Edited frames, made when they are asked for.", ("canon.Video",)),
    Page(
        "project",
        "Project",
        "The folder that the commands work in.",
        ("canon.project.Project", "canon.project_fit.FitRequest", "canon.project_fit.fit_into"),
    ),
    Page(
        "experiments",
        "Experiments",
        "What `canon.run` gives back, what it tells meanwhile, and what logs a fit.",
        (
            "canon.experiments.results.Results",
            "canon.experiments.contracts.Row",
            "canon.experiments.report.write_report",
            "canon.experiments.running.Callback",
            "canon.experiments.contracts.Engine",
            "canon.trackers.Tracker",
            "canon.trackers.tensorboard",
            "canon.trackers.wandb",
            "canon.trackers.mlflow",
        ),
    ),
    Page(
        "registry",
        "Registry",
        "What representations and editors derive from, and how they are found.",
        (
            "canon.registry.Representation",
            "canon.registry.Editor",
            "canon.registry.Progress",
            "canon.registry.representation",
            "canon.registry.editor",
            "canon.registry.names",
            "canon.registry.make_config",
            "canon.InputError",
        ),
    ),
    Page(
        "exports",
        "Exports",
        "What leaves for other programs, and layered images, which come from them.",
        (
            "canon.exports.stmap.export_stmaps",
            "canon.exports.tracks.export_tracks",
            "canon.exports.tracks.follow",
            "canon.exports.labels.propagate_labels",
            "canon.exports.stabilise.stabilised",
            "canon.layered_images.read_layers",
            "canon.layered_images.write_layers",
            "canon.layered_images.LayeredImage",
            "canon.layered_images.PaintLayer",
        ),
    ),
)


def api_page(page: Page) -> str:
    """One page as Markdown."""
    links = {name: f"#{name}" if where == page.name else f"{where}.md#{name}" for name, where in _places().items()}
    parts = [f"# {page.title}\n", page.what + "\n"]
    for name in page.things:
        parts.append(_described(name, resolved(name), links))
    return "\n".join(parts)


def resolved(name: str) -> Any:
    """The object of a full name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def _described(name: str, thing: Any, links: Mapping[str, str]) -> str:
    if inspect.isclass(thing):
        return _class(name, thing, links)
    if inspect.isfunction(thing):
        return _function(name, thing, links, "##")
    return "\n".join([_heading(name, "type", "##"), docstring(data_docstring(name), links)])


def data_docstring(name: str) -> str:
    """The string below the assignment of a name in its module."""
    module, _, last = name.rpartition(".")
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    for entry, below in itertools.pairwise(body):
        targets = entry.targets if isinstance(entry, ast.Assign) else [getattr(entry, "target", None)]
        if last in [getattr(target, "id", "") for target in targets]:
            return str(getattr(getattr(below, "value", None), "value", ""))
    return ""


@functools.cache
def _places() -> Mapping[str, str]:
    """Full name -> name of the page that describes it; methods and properties, too."""
    found: dict[str, str] = {}
    for page in PAGES:
        for name in page.things:
            found[name] = page.name
            thing = resolved(name)
            if inspect.isclass(thing):
                found |= {f"{name}.{member}": page.name for member, _, _ in _members(thing)}
    return found


def _class(name: str, kind: type[Any], links: Mapping[str, str]) -> str:
    parts = [_heading(name, "class", "##"), docstring(inspect.getdoc(kind) or "", links)]
    fields = {key: text for key, text in field_docstrings(kind).items() if not key.startswith("_")}
    if fields:
        parts.append("**Fields**\n")
        parts += [f"- `{key}`: {inline(text, links)}" for key, text in fields.items()]
        parts.append("")
    for member, sort, thing in _members(kind):
        full = f"{name}.{member}"
        if sort == "property":
            parts.append(_heading(full, "property", "###"))
            parts.append(docstring(inspect.getdoc(thing) or "", links))
        else:
            parts.append(_function(full, thing, links, "###", bound=True))
    return "\n".join(parts)


def _members(kind: type[Any]) -> Iterator[tuple[str, str, Any]]:
    """Public members that a class itself defines and describes: name, "property" or "method", and the function."""
    for member, thing in vars(kind).items():
        if member.startswith("_") and member not in ("__call__", "__getitem__"):
            continue
        plain = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
        if isinstance(plain, property | functools.cached_property):
            yield member, "property", plain
        elif inspect.isfunction(plain) and inspect.getdoc(plain):
            yield member, "method", plain


def _function(name: str, thing: Any, links: Mapping[str, str], level: str, bound: bool = False) -> str:
    code = f"```python\n{signature(name.rsplit('.', 1)[-1], thing, bound)}\n```\n"
    return "\n".join([_heading(name, "", level), code, docstring(inspect.getdoc(thing) or "", links)])


def _heading(name: str, sort: str, level: str) -> str:
    shown = name if level == "##" else ".".join(name.rsplit(".", 2)[1:])
    tag = f' <span class="sort">{sort}</span>' if sort else ""
    return f"{level} `{shown}`{tag} {{ #{name} data-toc-label='{name.rsplit('.', 1)[-1]}' }}\n"


def signature(name: str, thing: Any, bound: bool = False) -> str:
    """``name(a: int, b: str = "x") -> Fit``, one parameter a line where it is long."""
    found = inspect.signature(thing)
    parameters = list(found.parameters.values())[1 if bound else 0 :]
    found = found.replace(parameters=parameters)
    line = f"{name}{found}".replace("'", "")
    if len(line) <= _WIDTH:
        return line
    arguments = [str(one).replace("'", "") for one in parameters]
    star = next((k for k, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if star is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        arguments.insert(star, "*")
    gives = line[line.rindex(")") + 1 :] if ") -> " not in line else line[line.rindex(") -> ") + 1 :]
    return f"{name}(\n" + "".join(f"    {one},\n" for one in arguments) + ")" + gives
