"""A frame with another shape: the silhouettes of all frames, and what is seen in them, against the truth of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from contracts import EditorContract, fit  # noqa: F401
from truth import small_scene, true_fit

import canon
from canon.coordinates import pixel_grid
from canon.editors.shape.reshaping import _as_fit
from canon.editors.shape.silhouettes import matched, outline
from canon.edits import Over, Warp
from canon.errors import InputError
from canon.fits import Fit
from canon.metrics import mask_iou
from canon.scenes import Scene
from canon.storage import read_image, to_float, write_image

FRAME = 3


class TestReshapeContract(EditorContract):
    name = "reshape"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        """The frame with a part of the middle layer green: its shape stays."""
        image = np.array(fit.clip.frames[0])
        inside = cv2.erode(fit.coordinates(0, "foreground")[1], np.ones((7, 7))) > 0.99
        image[inside] = (40, 200, 60)
        write_image(folder / "frame.png", image)
        return {"image": str(folder / "frame.png")}

    def test_takes_several_layers_at_once(self, fit: Fit, tmp_path: Path) -> None:  # noqa: F811
        own = self.options(fit, tmp_path)
        edit = canon.edit(fit, self.name, layers={"occluder": own, "foreground": own})
        assert set(edit.layers) == {"occluder", "foreground"}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("bend", width=321, height=181, bend=0.02, lighting=0.1)


@pytest.fixture(scope="module")
def true(scene: Scene) -> Fit:
    return true_fit(scene)


def wider(fit: Fit, by: float = 1.3) -> np.ndarray:  # noqa: F811
    """Where the foreground of a frame would be if it were so many times as wide, bool [H, W]."""
    weight = fit.coordinates(FRAME, "foreground")[1]
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in fit.size[::-1]))
    middle = np.nonzero(weight > 0.5)[1].mean()
    moved = cv2.remap(weight, (middle + (x - middle) / by).astype(np.float32), y, cv2.INTER_LINEAR)
    return np.asarray(moved > 0.5)


@pytest.mark.parametrize("given", [True, False])
def test_the_new_silhouette_is_carried_to_every_frame(scene: Scene, true: Fit, tmp_path: Path, given: bool) -> None:
    aim = wider(true)
    image = np.array(canon.render(true, canon.edit(true, "remove", layer="foreground"))[FRAME])
    image[aim] = (210, 40, 190)
    write_image(tmp_path / "frame.png", image)
    write_image(tmp_path / "mask.png", np.repeat(aim[..., None], 3, axis=2).astype(np.uint8) * 255)
    options = {"mask": str(tmp_path / "mask.png")} if given else {}
    edit = canon.edit(true, "reshape", image=str(tmp_path / "frame.png"), frame=FRAME, **options)
    assert [type(operation) for operation in edit.operations("foreground")] == [Warp, Over]
    video = canon.render(true, edit)
    pixels = pixel_grid(true.size).numpy().astype(np.float64)
    for t in range(len(true)):
        there = scene.to_frame(FRAME, "foreground", scene.to_texture(t, "foreground", pixels)).astype(np.float32)
        carried = cv2.remap(aim.astype(np.float32), there, None, cv2.INTER_LINEAR) > 0.5  # type: ignore[call-overload]
        assert mask_iou(video.shown.coordinates(t, "foreground")[1] > 0.5, carried) > 0.93
        inner = cv2.erode(carried.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        purple = np.abs(video[t][inner].astype(float) - (210, 40, 190))
        assert np.median(purple) < 12, "it looks as it was painted, in the light of its frame"


def test_the_shape_alone_keeps_the_layers_look(true: Fit, tmp_path: Path) -> None:
    aim = wider(true)
    image = np.array(true.clip.frames[FRAME])
    image[aim] = (210, 40, 190)
    write_image(tmp_path / "frame.png", image)
    edit = canon.edit(true, "reshape", image=str(tmp_path / "frame.png"), frame=FRAME, repaint=False)
    assert [type(operation) for operation in edit.operations("foreground")] == [Warp]
    out = to_float(canon.render(true, edit)[FRAME])
    before = true.coordinates(FRAME, "foreground")[1] > 0.99
    assert np.abs(out[aim].mean(axis=0) - to_float(true.clip.frames[FRAME])[before].mean(axis=0)).max() < 0.05


def test_outlines_are_matched_place_by_place() -> None:
    """A blob that has grown an ear: what has not changed is matched with itself."""
    before, after = np.zeros((120, 160), np.uint8), np.zeros((120, 160), np.uint8)
    for mask in (before, after):
        cv2.ellipse(mask, (80, 70), (45, 35), 0, 0, 360, 1, -1)
    cv2.ellipse(after, (80, 25), (9, 20), 0, 0, 360, 1, -1)
    here, there = matched(outline(before > 0), outline(after > 0))
    low = here[:, 1] > 70
    assert np.linalg.norm(here - there, axis=1)[low].max() < 3
    assert there[:, 1].min() < 8, "the tip of the ear is the counterpart of something"
    top = here[there[:, 1].argmin()]
    assert abs(top[0] - 80) < 8 and top[1] < 40


def test_a_given_pair_wins() -> None:
    before, after = np.zeros((120, 160), np.uint8), np.zeros((120, 160), np.uint8)
    cv2.circle(before, (70, 60), 30, 1, -1)
    cv2.circle(after, (80, 60), 40, 1, -1)
    pair = np.array([[70.0, 30.0, 108.0, 32.0]])
    here, there = matched(outline(before > 0), outline(after > 0), pair)
    nearest = np.linalg.norm(here - pair[0, :2], axis=1).argmin()
    assert np.linalg.norm(there[nearest] - pair[0, 2:]) < 8
    plain = matched(outline(before > 0), outline(after > 0))
    nearest = np.linalg.norm(plain[0] - pair[0, :2], axis=1).argmin()
    assert np.linalg.norm(plain[1][nearest] - pair[0, 2:]) > 15


def test_bad_input_gets_one_sentence(true: Fit, tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", np.zeros((20, 30, 3), np.uint8))
    write_image(tmp_path / "frame.png", np.array(true.clip.frames[FRAME]))
    write_image(tmp_path / "black.png", np.zeros((*true.size, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    frame, black = str(tmp_path / "frame.png"), str(tmp_path / "black.png")
    for options, sentence in (
        ({}, "--image"),
        ({"image": str(tmp_path / "small.png")}, "30x20"),
        ({"image": str(tmp_path / "broken.png")}, "broken.png"),
        ({"image": str(tmp_path / "none.png")}, "none.png"),
        ({"image": frame, "mask": black}, "silhouette"),
        ({"image": frame, "frame": 77}, "Frame 77"),
        ({"image": frame, "layer": "background"}, "behind all others"),
        ({"image": frame, "pairs": (1.0, 2.0)}, "X Y TO_X TO_Y"),
    ):
        with pytest.raises(InputError, match=sentence) as told:
            canon.edit(true, "reshape", **options)
        assert "\n" not in str(told.value)
    assert read_image(tmp_path / "frame.png").shape[:2] == true.size


# --- by a model ---


def test_refinement_goes_on_from_the_reshaped_and_repainted_layer(true: Fit, tmp_path: Path) -> None:
    """The shape is that of the picture, and the colours are nearer to the prompt than the picture's."""
    image = to_float(np.array(true.clip.frames[FRAME]))
    image[wider(true)] = (0.9, 0.2, 0.2)
    write_image(tmp_path / "frame.png", (255 * image).astype(np.uint8))
    options = {"image": str(tmp_path / "frame.png"), "frame": FRAME, "device": "cpu"}
    plain = canon.edit(true, "reshape", **options)
    refined = canon.edit(true, "reshape", prompt="blue", refine=15, **options)
    assert [type(step.operation) for step in refined.steps] == [Warp, Over, Over]
    videos = canon.render(true, plain), canon.render(true, refined)
    for t in (0, FRAME):
        weights = [video.shown.coordinates(t, "foreground")[1] for video in videos]
        assert np.array_equal(*weights), "the silhouette is that of the picture"
        inside, outside = weights[0] > 0.99, weights[0] == 0
        assert np.array_equal(videos[0][t][outside], videos[1][t][outside])
        red, blue = (video[t][inside].astype(float).mean(axis=0) for video in videos)
        assert blue[2] - blue[0] > red[2] - red[0] + 40, (t, red, blue)
    assert "model_hash" in refined.steps[0].provenance.options and "model_hash" not in plain.steps[0].provenance.options


def test_what_is_refined_is_the_edited_video(true: Fit, tmp_path: Path) -> None:
    """Its canvas and frames are those with paint; reconstructed, it is what is shown."""
    image = to_float(np.array(true.clip.frames[FRAME]))
    image[wider(true)] = (0.9, 0.2, 0.2)
    write_image(tmp_path / "frame.png", (255 * image).astype(np.uint8))
    edit = canon.edit(true, "reshape", image=str(tmp_path / "frame.png"), frame=FRAME)
    shown, video = _as_fit(true, "foreground", edit), canon.render(true, edit)
    assert shown.id == true.id and np.array_equal(shown.clip.frames[1], video[1])
    inside = shown.coordinates(FRAME, "foreground")[1] > 0.99
    assert np.abs(shown.reconstruct(FRAME)[inside] - video[FRAME][inside] / 255).mean() < 0.03


def test_a_model_may_edit_the_frame(true: Fit) -> None:
    edit = canon.edit(true, "reshape", prompt="blue", frame=FRAME, around=6, device="cpu")
    assert [type(step.operation) for step in edit.steps] == [Warp, Over]
    video = canon.render(true, edit)
    inside = video.shown.coordinates(0, "foreground")[1] > 0.99
    before, after = (image[0][inside].astype(float).mean(axis=0) for image in (true.clip.frames, video))
    assert after[2] - after[0] > before[2] - before[0] + 40
    far = cv2.dilate(true.coordinates(0, "foreground")[1], np.ones((61, 61))) == 0
    assert np.array_equal(video[0][far], true.clip.frames[0][far])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give --image, or a --prompt"),
        ({"image": "x.png", "refine": 5}, "Refinement needs a --prompt"),
        ({"image": "x.png", "prompt": "blue"}, "give its steps"),
        ({"prompt": "blue", "around": -1}, "at least 0"),
        ({"prompt": "blue", "model": "no/where"}, "no/where"),
    ],
)
def test_bad_options_of_models_end_in_one_sentence(true: Fit, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        canon.edit(true, "reshape", **options)
