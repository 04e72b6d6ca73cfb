"""Hard cuts: found where they are, not where they are not, and fitted shot by shot."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from truth import psnr, small_scene

import canon
from canon.clip import Clip
from canon.exports.labels import labels_from_canvas, propagate_labels
from canon.exports.stabilise import stabilised
from canon.fits import Fit
from canon.scenes import Scene, make
from canon.shots import find_cuts
from canon.storage import read_image, to_uint8, write_image

FIRST = 5  # frames of the first shot


@pytest.fixture(scope="module")
def shots() -> list[Scene]:
    """Two shots of other subjects before other walls."""
    looks = ({"subject": "astronaut", "backdrop": ("grass",)}, {"backdrop": ("bricks",)})
    return [
        small_scene("pan", width=128, height=72, frames=count, **look)
        for count, look in zip((FIRST, 6), looks, strict=True)
    ]


@pytest.fixture(scope="module")
def clip(shots: list[Scene]) -> Clip:
    masks = np.concatenate([[scene.masks(t, "foreground") for t in range(len(scene))] for scene in shots])
    return Clip.from_frames(np.concatenate([scene.frames for scene in shots]), masks={"foreground": masks})


@pytest.fixture(scope="module")
def fit(clip: Clip) -> Fit:
    return canon.fit(clip, "atlas", preset="fast", device="cpu")


def test_a_cut_is_found(clip: Clip) -> None:
    assert find_cuts(clip.frames) == [FIRST]


@pytest.mark.parametrize("name", ["pan", "fast-pan", "bend", "lighting", "occlusion"])
def test_motion_is_no_cut(name: str) -> None:
    assert find_cuts(make(name, width=160, height=96, frames=8).frames) == []


def test_neither_flashes_nor_noise_nor_black_frames_are_cuts(clip: Clip) -> None:
    frames = np.asarray(clip.frames[FIRST:]).copy()
    frames[2] = 255
    assert find_cuts(frames) == []
    assert find_cuts(np.random.default_rng(0).integers(0, 256, (9, 72, 128, 3), np.uint8)) == []
    assert find_cuts(np.zeros((9, 72, 128, 3), np.uint8)) == []


def test_each_shot_has_canvases_of_its_own(fit: Fit, clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    assert fit.layers == ["foreground", "background"]
    for name in fit.layers:
        assert fit.segments(name) == [(0, FIRST - 1), (FIRST, len(clip) - 1)]
        parts = [fit.canonical(name, k) for k in range(2)]
        assert all(part.coverage.max() == 1 for part in parts)
        with pytest.raises(canon.InputError, match="2 segment"):
            fit.canonical(name, 2)
    for t in range(len(clip)):
        assert psnr(fit.reconstruct(t), clip.frames[t] / np.float32(255)) > 26


def test_each_shot_is_fitted_as_if_alone(fit: Fit, clip: Clip, tmp_path: Path) -> None:
    alone = canon.fit(clip.part(FIRST, len(clip) - 1), "atlas", preset="fast", device="cpu")
    for t in range(len(alone)):
        assert np.abs(alone.reconstruct(t) - fit.reconstruct(FIRST + t)).max() < 1e-4


def test_saved_and_loaded_it_keeps_its_segments(fit: Fit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit")
    loaded = canon.load(tmp_path / "fit")
    files = sorted(path.name for path in (tmp_path / "fit" / "canonical").iterdir())
    assert files == [f"{name}-segment{k}.png" for name in ("background", "foreground") for k in (0, 1)]
    assert loaded.segments("foreground") == fit.segments("foreground") and loaded.id == fit.id
    assert np.array_equal(loaded.reconstruct(FIRST), fit.reconstruct(FIRST))


@pytest.mark.parametrize(("segment", "times"), [(0, 1), (1, 1), (1, 2)])
def test_paint_on_one_segment_stays_in_its_shot(fit: Fit, segment: int, times: int, tmp_path: Path) -> None:
    canvas = to_uint8(fit.canonical("background", segment).rgba)
    canvas = np.repeat(np.repeat(canvas, times, axis=0), times, axis=1)
    canvas[..., :3][canvas[..., 3] > 0] = (255, 0, 255)
    write_image(tmp_path / "painted.png", canvas)
    assert read_image(tmp_path / "painted.png").shape == canvas.shape
    edit = canon.edit(fit, "paint", layer="background", segment=segment, image=tmp_path / "painted.png")
    video = canon.render(fit, edit)
    for t in range(len(fit)):
        changed = (video[t] != fit.clip.frames[t]).any(axis=-1)
        solid = fit.coordinates(t, "background")[1] > 0.999
        assert changed[solid].mean() > 0.95 if (t >= FIRST) == bool(segment) else not changed.any()


def test_paint_on_the_wrong_segment_is_refused(fit: Fit) -> None:
    """Shots of one size, so that nothing else tells them apart."""
    of = dataclasses.replace(fit.layer("background"))
    one, two = of.segments
    of.segments = (one, dataclasses.replace(two, height=one.height, width=one.width))
    same = Fit(fit.clip, "atlas", {}, [fit.layer("foreground"), of], fit.stride, fit.light_stride)
    painted = to_uint8(same.canonical("background", 1).rgba)
    painted[20:30, 40:60, :3] = (255, 0, 0)
    with pytest.raises(canon.InputError, match="canvas of segment 1, not of 0"):
        canon.edit(same, "paint", layer="background", image=painted)
    assert canon.edit(same, "paint", layer="background", image=painted, segment=1).steps


def test_an_overlay_on_a_segment_keeps_its_colour(fit: Fit) -> None:
    height, width = fit.canonical("background", 1).size
    overlay = np.zeros((round(height * 1.5), round(width * 1.5), 4), np.float32)
    overlay[20:50, 30:70] = 1.0
    edit = canon.edit(fit, "paint", layer="background", segment=1, overlay=True, image=overlay)
    rgba = edit.steps[0].operation.rgba
    assert rgba[..., :3][rgba[..., 3] > 0.02].min() > 0.98


def test_grades_and_labels_of_one_segment(fit: Fit, tmp_path: Path) -> None:
    canvas = np.full((*fit.canonical("background", 1).size, 1), 255, np.uint8)
    write_image(tmp_path / "mask.png", canvas)
    for options in ({"mask": str(tmp_path / "mask.png")}, {}):
        edit = canon.edit(fit, "grade", layer="background", segment=1, exposure=-1.0, **options)
        video = canon.render(fit, edit)
        assert np.array_equal(video[0], fit.clip.frames[0]) and video[FIRST].mean() < fit.clip.frames[FIRST].mean() - 10
    found = list(labels_from_canvas(fit, canvas[..., 0], "background", 1))
    assert not any(found[t].any() for t in range(FIRST))
    assert all((found[t] > 0).mean() > 0.5 for t in range(FIRST, len(fit)))


def test_another_fit_in_the_same_workspace_leaves_the_first_alone(clip: Clip, tmp_path: Path) -> None:
    small = Clip.from_frames(np.asarray(clip.frames), masks={"foreground": np.asarray(clip.masks["foreground"].values)})
    first = canon.fit(small, "atlas", preset="fast", workspace=tmp_path, device="cpu")
    before = [weight.copy() for weight in first.weights(0)]
    canon.fit(small, "atlas", preset="fast", stride=12, workspace=tmp_path, device="cpu")
    assert all(np.array_equal(a, b) for a, b in zip(before, first.weights(0), strict=True))


def test_nothing_corresponds_across_a_cut(fit: Fit) -> None:
    assert not fit.correspondence(0, FIRST, "background")[1].any() and fit.correspondence(0, 1, "background")[1].any()


def test_points_are_not_followed_into_another_shot(fit: Fit) -> None:
    points = np.array([[20.0, 20.0], [100.0, 50.0]], np.float32)
    positions, visible = fit.track(points, frame=1)
    assert np.isfinite(positions).all() and visible[1].all() and not visible[FIRST:].any()


def test_each_shot_is_held_still_by_itself(fit: Fit) -> None:
    held = list(stabilised(fit, "background", frame=1))
    assert np.array_equal(held[1], fit.clip.frames[1])
    middle = FIRST + (len(fit) - FIRST) // 2
    assert np.array_equal(held[middle], fit.clip.frames[middle])
    weight = fit.coordinates(middle, "background")[1] > 0.999
    for t in range(FIRST, len(fit)):
        shown = (
            cv2.erode((weight & (fit.coordinates(t, "background")[1] > 0.999)).astype(np.uint8), np.ones((9, 9))) > 0
        )
        shown[:, :12] = shown[:, -12:] = False
        assert psnr(held[t] / np.float32(255), held[middle] / np.float32(255), shown) > 24


def test_labels_stay_in_their_shot(fit: Fit, clip: Clip) -> None:
    labels = np.where(np.asarray(clip.masks["foreground"].get(0)) > 127, 7, 3).astype(np.uint8)
    found = list(propagate_labels(fit, labels, frame=0))
    assert all(np.isin(found[t], (3, 7)).all() for t in range(FIRST))
    assert not any(found[t].any() for t in range(FIRST, len(clip)))


def test_it_is_said_where_the_cuts_are(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "canon"):
        canon.fit(
            Clip.from_frames(np.asarray(clip.frames)[:, ::2, ::2]), "atlas", preset="fast", search=False, device="cpu"
        )
    assert f"cuts at frame {FIRST}" in caplog.text
