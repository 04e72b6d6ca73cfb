"""Networks whose features tell the style of a picture: VGG-16, a model's autoencoder, or canon-mini's denoiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from canon.editors.diffusion.models import UNREADABLE, import_diffusers, mini_folder, offline
from canon.editors.diffusion.options import MINI
from canon.errors import InputError, first_line

if TYPE_CHECKING:
    from canon.editors.distill.stylize import StylizeConfig

_VGG_LAYERS = ((0, 2), (5, 7), (10, 12, 14))
"""Of the convolutions of three blocks, the numbers in torchvision's VGG-16; between blocks sides are halved."""
_VGG_MEAN, _VGG_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_VGG_STEP = 4
_BEYOND = 24
"""Pixels around a picture that the networks are shown besides, as far as they are whole steps."""
_NOISE_LEVEL = 60
"""Timestep at which the denoiser looks at latents without noise: it was trained on few that are cleaner."""


class Features(Protocol):
    """Tells the style of pictures; what lies beyond them is told from their mirror image."""

    step: int
    """Pixels of which the sides of pictures are multiples."""

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Maps [N, C, h', w'] of pictures [N, 3, h, w] in 0..1, differentiable; each of them is matched by itself."""
        ...


def load_features(config: StylizeConfig, device: torch.device) -> Features:
    """The features that the options ask for, on a device, in float32; their weights have no gradient.

    Raises:
        InputError: the weights are not there, or are others than they should be.
    """
    if config.vgg:
        return Vgg(load_vgg(config.vgg)).to(device).requires_grad_(False)
    if config.model == MINI:
        return Denoiser(str(mini_folder())).to(device).requires_grad_(False)
    return Autoencoder(config.model).to(device).requires_grad_(False)


def _told(network: Callable[[Tensor], list[Tensor]], pictures: Tensor, step: int) -> list[Tensor]:
    """Maps of pictures that go on beyond their rim: with the zeros that convolutions see there, rims would show."""
    pad = min(_BEYOND // step * step, *(length // step * step - step for length in pictures.shape[-2:]))
    found = []
    for maps in network(F.pad(pictures, (pad,) * 4, mode="reflect") if pad else pictures):
        rim = pad * maps.shape[-1] // (pictures.shape[-1] + 2 * pad)
        found.append(maps[..., rim : maps.shape[-2] - rim, rim : maps.shape[-1] - rim])
    return found


# --- VGG ---


def load_vgg(file: str) -> list[list[tuple[Tensor, Tensor]]]:
    """Weights [C', C, 3, 3] and offsets [C'] of the first three blocks of a VGG-16, from a file of torchvision's names.

    Raises:
        InputError: it is no .safetensors file, lacks a layer, or has one of another shape.
    """
    if Path(file).suffix != ".safetensors":
        raise InputError(f"The VGG-16 '{file}' is no .safetensors file; others are not opened.")
    blocks, channels = [], 3
    try:
        with safe_open(file, framework="pt") as stored:
            for block in _VGG_LAYERS:
                found = []
                for number in block:
                    weight, bias = (
                        stored.get_tensor(f"features.{number}.{part}").float() for part in ("weight", "bias")
                    )
                    if weight.shape[1:] != (channels, 3, 3) or bias.shape != weight.shape[:1]:
                        raise InputError(
                            f"The layer features.{number} of '{file}' is {list(weight.shape)} and {list(bias.shape)};"
                            f" a VGG-16's here takes {channels} channels by 3x3."
                        )
                    found.append((weight, bias))
                    channels = len(weight)
                blocks.append(found)
    except (OSError, SafetensorError) as error:
        raise InputError(f"'{file}' cannot be read as VGG-16 with torchvision's names: {first_line(error)}.") from error
    return blocks


class Vgg(nn.Module):
    """The third block of VGG-16, relu3_1 to relu3_3 together, as ARF takes it."""

    step = _VGG_STEP

    def __init__(self, blocks: list[list[tuple[Tensor, Tensor]]]) -> None:
        """Take weights as :func:`load_vgg` gives them."""
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(_convolution(*layer) for layer in block) for block in blocks)
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.tensor(_VGG_MEAN)[:, None, None])
        self.register_buffer("spread", torch.tensor(_VGG_SPREAD)[:, None, None])

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See :class:`Features`."""
        return _told(self._maps, pictures, self.step)

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures - self.mean) / self.spread
        found: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x = x if number == 0 else F.max_pool2d(x, 2)
            found = []
            for layer in block:  # type: ignore[attr-defined]
                x = F.relu(layer(x))
                found.append(x)
        return [torch.cat(found, dim=1)]


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


# --- parts of diffusion models ---


class Autoencoder(nn.Module):
    """The encoder of a latent diffusion model: what the last two of its resolutions see."""

    def __init__(self, name: str) -> None:
        """Load it; of the model nothing else is read.

        Args:
            name: hub id or folder of a diffusers model.

        Raises:
            InputError: it cannot be loaded, or is of another kind.
        """
        super().__init__()
        self.encoder = _part("AutoencoderKL", name, "vae").encoder
        self.step = int(2 ** (len(self.encoder.down_blocks) - 1))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See :class:`Features`."""
        return _told(self._maps, pictures, self.step)

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        x, found = self.encoder.conv_in(pictures * 2 - 1), []
        for block in self.encoder.down_blocks:
            for layer in block.resnets:
                x = layer(x, None)
            found.append(x)
            for layer in block.downsamplers or ():
                x = layer(x)
        return found[-2:]


class Denoiser(nn.Module):
    """The half of canon-mini's UNet that goes down, on the latents of pictures and without a prompt."""

    def __init__(self, name: str) -> None:
        """Load it from a folder.

        Raises:
            InputError: it cannot be loaded.
        """
        super().__init__()
        self.vae, self.unet = _part("AutoencoderKL", name, "vae"), _part("UNet2DConditionModel", name, "unet")
        depth = len(self.unet.config.block_out_channels) + len(self.vae.config.block_out_channels) - 2
        self.step = int(2**depth)
        del self.vae.decoder, self.unet.up_blocks, self.unet.mid_block

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See :class:`Features`."""
        return _told(self._maps, pictures, self.step)

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        latents = self.vae.encode(pictures * 2 - 1).latent_dist.mode() * self.vae.config.scaling_factor
        level = latents.new_full((len(latents),), _NOISE_LEVEL)
        told: dict[str, Any] = {"temb": self.unet.time_embedding(self.unet.time_proj(level))}
        nothing = latents.new_zeros(len(latents), 1, self.unet.config.cross_attention_dim)
        x, found = self.unet.conv_in(latents), []
        for block in self.unet.down_blocks:
            attends = {"encoder_hidden_states": nothing} if getattr(block, "has_cross_attention", False) else {}
            x, seen = block(hidden_states=x, **told, **attends)
            found.append(seen[0])
        return found


def _part(kind: str, name: str, folder: str) -> Any:
    """One network of a diffusers model, in float32.

    Raises:
        InputError: it cannot be loaded.
    """
    found: Any = getattr(import_diffusers(), kind)
    try:
        return found.from_pretrained(
            name, subfolder=folder, local_files_only=offline(name), use_safetensors=True, dtype=torch.float32
        ).eval()
    except UNREADABLE as error:
        raise InputError(f"The {folder} of '{name}' cannot be loaded: {first_line(error)}.") from error
