"""Pix2Video (Ceylan et al., ICCV 2023): frames edited one after another, with no canonical image; a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import BOTH, CONTROLS, MINI, DiffusionConfig, check_attention, check_inversion
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.registry import Frames


@dataclass
class Pix2VideoConfig(DiffusionConfig):
    """Edit frames by a description, one after another, and gather them on the canvas; with --framewise, a baseline."""

    steps: int = 50
    """Denoising steps of a full run; inverting takes as many."""
    refine: float = 0.0
    """Strength of a second pass over frames larger than the model's pictures; each has its own, which flickers."""
    ratio: float = 1.0
    """How far frames are inverted to noise: less keeps more of them."""
    source_prompt: str = ""
    """What the frames show as they are."""
    attention: str = BOTH
    """What a frame's self-attention sees in place of itself: none, anchor (the first frame), or both (it and the
    previous one)."""
    pull: float = 0.08
    """Share of the way to what was predicted of the previous frame by which a frame's prediction is pulled in each of
    50 steps, and as far in all in fewer; 0 = none."""
    pulled: float = 0.5
    """Share of the steps, from the noisiest on, in which it is pulled; those that the ratio leaves out count."""
    through_network: bool = False
    """Take the pull's gradient with respect to the noisy latents, through the network, as the paper writes it, in twice
    the time and memory; otherwise with respect to the prediction, as its code does."""
    controlnet: str = ""
    """ControlNet that goes with the model, to keep the structure of every frame: hub id or folder, canon-mini for its
    own (canny); none = frames go by their noise alone."""
    control: str = "depth"
    """What it is shown of a frame: canny, soft-edge, depth, or none for the frame as it is."""
    control_scale: float = 1.0
    """How strongly it holds."""
    annotator: str = ""
    """transformers model that finds depth or edges: hub id or folder; none = a stand-in that needs no weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inversion(self.ratio, self.steps, self.scheduler)
        check_attention(self.attention)
        if not 0 <= self.pull <= 1:
            raise InputError(f"The pull {self.pull:g} is out of range; choose 0, for none, to 1.")
        if self.control_scale < 0:
            raise InputError(f"The control scale {self.control_scale:g} must be at least 0.")
        if not 0 <= self.pulled <= 1:
            raise InputError(f"The pulled share {self.pulled:g} of the steps is out of range; choose 0 to 1.")
        if self.control not in CONTROLS:
            raise InputError(f"The control '{self.control}' is not known; choose one of {', '.join(CONTROLS)}.")
        if self.controlnet == MINI and self.control != "canny":
            raise InputError(
                f"canon-mini's own ControlNet knows canny edges, not '{self.control}'; add --control canny."
            )


class Pix2Video(DiffusionEditor):
    """Edits frames one after another, with no canonical image; see :class:`Pix2VideoConfig`.

    :meth:`framewise` gives the frames of the method itself. A call gives an edit of the canvas: the mean of those
    frames, pulled back to it.
    """

    Config = Pix2VideoConfig
    name = "pix2video"

    def edited(self, fit: Fit, config: Pix2VideoConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`."""
        from canon.editors.diffusion.frames_in_turn import pix2video

        return pix2video(fit, config)

    def framewise(self, fit: Fit, config: Pix2VideoConfig) -> Frames:
        """The frames as Pix2Video makes them, each in the light of the first and the previous one.

        Raises:
            InputError: as of a call, some of it when the first frame is asked for; or an edit of a part of the canvas.
        """
        from canon.editors.diffusion.frames_in_turn import FramesInTurn

        return FramesInTurn(fit, config)
