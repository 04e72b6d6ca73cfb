"""Where canon-mini is, and its UNet that follows instructions, which is kept as a LoRA and a first layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_RANK = 12
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "proj_in", "proj_out")
_FILE = "lora_and_conv_in.safetensors"


def mini_weights() -> Path:
    """Where the package keeps canon-mini."""
    return Path(__file__).parent / "weights"


def has_instructions(folder: Path) -> bool:
    """Whether a model's folder has, besides the base, what makes it follow instructions."""
    return (folder / "instruct" / _FILE).is_file()


def instructed_pipeline(folder: Path) -> Any:
    """InstructPix2Pix from a model's folder that :func:`has_instructions`, in float32."""
    from diffusers import DiffusionPipeline, StableDiffusionInstructPix2PixPipeline

    base = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    parts = {**base.components, "unet": instructed_unet(base.unet, folder / "instruct")}
    return StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)


def load_part(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A network of diffusers or transformers from a folder."""
    import diffusers
    import transformers

    found = getattr(diffusers, kind, None) or getattr(transformers, kind)
    return found.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)


def instructed_unet(base: Any, folder: Path, trained: bool = False) -> Any:
    """The base's UNet with eight channels in, the last four for the picture's latents.

    Args:
        folder: with what was learned before; if it is not there, the picture has no effect yet.
        trained: whether it goes on learning; else what was learned is merged into the weights.
    """
    from diffusers import UNet2DConditionModel

    width = base.config.in_channels
    unet = UNet2DConditionModel.from_config({**base.config, "in_channels": 2 * width}).to(base.device, base.dtype)
    weights = base.state_dict()
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    unet.load_state_dict(weights)
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=list(_ADAPTED)))
    own = {name: value for name, value in unet.named_parameters() if _is_learned(name)}
    for name, value in unet.named_parameters():
        value.requires_grad_(trained and name in own)
    if (folder / _FILE).is_file():
        known = load_file(folder / _FILE)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(known[name])
    if not trained:
        unet.fuse_lora()
        unet.unload_lora()
    return unet


def save_instructed(unet: Any, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Keep what was learned of :func:`instructed_unet`."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = {name: value.detach() for name, value in unet.named_parameters() if _is_learned(name)}
    save_file({name: value.to(dtype).contiguous().cpu() for name, value in learned.items()}, folder / _FILE)


def _is_learned(name: str) -> bool:
    return "lora_" in name or name.startswith("conv_in.")
