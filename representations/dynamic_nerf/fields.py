"""Canonical fields: what fills the world behind the person, and what fills the person in the rest pose.

Convention: points are in metres, densities per metre, colours in 0..1. Geometry and appearance have tables of their
own, so that one can be changed and the other be left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon.representations.dynamic_nerf.sizes import Sizes
from canon.representations.dynamic_nerf.space import contract
from canon.representations.fields.hashgrid import HashGrid
from canon.representations.fields.mlp import MLP

_PROPOSED = 5
"""Levels of the proposal's table."""
_PROPOSED_FINEST = 128
_THIN = 1.0
"""Less than this the networks of the background say, as a logarithm of density, before anything is learned."""
_STEEP, _EDGE = 10.0, 0.9
"""How fast the body's own density falls away from its bones, per radius and before the activation, and where."""


@dataclass(frozen=True)
class Frame:
    """What part of the world a background fills: ``centre`` (x, y, z) becomes the origin, ``scale`` times a metre 1."""

    centre: tuple[float, float, float]
    scale: float

    def unit(self, points: Tensor) -> Tensor:
        """Places [..., 3] of the world, contracted, in the cube 0..1."""
        moved = (points - points.new_tensor(self.centre)) * self.scale
        return contract(moved) / 4 + 0.5


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def degree_two(directions: Tensor) -> Tensor:
    """Real spherical harmonics up to degree 2 of directions [..., 3] of length 1, [..., 9], unnormalised."""
    x, y, z = directions.unbind(-1)
    parts = [torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1]
    return torch.stack(parts, dim=-1)


class Proposal(nn.Module):
    """A small density that says where along a ray the background is worth a look (mip-NeRF 360, section 3)."""

    def __init__(self, sizes: Sizes, frame: Frame, backend: str, seed: int) -> None:
        super().__init__()
        self.frame = frame
        size = min(sizes.log2_size, 17)
        self.grid = HashGrid(3, _PROPOSED, 2, size, 16, _PROPOSED_FINEST, seed, backend)
        self.network = MLP(self.grid.width, 1, 16, 2, generator=_seeded(seed))

    def density(self, points: Tensor) -> Tensor:
        """[..., 3] -> [...]."""
        return _activated(self.network(self.grid(self.frame.unit(points)))[..., 0]) * self.frame.scale


class SceneField(nn.Module):
    """The background: density and colour anywhere, through a hash grid of the contracted world."""

    def __init__(self, sizes: Sizes, frame: Frame, backend: str, seed: int, view_dependent: bool = False) -> None:
        super().__init__()
        self.frame, self.view_dependent = frame, view_dependent
        self.proposal = Proposal(sizes, frame, backend, seed + 1)
        self.grid = HashGrid(3, sizes.levels, 2, sizes.log2_size, 16, sizes.finest, seed, backend)
        self.geometry = MLP(self.grid.width, 16, sizes.width, 2, generator=_seeded(seed))
        self.appearance = MLP(15 + 9 * view_dependent, 3, sizes.width, 3, generator=_seeded(seed + 2))

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density [...] and colour [..., 3] of places [..., 3] seen in directions [..., 3]."""
        found = self.geometry(self.grid(self.frame.unit(points)))
        density = _activated(found[..., 0]) * self.frame.scale
        parts = [found[..., 1:]]
        if self.view_dependent:
            parts.append(degree_two(directions))
        return density, torch.sigmoid(self.appearance(torch.cat(parts, dim=-1)))

    def density(self, points: Tensor) -> Tensor:
        """[..., 3] -> [...]."""
        return _activated(self.geometry(self.grid(self.frame.unit(points)))[..., 0]) * self.frame.scale


class HumanField(nn.Module):
    """The person in the rest pose: density and colour in the body's box."""

    def __init__(self, sizes: Sizes, low: Tensor, high: Tensor, backend: str, seed: int, states: int = 1) -> None:
        """Make it.

        Args:
            low, high: [3], corners of the box.
            states: of what the person holds or wears; each has a code (HOSNeRF, Liu et al., ICCV 2023).
        """
        super().__init__()
        self.low: Tensor
        self.side: Tensor
        self.register_buffer("low", low.float())
        self.register_buffer("side", (high - low).amax().float())
        codes = 4 if states > 1 else 0
        finest = min(sizes.finest, 512)
        levels = max(sizes.levels - 2, 4)
        self.shape_grid = HashGrid(3, levels, 2, sizes.log2_size, 8, max(finest // 2, 64), seed, backend)
        self.shape = MLP(self.shape_grid.width + codes, 1, sizes.width, 2, generator=_seeded(seed))
        self.colour_grid = HashGrid(3, levels, 2, sizes.log2_size, 8, finest, seed + 1, backend)
        self.colour = MLP(self.colour_grid.width + codes, 3, sizes.width, 3, generator=_seeded(seed + 1))
        self.codes = nn.Parameter(torch.zeros(states, codes))

    def forward(self, points: Tensor, radii: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Density [...] and colour [..., 3]; see :meth:`density`."""
        unit, codes = self._unit(points), self.codes.index_select(0, state)
        return self._density(unit, radii, codes), self._colours(unit, codes)

    def colours(self, points: Tensor, state: Tensor) -> Tensor:
        """Colour [..., 3] alone; see :meth:`density`."""
        return self._colours(self._unit(points), self.codes.index_select(0, state))

    def density(self, points: Tensor, radii: Tensor, state: Tensor) -> Tensor:
        """How dense it is.

        Args:
            points: [..., 3] of the rest pose.
            radii: [...], how far from the bones, in their radii: where nothing was learned the body is as they say.
            state: int64 [...].
        """
        return self._density(self._unit(points), radii, self.codes.index_select(0, state))

    def looked_up(self, points: Tensor, state: Tensor) -> Callable[[], Tensor]:
        """:meth:`colours` of the same places again and again, as they are at each time."""
        return partial(self.colours, points, state)

    def _colours(self, unit: Tensor, codes: Tensor) -> Tensor:
        return torch.sigmoid(self.colour(torch.cat([self.colour_grid(unit), codes], dim=-1)))

    def _density(self, unit: Tensor, radii: Tensor, codes: Tensor) -> Tensor:
        raw = self.shape(torch.cat([self.shape_grid(unit), codes], dim=-1))[..., 0]
        return 100.0 * F.softplus(raw + _STEEP * (_EDGE - radii))

    def _unit(self, points: Tensor) -> Tensor:
        return ((points - self.low) / self.side).clamp(0, 1)

    def appearance_parameters(self) -> list[nn.Parameter]:
        """What colours it and leaves its shape alone."""
        return [*self.colour_grid.parameters(), *self.colour.parameters()]


def _activated(raw: Tensor) -> Tensor:
    """Density of a network's output: exponential, but with a gradient that stays finite (instant-ngp); thin at first,
    so that the light of the first steps comes from afar (Nerfacto)."""
    return _Exponential.apply(raw - _THIN)  # type: ignore[no-any-return]


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        ctx.save_for_backward(raw)
        return torch.exp(raw.clamp(max=15))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        (raw,) = ctx.saved_tensors
        return gradient * torch.exp(raw.clamp(-15, 15))
