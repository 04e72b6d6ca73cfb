"""Dragging points: where things lie in every frame afterwards, against the truth of a scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from contracts import EditorContract, fit  # noqa: F401
from truth import small_scene, still_fit, true_fit

import canon
from canon.editors.shape.solving import shape_of, solve
from canon.edits import Edit, Over, Step, Warp
from canon.errors import InputError
from canon.fits import Fit
from canon.scenes import Scene
from canon.warping import Follower, frame_warp, warped


class TestDragContract(EditorContract):
    name = "drag"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        """A point that lies on the canonical images of both layers in front."""
        both = None
        for name in ("occluder", "foreground"):
            uv, weight = fit.coordinates(0, name)
            texels = {tuple(place) for place in np.rint(uv[weight > 0.99]).astype(int).tolist()}
            both = texels if both is None else both & texels
        assert both
        x, y = sorted(both)[len(both) // 2]
        return {"move": (x, y, x + 2, y + 1), "on_canvas": True}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("bend", width=321, height=181, frames=8, bend=0.03)


@pytest.fixture(scope="module")
def true(scene: Scene) -> Fit:
    return true_fit(scene)


def by(x: float, y: float) -> np.ndarray:
    """A way in pixels."""
    return np.array([x, y], float)


def deep_point(fit: Fit, t: int, layer: str = "foreground") -> np.ndarray:  # noqa: F811
    """The pixel (x, y) of a frame that lies deepest in a layer."""
    depth = cv2.distanceTransform((fit.coordinates(t, layer)[1] > 0.95).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array([float(x), float(y)])


@pytest.mark.parametrize("kind", ["arap", "tps"])
@pytest.mark.parametrize("way", [(20.0, 0.0), (-8.0, 12.0)])
def test_every_frame_moves_as_the_scene_would(scene: Scene, true: Fit, kind: str, way: tuple[float, float]) -> None:
    """What was dragged in one frame lies, in all others, where its texture would if it had been moved there."""
    start = deep_point(true, 3)
    edit = canon.edit(true, "drag", move=(*start, *(start + way)), frame=3, layer="foreground", warp=kind)
    (warp,) = edit.operations("foreground")
    assert isinstance(warp, Warp)
    here = Follower(true, "foreground", 3)
    y, x = np.nonzero(true.coordinates(3, "foreground")[1] > 0.98)
    places = torch.from_numpy(np.stack([x, y], axis=-1)[::7].astype(np.float32))
    ends = here.moved(places, torch.from_numpy(warp.at(here.texels(places).numpy())))
    far = (ends - places).norm(dim=1) > 1
    assert far.sum() > 50
    before, after = (scene.to_texture(3, "foreground", part[far].numpy()) for part in (places, ends))
    errors = []
    for t in range(len(scene)):
        own = Follower(true, "foreground", t)
        seen = torch.from_numpy(scene.to_frame(t, "foreground", before).astype(np.float32))
        found = own.moved(seen, torch.from_numpy(warp.at(own.texels(seen).numpy()))).numpy()
        errors.append(np.linalg.norm(found - scene.to_frame(t, "foreground", after), axis=1))
    assert np.median(errors) < 0.1
    assert np.percentile(errors, 90) < 0.6


def test_the_dragged_point_lands_where_it_was_dragged_to(true: Fit) -> None:
    start = deep_point(true, 3)
    end = start + by(9, -13)
    edit = canon.edit(true, "drag", move=(*start, *end), frame=3)
    warp = frame_warp(true, "foreground", 3, edit.operations("foreground"))  # type: ignore[arg-type]
    assert warp is not None
    x, y = end.astype(int) - [warp.box[1].start, warp.box[0].start]
    assert warp.shown[y, x]
    assert warp.origin[y, x] == pytest.approx(start, abs=0.3)


def test_what_does_not_move_stays_bit_for_bit(true: Fit) -> None:
    start = deep_point(true, 3)
    edit = canon.edit(true, "drag", move=(*start, *(start + by(6, 0))), frame=3, radius=18)
    video = canon.render(true, edit)
    for t in (0, 3, 7):
        source, out = true.clip.frames[t], video[t]
        moved = np.argwhere((source != out).any(axis=-1))
        assert len(moved) > 20
        point, _ = true.track(start[None].astype(np.float32), 3)
        assert np.abs(moved[:, ::-1] - point[t, 0]).max() < 45, "beyond the radius nothing changes"
    (warp,) = edit.operations("foreground")
    assert isinstance(warp, Warp)
    nothing = canon.render(true, Edit([Step("foreground", Warp(0 * warp.grid, warp.stride))], true.id))
    assert all(np.array_equal(nothing[t], true.clip.frames[t]) for t in range(len(true)))


def test_a_layer_moved_as_a_whole_uncovers_the_true_background() -> None:
    """Nothing is held: the foreground is elsewhere, and its old place shows the scene's true background, no hole."""
    scene = small_scene("pan", width=321, height=181, bend=0.0)
    true = true_fit(scene)
    start = deep_point(true, 2)
    edit = canon.edit(true, "drag", move=(*start, *(start + by(40, 25))), frame=2, layer="foreground", radius=0)
    out = canon.render(true, edit)[2].astype(float)
    weight = true.coordinates(2, "foreground")[1]
    behind = scene.textures["background"][..., :3]
    uv, _ = scene.coordinates(2, "background")
    truth = cv2.remap(np.ascontiguousarray(behind), uv, None, cv2.INTER_LINEAR) * 255 * scene.lighting(2, "background")
    moved = np.roll(weight, (25, 40), axis=(0, 1))
    beside = cv2.dilate(moved, np.ones((15, 15), np.uint8)) > 0
    uncovered = (weight > 0.99) & ~beside
    assert uncovered.sum() > 300
    assert np.abs(out - truth)[uncovered].mean() < 4
    inside = cv2.erode(moved, np.ones((9, 9), np.uint8)) > 0.99
    inside[:25], inside[:, :40] = False, False
    shown = np.roll(true.clip.frames[2].astype(float), (25, 40), axis=(0, 1))
    assert np.abs(out - shown)[inside].mean() < 6, "the foreground looks as before, further on"


def test_paint_moves_along(true: Fit) -> None:
    """A painted dot lies where the point went, whichever of the two edits comes first."""
    start = deep_point(true, 3)
    x, y = start.astype(int)
    uv = true.coordinates(3, "foreground")[0][y, x]
    paint = np.zeros((*true.layer("foreground").canvas_size, 4), np.float32)
    cv2.circle(paint, tuple(np.rint(uv).astype(int).tolist()), 4, (0.0, 1.0, 0.0, 1.0), -1)
    dot = Edit([Step("foreground", Over(paint))], true.id)
    drag = canon.edit(true, "drag", move=(*start, *(start + by(14, 6))), frame=3)
    for order in ([dot, drag], [drag, dot]):
        frame = canon.render(true, order)[3].astype(int)
        green = (frame[..., 1] > 150) & (frame[..., 0] < 90) & (frame[..., 2] < 90)
        there = (start + by(14, 6)).astype(int)
        assert green[there[1] - 1 : there[1] + 2, there[0] - 1 : there[0] + 2].all()
        assert not green[y - 3 : y + 4, x - 3 : x + 4].any()


def test_drags_add_up(true: Fit) -> None:
    start = deep_point(true, 3)
    whole = canon.edit(true, "drag", move=(*start, *(start + by(10, 4))), frame=3, radius=30)
    half = canon.edit(true, "drag", move=(*start, *(start + by(5, 2))), frame=3, radius=30)
    one, two = (warped(true, edits).clip.frames[3] for edits in ([whole], [half, half]))
    assert np.abs(one.astype(int) - two.astype(int)).mean() < 0.6


def test_points_of_a_file(true: Fit, tmp_path: Path) -> None:
    start = deep_point(true, 3)
    other = start + by(25, 0)
    points = [
        {"name": "nose", "at": start.tolist(), "to": (start + by(8, 0)).tolist()},
        {"name": "ear", "at": other.tolist()},
        {"name": "tail", "at": [0, 0], "to": [5, 5], "off": True},
    ]
    (tmp_path / "points.json").write_text(json.dumps({"frame": 3, "points": points}))
    options = {"layer": "foreground", "warp": "tps"}
    edit = canon.edit(true, "drag", points=str(tmp_path / "points.json"), **options)
    plain = canon.edit(true, "drag", move=(*start, *(start + by(8, 0))), hold=tuple(other), frame=3, **options)
    assert np.array_equal(edit.operations("foreground")[0].grid, plain.operations("foreground")[0].grid)  # type: ignore[union-attr]
    assert list(edit.steps[0].provenance.files) == [str(tmp_path / "points.json")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Nothing is dragged"),
        ({"move": (1.0, 2.0, 3.0)}, "X Y TO_X TO_Y"),
        (
            {"move": (2.0, 2.0, 9.0, 9.0), "layer": "foreground"},
            r"point \(2, 2\) does not lie on 'foreground' in frame 0",
        ),
        ({"move": (2.0, 2.0, 9.0, 9.0), "frame": 99}, "Frame 99 does not exist"),
        ({"move": (2.0, 2.0, float("nan"), 9.0)}, "finite"),
        ({"move": (2.0, 2.0, 9.0, 9.0), "warp": "taffy"}, "choose one of arap, tps"),
        ({"move": (2.0, 2.0, 9.0, 9.0), "radius": -1.0}, "out of range"),
        ({"points": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_bad_input_gets_one_sentence(true: Fit, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as told:
        canon.edit(true, "drag", **options)
    assert "\n" not in str(told.value)


def test_files_that_hold_no_points_are_refused(true: Fit, tmp_path: Path) -> None:
    for number, text in enumerate(["", "[1, 2]", '{"points": [{"to": [1, 2]}]}', '{"points": [{"at": [1, 2, 3]}]}']):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(InputError, match="no file of points"):
            canon.edit(true, "drag", points=str(path))


def test_a_warp_of_another_canvas_is_refused(true: Fit) -> None:
    with pytest.raises(InputError, match="nodes"):
        canon.render(true, Edit([Step("foreground", Warp(np.zeros((3, 3, 2), np.float32), 8))], true.id))


# --- solving ---


def test_a_turn_of_a_shape_is_found_exactly() -> None:
    """As rigid as possible: with two points turned about the middle, all of a bar turns, without any stretch."""
    known = np.zeros((40, 121), bool)
    known[12:28, 10:111] = True
    shape = shape_of(known)
    middle = np.array([60.0, 20.0])
    places = np.array([[15.0, 20.0], [105.0, 20.0]])
    angle = np.radians(70)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    held = np.zeros(len(shape.nodes), bool)
    found = solve(shape, places, (places - middle) @ turn.T + middle, held, "arap")
    truth = (shape.nodes - middle) @ turn.T + middle - shape.nodes
    assert np.abs(found[shape.inside] - truth).max() < 0.5


@pytest.mark.parametrize("kind", ["arap", "tps"])
def test_held_nodes_stay_and_points_arrive(kind: str) -> None:
    known = np.zeros((61, 83), bool)
    known[8:53, 9:70] = True
    shape = shape_of(known)
    place = np.array([[40.0, 30.0]])
    held = np.linalg.norm(shape.nodes - place, axis=1) > 18
    found = solve(shape, place, place + by(5, -3), held, kind)
    inside = found[shape.inside]
    assert np.abs(inside[held]).max() < 0.02
    nearest = np.linalg.norm(shape.nodes - place, axis=1).argmin()
    assert inside[nearest] == pytest.approx([5, -3], abs=0.3)


def test_the_whole_picture_may_be_dragged_where_there_is_one_layer() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 91, 3), np.uint8), (0, 0), 4)
    still = still_fit(image)
    edit = canon.edit(still, "drag", move=(40, 30, 46, 33), radius=15)
    out = canon.render(still, edit)[1]
    assert out[33, 46] == pytest.approx(image[30, 40], abs=3)
    assert np.array_equal(out[:, :20], image[:, :20])


def test_a_drag_is_the_same_at_twice_the_size(true: Fit) -> None:
    start = deep_point(true, 3)
    edit = canon.edit(true, "drag", move=(*start, *(start + by(12, -5))), frame=3)
    one, two = canon.render(true, edit)[3], canon.render(true, edit, scale=2)[3]
    smaller = cv2.resize(two, one.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(smaller.astype(float) - one).mean() < 1.5


def test_a_drag_is_measured_like_any_edit(true: Fit) -> None:
    start = deep_point(true, 3)
    edit = canon.edit(true, "drag", move=(*start, *(start + by(12, -5))), frame=3, radius=25)
    figures = canon.evaluate(true, edit)
    assert 0 < figures["edited_share"] < 0.3
    assert figures["changed_outside"] == 0
