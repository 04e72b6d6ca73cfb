"""The default solver of the layered atlas: motion first, canvases in closed form, then a short joint refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canon.coordinates import apply_homography, grid_nodes
from canon.grids import jacobian
from canon.representations.motion.flow import Flow
from canon.representations.motion.homography import CameraMotion
from canon.representations.motion.masks import LayerMasks
from canon.representations.solve.canvas import back_project, robust_canvas
from canon.representations.solve.layers import Problem
from canon.representations.solve.lighting import estimate_lighting
from canon.representations.solve.opacity import refine_opacity
from canon.representations.solve.register import RegisterOptions, refresh_detail, refresh_references, register_all
from canon.representations.solve.tracking import (
    Chain,
    chain_layer,
    choose_keyframe,
    new_layer,
    place_canvas,
    register_outward,
)
from canon.runtime import single_threaded_operations
from canon.storage import create_array, open_array, open_arrays, write_arrays

BACKGROUND = "background"
MATTE_BAND = 6
_SEEN_PIXELS = 24
"""A layer with fewer solid pixels than this is not there in a frame."""
_TRACKING = RegisterOptions(noise=0.05, membrane=4.0, temporal=1.0, robust=0.1, limit=2.0, brightness=1.0, rough=0.0)
_MAX_CANVAS = 40_000_000
FINE = {"fast": 1.0, "balanced": 1.5, "quality": 1.5}
"""Texels per pixel along a side: bilinear samples of a finer canvas pull less towards its texels."""
BACKGROUND_FINE, BACKGROUND_FINEST = {"fast": 1.0, "balanced": 1.25, "quality": 1.5}, 1.5
"""The same for the background, which is as large as all that the camera saw; and at most, where the clip zooms in."""


@dataclass(frozen=True)
class Step:
    """One step of the refinement: ``kind`` is register, opacity or project; ``level`` the pyramid level it works on."""

    kind: str
    level: int = 0
    light: bool = False


def _registrations(level: int, count: int) -> list[Step]:
    return [Step("register", level, light=i % 2 == 0) for i in range(count)]


SCHEDULES: dict[str, list[Step]] = {
    "fast": [*_registrations(1, 2), Step("opacity"), Step("project")],
    "balanced": [
        *_registrations(1, 6),
        Step("opacity"),
        *_registrations(0, 4),
        Step("opacity"),
        Step("project"),
        Step("project"),
    ],
    "quality": [
        *_registrations(1, 10),
        Step("opacity"),
        *_registrations(0, 10),
        Step("opacity"),
        *[Step("project")] * 4,
    ],
}
TRACKING_LEVELS: dict[str, tuple[int, ...]] = {"fast": (2, 1), "balanced": (2, 1, 1), "quality": (2, 1, 1, 0)}


def presence(mask: np.ndarray) -> np.ndarray:
    """Whether a layer is seen in each frame: uint8 [T, H, W] -> bool [T]."""
    return np.array([int((np.asarray(plane) > 127).sum()) >= _SEEN_PIXELS for plane in mask])


def start(
    frames: np.ndarray,
    masks: list[LayerMasks],
    flow: Flow,
    camera: CameraMotion,
    stride: int,
    scale: float,
    preset: str,
    device: torch.device,
) -> Problem:
    """First coordinates and canvases of all layers: homographies behind, tracked layers in front."""
    problem = Problem(frames, [], [mask.values for mask in masks], stride, device)
    count = len(frames)
    problem.layers = [new_layer(problem, mask.name, presence(mask.values)) for mask in masks]
    problem.layers.append(new_layer(problem, BACKGROUND, np.ones(count, bool)))
    last = len(masks)
    _place_background(problem, last, camera, scale, BACKGROUND_FINE[preset])
    robust_canvas(problem, last, erode=5, scales=(None, 0.1) if preset == "fast" else (None, 0.15, 0.07))
    for i, mask in enumerate(masks):
        keyframe = choose_keyframe(np.array([int((np.asarray(plane) > 127).sum()) for plane in mask.values]))
        chain = Chain(problem, i, flow, keyframe)
        # One frame after the other, in many small operations: threads would only wait for each other.
        with single_threaded_operations():
            chain_layer(problem, chain, scale or FINE[preset])
            refresh_detail(problem)
            register_outward(problem, chain, _TRACKING, TRACKING_LEVELS[preset])
        robust_canvas(problem, i, erode=1, scales=(0.15,) if preset == "fast" else (None, 0.15))
    refresh_detail(problem)
    return problem


def _place_background(problem: Problem, index: int, camera: CameraMotion, scale: float, least: float) -> None:
    layer = problem.layers[index]
    nodes = grid_nodes(problem.size, problem.stride, problem.device)
    flat = nodes.reshape(-1, 2)
    for t, matrix in enumerate(camera.to_reference):
        found = apply_homography(torch.from_numpy(matrix).float().to(problem.device), flat)
        layer.grid[t] = found.reshape(nodes.shape)
    if not scale:
        # Fine enough for the frames that zoom in: the canvas must not lose what they show.
        dets = torch.stack([jacobian(layer.grid[t], problem.stride).det().abs().median() for t in range(problem.count)])
        scale = float((1.0 / torch.quantile(dets.sqrt(), 0.15)).clamp(least, BACKGROUND_FINEST))
    extent = (layer.grid.amax((0, 1, 2)) - layer.grid.amin((0, 1, 2))).double()
    area = float(extent.prod()) * scale**2
    if area > _MAX_CANVAS:
        scale *= (_MAX_CANVAS / area) ** 0.5
    place_canvas(problem, index, scale)
    layer.reference = layer.grid.clone()


def refine(
    problem: Problem,
    masks: list[LayerMasks],
    flow: Flow,
    preset: str,
    lighting: bool,
    folder: Path,
    report: Callable[[float, float | None], None],
) -> None:
    """Run the preset's schedule, saving the state after every step so that an interrupted run goes on where it was.

    Args:
        folder: of the saved state.
        report: called with the share that is done and, where the step measured it, the PSNR (dB) before it.
    """
    schedule = SCHEDULES[preset]
    done = restore(problem, folder)
    # Made anew, by the threads that a resumed run makes them with: sums must come out the same to the last bit.
    problem.textures.clear()
    report(done / len(schedule), None)
    for index in range(done, len(schedule)):
        step = schedule[index]
        error = _run(problem, step, masks, flow, lighting, folder, index)
        save_state(problem, folder, index + 1)
        report((index + 1) / len(schedule), None if error is None else -10.0 * float(np.log10(max(error, 1e-10))))


def _run(
    problem: Problem, step: Step, masks: list[LayerMasks], flow: Flow, lighting: bool, folder: Path, index: int
) -> float | None:
    if step.kind == "opacity":
        if not masks:
            return None
        targets = [
            create_array(folder / f"opacity-{index}-{mask.name}.npy", mask.values.shape, np.uint8) for mask in masks
        ]
        values, mattes = [mask.values for mask in masks], [mask.matte for mask in masks]
        refine_opacity(problem, values, mattes, list(targets), MATTE_BAND)
        return None
    if lighting and (step.light or step.kind == "project"):
        # Seen coarsely, canvases finer than the frames are sharper than they: at the end, light is found at full size.
        estimate_lighting(problem, 0 if step.kind == "project" else 1)
    if step.kind == "register":
        register_all(problem, flow if problem.count > 1 else None, step.level, RegisterOptions())
        refresh_references(problem)
        refresh_detail(problem)
    return back_project(problem, step.level)


def save_state(problem: Problem, folder: Path, done: int) -> None:
    """Everything that a later step depends on, in one atomic file."""
    arrays: dict[str, np.ndarray] = {}
    for layer in problem.layers:
        for name in ("grid", "reference", "color", "coverage", "lighting"):
            arrays[f"{layer.name}/{name}"] = getattr(layer, name).cpu().numpy()
        arrays[f"{layer.name}/detail"] = layer.detail
    opacity = [str(getattr(planes, "filename", "") or "") for planes in problem.opacity]
    own = [name and Path(name).resolve().parent == folder.resolve() for name in opacity]
    names = {f"opacity{i}": Path(opacity[i]).name if own[i] else "" for i in range(len(opacity))}
    write_arrays(folder / "state.safetensors", arrays, {"done": str(done), **names})


def restore(problem: Problem, folder: Path) -> int:
    """Load what :func:`save_state` wrote, if anything; returns the number of steps done."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    arrays = open_arrays(path)
    metadata = read_metadata(path)
    for layer in problem.layers:
        load = {
            name: _tensor(arrays[f"{layer.name}/{name}"], problem)
            for name in ("grid", "reference", "color", "coverage", "lighting")
        }
        layer.grid, layer.reference, layer.lighting = load["grid"], load["reference"], load["lighting"]
        layer.detail = np.array(arrays[f"{layer.name}/detail"])
        layer.set_canvas(load["color"], load["coverage"])
    for i in range(len(problem.opacity)):
        if metadata[f"opacity{i}"]:
            problem.opacity[i] = open_array(folder / metadata[f"opacity{i}"])
    return int(metadata["done"])


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def _tensor(array: np.ndarray, problem: Problem) -> Tensor:
    return torch.from_numpy(np.array(array)).to(problem.device)


def empty_problem(frames: np.ndarray, masks: list[LayerMasks], stride: int, device: torch.device) -> Problem:
    """A problem whose layers are at rest, to :func:`restore` into."""
    problem = Problem(frames, [], [mask.values for mask in masks], stride, device)
    problem.layers = [new_layer(problem, mask.name, presence(mask.values)) for mask in masks]
    problem.layers.append(new_layer(problem, BACKGROUND, np.ones(len(frames), bool)))
    return problem
