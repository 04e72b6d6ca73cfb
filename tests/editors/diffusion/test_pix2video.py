"""Frames drawn one after another: shared self-attention, the pull to the frame before, and how they are gathered."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from contracts import EditorContract, fit  # noqa: F401
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from truth import psnr, small_scene, split_in_two, still_fit, true_fit

import canon
from canon.clip import Clip
from canon.editors.diffusion.attention import Chain, Features, attending, decoder_self_attention, tell_what_attends
from canon.editors.diffusion.frames_in_turn import (
    FramesInTurn,
    Pix2VideoPainter,
    asked,
    beginnings,
    cumulative_alpha,
    gathered,
    whole_step,
)
from canon.editors.diffusion.latents import LatentModel, random_latents
from canon.editors.diffusion.models import DESCRIBE, load_model
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.diffusion.pix2video import Pix2VideoConfig
from canon.errors import InputError
from canon.fits import Fit
from canon.registry import editor, make_config
from canon.storage import write_image

FAST: dict[str, Any] = {"prompt": "gold", "steps": 4, "guidance": 2.0, "size": 32, "ratio": 0.9}
TEXT = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    names = ("stable_diffusion", "stable_diffusion_xl", "controlnet", "flux")
    return {name: str(getattr(tiny_models, name)(folder / name)) for name in names}


def network(**more: Any) -> UNet2DConditionModel:
    """A UNet whose decoder has self-attention of three layers, at two sizes."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
        **more,
    ).eval()


@torch.no_grad()
def answers(unet: UNet2DConditionModel, latents: Tensor, times: tuple[int, ...] = (800, 300)) -> list[Tensor]:
    """What a network says at several noise levels."""
    return [unet(latents, torch.tensor(t), encoder_hidden_states=TEXT, return_dict=False)[0] for t in times]


def noise(seed: int) -> Tensor:
    return torch.randn(1, 4, 12, 20, generator=torch.Generator().manual_seed(seed))


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


class TestAttention:
    def test_is_found_in_the_decoder_alone(self) -> None:
        names = list(decoder_self_attention(network()))
        assert len(names) == 4 and all(name.startswith("up_blocks.") and name.endswith(".attn1") for name in names)

    def test_is_that_of_the_middle_where_the_decoder_has_none(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "canon")
        unet = network(only_cross_attention=True)
        assert list(decoder_self_attention(unet)) == ["mid_block.attentions.0.transformer_blocks.0.attn1"]
        tell_what_attends(network())
        assert not caplog.records
        tell_what_attends(unet)
        assert "no self-attention in its decoder; features are shared in its middle block" in caplog.text
        first, other = noise(0), noise(1)
        with attending(unet, []) as features:
            answers(unet, other)
        with attending(unet, [features]):
            shared = answers(unet, first)
        assert apart(shared, answers(unet, first)) > 1e-4

    def test_to_ones_own_features_is_plain_self_attention(self) -> None:
        unet, latents = network(), noise(0)
        plain = answers(unet, latents)
        with attending(unet, []) as own:
            assert apart(answers(unet, latents), plain) == 0
        assert len(own) == 4 * 2, "four layers at two levels"
        for others in ([own], [own, own]):  # twice the same keys share what one had
            with attending(unet, others):
                assert apart(answers(unet, latents), plain) < 1e-5
        with attending(unet, []) as features:
            answers(unet, noise(1))
        for others in ([features], [own, features]):
            with attending(unet, others):
                assert apart(answers(unet, latents), plain) > 1e-3

    @torch.no_grad()
    def test_equals_the_formula(self) -> None:
        class Decoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up_blocks = nn.ModuleList([nn.ModuleDict({"attn1": Attention(12, heads=3, dim_head=4)})])

            def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
                return self.up_blocks[0]["attn1"](sample)

        torch.manual_seed(0)
        unet, level = Decoder().eval(), torch.tensor(10)
        own, anchor, previous = (torch.randn(2, n, 12) for n in (6, 6, 9))
        features = []
        for picture in (anchor, previous):
            with attending(unet, []) as found:
                unet(picture, level)
            features.append(found)
        with attending(unet, features):
            made = unet(own, level)
        layer = unet.up_blocks[0]["attn1"]
        seen = torch.cat([anchor, previous], dim=1)
        query, key, value = (
            part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (layer.to_q(own), layer.to_k(seen), layer.to_v(seen))
        )
        found = (query @ key.transpose(-1, -2) / 2).softmax(-1) @ value
        wanted = layer.to_out[0](found.transpose(1, 2).flatten(2))
        assert torch.allclose(made, wanted, atol=1e-5)

    def test_is_as_before_afterwards(self) -> None:
        unet = network()
        before, plain = dict(unet.attn_processors), answers(unet, noise(0))
        with attending(unet, []) as features:
            answers(unet, noise(1))
            assert unet.attn_processors != before
        with pytest.raises(RuntimeError, match="on the way"), attending(unet, [features]):
            raise RuntimeError("on the way")
        assert unet.attn_processors == before and not unet._forward_pre_hooks
        assert apart(answers(unet, noise(0)), plain) == 0

    def test_is_aligned_by_noise_level(self) -> None:
        """A picture that begins at a lower level sees what the others were at that same level."""
        unet = network()
        with attending(unet, []) as features:
            answers(unet, noise(1), (800, 500, 300))
        with attending(unet, [features]):
            late = answers(unet, noise(0), (300,))
        with attending(unet, []) as alone:
            answers(unet, noise(1), (300,))
        with attending(unet, [alone]):
            assert apart(answers(unet, noise(0), (300,)), late) < 1e-6
        with attending(unet, [features]):  # a level that they were never at
            unknown = answers(unet, noise(0), (100,))
        assert apart(unknown, answers(unet, noise(0), (100,))) == 0

    def test_tells_windows_and_second_passes_apart(self) -> None:
        unet = network()
        with attending(unet, []) as features:
            answers(unet, noise(1), (800, 800, 300, 300, 500, 300))
        kept = {moment for layer, moment in features._kept if layer.startswith("up_blocks.0.attentions.0")}
        assert kept == {(0, 800, 0), (0, 800, 1), (0, 300, 0), (0, 300, 1), (1, 500, 0), (1, 300, 0)}
        layer = next(iter(decoder_self_attention(unet)))
        assert features.at(layer, (0, 800, 7)) is features.at(layer, (0, 800, 0))
        assert features.at(layer, (1, 800, 0)) is None

    def test_a_chain_keeps_the_first_and_the_previous_picture(self) -> None:
        unet = network()
        for attention, count in (("none", 0), ("anchor", 1), ("both", 2)):
            gc.collect()
            before = sum(type(found) is Features for found in gc.get_objects())
            chain = Chain(unet, attention)
            for k in range(4):
                with chain.next():
                    answers(unet, noise(k))
            gc.collect()
            after = sum(type(found) is Features for found in gc.get_objects())
            assert after - before == count, attention
            del chain

    def test_a_chain_shows_what_it_says(self) -> None:
        unet, shown = network(), [noise(k) for k in range(3)]

        def drawn(attention: str) -> list[list[Tensor]]:
            chain, found = Chain(unet, attention), []
            for latents in shown:
                with chain.next():
                    found.append(answers(unet, latents))
            return found

        features: list[Features] = []
        for k, latents in enumerate(shown):
            with attending(unet, features[:1] if k == 1 else features[:2]) as own:
                answers(unet, latents)
            features.append(own)
        with attending(unet, features[:2]):
            by_hand = answers(unet, shown[2])
        assert apart(drawn("both")[2], by_hand) == 0
        with attending(unet, features[:1]):
            by_hand = answers(unet, shown[2])
        assert apart(drawn("anchor")[2], by_hand) == 0
        assert apart(drawn("none")[2], answers(unet, shown[2])) == 0


def latent_model(folder: str) -> LatentModel:
    model = load_model(DiffusionConfig(prompt="gold", model=folder), DESCRIBE)
    assert isinstance(model, LatentModel)
    return model


class TestPull:
    def test_leads_towards_the_previous_prediction(self, models: dict[str, str]) -> None:
        model = latent_model(models["stable_diffusion"])
        latents, _ = random_latents(model, (32, 48), 0)
        guide = model.guide("gold", "", 3.0, (32, 48))
        level = model.levels(8)[3]
        target = random_latents(model, (32, 48), 1)[0]
        for through_network in (True, False):
            found, clean, slope = asked(model, latents, level, guide, target, through_network)
            assert slope is not None and not found.requires_grad and not clean.requires_grad
            assert torch.allclose(found, model.predict(latents, level, guide), atol=1e-6)
            moved = latents - 0.02 * slope
            nearer = asked(model, moved, level, guide, None, False)[1]
            before, after = (float(((x - target) ** 2).mean()) for x in (clean, nearer))
            assert after < 0.99 * before, f"{before} -> {after}"
        assert all(weight.requires_grad for weight in model.unet.parameters()), "as it was before"
        assert asked(model, latents, level, guide, None, True)[2] is None

    def test_has_the_gradient_of_the_distance(self, models: dict[str, str]) -> None:
        model = latent_model(models["stable_diffusion"])
        latents, _ = random_latents(model, (32, 48), 0)
        guide = model.guide("gold", "", 3.0, (32, 48))
        level, target = model.levels(8)[3], random_latents(model, (32, 48), 1)[0]
        model.unet.double()
        try:
            latents, target, guide = latents.double(), target.double(), model.guide("gold", "", 3.0, (32, 48))
            guide = type(guide)(guide.context.double(), 3.0)
            slope = asked(model, latents, level, guide, target, True)[2]
            way, small = torch.randn_like(latents), 1e-5
            far, near = (
                float(((asked(model, latents + k * small * way, level, guide, None, True)[1] - target) ** 2).sum()) / 2
                for k in (1, -1)
            )
        finally:
            model.unet.float()
        assert slope is not None
        by_difference = (far - near) / (2 * small)
        assert float((slope * way).sum()) == pytest.approx(by_difference, rel=1e-3)

    def test_leads_all_the_way_through_a_linear_network(self) -> None:
        torch.manual_seed(0)
        turn, target, latents = (
            torch.linalg.qr(torch.randn(6, 6)).Q,
            torch.randn(6),
            torch.randn(6),
        )
        for gain in (0.01, 1.0, 7.5):
            network = gain * turn
            off = network @ latents - target
            moved = latents - whole_step(off, network.T @ off)
            assert torch.allclose(network @ moved, target, atol=1e-5)
        assert torch.equal(whole_step(torch.zeros(6), torch.zeros(6)), torch.zeros(6)), "there already"

    @pytest.mark.parametrize("steps", [10, 50])
    def test_is_the_same_at_every_noise_level(self, models: dict[str, str], steps: int) -> None:
        """A prediction that is pulled to a target goes into the DDIM step in the place of the network's own."""
        options = {**FAST, "steps": steps, "pulled": 0.5, "pull": 0.1, "through_network": False, "ratio": 1.0}
        painter = Pix2VideoPainter(Pix2VideoConfig(model=models["stable_diffusion"], attention="none", **options))
        model, share = painter._denoiser, 1 - 0.9 ** (50 / steps)
        guide = painter._guide(model, (32, 48))
        for k in (0, steps // 2, steps - 2):
            levels = model.levels(steps)[k : k + 2]
            start, target = (random_latents(model, (32, 48), seed)[0] for seed in (0, 1))
            found, clean, _ = asked(model, start, levels[0], guide, None, False)
            noise = model.split(found, start, cumulative_alpha(model, levels[0]))[1]
            alpha = cumulative_alpha(model, levels[1])
            pulled = clean + share * (target - clean)
            after = alpha.sqrt() * pulled + (1 - alpha).sqrt() * noise
            last = model.predict(after, levels[1], guide)
            wanted = model.scheduler.step(last, levels[1], after, return_dict=False)[0]
            painter._previous = {int(levels[0]): target}
            made, predicted = painter._denoised(start, levels, guide)
            assert torch.allclose(made, wanted, atol=1e-4 * float(wanted.abs().max()))
            assert list(predicted) == [int(levels[0])]
            assert torch.allclose(predicted[int(levels[0])], pulled, atol=1e-4 * float(pulled.abs().max()))

    def test_is_of_the_noisiest_levels_wherever_one_begins(self, models: dict[str, str]) -> None:
        for ratio, count in ((1.0, 5), (0.7, 2), (0.4, 0)):
            options = {**FAST, "steps": 10, "ratio": ratio}
            painter = Pix2VideoPainter(Pix2VideoConfig(model=models["stable_diffusion"], **options))
            painter.paint(np.full((32, 48, 3), 0.5, np.float32), np.ones((32, 48), np.float32))
            assert list(painter._previous) == [int(t) for t in painter._denoiser.levels(10)][10 - round(10 * ratio) : 5]
            assert len(painter._previous) == count

    def test_brings_frames_together(self, models: dict[str, str]) -> None:
        rng = np.random.default_rng(0)
        first, second = (rng.random((32, 48, 3), np.float32) for _ in range(2))

        def distance(**more: Any) -> float:
            options = {**FAST, "ratio": 1.0, "attention": "none", **more}
            config = Pix2VideoConfig(model=models["stable_diffusion"], **options)
            painter = Pix2VideoPainter(config)
            area = np.ones((32, 48), np.float32)
            made = [painter.paint(picture, area) for picture in (first, second)]
            return float(np.abs(made[0] - made[1]).mean())

        free = distance(pull=0.0)
        assert distance(pulled=0.0) == free
        for through_network in (True, False):
            weak, strong = (distance(pull=pull, through_network=through_network) for pull in (0.05, 0.2))
            assert strong < weak < free, f"{strong}, {weak}, {free}"


def still(frames: int = 3) -> Fit:
    image = np.random.default_rng(0).integers(0, 255, (33, 47, 3)).astype(np.uint8)
    return still_fit(image, frames)


class TestFrames:
    @pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl"])
    def test_of_a_still_clip_are_the_same(self, models: dict[str, str], family: str) -> None:
        fitted = still()
        frames = FramesInTurn(fitted, Pix2VideoConfig(model=models[family], **FAST))
        made = np.stack([frames[t] for t in range(len(fitted))]).astype(int)
        assert np.abs(made - made[0]).max() <= 1
        assert np.abs(made[0] - fitted.clip.frames[0].astype(int)).mean() > 3, "an edit"
        assert np.array_equal(frames[-1], frames[2])

    def test_depend_on_those_before(self, models: dict[str, str]) -> None:
        images = np.random.default_rng(1).integers(0, 255, (4, 33, 47, 3)).astype(np.uint8)
        fitted, config = still(4), Pix2VideoConfig(model=models["stable_diffusion"], pull=0.0, **FAST)

        def last(order: list[int]) -> np.ndarray:
            frames = FramesInTurn(fitted.over(Clip.from_frames(images[order])), config)
            return frames[3].astype(int)

        wanted = last([0, 1, 2, 3])
        # The previous frame saw the one before it.
        for order in ([1, 0, 2, 3], [0, 2, 1, 3]):
            assert np.abs(last(order) - wanted).max() > 1

    def test_begin_anew_where_nothing_goes_on(self, models: dict[str, str]) -> None:
        split = split_in_two(true_fit(small_scene("pan")), "foreground", 4, 2)
        assert beginnings(split, "foreground") == {0}, "the segments share frames"
        layer = split.layer("foreground")
        ends = [
            replace(segment, first=max(segment.first, 4 * k), last=4 * k + 3)
            for k, segment in enumerate(layer.segments)
        ]
        layer.segments, layer.second_grid, layer.second_lighting = tuple(ends), None, None
        assert beginnings(split, "foreground") == {0, 4} and beginnings(split, "background") == {0}
        images = np.random.default_rng(1).integers(0, 255, (4, 33, 47, 3)).astype(np.uint8)
        clip = Clip.from_frames(images[[0, 1, 0, 1]], views=("left", "right"))
        fitted = still(4).over(clip)
        assert beginnings(fitted, "background") == {0, 2}
        frames = FramesInTurn(fitted, Pix2VideoConfig(model=models["stable_diffusion"], **FAST))
        assert np.array_equal(frames[0], frames[2]) and np.array_equal(frames[1], frames[3])

    def test_take_a_controlnet(self, models: dict[str, str]) -> None:
        fitted = still(2)
        free, held = (
            FramesInTurn(fitted, Pix2VideoConfig(model=models["stable_diffusion"], controlnet=name, **FAST))[1].astype(
                int
            )
            for name in ("", models["controlnet"])
        )
        assert np.abs(free - held).max() > 1


class TestOnTheCanvas:
    def test_frames_that_agree_give_the_canvas(self) -> None:
        fitted = true_fit(small_scene("pan", lighting=0.25))
        for layer in fitted.layers:
            colours, known = gathered(fitted, layer, fitted.clip.frames)
            canvas = fitted.canvas(layer)
            solid = known & (canvas.coverage > 0)
            assert solid.sum() > 0.5 * (canvas.coverage > 0).sum()
            assert psnr(colours, canvas.rgba[..., :3], solid) > 30

    def test_one_that_is_off_counts_for_little(self) -> None:
        fitted = true_fit(small_scene("pan"))
        drawn = np.array(fitted.clip.frames)
        drawn[3] = 255 - drawn[3]
        canvas = fitted.canvas("foreground").rgba[..., :3]
        clean, known = gathered(fitted, "foreground", fitted.clip.frames)
        found, _ = gathered(fitted, "foreground", drawn)
        assert np.abs(found - clean)[known].mean() < 0.25 * np.abs(2 * canvas - 1)[known].mean() / len(fitted)

    def test_a_mask_is_kept_to(self, models: dict[str, str], tmp_path: Path) -> None:
        fitted = still()
        mask = np.zeros((33, 47, 3), np.uint8)
        mask[:, :20] = 255
        write_image(tmp_path / "mask.png", mask)
        options = {**FAST, "model": models["stable_diffusion"], "mask": str(tmp_path / "mask.png"), "feather": 0.0}
        frame = canon.render(fitted, canon.edit(fitted, "pix2video", **options))[1]
        changed = (frame != fitted.clip.frames[1]).any(axis=-1)
        assert changed[:, :19].mean() > 0.9 and not changed[:, 21:].any()
        with pytest.raises(InputError, match="--mask is of the canvas"):
            editor("pix2video")().framewise(fitted, Pix2VideoConfig(**options))

    def test_the_edit_shows_what_the_frames_show(self, models: dict[str, str]) -> None:
        fitted, options = still(), {**FAST, "model": models["stable_diffusion"]}
        edit = canon.edit(fitted, "pix2video", **options)
        frames = editor("pix2video")().framewise(fitted, Pix2VideoConfig(**options))
        assert psnr(canon.render(fitted, edit)[1], frames[1]) > 38
        figures = canon.evaluate(fitted, edit, framewise=True)
        assert {"warp_error_inside", "framewise_warp_error_inside"} <= set(figures)


class TestPix2VideoContract(EditorContract):
    name = "pix2video"

    @pytest.fixture(autouse=True)
    def _models(self, models: dict[str, str]) -> None:
        self.models = models

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {**FAST, "model": self.models["stable_diffusion"]}

    def test_frame_by_frame(self, fit: Fit, tmp_path: Path) -> None:  # noqa: F811
        config = make_config(Pix2VideoConfig, {**self.options(fit, tmp_path), "layer": "foreground"})
        frames = editor(self.name)().framewise(fit, config)
        assert len(frames) == len(fit)
        for t in range(len(fit)):
            frame, source = frames[t], fit.clip.frames[t]
            assert frame.dtype == np.uint8 and frame.shape == (*fit.size, 3)
            weight = fit.weights(t)[fit.layers.index("foreground")]
            assert np.array_equal(frame[weight == 0], source[weight == 0]) and (frame != source).any()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"model": "flux"}, "FluxImg2ImgPipeline cannot be inverted; give a Stable Diffusion"),
        ({"model": "flux", "controlnet": "controlnet"}, "Stable Diffusion models"),
        ({"ratio": 0.0}, "ratio 0 is out of range"),
        ({"ratio": 1.5}, "ratio 1.5 is out of range"),
        ({"pulled": 1.5}, "pulled share 1.5 of the steps is out of range"),
        ({"pull": -1.0}, "pull -1 is out of range; choose 0, for none, to 1"),
        ({"pull": 1.5}, "pull 1.5 is out of range"),
        ({"attention": "all"}, "attention 'all' is not known; choose one of none, anchor, both"),
        ({"control": "pose"}, "control 'pose' is not known"),
        ({"control_scale": -1.0}, "control scale -1 must be at least 0"),
        ({"controlnet": "canon-mini"}, "knows canny edges, not 'depth'"),
        ({"scheduler": "EulerDiscreteScheduler"}, "by DDIM"),
        ({"prompt": " "}, "prompt is needed"),
        ({"layer": "sky"}, "sky"),
    ],
)
def test_bad_options_end_in_one_sentence(models: dict[str, str], more: dict[str, Any], sentence: str) -> None:
    options = {**FAST, "model": "stable_diffusion", **more}
    for key in ("model", "controlnet"):
        options[key] = models.get(options.get(key, ""), options.get(key, ""))
    fitted = still(1)
    with pytest.raises(InputError, match=sentence) as raised:
        canon.edit(fitted, "pix2video", **options)
    assert str(raised.value).count("\n") == 0
    with pytest.raises(InputError, match=sentence):
        editor("pix2video")().framewise(fitted, make_config(Pix2VideoConfig, options))[0]


def test_later_keyframes_of_stablevideo_see_the_first(fit: Fit, models: dict[str, str]) -> None:  # noqa: F811
    common = {"prompt": "gold", "steps": 3, "guidance": 2.0, "refine": 0.0, "size": 32, "aggregation_steps": 0}
    common |= {"model": models["stable_diffusion"], "controlnet": models["controlnet"], "layer": "foreground"}

    def made(attention: str, *at: int) -> np.ndarray:
        step = canon.edit(fit, "stablevideo", attention=attention, at=at, **common).steps[0]
        return np.asarray(step.operation.rgba)

    assert np.array_equal(made("none", 0), made("both", 0)), "one keyframe has none before it"
    first, both = made("anchor", 0, 3), made("both", 0, 3)
    assert np.array_equal(first, both), "the previous one is the first"
    assert not np.array_equal(made("none", 0, 3), both)
    assert not np.array_equal(made("anchor", 0, 1, 3), made("both", 0, 1, 3))
    with pytest.raises(InputError, match="attention 'first' is not known"):
        made("first", 0)
