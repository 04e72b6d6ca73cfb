"""Items of an experiment: clips, representations and editors, with templates, globs, sweeps and overrides resolved."""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from canon import registry
from canon.errors import InputError
from canon.experiments.checking import Checker, Given, given_by, listed, near_to, patterns_of, shown
from canon.experiments.nodes import Node
from canon.experiments.places import Place, Problems

SECTIONS = {"clip": "clips", "representation": "representations", "editor": "editors"}
OWN = {
    "clips": ("path", "name", "template", "options", "sweep", "exclude", "metrics"),
    "representations": ("representation", "kind", "name", "template", "options", "sweep", "where"),
    "editors": (
        "editor", "name", "template", "options", "sweep", "where", "layers", "seeds", "stack", "render", "metrics",
    ),
}  # fmt: skip
_KIND = {"clips": "path", "representations": "representation", "editors": "editor"}
SAFE_NAME = r"\w[\w .-]{0,79}"


@dataclass
class Item:
    """A clip, representation or editor before options are checked."""

    name: str
    base: str
    """Its name before sweeps; patterns match either."""
    place: Place
    kind: str
    """Registered name; "" of clips and stacks."""
    own: dict[str, Node]
    """What is not an option: path, where, seeds, ..."""
    given: Given
    swept: tuple[str, ...] = ()
    sweeps: Given = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, str]:
        return self.name, self.base


@dataclass(frozen=True)
class Override:
    where: Mapping[str, Sequence[str]]
    target: str
    given: Given
    skip: bool

    def names(self, editor: Item) -> bool:
        """Whether it is of this editor on some clip and representation."""
        return matches_any(editor.name, self.where["editor"]) or matches_any(editor.base, self.where["editor"])

    def matches(self, items: Mapping[str, Item]) -> bool:
        """Whether it is of these."""
        return allows(self.where, **items)


class ItemReader(Checker):
    """Reads the sections of an experiment."""

    def __init__(self, node: Node, problems: Problems) -> None:
        super().__init__(problems)
        self.node = node
        self.top: dict[str, Node] = node.value
        self.overrides: list[Override] = []
        self.clips: list[Item] = []
        self.fits: list[Item] = []
        self.edits: list[Item] = []

    def read_items(self, limit: int) -> None:
        """Read all sections and the overrides; a sweep has ``limit`` points at most."""
        sweeps = self._top_sweeps()
        self.clips = self._section("clips", sweeps, limit)
        self.fits = self._section("representations", sweeps, limit)
        self.edits = self._section("editors", sweeps, limit)
        for label, (place, _) in sweeps.items():
            near = near_to(label.rpartition(".")[0], [item.base for item in (*self.clips, *self.fits, *self.edits)])
            self.say(place, f"The sweep '{label}' is of no item{near or '; write ITEM.OPTION.'}")
        for section in ("clips", "representations"):
            node = self.top.get(section)
            if node is None or node.value in (None, [], ""):
                place = self.node.key(section)
                self.say(place, f"There are no {section}; an experiment needs clips and representations.")
        templates = self.top.get("templates")
        if templates is not None and templates.value is not None and not templates.is_mapping:
            self.say(templates.place, f"templates takes a mapping of names to options, not {shown(templates)}.")
        self._read_overrides()

    def _section(self, section: str, sweeps: Given, limit: int) -> list[Item]:
        """The items of a section after their sweeps; top-level ones that are used are taken out of ``sweeps``."""
        node = self.top.get(section)
        if node is None or node.value is None:
            return []
        items: list[Item] = []
        for one in node.value if node.is_list else [node]:
            item = self._item(section, one)
            if item is not None:
                items += self._globbed(item) if section == "clips" else [item]
        self._name_apart(items)
        used = set()
        for item in items:
            for label, sweep in sweeps.items():
                owner, _, option = label.rpartition(".")
                if owner in (item.base, f"{section}.{item.base}"):
                    item.sweeps[option] = sweep
                    used.add(label)
        for label in used:
            del sweeps[label]
        spread = [variant for item in items for variant in self._variants(item, limit)]
        _number(spread)
        return spread

    def _item(self, section: str, node: Node) -> Item | None:
        kind_key = _KIND[section]
        if isinstance(node.value, str) or (node.is_list and section == "clips"):
            node = Node({kind_key: node}, node.place, {kind_key: node.place})
        if not node.is_mapping:
            self.say(node.place, f"An item of {section} is a name or a mapping, not {shown(node)}.")
            return None
        self._check_swept_twice(node)
        node = self._templated(node, ())
        value = {kind_key if key == "" else key: one for key, one in node.value.items()}
        own = {key: one for key, one in value.items() if key in OWN[section]}
        given = {key: (node.key(key), one) for key, one in value.items() if key not in OWN[section]}
        if "options" in own:
            if own["options"].is_mapping:
                given |= given_by(own["options"])
            else:
                self.say(own["options"].place, "options takes a mapping.")
        kind = self._kind_of(section, own, node.place)
        if kind is None:
            return None
        name = self._item_name(own, kind, section)
        item = Item(name, name, node.place, kind, own, given)
        sweep = own.get("sweep")
        if sweep is not None:
            if sweep.is_mapping:
                item.sweeps = given_by(sweep)
            else:
                self.say(sweep.place, "sweep takes a mapping of options to lists of values.")
        return item

    def _check_swept_twice(self, node: Node) -> None:
        """Refuse options that one item both gives and sweeps; what it has from elsewhere may be swept."""
        sweep, options = node.value.get("sweep"), node.value.get("options")
        if sweep is None or not sweep.is_mapping:
            return
        for holder in (node, options):
            for option in sweep.value if holder is not None and holder.is_mapping else ():
                place = holder.key(option)
                own = place.file == node.place.file and place.line >= node.place.line
                if option in holder.value and (own or not place.line):
                    self.say(sweep.key(option), f"The option '{option}' is both given and swept; keep one of them.")

    def _templated(self, node: Node, chain: tuple[str, ...]) -> Node:
        asked = node.value.get("template")
        if asked is None:
            return node
        templates = self.top.get("templates")
        known = templates.value if templates is not None and templates.is_mapping else {}
        value: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        for one in asked.value if asked.is_list else [asked]:
            name = str(one.plain)
            if name in chain:
                self.say(one.place, f"The templates go round in a circle: {' uses '.join((*chain, name))}.")
            elif name not in known:
                there = f"; there are {listed(list(known))}." if known else "; the experiment has no templates."
                self.say(one.place, f"There is no template '{name}'{near_to(name, list(known)) or there}")
            elif not known[name].is_mapping:
                self.say(known[name].place, f"The template '{name}' is not a mapping of options.")
            else:
                below = self._templated(known[name], (*chain, name))
                value |= below.value
                keys |= below.keys
        return Node({**value, **node.value}, node.place, {**keys, **node.keys})

    def _kind_of(self, section: str, own: dict[str, Node], place: Place) -> str | None:
        if section == "clips":
            return ""
        if section == "editors" and "stack" in own:
            if "editor" in own:
                self.say(place, "An item is an editor or a stack of other items, not both.")
            return ""
        key = next((key for key in (_KIND[section], "kind") if key in own), None)
        word = section[:-1]
        if key is None:
            names = registry.names(f"canon.{section}")
            self.say(place, f"It is not said which {word} this is; give {word}: with one of {listed(names)}.")
            return None
        name = own[key].value
        if not isinstance(name, str):
            what = "a list" if own[key].is_list else shown(own[key])
            self.say(own[key].place, f"{key} takes the name of one {word}, not {what}.")
            return None
        try:
            (registry.representation if section == "representations" else registry.editor)(name)
        except InputError as error:
            near = near_to(name, registry.names(f"canon.{section}"))
            said = f"There is no {word} called '{name}'{near}" if near else str(error)
            self.say(own[key].place, said)
            return None
        return name

    def _item_name(self, own: dict[str, Node], kind: str, section: str) -> str:
        node = own.get("name")
        if node is not None:
            name = str(node.plain)
            if not re.fullmatch(SAFE_NAME, name) or node.is_list or node.is_mapping:
                self.say(node.place, f"The name '{name}' cannot be a folder's; use letters, digits, '-' and '_'.")
                return "unnamed"
            return name
        if section == "clips":
            path = own.get("path")
            first = path.value[0].value if path is not None and path.is_list and path.value else path and path.value
            return _slug(_stem(str(first)), 60) or "clip"
        return kind or "stack"

    def _name_apart(self, items: list[Item]) -> None:
        """Refuse names that were given twice, and number those that were not given."""
        given = [item for item in items if "name" in item.own]
        seen: dict[str, Item] = {}
        for item in given:
            if item.base.lower() in seen:
                other = seen[item.base.lower()].place
                where = f"in line {other.line}" if other.line and other.file == item.place.file else f"at {other}"
                self.say(item.own["name"].place, f"The name '{item.name}' is taken by the one {where}; choose another.")
            seen[item.base.lower()] = item
        _number([item for item in items if "name" not in item.own], set(seen))
        for item in items:
            item.base = item.name

    def _top_sweeps(self) -> Given:
        node = self.top.get("sweep")
        if node is None:
            return {}
        if not node.is_mapping:
            self.say(node.place, "sweep takes a mapping of ITEM.OPTION to lists of values.")
            return {}
        return given_by(node)

    def _variants(self, item: Item, limit: int) -> list[Item]:
        """An item for every point of the grid of its sweeps."""
        axes: list[tuple[str, Place, list[Node]]] = []
        for option, (place, values) in item.sweeps.items():
            if not values.is_list or not values.value:
                self.say(values.place, f"The sweep of '{option}' takes a list of values, not {shown(values)}.")
                continue
            if "stack" in item.own:
                self.say(place, "A stack has no options of its own; sweep those of its members.")
                continue
            plain = [one.plain for one in values.value]
            twice = next((one for one in values.value if plain.count(one.plain) > 1), None)
            if twice is not None and not twice.refused:
                self.say(twice.place, f"The sweep of '{option}' has {shown(twice)} twice.")
                continue
            axes.append((option, place, values.value))
        if not axes:
            return [item]
        count = math.prod(len(values) for _, _, values in axes)
        if count > limit:
            self.say(axes[0][1], f"The sweeps of '{item.base}' have {count} points, more than max_tasks ({limit}).")
            return [item]
        found = []
        for point in itertools.product(*(values for _, _, values in axes)):
            given = dict(item.given)
            parts = []
            for (option, place, _), node in zip(axes, point, strict=True):
                given[option] = (place, node)
                parts.append(f"{option}-{_slug(node.plain, 24)}")
            name = "-".join([item.base, *parts])[:80].strip(" .-")
            found.append(replace(item, name=name, given=given, swept=tuple(option for option, _, _ in axes)))
        return found

    def _globbed(self, item: Item) -> list[Item]:
        """The clips of a glob that is not one of images."""
        path = item.own.get("path")
        if path is None:
            self.say(item.place, "The clip has no path; give a video, a folder of images or a glob.")
            return []
        texts = [one.value for one in path.value] if path.is_list else [path.value]
        if not texts or not all(isinstance(text, str) and text for text in texts):
            self.say(path.place, "path takes a video, a folder of images or a glob; or a list of them, as views.")
            return []
        if path.is_list or not any(character in texts[0] for character in "*?["):
            return [item]
        from canon.sources import IMAGE_SUFFIXES, natural_key

        whole = path.place.folder / Path(texts[0]).expanduser()
        if whole.exists():
            return [item]
        pattern = str(whole.relative_to(whole.anchor))
        matches = sorted(Path(whole.anchor).glob(pattern), key=lambda match: natural_key(str(match)))
        matches = [match for match in matches if not match.name.startswith(".")]
        if matches and all(match.suffix.lower() in IMAGE_SUFFIXES for match in matches):
            return [item]
        matches = [match for match in matches if match.suffix.lower() not in IMAGE_SUFFIXES]
        matches = [match for match in matches if not matches_any(match.name, patterns_of(item.own.get("exclude")))]
        if not matches:
            self.say(path.place, f"Nothing matches '{texts[0]}'; check the pattern.")
        found = []
        for match in matches:
            own = {**item.own, "path": Node(str(match), path.place)}
            prefix = f"{item.name}-" if "name" in item.own else ""
            name = prefix + (_slug(_stem(match.name), 60) or "clip")
            found.append(replace(item, name=name, base=name, own={k: v for k, v in own.items() if k != "name"}))
        return found

    def _read_overrides(self) -> None:
        node = self.top.get("overrides")
        if node is None or node.value is None:
            return
        for one in node.value if node.is_list else [node]:
            if not one.is_mapping or "where" not in one.value:
                self.say(one.place, "An override is a mapping with where: and set: or skip: true.")
                continue
            for key in one.value:
                self.known(key, ("where", "set", "skip"), one.key(key), "An override")
            where = self.where(one.value["where"])
            if where is None:
                continue
            target = next((level for level in ("editor", "representation", "clip") if level in where), "clip")
            changes, skip = one.value.get("set"), one.value.get("skip")
            if changes is not None and not changes.is_mapping:
                self.say(changes.place, "set takes a mapping of options.")
                continue
            if skip is not None and not isinstance(skip.value, bool):
                self.say(skip.place, "skip takes true or false.")
                continue
            given = given_by(changes) if changes is not None else {}
            if not given and not (skip is not None and skip.value):
                self.say(one.place, "The override changes nothing; give set: {OPTION: VALUE}, or skip: true.")
            self.overrides.append(Override(where, target, given, bool(skip is not None and skip.value)))

    def where(self, node: Node | None) -> dict[str, list[str]] | None:
        """Patterns by level; each has to match something."""
        if node is None:
            return {}
        if not node.is_mapping or not node.value:
            self.say(node.place, "where takes a mapping of clip, representation and editor to names or patterns.")
            return None
        found = {}
        items = {"clip": self.clips, "representation": self.fits, "editor": self.edits}
        for level, patterns in node.value.items():
            if not self.known(level, tuple(SECTIONS), node.key(level), "where"):
                continue
            found[level] = patterns_of(patterns)
            for pattern in found[level]:
                if not any(matches_any(name, [pattern]) for item in items[level] for name in item.names):
                    there = list(dict.fromkeys(item.base for item in items[level]))
                    hint = near_to(pattern, there) or (f"; there are {listed(there)}." if there else ".")
                    self.say(patterns.place, f"'{pattern}' matches no {level}{hint}")
        return found

    def changed(self, target: str, given: Given, **items: Item) -> Given | None:
        """Options with the overrides of some level; None = skipped."""
        found = given
        for override in self.overrides:
            if override.target == target and override.matches(items):
                if override.skip:
                    return None
                found = {**found, **override.given}
        return found


def allows(where: Mapping[str, Sequence[str]] | None, **items: Item) -> bool:
    """Whether patterns by level all match; those of a level that is not given do not."""

    def matches(level: str, patterns: Sequence[str]) -> bool:
        return level in items and any(matches_any(name, patterns) for name in items[level].names)

    return all(matches(level, patterns) for level, patterns in (where or {}).items())


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of some patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _stem(path: str) -> str:
    name = Path(path.rstrip("/*")).name
    return name if not Path(name).suffix or Path(path).is_dir() else Path(name).stem


def _slug(value: Any, longest: int) -> str:
    """A value as a part of a name."""
    if isinstance(value, bool) or value is None:
        text = str(value).lower()
    elif isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, list):
        text = "-".join(_slug(item, longest) for item in value)
    else:
        text = Path(value).stem if isinstance(value, str) and "/" in value else str(value)
    return re.sub(r"[^\w.]+", "-", text)[:longest].strip(" .-")


def _number(items: Sequence[Item], taken: set[str] | None = None) -> None:
    """Give items of one name numbers."""
    seen = set(taken or ())
    for item in items:
        name, number = item.name, 2
        while item.name.lower() in seen:
            item.name, number = f"{name[:74]}-{number}", number + 1
        seen.add(item.name.lower())
