"""The person of a dynamic NeRF changed from all sides: DynVideo-E's editing stage (Liu et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from canon.editors.distill.editor import GuidedConfig
from canon.errors import InputError
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit

_OF_CANVASES = ("mask", "segment", "size")


@dataclass
class DynVideoConfig(GuidedConfig):
    """Change a person in three dimensions, by a picture of how one frame is to look, by a prompt, or by both."""

    reference: str = ""
    """Picture of how frame --frame is to look, of the frame's size; none = the prompt alone says it."""
    frame: int = 0
    """Frame that the reference is of; its pose is the one that --poses counts first."""
    reference_mask: str = ""
    """Image of the frame's size, white where the person is in the reference; none = where they are in the frame."""
    parts: tuple[str, ...] = ()
    """What may change of the person: head, torso, arms, hands, legs, feet, or joints by name; none = everything."""
    steps: int = 200
    """Steps of optimisation."""
    rate: float = 0.05
    """Learning rate of the field's tables; its networks learn at a tenth of it."""
    views: int = 1
    """Views that are looked at in a step."""
    reconstruct: float = 100.0
    """Weight of the squared difference from the reference."""
    distil: float | None = None
    """Weight of the distillation; none = 1 with a prompt, 0 without one."""
    personalise: int = 100
    """Steps for which the model is trained on the reference first, as a LoRA (DreamBooth); 0 = it stays as it is."""
    view_model: str = ""
    """Model that shows a picture from other sides, such as Zero-1-to-3: hub id or folder; none = the prompt names the
    side instead."""
    view_weight: float = 1.0
    """Weight of the distillation from the view model."""
    view_words: bool | None = None
    """Whether the prompt says "front view" and the like; none = yes, but not to canon-mini, which does not know what
    that is."""
    poses: tuple[float, float, float] = (0.4, 0.4, 0.2)
    """Shares of views in the pose of the reference frame, in poses of the clip, and in random ones."""
    close_ups: float = 0.3
    """Share of views that show a part of the body, larger."""
    part_prompts: tuple[str, ...] = ()
    """What close-ups are to show, such as head="a robot's head"; none = the prompt and the part's name."""
    pool: int = 48
    """Different views that there are; each is traced once while only colours change."""
    shape: float = 0.0
    """How fast the person's shape changes, as a share of the rate; 0 = colours alone."""
    preserve: float | None = None
    """Weight of the squared difference from the colours before, where the reference does not show the person; none =
    100 without distillation, 0 with it."""

    needs_prompt: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.parts, self.part_prompts = tuple(self.parts), tuple(self.part_prompts)
        super().__post_init__()
        if not self.prompt.strip() and not self.reference:
            raise InputError("Say with --prompt what the person is to look like, or give a --reference.")
        if self.guided and not self.prompt.strip():
            raise InputError("Distillation needs a --prompt; give one, or --distil 0.")
        if not self.guided and not self.reference:
            raise InputError("Without distillation there is nothing to go by but a --reference; give one.")
        if self.reference_mask and not self.reference:
            raise InputError("A --reference-mask goes with a --reference; give both, or leave it out.")
        if self.view_model and not self.reference:
            raise InputError("A --view-model turns a --reference round; give one, or leave it out.")
        if len(self.poses) != 3 or min(self.poses) < 0 or not sum(self.poses) > 0:
            raise InputError(f"Poses need three shares of at least 0, one of them above; they are {list(self.poses)}.")
        if not 0 <= self.close_ups <= 1:
            raise InputError(f"The share {self.close_ups:g} of close-ups is out of range; choose 0 to 1.")
        weights = (self.reconstruct, self.weight, self.view_weight, self.shape, self.held)
        if min(weights) < 0 or self.personalise < 0 or self.pool < 1:
            raise InputError("Weights and steps must be at least 0, and the pool at least 1.")
        for name in _OF_CANVASES:
            if getattr(self, name):
                raise InputError(f"--{name} is of canvases, and here a field is changed; leave it out.")
        self.words()

    @property
    def weight(self) -> float:
        """Of the distillation."""
        return (1.0 if self.prompt.strip() else 0.0) if self.distil is None else self.distil

    @property
    def guided(self) -> bool:
        """Whether the diffusion model is asked at all."""
        return self.weight > 0

    @property
    def held(self) -> float:
        """The weight of what :attr:`preserve` says."""
        return (0.0 if self.guided or self.view_model else 100.0) if self.preserve is None else self.preserve

    def words(self) -> dict[str, str]:
        """The prompts of close-ups by part.

        Raises:
            InputError: one is not PART=PROMPT.
        """
        found = {}
        for entry in self.part_prompts:
            part, _, prompt = entry.partition("=")
            if not part.strip() or not prompt.strip():
                raise InputError(f"'{entry}' does not say what a part is to show; write PART=PROMPT.")
            found[part.strip()] = prompt.strip()
        return found


class DynVideo(Editor):
    """Changes a person's field; see :class:`DynVideoConfig`."""

    Config = DynVideoConfig
    name = "dynvideo-e"

    def __call__(self, fit: Fit, config: DynVideoConfig) -> Edit:
        """The edit, which holds the parameters of the field that have changed.

        Raises:
            InputError: the fit has no person; or a reference, a part or a model that cannot be used.
        """
        from canon.editors.diffusion.models import memory_told
        from canon.editors.spatial.stage import edited

        with memory_told():
            return edited(fit, config)
