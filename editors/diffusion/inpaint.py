"""A masked part of a canonical image filled in by a description."""

from __future__ import annotations

from dataclasses import dataclass

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import DiffusionConfig, check_strength
from canon.errors import InputError


@dataclass
class InpaintConfig(DiffusionConfig):
    """Fill a masked part of a layer by a description, in keeping with what is around it."""

    strength: float = 1.0
    """How far to go from what is there: 1 = nothing of it counts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strength(self.strength, self.steps)
        if self.mask is None:
            raise InputError("A mask is needed: say with --mask where to fill in, white on black.")


class Inpaint(DiffusionEditor):
    """Fills in a part of a layer's canonical image; see :class:`InpaintConfig`.

    Models made for inpainting see the mask; others have the rest of the image blended into their latents at every step
    (Avrahami et al., SIGGRAPH 2023).
    """

    Config = InpaintConfig
    name = "inpaint"
    painter = "InpaintPainter"
