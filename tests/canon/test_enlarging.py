"""Renders larger than the clip: the source enlarged, edits at their own detail."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from truth import psnr, small_scene, true_fit

import canon
from canon.clip import Clip
from canon.coordinates import grid_nodes, grid_size
from canon.edits import Edit, Over, Remove, Step
from canon.enlarging import enlarged
from canon.fits import Fit, FitLayer
from canon.scenes import Scene

SIZE, COUNT = (37, 59), 2


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("occlusion", lighting=0.25, frames=3)


def still(frames: np.ndarray) -> Fit:
    """One layer that lies on its canvas as it is."""
    nodes = np.repeat(grid_nodes(SIZE, 4).numpy()[None], len(frames), axis=0)
    light = np.ones((len(frames), *grid_size(SIZE, 16), 3), np.float32)
    canvas = frames[0] / np.float32(255)
    layer = FitLayer("background", canvas, np.ones(SIZE, np.float32), nodes, light)
    return Fit(Clip.from_frames(frames), "atlas", {}, [layer], 4, 16)


@pytest.mark.parametrize("scale", [2, 3])
def test_paint_as_fine_as_the_render_arrives_texel_by_texel(scale: int) -> None:
    rng = np.random.default_rng(0)
    fit = still(rng.integers(0, 256, (COUNT, *SIZE, 3), np.uint8))
    paint = rng.integers(0, 256, (SIZE[0] * scale, SIZE[1] * scale, 4), np.uint8)
    paint[..., 3] = np.where(np.arange(paint.shape[1]) < 40, 255, 0)
    edit = Edit([Step("background", Over(paint / np.float32(255)))], fit.id)
    for frame, source in zip(canon.render(fit, edit, scale=scale), fit.clip.frames, strict=True):
        assert frame.shape == (*paint.shape[:2], 3)
        # A sixteenth of a texel is what bilinear sampling at rounded positions may move.
        assert np.abs(frame[:, :40].astype(int) - paint[:, :40, :3]).mean() < 1.0
        large = cv2.resize(source, paint.shape[1::-1], interpolation=cv2.INTER_LANCZOS4)
        assert np.array_equal(frame[:, 44:], large[:, 44:])


def test_maps_are_those_of_the_clip_at_pixels_in_between(scene: Scene) -> None:
    fit = true_fit(scene)
    large = enlarged(fit, 2)
    assert large.id == fit.id and large.layers == fit.layers and large.size == (fit.size[0] * 2, fit.size[1] * 2)
    for name in fit.layers:
        small, fine = fit.coordinates(1, name)[0], large.coordinates(1, name)[0]
        # The mean of four enlarged pixels is the pixel that they came from.
        mean = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
        shown = fit.coordinates(1, name)[1] > 0.5
        shown[[0, -1]], shown[:, [0, -1]] = False, False
        off = np.abs(mean - small)[shown]
        assert off.mean() < 0.005 and off.max() < 0.04, "control nodes lie elsewhere, so only bends differ a little"
        assert large.texels(1, name) == pytest.approx(fit.texels(1, name) / 2, rel=0.01)
    assert np.abs(sum(large.weights(1)) - 1).max() < 1e-6


def test_an_edit_looks_the_same_at_any_scale(scene: Scene) -> None:
    fit = true_fit(scene)
    edit = Edit([Step("foreground", Over(scene.emblem("foreground")))], fit.id)
    small = canon.render(fit, edit)
    for k, frame in enumerate(canon.render(fit, edit, scale=2)):
        reduced = cv2.resize(frame, fit.size[::-1], interpolation=cv2.INTER_AREA)
        assert psnr(reduced / np.float32(255), small[k] / np.float32(255)) > 28


def test_what_is_removed_is_gone_at_any_scale(scene: Scene) -> None:
    fit = true_fit(scene)
    edit = Edit([Step("foreground", Remove())], fit.id)
    frame, small = canon.render(fit, edit, scale=2)[1], canon.render(fit, edit)[1]
    reduced = cv2.resize(frame, fit.size[::-1], interpolation=cv2.INTER_AREA)
    assert psnr(reduced / np.float32(255), small / np.float32(255)) > 26


@pytest.mark.parametrize("scale", [0, -1, 9])
def test_other_scales_are_refused(scene: Scene, scale: int) -> None:
    with pytest.raises(canon.InputError, match=f"not at {scale}"):
        canon.render(true_fit(scene), [], scale=scale)
