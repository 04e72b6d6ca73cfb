"""Training of the networks of Layered Neural Atlases, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canon.fits import FitLayer
from canon.registry import Progress
from canon.representations.atlas.neural.baking import bake_layers
from canon.representations.atlas.neural.checkpoint import Run, load_run, read_record, save_run
from canon.representations.atlas.neural.losses import loss_terms, predict
from canon.representations.atlas.neural.networks import AtlasNetworks, in_chunks
from canon.representations.atlas.neural.options import NeuralOptions
from canon.representations.atlas.neural.samples import Sampler, Samples
from canon.representations.motion.flow import Flow
from canon.runtime import map_frames, single_threaded_operations, tune_allocator
from canon.storage import content_hash

BACKGROUND = "background"
_SHARD = 512
"""Samples that one core works on at once: what its cache holds. The parts are the same on any number of cores."""
_PROBE = 4096
"""Pixels on which PSNR is watched."""
_CHECKED_PIXELS = 300_000
"""Pixels of the whole frames on which the final PSNR is measured, at least one frame."""
_PUBLISHED_SIDE = 768
_BAKING_SHARE = 0.05


@dataclass(frozen=True)
class NeuralResult:
    """What the neural solver made.

    Attributes:
        layers: front to back, the background last.
        curve: (seconds of training, step, PSNR in dB on a fixed sample of pixels, loss of the step).
        psnr: dB over whole frames as the networks render them, spread evenly over the clip.
        seconds: of training, over all starts, and of baking.
    """

    layers: list[FitLayer]
    curve: list[tuple[float, int, float, float]]
    psnr: float
    seconds: dict[str, float]


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
    tune_allocator()
    sampler = Sampler(frames, [mask for _, mask in masks], flow, checkpoint, device, seed)
    trainer = Trainer(sampler, options, checkpoint)
    # Shards and chunks go to the cores as a whole; what remains between them is too small to be worth splitting.
    with single_threaded_operations():
        trainer.train(progress)
        return _bake(trainer, [*(name for name, _ in masks), BACKGROUND], stride, progress)


def _bake(trainer: Trainer, names: list[str], stride: int, progress: Progress) -> NeuralResult:
    start, sampler = time.perf_counter(), trainer.sampler
    layers = bake_layers(
        trainer.run.networks,
        names,
        (sampler.count, *sampler.size),
        stride,
        trainer.options,
        trainer.folder,
        lambda share: progress("bake", 1.0 - _BAKING_SHARE * (1.0 - share), {}),
    )
    seconds = {"train": trainer.run.seconds, "bake": time.perf_counter() - start}
    return NeuralResult(layers, trainer.run.curve, trainer.final_psnr(), seconds)


class Trainer:
    """One training run."""

    def __init__(self, sampler: Sampler, options: NeuralOptions, folder: Path) -> None:
        """Start, or take up the run of the same clip, seed and options (but for its length) that ``folder`` holds."""
        self.sampler, self.options, self.folder = sampler, options, folder
        side = max(sampler.size)
        self.scale = side / 2.0 / options.mapping_scale
        self.far = options.global_distance * side / _PUBLISHED_SIDE
        self.key = self._key()
        self.loss = float("nan")
        record = read_record(folder, self.key)
        self.run = self._fresh(record["step"] if record else 0)
        if record and not load_run(self.run, folder, record):
            self.run = self._fresh(0)
        self._probe = sampler.pixels(sampler.generator(0, 1), _PROBE)

    def _key(self) -> str:
        free = {"steps", "minutes", "canvas_limit", "checkpoint_seconds", "record_seconds"}
        options = {name: value for name, value in asdict(self.options).items() if name not in free}
        frames, masks = self.sampler.frames, self.sampler.masks
        some = sorted({0, len(frames) // 2, len(frames) - 1})
        seen = [np.asarray(array[t]) for array in (frames, *masks) for t in some]
        return content_hash(options, self.sampler.seed, list(frames.shape), len(masks), *seen)

    def _fresh(self, step: int) -> Run:
        networks = AtlasNetworks(len(self.sampler.masks) + 1, self.options, self.sampler.seed)
        networks.to(self.sampler.device)
        return Run(networks, self._optimiser(networks, step))

    def _optimiser(self, networks: AtlasNetworks, step: int) -> torch.optim.Adam:
        if step < self.options.pretraining:
            return torch.optim.Adam(networks.mappings.parameters(), lr=self.options.pretraining_rate, fused=True)
        return torch.optim.Adam(networks.parameters(), lr=self.options.learning_rate, fused=True)

    @property
    def _age(self) -> int:
        """Steps that the present optimiser has taken."""
        return self.run.step - (self.options.pretraining if self.run.step >= self.options.pretraining else 0)

    def train(self, progress: Progress) -> None:
        """Take all steps that are left, or those that the time allows."""
        run, o = self.run, self.options
        total = o.pretraining + o.steps
        limit = float("inf") if o.minutes is None else o.minutes * 60.0
        clock, saved = time.perf_counter(), run.seconds
        whole = True
        try:
            while run.step < total and run.seconds < limit:
                gradients = self._gradients()
                whole = False
                self._update(gradients)
                whole = True
                now = time.perf_counter()
                run.seconds, clock = run.seconds + now - clock, now
                self._watch(last=run.step == total or run.seconds >= limit)
                progress(*self._report(total, limit))
                if run.seconds - saved >= o.checkpoint_seconds:
                    self.save()
                    saved = run.seconds
        except KeyboardInterrupt:
            # In the middle of an update the weights are of two steps; the checkpoint before is the better one.
            if whole:
                self.save()
            raise
        self.save()

    def save(self) -> None:
        """Write the state to the folder."""
        save_run(self.run, self.folder, self.key, self._age)

    def _report(self, total: int, limit: float) -> tuple[str, float, dict[str, float]]:
        share = max(self.run.step / total, self.run.seconds / limit)
        figures = {"loss": self.loss}
        if self.run.curve:
            figures["psnr"] = self.run.curve[-1][2]
        stage = "train" if self.run.step >= self.options.pretraining else "pretrain"
        return stage, min(share, 1.0) * (1.0 - _BAKING_SHARE), figures

    def _update(self, gradients: list[Tensor]) -> None:
        run = self.run
        for parameter, gradient in zip(run.optimiser.param_groups[0]["params"], gradients, strict=True):
            parameter.grad = gradient
        run.optimiser.step()
        run.step += 1
        if run.step == self.options.pretraining:
            run.optimiser = self._optimiser(run.networks, run.step)

    def _gradients(self) -> list[Tensor]:
        """Gradients of this step's loss; on the CPU its parts are spread over the cores, and summed in their order."""
        run, o = self.run, self.options
        step = run.step - o.pretraining
        far = self.far if step < o.global_steps and step >= 0 else None
        samples = self.sampler.draw(run.step, o.batch, far)
        parameters = run.optimiser.param_groups[0]["params"]
        parts = samples.split(_SHARD) if self.sampler.device.type == "cpu" else [samples]

        def one(part: Samples) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = self._pretraining_loss(part) if step < 0 else self._loss(part, step, far)
            return loss.detach(), torch.autograd.grad(loss, parameters)

        results: Iterable[tuple[Tensor, tuple[Tensor, ...]]]
        results = map_frames(one, parts) if len(parts) > 1 else map(one, parts)
        loss, total = None, None
        for part_loss, gradients in results:
            loss = part_loss if loss is None else loss + part_loss
            total = list(gradients) if total is None else [a.add_(b) for a, b in zip(total, gradients, strict=True)]
        assert total is not None and loss is not None
        self._last_loss = loss
        return total

    def _loss(self, samples: Samples, step: int, far: float | None) -> Tensor:
        prediction = predict(self.run.networks, samples)
        terms = loss_terms(prediction, samples, self.options, self.scale, step, far)
        return torch.stack(list(terms.values())).sum()

    def _pretraining_loss(self, samples: Samples) -> Tensor:
        points, networks = samples.points[0], self.run.networks
        wanted = points[:, :2] * self.options.mapping_scale
        # As published the distance, not its square; it is what brings a narrow network close.
        distances = [
            (networks.uv(k, points) - wanted).square().sum(-1).add(1e-12).sqrt() for k in range(networks.count)
        ]
        return torch.stack(distances).sum() / samples.total[0]

    def _watch(self, last: bool) -> None:
        """A point of the curve, when it is time."""
        run, o = self.run, self.options
        step = run.step - o.pretraining
        if step <= 0:
            return
        if not run.curve or last or run.seconds - run.curve[-1][0] >= o.record_seconds:
            self.loss = float(self._last_loss)
            points, colours = self.sampler.look(*self._probe)
            error = (in_chunks(run.networks.render, points) - colours).square().mean()
            run.curve.append((run.seconds, step, _psnr(float(error)), self.loss))

    def final_psnr(self) -> float:
        """PSNR in dB over whole frames, a few of a large clip, spread evenly."""
        s = self.sampler
        height, width = s.size
        wanted = max(1, min(s.count, _CHECKED_PIXELS // (height * width)))
        y, x = (part.ravel() for part in np.mgrid[:height, :width])
        errors = []
        for t in np.unique(np.linspace(0, s.count - 1, wanted).round().astype(int)).tolist():
            points, colours = s.look(np.full(len(x), t), x, y)
            errors.append(float((in_chunks(self.run.networks.render, points) - colours).square().mean()))
        return _psnr(float(np.mean(errors)))


def _psnr(error: float) -> float:
    return float(-10.0 * np.log10(max(error, 1e-10)))
