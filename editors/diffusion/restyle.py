"""A canonical image repainted by a description: SDEdit (Meng et al., ICLR 2022), image to image."""

from __future__ import annotations

from dataclasses import dataclass

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import DiffusionConfig, check_strength


@dataclass
class RestyleConfig(DiffusionConfig):
    """Repaint a layer by a description, with a diffusion model."""

    strength: float = 0.75
    """How far to go from what is there: 0 = nothing changes, 1 = only the prompt counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strength(self.strength, self.steps)


class Restyle(DiffusionEditor):
    """Repaints a layer's canonical image; see :class:`RestyleConfig`.

    Noise is added to the image and taken away again by a model that is told what to see; the strength says how much.
    """

    Config = RestyleConfig
    name = "restyle"
    painter = "RestylePainter"
