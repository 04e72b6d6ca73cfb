"""Models that see a picture of a thing and are told from where to show it: Zero-1-to-3 (Liu et al., ICCV 2023).

Their UNet takes the latents of the picture beside its own, and in place of a text one vector: the picture's CLIP
embedding and the change of viewpoint, projected together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from canon.editors.diffusion.latents import Guide, LatentModel
from canon.editors.diffusion.models import UNREADABLE, from_config, import_diffusers, offline
from canon.editors.diffusion.options import DiffusionConfig
from canon.edits import fits_canvas
from canon.errors import InputError, first_line
from canon.runtime import usable_device

_PROJECTIONS = ("clip_camera_projection", "cc_projection")
"""Folders that the projection is in."""
_PROJECTION_FILES = ("diffusion_pytorch_model", "model")
_VARIANTS = (None, "fp16")
_VIEWPOINT = 4
"""Numbers that tell a viewpoint."""
_MEAN, _SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that CLIP was trained on."""


@dataclass(frozen=True)
class ViewParts:
    """The networks of a model of views, with the names that a diffusers pipeline has for them.

    Attributes:
        unet: sees latents and those of the picture, and one vector.
        image_encoder: CLIP's, of the picture.
        projection: from the embedding and the viewpoint to the vector.
        colours: mean and standard deviation of the colours [2, 3] that the image encoder expects.
    """

    unet: Any
    vae: Any
    scheduler: Any
    image_encoder: Any
    projection: nn.Linear
    colours: Tensor
    device: torch.device

    text_encoder_2 = None

    @property
    def _execution_device(self) -> torch.device:
        return self.device

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along a side of a latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


class ViewModel(LatentModel):
    """A model of views of a thing; it is asked as other latent models are, by a guide of its own."""

    pipeline: ViewParts

    def __init__(self, parts: ViewParts) -> None:
        """Take the networks."""
        super().__init__(parts, int(parts.unet.config.sample_size) * parts.vae_scale_factor)

    @torch.no_grad()
    def guide(  # type: ignore[override]  # a picture and a viewpoint in place of a text
        self,
        reference: Tensor,
        azimuth: float = 0.0,
        elevation: float = 0.0,
        radius: float = 0.0,
        guidance: float = 3.0,
        size: tuple[int, int] | None = None,
    ) -> Guide:
        """What a thing looks like from another side.

        Convention: the world's z points up, and the thing is at its origin.

        Args:
            reference: [1, 3, h, w] in 0..1, the thing in the middle over white, of the views' aspect.
            azimuth: radians, counterclockwise as seen from above, from where the reference was taken: a camera that
                moves to its own right.
            elevation: radians, how much higher than there.
            radius: how much further away than there. Stable Zero123 is told the reference's own angle from the vertical
                axis (radians) in its place.
            guidance: of the picture and viewpoint.
            size: (height, width) of the views; None = what the model is made for.

        Returns:
            context [2, 1, d] (zeros, wanted) and latents beside [2, c, h', w'] (zeros, the reference's, unscaled); of
            the wanted ones alone for a guidance up to 1.

        Raises:
            InputError: the reference is no such picture, or has another aspect than the views; or these are larger than
                what the model is made for.
        """
        if not isinstance(reference, Tensor):
            raise InputError(
                "A model of views is asked by a picture and a viewpoint, not by a text; give a guide, and sds or csd as"
                " the method."
            )
        size = size or (self.native, self.native)
        self._check(reference, size)
        picture = _sized(reference.detach().float(), size)
        wanted = self._told(reference, azimuth, elevation, radius)
        beside = self.encode(picture, scaled=False)
        if guidance <= 1:
            return Guide(wanted, guidance, beside=beside)
        context = torch.cat([torch.zeros_like(wanted), wanted])
        return Guide(context, guidance, beside=torch.cat([torch.zeros_like(beside), beside]))

    def _check(self, reference: Tensor, size: tuple[int, int]) -> None:
        seen = list(reference.shape)
        if reference.ndim != 4 or seen[:2] != [1, 3]:
            raise InputError(f"The reference must be one picture [1, 3, h, w], not {seen}.")
        if not fits_canvas((seen[2], seen[3]), size):
            raise InputError(
                f"The reference is {seen[3]}x{seen[2]} and the views are {size[1]}x{size[0]}; keep the aspect ratio."
            )
        if max(size) > self.native:
            raise InputError(
                f"Views of {size[1]}x{size[0]} are larger than the {self.native} pixels a side that the model is made"
                " for; make them smaller."
            )

    def _told(self, reference: Tensor, azimuth: float, elevation: float, radius: float) -> Tensor:
        """The picture and the viewpoint as what the UNet is told, [1, 1, d]."""
        own = self.pipeline
        side = int(own.image_encoder.config.image_size)
        mean, spread = own.colours[:, None, :, None, None].to(reference.device)
        pixels = (_sized(reference.detach().float(), (side, side)) - mean) / spread
        embedded = own.image_encoder(pixel_values=pixels.to(self.device, own.image_encoder.dtype)).image_embeds
        # The first number is the angle from the vertical axis, which falls as the camera rises.
        viewpoint = embedded.new_tensor([[-elevation, math.sin(azimuth), math.cos(azimuth), radius]])
        told = torch.cat([embedded, viewpoint], dim=1).to(own.projection.weight.dtype)
        return own.projection(told)[:, None].to(self.dtype)  # type: ignore[no-any-return]


def _sized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, 3, h, w] in 0..1 at another size."""
    return F.interpolate(picture, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def load_view_model(name: str, config: DiffusionConfig) -> ViewModel:
    """A model of views, on its device.

    Args:
        name: hub id, or folder in diffusers' layout: ``unet``, ``vae``, ``image_encoder``, ``scheduler``, the
            projection as ``clip_camera_projection`` or ``cc_projection``, and perhaps ``feature_extractor``; weights
            are safetensors.
        config: says on which device, and in which numbers.

    Raises:
        InputError: diffusers is missing, or the model is not there, has no projection, or one of another width.
    """
    diffusers = import_diffusers()
    from transformers import CLIPVisionModelWithProjection

    device = usable_device(config.device)
    automatic = torch.float16 if device.type == "cuda" else torch.float32
    dtype = automatic if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        unet, vae, encoder = (
            _part(kind, name, folder, dtype).to(device).eval().requires_grad_(False)
            for kind, folder in (
                (diffusers.UNet2DConditionModel, "unet"),
                (diffusers.AutoencoderKL, "vae"),
                (CLIPVisionModelWithProjection, "image_encoder"),
            )
        )
        scheduler = diffusers.DDIMScheduler.from_pretrained(name, subfolder="scheduler", local_files_only=offline(name))
        projection = _projection(name)
    except UNREADABLE as error:
        raise InputError(f"'{name}' cannot be loaded as a model of views: {first_line(error)}.") from error
    _check_widths(name, unet, vae, encoder, projection)
    projection = projection.to(device, dtype).requires_grad_(False)
    scheduler = from_config(diffusers.DDIMScheduler, scheduler)
    return ViewModel(ViewParts(unet, vae, scheduler, encoder, projection, _colours(name), device))


def _part(kind: Any, name: str, folder: str, dtype: torch.dtype) -> Any:
    """One of a model's networks; some are published in half precision alone."""
    options = {"subfolder": folder, "local_files_only": offline(name), "use_safetensors": True}
    for variant in _VARIANTS:
        try:
            return kind.from_pretrained(name, variant=variant, dtype=dtype, **options)
        except OSError:
            if variant == _VARIANTS[-1]:
                raise
    raise AssertionError


def _projection(name: str) -> nn.Linear:
    """The linear map from CLIP's embedding and a viewpoint, whatever it is called in its file.

    Raises:
        InputError: there is none, or the file holds something else.
    """
    path = next(_candidates(name), None)
    if path is None:
        raise InputError(
            f"'{name}' is no model of views: it has no {' or '.join(_PROJECTIONS)} with .safetensors weights; others"
            " are not opened."
        )
    weights = load_file(path)
    matrix = [value for key, value in weights.items() if key.rpartition(".")[2] == "weight" and value.ndim == 2]
    offset = [value for key, value in weights.items() if key.rpartition(".")[2] == "bias" and value.ndim == 1]
    if len(weights) != 2 or not matrix or not offset or len(matrix[0]) != len(offset[0]):
        raise InputError(f"The projection of '{name}' is no linear map with an offset; it holds {sorted(weights)}.")
    found = nn.Linear(matrix[0].shape[1], matrix[0].shape[0])
    found.load_state_dict({"weight": matrix[0], "bias": offset[0]})
    return found


def _candidates(name: str) -> Iterator[Path]:
    """Where the projection's weights lie, as far as they are there."""
    for folder in _PROJECTIONS:
        for file in _PROJECTION_FILES:
            for variant in _VARIANTS:
                path = _file(name, folder, f"{file}.{variant}.safetensors" if variant else f"{file}.safetensors")
                if path is not None:
                    yield path


def _file(name: str, folder: str, file: str) -> Path | None:
    """A file of a model, fetched if need be; None if it has none of that name."""
    if Path(name).is_dir():
        path = Path(name) / folder / file
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, subfolder=folder, local_files_only=offline(name)))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _colours(name: str) -> Tensor:
    """What the model's own feature extractor says of colours, or CLIP's, [2, 3]."""
    path = _file(name, "feature_extractor", "preprocessor_config.json")
    if path is None:
        return torch.tensor([_MEAN, _SPREAD])
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return torch.tensor([told.get("image_mean", _MEAN), told.get("image_std", _SPREAD)]).reshape(2, 3)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"The feature extractor of '{name}' cannot be read: {first_line(error)}.") from error


def _check_widths(name: str, unet: Any, vae: Any, encoder: Any, projection: nn.Linear) -> None:
    latents, shown = int(vae.config.latent_channels), int(unet.config.in_channels)
    if shown != 2 * latents:
        raise InputError(
            f"'{name}' is no model of views: its UNet sees {shown} channels, not the latents of two pictures"
            f" ({2 * latents})."
        )
    seen, told = (projection.in_features, projection.out_features), int(unet.config.cross_attention_dim)
    wanted = (int(encoder.config.projection_dim) + _VIEWPOINT, told)
    if seen != wanted:
        raise InputError(
            f"The projection of '{name}' goes from {seen[0]} numbers to {seen[1]}; its encoder and UNet need"
            f" {wanted[0]} to {wanted[1]}."
        )
