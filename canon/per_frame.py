"""Arrays whose frames are made when they are asked for, so that no clip of them is held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class PerFrame:
    """An array [T, ...] whose frames are made when they are asked for."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[int], np.ndarray]) -> None:
        self.shape, self.dtype, self._make = shape, np.dtype(dtype), make

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, t: int) -> np.ndarray:
        return self._make(int(t))
