"""Neighbours that are none: on canvases of charts, against a person whose truth is known, and in clips of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_models import clip as tiny_clip
from truth import still_fit

import canon
from canon import metrics
from canon.charts import chart_numbers, unbroken
from canon.clip import Clip
from canon.coordinates import grid_size, pixel_grid
from canon.edits import Delta, Edit, Step
from canon.exports.labels import labels_from_canvas, propagate_labels
from canon.fits import Fit, FitLayer
from canon.sampling import fill_from_nearest
from canon.scenes.human import HumanScene, HumanSceneConfig, HumanView
from canon.spatial import SpatialFit

TEXEL = 0.01
"""Metres."""
GUTTER = 3
ROOM = 50
"""Label of the background; that of what moves with a joint is its number, from 1."""


class Placed(SpatialFit):
    """A fit that knows the true place in the rest pose of every pixel of the person."""

    truth: Sequence[HumanView]

    def coordinates_3d(self, t: int, layer: str) -> np.ndarray:
        assert layer == "human"
        return filled(self.truth[t].canonical)


@dataclass(frozen=True)
class Person:
    """A person in a few frames, unwrapped onto a front and a back for each joint, as they are seen from the front: so
    all backs are mirrored.

    Attributes:
        charts: int [Hc, Wc], label of the joint at each texel whose centre is on a chart, else 0.
    """

    truth: list[HumanView]
    flat: Fit
    spatial: Placed
    charts: np.ndarray

    def labels(self, t: int) -> np.ndarray:
        joint = self.truth[t].joint
        return np.where(joint < 0, ROOM, joint + 1).astype(np.uint8)


def filled(image: np.ndarray) -> np.ndarray:
    return fill_from_nearest(image, np.isfinite(image).all(axis=-1))


@pytest.fixture(scope="module")
def person() -> Person:
    scene = HumanScene(HumanSceneConfig(width=76, height=150, frames=4, orbit=240.0))
    truth = [scene.frame(t) for t in range(len(scene))]
    corners, charts = unwrapped(scene)
    uv = []
    for view in truth:
        x, y, z = np.moveaxis(view.canonical, -1, 0)
        corner = corners[np.maximum(view.joint, 0), (z < 0).astype(int)]
        place = corner + np.stack([x, -y], axis=-1) / TEXEL
        uv.append(filled(np.where((view.joint >= 0)[..., None], place, np.nan)))
    clip = Clip.from_frames([np.zeros((*truth[0].joint.shape, 3), np.uint8)] * len(truth))
    light = np.ones((len(truth), *grid_size(clip.size, 64), 3), np.float32)
    human = FitLayer(
        "human",
        np.zeros((*charts.shape, 3), np.float32),
        (charts > 0).astype(np.float32),
        np.stack(uv).astype(np.float32),
        light,
        np.stack([np.where(view.joint >= 0, 255, 0) for view in truth]).astype(np.uint8),
        charts=True,
    )
    still = np.repeat(pixel_grid(clip.size).numpy()[None].astype(np.float32), len(clip), axis=0)
    room = np.zeros((*clip.size, 3), np.float32)
    background = FitLayer("background", room, np.ones(clip.size, np.float32), still, light)
    flat, spatial = (kind(clip, "truth", {}, [human, background], 1, 64) for kind in (Fit, Placed))
    assert isinstance(spatial, Placed)
    spatial.truth = truth
    return Person(truth, flat, spatial, charts)


def unwrapped(scene: HumanScene) -> tuple[np.ndarray, np.ndarray]:
    """Where the place (0, 0) is on the chart of each joint and side, float [J, 2, 2], and the label of each texel."""
    bones = scene.body.bones
    joint, radius = bones.joint.numpy(), bones.radius.numpy() / TEXEL
    start, end = (part.numpy()[:, :2] * [1, -1] / TEXEL for part in (bones.start, bones.end))
    corners = np.zeros((joint.max() + 1, 2, 2))
    charts = np.zeros((600, 150), np.uint8)
    left = top = GUTTER
    tall = 0
    # In no order, so that parts which are far from one another on the body are neighbours here.
    for k, side in np.random.default_rng(2).permutation([(k, side) for k in np.unique(joint) for side in range(2)]):
        own = joint == k
        low = (np.minimum(start, end)[own] - radius[own, None]).min(axis=0)
        high = (np.maximum(start, end)[own] + radius[own, None]).max(axis=0)
        width, height = np.ceil(high - low).astype(int)
        if left + width + GUTTER > charts.shape[1]:
            left, top, tall = GUTTER, top + tall + GUTTER, 0
        corners[k, side] = [left, top] - low
        texels = pixel_grid((height, width)).numpy() + low
        inside = [within(texels, start[b], end[b], radius[b]) for b in np.flatnonzero(own)]
        charts[top : top + height, left : left + width][np.any(inside, axis=0)] = k + 1
        left, tall = left + width + GUTTER, max(tall, height)
    return corners, charts[: top + tall + GUTTER]


def within(points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    axis = end - start
    along = ((points - start) @ axis / max(axis @ axis, 1e-9)).clip(0, 1)
    return np.asarray(np.linalg.norm(points - start - along[..., None] * axis, axis=-1) <= radius)


def part_labels(person: Person, t: int) -> np.ndarray:
    """By boxes of a quarter of a metre of the rest pose, which charts know nothing of; 0 off the person."""
    rest = np.nan_to_num(person.truth[t].canonical)
    box = 1 + 4 * np.floor((rest[..., 1] + 1.2) / 0.25) + np.floor((rest[..., 0] + 1) / 0.5)
    return np.where(person.truth[t].joint < 0, 0, box).astype(np.uint8)


# --- charts ---


def plane(charts: Sequence[np.ndarray], grid: np.ndarray) -> Fit:
    """One layer in one frame, on a canvas with a chart for each bool mask."""
    inside = np.any(charts, axis=0)
    clip = Clip.from_frames(np.zeros((1, *grid.shape[:2], 3), np.uint8))
    light = np.ones((1, *grid_size(clip.size, 64), 3), np.float32)
    colour = np.zeros((*inside.shape, 3), np.float32)
    layer = FitLayer("surface", colour, inside.astype(np.float32), grid[None].astype(np.float32), light, charts=True)
    return Fit(clip, "truth", {}, [layer], 1, 64)


def two_charts() -> list[np.ndarray]:
    left, right = np.zeros((40, 80), bool), np.zeros((40, 80), bool)
    left[2:37, 2:37], right[2:37, 41:76] = True, True
    return [left, right]


def test_charts_are_told_apart_and_reach_halfway_to_their_neighbours() -> None:
    charts = two_charts()
    charts[0][36, 29:] = False
    charts[0][37, 29] = True  # hangs on by a corner
    numbers = chart_numbers(plane(charts, np.zeros((11, 9, 2))).baked[0])
    assert set(np.unique(numbers)) == {1, 2} and numbers[37, 29] == 1
    assert (numbers[charts[0]] == 1).all() and (numbers[charts[1]] == 2).all()
    assert (numbers[2:30, :38] == 1).all() and (numbers[2:30, 39:] == 2).all()
    assert not chart_numbers(plane([np.zeros((5, 8), bool)], np.zeros((11, 9, 2))).baked[0]).any()


def test_neighbours_in_a_frame_that_are_none_on_the_surface() -> None:
    grid = pixel_grid((12, 20)).numpy()
    charts = np.ones((12, 20), int)
    assert unbroken(grid, charts).all()
    grid[:, 10:, 0] += 30  # something behind comes forward
    grid[:, 17:] = grid[:, 16:17]  # the surface ends
    charts[9:, :5] = 2
    charts[0, 13] = 0
    wanted = np.ones((12, 20), bool)
    wanted[:, [9, 10, 16, 17, 18, 19]] = False
    wanted[8:10, :5] = wanted[9:, 4:6] = False
    wanted[0, 12:15] = wanted[1, 13] = False
    assert np.array_equal(unbroken(grid, charts), wanted)


def test_folds_are_counted_within_charts_alone() -> None:
    height, width = 20, 31
    x, y = np.moveaxis(pixel_grid((height, width)).numpy(), -1, 0)
    upright, mirrored = np.stack([x + 5, y + 5], axis=-1), np.stack([90 - x, y + 5], axis=-1)
    grid = np.where(x[..., None] < 15, upright, mirrored)
    assert metrics.folded(plane(two_charts(), grid)) == 0
    grid[:, :15, 0] = 5 + np.abs(x[:, :15] - 4)
    # Columns 0 to 4 of the 14 inside of one chart, and of the 15 inside of the other.
    assert metrics.folded(plane(two_charts(), grid)) == pytest.approx(5 / 29)
    grid[:, 15:, 0] = 60 + np.abs(x[:, 15:] - 25)
    # There what is mirrored is the rule: columns 26 to 30 are not.
    assert metrics.folded(plane(two_charts(), grid)) == pytest.approx((5 + 5) / 29)


def test_a_person_cut_into_charts_is_not_folded(person: Person) -> None:
    assert metrics.folded(person.flat) < 0.002


# --- labels ---


def test_labels_go_to_the_nearest_place_of_the_body(person: Person) -> None:
    """Not of the canvas, where most of what the first frame does not show lies beside some other part."""
    found = list(propagate_labels(person.spatial, part_labels(person, 0)))
    for t, least in ((1, 0.8), (2, 0.6), (3, 0.55)):
        on = person.truth[t].joint >= 0
        assert (found[t][on] > 0).all() and not found[t][~on].any()
        assert (found[t] == part_labels(person, t))[on].mean() > least


def test_without_extension_labels_stay_where_the_frame_showed_the_body(person: Person) -> None:
    rest = [view.canonical[view.joint >= 0] for view in person.truth]
    found = list(propagate_labels(person.spatial, part_labels(person, 0), extend=False))
    for t in (1, 2, 3):
        distance = np.linalg.norm(rest[t][:, None] - rest[0], axis=-1).min(axis=1)
        known = found[t][person.truth[t].joint >= 0] > 0
        assert known.any() and not known[distance > 0.1].any()
        if t == 1:  # the others share little but outlines with the first
            right = (found[t] == part_labels(person, t))[person.truth[t].joint >= 0]
            assert known[distance < 0.01].mean() > 0.85 and right[known].mean() > 0.95


@pytest.mark.parametrize("extend", [False, True])
def test_without_places_labels_stay_on_their_charts(person: Person, extend: bool) -> None:
    found = list(propagate_labels(person.flat, person.labels(0), extend=extend))
    for t, least in ((1, 0.2), (2, 0.01), (3, 0.1)):
        on = person.truth[t].joint >= 0
        known = on & (found[t] > 0)
        assert known.sum() > least * on.sum() and (found[t] == person.labels(t))[known].mean() > 0.98
        assert (found[t] == ROOM)[~on].mean() > (0.999 if extend else 0.9)


@pytest.mark.parametrize("scale", [1, 2])
def test_labels_of_charts_reach_their_rims(person: Person, scale: int) -> None:
    labels = person.charts.repeat(scale, axis=0).repeat(scale, axis=1)
    several = np.dstack([labels, labels + 100])
    for t, found in enumerate(labels_from_canvas(person.flat, labels, "human")):
        on = person.truth[t].joint >= 0
        assert np.array_equal(found[on], person.labels(t)[on]) and not found[~on].any()
    for t, found in enumerate(labels_from_canvas(person.flat, several, "human")):
        on = person.truth[t].joint >= 0
        assert np.array_equal(found[on][:, 1], person.labels(t)[on] + 100)


# --- views ---


def two_views(frames: int) -> tuple[Fit, Edit]:
    """Two cameras that see different pictures, in which nothing moves."""
    y, x = np.mgrid[:40, :61]
    pictures = [
        np.repeat((128 + 50 * np.sin(x / across) + 50 * np.cos(y / 4))[..., None], 3, axis=-1).astype(np.uint8)
        for across in (3, 7)
    ]
    clip = Clip.from_frames([image for image in pictures for _ in range(frames)], views=("left", "right"))
    return still_fit(pictures[0], 2 * frames).over(clip), Edit([Step("background", Delta(exposure=0.2))])


def test_flicker_is_between_frames_of_one_camera() -> None:
    fit, edit = two_views(3)
    found = metrics.flicker(canon.render(fit, edit))
    assert set(found) == {
        f"warp_error{name}" for name in ("", "_source", "_inside", "_source_inside", "_excess_inside")
    }
    assert max(found.values()) < 1e-9
    assert metrics.flicker(canon.render(*two_views(1))) == {}


def test_consistent_frames_are_those_of_one_camera() -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert metrics.frame_consistency(vectors) == pytest.approx(2 / 3)
    assert metrics.frame_consistency(vectors, views=2) == pytest.approx(1)
    assert np.isnan(metrics.frame_consistency(vectors, views=4))


def test_evaluate_knows_the_views(tmp_path: Path) -> None:
    fit, edit = two_views(2)
    found = canon.evaluate(fit, edit, clip_model=str(tiny_clip(tmp_path)))
    assert found["frame_consistency_consecutive"] == pytest.approx(1, abs=1e-6)
    assert float(found["frame_consistency_pairs"]) < 1 - 1e-5
