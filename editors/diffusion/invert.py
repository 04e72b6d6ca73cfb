"""A canonical image repainted from its own noise: DDIM inversion (Song et al., ICLR 2021) with blended latents."""

from __future__ import annotations

from dataclasses import dataclass

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import DiffusionConfig, check_inversion


@dataclass
class InvertConfig(DiffusionConfig):
    """Repaint a layer from the noise that it would itself come from, which keeps more of it than fresh noise."""

    ratio: float = 0.7
    """How far it is turned to noise: 0 = not at all, 1 = wholly."""
    source_prompt: str = ""
    """What the layer shows as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inversion(self.ratio, self.steps, self.scheduler)


class Invert(DiffusionEditor):
    """Repaints a layer's canonical image from its inverted noise; see :class:`InvertConfig`."""

    Config = InvertConfig
    name = "invert"
    painter = "InvertPainter"
