"""Images of layers that paint programs read and write: OpenRaster (.ora) and Photoshop (.psd)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from canon.errors import InputError
from canon.storage import MAX_IMAGE_PIXELS, write_bytes

SUFFIXES = (".ora", ".psd")
"""Of the files that are read and written."""
CANONICAL = "canonical"
"""Name of the layer that is not paint but the canonical image that was painted on."""
MOST_LAYERS = 1000
"""Files with more layers than this are refused."""

_UNWRITABLE = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_BYTES = 2 << 30


@dataclass(eq=False)
class PaintLayer:
    """One layer."""

    name: str
    """For people; control characters become spaces."""
    rgba: np.ndarray = field(repr=False)
    """uint8 [h, w, 4], sRGB, straight alpha; of any size."""
    offset: tuple[int, int] = (0, 0)
    """(x, y) of its upper left pixel in the image; it may lie outside."""
    opacity: float = 1.0
    """0..1, over the alpha. PSD keeps it to 1/255."""
    visible: bool = True

    def __post_init__(self) -> None:
        self.name = _UNWRITABLE.sub(" ", self.name)
        self.rgba = np.asarray(self.rgba)
        if self.rgba.dtype != np.uint8 or self.rgba.ndim != 3 or self.rgba.shape[2] != 4 or 0 in self.rgba.shape:
            raise InputError(f"A layer must be uint8 [h, w, 4], not {self.rgba.dtype} {list(self.rgba.shape)}.")
        if not 0 <= self.opacity <= 1:
            raise InputError(f"The opacity of a layer must be 0 to 1, not {self.opacity}.")


@dataclass(eq=False)
class LayeredImage:
    """Layers on top of each other."""

    size: tuple[int, int]
    """(height, width)."""
    layers: list[PaintLayer] = field(default_factory=list)
    """From the bottom to the top."""

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise InputError(f"An image must be at least 1x1, not {self.size[1]}x{self.size[0]}.")


class PixelBudget:
    """Counts the pixels that a file makes us decode, and refuses before there are too many."""

    def __init__(self, name: str) -> None:
        self._name, self._left = name, MAX_IMAGE_PIXELS

    def spend(self, height: int, width: int) -> None:
        """Take ``height`` x ``width`` pixels.

        Raises:
            InputError: more than are left.
        """
        self._left -= height * width
        if self._left < 0:
            raise InputError(f"The image {self._name} holds more pixels than canon opens; make its layers smaller.")


def read_layers(source: str | Path | bytes | BinaryIO) -> LayeredImage:
    """Read an OpenRaster or Photoshop file, whichever it is; nothing in it is used as a path, and sizes are checked.

    Groups are taken apart; a group that is translucent, masked or clipped to becomes one layer. Masks are applied.
    Blend modes other than normal, effects and adjustments are left out with a warning.

    Args:
        source: a path, the contents of a file, or a file opened for reading bytes.

    Raises:
        InputError: unreadable, damaged, too large, of another kind, or a .psd while psd-tools is not installed.
    """
    name, data = _contents(source)
    if data.startswith(b"PK"):
        from canon.layered_ora import read_ora

        return read_ora(data, name)
    if data.startswith(b"8BPS"):
        from canon.layered_psd import read_psd

        return read_psd(data, name)
    raise InputError(f"An OpenRaster (.ora) or Photoshop (.psd) file is needed, and {name} is neither.")


def _contents(source: str | Path | bytes | BinaryIO) -> tuple[str, bytes]:
    """What to call it in a sentence, and all of its bytes."""
    if isinstance(source, bytes):
        return "that was given", source
    if not isinstance(source, str | Path):
        return "that was given", source.read(_MAX_BYTES)
    try:
        if Path(source).stat().st_size > _MAX_BYTES:
            raise InputError(f"'{source}' is larger than 2 GiB, more than canon opens.")
        return f"'{source}'", Path(source).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"The image '{source}' does not exist.") from error
    except OSError as error:
        raise InputError(f"Cannot read '{source}' ({error.strerror}); check the name.") from error


def write_layers(path: str | Path, image: LayeredImage) -> None:
    """Write an image atomically, in the format of the suffix.

    Raises:
        InputError: see :func:`encoded_layers`; an unwritable folder, or a full disk.
    """
    write_bytes(Path(path), encoded_layers(image, Path(path).suffix))


def encoded_layers(image: LayeredImage, suffix: str) -> bytes:
    """The contents of a file.

    Args:
        suffix: ".ora" or ".psd".

    Raises:
        InputError: another suffix, psd-tools is not installed, or what the format cannot hold.
    """
    if suffix.lower() == ".ora":
        from canon.layered_ora import encode_ora

        return encode_ora(image)
    if suffix.lower() == ".psd":
        from canon.layered_psd import encode_psd

        return encode_psd(image)
    raise InputError(f"Layers cannot be written as '{suffix}'; use .ora or .psd.")


def flattened(image: LayeredImage, layers: Sequence[PaintLayer] | None = None) -> np.ndarray:
    """What the visible layers show together, each laid over those below it (source-over, in sRGB values).

    Args:
        layers: only these, from the bottom to the top; all of the image's without it.

    Returns:
        uint8 [H, W, 4], straight alpha; colours are 0 where alpha is 0.
    """
    height, width = image.size
    out = np.zeros((height, width, 4), np.float32)
    for layer in image.layers if layers is None else layers:
        there, own = overlap(image.size, layer.offset, layer.rgba.shape[:2])
        if not layer.visible or layer.opacity == 0 or there is None:
            continue
        over = layer.rgba[own].astype(np.float32)
        alpha = over[..., 3:] * np.float32(layer.opacity / 255)
        out[there] *= 1 - alpha
        out[there][..., :3] += over[..., :3] * alpha
        out[there][..., 3:] += 255 * alpha
    alpha = out[..., 3:] / 255
    out[..., :3] /= np.where(alpha > 0, alpha, 1)
    rgba = (np.clip(out, 0, 255) + 0.5).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0
    return rgba


_Place = tuple[slice, slice]


def overlap(size: tuple[int, ...], offset: tuple[int, int], own: tuple[int, ...]) -> tuple[_Place | None, _Place]:
    """Where a picture of size ``own`` at (x, y) lies in one of ``size``, None if outside, and that part of itself."""
    x, y = offset
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + own[0], size[0]), min(x + own[1], size[1])
    part = slice(top - y, bottom - y), slice(left - x, right - x)
    return ((slice(top, bottom), slice(left, right)) if top < bottom and left < right else None), part
