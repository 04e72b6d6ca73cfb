"""The model that comes with the package: small enough, in the usual format, and it does what prompts say."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import fit  # noqa: F401

import canon
from canon.editors.diffusion.annotators import canny
from canon.editors.diffusion.latents import Control, LatentModel, random_latents, to_picture, to_tensor
from canon.editors.diffusion.mini.heads import mini_weights
from canon.editors.diffusion.mini.pictures import draw
from canon.editors.diffusion.mini.vocabulary import COLOURS, Look, Picture
from canon.editors.diffusion.models import DESCRIBE, INSTRUCT, load_controlnet, load_model
from canon.editors.diffusion.options import MINI, DiffusionConfig
from canon.errors import InputError
from canon.fits import Fit
from canon.metrics import psnr
from canon.storage import write_image

SIZE = (64, 64)
QUICK: dict[str, Any] = {"steps": 12, "size": 96, "refine": 0.0}


def load(task: str = DESCRIBE, prompt: str = "gold") -> LatentModel:
    model = load_model(DiffusionConfig(prompt=prompt), task)
    assert isinstance(model, LatentModel)
    return model


def picture(prompt: str, seed: int = 0) -> np.ndarray:
    """What the model makes of a prompt, float32 [64, 64, 3]."""
    model = load()
    noise, generator = random_latents(model, SIZE, seed)
    levels = model.levels(15)
    return to_picture(model.decode(model.denoise(noise, levels, model.guide(prompt, "", 4.0, SIZE), generator)))


def nearest(colour: np.ndarray) -> str:
    from skimage.color import deltaE_ciede2000, rgb2lab

    names = list(COLOURS)
    table = np.array([COLOURS[name] for name in names], np.float32) / 255
    return names[int(np.argmin(deltaE_ciede2000(rgb2lab(colour[None, None]), rgb2lab(table[None]))))]


def test_it_is_small_and_in_the_usual_format() -> None:
    from diffusers import ControlNetModel, StableDiffusionPipeline

    files = [path for path in mini_weights().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24e6
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    StableDiffusionPipeline.from_pretrained(mini_weights(), local_files_only=True)
    ControlNetModel.from_pretrained(mini_weights() / "controlnet", local_files_only=True)


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow", "black", "white", "purple", "orange"])
def test_colours_are_those_of_the_prompt(colour: str) -> None:
    found = [nearest(np.median(picture(f"plain {colour}", seed).reshape(-1, 3), axis=0)) for seed in range(3)]
    assert found.count(colour) >= 2, found


def test_patterns_are_those_of_the_prompt() -> None:
    def across(image: np.ndarray, area: int) -> float:
        """How much a picture changes over ``area`` pixels."""
        gray = image.mean(axis=2)
        return float(np.abs(gray[area:] - gray[:-area]).mean() + np.abs(gray[:, area:] - gray[:, :-area]).mean())

    plain, stripes = picture("plain grey"), picture("black stripes on white")
    assert across(stripes, 5) > 5 * across(plain, 5)
    dark = (stripes.mean(axis=2) < 0.5).mean()
    assert 0.25 < dark < 0.75, "stripes share the picture"


def test_an_object_lies_on_its_ground() -> None:
    good = 0
    for seed in range(3):
        image = picture("a red circle on blue", seed)
        good += nearest(np.median(image[26:38, 26:38].reshape(-1, 3), axis=0)) == "red"
        good += nearest(np.median(image[:, :6].reshape(-1, 3), axis=0)) == "blue"
    assert good >= 5


def test_words_that_it_does_not_know_are_told(caplog: pytest.LogCaptureFixture, fit: Fit) -> None:  # noqa: F811
    with caplog.at_level(logging.WARNING, "canon"):
        canon.edit(fit, "restyle", layer="foreground", prompt="a golden flugelhorn", **{**QUICK, "steps": 2})
    assert "'flugelhorn'" in caplog.text and "'golden'" not in caplog.text


def test_inversion_leads_back_to_the_picture() -> None:
    model = load()
    source = draw(Picture("", Look("dots", ("red", "white"))), 64, np.random.default_rng(0))
    latents = model.encode(to_tensor(source))
    guide = model.guide("red dots on white", "", 1.0, SIZE)
    levels, trajectory = model.invert(latents, guide, 30, 0.7)
    back = model.denoise(trajectory[int(levels[0])], levels, guide, torch.Generator())
    coded = to_picture(model.decode(latents))
    assert psnr(to_picture(model.decode(back)), coded) > 24


def test_the_controlnet_holds_edges() -> None:
    """Edges of the result are at the edges that it was shown more often than elsewhere."""
    model = load()
    network = load_controlnet(MINI, model)
    source = draw(
        Picture("", Look("plain", ("white",)), "circle", Look("plain", ("black",))), 64, np.random.default_rng(1)
    )
    edges = canny(source)
    shown = to_tensor(np.repeat(edges[..., None], 3, axis=2))
    guide = model.guide("a yellow circle on blue", "", 4.0, SIZE)
    noise, generator = random_latents(model, SIZE, 0)
    scores = []
    for control in (Control(network, shown), None):
        levels = model.levels(15)
        made = to_picture(model.decode(model.denoise(noise, levels, replace(guide, control=control), generator)))
        slope = np.hypot(*np.gradient(made.mean(axis=2)))
        scores.append(float(slope[edges > 0].mean() / slope.mean()))
    assert scores[0] > 1.5 * scores[1] and scores[0] > 2, scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prompt", "more"),
    [
        ("restyle", "gold", {}),
        ("controlnet", "gold", {}),
        ("instruct", "turn it into gold", {}),
        ("invert", "gold", {}),
        ("stablevideo", "gold", {"keyframes": 2, "aggregation_steps": 10}),
        ("videdit", "gold", {}),
        ("inpaint", "gold", {"mask": True}),
    ],
)
def test_every_editor_moves_the_layer_to_the_prompt(
    fit: Fit,  # noqa: F811
    name: str,
    prompt: str,
    more: dict[str, Any],
    tmp_path: Path,
) -> None:
    if more.get("mask"):
        write_image(tmp_path / "mask.png", np.full(fit.canonical("foreground").size, 255, np.uint8))
        more = {"mask": str(tmp_path / "mask.png")}
    edit = canon.edit(fit, name, layer="foreground", prompt=prompt, **{**QUICK, **more})
    again = canon.edit(fit, name, layer="foreground", prompt=prompt, **{**QUICK, **more})
    assert np.array_equal(edit.steps[0].operation.rgba, again.steps[0].operation.rgba)
    found = canon.evaluate(fit, edit, colour="goldenrod")
    assert float(found["palette_distance"]) < 0.75 * float(found["palette_distance_source"])
    assert found["changed_outside"] == 0


def test_edits_of_two_layers_compose(fit: Fit) -> None:  # noqa: F811
    first = canon.edit(fit, "restyle", layer="foreground", prompt="gold", **QUICK)
    second = canon.edit(fit, "restyle", layer="background", prompt="snow", **QUICK)
    video, alone = canon.render(fit, [first, second]), canon.render(fit, first)
    solid = fit.coordinates(0, "foreground")[1] == 1
    assert np.array_equal(video[0][solid], alone[0][solid])
    behind = fit.coordinates(0, "background")[1] == 1
    before, after = (frame[behind].astype(float).mean(axis=0) for frame in (fit.clip.frames[0], video[0]))
    assert np.abs(after - 255).mean() < 0.7 * np.abs(before - 255).mean()


def test_an_installation_without_it_says_so(fit: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    from canon.editors.diffusion import models

    monkeypatch.setattr(models, "mini_weights", lambda: tmp_path)
    with pytest.raises(InputError, match="lacks the weights of canon-mini"):
        canon.edit(fit, "restyle", layer="foreground", prompt="gold")


def test_the_instructed_model_is_the_base_where_no_picture_is_shown() -> None:
    """What it learned may not undo the base: a colour asked for without a picture still comes."""
    model = load(INSTRUCT, "make it red")
    noise, generator = random_latents(model, SIZE, 0)
    grey = to_tensor(np.full((64, 64, 3), 0.5, np.float32))
    guide = model.follow(grey, model.guide("make it red", "", 5.0, SIZE), 1.0)
    levels = model.levels(15)
    made = to_picture(model.decode(model.denoise(noise, levels, guide, generator)))
    assert nearest(np.median(made.reshape(-1, 3), axis=0)) in ("red", "orange", "brown")
