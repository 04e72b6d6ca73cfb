"""A canonical image repainted by a description, its structure held by a ControlNet (Zhang et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import ControlConfig, check_strength


@dataclass
class ControlnetConfig(ControlConfig):
    """Repaint a layer by a description, keeping its edges or depth."""

    strength: float = 0.9
    """How far to go from the colours that are there: 1 = only the prompt and the structure count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strength(self.strength, self.steps)


class Controlnet(DiffusionEditor):
    """Repaints a layer's canonical image along its own edges or depth; see :class:`ControlnetConfig`."""

    Config = ControlnetConfig
    name = "controlnet"
    painter = "ControlnetPainter"
