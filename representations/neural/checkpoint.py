"""The state of a training run on disk: a killed run goes on from there.

One that ends after so many steps ends as if it had never stopped; one that ends after so much time need not.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.storage import open_arrays, write_arrays, write_json

RECORD = "neural.json"
_STATE = "neural-{}.safetensors"


@dataclass
class Run:
    """All that a training run has to remember; random numbers follow from the seed and the step.

    Attributes:
        step: steps taken, pretraining counted.
        seconds: spent on them, over all starts.
        curve: (seconds, step without pretraining, PSNR in dB, loss).
    """

    networks: nn.Module
    optimiser: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)


def save_run(run: Run, folder: Path, key: str) -> None:
    """Write the state, then the record that names it, each atomically; a kill in between leaves the state before.

    Args:
        key: of what the state depends on; another key's state is not taken up.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, value in run.networks.named_parameters():
        arrays[f"weight.{name}"] = _numpy(value)
        memory = run.optimiser.state.get(value)
        if memory:
            arrays[f"mean.{name}"] = _numpy(memory["exp_avg"])
            arrays[f"square.{name}"] = _numpy(memory["exp_avg_sq"])
            arrays[f"age.{name}"] = _numpy(torch.as_tensor(memory["step"], dtype=torch.float32)).reshape(1)
    state = folder / _STATE.format(run.step)
    write_arrays(state, arrays)
    curve = [list(point) for point in run.curve]
    record = {"key": key, "state": state.name, "step": run.step, "seconds": run.seconds, "curve": curve}
    write_json(folder / RECORD, record)
    for old in folder.glob(_STATE.format("*")):
        if old != state:
            with contextlib.suppress(OSError):
                old.unlink()


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def read_record(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of an interrupted run of this key, or None when there is none that can be used."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["key"] != key or Path(record["state"]).name != record["state"]:
            return None
        record["curve"] = [(float(s), int(n), float(p), float(x)) for s, n, p, x in record["curve"]]
        return {**record, "step": int(record["step"]), "seconds": float(record["seconds"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def load_run(run: Run, folder: Path, record: dict[str, Any]) -> bool:
    """Bring ``run`` to the recorded state; False, and ``run`` as it was, when the files do not fit it."""
    try:
        arrays = open_arrays(folder / record["state"])
    except InputError:
        return False
    parameters = dict(run.networks.named_parameters())
    trained = [id(p) for group in run.optimiser.param_groups for p in group["params"]]
    wanted = {f"weight.{name}": p for name, p in parameters.items()}
    # What has had no gradient yet has no memory either.
    moved = {name: p for name, p in parameters.items() if id(p) in trained and f"age.{name}" in arrays}
    for name, p in moved.items():
        wanted |= {f"mean.{name}": p, f"square.{name}": p}
    if any(name not in arrays or arrays[name].shape != tuple(p.shape) for name, p in wanted.items()):
        return False
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(_tensor(arrays[f"weight.{name}"]))
            if name in moved:
                run.optimiser.state[p] = {
                    "step": _tensor(arrays[f"age.{name}"])[0].to(p.device if p.is_cuda else "cpu"),
                    "exp_avg": _tensor(arrays[f"mean.{name}"]).to(p.device),
                    "exp_avg_sq": _tensor(arrays[f"square.{name}"]).to(p.device),
                }
    run.step, run.seconds, run.curve = record["step"], record["seconds"], list(record["curve"])
    return True


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
