"""A draft: layers of paint on canvases and frames of a fit, as one browser tab paints them, with undo, kept on disk."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from canon.boxes import Box, box_size
from canon.carrying import Ways
from canon.edits import Edit, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.viewer.draft_folder import Autosave, DraftFolder
from canon.viewer.draft_layers import KINDS, DraftLayer, Target, cleaned_name, whole_number
from canon.viewer.live import LiveVideo
from canon.viewer.placed_paint import PlacedPaint
from canon.viewer.undoing import Patch, Undoing, packed, unpacked

log = logging.getLogger("canon")

MOST_LAYERS = 64


class Draft:
    """The paint of one browser tab; its methods may be called from any thread.

    Attributes:
        id: unguessable.
        fit_name: of the fit that is painted on.
        edits: names of the saved edits that lie below the paint.
        revision: counts the changes.
        touched: when it was changed last, seconds since 1970.
        saved_as: name of the edit that it was saved as last, "" for none.
        saved_revision: the revision that was saved then.
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
        self.saved_as, self.saved_revision = "", -1
        self.layers: list[DraftLayer] = []
        self.holder: tuple[str, float] | None = None
        """The tab that paints on it, and when it was last heard of."""
        self.lock = threading.RLock()
        self._next = 1
        self._undoing = Undoing()
        self._placed = PlacedPaint(fit, {} if ways is None else ways)
        self._folder = None if folder is None else DraftFolder(folder)
        self._autosave = Autosave(self._write_or_warn)
        self._written_revision = 0
        self._writing = threading.RLock()

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
                "saved_as": self.saved_as,
                "saved_revision": self.saved_revision,
                **self._undoing.labels,
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
                for name, paint in self._placed.of(layer).items():
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
            size = box_size(box)
            rgba = more.pop("rgba", None)
            rgba = np.zeros((*size, 4), np.uint8) if rgba is None else np.ascontiguousarray(rgba)
            if rgba.shape != (*size, 4) or rgba.dtype != np.uint8:
                raise InputError(f"A layer there is {size[1]}x{size[0]}, not {rgba.shape[1]}x{rgba.shape[0]}.")
            layer = DraftLayer(self._next, cleaned_name(name or f"Layer {self._next}"), kind, target, rgba, box)
            layer.take(more)
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
            new.take(changes)
            layers = [new if layer is old else layer for layer in self.layers]
            if at is not None:
                layers.remove(new)
                layers.insert(max(min(whole_number(at, "place"), len(layers)), 0), new)
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
            done = Patch(number, x, y, packed(before), packed(pixels))
            self._apply(done, pixels)
            self._undoing.entry(label, stroke).patches.append(done)
            self._changed()

    def undo(self) -> list[dict[str, Any]]:
        """Take the last change back; returns what has changed: layer, x, y, width, height of pixels."""
        with self.lock:
            entry = self._undoing.back()
            if entry is None:
                return []
            for patch in reversed(entry.patches):
                self._apply_known(patch, patch.before)
            if entry.before is not None:
                self._restore(entry.before)
            self._changed()
            return entry.places()

    def redo(self) -> list[dict[str, Any]]:
        """Do again what was taken back; see :meth:`undo`."""
        with self.lock:
            entry = self._undoing.again()
            if entry is None:
                return []
            if entry.after is not None:
                self._restore(entry.after)
            for patch in entry.patches:
                self._apply_known(patch, patch.after)
            self._changed()
            return entry.places()

    def forget_history(self) -> None:
        """Let nothing be there to undo."""
        with self.lock:
            self._undoing.clear()

    def stack(self, edits: Sequence[str]) -> None:
        """Let other saved edits lie below."""
        with self.lock:
            kept = self.saved_revision == self.revision
            self.edits = list(edits)
            self._changed()
            if kept:  # the paint is still what was saved
                self.saved_revision = self.revision

    def _apply(self, patch: Patch, pixels: np.ndarray) -> None:
        layer = self.layer(patch.layer)
        height, width = pixels.shape[:2]
        box: Box = slice(patch.y, patch.y + height), slice(patch.x, patch.x + width)
        layer.rgba[box] = pixels
        layer.changed += 1
        self._placed.mark(layer, box)

    def _apply_known(self, patch: Patch, pixels: bytes) -> None:
        """Apply what was kept of a layer, unless that is not there at this moment."""
        if any(layer.id == patch.layer for layer in self.layers):
            self._apply(patch, unpacked(pixels))

    def _set_layers(
        self, layers: list[DraftLayer], label: str, stroke: str | None, shown: Sequence[DraftLayer]
    ) -> None:
        entry = self._undoing.entry(label, stroke)
        if entry.before is None:
            entry.before = [replace(layer) for layer in self.layers]
        entry.after = [replace(layer) for layer in layers]
        self.layers = layers
        for layer in shown:
            self._placed.mark(layer, None)
        self._changed()

    def _restore(self, layers: Sequence[DraftLayer]) -> None:
        for layer in self.layers:
            self._placed.mark(layer, None)
        now = {layer.id: layer for layer in self.layers}
        # The pixels are shared by all copies of a layer; how often they changed must not be taken back.
        self.layers = [
            replace(layer, changed=max(layer.changed, now[layer.id].changed if layer.id in now else 0) + 1)
            for layer in layers
        ]
        for layer in self.layers:
            self._placed.mark(layer, None)

    # --- what the preview shows ---

    def watch(self, live: LiveVideo) -> None:
        """Keep a live video up to date from now on; see :meth:`refresh`."""
        with self.lock:
            self._placed.watch(live, self.layers)

    def unwatch(self, live: LiveVideo) -> None:
        """End :meth:`watch`."""
        with self.lock:
            self._placed.unwatch(live)

    def refresh(self, live: LiveVideo) -> None:
        """Let a watched live video show the draft as it is; hold :attr:`lock` until its frame is made."""
        with self.lock:
            self._placed.refresh(live, self.layers)

    # --- keeping it ---

    def _changed(self) -> None:
        self.revision += 1
        self.touched = time.time()
        if self._folder is not None:
            self._autosave.changed()

    def _write_or_warn(self) -> None:
        try:
            self.write()
        except InputError as error:
            log.warning("%s", error)

    def write(self) -> None:
        """Write what has changed since the last time to the draft's folder.

        Raises:
            InputError: it cannot be written.
        """
        with self._writing:
            with self.lock:
                folder, revision = self._folder, self.revision
                if folder is None or revision == self._written_revision:
                    return
                state, cuts = self.state(), folder.cut(self.layers)
            folder.write(state, self.fit, cuts)
            self._written_revision = revision

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[Path | None]:
        """Let it stay as it is meanwhile, in memory and on disk; yields its folder, None if it has none.

        Raises:
            InputError: it cannot be written.
        """
        with self._writing, self.lock:
            self.write()
            yield None if self._folder is None else self._folder.path

    def mark_saved(self, name: str) -> None:
        """It is, as it is now, the edit of a name.

        Raises:
            InputError: it cannot be written.
        """
        with self._writing, self.lock:
            self.saved_as, self.saved_revision = name, self.revision
            if self._folder is not None:
                self._written_revision = -1
                self.write()

    def close(self) -> None:
        """Stop the timer and write what is not written yet; a draft without paint leaves nothing behind."""
        with self.lock:
            self._autosave.stop()
        if self._folder is not None and self.empty:
            shutil.rmtree(self._folder.path, ignore_errors=True)
            return
        self._write_or_warn()

    def discard(self) -> None:
        """Throw it away, on disk, too."""
        with self.lock:
            self._autosave.stop()
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder.path, ignore_errors=True)


def read_draft(
    path: Path,
    fit_of: Callable[[str], Fit],
    edits: Callable[[], Sequence[str]],
    ways_of: Callable[[str], dict[str, Ways]] = lambda name: {},
) -> Draft:
    """The draft that :meth:`Draft.write` wrote.

    Args:
        path: its folder.
        fit_of: gives a fit by name.
        edits: gives the names of the edits that are there; others are left out of the stack below.
        ways_of: gives what is known of the ways between the segments of each layer, by the fit's name.

    Raises:
        InputError: missing, damaged, or of a fit that is gone or was made again.
    """
    folder = DraftFolder(path)
    record, there = folder.read(fit_of), set(edits())
    below = [name for name in record.edits if name in there]
    draft = Draft(path.name, record.fit_name, record.fit, below, path, ways_of(record.fit_name))
    draft._folder, draft.layers = folder, record.layers
    draft._next = max((layer.id for layer in record.layers), default=0) + 1
    draft.revision = draft._written_revision = record.revision
    draft.touched = record.saved
    draft.saved_as, draft.saved_revision = record.saved_as, record.saved_revision
    return draft
