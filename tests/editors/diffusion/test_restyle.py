"""Repainting by description, with real pipelines at a tiny size: what is called, what it changes, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from contracts import EditorContract, fit  # noqa: F401
from truth import small_scene, split_in_two, true_fit

import canon
from canon.cli import BAD_INPUT, main
from canon.editors.diffusion import models
from canon.editors.diffusion.canvases import regions, working_size
from canon.editors.diffusion.restyle import RestyleConfig
from canon.edits import Over
from canon.errors import InputError
from canon.fits import Fit
from canon.project import Project
from canon.storage import write_image

FAST: dict[str, Any] = {"prompt": "gold", "steps": 2, "strength": 1.0, "guidance": 2.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def project(fit: Fit, tmp_path: Path) -> Project:  # noqa: F811
    made = Project.create(tmp_path / "project")
    made.adopt(fit.clip)
    fit.save(made.fit_folder("atlas"))
    return made


class TestRestyleContract(EditorContract):
    name = "restyle"

    @pytest.fixture(autouse=True)
    def _model(self, model: Path) -> None:
        self.model = model

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**FAST, "model": str(self.model)}


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_families_give_the_same_pixels_for_the_same_seed(fit: Fit, family: str, tmp_path: Path) -> None:  # noqa: F811
    folder = getattr(tiny_models, family)(tmp_path / family)
    edits = [
        canon.edit(fit, "restyle", layer="foreground", model=str(folder), **{**FAST, "seed": seed})
        for seed in (0, 0, 1)
    ]
    first, again, other = (edit.steps[0].operation.rgba for edit in edits)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.isfinite(first).all() and (first[..., 3] > 0.99).any()
    told = edits[0].steps[0].provenance.options
    assert told["prompt"] == "gold" and told["model_hash"] and told["seed"] == 0


def test_only_the_masked_part_changes_and_its_edge_fades(fit: Fit, model: Path, tmp_path: Path) -> None:  # noqa: F811
    height, width = fit.canonical("background").size
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 255
    write_image(tmp_path / "mask.png", mask)
    edit = canon.edit(fit, "restyle", layer="background", model=str(model), mask=str(tmp_path / "mask.png"), **FAST)
    operation = edit.steps[0].operation
    assert isinstance(operation, Over)
    alpha = operation.rgba[..., 3]
    assert alpha[: height // 2 - 12].mean() > 0.9 and alpha[height // 2 + 12 :].max() == 0
    assert len(np.unique(alpha[height // 2 - 6 : height // 2 + 6, width // 2].round(2))) > 4


def test_segments_agree_on_what_both_show(model: Path) -> None:
    whole = true_fit(small_scene("pan"))
    split = split_in_two(whole, "foreground", 4, 2)
    found = regions(split, "foreground", RestyleConfig(prompt="x", feather=0))
    assert [region.segment for region in found] == [0, 1]
    video = canon.render(split, canon.edit(split, "restyle", layer="foreground", model=str(model), **FAST))
    before, after = (
        canon.render(split, canon.edit(split, "grade", layer="foreground", exposure=0.0))[t] for t in (3, 4)
    )
    moved = np.abs(before.astype(int) - after).mean()
    assert np.abs(video[3].astype(int) - video[4]).mean() < moved + 6
    assert all((video[t] != split.clip.frames[t]).any() for t in range(len(split)))


def test_unobserved_texels_are_filled_before_the_model_sees_them(fit: Fit) -> None:  # noqa: F811
    (region,) = regions(fit, "foreground", RestyleConfig(prompt="x", feather=0))
    assert region.image[region.area == 0].std() < 0.5 and np.isfinite(region.image).all()
    assert region.image.shape[:2] == region.area.shape


def test_working_sizes_keep_the_aspect_and_suit_the_model() -> None:
    assert working_size((500, 1000), 512, 64) == (384, 704)
    assert working_size((61, 47), 32, 8) == (40, 32) or working_size((61, 47), 32, 8) == (32, 24)
    assert all(side % 64 == 0 for side in working_size((333, 777), 1024, 64))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": " "}, "prompt is needed"),
        ({"model": ""}, "model is needed"),
        ({"model": "./nowhere"}, "no folder"),
        ({"model": "somebody/something"}, "not on this machine"),
        ({"strength": 0.0}, "strength"),
        ({"steps": 1, "strength": 0.5}, "more steps"),
        ({"scheduler": "NoScheduler"}, "cannot be sampled"),
        ({"lora": ("missing.safetensors",)}, "LoRA"),
        ({"dtype": "int8"}, "dtype"),
        ({"segment": 3}, "segment"),
    ],
)
def test_bad_options_end_in_one_sentence(
    fit: Fit,  # noqa: F811
    model: Path,
    options: dict[str, Any],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=sentence):
        canon.edit(fit, "restyle", layer="background", **{**FAST, "model": str(model), **options})


def test_a_folder_that_is_no_model_and_one_of_another_kind(fit: Fit, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no diffusers model"):
        canon.edit(fit, "restyle", model=str(tmp_path / "empty"), **FAST)
    told = tiny_models.instruct_pix2pix(tmp_path / "told")
    with pytest.raises(InputError, match="follows instructions"):
        canon.edit(fit, "restyle", model=str(told), **FAST)
    with pytest.raises(InputError, match="is a DDPMPipeline, which is no model"):
        canon.edit(fit, "restyle", model=str(tiny_models.unconditional(tmp_path / "ddpm")), **FAST)


def test_a_mask_that_selects_nothing(fit: Fit, model: Path, tmp_path: Path) -> None:  # noqa: F811
    height, width = fit.canonical("background").size
    write_image(tmp_path / "black.png", np.zeros((height, width), np.uint8))
    with pytest.raises(InputError, match="selects nothing"):
        canon.edit(fit, "restyle", layer="background", model=str(model), mask=str(tmp_path / "black.png"), **FAST)


def test_an_exemplar_steers_through_an_ip_adapter(fit: Fit, model: Path, tmp_path: Path) -> None:  # noqa: F811
    adapter = str(tiny_models.ip_adapter(tmp_path / "adapter"))
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", (rng.random((50, 40, 3)) * 255).astype(np.uint8))

    def made(name: str, scale: float) -> Any:
        more = {"exemplar": str(tmp_path / f"{name}.png"), "exemplar_scale": scale, "ip_adapter": adapter}
        return canon.edit(fit, "restyle", layer="foreground", model=str(model), **FAST, **more).steps[0]

    steps = [made("a", 0.9), made("a", 0.9), made("b", 0.9), made("a", 0.0)]
    steps += canon.edit(fit, "restyle", layer="foreground", model=str(model), **FAST).steps
    a, again, b, off, none = (step.operation.rgba for step in steps)
    assert np.array_equal(a, again) and not np.array_equal(a, b) and not np.array_equal(a, none)
    assert np.allclose(off, none, atol=2e-3) and len(steps[0].provenance.files) == 1
    write_image(tmp_path / "grey.png", np.full((40, 50), 90, np.uint8))
    more = {"ip_adapter": adapter, "exemplar": str(tmp_path / "grey.png")}
    options = {"prompt": "gold", "model": str(model), "steps": 3, **more}
    assert np.isfinite(canon.edit(fit, "invert", **options).steps[0].operation.rgba).all()
    encoder = tmp_path / "adapter" / "image_encoder"
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    models._kept.clear()
    with pytest.raises(InputError, match=r"IP-Adapter .* cannot be loaded"):
        canon.edit(fit, "restyle", model=str(model), **FAST, **more)


def test_a_lora_has_its_say(fit: Fit, model: Path, tmp_path: Path) -> None:  # noqa: F811
    first, second = (str(tiny_models.lora(tmp_path / name, seed)) for seed, name in enumerate(("first", "second")))
    with_it, without, again, other, both = (
        canon.edit(fit, "restyle", layer="foreground", model=str(model), lora=lora, **FAST).steps[0].operation.rgba
        for lora in ((first,), (), (first,), (second,), (first, second))
    )
    assert np.array_equal(with_it, again) and not np.array_equal(with_it, without)
    assert not np.array_equal(both, with_it) and not np.array_equal(both, other)
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"LoRA .* cannot be loaded"):
        canon.edit(fit, "restyle", model=str(model), lora=(str(tmp_path / "broken.safetensors"),), **FAST)


def test_a_lora_that_cannot_be_fetched_is_told(
    fit: Fit,  # noqa: F811
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import diffusers.loaders.lora_base as lora_base
    from huggingface_hub import HfApi

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    nobody_listens = HfApi("http://127.0.0.1:9")
    monkeypatch.setattr(lora_base, "model_info", nobody_listens.model_info)
    with pytest.raises(InputError, match=r"'somebody/gold' cannot be fetched .* give its \.safetensors file"):
        canon.edit(fit, "restyle", model=str(model), lora=("somebody/gold",), **FAST)


def test_memory_that_does_not_suffice_is_told(fit: Fit, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from canon.editors.diffusion.latents import LatentModel

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for place in ("predict", "__init__"):  # at work, and when it is loaded
        models._kept.clear()
        with monkeypatch.context() as patch:
            patch.setattr(LatentModel, place, full)
            with pytest.raises(InputError, match=r"lower --size.*--offload"):
                canon.edit(fit, "restyle", layer="foreground", model=str(model), **FAST)


def test_numbers_that_run_over_are_told(fit: Fit, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from canon.editors.diffusion.latents import LatentModel

    monkeypatch.setattr(LatentModel, "predict", lambda _, latents, *__: latents * float("nan"))
    with pytest.raises(InputError, match="choose another --dtype"):
        canon.edit(fit, "restyle", layer="foreground", model=str(model), **FAST)


def test_several_layers_and_variants_from_the_command_line(
    project: Project,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ["--model", str(model), "--steps", "2"]
    common = ["edit", str(project.folder), "--editor", "restyle", "--name", "both", "--variants", "2"]
    first, second = (
        ["--layer", layer, "--prompt", word] for layer, word in (("foreground", "gold"), ("background", "snow"))
    )
    assert main([*common, *own, *first, "--and", *second, *own]) == 0
    assert project.edits == ["both-1", "both-2"]
    edits = [project.edit(name) for name in project.edits]
    assert edits[0].layers == ["foreground", "background"]
    told = [[step.provenance.options for step in edit.steps] for edit in edits]
    assert [options["prompt"] for options in told[0]] == ["gold", "snow"]
    assert [options["seed"] for options in (*told[0], *told[1])] == [0, 0, 1, 1]
    assert (project.folder / "renders" / "both.png").is_file() and "to choose from" in capsys.readouterr().out
    assert main([*common[:-1], "99", *own, *first]) == BAD_INPUT
    assert "1 to 24" in capsys.readouterr().err
    grade = ["edit", str(project.folder), "--editor", "grade", "--name", "g", "--variants", "2", "--exposure", "1"]
    assert main(grade) == BAD_INPUT
    assert "nothing to chance" in capsys.readouterr().err


def test_the_baseline_is_measured_beside_the_edit(fit: Fit, model: Path) -> None:  # noqa: F811
    edit = canon.edit(fit, "restyle", layer="foreground", model=str(model), **FAST)
    found = canon.evaluate(fit, edit, framewise=True, colour="gold")
    assert found["changed_outside"] == 0
    assert float(found["framewise_warp_error_inside"]) > 0 and float(found["framewise_palette_distance"]) > 0


def test_from_the_command_line(
    project: Project,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["edit", str(project.folder), "--editor", "restyle", "--name", "gold", "--layer", "foreground"]
    assert main([*common, "--prompt", "gold", "--model", str(model), "--steps", "2"]) == 0
    assert (project.folder / "edits" / "gold" / "edit.yaml").is_file()
    assert main([*common, "--model", str(model)]) == BAD_INPUT
    assert "prompt is needed" in capsys.readouterr().err
