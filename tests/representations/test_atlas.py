"""The layered atlas: what every representation must do, by both solvers, and what only the default one promises."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from contracts import LayeredContract, equal_fits, scene_clip
from truth import psnr, small_scene

import canon
from canon.clip import Clip
from canon.fits import Fit
from canon.representations.atlas import AtlasConfig
from canon.scenes import Scene


class TestDefaultSolver(LayeredContract):
    name = "atlas"
    given = {"preset": "fast"}  # noqa: RUF012
    interruptions = (3, 5)  # after the first registration, and after the opacity

    def test_explains_the_frames(self, solved: Fit, clip: Clip) -> None:
        scores = [psnr(solved.reconstruct(t), clip.frames[t] / np.float32(255)) for t in range(len(clip))]
        assert np.mean(scores) > 28 and min(scores) > 26

    def test_an_absent_layer_leaves_its_frames_to_the_background(self) -> None:
        clip = scene_clip(self.scene(frames=6), absent=(0, 1, 5))
        fit = self.fit(clip)
        for t in (0, 1, 5):
            assert psnr(fit.reconstruct(t), clip.frames[t] / np.float32(255)) > 26


@pytest.mark.slow
class TestNeuralSolver(LayeredContract):
    name = "atlas"
    given = {"solver": "neural", "steps": 6, "batch": 64, "minutes": 0.0, "stride": 4}  # noqa: RUF012
    interrupt_stage = "refine"
    converged = False
    interruptions = (2, 4)

    def scene(self, **overrides: object) -> Scene:
        return super().scene(**{"width": 48, "height": 28, "frames": 3, **overrides})


# --- the stages on disk ---


def test_another_scribble_is_another_fit(tmp_path: Path) -> None:
    """The same file name, and the same size in bytes: only what is drawn differs."""
    scene = small_scene("pan", width=128, height=72, frames=3)
    clip = Clip.from_frames(scene.frames)
    path = tmp_path / "scribble.bmp"
    found = []
    for x in (10, 90):
        marks = np.full((72, 128, 3), 128, np.uint8)
        marks[[0, -1]], marks[:, [0, -1]] = 0, 0
        marks[25:45, x : x + 25] = 255
        assert cv2.imwrite(str(path), marks)
        found.append(canon.fit(clip, preset="fast", scribble=path, workspace=tmp_path / "work", device="cpu"))
    fresh = canon.fit(clip, preset="fast", scribble=path, device="cpu")
    assert not equal_fits(found[0], fresh)
    assert equal_fits(found[1], fresh)


def test_a_layer_of_a_few_pixels_is_no_fault() -> None:
    """Masks that hold next to nothing: a sentence or a fit, not a crash in the depths."""
    scene = small_scene("pan", width=96, height=64, frames=3)
    mask = np.zeros((3, 64, 96), np.uint8)
    mask[1, 30:33, 40:43] = 255
    clip = Clip.from_frames(scene.frames, masks={"foreground": mask})
    try:
        fit = canon.fit(clip, preset="fast", device="cpu")
    except canon.InputError as error:
        assert "foreground" in str(error)
    else:
        assert np.isfinite(fit.reconstruct(1)).all()


def test_options_are_checked() -> None:
    for options, said in (
        ({"preset": "best"}, "'best'"),
        ({"solver": "magic"}, "'magic'"),
        ({"stride": 1}, "stride 1"),
        ({"canvas_scale": 20.0}, "20"),
        ({"steps": 0}, "at least 1"),
    ):
        with pytest.raises(canon.InputError, match=said):
            AtlasConfig(**options)
