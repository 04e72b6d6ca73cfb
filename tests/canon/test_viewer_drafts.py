"""Painting in the viewer: what is shown while painting is what is rendered; undo, keeping, saving, history."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from viewing import saved_project

import canon
from canon.edits import Delta, Edit, Over, Remove, Step, Warp
from canon.errors import InputError
from canon.fits import Fit
from canon.project import Project
from canon.viewer.draft_layers import DraftLayer, Target
from canon.viewer.drafts import Draft
from canon.viewer.live import LiveVideo
from canon.viewer.studio import Studio
from tests.helpers.truth import small_scene, split_in_two, true_fit


@pytest.fixture(scope="module")
def fit() -> Fit:
    return true_fit(small_scene())


@pytest.fixture(scope="module")
def split(fit: Fit) -> Fit:
    return split_in_two(fit, "foreground", 4, 3, gain=1.3)


@pytest.fixture(scope="module")
def folder(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_project(tmp_path_factory.mktemp("viewer") / "project", fit, "true").folder


@pytest.fixture
def studio(folder: Path, tmp_path: Path) -> Iterator[Studio]:
    shutil.copytree(folder, tmp_path / "project")
    studio = Studio(Project.open(tmp_path / "project"))
    yield studio
    studio.close()


def dab(seed: int, height: int = 14, width: int = 22) -> np.ndarray:
    """Noise of every colour and opacity, also none."""
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    rgba[:, : width // 3] = 0
    rgba[:, -width // 3 :, 3] = 255
    rgba[rgba[..., 3] == 0] = 0
    return rgba


def plain(draft: Draft, below: list[Edit], t: int) -> np.ndarray:
    return canon.render(draft.fit, [*below, draft.edit()])[t]


def watched(draft: Draft, below: list[Edit]) -> LiveVideo:
    live = LiveVideo(draft.fit, below)
    draft.watch(live)
    return live


def shown(draft: Draft, live: LiveVideo, t: int) -> np.ndarray:
    with draft.lock:
        draft.refresh(live)
        return live[t]


def over(fit: Fit, layer: str, scale: float = 1.0) -> Edit:
    height, width = (round(side * scale) for side in fit.layer(layer).canvas_size)
    rgba = np.random.default_rng(5).uniform(0, 1, (height, width, 4)).astype(np.float32)
    rgba[: height // 2, :, 3] = 0
    return Edit([Step(layer, Over(rgba))], fit.id)


def paint_a_lot(draft: Draft, live: LiveVideo, below: list[Edit]) -> None:
    """Everything that can be done to layers, compared with the plain way after each."""
    layers: list[DraftLayer] = []
    targets = [Target("background"), Target("foreground"), Target(frame=3), Target("background", frame=6)]
    for k, target in enumerate(targets):
        layers.append(draft.add_layer(target))
        height, width = layers[-1].rgba.shape[:2]
        for j in range(2):
            draft.patch(layers[-1].id, (17 * j + 31 * k) % (width - 22), (23 * j + 11 * k) % (height - 14), dab(k + j))
            np.testing.assert_array_equal(shown(draft, live, 2 * k), plain(draft, below, 2 * k))
    draft.change_layer(layers[0].id, {"opacity": 0.37})
    np.testing.assert_array_equal(shown(draft, live, 5), plain(draft, below, 5))
    draft.change_layer(layers[0].id, {"at": 3})
    draft.change_layer(layers[1].id, {"visible": False})
    draft.change_layer(layers[2].id, {"opacity": 0.5})
    np.testing.assert_array_equal(shown(draft, live, 5), plain(draft, below, 5))
    draft.remove_layer(layers[2].id)
    np.testing.assert_array_equal(shown(draft, live, 5), plain(draft, below, 5))


@pytest.mark.parametrize("below", ["nothing", "paint", "grade", "larger paint", "removal", "warp"])
def test_live_is_plain(fit: Fit, below: str) -> None:
    height, width = fit.layer("foreground").canvas_size
    grid = np.full((-(-(height - 1) // 8) + 1, -(-(width - 1) // 8) + 1, 2), 3.0, np.float32)
    stacks = {
        "nothing": [],
        "paint": [over(fit, "background")],
        "grade": [Edit([Step("foreground", Delta(hue=90)), Step("background", Delta(exposure=0.5))], fit.id)],
        "larger paint": [over(fit, "background", 2)],
        "removal": [Edit([Step("foreground", Remove())], fit.id)],
        "warp": [Edit([Step("foreground", Warp(grid))], fit.id)],
    }
    draft = Draft("x", "true", fit)
    paint_a_lot(draft, watched(draft, stacks[below]), stacks[below])


def test_live_is_plain_where_segments_overlap(split: Fit) -> None:
    draft = Draft("x", "true", split)
    live = watched(draft, [])
    first, second = draft.add_layer(Target("foreground", 0)), draft.add_layer(Target("foreground", 1))
    for k, layer in enumerate((first, second, first)):
        draft.patch(layer.id, 20 + 9 * k, 12 + 7 * k, dab(k))
        for t in (1, 4, 6):
            np.testing.assert_array_equal(shown(draft, live, t), plain(draft, [], t))
    # Paint on the first segment is seen in frames that only the second one has.
    assert not np.array_equal(shown(draft, live, 7), split.clip.frames[7])
    frame = draft.add_layer(Target(frame=1))
    draft.patch(frame.id, 70, 40, dab(9, 30, 40))
    for t in (1, 4, 7):
        np.testing.assert_array_equal(shown(draft, live, t), plain(draft, [], t))
    draft.undo()
    draft.change_layer(first.id, {"opacity": 0.4})
    np.testing.assert_array_equal(shown(draft, live, 4), plain(draft, [], 4))


def test_undo_takes_back_exactly_and_redo_brings_back(fit: Fit) -> None:
    draft = Draft("x", "true", fit)
    live = watched(draft, [])
    states = []

    def note() -> None:
        order = [(layer.id, layer.opacity, layer.visible, layer.name, layer.rgba.copy()) for layer in draft.layers]
        states.append((order, shown(draft, live, 4)))

    note()
    layer = draft.add_layer(Target("background"))
    note()
    for part in range(3):  # one stroke, sent in parts
        draft.patch(layer.id, 30 + 10 * part, 20, dab(part), stroke="a")
    note()
    other = draft.add_layer(Target("foreground"), stroke="b")
    draft.patch(other.id, 5, 5, dab(7), stroke="b")
    note()
    draft.change_layer(layer.id, {"opacity": 0.5, "name": "sky"})
    note()
    draft.remove_layer(layer.id)
    note()

    def check(state: tuple[list, np.ndarray]) -> None:
        order, picture = state
        assert [(la.id, la.opacity, la.visible, la.name) for la in draft.layers] == [entry[:4] for entry in order]
        for la, entry in zip(draft.layers, order, strict=True):
            np.testing.assert_array_equal(la.rgba, entry[4])
        np.testing.assert_array_equal(shown(draft, live, 4), picture)

    for state in reversed(states[:-1]):
        assert draft.state()["undo"] is not None
        draft.undo()
        check(state)
    assert draft.state()["undo"] is None and draft.undo() == []
    for state in states[1:]:
        draft.redo()
        check(state)
    assert draft.redo() == []
    draft.undo()
    draft.patch(other.id, 0, 0, dab(3))
    assert draft.state()["redo"] is None, "what is painted anew ends what could be done again"


def test_edit_says_what_was_painted_on(fit: Fit) -> None:
    draft = Draft("x", "true", fit)
    canvas, frame = draft.add_layer(Target("background"), "sky"), draft.add_layer(Target(frame=4), kind="image")
    hidden, empty = draft.add_layer(Target("background")), draft.add_layer(Target("background"))
    for layer in (canvas, frame, hidden):
        draft.patch(layer.id, 60, 40, np.full((30, 40, 4), 255, np.uint8))
    draft.change_layer(hidden.id, {"visible": False})
    assert empty.rgba.max() == 0
    edit = draft.edit()
    assert edit.fit == fit.id
    options = [step.provenance.options for step in edit.steps]
    assert {step.provenance.editor for step in edit.steps} == {"paint"}
    assert options[0] == {
        "drawn": "sky", "kind": "brush", "opacity": 1.0, "overlay": True, "layer": "background", "segment": 0
    }  # fmt: skip
    assert all(entry["frame"] == 4 and entry["kind"] == "image" for entry in options[1:]) and len(options) >= 2


def test_frame_paint_lies_where_the_paint_editor_puts_it(fit: Fit) -> None:
    """Opaque paint on a frame, through the draft and through the editor "paint" with that frame as an image."""
    draft = Draft("x", "true", fit)
    layer = draft.add_layer(Target(frame=4))
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[...] = (250, 20, 240, 255)
    draft.patch(layer.id, 70, 30, rgba)
    painted = np.array(fit.clip.frames[4])
    painted[30:70, 70:130] = rgba[..., :3]
    editor = canon.edit(fit, "paint", image=painted, frame=4)
    ours, theirs = canon.render(fit, draft.edit()), canon.render(fit, editor)
    for t in (0, 4, 7):
        apart = np.abs(ours[t].astype(int) - theirs[t]).max(axis=-1)
        changed = (theirs[t] != fit.clip.frames[t]).any(axis=-1).mean()
        assert changed > 0.03
        assert (apart > 8).mean() < 0.02 * changed, "but for the antialiased rim the two agree"


def test_patches_outside_are_refused(fit: Fit) -> None:
    draft = Draft("x", "true", fit)
    layer = draft.add_layer(Target("background"))
    height, width = layer.rgba.shape[:2]
    for x, y in ((-1, 0), (0, -1), (width - 21, 0), (0, height - 13)):
        with pytest.raises(InputError, match="not inside of the layer"):
            draft.patch(layer.id, x, y, dab(0))
    assert not layer.rgba.any()
    with pytest.raises(InputError, match="no layer 99"):
        draft.patch(99, 0, 0, dab(0))
    for target in (Target("sky"), Target("background", 3), Target(frame=8), Target()):
        with pytest.raises(InputError):
            draft.add_layer(target)
    for changes in ({"opacity": 2}, {"opacity": "x"}, {"rgba": 1}, {"extra": {"a": "x" * 30000}}):
        with pytest.raises(InputError):
            draft.change_layer(layer.id, changes)


# --- keeping ---


def test_a_draft_comes_back_after_a_crash(studio: Studio) -> None:
    draft = studio.new_draft("true")
    layer = draft.add_layer(Target("background"), "sky", extra={"x": 3})
    draft.patch(layer.id, 40, 30, dab(1))
    on_frame = draft.add_layer(Target(frame=2), kind="image", asset=b"the file")
    draft.patch(on_frame.id, 10, 20, dab(2))
    draft.change_layer(layer.id, {"opacity": 0.25})
    draft.write()
    draft.patch(layer.id, 0, 0, dab(3))
    draft.write()
    wanted = draft.state()
    again = Studio(studio.project)  # as after a crash: nothing was closed
    assert [entry["id"] for entry in again.drafts()] == [draft.id]
    back = again.draft(draft.id)
    assert back.state() == {**wanted, "undo": None, "redo": None}
    for ours, theirs in zip(back.layers, draft.layers, strict=True):
        np.testing.assert_array_equal(ours.rgba, theirs.rgba)
        assert ours.asset == theirs.asset
    np.testing.assert_array_equal(again.preview("true", 5, [], back.id), studio.preview("true", 5, [], draft.id))
    assert back.add_layer(Target("background")).id == 3
    files = {path.name for path in (studio.drafts_folder / draft.id).glob("layer-*.png")}
    assert len(files) == 2, "what was written before is cleared away"


def test_a_draft_is_written_by_itself_but_not_at_every_dab(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canon.viewer.draft_folder._SAVE_SOON", 0.2)
    written: list[int] = []
    plain_write = Draft.write

    def write(draft: Draft) -> None:
        written.append(draft.revision)
        plain_write(draft)

    monkeypatch.setattr(Draft, "write", write)
    draft = studio.new_draft("true")
    layer = draft.add_layer(Target("background"))
    for k in range(10):
        draft.patch(layer.id, k, k, dab(k))
    until = time.monotonic() + 10
    while not (studio.drafts_folder / draft.id / "draft.json").is_file() and time.monotonic() < until:
        time.sleep(0.02)
    assert written == [11]


def test_damaged_old_and_foreign_drafts(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = studio.new_draft("true")
    draft.patch(draft.add_layer(Target("background")).id, 0, 0, dab(1))
    draft.write()
    path = studio.drafts_folder / draft.id / "draft.json"
    for name in ("../" + draft.id, draft.id[:-1], "a" * 32, "../../clip"):
        with pytest.raises(InputError, match="no such drawing"):
            Studio(studio.project).draft(name)
    whole = path.read_text()
    for text in (
        "{",
        "[]",
        whole.replace('"file": "layer-1', '"file": "../../../clip/x'),
        whole.replace("canon-draft", "x"),
    ):
        path.write_text(text)
        with pytest.raises(InputError):
            Studio(studio.project).draft(draft.id)
    path.write_text(whole)
    empty = studio.new_draft("true")
    empty.write()
    empty.close()
    assert not (studio.drafts_folder / empty.id).exists()
    monkeypatch.setattr("canon.viewer.studio._DRAFTS_KEPT", -1.0)
    assert Studio(studio.project).drafts() == []


def test_two_tabs_get_a_drawing_each(studio: Studio) -> None:
    draft = studio.new_draft("true")
    draft.patch(draft.add_layer(Target("background")).id, 5, 5, dab(1))
    assert studio.open_draft(draft.id, "one") is draft
    copy = studio.open_draft(draft.id, "two")
    assert copy is not draft and studio.open_draft(draft.id, "one") is draft
    np.testing.assert_array_equal(copy.layers[0].rgba, draft.layers[0].rgba)
    copy.patch(copy.layers[0].id, 5, 5, dab(2))
    np.testing.assert_array_equal(draft.layers[0].rgba[5:19, 5:27], dab(1))
    studio.release(draft, "one")
    assert studio.open_draft(draft.id, "two") is draft


def test_a_draft_that_nobody_holds_rests_on_disk(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = studio.new_draft("true")
    draft.patch(draft.add_layer(Target("background")).id, 5, 5, dab(1))
    studio.hold(draft, "one")
    studio.preview("true", 0, [], draft.id)
    monkeypatch.setattr("canon.viewer.studio._IDLE", -1.0)
    studio.new_draft("true")
    back = studio.draft(draft.id)
    assert back is not draft
    np.testing.assert_array_equal(back.layers[0].rgba, draft.layers[0].rgba)
    np.testing.assert_array_equal(studio.preview("true", 5, [], back.id), plain(draft, [], 5))


# --- saving ---


def painted(studio: Studio, seed: int) -> str:
    draft = studio.new_draft("true")
    draft.patch(draft.add_layer(Target("background")).id, 30, 30, dab(seed))
    return draft.id


def test_saving_refuses_a_name_that_is_there_and_keeps_what_it_replaces(studio: Studio) -> None:
    studio.save_draft(painted(studio, 1), "mine")
    first = studio.preview("true", 0, ["mine"])
    with pytest.raises(InputError, match="already"):
        studio.save_draft(painted(studio, 2), "mine")
    np.testing.assert_array_equal(studio.preview("true", 0, ["mine"]), first)
    studio.save_draft(painted(studio, 2), "mine", replace=True)
    second = studio.preview("true", 0, ["mine"])
    assert not np.array_equal(first, second)
    assert [(entry["version"], entry["current"]) for entry in studio.history("mine")] == [(2, True), (1, False)]
    studio.restore("mine", 1)
    np.testing.assert_array_equal(studio.preview("true", 0, ["mine"]), first)
    assert len(studio.history("mine")) == 3
    studio.restore("mine", 2)
    np.testing.assert_array_equal(studio.preview("true", 0, ["mine"]), second)
    with pytest.raises(InputError, match="no version 9"):
        studio.restore("mine", 9)
    for name in ("../x", "a/b", "", ".hidden", "..", "a\0b"):
        with pytest.raises(InputError, match="cannot be a folder's"):
            studio.save_draft(painted(studio, 1), name)
        with pytest.raises(InputError):
            studio.history(name)
    with pytest.raises(InputError, match="Nothing is painted"):
        studio.save_draft(studio.new_draft("true").id, "none")


def test_an_edit_of_another_program_is_kept_when_it_is_replaced_and_seen_when_it_changes(studio: Studio) -> None:
    fit = studio.fit("true")
    theirs = over(fit, "background")
    theirs.save(studio.project.edit_folder("shared"))
    before = studio.preview("true", 0, ["shared"])
    studio.save_draft(painted(studio, 1), "shared", replace=True)
    assert not np.array_equal(studio.preview("true", 0, ["shared"]), before)
    over(fit, "foreground").save(studio.project.edit_folder("shared"))
    np.testing.assert_array_equal(studio.preview("true", 0, ["shared"]), canon.render(fit, over(fit, "foreground"))[0])
    studio.restore("shared", 1)
    np.testing.assert_array_equal(studio.preview("true", 0, ["shared"]), before)


def test_a_painted_edit_brings_its_layers_back(studio: Studio) -> None:
    draft = studio.new_draft("true")
    sky = draft.add_layer(Target("background"), "sky", opacity=0.5)
    draft.patch(sky.id, 30, 30, dab(1))
    sticker = draft.add_layer(Target(frame=2), "sticker", "image", extra={"x": 3}, asset=b"the file")
    draft.patch(sticker.id, 60, 40, dab(2))
    draft.add_layer(Target("foreground"), "hidden", visible=False)
    kept = [(layer.describe(), layer.rgba.copy(), layer.asset) for layer in draft.layers]

    def check(back: Draft) -> None:
        assert back.id != draft.id and back.state()["undo"] is None
        for layer, (told, rgba, asset) in zip(back.layers, kept, strict=True):
            same = ("name", "kind", "opacity", "visible", "extra", "target")
            assert {key: layer.describe()[key] for key in same} == {key: told[key] for key in same}
            np.testing.assert_array_equal(layer.rgba, rgba)
            assert layer.asset == asset

    def told() -> tuple[str, bool]:
        (entry,) = (entry for entry in Studio(studio.project).drafts() if entry["id"] == draft.id)
        (held,) = (entry for entry in studio.drafts() if entry["id"] == draft.id)
        assert (entry["saved_as"], entry["unsaved"]) == (held["saved_as"], held["unsaved"])
        return held["saved_as"], held["unsaved"]

    draft.write()
    assert told() == ("", True)
    studio.save_draft(draft.id, "mine")
    assert told() == ("mine", False)
    draft.stack(["mine"])
    draft.write()
    assert told() == ("mine", False), "what lies below is no paint of its own"
    draft.stack([])
    draft.patch(sky.id, 30, 30, dab(3))  # what is painted afterwards belongs to no saved edit yet
    draft.write()
    assert told() == ("mine", True)
    check(studio.open_edit("mine", "tab"))
    assert [entry["saved_as"] for entry in studio.drafts() if not entry["unsaved"]] == ["mine"]
    studio.save_draft(draft.id, "mine", replace=True)
    np.testing.assert_array_equal(studio.open_edit("mine", "tab").layers[0].rgba, draft.layers[0].rgba)
    studio.restore("mine", 1)
    studio.project.edit_folder("mine").rename(studio.project.edit_folder("renamed"))
    assert told() == ("", True), "of an edit that is gone, the drawing is all that is left"
    check(Studio(studio.project).open_edit("renamed", "tab"))
    over(studio.fit("true"), "background").save(studio.project.edit_folder("renamed"))
    with pytest.raises(InputError, match="No layers were kept"):
        studio.open_edit("renamed", "tab")
    with pytest.raises(InputError, match="no edit called"):
        studio.open_edit("mine", "tab")


def test_versions_are_bounded(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canon.viewer.saved_edits._VERSIONS", 3)
    for seed in range(5):
        studio.save_draft(painted(studio, seed), "mine", replace=True)
    assert [entry["version"] for entry in studio.history("mine")] == [5, 4, 3]


def test_many_tabs_save_one_name_at_once(studio: Studio) -> None:
    drafts = [painted(studio, seed) for seed in range(6)]
    outcomes: list[str] = []

    def save(id: str) -> None:
        try:
            studio.save_draft(id, "race")
            outcomes.append("saved")
        except InputError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=save, args=(id,)) for id in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("saved") == 1 and sum("already" in text for text in outcomes) == 5
    saved = studio.edit("race").steps[0].operation
    assert isinstance(saved, Over)
    ours = [studio.draft(id).edit().steps[0].operation for id in drafts]
    assert sum(isinstance(one, Over) and np.array_equal(one.rgba, saved.rgba) for one in ours) == 1


def test_previews_follow_the_stack(studio: Studio) -> None:
    fit = studio.fit("true")
    over(fit, "foreground").save(studio.project.edit_folder("below"))
    id = painted(studio, 3)
    draft = studio.draft(id)
    for below in ([], ["below"], []):
        wanted = canon.render(fit, [*(studio.edit(name) for name in below), draft.edit()])[6]
        np.testing.assert_array_equal(studio.preview("true", 6, below, id), wanted)
    with pytest.raises(InputError, match="no frame 8"):
        studio.preview("true", 8, [], id)
    with pytest.raises(InputError, match="no edit called"):
        studio.preview("true", 0, ["gone"], id)
