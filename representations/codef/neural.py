"""CoDeF as published (Ouyang et al., CVPR 2024): hash grids and small networks, trained at once, baked like any fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from canon.representations.fields.hashgrid import HashGrid
from canon.representations.fields.mlp import MLP
from canon.representations.neural.evaluation import contributions, in_chunks
from canon.representations.neural.samples import BACKWARD, BASE, DOWN, FORWARD, RIGHT, Sampler, Samples
from canon.representations.neural.training import Trainer, TrainingOptions

_ROOM = 1.25
"""Half side of the canonical square, in units of uv; a frame's longer side spans -1..1 (published: 640 for 540)."""
_REACH = 0.2
"""Units of uv to one of the deformation network's."""


@dataclass(frozen=True)
class CodefOptions(TrainingOptions):
    """Weights, widths and depths are the published ones; so is the length, of steps of one whole frame each."""

    steps: int = 10_000
    """Training steps."""
    learning_rate: float = 1e-3
    """Of Adam, halved after each quarter of the run."""
    levels: int = 16
    """Of the hash grids."""
    log2_size: int = 19
    """Most entries of a level, as a power of two; a small clip has no more than about twice its pixels."""
    coarsest: int = 16
    """Cells along a side of the first level."""
    growth_canonical: float = 1.44
    """Ratio between the levels of a canonical image."""
    growth_deformation: float = 1.38
    """Ratio between the levels of a deformation."""
    width: int = 64
    """Of all networks."""
    depth_canonical: int = 3
    """Linear layers after a canonical image's hash grid."""
    depth_deformation: int = 8
    """Linear layers after a deformation's hash grid."""
    closed: float = 0.4
    """Share of the run until which the deformation's levels count nothing."""
    opened: float = 0.8
    """Share of the run from which they count in full, opened coarse to fine."""
    flow: float = 1.0
    """Weight of the distance between canonical positions that optical flow says are the same, where it is confident."""
    background: float = 0.003
    """Weight of a group's colour outside of its mask."""
    gradient: float = 0.1
    """Weight of the difference of colour differences between neighbouring pixels."""

    least: ClassVar[dict[str, int]] = {
        **TrainingOptions.least,
        **dict.fromkeys(("levels", "log2_size", "coarsest", "width", "depth_canonical", "depth_deformation"), 1),
    }


class CodefNetworks(nn.Module):
    """One canonical image and one deformation for every mask group, front to back, the background last.

    Convention: points are (x, y, t), each in -1..1, as :func:`canon.representations.neural.samples.frame_points` gives
    them; uv are x and y of the canonical frame.
    """

    def __init__(self, groups: int, options: CodefOptions, seed: int) -> None:
        """Make networks whose weights depend on the seed alone."""
        super().__init__()
        o = options
        generator = torch.Generator().manual_seed(seed)

        def grid(dimensions: int, growth: float, number: int) -> HashGrid:
            finest = max(round(o.coarsest * growth ** (o.levels - 1)), o.coarsest)
            return HashGrid(dimensions, o.levels, 2, o.log2_size, o.coarsest, finest, seed + number)

        numbers = range(groups)
        self.canonical_grids = nn.ModuleList(grid(2, o.growth_canonical, k) for k in numbers)
        self.deformation_grids = nn.ModuleList(grid(3, o.growth_deformation, groups + k) for k in numbers)
        features = 2 * o.levels
        self.canonicals = nn.ModuleList(
            MLP(features, 3, o.width, o.depth_canonical, generator=generator) for _ in numbers
        )
        self.deformations = nn.ModuleList(
            MLP(features + 3, 2, o.width, o.depth_deformation, generator=generator) for _ in numbers
        )
        for network in self.deformations:
            # At first nothing is deformed.
            assert isinstance(network, MLP)
            last = network.layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.open_share = 1.0
        """Share of the deformations' levels that count."""

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.canonicals)

    def uv(self, layer: int, points: Tensor) -> Tensor:
        """Canonical position, [..., 3] -> [..., 2]."""
        features = self.deformation_grids[layer]((points * 0.5 + 0.5).clamp(0.0, 1.0), self.open_share)
        offset = self.deformations[layer](torch.cat([features, points], dim=-1))
        return points[..., :2] + offset * _REACH

    def colour(self, layer: int, uv: Tensor) -> Tensor:
        """Colour of a canonical image, [..., 2] -> [..., 3] in 0..1."""
        place = (uv * (0.5 / _ROOM) + 0.5).clamp(0.0, 1.0)
        return torch.sigmoid(self.canonicals[layer](self.canonical_grids[layer](place)))

    def opacity(self, points: Tensor) -> Tensor:
        """There is none: the masks say which group a pixel shows."""
        raise NotImplementedError


class CodefTrainer(Trainer):
    """One training run."""

    options: CodefOptions
    shard = 5000
    """Every part's gradient is as large as all hash tables."""

    def __init__(self, sampler: Sampler, options: CodefOptions, folder: Path) -> None:
        """See :class:`canon.representations.neural.training.Trainer`."""
        self.scale = max(sampler.size) / 2.0
        self.masks: Sequence[np.ndarray] = sampler.masks
        super().__init__(sampler, options, folder)

    def build(self) -> CodefNetworks:
        """See :meth:`Trainer.build`."""
        s = self.sampler
        bits = (s.count * s.size[0] * s.size[1]).bit_length()
        options = replace(self.options, log2_size=min(self.options.log2_size, bits))
        return CodefNetworks(len(s.masks) + 1, options, s.seed).to(s.device)

    @property
    def networks(self) -> CodefNetworks:
        """Those that are trained."""
        assert isinstance(self.run.networks, CodefNetworks)
        return self.run.networks

    def rate(self, step: int) -> float:
        """See :meth:`Trainer.rate`."""
        return self.options.learning_rate * 0.5 ** int(4.0 * self.share(step))

    def loss(self, samples: Samples, step: int) -> Tensor:
        """See :meth:`Trainer.loss`."""
        o, networks = self.options, self.networks
        networks.open_share = min(max((self.share(step) - o.closed) / max(o.opened - o.closed, 1e-6), 0.0), 1.0)
        weights = contributions(samples.masks)[..., None]
        count = samples.total[0]
        shown = torch.zeros_like(samples.colours)
        total = samples.colours.new_zeros(())
        for k, weight in enumerate(weights):
            uv = networks.uv(k, samples.points)
            colours = networks.colour(k, uv[: DOWN + 1])
            shown = shown + weight * colours
            outside = (1.0 - weight) * colours[BASE]
            moved = (uv[[FORWARD, BACKWARD]] - uv[BASE]).abs().sum(-1) * samples.confidence
            total = total + o.flow * (moved * weight[..., 0]).sum() / max(samples.total[1], 1.0)
            total = total + o.background * outside.square().sum() / count
        wrong = shown - samples.colours
        slopes = wrong[[RIGHT, DOWN]] - wrong[BASE]
        return total + (wrong[BASE].square().sum() + o.gradient * slopes.abs().sum()) / (3 * count)

    def render(self, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> Tensor:
        """See :meth:`Trainer.render`."""
        points, networks = self.sampler.look(t, x, y)[0], self.networks
        seen = [self.sampler.tensor(mask[t, y, x]) / 255.0 for mask in self.masks]
        weights = contributions(torch.stack(seen) if seen else points.new_zeros((0, len(points))))
        found = torch.zeros_like(points)
        for k, weight in enumerate(weights):
            where = weight > 0
            if bool(where.any()):
                colours = in_chunks(lambda p, k=k: networks.colour(k, networks.uv(k, p)), points[where])  # type: ignore[misc]
                found[where] += weight[where, None] * colours
        return found
