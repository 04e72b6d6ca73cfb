"""Models of views with real networks at a tiny size: what they are told, what they say, and what is refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from canon.editors.diffusion.latents import Guide
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.diffusion.viewed import ViewModel, load_view_model
from canon.editors.distill.guidance import Guidance, distillable
from canon.editors.distill.settings import Settings
from canon.errors import InputError

CONFIG = DiffusionConfig(prompt="none")
SIZE = (16, 24)
EMBEDDED, TOLD = tiny_models.VIEW_EMBEDDED, tiny_models.VIEW_TOLD


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.zero123(tmp_path_factory.mktemp("viewed") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> ViewModel:
    return load_view_model(str(folder), CONFIG)


def reference(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))


def test_a_guide_is_the_projected_embedding_and_the_references_latents(folder: Path, model: ViewModel) -> None:
    azimuth, elevation, radius = 0.7, 0.2, -0.3
    guide = model.guide(reference(), azimuth, elevation, radius, 3.0, SIZE)
    assert guide.guidance == 3.0 and guide.beside is not None
    pixels = torch.nn.functional.interpolate(reference(), (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    mean, spread = (torch.tensor(x)[:, None, None] for x in (tiny_models.CLIP_MEAN, tiny_models.CLIP_STD))
    with torch.no_grad():
        embedded = model.pipeline.image_encoder(pixel_values=(pixels - mean) / spread).image_embeds[0]
        weights = load_file(folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors")
        polar = -elevation  # the angle from the vertical axis
        told = torch.cat([embedded, torch.tensor([polar, math.sin(azimuth), math.cos(azimuth), radius])])
        wanted = weights["proj.weight"] @ told + weights["proj.bias"]
        latents = model.vae.encode(reference() * 2 - 1).latent_dist.mode()  # not scaled
    assert guide.context.shape == (2, 1, TOLD) and guide.beside.shape == (2, 4, SIZE[0] // 2, SIZE[1] // 2)
    assert not guide.context[0].any() and not guide.beside[0].any()
    assert torch.allclose(guide.context[1, 0], wanted, atol=1e-5)
    assert torch.allclose(guide.beside[1:], latents, atol=1e-5)


@pytest.mark.parametrize("which", ["azimuth", "elevation", "radius"])
def test_each_part_of_the_viewpoint_counts(model: ViewModel, which: str) -> None:
    plain, moved = (model.guide(reference(), size=SIZE, **way).context for way in ({}, {which: 0.5}))
    assert float((plain - moved).abs().max()) > 0.01
    turned = model.guide(reference(), azimuth=2 * math.pi, size=SIZE).context
    assert torch.allclose(plain, turned, atol=1e-5), "once around is the same view"


def test_a_prediction_is_the_guided_difference_of_two_calls(model: ViewModel) -> None:
    guide = model.guide(reference(), 0.4, size=SIZE)
    latents = torch.randn(2, 4, SIZE[0] // 2, SIZE[1] // 2, generator=torch.Generator().manual_seed(2))
    t = torch.tensor(300)
    found = model.predict(latents, t, guide)
    assert guide.beside is not None
    with torch.no_grad():
        halves = []
        for k in (0, 1):
            seen = torch.cat([latents, guide.beside[k : k + 1].expand(2, -1, -1, -1)], dim=1)
            halves.append(model.unet(seen, t, encoder_hidden_states=guide.context[k : k + 1].expand(2, -1, -1)).sample)
    assert torch.allclose(found, halves[0] + 3.0 * (halves[1] - halves[0]), atol=1e-5)
    alike = replace(guide, beside=guide.beside[1:])
    assert not torch.allclose(found, model.predict(latents, t, alike), atol=1e-4), (
        "the reference is told one half alone"
    )
    unguided = model.guide(reference(), 0.4, guidance=1.0, size=SIZE)
    assert torch.allclose(model.predict(latents, t, unguided), halves[1], atol=1e-5)


def test_views_are_guided_by_a_viewpoint(model: ViewModel) -> None:
    guidance = Guidance(distillable(model), Settings("sds", clip=0.0))
    views = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    found = [
        guidance(views, 3, 10, prompt=model.guide(reference(), azimuth, size=SIZE)).gradient for azimuth in (0.0, 1.5)
    ]
    assert torch.isfinite(found[0]).all() and float((found[0] - found[1]).abs().max()) > 1e-4 * float(found[0].std())
    with pytest.raises(InputError, match="not by a text"):
        guidance(views, 3, 10, prompt="a car")


@pytest.mark.parametrize(("projection", "names"), [("clip_camera_projection", "proj"), ("cc_projection", "projection")])
def test_what_was_saved_is_loaded(tmp_path: Path, projection: str, names: str, model: ViewModel) -> None:
    other = load_view_model(str(tiny_models.zero123(tmp_path / "model", projection, names)), CONFIG)
    for own, theirs in (
        (model.unet, other.unet),
        (model.vae, other.vae),
        (model.pipeline.image_encoder, other.pipeline.image_encoder),
        (model.pipeline.projection, other.pipeline.projection),
    ):
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))
        assert not any(weight.requires_grad for weight in own.parameters())
    ours, again = (one.guide(reference(), 0.3, 0.1, 0.2, size=SIZE) for one in (model, other))
    assert torch.equal(ours.context, again.context) and isinstance(ours, Guide)


def _without(folder: Path) -> None:
    shutil.rmtree(folder / "clip_camera_projection")


def _pickled(folder: Path) -> None:
    place = folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    weights = load_file(place)
    place.unlink()
    torch.save(weights, place.with_name("diffusion_pytorch_model.bin"))


def _pickled_network(folder: Path) -> None:
    place = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(place), place.with_name("diffusion_pytorch_model.bin"))
    place.unlink()


def _narrow(folder: Path) -> None:
    place = folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    save_file({"proj.weight": torch.zeros(TOLD, EMBEDDED), "proj.bias": torch.zeros(TOLD)}, place)


def _of_two_layers(folder: Path) -> None:
    place = folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    save_file({f"{k}.weight": torch.zeros(TOLD, EMBEDDED + 4) for k in range(2)}, place)


def _of_text(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    tiny_models.unet(4).save_pretrained(folder / "unet")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_without, "no clip_camera_projection or cc_projection with .safetensors"),
        (_pickled, "no clip_camera_projection or cc_projection with .safetensors"),
        (_pickled_network, "cannot be loaded as a model of views"),
        (_narrow, "goes from 24 numbers to 32; its encoder and UNet need 28 to 32"),
        (_of_two_layers, "no linear map"),
        (_of_text, "its UNet sees 4 channels"),
    ],
)
def test_what_is_no_model_of_views_is_told_in_a_sentence(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    shutil.copytree(folder, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(InputError, match=sentence) as told:
        load_view_model(str(tmp_path / "spoilt"), CONFIG)
    assert "\n" not in str(told.value)


def test_pictures_that_do_not_fit_are_told(model: ViewModel) -> None:
    for picture, size, sentence in (
        (torch.rand(2, 3, 16, 16), (16, 16), r"one picture \[1, 3, h, w\]"),
        (torch.rand(1, 3, 16, 30), SIZE, "30x16 and the views are 24x16"),
        (torch.rand(1, 3, 64, 64), (64, 64), "larger than the 32 pixels"),
    ):
        with pytest.raises(InputError, match=sentence):
            model.guide(picture, size=size)
    with pytest.raises(InputError, match="cannot be loaded as a model of views"):
        load_view_model("./nowhere", CONFIG)
