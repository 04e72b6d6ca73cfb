"""Fitting a clip: the one function that every caller uses."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from canon import registry
from canon.clip import Clip
from canon.errors import InputError
from canon.fits import Fit
from canon.runtime import peak_memory_mib, tune_allocator, usable_device
from canon.trackers import Tracker, told


def no_progress(stage: str, done: float, figures: Mapping[str, float]) -> None:
    """Says nothing."""


def fit(
    clip: Clip,
    representation: str = "atlas",
    *,
    preset: str = "balanced",
    solver: str = "default",
    device: str | torch.device | None = None,
    seed: int = 0,
    workspace: str | Path | None = None,
    progress: registry.Progress = no_progress,
    callbacks: Sequence[Tracker] = (),
    **options: Any,
) -> Fit:
    """Fit a representation to a clip, once; every edit then uses it.

    Args:
        representation: a registered name; :func:`canon.registry.names` lists them.
        preset: fast, balanced or quality.
        device: torch device; None takes CUDA where there is one.
        seed: of everything random; the same seed gives the same fit.
        workspace: folder where an interrupted run can be taken up again; None = a temporary one.
        progress: told the stage, the share that is done, and figures such as PSNR.
        callbacks: logs, such as :func:`canon.trackers.tensorboard` opens: told the same, and of the fit in the end.
        options: further fields of the representation's config.

    Raises:
        InputError: an option is unknown or out of range, or the clip cannot be fitted.
    """
    kind = registry.representation(representation)
    check_views(representation, len(clip.views))
    config = registry.make_config(kind.Config, {"preset": preset, "solver": solver, **options})
    chosen = usable_device(device)
    if not 0 <= seed < 2**32:
        raise InputError(f"The seed {seed} is out of range; give a whole number from 0 to {2**32 - 1}.")
    tune_allocator()
    begin = time.perf_counter()
    progress = told(progress, callbacks)
    if workspace is not None:
        found = _fit(kind(), clip, config, Path(workspace), chosen, seed, progress, begin)
    else:
        with tempfile.TemporaryDirectory(prefix="canon-fit-") as folder:
            # Arrays mapped from the folder stay readable after it is removed, as long as the fit lives.
            found = _fit(kind(), clip, config, Path(folder), chosen, seed, progress, begin)
    for callback in callbacks:
        callback.finished(found)
    return found


def check_views(representation: str, views: int) -> None:
    """Refuse a clip of several views that a representation cannot fit.

    Raises:
        InputError: there is more than one view, and the representation is none of three dimensions.
    """
    if views > 1 and not registry.representation(representation).several_views:
        raise InputError(
            f"There are {views} views, and '{representation}' cannot fit several views; use dynamic-nerf, or give one "
            "of them."
        )


def _fit(
    kind: registry.Representation,
    clip: Clip,
    config: Any,
    workspace: Path,
    device: torch.device,
    seed: int,
    progress: registry.Progress,
    begin: float,
) -> Fit:
    found = kind.fit(clip, config, workspace=workspace, device=device, seed=seed, progress=progress)
    found.stats["seconds_total"] = round(time.perf_counter() - begin, 3)
    found.stats["peak_mib"] = round(peak_memory_mib(), 1)
    found.stats["device"] = str(device)
    return found
