"""One guidance for all score distillation: differentiable views in, the gradient that a diffusion model wishes out.

Editors say what they render and what they may change; the views may be crops of a canvas, frames rendered through an
atlas, or pictures that a camera takes of a field. Nothing is known of them here but their pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from canon.editors.diffusion.latents import Guide, LatentModel
from canon.editors.distill.residuals import Level, collaborative, dds, pds, sds
from canon.editors.distill.settings import Settings
from canon.errors import InputError

_POSTERIOR_STEPS = 500
"""Of so many steps PDS takes the posterior, as its authors do."""
_HOPELESS = 8
"""Steps, from the first one on, after which a model that never gives a finite gradient is given up."""


class Denoiser(Protocol):
    """What a guidance asks of a model; :class:`canon.editors.diffusion.latents.LatentModel` is one."""

    scheduler: Any
    """Has ``alphas_cumprod`` [T] and ``betas`` [T]."""

    @property
    def default_rescale(self) -> float: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def guide(self) -> Callable[..., Guide]: ...
    def encoded(self, picture: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...
    def predict(self, latents: Tensor, t: Tensor, guide: Guide) -> Tensor: ...
    def split(self, found: Tensor, latents: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Guided:
    """What came of one call.

    Attributes:
        loss: scalar whose gradient with respect to the views is exactly :attr:`gradient`; its value means nothing.
        gradient: float32 [N, 3, h, w], with respect to the pixels of the views; 0 where it was skipped.
        t: the timestep.
        size: root mean square of the residual before clipping: how far the model is from content.
        skipped: how many views gave no finite gradient.
    """

    loss: Tensor
    gradient: Tensor
    t: int
    size: float
    skipped: int


class Guidance:
    """A model that says how views are to change to show what a prompt says."""

    def __init__(self, model: Denoiser, settings: Settings) -> None:
        """Guide by a model.

        Raises:
            InputError: the model predicts neither noise nor velocity.
        """
        kind = getattr(model.scheduler.config, "prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(f"A model that predicts '{kind}' cannot be distilled; give one of noise or velocity.")
        self.model, self.settings = model, settings
        self.alphas = model.scheduler.alphas_cumprod.double().cpu()
        self.betas = model.scheduler.betas.double().cpu()
        self.asked = self.skipped = 0
        self._guides: dict[tuple[str, tuple[int, int]], Guide] = {}

    def __call__(
        self,
        views: Tensor,
        step: int,
        steps: int,
        source: Tensor | None = None,
        prompt: str | Guide | None = None,
    ) -> Guided:
        """The gradient of some views.

        Args:
            views: [N, 3, h, w] in 0..1, differentiable or not; sides that the model takes. For the csd methods they are
                coupled.
            step, steps: which of how many steps it is; timestep and noise depend on it and on the seed.
            source: [N, 3, h, w], how the source looks in the same views, for methods that need it.
            prompt: in place of the settings', such as one that names the side that is seen; or what the model is to be
                guided by as it is, such as a picture and a viewpoint.

        Raises:
            InputError: a source is missing or of another shape; or the model's numbers have run over at every step.
        """
        own = self.settings
        if own.needs_source and (source is None or source.shape != views.shape):
            seen = "none" if source is None else list(source.shape)
            raise InputError(f"'{own.method}' compares with the source's views {list(views.shape)}; it has {seen}.")
        pixels = views.detach().to(self.model.device).float().requires_grad_()
        with torch.enable_grad():
            encoded = self.model.encoded(pixels)
        latents = encoded.detach().float()
        shown = None
        if own.needs_source and source is not None:
            shown = source.detach().to(self.model.device).float()
        with torch.no_grad():
            of_source = None if shown is None else self.model.encoded(shown).float()
            level = self.level(step, steps)
            size = (views.shape[-2], views.shape[-1])
            residual, factor, finite = self._residual(latents, of_source, level, step, size, prompt)
            scale = level.weight(own.weighting) * factor
            if own.space == "pixel":
                gradient = self._compared(pixels, latents, residual, shown, of_source, level) * scale
            else:
                gradient = residual * scale
            finite &= torch.isfinite(gradient).flatten(1).all(dim=1)
            gradient = torch.where(finite[:, None, None, None], gradient, 0.0)
            size_before = float(gradient.square().mean().sqrt())
            gradient = _clipped(gradient, own.clip)
        if own.space == "latent":
            gradient = _through(encoded, pixels, gradient)
            found = torch.isfinite(gradient).flatten(1).all(dim=1)
            gradient, finite = torch.where(found[:, None, None, None], gradient, 0.0), finite & found
        skipped = int((~finite).sum())
        self._count(len(views), skipped)
        gradient = gradient.to(views.device)
        return Guided((views.float() * gradient).sum(), gradient, level.t, size_before, skipped)

    def check(self) -> None:
        """Refuse a run in which no view ever gave a finite gradient.

        Raises:
            InputError: see above.
        """
        if self.asked and self.skipped == self.asked:
            raise InputError(
                "The model's numbers ran over in every view; choose another --dtype, such as bfloat16 or float32."
            )

    def level(self, step: int, steps: int) -> Level:
        """The noise level of a step."""
        count = len(self.alphas)
        gap = max(count // _POSTERIOR_STEPS, 1)
        low, high = self.settings.annealing.range(step / max(steps - 1, 1))
        at = low + (high - low) * float(torch.rand((), generator=self._generator(step, 0)))
        t = min(max(int(at * count), gap), count - 1)
        return Level(t, float(self.alphas[t]), float(self.alphas[t - gap]), float(self.betas[t]))

    def noise(self, like: Tensor, step: int) -> Tensor:
        """The noise of a step, on the CPU first, so that a seed means the same everywhere."""
        return torch.randn(like.shape, generator=self._generator(step, 1)).to(like.device)

    def _generator(self, step: int, what: int) -> torch.Generator:
        return torch.Generator("cpu").manual_seed((self.settings.seed * 1_000_003 + step) * 2 + what)

    def _residual(
        self,
        latents: Tensor,
        source: Tensor | None,
        level: Level,
        step: int,
        size: tuple[int, int],
        prompt: str | Guide | None,
    ) -> tuple[Tensor, float, Tensor]:
        """Residual [N, c, h, w] in units of noise, what it is multiplied with, and which views are finite, bool [N]."""
        own, noise = self.settings, self.noise(latents, step)
        noisy = level.noised(latents, noise)
        predicted = self._predicted(noisy, level, self._guide(own.prompt if prompt is None else prompt, size))
        factor = 1.0
        if source is None:
            residual = sds(predicted, noise)
        else:
            other = self._predicted(level.noised(source, noise), level, self._guide(own.source_prompt, size))
            if own.method == "pds":
                residual, factor = pds(predicted, other, latents, source, level)
            else:
                residual = dds(predicted, other)
        finite = torch.isfinite(residual).flatten(1).all(dim=1)
        if own.method in ("csd", "csd-edit") and bool(finite.any()):
            coupled = torch.zeros_like(residual)
            coupled[finite] = collaborative(residual[finite], noisy[finite])
            residual = coupled
        return residual, factor, finite

    def _predicted(self, noisy: Tensor, level: Level, guide: Guide) -> Tensor:
        """The noise that the model finds in latents, float32."""
        found = self.model.predict(noisy.to(self.model.dtype), torch.tensor(level.t, device=noisy.device), guide)
        alpha = torch.tensor(level.alpha, device=noisy.device)
        return self.model.split(found.float(), noisy, alpha)[1]

    def _guide(self, prompt: str | Guide, size: tuple[int, int]) -> Guide:
        if isinstance(prompt, Guide):
            return prompt
        own, key = self.settings, (prompt, size)
        if key not in self._guides:
            rescale = self.model.default_rescale if own.rescale is None else own.rescale
            self._guides[key] = replace(self.model.guide(prompt, own.negative, own.guidance, size), rescale=rescale)
        return self._guides[key]

    def _compared(
        self,
        pixels: Tensor,
        latents: Tensor,
        residual: Tensor,
        shown: Tensor | None,
        of_source: Tensor | None,
        level: Level,
    ) -> Tensor:
        """The gradient of pixels towards the picture that the model has in mind, x - D(z - sqrt(1 - a) / sqrt(a) r).

        For SDS that is the decoded estimate of the clean picture (Zhu et al., HiFA, 2023). Where a source is at hand,
        what the autoencoder loses of it is taken off, so that a source with nothing to change stays as it is. The
        factor sqrt(a) / sqrt(1 - a) brings it to the scale of the residual in latents.
        """
        reach = level.noise / max(level.signal, 1e-4)
        wished = torch.nan_to_num(latents - reach * residual)
        gradient = pixels.detach() - self._decoded(wished)
        if shown is not None and of_source is not None:
            gradient = gradient - (shown - self._decoded(of_source))
        return 2 * gradient / reach

    def _decoded(self, latents: Tensor) -> Tensor:
        """Pictures of latents, each by itself; not a number where the decoder runs over."""
        found = []
        for one in latents.to(self.model.dtype).split(1):
            try:
                found.append(self.model.decode(one).float())
            except InputError:
                found.append(torch.full((1,), torch.nan, device=latents.device))
        shape = next((one.shape for one in found if one.ndim == 4), (1, 1, 1, 1))
        return torch.cat([one.expand(shape) if one.ndim == 1 else one for one in found])

    def _count(self, asked: int, skipped: int) -> None:
        self.asked, self.skipped = self.asked + asked, self.skipped + skipped
        if self.asked >= _HOPELESS * asked:
            self.check()


def distillable(model: Any) -> LatentModel:
    """A model of whose score a guidance can be made.

    Raises:
        InputError: it is none with a UNet.
    """
    if isinstance(model, LatentModel):
        from canon.editors.diffusion.painters import invertible

        return invertible(model)  # other schedulers scale what the network is shown
    kind = type(model.pipeline).__name__
    raise InputError(f"A {kind} cannot be distilled; give a Stable Diffusion 1.5, 2.1 or XL model.")


def _clipped(gradient: Tensor, most: float) -> Tensor:
    """Gradients [N, c, h, w] whose root mean square is at most so much each; 0 = as they are."""
    if most == 0:
        return gradient
    size = gradient.square().flatten(1).mean(dim=1).sqrt()[:, None, None, None]
    return gradient * (most / size.clamp_min(most))


def _through(encoded: Tensor, pixels: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of latents as that of pixels; scaled on its way, so that half precision does not run over."""
    top = gradient.abs().amax().clamp_min(1e-12)
    found = torch.autograd.grad(encoded, pixels, (gradient / top).to(encoded.dtype))[0]
    return found.float() * top
