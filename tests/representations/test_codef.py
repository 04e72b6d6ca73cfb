"""CoDeF: what every representation must do, and what bends."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import LayeredContract, scene_clip
from truth import psnr, small_scene, true_fit

import canon
from canon.clip import Clip
from canon.fits import Fit
from canon.metrics import folded, track_errors
from canon.scenes import Scene, make


class TestDefaultSolver(LayeredContract):
    name = "codef"
    given = {"preset": "fast"}  # noqa: RUF012
    interruptions = (3, 5)

    def test_explains_the_frames(self, solved: Fit, clip: Clip) -> None:
        scores = [psnr(solved.reconstruct(t), clip.frames[t] / np.float32(255)) for t in range(len(clip))]
        assert np.mean(scores) > 28 and min(scores) > 26


@pytest.mark.slow
class TestNeuralSolver(LayeredContract):
    name = "codef"
    given = {"solver": "neural", "steps": 6, "batch": 64, "minutes": 0.0, "stride": 4}  # noqa: RUF012
    converged = False

    def scene(self, **overrides: object) -> Scene:
        return super().scene(**{"width": 48, "height": 28, "frames": 3, **overrides})


# --- what bends, and what does not ---


def test_a_strong_bend_sticks_and_does_not_fold() -> None:
    scene = make("bend", width=256, height=144, frames=12, bend=0.06)
    fit = canon.fit(scene.clip(), "codef", preset="balanced", device="cpu")
    assert folded(fit) < 0.005
    found = []
    for frame in (0, 6, 11):
        true, seen = scene.tracks("foreground", 200, frame=frame)
        positions, visible = fit.track(true[frame], frame=frame)
        others = np.arange(len(fit)) != frame
        found.append(track_errors(positions[others], visible[others], true[others], seen[others]))
    for name, least in (("delta", 0.95), ("average_jaccard", 0.9), ("occlusion_accuracy", 0.95)):
        assert np.mean([figures[name] for figures in found]) >= least, name


def test_folded_coordinates_are_counted() -> None:
    fit = true_fit(small_scene("pan", frames=2))
    assert folded(fit) == 0
    for layer in fit.baked:
        layer.grid = np.ascontiguousarray(layer.grid[:, :, ::-1])
    assert folded(fit) == 1


def test_a_group_that_is_empty_on_some_frames() -> None:
    scene = small_scene("demo", width=128, height=72, frames=6)
    clip = scene_clip(scene, absent=(0, 1, 5))
    fit = canon.fit(clip, "codef", preset="fast", device="cpu")
    for t in (0, 1, 5):
        assert psnr(fit.reconstruct(t), clip.frames[t] / np.float32(255)) > 26


@pytest.mark.parametrize("kind", ["still", "noise", "black"])
def test_clips_without_motion_or_meaning(kind: str) -> None:
    picture = small_scene("pan", width=96, height=56, frames=2).frames[0]
    noise = np.random.default_rng(0).integers(0, 256, (4, 56, 96, 3), np.uint8)
    frames = {"still": np.stack([picture] * 4), "noise": noise, "black": np.zeros_like(noise)}[kind]
    fit = canon.fit(Clip.from_frames(frames), "codef", preset="fast", device="cpu")
    assert all(np.isfinite(fit.reconstruct(t)).all() for t in range(4))
    if kind != "noise":
        assert psnr(fit.reconstruct(2), frames[2] / np.float32(255)) > 30
