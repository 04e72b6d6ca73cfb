"""The parts that binary glTF 2.0 (.glb) is made of: a description in JSON, and arrays in one buffer."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canon.errors import InputError

_LARGEST = 1 << 28
"""Bytes of a file that are read at most."""
_MOST_JSON = 1 << 25
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_PACKED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_mesh_quantization")
"""Extensions without which a file's arrays cannot be read."""


class GltfBuffer:
    """The binary part of a file, as it grows."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self.length = 0

    def add_bytes(self, data: bytes, **options: Any) -> int:
        """The number of the view of what is added; views begin at multiples of 4."""
        self.views.append({"buffer": 0, "byteOffset": self.length, "byteLength": len(data), **options})
        self.parts.append(data + bytes(-len(data) % 4))
        self.length += len(self.parts[-1])
        return len(self.views) - 1

    def add(
        self, array: np.ndarray, kind: str, *, target: int | None = None, bounds: bool = False, normalized: bool = False
    ) -> int:
        """The number of the accessor of an array [N, width of the kind]."""
        codes = {np.dtype(name): code for code, name in _TYPES.items()}
        view = self.add_bytes(array.tobytes(), **({} if target is None else {"target": target}))
        entry = {"bufferView": view, "componentType": codes[array.dtype], "count": len(array), "type": kind}
        if bounds:
            entry |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        self.accessors.append(entry | ({"normalized": True} if normalized else {}))
        return len(self.accessors) - 1

    def packed(self, document: dict[str, Any]) -> bytes:
        """The whole file."""
        own = {"accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": self.length}]}
        text = json.dumps(document | own, separators=(",", ":"), allow_nan=False).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self.length
        if total >= 1 << 32:
            raise InputError(f"A .glb of {total >> 20} MiB is larger than the format allows; write fewer vertices.")
        head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
        return b"".join([head, text, struct.pack("<I4s", self.length, b"BIN\0"), *self.parts])


class GltfFile:
    """A file whose every number is checked before it is used; its errors are ValueErrors that say what is wrong."""

    def __init__(self, path: Path) -> None:
        """Read a .glb."""
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        data = path.read_bytes()
        magic, version, _, length, kind = struct.unpack_from("<4sIII4s", data)
        if (magic, version, kind) != (b"glTF", 2, b"JSON"):
            raise ValueError("it is no binary glTF 2.0; export it as .glb")
        if length > min(_MOST_JSON, len(data) - 20):
            raise ValueError("its first part is longer than it may be")
        self.document = json.loads(data[20 : 20 + length])
        if not isinstance(self.document, dict):
            raise ValueError("it describes nothing")
        packed = set(self.document.get("extensionsRequired", ())) & set(_PACKED)
        if packed:
            raise ValueError(f"its arrays are packed with {min(packed)}; export it without compression")
        begin = 20 + length
        size, kind = struct.unpack_from("<I4s", data, begin)
        if kind != b"BIN\0" or size > len(data) - begin - 8:
            raise ValueError("its binary part is missing or cut short")
        if "uri" in self.document["buffers"][0]:
            raise ValueError("its arrays are in another file; export it as one .glb")
        self.data = memoryview(data)[begin + 8 : begin + 8 + size]

    def entry(self, kind: str, number: Any) -> dict[str, Any]:
        """An entry of one of the file's lists."""
        entries = self.document[kind]
        found = entries[whole(number, len(entries) - 1, f"a number in '{kind}'")]
        if not isinstance(found, dict):
            raise ValueError(f"an entry of '{kind}' is wrong")
        return found

    def array(self, number: Any, *kinds: str) -> np.ndarray:
        """An accessor of one of some types, as its numbers are stored, [N, width]."""
        entry = self.entry("accessors", number)
        if entry["type"] not in kinds or entry["componentType"] not in _TYPES or "sparse" in entry:
            raise ValueError(f"an array is of a kind '{entry['type']}' that cannot be read here")
        dtype, width = np.dtype(_TYPES[entry["componentType"]]), _WIDTHS[entry["type"]]
        view = self.entry("bufferViews", entry["bufferView"])
        whole(view.get("buffer"), 0, "the number of a buffer")
        start = whole(view.get("byteOffset", 0), len(self.data), "the place of a part")
        length = whole(view["byteLength"], len(self.data) - start, "the length of a part")
        offset = whole(entry.get("byteOffset", 0), length, "the place of an array")
        stride = whole(view.get("byteStride", width * dtype.itemsize), 1 << 16, "the step of a part")
        count = whole(entry["count"], length, "the length of an array")
        if (
            not count
            or stride < width * dtype.itemsize
            or offset + (count - 1) * stride + width * dtype.itemsize > length
        ):
            raise ValueError("an array is empty, or reaches out of its part of the file")
        steps = (stride, dtype.itemsize)
        found = np.ndarray((count, width), dtype, self.data, start + offset, steps)
        if not np.isfinite(found).all():
            raise ValueError("it has numbers that are not finite")
        return found

    def shares(self, number: Any) -> NDArray[np.float32]:
        """An array of shares, which may be stored as whole numbers."""
        found = self.array(number, "VEC4")
        most = 1 if found.dtype.kind == "f" else np.iinfo(found.dtype).max
        return np.asarray(found / np.float32(most), np.float32)


def whole(value: Any, most: int, what: str) -> int:
    """A whole number from 0 to ``most``, or a ValueError that says ``what`` it should have been."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{what} is {str(value)[:40]} instead of 0 to {most}")
    return value
