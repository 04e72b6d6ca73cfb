"""The form of an editor, made from its ``Config``: what a field takes, what it is called, and its docstring as help.

Nothing here knows how the form is shown. A third-party editor needs nothing but its dataclass: fields that are called
an image, a mask or the like, that are of type ``Path`` or ``Any``, or whose docstring begins with "Image", "Picture" or
"File" take an upload, a ``Literal`` becomes a choice, and so on; see :func:`form`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
import threading
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from canon import registry
from canon.errors import InputError
from canon.storage import image_size

TEXT, NUMBER, WHOLE, SWITCH, CHOICE, LAYER, FILE, FILES, LIST = (
    "text", "number", "whole", "switch", "choice", "layer", "file", "files", "list",
)  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".exr", ".ora", ".psd")
OTHER_FILES = (".json", ".npz", ".yaml", ".txt", ".csv")
AUTOMATIC, YES, NO = "automatic", "yes", "no"

_FIRST, _LAST = ("prompt", "image", "layer"), ("steps", "seed", "negative", "mask", "model")
_PLAIN = {*_FIRST, *_LAST}
_MOST_PLAIN_OF_ITS_OWN = 8
_FILE_NAMES = re.compile(r"(^|_)(image|picture|mask|hint|exemplar|reference|silhouette|file)$")
_FILES_NAMES = re.compile(r"(^|_)(images|pictures|files)$")
_FILE_HELP = re.compile(r"(The )?(Image|Picture|File)\b")
_MOST_CHARACTERS = 20_000
_OF_COMMAND_LINE = re.compile(r"'canon [^']*'|--([a-z][a-z_-]*[a-z])((?: [A-Z][A-Z_]*)+\b)?")
_PARSING = threading.Lock()
"""CPython 3.11 cannot make syntax trees in two threads at once."""


@dataclass(frozen=True)
class Field:
    """One option of an editor as a form shows it."""

    name: str
    kind: str
    help: str = ""
    default: Any = None
    """What the option is if it is left alone; None = nothing, or the editor decides."""
    required: bool = False
    choices: tuple[Any, ...] = ()
    item: type[Any] = str
    """What a list is made of."""
    length: int | None = None
    """How many items a list has; None = any number."""
    optional: bool = False
    """Whether None is a value of its own."""
    plain: bool = True
    """Whether it is shown at once, and not among further options."""

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ").capitalize().replace("Ip ", "IP ")


def form(kind: type[Any]) -> list[Field]:
    """The options of a config dataclass, in the order in which a form shows them: the prompt first."""
    hints = typing.get_type_hints(kind)
    helps = field_docstrings(kind)
    own = [name for name in vars(kind).get("__annotations__", {}) if name in hints][:_MOST_PLAIN_OF_ITS_OWN]
    found = []
    for entry in dataclasses.fields(kind):
        if not entry.init:
            continue
        help = helps.get(entry.name, "")
        required, default = _default(entry)
        plain = required or entry.name in _PLAIN or entry.name in own
        made = Field(entry.name, TEXT, help, default, required, plain=plain)
        found.append(_typed(made, hints[entry.name]))
    rank = {name: k for k, name in enumerate((*_FIRST, "", *_LAST))}
    return sorted(found, key=lambda one: (rank.get(one.name, len(_FIRST)), not one.required))


def _default(entry: dataclasses.Field[Any]) -> tuple[bool, Any]:
    if entry.default is not dataclasses.MISSING:
        return False, entry.default
    if entry.default_factory is not dataclasses.MISSING:
        return False, entry.default_factory()
    return True, None


def _typed(field: Field, hint: Any) -> Field:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        return _typed(field, arguments[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        optional = len(inner) < len(arguments)
        return _typed(dataclasses.replace(field, optional=optional), inner[0] if len(inner) == 1 else str)
    if field.name == "layer":
        return dataclasses.replace(field, kind=LAYER)
    if typing.get_origin(hint) is Literal:
        return dataclasses.replace(field, kind=CHOICE, choices=arguments)
    if typing.get_origin(hint) in (tuple, list) or hint in (tuple, list):
        return _list(field, arguments)
    if hint is bool:
        return dataclasses.replace(field, kind=SWITCH)
    if hint in (int, float):
        return dataclasses.replace(field, kind=WHOLE if hint is int else NUMBER)
    takes_file = hint in (Any, Path) or _FILE_NAMES.search(field.name) or _FILE_HELP.match(field.help)
    return dataclasses.replace(field, kind=FILE) if takes_file else field


def _list(field: Field, arguments: Sequence[Any]) -> Field:
    items = [one for one in arguments if one is not Ellipsis] or [str]
    item = items[0] if items[0] in (int, float) else str
    if items[0] is Path or (item is str and _FILES_NAMES.search(field.name)):
        return dataclasses.replace(field, kind=FILES)
    fixed = bool(arguments) and Ellipsis not in arguments and len(set(items)) == 1
    return dataclasses.replace(field, kind=LIST, item=item, length=len(items) if fixed else None)


def field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The string below each field of a dataclass, or of one it inherits from, as one line; {} without its source."""
    with _PARSING:
        return dict(_field_docstrings(typing.cast(Any, kind)))


@lru_cache(maxsize=512)
def _field_docstrings(kind: type[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        try:
            body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]).body
        except (OSError, TypeError, SyntaxError):
            continue
        for entry, below in pairwise(body):
            if not (isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[entry.target.id] = " ".join(str(below.value.value).split())
    return found


def names(kind: type[Any]) -> list[str]:
    """The options of a config dataclass by name."""
    return [entry.name for entry in dataclasses.fields(kind) if entry.init]


def whole(label: str, value: Any, least: int, most: int) -> int:
    """A whole number within limits.

    Raises:
        InputError: it is none, or beyond them.
    """
    found = _number(Field(label.lower(), WHOLE, required=True), value)
    if not least <= found <= most:
        raise InputError(f"{label} can be {least} to {most}, not {found}.")
    return int(found)


def described(editor: str) -> str:
    """What an editor does, in a line.

    Raises:
        InputError: there is none of that name, or it cannot be loaded.
    """
    return (inspect.getdoc(registry.editor(editor).Config) or "").splitlines()[0]


def shown(field: Field) -> Any:
    """The default as the form shows it."""
    if field.kind == LIST:
        return as_text(field.default or ())
    if field.kind == SWITCH and field.optional:
        return AUTOMATIC if field.default is None else YES if field.default else NO
    if field.kind in (FILE, FILES, LAYER):
        return None
    if field.kind in (NUMBER, WHOLE):
        return "" if field.default is None else str(field.default)
    return "" if field.default is None and field.kind == TEXT else field.default


def as_labels(sentence: str, fields: Sequence[Field] = ()) -> str:
    """A sentence of an editor, which names options as the command line does, for the form."""
    labels = {field.name.replace("_", "-"): field.label for field in fields}

    def said(found: re.Match[str]) -> str:
        name = found[1]
        return found[0] if name is None else f"“{labels.get(name, Field(name.replace('-', '_'), TEXT).label)}”"

    return _OF_COMMAND_LINE.sub(said, sentence)


def as_text(items: Sequence[Any]) -> str:
    """A list as it is typed: numbers in a line, texts in lines of their own."""
    if all(isinstance(item, int | float) for item in items):
        return ", ".join(f"{item:g}" for item in items)
    return "\n".join(map(str, items))


def options(
    fields: Sequence[Field], values: Mapping[str, Any], uploads: Path, confined: Path | None = None
) -> dict[str, Any]:
    """Keywords for the config of what was filled in; what was left alone is left out.

    Args:
        values: by name, as the form gives them.
        uploads: the folder that uploaded files are in; no other file is taken.
        confined: if given, texts that name a place outside of this folder are refused, too.

    Raises:
        InputError: a number that is none, a list of another length, a required option that is missing, or a file that
            was not uploaded or is no image.
    """
    found = {}
    for field in fields:
        if field.name not in values and not field.required:
            continue
        value = _read(field, values.get(field.name), uploads)
        if field.required and value in (None, "", ()):
            raise InputError(f"{field.label} is needed; fill it in.")
        if value == field.default and type(value) is type(field.default):
            continue
        for text in value if isinstance(value, tuple) else (value,):
            if confined is not None and field.kind in (TEXT, LIST) and isinstance(text, str):
                _check_confined(field, text, confined)
        found[field.name] = value
    return found


def _read(field: Field, value: Any, uploads: Path) -> Any:
    if field.kind in (NUMBER, WHOLE):
        return _number(field, value)
    if field.kind == LIST:
        return _items(field, value)
    if field.kind == FILE:
        return _uploaded(field, value, uploads) if value else field.default
    if field.kind == FILES:
        return tuple(_uploaded(field, one, uploads) for one in value) if value else field.default
    if field.kind == SWITCH:
        return {AUTOMATIC: None, YES: True, NO: False}.get(value, field.default) if field.optional else bool(value)
    if field.kind == CHOICE:
        if value is not None and value not in field.choices:
            raise InputError(f"{field.label} can be {', '.join(map(str, field.choices))}, not '{value}'.")
        return field.default if value is None else value
    if value is None or not str(value).strip():
        return None if field.optional else "" if not field.required else None
    if len(str(value)) > _MOST_CHARACTERS:
        raise InputError(f"{field.label} has {len(str(value))} characters; give at most {_MOST_CHARACTERS}.")
    return str(value).strip()


def _number(field: Field, value: Any) -> Any:
    if value is None or not str(value).strip():
        if field.default is None and not field.optional:
            raise InputError(f"{field.label} is needed; give a number.")
        return None if field.optional else field.default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{field.label} must be a number, not '{value}'.")
    if field.kind == NUMBER:
        return number
    if number != int(number):
        raise InputError(f"{field.label} must be a whole number, not {number:g}.")
    return int(number)


def _items(field: Field, value: Any) -> tuple[Any, ...]:
    text = "" if value is None else str(value)
    if field.item is str:
        found: tuple[Any, ...] = tuple(line.strip() for line in text.splitlines() if line.strip())
    else:
        parts = [part for part in re.split(r"[\s,;]+", text) if part]
        single = Field(field.name, NUMBER if field.item is float else WHOLE, required=True)
        found = tuple(_number(single, part) for part in parts)
    if field.length is not None and len(found) != field.length and (found or not field.optional):
        raise InputError(f"{field.label} takes {field.length} values, not {len(found)}.")
    return found if found or not field.optional else typing.cast(Any, None)


def _uploaded(field: Field, value: Any, uploads: Path) -> str:
    path = Path(str(value)).resolve()
    if Path(uploads).resolve() not in path.parents or not path.is_file():
        raise InputError(f"{field.label} must be a file that was uploaded here.")
    if path.suffix.lower() not in (*OTHER_FILES, ".ora", ".psd", ".exr"):
        try:
            image_size(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), path.name)) from error
    return str(path)


def _check_confined(field: Field, text: str, folder: Path) -> None:
    if not text.startswith(("/", "~", "\\")) and ".." not in Path(text).parts:
        return
    if folder.resolve() not in Path(text).expanduser().resolve().parents:
        raise InputError(
            f"{field.label} names a place outside of the project, which is refused when others than this machine may "
            "ask; put it into the project folder."
        )
