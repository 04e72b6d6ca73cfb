"""CoDeF: what every representation must do, and what bends."""

from __future__ import annotations

import numpy as np
from contracts import RepresentationContract
from truth import psnr

from canon.clip import Clip
from canon.fits import Fit


class TestDefaultSolver(RepresentationContract):
    name = "codef"
    given = {"preset": "fast"}  # noqa: RUF012
    interruptions = (3, 5)

    def test_explains_the_frames(self, solved: Fit, clip: Clip) -> None:
        scores = [psnr(solved.reconstruct(t), clip.frames[t] / np.float32(255)) for t in range(len(clip))]
        assert np.mean(scores) > 28 and min(scores) > 26
