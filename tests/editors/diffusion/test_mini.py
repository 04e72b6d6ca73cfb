"""What canon-mini learns from shows what its captions say; its training stops, goes on, and leaves a pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

from canon.editors.diffusion.latents import LatentModel
from canon.editors.diffusion.mini.heads import instructed_unet, load_part, save_instructed
from canon.editors.diffusion.mini.pictures import draw, draw_lit, draw_look, draw_made_over
from canon.editors.diffusion.mini.vocabulary import (
    COLOURS,
    MATERIALS,
    PATTERNS,
    TWO_COLOURED,
    Look,
    Picture,
    random_picture,
    words,
)
from canon.editors.diffusion.models import DESCRIBE, INSTRUCT, load_model
from canon.editors.diffusion.options import DiffusionConfig


def nearest_colour(rgb: np.ndarray) -> np.ndarray:
    """Number of the named colour closest to each pixel [..., 3]."""
    known = np.array(list(COLOURS.values())) / 255
    return np.argmin(((rgb[..., None, :] - known) ** 2).sum(-1), axis=-1)


def shares(rgb: np.ndarray) -> dict[str, float]:
    counts = np.bincount(nearest_colour(rgb).ravel(), minlength=len(COLOURS))
    return dict(zip(COLOURS, (counts / counts.sum()).tolist(), strict=True))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_drawn_differently_each_time_and_alike_from_one_seed(pattern: str) -> None:
    colours = ("blue", "white") if pattern in TWO_COLOURED else (MATERIALS.get(pattern, ("blue",))[0],)
    look = Look(pattern, colours)
    first, again, other = (draw_look(look, 96, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (96, 96, 3) and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, again) and np.abs(first - other).mean() > 0.01
    assert first.min() > -0.3 and first.max() < 1.7


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_colour_is_the_one_that_was_named(colour: str) -> None:
    picture = Picture(colour, Look("plain", (colour,)))
    found = np.mean([shares(draw(picture, 32, np.random.default_rng(s)))[colour] for s in range(12)])
    assert found > 0.8


@pytest.mark.parametrize("pattern", TWO_COLOURED)
def test_two_colours_share_the_picture(pattern: str) -> None:
    picture = Picture("", Look(pattern, ("red", "white")))
    for seed in range(6):
        found = shares(draw(picture, 64, np.random.default_rng(seed)))
        assert found["red"] > 0.15 and found["white"] > 0.15, (seed, found)


def test_captions_use_known_words_and_objects_stand_out() -> None:
    rng = np.random.default_rng(0)
    pictures = [random_picture(rng) for _ in range(400)]
    known = words()
    strange = [[word for word in picture.caption.split() if word not in known] for picture in pictures]
    assert all(len(found) <= 1 for found in strange) and 0.01 < np.mean([len(found) for found in strange]) < 0.15
    assert 0.1 < np.mean([picture.shape is not None for picture in pictures]) < 0.4
    for picture in pictures:
        if picture.shape is not None:
            assert picture.ground is not None and picture.ground.colours[0] not in picture.look.colours
    assert {picture.look.pattern for picture in pictures} == set(PATTERNS)


def test_what_was_learned_of_instructions_is_merged(tmp_path: Path) -> None:
    """The UNet with its adapters and the one they are merged into say the same; without training, as the base does."""
    base = tiny_models.unet()
    torch.manual_seed(0)
    learning = instructed_unet(base, tmp_path, trained=True)
    latents, shown = torch.randn(2, 1, 4, 8, 8)
    said = {"timestep": torch.tensor(500), "encoder_hidden_states": torch.randn(1, 5, 32), "return_dict": False}
    assert torch.allclose(learning(torch.cat([latents, shown], 1), **said)[0], base(latents, **said)[0], atol=1e-5)
    learned = [value for value in learning.parameters() if value.requires_grad]
    with torch.no_grad():
        for value in learned:
            value.add_(0.05 * torch.randn(value.shape))
    save_instructed(learning, tmp_path)
    merged = instructed_unet(base, tmp_path)
    a, b = (unet(torch.cat([latents, shown], 1), **said)[0] for unet in (learning, merged))
    assert torch.allclose(a, b, atol=1e-4) and not torch.allclose(a, base(latents, **said)[0], atol=1e-2)


def train(stage: str, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5) -> None:
    from canon.editors.diffusion.mini import training

    options = f"{stage} --out {folder} --batch 2 --device cpu --minutes {seconds / 60}"
    monkeypatch.setattr(sys, "argv", ["training", *options.split()])
    monkeypatch.setattr(training, "_CHUNK", 32)
    training.main()


@pytest.mark.slow
def test_training_stops_goes_on_and_leaves_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs the extra [diffusion]")
    from safetensors import safe_open

    from canon.editors.diffusion.mini import training

    steps = []
    for stage in ("vae", "vae", "base", "base", "controlnet", "controlnet", "instruct", "instruct"):
        train(stage, tmp_path, monkeypatch)
        with safe_open(tmp_path / "training" / f"{stage}.safetensors", framework="np") as file:
            steps.append(int(file.metadata()["step"]))
        assert isinstance(json.loads((tmp_path / "training" / f"{stage}-curve.json").read_text()), list)
    assert all(0 < first < second for first, second in zip(steps[::2], steps[1::2], strict=True))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("red stripes on white", height=64, width=64, num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3) and np.isfinite(image).all()
    tokens = pipeline.tokenizer
    assert all(len(tokens.tokenize(word)) == 1 for word in words() if "-" not in word)
    assert tokens.tokenize("Red  STRIPES") == tokens.tokenize("red stripes")
    training.pack(tmp_path, tmp_path / "packed")
    for task in (DESCRIBE, INSTRUCT):
        model = load_model(DiffusionConfig(prompt="gold", model=str(tmp_path / "packed")), task)
        assert isinstance(model, LatentModel) and model.beside == (4 if task == INSTRUCT else 0)
    own, packed = (load_part("ControlNetModel", folder / "controlnet") for folder in (tmp_path, tmp_path / "packed"))
    for a, b in zip(own.parameters(), packed.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)


def test_a_thing_made_over_keeps_its_light_and_its_surroundings() -> None:
    rng = np.random.default_rng(3)
    scene = np.repeat(np.linspace(0.1, 0.9, 64, dtype=np.float32)[None, :, None], 64, 0).repeat(3, 2)
    lit = draw_lit(Look("plain", ("red",)), scene, rng)
    assert lit[:, :16].mean() < 0.8 * lit[:, -16:].mean() and shares(lit)["red"] > 0.5
    picture = Picture("", Look("plain", ("red",)), "circle", Look("plain", ("blue",)))
    before, after = draw_made_over(picture, Look("plain", ("green",)), 64, rng)
    assert np.array_equal(before[:, :4], after[:, :4]) and not np.allclose(before[28:36, 28:36], after[28:36, 28:36])
    assert shares(after[28:36, 28:36])["green"] > 0.9
