"""Every text-driven editor with real pipelines at a tiny size: contract, families, what it keeps and refuses."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from contracts import EditorContract, fit  # noqa: F401
from truth import small_scene, split_in_two, true_fit

import canon
from canon.editors.diffusion import painters, prompted_regions
from canon.editors.diffusion.annotators import annotate
from canon.editors.diffusion.keyframes import _median
from canon.editors.diffusion.prompted_regions import RegionPaint
from canon.edits import Over
from canon.errors import InputError
from canon.fits import Fit
from canon.registry import editor, make_config
from canon.storage import to_uint8, write_image

FAST: dict[str, Any] = {"prompt": "gold", "steps": 2, "guidance": 2.0, "refine": 0.0, "size": 32}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    names = ["stable_diffusion", "instruct_pix2pix", "inpainting", "controlnet", "flux", "flux_kontext", "flux_fill"]
    if find_spec("torchvision") is not None:
        names.append("qwen_image_edit")
    return {name: str(getattr(tiny_models, name)(folder / name)) for name in names}


def whole_mask(fit: Fit, folder: Path, layer: str = "foreground") -> str:  # noqa: F811
    height, width = fit.canonical(layer).size
    write_image(folder / f"mask-{layer}.png", np.full((height, width), 255, np.uint8))
    return str(folder / f"mask-{layer}.png")


class DiffusionContract(EditorContract):
    model = "stable_diffusion"
    own: dict[str, Any] = {}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _models(self, models: dict[str, str]) -> None:
        self.models = models

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**FAST, "model": self.models[self.model], **self.own}

    def test_frame_by_frame_baseline(self, fit: Fit, tmp_path: Path) -> None:  # noqa: F811
        kind = editor(self.name)
        config = make_config(kind.Config, {**self.options(fit, tmp_path), "layer": "foreground"})
        frames = kind().framewise(fit, config)
        assert len(frames) == len(fit)
        first, again = frames[0], frames[0]
        assert first.dtype == np.uint8 and first.shape == (*fit.size, 3) and np.array_equal(first, again)
        outside = fit.weights(0)[fit.layers.index("foreground")] == 0
        assert np.array_equal(first[outside], fit.clip.frames[0][outside])
        assert (first != fit.clip.frames[0]).any()


class Controlled(DiffusionContract):
    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**super().options(fit, folder), "controlnet": self.models["controlnet"]}


class TestControlnetContract(Controlled):
    name = "controlnet"


class TestInstructContract(DiffusionContract):
    name, model = "instruct", "instruct_pix2pix"


class TestInvertContract(DiffusionContract):
    name, own = "invert", {"steps": 3}


class TestStableVideoContract(Controlled):
    name, own = "stablevideo", {"keyframes": 2, "aggregation_steps": 2}


class TestVidEditContract(Controlled):
    name, own = "videdit", {"steps": 3}


class TestInpaintContract(DiffusionContract):
    name, model = "inpaint", "inpainting"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**super().options(fit, folder), "mask": whole_mask(fit, folder)}

    def test_takes_several_layers_at_once(self, fit: Fit, tmp_path: Path) -> None:  # noqa: F811
        layers = {
            name: {**self.options(fit, tmp_path), "mask": whole_mask(fit, tmp_path, name)}
            for name in ("occluder", "foreground")
        }
        assert canon.edit(fit, self.name, layers=layers).layers == ["occluder", "foreground"]

    def test_frame_by_frame_baseline(self, fit: Fit, tmp_path: Path) -> None:  # noqa: F811
        kind = editor(self.name)
        config = make_config(kind.Config, {**self.options(fit, tmp_path), "layer": "foreground"})
        with pytest.raises(InputError, match="--mask is of the canvas"):
            kind().framewise(fit, config)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("inpaint", "stable_diffusion"),
        ("inpaint", "flux"),
        ("inpaint", "flux_fill"),
        ("instruct", "flux_kontext"),
        pytest.param(
            "instruct",
            "qwen_image_edit",
            marks=pytest.mark.skipif(find_spec("torchvision") is None, reason="Qwen's processor needs torchvision"),
        ),
    ],
)
def test_families(fit: Fit, models: dict[str, str], name: str, family: str, tmp_path: Path) -> None:  # noqa: F811
    more = {"mask": whole_mask(fit, tmp_path)} if name == "inpaint" else {}
    options = {**FAST, **more, "layer": "foreground", "model": models[family]}
    first, again, other = (canon.edit(fit, name, **options, seed=seed).steps[0].operation.rgba for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.isfinite(first).all() and (first[..., 3] > 0.99).any()


@pytest.mark.parametrize(
    ("name", "family", "more", "sentence"),
    [
        ("inpaint", "stable_diffusion", {}, "mask is needed"),
        ("instruct", "stable_diffusion", {}, "follows no instructions"),
        ("restyle", "instruct_pix2pix", {}, "follows instructions"),
        ("restyle", "inpainting", {}, "another task"),
        ("restyle", "flux_fill", {}, "only fills in"),
        ("controlnet", "stable_diffusion", {}, "ControlNet is needed"),
        ("controlnet", "stable_diffusion", {"controlnet": "./nowhere"}, "no folder"),
        ("controlnet", "stable_diffusion", {"control": "pose"}, "not known"),
        ("controlnet", "flux", {"controlnet": "controlnet"}, "Stable Diffusion models"),
        ("invert", "flux", {}, "cannot be inverted"),
        ("invert", "stable_diffusion", {"ratio": 0.0}, "ratio"),
        ("videdit", "stable_diffusion", {"controlnet": "controlnet", "regions": ("gold",)}, "AREA=PROMPT"),
        ("videdit", "stable_diffusion", {"controlnet": "controlnet", "regions": ("swan=gold",)}, "--segmenter"),
        ("videdit", "stable_diffusion", {"controlnet": "controlnet", "regions": ("999,999,9,9=gold",)}, "nothing"),
        ("videdit", "stable_diffusion", {"controlnet": "controlnet", "prompt": ""}, "prompt is needed"),
        ("stablevideo", "stable_diffusion", {"controlnet": "controlnet", "at": (999,)}, "no frame 999"),
        ("invert", "stable_diffusion", {"scheduler": "EulerDiscreteScheduler"}, "by DDIM"),
        ("restyle", "stable_diffusion", {"steps": 2000}, "cannot be sampled in 2000 steps"),
        ("restyle", "stable_diffusion", {"device": "gpu"}, "cannot be used here"),
        ("restyle", "stable_diffusion", {"exemplar": "x.png"}, "go together"),
        ("controlnet", "stable_diffusion", {"controlnet": "controlnet", "hint": "none.png"}, "none.png"),
        ("stablevideo", "stable_diffusion", {"controlnet": "controlnet", "hint": "x.png"}, "--keyframes 0"),
        ("restyle", "flux", {"exemplar": "x.png", "ip_adapter": "x.safetensors"}, "takes no IP-Adapter"),
        ("restyle", "stable_diffusion", {"exemplar": "x.png", "ip_adapter": "x.bin"}, "others are not opened"),
    ],
)
def test_bad_options_end_in_one_sentence(
    fit: Fit,  # noqa: F811
    models: dict[str, str],
    name: str,
    family: str,
    more: dict[str, Any],
    sentence: str,
) -> None:
    options = {**FAST, **{key: models.get(str(value), value) for key, value in more.items()}, "model": models[family]}
    with pytest.raises(InputError, match=sentence):
        canon.edit(fit, name, layer="foreground", **options)


def test_a_controlnet_of_another_model_is_refused(fit: Fit, models: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    larger = tiny_models.stable_diffusion_xl(tmp_path / "xl")
    with pytest.raises(InputError, match="made for another model"):
        canon.edit(fit, "controlnet", **{**FAST, "model": str(larger), "controlnet": models["controlnet"]})


@pytest.mark.parametrize(
    ("name", "more"), [("controlnet", {}), ("videdit", {"steps": 3}), ("stablevideo", {"keyframes": 0})]
)
def test_a_hint_takes_the_place_of_what_is_found(
    fit: Fit,  # noqa: F811
    models: dict[str, str],
    name: str,
    more: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {**FAST, "layer": "foreground", "model": models["stable_diffusion"], "controlnet": models["controlnet"]}
    canvas = fit.canonical("foreground").rgba[..., :3]
    write_image(tmp_path / "same.png", to_uint8(annotate(canvas, "soft-edge", "", torch.device("cpu"))))
    write_image(tmp_path / "other.png", np.full((*canvas.shape[:2], 3), 200, np.uint8))
    hints = [str(tmp_path / f"{file}.png") for file in ("same", "other", "same")]
    steps = [canon.edit(fit, name, **{**options, **more}, hint=hint).steps[0] for hint in hints]
    same, other, again = (step.operation.rgba for step in steps)
    assert np.array_equal(same, again) and not np.array_equal(same, other)
    assert hints[0] in str(steps[0].provenance.files)
    # What is found is not looked for.
    monkeypatch.setattr(painters, "annotate", None)
    canon.edit(fit, name, **{**options, **more}, hint=hints[0])


def test_regions_have_prompts_of_their_own(fit: Fit, models: dict[str, str]) -> None:  # noqa: F811
    common = {**FAST, "steps": 3, "layer": "background", "model": models["stable_diffusion"], "feather": 0.0}
    common |= {"controlnet": models["controlnet"], "prompt": ""}
    height, width = fit.canonical("background").size
    left, right = f"0,0,{width // 2 - 8},{height}", f"{width // 2 + 8},0,{width},{height}"
    both = canon.edit(fit, "videdit", regions=(f"{left}=gold", f"{right}=snow"), **common).steps[0].operation
    one = canon.edit(fit, "videdit", regions=(f"{left}=gold",), **common).steps[0].operation
    other = canon.edit(fit, "videdit", regions=(f"{left}=snow",), **common).steps[0].operation
    assert isinstance(both, Over) and isinstance(one, Over) and isinstance(other, Over)
    part = np.s_[:, : width // 2 - 8]
    assert np.array_equal(both.rgba[part], one.rgba[part]) and not np.array_equal(other.rgba[part], one.rgba[part])
    assert (both.rgba[:, width // 2 - 6 : width // 2 + 6, 3] == 0).all() and (one.rgba[:, width // 2 :, 3] == 0).all()
    assert (both.rgba[:, width // 2 + 10 :, 3] > 0).any()


def test_regions_that_meet_leave_no_seam() -> None:
    left = np.clip(np.linspace(1.5, -0.5, 20, dtype=np.float32), 0, 1)[None].repeat(6, axis=0)
    whole = np.s_[0:6, 0:20]
    found = RegionPaint(np.zeros((6, 20, 3), np.float32))
    found.put(whole, np.full((6, 20, 3), 0.8, np.float32), left)
    assert np.allclose(found.rgba[..., 3], left) and np.allclose(found.rgba[:, :10, :3], 0.8)
    found.put(whole, np.full((6, 20, 3), 0.4, np.float32), 1 - left)
    assert np.allclose(found.rgba[..., 3], 1)
    assert np.allclose(found.shown(whole)[..., 0], 0.8 * left + 0.4 * (1 - left), atol=1e-6)
    found.put(np.s_[2:4, 2:5], np.ones((2, 3, 3), np.float32), np.ones((2, 3), np.float32))
    assert np.allclose(found.rgba[2:4, 2:5], 1)


def test_regions_have_no_baseline_and_prompts_that_are_known(fit: Fit, models: dict[str, str]) -> None:  # noqa: F811
    options = {**FAST, "layer": "foreground", "model": models["stable_diffusion"], "prompt": "", "steps": 3}
    options |= {"controlnet": models["controlnet"], "regions": ("0,0,50,60=red",)}
    edit = canon.edit(fit, "videdit", **options)
    with pytest.raises(InputError, match="--regions is of the canvas"):
        canon.evaluate(fit, edit, framewise=True)
    assert canon.evaluate(fit, edit)["palette_distance"] > 0
    weights = edit.steps[0].provenance.options["weights"]
    assert list(weights) == [models["controlnet"]] and weights[models["controlnet"]] != models["controlnet"]


def test_a_place_is_one_of_one_segment(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_in_two(true_fit(small_scene("pan")), "foreground", 4, 2)
    options = {**FAST, "model": models["stable_diffusion"], "controlnet": models["controlnet"], "steps": 3}
    painted: list[int] = []
    monkeypatch.setattr(prompted_regions, "painted", lambda image, *_: painted.append(0) or np.ones_like(image))
    common = {"layer": "foreground", "regions": ("0,0,999,999=gold",)}
    for segment in (None, 1):
        painted.clear()
        rgba = canon.edit(split, "videdit", **common, segment=segment, **options).steps[0].operation.rgba
        assert len(painted) == 1 and (rgba[split.segment_box("foreground", segment or 0)][..., 3] > 0.99).any()
    split.layer("foreground").coverage[split.segment_box("foreground", 1)] = 0
    with pytest.raises(InputError, match="Nothing was seen of the layer 'foreground' in segment 1"):
        canon.edit(split, "videdit", **common, segment=1, **options)


def test_the_median_counts_what_is_there() -> None:
    paints = [np.zeros((2, 3, 4), np.float32) for _ in range(3)]
    for k, value in enumerate((0.2, 0.9, 0.4)):
        paints[k][..., :3], paints[k][..., 3] = value, 1
    paints[1][0, 0] = 0  # seen by two: their mean, not a median with nothing
    paints[0][1, 1] = paints[1][1, 1] = paints[2][1, 1] = 0
    paints[0][1, 2] = paints[2][1, 2] = 0
    colours, known = _median(paints)
    assert np.allclose(colours[0, 0], 0.3) and np.allclose(colours[0, 1], 0.4) and np.allclose(colours[1, 2], 0.9)
    assert not known[1, 1] and known.sum() == 5


def test_stablevideo_reaches_every_segment(models: dict[str, str]) -> None:
    split = split_in_two(true_fit(small_scene("pan")), "foreground", 4, 2)
    options = {**FAST, "model": models["stable_diffusion"], "controlnet": models["controlnet"], "keyframes": 1}
    video = canon.render(split, canon.edit(split, "stablevideo", layer="foreground", **options, aggregation_steps=0))
    for t in range(len(split)):
        solid = split.coordinates(t, "foreground")[1] > 0.9
        changed = (np.abs(video[t].astype(int) - split.clip.frames[t]).max(axis=-1) > 1)[solid]
        assert changed.mean() > 0.9, t
