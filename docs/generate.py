"""A hook of MkDocs: pages that are made from the code at every build, so that they cannot go stale.

They have no files: MkDocs is given their text. ``mkdocs.yml`` names this module under ``hooks`` and their places by the
words of :data:`SECTIONS` in its navigation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from generator.api import PAGES, api_page
from generator.pages import command_page, editor_page, entries, index_page, representation_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SECTIONS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "commands": (
        "Commands",
        "`canon COMMAND --help` says the same. Exit codes are on [conventions](../../conventions.md#exit-codes).",
        command_page,
    ),
    "editors": (
        "Editors",
        "`canon edit DIR --editor NAME --name N`, or `canon.edit(fit, NAME, ...)`. Any number of edits can be made of"
        " one fit and stacked when they are rendered. [Adding an editor](../../adding-an-editor.md) is easy.",
        editor_page,
    ),
    "representations": (
        "Representations",
        "`canon fit VIDEO --project DIR --representation NAME`, or `canon.fit(clip, NAME, ...)`. "
        "[Adding a representation](../../adding-a-representation.md) tells how to make another.",
        representation_page,
    ),
}
"""Folder below ``reference/`` -> title, introduction, and what makes a page of a name."""


def pages() -> dict[str, str]:
    """Path of every generated page -> its Markdown."""
    found = {}
    for folder, (title, what, make) in SECTIONS.items():
        names = entries(folder)
        found[f"reference/{folder}/index.md"] = index_page(title, what, names)
        found |= {f"reference/{folder}/{name}.md": make(name) for name in names}
    what = "What is public, in the code's own words; arrays are as [conventions](../../conventions.md) has them."
    found["reference/python/index.md"] = index_page("Python", what, {page.name: page.what for page in PAGES})
    return found | {f"reference/python/{page.name}.md": api_page(page) for page in PAGES}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages in their places of the navigation."""
    config.nav = [_filled(item) for item in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def _filled(item: Any) -> Any:
    """An entry of the navigation in which ``reference/FOLDER/`` has become its pages."""
    if isinstance(item, list):
        return [_filled(one) for one in item]
    if isinstance(item, dict):
        return {title: _filled(one) for title, one in item.items()}
    folder = item.removeprefix("reference/").rstrip("/") if str(item).endswith("/") else ""
    if folder == "python":
        names = {page.title: page.name for page in PAGES}
    elif folder:
        names = {name: name for name in entries(folder)}
    else:
        return item
    return [f"{item}index.md", *({title: f"{item}{name}.md"} for title, name in names.items())]
