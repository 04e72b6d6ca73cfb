"""Where the results of an experiment lie: projects, records of what is done, the report."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.experiments.mirror import Mirror
from canon.storage import explain_os_error, inside, write_json

DONE, FAILED = "done", "failed"
"""Folders of the records ``KEY.json`` of tasks that are done, and of those that failed last time."""

SCRATCH = "CANON_SCRATCH"
"""Environment variable: folder for the scratch copies of remote stores on a machine; default ``~/.cache/canon``."""


class Store:
    """A folder of results; every process of an experiment opens the same one by :attr:`url`.

    It is a path that every process sees, or a URL of fsspec (``s3://``, ``gs://``, ``memory://``, ``file://``...), of
    which each machine holds a scratch copy of what it needs.
    """

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.local = Path(folder).resolve()
        """The folder on this machine in which tasks read and write: the store itself, or its scratch copy."""
        self._mirror = mirror

    @classmethod
    def open(cls, url: str | Path, scratch: str | Path | None = None) -> Store:
        """The store at a path or URL; made if it is missing.

        Args:
            url: where it lies. What has a scheme is taken as remote, ``file://`` too.
            scratch: folder for the scratch copy of a remote one; processes of one machine may share it. None = a
                folder of its own below :data:`SCRATCH`.

        Raises:
            InputError: no address that is known here, or the scratch folder cannot be written.
        """
        text = str(url)
        if isinstance(url, Path) or "://" not in text:
            return cls(Path(url))
        text = text.rstrip("/")
        local = Path(scratch) if scratch is not None else _default_scratch(text)
        try:
            local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, local) from error
        local = local.resolve()
        return cls(local, Mirror(text, local))

    @property
    def url(self) -> str:
        """What other processes open."""
        return str(self.local) if self._mirror is None else self._mirror.url

    @property
    def remote(self) -> bool:
        """Whether :attr:`local` is a scratch copy."""
        return self._mirror is not None

    @property
    def there(self) -> bool:
        """Whether something may lie in it: it is remote, or its folder was made."""
        return self.remote or self.local.is_dir()

    def path(self, name: str) -> Path:
        """The local path of an output.

        Raises:
            InputError: the name leaves the store.
        """
        return inside(self.local, name)

    def fetch(self, name: str) -> Path:
        """The local path of a file or folder that an earlier task left, brought here if need be.

        Raises:
            InputError: the name leaves the store, or the store cannot be reached.
        """
        path = self.path(name)
        if self._mirror is not None:
            self._mirror.pull(self._relative(path))
        return path

    def publish(self, *names: str) -> None:
        """Make files and folders that lie here seen by every process.

        A folder is published as it is: a file of it that is not here any more vanishes for all. So name the task's own
        folders, not those that it shares with others.

        Raises:
            InputError: a name leaves the store, or the store cannot be reached.
            FileNotFoundError: there is no such file or folder, or nothing is in it.
        """
        for path in [self.path(name) for name in names]:
            if self._mirror is not None:
                self._mirror.push(self._relative(path))

    def record(self, key: str, kind: str = DONE) -> dict[str, Any] | None:
        """What was noted of a task, or None if it was not done (or did not fail) yet, or the note is damaged.

        Raises:
            InputError: the store cannot be reached.
        """
        name = _record_name(key, kind)
        try:
            data = self.path(name).read_bytes() if self._mirror is None else self._mirror.read(name)
        except OSError:
            return None
        return _parsed(data)

    def records(self, kind: str = DONE) -> dict[str, dict[str, Any]]:
        """All records of a kind that are whole, by key; of a remote store by one listing and what is new.

        Raises:
            InputError: the store cannot be reached.
        """
        _check_kind(kind)
        folder = self.fetch(kind)
        found = {}
        for path in sorted(folder.glob("*.json")):
            if path.name.startswith("."):
                continue
            try:
                record = _parsed(path.read_bytes())
            except OSError:  # replaced or removed in this very moment
                continue
            if record is not None:
                found[path.stem] = record
        return found

    def write_record(self, key: str, value: Mapping[str, Any], kind: str = DONE) -> None:
        """Note what came of a task, atomically and last of all, so that a note means that its outputs are whole.

        Raises:
            InputError: the folder cannot be written, or the store cannot be reached.
        """
        name = _record_name(key, kind)
        if self._mirror is None:
            write_json(self.path(name), dict(value))
        else:
            self._mirror.write(name, json.dumps(dict(value), indent=1).encode())
        if kind == DONE:
            self.remove_record(key, FAILED)

    def remove_record(self, key: str, kind: str = DONE) -> None:
        """Forget what was noted of a task; there may be nothing.

        Raises:
            InputError: the store cannot be reached.
        """
        name = _record_name(key, kind)
        if self._mirror is None:
            self.path(name).unlink(missing_ok=True)
        else:
            self._mirror.remove(name)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.local).as_posix()


def _record_name(key: str, kind: str) -> str:
    _check_kind(kind)
    if not re.fullmatch(r"[\w-][\w.-]*", key):
        raise InputError(f"'{key}' is no key of a task.")
    return f"{kind}/{key}.json"


def _check_kind(kind: str) -> None:
    if kind not in (DONE, FAILED):
        raise InputError(f"A record is of kind {DONE} or {FAILED}, not {kind!r}.")


def _parsed(data: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(data) if data else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _default_scratch(url: str) -> Path:
    above = os.environ.get(SCRATCH) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "canon"
    name = re.sub(r"\W+", "-", url).strip("-")[-40:]
    return Path(above) / "stores" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
