"""Optical flow that the scripts of published projects wrote: of Layered Neural Atlases, and of CoDeF.

The first writes ``A_B.npy`` [h, w, 2] for neighbouring image files A and B, both ways; the second ``000000.npy`` and so
on, [1, 2, h, w], from each frame to the next, of pictures that were padded to multiples of eight.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from canon.coordinates import Size
from canon.errors import InputError
from canon.sources import IMAGE_SUFFIXES, natural_key

_PADDING = 8
_FAR = 9e3
"""Pixels from which on it means that there is no flow: CoDeF's scripts write 10,000 where a mask hides it."""


def imported_flow(folder: Path, count: int, size: Size) -> Callable[[int, int], np.ndarray | None]:
    """Flow between frames t and s, neighbours: float32 [H, W, 2] in pixels, nan where it is not known, or None.

    Args:
        count: frames that it has to be of, at least.
        size: of the frames (height, width).

    Raises:
        InputError: there is no such folder, or it holds no flow of so many frames.
    """
    files = sorted(folder.glob("*.npy"), key=lambda path: natural_key(path.name)) if folder.is_dir() else []
    if not files:
        raise InputError(f"The folder '{folder}' holds no optical flow (.npy); leave --flow out to have it found.")
    pairs = _pairs(files)
    missing = [t for t in range(count - 1) if (t, t + 1) not in pairs]
    if missing:
        raise InputError(f"'{folder}' holds no flow from frame {missing[0]} to the next; the clip has {count} frames.")

    for path in files:
        _open(path, size)

    def between(t: int, s: int) -> np.ndarray | None:
        return None if (t, s) not in pairs else _read(pairs[t, s], size)

    return between


def _pairs(files: list[Path]) -> dict[tuple[int, int], Path]:
    ends = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    named = [re.fullmatch(rf"(.+(?:{ends}))_(.+(?:{ends}))", path.stem, re.IGNORECASE) for path in files]
    if not all(named):
        return {(t, t + 1): path for t, path in enumerate(files)}
    both = [(match[1], match[2]) for match in named if match is not None]
    order = {name: t for t, name in enumerate(sorted({n for pair in both for n in pair}, key=natural_key))}
    return {(order[a], order[b]): path for (a, b), path in zip(both, files, strict=True)}


def _open(path: Path, size: Size) -> np.ndarray:
    """[h, w, 2], memory-mapped."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"The flow '{path}' is damaged: it cannot be read.") from error
    planes = stored.ndim == 4 and stored.shape[:2] == (1, 2)
    shape = stored.shape[2:] if planes else stored.shape[:2]
    right = planes or (stored.ndim == 3 and stored.shape[2] == 2)
    if not right or stored.dtype.kind != "f" or 0 in shape or max(shape) > 8 * max(size):
        raise InputError(f"'{path}' is {stored.dtype} {list(stored.shape)}, which is no flow of frames of this size.")
    return stored[0].transpose(1, 2, 0) if planes else stored


def _read(path: Path, size: Size) -> np.ndarray:
    flow = np.array(_open(path, size), np.float32)
    flow[~(np.abs(flow) < _FAR).all(axis=-1)] = np.nan
    shape = flow.shape[:2]
    spare = shape[0] - size[0], shape[1] - size[1]
    if all(0 <= more < _PADDING for more in spare):
        top, left = spare[0] // 2, spare[1] // 2
        return np.ascontiguousarray(flow[top : top + size[0], left : left + size[1]])
    scale = np.array([size[1] / shape[1], size[0] / shape[0]], np.float32)
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR) * scale
