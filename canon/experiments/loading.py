"""Reading an experiment's YAML so that every value knows the file and the line that it came from.

Merges (``<<``), anchors, ``include`` and settings from the command line are resolved here; what the values mean is the
business of :mod:`canon.experiments.spec`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from canon.errors import InputError

ITEM_LISTS = ("clips", "representations", "editors")
"""Keys whose items are found by name: one of the same name in the file that includes changes the included one."""
_LISTS = (*ITEM_LISTS, "overrides")
_MOST_BYTES = 1 << 20
_MOST_VALUES = 200_000
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Place:
    """Where something is written."""

    file: str
    line: int
    """From 1; 0 = not in a file."""
    folder: Path
    """What relative paths start from."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


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

    def key(self, name: str) -> Place:
        """Where a key is, or the mapping itself."""
        return self.keys.get(name, self.place)


class Problems:
    """What is wrong with an experiment, collected, each with its place."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, str], None] = {}

    def add(self, place: Place, sentence: str) -> None:
        """Note a problem; the same one at the same place counts once."""
        self._found[(place.file, place.line, " ".join(sentence.split()))] = None

    def __len__(self) -> int:
        return len(self._found)

    @property
    def sentences(self) -> list[str]:
        """``FILE:LINE: sentence``, file by file, in the order of lines."""
        files = {file: None for file, _, _ in self._found}
        order = sorted(self._found, key=lambda one: (list(files).index(one[0]), one[1]))
        return [f"{file}:{line}: {text}" if line else f"{file}: {text}" for file, line, text in order]

    def check(self) -> None:
        """Raise all that was collected.

        Raises:
            SpecError: there is something.
        """
        if self._found:
            raise SpecError(self.sentences)


class SpecError(InputError):
    """An experiment that cannot be run; its sentences are one line each."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = list(sentences)


def read_experiment(path: str | Path, problems: Problems, settings: Iterable[str] = ()) -> tuple[Node, dict[str, str]]:
    """A file with all that it includes, and the texts of all files by name.

    Args:
        problems: gets what is wrong but leaves the rest to be looked at, such as a key that is given twice.
        settings: ``dotted.key=value`` to change; an item of a list is called by its name.

    Raises:
        SpecError: files are missing, are not YAML or include each other.
    """
    reader = _Reader(problems)
    start = Place(str(path), 0, Path(path).absolute().parent)
    node = reader.file(Path(path), start, ())
    if reader.fatal:
        problems.check()
    return _with_settings(node, settings, problems), reader.texts


def from_python(value: Mapping[str, Any], problems: Problems, settings: Iterable[str] = ()) -> Node:
    """The same of a mapping made in Python; relative paths start from the working folder.

    Raises:
        SpecError: see :func:`read_experiment`; or values that YAML could not hold.
    """
    node = _named_items(_located(value, "experiment", problems))
    problems.check()
    reader = _Reader(problems)
    node = reader.included(node, ())
    if reader.fatal:
        problems.check()
    return _with_settings(node, settings, problems)


def _located(value: Any, path: str, problems: Problems) -> Node:
    place = Place(path, 0, Path.cwd())
    if isinstance(value, Mapping):
        made = {str(key): _located(item, f"{path}.{key}", problems) for key, item in value.items()}
        keys = {key: Place(f"{path}.{key}", 0, place.folder) for key in made}
        return Node(made, place, keys, 1 + sum(node.size for node in made.values()))
    if isinstance(value, list | tuple):
        items = [_located(item, f"{path}[{k}]", problems) for k, item in enumerate(value)]
        return Node(items, place, {}, 1 + sum(node.size for node in items))
    if isinstance(value, Path):
        value = str(value)
    if not (value is None or isinstance(value, bool | int | float | str)):
        problems.add(place, f"A {type(value).__name__} cannot be written to YAML; give numbers, texts and lists.")
    return Node(value, place)


class _Reader:
    """Reads files and what they include, each once."""

    def __init__(self, problems: Problems) -> None:
        self.problems, self.texts = problems, dict[str, str]()
        self.fatal = False
        """Whether a file is missing altogether, so that much else would seem to be."""
        self._read: set[Path] = set()

    def file(self, path: Path, asked: Place, chain: tuple[Path, ...]) -> Node:
        """A file and all that it includes, which ``chain`` includes in turn."""
        empty = Node({}, asked)
        real = path.resolve()
        if real in chain:
            names = " includes ".join(f"'{one.name}'" for one in (*chain[chain.index(real) :], real))
            self.problems.add(asked, f"The includes go round in a circle: {names}; take one of them out.")
            self.fatal = True
            return empty
        if real in self._read:
            return empty
        self._read.add(real)
        text = self._text(path, asked)
        if text is None:
            self.fatal = True
            return empty
        self.texts[str(path)] = text
        node = _parsed(text, str(path), real.parent, self.problems)
        if node is None or not node.is_mapping:
            self.fatal = True
            if node is not None:
                self.problems.add(node.place, "An experiment is a mapping with clips, representations and editors.")
            return empty
        return self.included(_named_items(node), (*chain, real))

    def _text(self, path: Path, asked: Place) -> str | None:
        try:
            if path.is_dir():
                self.problems.add(asked, f"'{path}' is a folder; give a YAML file.")
                return None
            if path.stat().st_size > _MOST_BYTES:
                self.problems.add(asked, f"'{path}' is larger than {_MOST_BYTES >> 20} MiB, which no experiment is.")
                return None
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self.problems.add(asked, f"The file '{path}' does not exist.")
        except UnicodeDecodeError:
            self.problems.add(asked, f"'{path}' is not a text file in UTF-8.")
        except OSError as error:
            self.problems.add(asked, f"Cannot read '{path}' ({error.strerror}).")
        return None

    def included(self, node: Node, chain: tuple[Path, ...]) -> Node:
        """The mapping laid over the files that its ``include`` names."""
        include = node.value.get("include")
        if include is None:
            return node
        below = Node({}, node.place)
        for one in include.value if include.is_list else [include]:
            if not isinstance(one.value, str):
                self.problems.add(one.place, "include takes names of YAML files.")
                continue
            path = Path(one.value).expanduser()
            shown = path if path.is_absolute() else Path(one.place.file).parent / path
            if not one.place.line:
                shown = one.place.folder / path
            below = _over(below, self.file(shown, one.place, chain))
        own = {key: value for key, value in node.value.items() if key != "include"}
        return _over(below, Node(own, node.place, node.keys, node.size))


def _parsed(text: str, file: str, folder: Path, problems: Problems) -> Node | None:
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
            return None
        if isinstance(value, datetime.date):
            return node.value
        if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
            self.problems.add(self.place(node), f"'{str(node.value)[:40]}' is neither a finite number nor a text.")
            return None
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


# --- laying one over the other ---


def _named_items(node: Node) -> Node:
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


def _over(below: Node, above: Node) -> Node:
    """A mapping over another: mappings are merged, lists of items joined, all else is replaced."""
    value = dict(below.value)
    for key, node in above.value.items():
        under = value.get(key)
        if under is None:
            value[key] = node
        elif key in _LISTS and under.is_list and node.is_list:
            value[key] = _joined(under, node)
        elif under.is_mapping and node.is_mapping:
            value[key] = _over(under, node)
        else:
            value[key] = node
    return Node(value, above.place, {**below.keys, **above.keys}, below.size + above.size)


def _joined(below: Node, above: Node) -> Node:
    items = list(below.value)
    where = {name_of(item): k for k, item in enumerate(items) if name_of(item) is not None}
    for item in above.value:
        name = name_of(item)
        if name is not None and name in where:
            items[where[name]] = _over(items[where[name]], item)
        else:
            items.append(item)
    return Node(items, above.place, {}, below.size + above.size)


def name_of(item: Node) -> str | None:
    """The ``name`` of an item, if it gives one."""
    name = item.value.get("name") if item.is_mapping else None
    return name.value if name is not None and isinstance(name.value, str) else None


# --- settings of the command line ---


def _with_settings(node: Node, settings: Iterable[str], problems: Problems) -> Node:
    for text in settings:
        place = Place(f"--set {text}", 0, Path.cwd())
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            problems.add(place, "A setting is KEY=VALUE, such as editors.gold.strength=0.5.")
            continue
        parsed = _parsed(value or "''", place.file, place.folder, problems)
        if parsed is not None:
            node = _set(node, name.strip().split("."), _at(parsed, place), place, problems)
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
