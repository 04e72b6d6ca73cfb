"""Fits and edits of a project, loaded once and kept, and seen anew when another program changed them on disk."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from canon.edit_folder import EDIT_FILE, load_edit
from canon.edits import Edit
from canon.errors import InputError
from canon.fit_folder import FIT_FILE, load
from canon.fits import Fit
from canon.project import Project
from canon.rendering import Video
from canon.storage import read_yaml

FITS = 3
"""Fits that are kept."""
_EDITS, _VIDEOS = 24, 6

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


class LoadedProject:
    """What is there in a project: everything is known by name and by when its file was written.

    All methods may be called from any thread.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._fits: Kept[Fit] = Kept(FITS)
        self._edits: Kept[Edit] = Kept(_EDITS)
        self._videos: Kept[Video] = Kept(_VIDEOS)

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

    def video(self, fit: str, edits: Sequence[str] = ()) -> Video:
        """The video of a fit with a stack of saved edits.

        Raises:
            InputError: unknown names, or edits that do not belong to the fit.
        """
        key = self.stack_key(fit, edits)
        return self._videos.get(key, lambda: Video(self.fit(fit), [self.edit(name) for name in edits]))

    def stack_key(self, fit: str, edits: Sequence[str]) -> tuple[str, ...]:
        """Another tuple whenever a fit with a stack of saved edits is another."""
        return (fit, self.fit_version(fit), *(f"{name}@{self.edit_version(name)}" for name in edits))

    def check_frame(self, fit: str, t: int) -> None:
        """Refuse the number of a frame that the clip does not have.

        Raises:
            InputError: there is no such frame.
        """
        count = len(self.fit(fit))
        if not 0 <= t < count:
            raise InputError(f"There is no frame {t}; the clip has frames 0 to {count - 1}.")


def _version(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"'{path.parent.name}' is gone; it may have been renamed or deleted.") from error
    return f"{stat.st_mtime_ns:x}-{stat.st_ino:x}"
