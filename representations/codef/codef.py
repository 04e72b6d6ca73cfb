"""CoDeF as a representation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from canon.fits import FitLayer
from canon.representations.codef.config import CodefConfig
from canon.representations.layered import Job, Layered, digests
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.layers import Problem
from canon.representations.solve.refinement import BACKGROUND, BACKGROUND_FINE, CHAINED_SCHEDULES, FINE, track_layer
from canon.representations.solve.register import refresh_detail
from canon.representations.solve.tracking import Chain, best_keyframe


class Codef(Layered):
    """Content deformation fields (Ouyang et al., CVPR 2024), solved motion first; ``solver="neural"`` is as published.

    Each mask group, the background among them, bends freely: its coordinates are chained by flow from the keyframe that
    most of the clip can be tied to.
    """

    Config = CodefConfig
    name, version = "codef", 1
    schedules = CHAINED_SCHEDULES

    def start(self, job: Job, problem: Problem, camera: CameraMotion) -> None:
        """See :meth:`Layered.start`."""
        config = job.config
        for i in range(len(problem.layers)):
            behind = i == len(problem.layers) - 1
            scale = config.canvas_scale or (BACKGROUND_FINE if behind else FINE)[config.preset]
            keyframe = best_keyframe(problem, i, job.flow)
            chain = Chain(problem, i, job.flow, keyframe, camera if behind else None)
            # A rim of the layer in front must not get into the background, which is filled in behind it.
            track_layer(problem, chain, scale, config.preset, erode=5 if behind else 1)
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
