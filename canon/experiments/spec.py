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

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from canon import registry, trackers
from canon.errors import InputError
from canon.experiments.checking import Given, counted, shown
from canon.experiments.choices import (
    MOST_TASKS,
    Cell,
    ClipChoice,
    ClipOptions,
    Experiment,
    FitChoice,
    ResourceOptions,
)
from canon.experiments.clip_facts import Facts, facts_of
from canon.experiments.contracts import KINDS, Resources
from canon.experiments.edit_items import EditReader, Made
from canon.experiments.items import OWN, SAFE_NAME, Item, allows
from canon.experiments.nodes import Node
from canon.experiments.options import hints
from canon.experiments.outputs import read_metrics, read_render
from canon.experiments.places import Problems

TOP = (
    "name", "out", "description", "include", "templates", "clips", "representations", "editors", "seeds", "sweep",
    "overrides", "metrics", "render", "resources", "device", "log", "max_tasks",
)  # fmt: skip
_DEVICE = r"(cpu|cuda|mps)(:\d+)?"


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


class _Resolver(EditReader):
    """Goes through the sections, collecting problems."""

    def __init__(self, node: Node, problems: Problems) -> None:
        super().__init__(node, problems)
        self._facts_of: dict[Any, Facts | None] = {}

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
        self.say_refusals()
        if not cells and not len(self.problems):
            self.say(self.node.place, "Nothing is left to do: every pair of clip and representation is skipped.")
        log = self._log()
        return Experiment(
            name, out, cells, self._resources(), log, self._text("description") or "", limit, self.node.plain,
            self.node.key("out"),
        )  # fmt: skip

    def _text(self, key: str) -> str | None:
        node = self.top.get(key)
        if node is None or node.value is None or node.refused:
            return None
        if not isinstance(node.value, str):
            self.say(node.place, f"{key} takes a text; put it in quotes.")
            return None
        return node.value

    def _whole(self, key: str, default: int, least: int) -> int:
        node = self.top.get(key)
        if node is None or node.refused:
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
            trackers.check(str(node.plain))
        except InputError as error:
            self.say(node.place, str(error))
        return str(node.plain)

    def _check_device(self, node: Node | None) -> None:
        if node is not None and isinstance(node.value, str) and not re.fullmatch(_DEVICE, node.value):
            self.say(node.place, f"There is no device {shown(node)}; choose cpu, cuda, cuda:1 (and so on) or mps.")

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
        read_metrics(self, self.top.get("metrics"))
        self._text("device")
        self._check_device(self.top.get("device"))
        if self.top.get("seeds") is not None:
            self.read_seeds(self.top["seeds"])
        for item in self.clips:
            self.typed(ClipOptions, item.given, "A clip", OWN["clips"])
            self._clip(item)
            read_metrics(self, self.top.get("metrics"), item.own.get("metrics"))
        for item in (*self.fits, *self.edits):
            self.where(item.own.get("where"))
        for item in self.fits:
            self._fit_options(item, item.given)
        for item in self.edits:
            read_metrics(self, self.top.get("metrics"), item.own.get("metrics"))
            read_render(self, item.own.get("render") or self.top.get("render"))
            if "stack" in item.own:
                self.members_of(item, item.given)
            else:
                seeds = self.seeds_of(item)
                # What is missing in an item may come from overrides.
                changed = any(one.target == "editor" and one.names(editor=item) for one in self.overrides)
                self.tool_of(item, item.given, seeds[0] if seeds else None, whole=not changed)

    def _count(self, limit: int) -> bool:
        """Whether there are not too many."""
        edits = sum(len(self.seeds_of(item) or (0,)) for item in self.edits)
        count = len(self.clips) * (1 + 2 * len(self.fits) + 3 * len(self.fits) * edits)
        if count > limit:
            asked = (
                f"{counted(len(self.clips), 'clip')} x {counted(len(self.fits), 'representation')} x "
                f"{counted(edits, 'edit')}"
            )
            self.say(
                self.node.place,
                f"The experiment has up to {count} tasks ({asked}), and max_tasks is {limit}; ask for less, or raise "
                "max_tasks.",
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
                metrics = read_metrics(self, self.top.get("metrics"), clip.metrics)
                yield Cell(clip, fit, None, metrics)
                tools: dict[str, list[Made]] = {}
                for item in self.edits:
                    if allows(wheres[id(item)], clip=clip_item, representation=fit_item):
                        items = {"clip": clip_item, "representation": fit_item, "editor": item}
                        for edit in self.edits_of(item, items, clip, tools):
                            yield Cell(clip, fit, edit)

    def _clip(self, item: Item) -> ClipChoice | None:
        given = self.changed("clip", item.given, clip=item)
        if given is None:
            return None
        plain = self.typed(ClipOptions, given, "A clip", OWN["clips"])
        if not self._fine_numbers(given) or plain is None:
            return None
        sources = _sources(item)
        facts = self._facts(item, sources, plain)
        if facts is None:
            return None
        frames, size, cameras = facts
        metrics = item.own.get("metrics")
        return ClipChoice(item.name, sources, plain, frames, size, cameras, item.place, item.swept, metrics)

    def _fine_numbers(self, given: Given) -> bool:
        """Whether numbers of frames are possible, whatever the other options are."""
        fine = True
        for name, least, wanted in (("max_frames", 1.0, "at least 1"), ("fps", 1e-6, "more than 0")):
            value = given[name][1].value if name in given else None
            if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
                self.say(given[name][0], f"{name} is {value}; give {wanted}.")
                fine = False
        return fine

    def _facts(self, item: Item, sources: tuple[str, ...], plain: Mapping[str, Any]) -> Facts | None:
        """Frames, size, and whether there are cameras; None if it cannot be read."""
        asked = (sources, plain.get("max_frames"), str(plain.get("size")), plain.get("cameras") is not None)
        if asked not in self._facts_of:
            place = item.own["path"].place
            try:
                self._facts_of[asked] = facts_of(sources, plain)
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
        self._check_device(given["device"][1] if "device" in given and "device" in extra else None)
        called = f"The item '{item.base}' ({item.kind})"
        if not self.complete(kind.Config, list(given), called, item.place) or plain is None:
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


def _mebibytes(memory: int | str) -> int | None:
    if isinstance(memory, int):
        return memory if memory >= 0 else None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", memory, re.IGNORECASE)
    if match is None:
        return None
    power = "KMGT".find(match[2].upper()) + 1 if match[2] else 0
    return math.ceil(float(match[1]) * (1024 if match[3] else 1000) ** power / 2**20)


def _sources(item: Item) -> tuple[str, ...]:
    path = item.own["path"]
    texts = [one.value for one in path.value] if path.is_list else [path.value]
    return tuple(os.path.normpath(path.place.folder / Path(text).expanduser()) for text in texts)
