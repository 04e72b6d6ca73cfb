"""Fit real clips and print what it costs and what it gives; write the same as JSON, and both solvers' curves as a PNG.

    python benchmarks/fit.py --clips DIR [--preset balanced fast] [--curve CLIP] [--out benchmarks/results]

DIR holds one folder per clip with frames/ and, where there are, masks/. Every fit runs in a process of its own, so that
its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

import canon
from canon.edits import Edit, Over, Provenance, Step
from canon.metrics import mask_iou, reconstruction
from canon.runtime import cores, peak_memory_mib, tune_allocator
from canon.scenes import KNOWN_CLIPS

CLIPS = ("blackswan", "car-shadow", "dog", "dance-twirl", "tennis", "bear")
IOU_CLIPS = ("blackswan", "car-shadow", "dog", "dance-twirl")
CURVE_SIZE = (240, 427)


def measure(root: Path, name: str, preset: str, frames: int) -> dict[str, Any]:
    """One clip at one preset."""
    clip = load(root, name, frames)
    fit = canon.fit(clip, preset=preset)
    peak = peak_memory_mib()
    found: dict[str, Any] = {
        "clip": name,
        "preset": preset,
        "frames": len(clip),
        "size": f"{clip.size[1]}x{clip.size[0]}",
        "seconds": fit.stats["seconds_total"],
        "stages": fit.stats["seconds"],
        "peak_mib": round(peak, 1),
        **{key: round(value, 4) for key, value in reconstruction(fit).items()},
        "render_fps": round(render_speed(fit), 1),
        "canvases": {layer: list(fit.canonical(layer).size) for layer in fit.layers},
    }
    return found


def load(
    root: Path, name: str, frames: int, first_mask_only: bool = False, size: tuple[int, int] | None = None
) -> canon.Clip:
    """A clip with its masks, or with frame 0's alone."""
    folder = root / name / "masks"
    masks = sorted(folder.iterdir())[0] if first_mask_only else folder if folder.is_dir() else None
    return canon.Clip.load(root / name / "frames", masks=masks, max_frames=frames, size=size)


def render_speed(fit: canon.Fit) -> float:
    """Frames per second of re-rendering a half-transparent, half-opaque edit of the whole front layer, not encoded."""
    layer = fit.layers[0]
    height, width = fit.canonical(layer).size
    paint = np.zeros((height, width, 4), np.float32)
    paint[..., 0], paint[..., 3] = 0.9, np.where(np.arange(width) < width // 2, 0.5, 1.0)
    edit = Edit([Step(layer, Over(paint), Provenance.now("benchmark", {}, {}))], fit=fit.id)
    video = canon.render(fit, edit)
    speeds = []
    for _ in range(3):
        begin = time.perf_counter()
        for _frame in video:
            pass
        speeds.append(len(video) / (time.perf_counter() - begin))
    return float(np.median(speeds))


def one_mask(root: Path, name: str, frames: int, preset: str) -> dict[str, Any]:
    """Mean IoU of a fit that is given frame 0's mask only, against all true masks."""
    truth = load(root, name, frames).masks["foreground"]
    fit = canon.fit(load(root, name, frames, first_mask_only=True), preset=preset)
    scores = [
        mask_iou(fit.coordinates(t, "foreground")[1] > 0.5, np.asarray(truth.get(t)) > 127) for t in range(len(fit))
    ]
    return {
        "clip": name,
        "preset": preset,
        "mask_iou": round(float(np.mean(scores)), 4),
        "mask_iou_min": round(min(scores), 4),
    }


def curve(root: Path, name: str, solver: str, frames: int, minutes: float) -> dict[str, Any]:
    """PSNR against seconds at 240p."""
    clip = load(root, name, frames, size=CURVE_SIZE)
    points: list[tuple[float, float]] = []
    begin = time.perf_counter()

    def progress(stage: str, done: float, figures: Mapping[str, float]) -> None:
        if "psnr" in figures and np.isfinite(figures["psnr"]):
            points.append((round(time.perf_counter() - begin, 2), round(float(figures["psnr"]), 3)))

    options = {"minutes": minutes, "batch": 1000, "steps": 10**6} if solver == "neural" else {}
    fit = canon.fit(clip, solver=solver, progress=progress, **options)
    seconds = time.perf_counter() - begin
    points.append((round(seconds, 2), round(reconstruction(fit)["psnr"], 3)))
    return {
        "clip": name,
        "solver": solver,
        "frames": len(clip),
        "size": f"{CURVE_SIZE[1]}x{CURVE_SIZE[0]}",
        "curve": points,
    }


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """Both solvers' PSNR against seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=110)
    for entry in curves:
        seconds, values = zip(*entry["curve"], strict=True)
        axes.plot(seconds, values, marker="o", markersize=3, label=f"solver={entry['solver']}")
    axes.set_xscale("log")
    axes.set_xlabel("seconds since start (flow, masks and camera included)")
    axes.set_ylabel("PSNR, dB")
    axes.set_title(f"{curves[0]['clip']}, {curves[0]['frames']} frames of {curves[0]['size']}, {cores()} CPU cores")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def machine() -> dict[str, Any]:
    """Where and on what this was measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
    }


def in_own_process(*arguments: str) -> dict[str, Any]:
    """Run one measurement of this script in a fresh process."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--names", nargs="*", default=list(CLIPS))
    parser.add_argument("--preset", nargs="*", default=["balanced", "fast"])
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--curve", help="clip for the two solvers' curves")
    parser.add_argument("--minutes", type=float, default=10.0, help="cap of the neural solver's curve")
    parser.add_argument("--no-iou", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--single", nargs=2, metavar=("KIND", "ARGUMENT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    assert set(options.names) <= set(KNOWN_CLIPS), f"known clips: {', '.join(KNOWN_CLIPS)}"
    if options.single:
        tune_allocator()
        kind, argument = options.single
        name = options.names[0]
        run = {
            "fit": lambda: measure(options.clips, name, argument, options.frames),
            "iou": lambda: one_mask(options.clips, name, options.frames, argument),
            "curve": lambda: curve(options.clips, name, argument, options.frames, options.minutes),
        }
        print(json.dumps(run[kind]()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    common = ["--clips", str(options.clips), "--frames", str(options.frames), "--minutes", str(options.minutes)]
    record: dict[str, Any] = {**machine(), "fits": [], "one_mask": [], "curves": []}
    for preset in options.preset:
        for name in options.names:
            row = in_own_process(*common, "--names", name, "--single", "fit", preset)
            record["fits"].append(row)
            print(
                f"{name:12} {preset:9} {row['frames']:3} x {row['size']:8} {row['seconds']:6.1f} s"
                f"  PSNR {row['psnr']:.2f} (unlit {row['psnr_unlit']:.2f})"
                f"  SSIM {row['ssim']:.3f} ({row['ssim_unlit']:.3f})"
                f"  {row['peak_mib']:.0f} MiB  {row['render_fps']:.0f} frames/s  {row['stages']}",
                flush=True,
            )
    for name in [] if options.no_iou else [n for n in options.names if n in IOU_CLIPS]:
        record["one_mask"].append(in_own_process(*common, "--names", name, "--single", "iou", "fast"))
        print(record["one_mask"][-1], flush=True)
    if options.curve:
        for solver in ("default", "neural"):
            record["curves"].append(in_own_process(*common, "--names", options.curve, "--single", "curve", solver))
            print(record["curves"][-1], flush=True)
        plot(record["curves"], options.out / "curves.png")
    (options.out / f"fit-{record['date']}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
