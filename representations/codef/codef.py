"""CoDeF as a representation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from canon.fits import FitLayer
from canon.representations.codef.config import CodefConfig
from canon.representations.layered import Job, Layered, digests
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.canvas import robust_canvas
from canon.representations.solve.layers import Problem
from canon.representations.solve.refinement import (
    BACKGROUND,
    BACKGROUND_FINE,
    CHAINED_SCHEDULES,
    FINE,
    TRACKED,
    TRACKING_LEVELS,
    track_frames,
)
from canon.representations.solve.register import refresh_detail
from canon.representations.solve.segments import camera_views, place_parts, track_segments
from canon.representations.solve.tracking import Chain, Survival


class Codef(Layered):
    """Content deformation fields (Ouyang et al., CVPR 2024), solved motion first; ``solver="neural"`` is as published.

    Each mask group, the background among them, bends freely: its coordinates are chained by flow from the keyframe that
    most of the clip can be tied to.
    """

    Config = CodefConfig
    name, version = "codef", 2
    schedules = CHAINED_SCHEDULES

    def start(self, job: Job, problem: Problem, camera: CameraMotion) -> None:
        """See :meth:`Layered.start`."""
        config = job.config
        last = len(problem.layers) - 1
        for i in range(last):
            scale = config.canvas_scale or FINE[config.preset]
            track_segments(problem, i, job.flow, scale, config.preset, config.split)
        survival = Survival.of(problem, last, job.flow)
        scale = config.canvas_scale or BACKGROUND_FINE[config.preset]
        views = camera_views(problem, camera, config.split)

        def place(times: range) -> None:
            keyframe = survival.best_keyframe(times) if len(views) == 1 else views[times]
            chain = Chain(problem, last, job.flow, keyframe, camera, times)
            track_frames(problem, chain, scale, TRACKING_LEVELS[config.preset])

        place_parts(problem, last, list(views), place)
        # A rim of the layer in front must not get into the background, which is filled in behind it.
        robust_canvas(problem, last, erode=5, scales=TRACKED[config.preset])
        refresh_detail(problem)

    def train(self, job: Job) -> tuple[list[FitLayer], dict[str, Any]]:
        """See :meth:`Layered.train`."""
        from canon.representations.codef.neural import CodefOptions, CodefTrainer
        from canon.representations.neural.samples import Sampler
        from canon.representations.neural.training import train_and_bake

        config = job.config
        entries = config.log2_size or (15 if job.device.type == "cpu" else CodefOptions.log2_size)
        options = CodefOptions(
            steps=config.steps, batch=config.batch, minutes=config.minutes or None, log2_size=entries
        )
        stride = config.node_distance(job.clip.size)
        folder = job.work.stage("codef", digests(job.masks), asdict(options), stride)
        masks = [mask.values for mask in job.masks]
        sampler = Sampler(job.clip.frames, masks, job.flow, folder, job.device, job.seed)
        result = train_and_bake(
            CodefTrainer(sampler, options, folder),
            [*(mask.name for mask in job.masks), BACKGROUND],
            stride,
            lambda _, done, figures: job.clock.report("refine", done, figures),
        )
        return result.layers, {"curve": [[float(v) for v in row] for row in result.curve]}
