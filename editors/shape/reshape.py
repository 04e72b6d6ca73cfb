"""One frame given another shape, and the whole video with it (Lee et al., Shape-Aware Layered Editing, CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.errors import InputError
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class ReshapeConfig:
    """Give a layer the shape and the look that it has in an edited frame."""

    image: str = ""
    """The edited frame, of the clip's size."""
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

    def __post_init__(self) -> None:
        self.pairs = tuple(map(float, self.pairs))
        if len(self.pairs) % 4:
            raise InputError("Pairs are given as X Y TO_X TO_Y.")
        if not self.image:
            raise InputError("An edited frame is needed: give --image.")


class Reshape(Editor):
    """Changes a layer's shape; see :class:`ReshapeConfig`."""

    Config = ReshapeConfig

    def __call__(self, fit: Fit, config: ReshapeConfig) -> Edit:
        """The edit: a warp of the layer, and paint on it.

        Raises:
            InputError: unknown layer or frame, images that cannot be read or have another size, or no silhouette.
        """
        from canon.editors.shape.reshaping import reshape

        return reshape(fit, config)
