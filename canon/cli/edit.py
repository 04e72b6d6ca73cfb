"""``canon edit DIR --editor E --name N``, and ``canon edit --list``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canon import registry
from canon.cli.arguments import Directory, given, parse
from canon.cli.console import WorkProgress, program, shell
from canon.errors import InputError
from canon.progress import parts, reporting

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit

DESCRIPTION = """Make an edit and keep it in the project by name. The options of the editor come after those of
the command: 'canon edit --editor paint --help' shows them; 'canon edit --list' shows the editors. For several layers in
one edit: --layer foreground --prompt gold --and --layer background --prompt snow."""
_AND = "--and"
_MOST_VARIANTS = 24


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
    variants: int = 1
    """How many to make, from one seed after another: NAME-1, NAME-2, ..., with a contact sheet to choose from."""


def run(arguments: list[str]) -> int:
    """Make and save the edit."""
    names = registry.names(registry.EDITORS)
    if "--list" in arguments:
        for name in names:
            kind = registry.editor(name).Config
            print(f"{name:<12}{(inspect.getdoc(kind) or '').splitlines()[0]}")
        return 0
    editor = given(arguments, "--editor")
    wants_help = bool({"-h", "--help"} & set(arguments))
    if editor is None and not wants_help:
        raise InputError(f"canon edit needs --editor; choose one of {', '.join(names)}.")
    kinds: list[type[Any]] = [EditArguments]
    if editor is not None:
        kinds.append(registry.editor(editor).Config)
    first, *others = _groups(arguments)
    own, config = parse("edit", DESCRIPTION, kinds, first)
    configs = [config, *(parse("edit", DESCRIPTION, kinds[1:], group)[0] for group in others)]
    seeds = _seeds(own, configs)

    from canon.editing import edit
    from canon.edits import Edit
    from canon.project import Project

    project = Project.open(own.project)
    names = [own.name] if len(seeds) == 1 else [f"{own.name}-{k + 1}" for k in range(len(seeds))]
    folders = [project.edit_folder(name) for name in names]
    fit_name = project.fit_name(own.fit)
    fit = project.fit(fit_name)
    made = {}
    for name, folder, seed in zip(names, folders, seeds, strict=True):
        steps = []
        with WorkProgress(own.editor, lines=False) as progress, reporting(progress):
            for one in parts(configs):
                options = {field.name: getattr(one, field.name) for field in fields(one)}
                steps += edit(fit, own.editor, **{**options, **({} if seed is None else {"seed": seed})}).steps
        made[name] = Edit(steps, fit.id)
        made[name].save(folder)
        layers = ", ".join(made[name].layers) or "nothing"
        print(f"edit '{name}' of {layers} (fit '{fit_name}'): {folder}", flush=True)
    if len(names) > 1:
        print(f"to choose from: {_sheet(fit, made, project.render_path([own.name]).with_suffix('.png'))}")
    print(f"next:\n  {program()} render {shell(own.project)} --edit {shell(names[0])}")
    return 0


def _groups(arguments: list[str]) -> list[list[str]]:
    """The arguments of every layer: all up to the first ``--and``, and what follows each."""
    groups: list[list[str]] = [[]]
    for argument in arguments:
        if argument == _AND:
            groups.append([])
        else:
            groups[-1].append(argument)
    return groups


def _seeds(own: EditArguments, configs: list[Any]) -> list[int | None]:
    """A seed for every variant; None leaves that of the options."""
    if own.variants == 1:
        return [None]
    if not 1 <= own.variants <= _MOST_VARIANTS:
        raise InputError(f"There can be 1 to {_MOST_VARIANTS} variants, not {own.variants}.")
    if not hasattr(configs[0], "seed"):
        raise InputError(f"The editor '{own.editor}' leaves nothing to chance, so that there are no variants of it.")
    return [configs[0].seed + k for k in range(own.variants)]


def _sheet(fit: Fit, made: Mapping[str, Edit], path: Path) -> Path:
    from canon.contact_sheet import edits_sheet
    from canon.storage import write_image

    write_image(path, edits_sheet(fit, made))
    return path
