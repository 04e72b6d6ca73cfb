"""What is optimised: a canvas, or a layer to lay over it, as a pyramid of changes that begin from the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_COARSEST = 4  # texels along the shorter side of the coarsest level
_DETAIL = 0.5
"""How fast the finest level moves, of the coarsest: what is large settles first."""


BETAS = (0.9, 0.99)
"""Of the running means of an optimiser: gradients of single steps are noisy."""


@dataclass(frozen=True)
class Paint:
    """An edit of a region in the terms of the renderer; e = c' - k s and m = 1 - k of :mod:`canon.compose`.

    Attributes:
        colour: e, [1, 3, h, w].
        hides: m, [1, 1, h, w] in 0..1: the share of the source that it hides.
        picture: [1, 3, h, w] in 0..1, the canvas with it.
    """

    colour: Tensor
    hides: Tensor
    picture: Tensor


class _Bounded(torch.autograd.Function):
    """Values brought into 0..1; where they are beyond, only what leads back in has a gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (values,) = ctx.saved_tensors
        outward = ((values < 0) & (gradient > 0)) | ((values > 1) & (gradient < 0))
        return torch.where(outward, 0.0, gradient)


def bounded(values: Tensor) -> Tensor:
    """See :class:`_Bounded`."""
    return _Bounded.apply(values)  # type: ignore[no-any-return, no-untyped-call]


class Proportional(torch.optim.Adam):
    """Adam with one second moment for all of a tensor: what is hardly to change moves hardly.

    Adam itself divides by the gradient of every element, so that faint ones count as much as strong ones; of a method
    that wishes much in some places and little in others nothing would be left.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; see :meth:`torch.optim.Adam.step`."""
        for group in self.param_groups:
            (b1, b2), rate = group["betas"], group["lr"]
            for value in group["params"]:
                if value.grad is None:
                    continue
                state = self.state[value]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(value), torch.zeros_like(value)
                state["step"] += 1
                age = float(state["step"])
                state["exp_avg"].lerp_(value.grad, 1 - b1)
                square = value.grad.square().mean().expand_as(value)
                state["exp_avg_sq"].lerp_(square, 1 - b2)
                spread = (state["exp_avg_sq"] / (1 - b2**age)).sqrt() + group["eps"]
                value.sub_(state["exp_avg"] / (1 - b1**age) / spread, alpha=rate)


class Pyramid(nn.Module):
    """A picture [1, C, h, w] as a sum of ever coarser ones, all 0 at first."""

    def __init__(self, channels: int, size: tuple[int, int], levels: int = 0) -> None:
        """Make the levels.

        Args:
            size: (height, width) of the finest.
            levels: how many, each half the size of the one before; 0 = down to a few texels.
        """
        super().__init__()
        self.size = size
        sizes = [size]
        while min(sizes[-1]) >= 2 * _COARSEST and len(sizes) != levels:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        self.levels = nn.ParameterList(torch.zeros(1, channels, *each) for each in sizes)

    def forward(self) -> Tensor:
        total = self.levels[-1]
        for level in reversed(list(self.levels)[:-1]):
            total = F.interpolate(total, size=level.shape[-2:], mode="bilinear", align_corners=False) + level
        return total

    def optimiser(self, rate: float) -> Proportional:
        """An optimiser of its levels, the finer the slower."""
        count = len(self.levels)
        rates = [rate * _DETAIL ** ((count - 1 - k) / max(count - 1, 1)) for k in range(count)]
        groups = [{"params": [level], "lr": own} for level, own in zip(self.levels, rates, strict=True)]
        return Proportional(groups, lr=rate, betas=BETAS)


class Repainted(nn.Module):
    """The canvas itself is optimised.

    As paint it is the least opaque that gives the wanted colours: what hardly changes keeps the source's own detail.
    """

    def __init__(self, source: Tensor) -> None:
        """Begin from the source, [1, 3, h, w] in 0..1."""
        super().__init__()
        self.source: Tensor
        self.register_buffer("source", source.clone(), persistent=False)
        self.pyramid = Pyramid(3, (source.shape[-2], source.shape[-1]))

    def forward(self) -> Paint:
        picture = bounded(self.source + self.pyramid())
        hides = least_opacity(picture.detach(), self.source)
        return Paint(picture - (1 - hides) * self.source, hides, picture)

    def optimiser(self, rate: float) -> Proportional:
        """See :meth:`Pyramid.optimiser`."""
        return self.pyramid.optimiser(rate)


class Overlaid(nn.Module):
    """A layer of colours and opacity over the canvas is optimised, as in Text2LIVE (Bar-Tal et al., 2022)."""

    def __init__(self, source: Tensor, opacity: float = 0.5) -> None:
        """Begin from the source's colours at an even opacity, which changes nothing."""
        super().__init__()
        self.source: Tensor
        self.register_buffer("source", source.clone(), persistent=False)
        self.pyramid = Pyramid(4, (source.shape[-2], source.shape[-1]))
        self.bias = float(np.log(opacity / (1 - opacity)))

    def forward(self) -> Paint:
        found = self.pyramid()
        return laid_over(self.source, bounded(self.source + found[:, :3]), torch.sigmoid(4 * found[:, 3:] + self.bias))

    def optimiser(self, rate: float) -> Proportional:
        """See :meth:`Pyramid.optimiser`."""
        return self.pyramid.optimiser(rate)


def laid_over(source: Tensor, colour: Tensor, alpha: Tensor) -> Paint:
    """A layer [1, 3, h, w] of opacity [1, 1, h, w] over a canvas."""
    return Paint(alpha * colour, alpha, source + alpha * (colour - source))


def least_opacity(wanted: Tensor, source: Tensor) -> Tensor:
    """The least opacity [N, 1, h, w] with which a colour in 0..1 laid over ``source`` gives ``wanted`` [N, 3, h, w]."""
    up = (wanted - source) / (1 - source).clamp_min(1e-3)
    down = (source - wanted) / source.clamp_min(1e-3)
    return torch.maximum(up, down).amax(dim=1, keepdim=True).clamp(0, 1)


def straight_rgba(paint: Paint) -> np.ndarray:
    """The paint as float32 [h, w, 4] in 0..1, straight alpha."""
    colour = (paint.colour / paint.hides.clamp_min(1e-6)).clamp(0, 1)
    found = torch.cat([colour * (paint.hides > 0), paint.hides], dim=1)
    return np.asarray(found[0].detach().permute(1, 2, 0).cpu().numpy(), np.float32)


def total_variation(picture: Tensor) -> Tensor:
    """Mean absolute difference of neighbours of [N, C, h, w]."""
    return picture.diff(dim=-1).abs().mean() + picture.diff(dim=-2).abs().mean()
