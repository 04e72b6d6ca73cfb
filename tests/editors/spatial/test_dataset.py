"""A field that follows an instruction by frames that are edited one after another (Instruct-NeRF2NeRF)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from persons import rough_fit, small_person
from truth import small_scene, true_fit

import canon
from canon.editors.diffusion.instruct import InstructConfig
from canon.editors.spatial import dataset
from canon.editors.spatial.field import EditedField
from canon.edits import Field
from canon.representations.dynamic_nerf.fit import NerfFit

OPTIONS: dict[str, Any] = {"updates": 2, "update_every": 20, "steps": 6, "device": "cpu", "rate": 0.1}


@pytest.fixture(scope="module")
def fit() -> NerfFit:
    return rough_fit(small_person(orbit=20.0))


def blueness(image: np.ndarray) -> float:
    return float((image[..., 2].astype(float) - image[..., :2].mean(axis=-1)).mean())


def test_a_person_follows_and_all_else_stays(fit: NerfFit) -> None:
    edit = canon.edit(fit, "instruct", prompt="turn it into blue", **OPTIONS)
    operation = edit.steps[0].operation
    assert isinstance(operation, Field) and edit.layers == ["human"]
    assert all(name.startswith("colour") for name in operation.weights)
    video = canon.render(fit, edit)
    for t in range(len(fit)):
        person, nobody = fit.weights(t)[0] > 0.99, fit.weights(t)[0] == 0
        assert np.array_equal(video[t][nobody], fit.clip.frames[t][nobody])
        assert blueness(video[t][person]) > blueness(fit.clip.frames[t][person]) + 20


def test_frames_take_each_others_place_in_turn(fit: NerfFit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told of the frame as it was, and begins from what the field shows by then."""
    told: list[tuple[np.ndarray, float]] = []
    begun: list[np.ndarray] = []

    class Noted(dataset.InstructPainter):
        def continuing(self, original: np.ndarray, strength: float, seed: int) -> Any:
            told.append((original, strength))
            return super().continuing(original, strength, seed)

        def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
            begun.append(picture)
            return np.zeros_like(picture)

    monkeypatch.setattr(dataset, "InstructPainter", Noted)
    config = InstructConfig(prompt="turn it into blue", updates=4, update_every=2, device="cpu", refine=0.0)
    made = EditedField(fit, "human")
    data = dataset.Dataset(fit, config, "human")
    losses = [float(data(made(), step).detach()) for step in range(8)]
    assert sorted(data.edited) == [0, 1, 2] and len(told) == 4 and sorted(data.order) == [0, 1, 2]
    assert all(0.7 <= strength <= 0.98 for _, strength in told) and min(losses) > 0
    first = data.order[0]
    source = fit.clip.frames[first][data._box(first)] / np.float32(255)
    assert np.allclose(told[0][0], source, atol=1e-6) and np.allclose(told[3][0], source, atol=1e-6)
    # Nothing was optimised yet: what the field shows is the frame itself.
    assert np.allclose(data._shown(made(), first, data._box(first)).detach().numpy(), source, atol=1e-5)


def test_a_background_may_follow_too(fit: NerfFit) -> None:
    options = {**OPTIONS, "updates": 1, "update_every": 25, "layer": "background"}
    edit = canon.edit(fit, "instruct", prompt="turn it into blue", **options)
    video = canon.render(fit, edit)
    away = fit.weights(0)[1] == 1
    assert edit.layers == ["background"]
    assert blueness(video[0][away]) > blueness(fit.clip.frames[0][away]) + 5


def test_the_loss_has_the_gradient_of_what_is_shown(fit: NerfFit) -> None:
    config = InstructConfig(prompt="turn it into blue", updates=1, update_every=5, device="cpu", steps=2)
    made = EditedField(fit, "human")
    data = dataset.Dataset(fit, config, "human")
    data._update(made(), 0)
    parameters = list(made.field.appearance_parameters())  # type: ignore[operator]
    found = torch.autograd.grad(data(made(), 1), parameters)
    assert (
        all(bool(torch.isfinite(part).all()) for part in found) and max(float(part.abs().max()) for part in found) > 0
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"updates": -1}, "at least 0"),
        ({"updates": 1, "update_every": 0}, "at least 1"),
        ({"updates": 1, "update_noise": (0.9, 0.2)}, "is no range"),
        ({"updates": 1, "mask": "x.png"}, "--mask and --segment are of canvases"),
        ({"updates": 1, "layer": "sky"}, "'sky'"),
        ({"update_every": 3}, "--update-every goes with --updates"),
        ({"updates": 1, "rate": 0.0}, "the rate above 0"),
    ],
)
def test_bad_options_end_in_one_sentence(fit: NerfFit, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(canon.InputError, match=sentence) as raised:
        canon.edit(fit, "instruct", prompt="turn it into blue", device="cpu", **options)
    assert "\n" not in str(raised.value)


def test_a_flat_fit_has_no_field() -> None:
    flat = true_fit(small_scene("pan", frames=2))
    with pytest.raises(canon.InputError, match="no third dimension"):
        canon.edit(flat, "instruct", prompt="turn it into blue", updates=1, device="cpu")
