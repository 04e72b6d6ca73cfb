"""A canonical image repainted by a description: SDEdit (Meng et al., ICLR 2022), image to image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.options import DiffusionConfig
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class RestyleConfig(DiffusionConfig):
    """Repaint a layer by a description, with a diffusion model."""


class Restyle(Editor):
    """Repaints a layer's canonical image; see :class:`RestyleConfig`.

    Noise is added to the image and taken away again by a model that is told what to see; the strength says how much.
    """

    Config = RestyleConfig

    def __call__(self, fit: Fit, config: RestyleConfig) -> Edit:
        """The edit.

        Raises:
            InputError: unknown layer or segment, a mask or a model that cannot be used.
        """
        from canon.editors.diffusion.running import restyle

        return restyle(fit, config)
