"""The network of Text2LIVE: a small U-Net from the canvas to a layer of colours and opacity over it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon.coordinates import Size, pixel_grid
from canon.editors.distill.pictures import BETAS, Paint, laid_over

_DEPTH = 4
_PERIODS = (8, 16, 32, 64, 128)
"""Texels of the waves by which the network knows where it is: else it could draw nothing on what is even."""
_OPACITY = 0.3  # at first, everywhere


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate")
        self.norm = nn.GroupNorm(min(4, after), after)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.convolution(x)), 0.2)


def _waves(size: Size) -> Tensor:
    """Sines and cosines of both axes, [1, 4 P, h, w]."""
    turns = torch.stack([pixel_grid(size) * (2 * torch.pi / period) for period in _PERIODS], dim=-1).flatten(2)
    return torch.cat([turns.sin(), turns.cos()], dim=-1).permute(2, 0, 1)[None]


class Generator(nn.Module):
    """Colours and opacity [1, 4, h, w] of every texel of a canvas, by what is on it; a :class:`Paintable`."""

    def __init__(self, source: Tensor, width: int, seed: int) -> None:
        """Begin with a layer of the canvas's own colours, which changes nothing.

        Args:
            source: [1, 3, h, w] in 0..1.
            width: channels of the first layer; those below have up to four times as many.
            seed: of the weights.
        """
        super().__init__()
        self.source: Tensor
        self.register_buffer("source", source.clone(), persistent=False)
        widths = [min(width * 2**k, width * 4) for k in range(_DEPTH)]
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip([3 + 4 * len(_PERIODS), *widths], widths, strict=False))
        up = [(widths[k + 1] + widths[k], widths[k]) for k in range(_DEPTH - 1)]
        self.up = nn.ModuleList(_Block(a, b) for a, b in up)
        self.last = nn.Conv2d(widths[0], 4, 1)
        generator = torch.Generator("cpu").manual_seed(seed)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, 0.2, generator=generator)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.weight)
        self.shown: Tensor
        waves = _waves((source.shape[-2], source.shape[-1])).to(source)
        self.register_buffer("shown", torch.cat([source * 2 - 1, waves], dim=1), persistent=False)
        self.begun: Tensor
        begun = source.clamp(0.02, 0.98)
        begun = torch.cat([begun, torch.full_like(begun[:, :1], _OPACITY)], dim=1)
        self.register_buffer("begun", torch.logit(begun), persistent=False)

    def forward(self) -> Paint:
        x, kept = self.shown, []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else F.avg_pool2d(x, 2, ceil_mode=True))
            kept.append(x)
        for k in reversed(range(len(self.up))):
            raised = F.interpolate(x, size=kept[k].shape[-2:], mode="bilinear", align_corners=False)
            x = self.up[k](torch.cat([raised, kept[k]], dim=1))
        found = torch.sigmoid(self.last(x) + self.begun)
        return laid_over(self.source, found[:, :3], found[:, 3:])

    def optimiser(self, rate: float) -> torch.optim.Adam:
        """An optimiser of its weights."""
        return torch.optim.Adam(self.parameters(), rate, betas=BETAS)
