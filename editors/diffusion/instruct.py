"""A canonical image changed by an instruction: InstructPix2Pix (Brooks et al., 2023), FLUX.1 Kontext, Qwen-Image."""

from __future__ import annotations

from dataclasses import dataclass

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import DiffusionConfig
from canon.errors import InputError


@dataclass
class InstructConfig(DiffusionConfig):
    """Change a layer by an instruction, such as "turn it into gold"."""

    image_guidance: float = 1.5
    """How much the picture as it is counts (InstructPix2Pix)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_guidance < 0:
            raise InputError(f"The image guidance {self.image_guidance:g} is out of range; choose at least 0.")


class Instruct(DiffusionEditor):
    """Changes a layer's canonical image by an instruction; see :class:`InstructConfig`."""

    Config = InstructConfig
    name = "instruct"
    painter = "InstructPainter"
