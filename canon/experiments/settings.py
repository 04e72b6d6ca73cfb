"""Settings of the command line, ``dotted.key=value``, laid over an experiment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from canon.experiments.nodes import Node, name_of
from canon.experiments.places import Place, Problems
from canon.experiments.yaml_nodes import parsed


def with_settings(node: Node, settings: Iterable[str], problems: Problems) -> Node:
    """An experiment with settings; an item of a list is called by its name, or by the word that it is."""
    for text in settings:
        place = Place(f"--set {text}", 0, Path.cwd())
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            problems.add(place, "A setting is KEY=VALUE, such as editors.gold.strength=0.5.")
            continue
        wrong = Problems()
        new = parsed(value or "''", place.file, place.folder, wrong)
        for sentence in wrong.texts:
            problems.add(place, sentence)
        if new is not None:
            node = _set(node, name.strip().split("."), _at(new, place), place, problems)
    return node


def _at(node: Node, place: Place) -> Node:
    if node.is_mapping:
        value = {key: _at(item, place) for key, item in node.value.items()}
        return Node(value, place, dict.fromkeys(value, place), node.size)
    return Node([_at(item, place) for item in node.value] if node.is_list else node.value, place, {}, node.size)


def _set(node: Node, path: Sequence[str], value: Node, place: Place, problems: Problems) -> Node:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if node.is_list:
        names = [name_of(item) or _only_word(item) for item in node.value]
        if first not in names:
            there = ", ".join(name for name in names if name) or "none"
            problems.add(place, f"There is no item called '{first}'; there are {there}.")
            return node
        items = list(node.value)
        k = names.index(first)
        item = items[k]
        if isinstance(item.value, str):
            item = Node({"": item}, item.place)
        items[k] = _set(item, rest, value, place, problems)
        return Node(items, node.place, {}, node.size + value.size)
    if not node.is_mapping:
        problems.add(place, f"'{first}' cannot be set in what is a single value.")
        return node
    below = node.value.get(first, Node({}, place))
    changed = {**node.value, first: _set(below, rest, value, place, problems)}
    return Node(changed, node.place, {**node.keys, first: place}, node.size + value.size)


def _only_word(item: Node) -> str | None:
    """What an item without a name is called by: the word that it is, or its kind."""
    if isinstance(item.value, str):
        return Path(item.value).stem
    if item.is_mapping:
        for key in ("editor", "representation", "kind"):
            if key in item.value and isinstance(item.value[key].value, str):
                return str(item.value[key].value)
    return None
