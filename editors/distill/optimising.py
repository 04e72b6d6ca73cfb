"""The loop of an optimisation, its learning rate, and its state on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from canon import progress
from canon.errors import InputError
from canon.representations.neural.checkpoint import Run, load_run, read_record, save_run
from canon.storage import explain_os_error, write_image

EVERY = 10
"""Steps between two states on disk."""
_WARM = 0.05  # share of the steps over which the rate rises
_REST = 0.05  # of the rate at the end


Made = TypeVar("Made")
"""What parameters make: paint, or a fit."""


@dataclass(frozen=True)
class Checkpoints(Generic[Made]):
    """Where the state of a run is kept.

    Attributes:
        folder: of this run alone.
        key: of all that the run depends on; a state of another key is not taken up.
        preview: what is to be looked at of what was made, uint8 [h, w, 3].
    """

    folder: Path
    key: str
    preview: Callable[[Made], np.ndarray]


def optimised(
    made: nn.Module,
    loss: Callable[[Made, int], Tensor],
    steps: int,
    rate: float,
    checkpoints: Checkpoints[Made] | None = None,
) -> Made:
    """What a module makes after so many steps down a loss.

    The module makes it when it is called without arguments, and has a method ``optimiser(rate)``.

    Random numbers are the loss's own affair, by the step that it is told: a run that was cut off and goes on ends as if
    it had not been.

    Raises:
        InputError: the checkpoints' folder cannot be written.
    """
    optimiser: torch.optim.Adam = made.optimiser(rate)  # type: ignore[operator]
    rates = [group["lr"] for group in optimiser.param_groups]
    run = Run(made, optimiser)
    _take_up(run, checkpoints)
    begin, before = time.perf_counter(), run.seconds
    for _ in progress.parts(range(run.step, steps), "optimising"):
        for group, most in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = most * _share(run.step / steps)
        found = loss(made(), run.step)
        optimiser.zero_grad(set_to_none=True)
        found.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        run.step += 1
        run.seconds = before + time.perf_counter() - begin
        if progress.listening():
            progress.report("optimising", 1.0, {"loss": float(found.detach())})
        if checkpoints is not None and (run.step % EVERY == 0 or run.step == steps):
            _keep(run, made, checkpoints)
    with torch.no_grad():
        return cast(Made, made())


def _share(progress: float) -> float:
    """Of the learning rate: up at once, then down along a cosine."""
    if progress < _WARM:
        return (progress + 0.01) / (_WARM + 0.01)
    return _REST + (1 - _REST) * 0.5 * (1 + math.cos(math.pi * (progress - _WARM) / (1 - _WARM)))


def _take_up(run: Run, checkpoints: Checkpoints[Made] | None) -> None:
    if checkpoints is not None:
        record = read_record(checkpoints.folder, checkpoints.key)
        if record is not None:
            load_run(run, checkpoints.folder, record)


def _keep(run: Run, made: nn.Module, checkpoints: Checkpoints[Made]) -> None:
    with torch.no_grad():
        shown = checkpoints.preview(made())
    try:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        save_run(run, checkpoints.folder, checkpoints.key)
        write_image(checkpoints.folder / "preview.png", shown)
    except InputError:
        raise
    except OSError as error:
        raise explain_os_error(error, checkpoints.folder) from error
