"""The layered atlas as a representation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from canon.fits import FitLayer
from canon.representations.atlas.config import AtlasConfig
from canon.representations.atlas.pipeline import start
from canon.representations.layered import Job, Layered, digests
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.layers import Problem
from canon.representations.solve.refinement import SCHEDULES


class Atlas(Layered):
    """Layered neural atlas (Kasten et al. 2021), solved motion first; ``solver="neural"`` is the published way."""

    Config = AtlasConfig
    name, version = "atlas", 8
    schedules = SCHEDULES

    def start(self, job: Job, problem: Problem, camera: CameraMotion) -> None:
        """See :meth:`Layered.start`."""
        start(problem, job.flow, camera, job.config)

    def train(self, job: Job) -> tuple[list[FitLayer], dict[str, Any]]:
        """See :meth:`Layered.train`."""
        from canon.representations.atlas.neural import NeuralOptions, solve_neural

        config = job.config
        options = NeuralOptions(steps=config.steps, batch=config.batch, minutes=config.minutes or None)
        stride = config.node_distance(job.clip.size)
        result = solve_neural(
            job.clip.frames,
            [(mask.name, mask.values) for mask in job.masks],
            job.flow,
            options,
            stride=stride,
            device=job.device,
            seed=job.seed,
            checkpoint=job.work.stage("neural", digests(job.masks), asdict(options), stride),
            progress=lambda _, done, figures: job.clock.report("refine", done, figures),
        )
        return result.layers, {"curve": [[float(v) for v in row] for row in result.curve]}
