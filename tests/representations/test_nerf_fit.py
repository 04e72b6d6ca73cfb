"""A dynamic NeRF on disk: what comes back is what was saved, in whatever poses, and damage is told in a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import canon
from canon.cli.elsewhere import ORIGINAL, elsewhere
from canon.clip import Clip
from canon.representations.dynamic_nerf import DynamicNerfConfig, check
from canon.representations.dynamic_nerf import model as models
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.storage import open_arrays, write_arrays

MOMENTS, SIZE = 3, (64, 52)
VIEWS = {"front": 0.0, "side": 50.0}
STEPS = {"scene_steps": 5, "human_steps": 3, "joint_steps": 2}


@pytest.fixture(scope="module")
def scene() -> HumanScene:
    return HumanScene(HumanSceneConfig(width=SIZE[1], height=SIZE[0], frames=MOMENTS))


@pytest.fixture(scope="module")
def clip(scene: HumanScene) -> Clip:
    """What two cameras that stand still see."""
    cameras = [scene.orbiting(degrees) for degrees in VIEWS.values() for _ in range(MOMENTS)]
    frames = [np.uint8(255 * scene.view(camera, scene.pose(k % MOMENTS)).rgb) for k, camera in enumerate(cameras)]
    return Clip.from_frames(frames, source="walk.mp4", cameras=cameras, poses=scene.motion(), views=tuple(VIEWS))


@pytest.fixture(scope="module")
def fit(clip: Clip) -> NerfFit:
    """The very few steps leave the person with the shape of the body that they begin with, which is the true one."""
    found = canon.fit(clip, "dynamic-nerf", preset="fast", device="cpu", states=(2,), **STEPS)
    assert isinstance(found, NerfFit)
    return found


@pytest.fixture(scope="module")
def saved(fit: NerfFit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "person"
    fit.save(folder)
    return folder


# --- other cameras, other poses ---


@pytest.fixture(scope="module")
def wave(scene: HumanScene) -> HumanScene:
    return HumanScene(replace(scene.config, motion="wave", frames=14))


@pytest.fixture(scope="module")
def waving(fit: NerfFit, wave: HumanScene) -> NerfFit:
    """Four of the moments of waving, each from elsewhere."""
    chosen = [0, 13, 5, 9]
    motion = wave.motion()
    motion = replace(motion, rotations=motion.rotations[chosen], root=motion.root[chosen])
    return fit.from_elsewhere([wave.orbiting(12.0 * k) for k in range(4)], motion, [2, 1, 2, 0])


@pytest.fixture(scope="module")
def loaded(waving: NerfFit, tmp_path_factory: pytest.TempPathFactory) -> NerfFit:
    folder = tmp_path_factory.mktemp("saved") / "waving"
    waving.save(folder)
    found = canon.load(folder)
    assert isinstance(found, NerfFit)
    return found


def test_poses_and_states_of_a_fit_from_elsewhere_are_saved(waving: NerfFit, loaded: NerfFit, wave: HumanScene) -> None:
    motion = wave.motion()
    for k, (t, state) in enumerate(((0, 1), (13, 0), (5, 1), (9, 0))):
        pose = loaded.pose(k)
        assert pose is not None and pose.state == state
        assert np.array_equal(pose.rotations.cpu().numpy(), motion.rotations[t])
        assert np.array_equal(pose.root.cpu().numpy(), motion.root[t])
    own = fields_of(waving), fields_of(loaded)
    assert all(np.array_equal(a, b) for a, b in zip(*own, strict=True))


def fields_of(fit: NerfFit) -> list[np.ndarray]:
    """Everything that is told by way of the surface, and a view."""
    texels = np.stack(np.meshgrid(np.arange(20, 180, 9), np.arange(20, 180, 7)), axis=-1).reshape(-1, 2)
    positions, visible = fit.track(np.array([[26.0, 20], [25, 30], [3, 5]]), 1)
    pixels, off = fit.pixels_of(3, "human", texels, np.ones(fit.size, bool))
    there, sure = fit.correspondence(0, 2, "human")
    told = [positions, visible, pixels, off, there, sure, fit.distance(1), fit.coordinates_3d(3, "human")]
    return [*told, fit.view(2, fit.cameras[0]), fit.from_elsewhere(fit.cameras[:1], frames=[3]).clip.frames]


def test_points_are_followed_in_the_poses_that_were_given(loaded: NerfFit, wave: HumanScene) -> None:
    """Against where the true body has them. The arm that waves is not where the clip that was fitted has it."""
    times = [0, 13, 5, 9]
    first = wave.view(loaded.cameras[0], wave.pose(0))
    solid = np.argwhere(np.isfinite(first.canonical).all(axis=-1) & (loaded.weights(0)[0] > 0.9))
    positions, _ = loaded.track(solid[:, ::-1].astype(np.float32), 0, "human")
    rest, joint = (part[solid[:, 0], solid[:, 1]] for part in (first.canonical, first.joint))
    for k, t in enumerate(times):
        rotations, root = (torch.from_numpy(part) for part in wave.pose(t))
        moved = wave.body.moved(rotations, root).numpy()[joint]
        places = (moved[:, :3, :3] @ rest[..., None])[..., 0] + moved[:, :3, 3]
        true, _ = loaded.cameras[k].project(places)
        errors = np.linalg.norm(positions[k] - true, axis=1)
        assert np.median(errors) < 0.5 and np.quantile(errors, 0.9) < 2, k


def test_edits_are_at_home_in_what_was_saved_from_elsewhere(fit: NerfFit, waving: NerfFit, loaded: NerfFit) -> None:
    assert fit.id == waving.id == loaded.id
    other = loaded.over(replace(loaded.clip, frames=np.zeros_like(loaded.clip.frames)))
    assert other.id == fit.id and np.array_equal(other.distance(1), waving.distance(1))


def test_the_original_of_several_views_is_the_first(fit: NerfFit) -> None:
    found = elsewhere(fit, ORIGINAL, None, 5, None)
    assert isinstance(found, NerfFit) and len(found) == 5
    for k, camera in enumerate(found.cameras):
        assert np.array_equal(camera.position, fit.cameras[0].position)
        pose, own = found.pose(k), fit.pose(k % MOMENTS)
        assert pose is not None and own is not None and torch.equal(pose.rotations, own.rotations)


# --- damage ---


Change = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


def without_entry(*names: str) -> Change:
    def change(plain: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        for name in names[:-1]:
            plain = plain[name]
        del plain[names[-1]]

    return change


def with_entry(name: str, value: object) -> Change:
    return lambda plain, arrays: plain.update({name: value})


def without_array(name: str) -> Change:
    return lambda plain, arrays: arrays.__delitem__(name)


def cut_array(name: str) -> Change:
    return lambda plain, arrays: arrays.update({name: arrays[name][1:]})


def damaged(saved: Path, folder: Path, *changes: Change) -> Path:
    """A copy of a fit whose attachments were changed."""
    shutil.copytree(saved, folder)
    record = yaml.safe_load((folder / "fit.yaml").read_text())
    arrays = {name: np.array(array) for name, array in open_arrays(folder / "attached.safetensors").items()}
    for change in changes:
        change(record["attached"], arrays)
    (folder / "fit.yaml").write_text(yaml.safe_dump(record))
    write_arrays(folder / "attached.safetensors", arrays)
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_array("depth"), "'depth' should be float32"),
        (without_array("world.human.shape_grid.table"), "'world.human.shape_grid.table' should be float32"),
        (cut_array("world.background.grid.table"), r"'world.background.grid.table' should be float32 \[\d+, 2\]"),
        (without_array("atlas.uv"), "'atlas.uv' should be .* and is missing"),
        (cut_array("body.offsets"), r"'body.offsets' should be float32 \[24, 3\] and is float32 \[23, 3\]"),
        (lambda plain, arrays: arrays.update(more=np.zeros(3)), "'more' should be absent and is float64"),
        (lambda plain, arrays: arrays.update({"body.joint": arrays["body.joint"].astype(np.int32)}), "'body.joint'"),
        (without_entry("sizes"), "'sizes' is missing"),
        (without_entry("sizes", "width"), "width"),
        (without_entry("states"), "'states' is missing"),
        (with_entry("states", [0]), r"'rotations' should be \[1, 24, 3, 3\] and is \[3, 24, 3, 3\]"),
        (with_entry("states", ["none"]), "none"),
        (without_entry("skeleton"), "'skeleton' should be there"),
        (without_entry("skeleton", "parents"), "'parents' is missing"),
        (without_entry("non_rigid"), "'non_rigid' should be there"),
        (without_entry("atlas"), "'atlas' should be there"),
        (without_entry("frame"), "'frame' should be there"),
        (without_entry("view_dependent"), "'view_dependent' should be there"),
        (without_entry("panorama"), "'panorama' should be there"),
        (without_entry("panorama", "density"), "'density' is missing"),
        (with_entry("frame", [0.0]), "not enough values"),
        (with_entry("arrays", 3), "not iterable"),
    ],
)
def test_damaged_attachments_are_told_when_a_fit_is_loaded(
    saved: Path, tmp_path: Path, change: Change, sentence: str
) -> None:
    folder = damaged(saved, tmp_path / "person", change)
    with pytest.raises(canon.InputError, match=rf"^'.*/person' is damaged: .*{sentence}.*; delete .* fit again\.$"):
        canon.load(folder)


def test_attachments_that_are_no_mapping_are_told(saved: Path, tmp_path: Path) -> None:
    folder = damaged(saved, tmp_path / "person")
    record = yaml.safe_load((folder / "fit.yaml").read_text())
    for wrong in (None, 3, ["sizes"], "sizes"):
        (folder / "fit.yaml").write_text(yaml.safe_dump({**record, "attached": wrong}))
        with pytest.raises(canon.InputError, match=r"person' is damaged: .*fit again\.$"):
            canon.load(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without_array("world.human.colour.layers.0.bias"), "'world.human.colour.layers.0.bias' should be float32"),
        (cut_array("world.background.grid.table"), "'world.background.grid.table' should be float32"),
    ],
)
def test_of_a_fit_without_a_list_of_its_arrays_damage_is_told_at_first_use(
    saved: Path, tmp_path: Path, change: Change, sentence: str
) -> None:
    folder = damaged(saved, tmp_path / "person", without_entry("arrays"), change)
    found = canon.load(folder)
    assert isinstance(found, NerfFit)
    with pytest.raises(canon.InputError, match=rf"^The fit of 'walk.mp4' is damaged: {sentence}.*; delete .* again\.$"):
        found.view(0, found.cameras[0])


def test_poses_without_their_states_are_told(loaded: NerfFit, tmp_path: Path) -> None:
    loaded.save(tmp_path / "whole")
    folder = damaged(tmp_path / "whole", tmp_path / "waving", without_entry("arrays"), without_array("poses.states"))
    with pytest.raises(canon.InputError, match=r"waving' is damaged: 'poses.states' is missing; .*fit again"):
        canon.load(folder)
    folder = damaged(tmp_path / "whole", tmp_path / "short", without_entry("arrays"), cut_array("poses.root"))
    with pytest.raises(canon.InputError, match=r"short' is damaged: .*poses .*fit again"):
        canon.load(folder)


def test_a_fit_that_says_less_of_itself_is_read_as_before(fit: NerfFit, saved: Path, tmp_path: Path) -> None:
    """As they were written before what they hold was listed."""
    less = without_entry("arrays"), without_entry("id"), without_entry("sizes", "panorama")
    found = canon.load(damaged(saved, tmp_path / "person", *less))
    assert isinstance(found, NerfFit) and found.id == fit.id
    assert np.array_equal(found.view(4, found.cameras[1]), fit.view(4, fit.cameras[1]))


def test_networks_are_made_when_they_are_asked_for(fit: NerfFit, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: object) -> None:
        raise canon.InputError("Asked for.")

    monkeypatch.setattr(models, "unpack", asked)
    found = canon.load(saved)
    assert isinstance(found, NerfFit) and found.id == fit.id
    assert np.array_equal(found.coordinates(1, "human")[0], fit.coordinates(1, "human")[0])
    with pytest.raises(canon.InputError, match=r"^Asked for\.$"):
        found.pose(0)


# --- states ---


def test_one_canvas_for_all_states_is_told(clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    check(clip, DynamicNerfConfig())
    assert not caplog.records
    check(clip, DynamicNerfConfig(states=(1, 2)))
    (record,) = caplog.records
    assert "states" in record.getMessage() and "canvas" in record.getMessage()
