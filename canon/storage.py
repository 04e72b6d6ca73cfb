"""Files that survive a crash and inputs that cannot hurt: atomic writes, content hashes, safe paths, checked images."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import yaml

from canon.errors import InputError

MAX_IMAGE_PIXELS = 268_435_456
"""Images with more pixels than this (16384 x 16384) are refused before they are decoded."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step, on failure it vanishes.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def explain_os_error(error: OSError, path: Path) -> Exception:
    """The :class:`InputError` sentence for a failed write, or the error itself when it is not the user's to mend."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(f"No space is left to write '{path}'; free some space and run the same command again.")
    # ENOENT: folders are made before they are written to, so the place is one where nothing can be made (/proc).
    theirs = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT)
    if error.errno in (*theirs, errno.ENAMETOOLONG, errno.ELOOP):
        return InputError(f"Cannot write '{path}' ({error.strerror}); choose a folder that you may write to.")
    return error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_yaml(path: Path, value: Any) -> None:
    """Write plain primitives as YAML, atomically."""
    write_bytes(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"Cannot read '{path}' ({type(error).__name__}); the folder is damaged or not canon's."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"'{path}' does not hold a mapping; the folder is damaged or not canon's.")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write plain primitives as JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def to_plain(value: Any) -> Any:
    """``value`` as YAML and JSON can hold it: dataclasses become dicts, NumPy scalars numbers, paths texts.

    Arrays become a short description; they are stored elsewhere.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return f"array of {value.dtype} {list(value.shape)}"
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"Cannot read '{path}' ({error.strerror}); check the name.") from error


def content_hash(*parts: Any) -> str:
    """A short hash of arrays, bytes and plain primitives, equal whenever the contents are."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            digest.update(part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def inside(folder: Path, name: str) -> Path:
    """``folder / name``, refused when the result leaves ``folder``.

    Raises:
        InputError: the name is absolute, climbs out of the folder, or is empty.
    """
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if not name or path == root or root not in path.parents:
        raise InputError(f"The name '{name}' is not allowed; use a plain name without '..' or a leading '/'.")
    return path


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header alone, so that a decompression bomb is refused unopened.

    Raises:
        InputError: missing, not an image that is known here, or too large.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
    except FileNotFoundError as error:
        raise InputError(f"The image '{path}' does not exist.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"The image '{path}' is too large to be opened safely.") from error
    except OSError as error:
        raise InputError(f"'{path}' is not an image that can be read; use PNG, JPEG, WebP or TIFF.") from error
    if width * height > MAX_IMAGE_PIXELS:
        raise InputError(f"The image '{path}' has {width}x{height} pixels, more than canon opens.")
    return height, width


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 or uint16 [H, W, C], C = 1, 3 (RGB) or 4 (RGBA, straight alpha).

    Raises:
        InputError: see :func:`image_size`, or the data is truncated.
    """
    image_size(path)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"'{path}' is damaged: its pixels cannot be decoded.")
    if image.ndim == 2:
        return image[..., None]
    if image.shape[2] == 2:
        return image[..., :1]
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 / uint16 -> float32 in 0..1; float passes through."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255.0
    if image.dtype == np.uint16:
        return image.astype(np.float32) / 65535.0
    return image.astype(np.float32)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """float 0..1 -> uint8, rounded to nearest and clipped."""
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def write_image(path: Path, image: np.ndarray, compression: int = 3) -> None:
    """Write uint8 / uint16 [H, W], [H, W, 1|3|4] (RGB order) atomically; the format follows the suffix."""
    write_bytes(Path(path), encoded_image(image, Path(path).suffix or ".png", compression))


def encoded_image(image: np.ndarray, suffix: str = ".png", compression: int = 3) -> bytes:
    """The contents of an image file; see :func:`write_image`."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_PNG_COMPRESSION, compression] if suffix.lower() == ".png" else []
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise InputError(f"Cannot encode an image as '{suffix}'; use .png or .jpg.")
    return bytes(data.tobytes())


def write_exr(path: Path, channels: Mapping[str, np.ndarray]) -> None:
    """Write an OpenEXR image atomically, values as they are.

    Args:
        channels: name -> float32 or float16 [H, W], or [H, W, C] under a name of C letters such as ``RGBA``.

    Raises:
        InputError: the package OpenEXR is missing, the folder cannot be written, or the disk is full.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise InputError("Writing .exr needs the package OpenEXR; install it, or write a 16-bit .png.") from error
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    arrays = {name: np.ascontiguousarray(array) for name, array in channels.items()}
    with atomic_path(path) as temporary, OpenEXR.File(header, arrays) as file:
        file.write(str(temporary))


def create_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """A new memory-mapped .npy file whose disk space is reserved at once, so that a full disk is an error, not a crash.

    Raises:
        InputError: no space, or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise explain_os_error(error, path) from error
    return array


def fresh_array(path: Path, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """A new memory-mapped array; what an earlier run may still have mapped under that name is left to it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, path) from error
    return create_array(path, shape, dtype)


def open_array(path: Path, mode: str = "r") -> np.ndarray:
    """Memory-map a .npy file; nothing is unpickled.

    Raises:
        InputError: missing, truncated or foreign.
    """
    try:
        return np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{path}' is missing or damaged; delete the folder and fit again.") from error


_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_MAX_HEADER = 16 << 20
_CHUNK = 16 << 20


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file atomically and in pieces, so that arrays mapped from disk are never held in memory.

    Args:
        arrays: by name; little-endian numbers or bool, any shape.
        metadata: texts kept in the header.

    Raises:
        InputError: no space, or the folder cannot be written.
        ValueError: a dtype that the format does not have.
    """
    names = {np.dtype(code): name for name, code in _DTYPES.items()}
    # Widest first: then every array starts at a multiple of its item size and can be mapped as it is.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        array = arrays[name]
        if array.dtype not in names or name == "__metadata__":
            raise ValueError(f"cannot write '{name}' of {array.dtype} as safetensors")
        end = offset + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little"))
        handle.write(text)
        for name in order:
            _write_pieces(handle, arrays[name])


def _write_pieces(handle: BinaryIO, array: np.ndarray) -> None:
    if array.ndim == 0 or array.nbytes <= _CHUNK:
        handle.write(np.ascontiguousarray(array).tobytes())
        return
    step = max(1, _CHUNK * len(array) // array.nbytes)
    for start in range(0, len(array), step):
        handle.write(np.ascontiguousarray(array[start : start + step]).data)


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a .safetensors file, read-only and mapped from disk: nothing is read before it is used.

    Raises:
        InputError: missing, truncated, or not a .safetensors file; the header is checked to the last byte.
    """
    path = Path(path)
    try:
        total = path.stat().st_size
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, total - 8):
                raise ValueError("the header's length is wrong")
            header = json.loads(handle.read(length))
        entries = _checked_header(header, total - 8 - length)
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if total > 8 + length else np.empty(0, np.uint8)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"'{path}' is missing or damaged ({error}); delete the folder and make it again.") from error
    found = {}
    for name, (dtype, shape, begin, end) in entries.items():
        # A plain ndarray view: numpy.memmap's own bookkeeping makes every later slice several times slower.
        found[name] = np.asarray(data[begin:end]).view(dtype).reshape(shape)
    return found


def _checked_header(header: Any, size: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]:
    """Dtype, shape, first and last byte of every array; ValueError unless they fill ``size`` bytes without a gap."""
    if not isinstance(header, dict):
        raise ValueError("the header is not a mapping")
    entries: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of '{name}' is wrong")
        shape, offsets = entry["shape"], entry["data_offsets"]
        numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
        if any(type(n) is not int or n < 0 for n in numbers) or len(offsets) != 2 or entry["dtype"] not in _DTYPES:
            raise ValueError(f"the entry of '{name}' is wrong")
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
            raise ValueError(f"the size of '{name}' is wrong")
        entries[name] = (dtype, tuple(shape), offsets[0], offsets[1])
    at = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise ValueError(f"the place of '{name}' is wrong")
        at = end
    if at != size:
        raise ValueError(f"it holds {size} bytes of data instead of {at}")
    return entries
