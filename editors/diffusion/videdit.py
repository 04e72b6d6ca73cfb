"""VidEdit (Couairon et al., 2023): regions of the canvas, each with its own prompt, repainted from inverted noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import ControlConfig, check_inversion
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class VidEditConfig(ControlConfig):
    """Repaint regions of a layer, each by its own description, along its edges and from its own noise."""

    needs_prompt: ClassVar[bool] = False

    regions: tuple[str, ...] = ()
    """AREA=PROMPT, several one after the other; an area is a mask image, a box x,y,width,height in texels, or, by the
    segmenter, a name or a point x,y. None = all of the layer, by --prompt."""
    segmenter: str = ""
    """transformers model: Mask2Former finds things by name, SAM and SAM 2 what is at a point."""
    ratio: float = 0.8
    """How far the canvas is inverted to noise: less keeps more of it."""
    source_prompt: str = ""
    """What the layer shows as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.regions = tuple(self.regions)
        check_inversion(self.ratio, self.steps, self.scheduler)
        if not self.regions and not self.prompt.strip():
            raise InputError("A prompt is needed: say with --prompt or --regions what the layer is to look like.")
        for text in self.regions:
            area, _, prompt = text.rpartition("=")
            if not area.strip() or not prompt.strip():
                raise InputError(f"The region '{text}' must be AREA=PROMPT, such as 40,20,200,160=gold.")


class VidEdit(DiffusionEditor):
    """Repaints regions of a layer's canonical image; see :class:`VidEditConfig`.

    A region is inverted to noise as far as its ratio says, and denoised by its prompt along its edges; around it, the
    latents are those of the source at every step.
    """

    Config = VidEditConfig
    name = "videdit"
    painter = "VidEditPainter"

    def edited(self, fit: Fit, config: VidEditConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`."""
        from canon.editors.diffusion.prompted_regions import videdit

        return videdit(fit, config)
