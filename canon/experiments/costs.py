"""What tasks will cost: by what alike ones took before, else a plain guess."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from canon.experiments.choices import FitChoice, ToolChoice
from canon.experiments.contracts import Task


@dataclass(frozen=True)
class Work:
    """How much there is to do in a task, to estimate its cost."""

    like: str
    """What the cost per pixel is the same for."""
    kind: str
    """What it is roughly the same for."""
    megapixels: float
    """Of all frames."""
    guess: float
    """Plain estimate, seconds."""


class Costs:
    """Seconds that tasks took before, for each megapixel."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Learn from the records of tasks that are done."""
        self._rates: dict[str, list[float]] = defaultdict(list)
        for found in records:
            work, seconds = (found.get("arguments") or {}).get("work"), found.get("seconds")
            if isinstance(work, list) and len(work) == 3 and isinstance(seconds, int | float):
                for name in work[:2]:
                    self._rates[str(name)].append(float(seconds) / max(float(work[2]), 1e-3))

    def of(self, task: Task, work: Work) -> tuple[float, bool]:
        """Estimated seconds, and whether earlier runs say so."""
        for name in (work.like, work.kind):
            if self._rates.get(name):
                return statistics.median(self._rates[name]) * work.megapixels, True
        return work.guess, False


def guess_fit(fit: FitChoice, megapixels: float) -> float:
    """Seconds of a fit.

    Args:
        megapixels: of all frames.
    """
    preset = {"fast": 5.0, "balanced": 12.0, "quality": 30.0}.get(str(fit.config.get("preset")), 12.0)
    if fit.kind == "dynamic-nerf":
        return 60.0 + 100 * preset
    if fit.config.get("solver") == "neural":
        return 60.0 * float(fit.config.get("minutes") or 10)
    return 2.0 + preset * megapixels


def guess_edit(tool: ToolChoice) -> float:
    """Seconds of an edit."""
    total = 0.0
    for config in tool.configs:
        if "model" not in config or "steps" not in config:
            total += 0.3
        else:
            total += 3.0 + float(config["steps"]) * (0.1 if config["model"] == "canon-mini" else 5.0)
    return total
