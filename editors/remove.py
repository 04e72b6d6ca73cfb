"""The video without a layer: what the background canvas knows takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.edits import Edit, Provenance, Step
from canon.edits import Remove as Removal
from canon.errors import InputError
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.fits import Fit


@dataclass
class RemoveConfig:
    """Take a layer out of the video."""

    layer: str | None = None
    """Layer to remove; none takes the front-most."""
    grow: int = 2
    """Pixels by which the layer's area is widened, so that no rim of it stays."""


class Remove(Editor):
    """Removes one layer; see :class:`RemoveConfig`."""

    Config = RemoveConfig

    def __call__(self, fit: Fit, config: RemoveConfig) -> Edit:
        """The removal.

        Raises:
            InputError: unknown layer, the last layer, or a ``grow`` out of range.
        """
        layer = fit.layer(config.layer or fit.layers[0])
        if layer.opacity is None:
            raise InputError(f"The layer '{layer.name}' cannot be removed: nothing lies behind it.")
        return Edit([Step(layer.name, Removal(config.grow), Provenance.now("remove", config))], fit.id)
