"""The denoising loop against diffusers' own pipelines, to the bit or nearly so; windows; the way to noise and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from canon.editors.diffusion import models
from canon.editors.diffusion.latents import Control, Keep, LatentModel, latent_mask, random_latents, to_tensor
from canon.editors.diffusion.models import DESCRIBE, FILL, INSTRUCT, fingerprint, load_controlnet, load_model
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.diffusion.painters import invertible
from canon.editors.diffusion.windows import blended, windows
from canon.storage import write_image

SIZE = (32, 48)


def load(folder: Path, task: str = DESCRIBE, **options: Any) -> LatentModel:
    model = load_model(DiffusionConfig(prompt="gold", model=str(folder), **options), task)
    assert isinstance(model, LatentModel)
    return model


@pytest.fixture
def picture() -> torch.Tensor:
    return to_tensor(np.random.default_rng(0).random((*SIZE, 3), np.float32))


@pytest.mark.parametrize(
    ("family", "auto"),
    [
        ("stable_diffusion", "StableDiffusionImg2ImgPipeline"),
        ("stable_diffusion_xl", "StableDiffusionXLImg2ImgPipeline"),
    ],
)
@pytest.mark.parametrize("scheduler", ["", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_equals_the_image_to_image_pipeline(
    family: str, auto: str, scheduler: str, tmp_path: Path, picture: torch.Tensor
) -> None:
    import diffusers

    model = load(getattr(tiny_models, family)(tmp_path / "model"), scheduler=scheduler)
    latents = model.encode(picture)
    pipeline = getattr(diffusers, auto)(**{**model.pipeline.components, **_unset(auto)})
    pipeline.set_progress_bar_config(disable=True)
    options = {"prompt": "red stripes", "negative_prompt": "blue", "guidance_scale": 4.0, "num_inference_steps": 6}
    theirs = pipeline(
        image=latents, strength=0.7, generator=torch.Generator().manual_seed(3), output_type="latent", **options
    ).images
    noise, generator = random_latents(model, SIZE, 3)
    size = (picture.shape[2], picture.shape[3])
    guide = model.guide("red stripes", "blue", 4.0, size)
    if model.xl:  # given latents, diffusers takes their size for the picture's
        guide.added["time_ids"] = guide.added["time_ids"] * 0 + torch.tensor([[*_told(pipeline, latents)]])
    levels = model.levels(6, 0.7)
    ours = model.denoise(model.noised(latents, noise, levels[:1]), levels, guide, generator)
    assert torch.allclose(ours, theirs, atol=1e-4), float((ours - theirs).abs().max())


def _unset(kind: str) -> dict[str, Any]:
    return {} if "XL" in kind else {"requires_safety_checker": False}


def _told(pipeline: Any, latents: torch.Tensor) -> list[int]:
    height, width = (side * pipeline.vae_scale_factor for side in latents.shape[-2:])
    return [height, width, 0, 0, height, width]


def test_equals_the_instructing_pipeline(tmp_path: Path, picture: torch.Tensor) -> None:
    model = load(tiny_models.instruct_pix2pix(tmp_path / "model"), INSTRUCT)
    noise, generator = random_latents(model, SIZE, 0)
    theirs = model.pipeline(
        "make it gold",
        image=picture,
        latents=noise.clone(),
        guidance_scale=5.0,
        image_guidance_scale=1.7,
        num_inference_steps=4,
        output_type="latent",
    ).images
    guide = model.follow(picture, model.guide("make it gold", "", 5.0, SIZE), 1.7)
    levels = model.levels(4)
    ours = model.denoise(noise * model.scheduler.init_noise_sigma, levels, guide, generator)
    assert torch.allclose(ours, theirs, atol=1e-4), float((ours - theirs).abs().max())


def test_equals_the_controlled_pipeline(tmp_path: Path, picture: torch.Tensor) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    model = load(tiny_models.stable_diffusion(tmp_path / "model"))
    network = load_controlnet(str(tiny_models.controlnet(tmp_path / "control")), model)
    parts = {**model.pipeline.components, "controlnet": network, "requires_safety_checker": False}
    pipeline = StableDiffusionControlNetPipeline(**parts)
    noise, generator = random_latents(model, SIZE, 0)
    common = {"guidance_scale": 3.0, "num_inference_steps": 4, "controlnet_conditioning_scale": 0.8}
    theirs = pipeline("gold", image=picture, latents=noise.clone(), output_type="latent", **common).images
    guide = replace(model.guide("gold", "", 3.0, SIZE), control=Control(network, picture, 0.8))
    levels = model.levels(4)
    ours = model.denoise(noise * model.scheduler.init_noise_sigma, levels, guide, generator)
    assert torch.allclose(ours, theirs, atol=1e-4), float((ours - theirs).abs().max())
    free = model.denoise(noise, model.levels(4), replace(guide, control=None), generator)
    assert float((ours - free).abs().max()) > 1e-3, "the ControlNet is to have an effect"


def test_equals_the_pipeline_with_rescaled_guidance(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    model = load(tiny_models.stable_diffusion(tmp_path / "model"))
    pipeline = StableDiffusionPipeline(**model.pipeline.components, requires_safety_checker=False)
    noise, generator = random_latents(model, SIZE, 0)
    common = {"guidance_scale": 6.0, "num_inference_steps": 4, "guidance_rescale": 0.7}
    height, width = SIZE
    found = pipeline("gold", latents=noise.clone(), height=height, width=width, output_type="latent", **common)
    guide = replace(model.guide("gold", "", 6.0, SIZE), rescale=0.7)
    ours = model.denoise(noise, model.levels(4), guide, generator)
    assert torch.allclose(ours, found.images, atol=1e-4), float((ours - found.images).abs().max())


def test_a_model_for_inpainting_loads_for_that_alone(tmp_path: Path) -> None:
    from canon.errors import InputError

    folder = tiny_models.inpainting(tmp_path / "model")
    assert load(folder, FILL).beside == 5
    with pytest.raises(InputError, match="another task"):
        load(folder)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(8, 24), st.sampled_from([0.0, 0.25, 0.5]), st.booleans())
def test_windows_cover_all_and_put_the_same_together(
    height: int, width: int, side: int, overlap: float, shrink: bool
) -> None:
    whole = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    places = windows((height, width), side, overlap, multiple=4, shrink=shrink)
    assert len(places) == len(windows((height, width), side, overlap, multiple=4))
    if len(places) > 1:
        assert max(max(place.height, place.width) for place in places) <= side
    assert all(w.top >= 0 and w.top + w.height <= height and w.left + w.width <= width for w in places)
    assert torch.allclose(blended(((place, place.cut(whole)) for place in places), whole), whole, atol=1e-5)


def test_a_large_picture_is_denoised_in_windows_that_agree(tmp_path: Path) -> None:
    model = load(tiny_models.stable_diffusion(tmp_path / "model"))
    size = (96, 160)
    noise, _ = random_latents(model, size, 0)
    guide = model.guide("gold", "", 2.0, size)
    model.native = 1000
    whole = model.predict(noise, model.levels(4)[0], guide)
    model.native = 64
    parts = model.predict(noise, model.levels(4)[0], guide)
    assert parts.shape == whole.shape and torch.isfinite(parts).all()
    # The network looks at all of what it is given: windows are near to the whole, not equal.
    assert float((parts - whole).abs().mean()) < 0.5 * float(whole.abs().mean())


def test_inversion_clips_no_latents(tmp_path: Path) -> None:
    model = load(tiny_models.stable_diffusion(tmp_path / "model"))
    model.scheduler = EulerDiscreteScheduler()
    assert not invertible(model).scheduler.config.clip_sample


def test_an_exemplar_has_the_order_of_its_model(tmp_path: Path) -> None:
    adapter = str(tiny_models.ip_adapter(tmp_path / "adapter"))
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    for name, task in (("stable_diffusion", DESCRIBE), ("instruct_pix2pix", INSTRUCT)):
        folder = getattr(tiny_models, name)(tmp_path / name)
        model = load_model(DiffusionConfig(prompt="x", model=str(folder), ip_adapter=adapter, exemplar="x"), task)
        assert isinstance(model, LatentModel)
        found = model.exemplar(str(tmp_path / "a.png"), 1.0, model.guide("x", "", 7.0, SIZE))["image_embeds"]
        assert [float(one.abs().max()) > 0 for one in found[0]] == [False, True]


def test_a_transformer_has_the_size_of_its_pipeline(tmp_path: Path) -> None:
    model = load_model(DiffusionConfig(prompt="x", model=str(tiny_models.flux(tmp_path / "flux"))), DESCRIBE)
    assert model.native == model.pipeline.default_sample_size * model.pipeline.vae_scale_factor


def test_large_files_are_told_apart_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_LARGE", 1000)
    monkeypatch.setattr(models, "_SAMPLED", 100)
    content = bytearray(np.random.default_rng(0).bytes(5000))
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    first = fingerprint(str(path))
    assert first == fingerprint(str(path))
    content[-1] ^= 1
    path.write_bytes(content)
    assert fingerprint(str(path)) != first
    assert fingerprint("nobody/nothing") == "nobody/nothing"


def test_inversion_leads_back_to_the_same_latents(tmp_path: Path) -> None:
    model = load(tiny_models.stable_diffusion(tmp_path / "model"))
    latents, _ = random_latents(model, SIZE, 1)
    guide = model.guide("", "", 1.0, SIZE)
    levels, trajectory = model.invert(latents, guide, 60, 0.6)
    start = trajectory[int(levels[0])]
    assert float((start - latents).abs().mean()) > 0.1
    back = model.denoise(start, levels, guide, torch.Generator())
    assert float((back - latents).abs().mean()) < 0.15 * float(latents.abs().mean())
    coarse_levels, coarse = model.invert(latents, guide, 8, 0.6)
    rough = model.denoise(coarse[int(coarse_levels[0])], coarse_levels, guide, torch.Generator())
    assert float((back - latents).abs().mean()) < float((rough - latents).abs().mean())


def test_what_is_kept_stays_to_the_bit(tmp_path: Path, picture: torch.Tensor) -> None:
    model = load(tiny_models.stable_diffusion(tmp_path / "model"))
    latents = model.encode(picture)
    area = np.zeros(SIZE, np.float32)
    area[8:24, 8:24] = 1
    wanted = latent_mask(area, model.factor, model.device)
    noise, generator = random_latents(model, SIZE, 0)
    levels = model.levels(4)
    keep = Keep(wanted, lambda t: latents if t is None else model.noised(latents, noise, t))
    guide = model.guide("gold", "", 2.0, SIZE)
    made = model.denoise(model.noised(latents, noise, levels[:1]), levels, guide, generator, keep)
    kept = (wanted == 0).expand_as(latents)
    assert torch.equal(made[kept], latents[kept]) and not torch.equal(made[~kept], latents[~kept])


def test_a_model_that_is_told_more_than_a_prompt_is_refused(tmp_path: Path) -> None:
    from canon.errors import InputError

    folder = tiny_models.stable_diffusion_xl(tmp_path / "refiner")
    index = folder / "model_index.json"
    told = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    index.write_text(json.dumps({**json.loads(index.read_text()), **told}))
    with pytest.raises(InputError, match="told more than a prompt"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "device", "kind", "wanted"),
    [
        ("auto", "cpu", "FluxPipeline", torch.float32),
        ("auto", "cuda", "FluxPipeline", torch.bfloat16),
        ("auto", "cuda", "StableDiffusionXLPipeline", torch.float16),
        ("float32", "cuda", "FluxPipeline", torch.float32),
    ],
)
def test_transformers_compute_where_they_do_not_run_over(
    name: str, device: str, kind: str, wanted: torch.dtype
) -> None:
    assert models._dtype(name, torch.device(device), kind) is wanted
