"""The networks of Layered Neural Atlases: where a pixel lies, which layer it shows, what is painted there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from canon.representations.atlas.neural.options import NeuralOptions
from canon.representations.fields.mlp import MLP
from canon.representations.neural.evaluation import contributions

_SKIPS = (4, 7)
_INPUTS = 3  # x, y, t


class AtlasNetworks(nn.Module):
    """N layers, front to back, the last one opaque.

    Convention: points are (x, y, t), x and y by :func:`canon.coordinates.to_square`, t by T/2 minus 1. A layer's own
    position uv lies in [-1, 1]^2. All layers share one atlas network, each in its own part of the plane: two layers
    have the published quadrants [0, 1]^2 (foreground) and [-1, 0]^2; a third and fourth take the other two, and beyond
    that the plane [-1, 1]^2 is cut into ceil(sqrt(N))^2 equal cells. The background keeps the corner at (-1, -1).
    """

    centres: Tensor

    def __init__(self, layers: int, options: NeuralOptions, seed: int) -> None:
        """Make networks whose weights depend on the seed alone.

        Args:
            layers: N, the background counted.
        """
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = options.width
        depths = [options.foreground_depth] * (layers - 1) + [options.background_depth]
        self.mappings = nn.ModuleList(MLP(_INPUTS, 2, width, depth, generator=generator) for depth in depths)
        self.opacities = nn.ModuleList(
            MLP(_INPUTS, 1, width, options.opacity_depth, bands=options.opacity_bands, generator=generator)
            for _ in range(layers - 1)
        )
        self.atlas = MLP(2, 3, width, options.atlas_depth, bands=options.atlas_bands, skips=_SKIPS, generator=generator)
        self.register_buffer("centres", atlas_cells(layers), persistent=False)
        self.extent = 1.0 / _cells_a_side(layers)

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self.mappings)

    def uv(self, layer: int, points: Tensor) -> Tensor:
        """Position on the layer, [..., 3] -> [..., 2] in -1..1."""
        return torch.tanh(self.mappings[layer](points))

    def opacity(self, points: Tensor) -> Tensor:
        """Stick-breaking opacity of all layers but the last: [..., 3] -> [N - 1, ...] in 0.001..0.991, as published."""
        if not self.opacities:
            return points.new_zeros((0, *points.shape[:-1]))
        raw = torch.stack([network(points)[..., 0] for network in self.opacities])
        # Away from 0 and 1, whose logarithms the mask loss takes.
        return (torch.tanh(raw) * 0.5 + 0.5) * 0.99 + 0.001

    def colour(self, layer: int, uv: Tensor) -> Tensor:
        """Colour of a layer at its own positions, [..., 2] -> [..., 3] in 0..1."""
        return torch.tanh(self.atlas(uv * self.extent + self.centres[layer])) * 0.5 + 0.5

    def colours(self, uv: Tensor) -> Tensor:
        """:meth:`colour` of all layers in one pass: [N, ..., 2] -> [N, ..., 3]."""
        centres = self.centres.reshape(-1, *[1] * (uv.ndim - 2), 2)
        return torch.tanh(self.atlas(uv * self.extent + centres)) * 0.5 + 0.5

    def render(self, points: Tensor) -> Tensor:
        """What all layers together show at points [..., 3]: colours [..., 3]."""
        uv = torch.stack([self.uv(k, points) for k in range(self.count)])
        return (contributions(self.opacity(points))[..., None] * self.colours(uv)).sum(0)


def atlas_cells(layers: int) -> Tensor:
    """Centres [N, 2] of the layers' cells in the atlas plane; see :class:`AtlasNetworks`."""
    side = _cells_a_side(layers)
    places = 1.0 - (2.0 * torch.arange(side) + 1.0) / side
    centres = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1).reshape(-1, 2)
    return torch.cat([centres[: layers - 1], centres[-1:]])


def _cells_a_side(layers: int) -> int:
    side = 2
    while side * side < layers:
        side += 1
    return side
