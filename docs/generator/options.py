"""The options of a config dataclass as a reference page shows them."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from generator.text import inline

from canon.viewer.forms import field_docstrings


@dataclass(frozen=True)
class Option:
    """One field: how it is called in the shell, what it takes, and what it is for."""

    name: str
    flag: str
    """``--strength``, or the placeholder of a positional argument."""
    takes: str
    default: str
    help: str
    owner: type[Any]
    """The class of the hierarchy that defines it first."""
    positional: bool = False
    required: bool = False


def options(kind: type[Any]) -> list[Option]:
    """All options of a dataclass, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    helps = field_docstrings(kind)
    found = []
    for field in dataclasses.fields(kind):
        if field.init:
            found.append(_option(field, hints[field.name], helps.get(field.name, ""), _owner(kind, field.name)))
    return found


def grouped(kind: type[Any]) -> list[tuple[type[Any], list[Option]]]:
    """Options by the class that defines them: those of the class itself, then what it inherits."""
    every = options(kind)
    owners = [one for one in kind.__mro__ if dataclasses.is_dataclass(one)]
    groups = [(owner, [option for option in every if option.owner is owner]) for owner in owners]
    return [(owner, members) for owner, members in groups if members]


def described(members: Sequence[Option]) -> str:
    """Options as a definition list, each with an anchor."""
    return "\n".join(_entry(option) for option in members)


def usage(command: str, members: Sequence[Option]) -> str:
    """One line: the command, what it must be given, and that there is more."""
    words = [f"canon {command}"]
    words += [option.flag for option in members if option.positional]
    words += [f"{option.flag} {option.takes}" for option in members if option.required and not option.positional]
    return " ".join([*words, "[OPTIONS]"])


def _entry(option: Option) -> str:
    notes = [f'<span class="takes">{_html(option.takes)}</span>'] if option.takes and not option.positional else []
    if option.required:
        notes.append("needed")
    elif option.default:
        notes.append(f"default <code>{_html(option.default)}</code>")
    head = f'<span id="{option.name.replace("_", "-")}"></span>`{option.flag}`'
    if notes:
        head += f' <span class="notes">{", ".join(notes)}</span>'
    return f"{head}\n:   {inline(option.help)}\n"


def _html(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("*", "&#42;").replace("_", "&#95;")
    )


def _option(field: dataclasses.Field[Any], hint: Any, help: str, owner: type[Any]) -> Option:
    marks: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        marks, hint = hint.__metadata__, hint.__origin__
    metavar = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None)
    hints = [mark.help_behavior_hint for mark in marks if getattr(mark, "help_behavior_hint", None)]
    positional = any(repr(mark) == "Positional" for mark in marks)
    repeated = any(repr(mark) == "UseAppendAction" for mark in marks)
    required, default = _default(field)
    flag = "--" + field.name.replace("_", "-")
    takes = metavar or taken(hint, field.name)
    if positional:
        flag = takes.upper() if metavar or not takes.startswith("{") else takes
    elif hint is bool:
        flag, takes = (f"--no-{flag[2:]}", "") if default == "True" else (flag, "")
        default = ""
    elif repeated:
        takes = f"{field.name.upper()} (repeat it for more)"
    return Option(field.name, flag, takes, default, help, owner, positional, required or "(required)" in hints)


def taken(hint: Any, name: str) -> str:
    """What follows the option in the shell: ``TEXT``, ``NUMBER``, ``{a,b}``, ``X Y Z``, ``FILE ...``."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return taken(arguments[0], name)
    if origin in (typing.Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        return " or ".join(dict.fromkeys(taken(one, name) for one in inner))
    if origin is Literal:
        return "{" + ",".join(str(one) for one in arguments) + "}"
    if origin in (tuple, list):
        items = [one for one in arguments if one is not Ellipsis]
        return " ".join(taken(one, name) for one in items) + (" ..." if Ellipsis in arguments or origin is list else "")
    if origin is dict:
        return "KEY VALUE ..."
    words: dict[Any, str] = {
        bool: "{True,False}",
        int: "WHOLE NUMBER",
        float: "NUMBER",
        str: "TEXT",
        Path: "PATH",
        Any: "FILE",
    }
    return words.get(hint, re.sub(r"^.*\.", "", getattr(hint, "__name__", str(hint))).upper())


def _default(field: dataclasses.Field[Any]) -> tuple[bool, str]:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return True, ""
    if value is None or value == "" or value == ():
        return False, ""
    if isinstance(value, tuple | list):
        return False, " ".join(str(one) for one in value)
    return False, str(value)


def _owner(kind: type[Any], name: str) -> type[Any]:
    """The class nearest to ``kind`` that says what the field is."""
    return next(one for one in kind.__mro__ if name in vars(one).get("__annotations__", {}))
