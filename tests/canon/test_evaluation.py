"""What canon.evaluate() says of edits, on clips where every figure can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import clip as tiny_clip
from truth import small_scene, still_fit, true_fit

import canon
from canon import evaluation, metrics, registry
from canon.baseline import framewise_clip
from canon.colour import colour_word, named_colour
from canon.edits import Delta, Edit, Over, Provenance, Remove, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.registry import Editor, Frames

SIZE = (40, 61)
ROWS, COLUMNS = slice(8, 30), slice(11, 50)
INSIDE = np.zeros(SIZE, bool)
INSIDE[ROWS, COLUMNS] = True


def black(**options: Any) -> Fit:
    return still_fit(np.zeros((*SIZE, 3), np.uint8), **options)


def paint(colour: np.ndarray, made: Provenance = Provenance()) -> Edit:
    """A rectangle of one colour, uint8 [3]."""
    rgba = np.zeros((*SIZE, 4), np.float32)
    rgba[ROWS, COLUMNS] = [*np.asarray(colour, np.float32) / 255, 1]
    return Edit([Step("background", Over(rgba), made)])


# --- where it is measured ---


def test_the_edited_area_does_not_depend_on_values() -> None:
    fit = black()
    same = canon.render(fit, paint(np.zeros(3)))
    assert not same[1].any() and np.array_equal(metrics.edited_area(same, 1), INSIDE)
    mask = INSIDE * np.float32(0.2)
    mask[ROWS, 49] = 0.01
    grade = canon.render(fit, Edit([Step("background", Delta(hue=20.0, mask=mask))]))
    faint = INSIDE.copy()
    faint[:, 49] = False
    assert np.array_equal(metrics.edited_area(grade, 1), faint), "half of the mask's own highest value counts"
    whole = canon.render(fit, Edit([Step("background", Delta(hue=20.0))]))
    assert metrics.edited_area(whole, 0).all()
    nothing = canon.render(fit, Edit([Step("background", Over(np.zeros((*SIZE, 4))))]))
    assert not metrics.edited_area(nothing, 0).any() and not metrics.touched(nothing, 0).any()


def test_the_edited_area_is_what_is_seen_of_the_layer() -> None:
    scene = small_scene("occlusion", frames=5)
    fit = true_fit(scene)
    t = 4
    weight = fit.coordinates(t, "foreground")[1]
    for operation in (Delta(hue=9.0), Remove()):
        video = canon.render(fit, Edit([Step("foreground", operation)]))
        area = metrics.edited_area(video, t)
        assert np.array_equal(area, weight > 0.5) and not (area & ~metrics.touched(video, t)).any()
    wider = metrics.edited_area(canon.render(fit, Edit([Step("foreground", Remove(grow=2))])), t)
    assert wider.sum() > (weight > 0.5).sum() and wider[weight > 0.5].all()


# --- warp error ---


def test_the_excess_is_what_the_edit_adds() -> None:
    fit = black(light=[1.0, 0.8, 1.0, 0.8])
    found = canon.evaluate(fit, paint(np.array([200, 200, 200])), colour="white")
    # The paint goes from 200 to 160 and back, over a source that does not move.
    assert found["warp_error_source_inside"] == 0
    assert found["warp_error_inside"] == pytest.approx((40 / 255) ** 2)
    assert found["warp_error_excess_inside"] == pytest.approx((40 / 255) ** 2)
    assert found["warp_error"] == pytest.approx((40 / 255) ** 2 * INSIDE.mean())
    still = canon.evaluate(black(), paint(np.array([200, 200, 200])))
    assert still["warp_error_excess_inside"] == 0


# --- colour ---


def test_palette_distance() -> None:
    fit, white = black(), np.full(3, 255, np.uint8)
    found = canon.evaluate(fit, paint(white), colour="white")
    assert found["palette_distance"] == pytest.approx(0, abs=1e-4)
    # Black and white differ by the whole lightness scale.
    assert found["palette_distance_source"] == pytest.approx(100, abs=1e-3)
    assert found["palette_colour"] == "white"
    same = canon.evaluate(fit, paint(np.zeros(3)), colour="#000000")
    assert same["edited_share"] == 0 and same["palette_distance"] == pytest.approx(0, abs=1e-4)
    nothing = canon.evaluate(fit, Edit([Step("background", Over(np.zeros((*SIZE, 4))))]), colour="red")
    assert "palette_distance" not in nothing


def test_of_many_pixels_some_are_taken() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[:, 1::2] = 255
    fit = still_fit(image, frames=1)
    video = canon.render(fit, Edit([Step("background", Delta(hue=1.0))]))
    mean = metrics.palette_distance(video, fit.clip.frames, named_colour("black"))
    assert mean == pytest.approx(50, rel=0.05), "half of the pixels are white"


def test_the_colour_comes_from_the_prompt() -> None:
    gold = named_colour("gold")
    assert gold.tolist() == [255, 215, 0]
    found = canon.evaluate(black(), paint(gold, Provenance("restyle", {"prompt": "A shiny Gold swan on blue water"})))
    assert found["palette_colour"] == "gold" and found["palette_distance"] == pytest.approx(0, abs=1e-4)
    assert found["palette_distance_source"] > 50
    other = canon.evaluate(black(), paint(gold, Provenance("restyle", {"prompt": "gold"})), colour="black")
    assert other["palette_colour"] == "black" and other["palette_distance_source"] == pytest.approx(0, abs=1e-4)
    none = canon.evaluate(black(), paint(gold, Provenance("restyle", {"prompt": "golden scarred marble"})))
    assert "palette_distance" not in none and "palette_distance is left out" in str(none["notes"])
    assert colour_word("the darkest SkyBlue, then red") == "skyblue" and colour_word("tango") is None


def test_unknown_colours_are_refused() -> None:
    with pytest.raises(InputError, match="no colour called 'glod'; did you mean 'gold'"):
        canon.evaluate(black(), paint(np.zeros(3)), colour="glod")
    with pytest.raises(InputError, match="give a CSS name"):
        named_colour("xyzzy")


# --- frame by frame ---


@dataclass
class FlickeringConfig:
    """Paint everything in one grey."""

    layer: str | None = None
    """Layer to paint."""
    grey: int = 200
    """Level of the paint."""
    jump: int = 0
    """Levels by which the baseline's odd frames are darker."""
    twice: bool = False
    """Whether to make two steps of it."""


class Flickering(Editor):
    """An editor whose baseline chooses another grey in every second frame."""

    Config = FlickeringConfig
    asked: list[int]

    def __call__(self, fit: Fit, config: FlickeringConfig) -> Edit:
        made = Provenance.now("flickering", config)
        made.options["model_hash"] = "abc"
        step = paint(np.full(3, config.grey), made).steps[0]
        return Edit([step] * (2 if config.twice else 1), fit.id)

    def framewise(self, fit: Fit, config: FlickeringConfig) -> Frames:
        asked = Flickering.asked

        class Made:
            def __len__(self) -> int:
                return len(fit)

            def __getitem__(self, t: int) -> np.ndarray:
                asked.append(t)
                frame = np.array(fit.clip.frames[t])
                frame[INSIDE] += np.uint8(config.grey - config.jump * (t % 2))
                return frame

        return Made()


@pytest.fixture
def flickering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Edit]:
    """Registers the editor, and makes edits with it."""
    entries = registry._entries
    own = {"flickering": SimpleNamespace(load=lambda: Flickering)}
    monkeypatch.setattr(registry, "_entries", lambda group: {**entries(group), **own})
    Flickering.asked = []
    return lambda fit, **options: canon.edit(fit, "flickering", **options)


def test_a_baseline_that_flickers_more(flickering: Callable[..., Edit]) -> None:
    fit = black(light=[1.0, 0.8, 1.0, 0.8])
    found = canon.evaluate(fit, flickering(fit, grey=200, jump=80), colour="white", framewise=True)
    assert Flickering.asked == [0, 1, 2, 3], "each frame is made once, in order"
    assert found["warp_error_excess_inside"] == pytest.approx((40 / 255) ** 2)
    assert found["framewise_warp_error_excess_inside"] == pytest.approx((80 / 255) ** 2)
    assert found["framewise_warp_error_inside"] == pytest.approx((80 / 255) ** 2)
    assert found["consistency_gain"] == pytest.approx(4)
    # Darker by half as much in the odd frames, so nearer to white.
    assert 0 < found["palette_distance"] < found["framewise_palette_distance"]
    assert not [name for name in found if name.startswith("framewise_") and "source" in name]
    assert "framewise_warp_error" not in canon.evaluate(fit, flickering(fit, grey=200))


def test_no_gain_over_an_edit_that_is_still(flickering: Callable[..., Edit]) -> None:
    fit = black()
    found = canon.evaluate(fit, flickering(fit, jump=80), framewise=True)
    assert found["framewise_warp_error_excess_inside"] == pytest.approx((80 / 255) ** 2)
    assert "consistency_gain" not in found and "consistency_gain is left out" in str(found["notes"])


def test_the_baseline_of_several_steps(flickering: Callable[..., Edit], tmp_path: Path) -> None:
    fit = black()
    stack = [flickering(fit, grey=30), flickering(fit, grey=100, twice=True)]
    stack[1].save(tmp_path / "edit")
    stack[1] = canon.load_edit(tmp_path / "edit")
    clip = framewise_clip(fit, stack)
    assert len(clip) == len(fit)
    # Each on what the former gave; two steps of one run are made once.
    assert all((frame[INSIDE] == 130).all() and not frame[~INSIDE].any() for frame in clip.frames)
    assert not fit.clip.frames[0].any()


def test_what_cannot_be_made_frame_by_frame(flickering: Callable[..., Edit], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = black()
    grade = canon.edit(fit, "grade", hue=20.0)
    with pytest.raises(InputError, match="The editor 'grade' has no frame-by-frame baseline"):
        canon.evaluate(fit, [flickering(fit), grade], framewise=True)
    assert not Flickering.asked, "refused before anything was made"
    with pytest.raises(InputError, match="does not say which editor"):
        canon.evaluate(fit, paint(np.zeros(3)), framewise=True)
    with pytest.raises(InputError, match="no editor called 'gone'"):
        canon.evaluate(fit, paint(np.zeros(3), Provenance("gone")), framewise=True)
    with pytest.raises(InputError, match="no steps"):
        canon.evaluate(fit, Edit([]), framewise=True)
    monkeypatch.setattr(Flickering, "framewise", lambda *_: fit.clip.frames[:2])
    with pytest.raises(InputError, match="2 frames instead of 4"):
        canon.evaluate(fit, flickering(fit), framewise=True)
    monkeypatch.setattr(Flickering, "framewise", lambda *_: fit.clip.frames[:, 1:])
    with pytest.raises(InputError, match="instead of"):
        canon.evaluate(fit, flickering(fit), framewise=True)


@pytest.mark.parametrize(
    "option", [{"colour": "red"}, {"clip_model": "x"}, {"source_prompt": "x"}, {"framewise": True}]
)
def test_options_of_an_edit_need_one(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="for measuring an edit"):
        canon.evaluate(black(), **option)


# --- CLIP ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def test_clip_of_a_still_edit(model: Path, flickering: Callable[..., Edit]) -> None:
    fit = black()
    edit = flickering(fit, grey=200, jump=80)
    edit.steps[0].provenance.options["prompt"] = "a red circle"
    found = canon.evaluate(fit, edit, clip_model=str(model), source_prompt="blue stripes", framewise=True)
    assert found["frame_consistency_pairs"] == pytest.approx(1)
    assert found["frame_consistency_consecutive"] == pytest.approx(1)
    encoder = evaluation.ClipEncoder(str(model))
    before, after = (encoder.images([frame])[0] for frame in (fit.clip.frames[0], canon.render(fit, edit)[0]))
    words, old = encoder.text("a red circle"), encoder.text("blue stripes")
    before, after, words, old = (v / np.linalg.norm(v) for v in (before, after, words, old))
    assert found["clip_text"] == pytest.approx(after @ words, abs=1e-5)
    assert found["clip_text_source"] == pytest.approx(before @ words, abs=1e-5)
    change = (after - before) @ (words - old) / np.linalg.norm(after - before) / np.linalg.norm(words - old)
    assert found["clip_direction"] == pytest.approx(change, abs=1e-4)
    # The baseline has two looks in turn: all neighbours differ, of six pairs two are alike.
    consecutive, pairs = (found[f"framewise_frame_consistency_{kind}"] for kind in ("consecutive", "pairs"))
    assert consecutive < 1 and pairs == pytest.approx((4 * consecutive + 2) / 6, abs=1e-5)
    assert found["framewise_clip_text"] != found["clip_text"]


def test_what_clip_lacks_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = black()
    asked = paint(np.full(3, 200), Provenance("restyle", {"prompt": "a red circle"}))
    found = canon.evaluate(fit, asked, clip_model=str(model))
    assert "clip_text" in found and "clip_direction" not in found and "no source prompt" in str(found["notes"])
    found = canon.evaluate(fit, paint(np.full(3, 200)), clip_model=str(model), source_prompt="x")
    assert "clip_text" not in found and "the edit has no prompt" in str(found["notes"])
    assert found["frame_consistency_pairs"] == pytest.approx(1)
    with pytest.raises(InputError, match="'nobody/nothing' cannot be loaded"):
        canon.evaluate(fit, asked, clip_model="nobody/nothing")
    monkeypatch.setattr(evaluation, "DEFAULT_CLIP", "nobody/nothing")
    found = canon.evaluate(fit, asked)
    assert "clip_text" not in found and "no CLIP model is on this machine" in str(found["notes"])
