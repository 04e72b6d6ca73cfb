"""A draft: layers of paint on canvases and frames of a fit, as one browser tab paints them, with undo, kept on disk."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from canon.boxes import Box, around
from canon.carrying import Ways, crossings
from canon.edits import Edit, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.storage import encoded_image, read_image, write_bytes, write_json
from canon.viewer.carried import Carried
from canon.viewer.frame_paint import FramePainter
from canon.viewer.images import decoded_rgba, picture_size
from canon.viewer.live import Flat, LiveVideo, Made, Paint

log = logging.getLogger("canon")

DRAFT_FILE = "draft.json"
FORMAT, VERSION = "canon-draft", 1
KINDS = ("brush", "image", "text")
MOST_LAYERS = 64
_MOST_EXTRA = 20_000
_MOST_ASSET = 32 << 20
_UNDO_BYTES = 192 << 20
_UNDO_STEPS = 500
_SAVE_SOON, _SAVE_LATEST = 1.5, 8.0
"""Seconds without a change, and seconds at most, after which a changed draft is written."""


@dataclass(frozen=True)
class Target:
    """What is painted on: a canvas, or a frame.

    Attributes:
        layer: of the fit; of a frame, the one layer that the paint goes to, or None for all that it falls on.
        segment: of the layer's canvas.
        frame: number of the frame, None for a canvas.
    """

    layer: str | None = None
    segment: int = 0
    frame: int | None = None

    def box(self, fit: Fit) -> Box:
        """Where it lies in the layer's whole canvas; of a frame, all of it.

        Raises:
            InputError: the fit has no such layer, segment or frame.
        """
        if self.frame is None:
            if self.layer is None:
                raise InputError("Say what to paint on: a layer, or a frame.")
            return fit.segment_box(self.layer, self.segment)
        if not 0 <= self.frame < len(fit):
            raise InputError(f"There is no frame {self.frame}; the clip has frames 0 to {len(fit) - 1}.")
        if self.layer is not None:
            fit.layer(self.layer)
        return fit.whole


@dataclass(eq=False)
class DraftLayer:
    """A layer of paint.

    Attributes:
        id: number that stays its own.
        kind: "brush", "image" or "text".
        rgba: uint8 [h, w, 4], straight alpha, of the target's size.
        extra: what the browser keeps with it (place of a sticker, words and font of a text), plain primitives.
        asset: the file of a sticker, as it was given.
        changed: counts its changes.
    """

    id: int
    name: str
    kind: str
    target: Target
    rgba: np.ndarray = field(repr=False)
    place: Box
    opacity: float = 1.0
    visible: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    asset: bytes | None = field(default=None, repr=False)
    changed: int = 0

    @property
    def seen(self) -> bool:
        """Whether it counts."""
        return self.visible and self.opacity > 0

    def describe(self) -> dict[str, Any]:
        """For the browser and for the disk, plain primitives."""
        found = {key: getattr(self, key) for key in ("id", "name", "kind", "opacity", "visible", "extra", "changed")}
        target = {"layer": self.target.layer, "segment": self.target.segment, "frame": self.target.frame}
        return {**found, "target": target, "size": list(self.rgba.shape[:2]), "asset": self.asset is not None}


@dataclass(eq=False)
class _Patch:
    """Pixels of a part of a layer before and after."""

    layer: int
    x: int
    y: int
    before: bytes
    after: bytes


@dataclass(eq=False)
class _Entry:
    """What one undo takes back: patches in order, and the layers before and after, if they were changed otherwise."""

    label: str
    stroke: str | None
    patches: list[_Patch] = field(default_factory=list)
    before: list[DraftLayer] | None = None
    after: list[DraftLayer] | None = None

    @property
    def bytes(self) -> int:
        whole = sum(len(patch.before) + len(patch.after) for patch in self.patches)
        kept = {id(layer.rgba): layer.rgba.nbytes for layer in [*(self.before or []), *(self.after or [])]}
        # Layers that are removed are held by their entry alone.
        return whole + sum(kept.values()) // 8


@dataclass(eq=False)
class _Placed:
    """What a layer on a frame or on one of several segments is on the whole canvases.

    Attributes:
        key: which state of the layer that is.
        boxes: of the layer, that have changed since.
        sources: what was pulled back from a frame, before it was carried on, by layer of the fit.
        paints: what counts, by layer of the fit.
    """

    key: tuple[int, float] | None = None
    boxes: list[Box] = field(default_factory=list)
    sources: dict[str, Made] = field(default_factory=dict)
    paints: dict[str, Paint] = field(default_factory=dict)


class Draft:
    """The paint of one browser tab; its methods may be called from any thread.

    Attributes:
        id: unguessable.
        fit_name: of the fit that is painted on.
        edits: names of the saved edits that lie below the paint.
        revision: counts the changes.
        touched: when it was changed last, seconds since 1970.
    """

    def __init__(
        self,
        id: str,
        fit_name: str,
        fit: Fit,
        edits: Sequence[str] = (),
        folder: Path | None = None,
        ways: dict[str, Ways] | None = None,
    ) -> None:
        self.id, self.fit_name, self.fit, self.edits = id, fit_name, fit, list(edits)
        self.revision, self.touched = 0, time.time()
        self.layers: list[DraftLayer] = []
        self.holder: tuple[str, float] | None = None
        """The tab that paints on it, and when it was last heard of."""
        self.lock = threading.RLock()
        self._folder = folder
        self._undo: list[_Entry] = []
        self._redo: list[_Entry] = []
        self._next = 1
        self._painter = FramePainter(fit)
        self._made: dict[int, _Placed] = {}
        self._ways = {} if ways is None else ways
        self._lives: dict[int, dict[str, list[Box]]] = {}
        self._saved_revision = 0
        self._written: dict[int, int] = {}
        self._timer: threading.Timer | None = None
        self._dirty_since: float | None = None

    # --- what it is ---

    def state(self) -> dict[str, Any]:
        """All but the pixels, plain primitives."""
        with self.lock:
            return {
                "id": self.id,
                "fit": self.fit_name,
                "edits": list(self.edits),
                "revision": self.revision,
                "layers": [layer.describe() for layer in self.layers],
                "undo": self._undo[-1].label if self._undo else None,
                "redo": self._redo[-1].label if self._redo else None,
            }

    @property
    def empty(self) -> bool:
        """Whether nothing is painted."""
        with self.lock:
            return not any(layer.rgba[..., 3].any() for layer in self.layers)

    def layer(self, number: int) -> DraftLayer:
        """A layer by its number.

        Raises:
            InputError: there is none.
        """
        for layer in self.layers:
            if layer.id == number:
                return layer
        raise InputError(f"The draft has no layer {number}; it may have been deleted.")

    def edit(self) -> Edit:
        """What was painted, as an edit: a step for every visible layer and canvas that it falls on, in order."""
        with self.lock:
            steps = []
            for layer in self.layers:
                if not layer.seen:
                    continue
                for name, paint in self._paints_of(layer).items():
                    over = paint.whole(self.fit.layer(name).canvas_size)
                    if (over.rgba[..., 3] > 0).any():
                        steps.append(Step(name, over, self._provenance(layer)))
            return Edit(steps, self.fit.id)

    def _provenance(self, layer: DraftLayer) -> Provenance:
        options: dict[str, Any] = {"drawn": layer.name, "kind": layer.kind, "opacity": layer.opacity}
        if layer.target.frame is not None:
            options |= {"frame": layer.target.frame, "layer": layer.target.layer}
        else:
            options |= {"overlay": True, "layer": layer.target.layer, "segment": layer.target.segment}
        if layer.kind == "text" and "text" in layer.extra:
            options["text"] = layer.extra["text"]
        return Provenance.now("paint", options)

    # --- changing it ---

    def add_layer(
        self,
        target: Target,
        name: str = "",
        kind: str = "brush",
        at: int | None = None,
        stroke: str | None = None,
        **more: Any,
    ) -> DraftLayer:
        """A new layer, on top of the others or at a place among them.

        Args:
            stroke: changes of the same one are undone together.
            more: rgba, opacity, visible, extra, asset of :class:`DraftLayer`.

        Raises:
            InputError: no such target or kind, or too many layers.
        """
        with self.lock:
            box = target.box(self.fit)
            if kind not in KINDS:
                raise InputError(f"A layer of paint is one of {', '.join(KINDS)}, not '{kind}'.")
            if len(self.layers) >= MOST_LAYERS:
                raise InputError(f"A drawing has at most {MOST_LAYERS} layers; delete some, or save it first.")
            size = box[0].stop - box[0].start, box[1].stop - box[1].start
            rgba = more.pop("rgba", None)
            rgba = np.zeros((*size, 4), np.uint8) if rgba is None else np.ascontiguousarray(rgba)
            if rgba.shape != (*size, 4) or rgba.dtype != np.uint8:
                raise InputError(f"A layer there is {size[1]}x{size[0]}, not {rgba.shape[1]}x{rgba.shape[0]}.")
            layer = DraftLayer(self._next, _name(name or f"Layer {self._next}"), kind, target, rgba, box)
            _take(layer, more)
            self._next += 1
            layers = list(self.layers)
            layers.insert(len(layers) if at is None else max(min(at, len(layers)), 0), layer)
            self._set_layers(layers, "add layer", stroke, [layer])
            return layer

    def remove_layer(self, number: int) -> None:
        """Delete a layer.

        Raises:
            InputError: there is none of that number.
        """
        with self.lock:
            gone = self.layer(number)
            self._set_layers([layer for layer in self.layers if layer is not gone], "delete layer", None, [gone])

    def change_layer(self, number: int, changes: Mapping[str, Any], stroke: str | None = None) -> DraftLayer:
        """Another name, opacity, visibility, place in the order ("at"), extra or asset.

        Args:
            stroke: changes of the same one are undone together.

        Raises:
            InputError: no such layer, or a value that cannot be.
        """
        with self.lock:
            old, changes = self.layer(number), dict(changes)
            at = changes.pop("at", None)
            new = replace(old, changed=old.changed)
            _take(new, changes)
            layers = [new if layer is old else layer for layer in self.layers]
            if at is not None:
                layers.remove(new)
                layers.insert(max(min(_whole_number(at, "place"), len(layers)), 0), new)
            shown = at is not None or (old.opacity, old.visible) != (new.opacity, new.visible)
            self._set_layers(layers, "change layer", stroke, [old, new] if shown else [])
            return new

    def patch(
        self, number: int, x: int, y: int, pixels: np.ndarray, stroke: str | None = None, label: str = "paint"
    ) -> None:
        """Replace a part of a layer.

        Args:
            x, y: upper left corner.
            pixels: uint8 [h, w, 4]; what is transparent has no colour afterwards.

        Raises:
            InputError: no such layer, or the part is not inside of it.
        """
        with self.lock:
            layer = self.layer(number)
            height, width = pixels.shape[:2]
            whole = layer.rgba.shape
            if x < 0 or y < 0 or x + width > whole[1] or y + height > whole[0]:
                raise InputError(
                    f"The patch of {width}x{height} at {x}, {y} is not inside of the layer ({whole[1]}x{whole[0]})."
                )
            before = layer.rgba[y : y + height, x : x + width]
            pixels = np.where(pixels[..., 3:] > 0, pixels, np.uint8(0))
            if np.array_equal(before, pixels):
                return
            done = _Patch(number, x, y, _packed(before), _packed(pixels))
            self._apply(done, pixels)
            entry = self._entry(label, stroke)
            entry.patches.append(done)
            self._changed()

    def undo(self) -> list[dict[str, Any]]:
        """Take the last change back; returns what has changed: layer, x, y, width, height of pixels."""
        with self.lock:
            if not self._undo:
                return []
            entry = self._undo.pop()
            self._redo.append(entry)
            for patch in reversed(entry.patches):
                if any(layer.id == patch.layer for layer in self.layers):
                    self._apply(patch, _unpacked(patch.before))
            if entry.before is not None:
                self._restore(entry.before)
            self._changed()
            return _places(entry)

    def redo(self) -> list[dict[str, Any]]:
        """Do again what was taken back; see :meth:`undo`."""
        with self.lock:
            if not self._redo:
                return []
            entry = self._redo.pop()
            self._undo.append(entry)
            if entry.after is not None:
                self._restore(entry.after)
            for patch in entry.patches:
                if any(layer.id == patch.layer for layer in self.layers):
                    self._apply(patch, _unpacked(patch.after))
            self._changed()
            return _places(entry)

    def forget_history(self) -> None:
        """Let nothing be there to undo."""
        with self.lock:
            self._undo.clear()
            self._redo.clear()

    def stack(self, edits: Sequence[str]) -> None:
        """Let other saved edits lie below."""
        with self.lock:
            self.edits = list(edits)
            self._changed()

    def _apply(self, patch: _Patch, pixels: np.ndarray) -> None:
        layer = self.layer(patch.layer)
        height, width = pixels.shape[:2]
        layer.rgba[patch.y : patch.y + height, patch.x : patch.x + width] = pixels
        layer.changed += 1
        self._mark(layer, (slice(patch.y, patch.y + height), slice(patch.x, patch.x + width)))

    def _set_layers(
        self, layers: list[DraftLayer], label: str, stroke: str | None, shown: Sequence[DraftLayer]
    ) -> None:
        entry = self._entry(label, stroke)
        if entry.before is None:
            entry.before = [replace(layer) for layer in self.layers]
        entry.after = [replace(layer) for layer in layers]
        self.layers = layers
        for layer in shown:
            self._mark(layer, None)
        self._changed()

    def _restore(self, layers: Sequence[DraftLayer]) -> None:
        for layer in self.layers:
            self._mark(layer, None)
        now = {layer.id: layer for layer in self.layers}
        # The pixels are shared by all copies of a layer; how often they changed must not be taken back.
        self.layers = [
            replace(layer, changed=max(layer.changed, now[layer.id].changed if layer.id in now else 0) + 1)
            for layer in layers
        ]
        for layer in self.layers:
            self._mark(layer, None)

    def _entry(self, label: str, stroke: str | None) -> _Entry:
        """The entry that a change belongs to: that of its stroke, or a new one."""
        self._redo.clear()
        last = self._undo[-1] if self._undo else None
        if last is not None and stroke is not None and last.stroke == stroke:
            return last
        self._undo.append(_Entry(label, stroke))
        total = sum(entry.bytes for entry in self._undo)
        while len(self._undo) > 2 and (total > _UNDO_BYTES or len(self._undo) > _UNDO_STEPS):
            total -= self._undo.pop(0).bytes
        return self._undo[-1]

    # --- what the preview shows ---

    def _paints_of(self, layer: DraftLayer) -> dict[str, Paint]:
        """A layer's paint by the layer of the fit that it lies on; live videos are told what of it has changed."""
        target = layer.target
        if target.frame is None and len(self.fit.segments(target.layer or "")) == 1:
            assert target.layer is not None
            return {target.layer: Flat(layer.rgba, layer.place, layer.opacity)}
        key = (layer.changed, layer.opacity)
        known = self._made.get(layer.id)
        if known is None or known.key != key:
            known = known or _Placed()
            self._made[layer.id] = known
            for name, boxes in self._place(layer, known).items():
                for dirty in self._lives.values():
                    dirty.setdefault(name, []).extend(boxes)
            known.key = key
            known.boxes.clear()
        return dict(known.paints)

    def _place(self, layer: DraftLayer, known: _Placed) -> dict[str, list[Box]]:
        """Pull a layer back from its frame, or carry it on to other segments; the boxes that it changes."""
        target = layer.target
        if target.frame is None:
            assert target.layer is not None
            flat = Flat(layer.rgba, layer.place, layer.opacity)
            boxes = [_moved(box, layer.place) for box in known.boxes]
            if known.key is None or known.key[1] != layer.opacity:
                boxes = [layer.place]
            return {target.layer: self._carried(known, target.layer, target.segment, flat, boxes)}
        made = self._painter.pull_back(target.frame, layer.rgba, layer.opacity, target.layer)
        found: dict[str, list[Box]] = {}
        for name in dict.fromkeys([*made, *known.sources]):
            now, before = made.get(name), known.sources.get(name)
            boxes = [each.box for each in (before, now) if each is not None]
            share = self.fit.layer(name).shares.get(target.frame)
            if share is not None:
                found[name] = self._carried(known, name, share.own, now, boxes)
            else:
                found[name] = boxes
                known.paints.pop(name, None)
                if now is not None:
                    known.paints[name] = now
        known.sources = made
        return found

    def _carried(self, known: _Placed, name: str, segment: int, paint: Paint | None, boxes: list[Box]) -> list[Box]:
        carried = known.paints.get(name)
        if not isinstance(carried, Carried):
            ways = crossings(self.fit, name, segment, 1, self._ways.setdefault(name, {}))
            carried = known.paints[name] = Carried(self.fit.layer(name).canvas_size, ways)
        return carried.update(paint, boxes)

    def _mark(self, layer: DraftLayer, box: Box | None) -> None:
        """Note what a change of a part of a layer (None = all) changes of the canvases."""
        if layer.target.frame is None and len(self.fit.segments(layer.target.layer or "")) == 1:
            assert layer.target.layer is not None
            if box is None:
                box = nonzero_box(np.ascontiguousarray(layer.rgba[..., 3]))
            if box is not None:
                for dirty in self._lives.values():
                    dirty.setdefault(layer.target.layer, []).append(_moved(box, layer.place))
            return
        known = self._made.get(layer.id)
        if known is None:
            return
        if box is not None:
            known.boxes.append(box)
            return
        # Shown or hidden, or in another order: its pixels are as they were.
        for name, paint in known.paints.items():
            seen = paint.painted if isinstance(paint, Carried) else paint.box if isinstance(paint, Made) else None
            if seen is not None:
                for dirty in self._lives.values():
                    dirty.setdefault(name, []).append(seen)

    def watch(self, live: LiveVideo) -> None:
        """Keep a live video up to date from now on; see :meth:`refresh`."""
        with self.lock:
            self._lives[id(live)] = {}
            for layer in self.layers:
                self._mark(layer, None)

    def unwatch(self, live: LiveVideo) -> None:
        """End :meth:`watch`."""
        with self.lock:
            self._lives.pop(id(live), None)

    def refresh(self, live: LiveVideo) -> None:
        """Let a watched live video show the draft as it is; hold :attr:`lock` until its frame is made."""
        with self.lock:
            paints: dict[str, list[Paint]] = {}
            for layer in self.layers:
                if layer.seen:
                    for name, paint in self._paints_of(layer).items():
                        paints.setdefault(name, []).append(paint)
            dirty = self._lives[id(live)]
            for name, boxes in dirty.items():
                live.change(name, boxes, paints.get(name, []))
            dirty.clear()

    # --- keeping it ---

    def _changed(self) -> None:
        self.revision += 1
        self.touched = time.time()
        if self._folder is None:
            return
        now = time.monotonic()
        self._dirty_since = now if self._dirty_since is None else self._dirty_since
        if self._timer is not None:
            self._timer.cancel()
        wait = min(_SAVE_SOON, max(self._dirty_since + _SAVE_LATEST - now, 0.0))
        self._timer = threading.Timer(wait, self._autosave)
        self._timer.start()

    def _autosave(self) -> None:
        try:
            self.write()
        except InputError as error:
            log.warning("%s", error)

    def write(self) -> None:
        """Write what has changed since the last time to the draft's folder.

        Raises:
            InputError: it cannot be written.
        """
        if self._folder is None:
            return
        with self.lock:
            if self.revision == self._saved_revision:
                return
            revision, state, folder = self.revision, self.state(), self._folder
            self._dirty_since = None
            layers = [(layer.id, layer.changed, layer.rgba, layer.asset) for layer in self.layers]
            cuts = {}
            for number, changed, rgba, _ in layers:
                if self._written.get(number) != changed:
                    box = nonzero_box(np.ascontiguousarray(rgba[..., 3]))
                    cuts[number] = None if box is None else (box, rgba[box].copy())
        for entry, (number, changed, _, asset) in zip(state["layers"], layers, strict=True):
            entry["file"] = f"layer-{number}-{changed}.png"
            if number in cuts:
                cut = cuts[number]
                if cut is not None:
                    write_bytes(folder / entry["file"], encoded_image(cut[1], ".png", 1))
                write_json(folder / f"layer-{number}-{changed}.json", None if cut is None else _corner(cut[0]))
            if asset is not None and not (folder / f"asset-{number}").exists():
                write_bytes(folder / f"asset-{number}", asset)
        record = {"format": FORMAT, "version": VERSION, "fit_id": self.fit.id, "saved": time.time(), **state}
        write_json(folder / DRAFT_FILE, record)
        self._written = {number: changed for number, changed, _, _ in layers}
        self._saved_revision = revision
        wanted = {f"layer-{number}-{changed}" for number, changed, _, _ in layers}
        for path in folder.glob("layer-*"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop the timer and write what is not written yet; a draft without paint leaves nothing behind."""
        with self.lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self._folder is not None and self.empty:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        self._autosave()

    def discard(self) -> None:
        """Throw it away, on disk, too."""
        with self.lock:
            if self._timer is not None:
                self._timer.cancel()
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """A mapping that was written as JSON.

    Raises:
        InputError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is missing or damaged.") from error
    if not isinstance(value, dict):
        raise InputError(f"'{path}' is damaged.")
    return value


def read_draft(
    folder: Path,
    fit_of: Callable[[str], Fit],
    edits: Callable[[], Sequence[str]],
    ways_of: Callable[[str], dict[str, Ways]] = lambda name: {},
) -> Draft:
    """The draft that :meth:`Draft.write` wrote.

    Args:
        fit_of: gives a fit by name.
        edits: gives the names of the edits that are there; others are left out of the stack below.
        ways_of: gives what is known of the ways between the segments of each layer, by the fit's name.

    Raises:
        InputError: missing, damaged, or of a fit that is gone or was made again.
    """
    record = read_json(folder / DRAFT_FILE)
    try:
        if record["format"] != FORMAT or record["version"] != VERSION:
            raise InputError(f"'{folder}' is not a drawing that this canon reads.")
        fit = fit_of(str(record["fit"]))
        if fit.id != record["fit_id"]:
            raise InputError(f"The fit '{record['fit']}' was made again; the drawing lies elsewhere on it now.")
        there = set(edits())
        below = [name for name in record["edits"] if name in there]
        draft = Draft(folder.name, str(record["fit"]), fit, below, folder, ways_of(str(record["fit"])))
        for entry in record["layers"]:
            layer = _read_layer(entry, folder, fit)
            draft.layers.append(layer)
            draft._next = max(draft._next, layer.id + 1)
        draft.revision = draft._saved_revision = int(record["revision"])
        draft._written = {layer.id: layer.changed for layer in draft.layers}
        draft.touched = float(record["saved"])
        return draft
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The drawing in '{folder}' is damaged ({error!r}); it cannot be opened.") from error


def _read_layer(entry: Mapping[str, Any], folder: Path, fit: Fit) -> DraftLayer:
    target = Target(entry["target"]["layer"], int(entry["target"]["segment"]), entry["target"]["frame"])
    box, number, file = target.box(fit), int(entry["id"]), str(entry["file"])
    if not re.fullmatch(r"layer-\d+-\d+\.png", file):
        raise ValueError(f"a file called {file!r}")
    rgba = np.zeros((box[0].stop - box[0].start, box[1].stop - box[1].start, 4), np.uint8)
    corner = json.loads((folder / file).with_suffix(".json").read_text())
    if corner is not None:
        x, y = (int(value) for value in corner)
        pixels = read_image(folder / file)
        if pixels.dtype != np.uint8 or pixels.shape[2] != 4:
            raise ValueError("a layer that is no RGBA image of 8 bits")
        rgba[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    layer = DraftLayer(number, _name(str(entry["name"])), str(entry["kind"]), target, rgba, box)
    asset = folder / f"asset-{number}"
    if entry["asset"] and asset.is_file():
        layer.asset = asset.read_bytes()
    _take(layer, {key: entry[key] for key in ("opacity", "visible", "extra")})
    layer.changed = int(entry["changed"])
    return layer


def _take(layer: DraftLayer, changes: Mapping[str, Any]) -> None:
    """Set what may be set of a layer from outside, checked.

    Raises:
        InputError: an unknown name, or a value that cannot be.
    """
    for key, value in changes.items():
        if key == "name":
            layer.name = _name(str(value))
        elif key == "opacity":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"The opacity of a layer is 0 to 1, not {value!r}.")
            layer.opacity = float(value)
        elif key == "visible":
            layer.visible = bool(value)
        elif key == "extra":
            if not isinstance(value, dict) or len(json.dumps(value)) > _MOST_EXTRA:
                raise InputError("What is kept with a layer is too large.")
            layer.extra = value
        elif key == "asset":
            if value is not None and len(value) > _MOST_ASSET:
                raise InputError(f"The picture has more than {_MOST_ASSET >> 20} MiB; make it smaller.")
            layer.asset = value
        else:
            raise InputError(f"A layer has no '{key}' to change.")


def _name(name: str) -> str:
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in name).split())[:80]
    return cleaned or "Layer"


def _whole_number(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"The {what} must be a whole number, not {value!r}.")
    return int(value)


def _corner(box: Box) -> list[int]:
    return [box[1].start, box[0].start]


def _moved(box: Box, place: Box) -> Box:
    """A box of a layer in the whole canvas that it lies on."""
    rows, columns = (slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, place, strict=True))
    return rows, columns


def _packed(pixels: np.ndarray) -> bytes:
    """PNG, quickly; of nothing but transparency, a few bytes."""
    return encoded_image(np.ascontiguousarray(pixels), ".png", 1)


def _unpacked(data: bytes) -> np.ndarray:
    return decoded_rgba(data)


def _places(entry: _Entry) -> list[dict[str, Any]]:
    """What an entry changes of the pixels, one box for each layer."""
    boxes: dict[int, Box] = {}
    for patch in entry.patches:
        height, width = picture_size(patch.before)
        box = slice(patch.y, patch.y + height), slice(patch.x, patch.x + width)
        boxes[patch.layer] = around([boxes[patch.layer], box]) if patch.layer in boxes else box
    return [
        {
            "layer": number,
            "x": box[1].start,
            "y": box[0].start,
            "width": box[1].stop - box[1].start,
            "height": box[0].stop - box[0].start,
        }
        for number, box in boxes.items()
    ]
