"""Options that all text-driven editors share; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError

DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass
class DiffusionConfig:
    """Which layer, what is asked for, and the model that is to do it."""

    prompt: str = ""
    """What the layer is to look like."""
    model: str = ""
    """A diffusers model: its id on the Hugging Face hub, or a folder."""
    layer: str | None = None
    """Layer to edit; none takes the front-most."""
    negative: str = ""
    """What it is not to look like."""
    mask: str | None = None
    """Image of the canvas's aspect, white where to edit; none = everywhere."""
    feather: float = 4.0
    """Texels over which the mask's edge fades."""
    segment: int | None = None
    """Which canvas, from 0, where the layer has several; none = all."""
    strength: float = 0.75
    """How far to go from what is there: 0 = nothing changes, 1 = only the prompt counts."""
    guidance: float = 7.5
    """How much the prompt counts against what the model finds likely."""
    steps: int = 30
    """Denoising steps of a full run; a strength of 0.5 takes half of them."""
    seed: int = 0
    """The same seed, model and options give the same pixels on the same device."""
    size: int = 0
    """Pixels along a side of what the model works on, as a square of the same area; 0 = what the model is made for."""
    scheduler: str = ""
    """Class of diffusers to sample with, such as EulerDiscreteScheduler; none = the model's own."""
    lora: tuple[str, ...] = ()
    """LoRA weights to add: hub ids, folders or .safetensors files."""
    dtype: str = "auto"
    """Numbers to compute with: float32, float16 or bfloat16; auto = float16 on CUDA, else float32."""
    device: str | None = None
    """Such as cpu or cuda; none = CUDA if there is one."""
    offload: bool = False
    """Keep on the GPU only the part of the model that is at work."""

    def __post_init__(self) -> None:
        self.lora = tuple(self.lora)
        if not 0 < self.strength <= 1:
            raise InputError(f"The strength {self.strength:g} is out of range; choose above 0, up to 1.")
        if self.guidance < 0 or self.steps < 1 or self.feather < 0 or self.size < 0:
            raise InputError("Guidance, feather and size must be at least 0, and steps at least 1.")
        if self.dtype not in DTYPES:
            raise InputError(f"The dtype '{self.dtype}' is not known; choose one of {', '.join(DTYPES)}.")
        if int(self.steps * self.strength) < 1:
            raise InputError(f"{self.steps} steps at strength {self.strength:g} are none; give more steps.")
