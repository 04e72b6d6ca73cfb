"""The whole path on an embedded synthetic clip: fit, paint, grade, remove, render, and compare with the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canon.camera_paths import orbit
from canon.contact_sheet import Sheet
from canon.coordinates import pixel_grid
from canon.editing import edit
from canon.edits import Edit
from canon.evaluation import evaluate
from canon.fits import Fit
from canon.grids import find_pixels
from canon.metrics import psnr, track_errors
from canon.project import Project
from canon.project_fit import FitRequest, fit_into
from canon.registry import Progress, make_config
from canon.registry import representation as find_representation
from canon.rendering import Video, render
from canon.sampling import remap_points
from canon.scenes import Scene, TrueEdit, make
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.spatial import SpatialFit, spatial
from canon.storage import read_image, to_float, to_uint8, write_image
from canon.timing import spread

SOURCE, PAINTED, SHEET = "source", "painted", "contact_sheet.png"
EMBLEM, DUSK, GONE = "emblem", "dusk", "gone"
FOREGROUND, BACKGROUND, HUMAN = "foreground", "background", "human"
_TRACKED = 300


@dataclass
class Demo:
    """What a demo made, and how well."""

    project: Project
    fit_name: str
    fit: Fit
    figures: dict[str, float] = field(default_factory=dict)
    """Name for people -> value."""
    painting: Path = Path()
    """The canonical image that was painted on."""
    renders: list[Path] = field(default_factory=list)
    sheet: Path = Path()


def painted_frame(project: Project, fit: SpatialFit, t: int, place: np.ndarray, size: float) -> Path:
    """A frame with an emblem painted on it, as a person would in any paint program; returns the new image's path.

    Args:
        place: float [3], of the emblem's middle in the world.
        size: its radius in the world's units.
    """
    camera = fit.cameras[t]
    (x, y), ahead = camera.project(place)
    radius = float(size * camera.intrinsics[0, 0] / ahead)
    rows, columns = np.mgrid[: fit.size[0], : fit.size[1]]
    away, angle = np.hypot(columns - x, rows - y) / radius, np.arctan2(rows - y, columns - x)
    star = 0.72 + 0.28 * np.cos(5 * (angle + np.pi / 2))
    image = np.array(fit.clip.frames[t])
    image[away < 1] = (250, 210, 40)
    image[away < star * 0.8] = (30, 60, 160)
    path = project.folder / PAINTED / f"frame-{t:05d}.png"
    write_image(path, image)
    return path


def _begun(folder: str | Path, representation: str, preset: str) -> tuple[Project, dict[str, Any]]:
    """The project of a demo, and the representation's options, which are refused before anything is written."""
    options = {"preset": preset}
    make_config(find_representation(representation).Config, options)
    return Project.create(folder), options


def run_person_demo(
    folder: str | Path,
    representation: str,
    progress: Progress,
    say: Callable[[str], None],
    preset: str = "balanced",
    **scene_options: Any,
) -> Demo:
    """:func:`run_demo` for representations in three dimensions: a synthetic person who walks in a room.

    Args:
        scene_options: fields of :class:`canon.scenes.human.HumanSceneConfig`.

    Raises:
        InputError: the folder is not canon's, or cannot be written.
    """
    project, options = _begun(folder, representation, preset)
    scene = HumanScene(HumanSceneConfig(**scene_options))
    source = project.folder / SOURCE
    say("writing the clip")
    scene.save(source)
    request = FitRequest(
        source / "frames",
        representation,
        masks=source / "masks",
        cameras=source / "cameras.json",
        poses=source / "poses.npz",
        options=options,
    )
    name, found, _ = fit_into(folder, request, progress)
    fit = spatial(found)
    demo = Demo(project, name, fit)
    say("painting, grading, removing")
    t = len(fit) // 2
    rotations, root = scene.pose(t)
    moved = scene.body.moved(torch.from_numpy(rotations), torch.from_numpy(root)).numpy()[9]
    chest = np.array([0.0, 0.17, 0.08]) * scene.config.body_height
    demo.painting = painted_frame(project, fit, t, moved[:3, :3] @ chest + moved[:3, 3], 0.09)
    made = {
        EMBLEM: edit(fit, "paint", layer=HUMAN, frame=t, image=str(demo.painting)),
        DUSK: edit(fit, "grade", layer=BACKGROUND, exposure=-0.7, temperature=-0.45, saturation=0.8),
        GONE: edit(fit, "remove", layer=HUMAN),
    }
    for key, value in made.items():
        value.save(project.edit_folder(key))
    say("rendering")
    around = fit.from_elsewhere(orbit(fit.cameras, fit.centre, 24, 120.0))
    waving = HumanScene(replace(scene.config, motion="wave"))
    waves = fit.from_elsewhere([fit.cameras[t]] * min(24, len(scene)), waving.motion())
    shown: list[tuple[Fit, list[str], str]] = [
        (fit, [EMBLEM], ""),
        (fit, [EMBLEM, DUSK], ""),
        (fit, [GONE], ""),
        (around, [EMBLEM], "-orbit"),
        (waves, [EMBLEM], "-waving"),
    ]
    for seen, names, suffix in shown:
        path = project.render_path(names)
        demo.renders.append(path.with_name(path.stem + suffix + path.suffix))
        render(seen, [made[key] for key in names]).save(demo.renders[-1])
    say("measuring")
    demo.figures = _compare_person(fit, made[EMBLEM], scene, waving)
    demo.sheet = project.folder / SHEET
    write_image(demo.sheet, _person_sheet(fit, around, waves, made, demo).draw())
    return demo


def run_demo(
    folder: str | Path,
    representation: str,
    progress: Progress,
    say: Callable[[str], None],
    preset: str = "balanced",
    **scene_options: object,
) -> Demo:
    """Make everything in a project folder.

    Args:
        say: told in a few words what is going on.
        scene_options: fields of :class:`canon.scenes.SceneConfig` to change of the scene "demo".

    Raises:
        InputError: the folder is not canon's, or cannot be written.
    """
    project, options = _begun(folder, representation, preset)
    scene = make("demo", **scene_options)
    say("writing the clip")
    scene.save(project.folder / SOURCE)
    name, fit, _ = fit_into(folder, FitRequest(project.folder / SOURCE, representation, options=options), progress)
    demo = Demo(project, name, fit)
    say("painting, grading, removing")
    t = len(fit) // 2
    overlay = scene.emblem(FOREGROUND)
    demo.painting = paint_canonical(project, name, fit, carried(fit, scene, overlay, t))
    made = {
        EMBLEM: edit(fit, "paint", layer=FOREGROUND, image=str(demo.painting)),
        DUSK: edit(fit, "grade", layer=BACKGROUND, exposure=-0.7, temperature=-0.45, saturation=0.8),
        GONE: edit(fit, "remove", layer=FOREGROUND),
    }
    for key, value in made.items():
        value.save(project.edit_folder(key))
    say("rendering")
    for names in ([EMBLEM], [EMBLEM, DUSK], [GONE]):
        demo.renders.append(project.render_path(names))
        render(fit, [made[key] for key in names]).save(demo.renders[-1])
    say("measuring")
    demo.figures = compare(fit, made, scene, scene.true_edit({FOREGROUND: overlay}))
    demo.sheet = project.folder / SHEET
    write_image(demo.sheet, contact_sheet(fit, made, demo).draw())
    return demo


# --- painting ---


def carried(fit: Fit, scene: Scene, overlay: np.ndarray, t: int) -> np.ndarray:
    """An overlay of the scene's true texture, put on the fit's canvas so that it looks right in frame ``t``.

    Returns:
        float32 [Hc, Wc, 4], straight alpha, of the canvas's size.
    """
    uv, weight = fit.coordinates(t, FOREGROUND)
    seen = np.argwhere(weight > 0.5)[:, ::-1].astype(np.float32)
    at = uv[weight > 0.5]
    height, width = fit.layer(FOREGROUND).canvas_size
    texels = pixel_grid((height, width)).reshape(-1, 2)
    # First guess for where a texel lies in the frame: the affine map that fits the layer best.
    affine = np.linalg.lstsq(np.column_stack([at, np.ones(len(at))]), seen, rcond=None)[0].astype(np.float32)
    guess = texels @ torch.from_numpy(affine[:2]) + torch.from_numpy(affine[2])
    pixels, error = find_pixels(torch.from_numpy(np.array(fit.layer(FOREGROUND).grid[t])), fit.stride, texels, guess)
    points = pixels.numpy()
    premultiplied = np.dstack([overlay[..., :3] * overlay[..., 3:], overlay[..., 3]]).astype(np.float32)
    found = remap_points(premultiplied, scene.to_texture(t, FOREGROUND, points).astype(np.float32))
    last = np.array([fit.size[1] - 1, fit.size[0] - 1])
    found[((points < 0) | (points > last)).any(axis=-1) | (error.numpy() > 0.5)] = 0
    found[:, :3] /= np.maximum(found[:, 3:], 1e-6)
    # Light and canvas are known up to a factor; a person mixes paint by how it looks in the frame.
    gain = scene.lighting(t, FOREGROUND) / np.maximum(fit.lighting(t, FOREGROUND), 1e-3)
    found[:, :3] = np.clip(found[:, :3] * remap_points(gain, points), 0, 1)
    return found.reshape(height, width, 4)


def paint_canonical(project: Project, name: str, fit: Fit, overlay: np.ndarray) -> Path:
    """Paint on a copy of the exported canonical image, as any paint program does; returns the new image's path."""
    exported = to_float(read_image(project.fit_folder(name) / "canonical" / f"{FOREGROUND}.png"))
    alpha = overlay[..., 3:]
    exported[..., :3] = exported[..., :3] * (1 - alpha) + overlay[..., :3] * alpha
    path = project.folder / PAINTED / f"{FOREGROUND}.png"
    write_image(path, to_uint8(exported))
    return path


# --- measuring ---


def compare(fit: Fit, made: dict[str, Edit], scene: Scene, truth: TrueEdit) -> dict[str, float]:
    """Figures for the table: what :func:`canon.evaluate` gives, and errors against the scene's truth."""
    found = evaluate(fit, made[EMBLEM])
    names = {
        "psnr": "PSNR of the reconstruction (dB)",
        "psnr_unlit": "PSNR without lighting (dB)",
        "ssim": "SSIM of the reconstruction",
        f"iou_{FOREGROUND}": "IoU of the foreground with its masks",
    }
    figures = {text: float(found[key]) for key, text in names.items() if key in found}
    for layer in (FOREGROUND, BACKGROUND):
        errors = sticking(fit, scene, layer)
        figures[f"sticking error, {layer}, median (px)"] = errors["median"]
        figures[f"sticking error, {layer}, 90 % (px)"] = errors["p90"]
    inside = edited_psnr(render(fit, made[EMBLEM]), truth)
    figures["painted area against the true edit (dB)"] = inside
    figures["flicker of the edit (warp error x 1000)"] = 1000 * float(found.get("warp_error", float("nan")))
    figures["flicker of the source (the floor)"] = 1000 * float(found.get("warp_error_source", float("nan")))
    figures["largest change outside the edit (levels)"] = float(found["changed_outside"])
    figures["seconds of fitting"] = float(found.get("seconds", float("nan")))
    figures["peak memory of fitting (MiB)"] = float(found.get("peak_mib", float("nan")))
    return figures


def sticking(fit: Fit, scene: Scene, layer: str) -> dict[str, float]:
    """Errors of the fit's tracks against the true ones, from the middle frame to all others."""
    start = len(fit) // 2
    truth, seen = scene.tracks(layer, _TRACKED, frame=start)
    positions, visible = fit.track(truth[start].astype(np.float32), start, layer)
    others = np.arange(len(fit)) != start
    return track_errors(positions[others], visible[others], truth[others], seen[others])


def edited_psnr(video: Video, truth: TrueEdit) -> float:
    """Mean over frames of the PSNR against the true edit, where that is painted."""
    values = []
    for t in range(len(video)):
        area = truth.area(t) > 0
        if area.any():
            values.append(min(psnr(video[t], truth[t], area), 100.0))
    return float(np.mean(values)) if values else float("nan")


def _compare_person(fit: SpatialFit, made: Edit, scene: HumanScene, waving: HumanScene) -> dict[str, float]:
    """Figures for the table: PSNR of what was seen and what was not, silhouettes, flicker."""
    times = spread(len(fit), 8)
    truths = [scene.frame(t) for t in times]
    views = [scene.orbiting(scene.config.orbit * (k / 7 - 0.5) * 0.9, 1.4) for k in range(8)]
    seen = [psnr(fit.view(t, fit.cameras[t]), truth.rgb) for t, truth in zip(times, truths, strict=True)]
    unseen = [
        psnr(fit.view(t, camera), scene.view(camera, scene.pose(t)).rgb) for t, camera in zip(times, views, strict=True)
    ]
    posed = [
        psnr(fit.view(t, fit.cameras[t], waving.pose(t)), waving.view(fit.cameras[t], waving.pose(t)).rgb)
        for t in times
    ]
    overlaps = []
    for t, truth in zip(times, truths, strict=True):
        shown, true = fit.weights(t)[0] > 0.5, truth.mask > 0.5
        overlaps.append((shown & true).sum() / max((shown | true).sum(), 1))
    found = evaluate(fit, made)
    return {
        "PSNR of the frames (dB)": float(np.mean(seen)),
        "PSNR of views that were not seen (dB)": float(np.mean(unseen)),
        "PSNR of poses that were not seen (dB)": float(np.mean(posed)),
        "IoU of the person with the true masks": float(np.mean(overlaps)),
        "flicker of the edit (warp error x 1000)": 1000 * float(found.get("warp_error", float("nan"))),
        "flicker of the source (the floor)": 1000 * float(found.get("warp_error_source", float("nan"))),
        "largest change outside the edit (levels)": float(found["changed_outside"]),
        "seconds of fitting": float(found.get("seconds", float("nan"))),
        "peak memory of fitting (MiB)": float(found.get("peak_mib", float("nan"))),
    }


# --- looking ---


def _person_sheet(fit: SpatialFit, around: Fit, waves: Fit, made: dict[str, Edit], demo: Demo, count: int = 5) -> Sheet:
    times = spread(len(fit), count)
    first = next(iter(demo.figures.values()))
    what = f"{len(fit)} frames of {fit.size[1]}x{fit.size[0]}, fitted by '{demo.fit_name}'; {first:.1f} dB"
    sheet = Sheet("canon demo", what, [f"frame {t}" for t in times])
    sheet.rows.append(("source", [np.asarray(fit.clip.frames[t]) for t in times]))
    sheet.rows.append(("rendered", [to_uint8(fit.view(t, fit.cameras[t])) for t in times]))
    for label, seen, names in (
        ("painted", fit, [EMBLEM]),
        ("+ dusk", fit, [EMBLEM, DUSK]),
        ("removed", fit, [GONE]),
        ("orbit", around, [EMBLEM]),
        ("waving", waves, [EMBLEM]),
    ):
        video = render(seen, [made[key] for key in names])
        sheet.rows.append((label, [video[k] for k in spread(len(seen), count)]))
    tables = {table.name: list(table.frames) for table in fit.turntables()}
    pictures = tables[HUMAN]
    sheet.rows.append(("rest pose", [pictures[len(pictures) * k // count] for k in range(count)]))
    for layer in (HUMAN, BACKGROUND):
        sheet.canvases.append((layer, fit.canonical(layer).rgba))
    return sheet


def contact_sheet(fit: Fit, made: dict[str, Edit], demo: Demo, count: int = 5) -> Sheet:
    """Source, reconstruction and edits of some frames, and the canvases."""
    times = spread(len(fit), count)
    numbers = list(demo.figures.values())
    what = f"{len(fit)} frames of {fit.size[1]}x{fit.size[0]}, fitted by '{demo.fit_name}'"
    sheet = Sheet(
        "canon demo",
        f"{what}; reconstruction {numbers[0]:.1f} dB",
        [f"frame {t}" for t in times],
    )
    sheet.rows.append(("source", [np.asarray(fit.clip.frames[t]) for t in times]))
    sheet.rows.append(("reconstruction", [to_uint8(fit.reconstruct(t)) for t in times]))
    stacks: Sequence[tuple[str, list[str]]] = (("painted", [EMBLEM]), ("+ dusk", [EMBLEM, DUSK]), ("removed", [GONE]))
    for label, names in stacks:
        video = render(fit, [made[key] for key in names])
        sheet.rows.append((label, [video[t] for t in times]))
    painted = to_float(read_image(demo.painting))
    sheet.canvases.append((FOREGROUND, fit.canonical(FOREGROUND).rgba))
    sheet.canvases.append((f"{FOREGROUND}, painted", painted))
    sheet.canvases.append((BACKGROUND, fit.canonical(BACKGROUND).rgba))
    return sheet
