"""What representations by layers share: options, stages with their cache, the default solver, and baking."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch

from canon.clip import Clip
from canon.coordinates import Size
from canon.errors import InputError
from canon.fits import Fit, FitLayer
from canon.folders import array_digest
from canon.registry import Progress, Representation
from canon.representations.motion.flow import Flow, compute_flow, load_flow
from canon.representations.motion.homography import CameraMotion, estimate_camera
from canon.representations.motion.imported import imported_flow
from canon.representations.motion.masks import LayerMasks, MaskPrompt, check_prompt, resolve_masks
from canon.representations.motion.raft import load_raft
from canon.representations.shots import join
from canon.representations.solve.filling import fill_holes, looked_at
from canon.representations.solve.layers import Problem, light_stride
from canon.representations.solve.refinement import Step, refine, resting_problem, save_state, saved
from canon.representations.solve.segments import overlapped
from canon.representations.workspace import Workspace
from canon.shots import find_cuts
from canon.storage import content_hash, file_digest, open_array, open_arrays, read_yaml, write_arrays, write_yaml

_SHARES = {"flow": 0.05, "masks": 0.05, "camera": 0.05, "layers": 0.2, "refine": 0.6, "bake": 0.05}
_SEEN = 0.02  # coverage from which a texel counts as seen

log = logging.getLogger("canon")

PRESETS = ("fast", "balanced", "quality")
SOLVERS = ("default", "neural")


@dataclass
class LayeredConfig:
    """Layers, each one canvas that is moved over the frames by control grids."""

    preset: str = "balanced"
    """How much work to spend: fast, balanced or quality."""
    solver: str = "default"
    """default: motion first, closed form; neural: networks trained as published (slow)."""
    box: tuple[int, int, int, int] | None = None
    """Foreground on --prompt-frame as x y width height in pixels, when there are no masks."""
    scribble: Path | None = None
    """Image of --prompt-frame's size: white on the foreground, black off it, gray where unknown."""
    prompt_frame: int = 0
    """Frame that --box or --scribble belongs to."""
    search: bool = True
    """Without masks, box and scribble: look for what moves; otherwise the clip gets one layer."""
    raft: Path | None = None
    """Weights of torchvision's RAFT (.safetensors or .pth) to find optical flow with; none takes OpenCV's DIS."""
    flow: Path | None = None
    """Folder of optical flow (.npy) that the scripts of CoDeF or Layered Neural Atlases wrote, to use instead."""
    split: bool = True
    """Give a layer several canvases, each for some time, where one cannot show all its sides."""
    lighting: bool = True
    """Fit a smooth, bounded, multiplicative lighting per layer and frame."""
    stride: int = 0
    """Pixels between the control nodes of the coordinates; 0 chooses by preset (fast 6, above 640 pixels 8; else 4)."""
    canvas_scale: float = 0.0
    """Canvas texels per pixel; 0 chooses 1.5 for what moves and 1.25 to 1.5 behind (fast: 1, 1 to 1.5)."""
    minutes: float = 10.0
    """Neural solver: stop after this many minutes; 0 = no limit."""

    def node_distance(self, size: Size) -> int:
        """The stride that is used for frames of a size (height, width)."""
        if self.stride:
            return self.stride
        return 4 if self.preset != "fast" else 6 if max(size) <= 640 else 8

    def __post_init__(self) -> None:
        for name in ("scribble", "raft", "flow"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, Path(getattr(self, name)))
        for name, value, allowed in (("preset", self.preset, PRESETS), ("solver", self.solver, SOLVERS)):
            if value not in allowed:
                raise InputError(f"The {name} '{value}' is not known; choose one of {', '.join(allowed)}.")
        if self.stride and not 2 <= self.stride <= 64:
            raise InputError(f"The stride {self.stride} is out of range; choose 2 to 64 pixels, or 0 for automatic.")
        if self.canvas_scale and not 0.1 <= self.canvas_scale <= 8:
            raise InputError(
                f"The canvas scale {self.canvas_scale} is out of range; choose 0.1 to 8, or 0 for automatic."
            )
        if self.minutes < 0:
            raise InputError("Minutes must be at least 0.")


@dataclass
class Job:
    """One fit while it is being made: what all its stages need."""

    clip: Clip
    config: Any
    flow: Flow
    masks: list[LayerMasks]
    work: Workspace
    device: torch.device
    seed: int
    clock: Clock
    first: int = 0
    """Number in the whole clip of the frame that the fit begins with."""


class Layered(Representation):
    """Flow, masks, first coordinates, refinement, baking; a representation says how the first coordinates are found."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Changes when the same input gives another result, so that no stale stage is taken up."""
    schedules: ClassVar[Mapping[str, list[Step]]]
    """What the refinement does, by preset."""

    @abstractmethod
    def start(self, job: Job, problem: Problem, camera: CameraMotion) -> None:
        """Give a resting problem its first coordinates and canvases."""

    @abstractmethod
    def train(self, job: Job) -> tuple[list[FitLayer], dict[str, Any]]:
        """``solver="neural"``: the layers, baked, and what is worth telling of the training."""

    def fit(
        self, clip: Clip, config: Any, *, workspace: Path, device: torch.device, seed: int, progress: Progress
    ) -> Fit:
        """See :meth:`canon.registry.Representation.fit`. Every shot of the clip gets canvases of its own."""
        check_prompt(clip, _prompt(config))
        given = None if config.flow is None else imported_flow(config.flow, len(clip), clip.size)
        made_of = "" if config.flow is None else content_hash(*map(file_digest, sorted(config.flow.glob("*.npy"))))
        firsts = [0, *find_cuts(clip.frames)]
        if len(firsts) == 1:
            return self._shot(clip, config, workspace, device, seed, progress, given, made_of)
        log.warning("the clip cuts at frame %s: each shot gets canvases of its own", ", ".join(map(str, firsts[1:])))
        fits = []
        for number, (first, end) in enumerate(zip(firsts, [*firsts[1:], len(clip)], strict=True)):
            shot = clip.part(first, end - 1)
            own = _for_shot(config, first, end, len(clip))

            def tell(stage: str, done: float, figures: Mapping[str, float], number: int = number) -> None:
                progress(stage, (number + done) / len(firsts), figures)

            fits.append(self._shot(shot, own, workspace, device, seed, tell, given, f"{made_of} {first}", first))
        plain = plain_options(config)
        fit = join(
            clip, fits, firsts, Workspace(workspace, clip.content_hash, self.version, seed).stage("shots", plain)
        )
        fit.config = plain
        return fit

    def _shot(
        self,
        clip: Clip,
        config: Any,
        workspace: Path,
        device: torch.device,
        seed: int,
        progress: Progress,
        given: Callable[[int, int], np.ndarray | None] | None,
        made_of: str,
        first: int = 0,
    ) -> Fit:
        """Fit a clip of one shot, frame ``first`` and so on of the whole, which optical flow was ``given`` of.

        Args:
            made_of: hash of that flow.
        """
        weights, between = made_of, None
        if given is not None:
            between = lambda t, s: given(first + t, first + s)  # noqa: E731
        elif config.raft is not None:
            raft, weights = load_raft(config.raft, device), file_digest(config.raft)
            between = lambda t, s: raft(np.asarray(clip.frames[t]), np.asarray(clip.frames[s]))  # noqa: E731
        work = Workspace(workspace, clip.content_hash, self.version, seed, weights)
        clock = Clock(progress)
        with clock.stage("flow"):
            flow = work.run(work.stage("flow"), lambda path: compute_flow(clip.frames, path, between), load_flow)
        with clock.stage("masks"):
            masks = _masks(clip, flow, config, work, seed)
        job = Job(clip, config, flow, masks, work, device, seed, clock, first)
        if config.solver == "neural":
            with clock.stage("refine"):
                layers, told = self.train(job)
            return self._finish(job, layers, told)
        with clock.stage("camera"):
            camera = find_camera(job)
        problem = self._solve(job, camera)
        with clock.stage("bake"):
            return self._finish(job, bake(job, problem, camera), {})

    def _solve(self, job: Job, camera: CameraMotion) -> Problem:
        clip, config = job.clip, job.config
        settings = {f.name: str(getattr(config, f.name)) for f in fields(config)}
        path = job.work.stage("solve", self.name, digests(job.masks), settings)
        with job.clock.stage("layers"):
            stride = config.node_distance(clip.size)
            problem = resting_problem(clip.frames, job.masks, stride, job.device)
            problem.first = job.first
            if not saved(path):
                self.start(job, problem, camera)
                save_state(problem, path, 0)
        with job.clock.stage("refine"):
            refine(
                problem,
                job.masks,
                job.flow,
                self.schedules[config.preset],
                config.lighting,
                path,
                lambda done, psnr: job.clock.report("refine", done, {} if psnr is None else {"psnr": psnr}),
            )
        return problem

    def _finish(self, job: Job, layers: list[FitLayer], told: dict[str, Any]) -> Fit:
        stats = {"seconds": job.clock.seconds, "masks": [mask.origin for mask in job.masks], **told}
        size = job.clip.size
        plain = plain_options(job.config)
        return Fit(job.clip, self.name, plain, layers, job.config.node_distance(size), light_stride(size), stats)


def plain_options(config: Any) -> dict[str, Any]:
    """A config's fields as plain primitives."""
    settings = {f.name: getattr(config, f.name) for f in fields(config)}
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }


def _for_shot(config: Any, first: int, end: int, count: int) -> Any:
    """The options of a shot, frames ``first`` to ``end`` - 1 of ``count``: its share of the time, and a prompt only if
    that is of one of its frames."""
    config = replace(config, minutes=config.minutes * (end - first) / count)
    if first <= config.prompt_frame < end:
        return replace(config, prompt_frame=config.prompt_frame - first)
    return replace(config, prompt_frame=0, box=None, scribble=None)


def _masks(clip: Clip, flow: Flow, config: LayeredConfig, work: Workspace, seed: int) -> list[LayerMasks]:
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
        return [LayerMasks(m["name"], open_array(folder / f"{m['name']}.npy"), m["origin"], m["matte"]) for m in listed]

    return work.run(path, build, load)


def _prompt(config: LayeredConfig) -> MaskPrompt:
    return MaskPrompt(config.prompt_frame, config.box, config.scribble, config.search)


class Clock:
    """Seconds per stage, and progress as one share of the whole."""

    def __init__(self, progress: Progress, shares: Mapping[str, float] = _SHARES) -> None:
        self.progress, self.shares = progress, shares
        self.seconds: dict[str, float] = {}
        self._before = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.report(name, 0.0, {})
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 3)
        self._before += self.shares[name]

    def report(self, name: str, done: float, figures: Mapping[str, float]) -> None:
        self.progress(name, self._before + self.shares[name] * done, figures)


def digests(masks: list[LayerMasks]) -> list[list[str]]:
    """What later stages know of the masks: their names and contents."""
    return [[mask.name, array_digest(mask.values), str(mask.matte)] for mask in masks]


def find_camera(job: Job) -> CameraMotion:
    """The camera's motion, by what is left of the frames beside the masks."""
    clip, flow = job.clip, job.flow
    thorough = job.config.preset != "fast"

    def build(path: Path) -> CameraMotion:
        lattice = (flow.forward.shape[2], flow.forward.shape[1])
        free = np.full((len(clip), lattice[1], lattice[0]), 255, np.uint8)
        kernel = np.ones((9, 9), np.uint8)
        for mask in job.masks:
            for t in range(len(clip)):
                small = cv2.resize(np.ascontiguousarray(mask.values[t]), lattice, interpolation=cv2.INTER_AREA)
                free[t] = np.minimum(free[t], 255 - cv2.dilate(small, kernel))
        camera = estimate_camera(clip.frames, flow, free, job.seed, thorough)
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

    return job.work.run(job.work.stage("camera", digests(job.masks), thorough), build, load)


def bake(job: Job, problem: Problem, camera: CameraMotion) -> list[FitLayer]:
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
            color = fill_holes(color, seen, hole, job.seed)
            coverage[hole] = 0.5
        opacity = None if opaque else problem.opacity[i]
        made = FitLayer(layer.name, color, coverage, grid, layer.lighting.cpu().numpy(), opacity)
        if layer.segments:
            moved = camera if opaque else None
            segments, second, light = overlapped(problem, i, job.flow, job.config.lighting, moved)
            made = replace(made, segments=segments, second_grid=second, second_lighting=light)
        baked.append(made)
    return baked
