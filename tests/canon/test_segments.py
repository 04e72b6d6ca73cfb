"""Segments that overlap: what is done on one canvas goes on where the next one takes over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from truth import rebuilt_from_stmaps, small_scene, split_in_two, true_fit

import canon
from canon.carrying import carry
from canon.compose import compose
from canon.edits import Edit, Over, Step
from canon.exports.labels import labels_from_canvas, propagate_labels
from canon.exports.stabilise import stabilised
from canon.exports.stmap import export_stmaps
from canon.fits import Fit
from canon.scenes import Scene
from canon.segments import Segment, Share, misplaced, neighbours, shares

AT, OVERLAP = 4, 2
FRAMES = range(8)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("pan")


@pytest.fixture(scope="module")
def whole(scene: Scene) -> Fit:
    return true_fit(scene)


@pytest.fixture(scope="module")
def split(whole: Fit) -> Fit:
    return split_in_two(whole, "foreground", AT, OVERLAP, gain=1.25)


def segment(first: int, last: int, top: int = 0) -> Segment:
    return Segment(first, last, top, 0, 10, 10)


def test_frames_that_two_segments_share_fade_from_one_to_the_other() -> None:
    found = shares([segment(0, 5), segment(3, 9)])
    assert [found[t].own for t in range(10)] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert found[3] == Share(0, 1, 0.25) and found[4] == Share(0, 1, 0.5) and found[5] == Share(1, 0, 0.25)
    assert all(found[t].other is None for t in (0, 1, 2, 6, 7, 8, 9))
    assert shares([segment(2, 3), segment(4, 5)]) == {2: Share(0), 3: Share(0), 4: Share(1), 5: Share(1)}


def test_neighbours_are_those_that_overlaps_lead_to() -> None:
    parts = [segment(0, 5), segment(3, 9), segment(10, 15), segment(14, 20), segment(19, 30)]
    assert neighbours(parts, 0) == [(0, 1)] and neighbours(parts, 1) == [(1, 0)]
    assert neighbours(parts, 3) == [(3, 4), (3, 2)]


@pytest.mark.parametrize(
    "parts",
    [
        [segment(0, 12)],
        [segment(0, 5, top=15)],
        [segment(4, 9), segment(0, 6)],
        [segment(0, 9), segment(2, 8)],
        [segment(0, 5), segment(3, 7), segment(5, 9)],
    ],
)
def test_segments_out_of_place_are_found(parts: list[Segment]) -> None:
    assert misplaced(parts, 10, (20, 10)) is parts[-1]


def test_overlaps_need_their_second_coordinates(split: Fit) -> None:
    without = [replace(layer, second_grid=None) for layer in split.baked]
    with pytest.raises(canon.InputError, match="second coordinates"):
        Fit(split.clip, "truth", {}, without, split.stride, split.light_stride)


def test_a_split_fit_shows_what_the_whole_one_shows(whole: Fit, split: Fit) -> None:
    assert split.segments("foreground") == [(0, 5), (2, 7)]
    for t in FRAMES:
        assert np.abs(split.reconstruct(t) - whole.reconstruct(t)).max() < 2e-3


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("times", [1, 2])
def test_paint_on_one_segment_goes_on_in_the_other(
    scene: Scene, whole: Fit, split: Fit, number: int, times: int
) -> None:
    emblem = scene.emblem("foreground", soft=True).astype(np.float32)
    emblem = np.repeat(np.repeat(emblem, times, axis=0), times, axis=1)
    wanted = canon.render(whole, canon.edit(whole, "paint", layer="foreground", image=emblem, overlay=True))
    bright = emblem.copy()
    # What is painted on the second canvas is seen in its brighter light.
    bright[..., :3] /= 1.25 if number else 1.0
    edit = canon.edit(split, "paint", layer="foreground", image=bright, overlay=True, segment=number)
    video = canon.render(split, edit)
    for t in FRAMES:
        assert (wanted[t] != whole.clip.frames[t]).any()
        assert np.abs(video[t].astype(int) - wanted[t]).max() <= 6
        assert np.abs(video[t].astype(int) - wanted[t]).mean() < 0.02


def test_paint_of_the_first_canvas_needs_no_more_said(scene: Scene, split: Fit) -> None:
    emblem = scene.emblem("foreground", soft=True)
    edit = canon.edit(split, "paint", layer="foreground", image=emblem, overlay=True)
    videos = canon.render(split, edit), canon.render(split, Edit([Step("foreground", Over(emblem))]))
    assert all(np.array_equal(videos[0][t], videos[1][t]) for t in FRAMES)


def test_paint_that_is_not_carried_fades_out(scene: Scene, split: Fit) -> None:
    emblem = scene.emblem("foreground", soft=False)
    edit = canon.edit(split, "paint", layer="foreground", image=emblem, overlay=True, carry=False)
    video = canon.render(split, edit)
    change = [np.abs(video[t].astype(int) - split.clip.frames[t]).sum() for t in FRAMES]
    assert change[0] > change[2] > change[3] > change[4] > change[5] > 0 == change[6] == change[7]


def test_a_painted_frame_is_seen_in_all(whole: Fit, split: Fit) -> None:
    for t in (1, 6):
        painted = np.asarray(split.clip.frames[t]).copy()
        y, x = np.nonzero(whole.coordinates(t, "foreground")[1] > 0.99)
        middle = int(np.median(y)), int(np.median(x))
        painted[middle[0] - 6 : middle[0] + 6, middle[1] - 6 : middle[1] + 6] = (255, 0, 255)
        videos = [canon.render(fit, canon.edit(fit, "paint", image=painted, frame=t)) for fit in (whole, split)]
        for s in FRAMES:
            assert (videos[0][s] != whole.clip.frames[s]).any()
            assert np.abs(videos[0][s].astype(int) - videos[1][s]).mean() < 0.05


def test_beyond_a_canvas_its_rim_goes_on_not_the_next_segment(scene: Scene, whole: Fit) -> None:
    split = split_in_two(whole, "foreground", AT, OVERLAP)
    height, width = whole.layer("foreground").canvas_size
    split.layer("foreground").color[height:] = (1, 0, 1)
    # Pixels that lie below the first canvas.
    below = np.stack([np.linspace(0, whole.size[1], 50), np.full(50, 4.0 * whole.size[0])], axis=-1).astype(np.float32)
    assert np.abs(split.look(0, "foreground", below) - whole.look(0, "foreground", below)).max() < 1e-5
    paint = np.zeros((2 * height, width, 4), np.float32)
    paint[height:] = (1, 0, 1, 1)
    composed = compose(split, [Edit([Step("foreground", Over(paint))])])["foreground"]
    (view,) = split.views(0, "foreground")
    moved = replace(view, grid=view.grid + np.array([0, height], np.float32))
    everywhere = slice(0, whole.size[0]), slice(0, whole.size[1])
    assert composed.look(moved, split.stride, everywhere).max() < 0.01


def test_an_image_of_another_segment_is_told_which(split: Fit) -> None:
    layer = split.layer("foreground")
    first, last = layer.segments
    narrow = replace(layer, segments=(first, replace(last, width=last.width // 2)))
    layers = [narrow if one is layer else one for one in split.baked]
    fit = Fit(split.clip, "truth", {}, layers, split.stride, split.light_stride)
    image = fit.canonical("foreground", 1).rgba
    with pytest.raises(canon.InputError, match=r"of segment 1 .* not as that of segment 0"):
        canon.edit(fit, "paint", layer="foreground", image=image)
    with pytest.raises(canon.InputError, match="drop the option segment"):
        canon.edit(fit, "paint", image=np.asarray(fit.clip.frames[0]), frame=0, segment=1)


def test_a_graded_area_goes_on(whole: Fit, split: Fit) -> None:
    mask = np.zeros(whole.layer("foreground").canvas_size, np.float32)
    mask[20:60, 30:80] = 1
    placed = np.zeros((*split.layer("foreground").canvas_size, 1), np.float32)
    placed[: len(mask), :, 0] = mask
    below = carry(split, "foreground", placed, 0)[len(mask) :, :, 0]
    known = below > 0.5
    assert known.sum() > 0.5 * mask.sum() and mask[known].mean() > 0.98


@pytest.mark.parametrize("frame", [0, 3, 7])
def test_tracks_and_correspondence_cross_the_border(scene: Scene, whole: Fit, split: Fit, frame: int) -> None:
    points, seen = scene.tracks("foreground", 40, frame=frame)
    points = points[frame][seen[frame]]
    wanted, visible = whole.track(points, frame=frame, layer="foreground")
    found, still = split.track(points, frame=frame, layer="foreground")
    assert np.abs(found - wanted).max() < 0.05 and (still == visible).mean() > 0.97
    for s in (0, 7):
        positions, sure = split.correspondence(frame, s, "foreground")
        true, known = whole.correspondence(frame, s, "foreground")
        assert (sure == known).mean() > 0.99 and np.abs(positions - true)[sure & known].max() < 0.05


def test_labels_cross_the_border(whole: Fit, split: Fit) -> None:
    labels = np.zeros(whole.size, np.uint8)
    labels[:, : whole.size[1] // 2], labels[: whole.size[0] // 2] = 1, 2
    for frame in (0, 7):
        pairs = zip(propagate_labels(whole, labels, frame), propagate_labels(split, labels, frame), strict=True)
        assert min((a == b).mean() for a, b in pairs) > 0.985
    canvas = np.zeros(whole.layer("foreground").canvas_size, np.uint8)
    canvas[:, : canvas.shape[1] // 2] = 7
    videos = [labels_from_canvas(fit, canvas, "foreground") for fit in (whole, split)]
    assert min((a == b).mean() for a, b in zip(*videos, strict=True)) > 0.985


def test_maps_for_compositors_rebuild_every_frame(split: Fit, tmp_path: Path) -> None:
    export_stmaps(split, tmp_path / "out", "nuke")
    for t in FRAMES:
        off = np.abs(rebuilt_from_stmaps(tmp_path / "out", t) - split.reconstruct(t)).max(axis=-1)
        assert (off <= 1 / 255).mean() > 0.99


def test_what_is_held_still_is_held_across_the_border(whole: Fit, split: Fit) -> None:
    pairs = zip(stabilised(whole, "foreground", 2), stabilised(split, "foreground", 2), strict=True)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in pairs) < 0.5


def test_saved_and_enlarged_it_is_the_same(scene: Scene, split: Fit, tmp_path: Path) -> None:
    split.save(tmp_path / "fit")
    loaded = canon.load(tmp_path / "fit")
    edit = Edit([Step("foreground", Over(np.concatenate([scene.emblem("foreground", soft=True)] * 2)))], split.id)
    videos = canon.render(split, edit), canon.render(loaded, edit), canon.render(split, edit, scale=2)
    for t in FRAMES:
        assert np.array_equal(videos[0][t], videos[1][t])
    for t in (3, 4):
        halved = cv2.resize(videos[2][t], split.size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(halved.astype(int) - videos[0][t]).mean() < 1.5
