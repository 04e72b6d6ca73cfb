"""Text-driven editors at work on a fit's canvases, and on its frames as the baseline."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from canon.editors.diffusion.canvases import painted, regions, repainted
from canon.editors.diffusion.models import fingerprint
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
    found = regions(fit, name, config.segment, config.mask, config.feather)
    painter = kind(config)
    with memory_told():
        paint = repainted(fit, name, found, lambda region: painted(region.image, region.area, painter))
    return as_edit(fit, name, paint, config, editor)


def as_edit(fit: Fit, layer: str, paint: Over, config: DiffusionConfig, editor: str, files: Sequence[str] = ()) -> Edit:
    """Paint on a layer as an edit that says all that it depends on."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")}
    options = {**asdict(config), "layer": layer, "model_hash": fingerprint(config.model), "versions": versions}
    read = [path for path in (config.mask, config.exemplar, *files) if path]
    return Edit([Step(layer, paint, Provenance.now(editor, options, read))], fit.id)


class PaintedFrames:
    """Every frame painted by itself and laid over the source by the layer's weight, uint8 [H, W, 3]."""

    def __init__(self, fit: Fit, config: DiffusionConfig, painter: Painter[Any]) -> None:
        """Paint frames when they are asked for.

        Raises:
            InputError: unknown layer, or a mask, which is one of the canvas.
        """
        if config.mask is not None:
            raise InputError("A mask is one of the canvas, so that this edit has no frame-by-frame baseline.")
        self.fit, self.painter = fit, painter
        self.layer = fit.layers.index(fit.layer(config.layer or fit.layers[0]).name)

    def __len__(self) -> int:
        return len(self.fit)

    def __getitem__(self, t: int, /) -> np.ndarray:
        source = to_float(np.asarray(self.fit.clip.frames[self.fit.index(t)]))
        weight = self.fit.weights(t)[self.layer]
        with memory_told():
            made = painted(source, weight, self.painter)
        return to_uint8(source + weight[..., None] * (made - source))


@contextlib.contextmanager
def memory_told() -> Iterator[None]:
    """Say in a sentence what to do where a GPU's memory is too small."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            "The GPU's memory is too small for this; lower --size, add --offload, or use --device cpu."
        ) from error
