"""The one place that holds what a viewer shows: fits, edits, previews and drafts of a project, loaded once and kept.

All methods may be called from any thread. What other programs change on disk is seen: everything is known by name and
by when its file was written.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from canon.carrying import Ways, crossings
from canon.compose import LayerEdit
from canon.edit_folder import EDIT_FILE, load_edit
from canon.edits import Edit
from canon.errors import InputError
from canon.fit_folder import FIT_FILE, load
from canon.fits import Fit
from canon.project import WORK, Project
from canon.rendering import Video
from canon.storage import explain_os_error, inside, read_yaml
from canon.viewer.drafts import DRAFT_FILE, Draft, read_draft, read_json
from canon.viewer.live import LiveVideo

log = logging.getLogger("canon")

_FITS, _EDIT_COUNT, _VIDEOS, _LIVE = 3, 24, 6, 4
_DRAFTS_KEPT = 14 * 86400.0
"""Seconds after which a draft that nobody opened again is thrown away."""
_HOLD = 15.0
"""Seconds without a sign of life after which another tab may take a draft over."""
_IDLE = 1800.0
"""Seconds without a sign of life after which a draft is no longer kept in memory."""
_VERSIONS = 30
"""Versions of an edit that are kept."""
_LOCK_WAIT = 10.0

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The values made last, by key; one that is being made is made once, whoever asks."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
                with self._lock:
                    self._values[key] = value
                    while len(self._values) > self._most:
                        self._values.popitem(last=False)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    def drop(self, wanted: Callable[[Any], bool]) -> None:
        """Forget the values of some keys."""
        with self._lock:
            for key in [key for key in self._values if wanted(key)]:
                self._values.pop(key)


class Studio:
    """What a viewer of a project works with."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._fits: Kept[Fit] = Kept(_FITS)
        self._edits: Kept[Edit] = Kept(_EDIT_COUNT)
        self._videos: Kept[Video] = Kept(_VIDEOS)
        self._ways: Kept[dict[str, Ways]] = Kept(_FITS)
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

    # --- what is there ---

    def fit_version(self, name: str) -> str:
        """Another text whenever the fit is another.

        Raises:
            InputError: there is none of that name.
        """
        return _version(self.project.fit_folder(self.project.fit_name(name)) / FIT_FILE)

    def edit_version(self, name: str) -> str:
        """Another text whenever the edit is another; see :meth:`fit_version`."""
        folder = self.project.edit_folder(name)
        if not (folder / EDIT_FILE).is_file():
            self.project.edit(name)  # raises the sentence
        return _version(folder / EDIT_FILE)

    def fit(self, name: str | None = None) -> Fit:
        """A fit by name, or the one made last.

        Raises:
            InputError: there is none, or it is damaged.
        """
        name = self.project.fit_name(name)
        folder = self.project.fit_folder(name)
        return self._fits.get((name, self.fit_version(name)), lambda: load(folder))

    def edit(self, name: str) -> Edit:
        """An edit by name; see :meth:`fit`."""
        folder = self.project.edit_folder(name)
        return self._edits.get((name, self.edit_version(name)), lambda: load_edit(folder))

    def edits_of(self, fit: str) -> list[str]:
        """Names of the edits that were made on a fit."""
        wanted, found = self.fit(fit).id, []
        for name in self.project.edits:
            with contextlib.suppress(InputError):
                made_on = read_yaml(self.project.edit_folder(name) / EDIT_FILE).get("fit")
                if not made_on or made_on == wanted:
                    found.append(name)
        return found

    # --- pictures ---

    def video(self, fit: str, edits: Sequence[str] = ()) -> Video:
        """The video of a fit with a stack of saved edits.

        Raises:
            InputError: unknown names, or edits that do not belong to the fit.
        """
        key = self._stack_key(fit, edits)
        return self._videos.get(key, lambda: Video(self.fit(fit), [self.edit(name) for name in edits]))

    def _stack_key(self, fit: str, edits: Sequence[str]) -> tuple[str, ...]:
        return (fit, self.fit_version(fit), *(f"{name}@{self.edit_version(name)}" for name in edits))

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
        key = (draft.id, self._stack_key(draft.fit_name, edits))
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

    def check_frame(self, fit: str, t: int) -> None:
        """Refuse the number of a frame that the clip does not have.

        Raises:
            InputError: there is no such frame.
        """
        count = len(self.fit(fit))
        if not 0 <= t < count:
            raise InputError(f"There is no frame {t}; the clip has frames 0 to {count - 1}.")

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
        copy = self.new_draft(draft.fit_name, draft.edits)
        with draft.lock:
            for layer in draft.layers:
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
        """The drafts that hold paint, the one changed last first: id, fit, layers, saved (seconds since 1970), open."""
        found: dict[str, dict[str, Any]] = {}
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

    # --- saving ---

    def save_draft(self, id: str, name: str, replace: bool = False) -> Edit:
        """Save what a draft holds as an edit of the project.

        Raises:
            InputError: nothing is painted, the name cannot be or exists already, or the disk is full.
        """
        edit = self.draft(id).edit()
        if not edit.steps:
            raise InputError("Nothing is painted yet, so there is nothing to save.")
        self.save_edit(edit, name, replace)
        return edit

    def save_edit(self, edit: Edit, name: str, replace: bool = False) -> None:
        """Save an edit under a name, and keep the version that was there.

        Raises:
            InputError: the name cannot be, or exists and ``replace`` is False; or the folder cannot be written.
        """
        name = name.strip()
        folder = self.project.edit_folder(name)
        with self.writing():
            if (folder / EDIT_FILE).is_file():
                if not replace:
                    raise InputError(f"There is an edit '{name}' already; choose another name, or replace it.")
                self._keep_version(name)
            edit.save(folder)
            self._keep_version(name)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the project's edits for one writer, in this process or another.

        Raises:
            InputError: somebody else holds them for too long.
        """
        work = self.project.folder / WORK
        try:
            work.mkdir(parents=True, exist_ok=True)
            handle = (work / "edits.lock").open("w")
        except OSError as error:
            raise explain_os_error(error, work) from error
        with handle:
            until = time.monotonic() + _LOCK_WAIT
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > until:
                        raise InputError("Somebody else is saving in this project; try again.") from error
                    time.sleep(0.02)
            yield

    # --- history ---

    def _versions(self, name: str) -> list[Path]:
        self.project.edit_folder(name)
        folder = self.project.folder / WORK / "history" / name
        found = [path for path in folder.glob("[0-9]*") if path.name.isdigit() and (path / EDIT_FILE).is_file()]
        return sorted(found, key=lambda path: int(path.name))

    def _keep_version(self, name: str) -> None:
        """Keep an edit as it is on disk, by links: its files are replaced as wholes, never written into."""
        source = self.project.edit_folder(name)
        versions = self._versions(name)
        if versions and _same_files(versions[-1], source):
            return
        number = int(versions[-1].name) + 1 if versions else 1
        target = self.project.folder / WORK / "history" / name / f"{number:03d}"
        _linked(source, target)
        for old in versions[: max(len(versions) + 1 - _VERSIONS, 0)]:
            shutil.rmtree(old, ignore_errors=True)

    def history(self, name: str) -> list[dict[str, Any]]:
        """Versions of an edit, the newest first: version, saved (seconds since 1970), editors, layers, current.

        Raises:
            InputError: the name cannot be one.
        """
        current = self.project.edit_folder(name)
        found = []
        for path in reversed(self._versions(name)):
            with contextlib.suppress(InputError, KeyError, TypeError, OSError):
                steps = read_yaml(path / EDIT_FILE)["steps"]
                found.append(
                    {
                        "version": int(path.name),
                        "saved": (path / EDIT_FILE).stat().st_mtime,
                        "editors": list(dict.fromkeys(step["provenance"]["editor"] for step in steps)),
                        "layers": list(dict.fromkeys(step["layer"] for step in steps)),
                        "steps": len(steps),
                        "current": _same_files(path, current),
                    }
                )
        return found

    def version(self, name: str, version: int) -> Edit:
        """An edit as it was.

        Raises:
            InputError: there is no such version.
        """
        return load_edit(self._version_folder(name, version))

    def _version_folder(self, name: str, version: int) -> Path:
        for path in self._versions(name):
            if int(path.name) == version:
                return path
        raise InputError(f"There is no version {version} of '{name}'.")

    def restore(self, name: str, version: int) -> Edit:
        """Let an edit be again what it was; what it is now is kept as a version, too.

        Raises:
            InputError: there is no such version, or it is damaged.
        """
        edit = self.version(name, version)
        with self.writing():
            folder = self.project.edit_folder(name)
            if (folder / EDIT_FILE).is_file():
                self._keep_version(name)
            edit.save(folder)
            self._keep_version(name)
        return edit


def _is_id(id: str) -> bool:
    return len(id) == 32 and all(c in "0123456789abcdef" for c in id)


def _version(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"'{path.parent.name}' is gone; it may have been renamed or deleted.") from error
    return f"{stat.st_mtime_ns:x}-{stat.st_ino:x}"


def _same_files(a: Path, b: Path) -> bool:
    """Whether two folders hold the same files."""
    with contextlib.suppress(OSError):
        names, others = ({path.name for path in folder.iterdir() if path.is_file()} for folder in (a, b))
        pairs = ((a / name, b / name) for name in names)
        return names == others and all(x.samefile(y) or x.read_bytes() == y.read_bytes() for x, y in pairs)
    return False


def _linked(source: Path, target: Path) -> None:
    """A copy of a folder's files, by hard links where the disk can."""
    partial = target.with_name(f".partial-{target.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in source.iterdir():
            if path.is_file():
                try:
                    os.link(path, partial / path.name)
                except OSError:
                    shutil.copy2(path, partial / path.name)
        partial.rename(target)
    except OSError as error:
        raise explain_os_error(error, target) from error
