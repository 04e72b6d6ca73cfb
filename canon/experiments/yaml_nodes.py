"""YAML, safely: what it says as nodes, and what of it cannot be used as problems."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import yaml

from canon.experiments.nodes import REFUSED, Node
from canon.experiments.places import Place, Problems

_MOST_VALUES = 200_000
_MERGE = "tag:yaml.org,2002:merge"


def parsed(text: str, file: str, folder: Path, problems: Problems) -> Node | None:
    """The nodes of a text; None if it is not YAML, or too much.

    Args:
        file: what the text is called in problems.
        folder: what relative paths in it start from.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = (error.problem or error.context or "a fault of form").replace("\n", " ")
        problems.add(Place(file, mark.line + 1 if mark else 1, folder), f"This is not YAML: {what}.")
        return None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        problems.add(Place(file, 1, folder), f"This is not YAML: {what}.")
        return None
    if root is None:
        problems.add(Place(file, 1, folder), "The file is empty; an experiment needs clips and representations.")
        return None
    try:
        node = _Converter(file, folder, problems).node(root)
    except RecursionError:
        problems.add(Place(file, 1, folder), "This is not YAML that can be used: it is nested too deeply.")
        return None
    if node.size > _MOST_VALUES:
        problems.add(node.place, f"The aliases of this file stand for more than {_MOST_VALUES} values.")
        return None
    return node


class _Converter:
    """Nodes of PyYAML into ours; what is referred to several times is converted once."""

    def __init__(self, file: str, folder: Path, problems: Problems) -> None:
        self.file, self.folder, self.problems = file, folder, problems
        self._done: dict[int, Node] = {}
        self._active: set[int] = set()
        self._scalars = yaml.constructor.SafeConstructor()

    def place(self, node: yaml.Node) -> Place:
        """Where PyYAML found a node."""
        return Place(self.file, node.start_mark.line + 1, self.folder)

    def node(self, node: yaml.Node) -> Node:
        """The node with all that it holds."""
        if id(node) in self._active:
            self.problems.add(self.place(node), "The value refers to itself.")
            return Node(None, self.place(node))
        if id(node) not in self._done:
            self._active.add(id(node))
            self._done[id(node)] = self._converted(node)
            self._active.discard(id(node))
        return self._done[id(node)]

    def _converted(self, node: yaml.Node) -> Node:
        place = self.place(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            items = [self.node(item) for item in node.value]
            return Node(items, place, {}, 1 + sum(item.size for item in items))
        return Node(self._scalar(node), place)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            self.problems.add(self.place(node), f"'{str(node.value)[:40]}' cannot be read as {node.tag}.")
            return REFUSED
        if isinstance(value, datetime.date):
            return node.value
        if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
            self.problems.add(self.place(node), f"'{str(node.value)[:40]}' is neither a finite number nor a text.")
            return REFUSED
        return value

    def _mapping(self, node: yaml.MappingNode, place: Place) -> Node:
        own: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                converted = self.node(value)
                merged += converted.value if converted.is_list else [converted]
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problems.add(self.place(key), "A key is a word, not a list or a mapping.")
                continue
            name = str(key.value)
            if name in own:
                self.problems.add(self.place(key), f"'{name}' is given twice; it is in line {keys[name].line}, too.")
                continue
            own[name], keys[name] = self.node(value), self.place(key)
        for one in merged:
            if not one.is_mapping:
                self.problems.add(one.place, "'<<' takes mappings.")
                continue
            own = {**one.value, **own}
            keys = {**one.keys, **keys}
        return Node(own, place, keys, 1 + sum(value.size for value in own.values()))
