"""StableVideo (Chai et al., ICCV 2023): keyframes edited one after another, and brought together on the canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import NONE, ControlConfig, check_attention, check_strength
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class StableVideoConfig(ControlConfig):
    """Edit keyframes by a description, each beginning from the ones before, and gather them on the canvas."""

    guidance: float = 9.0
    """How much the prompt counts against what the model finds likely."""
    steps: int = 20
    """Denoising steps of a full run."""
    keyframes: int = 3
    """How many frames of every segment are edited, at even distances; a background is one picture: 0."""
    at: tuple[int, ...] = ()
    """These frames instead, in this order."""
    strength: float = 0.85
    """How far later keyframes go from what the first ones made of them; the first begins from noise alone."""
    attention: str = NONE
    """What later keyframes' self-attention sees in place of themselves: none, anchor (the first keyframe), or both (it
    and the previous one), as in Pix2Video."""
    aggregation_steps: int = 60
    """Training steps of the small network that brings keyframes together; 0 = their median alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at = tuple(self.at)
        check_strength(self.strength, self.steps)
        check_attention(self.attention)
        if self.keyframes < 0 or self.aggregation_steps < 0:
            raise InputError("Keyframes and aggregation steps must be at least 0.")
        for option in ("mask", "hint"):
            if getattr(self, option) and (self.keyframes or self.at):
                raise InputError(
                    f"A {option} is one of the canvas; with --{option}, edit the canvas as one picture: --keyframes 0."
                )


class StableVideo(DiffusionEditor):
    """Edits keyframes with inter-frame propagation, and aggregates them on the canvas; see :class:`StableVideoConfig`.

    The layer behind all others is edited as one picture, as in the paper. So is what no keyframe shows of the others,
    in keeping with what they made.
    """

    Config = StableVideoConfig
    name = "stablevideo"
    painter = "StableVideoPainter"

    def edited(self, fit: Fit, config: StableVideoConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`."""
        from canon.editors.diffusion.keyframes import stablevideo

        return stablevideo(fit, config)
