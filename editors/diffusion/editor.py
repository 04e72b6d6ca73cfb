"""What the text-driven editors have in common as editors; models are loaded only when one is at work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.registry import Frames


class DiffusionEditor(Editor):
    """An editor that makes another picture of a layer's canvases, or, as a baseline, of every frame."""

    name: ClassVar[str]
    painter: ClassVar[str]
    """Its class in :mod:`canon.editors.diffusion.painters`."""

    def __call__(self, fit: Fit, config: Any) -> Edit:
        """The edit.

        Raises:
            InputError: unknown layer or segment, a mask or a model that cannot be used.
        """
        from canon.editors.diffusion.models import memory_told

        with memory_told():
            return self.edited(fit, config)

    def edited(self, fit: Fit, config: Any) -> Edit:
        """The edit, as a call gives it."""
        from canon.editors.diffusion import painters
        from canon.editors.diffusion.running import paint_canvases

        return paint_canvases(fit, config, self.name, getattr(painters, self.painter))

    def framewise(self, fit: Fit, config: Any) -> Frames:
        """Every frame painted by itself, with the same model, prompt and noise: what canonical edits are compared with.

        Raises:
            InputError: as of a call, some of it when the first frame is asked for; or an edit of a part of the canvas.
        """
        from canon.editors.diffusion import painters
        from canon.editors.diffusion.running import PaintedFrames

        return PaintedFrames(fit, config, getattr(painters, self.painter))
