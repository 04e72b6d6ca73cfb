"""A canonical image changed by an instruction: InstructPix2Pix (Brooks et al., 2023), FLUX.1 Kontext, Qwen-Image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import DiffusionConfig
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class InstructConfig(DiffusionConfig):
    """Change a layer by an instruction, such as "turn it into gold"."""

    image_guidance: float = 1.5
    """How much the picture as it is counts (InstructPix2Pix)."""
    updates: int = 0
    """Of a fit in three dimensions: frames that are edited, one after another, while the field is optimised towards all
    of them so far (Instruct-NeRF2NeRF); 0 = the canonical image is edited."""
    update_every: int = 10
    """Steps of optimisation between two of those."""
    update_noise: tuple[float, float] = (0.7, 0.98)
    """Shares of all noise levels between which what the field shows so far is taken up when a frame is edited."""
    rate: float = 0.01
    """Learning rate of the field's tables."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.update_noise = (self.update_noise[0], self.update_noise[1])
        if self.updates < 0 or self.update_every < 1 or not self.rate > 0:
            raise InputError("Updates must be at least 0, the steps between them at least 1, and the rate above 0.")
        if not 0 < self.update_noise[0] <= self.update_noise[1] <= 1:
            raise InputError(f"The noise {self.update_noise} of updates is no range; choose 0 < from <= to <= 1.")
        names = ("update_every", "update_noise", "rate")
        given = [name for name in names if getattr(self, name) != getattr(InstructConfig, name)]
        if given and not self.updates:
            raise InputError(f"--{given[0].replace('_', '-')} goes with --updates; give both, or leave it out.")
        if self.updates and (self.mask or self.segment is not None):
            raise InputError("--mask and --segment are of canvases, and --updates change a field; leave one out.")
        if self.image_guidance < 0:
            raise InputError(f"The image guidance {self.image_guidance:g} is out of range; choose at least 0.")


class Instruct(DiffusionEditor):
    """Changes a layer's canonical image by an instruction; see :class:`InstructConfig`."""

    Config = InstructConfig
    name = "instruct"
    painter = "InstructPainter"

    def edited(self, fit: Fit, config: InstructConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`.

        Raises:
            InputError: as there; or the fit has no third dimension and a field was to be changed.
        """
        if not config.updates:
            return super().edited(fit, config)
        from canon.editors.spatial.dataset import updated

        return updated(fit, config)
