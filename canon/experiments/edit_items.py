"""The editors of an experiment on one fit: a run for every seed, and stacks of those before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from canon import registry
from canon.experiments.checking import Given, given_by, listed, near_to, shown
from canon.experiments.choices import ClipChoice, EditChoice, ToolChoice
from canon.experiments.items import OWN, Item, ItemReader
from canon.experiments.nodes import Node
from canon.experiments.options import hints
from canon.experiments.outputs import read_metrics, read_render


@dataclass(frozen=True)
class Made:
    """A run of an editor that stacks can take up."""

    item: Item
    tool: ToolChoice


class EditReader(ItemReader):
    """Reads runs of editors out of items."""

    def edits_of(
        self, item: Item, items: dict[str, Item], clip: ClipChoice, tools: dict[str, list[Made]]
    ) -> Iterator[EditChoice]:
        """The edits of an item on one fit, one for each seed; ``tools`` collects them for stacks."""
        given = self.changed("editor", item.given, **items)
        if given is None:
            return
        metrics = read_metrics(self, self.top.get("metrics"), clip.metrics, item.own.get("metrics"))
        render = read_render(self, item.own.get("render") or self.top.get("render"))
        if "stack" in item.own:
            for name, members, seed, swept in self._stacked(item, given, tools):
                yield EditChoice(name, members, seed, swept, metrics, render)
            return
        for seed in self.seeds_of(item, given) or (None,):
            tool = self.tool_of(item, given, seed)
            if tool is None:
                return
            tools.setdefault(item.base, []).append(Made(item, tool))
            yield EditChoice(item.name, (tool,), tool.seed, item.swept, metrics, render)

    def seeds_of(self, item: Item, given: Given | None = None) -> tuple[int, ...]:
        """Seeds that are asked for; none = that of the options, or there is nothing to choose."""
        if "stack" in item.own:
            return ()
        has_seed = "seed" in hints(registry.editor(item.kind).Config)
        own = item.own.get("seeds")
        if own is not None and not has_seed:
            self.say(own.place, f"The editor '{item.kind}' leaves nothing to chance, so that it has no seeds.")
            return ()
        if own is not None and "seed" in item.given:
            self.say(own.place, f"The item '{item.name}' has both seed and seeds; keep one of them.")
            return ()
        node = own or self.top.get("seeds")
        if node is None or not has_seed or "seed" in (item.given if given is None else given):
            return ()
        return self.read_seeds(node)

    def read_seeds(self, node: Node) -> tuple[int, ...]:
        """Seeds of a list, or one; none if they are wrong."""
        seeds = [one.value for one in node.value] if node.is_list else [node.value]
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in seeds)
        if not seeds or not whole or len(set(seeds)) < len(seeds):
            self.say(node.place, f"seeds takes different whole numbers from 0, not {shown(node)}.")
            return ()
        return tuple(seeds)

    def tool_of(self, item: Item, given: Given, seed: int | None, whole: bool = True) -> ToolChoice | None:
        """A run of an editor; only the types of its options are checked if they are not ``whole``."""
        kind, owner = registry.editor(item.kind), f"The editor '{item.kind}'"
        plain = self.typed(kind.Config, given, owner, OWN["editors"])
        layers = self._layers(item, kind.Config, owner)
        given_names = set(given)
        if isinstance(layers, dict):
            given_names |= set.intersection(*map(set, layers.values())) | {"layer"}
        called = f"The item '{item.base}' ({item.kind})"
        complete = not whole or self.complete(kind.Config, sorted(given_names), called, item.place)
        if plain is None or layers is False or not whole or not complete:
            return None
        if seed is not None:
            plain["seed"] = seed
        each: list[dict[str, Any]] = [{}]
        if isinstance(layers, dict):
            each = [{**own, "layer": layer} for layer, own in layers.items()]
        configs = [self.config(kind.Config, {**plain, **own}, item.place) for own in each]
        if not all(config is not None for config in configs):
            return None
        used = configs[0].get("seed") if configs[0] else None
        if isinstance(used, int) and not 0 <= used < 2**32:
            self.say(given["seed"][0] if "seed" in given else item.place, f"The seed {used} is out of range.")
            return None
        used = used if isinstance(used, int) and not isinstance(used, bool) else None
        every = tuple(config or {} for config in configs)
        return ToolChoice(item.name, item.kind, plain, layers or None, every, used)

    def _layers(self, item: Item, config: type[Any], owner: str) -> Any:
        """Options by layer; None if there are none, False if they are wrong."""
        node = item.own.get("layers")
        if node is None:
            return None
        if not node.is_mapping or not node.value:
            self.say(node.place, "layers takes a mapping of layers to options.")
            return False
        found: dict[str, Any] = {}
        for layer, options in node.value.items():
            if options.value is not None and not options.is_mapping:
                self.say(options.place, f"The layer '{layer}' takes a mapping of options.")
                return False
            plain = self.typed(config, given_by(options) if options.is_mapping else {}, owner)
            if plain is None:
                return False
            found[layer] = plain
        return found

    def members_of(self, item: Item, given: Given) -> list[str]:
        """Names of the items of a stack; none if something is wrong."""
        node = item.own["stack"]
        for option, (place, _) in given.items():
            self.say(place, f"A stack has no options of its own, so not '{option}'; give it to its members.")
        members = node.value if node.is_list else []
        names = [str(one.plain) for one in members]
        if not names:
            self.say(node.place, "stack takes a list of names of other items.")
            return []
        known = list(dict.fromkeys(other.base for other in self.edits if "stack" not in other.own))
        stacks = [other.base for other in self.edits if "stack" in other.own]
        for one in members:
            if one.plain in stacks:
                self.say(one.place, f"'{one.value}' is a stack, and stacks cannot be stacked; name its members.")
                return []
            if one.plain not in known:
                there = f"; there are {listed(known)}." if known else "; there are no items with an editor."
                hint = near_to(str(one.plain), known) or there
                self.say(one.place, f"There is no editor item '{one.plain}' to stack{hint}")
                return []
        before = [other.base for other in self.edits[: self.edits.index(item)]]
        late = [one for one in members if one.value not in before]
        if late:
            self.say(late[0].place, f"'{late[0].value}' comes after the stack that it is in; put it before.")
            return []
        return names

    def _stacked(
        self, item: Item, given: Given, tools: dict[str, list[Made]]
    ) -> Iterator[tuple[str, tuple[ToolChoice, ...], int | None, tuple[str, ...]]]:
        """Every choice of the members' variants, those with a seed at the same seed."""
        names = self.members_of(item, given)
        if not names or any(name not in tools for name in names):
            return  # skipped on this clip, so that the stack is, too
        for made in itertools.product(*(tools[name] for name in names)):
            seeds = {one.tool.seed for one in made if one.tool.seed is not None}
            if len(seeds) > 1:
                continue
            parts = [one.item.name.removeprefix(one.item.base) for one in made]
            name = (item.name + "".join(parts))[:80].strip(" .-")
            swept = tuple(dict.fromkeys(option for one in made for option in one.item.swept))
            yield name, tuple(one.tool for one in made), next(iter(seeds), None), swept
