"""Colour, exposure and hue of one layer; all of the source's detail stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from canon.boxes import box_size
from canon.edits import Delta, Edit, Provenance, Step, in_segment
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.fits import Fit


@dataclass
class GradeConfig:
    """Change the colours of a layer."""

    layer: str | None = None
    """Layer to grade; none takes the front-most."""
    exposure: float = 0.0
    """Stops, in linear light: 1 = twice as bright."""
    hue: float = 0.0
    """Degrees by which hues turn; 120 turns red to green."""
    saturation: float = 1.0
    """0 = grey, 1 = unchanged, 2 = twice as colourful."""
    contrast: float = 1.0
    """Factor about middle grey."""
    temperature: float = 0.0
    """From -1 (bluer) to 1 (warmer)."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors for red, green and blue."""
    mask: str | None = None
    """Image of the canvas's aspect whose brightness says how much applies where; none = everywhere."""
    segment: int | None = None
    """Which canvas, from 0, the mask is of, where the layer has several (it is carried on to those that overlap it in
    time); without a mask, the one that alone is graded. None = all, or the first one's mask."""


class Grade(Editor):
    """Grades one layer; see :class:`GradeConfig`."""

    Config = GradeConfig

    def __call__(self, fit: Fit, config: GradeConfig) -> Edit:
        """The grade.

        Raises:
            InputError: unknown layer, a value out of range, or a mask that cannot be read or has another aspect.
        """
        from canon.carrying import carry, read_mask

        layer = fit.layer(config.layer or fit.layers[0])
        box = fit.segment_box(layer.name, config.segment or 0)
        mask = None if config.mask is None else read_mask(config.mask, fit, layer.name, config.segment or 0)
        if mask is None and config.segment is not None:
            mask = in_segment(np.ones(box_size(box), np.float32), layer.canvas_size, box)
        elif mask is not None and len(fit.segments(layer.name)) > 1:
            placed = in_segment(mask.astype(np.float32), layer.canvas_size, box)[..., None]
            mask = carry(fit, layer.name, placed, config.segment or 0)[..., 0]
        numbers = {name: getattr(config, name) for name in Delta().parameters}
        provenance = Provenance.now("grade", config, [config.mask] if config.mask is not None else [])
        return Edit([Step(layer.name, Delta(**numbers, mask=mask), provenance)], fit.id)
