"""Training of a representation's networks, and what comes of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.fits import FitLayer
from canon.registry import Progress
from canon.representations.neural.baking import bake_layers
from canon.representations.neural.checkpoint import Run, load_run, read_record, save_run
from canon.representations.neural.samples import Sampler, Samples
from canon.runtime import map_frames, single_threaded_operations, tune_allocator
from canon.storage import content_hash

_PROBE = 4096
"""Pixels on which PSNR is watched."""
_CHECKED_PIXELS = 300_000
"""Pixels of the whole frames on which the final PSNR is measured, at least one frame."""
_BAKING_SHARE = 0.05
PRETRAINING = ("pretraining", "pretraining_rate")


@dataclass(frozen=True)
class TrainingOptions:
    """Length and bookkeeping of a run."""

    steps: int = 100_000
    """Training steps."""
    minutes: float | None = 10.0
    """Training stops after so many minutes, interruptions not counted; None = only after all steps, as published."""
    batch: int = 10_000
    """Random pixels per step; 0 = a whole frame."""
    learning_rate: float = 1e-4
    """Of Adam."""
    pretraining: int = 0
    """Steps that first bring the coordinates to where they are to start."""
    pretraining_rate: float = 1e-3
    """Learning rate of the pretraining."""
    canvas_limit: int = 4096
    """Largest side of a baked canvas, in texels."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints; 0 = every step."""
    record_seconds: float = 5.0
    """Seconds between points of the PSNR curve; 0 = every step."""

    least: ClassVar[dict[str, int]] = {"steps": 1, "batch": 0, "pretraining": 0, "canvas_limit": 16}
    """Smallest value of options."""
    positive: ClassVar[tuple[str, ...]] = ("learning_rate", "pretraining_rate")
    """Options that are to be above 0."""

    def __post_init__(self) -> None:
        for name, low in self.least.items():
            if getattr(self, name) < low:
                raise InputError(f"The neural solver's {name} is {getattr(self, name)}; give at least {low}.")
        for name in self.positive:
            if not getattr(self, name) > 0:
                raise InputError(f"The neural solver's {name} is {getattr(self, name)}; give a number above 0.")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"The neural solver's minutes is {self.minutes}; give a number above 0, or None.")


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


def train_and_bake(trainer: Trainer, names: Sequence[str], stride: int, progress: Progress) -> NeuralResult:
    """Take the steps that are left, and bake what the networks say.

    Args:
        names: of the layers, front to back.
        stride: pixels between the control nodes of the baked coordinates.
        progress: called after every step; it may raise to interrupt.

    Raises:
        KeyboardInterrupt: the user's; the state is saved first.
    """
    tune_allocator()
    # Shards and chunks go to the cores as a whole; what remains between them is too small to be worth splitting.
    with single_threaded_operations():
        trainer.train(progress)
        start, sampler = time.perf_counter(), trainer.sampler
        layers = bake_layers(
            trainer.run.networks,  # type: ignore[arg-type]  # a module that has what LayerNetworks asks for
            names,
            (sampler.count, *sampler.size),
            stride,
            trainer.scale,
            trainer.options.canvas_limit,
            trainer.masks,
            trainer.folder,
            lambda share: progress("bake", 1.0 - _BAKING_SHARE * (1.0 - share), {}),
        )
        seconds = {"train": trainer.run.seconds, "bake": time.perf_counter() - start}
        return NeuralResult(layers, trainer.run.curve, trainer.final_psnr(), seconds)


class Trainer(ABC):
    """One training run; a representation says what its networks are and what they are to learn."""

    scale: float
    """Pixels per unit of uv at the start."""
    shard: ClassVar[int] = 512
    """Samples that one core works on at once: what its cache holds. The parts are the same on any number of cores."""
    masks: Sequence[np.ndarray] | None = None
    """The baked opacity where no network says it: uint8 [T, H, W] per layer but the last."""

    def __init__(self, sampler: Sampler, options: TrainingOptions, folder: Path) -> None:
        """Start, or take up the run of the same clip, seed and options (but for its length) that ``folder`` holds."""
        self.sampler, self.options, self.folder = sampler, options, folder
        self.key = self._key()
        self.shown_loss = float("nan")
        record = read_record(folder, self.key)
        self.run = self._fresh(record["step"] if record else 0)
        if record and not load_run(self.run, folder, record):
            self.run = self._fresh(0)
        self._probe = sampler.pixels(sampler.generator(0, 1), _PROBE)

    @abstractmethod
    def build(self) -> nn.Module:
        """Fresh networks on the sampler's device, with uv, colour and opacity of layers (``LayerNetworks``)."""

    @abstractmethod
    def loss(self, samples: Samples, step: int) -> Tensor:
        """Of a part of a step's samples; the parts' losses add up."""

    @abstractmethod
    def render(self, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> Tensor:
        """What the networks show at pixels: colours [B, 3], without gradients."""

    def pretraining_loss(self, samples: Samples) -> Tensor:
        """The same while the coordinates are brought to their start."""
        raise NotImplementedError

    def pretrained(self, networks: nn.Module) -> Iterable[nn.Parameter]:
        """What the pretraining moves."""
        return networks.parameters()

    def far(self, step: int) -> float | None:
        """Distance in pixels of the samples' far points at a step; None = without them."""
        return None

    @property
    def limit(self) -> float:
        """Seconds after which training stops."""
        return float("inf") if self.options.minutes is None else self.options.minutes * 60.0

    def share(self, step: int) -> float:
        """How much of the run is over, by steps or by time, whichever ends it."""
        return min(max(step / self.options.steps, self.run.seconds / self.limit), 1.0)

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        return self.options.learning_rate

    def _key(self) -> str:
        free = {field.name for field in fields(TrainingOptions)} - {"batch", "learning_rate", *PRETRAINING}
        options = {name: value for name, value in asdict(self.options).items() if name not in free}
        frames, masks = self.sampler.frames, self.sampler.masks
        some = sorted({0, len(frames) // 2, len(frames) - 1})
        seen = [np.asarray(array[t]) for array in (frames, *masks) for t in some]
        return content_hash(options, self.sampler.seed, list(frames.shape), len(masks), *seen)

    def _fresh(self, step: int) -> Run:
        networks = self.build()
        return Run(networks, self._optimiser(networks, step))

    def _optimiser(self, networks: nn.Module, step: int) -> torch.optim.Adam:
        if step < self.options.pretraining:
            return torch.optim.Adam(self.pretrained(networks), lr=self.options.pretraining_rate, fused=True)
        return torch.optim.Adam(networks.parameters(), lr=self.options.learning_rate, fused=True)

    def train(self, progress: Progress) -> None:
        """Take all steps that are left, or those that the time allows."""
        run, o = self.run, self.options
        total, limit = o.pretraining + o.steps, self.limit
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
        save_run(self.run, self.folder, self.key)

    def _report(self, total: int, limit: float) -> tuple[str, float, dict[str, float]]:
        share = max(self.run.step / total, self.run.seconds / limit)
        figures = {"loss": self.shown_loss}
        if self.run.curve:
            figures["psnr"] = self.run.curve[-1][2]
        stage = "train" if self.run.step >= self.options.pretraining else "pretrain"
        return stage, min(share, 1.0) * (1.0 - _BAKING_SHARE), figures

    def _update(self, gradients: list[Tensor]) -> None:
        run = self.run
        if run.step >= self.options.pretraining:
            run.optimiser.param_groups[0]["lr"] = self.rate(run.step - self.options.pretraining)
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
        samples = self.sampler.draw(run.step, o.batch, self.far(step) if step >= 0 else None)
        parameters = run.optimiser.param_groups[0]["params"]
        parts = samples.split(self.shard) if self.sampler.device.type == "cpu" else [samples]

        def one(part: Samples) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = self.pretraining_loss(part) if step < 0 else self.loss(part, step)
            return loss.detach(), torch.autograd.grad(loss, parameters, materialize_grads=True)

        results: Iterable[tuple[Tensor, tuple[Tensor, ...]]]
        results = map_frames(one, parts) if len(parts) > 1 else map(one, parts)
        loss, total = None, None
        for part_loss, gradients in results:
            loss = part_loss if loss is None else loss + part_loss
            total = list(gradients) if total is None else [a.add_(b) for a, b in zip(total, gradients, strict=True)]
        assert total is not None and loss is not None
        self._last_loss = loss
        return total

    def _watch(self, last: bool) -> None:
        """A point of the curve, when it is time."""
        run, o = self.run, self.options
        step = run.step - o.pretraining
        if step <= 0:
            return
        if not run.curve or last or run.seconds - run.curve[-1][0] >= o.record_seconds:
            self.shown_loss = float(self._last_loss)
            error = (self.render(*self._probe) - self.sampler.look(*self._probe)[1]).square().mean()
            run.curve.append((run.seconds, step, _psnr(float(error)), self.shown_loss))

    def final_psnr(self) -> float:
        """PSNR in dB over whole frames, a few of a large clip, spread evenly."""
        s = self.sampler
        height, width = s.size
        wanted = max(1, min(s.count, _CHECKED_PIXELS // (height * width)))
        y, x = (part.ravel() for part in np.mgrid[:height, :width])
        errors = []
        for t in np.unique(np.linspace(0, s.count - 1, wanted).round().astype(int)).tolist():
            pixels = np.full(len(x), t), x, y
            errors.append(float((self.render(*pixels) - s.look(*pixels)[1]).square().mean()))
        return _psnr(float(np.mean(errors)))


def _psnr(error: float) -> float:
    return float(-10.0 * np.log10(max(error, 1e-10)))
