"""Fit real clips and print what it costs and what it gives; keep the same in
benchmarks/results/fit.json, a row for each clip, representation and preset, and draw the solvers' curves.

    python benchmarks/fit.py --clips DIR [--representation atlas codef] [--preset balanced fast] [--curve CLIP]

DIR holds one folder per clip with frames/ and, where there are, masks/. Every fit runs in a process of its own, so that
its peak memory is its own.
"""

from __future__ import annotations

import argparse
import itertools
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
from canon.exports.labels import propagate_labels
from canon.metrics import cycle_error, folded, mask_iou, reconstruction
from canon.runtime import cores, peak_memory_mib, tune_allocator
from canon.scenes import KNOWN_CLIPS

CLIPS = ("blackswan", "car-shadow", "dog", "dance-twirl", "tennis", "bear", "wolf")
IOU_CLIPS = ("blackswan", "car-shadow", "dog", "dance-twirl")
CURVE_SIZE = (240, 427)


def measure(root: Path, name: str, representation: str, preset: str, frames: int) -> dict[str, Any]:
    """One clip at one preset."""
    clip = load(root, name, frames)
    fit = canon.fit(clip, representation, preset=preset)
    peak = peak_memory_mib()
    found: dict[str, Any] = {
        "clip": name,
        "representation": representation,
        "preset": preset,
        "frames": len(clip),
        "size": f"{clip.size[1]}x{clip.size[0]}",
        "seconds": fit.stats["seconds_total"],
        "stages": fit.stats["seconds"],
        "peak_mib": round(peak, 1),
        **{key: round(value, 4) for key, value in reconstruction(fit).items()},
        "tracks_fb": round(cycle_error(fit), 4),
        "folded": round(folded(fit), 6),
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
    height, width = fit.canvas(layer).size
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


def one_mask(root: Path, name: str, frames: int, representation: str, preset: str) -> dict[str, Any]:
    """IoU against all true masks of a fit that is given frame 0's mask only: its weights, and that mask as a label."""
    clip, whole = load(root, name, frames, first_mask_only=True), load(root, name, frames).masks["foreground"]
    truth = [np.asarray(whole.get(t)) > 127 for t in range(len(clip))]
    fit = canon.fit(clip, representation, preset=preset)
    first = np.asarray(clip.masks["foreground"].get(0)) > 127
    carried = [labels > 0 for labels in propagate_labels(fit, first.astype(np.uint8), frame=0)]
    scores = {
        "mask_iou": [mask_iou(fit.coordinates(t, "foreground")[1] > 0.5, truth[t]) for t in range(len(fit))],
        "label_iou": [mask_iou(carried[t], truth[t]) for t in range(len(fit))],
    }
    means = {key: round(float(np.mean(values)), 4) for key, values in scores.items()}
    return {"clip": name, "representation": representation, "preset": preset, **means}


def curve(root: Path, name: str, representation: str, solver: str, frames: int, minutes: float) -> dict[str, Any]:
    """PSNR against seconds at 240p."""
    clip = load(root, name, frames, size=CURVE_SIZE)
    points: list[tuple[float, float]] = []
    begin = time.perf_counter()

    def progress(stage: str, done: float, figures: Mapping[str, float]) -> None:
        if "psnr" in figures and np.isfinite(figures["psnr"]):
            points.append((round(time.perf_counter() - begin, 2), round(float(figures["psnr"]), 3)))

    options: dict[str, Any] = {}
    if solver == "neural":
        options = {"minutes": minutes} | ({"batch": 1000, "steps": 10**6} if representation == "atlas" else {})
    fit = canon.fit(clip, representation, solver=solver, progress=progress, **options)
    seconds = time.perf_counter() - begin
    points.append((round(seconds, 2), round(reconstruction(fit)["psnr"], 3)))
    return {
        "clip": name,
        "representation": representation,
        "solver": solver,
        "frames": len(clip),
        "size": f"{CURVE_SIZE[1]}x{CURVE_SIZE[0]}",
        "curve": points,
    }


def plot(curves: list[dict[str, Any]], path: Path) -> None:
    """The solvers' PSNR against seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=110)
    for entry in curves:
        seconds, values = zip(*entry["curve"], strict=True)
        axes.plot(seconds, values, marker="o", markersize=3, label=f"{entry['representation']}, {entry['solver']}")
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
    parser.add_argument("--representation", nargs="*", default=["atlas", "codef"])
    parser.add_argument("--preset", nargs="*", default=["balanced", "fast"])
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--curve", help="clip for the solvers' curves")
    parser.add_argument("--minutes", type=float, default=10.0, help="cap of the neural solvers' curves")
    parser.add_argument("--no-iou", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--single", nargs=2, metavar=("KIND", "ARGUMENT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    assert set(options.names) <= set(KNOWN_CLIPS), f"known clips: {', '.join(KNOWN_CLIPS)}"
    if options.single:
        tune_allocator()
        kind, argument = options.single
        name, kind_of = options.names[0], options.representation[0]
        run = {
            "fit": lambda: measure(options.clips, name, kind_of, argument, options.frames),
            "iou": lambda: one_mask(options.clips, name, options.frames, kind_of, argument),
            "curve": lambda: curve(options.clips, name, kind_of, argument, options.frames, options.minutes),
        }
        print(json.dumps(run[kind]()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fit.json"
    record: dict[str, Any] = {"fits": [], "one_mask": [], "curves": []}
    if path.exists():
        record = json.loads(path.read_text())
    common = ["--clips", str(options.clips), "--frames", str(options.frames), "--minutes", str(options.minutes)]

    def note(kind: str, name: str, representation: str, measurement: str, argument: str) -> dict[str, Any]:
        """Measure, and put the row where the one of the same clip, representation and preset (or solver) was."""
        own = ["--names", name, "--representation", representation, "--single", measurement, argument]
        row = {**in_own_process(*common, *own), **machine()}
        same = {"clip", "representation", "preset", "solver"} & set(row)
        record[kind] = [old for old in record[kind] if any(old[key] != row[key] for key in same)] + [row]
        path.write_text(json.dumps(record, indent=1) + "\n")
        return row

    for preset, kind in itertools.product(options.preset, options.representation):
        for name in options.names:
            row = note("fits", name, kind, "fit", preset)
            print(
                f"{name:12} {kind:6} {preset:9} {row['frames']:3} x {row['size']:8} {row['seconds']:6.1f} s"
                f"  PSNR {row['psnr']:.2f} (unlit {row['psnr_unlit']:.2f})"
                f"  SSIM {row['ssim']:.3f} ({row['ssim_unlit']:.3f})"
                f"  tracks {row['tracks_fb']:.2f} px, folded {row['folded']:.3%}"
                f"  {row['peak_mib']:.0f} MiB  {row['render_fps']:.0f} frames/s  {row['stages']}",
                flush=True,
            )
    masked = [] if options.no_iou else [name for name in options.names if name in IOU_CLIPS]
    for kind, name in itertools.product(options.representation, masked):
        print(note("one_mask", name, kind, "iou", "fast"), flush=True)
    if options.curve:
        for kind, solver in itertools.product(options.representation, ("default", "neural")):
            print(note("curves", options.curve, kind, "curve", solver), flush=True)
    curves = [entry for entry in record["curves"] if entry["clip"] == (options.curve or entry["clip"])]
    if curves:
        plot(curves, options.out / "curves.png")


if __name__ == "__main__":
    main()
