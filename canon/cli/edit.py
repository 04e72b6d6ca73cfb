"""``canon edit DIR --editor E --name N``, and ``canon edit --list``."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from typing import Any

from canon import registry
from canon.cli.arguments import Directory, given, parse
from canon.cli.console import program, shell
from canon.errors import InputError

DESCRIPTION = """Make an edit and keep it in the project by name. The options from --layer or --image on are
the editor's: 'canon edit --editor paint --help' shows them; 'canon edit --list' shows the editors."""


@dataclass
class EditArguments:
    """Options of the command itself."""

    project: Directory
    """Project folder."""
    editor: str
    """Editor to use."""
    name: str
    """Name of the edit in the project; an edit of that name is replaced."""
    fit: str | None = None
    """Name of the fit to edit; the one made last without it."""


def run(arguments: list[str]) -> int:
    """Make and save the edit."""
    names = registry.names(registry.EDITORS)
    if "--list" in arguments:
        for name in names:
            kind = registry.editor(name).Config
            print(f"{name:<10}{(inspect.getdoc(kind) or '').splitlines()[0]}")
        return 0
    editor = given(arguments, "--editor")
    wants_help = bool({"-h", "--help"} & set(arguments))
    if editor is None and not wants_help:
        raise InputError(f"canon edit needs --editor; choose one of {', '.join(names)}.")
    kinds: list[type[Any]] = [EditArguments]
    if editor is not None:
        kinds.append(registry.editor(editor).Config)
    own, config = parse("edit", DESCRIPTION, kinds, arguments)

    from canon.editing import edit
    from canon.project import Project

    project = Project.open(own.project)
    folder = project.edit_folder(own.name)
    fit_name = project.fit_name(own.fit)
    made = edit(project.fit(fit_name), own.editor, **{name: getattr(config, name) for name in asdict(config)})
    made.save(folder)
    layers = ", ".join(made.layers) or "nothing"
    print(f"edit '{own.name}' of {layers} (fit '{fit_name}'): {folder}")
    print(f"next:\n  {program()} render {shell(own.project)} --edit {shell(own.name)}")
    return 0
