"""What canon-mini learns from shows what its captions say; its training stops, goes on, and leaves a pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from canon.editors.diffusion.mini.pictures import draw, draw_look
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

    steps = []
    for stage in ("vae", "vae", "base", "base"):
        train(stage, tmp_path, monkeypatch)
        with safe_open(tmp_path / "training" / f"{stage}.safetensors", framework="np") as file:
            steps.append(int(file.metadata()["step"]))
        assert isinstance(json.loads((tmp_path / "training" / f"{stage}-curve.json").read_text()), list)
    assert 0 < steps[0] < steps[1] and 0 < steps[2] < steps[3]
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("red stripes on white", height=64, width=64, num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3) and np.isfinite(image).all()
    tokens = pipeline.tokenizer
    assert all(len(tokens.tokenize(word)) == 1 for word in words())
    assert tokens.tokenize("Red  STRIPES") == tokens.tokenize("red stripes")
