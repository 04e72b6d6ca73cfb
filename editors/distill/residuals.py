"""What each way of score distillation takes for the wish of a model: pure functions of its predictions.

A picture's latents z are noised, z_t = sqrt(a) z + sqrt(1 - a) e with a the cumulative alpha of timestep t, and the
network's guided prediction of the noise is e'. Each function gives a residual r in units of noise; the gradient with
respect to z is w(t) r.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """A noise level, and the one that precedes it on the way to a clean picture.

    Attributes:
        t: timestep, counted from 0.
        alpha, previous: cumulative alphas of both, 0..1.
        beta: variance that the one step to ``t`` adds.
    """

    t: int
    alpha: float
    previous: float
    beta: float

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, sqrt(1 - a)."""
        return float((1 - self.alpha) ** 0.5)

    @property
    def signal(self) -> float:
        """What the clean latents are multiplied with, sqrt(a)."""
        return float(self.alpha**0.5)

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents at this level."""
        return self.signal * latents + self.noise * noise

    def weight(self, weighting: str) -> float:
        """w(t); see :data:`canon.editors.distill.settings.WEIGHTINGS`."""
        known = {"variance": 1 - self.alpha, "uniform": 1.0, "balanced": self.signal * (1 - self.alpha)}
        return float(known[weighting])


def sds(predicted: Tensor, noise: Tensor) -> Tensor:
    """Score distillation sampling, r = e' - e (Poole et al., "DreamFusion", 2022, eq. 3)."""
    return predicted - noise


def dds(predicted: Tensor, of_source: Tensor) -> Tensor:
    """Delta denoising score: what the model says of the source by the source's prompt is taken off, at the same noise.

    r = e'(z_t, y) - e'(s_t, y_s) (Hertz et al., "Delta Denoising Score", 2023).
    """
    return predicted - of_source


def pds(predicted: Tensor, of_source: Tensor, latents: Tensor, source: Tensor, level: Level) -> tuple[Tensor, float]:
    """Posterior distillation sampling: the stochastic latents of both are matched (Koo et al., 2024).

    With x_(t-1) and x_t drawn by the same two noises, the stochastic latent is (x_(t-1) - mu(x_t, e')) / sigma_t, and
    the difference of the two is  chi (e' - e'_s) + psi (z - s):  a DDS that holds on to the source. The mean mu of the
    posterior takes one step's beta while x_(t-1) is two timesteps away, as in the published code (500 of 1000
    timesteps): with both alike psi would be 0.

    Returns:
        r with r chi = the difference above, and chi.
    """
    a, b = level.alpha, level.previous
    step = 1 - level.beta
    sigma = max((1 - b) / (1 - a) * level.beta, 1e-12) ** 0.5
    of_clean, of_noisy = b**0.5 * level.beta / (1 - a), step**0.5 * (1 - b) / (1 - a)
    chi = of_clean * level.noise / max(level.signal, 1e-4) / sigma
    psi = (b**0.5 - of_clean - of_noisy * level.signal) / sigma
    return predicted - of_source + (psi / chi) * (latents - source), chi


def collaborative(residuals: Tensor, particles: Tensor) -> Tensor:
    """Residuals of several views coupled by Stein variational gradient descent (Kim et al., "CSD", 2023).

    r_i = 1/N sum_j [ k(x_j, x_i) r_j - grad_(x_j) k(x_j, x_i) ]  with  k(x, x') = exp(-|x - x'|^2 / h)

    and h = median^2 / log(N + 1) over the distances (Liu and Wang, 2016). Views that look alike share what the model
    wishes of them; the kernel's gradient keeps them apart. Of one view, the residual is as it was.

    Args:
        residuals: [N, c, h, w], of :func:`sds`, or of :func:`dds` for the edit form.
        particles: [N, c, h, w], the noised latents.
    """
    count = len(particles)
    if count == 1:
        return residuals
    flat, wishes = particles.flatten(1), residuals.flatten(1)
    squares = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    others = squares[~torch.eye(count, dtype=torch.bool, device=squares.device)]
    bandwidth = (others.quantile(0.5) / torch.log(torch.tensor(count + 1.0))).clamp_min(1e-12)
    kernel = torch.exp(-squares / bandwidth)
    # The gradient of k by x_j is 2 / h (x_i - x_j) k; summed over j.
    apart = (kernel.sum(dim=0)[:, None] * flat - kernel.T @ flat) * (2 / bandwidth)
    return ((kernel.T @ wishes - apart) / count).view_as(residuals)
