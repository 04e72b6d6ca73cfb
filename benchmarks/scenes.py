"""Points and edits on synthetic scenes against their truth, and against the same edit through the true maps.

python benchmarks/scenes.py [--names pan fast-pan] [--width 640] [--frames 30] [--preset balanced] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

import numpy as np
from fit import machine
from truth import edit_psnr, track_errors, true_fit

import canon
from canon.scenes import make

SCENES: dict[str, dict[str, float]] = {
    "pan": {},
    "fast-pan": {},
    "bend": {},
    "lighting": {"lighting": 0.25},
    "occlusion": {},
}


def measure(name: str, width: int, frames: int, preset: str) -> list[dict[str, Any]]:
    """One row per layer of a scene."""
    scene = make(name, width=width, height=width * 9 // 16, frames=frames, **SCENES[name])
    fit, true = canon.fit(scene.clip(), "atlas", preset=preset), true_fit(scene)
    rows = []
    for layer, own in zip(scene.layers, fit.layers, strict=True):
        errors = track_errors(scene, fit, layer, own, 200)
        row: dict[str, Any] = {"scene": name, "layer": layer, "seconds": fit.stats["seconds_total"]}
        row |= {"median": round(float(np.median(errors)), 3), "p90": round(float(np.quantile(errors, 0.9)), 3)}
        for kind in ("soft", "sharp"):
            emblem = scene.emblem(layer, soft=kind == "soft")
            row[kind] = round(edit_psnr(scene, fit, layer, own, emblem), 2)
            row[f"{kind}_ceiling"] = round(edit_psnr(scene, true, layer, layer, emblem), 2)
        rows.append(row)
        print(
            f"{name:10} {layer:11} median {row['median']:.2f} px, 90 % {row['p90']:.2f} px; "
            f"soft {row['soft']:.2f} of {row['soft_ceiling']:.2f} dB, "
            f"sharp {row['sharp']:.2f} of {row['sharp_ceiling']:.2f} dB",
            flush=True,
        )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="*", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = [row for name in options.names for row in measure(name, options.width, options.frames, options.preset)]
    record = {**machine(), "width": options.width, "frames": options.frames, "preset": options.preset, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"scenes-{record['date']}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
