"""An experiment, validated: what its YAML asks for, as a list of cells (clip, fit, edit) with typed options.

.. code-block:: yaml

    name: styles                     # the file's name without it
    out: runs/styles                 # beside the file; this is the default
    include: [common.yaml]           # laid below this file; items of one name are merged
    description: ...                 # for the report

    templates:                       # sets of options, for any item
      quick: {model: canon-mini, steps: 10}

    clips:
      - bear.mp4                     # a video, a folder of images, or a glob of images
      - {path: car, name: car, masks: car-masks, max_frames: 40, size: 240}
      - path: davis/JPEGImages/480p/*    # a glob of folders or videos: a clip each
        exclude: [dance-*]
      - {path: [left.mp4, right.mp4], name: stage, cameras: cameras.json, poses: poses.npz}   # synchronised views

    representations:
      - atlas
      - {name: quick, representation: codef, preset: fast, seed: 1}

    editors:
      - {editor: grade, hue: 120, layer: foreground}
      - name: gold
        editor: restyle
        template: quick
        prompt: a bear of gold
        seeds: [0, 1]
        sweep: {strength: [0.3, 0.6]}       # gold-strength-0.3, gold-strength-0.6
        where: {clip: bear}                 # on these alone
        metrics: {source_prompt: a bear}
      - {name: both, editor: grade, layers: {foreground: {hue: 90}, background: {saturation: 0.2}}}
      - {name: final, stack: [gold, both]}  # edits of items above, one after the other

    seeds: [0, 1]                    # of every editor that leaves something to chance and has no seeds of its own
    sweep: {quick.preset: [fast, balanced]}
    overrides:
      - {where: {clip: car, editor: gold}, set: {prompt: a car of gold}}
      - {where: {representation: quick, clip: stage}, skip: true}

    metrics: {only: [psnr, warp_error*], framewise: true}    # all (the default), false, a list, or this
    render: {format: mp4, scale: 1}                          # true (the default), false, or this
    resources: {fit: {cpus: 2, memory: 8GB}, edit: {gpus: 1}}
    device: cpu
    log: tensorboard                 # how fits go on

Options of a representation or an editor stand in its item, or under ``options`` where they have the name of something
else. What ``set`` of an override changes is the finest of the things that its ``where`` names. Paths are relative to
the file that they are written in. Keys that begin with ``x-`` are for anchors.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canon import registry, trackers
from canon.errors import InputError
from canon.experiments.checking import Given, given_by, listed, near_to, shown
from canon.experiments.choices import (
    EDIT_FIGURES,
    FIT_FIGURES,
    MOST_TASKS,
    Cell,
    ClipChoice,
    ClipOptions,
    EditChoice,
    Experiment,
    FitChoice,
    MetricsOptions,
    RenderOptions,
    ResourceOptions,
    ToolChoice,
)
from canon.experiments.contracts import KINDS, Resources
from canon.experiments.items import OWN, SAFE_NAME, Item, ItemReader, allows
from canon.experiments.loading import Node, Problems
from canon.experiments.options import for_config, hints

TOP = (
    "name", "out", "description", "include", "templates", "clips", "representations", "editors", "seeds", "sweep",
    "overrides", "metrics", "render", "resources", "device", "log", "max_tasks",
)  # fmt: skip


def resolve(node: Node, problems: Problems, base: Path, default_name: str) -> Experiment:
    """Check everything, and list the cells.

    Args:
        problems: what was found wrong before.
        base: folder that ``out`` is relative to.
        default_name: where the experiment has no name.

    Raises:
        SpecError: whatever is wrong, all of it.
    """
    found = _Resolver(node, problems).experiment(base, default_name)
    problems.check()
    return found


class _Resolver(ItemReader):
    """Goes through the sections, collecting problems."""

    def __init__(self, node: Node, problems: Problems) -> None:
        super().__init__(node, problems)
        self._facts_of: dict[Any, _Facts | None] = {}

    def experiment(self, base: Path, default_name: str) -> Experiment:
        """The experiment, as good as the problems let it be."""
        for key in self.top:
            if not key.startswith("x-"):
                self.known(key, TOP, self.node.key(key), "An experiment")
        name = self._text("name") or re.sub(r"[^\w .-]+", "-", default_name).strip(" .-") or "experiment"
        if not re.fullmatch(SAFE_NAME, name):
            self.say(self.top["name"].place, f"The name '{name}' cannot be a folder's; use letters, digits and '-'.")
        out = self._text("out") or f"runs/{name}"
        if "://" not in out:
            folder = self.top["out"].place.folder if "out" in self.top else base
            out = str((folder / Path(out).expanduser()).resolve())
        limit = self._whole("max_tasks", MOST_TASKS, 1)
        self.read_items(limit)
        self._check_alone()
        cells: list[Cell] = []
        if self._count(limit):
            cells = list(self._cells())
            if not cells and not len(self.problems):
                self.say(self.node.place, "Nothing is left to do: every pair of clip and representation is skipped.")
        log = self._log()
        return Experiment(
            name, out, cells, self._resources(), log, self._text("description") or "", limit, self.node.plain,
            self.node.key("out"),
        )  # fmt: skip

    def _text(self, key: str) -> str | None:
        node = self.top.get(key)
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, str):
            self.say(node.place, f"{key} takes a text; put it in quotes.")
            return None
        return node.value

    def _whole(self, key: str, default: int, least: int) -> int:
        node = self.top.get(key)
        if node is None:
            return default
        if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < least:
            self.say(node.place, f"{key} takes a whole number of at least {least}, not {shown(node)}.")
            return default
        return node.value

    def _log(self) -> str | None:
        node = self.top.get("log")
        if node is None or node.value in (None, False):
            return None
        try:
            trackers.check(str(node.value))
        except InputError as error:
            self.say(node.place, str(error))
        return str(node.value)

    def _resources(self) -> dict[str, Resources]:
        found = {kind: Resources() for kind in KINDS}
        node = self.top.get("resources")
        if node is None:
            return found
        if not node.is_mapping:
            self.say(node.place, "resources takes a mapping by kind of task, such as fit: {cpus: 2}.")
            return found
        for kind, own in node.value.items():
            if not self.known(kind, KINDS, node.key(kind), "resources"):
                continue
            options = self.simple(own, ResourceOptions, f"resources of {kind}")
            if options is None:
                continue
            memory = _mebibytes(options.memory)
            if options.cpus < 1 or options.gpus < 0 or memory is None:
                self.say(own.place, "Resources are at least one cpu, gpus from 0, and memory such as 8GB or 500MB.")
                continue
            found[kind] = Resources(options.cpus, options.gpus, memory)
        return found

    def _check_alone(self) -> None:
        """Check options of items by themselves, since one that is wrong is in no cell."""
        self._metrics(self.top.get("metrics"))
        for item in self.clips:
            self.typed(ClipOptions, item.given, "A clip", OWN["clips"])
            self._metrics(self.top.get("metrics"), item.own.get("metrics"))
        for item in (*self.fits, *self.edits):
            self.where(item.own.get("where"))
        for item in self.fits:
            self._fit_options(item, item.given)
        for item in self.edits:
            self._metrics(self.top.get("metrics"), item.own.get("metrics"))
            self._render(item)
            if "stack" in item.own:
                self._members(item, item.given)
            else:
                seeds = self._seeds(item)
                # What is missing in an item may come from overrides.
                self._tool(item, item.given, seeds[0] if seeds else None, whole=not self.overrides)

    def _count(self, limit: int) -> bool:
        """Whether there are not too many."""
        edits = sum(len(self._seeds(item) or (0,)) for item in self.edits)
        count = len(self.clips) * (1 + 2 * len(self.fits) + 3 * len(self.fits) * edits)
        if count > limit:
            self.say(
                self.node.place,
                f"The experiment has up to {count} tasks ({len(self.clips)} clips x {len(self.fits)} representations x "
                f"{edits} edits), and max_tasks is {limit}; ask for less, or raise max_tasks.",
            )
        return count <= limit

    def _cells(self) -> Iterator[Cell]:
        wheres = {id(item): self.where(item.own.get("where")) for item in (*self.fits, *self.edits)}
        for clip_item in self.clips:
            clip = self._clip(clip_item)
            if clip is None:
                continue
            for fit_item in self.fits:
                if not allows(wheres[id(fit_item)], clip=clip_item):
                    continue
                fit = self._fit(fit_item, clip_item, clip)
                if fit is None:
                    continue
                metrics = self._metrics(self.top.get("metrics"), clip.metrics)
                yield Cell(clip, fit, None, metrics)
                tools: dict[str, list[_Made]] = {}
                for item in self.edits:
                    if allows(wheres[id(item)], clip=clip_item, representation=fit_item):
                        items = {"clip": clip_item, "representation": fit_item, "editor": item}
                        for edit in self._edits(item, items, clip, tools):
                            yield Cell(clip, fit, edit)

    def _clip(self, item: Item) -> ClipChoice | None:
        given = self.changed("clip", item.given, clip=item)
        if given is None:
            return None
        plain = self.typed(ClipOptions, given, "A clip", OWN["clips"])
        if plain is None:
            return None
        if isinstance(plain.get("max_frames"), int) and plain["max_frames"] < 1:
            self.say(given["max_frames"][0], f"max_frames is {plain['max_frames']}; give at least 1.")
            return None
        sources = _sources(item)
        facts = self._facts(item, sources, plain)
        if facts is None:
            return None
        frames, size, cameras = facts
        metrics = item.own.get("metrics")
        return ClipChoice(item.name, sources, plain, frames, size, cameras, item.place, item.swept, metrics)

    def _facts(self, item: Item, sources: tuple[str, ...], plain: Mapping[str, Any]) -> _Facts | None:
        """Frames, size, and whether there are cameras; None if it cannot be read."""
        asked = (sources, plain.get("max_frames"), str(plain.get("size")), plain.get("cameras") is not None)
        if asked not in self._facts_of:
            place = item.own["path"].place
            try:
                self._facts_of[asked] = _facts_of_sources(sources, plain)
            except InputError as error:
                self.say(place, str(error))
                self._facts_of[asked] = None
        return self._facts_of[asked]

    def _fit(self, item: Item, clip_item: Item, clip: ClipChoice) -> FitChoice | None:
        given = self.changed("representation", item.given, clip=clip_item, representation=item)
        if given is None:
            return None
        kind = registry.representation(item.kind)
        if len(clip.sources) > 1 and not kind.several_views:
            sentence = f"The clip '{clip.name}' has {len(clip.sources)} views, and '{item.kind}' cannot fit several."
            self.say(item.place, f"{sentence} Leave the pair out with where: or overrides:.")
            return None
        if kind.several_views and not clip.cameras:
            self.say(
                item.place,
                f"'{item.kind}' works in three dimensions and needs cameras, and the clip '{clip.name}' "
                f"({clip.place}) has none; give cameras: a file or solve, or leave the pair out with where: or "
                "overrides:.",
            )
            return None
        return self._fit_options(item, given)

    def _fit_options(self, item: Item, given: Given) -> FitChoice | None:
        kind = registry.representation(item.kind)
        extra = {"seed": int, "device": str | None}
        extra = {name: type_ for name, type_ in extra.items() if name not in hints(kind.Config)}
        plain = self.typed(kind.Config, given, f"The representation '{item.kind}'", OWN["representations"], extra)
        if plain is None:
            return None
        own = {name: plain.pop(name) for name in extra if name in plain}
        seed = own.get("seed", 0)
        if not 0 <= seed < 2**32:
            self.say(given["seed"][0], f"The seed {seed} is out of range; give a whole number from 0 to {2**32 - 1}.")
            return None
        config = self.config(kind.Config, plain, item.place)
        if config is None:
            return None
        return FitChoice(item.name, item.kind, plain, config, seed, own.get("device", self._text("device")), item.swept)

    def _edits(
        self, item: Item, items: dict[str, Item], clip: ClipChoice, tools: dict[str, list[_Made]]
    ) -> Iterator[EditChoice]:
        """The edits of an item on one fit, one for each seed; ``tools`` collects them for stacks."""
        given = self.changed("editor", item.given, **items)
        if given is None:
            return
        metrics = self._metrics(self.top.get("metrics"), clip.metrics, item.own.get("metrics"))
        render = self._render(item)
        if "stack" in item.own:
            for name, members, seed, swept in self._stacked(item, given, tools):
                yield EditChoice(name, members, seed, swept, metrics, render)
            return
        for seed in self._seeds(item, given) or (None,):
            tool, used = self._tool(item, given, seed)
            if tool is None:
                return
            tools.setdefault(item.base, []).append(_Made(item, tool, used))
            yield EditChoice(item.name, (tool,), used, item.swept, metrics, render)

    def _seeds(self, item: Item, given: Given | None = None) -> tuple[int, ...]:
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
        seeds = [one.value for one in node.value] if node.is_list else [node.value]
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in seeds)
        if not seeds or not whole or len(set(seeds)) < len(seeds):
            self.say(node.place, f"seeds takes different whole numbers from 0, not {shown(node)}.")
            return ()
        return tuple(seeds)

    def _tool(
        self, item: Item, given: Given, seed: int | None, whole: bool = True
    ) -> tuple[ToolChoice | None, int | None]:
        """A run of an editor and its seed; only the types of its options are checked if they are not ``whole``."""
        kind, owner = registry.editor(item.kind), f"The editor '{item.kind}'"
        plain = self.typed(kind.Config, given, owner, OWN["editors"])
        layers = self._layers(item, kind.Config, owner)
        if plain is None or layers is False or not whole:
            return None, None
        if seed is not None:
            plain["seed"] = seed
        each: list[dict[str, Any]] = [{}]
        if isinstance(layers, dict):
            each = [{**own, "layer": layer} for layer, own in layers.items()]
        configs = [self.config(kind.Config, {**plain, **own}, item.place) for own in each]
        if not all(config is not None for config in configs):
            return None, None
        used = configs[0].get("seed") if configs[0] else None
        if isinstance(used, int) and not 0 <= used < 2**32:
            self.say(given["seed"][0] if "seed" in given else item.place, f"The seed {used} is out of range.")
            return None, None
        used = used if isinstance(used, int) and not isinstance(used, bool) else None
        every = tuple(config or {} for config in configs)
        return ToolChoice(item.name, item.kind, plain, layers or None, every, used), used

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

    def _members(self, item: Item, given: Given) -> list[str]:
        """Names of the items of a stack; none if something is wrong."""
        node = item.own["stack"]
        for option, (place, _) in given.items():
            self.say(place, f"A stack has no options of its own, so not '{option}'; give it to its members.")
        members = node.value if node.is_list else []
        names = [str(one.value) for one in members]
        if not names:
            self.say(node.place, "stack takes a list of names of other items.")
            return []
        known = list(dict.fromkeys(other.base for other in self.edits if "stack" not in other.own))
        for one in members:
            if one.value not in known:
                hint = near_to(str(one.value), known) or f"; there are {listed(known)}."
                self.say(one.place, f"There is no editor item '{one.value}' to stack{hint}")
                return []
        before = [other.base for other in self.edits[: self.edits.index(item)]]
        late = [one for one in members if one.value not in before]
        if late:
            self.say(late[0].place, f"'{late[0].value}' comes after the stack that it is in; put it before.")
            return []
        return names

    def _stacked(
        self, item: Item, given: Given, tools: dict[str, list[_Made]]
    ) -> Iterator[tuple[str, tuple[ToolChoice, ...], int | None, tuple[str, ...]]]:
        """Every choice of the members' variants, those with a seed at the same seed."""
        names = self._members(item, given)
        if not names or any(name not in tools for name in names):
            return  # skipped on this clip, so that the stack is, too
        for made in itertools.product(*(tools[name] for name in names)):
            seeds = {one.seed for one in made if one.seed is not None}
            if len(seeds) > 1:
                continue
            parts = [one.item.name.removeprefix(one.item.base) for one in made]
            name = (item.name + "".join(parts))[:80].strip(" .-")
            swept = tuple(dict.fromkeys(option for one in made for option in one.item.swept))
            yield name, tuple(one.tool for one in made), next(iter(seeds), None), swept

    def _metrics(self, *nodes: Node | None) -> MetricsOptions | None:
        """What the experiment, the clip and the item say of figures, the later over the earlier; None = none."""
        given: Given | None = {}
        for node in nodes:
            if node is None:
                continue
            if node.value in (False, None, "none"):
                given = None
            elif node.value in (True, "all"):
                given = {name: one for name, one in (given or {}).items() if name != "only"}
            elif node.is_mapping:
                given = {**(given or {}), **given_by(node)}
            elif node.is_list or isinstance(node.value, str):
                given = {**(given or {}), "only": (node.place, node)}
            else:
                self.say(node.place, f"metrics takes all, false, a list of figures, or a mapping; not {shown(node)}.")
        if given is None:
            return None
        if "only" in given:
            self._check_figures(given["only"][1])
        plain = self.typed(MetricsOptions, given, "metrics")
        if plain is None:
            return None
        found = MetricsOptions(**for_config(MetricsOptions, plain))
        if found.colour is not None:
            from canon.colour import named_colour

            try:
                named_colour(found.colour)
            except InputError as error:
                self.say(given["colour"][1].place, str(error))
        return found

    def _check_figures(self, node: Node) -> None:
        known = (*FIT_FIGURES, *EDIT_FIGURES)
        for pattern in self.patterns(node):
            if not any(fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(pattern, name) for name in known):
                near = near_to(pattern, [name for name in known if "*" not in name])
                self.say(node.place, f"There is no figure '{pattern}'{near or '; see docs/measures.md.'}")

    def _render(self, item: Item) -> RenderOptions | None:
        node = item.own.get("render") or self.top.get("render")
        if node is None or node.value is True:
            return RenderOptions()
        if node.value is False or node.value is None:
            return None
        found = self.simple(node, RenderOptions, "render")
        if found is not None and not 1 <= found.scale <= 8:
            self.say(node.place, f"The scale {found.scale} is out of range; choose 1 to 8.")
        return found


@dataclass(frozen=True)
class _Made:
    """A run of an editor that stacks can take up."""

    item: Item
    tool: ToolChoice
    seed: int | None


def _mebibytes(memory: int | str) -> int | None:
    if isinstance(memory, int):
        return memory if memory >= 0 else None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", memory, re.IGNORECASE)
    if match is None:
        return None
    power = "KMGT".find(match[2].upper()) + 1 if match[2] else 0
    return math.ceil(float(match[1]) * (1024 if match[3] else 1000) ** power / 2**20)


_Facts = tuple[int, tuple[int, int], bool]
"""Frames, (height, width), and whether there are cameras."""


def _sources(item: Item) -> tuple[str, ...]:
    path = item.own["path"]
    texts = [one.value for one in path.value] if path.is_list else [path.value]
    return tuple(str(path.place.folder / Path(text).expanduser()) for text in texts)


def _facts_of_sources(sources: Sequence[str], plain: Mapping[str, Any]) -> _Facts:
    from canon.clip import CLIP_FILE
    from canon.clip_world import CAMERAS_FILE
    from canon.sources import find_source, resized_size
    from canon.storage import image_size, read_yaml
    from canon.video import probe

    frames, first, cameras = 0, (0, 0), plain.get("cameras") is not None
    for path in sources:
        if (Path(path) / CLIP_FILE).is_file():
            refused = [name for name in ("masks", "max_frames", "size", "fps") if plain.get(name) is not None]
            if refused:
                raise InputError(f"'{path}' is a saved clip; {refused[0]} cannot be changed, load its video again.")
            record = read_yaml(Path(path) / CLIP_FILE)
            height, width = record.get("size") or (0, 0)
            cameras = cameras or (Path(path) / CAMERAS_FILE).is_file()
            frames, first = frames + int(record.get("frames") or 0), (int(height), int(width))
            continue
        source = find_source(path)
        cameras = cameras or bool(source.cameras)
        if source.video is not None:
            info = probe(source.video)
            count, size = info.frames or 100, info.size
        else:
            count, size = len(source.images), image_size(source.images[0])
        frames += min(count, plain.get("max_frames") or count)
        wanted = plain.get("size")
        first = resized_size(size, tuple(wanted) if isinstance(wanted, list) else wanted)
    return frames, first, cameras
