"""Options from YAML made into those of a config dataclass: types are checked, relative paths made absolute."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union

FILE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".exr", ".psd", ".ora",
    ".mp4", ".mov", ".webm", ".gif", ".avi", ".mkv",
    ".safetensors", ".pth", ".pt", ".npy", ".npz", ".json", ".bvh",
)  # fmt: skip
"""A text that ends so is the name of a file, which has to be there."""
_WORDS = ("prompt", "negative", "text", "words")
"""In the names of options that are never files."""


class Unfit(ValueError):
    """A value that an option cannot take; the message says what it takes."""


def hints(kind: type[Any]) -> dict[str, Any]:
    """Types of a dataclass's options by name; ``Any`` where they cannot be resolved."""
    return _hints(typing.cast(Hashable, kind))


@lru_cache(maxsize=128)
def _hints(kind: Any) -> dict[str, Any]:
    try:
        found = typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        found = {}
    return {field.name: found.get(field.name, Any) for field in fields(kind) if field.init}


def converted(annotation: Any, value: Any) -> Any:
    """A value of YAML or JSON as a type annotation wants it: lists become tuples, texts paths, ``1e-3`` a number.

    Raises:
        Unfit: it cannot be.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return converted(inner[0], value)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value)
    if origin is Literal:
        if value not in inner:
            raise Unfit("one of " + ", ".join(map(str, inner)))
        return value
    if origin is tuple:
        return _tuple(inner, value)
    if origin is list:
        items = value if isinstance(value, list | tuple) else [value]
        return [converted(inner[0], item) for item in items] if inner else list(items)
    if annotation is type(None):
        if value is not None:
            raise Unfit("nothing (null)")
        return None
    if annotation is Path:
        if not isinstance(value, str | Path):
            raise Unfit("the path of a file or folder")
        return Path(value)
    rule = _PLAIN.get(annotation)
    return value if rule is None else rule(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unfit("a whole number")
    return value


def _float(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)  # which YAML 1.1 takes for a text
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unfit("a number")
    return float(value)


def _str(value: Any) -> str:
    if isinstance(value, bool | int | float):
        raise Unfit("a text; put it in quotes")
    if not isinstance(value, str):
        raise Unfit("a text")
    return value


_PLAIN: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str}


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    wanted = []
    # A whole number is a number as well; what it is written as goes first.
    for kind in sorted(kinds, key=lambda kind: kind is not type(value)):
        if kind is type(None):
            continue
        try:
            return converted(kind, value)
        except Unfit as error:
            wanted.append(str(error))
    raise Unfit(" or ".join(dict.fromkeys(wanted)))


def _tuple(inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not inner:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(inner) == 2 and inner[1] is Ellipsis:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(converted(inner[0], item) for item in items)
    if not isinstance(value, list | tuple) or len(value) != len(inner):
        raise Unfit(f"a list of {len(inner)} values")
    return tuple(converted(kind, item) for kind, item in zip(inner, value, strict=True))


def for_config(kind: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task, which travelled as JSON, as its config takes them.

    Raises:
        Unfit: see :func:`converted`; planning refuses such.
    """
    types_of = hints(kind)
    return {name: converted(types_of.get(name, Any), value) for name, value in plain.items()}


# --- paths ---


def absolute(name: str, annotation: Any, value: Any, folder: Path) -> tuple[Any, list[str]]:
    """A value whose relative paths start from ``folder``, and the files that it names and that are not there.

    Values of type ``Path`` are paths. A text is one where it names what is there and has a slash or a suffix, so that
    a layer called ``foreground`` is not a folder of that name; so is what stands before a "=" in it.
    """
    if isinstance(value, list | tuple):
        made = [absolute(name, annotation, item, folder) for item in value]
        return [one for one, _ in made], [path for _, missing in made for path in missing]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value or len(value) > 4000 or "\n" in value:
        return value, []
    if value in _literals(annotation):
        return value, []
    strict = _mentions_path(annotation)
    if not strict and any(word in name for word in _WORDS):
        return value, []
    if not strict and "=" in value:
        before, _, after = value.rpartition("=")
        path, _ = absolute(name, annotation, before, folder)
        return f"{path}={after}", []
    path = folder / Path(value).expanduser()
    named = "/" in value or bool(re.search(r"\.\w{1,11}$", value))
    if strict or named:
        try:
            there = path.exists()
        except OSError:
            return value, []
        if there:
            return str(path.resolve()), []
        if strict or path.suffix.lower() in FILE_SUFFIXES:
            return value, [value]
    return (str(path), []) if value.startswith(("./", "../", "~/")) else (value, [])


def files_named(value: Any) -> list[str]:
    """The absolute paths of what is there among the texts of a plain value, such as an option's."""
    if isinstance(value, Mapping):
        return [path for item in value.values() for path in files_named(item)]
    if isinstance(value, list | tuple):
        return [path for item in value for path in files_named(item)]
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 4000:
        return []
    for path in (value, value.rpartition("=")[0]):
        if path and Path(path).exists():
            return [path]
    return []


def _mentions_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_mentions_path, typing.get_args(annotation)))


def _literals(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    return tuple(value for inner in typing.get_args(annotation) for value in _literals(inner))
