"""Fields replaced by an edit: what the video shows then, where it stays the source, and what comes of it elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from persons import rough_fit, small_person
from truth import small_scene, true_fit

import canon
from canon.edits import Edit, Field, Over, Step
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.scenes.human import HumanScene

TORSO = ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar")
TORSO_JOINTS = (0, 3, 6, 9, 13, 14)


@pytest.fixture(scope="module")
def scene() -> HumanScene:
    return small_person()


@pytest.fixture(scope="module")
def fit(scene: HumanScene) -> NerfFit:
    return rough_fit(scene)


def redder(fit: NerfFit, joints: tuple[str, ...] = ()) -> Field:
    """Colours alone: far more red."""
    bias = fit.field("human").state_dict()["colour.layers.2.bias"].numpy()
    return Field({"colour.layers.2.bias": bias + np.array([4.0, -4.0, -4.0], np.float32)}, joints)


def thicker(fit: NerfFit) -> Field:
    bias = fit.field("human").state_dict()["shape.layers.1.bias"].numpy()
    return Field({"shape.layers.1.bias": bias + np.float32(7)})


def edit_of(fit: NerfFit, *operations: Field | Over, layer: str = "human") -> Edit:
    return Edit([Step(layer, operation) for operation in operations], fit.id)


def test_the_same_field_changes_nothing(fit: NerfFit) -> None:
    video = canon.render(fit, edit_of(fit, Field({}), Field({}, TORSO)))
    assert all(np.array_equal(video[t], fit.clip.frames[t]) for t in range(len(fit)))
    for before, after in zip(fit.baked, video.shown.baked, strict=True):
        assert np.array_equal(before.color, after.color) and np.array_equal(before.grid, after.grid)


def test_frames_show_what_the_fields_show_differently(fit: NerfFit) -> None:
    """Where the change is complete the edited frame is the rendering of the edited field."""
    edit = edit_of(fit, redder(fit))
    video = canon.render(fit, edit)
    assert isinstance(video.shown, NerfFit)
    for t in range(len(fit)):
        before, after = (own.view(t, fit.cameras[t]) for own in (fit, video.shown))
        whole = (np.abs(after - before).max(axis=-1) > 0.15) & (fit.weights(t)[0] > 0)
        assert whole.sum() > 100
        assert np.abs(video[t][whole] / 255 - after[whole]).max() < 0.01
        nobody = fit.weights(t)[0] == 0
        assert np.array_equal(video[t][nobody], fit.clip.frames[t][nobody])


def test_only_the_chosen_part_changes(fit: NerfFit, scene: HumanScene) -> None:
    """By the true joint that every pixel moves with."""
    video = canon.render(fit, edit_of(fit, redder(fit, TORSO)))
    for t in range(len(fit)):
        joint = scene.frame(t).joint
        changed = (video[t] != fit.clip.frames[t]).any(axis=-1)
        inside = np.isin(joint, TORSO_JOINTS)
        assert changed[inside].mean() > 0.9
        far = ~np.isin(joint, (*TORSO_JOINTS, 1, 2, 12, 16, 17)) & (joint >= 0)  # not what hangs on it, either
        assert far.sum() > 20 and not changed[far & (fit.weights(t)[0] > 0.99)].any()


def test_canvas_and_other_views_have_the_edited_colours(fit: NerfFit, scene: HumanScene) -> None:
    video = canon.render(fit, edit_of(fit, redder(fit)))
    red = video.shown.baked[0].color - fit.baked[0].color
    inside = fit.model.charts().face >= 0
    assert red[inside][:, 0].mean() > 0.2 and red[inside][:, 1].mean() < -0.2

    camera, pose = scene.orbiting(150.0), scene.pose(7)
    motion = scene.motion()
    motion = type(motion)(motion.skeleton, pose[0][None], pose[1][None], motion.fps)
    behind = fit.from_elsewhere([camera], motion)
    shown = canon.render(behind, edit_of(fit, redder(fit)))[0]
    assert isinstance(video.shown, NerfFit)
    wanted = video.shown.view(0, camera, pose)
    person = behind.weights(0)[0] > 0.99
    assert np.abs(shown[person] / 255 - wanted[person]).max() < 0.02


def test_a_person_who_grows_covers_more(fit: NerfFit) -> None:
    edit = edit_of(fit, thicker(fit))
    video = canon.render(fit, edit)
    before, after = fit.weights(1)[0], video.shown.weights(1)[0]
    assert (after > 0.5).sum() > 1.2 * (before > 0.5).sum() and (after >= before - 0.02).all()
    changed = (video[1] != fit.clip.frames[1]).any(axis=-1)
    new = (after > 0.99) & (before == 0)
    assert new.sum() > 50 and changed[new].mean() > 0.9
    assert not changed[(before == 0) & (after == 0)].any()
    assert canon.evaluate(fit, edit)["changed_outside"] == 0


def test_a_background_may_change_too(fit: NerfFit) -> None:
    bias = fit.field("background").state_dict()["appearance.layers.2.bias"].numpy()
    field = Field({"appearance.layers.2.bias": bias - np.float32(6)})
    video = canon.render(fit, edit_of(fit, field, layer="background"))
    away = fit.weights(0)[1] == 1
    assert np.median(video[0][away]) < 30 < np.median(fit.clip.frames[0][away])
    assert video.shown.baked[1].color.mean() < fit.baked[1].color.mean() - 0.1


def test_later_edits_of_a_part_keep_earlier_ones_elsewhere(fit: NerfFit) -> None:
    both = canon.render(fit, edit_of(fit, redder(fit, TORSO), Field({}, ("left_ankle", "left_foot"))))
    first = canon.render(fit, edit_of(fit, redder(fit, TORSO)))
    assert all(np.array_equal(both[t], first[t]) for t in range(len(fit)))
    undone = canon.render(fit, edit_of(fit, redder(fit), Field({})))
    assert np.array_equal(undone[0], fit.clip.frames[0])


def test_paint_lies_on_top_of_an_edited_field(fit: NerfFit) -> None:
    size = fit.baked[0].color.shape[:2]
    paint = np.dstack([np.broadcast_to(np.float32([0, 1, 0]), (*size, 3)), np.ones(size, np.float32)])
    video = canon.render(fit, edit_of(fit, redder(fit), Over(paint)))
    person = fit.weights(0)[0] > 0.99
    assert np.array_equal(np.unique(video[0][person], axis=0), [[0, 255, 0]])


def test_a_trace_is_what_is_seen(fit: NerfFit, scene: HumanScene) -> None:
    """The fast path and its plain twin, values and gradients."""
    own = fit.with_fields({"human": [redder(fit, TORSO)]})
    field = own.field("human")
    camera = scene.orbiting(70.0)
    plain, fast = own.seen(1, camera, layers=["human"]), own.traced(1, camera)
    assert float((plain.human - fast.human).abs().max().detach()) < 1e-6
    assert float((plain.depth - fast.depth).abs().max().detach()) < 1e-5
    parameters = list(field.appearance_parameters())
    weight = torch.rand(plain.rgb.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for rgb in (plain.rgb, fast.rgb()):
        gradients.append(torch.autograd.grad((weight * rgb).sum(), parameters))
        assert float((rgb - plain.rgb).abs().max().detach()) < 1e-3
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).abs().max()) <= 2e-3 * float(a.abs().max())


def test_an_edit_of_a_field_comes_back_from_disk(fit: NerfFit, tmp_path: Path) -> None:
    edit = edit_of(fit, redder(fit, TORSO))
    edit.save(tmp_path / "edit")
    loaded = canon.load_edit(tmp_path / "edit")
    assert isinstance(loaded.steps[0].operation, Field) and loaded.steps[0].operation.joints == TORSO
    assert np.array_equal(canon.render(fit, edit)[2], canon.render(fit, loaded)[2])
    edit.save(tmp_path / "edit")
    assert sorted(path.name for path in (tmp_path / "edit").iterdir()) == ["00-human.safetensors", "edit.yaml"]


def test_what_does_not_fit_is_told(fit: NerfFit, tmp_path: Path) -> None:
    with pytest.raises(canon.InputError, match=r"'colour.wrong' \[3\]"):
        canon.render(fit, edit_of(fit, Field({"colour.wrong": np.zeros(3, np.float32)})))
    with pytest.raises(canon.InputError, match=r"colour.layers.2.bias.*\[4\]"):
        canon.render(fit, edit_of(fit, Field({"colour.layers.2.bias": np.zeros(4, np.float32)})))
    with pytest.raises(canon.InputError, match="no joint 'tail'"):
        canon.render(fit, edit_of(fit, Field({}, ("tail",))))
    with pytest.raises(canon.InputError, match="moves with no joints"):
        canon.render(fit, edit_of(fit, Field({}, ("head",)), layer="background"))
    with pytest.raises(canon.InputError, match="finite"):
        Field({"x": np.full(3, np.nan, np.float32)})
    with pytest.raises(canon.InputError, match="third dimension"):
        flat = true_fit(small_scene("pan", frames=2))
        canon.render(flat, Edit([Step(flat.layers[0], Field({}))], flat.id))
    with pytest.raises(canon.InputError, match="is not saved"):
        fit.with_fields({"human": [redder(fit)]}).save(tmp_path / "edited")
