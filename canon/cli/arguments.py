"""Parsing with tyro: a command's options and those of the chosen editor or representation side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from canon.errors import InputError

Directory = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
"""The project folder as the first argument."""


def parse(command: str, description: str, kinds: Sequence[type[Any]], arguments: Sequence[str]) -> list[Any]:
    """Instances of dataclasses whose fields are all options of one command.

    Args:
        kinds: the command's own dataclass first; field docstrings are the help.

    Raises:
        InputError: arguments that are missing, unknown or of the wrong kind, in one sentence.
        SystemExit: code 0, after ``--help``.
    """
    _check_distinct(command, kinds)
    parts = [(f"part{k}", Annotated[kind, tyro.conf.arg(name="")]) for k, kind in enumerate(kinds)]
    together = dataclasses.make_dataclass("Options", parts)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found: Any = tyro.cli(
                together,
                args=list(arguments),
                prog=f"canon {command}",
                description=description,
                config=(tyro.conf.DisallowNone,),
                registry=_constructors(),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_sentence(command, said.getvalue())) from None
    return [getattr(found, name) for name, _ in parts]


def given(arguments: Sequence[str], option: str) -> str | None:
    """The value of ``--option VALUE`` or ``--option=VALUE`` before the arguments are parsed, or None."""
    for k, argument in enumerate(arguments):
        if argument == option and k + 1 < len(arguments):
            return arguments[k + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return None


def _check_distinct(command: str, kinds: Sequence[type[Any]]) -> None:
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        where = kinds[-1].__name__
        raise InputError(
            f"{where} has an option '{twice[0]}', which 'canon {command}' uses itself; it must be renamed."
        )


def _constructors() -> tyro.constructors.ConstructorRegistry:
    """tyro's rules, and one for fields that take more in Python than can be typed, such as an image or an array."""
    found = tyro.constructors.ConstructorRegistry()

    @found.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type is not Any:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FILE",
            instance_from_str=lambda values: values[0],
            is_instance=lambda _: True,
            str_from_instance=lambda value: [str(value)],
        )

    return found


def _sentence(command: str, box: str) -> str:
    """One sentence from what tyro prints in a box."""
    lines = _inside(box)
    sections: list[list[str]] = [[]]
    for line in lines:
        if set(line.strip()) <= {"─", "-"} and line.strip():
            sections.append([])
        else:
            sections[-1].append(line)
    see = f"'canon {command} --help' shows the options."
    if sections[0] and sections[0][0].startswith("Missing from"):
        missing = [line.strip() for line in sections[0] if re.match(r" {4}\S", line)]
        return f"canon {command} needs {', '.join(missing)}; {see}"
    text = " ".join(" ".join(sections[0]).split()).rstrip(".") or "the arguments cannot be understood"
    text = text.replace("Unrecognized options:", f"canon {command} does not know")
    count = re.match(r"Error parsing (\S+): .*input length (\d+) did not match expected argument count (\d+)", text)
    if count:
        return f"{count[1]} takes {count[3]} values, not {count[2]}; {see}"
    for section in sections[1:]:
        if section and section[0].startswith("Perhaps you meant"):
            near = [line.strip() for line in section if re.match(r" {4}--", line)]
            return f"{text}; did you mean {near[0].split()[0].rstrip(',')}?" if near else f"{text}; {see}"
    return f"{text}; {see}"


def _inside(box: str) -> list[str]:
    """The lines inside a box, without its title; where the encoding has no lines to draw, rules separate the parts."""
    lines = box.splitlines()
    if "│" in box:
        return [re.sub(r"^\s*│ ?|\s*│\s*$", "", line) for line in lines if line.lstrip().startswith("│")]
    rules = [k for k, line in enumerate(lines) if set(line.strip()) == {"-"}]
    return [line[2:].rstrip() for line in lines[rules[0] + 1 :]] if rules else lines
