"""Canvases as pictures for an image model, and what it made of them as paint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from canon.boxes import Box, box_size
from canon.carrying import carry_paint, on_whole_canvas, read_mask
from canon.edits import Over, resize_to
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.sampling import fill_unseen

_MARGIN = 16  # texels around what is edited that the model sees besides
_MULTIPLE = 64
"""Of which models like their pictures' sides to be; small ones take smaller steps."""


@dataclass(frozen=True)
class Region:
    """A part of a layer's whole canvas that is to be edited.

    Attributes:
        segment: that it lies in.
        box: rows and columns, all that the model sees.
        image: float32 [h, w, 3], what is there; unobserved texels are filled smoothly.
        area: float32 [h, w] in 0..1, how much of the edit is wanted where.
    """

    segment: int
    box: Box
    image: np.ndarray
    area: np.ndarray


def regions(fit: Fit, layer: str, segment: int | None, mask: str | None, feather: float) -> list[Region]:
    """What is to be edited on a layer's canvases, one region for each segment.

    Raises:
        InputError: unknown layer or segment, or a mask that cannot be read, has another aspect, or selects nothing.
    """
    canvas, found = fit.canvas(layer), []
    count = len(fit.segments(layer))
    for k in range(count) if segment is None and mask is None else [segment or 0]:
        box = fit.segment_box(layer, k)
        seen = canvas.coverage[box] > 0
        area = canvas.rgba[box][..., 3] * seen
        if mask is not None:
            wanted = resize_to(read_mask(mask, fit, layer, k).astype(np.float32), box_size(box))
            area = area * (cv2.GaussianBlur(wanted, (0, 0), feather / 2) if feather > 0 else wanted)
        around = nonzero_box((area > 0.01).astype(np.uint8))
        if around is None:
            if mask is not None:
                raise InputError(f"The mask '{mask}' selects nothing of the layer '{layer}'.")
            continue
        rows, columns = (
            slice(max(side.start - _MARGIN, 0), min(side.stop + _MARGIN, length))
            for side, length in zip(around, box_size(box), strict=True)
        )
        colours = torch.from_numpy(np.ascontiguousarray(canvas.rgba[box][rows, columns][..., :3]))
        image = fill_unseen(colours, torch.from_numpy(seen[rows, columns].astype(np.float32))).numpy()
        place = tuple(slice(o.start + s.start, o.start + s.stop) for o, s in zip(box, (rows, columns), strict=True))
        found.append(Region(k, (place[0], place[1]), image, area[rows, columns]))
    return found


def working_size(size: tuple[int, int], native: int) -> tuple[int, int]:
    """(height, width) at which a model that is made for ``native`` pixels a side works on a picture of ``size``."""
    step = _MULTIPLE if native >= 8 * _MULTIPLE else 8
    scale = native / (size[0] * size[1]) ** 0.5
    height, width = (max(round(length * scale / step) * step, step) for length in size)
    return height, width


def repainted(fit: Fit, layer: str, found: list[Region], native: int, make: Callable[[np.ndarray], np.ndarray]) -> Over:
    """Paint on a layer's whole canvas: every region as ``make`` repaints it.

    Where segments overlap in time, what was made of the longest one is carried on to its neighbours, so that they agree
    on all that both show.

    Args:
        make: uint8 [h, w, 3] at the model's size -> uint8 [h, w, 3].
    """
    rgb: np.ndarray | float = 0.0
    covered: np.ndarray | float = 0.0
    lengths = [last - first for first, last in fit.segments(layer)]
    for region in sorted(found, key=lambda region: lengths[region.segment]):
        size = box_size(region.box)
        shown = cv2.resize(region.image, working_size(size, native)[::-1], interpolation=cv2.INTER_AREA)
        made = make((np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8))
        colours = cv2.resize(made, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
        paint = on_whole_canvas(fit, layer, Over(np.dstack([colours.clip(0, 1), region.area])), region.box)
        rgba = carry_paint(fit, layer, paint, region.segment).rgba
        alpha = rgba[..., 3:]
        rgb, covered = rgb * (1 - alpha) + rgba[..., :3] * alpha, covered * (1 - alpha) + alpha
    assert isinstance(covered, np.ndarray)
    return Over(np.dstack([rgb / np.maximum(covered, 1e-6), covered]))
