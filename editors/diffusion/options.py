"""Options that the text-driven editors share; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from canon.errors import InputError

DTYPES = ("auto", "float32", "float16", "bfloat16")
MINI = "canon-mini"
"""Name of the model that comes with the package."""
NONE, ANCHOR, BOTH = ATTENTION = ("none", "anchor", "both")
"""Whose features self-attention sees in place of its own picture's: of those drawn before, none, the first, or both the
first and the previous one."""


@dataclass
class DiffusionConfig:
    """Which layer, what is asked for, and the model that is to do it."""

    prompt: str = ""
    """What the layer is to look like."""
    model: str = MINI
    """A diffusers model: its id on the Hugging Face hub, or a folder; canon-mini = the small one that comes along."""
    layer: str | None = None
    """Layer to edit; none takes the front-most."""
    negative: str = ""
    """What it is not to look like."""
    mask: str | None = None
    """Image of the canvas's aspect, white where to edit; none = everywhere."""
    feather: float = 4.0
    """Texels over which the mask's edge fades."""
    segment: int | None = None
    """Which canvas, from 0, where the layer has several; none = all, or the first with a --mask or other
    image of the canvas."""
    guidance: float = 7.5
    """How much the prompt counts against what the model finds likely."""
    guidance_rescale: float | None = None
    """How far a guided prediction is brought back to the contrast of an unguided one, 0..1; none = 0.7 for models that
    begin from pure noise (zero terminal SNR), 0 for others."""
    steps: int = 30
    """Denoising steps of a full run; a strength of 0.5 takes half of them."""
    seed: int = 0
    """The same seed, model and options give the same pixels on the same device."""
    size: int = 0
    """Pixels along a side of what the model works on, as a square of the same area; 0 = what the model is made for."""
    refine: float = 0.3
    """Strength of a second pass, in overlapping windows, over canvases larger than the model's pictures; 0 = none."""
    scheduler: str = ""
    """Class of diffusers to sample with, such as EulerDiscreteScheduler; none = the model's own."""
    lora: tuple[str, ...] = ()
    """LoRA weights to add: hub ids, folders or .safetensors files."""
    ip_adapter: str = ""
    """IP-Adapter to add, for --exemplar: hub id, folder or .safetensors file."""
    exemplar: str = ""
    """Picture whose look is taken over by the IP-Adapter."""
    exemplar_scale: float = 0.6
    """How much the exemplar counts."""
    dtype: str = "auto"
    """Numbers to compute with: float32, float16 or bfloat16; auto = float16 on CUDA, else float32."""
    device: str | None = None
    """Such as cpu or cuda; none = CUDA if there is one."""
    offload: bool = False
    """Keep on the GPU only the part of the model that is at work."""

    needs_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.lora = tuple(self.lora)
        if self.needs_prompt and not self.prompt.strip():
            raise InputError("A prompt is needed: say with --prompt what the layer is to look like.")
        if self.guidance < 0 or self.steps < 1 or self.feather < 0 or self.size < 0:
            raise InputError("Guidance, feather and size must be at least 0, and steps at least 1.")
        if self.guidance_rescale is not None and not 0 <= self.guidance_rescale <= 1:
            raise InputError(f"The guidance rescale {self.guidance_rescale:g} is out of range; choose 0 to 1.")
        if not 0 <= self.refine < 1:
            raise InputError(f"The strength {self.refine:g} of the second pass is out of range; choose 0 up to 1.")
        if self.dtype not in DTYPES:
            raise InputError(f"The dtype '{self.dtype}' is not known; choose one of {', '.join(DTYPES)}.")
        if bool(self.exemplar) != bool(self.ip_adapter):
            raise InputError("An exemplar and an IP-Adapter go together; give both --exemplar and --ip-adapter.")


def check_strength(strength: float, steps: int, what: str = "strength") -> None:
    """Refuse a share of all noise levels that is none of them.

    Raises:
        InputError: it is not above 0 and up to 1, or too small for so few steps.
    """
    if not 0 < strength <= 1:
        raise InputError(f"The {what} {strength:g} is out of range; choose above 0, up to 1.")
    if int(steps * strength) < 1:
        raise InputError(f"{steps} steps at {what} {strength:g} are none; give more steps.")


def check_inversion(ratio: float, steps: int, scheduler: str) -> None:
    """Refuse a share of all noise levels that is none of them, and a scheduler with which there is no way back.

    Raises:
        InputError: see :func:`check_strength`; or the scheduler is another than DDIM.
    """
    check_strength(ratio, steps, "ratio")
    if scheduler not in ("", "DDIMScheduler"):
        raise InputError(f"Inversion goes by DDIM, not by '{scheduler}'; leave --scheduler out.")


def check_attention(attention: str) -> None:
    """Refuse what is none of :data:`ATTENTION`.

    Raises:
        InputError: so it is.
    """
    if attention not in ATTENTION:
        raise InputError(f"The attention '{attention}' is not known; choose one of {', '.join(ATTENTION)}.")


@dataclass
class ControlConfig(DiffusionConfig):
    """What is held fast of a picture besides."""

    controlnet: str = ""
    """ControlNet that goes with the model: hub id or folder; none = canon-mini's own (canny)."""
    control: str = "canny"
    """What it is shown of the canvas: canny, soft-edge, depth, or none for the canvas as it is."""
    hint: str = ""
    """Image of the canvas's aspect that the ControlNet is shown, such as a pose drawn on it; none = what --control
    finds."""
    control_scale: float = 1.0
    """How strongly it holds."""
    annotator: str = ""
    """transformers model that finds depth or edges: hub id or folder; none = a stand-in that needs no weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control not in CONTROLS:
            raise InputError(f"The control '{self.control}' is not known; choose one of {', '.join(CONTROLS)}.")
        if self.control_scale < 0:
            raise InputError(f"The control scale {self.control_scale:g} is out of range; choose at least 0.")
        if not self.controlnet:
            if self.model != MINI:
                raise InputError(
                    "A ControlNet is needed that goes with the model: give --controlnet, such as"
                    " lllyasviel/control_v11p_sd15_canny for Stable Diffusion 1.5."
                )
            if self.control != "canny" and not self.hint:
                raise InputError(f"canon-mini's own ControlNet knows canny edges, not '{self.control}'.")
            self.controlnet = MINI


CONTROLS = ("canny", "soft-edge", "depth", "none")
