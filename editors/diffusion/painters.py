"""What each text-driven editor makes of one picture; canvases and frames are pictures alike."""

from __future__ import annotations

import copy
import inspect
import logging
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from canon import progress
from canon.editors.diffusion.annotators import annotate
from canon.editors.diffusion.canvases import resized
from canon.editors.diffusion.controlnet import ControlnetConfig
from canon.editors.diffusion.inpaint import InpaintConfig
from canon.editors.diffusion.instruct import InstructConfig
from canon.editors.diffusion.invert import InvertConfig
from canon.editors.diffusion.latents import (
    Control,
    Guide,
    Keep,
    LatentModel,
    check_finite,
    latent_mask,
    random_latents,
    to_picture,
    to_tensor,
)
from canon.editors.diffusion.mini.vocabulary import words
from canon.editors.diffusion.models import DESCRIBE, FILL, INSTRUCT, Model, from_config, load_controlnet, load_model
from canon.editors.diffusion.options import MINI, ControlConfig, DiffusionConfig
from canon.editors.diffusion.restyle import RestyleConfig
from canon.editors.diffusion.stablevideo import StableVideoConfig
from canon.editors.diffusion.videdit import VidEditConfig
from canon.editors.diffusion.windows import Window, blended, windows
from canon.errors import InputError
from canon.storage import to_uint8

log = logging.getLogger("canon")

C = TypeVar("C", bound=DiffusionConfig)
K = TypeVar("K", bound=ControlConfig)
_WINDOW_OVERLAP = 0.25


class Painter(ABC, Generic[C]):
    """A model at work for an editor."""

    task = DESCRIBE

    def __init__(self, config: C) -> None:
        """Load what the options ask for.

        Raises:
            InputError: it cannot be loaded, or does not suit the editor.
        """
        progress.report("loading", 0.0)
        self.config: C = config
        self.model: Model = load_model(config, self.task)
        if config.model == MINI:
            tell_unknown_words(config.prompt)

    @abstractmethod
    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """The picture as the editor makes it.

        Args:
            picture: float32 [h, w, 3] in 0..1, at a size that the model takes.
            area: float32 [h, w] in 0..1, where the result is wanted.

        Returns:
            float32 [h, w, 3] in 0..1; outside of the area it does not count.
        """

    def refine(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        """An enlarged result with detail of its own size; models that cannot give it leave it as it is.

        Args:
            picture: float32 [h, w, 3] in 0..1, of sides that the model takes.
            source: of the same size, what the result was made from.
        """
        return picture

    def hinted(self, _hint: np.ndarray | None) -> Painter[C]:
        """A painter whose ControlNet is shown a picture [h, w, 3] of what it paints; the same if it has none."""
        return self

    # --- parts that painters share ---

    def _but(self, **changes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def _guide(self, model: LatentModel, size: tuple[int, int]) -> Guide:
        own = self.config
        guide = model.guide(own.prompt, own.negative, own.guidance, size)
        rescale = model.default_rescale if own.guidance_rescale is None else own.guidance_rescale
        added = {**guide.added, **model.exemplar(own.exemplar, own.exemplar_scale, guide)}
        return replace(guide, added=added, rescale=rescale)

    def _described(
        self,
        picture: np.ndarray,
        strength: float,
        area: np.ndarray | None = None,
        control: Control | None = None,
    ) -> np.ndarray:
        """Noise added to a picture and taken away again (SDEdit; Meng et al., ICLR 2022); beyond the area it stays."""
        own, model = self.config, self.model
        if not isinstance(model, LatentModel):
            parts = {"strength": strength}
            return self._in_windows(picture, parts) if area is None else self._called(picture, parts)
        latents = model.encode(to_tensor(picture))
        guide = replace(self._guide(model, size_of(picture)), control=control)
        noise, generator = random_latents(model, size_of(picture), own.seed)
        levels = model.levels(own.steps, strength)
        keep = None
        if area is not None and float(area.min()) < 0.5:
            wanted = latent_mask(area, model.factor, model.device).to(model.dtype)
            keep = Keep(wanted, lambda t: latents if t is None else model.noised(latents, noise, t))
        found = model.denoise(model.noised(latents, noise, levels[:1]), levels, guide, generator, keep)
        return to_picture(model.decode(found))

    def _gone_over(self, picture: np.ndarray, control: Control | None = None) -> np.ndarray:
        """A picture with detail added, by one step at least."""
        return self._described(picture, max(self.config.refine, 1.001 / self.config.steps), control=control)

    def _in_windows(self, picture: np.ndarray, options: dict[str, Any]) -> np.ndarray:
        places = windows(size_of(picture), self.model.native, _WINDOW_OVERLAP, 16)
        whole = to_tensor(picture)

        def made(place: Window) -> Tensor:
            return to_tensor(self._called(to_picture(place.cut(whole)), options))

        return to_picture(blended(((place, made(place)) for place in progress.parts(places)), whole))

    def _called(self, picture: np.ndarray, options: dict[str, Any]) -> np.ndarray:
        """A whole pipeline's answer, at the picture's size; options that it does not know are left out."""
        own, pipeline = self.config, self.model.pipeline
        height, width = size_of(picture)
        # A Qwen-Image model knows guidance only against another text; a blank is what it was published with.
        negative = own.negative or (" " if type(pipeline).__name__.startswith("QwenImage") else None)
        given = {
            "image": Image.fromarray(to_uint8(picture)),
            "prompt": own.prompt,
            "negative_prompt": negative,
            "guidance_scale": own.guidance,
            "true_cfg_scale": own.guidance if negative else None,
            "num_inference_steps": own.steps,
            "height": height,
            "width": width,
            "generator": torch.Generator("cpu").manual_seed(own.seed),
            "max_area": height * width,
            "_auto_resize": False,
            "output_type": "np",
            "callback_on_step_end": _tell,
            **options,
        }
        known = inspect.signature(pipeline.__call__).parameters
        with torch.no_grad():
            found = pipeline(**{k: v for k, v in given.items() if k in known and v is not None}).images[0]
        check_finite(bool(np.isfinite(found).all()))
        found = np.clip(np.asarray(found, np.float32), 0, 1)
        if size_of(found) != (height, width):
            found = cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(found, np.float32)


class RestylePainter(Painter[RestyleConfig]):
    """See :mod:`canon.editors.diffusion.restyle`."""

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        return self._described(picture, self.config.strength, area if self.config.mask else None)

    def refine(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.refine`."""
        return self._gone_over(picture)


class InpaintPainter(Painter[InpaintConfig]):
    """See :mod:`canon.editors.diffusion.inpaint`."""

    task = FILL

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        own, model = self.config, self.model
        if not isinstance(model, LatentModel):
            mask = Image.fromarray(to_uint8((area > 0).astype(np.float32)))
            return self._called(picture, {"mask_image": mask, "strength": own.strength})
        if not model.beside:
            return self._described(picture, own.strength, area)
        # A model that was trained to fill in sees the mask, and the picture without what is masked.
        hole = (area > 0).astype(np.float32)
        seen = model.encode(to_tensor(picture * (1 - hole[..., None]) + 0.5 * hole[..., None]))
        wanted = latent_mask(hole, model.factor, model.device).to(model.dtype)
        guide = replace(self._guide(model, size_of(picture)), beside=torch.cat([wanted, seen], dim=1))
        noise, generator = random_latents(model, size_of(picture), own.seed)
        levels = model.levels(own.steps, own.strength)
        start = model.noised(model.encode(to_tensor(picture)), noise, levels[:1])
        return to_picture(model.decode(model.denoise(start, levels, guide, generator)))

    def refine(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.refine`; a model that was trained to fill in has no second pass."""
        describes = isinstance(self.model, LatentModel) and not self.model.beside
        return self._gone_over(picture) if describes else picture


class ControlledPainter(Painter[K]):
    """A painter that keeps the structure of what it paints over by a ControlNet."""

    def __init__(self, config: K) -> None:
        """See :meth:`Painter.__init__`."""
        super().__init__(config)
        self.network = load_controlnet(config.controlnet, self.model)
        self.hint: np.ndarray | None = None

    def refine(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.refine`."""
        return self._gone_over(picture, self._held(source))

    def hinted(self, hint: np.ndarray | None) -> ControlledPainter[K]:
        """See :meth:`Painter.hinted`."""
        return self._but(hint=hint)

    def _held(self, picture: np.ndarray) -> Control:
        own, model = self.config, self.model
        if self.hint is not None:
            shown = resized(self.hint, size_of(picture))
        else:
            shown = annotate(picture, own.control, own.annotator, torch.device(model.pipeline.device))
        return Control(self.network, to_tensor(shown), own.control_scale)


class ControlnetPainter(ControlledPainter[ControlnetConfig]):
    """See :mod:`canon.editors.diffusion.controlnet`."""

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        own = self.config
        return self._described(picture, own.strength, area if own.mask else None, self._held(picture))


class InstructPainter(Painter[InstructConfig]):
    """See :mod:`canon.editors.diffusion.instruct`."""

    task = INSTRUCT

    def __init__(self, config: InstructConfig) -> None:
        """See :meth:`Painter.__init__`."""
        super().__init__(config)
        self.original: np.ndarray | None = None
        self.strength = 1.0

    def continuing(self, original: np.ndarray, strength: float, seed: int) -> InstructPainter:
        """A painter that takes up what has become of another picture [h, w, 3], which it is told about instead.

        Args:
            strength: share of all noise levels from which it begins; 1 = from noise alone.
        """
        return self._but(original=original, strength=strength, config=replace(self.config, seed=seed))

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        own, model = self.config, self.model
        shown = picture if self.original is None else resized(self.original, size_of(picture))
        if not isinstance(model, LatentModel):
            return self._called(shown, {})
        guide = self._guide(model, size_of(picture))
        guide = model.follow(to_tensor(shown), guide, own.image_guidance)
        noise, generator = random_latents(model, size_of(picture), own.seed)
        levels = model.levels(own.steps, self.strength)
        if self.strength == 1:
            start = noise * model.scheduler.init_noise_sigma
        else:
            start = model.noised(model.encode(to_tensor(picture)), noise, levels[0])
        return to_picture(model.decode(model.denoise(start, levels, guide, generator)))


class StableVideoPainter(ControlledPainter[StableVideoConfig]):
    """See :mod:`canon.editors.diffusion.stablevideo`; paints a keyframe, or a canvas."""

    def __init__(self, config: StableVideoConfig) -> None:
        """See :meth:`Painter.__init__`."""
        super().__init__(config)
        self.strength = 1.0 if not config.mask else config.strength
        self.source: np.ndarray | None = None

    def first(self) -> StableVideoPainter:
        """The painter of a first keyframe, or of a canvas: from noise alone."""
        return self._but(strength=1.0)

    def later(self) -> StableVideoPainter:
        """The painter of what others have begun."""
        return self._but(strength=self.config.strength)

    def seeing(self, source: np.ndarray) -> StableVideoPainter:
        """A painter that keeps the structure of another picture [h, w, 3] than the one that it begins from."""
        return self._but(source=source)

    def _held(self, picture: np.ndarray) -> Control:
        return super()._held(picture if self.source is None else resized(self.source, size_of(picture)))

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        return self._described(picture, self.strength, area if self.strength < 1 else None, self._held(picture))


class InvertPainter(Painter[InvertConfig]):
    """See :mod:`canon.editors.diffusion.invert`."""

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        own, model = self.config, invertible(self.model)
        guide = self._guide(model, size_of(picture))
        return inverted(model, guide, picture, area, own.source_prompt, own.steps, own.ratio)

    def refine(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.refine`."""
        return self._gone_over(picture)


class VidEditPainter(ControlledPainter[VidEditConfig]):
    """See :mod:`canon.editors.diffusion.videdit`."""

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        own, model = self.config, invertible(self.model)
        guide = replace(self._guide(model, size_of(picture)), control=self._held(picture))
        return inverted(model, guide, picture, area, own.source_prompt, own.steps, own.ratio)


def invertible(model: Model) -> LatentModel:
    """A model whose sampling can be run backwards, with the scheduler for it.

    Raises:
        InputError: it is none with a UNet.
    """
    if not isinstance(model, LatentModel):
        kind = type(model.pipeline).__name__
        raise InputError(f"A {kind} cannot be inverted; give a Stable Diffusion 1.5, 2.1 or XL model.")
    from diffusers import DDIMScheduler

    if isinstance(model.scheduler, DDIMScheduler):
        return model
    own = copy.copy(model)  # the model is kept for other edits, too
    own.scheduler = from_config(DDIMScheduler, model.scheduler)
    return own


def inverted(
    model: LatentModel,
    guide: Guide,
    picture: np.ndarray,
    area: np.ndarray,
    source_prompt: str,
    steps: int,
    ratio: float,
) -> np.ndarray:
    """A picture denoised by another guide from its own inverted noise; outside of the area it follows its own way back.

    Args:
        picture: float32 [h, w, 3] in 0..1.
        area: float32 [h, w] in 0..1.
        source_prompt: what the picture shows.
        ratio: how far it is inverted, 0..1 of all noise levels.
    """
    latents = model.encode(to_tensor(picture))
    inverting, denoising = progress.shares(1, 1)
    with inverting:
        levels, trajectory = model.invert(
            latents, source_guide(model, guide, source_prompt, size_of(picture)), steps, ratio
        )
    wanted = latent_mask(area, model.factor, model.device).to(model.dtype)
    keep = Keep(wanted, lambda t: latents if t is None else trajectory[int(t)])
    start = trajectory[int(levels[0])]
    with denoising:
        made = model.denoise(start, levels, guide, torch.Generator("cpu"), keep)
    return to_picture(model.decode(made))


def _tell(pipeline: Any, step: int, _timestep: object, told: dict[str, Any]) -> dict[str, Any]:
    """What diffusers' pipelines call after every step."""
    progress.report("denoising", (step + 1) / max(pipeline.num_timesteps, 1))
    return told


def source_guide(model: LatentModel, guide: Guide, prompt: str, size: tuple[int, int]) -> Guide:
    """What a picture is inverted by that is to be denoised by ``guide``: its own description, unguided."""
    own = replace(model.guide(prompt, "", 1.0, size), control=guide.control)
    if "image_embeds" in guide.added:  # the source is no exemplar
        own.added["image_embeds"] = [torch.zeros_like(one[:1]) for one in guide.added["image_embeds"]]
    return own


def tell_unknown_words(prompt: str) -> None:
    """Say which words of a prompt canon-mini has never seen."""
    own = [word.strip(".,;:!?\"'()").lower() for word in prompt.split()]
    unknown = [word for word in own if word and word not in words()]
    if unknown:
        listed = ", ".join(f"'{word}'" for word in dict.fromkeys(unknown))
        log.warning("canon-mini does not know %s and goes by the rest; --model takes one that knows more", listed)


def size_of(picture: np.ndarray) -> tuple[int, int]:
    """(height, width)."""
    return picture.shape[0], picture.shape[1]
