"""A model personalised on a few pictures: DreamBooth (Ruiz et al., CVPR 2023) by a LoRA (Hu et al., ICLR 2022)."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from canon import progress
from canon.editors.diffusion.canvases import resized, working_size
from canon.editors.diffusion.latents import Guide, LatentModel, check_finite, random_latents, to_tensor
from canon.editors.diffusion.models import UNREADABLE, step_of_sides
from canon.editors.diffusion.painters import invertible
from canon.errors import InputError, first_line
from canon.storage import to_float, write_bytes

log = logging.getLogger("canon")

_NAME = "concept"
_PREFIX = "unet"
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CONVOLUTIONS = ("conv1", "conv2", "proj_in", "proj_out")
_RATE, _LOCAL_RATE = 1e-4, 2e-3
"""Learning rates of a model whose self-attention learns, and of one that learns by its convolutions."""
_PRIOR_STEPS, _PRIOR_GUIDANCE = 25, 7.5
"""Of the pictures that a model makes of a class to remember it by."""


@dataclass(frozen=True)
class ConceptSettings:
    """How a model is personalised."""

    steps: int = 300
    """Training steps."""
    rate: float = 0.0
    """Learning rate; 0 = 1e-4, or 2e-3 for a model without self-attention, whose convolutions learn, too."""
    rank: int = 8
    """Of the LoRA."""
    batch: int = 1
    """Pictures a step; their gradients are added up one after another."""
    lowest: float = 0.0
    """Least noise, as a share of all timesteps."""
    highest: float = 1.0
    """Most noise, as a share of all timesteps."""
    prior: float = 0.0
    """Weight of the loss on pictures that the model itself makes of ``prior_prompt``; 0 = none (prior preservation)."""
    prior_prompt: str = ""
    """The class that the subject is one of, such as "a car"."""
    prior_pictures: int = 4
    """How many pictures of the class the model makes."""
    flip: bool = False
    """Mirror pictures at random."""
    crop: float = 1.0
    """Smallest part of a picture's sides that is shown, at random; 1 = always the whole."""
    size: int = 0
    """Pixels along a side of what the model sees, as a square of the same area; 0 = what the model is made for."""
    seed: int = 0
    """Of noise, timesteps and order."""

    def __post_init__(self) -> None:
        if min(self.steps, self.rank, self.batch) < 1 or min(self.rate, self.prior, self.size) < 0:
            raise InputError("A concept needs at least 1 step, rank and picture a step, and no rate or weight below 0.")
        if not 0 <= self.lowest < self.highest <= 1:
            raise InputError(f"Noise from {self.lowest:g} to {self.highest:g} is none; choose shares within 0 to 1.")
        if not 0 < self.crop <= 1:
            raise InputError(f"The crop {self.crop:g} is out of range; choose above 0, up to 1.")
        if self.prior and (not self.prior_prompt.strip() or self.prior_pictures < 1):
            raise InputError("Prior preservation needs a class prompt, such as 'a car', and pictures of it.")


@dataclass(frozen=True, eq=False)
class Example:
    """What a network is to learn to denoise.

    Attributes:
        latents: float32 [1, c, h, w].
        guide: its description, unguided.
        wanted: float32 [1, 1, h, w] in 0..1, where the loss is taken; None = everywhere.
    """

    latents: Tensor
    guide: Guide
    wanted: Tensor | None = None


def train_concept(
    model: LatentModel,
    pictures: Sequence[np.ndarray],
    prompts: str | Sequence[str],
    settings: ConceptSettings,
    masks: Sequence[np.ndarray] | None = None,
) -> dict[str, Tensor]:
    """Teach a model what a description means by pictures of it; the model stays as it is.

    Args:
        pictures: uint8 or float [h, w, 3] in 0..1, of any sizes.
        prompts: the description of all of them, or of each.
        masks: float or bool [h, w] in 0..1 of each picture, where the subject is; None = everywhere.

    Returns:
        The LoRA in the format of diffusers: name -> float32 tensor, on the CPU.

    Raises:
        InputError: there is no picture, a description or a mask is missing or does not fit, the model sees more than
            latents, or its numbers run over.
    """
    texts = [prompts] * len(pictures) if isinstance(prompts, str) else list(prompts)
    _check(model, pictures, texts, masks)
    own = invertible(apart(model))
    shown = Pictures(own, pictures, texts, masks, settings)
    pictures_of_class = settings.prior_pictures if settings.prior else 0
    remembering, learning = progress.shares(pictures_of_class * _PRIOR_STEPS, settings.steps * settings.batch)
    with remembering:
        remembered = _remembered(own, settings, shown.size)
    learned = _adapted(own, settings)
    rate = settings.rate or (_LOCAL_RATE if model.local else _RATE)
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(model.device.type, init_scale=2.0**10, enabled=model.dtype == torch.float16)
    generator = torch.Generator("cpu").manual_seed(settings.seed)

    def learn() -> float:
        total = 0.0
        for _ in range(settings.batch):
            parts = [(shown.drawn(generator), 1.0)]
            if remembered:
                parts.append((remembered[_below(len(remembered), generator)], settings.prior))
            for example, weight in parts:
                noise, t = random_noise(own, example.latents, settings.lowest, settings.highest, generator)
                loss = denoising_loss(own, example, noise, t) * (weight / settings.batch)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        check_finite(math.isfinite(total))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return total

    with learning:
        for step in progress.parts(range(settings.steps), "learning the subject"):
            total = learn()
            if (step + 1) % 100 == 0:
                log.info("concept: step %d of %d, loss %.4f", step + 1, settings.steps, total)
    return _state(own.unet)


def denoising_loss(model: LatentModel, example: Example, noise: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of what a network says of noisy latents, where it counts.

    Args:
        model: with a scheduler that :func:`canon.editors.diffusion.painters.invertible` gives.
        noise: [1, c, h, w].
        t: [1], the timestep.
    """
    alpha = model.scheduler.alphas_cumprod.to(noise.device)[t].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * example.latents + (1 - alpha).sqrt() * noise
    found = model.predict_with_gradient(noisy.to(model.dtype), t, example.guide).float()
    kind = model.scheduler.config.prediction_type
    target = {
        "epsilon": noise,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * example.latents,
        "sample": example.latents,
    }[kind]
    error = (found - target).square().mean(dim=1, keepdim=True)
    return error.mean() if example.wanted is None else (error * example.wanted).sum() / example.wanted.sum()


def save_concept(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a LoRA as a .safetensors file, which ``--lora`` of every text-driven editor takes.

    Raises:
        InputError: the name has another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"A concept is saved as .safetensors, not as '{path.name}'.")
    write_bytes(path, save({name: value.contiguous() for name, value in state.items()}, {"format": "pt"}))


def load_concept(path: str | Path) -> dict[str, Tensor]:
    """What :func:`save_concept` wrote.

    Raises:
        InputError: it cannot be read, or is no LoRA of a UNet.
    """
    try:
        state = load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"The concept '{path}' cannot be read: {first_line(error)}.") from error
    if not any(name.startswith(f"{_PREFIX}.") and ".lora_A." in name for name in state):
        raise InputError(f"'{path}' is no concept: it holds no LoRA of a UNet.")
    return state


def with_concept(model: LatentModel, state: Mapping[str, Tensor], scale: float = 1.0) -> LatentModel:
    """A model that knows a concept; the one given stays as it is, and both share their weights.

    Args:
        state: from :func:`train_concept` or :func:`load_concept`.
        scale: how much of it counts; 0 = nothing.

    Raises:
        InputError: it was learned by another model.
    """
    own = apart(model)
    before = _adapters(own.unet)
    _check_fits(own.unet, state)
    try:
        own.unet.load_lora_adapter(dict(state), prefix=_PREFIX, adapter_name=_NAME)
    except UNREADABLE as error:
        raise InputError(f"The concept does not fit the model: {first_line(error)}.") from error
    own.unet.to(model.device, model.dtype).requires_grad_(False)
    own.unet.set_adapters([*before, _NAME], [1.0] * len(before) + [scale])
    return own


def apart(model: LatentModel) -> LatentModel:
    """The same model with a UNet of its own modules, to which something can be added; the weights are shared, and take
    no gradients there."""
    unet = model.unet
    shared: dict[int, Any] = {id(value): nn.Parameter(value.detach(), False) for value in unet.parameters()}
    shared |= {id(value): value for value in unet.buffers()}
    hook = getattr(unet, "_hf_hook", None)  # of --offload; it knows the other networks
    if hook is not None:
        shared[id(hook)] = hook
    own = copy.copy(model)
    own.unet, own.pipeline = copy.deepcopy(unet, shared), copy.copy(model.pipeline)
    own.pipeline.unet = own.unet
    return own


# --- what is learned ---


def _adapted(model: LatentModel, settings: ConceptSettings) -> list[nn.Parameter]:
    """The weights of a new LoRA in a model's UNet, float32; nothing else of it learns."""
    from peft import LoraConfig

    unet, before = model.unet, _adapters(model.unet)
    targets = [*_ATTENTION, *(_CONVOLUTIONS if model.local else ())]
    unet.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=targets), adapter_name=_NAME)
    unet.set_adapters([*before, _NAME])
    generator, learned = torch.Generator("cpu").manual_seed(settings.seed), []
    for name, value in unet.named_parameters():
        own = f".{_NAME}." in name
        value.requires_grad_(own)
        if own:
            begun = torch.zeros(value.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(begun, math.sqrt(5), generator=generator)
            value.data = begun.to(value.device)
            learned.append(value)
    return learned


def _check_fits(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    modules = dict(unet.named_modules())
    for name, value in state.items():
        place, part, _ = name.removeprefix(f"{_PREFIX}.").rpartition(".lora_")
        weight = getattr(modules.get(place), "weight", None)
        side = 1 if name.endswith("A.weight") else 0
        if not part or weight is None or weight.shape[side] != value.shape[side]:
            raise InputError(f"The concept was learned by another model than the one that is used ('{name}').")


def _adapters(unet: Any) -> list[str]:
    return list(getattr(unet, "peft_config", {}))


def _state(unet: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(unet, adapter_name=_NAME)
    state = {f"{_PREFIX}.{name}": value.detach().float().cpu().contiguous() for name, value in found.items()}
    check_finite(all(bool(torch.isfinite(value).all()) for value in state.values()))
    return state


# --- what it is learned from ---


class Pictures:
    """Pictures as a model sees them, in random order."""

    def __init__(
        self,
        model: LatentModel,
        pictures: Sequence[np.ndarray],
        texts: Sequence[str],
        masks: Sequence[np.ndarray] | None,
        settings: ConceptSettings,
    ) -> None:
        """See :func:`train_concept`; without masks the loss is taken everywhere."""
        self._model, self._settings, self._texts = model, settings, texts
        self._side, self._step = settings.size or model.native, step_of_sides(model)
        self._pictures = [to_float(np.asarray(picture)) for picture in pictures]
        self._masks = [None if masks is None else np.asarray(masks[k], np.float32) for k in range(len(pictures))]
        self._known: dict[tuple[int, bool], Example] = {}
        self._order: list[int] = []
        first = self._pictures[0].shape
        self.size = working_size((first[0], first[1]), self._side, self._step)
        """(height, width) at which the model sees the first one."""

    def drawn(self, generator: torch.Generator) -> Example:
        """The next one."""
        self._order = self._order or torch.randperm(len(self._pictures), generator=generator).tolist()
        k = self._order.pop()
        flipped = self._settings.flip and _below(2, generator) == 1
        if self._settings.crop == 1:
            if (k, flipped) not in self._known:
                self._known[k, flipped] = self._example(k, flipped, (slice(None), slice(None)))
            return self._known[k, flipped]
        height, width = self._pictures[k].shape[:2]
        part = self._settings.crop + (1 - self._settings.crop) * float(torch.rand((), generator=generator))
        rows, columns = max(round(height * part), 1), max(round(width * part), 1)
        top, left = _below(height - rows + 1, generator), _below(width - columns + 1, generator)
        return self._example(k, flipped, (slice(top, top + rows), slice(left, left + columns)))

    @torch.no_grad()
    def _example(self, k: int, flipped: bool, box: tuple[slice, slice]) -> Example:
        picture, mask = self._pictures[k][box], self._masks[k]
        mask = None if mask is None else mask[box]
        if flipped:
            picture, mask = picture[:, ::-1], None if mask is None else mask[:, ::-1]
        size = working_size((picture.shape[0], picture.shape[1]), self._side, self._step)
        latents = self._model.encode(to_tensor(resized(np.ascontiguousarray(picture), size))).float()
        guide = self._model.guide(self._texts[k], "", 1.0, size)
        if mask is None:
            return Example(latents, guide)
        wanted = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
        wanted = F.interpolate(wanted, latents.shape[-2:], mode="area").to(latents.device)
        # A crop may miss the subject.
        return Example(latents, guide, wanted if float(wanted.sum()) > 0 else torch.ones_like(wanted))


@torch.no_grad()
def _remembered(model: LatentModel, settings: ConceptSettings, size: tuple[int, int]) -> list[Example]:
    """Pictures that the model makes of the class, before it learns."""
    if not settings.prior:
        return []
    asked = model.guide(settings.prior_prompt, "", _PRIOR_GUIDANCE, size)
    guide, found = model.guide(settings.prior_prompt, "", 1.0, size), []
    for k in progress.parts(range(settings.prior_pictures)):
        noise, generator = random_latents(model, size, settings.seed + k)
        latents = model.denoise(noise, model.levels(_PRIOR_STEPS), asked, generator)
        found.append(Example(latents.float(), guide))
    return found


def random_noise(
    model: LatentModel, latents: Tensor, lowest: float, highest: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noise for latents [1, c, h, w], and a timestep [1] between two shares of all that the model has."""
    count = int(model.scheduler.config.num_train_timesteps)
    low = min(int(lowest * count), count - 1)
    high = max(round(highest * count), low + 1)
    t = torch.randint(low, high, (1,), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    return noise.to(latents.device), t.to(latents.device)


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _check(
    model: LatentModel, pictures: Sequence[np.ndarray], texts: Sequence[str], masks: Sequence[np.ndarray] | None
) -> None:
    if model.beside:
        raise InputError("A concept is learned by a model of descriptions, not by one that sees a picture besides.")
    if not pictures:
        raise InputError("A concept needs at least one picture of it.")
    if len(texts) != len(pictures) or not all(text.strip() for text in texts):
        raise InputError("A concept needs a description: one for all of its pictures, or one for each.")
    for k, picture in enumerate(pictures):
        if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise InputError(f"Picture {k} of the concept must be [h, w, 3], not {list(picture.shape)}.")
    if masks is None:
        return
    if len(masks) != len(pictures):
        raise InputError(f"There are {len(masks)} masks for {len(pictures)} pictures of the concept.")
    for k, (mask, picture) in enumerate(zip(masks, pictures, strict=True)):
        if mask.shape != picture.shape[:2] or not np.asarray(mask, np.float32).sum() > 0:
            raise InputError(f"Mask {k} of the concept selects nothing of its picture, or has another size.")
