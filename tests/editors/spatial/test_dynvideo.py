"""A person changed from all sides, by a picture, by a model, or both; compared with the true person so dressed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from persons import rough_fit, small_person
from truth import psnr, small_scene, true_fit

import canon
from canon.editors.diffusion import viewed
from canon.editors.diffusion.models import DESCRIBE, load_model
from canon.editors.spatial import stage
from canon.editors.spatial.dynvideo import DynVideoConfig
from canon.editors.spatial.field import EditedField
from canon.editors.spatial.parts import PARTS, joints_of
from canon.editors.spatial.reference import Reconstruction, read_reference, square
from canon.editors.spatial.shots import Shares, Shots
from canon.edits import Edit, Field
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.scenes.human import HumanScene
from canon.storage import to_uint8, write_image

AT = 1
SHIRT = ((0.1, 0.45, 0.15), (0.85, 0.9, 0.5))


@pytest.fixture(scope="module")
def scene() -> HumanScene:
    return small_person(orbit=20.0)


@pytest.fixture(scope="module")
def dressed(scene: HumanScene) -> HumanScene:
    """The same person in another shirt."""
    return HumanScene(replace(scene.config, shirt=SHIRT))


@pytest.fixture(scope="module")
def fit(scene: HumanScene) -> NerfFit:
    return rough_fit(scene)


@pytest.fixture(scope="module")
def reference(dressed: HumanScene, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("reference") / "frame.png"
    write_image(path, to_uint8(dressed.frame(AT).rgb))
    return str(path)


@pytest.fixture(scope="module")
def edit(fit: NerfFit, reference: str) -> Edit:
    return canon.edit(fit, "dynvideo-e", reference=reference, frame=AT, steps=60, rate=0.1)


# --- by a picture ---


def test_the_reference_is_reached(fit: NerfFit, edit: Edit, dressed: HumanScene) -> None:
    video, true = canon.render(fit, edit), dressed.frame(AT)
    person = true.mask > 0.99
    before, after = (psnr(image / 255, true.rgb, person) for image in (fit.clip.frames[AT], video[AT]))
    assert after > max(before + 7, 21), (before, after)
    nobody = fit.weights(AT)[0] == 0
    assert np.array_equal(video[AT][nobody], fit.clip.frames[AT][nobody])
    operation = edit.steps[0].operation
    assert isinstance(operation, Field) and all(name.startswith("colour") for name in operation.weights)


def test_other_frames_wear_it_too(fit: NerfFit, edit: Edit, dressed: HumanScene) -> None:
    video = canon.render(fit, edit)
    for t in (0, 2):
        true = dressed.frame(t)
        shirt = np.isin(true.joint, (0, 3, 6, 9)) & (fit.weights(t)[0] > 0.99)
        before, after = (psnr(image / 255, true.rgb, shirt) for image in (fit.clip.frames[t], video[t]))
        assert after > before + 4, (t, before, after)


def test_what_the_reference_does_not_show_stays(fit: NerfFit, edit: Edit, scene: HumanScene) -> None:
    """Their back: a network that colours the front has no say there."""
    video = canon.render(fit, edit)
    assert isinstance(video.shown, NerfFit)
    camera, pose = scene.orbiting(180.0), scene.pose(AT)
    views = [own.view(AT, camera, pose, ["human"]) for own in (fit, video.shown)]
    back = np.isin(scene.view(camera, pose).joint, (3, 6, 9))
    assert np.abs(views[1] - views[0])[back].mean() < 0.04
    front = [own.view(AT, scene.orbiting(0.0), pose, ["human"]) for own in (fit, video.shown)]
    chest = np.isin(scene.view(scene.orbiting(0.0), pose).joint, (3, 6, 9))
    assert np.abs(front[1] - front[0])[chest].mean() > 0.1


def test_another_outline_is_reached_by_shape(fit: NerfFit, scene: HumanScene, tmp_path: Path) -> None:
    """The reference's person is stouter than the fit's: their silhouettes agree more afterwards."""
    true = scene.frame(AT)
    grown = np.zeros_like(true.mask)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            grown = np.maximum(grown, np.roll(true.mask, (dy, dx), (0, 1)))
    picture = np.where((grown > true.mask)[..., None], [0.2, 0.3, 0.9], true.rgb)
    write_image(tmp_path / "stout.png", to_uint8(picture))
    write_image(tmp_path / "mask.png", to_uint8(grown))
    options: dict[str, Any] = {"reference": str(tmp_path / "stout.png"), "frame": AT, "steps": 60, "shape": 1.0}
    edit = canon.edit(fit, "dynvideo-e", reference_mask=str(tmp_path / "mask.png"), **options)
    video = canon.render(fit, edit)

    def agreement(weight: np.ndarray) -> float:
        return float(((weight > 0.5) & (grown > 0.5)).sum() / ((weight > 0.5) | (grown > 0.5)).sum())

    before, after = agreement(fit.weights(AT)[0]), agreement(video.shown.weights(AT)[0])
    assert after > before + 0.05, (before, after)


def test_an_interrupted_run_goes_on(
    fit: NerfFit, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"reference": reference, "frame": AT, "steps": 12}
    whole = canon.edit(fit, "dynvideo-e", **options).steps[0].operation
    calls, plain = [0], Reconstruction.__call__

    def stopped(self: Reconstruction, own: Any, step: int) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 12:
            raise KeyboardInterrupt
        return plain(self, own, step)

    monkeypatch.setattr(Reconstruction, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        canon.edit(fit, "dynvideo-e", checkpoints=str(tmp_path), **options)
    assert (tmp_path / "human" / "preview.png").exists()
    found = canon.edit(fit, "dynvideo-e", checkpoints=str(tmp_path), **options).steps[0].operation
    assert calls[0] == 14, "ten steps were kept"
    assert isinstance(whole, Field) and isinstance(found, Field)
    assert all(np.allclose(found.weights[name], value, atol=1e-5) for name, value in whole.weights.items())


# --- by a model ---


def test_a_model_alone_recolours_the_shirt_from_all_sides(fit: NerfFit, scene: HumanScene) -> None:
    options: dict[str, Any] = {"prompt": "blue", "parts": ("torso",), "steps": 30, "pool": 6, "view": 64}
    edit = canon.edit(fit, "dynvideo-e", **options, rate=0.05)
    video = canon.render(fit, edit)
    assert isinstance(video.shown, NerfFit)
    pose = scene.pose(AT)
    for degrees in (0.0, 90.0, 180.0, 270.0):
        camera = scene.orbiting(degrees)
        torso = np.isin(scene.view(camera, pose).joint, (3, 6, 9))
        before, after = (own.view(AT, camera, pose)[torso].mean(axis=0) for own in (fit, video.shown))
        bluer = (after[2] - after[:2].mean()) - (before[2] - before[:2].mean())
        assert bluer > 0.15, (degrees, before, after)
    legs = np.isin(scene.frame(0).joint, (4, 5, 7, 8))
    assert np.array_equal(video[0][legs], fit.clip.frames[0][legs])


def test_distillation_goes_down_the_guidance_of_its_views(fit: NerfFit) -> None:
    """One step's gradient of the field is that of the guidance's wish for the very view that is shown."""
    config = DynVideoConfig(prompt="red", steps=4, pool=3, view=64, device="cpu")
    made = EditedField(fit, "human")
    model = stage.distillable(load_model(config, DESCRIBE))
    shots = Shots(fit, stage.view_size(config, model), Shares(config.poses, config.close_ups), 0, (), 0)
    assert shots.size == (64, 64)
    term = stage.Distilled(config, fit, shots, None, model)
    parameters = list(made.field.appearance_parameters())  # type: ignore[operator]
    found = torch.autograd.grad(term(made(), 2), parameters)
    number = int(np.random.default_rng([0, 2, 0]).integers(3))
    shot = shots(number)
    seen = made().seen(shot.t, shot.camera, shot.pose, ["human"])
    plain = torch.rand((), generator=torch.Generator().manual_seed(2))
    shown = (seen.rgb + (1 - seen.human[..., None]) * plain).permute(2, 0, 1)[None]
    assert term.guidance is not None
    wish = term.guidance(shown.detach(), 2, 4, None, "red").gradient
    wanted = torch.autograd.grad((shown * wish).sum() / shown[:, 0].numel(), parameters)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).abs().max()) <= 0.02 * float(b.abs().max())


def test_a_model_is_personalised_on_the_reference(fit: NerfFit, reference: str) -> None:
    """What it makes of the prompt's noise is nearer to the reference than before, and the model itself stays."""
    options = {"prompt": "person", "reference": reference, "frame": AT, "personalise": 30, "view": 64, "device": "cpu"}
    config = DynVideoConfig(**options)  # type: ignore[arg-type]
    model = stage.distillable(load_model(config, DESCRIBE))
    shown = read_reference(fit, config)
    assert shown is not None
    trained = stage.personalised(model, config, shown, (64, 64))
    assert trained is not model and stage.personalised(model, replace(config, personalise=0), shown, (64, 64)) is model
    picture, mask = square(shown, (64, 64), 1.0)
    errors = []
    with torch.no_grad():
        latents = model.encoded(stage.to_tensor(picture))
        inside = F.interpolate(torch.from_numpy(mask)[None, None], latents.shape[-2:], mode="area") > 0.5
        for own in (model, trained):
            guide, missed = own.guide("person", "", 1.0, (64, 64)), []
            for t in range(150, 950, 100):
                noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(t))
                alpha = own.scheduler.alphas_cumprod[t]
                noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
                clean, _ = own.split(own.predict(noisy, torch.tensor(t), guide), noisy, alpha)
                missed.append((clean - latents)[inside.expand_as(latents)].square().mean())
            errors.append(float(torch.stack(missed).mean()))
    assert errors[1] < 0.8 * errors[0], errors


def test_a_view_model_is_asked_where_it_is_looked_from(
    fit: NerfFit, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The angles are relative to the reference's, of views in its pose alone."""
    folder = tiny_models.zero123(tmp_path / "zero123")
    asked: list[tuple[float, float]] = []
    plain = viewed.ViewModel.guide

    def noted(self: Any, reference: Any, azimuth: float, elevation: float, *rest: Any) -> Any:
        asked.append((azimuth, elevation))
        return plain(self, reference, azimuth, elevation, *rest)

    monkeypatch.setattr(viewed.ViewModel, "guide", noted)
    options: dict[str, Any] = {"view_model": str(folder), "view": 32, "close_ups": 0.0, "device": "cpu", "pool": 2}
    options |= {"reference": reference, "frame": AT, "steps": 3}
    edit = canon.edit(fit, "dynvideo-e", poses=(1.0, 0.0, 0.0), **options)
    shots = Shots(fit, (32, 32), Shares((1.0, 0.0, 0.0), 0.0), AT, (), 0)
    azimuth, elevation = shots.seen_from(AT)
    turns = [(shot.azimuth - azimuth, shot.elevation - elevation) for shot in map(shots, range(2))]
    wanted = {tuple(np.round(np.radians(turn), 5)) for turn in turns}
    assert len(asked) == 3 and {tuple(np.round(pair, 5)) for pair in asked} <= wanted
    assert isinstance(edit.steps[0].operation, Field)
    canon.edit(fit, "dynvideo-e", poses=(0.0, 1.0, 0.0), reconstruct=0.0, preserve=0.0, **options)
    assert len(asked) == 3, "of other poses it knows nothing"


# --- views and parts ---


def test_cameras_see_all_of_the_person_or_of_the_part(fit: NerfFit) -> None:
    shots = Shots(fit, (48, 64), Shares(close_ups=0.5), AT, (), seed=3)
    kinds, parts = set(), set()
    for number in range(40):
        shot = shots(number)
        kinds.add(shot.kind)
        parts.add(shot.part)
        joints = shots._joints(shot.pose)
        names = joints_of(shots.skeleton, (shot.part,)) if shot.part else shots.skeleton.names
        chosen = joints[[shots.skeleton.names.index(name) for name in names]]
        pixels, ahead = shot.camera.project(chosen)
        assert (ahead > 0).all() and ((pixels >= -0.5) & (pixels <= [63.5, 47.5])).all()
    assert kinds == {"reference", "source", "random"} and parts == {"", "head", "torso", "legs"}
    again = shots(7)
    assert np.array_equal(again.camera.translation, shots(7).camera.translation)


def test_sides_are_those_of_the_person(fit: NerfFit, scene: HumanScene) -> None:
    """The scene's camera at 0 degrees sees their face, and at 90 degrees their left."""
    shots = Shots(fit, (32, 32), Shares(), AT)
    pose = shots.pose(AT)
    for degrees, side in ((0.0, "front view"), (80.0, "side view"), (-100.0, "side view"), (175.0, "back view")):
        shot = shots.around(AT, pose, "source", degrees, 10.0)
        assert shot.side == side
        place = scene.orbiting(degrees).position
        away = shot.camera.position * [1, 0, 1]
        assert away @ (place * [1, 0, 1]) > 0.95 * np.linalg.norm(away) * np.linalg.norm(place * [1, 0, 1])
    azimuth, elevation = shots.seen_from(AT)
    place = fit.cameras[AT].position
    assert abs(azimuth - np.degrees(np.arctan2(place[0], place[2]))) < 3 and 0 < elevation < 30


def test_parts_are_the_joints_that_move_them(scene: HumanScene) -> None:
    skeleton = scene.body.skeleton
    found = {part: set(joints_of(skeleton, (part,))) for part in PARTS}
    assert found["head"] == {"neck", "head"}
    assert found["torso"] == {"pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar"}
    assert found["legs"] == {"left_hip", "right_hip", "left_knee", "right_knee"}
    assert sorted(name for names in found.values() for name in names) == sorted(skeleton.names)
    assert joints_of(skeleton, ("left_knee", "legs"))[0] == "left_knee"
    with pytest.raises(canon.InputError, match="'wing' is no part"):
        joints_of(skeleton, ("wing",))


def test_prompts_name_sides_and_parts_where_the_model_knows_them(fit: NerfFit, tmp_path: Path) -> None:
    folder = str(tiny_models.stable_diffusion(tmp_path / "sd"))
    config = DynVideoConfig(prompt="a robot", model=folder, part_prompts=("head=a steel helmet",), device="cpu")
    model = stage.distillable(load_model(config, DESCRIBE))
    shots = Shots(fit, (32, 32), Shares(), AT)
    term = stage.Distilled(config, fit, shots, None, model)
    pose = shots.pose(AT)
    assert term.prompt(shots.around(AT, pose, "source", 170.0, 0.0)) == "a robot, back view"
    assert term.prompt(shots.around(AT, pose, "source", 10.0, 0.0, "head")) == "a steel helmet, front view"
    assert term.prompt(shots.around(AT, pose, "source", 10.0, 0.0, "legs")) == "a robot, legs, front view"
    plain = stage.Distilled(replace(config, view_words=False), fit, shots, None, model)
    assert plain.prompt(shots.around(AT, pose, "source", 170.0, 0.0)) == "a robot"


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Say with --prompt"),
        ({"reference": "nowhere.png"}, "nowhere.png"),
        ({"prompt": "red", "distil": 0}, "nothing to go by"),
        ({"reference": "x.png", "distil": 1}, "Distillation needs a --prompt"),
        ({"prompt": "red", "reference_mask": "x.png"}, "goes with a --reference"),
        ({"prompt": "red", "view_model": "x"}, "turns a --reference round"),
        ({"prompt": "red", "parts": ("wing",)}, "'wing' is no part"),
        ({"prompt": "red", "layer": "background"}, "the layer is 'human'"),
        ({"prompt": "red", "frame": 99}, "there is no frame 99"),
        ({"prompt": "red", "poses": (0.0, 0.0, 0.0)}, "three shares"),
        ({"prompt": "red", "close_ups": 2.0}, "close-ups is out of range"),
        ({"prompt": "red", "part_prompts": ("head",)}, "PART=PROMPT"),
        ({"prompt": "red", "part_prompts": ("tail=long",)}, "'tail' is no part"),
        ({"prompt": "red", "mask": "x.png"}, "--mask is of canvases"),
        ({"prompt": "red", "pool": 0}, "the pool at least 1"),
        ({"prompt": "red", "rate": 0}, "The rate must be above 0"),
    ],
)
def test_bad_options_end_in_one_sentence(fit: NerfFit, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(canon.InputError, match=sentence) as raised:
        canon.edit(fit, "dynvideo-e", **options)
    assert "\n" not in str(raised.value)


def test_references_that_cannot_be_used_are_told(fit: NerfFit, reference: str, tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(canon.InputError, match="30x20 and the frames are 52x64"):
        canon.edit(fit, "dynvideo-e", reference=str(tmp_path / "small.png"))
    write_image(tmp_path / "nobody.png", np.zeros((64, 52), np.uint8))
    with pytest.raises(canon.InputError, match="shows nothing of the person"):
        canon.edit(fit, "dynvideo-e", reference=reference, reference_mask=str(tmp_path / "nobody.png"))


def test_a_flat_fit_is_refused() -> None:
    flat = true_fit(small_scene("pan", frames=2))
    with pytest.raises(canon.InputError, match="no third dimension"):
        canon.edit(flat, "dynvideo-e", prompt="red")
