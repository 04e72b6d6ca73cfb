"""What a fit is for: points stick, and an edit lands where the truth says, on scenes of every kind at a small size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from truth import edit_psnr, painted_truth, psnr, track_errors, true_fit

import canon
from canon.fits import Fit
from canon.scenes import Scene, make

pytestmark = pytest.mark.slow

SIZE = {"width": 192, "height": 108, "frames": 12}
SCENES = {
    "pan": {},
    "fast-pan": {"width": 256, "height": 144},  # in smaller frames it turns too far for one canvas
    "bend": {},
    "lighting": {"lighting": 0.25},
    "occlusion": {"occluder_period": 40.0},  # so that the occluder crosses the foreground within the clip
}


@dataclass
class Case:
    """A scene, its fit, and the fit that a perfect solver would give."""

    scene: Scene
    fit: Fit
    true: Fit
    names: dict[str, str]
    """The scene's layer -> the fit's."""


@pytest.fixture(scope="module", params=SCENES)
def case(request: pytest.FixtureRequest) -> Case:
    scene = make(request.param, **{**SIZE, **SCENES[request.param]})
    fit = canon.fit(scene.clip(), "atlas", preset="balanced", device="cpu")
    return Case(scene, fit, true_fit(scene), dict(zip(scene.layers, fit.layers, strict=True)))


def test_tracks_stick(case: Case) -> None:
    for layer, name in case.names.items():
        error = track_errors(case.scene, case.fit, layer, name, 150)
        assert len(error) > 500
        assert np.median(error) <= 0.5, f"{layer}: median {np.median(error):.2f} px"
        assert np.quantile(error, 0.9) <= 2.0, f"{layer}: 90th percentile {np.quantile(error, 0.9):.2f} px"


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "sharp"])
def test_edits_come_near_the_ceiling(case: Case, soft: bool) -> None:
    for layer, name in case.names.items():
        emblem = case.scene.emblem(layer, soft=soft)
        truth = painted_truth(case.scene, layer, emblem)
        fits = ((case.true, layer), (case.fit, name))
        scores = [edit_psnr(case.scene, fit, layer, own, emblem, truth) for fit, own in fits]
        frames, areas = truth
        nothing = psnr(case.fit.clip.frames[:][areas], frames[areas])
        print(
            f"{layer} {'soft' if soft else 'sharp'}: {scores[1]:.2f} dB, ceiling {scores[0]:.2f}, source {nothing:.2f}"
        )
        assert scores[0] > nothing + 6, "the emblem is to be seen"
        assert scores[1] > scores[0] - 3, f"{layer}: {scores[1]:.1f} dB, ceiling {scores[0]:.1f} dB"
