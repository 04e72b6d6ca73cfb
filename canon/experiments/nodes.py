"""Values that know where they are written, and how one is laid over another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from canon.experiments.places import Place

ITEM_LISTS = ("clips", "representations", "editors")
"""Keys whose items are found by name: one of the same name in the file that includes changes the included one."""
_LISTS = (*ITEM_LISTS, "overrides")


class _Refused:
    def __repr__(self) -> str:
        return "..."


REFUSED: Any = _Refused()
"""Stands for a value of which a problem is told already."""


@dataclass(frozen=True, eq=False)
class Node:
    """A value and its place."""

    value: Any
    """A scalar, a list of nodes, or a dict of nodes by text."""
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)
    """Where the keys of a mapping are."""
    size: int = 1
    """How many values it holds with all that it refers to."""

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.value, list)

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        return [node.plain for node in self.value] if isinstance(self.value, list) else self.value

    @property
    def refused(self) -> bool:
        """Whether it is, or holds, a value of which a problem is told already."""
        inner = list(self.value.values()) if isinstance(self.value, dict) else self.value
        return any(node.refused for node in inner) if isinstance(inner, list) else self.value is REFUSED

    def key(self, name: str) -> Place:
        """Where a key is, or the mapping itself."""
        return self.keys.get(name, self.place)


def named_items(node: Node) -> Node:
    """Items that are written as a mapping by name become a list of items that have that name."""
    if not node.is_mapping:
        return node
    value = dict(node.value)
    for key in ITEM_LISTS:
        items = value.get(key)
        if items is not None and items.is_mapping:
            value[key] = Node([_named(items, name) for name in items.value], items.place, {}, items.size)
    return Node(value, node.place, node.keys, node.size)


def _named(items: Node, name: str) -> Node:
    item, place = items.value[name], items.key(name)
    called = {"name": Node(name, place)}
    if item.value is None:
        return Node(called, place, {"name": place})
    if not item.is_mapping:
        return Node({**called, "": item}, place, {"name": place})
    return Node({**called, **item.value}, place, {"name": place, **item.keys}, item.size + 1)


def laid_over(below: Node, above: Node) -> Node:
    """A mapping over another: mappings are merged, lists of items joined, all else is replaced."""
    value = dict(below.value)
    for key, node in above.value.items():
        under = value.get(key)
        if under is None:
            value[key] = node
        elif key in _LISTS and under.is_list and node.is_list:
            value[key] = _joined(under, node)
        elif under.is_mapping and node.is_mapping:
            value[key] = laid_over(under, node)
        else:
            value[key] = node
    return Node(value, above.place, {**below.keys, **above.keys}, below.size + above.size)


def _joined(below: Node, above: Node) -> Node:
    items = list(below.value)
    where = {name_of(item): k for k, item in enumerate(items) if name_of(item) is not None}
    for item in above.value:
        name = name_of(item)
        if name is not None and name in where:
            items[where[name]] = laid_over(items[where[name]], item)
        else:
            items.append(item)
    return Node(items, above.place, {}, below.size + above.size)


def name_of(item: Node) -> str | None:
    """The ``name`` of an item, if it gives one."""
    name = item.value.get("name") if item.is_mapping else None
    return name.value if name is not None and isinstance(name.value, str) else None
