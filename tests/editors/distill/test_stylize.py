"""The style of a picture: distances computed by hand, palettes that must be met, and real networks at a tiny size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from contracts import BaselineContract, fit  # noqa: F401
from safetensors.torch import save_file
from truth import small_scene, true_fit

import canon
from canon.editors.diffusion.models import mini_folder
from canon.editors.distill import features as networks
from canon.editors.distill import nnfm as matching
from canon.editors.distill.features import Autoencoder, Denoiser, Vgg, load_features, load_vgg
from canon.editors.distill.nnfm import Colours, colours_of, content_distance, nnfm, recoloured
from canon.editors.distill.styling import StylePainter
from canon.editors.distill.stylize import StylizeConfig
from canon.edits import Over
from canon.errors import InputError
from canon.fits import Fit
from canon.registry import make_config
from canon.storage import to_float, write_image

CHEAP: dict[str, Any] = {"steps": 4, "view": 32, "size": 64, "frames": 2, "views": 1}
CPU = torch.device("cpu")


def strokes(height: int = 70, width: int = 90) -> np.ndarray:
    """Slanted strokes of yellow on blue, uint8 [h, w, 3]."""
    y, x = np.mgrid[:height, :width]
    on = ((x + y) % 12 < 5)[..., None]
    light = 1 + 0.15 * np.sin(x / 5)[..., None]
    return np.clip(np.where(on, (190, 160, 80), (70, 90, 150)) * light, 0, 255).astype(np.uint8)


def vgg_file(folder: Path, widths: tuple[int, ...] = (4, 4, 6, 6, 8, 8, 8), prefix: str = "features") -> Path:
    """A VGG-16 of random weights whose first layers are as wide as told."""
    generator, before, stored = torch.Generator().manual_seed(0), 3, {}
    for number, width in zip((0, 2, 5, 7, 10, 12, 14), widths, strict=True):
        stored[f"{prefix}.{number}.weight"] = torch.randn(width, before, 3, 3, generator=generator) * 0.3
        stored[f"{prefix}.{number}.bias"] = torch.randn(width, generator=generator) * 0.1
        before = width
    save_file(stored, folder / "vgg.safetensors")
    return folder / "vgg.safetensors"


def tensor(image: np.ndarray) -> torch.Tensor:
    """The colours of float32 [h, w, 3 or 4] as [1, 3, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(image[..., :3])).permute(2, 0, 1)[None]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    write_image(tmp_path / "strokes.png", strokes())
    return str(tmp_path / "strokes.png")


class TestStylizeContract(BaselineContract):
    name = "stylize"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        write_image(folder / "strokes.png", strokes())
        return {**CHEAP, "image": str(folder / "strokes.png"), "vgg": str(vgg_file(folder))}


# --- the loss ---


def some(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_features_that_are_the_styles_are_at_no_distance() -> None:
    style = some((2, 5, 4, 7))
    own = style.clone().requires_grad_()
    found = nnfm(own, style)
    found.backward()
    assert float(found.detach()) == 0.0 and own.grad is not None and not own.grad.any()
    assert float(nnfm(3 * style, style)) < 1e-15, "directions count, not lengths"


@pytest.mark.parametrize("pairs", [1, 40, 2**24])
def test_the_distance_is_what_comparing_all_pairs_gives(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_PAIRS", pairs)
    features, style = some((2, 6, 5, 3), 1), some((3, 6, 4, 9), 2)
    least = []
    for a in features.permute(0, 2, 3, 1).reshape(-1, 6).numpy():
        every = [
            1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in style.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
        ]
        least.append(min(every))
    assert float(nnfm(features, style)) == pytest.approx(float(np.mean(least)), abs=1e-12)
    torch.autograd.gradcheck(lambda x: nnfm(x, style), features.requires_grad_())


def test_where_the_styles_features_lie_does_not_count() -> None:
    features, style = some((1, 4, 6, 5)), some((1, 4, 5, 8), 3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    mixed = style.flatten(2)[..., order].reshape(1, 4, 8, 5)
    assert float(nnfm(features, mixed)) == pytest.approx(float(nnfm(features, style)), abs=1e-14)


def test_content_is_compared_in_units_of_its_own_size() -> None:
    wanted = some((1, 3, 4, 4))
    assert float(content_distance(wanted, wanted)) == 0
    assert float(content_distance(100 * wanted * 1.5, 100 * wanted)) == pytest.approx(0.25)


# --- colours ---


def test_colours_get_exactly_the_mean_and_covariance_asked_for() -> None:
    mixed = torch.einsum("ij,njhw->nihw", some((3, 3), 4), some((1, 3, 20, 31), 5)) * 0.1 + 0.4
    root = some((3, 3), 6) * 0.2
    wanted = Colours(torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64), root @ root.T)
    weight = some((1, 1, 20, 31), 7).abs()
    found = colours_of(recoloured(mixed, colours_of(mixed, weight), wanted), weight)
    assert torch.allclose(found.mean, wanted.mean, atol=1e-12)
    assert torch.allclose(found.covariance, wanted.covariance, atol=1e-9)
    own = colours_of(mixed)
    assert torch.allclose(recoloured(mixed, own, own), mixed, atol=1e-9), "what has them already stays"


def test_colours_are_counted_by_weight_and_flat_ones_are_not_spread() -> None:
    halves = torch.cat([torch.full((1, 3, 4, 4), 0.2), torch.full((1, 3, 4, 4), 0.9)], dim=3).double()
    weight = (halves[:, :1] < 0.5).double()
    assert torch.allclose(colours_of(halves, weight).mean, torch.full((3,), 0.2, dtype=torch.float64))
    noise = 0.5 + 1e-4 * some((1, 3, 30, 30))
    spread = recoloured(noise, colours_of(noise), Colours(torch.zeros(3).double(), 0.04 * torch.eye(3).double()))
    assert 1e-4 < float(spread.std()) < 30e-4, "noise of a hundredth of a level is not blown up to colours"


# --- networks ---


def test_a_vgg_is_the_stack_that_its_file_says(tmp_path: Path) -> None:
    blocks = load_vgg(str(vgg_file(tmp_path)))
    network = Vgg(blocks)
    pictures = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (pictures - mean[:, None, None]) / spread[:, None, None]
    seen = []
    for number, (weight, bias) in enumerate(layer for block in blocks for layer in block):
        if number in (2, 4):
            x = x.reshape(2, -1, x.shape[2] // 2, 2, x.shape[3] // 2, 2).amax(dim=(3, 5))
        x = torch.nn.functional.conv2d(x, weight, bias, padding=1).clamp_min(0)
        seen.append(x)
    (found,) = network._maps(pictures)
    assert found.shape == (2, 24, 4, 6) and torch.allclose(found, torch.cat(seen[-3:], dim=1), atol=1e-5)


def told(network: Any, pictures: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features of pictures, and those of the same network where it sees zeros around them."""
    with torch.no_grad():
        return network(pictures), network._maps(pictures)


@pytest.mark.parametrize("kind", ["vgg", "autoencoder", "denoiser"])
def test_features_know_no_rim_and_have_gradients(kind: str, tmp_path: Path) -> None:
    network: Any
    if kind == "vgg":
        network = Vgg(load_vgg(str(vgg_file(tmp_path))))
    elif kind == "autoencoder":
        network = Autoencoder(str(tiny_models.stable_diffusion(tmp_path / "model")))
    else:
        network = Denoiser(str(mini_folder()))
    network.requires_grad_(False)
    even = torch.full((1, 3, 96, 128), 0.3)
    off = [
        sum(float((maps - maps.mean((2, 3), keepdim=True)).std()) for maps in found) for found in told(network, even)
    ]
    assert off[0] < 0.5 * off[1], "zeros beyond the rim are seen less"
    pictures = torch.rand(2, 3, 2 * network.step, 3 * network.step).requires_grad_()
    found = network(pictures)
    assert all(maps.shape[0] == 2 and maps.shape[2] * 3 == maps.shape[3] * 2 for maps in found)
    torch.stack([maps.square().sum() for maps in found]).sum().backward()
    assert pictures.grad is not None and bool((pictures.grad != 0).flatten(1).float().mean() > 0.9)


def test_of_a_model_only_the_autoencoder_is_read(tmp_path: Path, picture: str) -> None:
    folder = tiny_models.stable_diffusion(tmp_path / "model")
    for part in ("unet", "text_encoder", "tokenizer"):
        for file in (folder / part).iterdir():
            file.unlink()
    config = StylizeConfig(image=picture, model=str(folder))
    assert isinstance(load_features(config, CPU), Autoencoder) and config.features == f"the autoencoder of {folder}"
    assert isinstance(load_features(StylizeConfig(image=picture), CPU), Denoiser)


def test_the_networks_tell_strokes_of_one_direction_from_those_of_another() -> None:
    network = load_features(StylizeConfig(image="unread"), CPU)
    style = tensor(to_float(strokes(64, 96)))
    turned = style.flip(3)  # the same colours
    with torch.no_grad():
        wanted, same, other = network(style), network(style.roll((5, 7), (2, 3))), network(turned)
        alike, unlike = (sum(float(nnfm(a, b)) for a, b in zip(one, wanted, strict=True)) for one in (same, other))
    assert alike < 0.6 * unlike


# --- the editor ---


def test_a_background_takes_the_palette_and_the_style(picture: str) -> None:
    scene = small_scene("occlusion", width=129, height=77, frames=3)
    whole = true_fit(scene)
    options = {**CHEAP, "image": picture, "view": 80, "size": 200, "steps": 28, "rate": 0.05, "scale": 1.0}
    edit = canon.edit(whole, "stylize", **options)
    assert edit.layers == ["background"], "the last layer is the one that is meant"
    operation, said = edit.steps[0].operation, edit.steps[0].provenance
    assert isinstance(operation, Over)
    assert said.options["features"] == "canon-mini's denoiser" and picture in said.files
    painted = torch.from_numpy(np.ascontiguousarray(operation.rgba[..., 3]))[None, None]
    found, wanted = colours_of(tensor(operation.rgba), painted), colours_of(tensor(to_float(strokes())))
    assert torch.allclose(found.mean, wanted.mean, atol=0.03)
    assert torch.allclose(found.covariance, wanted.covariance, atol=0.015)
    painter = StylePainter(make_config(StylizeConfig, options))
    likeness, (height, width) = [], operation.rgba.shape[:2]
    middle = np.s_[height // 2 - 32 : height // 2 + 32, width // 2 - 48 : width // 2 + 48]
    assert (operation.rgba[middle][..., 3] > 0.99).all()
    for rgba in (whole.canvas("background").rgba, operation.rgba):
        canvas = tensor(rgba[middle])
        begun = recoloured(canvas, colours_of(canvas), wanted).clamp(0, 1)
        with torch.no_grad():
            maps = zip(painter.features(begun), painter._style_features(painter._style((77, 129))), strict=True)
            likeness.append(np.mean([float(nnfm(a, b)) for a, b in maps]))
    assert likeness[1] < 0.75 * likeness[0], likeness
    video = canon.render(whole, edit)
    for t in range(len(whole)):
        beyond = whole.weights(t)[whole.layers.index("background")] == 0
        assert beyond.any() and np.array_equal(video[t][beyond], whole.clip.frames[t][beyond])


def test_a_layer_keeps_its_palette_if_it_is_to(fit: Fit, picture: str, tmp_path: Path) -> None:  # noqa: F811
    options = {**CHEAP, "image": picture, "vgg": str(vgg_file(tmp_path)), "layer": "background", "size": 200}
    canvas = fit.canvas("background")
    weight = torch.from_numpy((canvas.rgba[..., 3] * (canvas.coverage > 0)).astype(np.float32))[None, None]
    own = colours_of(tensor(canvas.rgba), weight)
    away = []
    for colours in (False, True):
        operation = canon.edit(fit, "stylize", **options, colours=colours).steps[0].operation
        found = colours_of(
            torch.from_numpy(np.ascontiguousarray(operation.rgba[..., :3])).permute(2, 0, 1)[None], weight
        )
        away.append(float((found.mean - own.mean).abs().max()))
    assert away[0] < 0.02 < away[1]


def test_a_mask_keeps_the_rest(fit: Fit, picture: str, tmp_path: Path) -> None:  # noqa: F811
    height, width = fit.canonical("background").size
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    write_image(tmp_path / "mask.png", mask)
    options = {**CHEAP, "image": picture, "vgg": str(vgg_file(tmp_path)), "mask": str(tmp_path / "mask.png")}
    rgba = canon.edit(fit, "stylize", **options).steps[0].operation.rgba
    assert not rgba[:, width // 2 + 16 :, 3].any() and float(rgba[:, : width // 2 - 16, 3].min()) > 0.9


def test_a_run_is_taken_up_with_the_same_picture_only(fit: Fit, picture: str, tmp_path: Path) -> None:  # noqa: F811
    options = {**CHEAP, "image": picture, "vgg": str(vgg_file(tmp_path)), "colours": False}
    options["checkpoints"] = str(tmp_path / "kept")
    made = [canon.edit(fit, "stylize", **options).steps[0].operation.rgba for _ in range(2)]
    assert np.array_equal(*made) and (tmp_path / "kept" / "background-0" / "preview.png").exists()
    write_image(Path(picture), strokes()[:, ::-1].copy())
    assert not np.array_equal(made[0], canon.edit(fit, "stylize", **options).steps[0].operation.rgba)


# --- what cannot be used ---


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"image": ""}, "A picture is needed"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"prompt": "gold"}, "--prompt means nothing"),
        ({"guidance": 3.0}, "--guidance means nothing"),
        ({"edit_layer": True}, "--edit-layer means nothing"),
        ({"lora": ("a",)}, "--lora means nothing"),
        ({"scale": 0.0}, "scale 0 is out of range"),
        ({"scale": 0.05}, "give a larger --scale"),
        ({"scale": 30.0}, "give a smaller --scale"),
        ({"content": -1.0}, "weight -1 of the content"),
        ({"size": 0}, "must be at least 1"),
        ({"vgg": "a.safetensors", "model": "b"}, "give --vgg or --model"),
        ({"vgg": "weights.pth"}, "no .safetensors file"),
        ({"vgg": "nowhere.safetensors"}, "cannot be read as VGG-16"),
        ({"model": "./nowhere"}, "cannot be loaded"),
    ],
)
def test_bad_options_end_in_one_sentence(fit: Fit, picture: str, more: dict[str, Any], sentence: str) -> None:  # noqa: F811
    with pytest.raises(InputError, match=sentence) as told:
        canon.edit(fit, "stylize", **{**CHEAP, "image": picture, **more})
    assert "\n" not in str(told.value)


def test_a_vgg_of_other_layers_is_told(tmp_path: Path) -> None:
    wrong = {"features.0.weight": torch.zeros(4, 1, 3, 3), "features.0.bias": torch.zeros(4)}
    save_file(wrong, tmp_path / "grey.safetensors")
    with pytest.raises(InputError, match=r"features.0 of .* is \[4, 1, 3, 3\]"):
        load_vgg(str(tmp_path / "grey.safetensors"))
    with pytest.raises(InputError, match="torchvision's names"):
        load_vgg(str(vgg_file(tmp_path, prefix="layers")))
    assert networks.Vgg.step == 4
