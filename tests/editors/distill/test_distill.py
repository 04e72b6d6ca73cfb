"""The distilling editors with real networks at a tiny size: contract, what is seen, resuming, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from contracts import BaselineContract, fit  # noqa: F401
from truth import small_scene, split_in_two, true_fit

import canon
from canon.editors.diffusion.canvases import Region, regions
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.distill import optimising
from canon.editors.distill.clip_losses import ClipLosses, Texts
from canon.editors.distill.editor import DistillConfig
from canon.editors.distill.generator import Generator
from canon.editors.distill.optimising import Checkpoints, optimised
from canon.editors.distill.painters import sparsity
from canon.editors.distill.pictures import (
    BETAS,
    Overlaid,
    Paint,
    Proportional,
    Pyramid,
    Repainted,
    bounded,
    laid_over,
    least_opacity,
    straight_rgba,
)
from canon.editors.distill.views import Views, frame_view
from canon.edits import Edit, Over, Step, resize_to
from canon.errors import InputError
from canon.fits import Fit
from canon.perceptual import ClipEncoder

CHEAP: dict[str, Any] = {
    "prompt": "gold",
    "steps": 3,
    "rate": 0.1,
    "guidance": 2.0,
    "size": 32,
    "view": 16,
    "frames": 2,
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    names = ("stable_diffusion", "stable_diffusion_xl", "flux", "clip")
    return {name: str(getattr(tiny_models, name)(folder / name)) for name in names}


class DistillContract(BaselineContract):
    own: dict[str, Any] = {}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _models(self, models: dict[str, str]) -> None:
        self.models = models

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**CHEAP, "model": self.models["stable_diffusion"], **self.own}


class TestDistillContract(DistillContract):
    name = "distill"


class TestText2LiveContract(DistillContract):
    name, own = "text2live", {"width": 4}


@pytest.mark.parametrize("method", ["dds", "pds", "csd", "csd-edit"])
@pytest.mark.parametrize("edit_layer", [False, True])
def test_every_method_makes_an_edit(fit: Fit, models: dict[str, str], method: str, edit_layer: bool) -> None:  # noqa: F811
    options = {**CHEAP, "model": models["stable_diffusion"], "method": method, "edit_layer": edit_layer}
    rgba = canon.edit(fit, "distill", layer="foreground", **options).steps[0].operation.rgba
    assert np.isfinite(rgba).all() and float(rgba[..., 3].max()) > 0.01


def test_a_model_of_two_text_encoders_and_pixel_space(fit: Fit, models: dict[str, str]) -> None:  # noqa: F811
    options = {**CHEAP, "model": models["stable_diffusion_xl"], "space": "pixel"}
    rgba = canon.edit(fit, "distill", layer="foreground", **options).steps[0].operation.rgba
    assert float(rgba[..., 3].max()) > 0.01


# --- what is seen is what is optimised ---


def whole_region(fit: Fit, layer: str) -> Region:  # noqa: F811
    return regions(fit, layer, DiffusionConfig(prompt="x", layer=layer))[0]


def random_paint(size: tuple[int, int], seed: int = 0) -> Paint:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 4, 5, 7, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    source = torch.full((1, 3, *size), 0.5)
    return laid_over(source, fine[:, :3], fine[:, 3:])


@pytest.mark.parametrize("layer", ["foreground", "background"])
def test_a_view_of_a_frame_is_what_the_renderer_shows(fit: Fit, layer: str) -> None:  # noqa: F811
    region = whole_region(fit, layer)
    size = region.area.shape
    paint = random_paint((size[0], size[1]))
    canvas = np.zeros((*fit.layer(layer).canvas_size, 4), np.float32)
    canvas[region.box] = straight_rgba(paint)
    t = 2
    frame = frame_view(fit, layer, region, t, (size[0], size[1]))
    assert frame is not None
    shown, source = frame.shown(paint, 0, 0, frame.solid.shape)  # type: ignore[arg-type]
    rendered = canon.render(fit, Edit([Step(layer, Over(canvas))], fit.id))[t].astype(np.float32) / 255
    weight = fit.weights(t)[fit.layers.index(layer)]
    rows, columns = np.nonzero(weight > 0.5)
    margin = 16
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    bottom, right = min(rows.max() + 1 + margin, fit.size[0]), min(columns.max() + 1 + margin, fit.size[1])
    wanted = rendered[top:bottom, left:right]
    found = shown.permute(1, 2, 0).numpy()
    if found.shape != wanted.shape:  # a texel of this canvas is not a pixel
        found = resize_to(np.ascontiguousarray(found), (wanted.shape[0], wanted.shape[1]))
    off = np.abs(found - wanted).mean(axis=-1)
    inside = weight[top:bottom, left:right] > 0.99
    inside = ~torch.nn.functional.max_pool2d((~torch.from_numpy(inside)).float()[None], 5, 1, 2)[0].bool().numpy()
    assert np.abs(wanted - resize_to(source.permute(1, 2, 0).numpy(), (wanted.shape[0], wanted.shape[1]))).max() > 0.2
    if fit.texels(t, layer) == 1:  # not resampled: exact but for rounding, at soft edges, too
        assert ((weight[top:bottom, left:right] * (1 - weight[top:bottom, left:right])) > 0.1).any()
        assert float(off.max()) < 0.6 / 255
    assert np.median(off[inside]) < 1 / 255 and float(np.quantile(off[inside], 0.95)) < 0.015


def test_gradients_reach_what_a_frame_shows_and_nothing_else(fit: Fit) -> None:  # noqa: F811
    layer, t = "foreground", 1
    region = whole_region(fit, layer)
    size = (region.area.shape[0], region.area.shape[1])
    frame = frame_view(fit, layer, region, t, size)
    assert frame is not None
    paint = random_paint(size)
    colour = paint.colour.clone().requires_grad_()
    window = (frame.solid.shape[0] // 2, frame.solid.shape[1] // 2)
    shown, _ = frame.shown(Paint(colour, paint.hides, paint.picture), 0, 0, window)
    shown.sum().backward()
    assert colour.grad is not None
    reached = (colour.grad[0].abs().sum(dim=0) > 0).numpy()
    seen = np.zeros(size, bool)
    lit = (frame.light.sum(dim=0) > 0)[: window[0], : window[1]].numpy()
    positions = frame.positions[: window[0], : window[1]].numpy()[lit]
    for x, y in np.concatenate([np.floor(positions), np.ceil(positions)]).astype(int):
        seen[np.clip(y - 1, 0, size[0]) : y + 2, np.clip(x - 1, 0, size[1]) : x + 2] = True
    assert reached.sum() > 50 and not reached[~seen].any() and (~seen).sum() > 50


def test_views_hold_the_area_and_are_drawn_by_seed_and_step(fit: Fit) -> None:  # noqa: F811
    region = whole_region(fit, "foreground")
    size = (region.area.shape[0], region.area.shape[1])
    source = torch.from_numpy(region.image).permute(2, 0, 1)[None]
    config = DistillConfig(**{**CHEAP, "views": 4, "frame_views": 0.5, "seed": 3})
    frames = [frame for t in (0, 3) if (frame := frame_view(fit, "foreground", region, t, size)) is not None]
    views = Views(source, region.area, frames, (16, 24), config)
    paint = random_paint(size)
    made, shown = views(paint, 5)
    assert made.shape == shown.shape == (4, 3, 16, 24) and float((made - shown).abs().max()) > 0.05
    assert torch.equal(made, views(paint, 5)[0]) and not torch.equal(made, views(paint, 6)[0])
    nothing = Paint(torch.zeros_like(paint.colour), torch.zeros_like(paint.hides), source)
    unpainted, same = views(nothing, 5)
    assert torch.allclose(unpainted, same, atol=1e-6)
    assert views.over_green(nothing, 1).shape == (4, 3, 16, 24)
    assert float((views.over_green(nothing, 1)[:, 1] - 0.8).abs().max()) < 1e-6


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_mask_hides_paint_from_views_of_the_canvas_and_of_frames(fit: Fit, share: float) -> None:  # noqa: F811
    region = whole_region(fit, "foreground")
    size = (region.area.shape[0], region.area.shape[1])
    source = torch.from_numpy(region.image).permute(2, 0, 1)[None]
    frame = frame_view(fit, "foreground", region, 0, size)
    assert frame is not None
    config = DistillConfig(**{**CHEAP, "views": 3, "frame_views": share})
    area = np.zeros(size, np.float32)
    nothing, all_of_it = (
        Views(source, area, [frame], (16, 16), config, masked=masked)(random_paint(size), 1) for masked in (True, False)
    )
    assert torch.allclose(nothing[0], nothing[1], atol=1e-6)
    assert float((all_of_it[0] - all_of_it[1]).abs().max()) > 0.05


# --- what is optimised ---


def test_a_pyramid_finds_what_is_large_in_noisy_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 3, 4, generator=generator)
    wanted = torch.nn.functional.interpolate(coarse, size=(37, 50), mode="bilinear", align_corners=False)
    errors = []
    for levels in (1, 0):
        pyramid = Pyramid(3, (37, 50), levels)
        optimiser = pyramid.optimiser(0.03)
        for step in range(60):
            optimiser.param_groups[0]["lr"] *= 0.97
            noise = 2 * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(step))
            optimiser.zero_grad()
            (pyramid() * (pyramid().detach() - wanted + noise)).mean().backward()
            optimiser.step()
        errors.append(float((pyramid() - wanted).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0], errors


def test_steps_are_in_proportion_to_the_gradient() -> None:
    value = torch.nn.Parameter(torch.zeros(4))
    optimiser = Proportional([value], lr=0.1, betas=BETAS)
    gradient = torch.tensor([4.0, -2.0, 1.0, 0.0])
    for _ in range(3):
        value.grad = gradient.clone()
        optimiser.step()
    assert torch.allclose(value, -0.3 * gradient / gradient.square().mean().sqrt(), atol=1e-5)


def test_bounds_let_only_gradients_back_in_through() -> None:
    values = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    bounded(values).backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert values.grad is not None and values.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]


def test_the_least_opaque_paint_gives_the_wanted_colours() -> None:
    source, wanted = torch.rand(2, 1, 3, 9, 11, generator=torch.Generator().manual_seed(2)) * 0.96 + 0.02
    wanted[..., :3] = source[..., :3]
    alpha = least_opacity(wanted, source)
    paint = Paint(wanted - (1 - alpha) * source, alpha, wanted)
    rgba = torch.from_numpy(straight_rgba(paint)).permute(2, 0, 1)
    assert torch.allclose(rgba[3] * rgba[:3] + (1 - rgba[3]) * source[0], wanted[0], atol=1e-5)
    assert not alpha[..., :3].any() and float(alpha.min()) >= 0 and float(alpha.max()) <= 1
    less = (wanted - (1 - alpha * 0.95) * source) / (alpha * 0.95).clamp_min(1e-9)
    beyond = (less < -1e-6) | (less > 1 + 1e-6)
    assert bool(beyond.any(dim=1)[alpha[:, 0] > 0.01].all()), "less opacity would need colours that there are not"


@pytest.mark.parametrize("kind", [Repainted, Overlaid, lambda source: Generator(source, 4, 0)])
def test_all_begin_from_the_source(kind: Any) -> None:
    source = torch.rand(1, 3, 33, 50) * 0.9 + 0.05
    paint = kind(source)()
    assert torch.allclose(paint.picture, source, atol=1e-5)
    assert torch.allclose(paint.colour + (1 - paint.hides) * source, source, atol=1e-5)


def test_sparsity_is_least_where_nothing_is_covered() -> None:
    assert float(sparsity(torch.zeros(1, 1, 4, 4))) == 0.0
    assert 1.9 < float(sparsity(torch.ones(1, 1, 4, 4))) < 2.0


# --- interrupted runs ---


class _Cut(Exception):
    pass


@pytest.mark.parametrize(
    "kind", [Repainted, Overlaid, lambda source: Generator(source, 4, 0)], ids=["canvas", "layer", "network"]
)
def test_an_interrupted_run_goes_on_and_ends_the_same(kind: Any, tmp_path: Path) -> None:
    source = torch.rand(1, 3, 18, 26, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    calls: list[int] = []

    def run(folder: Path, stop: int | None) -> Paint:
        def loss(paint: Paint, step: int) -> torch.Tensor:
            if step == stop:
                raise _Cut
            calls.append(step)
            noise = torch.randn(1, 3, 18, 26, generator=torch.Generator().manual_seed(step))
            return ((paint.picture - 0.2) * noise).sum() + paint.hides.sum()

        kept = Checkpoints(folder, "key", lambda paint: np.zeros((4, 5, 3), np.uint8))
        return optimised(kind(source), loss, 37, 0.02, kept)

    whole = run(tmp_path / "whole", None)
    with pytest.raises(_Cut):
        run(tmp_path / "cut", 26)
    calls.clear()
    again = run(tmp_path / "cut", None)
    assert calls[0] == 20, "what was done is not done again"
    assert torch.equal(again.picture, whole.picture) and torch.equal(again.hides, whole.hides)
    calls.clear()
    assert torch.equal(run(tmp_path / "cut", None).picture, whole.picture) and not calls
    assert (tmp_path / "cut" / "preview.png").exists()


def test_an_edit_goes_on_from_its_checkpoints(
    fit: Fit,  # noqa: F811
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimising, "EVERY", 2)
    options = {**CHEAP, "steps": 5, "model": models["stable_diffusion"], "layer": "foreground", "method": "csd"}
    plain = canon.edit(fit, "distill", **options).steps[0].operation.rgba
    real, saved = optimising.save_run, []

    def save(run: Any, folder: Path, key: str) -> None:
        real(run, folder, key)
        saved.append(run.step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(optimising, "save_run", save)
    folder = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        canon.edit(fit, "distill", **options, checkpoints=str(folder))
    again = canon.edit(fit, "distill", **options, checkpoints=str(folder)).steps[0].operation.rgba
    assert saved == [2, 4, 5] and np.array_equal(again, plain)
    assert (folder / "foreground-0" / "preview.png").exists()
    other = canon.edit(fit, "distill", **{**options, "seed": 1}, checkpoints=str(folder)).steps[0].operation.rgba
    assert saved[3:] == [2, 4, 5] and not np.array_equal(other, plain), "another run's state is not taken up"


# --- segments, masks ---


def test_every_segment_is_distilled_from_its_own_frames(models: dict[str, str]) -> None:
    scene = small_scene("pan", frames=6)
    layer = scene.layers[0]
    whole = split_in_two(true_fit(scene), layer, 3, 1)
    region = regions(whole, layer, DiffusionConfig(prompt="x", layer=layer))
    assert len(region) == 2
    for part in region:
        own = [
            t
            for t in range(len(whole))
            if frame_view(whole, layer, part, t, (part.area.shape[0], part.area.shape[1])) is not None
        ]
        first, last = whole.segments(layer)[part.segment]
        assert own and all(first <= t <= last for t in own)
    rgba = canon.edit(whole, "distill", layer=layer, **CHEAP, model=models["stable_diffusion"]).steps[0].operation.rgba
    for k in range(2):
        assert float(rgba[whole.segment_box(layer, k)][..., 3].max()) > 0.01


# --- CLIP ---


def test_clip_losses_agree_with_the_encoder_and_have_gradients(models: dict[str, str]) -> None:
    losses = ClipLosses(models["clip"], Texts("gold", "gold", "grey"), torch.device("cpu"))
    encoder = ClipEncoder(models["clip"])
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    picture = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255).requires_grad_()
    found = losses._embedded(picture)
    known = torch.from_numpy(encoder.images([pixels]))
    # The encoder gives unit vectors or not: the angle counts.
    assert float(torch.nn.functional.cosine_similarity(found, known)) > 0.999
    text = torch.from_numpy(encoder.text("gold over a green screen"))[None]
    wanted = 1 - torch.nn.functional.cosine_similarity(known, text)
    assert torch.allclose(losses.screen(picture), wanted, atol=1e-3)
    assert float(losses.structure(picture, picture)) == 0.0
    other = torch.rand(1, 3, 48, 40)
    total = losses.composite(picture, torch.rand(1, 3, 32, 32)) + losses.structure(picture, other)
    total.backward()
    assert picture.grad is not None and float(picture.grad.abs().max()) > 0


def test_text2live_by_clip(fit: Fit, models: dict[str, str]) -> None:  # noqa: F811
    options = {**CHEAP, "model": models["stable_diffusion"], "layer": "foreground", "width": 4, "rate": 0.05}
    by_clip, again, by_model = (
        canon.edit(fit, "text2live", **options, clip_model=name).steps[0]
        for name in (models["clip"], models["clip"], "")
    )
    assert np.array_equal(by_clip.operation.rgba, again.operation.rgba)
    assert not np.array_equal(by_clip.operation.rgba, by_model.operation.rgba)
    assert by_clip.provenance.options["clip_model"] == models["clip"]


# --- what cannot be used ---


@pytest.mark.parametrize(
    ("name", "model", "more", "sentence"),
    [
        ("distill", "stable_diffusion", {"prompt": ""}, "prompt is needed"),
        ("distill", "stable_diffusion", {"method": "vsd"}, "'vsd' is not known; choose one of sds"),
        ("distill", "stable_diffusion", {"space": "sound"}, "'sound' is not known"),
        ("distill", "stable_diffusion", {"weighting": "x"}, "'x' is not known"),
        ("distill", "stable_diffusion", {"noise": (0.9, 0.1)}, "no range"),
        ("distill", "stable_diffusion", {"noise_end": (0.0, 1.5)}, "no range"),
        ("distill", "stable_diffusion", {"views": 0}, "Views must be at least 1"),
        ("distill", "stable_diffusion", {"frame_views": 1.5}, "1.5 of views of frames"),
        ("distill", "stable_diffusion", {"rate": 0.0}, "rate must be above 0"),
        ("distill", "stable_diffusion", {"clip": -1.0}, "at least 0"),
        ("distill", "stable_diffusion", {"scheduler": "DDIMScheduler"}, "leave --scheduler and --refine out"),
        ("distill", "stable_diffusion", {"offload": True}, "do not go with distillation"),
        ("distill", "stable_diffusion", {"ip_adapter": "a", "exemplar": "b"}, "do not go with distillation"),
        ("distill", "flux", {}, "FluxImg2ImgPipeline cannot be distilled"),
        ("distill", "stable_diffusion", {"segment": 4}, "no segment 4"),
        ("text2live", "stable_diffusion", {"width": 0}, "0 channels"),
        ("text2live", "stable_diffusion", {"structure": -1.0}, "at least 0"),
        ("text2live", "stable_diffusion", {"clip_model": "./nowhere"}, "cannot be loaded from this machine"),
    ],
)
def test_bad_options_end_in_one_sentence(
    fit: Fit,  # noqa: F811
    models: dict[str, str],
    name: str,
    model: str,
    more: dict[str, Any],
    sentence: str,
) -> None:
    with pytest.raises(InputError, match=sentence) as told:
        canon.edit(fit, name, layer="foreground", **{**CHEAP, **more, "model": models[model]})
    assert str(told.value).count(". ") == 0


def test_a_folder_that_cannot_be_written_is_told(fit: Fit, models: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError):
        options = {**CHEAP, "model": models["stable_diffusion"], "checkpoints": str(tmp_path / "file")}
        canon.edit(fit, "distill", layer="foreground", **options)


def test_options_are_plain() -> None:
    assert asdict(DistillConfig(prompt="x", noise=[0.1, 0.5]))["noise"] == (0.1, 0.5)  # type: ignore[arg-type]
