"""CoDeF as a representation."""

from __future__ import annotations

from typing import Any

from canon.fits import FitLayer
from canon.representations.codef.config import CodefConfig
from canon.representations.layered import Job, Layered
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.layers import Problem
from canon.representations.solve.refinement import BACKGROUND_FINE, CHAINED_SCHEDULES, FINE, track_layer
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
        raise NotImplementedError
