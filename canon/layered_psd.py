"""Photoshop files: written here, read with psd-tools.

Source: Adobe Photoshop File Formats Specification, "Photoshop File Format".
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from typing import Any

import numpy as np

from canon.errors import InputError
from canon.layered_images import MOST_LAYERS, LayeredImage, PaintLayer, PixelBudget, flattened, overlap
from canon.storage import to_uint8

log = logging.getLogger("canon")

_LARGEST = 30_000
_RGB, _GREY = 3, 1
_HIDDEN = 2
_ALPHA = 65_535
"""The alpha channel is the channel -1."""
_RLE = 1
_MOST_NAME = 31


def _psd_tools() -> Any:
    try:
        import psd_tools
    except ImportError as error:
        raise InputError(
            "Photoshop files need the package psd-tools: pip install 'canon-video[viewer]'; .ora needs nothing."
        ) from error
    return psd_tools


# --- writing ---


def encode_psd(image: LayeredImage) -> bytes:
    """The contents of a .psd file: RGB with 8 bits per channel, run-length encoded, with a preview.

    Raises:
        InputError: psd-tools is not installed, or it is more than 30,000 pixels wide or high.
    """
    _psd_tools()
    height, width = image.size
    sizes = [(height, width), *(layer.rgba.shape[:2] for layer in image.layers)]
    if max(map(max, sizes)) > _LARGEST:
        raise InputError(f"Photoshop files are at most {_LARGEST} pixels wide and high; write .ora instead.")
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 4, height, width, 8, _RGB)
    records, planes = [], []
    for layer in image.layers:
        channels = [_run_lengths(layer.rgba[..., k]) for k in (3, 0, 1, 2)]
        records.append(_record(layer, [len(channel) + 2 for channel in channels]))
        planes += [struct.pack(">H", _RLE) + channel for channel in channels]
    # A negative number of layers: the alpha of the preview is the image's transparency.
    body = struct.pack(">h", -len(records)) + b"".join(records + planes)
    layers = _sized(_sized(_padded(body, 4)) + _sized(b""))
    return header + _sized(b"") + _sized(_version_info()) + layers + _preview(image)


def _version_info() -> bytes:
    """The resource that says that there is a preview."""
    writer = b"".join(struct.pack(">I", len(name)) + name.encode("utf-16-be") for name in ("canon", "canon"))
    data = struct.pack(">IB", 1, 1) + writer + struct.pack(">I", 1)
    return b"8BIM" + struct.pack(">HH", 1057, 0) + _sized(data) + b"\0" * (len(data) % 2)


def _record(layer: PaintLayer, lengths: list[int]) -> bytes:
    (x, y), (height, width) = layer.offset, layer.rgba.shape[:2]
    channels = b"".join(struct.pack(">HI", k, length) for k, length in zip((_ALPHA, 0, 1, 2), lengths, strict=True))
    flags = 0 if layer.visible else _HIDDEN
    look = b"8BIMnorm" + struct.pack(">BBBx", round(layer.opacity * 255), 0, flags)
    short = layer.name.encode("mac_roman", "replace")[:_MOST_NAME]
    units = layer.name.encode("utf-16-be")
    unicode = b"8BIMluni" + _sized(_padded(struct.pack(">I", len(units) // 2) + units, 4))
    more = _sized(b"") + _sized(b"") + _padded(bytes([len(short)]) + short, 4) + unicode
    return struct.pack(">iiiiH", y, x, y + height, x + width, 4) + channels + look + _sized(more)


def _preview(image: LayeredImage) -> bytes:
    """What all layers show together, for programs that read no layers; on white, as Photoshop has it."""
    rgba = flattened(image).astype(np.uint32)
    alpha = rgba[..., 3:]
    rgba[..., :3] = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    planes = rgba.astype(np.uint8).transpose(2, 0, 1)
    return struct.pack(">H", _RLE) + _run_lengths(planes.reshape(-1, planes.shape[2]))


def _run_lengths(plane: np.ndarray) -> bytes:
    """uint8 [h, w] as PackBits, preceded by the length of every row."""
    from psd_tools.compression import compress
    from psd_tools.constants import Compression

    height, width = plane.shape
    return bytes(compress(plane.tobytes(), Compression.RLE, width, height, 8, 1))


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _padded(data: bytes, multiple: int) -> bytes:
    return data + b"\0" * (-len(data) % multiple)


# --- reading ---


def read_psd(data: bytes, name: str) -> LayeredImage:
    """Read the contents of a .psd or .psb file of 8 or 16 bits per channel, RGB or grey.

    Args:
        name: what to call it in a sentence.

    Raises:
        InputError: psd-tools is not installed; damaged, too large, or of other colours or depths.
    """
    psd_tools = _psd_tools()
    from psd_tools.compression import PSDDecompressionWarning

    budget = PixelBudget(name)
    size = _checked_header(data, name, budget)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PSDDecompressionWarning)
            psd = psd_tools.PSDImage.open(io.BytesIO(data))
            return LayeredImage(size, _Reader(psd, size, name, budget).image())
    except InputError:
        raise
    except Exception as error:  # psd-tools raises whatever the damage leads to
        raise InputError(
            f"The Photoshop file {name} is damaged ({type(error).__name__}); save it once more."
        ) from error


def _checked_header(data: bytes, name: str, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) of the picture."""
    if len(data) < 26:
        raise InputError(f"The Photoshop file {name} is cut short; save it once more.")
    version, _, height, width, depth, mode = struct.unpack(">H6xHIIHH", data[4:26])
    if version not in (1, 2) or height < 1 or width < 1:
        raise InputError(f"The Photoshop file {name} is damaged (header); save it once more.")
    if mode not in (_RGB, _GREY) or depth not in (8, 16):
        raise InputError(f"The Photoshop file {name} is not RGB or grey of 8 or 16 bits; convert it to RGB, 8 bits.")
    budget.spend(height, width)
    return height, width


class _Reader:
    """The layers of one opened file."""

    def __init__(self, psd: Any, size: tuple[int, int], name: str, budget: PixelBudget) -> None:
        self.psd, self.size, self.name, self.budget = psd, size, name, budget

    def image(self) -> list[PaintLayer]:
        """All layers, from the bottom to the top; of a picture without layers, itself."""
        if len(self.psd) == 0:
            return [PaintLayer("Background", self.pixels(self.psd))]
        count = sum(1 for _ in self.psd.descendants())
        if count > MOST_LAYERS:
            raise InputError(f"The Photoshop file {self.name} has {count} layers; canon reads up to {MOST_LAYERS}.")
        return self.layers(list(self.psd))

    def layers(self, siblings: list[Any]) -> list[PaintLayer]:
        """From the bottom to the top; layers that are clipped to another become part of it."""
        found: list[PaintLayer] = []
        for k, layer in enumerate(siblings):
            if layer.clipping and found:
                for one in self.one(layer):
                    _lay_within(found[-1], one)
            elif layer.is_group() and not self.together(layer, siblings[k + 1 : k + 2]):
                found += self.taken_apart(layer)
            else:
                found += self.one(layer)
        return found

    def together(self, group: Any, above: list[Any]) -> bool:
        """Whether something holds for the layers of a group as one."""
        return group.opacity < 255 or _is_masked(group) or any(layer.clipping for layer in above)

    def taken_apart(self, group: Any) -> list[PaintLayer]:
        self.warn(group)
        found = self.layers(list(group))
        for layer in found:
            layer.visible = layer.visible and bool(group.visible)
        return found

    def one(self, layer: Any) -> list[PaintLayer]:
        """A layer, or a group as one; nothing if it has no pixels."""
        self.warn(layer)
        opacity, offset = layer.opacity / 255, (0, 0)
        if layer.is_group():
            self.budget.spend(*self.size)
            rgba = flattened(LayeredImage(self.size, self.layers(list(layer))))
        elif layer.has_pixels() and layer.width * layer.height > 0:
            self.budget.spend(layer.height, layer.width)
            rgba, offset = self.pixels(layer), (layer.left, layer.top)
            opacity *= layer.fill_opacity / 255
        elif layer.kind == "pixel":
            rgba = np.zeros((1, 1, 4), np.uint8)
        else:
            log.warning("'%s' in %s has no pixels of its own and is left out", layer.name, self.name)
            return []
        if _is_masked(layer):
            alpha = rgba[..., 3] * self.mask(layer.mask, layer, rgba.shape[:2], offset)
            rgba = np.dstack([rgba[..., :3], (alpha + 0.5).astype(np.uint8)])
        return [PaintLayer(str(layer.name), rgba, offset, opacity, bool(layer.visible))]

    def warn(self, layer: Any) -> None:
        """Of what is not understood here."""
        mode = layer.blend_mode.name
        if mode not in ("NORMAL", "PASS_THROUGH"):
            log.warning("the blend mode '%s' of '%s' in %s is taken as normal", mode.lower(), layer.name, self.name)
        if layer.has_effects():
            log.warning("the effects of '%s' in %s are left out", layer.name, self.name)

    def pixels(self, layer: Any) -> np.ndarray:
        """uint8 [h, w, 4]."""
        if self.psd.depth == 8:
            return np.array(layer.topil(apply_icc=False).convert("RGBA"))
        values = to_uint8(layer.numpy())
        if values.shape[2] in (1, 3):
            values = np.dstack([values, np.full(values.shape[:2], 255, np.uint8)])
        return values if values.shape[2] == 4 else values[..., [0, 0, 0, 1]]

    def mask(self, mask: Any, layer: Any, size: tuple[int, int], offset: tuple[int, int]) -> np.ndarray:
        """float32 [h, w] in 0..1: a mask where a layer of that size and offset lies."""
        out = np.full(size, mask.background_color / 255, np.float32)
        if mask.width * mask.height == 0:
            return out
        self.budget.spend(mask.height, mask.width)
        values = layer.numpy("mask")[..., 0]
        top, left = mask.top - offset[1], mask.left - offset[0]
        there, own = overlap(size, (left, top), values.shape)
        if there is not None:
            out[there] = values[own]
        return out


def _is_masked(layer: Any) -> bool:
    return layer.has_mask() and not layer.mask.disabled


def _lay_within(below: PaintLayer, above: PaintLayer) -> None:
    """Lay one layer over another, but only where there is that other."""
    x, y = above.offset[0] - below.offset[0], above.offset[1] - below.offset[1]
    there, own = overlap(below.rgba.shape[:2], (x, y), above.rgba.shape[:2])
    if there is None or not above.visible:
        return
    below.rgba = below.rgba.copy()
    share = above.rgba[own][..., 3:] * np.float32(above.opacity / 255)
    colours = below.rgba[there][..., :3] * (1 - share) + above.rgba[own][..., :3] * share
    below.rgba[there][..., :3] = (colours + 0.5).astype(np.uint8)
