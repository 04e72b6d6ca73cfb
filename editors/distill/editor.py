"""A canvas optimised by score distillation, seen as it is and as the frames will show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.editors.diffusion.editor import DiffusionEditor
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.distill.settings import NEED_SOURCE, Annealing, Settings
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit
    from canon.registry import Frames

_HELD = {"dds": 2.0, "csd-edit": 0.8}
"""Weights of the difference from the source; of coupled views, whose mean is taken, the gradient is smaller."""


@dataclass
class GuidedConfig(DiffusionConfig):
    """What all optimising against a diffusion model has in common."""

    method: str = "sds"
    """sds repaints; dds changes only what tells the prompt from the source prompt; pds holds on to the source besides;
    csd and csd-edit are sds and dds with the views of a step coupled."""
    source_prompt: str = ""
    """What the layer looks like now, for dds, pds and csd-edit."""
    steps: int = 100
    """Steps of optimisation."""
    rate: float = 0.02
    """How far a step goes, in shares of the range of colours."""
    views: int = 2
    """Views that are looked at in a step."""
    view: int = 0
    """Pixels along a side of a view; 0 = what the model is made for."""
    space: str = "auto"
    """Where the gradient is taken: latent, or pixel; auto = pixel for sds and csd, latent for the others."""
    weighting: str = "variance"
    """How noise levels count: variance, uniform or balanced."""
    noise: tuple[float, float] = (0.02, 0.98)
    """From which share of all noise levels to which they are drawn at first."""
    noise_end: tuple[float, float] = (0.02, 0.4)
    """The same at the last step; in between, both ends move evenly."""
    clip: float = 1.0
    """Largest root mean square of a view's gradient; 0 = any."""
    checkpoints: str = ""
    """Folder for the state of the run and previews: an interrupted run goes on from there; none = nothing is kept."""
    refine: float = 0.0
    """Of other editors; there is no second pass here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise, self.noise_end = (self.noise[0], self.noise[1]), (self.noise_end[0], self.noise_end[1])
        self.settings()
        if self.views < 1 or self.view < 0:
            raise InputError("Views must be at least 1, and the size of a view at least 0.")
        if not self.rate > 0:
            raise InputError(f"The rate must be above 0, and it is {self.rate:g}.")
        if self.scheduler or self.refine:
            raise InputError("Nothing is denoised step by step here; leave --scheduler and --refine out.")
        if self.ip_adapter or self.offload:
            raise InputError("An exemplar and --offload do not go with distillation; leave them out.")

    def settings(self) -> Settings:
        """What the guidance is told.

        Raises:
            InputError: an option is out of range.
        """
        annealing = Annealing(self.noise, self.noise_end)
        space = ("latent" if self.method in NEED_SOURCE else "pixel") if self.space == "auto" else self.space
        prompts = {"prompt": self.prompt, "source_prompt": self.source_prompt, "negative": self.negative}
        return Settings(
            method=self.method,
            **prompts,
            guidance=self.guidance,
            rescale=self.guidance_rescale,
            weighting=self.weighting,
            space=space,
            annealing=annealing,
            clip=self.clip,
            seed=self.seed,
        )


@dataclass
class DistillConfig(GuidedConfig):
    """Optimise a layer against a diffusion model, in views of its canvas and of frames (SDS, DDS, PDS, CSD)."""

    frames: int = 6
    """Frames of every segment from which views are drawn, at even distances."""
    frame_views: float = 0.5
    """Share of the views that are frames with the edit in place; the others are parts of the canvas."""
    edit_layer: bool = False
    """Optimise a layer with an opacity of its own over the canvas (as Text2LIVE does) in place of the canvas."""
    smooth: float = 0.0
    """Weight of the total variation of the picture."""
    preserve: float | None = None
    """Weight of the squared difference from the source; none = 2 for dds and 0.8 for csd-edit, which would else go on
    until little of the source is left, 0 for the others."""
    sparse: float = 0.02
    """Weight of the opacity of an edit layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 0:
            raise InputError(f"There cannot be {self.frames} frames; give at least 0.")
        if not 0 <= self.frame_views <= 1:
            raise InputError(f"The share {self.frame_views:g} of views of frames is out of range; choose 0 to 1.")
        if min(self.smooth, self.held, self.sparse) < 0:
            raise InputError("The weights smooth, preserve and sparse must be at least 0.")

    @property
    def held(self) -> float:
        """The weight of what :attr:`preserve` says."""
        if self.preserve is not None:
            return self.preserve
        return _HELD.get(self.method, 0.0)


class Distill(DiffusionEditor):
    """Optimises a layer by score distillation; see :class:`DistillConfig`."""

    Config = DistillConfig
    name = "distill"
    painter = "DistillPainter"

    def edited(self, fit: Fit, config: DistillConfig) -> Edit:
        """See :meth:`DiffusionEditor.edited`."""
        from canon.editors.distill import painters

        return painters.distil(fit, config, self.name, getattr(painters, self.painter))

    def framewise(self, fit: Fit, config: DistillConfig) -> Frames:
        """Every frame distilled by itself, which takes as many runs as there are frames; see the base class."""
        from canon.editors.diffusion.running import PaintedFrames
        from canon.editors.distill import painters

        return PaintedFrames(fit, config, getattr(painters, self.painter))
