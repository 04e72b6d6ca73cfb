"""What follows the first coordinates: registration, lighting, opacity and canvases in turn, resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canon.representations.motion.flow import Flow
from canon.representations.motion.masks import LayerMasks
from canon.representations.solve.canvas import back_project
from canon.representations.solve.layers import Problem
from canon.representations.solve.lighting import estimate_lighting
from canon.representations.solve.opacity import refine_opacity
from canon.representations.solve.register import RegisterOptions, refresh_detail, refresh_references, register_all
from canon.representations.solve.tracking import (
    Chain,
    chain_layer,
    new_layer,
    register_outward,
)
from canon.runtime import single_threaded_operations
from canon.segments import Segment
from canon.storage import create_array, open_array, open_arrays, write_arrays

BACKGROUND = "background"
MATTE_BAND = 6
_STATE = "state.safetensors"
_SEEN_PIXELS = 24
"""A layer with fewer solid pixels than this is not there in a frame."""
TRACKING = RegisterOptions(noise=0.05, membrane=4.0, temporal=1.0, robust=0.1, limit=2.0, brightness=1.0, rough=0.0)
FINE = {"fast": 1.0, "balanced": 1.5, "quality": 1.5}
"""Texels per pixel along a side: bilinear samples of a finer canvas pull less towards its texels."""
BACKGROUND_FINE = {"fast": 1.0, "balanced": 1.25, "quality": 1.5}
"""The same for the background, which is as large as all that the camera saw."""


@dataclass(frozen=True)
class Step:
    """One step of the refinement: ``kind`` is register, opacity or project; ``level`` the pyramid level it works on."""

    kind: str
    level: int = 0
    light: bool = False


def _registrations(level: int, count: int) -> list[Step]:
    return [Step("register", level, light=i % 2 == 0) for i in range(count)]


def schedule(coarse: int, fine: int, projections: int) -> list[Step]:
    """So many registrations at half size, at full size, and projections at the end, with opacity in between."""
    steps = [*_registrations(1, coarse), Step("opacity")]
    if fine:
        steps += [*_registrations(0, fine), Step("opacity")]
    return [*steps, *[Step("project")] * projections]


SCHEDULES = {"fast": schedule(2, 0, 1), "balanced": schedule(6, 4, 2), "quality": schedule(10, 10, 4)}
CHAINED_SCHEDULES = {**SCHEDULES, "balanced": schedule(4, 3, 2)}
"""When all layers have been registered once, on the way out from their keyframes."""
TRACKED: dict[str, tuple[float | None, ...]] = {"fast": (0.15,), "balanced": (None, 0.15), "quality": (None, 0.15)}
"""Passes of :func:`canon.representations.solve.canvas.robust_canvas` over a layer that was tracked."""
TRACKING_LEVELS: dict[str, tuple[int, ...]] = {"fast": (2, 1), "balanced": (2, 1, 1), "quality": (2, 1, 1, 0)}


def track_frames(problem: Problem, chain: Chain, scale: float, levels: tuple[int, ...]) -> None:
    """First coordinates of a layer's frames that a chain reaches, and the canvas that grows with them.

    Args:
        scale: canvas texels per pixel of the chain's keyframe.
        levels: of the pyramid, for one registration each (see :data:`TRACKING_LEVELS`); none trusts the chain alone.
    """
    # One frame after the other, in many small operations: threads would only wait for each other.
    with single_threaded_operations():
        chain_layer(problem, chain, scale)
        if levels:
            refresh_detail(problem)
            register_outward(problem, chain, TRACKING, levels)


def layer_areas(planes: np.ndarray) -> np.ndarray:
    """Solid pixels of a layer in each frame of its masks uint8 [T, H, W]: int [T]."""
    return np.array([int((np.asarray(plane) > 127).sum()) for plane in planes])


def refine(
    problem: Problem,
    masks: list[LayerMasks],
    flow: Flow,
    schedule: list[Step],
    lighting: bool,
    folder: Path,
    report: Callable[[float, float | None], None],
) -> None:
    """Run a schedule, saving the state after every step so that an interrupted run goes on where it was.

    Args:
        folder: of the saved state.
        report: called with the share that is done and, where the step measured it, the PSNR (dB) before it.
    """
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
        arrays[f"{layer.name}/segments"] = np.array([astuple(part) for part in layer.segments], np.int64).reshape(-1, 6)
    opacity = [str(getattr(planes, "filename", "") or "") for planes in problem.opacity]
    own = [name and Path(name).resolve().parent == folder.resolve() for name in opacity]
    names = {f"opacity{i}": Path(opacity[i]).name if own[i] else "" for i in range(len(opacity))}
    write_arrays(folder / _STATE, arrays, {"done": str(done), **names})


def saved(folder: Path) -> bool:
    """Whether there is a state to :func:`restore`."""
    return (folder / _STATE).exists()


def restore(problem: Problem, folder: Path) -> int:
    """Load what :func:`save_state` wrote, if anything; returns the number of steps done."""
    if not saved(folder):
        return 0
    path = folder / _STATE
    arrays = open_arrays(path)
    metadata = read_metadata(path)
    for layer in problem.layers:
        load = {
            name: _tensor(arrays[f"{layer.name}/{name}"], problem)
            for name in ("grid", "reference", "color", "coverage", "lighting")
        }
        layer.grid, layer.reference, layer.lighting = load["grid"], load["reference"], load["lighting"]
        layer.detail = np.array(arrays[f"{layer.name}/detail"])
        layer.segments = tuple(Segment(*part) for part in arrays[f"{layer.name}/segments"].tolist())
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


def resting_problem(frames: np.ndarray, masks: list[LayerMasks], stride: int, device: torch.device) -> Problem:
    """A problem whose layers are at rest: to place, or to :func:`restore` into."""
    problem = Problem(frames, [], [mask.values for mask in masks], stride, device)
    for mask in masks:
        problem.layers.append(new_layer(problem, mask.name, layer_areas(mask.values) >= _SEEN_PIXELS))
    problem.layers.append(new_layer(problem, BACKGROUND, np.ones(len(frames), bool)))
    return problem
