"""A subject swapped for one that is learned from pictures: what points, shared attention and the concept each add.

    python benchmarks/swap.py --clips DIR [--names car-shadow] [--frames 24] [--sheets DIR]

Every clip is fitted once (fast). The concept is a magenta thing with black dots, in four pictures that are drawn here.
All variants have the same model, steps, seed and keyframes. A row of benchmarks/results/swap.json is a clip.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from edits import keep
from fit import machine
from pix2video import load, whole

import canon
from canon.contact_sheet import Sheet
from canon.editors.diffusion.concepts import Example, denoising_loss
from canon.editors.diffusion.latents import to_tensor
from canon.editors.diffusion.swap import SwapConfig
from canon.editors.diffusion.swap_adapter import PointedModel, patches
from canon.editors.diffusion.swap_points import given
from canon.editors.diffusion.swapping import SwapPainter, chosen, viewed
from canon.metrics import flicker, leaks, palette_distance
from canon.storage import write_image
from canon.timing import spread

MAGENTA, BLACK = (225, 40, 160), (25, 20, 30)
POINTS = {"car-shadow": ("135,90", "215,90", "200,60", "160,75")}
"""Of frame 0, at 180 pixels' height: both wheels, a window, a door."""
DRAGGED = {"car-shadow": ("0=122,92", "2=207,48")}
LEVELS = (550, 650, 750, 850, 950)


def concept(k: int, side: int = 128) -> np.ndarray:
    """The subject in another light and at another angle, uint8 [h, w, 3]."""
    y, x = np.mgrid[:side, :side].astype(float)
    turn = 0.2 * k
    u, v = x * np.cos(turn) + y * np.sin(turn) + 9 * k, y * np.cos(turn) - x * np.sin(turn) + 5 * k
    dot = (u % 36 - 18) ** 2 + (v % 36 - 18) ** 2 < 80
    light = (0.85 + 0.15 * np.sin(x / 40 + k))[..., None]
    return np.where(dot[..., None], BLACK, np.array(MAGENTA) * light).clip(0, 255).astype(np.uint8)


def variants(name: str, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of what is compared, by name."""
    nothing: dict[str, Any] = {"points": (), "concept_images": ()}
    found = {
        "swap": asked,
        "no points": {**asked, "points": ()},
        "no attention": {**asked, "attention": "none"},
        "no concept": {**asked, "concept_images": (), "cache": asked["cache"]},
        "prompt alone": {**asked, **nothing, "attention": "none"},
    }
    if name in DRAGGED:
        found["dragged"] = {**asked, "drag": DRAGGED[name], "drop": ("3",)}
    return found


@torch.no_grad()
def patch_losses(fit: canon.Fit, layer: str, asked: dict[str, Any]) -> dict[str, float]:
    """Loss around the points in frames that were no keyframes: with points, without, and with them elsewhere."""
    config = SwapConfig(**asked)
    painter, points = SwapPainter(config), given(fit, layer, config)
    painter.learn(fit, layer, points)
    learned = {*chosen(fit, layer, config.keyframes), points.frame}
    times = [t for t in chosen(fit, layer, 0) if t not in learned]
    views = viewed(fit, layer, points, points.at, times[:: max(len(times) // 6, 1)], painter)
    assert views.places is not None and painter.adapter is not None
    size = views.places.size
    guide = painter.own.guide(config.source_prompt, "", 1.0, size)
    latents = [painter.own.encode(to_tensor(picture)).float() for picture in views.pictures]
    wanted = patches(views.places, (latents[0].shape[-2], latents[0].shape[-1]))
    shift = torch.tensor([size[1] / 6, -size[0] / 6])

    def loss(scale: float, away: float) -> float:
        total = []
        for f, clean in enumerate(latents):
            own = views.places.of(slice(f, f + 1)) if views.places else None
            assert own is not None
            pointed = PointedModel(painter.own, painter.adapter, scale).seeing(replace(own, at=own.at + away * shift))
            for t in LEVELS:
                noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(t)).to(clean)
                level = torch.tensor([t], device=clean.device)
                total.append(float(denoising_loss(pointed, Example(clean, guide, wanted[f : f + 1]), noise, level)))
        return round(float(np.mean(total)), 4)

    return {"points": loss(1, 0), "no points": loss(0, 0), "points elsewhere": loss(1, 1)}


def compared(fit: canon.Fit, name: str, asked: dict[str, Any], layer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of all variants, and their frames."""
    figures: dict[str, Any] = {}
    made: dict[str, Any] = {"source": fit.clip.frames}
    target = np.array(MAGENTA, np.uint8)
    for what, options in variants(name, asked).items():
        begin = time.perf_counter()
        video = canon.render(fit, canon.edit(fit, "swap", layer=layer, **options))
        seconds = time.perf_counter() - begin
        made[what] = whole(video)
        if "source" not in figures:
            figures["source"] = {"palette_distance": round(palette_distance(video, fit.clip.frames, target), 2)}
        figures[what] = {
            "palette_distance": round(palette_distance(video, made[what], target), 2),
            "warp_error_excess_inside": round(flicker(video, made[what])["warp_error_excess_inside"], 6),
            "changed_outside": leaks(video)["changed_outside"],
            "seconds": round(seconds, 1),
        }
        print(f"{name}, {what}: {json.dumps(figures[what])}", flush=True)
    return figures, made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--names", nargs="*", default=["car-shadow"])
    parser.add_argument("--points", nargs="*", help="of frame 0, X,Y each; those of car-shadow are known")
    parser.add_argument("--prompt", default="pink dots")
    parser.add_argument("--source-prompt", default="silver")
    parser.add_argument("--layer", default="foreground")
    parser.add_argument("--model", default="canon-mini")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--height", type=int, default=180, help="of the clip")
    parser.add_argument("--size", type=int, default=192, help="of the model's pictures, as a square's side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--concept-steps", type=int, default=200)
    parser.add_argument("--keyframes", type=int, default=4)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    common = ("prompt", "source_prompt", "model", "size", "steps", "guidance", "concept_steps", "keyframes")
    for name in options.names:
        fit = load(options.clips / name, options.frames, options.height)
        with tempfile.TemporaryDirectory() as folder:
            for k in range(4):
                write_image(Path(folder) / f"{k}.png", concept(k))
            asked = {key: getattr(options, key) for key in common}
            row = {"clip": name, "frames": len(fit), "pictures": f"{fit.size[1]}x{fit.size[0]}", **asked}
            points = tuple(options.points or POINTS[name])
            asked |= {"points": points, "concept_images": (folder,), "cache": folder, "ratio": 1.0}
            figures, made = compared(fit, name, asked, options.layer)
            losses = patch_losses(fit, options.layer, asked)
        keep(
            {**row, "points": points, "found": figures, "patch_loss": losses, **machine()},
            options.out / "swap.json",
            "model",
        )
        if options.sheets:
            times = spread(len(fit), 4)
            below = f"{len(fit)} frames of {fit.size[1]}x{fit.size[0]}"
            sheet = Sheet(f"{name}: swap", below, [f"frame {t}" for t in times])
            sheet.rows += [(what, [np.asarray(frames[t]) for t in times]) for what, frames in made.items()]
            write_image(options.sheets / f"{name}-swap.png", sheet.draw())


if __name__ == "__main__":
    main()
