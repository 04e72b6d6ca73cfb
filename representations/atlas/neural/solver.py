"""Training of the networks of Layered Neural Atlases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from canon.registry import Progress
from canon.representations.atlas.neural.losses import loss_terms, predict
from canon.representations.atlas.neural.networks import AtlasNetworks
from canon.representations.atlas.neural.options import NeuralOptions
from canon.representations.motion.flow import Flow
from canon.representations.neural.evaluation import in_chunks
from canon.representations.neural.samples import Sampler, Samples
from canon.representations.neural.training import NeuralResult, Trainer, train_and_bake

BACKGROUND = "background"
_PUBLISHED_SIDE = 768


def solve_neural(
    frames: np.ndarray,
    masks: Sequence[tuple[str, np.ndarray]],
    flow: Flow,
    options: NeuralOptions,
    *,
    stride: int,
    device: torch.device,
    seed: int,
    checkpoint: Path,
    progress: Progress,
) -> NeuralResult:
    """Explain a clip by layered neural atlases (Kasten et al., 2021), and bake them.

    Args:
        frames: uint8 [T, H, W, 3].
        masks: name and uint8 [T, H, W] of every layer but the background, front to back.
        stride: pixels between the control nodes of the baked coordinates.
        seed: of the initial weights and of the pixels drawn; equal seeds give equal results on the same machine.
        checkpoint: folder of the run's state; an interrupted run that is found there is taken up.
        progress: called after every step; it may raise to interrupt.

    Raises:
        KeyboardInterrupt: the user's; the state is saved first.
    """
    sampler = Sampler(frames, [mask for _, mask in masks], flow, checkpoint, device, seed)
    trainer = AtlasTrainer(sampler, options, checkpoint)
    return train_and_bake(trainer, [*(name for name, _ in masks), BACKGROUND], stride, progress)


class AtlasTrainer(Trainer):
    """One training run."""

    options: NeuralOptions

    def __init__(self, sampler: Sampler, options: NeuralOptions, folder: Path) -> None:
        """See :class:`Trainer`."""
        self.scale = max(sampler.size) / 2.0 / options.mapping_scale
        super().__init__(sampler, options, folder)

    def build(self) -> AtlasNetworks:
        """See :meth:`Trainer.build`."""
        networks = AtlasNetworks(len(self.sampler.masks) + 1, self.options, self.sampler.seed)
        return networks.to(self.sampler.device)

    @property
    def networks(self) -> AtlasNetworks:
        """Those that are trained."""
        assert isinstance(self.run.networks, AtlasNetworks)
        return self.run.networks

    def pretrained(self, networks: nn.Module) -> Iterable[nn.Parameter]:
        """See :meth:`Trainer.pretrained`."""
        assert isinstance(networks, AtlasNetworks)
        return networks.mappings.parameters()

    def far(self, step: int) -> float | None:
        """See :meth:`Trainer.far`."""
        if step >= self.options.global_steps:
            return None
        return self.options.global_distance * max(self.sampler.size) / _PUBLISHED_SIDE

    def loss(self, samples: Samples, step: int) -> Tensor:
        """See :meth:`Trainer.loss`."""
        prediction = predict(self.networks, samples)
        terms = loss_terms(prediction, samples, self.options, self.scale, step, self.far(step))
        return torch.stack(list(terms.values())).sum()

    def pretraining_loss(self, samples: Samples) -> Tensor:
        """See :meth:`Trainer.pretraining_loss`."""
        points, networks = samples.points[0], self.networks
        wanted = points[:, :2] * self.options.mapping_scale
        # As published the distance, not its square; it is what brings a narrow network close.
        distances = [
            (networks.uv(k, points) - wanted).square().sum(-1).add(1e-12).sqrt() for k in range(networks.count)
        ]
        return torch.stack(distances).sum() / samples.total[0]

    def render(self, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> Tensor:
        """See :meth:`Trainer.render`."""
        return in_chunks(self.networks.render, self.sampler.look(t, x, y)[0])
