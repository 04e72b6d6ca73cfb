"""One frame given another shape, and the whole video with it (Lee et al., Shape-Aware Layered Editing, CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.options import MINI
from canon.errors import InputError
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class ReshapeConfig:
    """Give a layer the shape and the look that it has in an edited frame."""

    image: str = ""
    """The edited frame, of the clip's size; none = a model fills in the layer and what is around it by the --prompt."""
    prompt: str = ""
    """What the layer is to look like, for a model that edits the frame and for --refine."""
    mask: str = ""
    """Silhouette of the layer in it, white on black; none = found by what differs from the frame without the layer."""
    frame: int = 0
    """The frame that was edited."""
    layer: str | None = None
    """Layer whose shape changes; none takes the front-most."""
    pairs: tuple[float, ...] = ()
    """Places of the old silhouette and where they are in the new one, where that is matched wrongly: X Y TO_X TO_Y, and
    so on."""
    repaint: bool = True
    """Take over the edited frame's colours as well, not its shape alone."""
    model: str = MINI
    """A diffusers model: its id on the Hugging Face hub, or a folder; canon-mini = the small one that comes along."""
    around: int = 16
    """Pixels around the layer that a model may fill, for a larger shape."""
    refine: int = 0
    """Steps of score distillation of the reshaped layer towards the prompt; 0 = none."""
    seed: int = 0
    """Of the model's noise."""
    device: str | None = None
    """Such as cpu or cuda; none = CUDA if there is one."""

    def __post_init__(self) -> None:
        self.pairs = tuple(map(float, self.pairs))
        if len(self.pairs) % 4:
            raise InputError("Pairs are given as X Y TO_X TO_Y.")
        if not self.image and not self.prompt.strip():
            raise InputError("An edited frame is needed: give --image, or a --prompt by which a model edits it.")
        if self.image and self.prompt.strip() and not self.refine:
            raise InputError("With an --image, a --prompt is for --refine: give its steps, or leave the prompt out.")
        if self.refine and not self.prompt.strip():
            raise InputError("Refinement needs a --prompt: say what the layer is to look like.")
        if self.around < 0 or self.refine < 0:
            raise InputError("The pixels around the layer and the steps of --refine must be at least 0.")


class Reshape(Editor):
    """Changes a layer's shape; see :class:`ReshapeConfig`."""

    Config = ReshapeConfig

    def __call__(self, fit: Fit, config: ReshapeConfig) -> Edit:
        """The edit: a warp of the layer, and paint on it.

        Raises:
            InputError: unknown layer or frame, images that cannot be read or have another size, no silhouette, or a
                model that cannot be used.
        """
        from canon.editors.shape.reshaping import reshape

        return reshape(fit, config)
