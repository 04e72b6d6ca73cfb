"""Options of CoDeF."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError
from canon.representations.layered import LayeredConfig


@dataclass
class CodefConfig(LayeredConfig):
    """CoDeF: every mask group has a canonical image, a keyframe and what goes beyond it, that bends over the frames."""

    steps: int = 10000
    """Neural solver: optimisation steps."""
    batch: int = 10000
    """Neural solver: random pixels per step; 0 = a whole frame, as published."""
    log2_size: int = 0
    """Neural solver: entries of a hash grid's level, as a power of two; 0 chooses 19, as published, but 15 on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.batch < 0:
            raise InputError("Steps must be at least 1, and batch at least 0.")
        if self.log2_size and not 8 <= self.log2_size <= 24:
            raise InputError(f"The hash grids' log2-size is {self.log2_size}; choose 8 to 24, or 0 for automatic.")
