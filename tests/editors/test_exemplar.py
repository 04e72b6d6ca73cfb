"""The look of a picture on a layer: patterns and palettes that are known, and pictures that must come back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from contracts import EditorContract, fit  # noqa: F401
from truth import small_scene, true_fit

import canon
from canon.editors import patches
from canon.editors.exemplar import ExemplarConfig, read_exemplar
from canon.editors.patches import Picture, synthesise
from canon.edits import Over
from canon.errors import InputError
from canon.fits import Fit
from canon.storage import to_float, to_uint8, write_image

RED, WHITE = (200, 30, 40), (235, 235, 230)
PERIOD = 10


def stripes(height: int = 60, width: int = 90, period: int = PERIOD) -> np.ndarray:
    """Upright stripes, uint8 [h, w, 3]."""
    first = (np.arange(width) % period < period // 2)[None, :, None]
    return np.broadcast_to(np.where(first, RED, WHITE), (height, width, 3)).astype(np.uint8)


def halves() -> np.ndarray:
    """Noisy green on the left, noisy blue on the right, uint8 [40, 80, 3]."""
    image = np.zeros((40, 80, 3), np.uint8)
    noise = np.random.default_rng(0).integers(-30, 31, (40, 40, 1))
    image[:, :40] = np.clip(np.array([20, 180, 40]) + noise, 0, 255)
    image[:, 40:] = np.clip(np.array([30, 40, 190]) + noise, 0, 255)
    return image


def scenery(height: int = 70, width: int = 110) -> np.ndarray:
    """Something with broad light and shade, float32 [h, w, 3]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = 0.5 + 0.3 * np.sin(x / 17) * np.cos(y / 23)
    light[20:45, 30:60] *= 0.4
    return np.dstack([light, light * 0.9, light * 0.8])


def made(exemplar: np.ndarray, structure: float = 0.0, **more: Any) -> np.ndarray:
    """The scenery in the look of a picture."""
    image, usable = scenery(), np.ones(exemplar.shape[:2], bool)
    area = np.ones(image.shape[:2], np.float32)
    return synthesise(image, area, Picture(to_float(exemplar), usable), structure=structure, **more)


def paint_of(fit: Fit, **options: Any) -> np.ndarray:  # noqa: F811
    """The paint of an edit, of the background unless said, float32 [h, w, 4]."""
    operation = canon.edit(fit, "exemplar", **{"layer": "background", **options}).steps[0].operation
    assert isinstance(operation, Over)
    return operation.rgba


@pytest.fixture
def striped(tmp_path: Path) -> str:
    write_image(tmp_path / "stripes.png", stripes())
    return str(tmp_path / "stripes.png")


class TestExemplarContract(EditorContract):
    name = "exemplar"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        write_image(folder / "stripes.png", stripes())
        return {"image": str(folder / "stripes.png")}


def dominant_period(image: np.ndarray) -> float:
    """Texels from one stripe to the next, from left to right, of [h, w, 3]."""
    green = image[..., 1] - image[..., 1].mean()
    power = (np.abs(np.fft.rfft(green * np.hanning(green.shape[1]), n=4096)) ** 2).mean(axis=0)
    return float(4096 / (np.argmax(power[20:]) + 20))


def palette_distance(image: np.ndarray, palette: tuple[tuple[int, int, int], ...]) -> float:
    """Mean distance of colours [..., 3] in 0..1 to the nearest of a palette's, in levels of 255."""
    colours = np.array(palette) / 255
    away = np.linalg.norm(image.reshape(-1, 1, 3) - colours, axis=-1)
    return float(away.min(axis=1).mean() * 255)


@pytest.mark.parametrize("period", [8, 14])
def test_stripes_give_stripes_of_their_period_and_palette(period: int) -> None:
    found = made(stripes(period=period))
    assert dominant_period(found) == pytest.approx(period, rel=0.04)
    assert palette_distance(found, (RED, WHITE)) < 2
    upright = np.abs(np.diff(found[..., 1], axis=0)).mean() / np.abs(np.diff(found[..., 1], axis=1)).mean()
    assert upright < 0.1, "stripes are upright and unbroken"
    red = np.linalg.norm(found - np.array(RED) / 255, axis=-1) < 0.1
    assert red.mean() == pytest.approx(0.5, abs=0.07), "as much of each colour as the exemplar has"


def test_the_scale_makes_the_pattern_larger(fit: Fit, striped: str) -> None:  # noqa: F811
    found = paint_of(fit, image=striped, structure=0.0, scale=1.6)
    assert dominant_period(found[..., :3]) == pytest.approx(PERIOD * 1.6, rel=0.06)


def test_more_structure_keeps_more_of_light_and_shade() -> None:
    image = scenery().mean(axis=-1)
    noise = np.random.default_rng(1).random((60, 80, 1), np.float32).repeat(3, axis=2)
    alike = [
        float(np.corrcoef(image.ravel(), made(to_uint8(noise), structure).mean(axis=-1).ravel())[0, 1])
        for structure in (0.0, 0.5, 1.0)
    ]
    assert abs(alike[0]) < 0.2 and alike[0] + 0.3 < alike[1] < alike[2] and alike[2] > 0.95


def test_a_canvas_in_its_own_look_is_itself(fit: Fit, tmp_path: Path) -> None:  # noqa: F811
    canvas = fit.canonical("background")
    canvas.save(tmp_path / "own.png")
    found = paint_of(fit, image=str(tmp_path / "own.png"), structure=1.0)
    seen = canvas.coverage > 0
    inner = np.zeros_like(seen)
    inner[8:-8, 8:-8] = seen[8:-8, 8:-8]  # patches at the rim have no neighbours
    error = np.abs(found[..., :3] - canvas.rgba[..., :3])[inner]
    other = np.abs(paint_of(fit, image=str(tmp_path / "own.png"), structure=0.0)[..., :3] - canvas.rgba[..., :3])[inner]
    assert np.median(error) < 1.5 / 255 and error.mean() < 0.02 < other.mean() / 2


@pytest.mark.parametrize("structure", [0.0, 0.6, 1.0])
def test_colours_never_leave_the_exemplars_range(structure: float) -> None:
    exemplar = (np.random.default_rng(2).integers(60, 181, (50, 70, 3)) * np.array([1, 0.5, 0.8])).astype(np.uint8)
    found = made(exemplar, structure)
    low, high = exemplar.min(axis=(0, 1)) / 255, exemplar.max(axis=(0, 1)) / 255
    assert (found >= low - 1e-6).all() and (found <= high + 1e-6).all() and np.isfinite(found).all()


def test_only_the_masked_part_changes(fit: Fit, striped: str, tmp_path: Path) -> None:  # noqa: F811
    height, width = fit.canonical("background").size
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    write_image(tmp_path / "mask.png", mask)
    edit = canon.edit(fit, "exemplar", layer="background", image=striped, mask=str(tmp_path / "mask.png"))
    assert list(edit.steps[0].provenance.files) == [striped, str(tmp_path / "mask.png")]
    video = canon.render(fit, edit)
    for t in range(len(fit)):
        uv, weight = fit.coordinates(t, "background")
        beyond = (weight == 0) | (uv[..., 0] > width // 2 + 16)
        within = (weight == 1) & (uv[..., 0] < width // 2 - 16)
        assert np.array_equal(video[t][beyond], fit.clip.frames[t][beyond])
        assert (video[t] != fit.clip.frames[t])[within].any(axis=-1).mean() > 0.9


def test_the_seed_decides() -> None:
    first, again, other = (made(halves(), 0.3, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_only_what_the_image_mask_selects_is_taken(fit: Fit, tmp_path: Path) -> None:  # noqa: F811
    write_image(tmp_path / "halves.png", halves())
    mask = np.zeros((40, 80), np.uint8)
    mask[:, :40] = 255
    write_image(tmp_path / "left.png", mask)
    write_image(tmp_path / "clear.png", np.dstack([halves(), mask]))
    masked, clear, whole = (
        paint_of(fit, image=str(tmp_path / name), **more)[..., :3]
        for name, more in (
            ("halves.png", {"image_mask": str(tmp_path / "left.png")}),
            ("clear.png", {}),
            ("halves.png", {}),
        )
    )
    assert (masked[..., 1] > masked[..., 2]).all() and np.array_equal(masked, clear)
    assert (whole[..., 1] < whole[..., 2]).mean() > 0.2


@pytest.mark.parametrize("scale", [0.47, 2.3])
def test_pixels_that_are_resized_together_with_others_are_not_taken(tmp_path: Path, scale: float) -> None:
    image = np.zeros((40, 80, 4), np.uint8)
    image[:, :41], image[:, 41:] = (20, 180, 40, 255), (30, 40, 190, 0)
    write_image(tmp_path / "flat.png", image)
    found = read_exemplar(ExemplarConfig(image=str(tmp_path / "flat.png"), scale=scale), (60, 60))
    assert found.image.shape == (round(40 * scale), round(80 * scale), 3) and found.usable.mean() > 0.45
    assert found.usable.any(axis=0).sum() <= 41 * scale + 0.5
    assert np.abs(found.image[found.usable] - np.array([20, 180, 40]) / 255).max() < 1e-5


def test_unobserved_texels_are_filled(striped: str) -> None:
    """Where nothing was seen behind the layers in front, and a guess was made, it has the look as well."""
    whole = true_fit(small_scene("occlusion", frames=4))
    hidden = np.zeros_like(whole.layer("background").coverage)
    hidden[40:70, 60:130] = 0.5
    data = whole.layer("background")
    guessed = replace(data, coverage=np.where(hidden > 0, hidden, data.coverage).astype(np.float32))
    other = Fit(
        whole.clip, whole.representation, whole.config, [*whole.baked[:-1], guessed], whole.stride, whole.light_stride
    )
    found = paint_of(other, image=striped, structure=0.0)[hidden > 0]
    assert (found[..., 3] == 1).all() and palette_distance(found[..., :3], (RED, WHITE)) < 2


def test_the_search_finds_nearly_what_comparing_all_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    usable = np.ones((40, 80), bool)
    usable[:, 50:] = False
    pictures = patches._Pictures.of(scenery(), np.ones((70, 110), np.float32), Picture(to_float(halves()), usable))
    level = patches._levels(pictures, 0.5, 5)[-1]

    def smooth(size: tuple[int, int]) -> torch.Tensor:
        coarse = torch.rand(1, 8, size[0] // 8, size[1] // 8, generator=generator)
        return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].flatten(1).T.contiguous()

    keys, queries = smooth((40, 80)), smooth(level.size)
    cost = torch.rand(len(keys), generator=generator) * 0.1
    exact = patches.nearest_patches(queries, keys, cost, level.centres)
    plain = torch.stack([((keys[level.centres] - one) ** 2).sum(dim=1) + cost[level.centres] for one in queries[:50]])
    assert torch.equal(exact[:50], level.centres[plain.argmin(dim=1)])

    def mean(field: torch.Tensor) -> float:
        there = field.flatten()
        assert level.allowed[there].all()
        return float((((keys[there] - queries) ** 2).sum(dim=1) + cost[there]).mean())

    start = patches._first(level, 5, generator)
    found = patches._searched(queries, keys, cost, start, level, generator)
    assert mean(found) - mean(exact) < 0.1 * (mean(start) - mean(exact))


def test_what_is_used_often_is_known() -> None:
    usable = np.ones((20, 30), bool)
    picture = Picture(np.zeros((20, 30, 3), np.float32), usable)
    level = patches._levels(patches._Pictures.of(scenery(), np.ones((70, 110), np.float32), picture), 0.5, 5)[-1]
    places = len(level.centres)
    assert places == 16 * 26 == patches.count_patches(usable, 5)
    evenly = level.centres[torch.arange(places * 3) % places].reshape(48, 26)
    inner = patches._usage(evenly, level, 5).reshape(20, 30)[4:-4, 4:-4]
    assert torch.allclose(inner, torch.ones(()))
    used = patches._usage(torch.full((10, 10), 7 * 30 + 9), level, 5).reshape(20, 30)
    assert torch.allclose(used[5:10, 7:12], torch.tensor(places / 25)) and used.sum() == pytest.approx(places)


def test_a_vote_of_patches_in_place_is_the_picture() -> None:
    image = torch.rand(1, 3, 21, 34)
    field = torch.arange(21 * 34).reshape(21, 34)
    for nearest in (False, True):
        assert torch.allclose(patches.vote(image, field, 5, nearest), image, atol=1e-5)


def test_every_frame_by_itself(striped: str) -> None:
    small = true_fit(small_scene("occlusion", width=129, height=73, frames=2))
    edit = canon.edit(small, "exemplar", layer="foreground", image=striped, structure=0.0)
    found = canon.evaluate(small, edit, framewise=True)
    assert found["changed_outside"] == 0
    assert float(found["framewise_warp_error_inside"]) > float(found["warp_error_inside"])
    from canon.editors.exemplar import Exemplar as Editor

    frames = Editor().framewise(small, ExemplarConfig(image=striped, layer="foreground", structure=0.0))
    weight = small.coordinates(1, "foreground")[1]
    assert len(frames) == len(small) and np.array_equal(frames[1][weight == 0], small.clip.frames[1][weight == 0])
    assert palette_distance(frames[1][weight == 1] / 255, (RED, WHITE)) < 3
    with pytest.raises(InputError, match="no frame-by-frame baseline"):
        Editor().framewise(small, ExemplarConfig(image=striped, segment=0))


def test_patches_need_no_diffusers(fit: Fit, striped: str, tmp_path: Path) -> None:  # noqa: F811
    fit.save(tmp_path / "fit")
    code = (
        f"import sys, canon; canon.edit(canon.load({str(tmp_path / 'fit')!r}), 'exemplar', image={striped!r});"
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_an_ip_adapter_takes_the_place_of_patches(fit: Fit, striped: str, tmp_path: Path) -> None:  # noqa: F811
    model: dict[str, Any] = {
        "model": str(tiny_models.stable_diffusion(tmp_path / "tiny")),
        "ip_adapter": str(tiny_models.ip_adapter(tmp_path / "adapter")),
        "steps": 2,
        "strength": 1.0,
        "guidance": 2.0,
    }
    write_image(tmp_path / "halves.png", halves())
    (step,) = canon.edit(fit, "exemplar", layer="foreground", image=striped, **model).steps
    assert isinstance(step.operation, Over)
    first, told = step.operation.rgba, step.provenance
    other = paint_of(fit, layer="foreground", image=str(tmp_path / "halves.png"), **model)
    assert not np.array_equal(first, other)
    assert told.options["prompt"] == "" and told.options["model_hash"] and list(told.files) == [striped]
    assert told.editor == "exemplar"
    # What is told is enough to make it again.
    known = {name: value for name, value in told.options.items() if name in ExemplarConfig.__dataclass_fields__}
    assert np.array_equal(first, paint_of(fit, **known))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image": ""}, "picture is needed"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"structure": 1.5}, "structure 1.5 is out of range"),
        ({"scale": 0.0}, "scale 0 is out of range"),
        ({"scale": 30.0}, "smaller --scale"),
        ({"scale": 0.02}, "less than a patch"),
        ({"patch": 4}, "odd number"),
        ({"feather": -1.0}, "at least 0"),
        ({"segment": 3}, "segment"),
        ({"mask": "nowhere.png"}, "nowhere.png"),
        ({"image_mask": "nowhere.png"}, "nowhere.png"),
        ({"image_mask": "square"}, "is 30x30 and the picture 90x60"),
        ({"image_mask": "black"}, "less than a patch"),
        ({"prompt": "gold"}, "--prompt is of a diffusion model"),
        ({"model": "somewhere"}, "--model is of a diffusion model"),
        ({"ip_adapter": "somewhere", "patch": 9}, "--patch is of patches"),
        ({"ip_adapter": "somewhere", "strength": 0.0}, "strength"),
        ({"exemplar": "other.png"}, "given once"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    fit: Fit,  # noqa: F811
    striped: str,
    tmp_path: Path,
    options: dict[str, Any],
    sentence: str,
) -> None:
    write_image(tmp_path / "square.png", np.full((30, 30), 255, np.uint8))
    write_image(tmp_path / "black.png", np.zeros((60, 90), np.uint8))
    if options.get("image_mask") in ("square", "black"):
        options = {"image_mask": str(tmp_path / f"{options['image_mask']}.png")}
    with pytest.raises(InputError, match=sentence) as told:
        canon.edit(fit, "exemplar", layer="background", **{"image": striped, **options})
    assert "\n" not in str(told.value) and str(told.value).endswith(".")
