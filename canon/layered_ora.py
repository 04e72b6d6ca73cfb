"""OpenRaster: a zip archive of PNGs and an XML file that says how they lie on each other.

Source: https://www.openraster.org (version 0.0.6).
"""

from __future__ import annotations

import io
import logging
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
from PIL import Image

from canon.errors import InputError
from canon.layered_images import MOST_LAYERS, LayeredImage, PaintLayer, PixelBudget, flattened
from canon.storage import encoded_image

log = logging.getLogger("canon")

_MIMETYPE = b"image/openraster"
_MOST_ENTRIES = 4 * MOST_LAYERS
_MOST_XML = 4 << 20
_MOST_ENTRY = 1 << 30
_DEEPEST = 32
_THUMBNAIL = 256
_NORMAL = ("", "svg:src-over")
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    expat.ExpatError,
    Image.DecompressionBombError,
    cv2.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
)
"""What the libraries raise on damaged files; Pillow has SyntaxError among them."""


def encode_ora(image: LayeredImage) -> bytes:
    """The contents of an .ora file: ``mimetype`` first and uncompressed, ``stack.xml``, ``data/``, and previews."""
    merged = flattened(image)
    thumbnail = Image.fromarray(merged)
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "mimetype", _MIMETYPE)
        _add(archive, "stack.xml", _stack_xml(image).encode(), zipfile.ZIP_DEFLATED)
        for k, layer in enumerate(image.layers):
            _add(archive, _source(k), encoded_image(layer.rgba))
        _add(archive, "mergedimage.png", encoded_image(merged))
        _add(archive, "Thumbnails/thumbnail.png", encoded_image(np.asarray(thumbnail)))
    return out.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    # Without a date, so that equal images give equal files.
    archive.writestr(zipfile.ZipInfo(name), data, compression)


def _source(k: int) -> str:
    return f"data/layer{k:03d}.png"


def _stack_xml(image: LayeredImage) -> str:
    """The top layer comes first."""
    height, width = image.size
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<image version="0.0.3" w="{width}" h="{height}">', " <stack>"]
    for k, layer in reversed(list(enumerate(image.layers))):
        place = f'x="{layer.offset[0]}" y="{layer.offset[1]}" opacity="{float(layer.opacity)!r}"'
        shown = f'visibility="{"visible" if layer.visible else "hidden"}" composite-op="svg:src-over"'
        lines.append(f'  <layer name={quoteattr(layer.name)} src="{_source(k)}" {place} {shown}/>')
    return "\n".join([*lines, " </stack>", "</image>", ""])


def read_ora(data: bytes, name: str) -> LayeredImage:
    """Read the contents of an .ora file.

    Args:
        name: what to call it in a sentence.

    Raises:
        InputError: damaged, too large, or another kind of archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _Reader(archive, name).image()
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"The OpenRaster file {name} is damaged ({error}); export it once more.") from error


@dataclass
class _Element:
    """One element of the XML."""

    kind: str
    attributes: dict[str, str]
    children: list[_Element] = field(default_factory=list)

    def get(self, key: str, otherwise: str = "") -> str:
        return self.attributes.get(key, otherwise)


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.archive, self.name = archive, name
        self.budget = PixelBudget(name)
        if len(archive.namelist()) > _MOST_ENTRIES:
            self.refuse(f"holds {len(archive.namelist())} files")
        known = set(archive.namelist())
        if not {"mimetype", "stack.xml"} <= known or self.bytes_of("mimetype", 256).strip() != _MIMETYPE:
            raise InputError(f"The archive {name} is not OpenRaster; save the image as .ora.")

    def refuse(self, why: str) -> NoReturn:
        raise InputError(f"The OpenRaster file {self.name} {why}, so it is not opened.")

    def image(self) -> LayeredImage:
        """All of it."""
        root = _parse(self.bytes_of("stack.xml", _MOST_XML), self.refuse)
        stacks = [child for child in root.children if child.kind == "stack"]
        if root.kind != "image" or len(stacks) != 1:
            self.refuse("has no stack of layers")
        width, height = self.number(root, "w"), self.number(root, "h")
        if width < 1 or height < 1:
            self.refuse(f"says that it is {width}x{height}")
        self.budget.spend(height, width)
        self.size = height, width
        return LayeredImage(self.size, [layer for child in stacks[0].children[::-1] for layer in self.layers(child)])

    def layers(self, element: _Element) -> list[PaintLayer]:
        """Of a layer or a nested stack, from the bottom to the top."""
        if element.kind not in ("layer", "stack"):
            log.warning("what OpenRaster calls '%s' in %s is left out", element.kind, self.name)
            return []
        if element.get("composite-op") not in _NORMAL:
            what = (element.get("composite-op"), element.get("name"), self.name)
            log.warning("the blend mode '%s' of '%s' in %s is taken as normal", *what)
        opacity, visible = self.opacity(element), element.get("visibility", "visible") != "hidden"
        if element.kind == "layer":
            rgba = self.pixels(element.get("src"))
            offset = self.number(element, "x", "0"), self.number(element, "y", "0")
            return [PaintLayer(element.get("name"), rgba, offset, opacity, visible)]
        found = [layer for child in element.children[::-1] for layer in self.layers(child)]
        if opacity == 1:
            for layer in found:
                layer.visible = layer.visible and visible
            return found
        self.budget.spend(*self.size)
        merged = flattened(LayeredImage(self.size, found))
        return [PaintLayer(element.get("name"), merged, (0, 0), opacity, visible)]

    def number(self, element: _Element, key: str, otherwise: str = "0") -> int:
        try:
            value = int(element.get(key, otherwise))
        except ValueError:
            self.refuse(f"has '{element.get(key)[:20]}' where a whole number must be")
        if abs(value) >= 1 << 31:
            self.refuse(f"has {key} = {value}")
        return value

    def opacity(self, element: _Element) -> float:
        try:
            value = float(element.get("opacity", "1"))
        except ValueError:
            value = math.nan
        if math.isnan(value):
            self.refuse(f"has the opacity '{element.get('opacity')[:20]}'")
        return min(max(value, 0.0), 1.0)

    def part(self, entry: str) -> zipfile.ZipInfo:
        try:
            return self.archive.getinfo(entry)
        except KeyError:
            self.refuse(f"lacks its part '{entry[:80]}'")

    def bytes_of(self, entry: str, most: int = _MOST_ENTRY) -> bytes:
        """Of an entry of the archive, whose name is never a path on disk."""
        info = self.part(entry)
        if info.file_size > most:
            self.refuse(f"has a part of {info.file_size} bytes")
        with self.archive.open(info) as handle:
            return handle.read()

    def pixels(self, entry: str) -> np.ndarray:
        """uint8 [h, w, 4]; the header is looked at before anything else is unpacked."""
        with self.archive.open(self.part(entry)) as handle:
            header = handle.read(26)
        if len(header) < 26 or not header.startswith(b"\x89PNG\r\n\x1a\n") or header[12:16] != b"IHDR":
            self.refuse(f"has a part '{entry}' that is no PNG")
        width, height = struct.unpack(">II", header[16:24])
        self.budget.spend(height, width)
        return _decoded(self.bytes_of(entry))


def _decoded(png: bytes) -> np.ndarray:
    """uint8 [h, w, 4] of a PNG of any kind."""
    if png[24] != 16:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGBA"))
    # Pillow cuts 16 bits off instead of rounding.
    values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("a PNG cannot be decoded")
    values = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if values.ndim == 2:
        return cv2.cvtColor(values, cv2.COLOR_GRAY2RGBA)
    return cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGBA)


def _parse(text: bytes, refuse: Callable[[str], NoReturn]) -> _Element:
    """The root element; a document type, which may define entities, is refused unread."""
    top = _Element("", {})
    path, count = [top], 0
    parser = expat.ParserCreate()

    def begin(kind: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(path) > _DEEPEST or count > _MOST_ENTRIES:
            refuse("has too many layers, or groups in each other")
        path[-1].children.append(_Element(kind, attributes))
        path.append(path[-1].children[-1])

    def document_type(*_: object) -> None:
        refuse("has a document type in its stack.xml")

    parser.StartDoctypeDeclHandler = document_type
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _: path.pop()
    parser.Parse(text, True)
    return top.children[0]
