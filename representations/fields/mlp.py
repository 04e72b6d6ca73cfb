"""Positional encoding and plain multilayer perceptrons, as most published canonical representations use them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positional_encoding(x: Tensor, bands: int) -> Tensor:
    """Sine and cosine of every coordinate at frequencies 2^k pi, k = 0 .. bands - 1 (NeRF, Mildenhall et al., 2020).

    Args:
        x: [..., D], about -1..1.
        bands: 0 gives ``x`` itself.

    Returns:
        [..., 2 * bands * D]: all sines, then all cosines, each with the bands of a coordinate side by side; without
        ``x`` itself, as in Layered Neural Atlases.
    """
    if bands == 0:
        return x
    frequencies = math.pi * 2.0 ** torch.arange(bands, dtype=x.dtype, device=x.device)
    phase = (x[..., None] * frequencies).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def encoded_width(inputs: int, bands: int) -> int:
    """Number of values that :func:`positional_encoding` makes of ``inputs`` coordinates."""
    return 2 * bands * inputs if bands else inputs


class MLP(nn.Module):
    """Linear layers with ReLU between them; the (encoded) input joins again before the layers named in ``skips``.

    There is no activation after the last layer: whoever calls it knows the range that is wanted.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int = 256,
        depth: int = 8,
        *,
        bands: int = 0,
        skips: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers, initialised as ``nn.Linear`` is: uniform within 1 / sqrt(fan in).

        Args:
            inputs: coordinates of a point.
            depth: number of linear layers, the last one included.
            bands: of the positional encoding; 0 = none.
            skips: indices of layers; those that do not exist are ignored, so that a shallower network needs no others.
            generator: of the initial weights, on the CPU; None = the global one.
        """
        super().__init__()
        self.bands = bands
        self.skips = frozenset(k for k in skips if 0 < k < depth)
        first = encoded_width(inputs, bands)
        layers: list[nn.Linear] = []
        for k in range(depth):
            fan_in = first if k == 0 else width + (first if k in self.skips else 0)
            layer = nn.utils.skip_init(nn.Linear, fan_in, outputs if k == depth - 1 else width)
            bound = 1.0 / math.sqrt(fan_in)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
            layers.append(layer)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        encoded = positional_encoding(x, self.bands)
        h = encoded
        for k, layer in enumerate(self.layers):
            if k > 0:
                h = F.relu(h, inplace=True)
            if k in self.skips:
                h = torch.cat([h, encoded], dim=-1)
            h = layer(h)
        return h
