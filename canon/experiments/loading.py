"""Reading an experiment, from its file and all that it includes, or from a mapping made in Python.

Every value knows the file and the line that it came from. Merges (``<<``), anchors, ``include`` and settings from the
command line are resolved here; what the values mean is the business of :mod:`canon.experiments.spec`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from canon.experiments.nodes import Node, laid_over, named_items
from canon.experiments.places import Place, Problems
from canon.experiments.settings import with_settings
from canon.experiments.yaml_nodes import parsed

_MOST_BYTES = 1 << 20


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
    return with_settings(node, settings, problems), reader.texts


def from_python(value: Mapping[str, Any], problems: Problems, settings: Iterable[str] = ()) -> Node:
    """The same of a mapping made in Python; relative paths start from the working folder.

    Raises:
        SpecError: see :func:`read_experiment`; or values that YAML could not hold.
    """
    node = named_items(_located(value, "experiment", problems))
    problems.check()
    reader = _Reader(problems)
    node = reader.included(node, ())
    if reader.fatal:
        problems.check()
    return with_settings(node, settings, problems)


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
        node = parsed(text, str(path), real.parent, self.problems)
        if node is None or not node.is_mapping:
            self.fatal = True
            if node is not None:
                self.problems.add(node.place, "An experiment is a mapping with clips, representations and editors.")
            return empty
        return self.included(named_items(node), (*chain, real))

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
            below = laid_over(below, self.file(shown, one.place, chain))
        own = {key: value for key, value in node.value.items() if key != "include"}
        return laid_over(below, Node(own, node.place, node.keys, node.size))
