"""Repainting by description, with real pipelines at a tiny size: what is called, what it changes, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from contracts import EditorContract, fit  # noqa: F401
from truth import small_scene, split_in_two, true_fit

import canon
from canon.cli import BAD_INPUT, main
from canon.editors.diffusion.canvases import regions, working_size
from canon.edits import Over
from canon.errors import InputError
from canon.fits import Fit
from canon.project import Project
from canon.storage import write_image

FAST: dict[str, Any] = {"prompt": "gold", "steps": 2, "strength": 1.0, "guidance": 2.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("model") / "tiny")


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
    found = regions(split, "foreground", None, None, 0)
    assert [region.segment for region in found] == [0, 1]
    video = canon.render(split, canon.edit(split, "restyle", layer="foreground", model=str(model), **FAST))
    before, after = (
        canon.render(split, canon.edit(split, "grade", layer="foreground", exposure=0.0))[t] for t in (3, 4)
    )
    moved = np.abs(before.astype(int) - after).mean()
    assert np.abs(video[3].astype(int) - video[4]).mean() < moved + 6
    assert all((video[t] != split.clip.frames[t]).any() for t in range(len(split)))


def test_unobserved_texels_are_filled_before_the_model_sees_them(fit: Fit) -> None:  # noqa: F811
    (region,) = regions(fit, "foreground", None, None, 0)
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


def test_a_mask_that_selects_nothing(fit: Fit, model: Path, tmp_path: Path) -> None:  # noqa: F811
    height, width = fit.canonical("background").size
    write_image(tmp_path / "black.png", np.zeros((height, width), np.uint8))
    with pytest.raises(InputError, match="selects nothing"):
        canon.edit(fit, "restyle", layer="background", model=str(model), mask=str(tmp_path / "black.png"), **FAST)


def test_from_the_command_line(
    fit: Fit,  # noqa: F811
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = Project.create(tmp_path / "project")
    project.adopt(fit.clip)
    fit.save(project.fit_folder("atlas"))
    common = ["edit", str(project.folder), "--editor", "restyle", "--name", "gold", "--layer", "foreground"]
    assert main([*common, "--prompt", "gold", "--model", str(model), "--steps", "2"]) == 0
    assert (project.folder / "edits" / "gold" / "edit.yaml").is_file()
    assert main([*common, "--model", str(model)]) == BAD_INPUT
    assert "prompt is needed" in capsys.readouterr().err
