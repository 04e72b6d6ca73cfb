"""Edits of a project as they are saved: one writer at a time, every version kept, and what went before brought back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from canon.edit_folder import EDIT_FILE, load_edit
from canon.edits import Edit
from canon.errors import InputError
from canon.project import WORK, Project
from canon.storage import explain_os_error, read_yaml

_VERSIONS = 30
"""Versions of an edit that are kept."""
_LOCK_WAIT = 10.0
"""Seconds that one waits for another who is saving."""
_LAYERS = "layers"
"""Folder of a version that holds the drawing that it was painted as."""


class SavedEdits:
    """The edits of a project and their history."""

    project: Project

    def save_edit(self, edit: Edit, name: str, replace: bool = False, layers: Path | None = None) -> None:
        """Save an edit under a name, and keep the version that was there.

        Args:
            layers: folder of the draft that it was painted as, which is kept with its version, too.

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
            self._keep_version(name, layers)

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

    @property
    def _history(self) -> Path:
        return self.project.folder / WORK / "history"

    def _versions(self, name: str) -> list[Path]:
        self.project.edit_folder(name)
        folder = self._history / name
        found = [path for path in folder.glob("[0-9]*") if path.name.isdigit() and (path / EDIT_FILE).is_file()]
        return sorted(found, key=lambda path: int(path.name))

    def _keep_version(self, name: str, layers: Path | None = None) -> None:
        """Keep an edit as it is on disk, by links: its files are replaced as wholes, never written into."""
        source = self.project.edit_folder(name)
        versions = self._versions(name)
        if versions and _same_files(versions[-1], source):
            return
        number = int(versions[-1].name) + 1 if versions else 1
        _link(source, layers, self._history / name / f"{number:03d}")
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
        source = self._version_folder(name, version)
        edit = load_edit(source)
        with self.writing():
            folder = self.project.edit_folder(name)
            if (folder / EDIT_FILE).is_file():
                self._keep_version(name)
            edit.save(folder)
            self._keep_version(name, source / _LAYERS)
        return edit

    def layers_of(self, name: str) -> Path | None:
        """Folder of the draft that an edit was painted as, None if none was kept or the edit is another since.

        Raises:
            InputError: the name cannot be one.
        """
        current = self.project.edit_folder(name)
        # Under any name: an edit that is renamed leaves its versions behind.
        kept = (path for path in self._history.glob(f"*/*/{_LAYERS}") if _same_files(path.parent, current))
        return next(kept, None)


def _same_files(a: Path, b: Path) -> bool:
    """Whether two folders hold the same files."""
    with contextlib.suppress(OSError):
        names, others = ({path.name for path in folder.iterdir() if path.is_file()} for folder in (a, b))
        return names == others and all(_same_file(a / name, b / name) for name in names)
    return False


def _same_file(a: Path, b: Path) -> bool:
    if a.samefile(b):
        return True
    return a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()


def _link(source: Path, layers: Path | None, target: Path) -> None:
    """Make a version of an edit's files and the draft's, if there is one, by hard links where the disk can."""
    partial = target.with_name(f".partial-{target.name}")
    folders = {partial: source}
    if layers is not None and layers.is_dir():
        folders[partial / _LAYERS] = layers
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for copy, folder in folders.items():
            copy.mkdir(parents=True)
            for path in folder.iterdir():
                if path.is_file():
                    try:
                        os.link(path, copy / path.name)
                    except OSError:
                        shutil.copy2(path, copy / path.name)
        partial.rename(target)
    except OSError as error:
        raise explain_os_error(error, target) from error
