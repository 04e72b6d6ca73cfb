"""Frame times: regular grids, average rates."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

DEFAULT_FPS = Fraction(24)
"""For sources that carry no rate, such as folders of images."""

_COMMON_RATES = tuple(Fraction(n, d) for n, d in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1)))
_COMMON_RATES += (Fraction(60000, 1001), Fraction(60), Fraction(120))


def is_regular(timestamps: Sequence[float] | np.ndarray, fps: Fraction) -> bool:
    """Whether frame times (seconds) lie on the regular grid of ``fps``, up to the rounding that containers do."""
    times = np.asarray(timestamps, dtype=np.float64)
    grid = times[:1] + np.arange(len(times)) / float(fps)
    return bool(np.all(np.abs(times - grid) <= min(2e-3, 0.25 / float(fps))))


def frame_rate(timestamps: Sequence[float] | np.ndarray, announced: Fraction | None = None) -> Fraction:
    """Average rate of frames shown at ``timestamps`` (seconds): the announced or a common one where it fits exactly."""
    if len(timestamps) < 2 or timestamps[-1] <= timestamps[0]:
        return announced or DEFAULT_FPS
    for rate in (*((announced,) if announced else ()), *_COMMON_RATES):
        if is_regular(timestamps, rate):
            return rate
    return Fraction((len(timestamps) - 1) / float(timestamps[-1] - timestamps[0])).limit_denominator(1001)


def spread(length: int, count: int) -> list[int]:
    """Up to ``count`` frames at even distances, the first and the last among them."""
    return [int(t) for t in np.unique(np.linspace(0, length - 1, count).round())]
