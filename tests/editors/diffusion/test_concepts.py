"""Concepts: what a model learns of a few pictures, how it is kept, and that the model itself stays as it was."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from canon.editors.diffusion.concepts import (
    ConceptSettings,
    Example,
    Pictures,
    denoising_loss,
    load_concept,
    save_concept,
    train_concept,
    with_concept,
)
from canon.editors.diffusion.latents import LatentModel, random_latents, to_picture, to_tensor
from canon.editors.diffusion.models import DESCRIBE, load_model
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.diffusion.painters import invertible
from canon.errors import InputError

SIZE = (32, 48)
SIDE = 39
"""Of a square of that area, about."""
WORDS = "gold"


def loaded(folder: str = "canon-mini", **more: Any) -> LatentModel:
    model = load_model(DiffusionConfig(prompt=WORDS, model=folder, **more), DESCRIBE)
    assert isinstance(model, LatentModel)
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.stable_diffusion(tmp_path_factory.mktemp("models") / "sd"))


def dots(k: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pink dots on green, uint8 [h, w, 3]: nothing that goes by the name of gold."""
    y, x = np.mgrid[: size[0], : size[1]]
    dot = ((x + 7 * k) % 16 - 8) ** 2 + ((y + 3 * k) % 16 - 8) ** 2 < 25
    return np.where(dot[..., None], np.uint8([220, 40, 200]), np.uint8([30, 120, 90]))


@torch.no_grad()
def held_out(model: LatentModel, picture: np.ndarray, share: float = 1.0) -> float:
    """The loss on a picture at noise that no training has seen; of its left part if ``share`` is below 1."""
    own = invertible(model)
    example = Example(own.encode(to_tensor(picture)).float(), own.guide(WORDS, "", 1.0, picture.shape[:2]))
    if share < 1:
        wanted = torch.zeros(1, 1, *example.latents.shape[-2:])
        wanted[..., : int(share * wanted.shape[-1])] = 1
        example = Example(example.latents, example.guide, wanted)
    generator = torch.Generator().manual_seed(99)
    losses = []
    for t in range(60, 1000, 120):
        noise = torch.randn(example.latents.shape, generator=generator)
        losses.append(float(denoising_loss(own, example, noise, torch.tensor([t]))))
    return float(np.mean(losses))


def made(model: LatentModel, seed: int = 3) -> np.ndarray:
    noise, generator = random_latents(model, SIZE, seed)
    guide = model.guide(WORDS, "", 3.0, SIZE)
    return to_picture(model.decode(model.denoise(noise, model.levels(8), guide, generator)))


def said(model: LatentModel) -> Tensor:
    latents, _ = random_latents(model, SIZE, 5)
    return model.predict(latents, torch.tensor(500), model.guide(WORDS, "", 3.0, SIZE))


def palette(picture: np.ndarray) -> float:
    """How far the mean colour is from that of the dots, 0..255."""
    return float(np.abs(picture.mean(axis=(0, 1)) * 255 - dots(0).mean(axis=(0, 1))).mean())


class TestLearning:
    def test_what_the_words_do_not_mean(self) -> None:
        model = loaded()
        before, first, plain = said(model), held_out(model, dots(9)), palette(made(model))
        settings = ConceptSettings(steps=40, size=SIDE)
        state = train_concept(model, [dots(k) for k in range(3)], WORDS, settings)
        taught = with_concept(model, state)
        assert held_out(taught, dots(9)) < first / 2
        assert palette(made(taught)) < plain / 2
        assert float((said(taught) - before).abs().max()) > 0.1
        assert torch.equal(said(model), before), "the model itself stays as it is"
        assert not getattr(model.unet, "peft_config", {}) and all(p.requires_grad for p in model.unet.parameters())
        half, none = (with_concept(model, state, scale) for scale in (0.5, 0.0))
        assert torch.allclose(said(none), before, atol=1e-6)
        assert held_out(taught, dots(9)) < held_out(half, dots(9)) < first

    def test_the_same_seed_learns_the_same(self, tiny: str) -> None:
        model, pictures = loaded(tiny), [dots(0), dots(1)]
        first, again, other = (
            train_concept(model, pictures, WORDS, ConceptSettings(steps=3, rate=1e-2, size=SIDE, seed=seed))
            for seed in (0, 0, 1)
        )
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
        assert {value.dtype for value in first.values()} == {torch.float32}
        projections = {name.split(".lora_")[0].split(".", 1)[1] for name in first}
        assert all(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name in projections)
        assert sum(".attn1." in name for name in projections) == sum(".attn2." in name for name in projections) > 0

    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_the_loss_is_that_of_what_the_model_predicts(self, tiny: str, kind: str) -> None:
        """A network that says the truth has none."""
        model = invertible(loaded(tiny))
        model.scheduler = type(model.scheduler).from_config({**model.scheduler.config, "prediction_type": kind})
        latents, noise = (random_latents(model, SIZE, seed)[0] for seed in (0, 1))
        t, alpha = torch.tensor([400]), model.scheduler.alphas_cumprod[400]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

        class Told(LatentModel):
            def predict_with_gradient(self, latents: Tensor, t: Tensor, guide: Any) -> Tensor:
                assert torch.allclose(latents, noisy, atol=1e-5)
                return truth

        told = Told(model.pipeline, model.native)
        told.scheduler = model.scheduler
        # Solved for by the way that the sampler takes it apart.
        truth = {
            "epsilon": noise,
            "v_prediction": (noise - (1 - alpha).sqrt() * noisy) / alpha.sqrt(),
            "sample": latents,
        }[kind]
        clean, found = told.split(truth, noisy, alpha)
        assert torch.allclose(clean, latents, atol=1e-4) and torch.allclose(found, noise, atol=1e-4)
        example = Example(latents, model.guide(WORDS, "", 1.0, SIZE))
        assert float(denoising_loss(told, example, noise, t)) < 1e-8
        truth = truth + 0.5
        assert float(denoising_loss(told, example, noise, t)) == pytest.approx(0.25, rel=1e-3)
        wanted = torch.zeros(1, 1, *latents.shape[-2:])
        wanted[..., :3] = 1
        truth = truth + 1.0 * (1 - wanted)
        half = Example(latents, example.guide, wanted)
        assert float(denoising_loss(told, half, noise, t)) == pytest.approx(0.25, rel=1e-3)

    def test_only_inside_of_the_mask(self) -> None:
        """The right half of the pictures is of another look, and is not learned."""
        model, mask = loaded(), np.zeros(SIZE, np.float32)
        mask[:, :24] = 1
        red = np.zeros((*SIZE, 3), np.uint8) + np.uint8([230, 30, 20])
        mixed = [np.where(mask[..., None] > 0, dots(k), red) for k in range(2)]
        settings = ConceptSettings(steps=20, size=SIDE)
        taught = [
            with_concept(model, train_concept(model, mixed, WORDS, settings, masks))
            for masks in ([mask, mask], [1 - mask, 1 - mask])
        ]
        for own, other, share in ((0, 1, dots(9)), (1, 0, red)):
            assert held_out(taught[own], share) < 0.7 * held_out(taught[other], share)

    def test_remembers_the_class(self, tiny: str) -> None:
        model, pictures = loaded(tiny), [dots(0)]
        common: dict[str, Any] = {"steps": 2, "rate": 1e-2, "size": SIDE}
        free = train_concept(model, pictures, WORDS, ConceptSettings(**common))
        held = train_concept(
            model, pictures, WORDS, ConceptSettings(**common, prior=1.0, prior_prompt="red", prior_pictures=1)
        )
        assert any(not torch.equal(free[name], held[name]) for name in free)

    def test_flips_and_crops_show_other_pictures(self, tiny: str) -> None:
        model, picture, mask = loaded(tiny), dots(2), np.zeros(SIZE, np.float32)
        mask[:, :24] = 1
        generator = torch.Generator().manual_seed(0)
        shown = Pictures(model, [picture], [WORDS], [mask], settings(flip=True))
        both = [model.encode(to_tensor(side)) for side in (picture, np.ascontiguousarray(picture[:, ::-1]))]
        seen = set()
        for _ in range(8):
            example = shown.drawn(generator)
            k = int(torch.equal(example.latents, both[1]))
            assert torch.equal(example.latents, both[k]) and example.wanted is not None
            assert float(example.wanted[..., : 24 // model.factor].mean()) == 1 - k
            seen.add(k)
        assert seen == {0, 1}
        shown = Pictures(model, [picture], [WORDS], None, settings(crop=0.5))
        cut = [shown.drawn(generator).latents for _ in range(3)]
        assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in itertools.combinations(cut, 2))


class TestKeeping:
    @pytest.fixture(scope="class")
    def state(self, tiny: str) -> dict[str, Tensor]:
        return train_concept(loaded(tiny), [dots(0)], WORDS, ConceptSettings(steps=4, rate=2e-2, size=SIDE))

    def test_as_a_lora_that_every_editor_takes(self, tiny: str, state: dict[str, Tensor], tmp_path: Path) -> None:
        save_concept(state, tmp_path / "new" / "dots.safetensors")
        plain, wanted = said(loaded(tiny)), said(with_concept(loaded(tiny), state))
        assert float((wanted - plain).abs().max()) > 1e-3
        again = said(with_concept(loaded(tiny), load_concept(tmp_path / "new" / "dots.safetensors")))
        assert torch.equal(again, wanted)
        as_lora = said(loaded(tiny, lora=(str(tmp_path / "new" / "dots.safetensors"),)))
        assert torch.allclose(as_lora, wanted, atol=1e-5)

    def test_of_canon_mini_with_its_convolutions(self, tmp_path: Path) -> None:
        state = train_concept(loaded(), [dots(0)], WORDS, ConceptSettings(steps=3, size=SIDE))
        assert any(".conv1." in name for name in state)
        save_concept(state, tmp_path / "dots.safetensors")
        wanted = said(with_concept(loaded(), state))
        assert float((wanted - said(loaded())).abs().max()) > 1e-3
        assert torch.allclose(said(loaded(lora=(str(tmp_path / "dots.safetensors"),))), wanted, atol=1e-5)

    def test_beside_another_lora(self, tiny: str, state: dict[str, Tensor], tmp_path: Path) -> None:
        """What is added counts beside what was there, in training, too."""
        other = str(tiny_models.lora(tmp_path / "other", seed=3))
        model = loaded(tiny, lora=(other,))
        before = said(model)
        both = said(with_concept(model, state))
        assert torch.allclose(said(with_concept(model, state, 0.0)), before, atol=1e-6)
        assert float((both - before).abs().max()) > 1e-3
        assert float((both - said(with_concept(loaded(tiny), state))).abs().max()) > 1e-3
        model = loaded(tiny, lora=(other,))
        found = train_concept(model, [dots(0)], WORDS, settings(rate=1e-2))
        assert found.keys() == state.keys() and torch.equal(said(model), before)
        alone = train_concept(loaded(tiny), [dots(0)], WORDS, settings(rate=1e-2))
        assert any(not torch.equal(found[name], alone[name]) for name in found)

    def test_in_half_precision(self, tiny: str, state: dict[str, Tensor]) -> None:
        model = loaded(tiny, dtype="bfloat16")
        found = train_concept(model, [dots(0)], WORDS, ConceptSettings(steps=2, rate=1e-2, size=SIDE))
        assert {value.dtype for value in found.values()} == {torch.float32}
        assert said(with_concept(model, found)).dtype == torch.bfloat16

    def test_another_models_is_refused(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="by another model"):
            with_concept(loaded(), state)
        with pytest.raises(InputError, match="by another model"):
            with_concept(loaded(), {"text_encoder.q.lora_A.weight": torch.zeros(2, 2)})
        with pytest.raises(InputError, match=r"saved as \.safetensors"):
            save_concept(state, tmp_path / "dots.bin")
        save_file({"a": torch.zeros(2)}, tmp_path / "none.safetensors")
        (tmp_path / "text.safetensors").write_text("no weights at all")
        for name, sentence in (("none", "no LoRA"), ("text", "cannot be read"), ("nowhere", "nowhere")):
            with pytest.raises(InputError, match=sentence):
                load_concept(tmp_path / f"{name}.safetensors")
        save_concept(state, tmp_path / "dots.safetensors")
        assert load_file(tmp_path / "dots.safetensors").keys() == state.keys()


def settings(**more: Any) -> ConceptSettings:
    return ConceptSettings(**{"steps": 1, "size": SIDE, **more})


def test_bad_settings_end_in_one_sentence() -> None:
    for more in ({"steps": 0}, {"rank": 0}, {"rate": -1.0}, {"lowest": 0.5, "highest": 0.5}, {"crop": 0.0}):
        with pytest.raises(InputError):
            settings(**more)
    with pytest.raises(InputError, match="class prompt"):
        settings(prior=1.0)


def test_bad_pictures_end_in_one_sentence(tiny: str, tmp_path: Path) -> None:
    model, good = loaded(tiny), dots(0)
    for pictures, prompts, masks, sentence in (
        ([], WORDS, None, "at least one picture"),
        ([good], "", None, "a description"),
        ([good, good], [WORDS], None, "one for each"),
        ([good[..., 0]], WORDS, None, r"\[h, w, 3\]"),
        ([good], WORDS, [], "0 masks"),
        ([good], WORDS, [np.zeros(SIZE)], "selects nothing"),
        ([good], WORDS, [np.ones((5, 5))], "another size"),
    ):
        with pytest.raises(InputError, match=sentence):
            train_concept(model, pictures, prompts, settings(), masks)
    seeing = load_model(
        DiffusionConfig(prompt=WORDS, model=str(tiny_models.inpainting(tmp_path / "inpainting"))), "fill"
    )
    assert isinstance(seeing, LatentModel)
    with pytest.raises(InputError, match="model of descriptions"):
        train_concept(seeing, [good], WORDS, settings())
