"""The layered atlas as a representation: stages, cache, and baking."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canon.clip import Clip
from canon.fits import Fit, FitLayer
from canon.folders import array_digest
from canon.registry import Progress, Representation
from canon.representations.atlas import pipeline
from canon.representations.atlas.config import AtlasConfig
from canon.representations.motion.flow import Flow, compute_flow, load_flow
from canon.representations.motion.homography import CameraMotion, estimate_camera
from canon.representations.motion.masks import LayerMasks, MaskPrompt, check_prompt, resolve_masks
from canon.representations.motion.raft import load_raft
from canon.representations.solve.filling import fill_holes, looked_at
from canon.representations.solve.layers import Problem, light_stride
from canon.representations.workspace import Workspace
from canon.storage import file_digest, open_array, open_arrays, read_yaml, write_arrays, write_yaml

VERSION = 6
"""Changes when the same input gives another result, so that no stale stage is taken up."""

_SHARES = {"flow": 0.05, "masks": 0.05, "camera": 0.05, "layers": 0.2, "refine": 0.6, "bake": 0.05}
_SEEN = 0.02  # coverage from which a texel counts as seen


class Atlas(Representation):
    """Layered neural atlas (Kasten et al. 2021), solved motion first; ``solver="neural"`` is the published way."""

    Config = AtlasConfig

    def fit(
        self, clip: Clip, config: AtlasConfig, *, workspace: Path, device: torch.device, seed: int, progress: Progress
    ) -> Fit:
        """See :meth:`canon.registry.Representation.fit`."""
        check_prompt(clip, _prompt(config))
        raft = None if config.raft is None else load_raft(config.raft, device)
        weights = "" if config.raft is None else file_digest(config.raft)
        work = Workspace(workspace, clip.content_hash, VERSION, seed, weights)
        clock = _Clock(progress)
        with clock.stage("flow"):
            flow = work.run(work.stage("flow"), lambda path: compute_flow(clip.frames, path, raft), load_flow)
        with clock.stage("masks"):
            masks = self._masks(clip, flow, config, work, seed)
        if config.solver == "neural":
            return self._neural(clip, flow, masks, config, work, device, seed, clock)
        with clock.stage("camera"):
            camera = _camera(clip, flow, masks, work, seed)
        problem = self._solve(clip, flow, masks, camera, config, work, device, clock)
        with clock.stage("bake"):
            layers = bake(problem, seed)
            return _finish(clip, config, layers, masks, clock)

    def _masks(self, clip: Clip, flow: Flow, config: AtlasConfig, work: Workspace, seed: int) -> list[LayerMasks]:
        prompt = _prompt(config)
        scribble = file_digest(config.scribble) if config.scribble is not None and config.scribble.is_file() else ""
        path = work.stage("masks", {**asdict(prompt), "scribble": scribble})

        def build(folder: Path) -> list[LayerMasks]:
            found = resolve_masks(clip, flow, prompt, folder, seed)
            write_yaml(
                folder / "masks.yaml",
                {"layers": [{"name": m.name, "origin": m.origin, "matte": m.matte} for m in found]},
            )
            return found

        def load(folder: Path) -> list[LayerMasks]:
            listed = read_yaml(folder / "masks.yaml")["layers"]
            return [
                LayerMasks(m["name"], open_array(folder / f"{m['name']}.npy"), m["origin"], m["matte"]) for m in listed
            ]

        return work.run(path, build, load)

    def _solve(
        self,
        clip: Clip,
        flow: Flow,
        masks: list[LayerMasks],
        camera: CameraMotion,
        config: AtlasConfig,
        work: Workspace,
        device: torch.device,
        clock: _Clock,
    ) -> Problem:
        names = _digests(masks)
        settings = {f.name: str(getattr(config, f.name)) for f in fields(config)}
        path = work.stage("solve", names, settings)
        with clock.stage("layers"):
            if (path / "state.safetensors").exists():
                problem = pipeline.empty_problem(clip.frames, masks, config.node_distance(clip.size), device)
            else:
                problem = pipeline.start(
                    clip.frames,
                    masks,
                    flow,
                    camera,
                    config.node_distance(clip.size),
                    config.canvas_scale,
                    config.preset,
                    device,
                )
                pipeline.save_state(problem, path, 0)
        with clock.stage("refine"):
            pipeline.refine(
                problem,
                masks,
                flow,
                config.preset,
                config.lighting,
                path,
                lambda done, psnr: clock.report("refine", done, {} if psnr is None else {"psnr": psnr}),
            )
        return problem

    def _neural(
        self,
        clip: Clip,
        flow: Flow,
        masks: list[LayerMasks],
        config: AtlasConfig,
        work: Workspace,
        device: torch.device,
        seed: int,
        clock: _Clock,
    ) -> Fit:
        from canon.representations.atlas.neural import NeuralOptions, solve_neural

        options = NeuralOptions(steps=config.steps, batch=config.batch, minutes=config.minutes or None)
        path = work.stage("neural", _digests(masks), asdict(options), config.node_distance(clip.size))
        with clock.stage("refine"):
            result = solve_neural(
                clip.frames,
                [(mask.name, mask.values) for mask in masks],
                flow,
                options,
                stride=config.node_distance(clip.size),
                device=device,
                seed=seed,
                checkpoint=path,
                progress=lambda _, done, figures: clock.report("refine", done, figures),
            )
        fit = _finish(clip, config, result.layers, masks, clock)
        fit.stats["curve"] = [[float(v) for v in row] for row in result.curve]
        return fit


def _prompt(config: AtlasConfig) -> MaskPrompt:
    return MaskPrompt(config.prompt_frame, config.box, config.scribble, config.search)


class _Clock:
    """Seconds per stage, and progress as one share of the whole."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._before = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.report(name, 0.0, {})
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 3)
        self._before += _SHARES[name]

    def report(self, name: str, done: float, figures: Mapping[str, float]) -> None:
        self.progress(name, self._before + _SHARES[name] * done, figures)


def _digests(masks: list[LayerMasks]) -> list[list[str]]:
    """What later stages know of the masks: their names and contents."""
    return [[mask.name, array_digest(mask.values), str(mask.matte)] for mask in masks]


def _camera(clip: Clip, flow: Flow, masks: list[LayerMasks], work: Workspace, seed: int) -> CameraMotion:
    import cv2

    def build(path: Path) -> CameraMotion:
        lattice = (flow.forward.shape[2], flow.forward.shape[1])
        free = np.full((len(clip), lattice[1], lattice[0]), 255, np.uint8)
        kernel = np.ones((9, 9), np.uint8)
        for mask in masks:
            for t in range(len(clip)):
                small = cv2.resize(np.ascontiguousarray(mask.values[t]), lattice, interpolation=cv2.INTER_AREA)
                free[t] = np.minimum(free[t], 255 - cv2.dilate(small, kernel))
        camera = estimate_camera(clip.frames, flow, free, seed)
        arrays = {
            "to_reference": camera.to_reference,
            "inliers": camera.inliers,
            "reference": np.array([camera.reference]),
        }
        write_arrays(path / "camera.safetensors", arrays)
        return camera

    def load(path: Path) -> CameraMotion:
        arrays = open_arrays(path / "camera.safetensors")
        return CameraMotion(np.array(arrays["to_reference"]), int(arrays["reference"][0]), np.array(arrays["inliers"]))

    return work.run(work.stage("camera", _digests(masks)), build, load)


def bake(problem: Problem, seed: int) -> list[FitLayer]:
    """The solved layers as a fit stores them; what no frame shows of the background is filled and marked as such."""
    baked = []
    for i, layer in enumerate(problem.layers):
        grid = layer.grid.cpu().numpy()
        color = layer.color.cpu().numpy()
        seen = layer.coverage.cpu().numpy() > _SEEN
        coverage = seen.astype(np.float32)
        opaque = i == len(problem.layers) - 1
        if opaque:
            hole = looked_at(grid, layer.canvas_size) & ~seen
            color = fill_holes(color, seen, hole, seed)
            coverage[hole] = 0.5
        opacity = None if opaque else problem.opacity[i]
        baked.append(FitLayer(layer.name, color, coverage, grid, layer.lighting.cpu().numpy(), opacity))
    return baked


def _finish(clip: Clip, config: AtlasConfig, layers: list[FitLayer], masks: list[LayerMasks], clock: _Clock) -> Fit:
    settings = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }
    stats: dict[str, Any] = {"seconds": clock.seconds, "masks": [mask.origin for mask in masks]}
    return Fit(clip, "atlas", plain, layers, config.node_distance(clip.size), light_stride(clip.size), stats)
