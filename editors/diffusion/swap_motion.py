"""Frames drawn together by a motion module (AnimateDiff; Guo et al., ICLR 2024)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from canon.editors.diffusion.latents import LatentModel
from canon.editors.diffusion.models import UNREADABLE, import_diffusers, offline
from canon.errors import InputError, first_line


class FrameStack(nn.Module):
    """A UNet with a motion module in the place of one without: its pictures are the frames of a clip."""

    def __init__(self, unet: Any) -> None:
        """Take a diffusers UNetMotionModel."""
        super().__init__()
        self.unet, self.frames = unet, 1
        """``frames`` is how many pictures a clip has; whoever calls it says so before."""

    @property
    def config(self) -> Any:
        """Of the network."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return self.unet.dtype  # type: ignore[no-any-return]

    @property
    def down_blocks(self) -> Any:
        """The blocks of its encoder."""
        return self.unet.down_blocks

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Any] | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """What the network says of pictures [B * F, c, h, w], the frames of each clip one after another.

        Args:
            encoder_hidden_states: [B * F, n, d].
            added_cond_kwargs: what else it is told of every picture; it is the same for all of a clip.
        """
        clips = sample.unflatten(0, (-1, self.frames)).transpose(1, 2)
        told = {key: _every(value, self.frames) for key, value in (added_cond_kwargs or {}).items()}
        found = self.unet(clips, timestep, encoder_hidden_states, added_cond_kwargs=told, return_dict=False)[0]
        return (found.transpose(1, 2).flatten(0, 1),)


def with_motion(model: LatentModel, name: str) -> LatentModel:
    """A model whose UNet has a motion module, and draws clips; the one given stays as it is.

    Args:
        name: hub id or folder of a diffusers MotionAdapter.

    Raises:
        InputError: it cannot be loaded, or does not go with the model.
    """
    diffusers = import_diffusers()
    try:
        module = diffusers.MotionAdapter.from_pretrained(
            name, dtype=model.dtype, local_files_only=offline(name), use_safetensors=True
        )
    except UNREADABLE as error:
        raise InputError(f"The motion module '{name}' cannot be loaded: {first_line(error)}.") from error
    plain = copy.deepcopy(model.unet)
    if getattr(plain, "peft_config", None):
        plain.fuse_lora()
        plain.unload_lora()
    try:
        unet = diffusers.UNetMotionModel.from_unet2d(plain, module)
    except UNREADABLE as error:
        raise InputError(f"The motion module '{name}' does not go with the model: {first_line(error)}.") from error
    own = copy.copy(model)
    own.unet = FrameStack(unet.to(model.device, model.dtype).requires_grad_(False).eval())
    return own


def _every(value: Any, frames: int) -> Any:
    return [one[::frames] for one in value] if isinstance(value, list) else value[::frames]
