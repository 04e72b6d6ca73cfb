"""Diffusion in the latent space of a UNet model (Stable Diffusion 1.5, 2.1, XL, InstructPix2Pix, inpainting ones).

What diffusers' pipelines do in one call is taken apart here, so that one loop serves every editor: noise levels may
begin anywhere, latents are blended with those of the source at every step, large pictures are denoised in overlapping
windows, and deterministic sampling runs backwards. Parts are diffusers' own: networks, schedulers, prompt encoding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from canon import progress
from canon.editors.diffusion.windows import Window, blended, windows
from canon.errors import InputError, first_line
from canon.sources import read_rgb

_OVERLAP, _LOCAL_OVERLAP = 0.25, 0.125
"""Share of a window that its neighbours see, too; and where no latent looks at all others."""
_LOCAL_WINDOW = 256
"""Latents along a side of a window where none looks at all others: only memory bounds it."""
_LARGEST_PICTURE = 768
"""Pixels along a side up to which a picture is encoded and decoded at once; beyond, in tiles."""


@dataclass(frozen=True)
class Control:
    """What a ControlNet holds fast.

    Attributes:
        network: a diffusers ControlNetModel.
        image: [1, 3, h, w] in 0..1, at the size of the picture.
        scale: how strongly.
    """

    network: Any
    image: Tensor
    scale: float = 1.0


@dataclass(frozen=True)
class Guide:
    """What steers a denoising.

    Attributes:
        context: [B, n, d] embeddings of the texts; B = 2 (negative, wanted), 1 without guidance.
        guidance: of the text.
        added: what an XL model and an IP-Adapter are told besides.
        control: a ControlNet.
        beside: [1, c, h, w] channels that the UNet wants to see besides the latents; [B, c, h, w] where each of the
            context's embeddings has its own.
        image_guidance: of the picture, for a model that follows instructions; None for others.
        rescale: share of the contrast that guidance added which is taken back (Lin et al., WACV 2024).
    """

    context: Tensor
    guidance: float
    added: dict[str, Any] = field(default_factory=dict)
    control: Control | None = None
    beside: Tensor | None = None
    image_guidance: float | None = None
    rescale: float = 0.0


@dataclass(frozen=True)
class Keep:
    """What stays while the rest is denoised: blended latent diffusion (Avrahami et al., SIGGRAPH 2023).

    Attributes:
        wanted: [1, 1, h, w] in 0..1, how much of each latent is new.
        at: noise level (timestep, or None at the end) -> the source's latents at that level.
    """

    wanted: Tensor
    at: Callable[[Tensor | None], Tensor]


class LatentModel:
    """A UNet model's networks, and how they are asked."""

    def __init__(self, pipeline: Any, native: int) -> None:
        """Take the networks of a loaded pipeline.

        Args:
            native: pixels along a side of what it is made for; larger pictures are denoised in windows of that size.
        """
        self.pipeline, self.native = pipeline, native
        self.unet, self.vae, self.scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
        self.factor = int(pipeline.vae_scale_factor)
        self.xl = getattr(pipeline, "text_encoder_2", None) is not None
        self.channels = int(self.vae.config.latent_channels)
        self.beside = int(self.unet.config.in_channels) - self.channels
        """Channels that the UNet sees besides the latents: 0, 5 for inpainting, 4 for instructions."""
        self.local = getattr(self.unet.config, "only_cross_attention", False) is True
        """Whether no latent looks at all others."""
        if hasattr(self.vae, "enable_tiling") and hasattr(self.vae, "tile_sample_min_size"):
            self.vae.tile_sample_min_size = max(_LARGEST_PICTURE, native)
            self.vae.tile_latent_min_size = self.vae.tile_sample_min_size // self.factor
            self.vae.enable_tiling()

    @property
    def default_rescale(self) -> float:
        """How much of guidance's contrast is taken back if nothing else is said."""
        return 0.7 if getattr(self.scheduler.config, "rescale_betas_zero_snr", False) else 0.0

    @property
    def device(self) -> torch.device:
        """Where its inputs belong."""
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet."""
        return self.unet.dtype  # type: ignore[no-any-return]

    def guide(self, prompt: str, negative: str, guidance: float, size: tuple[int, int]) -> Guide:
        """What a text asks for, in a picture of ``size`` (height, width)."""
        wants = guidance > 1
        options = {"device": self.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": wants}
        if not hasattr(self.pipeline, "encode_prompt"):  # InstructPix2Pix: wanted, negative, negative
            found = self.pipeline._encode_prompt(prompt, negative_prompt=negative or None, **options)
            return Guide(found[[1, 0]] if wants else found, guidance)
        found = self.pipeline.encode_prompt(prompt=prompt, negative_prompt=negative or None, **options)
        if not self.xl:
            texts, against = found
            return Guide(torch.cat([against, texts]) if wants else texts, guidance)
        texts, against, pooled, pooled_against = found
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=texts.dtype, device=self.device)
        if wants:
            texts, pooled, ids = torch.cat([against, texts]), torch.cat([pooled_against, pooled]), ids.repeat(2, 1)
        return Guide(texts, guidance, {"text_embeds": pooled, "time_ids": ids})

    def follow(self, picture: Tensor, guide: Guide, image_guidance: float) -> Guide:
        """The guide of a model that follows instructions about a picture (InstructPix2Pix, Brooks et al., 2023)."""
        return replace(guide, beside=self.encode(picture, scaled=False), image_guidance=image_guidance)

    @torch.no_grad()
    def exemplar(self, path: str, scale: float, guide: Guide) -> dict[str, Any]:
        """What the IP-Adapter (Ye et al., 2023) says of a picture, in the order of the guide's context; nothing without
        a path.

        Raises:
            InputError: the picture cannot be read.
        """
        if not path:
            return {}
        image = Image.fromarray(read_rgb(Path(path)))
        self.pipeline.set_ip_adapter_scale(scale)
        wants = guide.context.shape[0] > 1
        found = self.pipeline.prepare_ip_adapter_image_embeds(image, None, self.device, 1, wants)
        # InstructPix2Pix's own order is wanted, negative, negative.
        return {"image_embeds": [one[[1, 0]] if len(one) == 3 else one for one in found]}

    # --- pictures ---

    @torch.no_grad()
    def encode(self, picture: Tensor, scaled: bool = True) -> Tensor:
        """Latents [N, c, h / f, w / f] of pictures [N, 3, h, w] in 0..1: the mode of their distribution."""
        return self.encoded(picture, scaled).to(self.dtype)

    def encoded(self, picture: Tensor, scaled: bool = True) -> Tensor:
        """As :meth:`encode`, differentiable, in the numbers of the autoencoder."""
        found = self.vae.encode((picture * 2 - 1).to(self.device, self._vae_dtype())).latent_dist.mode()
        return found * self.vae.config.scaling_factor if scaled else found  # type: ignore[no-any-return]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The pictures [N, 3, h, w] in 0..1."""
        found = self.vae.decode((latents / self.vae.config.scaling_factor).to(self._vae_dtype())).sample
        check_finite(bool(torch.isfinite(found).all()))
        return (found.float() / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]

    def _vae_dtype(self) -> torch.dtype:
        if self.vae.dtype == torch.float16 and getattr(self.vae.config, "force_upcast", False):
            self.vae.to(torch.float32)
        return self.vae.dtype  # type: ignore[no-any-return]

    # --- noise ---

    @torch.no_grad()
    def predict(self, latents: Tensor, t: Tensor, guide: Guide) -> Tensor:
        """What the network says of latents [N, c, h, w] at a noise level, guided; large ones in windows.

        Where windows overlap they are averaged at every step, so that they agree (MultiDiffusion; Bar-Tal et al. 2023).
        """
        return self.predict_with_gradient(latents, t, guide)

    def predict_with_gradient(self, latents: Tensor, t: Tensor, guide: Guide) -> Tensor:
        """:meth:`predict`, through which a gradient with respect to the latents can be taken."""
        side = max(self.native // self.factor, _LOCAL_WINDOW if self.local else 8)
        overlap = _LOCAL_OVERLAP if self.local else _OVERLAP
        places = windows((latents.shape[-2], latents.shape[-1]), side, overlap, multiple=8, shrink=self.local)
        if len(places) == 1:
            return self._predict(latents, t, guide, places[0])
        parts = ((place, self._predict(latents, t, guide, place)) for place in progress.parts(places))
        return blended(parts, latents)

    def _predict(self, latents: Tensor, t: Tensor, guide: Guide, place: Window) -> Tensor:
        count = guide.context.shape[0]
        context, added = guide.context, guide.added
        own = self.scheduler.scale_model_input(latents[place.index], t)
        if guide.image_guidance is not None and count == 2:
            against, wanted = context.chunk(2)
            context, count = torch.cat([wanted, against, against]), 3
            order = [1, 0, 0]
            added = {key: _ordered(value, order) for key, value in added.items()}
        seen, pictures = own.repeat(count, 1, 1, 1), own.shape[0]
        if pictures > 1:
            context = context.repeat_interleave(pictures, dim=0)
            added = {key: _repeated(value, pictures) for key, value in added.items()}
        extra: dict[str, Any] = {"added_cond_kwargs": added} if added else {}
        if guide.control is not None:
            shown = place.scaled(self.factor).cut(guide.control.image).to(own)
            down, middle = guide.control.network(
                seen,
                t,
                encoder_hidden_states=context,
                controlnet_cond=shown.expand(pictures, -1, -1, -1).repeat(count, 1, 1, 1),
                conditioning_scale=guide.control.scale,
                return_dict=False,
                **extra,
            )
            extra |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        if guide.beside is not None:
            beside = place.cut(guide.beside)
            if guide.image_guidance is not None and count == 3:
                beside = torch.cat([beside, beside, torch.zeros_like(beside)])
            beside = beside.expand(count, -1, -1, -1).repeat_interleave(pictures, dim=0)
            seen = torch.cat([seen, beside], dim=1)
        found = self.unet(seen, t, encoder_hidden_states=context, return_dict=False, **extra)[0]
        if count == 1:
            return found  # type: ignore[no-any-return]
        if count == 3:
            text, image, neither = found.chunk(3)
            assert guide.image_guidance is not None
            guided = neither + guide.guidance * (text - image) + guide.image_guidance * (image - neither)
            return _rescaled(guided, text, guide.rescale)
        against, wanted = found.chunk(2)
        return _rescaled(against + guide.guidance * (wanted - against), wanted, guide.rescale)

    def levels(self, steps: int, strength: float = 1.0) -> Tensor:
        """The timesteps of a run of ``steps`` at ``strength``, from noisy to clean; the scheduler is set to them.

        Raises:
            InputError: they are more than the model has.
        """
        try:
            self.scheduler.set_timesteps(steps, device=self.device)
        except ValueError as error:
            raise InputError(f"The model cannot be sampled in {steps} steps: {first_line(error)}.") from error
        order = int(getattr(self.scheduler, "order", 1))
        begin = max(steps - min(int(steps * strength), steps), 0) * order
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        return self.scheduler.timesteps[begin:]  # type: ignore[no-any-return]

    def noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Latents at noise level ``t``."""
        return self.scheduler.add_noise(latents, noise, t[None] if t.ndim == 0 else t)  # type: ignore[no-any-return]

    @torch.no_grad()
    def denoise(
        self, latents: Tensor, levels: Tensor, guide: Guide, generator: torch.Generator, keep: Keep | None = None
    ) -> Tensor:
        """Latents at the first of ``levels`` -> clean ones.

        Args:
            levels: as :meth:`levels` gave them; nothing else may have used the scheduler since.
            generator: of the noise that a stochastic scheduler adds.
        """
        options = _accepted(self.scheduler.step, {"generator": generator, "eta": 0.0})
        for k, t in enumerate(progress.parts(levels, "denoising")):
            found = self.predict(latents, t, guide)
            latents = self.scheduler.step(found, t, latents, return_dict=False, **options)[0].to(self.dtype)
            if keep is not None:
                below = levels[k + 1] if k + 1 < len(levels) else None
                latents = keep.wanted * latents + (1 - keep.wanted) * keep.at(below)
        return latents

    @torch.no_grad()
    def invert(self, latents: Tensor, guide: Guide, steps: int, ratio: float) -> tuple[Tensor, dict[int, Tensor]]:
        """Noise that deterministic sampling turns into these latents: DDIM inversion (Song et al., ICLR 2021).

        Args:
            guide: with the guidance that the way back has; 1 is the stable choice.
            ratio: how far, 0..1 of all noise levels.

        Returns:
            levels: the timesteps of the way back, from noisy to clean.
            trajectory: timestep -> latents at that noise level.

        Raises:
            InputError: no level is left from which there is a way back.
        """
        levels = self.levels(steps, ratio)
        alphas = self.scheduler.alphas_cumprod.to(self.device)
        # At the very last level of a zero-SNR schedule nothing is left of the picture to come back to.
        levels = levels[alphas[levels.long()] > 1e-4]
        if not len(levels):
            raise InputError(f"{steps} steps are too few to come back from noise; give more steps.")
        trajectory: dict[int, Tensor] = {}
        before = self.scheduler.final_alpha_cumprod.to(self.device)
        ways = [int(t) for t in levels.flip(0)]
        for k, t in enumerate(progress.parts(ways, "inverting")):
            a = alphas[t]
            asked = torch.tensor(ways[k - 1] if k else 0, device=self.device)
            clean, noise = self.split(self.predict(latents, asked, guide), latents, before)
            latents = (a.sqrt() * clean + (1 - a).sqrt() * noise).to(self.dtype)
            trajectory[t], before = latents, a
        return levels, trajectory

    def split(self, found: Tensor, latents: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """(clean latents, noise) of what the network said at a level of cumulative ``alpha``."""
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            return alpha.sqrt() * latents - (1 - alpha).sqrt() * found, alpha.sqrt() * found + (
                1 - alpha
            ).sqrt() * latents
        if kind == "epsilon":
            return (latents - (1 - alpha).sqrt() * found) / alpha.sqrt(), found
        return found, (latents - alpha.sqrt() * found) / (1 - alpha).sqrt().clamp_min(1e-4)


def check_finite(finite: bool) -> None:
    """Refuse what a model made if it is not all numbers.

    Raises:
        InputError: it is not.
    """
    if not finite:
        raise InputError("The model's numbers ran over; choose another --dtype, such as bfloat16 or float32.")


def _rescaled(guided: Tensor, wanted: Tensor, share: float) -> Tensor:
    """Guided predictions [N, c, h, w], each with its standard deviation brought towards that of the unguided one."""
    if share == 0:
        return guided
    of_each = tuple(range(1, guided.ndim))
    spreads = [part.float().std(dim=of_each, keepdim=True) for part in (wanted, guided)]
    ratio = spreads[0] / spreads[1].clamp_min(1e-6)
    return guided * (1 + share * (ratio.to(guided) - 1))


def _repeated(value: Any, times: int) -> Any:
    if isinstance(value, list):
        return [one.repeat_interleave(times, dim=0) for one in value]
    return value.repeat_interleave(times, dim=0)


def _ordered(value: Any, order: list[int]) -> Any:
    return [one[order] for one in value] if isinstance(value, list) else value[order]


def _accepted(call: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(call).parameters
    return {key: value for key, value in options.items() if key in known}


def random_latents(model: LatentModel, size: tuple[int, int], seed: int) -> tuple[Tensor, torch.Generator]:
    """Standard normal latents for a picture of ``size`` (height, width), and the generator that they came from.

    Drawn on the CPU, so that a seed means the same noise everywhere.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, model.channels, size[0] // model.factor, size[1] // model.factor)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32)
    return noise.to(model.device, model.dtype), generator


def latent_mask(area: np.ndarray, factor: int, device: torch.device) -> Tensor:
    """How much is wanted of each latent [1, 1, h / f, w / f]: the most of the pixels [h, w] that it covers."""
    found = torch.from_numpy(np.ascontiguousarray(area, np.float32))[None, None]
    return F.max_pool2d(found, factor).to(device)


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 or float [h, w, 3] -> float32 [1, 3, h, w] in 0..1."""
    scale = 255.0 if picture.dtype == np.uint8 else 1.0
    return torch.from_numpy(np.ascontiguousarray(picture.astype(np.float32) / scale)).permute(2, 0, 1)[None]


def to_picture(tensor: Tensor) -> np.ndarray:
    """[1, 3, h, w] in 0..1 -> float32 [h, w, 3]."""
    return tensor[0].permute(1, 2, 0).float().cpu().numpy()
