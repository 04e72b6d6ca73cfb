"""Layer masks given by the user: reading them in all their forms, and matching them to the frames of a clip."""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from canon.errors import InputError
from canon.folders import array_writer
from canon.sources import images_in, natural_key, resize
from canon.storage import image_size, open_array

log = logging.getLogger("canon")

FOREGROUND, BACKGROUND = "foreground", "background"
VOID_INDEX = 255
"""In palette masks this index means "do not judge here" (YouTube-VOS, Pascal); it belongs to no object."""


@dataclass(eq=False)
class LayerMask:
    """Opacity of one layer on some frames, or on all."""

    values: np.ndarray = field(repr=False)
    """uint8 [K, H, W], 0..255, usually memory-mapped."""
    indices: tuple[int, ...]
    """The K frames it holds for, ascending."""

    def complete(self, frames: int) -> bool:
        """Whether every one of ``frames`` frames has a mask."""
        return len(self.indices) == frames

    def get(self, t: int) -> np.ndarray | None:
        """Opacity of frame ``t``, uint8 [H, W], or None where it is not known."""
        place = bisect_left(self.indices, t)
        return self.values[place] if place < len(self.indices) and self.indices[place] == t else None


@dataclass(frozen=True)
class FrameSet:
    """The frames that masks have to be matched to."""

    used: int
    """Number of frames in the clip."""
    total: int | None
    """Number of frames in the source, where known; more than ``used`` when ``max_frames`` left some out."""
    stems: tuple[str, ...]
    """File stems of all source frames if they are images, else empty."""
    original: tuple[int, int]
    """(height, width) in the source."""
    size: tuple[int, int]
    """(height, width) in the clip."""


def load_masks(
    path: Path | Sequence[tuple[str, Path]], frames: FrameSet, cache: Path
) -> tuple[dict[str, LayerMask], dict[str, str]]:
    """Read masks into ``cache``: layers front to back, and a digest of each.

    Args:
        path: a folder of masks (one layer; several where they are palette images of several objects), a folder of named
            sub-folders (front to back by name), or a single image, which is the mask of frame 0; or names and folders.

    Raises:
        InputError: missing, of another size, unmatched or too many, or black throughout.
    """
    if isinstance(path, Path) and not path.exists():
        raise InputError(f"The masks '{path}' do not exist; give a folder of PNGs or one PNG.")
    layers: dict[str, LayerMask] = {}
    digests: dict[str, str] = {}
    for name, files, objects in _layers(path, frames):
        with array_writer(cache / "masks" / f"{name}.npy") as writer:
            scale = _is_zero_one(files) and objects is None
            seen = False
            for file in files.values():
                mask = _resized_mask(file, objects, scale, frames)
                seen = seen or bool(mask.any())
                writer.append(mask)
            if not seen:
                raise InputError(f"All {len(files)} masks of layer '{name}' are black; paint what belongs to it white.")
        layers[name] = LayerMask(open_array(cache / "masks" / f"{name}.npy"), tuple(files))
        digests[name] = writer.digest
        log.info("masks of layer '%s': %d of %d frames", name, len(files), frames.used)
    return layers, digests


def _layers(
    path: Path | Sequence[tuple[str, Path]], frames: FrameSet
) -> Iterator[tuple[str, dict[int, Path], frozenset[int] | None]]:
    """(name, files by frame, palette indices that belong to the layer) of every layer, front to back."""
    if not isinstance(path, Path):
        for name, folder in path:
            yield name, match_frames(images_in(folder), frames), None
        return
    if path.is_file():
        yield from _palette_layers({0: path})
        return
    inner = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".") and images_in(p)]
    inner.sort(key=lambda p: natural_key(p.name))
    flat = images_in(path)
    if flat and inner:
        raise InputError(f"'{path}' holds masks and folders of masks ('{inner[0].name}'); keep one kind.")
    if flat:
        yield from _palette_layers(match_frames(flat, frames))
        return
    named = [p for p in inner if p.name != BACKGROUND]
    if len(named) < len(inner):
        log.warning("the masks of '%s' are not used: the background is what no other layer covers", BACKGROUND)
    if not named:
        raise InputError(f"The folder '{path}' holds no masks; put PNGs in it, or one folder of PNGs for each layer.")
    for folder in named:
        files = match_frames(images_in(folder), frames)
        yield folder.name, files, _objects(files)


def _palette_layers(files: dict[int, Path]) -> Iterator[tuple[str, dict[int, Path], frozenset[int] | None]]:
    objects = _objects(files)
    if objects is None or len(objects) <= 1:
        yield FOREGROUND, files, objects
        return
    for index in sorted(objects):
        yield f"object-{index}", files, frozenset({index})


def match_frames(files: list[Path], frames: FrameSet) -> dict[int, Path]:
    """Which mask is of which frame, for the frames in use: by stem, else by number, else by order if none is missing.

    Raises:
        InputError: more masks than frames, or masks that fit no frame.
    """
    total = frames.total
    if total is not None and len(files) > total:
        raise InputError(f"'{files[0].parent}' holds {len(files)} masks for a clip of {total} frames.")
    matched = _by_stem(files, frames.stems) if frames.stems else _by_number(files, frames)
    used = {t: file for t, file in sorted(matched.items()) if t < frames.used}
    if not used:
        raise InputError(f"No mask in '{files[0].parent}' is of the first {frames.used} frames, which are used.")
    return used


def _number(stem: str) -> int | None:
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None


def _by_stem(files: list[Path], stems: tuple[str, ...]) -> dict[int, Path]:
    for key in (str, _number):
        places = {key(stem): t for t, stem in enumerate(stems)}
        matched = {places[key(file.stem)]: file for file in files if key(file.stem) in places}
        if None not in places and len(places) == len(stems) and len(matched) == len(files):
            return matched
    if len(files) == len(stems):
        return dict(enumerate(files))
    odd = next(file for file in files if file.stem not in stems)
    span = f"'{stems[0]}' to '{stems[-1]}'"
    raise InputError(f"The mask '{odd}' fits no frame; name masks like the frames, which are {span}.")


def _by_number(files: list[Path], frames: FrameSet) -> dict[int, Path]:
    numbers = [_number(file.stem) for file in files]
    # One mask for each frame in use, counted from 0 or 1 without gaps, is taken in order even when frames are left out.
    counted = numbers in (list(range(len(files))), list(range(1, len(files) + 1)))
    if len(files) == frames.total or (counted and len(files) == frames.used):
        return dict(enumerate(files))
    limit = frames.total
    for file, number in zip(files, numbers, strict=True):
        if number is None or (limit is not None and number >= limit):
            last = f" to {limit - 1}" if limit is not None else " on"
            raise InputError(f"The mask '{file}' fits no frame; name masks by the frame's number, from 0{last}.")
    matched = {number: file for number, file in zip(numbers, files, strict=True) if number is not None}
    if len(matched) < len(files):
        raise InputError(f"Two masks in '{files[0].parent}' have the same number; keep one for each frame.")
    return matched


def _open(path: Path) -> Image.Image:
    image_size(path)
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"The mask '{path}' is damaged: its pixels cannot be decoded.") from error
    return image


def _objects(files: dict[int, Path]) -> frozenset[int] | None:
    """Object indices in palette masks (DAVIS 2017), or None where the masks are ordinary pictures."""
    found: set[int] = set()
    for path in files.values():
        image = _open(path)
        if image.mode != "P":
            return None
        used = np.flatnonzero(image.histogram()[:256])
        palette = np.asarray(image.getpalette("RGB"), dtype=np.int16).reshape(-1, 3)
        used = used[used < len(palette)]
        # A palette of greys alone is a grey picture that some program stored with a palette.
        if np.ptp(palette[used], axis=1).any():
            found.update(int(index) for index in used if index not in (0, VOID_INDEX))
    return frozenset(found) or None


def _is_zero_one(files: dict[int, Path]) -> bool:
    """Whether a layer's pictures hold nothing above 1, so that 1 means opaque."""
    return all(read_mask(path).max() <= 1 for path in files.values())


def read_mask(path: Path, objects: frozenset[int] | None = None) -> np.ndarray:
    """One mask as uint8 [H, W], 0..255: palette indices in ``objects``, else varying alpha, else luminance.

    Raises:
        InputError: missing, too large, not an image, or damaged.
    """
    image = _open(path)
    if objects is not None and image.mode == "P":
        return np.isin(np.asarray(image), list(objects)).astype(np.uint8) * 255
    if image.mode in ("I;16", "I;16B", "I"):
        return (np.asarray(image).astype(np.float64).clip(0, 65535) / 257.0 + 0.5).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return alpha
    return np.asarray(image.convert("L"))


def _resized_mask(path: Path, objects: frozenset[int] | None, scale: bool, frames: FrameSet) -> np.ndarray:
    mask = read_mask(path, objects)
    if mask.shape not in (frames.original, frames.size):
        seen, wanted = f"{mask.shape[1]}x{mask.shape[0]}", f"{frames.original[1]}x{frames.original[0]}"
        raise InputError(f"The mask '{path}' is {seen} and the frames are {wanted}; make masks of the frames' size.")
    return resize(mask * np.uint8(255) if scale else mask, frames.size)
