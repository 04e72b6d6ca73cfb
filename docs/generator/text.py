"""Docstrings as Markdown."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Mapping
from typing import Any

_ROLE = re.compile(r":(?:class|func|meth|attr|data|mod):`(~?)([\w.]+)`")
_CODE = re.compile(r"(``.+?``|`.+?`|(?<![\w-])--[a-z][\w-]*)", re.DOTALL)
_SECTIONS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Convention")
_NAMED = ("Args", "Raises", "Attributes")
"""Sections that list names, each with what it is."""


def summary(thing: Any) -> str:
    """The first paragraph of a docstring as one line of Markdown."""
    return inline((inspect.getdoc(thing) or "").split("\n\n")[0])


def inline(text: str, links: Mapping[str, str] | None = None) -> str:
    """Words of a docstring as Markdown: roles become links or code, options become code, nothing else is markup.

    Args:
        links: full name of what has a place -> that place.
    """
    plain = _ROLE.sub(lambda found: _linked(found[2], bool(found[1]), links or {}), " ".join(text.split()))
    parts = re.split(r"(\[`[^`]+`\]\([^)]+\))", plain)
    return "".join(part if k % 2 else _escaped(part) for k, part in enumerate(parts))


def docstring(text: str, links: Mapping[str, str]) -> str:
    """A whole docstring (Google's style) as Markdown."""
    found: list[str] = []
    for title, body in _sections(inspect.cleandoc(text)):
        if title:
            found.append(f"**{title}**\n" if title != "Args" else "**Arguments**\n")
        found.append(_listed(body, links) if title in _NAMED else _paragraphs(body, links))
    return "\n".join(found)


def _sections(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        head = line.rstrip(":")
        if line.endswith(":") and head in _SECTIONS:
            found.append((head, []))
        else:
            found[-1][1].append(line)
    return [(title, inspect.cleandoc("\n".join(lines))) for title, lines in found if "".join(lines).strip()]


def _listed(body: str, links: Mapping[str, str]) -> str:
    """``name: what it is`` with hanging lines, as a list."""
    items: list[str] = []
    for line in body.splitlines():
        if line[:1].strip() or not items:
            items.append(line)
        else:
            items[-1] += " " + line.strip()
    found = []
    for item in items:
        name, colon, what = item.partition(":")
        is_name = colon and re.fullmatch(r"[\w.*, ]+", name)
        found.append(f"- `{name}`: {inline(what, links)}" if is_name else f"- {inline(item, links)}")
    return "\n".join(found) + "\n"


def _paragraphs(body: str, links: Mapping[str, str]) -> str:
    found, code = [], False
    for part in body.split("\n\n"):
        indented = all(line.startswith("    ") for line in part.splitlines() if line)
        if code and indented:
            found.append(part)
            continue
        if part.startswith("- "):
            items = re.split(r"\n(?=- )", part)
            found.append("\n".join(f"- {inline(item[2:], links)}" for item in items))
            continue
        code = part.rstrip().endswith("::")
        found.append(inline(re.sub(r"::\s*$", ":", part), links))
    return "\n\n".join(found) + "\n"


def _linked(name: str, short: bool, links: Mapping[str, str]) -> str:
    shown = name.rsplit(".", 1)[-1] if short else name
    candidates = [place for known, place in links.items() if known == name or known.endswith("." + name)]
    return f"[`{shown}`]({candidates[0]})" if candidates else f"`{shown}`"


def _escaped(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(_as_code(part) if k % 2 else _as_words(part) for k, part in enumerate(parts))


def _as_code(part: str) -> str:
    return f"`{part.strip('`')}`"


def _as_words(part: str) -> str:
    return re.sub(r"([\\*_\[\]|])", r"\\\1", html.escape(part, quote=False))
