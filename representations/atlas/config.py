"""Options of the layered atlas."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError
from canon.representations.layered import LayeredConfig


@dataclass
class AtlasConfig(LayeredConfig):
    """Layered atlas: every layer is one canvas, moved over the frames by control grids."""

    steps: int = 20000
    """Neural solver: optimisation steps."""
    batch: int = 10000
    """Neural solver: pixels per step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.batch < 1:
            raise InputError("Steps and batch must be at least 1.")
