"""The one place that holds what a viewer shows: fits, edits, previews and drafts of a project, loaded once and kept.

All methods may be called from any thread.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canon.carrying import Ways, crossings
from canon.compose import LayerEdit
from canon.edits import Edit
from canon.errors import InputError
from canon.project import WORK, Project
from canon.storage import inside
from canon.viewer.draft_folder import DRAFT_FILE, DraftFolder, read_json
from canon.viewer.draft_layers import DraftLayer
from canon.viewer.drafts import Draft, read_draft
from canon.viewer.live import LiveVideo
from canon.viewer.loaded import FITS, Kept, LoadedProject
from canon.viewer.saved_edits import SavedEdits

_LIVE = 4
_DRAFTS_KEPT = 14 * 86400.0
"""Seconds after which a draft that nobody opened again is thrown away."""
_HOLD = 15.0
"""Seconds without a sign of life after which another tab may take a draft over."""
_IDLE = 1800.0
"""Seconds without a sign of life after which a draft is no longer kept in memory."""


class Studio(LoadedProject, SavedEdits):
    """What a viewer of a project works with."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self._ways: Kept[dict[str, Ways]] = Kept(FITS)
        self._drafts: dict[str, Draft] = {}
        self._lives: OrderedDict[tuple[str, Hashable], LiveVideo] = OrderedDict()
        self._lock = threading.RLock()
        self._closed = False
        self.expire_drafts()

    def close(self) -> None:
        """Write what is not written yet, and end what is under way."""
        self._closed = True
        with self._lock:
            drafts = list(self._drafts.values())
        for draft in drafts:
            draft.close()

    # --- pictures ---

    def preview(self, fit: str, t: int, edits: Sequence[str] = (), draft: str | None = None) -> np.ndarray:
        """Frame ``t`` with a stack of saved edits and, on top, what is being painted, uint8 [H, W, 3].

        Raises:
            InputError: unknown names, no such frame, or a draft on another fit.
        """
        self.check_frame(fit, t)
        if draft is None:
            return self.video(fit, edits)[t]
        own = self.draft(draft)
        if own.fit_name != fit:
            raise InputError(f"The drawing is on the fit '{own.fit_name}', not on '{fit}'.")
        with own.lock:
            live = self._live(own, edits)
            own.refresh(live)
            return live[t]

    def composed(self, fit: str, edits: Sequence[str], draft: str | None = None) -> dict[str, LayerEdit]:
        """What a stack of edits and a draft do to the canvases, by layer."""
        if draft is None:
            return dict(self.video(fit, edits)._layers)
        own = self.draft(draft)
        with own.lock:
            live = self._live(own, edits)
            own.refresh(live)
            return dict(live.composed)

    def _live(self, draft: Draft, edits: Sequence[str]) -> LiveVideo:
        key = (draft.id, self.stack_key(draft.fit_name, edits))
        with self._lock:
            if key in self._lives:
                self._lives.move_to_end(key)
                return self._lives[key]
        live = LiveVideo(self.fit(draft.fit_name), [self.edit(name) for name in edits])
        draft.watch(live)
        gone = []
        with self._lock:
            self._lives[key] = live
            while len(self._lives) > _LIVE:
                (other, _), old = self._lives.popitem(last=False)
                gone.append((self._drafts.get(other), old))
        for owner, old in gone:
            if owner is not None:
                owner.unwatch(old)
        return live

    # --- drafts ---

    @property
    def drafts_folder(self) -> Path:
        """Where drafts lie."""
        return self.project.folder / WORK / "drafts"

    def new_draft(self, fit: str | None = None, edits: Sequence[str] = ()) -> Draft:
        """An empty draft on a fit, above saved edits.

        Raises:
            InputError: unknown names.
        """
        name = self.project.fit_name(fit)
        for edit in edits:
            self.edit_version(edit)
        self._rest()
        id = secrets.token_hex(16)
        draft = Draft(id, name, self.fit(name), edits, self.drafts_folder / id, self._ways_of(name))
        with self._lock:
            self._drafts[id] = draft
        return draft

    def _rest(self) -> None:
        """Keep drafts that no tab has been heard of for long on disk only."""
        now = time.monotonic()
        with self._lock:
            idle = [d for d in self._drafts.values() if d.holder is not None and now - d.holder[1] > _IDLE]
            for draft in idle:
                self._drafts.pop(draft.id)
                for key in [key for key in self._lives if key[0] == draft.id]:
                    self._lives.pop(key)
        for draft in idle:
            draft.close()

    def _ways_of(self, fit: str) -> dict[str, Ways]:
        """The ways between the segments of each layer, which are looked for from now on where there are several."""

        def prepare() -> dict[str, Ways]:
            data = self.fit(fit)
            ways: dict[str, Ways] = {name: {} for name in data.layers}

            def look() -> None:
                for name in data.layers:
                    for segment in range(len(data.segments(name))):
                        if not self._closed:
                            crossings(data, name, segment, 1, ways[name])

            if any(len(data.segments(name)) > 1 for name in data.layers):
                threading.Thread(target=look, name="ways between segments").start()
            return ways

        return self._ways.get((fit, self.fit_version(fit)), prepare)

    def draft(self, id: str) -> Draft:
        """A draft by its id, from memory or from disk.

        Raises:
            InputError: there is none, or its fit is another now.
        """
        with self._lock:
            if id in self._drafts:
                return self._drafts[id]
            if not _is_id(id) or not (self.drafts_folder / id / DRAFT_FILE).is_file():
                raise InputError("There is no such drawing; it may have expired.")
            draft = read_draft(inside(self.drafts_folder, id), self.fit, lambda: self.project.edits, self._ways_of)
            self._drafts[id] = draft
            return draft

    def open_draft(self, id: str, tab: str) -> Draft:
        """A draft for a tab to paint on: itself, or a copy of it where another tab holds it.

        Raises:
            InputError: see :meth:`draft`.
        """
        draft = self.draft(id)
        if self.hold(draft, tab):
            return draft
        with draft.lock:
            return self._copy(draft.fit_name, draft.edits, draft.layers, tab)

    def open_edit(self, name: str, tab: str) -> Draft:
        """A new draft for a tab with the layers that a saved edit was painted as.

        Raises:
            InputError: there is no such edit, its layers were not kept, or its fit is gone or was made again.
        """
        self.edit_version(name)
        folder = self.layers_of(name)
        if folder is None:
            raise InputError(f"No layers were kept of the edit '{name}'; put it below a drawing to paint over it.")
        record, there = DraftFolder(folder).read(self.fit), set(self.project.edits)
        below = [edit for edit in record.edits if edit in there and edit != name]
        draft = self._copy(record.fit_name, below, record.layers, tab)
        draft.mark_saved(name)
        return draft

    def _copy(self, fit: str, edits: Sequence[str], layers: Sequence[DraftLayer], tab: str) -> Draft:
        copy = self.new_draft(fit, edits)
        for layer in layers:
            copy.add_layer(
                layer.target,
                layer.name,
                layer.kind,
                rgba=layer.rgba.copy(),
                opacity=layer.opacity,
                visible=layer.visible,
                extra=dict(layer.extra),
                asset=layer.asset,
            )
        copy.forget_history()
        self.hold(copy, tab)
        return copy

    def hold(self, draft: Draft, tab: str) -> bool:
        """Let a tab be the one that paints on a draft, and hear of it; False where another is."""
        with draft.lock:
            now = time.monotonic()
            if draft.holder is not None and draft.holder[0] != tab and now - draft.holder[1] < _HOLD:
                return False
            draft.holder = (tab, now)
            return True

    def release(self, draft: Draft, tab: str) -> None:
        """A tab is closed, or shows something else."""
        with draft.lock:
            if draft.holder is not None and draft.holder[0] == tab:
                draft.holder = None

    def discard_draft(self, id: str) -> None:
        """Throw a draft away.

        Raises:
            InputError: there is none.
        """
        draft = self.draft(id)
        with self._lock:
            self._drafts.pop(id, None)
            for key in [key for key in self._lives if key[0] == id]:
                self._lives.pop(key)
        draft.discard()

    def drafts(self) -> list[dict[str, Any]]:
        """The drafts that hold paint, the one changed last first.

        Each as id, fit, layers, saved (seconds since 1970), open, saved_as (the edit that it was saved as, "" for none
        that is there), unsaved (whether it holds what that edit does not).
        """
        found: dict[str, dict[str, Any]] = {}
        edits = set(self.project.edits)

        def kept(name: str, revision: int, now: int) -> dict[str, Any]:
            return (
                {"saved_as": name, "unsaved": revision != now} if name in edits else {"saved_as": "", "unsaved": True}
            )

        for path in self.drafts_folder.glob(f"*/{DRAFT_FILE}"):
            with contextlib.suppress(InputError, KeyError, TypeError):
                record = read_json(path)
                names = [str(layer["name"]) for layer in record["layers"]]
                found[path.parent.name] = {
                    "id": path.parent.name,
                    "fit": record["fit"],
                    "layers": names,
                    "saved": record["saved"],
                    "open": False,
                    **kept(record.get("saved_as", ""), record.get("saved_revision", -1), record["revision"]),
                }
        with self._lock:
            known = dict(self._drafts)
        for id, draft in known.items():
            if id in found or not draft.empty:
                held = draft.holder is not None and time.monotonic() - draft.holder[1] < _HOLD
                names = [layer.name for layer in draft.layers]
                found[id] = {
                    "id": id,
                    "fit": draft.fit_name,
                    "layers": names,
                    "saved": draft.touched,
                    "open": held,
                    **kept(draft.saved_as, draft.saved_revision, draft.revision),
                }
        return sorted(found.values(), key=lambda entry: -float(entry["saved"]))

    def expire_drafts(self) -> None:
        """Throw away drafts that nobody has opened for long."""
        for folder in self.drafts_folder.glob("*"):
            if not folder.is_dir() or folder.name in self._drafts:
                continue
            file = folder / DRAFT_FILE
            with contextlib.suppress(OSError):
                changed = (file if file.is_file() else folder).stat().st_mtime
                if time.time() - changed > _DRAFTS_KEPT:
                    shutil.rmtree(folder, ignore_errors=True)

    def save_draft(self, id: str, name: str, replace: bool = False) -> Edit:
        """Save what a draft holds as an edit of the project, and keep its layers for :meth:`open_edit`.

        Raises:
            InputError: nothing is painted, the name cannot be or exists already, or the disk is full.
        """
        draft = self.draft(id)
        with draft.at_rest() as layers:
            edit = draft.edit()
            if not edit.steps:
                raise InputError("Nothing is painted yet, so there is nothing to save.")
            self.save_edit(edit, name, replace, layers)
            draft.mark_saved(name.strip())
            return edit


def _is_id(id: str) -> bool:
    return len(id) == 32 and all(c in "0123456789abcdef" for c in id)
