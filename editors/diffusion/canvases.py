"""Canvases as pictures for an image model, and what it made of them as paint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from canon import progress
from canon.boxes import Box, box_size, grown
from canon.carrying import Ways, carry_paint, check_segment, on_whole_canvas, read_mask
from canon.editors.diffusion.models import step_of_sides
from canon.editors.diffusion.options import DiffusionConfig
from canon.edits import Over, resize_to
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.sampling import fill_unseen
from canon.sources import read_rgb
from canon.storage import to_float

if TYPE_CHECKING:
    from canon.editors.diffusion.painters import Painter

_MARGIN = 16  # texels around what is edited that the model sees besides
_WORTH_REFINING = 1.25
"""Times by which a canvas is larger than what was painted from where a second pass adds to it."""


@dataclass(frozen=True)
class Region:
    """A part of a layer's whole canvas that is to be edited.

    Attributes:
        segment: that it lies in.
        box: rows and columns, all that the model sees.
        image: float32 [h, w, 3], what is there; unobserved texels are filled smoothly.
        area: float32 [h, w] in 0..1, how much of the edit is wanted where.
        hint: float32 [h, w, 3] in 0..1, what a ControlNet is to be shown of it, if that was given.
    """

    segment: int
    box: Box
    image: np.ndarray
    area: np.ndarray
    hint: np.ndarray | None = None


def regions(fit: Fit, layer: str, config: DiffusionConfig) -> list[Region]:
    """What is to be edited on a layer's canvases, one region for each segment.

    Raises:
        InputError: unknown layer or segment, or one of which nothing was seen; a mask or a hint that cannot be read or
            has another aspect; a mask that selects nothing.
    """
    segment, mask, feather, hint = config.segment, config.mask, config.feather, getattr(config, "hint", "")
    canvas, found = fit.canvas(layer), []
    count = len(fit.segments(layer))
    for k in range(count) if segment is None and mask is None and not hint else [segment or 0]:
        box = fit.segment_box(layer, k)
        seen = canvas.coverage[box] > 0
        area = canvas.rgba[box][..., 3] * seen
        if mask is not None:
            wanted = resize_to(read_mask(mask, fit, layer, k).astype(np.float32), box_size(box))
            area = area * (cv2.GaussianBlur(wanted, (0, 0), feather / 2) if feather > 0 else wanted)
        part = cropped(area)
        if part is None:
            if mask is not None:
                raise InputError(f"The mask '{mask}' selects nothing of the layer '{layer}'.")
            continue
        colours = torch.from_numpy(np.ascontiguousarray(canvas.rgba[box][part][..., :3]))
        image = fill_unseen(colours, torch.from_numpy(seen[part].astype(np.float32))).numpy()
        place = tuple(slice(o.start + s.start, o.start + s.stop) for o, s in zip(box, part, strict=True))
        shown = _read_hint(hint, fit, layer, k)[part] if hint else None
        found.append(Region(k, (place[0], place[1]), image, area[part], shown))
    if not found:
        raise InputError(
            f"Nothing was seen of the layer '{layer}'{'' if segment is None else f' in segment {segment}'}."
        )
    return found


def _read_hint(path: str, fit: Fit, layer: str, segment: int) -> np.ndarray:
    """An image of a segment's aspect at its size, float32 [h, w, 3] in 0..1.

    Raises:
        InputError: it cannot be read, or has another aspect.
    """
    image = to_float(read_rgb(Path(path)))
    check_segment(f"The hint '{path}' is", (image.shape[0], image.shape[1]), fit, layer, segment)
    return resized(image, box_size(fit.segment_box(layer, segment)))


def cropped(area: np.ndarray) -> Box | None:
    """Rows and columns of what is wanted of [h, w], and some around it; None if nothing is."""
    around = nonzero_box((area > 0.01).astype(np.uint8))
    return None if around is None else grown(around, _MARGIN, (area.shape[0], area.shape[1]))


def working_size(size: tuple[int, int], native: int, step: int) -> tuple[int, int]:
    """(height, width), multiples of ``step``, at which a model for ``native`` pixels a side works on a picture."""
    scale = native / (size[0] * size[1]) ** 0.5
    height, width = (max(round(length * scale / step) * step, step) for length in size)
    return height, width


def painted(image: np.ndarray, area: np.ndarray, painter: Painter[Any]) -> np.ndarray:
    """A picture as a painter makes it, at its own size.

    It is painted at the size that the model is made for; one that is larger is gone over a second time.

    Args:
        image: float32 [h, w, 3] in 0..1.
        area: float32 [h, w] in 0..1, where it is wanted.

    Returns:
        float32 [h, w, 3] in 0..1.
    """
    size, step = (image.shape[0], image.shape[1]), step_of_sides(painter.model)
    working = working_size(size, painter.config.size or painter.model.native, step)
    pixels, few, refine = size[0] * size[1], working[0] * working[1], painter.config.refine
    refine *= pixels**0.5 > _WORTH_REFINING * few**0.5
    painting, refining = progress.shares(few, refine * pixels)
    with painting:
        made = painter.paint(resized(image, working), resized(area, working))
    if refine:
        full = working_size(size, round(pixels**0.5), step)
        with refining:
            made = painter.refine(resized(made, full), resized(image, full))
    return resized(made, size)


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w] or [h, w, C] in 0..1 at another size, averaged when shrinking and cubic when enlarging."""
    if image.shape[:2] == size:
        return np.asarray(image, np.float32)
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.clip(cv2.resize(image.astype(np.float32), size[::-1], interpolation=how), 0, 1)


def repainted(fit: Fit, layer: str, found: list[Region], make: Callable[[Region], np.ndarray]) -> Over:
    """Paint on a layer's whole canvas: every region as ``make`` repaints it.

    Where segments overlap in time, what was made of the longest one is carried on to its neighbours, so that they agree
    on all that both show.

    Args:
        make: region -> float32 [h, w, 3] in 0..1 of its size, wanted where the region is; or [h, w, 4], with an alpha
            of its own.
    """
    ways: Ways = {}
    rgb: np.ndarray | float = 0.0
    covered: np.ndarray | float = 0.0
    lengths = [last - first for first, last in fit.segments(layer)]
    for region in progress.parts(sorted(found, key=lambda region: lengths[region.segment])):
        made = make(region)
        alpha = made[..., 3] if made.shape[2] == 4 else region.area
        paint = on_whole_canvas(fit, layer, Over(np.dstack([made[..., :3], alpha])), region.box)
        rgba = carry_paint(fit, layer, paint, region.segment, ways).rgba
        alpha = rgba[..., 3:]
        rgb, covered = rgb * (1 - alpha) + rgba[..., :3] * alpha, covered * (1 - alpha) + alpha
    assert isinstance(covered, np.ndarray)
    return Over(np.dstack([rgb / np.maximum(covered, 1e-6), covered]))
