"""The loss of canon-mini's training as a picture: python benchmarks/training_curve.py FOLDER OUT.png"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

STAGES = ("vae", "base", "controlnet", "instruct")
SMOOTHED = 5  # neighbouring figures, each of 50 steps, that are averaged


def main() -> None:
    """Command line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    figure, axes = pyplot.subplots(1, len(STAGES), figsize=(4 * len(STAGES), 3))
    for stage, axis in zip(STAGES, axes, strict=True):
        path = folder / "training" / f"{stage}-curve.json"
        rows = np.array(json.loads(path.read_text()) if path.exists() else []).reshape(-1, 3)
        axis.plot(rows[:, 0], rows[:, 2], color="0.8")
        if len(rows) >= SMOOTHED:
            axis.plot(rows[SMOOTHED - 1 :, 0], np.convolve(rows[:, 2], np.ones(SMOOTHED) / SMOOTHED, "valid"))
        minutes = rows[-1, 1] / 60 if len(rows) else 0
        axis.set(title=f"{stage}, {minutes:.0f} min on 2 cores", xlabel="steps", ylabel="loss")
    figure.tight_layout()
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    main()
