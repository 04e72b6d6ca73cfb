"""Pickles of arrays as estimators of poses write them, read without ever running what they ask for.

A pickle is a small program that may call anything. Here it can only build plain containers, numbers, texts and numpy
arrays: what it wants to load is looked up in a table of stand-ins that live in this module, and everything else is
refused. Arrays are built from their bytes here, after their type has been checked; numpy's own unpickling is not used.
Known are pickle itself, joblib's files (also compressed by zlib) and numpy's object arrays in .npy and .npz.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from canon.errors import InputError

_LARGEST = 4 << 30
"""Bytes that a file may have, also once it is unpacked."""
_PLAIN = re.compile(r"[<>=|]?([?bBhHiIlLqQefdgFD]|[biufcSU]\d+|O8?)")
"""Types of arrays that are read: numbers, texts and objects, which are checked one by one."""
_PICKLED = (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OSError)


def read_pickle(path: str | Path) -> Any:
    """What a pickle or a file of joblib holds, in dicts, lists, tuples, numbers, texts and arrays.

    Raises:
        InputError: it cannot be read, is too large, or wants to load anything but such data; nothing of it is run.
    """
    place = Path(path)
    return _told(place, lambda: _load(io.BytesIO(_unpacked(place))))


def read_npz(path: str | Path) -> dict[str, Any]:
    """The arrays of an .npz or .npy file (there under the name "") by name; those of objects are unpickled as above.

    Raises:
        InputError: see :func:`read_pickle`.
    """
    place = Path(path)
    return _told(place, lambda: _arrays(place))


def _told(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"The file '{path}' does not exist.") from error
    except (
        *_PICKLED,
        struct.error,
        RecursionError,
        MemoryError,
        OverflowError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"The file '{path}' cannot be read: {error or type(error).__name__}.") from error


def _unpacked(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST:
        raise InputError(f"'{path}' is larger than {_LARGEST >> 30} GiB, which no poses are.")
    content = path.read_bytes()
    if content[:1] != b"\x78":  # zlib's
        return content
    opened = zlib.decompressobj()
    found = opened.decompress(content, _LARGEST)
    if not opened.eof:
        raise InputError(f"'{path}' ends too early, or is larger than {_LARGEST >> 30} GiB once it is unpacked.")
    return found


def _arrays(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as handle:
            return {"": _array(handle, path.stat().st_size)}
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > _LARGEST:
            raise InputError(f"'{path}' is larger than {_LARGEST >> 30} GiB once it is unpacked, which no poses are.")
        found = {}
        for part in parts:
            with archive.open(part) as handle:
                found[part.filename.removesuffix(".npy")] = _array(io.BytesIO(handle.read()), part.file_size)
        return found


def _array(handle: BinaryIO, size: int) -> Any:
    form = np.lib.format
    version = form.read_magic(handle)
    head = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}.get(version)
    if head is None:
        raise ValueError(f"version {version} of numpy's format is not known")
    shape, fortran, dtype = head(handle)
    if dtype.hasobject:
        return _load(handle)
    if _PLAIN.fullmatch(dtype.str) is None:
        raise ValueError(f"arrays of {dtype} are not known")
    return _filled(handle.read(size), dtype, shape, fortran)


def _filled(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    # frombuffer and reshape compare the lengths, so that a lie about the shape costs no memory.
    flat = np.frombuffer(data, dtype).copy()
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


class _Type:
    """Stands in for numpy.dtype."""

    def __init__(self, code: str = "", *_: Any) -> None:
        if not isinstance(code, str) or _PLAIN.fullmatch(code) is None:
            raise ValueError(f"arrays of '{code}' are not known")
        self.code, self.order = code, "="

    def build(self, state: tuple[Any, ...], _: BinaryIO) -> _Type:
        if state[1] not in "<>=|":
            raise ValueError(f"the byte order '{state[1]}' is not known")
        self.order = state[1]
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        found = np.dtype(self.code)
        return found if self.order in "=|" else found.newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """Stands in for what numpy rebuilds an array from."""

    built: np.ndarray | None = None

    def build(self, state: tuple[Any, ...], _: BinaryIO) -> np.ndarray:
        _, shape, kind, fortran, data = state
        self.built = _made(kind, shape, fortran, data)
        return self.built


class _Joblib:
    """Stands in for joblib's wrapper, after which the bytes of an array follow in the file itself."""

    def build(self, state: dict[str, Any], handle: BinaryIO) -> Any:
        kind, shape = state["dtype"], tuple(int(length) for length in state["shape"])
        if not isinstance(kind, _Type):
            raise ValueError("an array has no type")
        if kind.dtype.hasobject:
            return _load(handle)
        if state.get("numpy_array_alignment_bytes") is not None:
            handle.read(handle.read(1)[0])
        dtype = kind.dtype
        count = 1
        for length in shape:  # not numpy's product, which overflows
            count *= length
        return _filled(handle.read(count * dtype.itemsize), dtype, shape, state["order"] == "F")


def _made(kind: Any, shape: Any, fortran: bool, data: Any) -> np.ndarray:
    if not isinstance(kind, _Type):
        raise ValueError("an array has no type")
    dtype, shape = kind.dtype, tuple(int(length) for length in shape)
    if not dtype.hasobject:
        return _filled(bytes(data), dtype, shape, fortran)
    if not isinstance(data, list):
        raise ValueError("an array of objects holds none")
    found = np.empty(len(data), object)
    found[:] = data
    return found.reshape(shape[::-1]).T if fortran else found.reshape(shape)


def _scalar(kind: Any, data: Any) -> Any:
    return _made(kind, (), False, data)[()]


def _from_buffer(data: Any, kind: Any, shape: Any, order: str, *_: Any) -> np.ndarray:
    return _made(kind, shape, order == "F", data)


def _latin(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"the encoding '{encoding}' is not known")
    return text.encode("latin1")


def _bytes(*parts: Any) -> bytes:
    """Never of a number, which may be as large as one likes."""
    return b"".join(bytes(part) for part in parts if isinstance(part, list | bytes))


def _rebuilt(*_: Any) -> _Array:
    return _Array()


def _dict(*parts: Any) -> dict[Any, Any]:
    """Also of a defaultdict, whose default is left out, and of an OrderedDict."""
    return {key: value for part in parts if isinstance(part, list) for key, value in part}


_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _dict,
    ("collections", "defaultdict"): _dict,
    ("_codecs", "encode"): _latin,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Joblib,
    **{(module, "dtype"): _Type for module in _NUMPY},
    **{(module, "ndarray"): None for module in _NUMPY},  # only ever named, never called
    **{(module, "_reconstruct"): _rebuilt for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
    **{(module, "_frombuffer"): _from_buffer for module in _NUMPY},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset, int, float, complex, bool, str)
    },
}


class _Memo(dict[int, Any]):
    """What is named again later: the array itself, not what stood in for it."""

    def __getitem__(self, key: int) -> Any:
        found = super().__getitem__(key)
        return found.built if isinstance(found, _Array) else found


class _Unpickler(pickle._Unpickler):
    """The plain Python one, as joblib's: bytes that follow an object must be read while it is being built."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, handle: BinaryIO) -> None:
        super().__init__(handle)
        self.handle, self.memo = handle, _Memo()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise InputError(
                f"The pickle wants to load '{module}.{name}', which is not data; nothing of it was run. "
                "Only numbers, texts, arrays and containers are read."
            )
        return _KNOWN[module, name]

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"it wants the extension {code}")

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if not isinstance(made, _Type | _Array | _Joblib):
            raise pickle.UnpicklingError(f"it wants to set attributes of {type(made).__name__}")
        self.stack[-1] = made.build(state, self.handle)

    dispatch[pickle.BUILD[0]] = load_build


def _load(handle: BinaryIO) -> Any:
    return _Unpickler(handle).load()
