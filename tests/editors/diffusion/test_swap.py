"""A subject swapped: points and where they are drawn, what the adapter learns, the background, and the whole edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import tiny_models
import torch
from contracts import EditorContract, fit  # noqa: F401
from torch import Tensor
from truth import psnr, small_scene, true_fit

import canon
from canon.boxes import box_size
from canon.coordinates import resize_points
from canon.editors.diffusion import swap_concepts
from canon.editors.diffusion.canvases import resized
from canon.editors.diffusion.concepts import Example, apart, denoising_loss, with_concept
from canon.editors.diffusion.latents import LatentModel, random_latents, to_picture, to_tensor
from canon.editors.diffusion.models import DESCRIBE, load_model
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.diffusion.painters import invertible
from canon.editors.diffusion.swap import SwapConfig
from canon.editors.diffusion.swap_adapter import (
    Places,
    PointAdapter,
    PointedModel,
    new_adapter,
    patches,
    point_features,
    shown,
    spans,
    train_adapter,
)
from canon.editors.diffusion.swap_motion import with_motion
from canon.editors.diffusion.swap_points import Points, given, shaped
from canon.editors.diffusion.swapping import SwapPainter, Views, chosen, seen_in, viewed
from canon.editors.diffusion.windows import Window
from canon.edits import Over, Warp
from canon.errors import InputError
from canon.fits import Fit
from canon.storage import to_float, write_image
from canon.warping import warped

FAST: dict[str, Any] = {"prompt": "gold", "steps": 3, "guidance": 2.0, "size": 32, "keyframes": 2}
FAST |= {"concept_steps": 2, "adapter_steps": 2}
SIZE = (40, 56)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.stable_diffusion(tmp_path_factory.mktemp("models") / "sd"))


@pytest.fixture(scope="session")
def motion(tmp_path_factory: pytest.TempPathFactory) -> str:
    return motion_module(tmp_path_factory.mktemp("motion"))


def motion_module(folder: Path, **more: Any) -> str:
    """A motion module for the UNet of :func:`tiny_models.stable_diffusion`, with an effect."""
    from diffusers import MotionAdapter

    torch.manual_seed(0)
    own = {"block_out_channels": (16, 32), "motion_layers_per_block": 1, "motion_mid_block_layers_per_block": 1}
    own |= {"motion_num_attention_heads": 4, "motion_norm_num_groups": 8, "motion_max_seq_length": 8, **more}
    MotionAdapter(**own).save_pretrained(folder)
    return str(folder)


def loaded(folder: str = "canon-mini", **more: Any) -> LatentModel:
    model = load_model(DiffusionConfig(prompt="gold", model=folder, **more), DESCRIBE)
    assert isinstance(model, LatentModel)
    return apart(invertible(model))


def on_layer(fit: Fit, layer: str = "foreground", count: int = 2, t: int = 0) -> np.ndarray:  # noqa: F811
    """Points [K, 2] well inside of a layer in a frame."""
    weight = fit.weights(t)[fit.layers.index(layer)]
    inside = cv2.erode((weight > 0.99).astype(np.uint8), np.ones((9, 9), np.uint8))
    y, x = np.nonzero(inside)
    chosen = np.linspace(0, len(y) - 1, count + 2).round().astype(int)[1:-1]
    return np.stack([x[chosen], y[chosen]], axis=-1).astype(np.float32)


def told(points: np.ndarray) -> tuple[str, ...]:
    """As people write them."""
    return tuple(f"{x:g},{y:g}" for x, y in points)


def pictures(folder: Path, count: int = 2) -> str:
    """A folder with pictures of a concept."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        image = np.random.default_rng(k).integers(0, 255, (20, 31, 3)).astype(np.uint8)
        write_image(folder / f"{k}.png", image)
    return str(folder)


class TestContract(EditorContract):
    name = "swap"

    @pytest.fixture(autouse=True)
    def _model(self, tiny: str) -> None:
        self.model = tiny

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**FAST, "model": self.model, "concept_images": (pictures(folder / "concept"),)}

    def test_everything_at_once(self, fit: Fit, tmp_path: Path, motion: str) -> None:  # noqa: F811
        """Points, one of them dropped and one dragged, and a motion module."""
        own = on_layer(fit, count=3)
        options = {**self.options(fit, tmp_path), "points": told(own), "drop": ("1",), "motion": motion}
        options["drag"] = (f"2={own[2, 0] + 6:g},{own[2, 1] + 3:g}",)
        edit = canon.edit(fit, self.name, layer="foreground", **options)
        assert [type(step.operation) for step in edit.steps] == [Warp, Over]
        assert {step.provenance.editor for step in edit.steps} == {"swap"}
        assert any(path.endswith("0.png") for path in edit.steps[1].provenance.files)
        again = canon.edit(fit, self.name, layer="foreground", **options)
        assert canon.evaluate(fit, edit)["changed_outside"] == 0
        for t in (0, len(fit) - 1):
            frame = canon.render(fit, edit)[t]
            assert np.array_equal(frame, canon.render(fit, again)[t]) and (frame != fit.clip.frames[t]).any()


class TestPoints:
    def test_lie_in_pictures_where_they_lie_in_frames(self) -> None:
        """Each picture is dark but for a spot where the point is."""
        true = true_fit(small_scene("pan"))
        at = on_layer(true, t=3)[:1]
        positions, visible = true.track(at, 3, "foreground")
        frames = np.zeros(true.clip.frames.shape, np.uint8)
        y, x = np.mgrid[: true.size[0], : true.size[1]]
        for t in range(len(true)):
            away = np.hypot(x - positions[t, 0, 0], y - positions[t, 0, 1])
            frames[t] = (255 * np.exp(-(away**2) / 18))[..., None]
        spotted = true.over(canon.Clip.from_frames(frames))
        painter = SwapPainter(SwapConfig(prompt="gold", size=96))
        points = Points(3, ("0",), at, at, np.ones(1, bool))
        views = viewed(spotted, "foreground", points, at, [1, 3, 6], painter)
        assert views.places is not None and visible[[1, 3, 6]].all()
        for k, picture in enumerate(views.pictures):
            light = picture[..., 0]
            y, x = np.mgrid[: light.shape[0], : light.shape[1]]
            centre = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
            assert np.abs(views.places.at[k, 0].numpy() - centre).max() < 0.35
            assert views.places.seen[k, 0] == 1

    def test_are_soft_spots_of_one_at_the_middle(self) -> None:
        at = torch.tensor([[[20.0, 11.0], [3.0, 30.0]], [[9.0, 8.0], [50.0, 5.0]]])
        places = Places(SIZE, at, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        spots = places.spots(SIZE)
        assert spots.shape == (2, 2, *SIZE) and spots[0, 0, 11, 20] == 1 and spots[0, 1, 30, 3] == 1
        wanted = float(np.exp(-(3**2 + 2**2) / (2 * places.radius**2)))
        assert float(spots[1, 0, 10, 12]) == pytest.approx(wanted, rel=1e-5)
        assert float(spots[1, 1].max()) == 0, "it is not seen"

    def test_are_the_same_in_a_window_as_in_the_whole(self) -> None:
        at = torch.tensor([[[20.0, 11.0], [44.0, 30.0]]])
        places = Places(SIZE, at, torch.ones(1, 2))
        window = Window(8, 16, 24, 32)
        for halved in (1, 2, 4):
            whole = places.spots((SIZE[0] // halved, SIZE[1] // halved))
            part = places.spots((24 // halved, 32 // halved), window)
            place = Window(8 // halved, 16 // halved, 24 // halved, 32 // halved)
            assert torch.allclose(part, place.cut(whole), atol=1e-6)

    def test_are_read_from_files(self, fit: Fit, tmp_path: Path) -> None:  # noqa: F811
        own = on_layer(fit, t=2)
        np.savez(tmp_path / "p.npz", points=own, frame=2)
        entries = [{"name": "nose", "at": own[0].tolist()}, {"at": own[1].tolist(), "to": (own[1] + 3).tolist()}]
        (tmp_path / "p.json").write_text(json.dumps({"frame": 2, "points": entries}))
        for config in (
            SwapConfig(prompt="gold", points=told(own), frame=2, drag=(f"1={own[1, 0] + 3:g},{own[1, 1] + 3:g}",)),
            SwapConfig(prompt="gold", points=(str(tmp_path / "p.npz"),), drag=(f"1={own[1, 0] + 3},{own[1, 1] + 3}",)),
            SwapConfig(prompt="gold", points=(str(tmp_path / "p.json"),)),
        ):
            points = given(fit, "foreground", config)
            assert points.frame == 2 and np.allclose(points.at, own) and points.names[1] == "1"
            assert np.allclose(points.to[1], own[1] + 3) and points.dragged.tolist() == [False, True]
        dropped = given(fit, "foreground", replace(config, drop=("nose",)))
        assert dropped.followed.tolist() == [False, True]

    def test_that_are_dragged_take_the_layer_along(self) -> None:
        true = true_fit(small_scene("pan"))
        at = on_layer(true, count=2, t=3)
        at[1] = at[0] + [12, 0]  # near enough to go along unless it is held
        to = at + np.float32([[9, 4], [0, 0]])
        points = Points(3, ("0", "1"), at, to, np.ones(2, bool))
        dropped = replace(points, followed=np.array([True, False]))
        held, free = (shaped(true, "foreground", which) for which in (points, dropped))
        assert held is not None and free is not None
        uv = true.coordinates(3, "foreground")[0][int(at[1, 1]), int(at[1, 0])][None]
        away = [float(np.linalg.norm(edit.steps[0].operation.at(uv))) for edit in (held, free)]
        assert away[0] < 0.5 and away[1] > 2
        before, after = true.track(at, 3, "foreground")[0], warped(true, [held]).track(to, 3, "foreground")[0]
        for t in (0, 3, 7):  # the same texels, in every frame
            assert np.linalg.norm(after[t, 0] - before[t, 0]) == pytest.approx(np.hypot(9, 4), rel=0.25)
        assert shaped(true, "foreground", replace(points, followed=np.array([False, True]))) is None


class TestAdapter:
    def test_says_nothing_before_it_has_learned(self, tiny: str) -> None:
        for model in (loaded(tiny), loaded()):
            latents, _ = random_latents(model, SIZE, 0)
            places = Places(SIZE, torch.tensor([[[20.0, 11.0]]]), torch.ones(1, 1))
            guide = model.guide("gold", "", 3.0, SIZE)
            adapter = new_adapter(model, torch.randn(1, 8, generator=torch.Generator().manual_seed(0)))
            pointed = PointedModel(model, adapter).seeing(places)
            plain, level = model.predict(latents, torch.tensor(500), guide), torch.tensor(500)
            assert torch.equal(pointed.predict(latents, level, guide), plain)
            for head in adapter.heads:
                torch.nn.init.ones_(head.weight)
            said = pointed.predict(latents, level, guide)
            assert float((said - plain).abs().max()) > 1e-3
            elsewhere = PointedModel(model, adapter).seeing(replace(places, at=places.at + 9))
            assert float((elsewhere.predict(latents, level, guide) - said).abs().max()) > 1e-3
            hidden = PointedModel(model, adapter).seeing(replace(places, seen=places.seen * 0))
            assert torch.equal(hidden.predict(latents, level, guide), plain)
            assert torch.equal(PointedModel(model, adapter, 0.0).seeing(places).predict(latents, level, guide), plain)
            assert torch.equal(model.predict(latents, level, guide), plain), "nothing is left in the network"
            late = torch.tensor(499)
            assert torch.equal(pointed.predict(latents, late, guide), model.predict(latents, late, guide)), "unlearned"

    @torch.no_grad()
    def test_comes_in_at_every_scale_where_the_point_is(self, tiny: str) -> None:
        model = loaded(tiny)
        places = Places(SIZE, torch.tensor([[[44.0, 12.0]], [[8.0, 30.0]]]), torch.ones(2, 1))
        adapter = new_adapter(model, torch.ones(1, 8).cumsum(-1))
        for head in adapter.heads:
            torch.nn.init.ones_(head.weight)
        found: list[list[Tensor]] = []
        for scale in (0.0, 1.0):
            seen = list[Tensor]()
            with shown(model.unet, adapter, places, scale=scale):
                hooks = [
                    block.resnets[-1].register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
                    for block in model.unet.down_blocks
                ]
                noise = torch.zeros(4, 4, 20, 28)
                model.unet(noise, torch.tensor(500), encoder_hidden_states=torch.zeros(4, 7, 32))
            for hook in hooks:
                hook.remove()
            found.append(seen)
        assert [tuple(part.shape[-2:]) for part in found[1]] == [(20, 28), (10, 14)]
        added = found[1][0] - found[0][0]
        for frame in range(4):  # both frames, twice, in order
            wanted = places.spots((20, 28))[frame % 2, 0]
            assert torch.allclose(added[frame, 0] / added[frame, 0].max(), wanted / wanted.max(), atol=1e-4)

    def test_learns_where_things_are(self) -> None:
        """Where a dot is, noise does not show, but a point does."""
        model, rng = loaded(), np.random.default_rng(0)
        at = rng.uniform(12, 36, (10, 1, 2)).astype(np.float32)
        y, x = np.mgrid[:48, :48]
        images = [
            np.where((np.hypot(x - a[0, 0], y - a[0, 1]) < 7)[..., None], [0.9, 0.1, 0.1], [0.2, 0.5, 0.3]).astype(
                np.float32
            )
            for a in at
        ]
        places = Places((48, 48), torch.from_numpy(at), torch.ones(10, 1))
        guide = model.guide("dots", "", 1.0, (48, 48))
        guide = replace(guide, context=guide.context.detach())
        features = point_features(model, to_tensor(images[0]), places.of(slice(0, 1)), guide)
        assert features.shape[0] == 1 and torch.isfinite(features).all()
        adapter = new_adapter(model, features)
        train_adapter(model, adapter, images[:8], places.of(slice(0, 8)), guide, 50, 3e-3, 0)

        @torch.no_grad()
        def loss(shift: float, scale: float = 1.0) -> float:
            """On pictures that were held out, with points beside where they are."""
            total = 0.0
            for f in (8, 9):
                own = places.of(slice(f, f + 1))
                wanted = patches(own, (12, 12))
                off = replace(own, at=own.at + shift * torch.sign(24 - own.at))
                pointed = PointedModel(model, adapter, scale).seeing(off)
                example = Example(model.encode(to_tensor(images[f])).float(), guide, wanted)
                for t in (700, 850, 950):
                    noise = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(t))
                    total += float(denoising_loss(pointed, example, noise, torch.tensor([t])))
            return total

        assert loss(0) < 0.8 * loss(0, scale=0.0), "with points against without"
        assert loss(0) < 0.7 * loss(14), "where they are against elsewhere"

    def test_tells_points_apart(self, tiny: str) -> None:
        model, image = loaded(tiny), np.random.default_rng(0).random((*SIZE, 3), np.float32)
        places = Places(SIZE, torch.tensor([[[5.0, 5.0], [50.0, 30.0]]]), torch.ones(1, 2))
        found = point_features(model, to_tensor(image), places, model.guide("gold", "", 1.0, SIZE))
        assert float((found[0] - found[1]).abs().max()) > 1e-2
        adapter = PointAdapter(found, (4,))
        torch.nn.init.ones_(adapter.heads[0].weight)
        both = adapter(0, torch.eye(2)[None, :, :, None])[0, 0, :, 0]
        assert not torch.isclose(both[0], both[1])


def test_spans_cover_everything() -> None:
    for count, length in ((1, 4), (4, 4), (5, 4), (23, 8), (7, 1), (9, 3)):
        found = spans(count, length)
        covered = np.concatenate([np.arange(count)[span] for span in found])
        assert set(covered.tolist()) == set(range(count))
        assert all(span.stop - span.start == min(length, count) for span in found)


class TestMotion:
    def frames(self, model: LatentModel, count: int = 5) -> Tensor:
        return torch.cat([random_latents(model, SIZE, seed)[0] for seed in range(count)])

    def test_of_modules_that_do_nothing_is_the_plain_network(self, tiny: str, motion: str) -> None:
        model = loaded(tiny)
        together = with_motion(model, motion)
        for name, value in together.unet.named_parameters():
            if "motion_modules" in name and ".proj_out." in name:
                value.data.zero_()
        latents, level, guide = self.frames(model), torch.tensor(600), model.guide("gold", "red", 3.0, SIZE)
        wanted = model.predict(latents, level, guide)
        for span in (16, 3):
            assert torch.allclose(
                PointedModel(together, None, span=span).predict(latents, level, guide), wanted, atol=1e-4
            )
        assert not hasattr(model.unet, "frames") and torch.equal(model.predict(latents, level, guide), wanted)

    def test_lets_frames_know_of_each_other(self, tiny: str, motion: str) -> None:
        model = loaded(tiny)
        together = PointedModel(with_motion(model, motion), None, span=16)
        latents, level, guide = self.frames(model), torch.tensor(600), model.guide("gold", "", 3.0, SIZE)
        other = latents.clone()
        other[4] += 1
        apart_by = (together.predict(other, level, guide) - together.predict(latents, level, guide)).abs()
        assert float(apart_by[0].max()) > 1e-4
        short = PointedModel(with_motion(model, motion), None, span=2)
        apart_by = (short.predict(other, level, guide) - short.predict(latents, level, guide)).abs()
        assert float(apart_by[0].max()) == 0 and float(apart_by[3].max()) > 1e-4

    def test_has_the_concept_and_the_points(self, tiny: str, motion: str, tmp_path: Path) -> None:
        model = loaded(tiny)
        state = {
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": torch.randn(2, 32),
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_B.weight": torch.randn(32, 2),
        }
        latents, level, guide = self.frames(model, 2), torch.tensor(600), model.guide("gold", "", 3.0, SIZE)
        plain, taught = (
            PointedModel(with_motion(one, motion), None, span=4) for one in (model, with_concept(model, state))
        )
        said = plain.predict(latents, level, guide)
        assert float((taught.predict(latents, level, guide) - said).abs().max()) > 1e-3
        adapter = new_adapter(model, torch.ones(1, 8).cumsum(-1))
        torch.nn.init.ones_(adapter.heads[0].weight)
        places = Places(SIZE, torch.tensor([[[20.0, 11.0]], [[30.0, 11.0]]]), torch.ones(2, 1))
        seeing = PointedModel(with_motion(model, motion), adapter, span=4).seeing(places)
        assert float((seeing.predict(latents, level, guide) - said).abs().max()) > 1e-3


class TestPictures:
    def views(self, area: np.ndarray, count: int = 1) -> Views:
        images = [np.random.default_rng(k).random((*SIZE, 3), np.float32) for k in range(count)]
        return Views(list(range(count)), [(slice(0, 1), slice(0, 1))] * count, images, [area] * count, None)

    @pytest.mark.parametrize("together", [False, True])
    def test_stay_as_they_are_beyond_the_area(self, tiny: str, motion: str, together: bool) -> None:
        painter = SwapPainter(SwapConfig(**FAST, model=tiny, motion=motion if together else ""))
        views = self.views(np.zeros(SIZE, np.float32), 2)
        plain = [to_picture(painter.own.decode(painter.own.encode(to_tensor(image)))) for image in views.pictures]
        for made, wanted in zip(painter.paint_all(views), plain, strict=True):
            assert np.allclose(made, wanted, atol=1e-5)
        everywhere = painter.paint_all(self.views(np.ones(SIZE, np.float32), 2))
        assert np.abs(everywhere[0] - plain[0]).mean() > 0.01

    def test_depend_on_those_before(self, tiny: str) -> None:
        painter, views = SwapPainter(SwapConfig(**FAST, model=tiny)), self.views(np.ones(SIZE, np.float32), 2)
        alone = painter.paint(views.pictures[1], views.areas[1])
        assert np.abs(painter.paint_all(views)[1] - alone).max() > 1e-3
        free = SwapPainter(SwapConfig(**FAST, model=tiny, attention="none"))
        assert np.allclose(free.paint_all(views)[1], free.paint(views.pictures[1], views.areas[1]))


class Unchanged(SwapPainter):
    """Draws everything as it is."""

    asked: ClassVar[list[Views]] = []

    def learn(self, fit: Fit, layer: str, points: Points) -> None:  # noqa: F811
        """Nothing."""

    def paint_all(self, views: Views) -> list[np.ndarray]:
        self.asked.append(views)
        return views.pictures


class TestEdit:
    def test_of_keyframes_as_they_are_changes_nothing(self, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where dragged points have moved the layer: the result is the warp alone."""
        monkeypatch.setattr("canon.editors.diffusion.swapping.SwapPainter", Unchanged)
        true = true_fit(small_scene("pan", frames=4))
        at = on_layer(true, count=2, t=1)
        options = {**FAST, "model": tiny, "size": 160, "keyframes": 2, "layer": "foreground"}
        options |= {"points": told(at), "frame": 1, "adapter_steps": 1}
        plain = canon.render(true, canon.edit(true, "swap", **options))
        drag = (f"0={at[0, 0] + 8:g},{at[0, 1] + 3:g}",)
        edit = canon.edit(true, "swap", **options, drag=drag)
        warp = canon.edit(
            true, "drag", move=(*at[0], *(at[0] + [8, 3])), hold=tuple(at[1]), frame=1, layer="foreground"
        )
        assert np.allclose(edit.steps[0].operation.grid, warp.steps[0].operation.grid)
        moved, wanted = canon.render(true, edit), canon.render(true, warp)
        # What is drawn is the video that has moved, with its points where they were dragged.
        views, after = Unchanged.asked[-1], warped(true, [warp])
        positions, _ = after.track(at + np.float32([[8, 3], [0, 0]]), 1, "foreground")
        assert views.places is not None and views.times == [0, 3]
        for k, t in enumerate(views.times):
            box, size = views.boxes[k], views.places.size
            assert np.allclose(views.pictures[k], resized(to_float(after.clip.frames[t])[box], size))
            corner = torch.tensor([box[1].start, box[0].start])
            there = resize_points(torch.from_numpy(positions[t]) - corner, box_size(box), size)
            assert torch.allclose(views.places.at[k], there, atol=0.05)
        for t in (0, 3):
            inside = true.weights(t)[0] > 0.99
            assert psnr(plain[t], true.clip.frames[t], inside) > 27
            assert psnr(moved[t], wanted[t], np.abs(wanted[t].astype(int) - true.clip.frames[t]).max(axis=-1) > 8) > 22

    def test_leaves_nothing_of_the_old_subject(self, tiny: str, tmp_path: Path) -> None:
        """Not even where the canvas does not show what frames show; with a mask, all beyond it."""
        true = true_fit(small_scene("pan", frames=2))
        layer = true.layer("foreground")
        smaller = replace(layer, coverage=cv2.erode(layer.coverage, np.ones((5, 5))))
        layers = [smaller if data is layer else data for data in true.baked]
        cut = Fit(true.clip, true.representation, true.config, layers, true.stride, true.light_stride)
        options = {**FAST, "model": tiny, "layer": "foreground", "size": 64}
        alpha = canon.edit(cut, "swap", **options).steps[0].operation.rgba[..., 3]
        assert (layer.coverage > 0).sum() > 1.1 * (smaller.coverage > 0).sum()
        assert alpha[layer.coverage > 0].min() == 1
        mask = np.zeros(cut.canonical("foreground").size, np.uint8)
        mask[:, : mask.shape[1] // 2] = 255
        write_image(tmp_path / "mask.png", mask)
        half = canon.edit(cut, "swap", **options, mask=str(tmp_path / "mask.png"), feather=0.0).steps[0].operation.rgba
        assert half[:, mask.shape[1] // 2 + 1 :, 3].max() == 0 and half[..., 3].max() == 1

    def test_keyframes_are_those_that_show_the_layer(self, fit: Fit) -> None:  # noqa: F811
        assert chosen(fit, "foreground", 0) == [0, 1, 2, 3]
        assert chosen(fit, "foreground", 2) == [0, 3] and chosen(fit, "foreground", 9) == [0, 1, 2, 3]
        hidden = seen_in(fit, "foreground", {1, 3})
        assert chosen(hidden, "foreground", 0) == [1, 3]
        assert np.array_equal(hidden.weights(1)[1], fit.weights(1)[1])
        with pytest.raises(InputError, match="in no frame"):
            chosen(seen_in(fit, "foreground", set()), "foreground", 0)

    def test_what_was_learned_is_not_learned_again(
        self,
        fit: Fit,  # noqa: F811
        tiny: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = pictures(tmp_path / "concept")
        options = {**FAST, "model": tiny, "layer": "foreground", "concept_images": (folder,)}
        options |= {"points": told(on_layer(fit)), "adapter_rate": 0.1, "ratio": 1.0}
        first = canon.edit(fit, "swap", **options).steps[0].operation
        kept = sorted(path.name.split("-")[0] for path in Path(folder).glob("*.safetensors"))
        assert kept == ["concept", "points"]

        def failing(what: str) -> Callable[..., None]:
            def fails(*_args: Any) -> None:
                raise RuntimeError(f"{what} once more")

            return fails

        monkeypatch.setattr(swap_concepts, "train_concept", failing("concept"))
        monkeypatch.setattr("canon.editors.diffusion.swapping.train_adapter", failing("points"))
        again = canon.edit(fit, "swap", **options).steps[0].operation
        assert np.array_equal(first.rgba, again.rgba)
        dropped = canon.edit(fit, "swap", **options, drop=("0",))
        assert not np.array_equal(dropped.steps[0].operation.rgba, first.rgba)
        for more in ({"concept_prompt": "a red thing"}, {"concept_steps": 3}, {"seed": 4}, {"source_prompt": "grey"}):
            with pytest.raises(RuntimeError, match="once more"):
                canon.edit(fit, "swap", **{**options, **more})
        write_image(Path(folder) / "0.png", np.zeros((8, 9, 3), np.uint8))
        with pytest.raises(RuntimeError, match="concept once more"):
            canon.edit(fit, "swap", **options)

    def test_a_concept_that_is_there_is_used(self, fit: Fit, tiny: str, tmp_path: Path) -> None:  # noqa: F811
        options = {**FAST, "model": tiny, "layer": "foreground"}
        concept = str(tiny_models.lora(tmp_path / "lora"))
        plain, taught = (canon.edit(fit, "swap", **options, **more) for more in ({}, {"concept": concept}))
        assert not np.array_equal(plain.steps[0].operation.rgba, taught.steps[0].operation.rgba)

    def test_of_pictures_with_transparency_only_what_is_opaque_is_learned(
        self, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = np.full((10, 14, 4), 200, np.uint8)
        image[:, :7, 3] = 0
        write_image(tmp_path / "a.png", image)
        asked: list[Any] = []

        def told_of(model: LatentModel, *parts: Any) -> dict[str, Tensor]:
            asked.append(parts)
            return {
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight": torch.zeros(2, 32),
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_B.weight": torch.zeros(32, 2),
            }

        monkeypatch.setattr(swap_concepts, "train_concept", told_of)
        SwapPainter(SwapConfig(**FAST, model=tiny, concept_images=(str(tmp_path / "a.png"),)))
        (shown_pictures, prompt, _, masks) = asked[0]
        assert prompt == "gold" and np.allclose(shown_pictures[0], to_float(image[..., :3]))
        assert masks[0][:, :7].max() == 0 and np.allclose(masks[0][:, 7:], 200 / 255)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"prompt": " "}, "prompt is needed"),
        ({"refine": 0.3}, "no second pass"),
        ({"ratio": 0.0}, "ratio"),
        ({"attention": "all"}, "not known"),
        ({"window": 0}, "window at least 1"),
        ({"adapter_steps": 0}, "at least 1 step"),
        ({"concept": "a", "concept_images": ("b",)}, "drop --concept or"),
        ({"drop": ("0",)}, "no points to drop"),
        ({"points": ("9,9",), "drag": ("0:9,9",)}, "no drag"),
        ({"points": ("nine",)}, "no point"),
        ({"points": ("-5,9",)}, r"\(-5, 9\) lies outside of the frame"),
        ({"points": ("900,9",)}, "lies outside of the frame"),
        ({"points": ("1,1",)}, r"\(1, 1\) does not lie on 'foreground'"),
        ({"points": ("nowhere.json",)}, "nowhere.json"),
        ({"points": ("nowhere.npz",)}, "no file of points"),
        ({"points": "inside", "drop": ("7",)}, "no point '7'; the points are called 0, 1"),
        ({"points": "inside", "drop": ("1",), "drag": ("1=9,9",)}, "both dropped and dragged"),
        ({"points": "inside", "drag": ("1=nine,9",)}, "no point"),
        ({"points": "inside", "frame": 99}, "Frame 99"),
        ({"concept_images": ("nowhere.png",)}, "nowhere.png"),
        ({"concept_images": ("empty",)}, "no pictures of a concept"),
        ({"concept_images": ("text.png",)}, "text.png"),
        ({"concept": "nowhere"}, "nowhere"),
        ({"motion": "./nowhere"}, "motion module './nowhere' cannot be loaded"),
        ({"motion": "empty"}, "cannot be loaded"),
        ({"motion": "other"}, "does not go with the model"),
        ({"motion": "motion", "model": "canon-mini"}, "does not go with the model"),
        ({"layer": "background"}, "behind all others"),
        ({"segment": 5}, "segment"),
    ],
)
def test_bad_options_end_in_one_sentence(
    fit: Fit,  # noqa: F811
    tiny: str,
    motion: str,
    more: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    if more.get("motion") == "other":
        motion_module(tmp_path / "other", block_out_channels=(16, 32, 32))
    more = {**more, "motion": motion} if more.get("motion") == "motion" else more
    more = {**more, "points": told(on_layer(fit))} if more.get("points") == "inside" else more
    with pytest.raises(InputError, match=sentence) as caught:
        canon.edit(fit, "swap", **{**FAST, "layer": "foreground", "model": tiny, **more})
    assert "\n" not in str(caught.value)


def test_other_kinds_of_models_are_refused(fit: Fit, tmp_path: Path) -> None:  # noqa: F811
    flux = str(tiny_models.flux(tmp_path / "flux"))
    with pytest.raises(InputError, match="cannot be inverted"):
        canon.edit(fit, "swap", **{**FAST, "layer": "foreground", "model": flux})


def test_there_is_no_frame_by_frame_baseline(fit: Fit) -> None:  # noqa: F811
    kind = canon.registry.editor("swap")
    with pytest.raises(InputError, match="no frame-by-frame baseline"):
        kind().framewise(fit, SwapConfig(prompt="gold"))
