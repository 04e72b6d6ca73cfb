"""VideoSwap (Gu et al., CVPR 2024): a subject replaced by another one, which follows the points of the first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import BOTH, DiffusionConfig, check_attention, check_inversion
from canon.errors import InputError
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.registry import Frames


@dataclass
class SwapConfig(DiffusionConfig):
    """Replace a layer by a subject that is learned from pictures, and that follows points of the layer."""

    steps: int = 30
    """Denoising steps of a full run; inverting takes as many."""
    refine: float = 0.0
    """A swap has no second pass; 0."""
    source_prompt: str = ""
    """What the layer shows as it is."""
    ratio: float = 0.9
    """How far keyframes are inverted to noise: less keeps more of the old subject."""
    concept: str = ""
    """LoRA of the new subject: hub id, folder or .safetensors file."""
    concept_images: tuple[str, ...] = ()
    """Pictures of the new subject to learn it from, or a folder of them; 3 to 10 are enough. Of those with
    transparency only what is opaque is learned."""
    concept_prompt: str = ""
    """What those pictures show; none = the prompt."""
    concept_steps: int = 300
    """Training steps of the concept."""
    concept_rate: float = 0.0
    """Its learning rate; 0 = what suits the model."""
    concept_class: str = ""
    """What the subject is one of, such as "a car", which the model is to remember meanwhile; none = nothing."""
    concept_scale: float = 1.0
    """How much a concept that was learned from pictures counts."""
    points: tuple[str, ...] = ()
    """Points of the layer that the subject follows: X,Y and so on, or one .json or .npz file; they are called by their
    numbers, from 0, or by their names in the file."""
    frame: int = 0
    """The frame that the points are of."""
    drop: tuple[str, ...] = ()
    """Points that the new subject does not follow, by number or name."""
    drag: tuple[str, ...] = ()
    """Points that lie elsewhere on the new subject: POINT=X,Y in the same frame; the layer's area follows."""
    adapter_steps: int = 100
    """Training steps of what tells the model about the points."""
    adapter_rate: float = 1e-3
    """Its learning rate."""
    adapter_scale: float = 1.0
    """How much the points count."""
    keyframes: int = 8
    """How many frames of every segment are drawn, at even distances, and gathered on the canvas; 0 = all."""
    dilate: int = 4
    """Pixels around the layer's area that are drawn anew with it."""
    attention: str = BOTH
    """What a keyframe's self-attention sees in place of itself: none, anchor (the first one), or both (it and the
    previous one)."""
    motion: str = ""
    """Motion module of AnimateDiff that goes with the model, to draw keyframes together: hub id or folder."""
    window: int = 16
    """Keyframes that it sees at once."""
    cache: str = ""
    """Folder where what was learned is kept for the next run; none = beside the concept's pictures or file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("concept_images", "points", "drop", "drag"):
            setattr(self, option, tuple(map(str, getattr(self, option))))
        check_inversion(self.ratio, self.steps, self.scheduler)
        check_attention(self.attention)
        if self.refine:
            raise InputError("A swap has no second pass; leave --refine out.")
        if self.concept and self.concept_images:
            raise InputError("A concept is a file or is learned from pictures; drop --concept or --concept-images.")
        if min(self.concept_steps, self.adapter_steps) < 1 or min(self.concept_rate, self.adapter_rate) < 0:
            raise InputError("Training takes at least 1 step, and no rate below 0.")
        if min(self.keyframes, self.dilate, self.adapter_scale, self.concept_scale) < 0 or self.window < 1:
            raise InputError("Keyframes, dilation and scales must be at least 0, and a window at least 1.")
        if (self.drop or self.drag) and not self.points:
            raise InputError("There are no points to drop or drag; give --points.")
        for text in self.drag:
            if not re.fullmatch(r"[^=]+=[^,=]+,[^,=]+", text):
                raise InputError(f"'{text}' is no drag; give POINT=X,Y, such as 2=140,90.")


class Swap(DiffusionEditor):
    """Replaces a layer by another subject; see :class:`SwapConfig`."""

    Config = SwapConfig
    name = "swap"

    def edited(self, fit: Fit, config: SwapConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`."""
        from canon.editors.diffusion.swapping import swap

        return swap(fit, config)

    def framewise(self, fit: Fit, config: SwapConfig) -> Frames:
        """See :meth:`canon.registry.Editor.framewise`; there is none, since keyframes are drawn together."""
        return Editor.framewise(self, fit, config)
