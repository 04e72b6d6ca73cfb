"""Text-driven editors at work on a fit's canvases, and on its frames as the baseline."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from canon.editors.diffusion.canvases import painted, regions, repainted
from canon.editors.diffusion.models import fingerprint, memory_told
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.diffusion.painters import Painter
from canon.edits import Edit, Over, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.storage import to_float, to_uint8


def paint_canvases(fit: Fit, config: DiffusionConfig, editor: str, kind: type[Painter[Any]]) -> Edit:
    """A layer's canvases as a painter makes them.

    Raises:
        InputError: unknown layer or segment, a mask or a model that cannot be used.
    """
    name = fit.layer(config.layer or fit.layers[0]).name
    found = regions(fit, name, config)
    painter = kind(config)
    paint = repainted(fit, name, found, lambda region: painted(region.image, region.area, painter.hinted(region.hint)))
    return as_edit(fit, name, paint, config, editor)


def as_edit(fit: Fit, layer: str, paint: Over, config: DiffusionConfig, editor: str, files: Sequence[str] = ()) -> Edit:
    """Paint on a layer as an edit that says all that it depends on."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")}
    others = [getattr(config, name, "") for name in ("ip_adapter", "controlnet", "annotator", "segmenter")]
    weights = {name: fingerprint(name) for name in (*config.lora, *others) if name}
    found = {"model_hash": fingerprint(config.model), "weights": weights, "versions": versions}
    options = {**asdict(config), "layer": layer, **found}
    read = [path for path in (config.mask, config.exemplar, getattr(config, "hint", ""), *files) if path]
    return Edit([Step(layer, paint, Provenance.now(editor, options, read))], fit.id)


class PaintedFrames:
    """Every frame painted by itself and laid over the source by the layer's weight, uint8 [H, W, 3]."""

    def __init__(self, fit: Fit, config: DiffusionConfig, kind: type[Painter[Any]]) -> None:
        """Load the model, and paint frames, when they are asked for.

        Raises:
            InputError: unknown layer, or an option that means a part of the canvas.
        """
        for option in ("mask", "segment", "regions", "hint"):
            if getattr(config, option, None) not in (None, (), ""):
                raise InputError(f"The edit's --{option} is of the canvas, so that it has no frame-by-frame baseline.")
        self.fit, self.config, self.kind = fit, config, kind
        self.layer = fit.layers.index(fit.layer(config.layer or fit.layers[0]).name)

    @cached_property
    def painter(self) -> Painter[Any]:
        """With its model."""
        return self.kind(self.config)

    def __len__(self) -> int:
        return len(self.fit)

    def __getitem__(self, t: int, /) -> np.ndarray:
        source = to_float(np.asarray(self.fit.clip.frames[self.fit.index(t)]))
        weight = self.fit.weights(t)[self.layer]
        with memory_told():
            made = painted(source, weight, self.painter)
        return to_uint8(source + weight[..., None] * (made - source))
