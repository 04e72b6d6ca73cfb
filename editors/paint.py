"""Paint from any paint program: an edited canvas, a picture laid over it, or an edited frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class PaintConfig:
    """Change a canonical image, or one frame, by hand."""

    image: Any
    """The painted image: a file (PNG, TIFF, ...), or one of layers (.ora, .psd), of which those above the canonical
    image are laid over it; in Python also a canon.layered_images.LayeredImage, or an array [h, w, 3 or 4], uint8,
    uint16 or 0..1."""
    layer: str | None = None
    """Layer that was painted on; none takes the front-most, or with a frame every layer that the paint falls on."""
    overlay: bool = False
    """The image is not a changed canonical image but paint on transparency that is put on top of it."""
    segment: int = 0
    """Which canvas was painted on, from 0, where the clip had to be split in time and the layer has several."""
    carry: bool = True
    """Where a layer has several canvases that overlap in time: carry the paint on to the others."""
    reference: Any = None
    """The picture that was painted on, if it is not one of canon's: the canonical image of CoDeF or an atlas of
    Layered Neural Atlases, say. It is matched to this fit's canonical image, and what was changed is carried over."""
    frame: int | None = None
    """The image is this frame, changed: what differs from the source is carried to all other frames."""


class Paint(Editor):
    """Paints on a layer; see :class:`PaintConfig`.

    A changed canonical image is compared with the exported one (8 bits): texels that are equal within one level are
    unedited, the others cover the source. It may be smaller or larger, of the same aspect. What was erased counts as
    unedited (see the editor "remove").

    In a file of layers the canonical image is the layer named "canonical", else the bottom one (none with ``overlay``).
    It is compared like that, unless it is hidden; what the other visible layers show together is laid over it.
    """

    Config = PaintConfig

    def __call__(self, fit: Fit, config: PaintConfig) -> Edit:
        """The edit.

        Raises:
            InputError: unknown layer, an image that cannot be read, or one of another aspect or size.
        """
        from canon.editors.painting import paint

        return paint(fit, config)
