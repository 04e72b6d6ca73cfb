"""A folder on this machine that follows one behind an fsspec URL (``s3://``, ``gs://``, ``memory://``, ``file://``...).

Only what changed travels. Which state of a remote file lies here is noted in ``.sync/`` of the local folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from canon.errors import InputError, first_line
from canon.storage import atomic_path, explain_os_error, inside

Result = TypeVar("Result")

_SYNC = ".sync"
_AT_ONCE = 16  # transfers; small files wait for the network, not for it to be fast
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2", "memory"}
_STATES = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")


class Mirror:
    """Brings files and folders from a URL to a local folder, and sends them back; safe for many processes at once.

    Raises:
        InputError: the address is of no known kind, or needs a package that is not installed.
    """

    def __init__(self, url: str, local: Path) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        self.local = Path(local)
        try:
            self._fs, root = url_to_fs(url)
        except ImportError as error:
            raise InputError(f"A store at '{url}' needs one more package: {first_line(error)}.") from error
        except Exception as error:
            raise InputError(f"'{url}' is no address of a store ({first_line(error)}).") from error
        self._root = str(root).rstrip("/")
        protocol = self._fs.protocol
        protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._whole_writes = bool(protocols & _OBJECT_STORES)  # an object appears when its last byte is there
        sync = self.local / _SYNC
        try:
            (sync / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, sync) from error
        self._notes = _Notes(sync / "notes.sqlite")

    def pull(self, name: str) -> None:
        """Bring the file or folder ``name``: what is missing here or has changed there; what vanished there goes.

        Files that were never there and were changed or made here stay.
        """
        with self._turn(name):
            there, known = self._listing(name), self._notes.below(name)
            wanted = [each for each, state in there.items() if not self._is_here(each, state, known)]
            brought = self._each(self._download, wanted)
            self._notes.note({each: (there[each], *stat) for each, stat in zip(wanted, brought, strict=True)})
            for gone in known.keys() - there.keys():
                inside(self.local, gone).unlink(missing_ok=True)
                self._notes.forget(gone)

    def push(self, name: str) -> None:
        """Send the file or folder ``name``, so that it is there as it is here: what is not here vanishes there.

        Raises:
            FileNotFoundError: it is not here.
        """
        with self._turn(name):
            here = self._files(name)
            if not here:
                raise FileNotFoundError(errno.ENOENT, "nothing to publish", str(self.local / name))
            there, known = self._listing(name), self._notes.below(name)
            changed = [
                each
                for each, size_and_time in here.items()
                if each not in there or known.get(each) != (there[each], *size_and_time)
            ]
            self._each(lambda each: self._upload(self.local / each, each), changed)
            self._each(self.remove, there.keys() - here.keys())
            if changed:
                now = self._listing(name)
                self._notes.note({each: (now[each], *here[each]) for each in changed if each in now})

    def read(self, name: str) -> bytes | None:
        """The remote file's contents, or None where it is not there."""
        try:
            with self._reaching(missing=True):
                return self._fs.cat_file(self._remote(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a remote file, which is there whole or not at all."""
        with tempfile.NamedTemporaryFile(dir=self.local / _SYNC) as handle:
            handle.write(data)
            handle.flush()
            self._upload(Path(handle.name), name)

    def remove(self, name: str) -> None:
        """Remove a remote file; it may be gone already."""
        with contextlib.suppress(FileNotFoundError), self._reaching(missing=True):
            self._fs.rm_file(self._remote(name))

    def _remote(self, name: str) -> str:
        inside(self.local, name)
        return f"{self._root}/{name}"

    def _listing(self, name: str) -> dict[str, str]:
        """State of every remote file at or below ``name``, by its name; one listing."""
        found: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError), self._reaching(missing=True):
            self._fs.invalidate_cache()
            found = self._fs.find(self._remote(name), detail=True)
        names = {path.removeprefix(self._root).strip("/"): info for path, info in found.items()}
        for each in names:
            inside(self.local, each)
        return {each: _state(info) for each, info in names.items() if not _is_partial(each)}

    def _files(self, name: str) -> dict[str, tuple[int, int]]:
        """Size and time of change [ns] of every local file at or below ``name``, by its name."""
        top = inside(self.local, name)
        paths = [top] if top.is_file() else [path for path in sorted(top.rglob("*")) if path.is_file()]
        names = {path.relative_to(self.local).as_posix(): path for path in paths}
        return {each: _size_and_time(path) for each, path in names.items() if not _is_partial(each)}

    def _is_here(self, name: str, state: str, known: dict[str, tuple[str, int, int]]) -> bool:
        return name in known and known[name][0] == state and (self.local / name).is_file()

    def _download(self, name: str) -> tuple[int, int]:
        """Bring a file; its size and time of change [ns] here."""
        path = self.local / name
        with atomic_path(path) as temporary:
            try:
                with self._reaching(missing=True):
                    self._fs.get_file(self._remote(name), str(temporary))
            except FileNotFoundError as error:
                raise InputError(f"'{self.url}/{name}' vanished while it was read; run the same again.") from error
        return _size_and_time(path)

    def _upload(self, source: Path, name: str) -> None:
        target = self._remote(name)
        with self._reaching():
            if self._whole_writes:
                self._fs.put_file(str(source), target)
                return
            folder, _, last = target.rpartition("/")
            self._fs.makedirs(folder, exist_ok=True)
            beside = f"{folder}/.partial-{os.urandom(6).hex()}-{last}"
            self._fs.put_file(str(source), beside)
            self._fs.mv(beside, target)

    def _each(self, do: Callable[[str], Result], names: Iterable[str]) -> list[Result]:
        names = list(names)
        if len(names) < 2:
            return [do(name) for name in names]
        with ThreadPoolExecutor(min(_AT_ONCE, len(names))) as pool:
            return list(pool.map(do, names))

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """One process of this machine at a time brings or sends one name; the others then find it done."""
        lock = self.local / _SYNC / "locks" / hashlib.sha256(name.encode()).hexdigest()[:16]
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _reaching(self, missing: bool = False) -> Iterator[None]:
        """Say in a sentence what goes wrong; where files may be ``missing``, that is passed on."""
        try:
            yield
        except Exception as error:
            if isinstance(error, InputError) or (missing and isinstance(error, FileNotFoundError)):
                raise
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise explain_os_error(error, self.local) from error
            raise InputError(
                f"The store '{self.url}' cannot be reached ({type(error).__name__}: {first_line(error)}); "
                "check the address, the network and what you may access."
            ) from error


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _is_partial(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == _SYNC or any(part.startswith((".partial-", ".replaced-")) for part in parts)


def _state(info: dict[str, Any]) -> str:
    """What tells one state of a remote file from another."""
    found = [str(info[key]) for key in _STATES if info.get(key)][:1]
    return json.dumps([info.get("size"), info.get("ino"), *found])


class _Notes:
    """Which state of a remote file lies here: name -> (remote state, local size, local time of change [ns])."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, state TEXT, size INTEGER, changed INTEGER)"
            )

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # One connection an operation: threads and processes share the file, not the connection.
        try:
            database = sqlite3.connect(self._path, timeout=60.0)
            try:
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise InputError(
                f"Cannot use '{self._path}' ({error}); delete the folder '{self._path.parent}'."
            ) from error

    def below(self, name: str) -> dict[str, tuple[str, int, int]]:
        """Notes of a file, or of all files in a folder."""
        with self._open() as database:
            rows = database.execute(
                "SELECT name, state, size, changed FROM notes WHERE name = ? OR substr(name, 1, ?) = ?",
                (name, len(name) + 1, f"{name}/"),
            )
            return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def note(self, notes: dict[str, tuple[str, int, int]]) -> None:
        """Remember states."""
        with self._open() as database:
            database.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", [(name, *note) for name, note in notes.items()]
            )

    def forget(self, name: str) -> None:
        """Forget a file."""
        with self._open() as database:
            database.execute("DELETE FROM notes WHERE name = ?", (name,))
