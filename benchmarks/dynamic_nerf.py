"""The dynamic NeRF: seconds per 1,000 rays by stage, rays per second when rendering, PSNR against seconds.

python benchmarks/dynamic_nerf.py [--device cuda] [--preset balanced] [--clips DIR] [--sheets DIR] [--only NAME ...]

NAMES: rates (the stages, with each hash grid backend at hand), person (the synthetic person, 96x96, 40 frames), fox
(static_fox of --clips at a quarter of its size, or --fox-height pixels high, every 8th image held out), views
(human_pose2sim of --clips, three views fitted and the fourth held out). Each row is written as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from fit import machine

import canon
from canon.clip import Clip
from canon.metrics import psnr
from canon.representations.dynamic_nerf import DynamicNerfConfig, make_world, scene_frame, starting_body
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.representations.dynamic_nerf.observations import Observations
from canon.representations.dynamic_nerf.sizes import SIZES
from canon.representations.dynamic_nerf.training import Training
from canon.representations.fields.hashgrid import BACKENDS, unavailable
from canon.runtime import usable_device
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.storage import to_uint8, write_image, write_json

NAMES = ("rates", "person", "fox", "views")
VIEWS = ("cam01", "cam02", "cam03", "cam04")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device")
    parser.add_argument("--preset", default="balanced", choices=list(SIZES))
    parser.add_argument("--clips", type=Path, help="folder with static_fox and human_pose2sim")
    parser.add_argument("--sheets", type=Path, help="folder for pictures to look at")
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--fox-height", type=int, default=240)
    parser.add_argument("--views-height", type=int, default=360)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each stage")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    device = usable_device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"dynamic-nerf-{device.type}-{machine()['date']}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only:
        if name in ("fox", "views") and options.clips is None:
            print(f"left out: {name} needs --clips")
            continue
        row = {"rates": rates, "person": person, "fox": fox, "views": views}[name](options, device)
        record[name] = {**machine(), "device": str(device), "preset": options.preset, **row}
        write_json(path, record)
        print(name, {key: value for key, value in row.items() if key != "curve"}, flush=True)


def rates(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds per 1,000 rays, forward and backward, and rays per second without gradient, by backend."""
    scene = HumanScene(HumanSceneConfig(frames=6))
    clip = scene.clip()
    found: dict[str, Any] = {}
    for backend in BACKENDS[1:]:
        reason = unavailable(backend, device)
        if reason is not None:
            found[backend] = reason
            continue
        sizes = replace(SIZES[options.preset], scene=options.steps, human=options.steps, joint=options.steps)
        config = DynamicNerfConfig(preset=options.preset, backend=backend)
        assert clip.poses is not None and clip.cameras is not None
        body = starting_body(config, clip.poses)
        world = make_world(sizes, scene_frame(clip), body, clip.poses, config, 1, 0).to(device)
        seen = Observations(clip, clip.cameras, device)
        states = torch.zeros(len(clip.poses), dtype=torch.long, device=device)
        training = Training(world, seen, states)
        patch = sizes.patches * sizes.patch**2
        stages: dict[str, tuple[Callable[..., None], int]] = {
            "scene": (training.scene, sizes.rays),
            "human": (training.person, patch),
            "joint": (training.joint, patch),
        }
        own: dict[str, float] = {}
        for name, (run, count) in stages.items():
            times: list[float] = []
            begin = time.perf_counter()

            def tell(share: float, figures: object, times: list[float] = times) -> None:
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter())

            run(tell)
            steps = np.diff(np.array([begin, *times]))
            own[name] = round(float(np.median(steps)) * 1000 / count, 5)
        with torch.no_grad():
            frames = torch.zeros(clip.size[0] * clip.size[1], dtype=torch.long, device=device)
            rays = seen.rays(0)
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                world(rays, training.posed(frames))
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - begin)
        own["rays per second"] = round(len(frames) / float(np.median(times)))
        found[backend] = own
    return {"seconds per 1,000 rays": found}


def person(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """PSNR of frames, of views and of poses that were not seen, in dB; IoU; and PSNR against seconds."""
    scene = HumanScene(HumanSceneConfig())
    fit, seconds = _fitted(scene.clip(), options, device)
    times = range(0, len(scene), 4)
    rows: list[np.ndarray] = []
    groups: dict[str, list[float]] = {"seen": [], "views": [], "poses": []}
    wave = HumanScene(replace(scene.config, motion="wave"))
    overlaps = []
    for k, t in enumerate(times):
        truth = scene.frame(t)
        camera = scene.orbiting(scene.config.orbit * (k / len(times) - 0.45), 1.15 + 0.05 * k)
        pairs = {
            "seen": (truth.rgb, fit.view(t, fit.cameras[t])),
            "views": (scene.view(camera, scene.pose(t)).rgb, fit.view(t, camera)),
            "poses": (wave.view(fit.cameras[t], wave.pose(t)).rgb, fit.view(t, fit.cameras[t], wave.pose(t))),
        }
        for name, (true, found) in pairs.items():
            groups[name].append(psnr(found, true))
        found_mask, true_mask = fit.weights(t)[0] > 0.5, truth.mask > 0.5
        overlaps.append((found_mask & true_mask).sum() / (found_mask | true_mask).sum())
        if k % 3 == 0:
            rows.append(np.concatenate([picture for pair in pairs.values() for picture in pair], axis=1))
    _save(options, "person", rows)
    _save_turntables(options, fit, "person")
    return {
        **{f"psnr {name}": round(float(np.mean(values)), 2) for name, values in groups.items()},
        **{f"least psnr {name}": round(float(np.min(values)), 2) for name, values in groups.items()},
        "iou": round(float(np.mean(overlaps)), 4),
        **seconds,
    }


def fox(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """PSNR of images that were held out, in dB."""
    clip = Clip.load(options.clips / "static_fox", size=options.fox_height)
    assert clip.cameras is not None
    kept = [t for t in range(len(clip)) if t % 8]
    held = [t for t in range(len(clip)) if t % 8 == 0]
    shown = Clip.from_frames((np.asarray(clip.frames[t]) for t in kept), cameras=[clip.cameras[t] for t in kept])
    fit, seconds = _fitted(shown, options, device)
    values, rows = [], []
    for t in held:
        true, found = clip.frames[t] / np.float32(255), fit.view(0, clip.cameras[t])
        values.append(psnr(found, true))
        rows.append(np.concatenate([true, found], axis=1))
    _save(options, "fox", [np.concatenate(rows[:4], axis=1)])
    return {"psnr held out": round(float(np.mean(values)), 2), "size": list(clip.size), **seconds}


def views(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """PSNR within the mask of the view that was held out, in dB."""
    folder = options.clips / "human_pose2sim"

    def load(names: tuple[str, ...]) -> Clip:
        return Clip.load(
            [folder / name / "frames" for name in names],
            masks=[folder / name / "masks_derived" for name in names],
            cameras=folder / "cameras.json",
            poses=folder / "joints.npz",
            size=options.views_height,
        )

    fit, seconds = _fitted(load(VIEWS[:3]), options, device)
    held = load(VIEWS[3:])
    assert held.cameras is not None
    masks = next(iter(held.masks.values()))
    values, overlaps, rows = [], [], []
    for t in range(0, len(held), 4):
        mask = masks.get(t)
        assert mask is not None
        true = held.frames[t] / np.float32(255)
        with torch.no_grad():
            seen = fit.seen(t, held.cameras[t])
        found, human = seen.rgb.clamp(0, 1).cpu().numpy(), seen.human.cpu().numpy()
        inside = mask > 127
        values.append(psnr(found, true, inside))
        overlaps.append(((human > 0.5) & inside).sum() / ((human > 0.5) | inside).sum())
        if t % 12 == 0:
            rows.append(np.concatenate([true, found], axis=1))
    _save(options, "views", [np.concatenate(rows, axis=1)])
    _save_turntables(options, fit, "views")
    return {
        "masked psnr held out": round(float(np.mean(values)), 2),
        "iou held out": round(float(np.mean(overlaps)), 3),
        "size": list(held.size),
        **seconds,
    }


def _fitted(clip: Clip, options: argparse.Namespace, device: torch.device) -> tuple[NerfFit, dict[str, Any]]:
    begin = time.perf_counter()
    fit = canon.fit(clip, "dynamic-nerf", preset=options.preset, device=str(device))
    assert isinstance(fit, NerfFit)
    return fit, {
        "seconds": round(time.perf_counter() - begin, 1),
        "by stage": fit.stats["seconds"],
        "peak MiB": fit.stats["peak_mib"],
        "curve": [[round(float(s), 1), int(n), round(float(p), 2)] for s, n, p, _ in fit.stats["curve"]],
    }


def _save(options: argparse.Namespace, name: str, rows: list[np.ndarray]) -> None:
    if options.sheets is not None:
        write_image(options.sheets / f"{name}.png", to_uint8(np.concatenate(rows)))


def _save_turntables(options: argparse.Namespace, fit: NerfFit, name: str) -> None:
    if options.sheets is not None:
        for table in fit.turntables():
            pictures = list(table.frames)
            sheet = np.concatenate([pictures[table.count * k // 6] for k in range(6)], axis=1)
            write_image(options.sheets / f"{name}-{table.name}.png", sheet)


if __name__ == "__main__":
    main()
