"""What the VidEdit editor does: finding the regions that are named, and repainting each by its own prompt."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from canon import progress
from canon.boxes import Box, box_size
from canon.carrying import read_mask, straight
from canon.editors.diffusion.annotators import segment, segment_at
from canon.editors.diffusion.canvases import Region, cropped, painted, regions, repainted
from canon.editors.diffusion.options import MINI
from canon.editors.diffusion.painters import VidEditPainter, tell_unknown_words
from canon.editors.diffusion.running import as_edit
from canon.editors.diffusion.videdit import VidEditConfig
from canon.edits import Edit, resize_to
from canon.errors import InputError
from canon.fits import Fit

_BOX = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*")
_POINT = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*")


def videdit(fit: Fit, config: VidEditConfig) -> Edit:
    """See :class:`canon.editors.diffusion.videdit.VidEdit`."""
    name = fit.layer(config.layer or fit.layers[0]).name
    found = regions(fit, name, config)
    named = [text.rpartition("=")[::2] for text in config.regions]
    selected: set[str] = set()
    painter = VidEditPainter(config)
    if config.model == MINI:
        tell_unknown_words(" ".join(prompt for _, prompt in named))
    files = [area for area, _ in named if Path(area).is_file()]

    def made(region: Region) -> np.ndarray:
        if not named:
            return painted(region.image, region.area, painter.hinted(region.hint))
        canvas = RegionPaint(region.image)
        for area, prompt in progress.parts(named):
            own = _area(fit, name, region, area, painter) * region.area
            part = cropped(own)
            if part is not None:
                painter.config = replace(config, prompt=prompt)
                at_work = painter.hinted(None if region.hint is None else region.hint[part])
                canvas.put(part, painted(canvas.shown(part), own[part], at_work), own[part])
                selected.add(area)
        return canvas.rgba

    paint = repainted(fit, name, found, made)
    for area, _ in named:
        if area not in selected:
            raise InputError(f"The region '{area}' selects nothing of the layer '{name}'; draw a mask instead.")
    return as_edit(fit, name, paint, config, "videdit", files)


class RegionPaint:
    """Regions that were repainted one after the other, over what was there."""

    def __init__(self, image: np.ndarray) -> None:
        """Begin with none, on a picture float32 [h, w, 3]."""
        self.image = image
        self.paint = np.zeros((*image.shape[:2], 4), np.float32)
        """What was repainted, premultiplied."""

    def put(self, part: Box, colours: np.ndarray, alpha: np.ndarray) -> None:
        """Lay [h, w, 3] with alpha [h, w] over a part.

        What lay there gives way only as far as there is no room, so that two soft edges that meet leave no seam of what
        is below them (disjoint over).
        """
        below = self.paint[part]
        left = np.minimum(below[..., 3], 1 - alpha) / np.maximum(below[..., 3], 1e-6)
        self.paint[part] = below * left[..., None] + np.dstack([colours * alpha[..., None], alpha])

    def shown(self, part: Box) -> np.ndarray:
        """A part of the picture with what was repainted, float32 [h, w, 3]."""
        paint = self.paint[part]
        return np.asarray(self.image[part] * (1 - paint[..., 3:]) + paint[..., :3])

    @property
    def rgba(self) -> np.ndarray:
        """What was repainted, float32 [h, w, 4], not premultiplied."""
        return straight(self.paint)


def _area(fit: Fit, layer: str, region: Region, area: str, painter: VidEditPainter) -> np.ndarray:
    """How much of a region's texels belongs to a named area, float32 [h, w] in 0..1."""
    whole = fit.segment_box(layer, region.segment)
    size = box_size(whole)
    numbers = _BOX.fullmatch(area)
    feather = painter.config.feather
    at = _POINT.fullmatch(area)
    placed = numbers or at or Path(area).is_file()
    if placed and region.segment != (painter.config.segment or 0):  # a place is one of one canvas, a name of all
        return np.zeros(region.area.shape, np.float32)
    found: np.ndarray
    if numbers:
        x, y, width, height = (int(value) for value in numbers.groups())
        found = np.zeros(size, np.float32)
        found[y : y + height, x : x + width] = 1
    elif Path(area).is_file():
        found = resize_to(read_mask(area, fit, layer, region.segment).astype(np.float32), size)
    elif painter.config.segmenter:
        shown = fit.canonical(layer, region.segment).rgba[..., :3]
        model, device = painter.config.segmenter, torch.device(painter.model.pipeline.device)
        point = at and (int(at[1]), int(at[2]))
        part = segment_at(shown, point, model, device) if point else segment(shown, area, model, device)
        found = part.astype(np.float32)
    else:
        raise InputError(f"There is no mask '{area}'; to look for it by its name, give --segmenter.")
    if feather:
        found = cv2.GaussianBlur(found, (0, 0), feather / 2)
    rows, columns = (
        slice(part.start - origin.start, part.stop - origin.start)
        for part, origin in zip(region.box, whole, strict=True)
    )
    return np.asarray(found[rows, columns])
