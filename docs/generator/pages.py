"""Reference pages of commands, editors and representations."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from generator.options import described, grouped, options, usage
from generator.text import inline, summary

from canon import registry
from canon.cli import COMMANDS

GUIDES: Mapping[str, tuple[str, str]] = {
    "paint": ("first-ten-minutes.md#paint", "First ten minutes"),
    "exemplar": ("exemplar.md", "The look of a picture"),
    "stylize": ("distill.md", "Score distillation"),
    "distill": ("distill.md", "Score distillation"),
    "text2live": ("distill.md", "Score distillation"),
    "drag": ("shape.md", "Changing shapes"),
    "reshape": ("shape.md", "Changing shapes"),
    "swap": ("swap.md", "Another subject"),
    "dynvideo-e": ("dynvideo.md", "People changed from all sides"),
    "dynamic-nerf": ("dynamic-nerf.md", "A person in three dimensions"),
    "eval": ("measures.md", "Measures"),
    "export": ("compositors.md", "Nuke, Blender, Fusion, After Effects"),
    "view": ("viewer.md", "In the browser"),
    "run": ("experiments.md", "Experiments"),
    "demo": ("first-ten-minutes.md", "First ten minutes"),
    "fit": ("masks.md", "Masks"),
    "canonical": ("concepts.md", "Concepts"),
}
"""What there is to read besides the options."""
_TEXT_DRIVEN = ("text-driven.md", "Text-driven editing")


def command_page(name: str) -> str:
    """``canon NAME``: what it does, its usage and its options."""
    module = importlib.import_module(COMMANDS[name][0])
    kind = arguments_of(module)
    members = options(kind)
    parts = [f"# canon {name}\n", inline(module.DESCRIPTION) + "\n"]
    parts.append(f"```text\n{usage(name, members)}\n```\n")
    parts.append(_guide(name))
    parts.append("## Options\n")
    parts.append(described(members))
    if name == "edit":
        parts.append(f"The other options are those of the [editor](../editors/index.md): {_list('editors')}.\n")
    if name == "fit":
        parts.append(
            f"The other options are those of the [representation](../representations/index.md): "
            f"{_list('representations')}.\n"
        )
    return "\n".join(parts)


def editor_page(name: str) -> str:
    """One editor: what it does, how it is called, its options by the class that they come from."""
    kind = registry.editor(name)
    return _registered(name, kind, kind.Config, f"canon edit DIR --editor {name} --name NAME", "edit")


def representation_page(name: str) -> str:
    """One representation."""
    kind = registry.representation(name)
    return _registered(name, kind, kind.Config, f"canon fit VIDEO --project DIR --representation {name}", "fit")


def index_page(title: str, what: str, entries: Mapping[str, str]) -> str:
    """A table of pages in the same folder, each with a line."""
    rows = [f"| [{name}]({name}.md) | {text} |" for name, text in entries.items()]
    return "\n".join([f"# {title}\n", what + "\n", "| | |", "|---|---|", *rows, ""])


def entries(kind: str) -> dict[str, str]:
    """Name -> one line, of commands, editors or representations."""
    if kind == "commands":
        return {name: inline(text) for name, (_, text) in COMMANDS.items()}
    group = registry.EDITORS if kind == "editors" else registry.REPRESENTATIONS
    find = registry.editor if kind == "editors" else registry.representation
    return {name: summary(find(name).Config) for name in own_names(group)}


def own_names(group: str) -> list[str]:
    """Registered names of this package; those of others that happen to be installed are not for its documentation."""
    return sorted(entry.name for entry in entry_points(group=group) if entry.value.startswith("canon."))


def arguments_of(module: Any) -> type[Any]:
    """The dataclass of a command's own options."""
    kinds = [
        one for key, one in vars(module).items() if key.endswith("Arguments") and one.__module__ == module.__name__
    ]
    return kinds[0]


def _registered(name: str, kind: type[Any], config: type[Any], call: str, function: str) -> str:
    parts = [f"# {name}\n", inline(inspect.getdoc(config) or "") + "\n"]
    about = _without_pointer(inspect.getdoc(kind) or "", config.__name__)
    if about:
        parts.append(about)
    needed = [option for option in options(config) if option.required]
    words = "".join(f" {option.flag} {option.takes}" for option in needed)
    parts.append(f"```text\n{call}{words} [OPTIONS]\n```\n")
    parts.append(_guide(name, [one.__name__ for one in config.__mro__]))
    spoken = "the representation" if function == "fit" else "the editor"
    first = "clip" if function == "fit" else "fit"
    parts.append(
        f'In Python the options are keywords with underscores: `canon.{function}({first}, "{name}", ...)`. '
        f"Those of the command itself are on [canon {function}](../commands/{function}.md).\n"
    )
    groups = grouped(config)
    for owner, members in groups:
        title = f"Options of {spoken}" if owner is config else f"Shared options: {_uncapitalised(summary(owner))}"
        parts.append(f"## {title if len(groups) > 1 else 'Options'}\n")
        parts.append(described(members))
    return "\n".join(parts)


def _uncapitalised(sentence: str) -> str:
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")


def _without_pointer(text: str, config: str) -> str:
    """A class's docstring as Markdown, without the sentence that only points to its config, and without one-liners."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")[1:]]
    kept = [inline(part) for part in paragraphs if part and not re.search(rf":class:`{config}`\.?$", part)]
    return "\n\n".join(kept) + "\n" if kept else ""


def _guide(name: str, bases: Sequence[str] = ()) -> str:
    found = [GUIDES[name]] if name in GUIDES else []
    if "DiffusionConfig" in bases and name not in GUIDES:
        found.append(_TEXT_DRIVEN)
    return "".join(f"Guide: [{title}](../../{page}).\n" for page, title in found)


def _list(kind: str) -> str:
    return ", ".join(f"[{name}](../{kind}/{name}.md)" for name in entries(kind))
