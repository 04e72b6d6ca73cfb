"""Checking of single values: known keys, options of config dataclasses, and how a problem is put into words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from canon import registry
from canon.errors import InputError
from canon.experiments.nodes import Node
from canon.experiments.options import Unfit, absolute, converted, for_config, hints
from canon.experiments.places import Place, Problems
from canon.storage import to_plain

Given = dict[str, tuple[Place, Node]]
"""Options by name, with the place of the name."""


class Checker:
    """Checks values, collecting problems."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self._refusals: dict[int, tuple[Place, dict[str, None]]] = {}

    def say(self, place: Place, sentence: str) -> None:
        """Note a problem."""
        self.problems.add(place, sentence)

    def known(self, key: str, known: Sequence[str], place: Place, owner: str) -> bool:
        """Whether a key is one of those known; the nearest of them is named if not."""
        if key in known:
            return True
        self.say(place, f"{owner} has no key '{key}'{near_to(key, known) or f'; it has {listed(known)}.'}")
        return False

    def simple(self, node: Node, kind: type[Any], owner: str) -> Any:
        """A small dataclass of a mapping, or None if that is wrong."""
        if not node.is_mapping:
            self.say(node.place, f"{owner} takes a mapping, not {shown(node)}.")
            return None
        plain = self.typed(kind, given_by(node), owner)
        return None if plain is None else kind(**for_config(kind, plain))

    def typed(
        self,
        kind: type[Any],
        given: Given,
        owner: str,
        keys: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Options as JSON primitives, checked; None if something is wrong."""
        types_of = {**hints(kind), **(extra or {})}
        found, fine = {}, True
        for name, (place, node) in given.items():
            if name not in types_of:
                hint = near_to(name, [*types_of, *keys]) or f"; it has {listed(list(types_of))}."
                self.say(place, f"{owner} has no option '{name}'{hint}")
                fine = False
                continue
            if node.refused:
                fine = False
                continue
            value, missing = absolute(name, types_of[name], node.plain, node.place.folder)
            for path in missing:
                self.say(node.place, f"The file '{path}' of the option '{name}' does not exist.")
            try:
                found[name] = to_plain(converted(types_of[name], value))
            except Unfit as error:
                self.say(node.place, f"The option '{name}' takes {error}, not {shown(node)}.")
                fine = False
            fine = fine and not missing
        return found if fine else None

    def config(self, kind: type[Any], plain: Mapping[str, Any], place: Place) -> dict[str, Any] | None:
        """All fields of the config; None if it refuses the options, see :meth:`say_refusals`."""
        try:
            found = to_plain(registry.make_config(kind, for_config(kind, plain)))
        except (InputError, Unfit) as error:
            self._refuse(place, in_yaml(str(error)))
            return None
        except (TypeError, ValueError, ArithmeticError) as error:
            self._refuse(place, f"These options cannot be used: {error}.")
            return None
        return dict(found)

    def complete(self, kind: type[Any], names: Sequence[str], owner: str, place: Place) -> bool:
        """Whether all options of a config are named that have no default."""
        needed = [one.name for one in fields(kind) if one.init and _required(one) and one.name not in names]
        for name in needed:
            self.say(place, f"{owner} needs the option '{name}'.")
        return not needed

    def _refuse(self, place: Place, sentence: str) -> None:
        self._refusals.setdefault(id(place), (place, {}))[1][sentence] = None

    def say_refusals(self) -> None:
        """Note what configs refused: of the variants of an item, the first alone, and how many there are."""
        for place, sentences in self._refusals.values():
            first, count = next(iter(sentences)), len(sentences) - 1
            more = "" if not count else f" The same holds for {counted(count, 'more variant')} of it."
            self.say(place, first + more)


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def in_yaml(sentence: str) -> str:
    """A sentence of an editor, which names options as the command line does, for a file."""
    return re.sub(r"(?<![\w-])--([a-z][a-z0-9-]*)", lambda found: f"'{found[1].replace('-', '_')}'", sentence)


def counted(count: int, what: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def given_by(node: Node) -> Given:
    """The entries of a mapping, with the places of their keys."""
    return {key: (node.key(key), one) for key, one in node.value.items()}


def patterns_of(node: Node | None) -> list[str]:
    """One pattern, or a list of them."""
    if node is None or node.value is None:
        return []
    return [str(one.plain) for one in node.value] if node.is_list else [str(node.plain)]


def near_to(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'KNOWN'?``, or nothing."""
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, not too many."""
    return ", ".join(names[:24]) + (", ..." if len(names) > 24 else "")


def shown(node: Node) -> str:
    """A value for a sentence."""
    if node.is_mapping:
        return "a mapping"
    text = str(node.plain) if node.is_list else repr(node.value) if isinstance(node.value, str) else str(node.value)
    return text if len(text) <= 60 else text[:57] + "..."
