"""Whole folders written atomically, and large .npy files written item by item: partial ones never look whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from canon.errors import InputError
from canon.storage import atomic_path, explain_os_error


@contextlib.contextmanager
def atomic_folder(path: Path, owned: Callable[[Path], set[str]]) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; on success it takes that place, on failure it vanishes.

    Args:
        path: the folder to make or to replace.
        owned: given an existing folder, the names in it that may be replaced or removed. Every other entry is kept.

    Raises:
        InputError: an entry that is not owned would be overwritten, the folder cannot be written, or the disk is full.
    """
    target = Path(path).resolve()
    temporary: Path | None = None
    try:
        if target == Path.cwd() or target in Path.cwd().parents:
            raise InputError(f"'{path}' is the folder you are in; name a new folder inside it to write to.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not os.access(target, os.W_OK):
            raise InputError(f"Cannot write '{path}' (Permission denied); choose a folder that you may write to.")
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        yield temporary
        temporary.chmod(0o755)
        _install(temporary, target, owned)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _install(temporary: Path, target: Path, owned: Callable[[Path], set[str]]) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    kept = {entry.name for entry in target.iterdir()} - owned(target)
    clash = sorted(kept & {entry.name for entry in temporary.iterdir()})
    if clash:
        raise InputError(f"'{target}' already holds '{clash[0]}', which canon did not write; choose another folder.")
    old = Path(tempfile.mkdtemp(prefix=".replaced-", dir=target.parent))
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    for name in kept:
        (old / name).rename(target / name)
    shutil.rmtree(old, ignore_errors=True)


class ArrayWriter:
    """Appends uint8 items of one shape to a .npy file whose length is not known beforehand."""

    def __init__(self, handle: BinaryIO) -> None:
        self.length = 0
        self.item_shape: tuple[int, ...] = ()
        self._handle = handle
        self._digest = hashlib.sha256()

    def append(self, item: np.ndarray) -> None:
        """Add one uint8 item; all items have the shape of the first.

        Raises:
            ValueError: another shape or dtype.
        """
        if self.length == 0:
            self.item_shape = item.shape
            self._handle.write(self._header())
        if item.shape != self.item_shape or item.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self.item_shape}, got {item.dtype} {item.shape}")
        data = np.ascontiguousarray(item).data
        self._handle.write(data)
        self._digest.update(data)
        self.length += 1

    @property
    def digest(self) -> str:
        """SHA-256 of all items so far, as by :func:`array_digest`; hashing here saves reading the file again."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Write the header with the true length, after which the file is whole."""
        self._handle.seek(0)
        self._handle.write(self._header())

    def _header(self) -> bytes:
        # numpy pads the header for a first axis of up to 21 digits, so its length stays however long the array grows.
        buffer = io.BytesIO()
        fields = {"descr": "|u1", "fortran_order": False, "shape": (self.length, *self.item_shape)}
        np.lib.format.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()


@contextlib.contextmanager
def array_writer(path: Path) -> Iterator[ArrayWriter]:
    """An :class:`ArrayWriter` for ``path``, which appears only once everything is written.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        writer = ArrayWriter(handle)
        yield writer
        writer.finish()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of a uint8 array's bytes in C order, read item by item."""
    digest = hashlib.sha256()
    for item in array:
        digest.update(np.ascontiguousarray(item).data)
    return digest.hexdigest()


def place_array(array: np.ndarray, path: Path) -> None:
    """Put a uint8 array at ``path`` as .npy: a hard link where it already is a whole file, else written item by item.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    if isinstance(array, np.memmap) and array.filename is not None and array.flags.c_contiguous:
        whole = Path(array.filename).exists() and array.offset + array.nbytes == Path(array.filename).stat().st_size
        if whole and np.load(array.filename, mmap_mode="r", allow_pickle=False).shape == array.shape:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Linking fails across file systems and on some network drives; copying is then the way.
            with contextlib.suppress(OSError):
                os.link(array.filename, path)
                return
    with array_writer(path) as writer:
        for item in array:
            writer.append(np.asarray(item))
