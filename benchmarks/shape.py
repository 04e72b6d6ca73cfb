"""Dragged and reshaped layers: how far off, against a scene's truth and on real clips, and how long it takes.

    python benchmarks/shape.py [--clips FOLDER] [--sheets FOLDER] [--preset fast] [--only NAME ...]

NAMES: drag (a synthetic scene of 640x360, drags of up to 40 px), swan (blackswan of --clips, the neck bent), dog (dog,
an ear lengthened), car (car-shadow, the car made taller by a picture of one frame). Each row is written as soon as it
is measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from fit import machine

import canon
from canon.clip import Clip
from canon.edits import Edit, Warp
from canon.fits import Fit
from canon.metrics import mask_iou, source_flow, warp_error
from canon.scenes import make
from canon.storage import write_image, write_json
from canon.warping import Follower

NAMES = ("drag", "swan", "dog", "car")
WAYS = ((40, 0), (-40, 0), (0, 40), (0, -40), (-28, -28), (20, 10))
EYES = (382, 288, 410, 287, 396, 262, 399, 328)
DRAGS: dict[str, dict[str, Any]] = {
    "swan": {"frame": 12, "move": (470, 88, 570, 130), "hold": (515, 290, 380, 330, 240, 290, 490, 340, 500, 260)},
    "dog": {"frame": 20, "move": (364, 281, 346, 316, 437, 296, 456, 332), "radius": 32, "hold": EYES},
}
CLIPS = {"swan": "blackswan", "dog": "dog", "car": "car-shadow"}
CAR_FRAME, TALLER = 15, 1.3


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder with blackswan, dog and car-shadow")
    parser.add_argument("--sheets", type=Path, help="folder for pictures to look at")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"shape-{machine()['date']}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        if name != "drag" and options.clips is None:
            print(f"left out: {name} needs --clips")
            continue
        row = drag(options) if name == "drag" else on_clip(name, options)
        record[name] = {**machine(), "preset": options.preset, **row}
        write_json(path, record)
        print(name, row, flush=True)


def drag(options: argparse.Namespace) -> dict[str, Any]:
    """Pixels by which what a drag moves is off in every frame, from where the scene's own maps would have it."""
    scene = make("bend", width=640, height=360, frames=16)
    fit, name, frame = canon.fit(scene.clip(), preset=options.preset), "foreground", 5
    weight = fit.coordinates(frame, name)[1]
    depth = cv2.distanceTransform((weight > 0.95).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.nonzero(depth > 12)
    start = np.array([x[y.argmin()], y.min()], float)
    rng = np.random.default_rng(0)
    y, x = np.nonzero(weight > 0.98)
    some = rng.choice(len(y), 1500)
    places = torch.from_numpy(np.stack([x[some], y[some]], axis=-1).astype(np.float32))
    rows: dict[str, Any] = {}
    for way in WAYS:
        begin = time.perf_counter()
        edit = canon.edit(fit, "drag", layer=name, frame=frame, move=(*start, *(start + way)))
        seconds = time.perf_counter() - begin
        (warp,) = edit.operations(name)
        assert isinstance(warp, Warp)
        here = Follower(fit, name, frame)
        ends = here.moved(places, torch.from_numpy(warp.at(here.texels(places).numpy())))
        far = (ends - places).norm(dim=1) > 1
        before, after = (scene.to_texture(frame, name, part[far].numpy()) for part in (places, ends))
        off = []
        for t in range(len(scene)):
            own = Follower(fit, name, t)
            seen = torch.from_numpy(scene.to_frame(t, name, before).astype(np.float32))
            found = own.moved(seen, torch.from_numpy(warp.at(own.texels(seen).numpy()))).numpy()
            off.append(np.linalg.norm(found - scene.to_frame(t, name, after), axis=1))
        figures = {
            "median px": float(np.median(off)),
            "p90 px": float(np.percentile(off, 90)),
            "median px of the worst frame": float(np.median(off, axis=1).max()),
            "seconds": seconds,
        }
        rows[str(way)] = {key: round(value, 3) for key, value in figures.items()}
    return rows


def on_clip(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A real clip with an edit that moves its foreground."""
    folder = options.clips / CLIPS[name]
    clip = Clip.load(folder / "frames", masks=folder / "masks", max_frames=options.frames)
    fit = canon.fit(clip, preset=options.preset)
    with TemporaryDirectory() as temporary:
        begin = time.perf_counter()
        if name == "car":
            edit = _taller(fit, Path(temporary))
        else:
            edit = canon.edit(fit, "drag", layer="foreground", **DRAGS[name])
        seconds = time.perf_counter() - begin
    video = canon.render(fit, edit)
    begin = time.perf_counter()
    frames = [video[t] for t in range(len(video))]
    row: dict[str, Any] = {
        "edit seconds": round(seconds, 2),
        "render seconds per frame": round((time.perf_counter() - begin) / len(video), 3),
        "warp error": round(_flicker(frames), 6),
        "warp error of the source": round(_flicker([np.asarray(one) for one in clip.frames]), 6),
    }
    if name == "car":
        masks = next(iter(clip.masks.values()))
        overlaps = []
        for t in masks.indices:  # the car as it is in truth, made taller in the same way
            aim = _stretched(np.asarray(masks.get(t), np.float32) / 255) > 0.5
            overlaps.append(mask_iou(video.shown.coordinates(t, "foreground")[1] > 0.5, aim))
        row |= {"least IoU": round(min(overlaps), 3), "mean IoU": round(float(np.mean(overlaps)), 3)}
    if options.sheets is not None:
        times = np.linspace(0, len(fit) - 1, 4).round().astype(int)
        pairs = [np.concatenate([clip.frames[t], frames[t]], axis=1) for t in times]
        write_image(options.sheets / f"shape-{name}.png", np.concatenate(pairs))
    return row


def _taller(fit: Fit, folder: Path) -> Edit:
    """The edit that a picture of one frame with a taller car leads to."""
    mask = _stretched(fit.coordinates(CAR_FRAME, "foreground")[1])
    behind = canon.render(fit, canon.edit(fit, "remove", layer="foreground", grow=3))[CAR_FRAME]
    aim = mask > 0.5
    shown = _stretched(np.asarray(fit.clip.frames[CAR_FRAME]), fit.coordinates(CAR_FRAME, "foreground")[1])
    write_image(folder / "frame.png", np.where(aim[..., None], shown, behind))
    write_image(folder / "mask.png", np.repeat(aim[..., None], 3, axis=2).astype(np.uint8) * 255)
    paths = {"image": str(folder / "frame.png"), "mask": str(folder / "mask.png")}
    return canon.edit(fit, "reshape", layer="foreground", frame=CAR_FRAME, **paths)


def _stretched(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """A picture [H, W] or [H, W, 3] made taller above the lowest place of a mask [H, W], or of itself."""
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in image.shape[1::-1]))
    low = float(np.nonzero((image if mask is None else mask) > 0.5)[0].max())
    return cv2.remap(image, x, np.where(y < low, low - (low - y) / TALLER, y).astype(np.float32), cv2.INTER_LINEAR)


def _flicker(frames: list[np.ndarray]) -> float:
    """Mean warp error of neighbouring frames by their own flow."""
    found = []
    for one, following in itertools.pairwise(frames):
        flow, valid = source_flow(one, following)
        found.append(warp_error(one, following, flow, valid))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
