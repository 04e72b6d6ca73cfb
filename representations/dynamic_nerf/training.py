"""The schedule: the scene without the person, the person before it, then both together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kornia.losses import ssim_loss
from torch import Tensor, nn

from canon.boxes import Box
from canon.errors import InputError
from canon.representations.dynamic_nerf.backdrop import Backdrop
from canon.representations.dynamic_nerf.buffers import Pose, fewer, see
from canon.representations.dynamic_nerf.observations import Batch, Observations, Pixels, chunks
from canon.representations.dynamic_nerf.rays import capsule_hits, person_box
from canon.representations.dynamic_nerf.world import REACH, Posed, Seen, World
from canon.representations.motion.flow import FLOW_STRIDE, Flow
from canon.representations.neural.checkpoint import Run, load_run, read_record, save_run
from canon.runtime import map_frames
from canon.sources import resize
from canon.storage import content_hash, to_uint8, write_image

_RATES = {"table": 1e-2, "network": 5e-3, "volume": 5e-3, "pose": 5e-3, "residual": 5e-4}
_LAST_RATE = 0.05
"""Share of the learning rates that is left at the end of a stage."""
_SSIM = 0.1
_MASK = 0.2
_MARGIN = 2
"""Pixels beside a mask that are not taken for background."""
_LPIPS, LEAST_PATCH = 0.05, 32
"""How much LPIPS counts, and the smallest patch whose features mean anything."""
_FLOW = 0.05
_FREE = 0.05
_RESIDUAL_FROM, _RESIDUAL_TO = 0.4, 0.7
"""Shares of the steps between which the non-rigid residual is opened."""
_POSES_FROM = 0.2
_TRUSTED = 0.25
"""Share of the steps after which the background's proposal is trusted wholly."""
PREVIEW = "preview.png"
_PREVIEW_SECONDS, _PREVIEW_RAYS = 20.0, 20_000
_SHARDS = 2
_PROBE = 2048
_PROBE_SECONDS = 5.0
_REPORTS = 50
"""Times that a stage tells of its progress."""

Report = Callable[[float, Mapping[str, float]], None]


@dataclass
class Places:
    """Pixels of all frames, by what they show.

    Attributes:
        free: surely the background.
        near: rays that come near the person.
        covered: surely the person.
    """

    free: Pixels = field(default_factory=Pixels)
    near: Pixels = field(default_factory=Pixels)
    covered: Pixels = field(default_factory=Pixels)


@dataclass
class Training:
    """One world while it learns from observations.

    Attributes:
        states: state of what the person holds, for each moment, int64 [M].
        refine_poses: whether poses are corrected.
        seed: of everything random.
        folder: where checkpoints and a preview lie; None keeps none.
        key: of what checkpoints depend on.
        perceptual: LPIPS, of patches; None leaves it out.
        flow: of neighbouring frames, which the person is to follow; None leaves it out.
    """

    world: World
    seen: Observations
    states: Tensor
    refine_poses: bool = True
    seed: int = 0
    folder: Path | None = None
    key: str = ""
    perceptual: nn.Module | None = None
    flow: Flow | None = None
    checkpoint_seconds: float = 30.0
    seconds: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)
    _shown: float = field(default=0.0, repr=False)

    def posed(self, frames: Tensor) -> Posed:
        """The poses of rays [R] of frames [R], corrected as far as that is learned."""
        deformation = self.world.deformation
        assert deformation is not None
        rotations, root = deformation.poses(torch.arange(len(deformation.rotations), device=frames.device))
        moments = self.seen.moments[frames]
        # Not by brackets: their gradient adds up in an order that changes from run to run.
        moved = deformation.transforms(rotations, root).index_select(0, moments)
        return Posed(moved, rotations.index_select(0, moments), self.states[moments])

    # --- stages ---

    def scene(self, report: Report) -> None:
        """The background alone, from pixels that do not show the person."""
        background = self.world.background
        assert background is not None
        places = self.places
        if not len(places.free):
            raise InputError("The masks leave nothing of the background in any frame; give masks of the person alone.")

        def loss(step: int, generator: torch.Generator) -> Tensor:
            batch = self._random(places.free, self.world.sizes.rays // self.shards, generator)
            trust = min(step / (_TRUSTED * self.world.sizes.scene), 1.0)
            found = self.world(batch.rays, None, generator, trust=trust)
            return F.mse_loss(found.rgb, batch.rgb) + found.loss + self._in_the_way(places.covered, generator)

        self._stage("scene", self.world.sizes.scene, background, loss, report, places.free)

    def _in_the_way(self, covered: Pixels, generator: torch.Generator) -> Tensor:
        """How much of the background lies before the person, or in them, where they are seen: there can be nothing."""
        if not len(covered):
            return torch.zeros((), device=self.seen.device)
        assert self.world.deformation is not None
        batch = self._random(covered, self.world.sizes.rays // 8 // self.shards, generator)
        with torch.no_grad():
            posed = self.posed(batch.frames)
            _, far, _ = capsule_hits(self.world.deformation.body, posed.transforms, batch.rays, 1.0)
        samples = self.world.behind(batch.rays, generator)
        passed = (samples.depth * (samples.at < far[:, None])).sum(dim=-1)
        return _FREE * (1 - torch.exp(-passed)).mean()

    def person(self, report: Report) -> None:
        """The person before the background as it is."""
        human, deformation = self.world.human, self.world.deformation
        assert human is not None and deformation is not None
        near, sizes = self.places.near, self.world.sizes
        steps = sizes.human
        behind = Backdrop(self.world, self.seen, self._box, steps * sizes.patches * sizes.patch**2)

        def loss(step: int, generator: torch.Generator) -> Tensor:
            batch, shape = self._patches(near, generator)
            far = behind(batch)
            found = self.world(batch.rays, self.posed(batch.frames), generator, opened(step), background=False)
            rgb = found.rgb + (1 - found.human[:, None]) * far
            value = self._human_loss(rgb, found.human, batch, shape)
            return value if self.flow is None else value + _FLOW * self._against_flow(batch, found)

        def opened(step: int) -> float:
            return float(np.clip((step / steps - _RESIDUAL_FROM) / (_RESIDUAL_TO - _RESIDUAL_FROM), 0, 1))

        def prepare(step: int) -> None:
            behind.prepare()
            self._correct_poses(self.refine_poses and step >= _POSES_FROM * steps)

        self._stage("human", steps, nn.ModuleList([human, deformation]), loss, report, near, prepare=prepare)

    def joint(self, report: Report) -> None:
        """Both together, their samples merged by depth."""
        near = self.places.near
        self._correct_poses(self.refine_poses)

        def loss(step: int, generator: torch.Generator) -> Tensor:
            batch, shape = self._patches(near, generator)
            found = self.world(batch.rays, self.posed(batch.frames), generator)
            return self._human_loss(found.rgb, found.human, batch, shape) + found.loss

        self._stage("joint", self.world.sizes.joint, self.world, loss, report, near, rate=0.2)

    def _correct_poses(self, wanted: bool) -> None:
        """Whether poses learn in the next step."""
        assert self.world.deformation is not None
        for parameter in self.world.deformation.pose_parameters():
            parameter.requires_grad_(wanted)

    def _human_loss(self, rgb: Tensor, human: Tensor, batch: Batch, shape: tuple[int, int, int]) -> Tensor:
        loss = F.mse_loss(rgb, batch.rgb)
        pictures, truth = (part.reshape(*shape, 3).permute(0, 3, 1, 2) for part in (rgb, batch.rgb))
        loss = loss + _SSIM * ssim_loss(pictures, truth, 5)
        if self.perceptual is not None and shape[1] >= LEAST_PATCH:
            loss = loss + _LPIPS * self.perceptual(2 * pictures - 1, 2 * truth - 1).mean()
        if batch.mask is not None:
            known = batch.mask.isfinite()
            missed = (human - batch.mask.nan_to_num()) * known
            loss = loss + _MASK * missed.square().sum() / known.sum().clamp_min(1)
        return loss

    def _against_flow(self, batch: Batch, seen: Seen) -> Tensor:
        """How far the person moves from where optical flow says, in shares of the frame, for pixels that are theirs.

        What a pixel shows of the rest pose is moved to the pose of the next frame, and looked at with its camera.
        """
        deformation, flow = self.world.deformation, self.flow
        assert deformation is not None and flow is not None
        length = self.seen.count // len(self.seen.clip.views)
        rows, columns = batch.pixels // self.seen.size[1], batch.pixels % self.seen.size[1]
        usable = (batch.frames % length < length - 1) & (seen.human.detach() > 0.9)
        if batch.mask is not None:
            usable = usable & (batch.mask > 0.9)
        chosen = usable.nonzero()[:, 0]
        if not len(chosen):
            return torch.zeros((), device=self.seen.device)
        frames, x, y = batch.frames[chosen], columns[chosen], rows[chosen]
        numbers, at = frames.cpu().numpy(), (y.cpu().numpy() // FLOW_STRIDE, x.cpu().numpy() // FLOW_STRIDE)
        moved = torch.from_numpy(np.asarray(flow.forward[numbers, at[0], at[1]], np.float32)).to(self.seen.device)
        after = self.posed(frames + 1)
        places, _ = deformation.blended(seen.rest[chosen], after.transforms)
        found = self.seen.project(frames + 1, places)
        wanted = torch.stack([x, y], dim=-1) + moved
        away = (found - wanted).norm(dim=-1) / max(self.seen.size)
        return (away / (away + 0.02)).mean()  # flow is wrong at times: what is far off counts no more

    # --- pixels ---

    @cached_property
    def places(self) -> Places:
        """Which pixels show what, by the poses that are given."""
        found = Places()
        nothing = np.zeros(self.seen.size, bool)
        for t in range(self.seen.count):
            hits = None if self.world.human is None else self._hits(t)
            mask = self.seen.mask(t)
            found.free.add(self.seen.without_person(t, hits, _MARGIN))
            found.near.add(nothing if hits is None else hits)
            found.covered.add(nothing if hits is None or mask is None else (mask > 0.98) & hits)
        return found

    def _hits(self, t: int) -> np.ndarray:
        """Where rays of a frame come near the person, bool [H, W]."""
        found = np.zeros(self.seen.size, bool)
        box = self._box(t)
        if box is None:
            return found
        pixels = np.arange(found.size).reshape(found.shape)[box].reshape(-1)
        with torch.no_grad():
            posed = self.posed(torch.tensor([t], device=self.seen.device))
            for part, own in chunks(self.seen.rays(t, torch.from_numpy(pixels).to(self.seen.device))):
                hit = self.world.hits(own, posed.of(torch.zeros(len(own.origins), dtype=torch.long)))
                found.reshape(-1)[pixels[part]] = hit.cpu().numpy()
        return found

    def _box(self, t: int) -> Box | None:
        """Rows and columns of a frame outside of which the person is not."""
        deformation = self.world.deformation
        assert deformation is not None
        posed = self.posed(torch.tensor([t], device=self.seen.device))
        return person_box(deformation.body, posed.transforms[0].detach(), self.seen.cameras[t], REACH)

    def _random(self, places: Pixels, count: int, generator: torch.Generator) -> Batch:
        chosen = places[torch.randint(len(places), (count,), generator=generator).numpy()]
        area = self.seen.size[0] * self.seen.size[1]
        return self.seen.take(chosen // area, chosen % area)

    def _patches(self, near: Pixels, generator: torch.Generator) -> tuple[Batch, tuple[int, int, int]]:
        """Squares of pixels about places where the person may be: [N * side * side], and their shape."""
        height, width = self.seen.size
        count = max(self.world.sizes.patches // self.shards, 1)
        side = min(self.world.sizes.patch, height, width)
        chosen = near[torch.randint(len(near), (count,), generator=generator).numpy()]
        shift = torch.randint(side, (2, count), generator=generator).numpy()
        frames, pixels = chosen // (height * width), chosen % (height * width)
        rows = np.clip(pixels // width - shift[0], 0, height - side)
        columns = np.clip(pixels % width - shift[1], 0, width - side)
        inner = np.arange(side)
        all_rows = rows[:, None, None] + inner[:, None] + 0 * inner
        all_columns = columns[:, None, None] + 0 * inner[:, None] + inner
        flat = (all_rows * width + all_columns).reshape(-1)
        return self.seen.take(np.repeat(frames, side * side), flat), (count, side, side)

    # --- steps ---

    def _stage(
        self,
        name: str,
        steps: int,
        learners: nn.Module,
        loss: Callable[[int, torch.Generator], Tensor],
        report: Report,
        probed: Pixels,
        rate: float = 1.0,
        prepare: Callable[[int], None] = lambda step: None,
    ) -> None:
        optimiser = torch.optim.Adam(_groups(learners, rate), betas=(0.9, 0.99), eps=1e-12, fused=True)
        run, key = Run(learners, optimiser), content_hash(self.key, name)
        folder = None if self.folder is None else self.folder / name
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            record = read_record(folder, key)
            if record is not None:
                load_run(run, folder, record)
        first = [group["lr"] for group in optimiser.param_groups]
        begin, before = time.perf_counter(), run.seconds
        saved = probed_at = begin
        psnr = run.curve[-1][2] if run.curve else float("nan")
        save = partial(save_run, run, folder, key) if folder is not None else lambda: None
        for step in range(run.step, steps):
            for group, own in zip(optimiser.param_groups, first, strict=True):
                group["lr"] = own * min(1.0, (step + 1) / 20) * _LAST_RATE ** (step / steps)
            prepare(step)
            wanted = [parameter for parameter in learners.parameters() if parameter.requires_grad]
            value = self._gradients(wanted, partial(loss, step), partial(self._generator, name, step))
            optimiser.step()
            now = time.perf_counter()
            run.step, run.seconds = step + 1, before + now - begin
            if now - probed_at > _PROBE_SECONDS or run.step == steps:
                probed_at, psnr = now, self._probe(probed)
                run.curve.append((run.seconds, run.step, psnr, value))
            if now - saved > self.checkpoint_seconds or run.step == steps:
                saved = now
                save()
            if run.step % max(steps // _REPORTS, 1) == 0 or run.step == steps:
                try:
                    self._preview(now)
                    report(run.step / steps, {"psnr": psnr, "loss": value})
                except KeyboardInterrupt:
                    save()
                    raise
        self.seconds[name] = run.seconds
        self.curve += run.curve

    @torch.no_grad()
    def _preview(self, now: float) -> None:
        """Every so often, a picture of how far it is: the middle frame, and what is rendered of it."""
        if self.folder is None or now - self._shown < _PREVIEW_SECONDS:
            return
        self._shown = now
        t = self.seen.count // 2
        camera = self.seen.cameras[t].resized(fewer(self.seen.size, _PREVIEW_RAYS))
        pose = None
        if self.world.deformation is not None:
            moment = self.seen.moments[t]
            pose = Pose(*self.world.deformation.poses(moment), int(self.states[moment]))
        rgb = see(self.world, camera, pose, self.seen.device).rgb.cpu().numpy()
        both = [resize(np.asarray(self.seen.clip.frames[t]), camera.size), to_uint8(rgb)]
        write_image(self.folder / PREVIEW, np.concatenate(both, axis=1))

    def _gradients(
        self,
        wanted: Sequence[nn.Parameter],
        loss: Callable[[torch.Generator], Tensor],
        generator: Callable[[int], torch.Generator],
    ) -> float:
        """Give parameters the gradient of a step, and return its loss: means over shards, a core for each."""

        def shard(k: int) -> tuple[float, tuple[Tensor | None, ...]]:
            value = loss(generator(k))
            return float(value.detach()), torch.autograd.grad(value, wanted, allow_unused=True)

        total = 0.0
        for parameter in wanted:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        for value, gradients in map_frames(shard, range(self.shards)):
            total += value / self.shards
            for parameter, gradient in zip(wanted, gradients, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad.add_(gradient, alpha=1 / self.shards)
        return total

    @property
    def shards(self) -> int:
        """Parts of a step, each on a core of its own; the same on any number of cores."""
        return 1 if self.seen.device.type == "cuda" else _SHARDS

    def _generator(self, name: str, step: int, shard: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(int(content_hash(self.seed, name, step, shard)[:12], 16))

    @torch.no_grad()
    def _probe(self, places: Pixels) -> float:
        """PSNR in dB on some pixels, always the same."""
        batch = self._random(places, _PROBE, self._generator("probe", 0))
        posed = self.posed(batch.frames) if self.world.human is not None else None
        return float(-10 * torch.log10(F.mse_loss(self.world(batch.rays, posed).rgb, batch.rgb)))


def _groups(learners: nn.Module, rate: float) -> list[dict[str, object]]:
    kinds: dict[str, list[nn.Parameter]] = {name: [] for name in _RATES}
    for name, parameter in learners.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in ("table", "hash_table", "volume"):
            kind = last.removeprefix("hash_")
        elif last in ("turns", "shifts"):
            kind = "pose"
        else:
            kind = "residual" if any(part in ("place", "pose", "out") for part in name.split(".")) else "network"
        kinds[kind].append(parameter)
    return [{"params": own, "lr": _RATES[kind] * rate} for kind, own in kinds.items() if own]


def focus(places: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """The point that is nearest to all lines from places [N, 3] ahead [N, 3], float64 [3]; least squares."""
    total, right = np.zeros((3, 3)), np.zeros(3)
    for place, way in zip(places, ahead, strict=True):
        across = np.eye(3) - np.outer(way, way)
        total += across
        right += across @ place
    return np.asarray(np.linalg.lstsq(total, right, rcond=None)[0])
