"""A project folder: one clip, its fits, edits and renders, laid out so that a person can open and understand it.

``project.yaml`` marks a folder as canon's; one without it that is not empty is somebody else's and stays untouched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canon.clip import CLIP_FILE, Clip
from canon.edit_folder import EDIT_FILE, load_edit
from canon.edits import Edit
from canon.errors import InputError
from canon.fit_folder import FIT_FILE, load
from canon.fits import Fit
from canon.storage import explain_os_error, inside, read_yaml, write_yaml

PROJECT_FILE = "project.yaml"
FORMAT, VERSION = "canon-project", 1
CLIP, FITS, EDITS, RENDERS, WORK = "clip", "fits", "edits", "renders", ".work"


class Project:
    """A project on disk; from :meth:`open` or :meth:`create`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Project:
        """An existing project.

        Raises:
            InputError: missing, damaged, of a later version, or not canon's.
        """
        folder = Path(folder)
        how = "make one with 'canon fit VIDEO --project DIR'"
        if not folder.exists():
            raise InputError(f"The project '{folder}' does not exist; {how}.")
        if not folder.is_dir():
            raise InputError(f"'{folder}' is a file, not a project folder; {how}.")
        if not (folder / PROJECT_FILE).is_file():
            raise InputError(f"'{folder}' is not a canon project (it has no {PROJECT_FILE}); {how}.")
        record = read_yaml(folder / PROJECT_FILE)
        if record.get("format") != FORMAT:
            raise InputError(f"'{folder / PROJECT_FILE}' does not describe a canon project; {how}.")
        if record.get("version") != VERSION:
            raise InputError(f"'{folder}' has project version {record.get('version')!r}; this canon reads {VERSION}.")
        return cls(folder)

    @classmethod
    def create(cls, folder: str | Path) -> Project:
        """An existing project, or a new one in a folder that is missing or empty.

        Raises:
            InputError: the folder holds something that is not canon's, or cannot be written.
        """
        folder = Path(folder)
        try:
            if folder.exists() and not folder.is_dir():
                raise InputError(f"'{folder}' is a file; give a folder for the project.")
            if folder.is_dir() and any(folder.iterdir()):
                if not (folder / PROJECT_FILE).is_file():
                    raise InputError(f"'{folder}' is not empty and not a canon project; give a new or empty folder.")
                return cls.open(folder)
        except OSError as error:
            raise explain_os_error(error, folder) from error
        write_yaml(folder / PROJECT_FILE, {"format": FORMAT, "version": VERSION})
        return cls(folder)

    # --- what is in it ---

    @property
    def clip_folder(self) -> Path:
        """Where the clip lies."""
        return self.folder / CLIP

    @property
    def fits(self) -> list[str]:
        """Names of the fits, the one made last at the end."""
        found = [path for path in self._children(FITS) if (path / FIT_FILE).is_file()]
        return [path.name for path in sorted(found, key=lambda path: ((path / FIT_FILE).stat().st_mtime_ns, path.name))]

    @property
    def edits(self) -> list[str]:
        """Names of the edits, sorted."""
        return [path.name for path in self._children(EDITS) if (path / EDIT_FILE).is_file()]

    def _children(self, name: str) -> list[Path]:
        folder = self.folder / name
        found = folder.iterdir() if folder.is_dir() else iter(())
        return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))

    def fit_folder(self, name: str) -> Path:
        """``fits/NAME``.

        Raises:
            InputError: the name cannot be a folder's.
        """
        return _child(self.folder / FITS, name)

    def edit_folder(self, name: str) -> Path:
        """``edits/NAME``; see :meth:`fit_folder`."""
        return _child(self.folder / EDITS, name)

    def render_path(self, edits: Sequence[str]) -> Path:
        """``renders/A+B.mp4`` for edits that exist."""
        return self.folder / RENDERS / ("+".join(edits) + ".mp4")

    def fit_name(self, name: str | None = None) -> str:
        """A fit's name: the given one, or that of the fit made last.

        Raises:
            InputError: there is none (of that name).
        """
        fits = self.fits
        if name is None and fits:
            return fits[-1]
        if name is None or name not in fits:
            which = "yet" if name is None else f"called '{name}'"
            there = f"it has {', '.join(fits)}" if fits else "make one with 'canon fit VIDEO --project DIR'"
            raise InputError(f"The project '{self.folder}' has no fit {which}; {there}.")
        return name

    def fit(self, name: str | None = None) -> Fit:
        """A fit by name, or the one made last.

        Raises:
            InputError: there is none, or it is damaged.
        """
        return load(self.fit_folder(self.fit_name(name)))

    def edit(self, name: str) -> Edit:
        """An edit by name.

        Raises:
            InputError: there is none, or it is damaged.
        """
        folder = self.edit_folder(name)
        if name not in self.edits:
            there = f"it has {', '.join(self.edits)}" if self.edits else "make one with 'canon edit'"
            raise InputError(f"The project '{self.folder}' has no edit called '{name}'; {there}.")
        return load_edit(folder)

    def fit_of(self, edits: Sequence[Edit], name: str | None = None) -> str:
        """The name of the fit that edits were made on; ``name`` if given, though paint may lie elsewhere then.

        Raises:
            InputError: the edits belong to several fits, or to one that is gone.
        """
        wanted = list(dict.fromkeys(edit.fit for edit in edits if edit.fit))
        if name is not None or not wanted:
            return self.fit_name(name)
        if len(wanted) > 1:
            raise InputError("These edits were made on different fits; make them on one fit to stack them.")
        for candidate in reversed(self.fits):
            with contextlib.suppress(InputError):
                if read_yaml(self.fit_folder(candidate) / FIT_FILE).get("id") == wanted[0]:
                    return candidate
        raise InputError(
            "The fit that this edit was made on was replaced or removed; make the edit again, or give --fit."
        )

    # --- fitting into it ---

    def adopt(self, clip: Clip) -> Clip:
        """Keep a clip that was just loaded as the project's own, or re-use the frames that the project has already.

        The same frames with other masks, cameras or poses are fine: the fit then keeps those with itself.

        Raises:
            InputError: the project holds another clip, or its clip is damaged.
        """
        if not (self.clip_folder / CLIP_FILE).is_file():
            clip.save(self.clip_folder)
            return Clip.open(self.clip_folder)
        own = Clip.open(self.clip_folder)
        if own.content_hash == clip.content_hash:
            return own
        if not _same_frames(own, clip):
            seen, new = (f"{len(each)} frames of {each.size[1]}x{each.size[0]}" for each in (own, clip))
            other = "other pictures" if seen == new else f"not {new}"
            raise InputError(
                f"The project '{self.folder}' already holds another clip ({seen} from '{own.source}', {other}); "
                "give another --project."
            )
        return dataclasses.replace(clip, frames=own.frames)

    @contextlib.contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Hold the project for one fitting; what a killed one left half-written is cleared away.

        Args:
            wait: until others let it go, instead of refusing.

        Raises:
            InputError: another process is fitting here.
        """
        with self._locked("lock", fcntl.LOCK_EX, wait):
            for folder in (self.folder, self.folder / FITS):
                for left in folder.glob(".partial-*"):
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def share(self, name: str) -> Iterator[None]:
        """Hold one fit of the project, beside other processes that hold others of it so.

        Raises:
            InputError: another process holds the whole project (:meth:`lock`).
        """
        # Whoever makes this very fit, such as a worker that was given up, makes it for us as well.
        with self._locked("lock", fcntl.LOCK_SH, False), self._locked(f"fit-{name}.lock", fcntl.LOCK_EX, True):
            yield

    @contextlib.contextmanager
    def _locked(self, name: str, how: int, wait: bool) -> Iterator[None]:
        work = self.folder / WORK
        try:
            work.mkdir(parents=True, exist_ok=True)
            handle = _child(work, name).open("w")
        except OSError as error:
            raise explain_os_error(error, work) from error
        with handle:
            try:
                fcntl.flock(handle, how if wait else how | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"Another canon is fitting in '{self.folder}'; wait for it to end.") from error
            yield

    def workspace(self, name: str) -> Path:
        """Where an interrupted fit of that name left what the next run takes up."""
        return _child(self.folder / WORK, f"fit-{name}")

    def discard_if_empty(self) -> None:
        """Take back a project that was made for a fit that could not start: nothing but the marker is in it."""
        if {path.name for path in self.folder.iterdir()} <= {PROJECT_FILE, WORK}:
            shutil.rmtree(self.folder / WORK, ignore_errors=True)
            (self.folder / PROJECT_FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()


def _child(folder: Path, name: str) -> Path:
    if not re.fullmatch(r"\w[\w .+-]*", name):
        raise InputError(f"The name '{name}' cannot be a folder's; use letters, digits, '-' and '_'.")
    # Not what inside() returns: that one follows links, and messages should show the path that the user gave.
    inside(folder, name)
    return folder / name


def _same_frames(a: Clip, b: Clip) -> bool:
    if a.frames.shape != b.frames.shape:
        return False
    pairs: Iterator[tuple[Any, Any]] = zip(a.frames, b.frames, strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)
