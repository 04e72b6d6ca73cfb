"""Score distillation against what is known: exact scores of Gaussians, and steps computed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from canon.editors.diffusion.latents import Guide, LatentModel
from canon.editors.diffusion.models import DESCRIBE, load_model
from canon.editors.diffusion.options import DiffusionConfig
from canon.editors.distill.guidance import Guidance, distillable
from canon.editors.distill.residuals import Level, collaborative, pds
from canon.editors.distill.settings import METHODS, Annealing, Settings
from canon.errors import InputError

SHAPE = (1, 3, 4, 6)
FIXED = Annealing((0.5, 0.5), (0.5, 0.5))
KINDS = ("epsilon", "v_prediction")


def mean_of(prompt: str) -> Tensor:
    """The middle of what a prompt stands for, in latents."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(sum(map(ord, prompt)))) * 0.3


@dataclass
class Gaussian:
    """A model whose data are normal, N(mean of the prompt, spread^2): its predictions are exact. Latents are -1..1."""

    kind: str = "epsilon"
    spread: float = 0.5
    default_rescale: float = 0.0
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.scheduler: Any = DDIMScheduler(beta_schedule="scaled_linear", prediction_type=self.kind)

    def guide(self, prompt: str, negative: str, guidance: float, size: tuple[int, int]) -> Guide:
        return Guide(mean_of(prompt), guidance)

    def encoded(self, picture: Tensor) -> Tensor:
        return picture * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2 + 0.5

    def predict(self, latents: Tensor, t: Tensor, guide: Guide) -> Tensor:
        a = self.scheduler.alphas_cumprod[t]
        noise = (1 - a).sqrt() * (latents - a.sqrt() * guide.context) / (a * self.spread**2 + 1 - a)
        if self.kind == "epsilon":
            return noise
        clean = (latents - (1 - a).sqrt() * noise) / a.sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    split = LatentModel.split


def settings(method: str = "sds", **more: Any) -> Settings:
    return Settings(**{"method": method, "prompt": "wanted", "source_prompt": "shown", "clip": 0.0, **more})


def some_views(count: int = 1, seed: int = 0) -> Tensor:
    shape = (count, *SHAPE[1:])
    return 0.5 + 0.15 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_sds_comes_to_rest_at_the_middle_of_a_gaussian(kind: str, space: str) -> None:
    guidance = Guidance(Gaussian(kind), settings(space=space))
    view = some_views()
    far = float((view * 2 - 1 - mean_of("wanted")).abs().mean())
    steps = 1500
    for step in range(steps):
        view = view - 0.2 * (1 - step / steps) * guidance(view, step, steps).gradient
    assert far > 0.2 and float((view * 2 - 1 - mean_of("wanted")).abs().mean()) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_gradient_of_a_gaussian_is_known(kind: str) -> None:
    guidance, view = Guidance(Gaussian(kind), settings(annealing=FIXED)), some_views()
    gradient = torch.stack([guidance(view, step, 2000).gradient for step in range(2000)]).mean(dim=0)
    level = guidance.level(0, 2000)
    inside = level.alpha * 0.25 + 1 - level.alpha
    offset = view * 2 - 1 - mean_of("wanted")
    known = 2 * (1 - level.alpha) * level.noise * level.signal * offset / inside
    assert torch.allclose(gradient, known, atol=0.06), float((gradient - known).abs().max())
    assert float(known.abs().max()) > 0.3


@pytest.mark.parametrize("method", ["dds", "csd-edit"])
@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_dds_moves_the_source_by_the_difference_of_the_means(method: str, space: str) -> None:
    guidance, source = Guidance(Gaussian(), settings(method, space=space)), some_views()
    there = source + (mean_of("wanted") - mean_of("shown")) / 2
    for step in range(20):
        assert float(guidance(there, step, 20, source).gradient.abs().max()) < 1e-4
    view = source
    for step in range(300):
        view = view - 0.3 * guidance(view, step, 300, source).gradient
    assert torch.allclose(view, there, atol=5e-3), float((view - there).abs().max())


def test_pds_holds_on_to_the_source() -> None:
    """It comes to rest between the source and where DDS does: at every level the two forces are known."""
    guidance, source = Guidance(Gaussian(), settings("pds", annealing=FIXED)), some_views()
    level = guidance.level(0, 10)
    zero = torch.zeros(SHAPE)
    unit, _ = pds(zero, zero, torch.ones(SHAPE), zero, level)
    hold = float(unit.mean())
    pull = level.noise * level.signal / (level.alpha * 0.25 + 1 - level.alpha)
    there = source + (mean_of("wanted") - mean_of("shown")) / 2 * pull / (pull + hold)
    assert hold > 0.05 and float((there - source).abs().max()) > 0.1
    for step in range(5):
        assert float(guidance(there, step, 10, source).gradient.abs().max()) < 1e-3
    assert float(guidance(source, 0, 10, source).gradient.abs().max()) > 0.05


@pytest.mark.parametrize("method", ["dds", "pds", "csd-edit"])
@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_nothing_is_wished_of_a_source_by_its_own_prompt(method: str, space: str) -> None:
    own = settings(method, space=space, prompt="shown")
    source = some_views(3)
    guided = Guidance(Gaussian(), own)(source, 3, 10, source)
    assert float(guided.gradient.abs().max()) < 1e-5 or method == "csd-edit"
    if method == "csd-edit":  # several views are still kept apart from each other; of one, nothing is left
        assert float(Guidance(Gaussian(), own)(source[:1], 3, 10, source[:1]).gradient.abs().max()) < 1e-6


def test_the_posterior_is_the_published_one() -> None:
    """The stochastic latents of both, from the definition: x_(t-1) less the posterior's mean, over its deviation."""
    generator = torch.Generator().manual_seed(0)
    level = Level(400, 0.31, 0.3122, 0.0041)
    latents, source, e, e_source, noise, before = torch.randn(6, *SHAPE, generator=generator).double()
    a, b, beta = level.alpha, level.previous, level.beta
    found = []
    for clean, predicted in ((latents, e), (source, e_source)):
        noisy = a**0.5 * clean + (1 - a) ** 0.5 * noise
        estimate = (noisy - (1 - a) ** 0.5 * predicted) / a**0.5
        mean = b**0.5 * beta / (1 - a) * estimate + (1 - beta) ** 0.5 * (1 - b) / (1 - a) * noisy
        found.append((b**0.5 * clean + (1 - b) ** 0.5 * before - mean) / ((1 - b) / (1 - a) * beta) ** 0.5)
    residual, factor = pds(e, e_source, latents, source, level)
    assert torch.allclose(residual * factor, found[0] - found[1], atol=1e-10)


# --- coupling ---


def test_coupled_views_of_one_are_not_coupled() -> None:
    view, source = some_views(seed=1), some_views(seed=2)
    for single, coupled in (("sds", "csd"), ("dds", "csd-edit")):
        one, other = (Guidance(Gaussian(), settings(name))(view, 4, 9, source).gradient for name in (single, coupled))
        assert torch.equal(one, other) and float(one.abs().max()) > 0.01


def test_the_coupling_is_that_of_steins_method() -> None:
    """Against the definition with the kernel's gradient by autograd."""
    generator = torch.Generator().manual_seed(1)
    wishes, particles = torch.randn(2, 4, 3, 2, 5, generator=generator).double()
    distances = torch.pdist(particles.flatten(1))
    bandwidth = (distances**2).median() if len(distances) % 2 else (distances**2).quantile(0.5)
    bandwidth = bandwidth / torch.log(torch.tensor(5.0))
    for i in range(4):
        total = torch.zeros(3, 2, 5).double()
        for j in range(4):
            x = particles[j].clone().requires_grad_()
            kernel = torch.exp(-(x - particles[i]).square().sum() / bandwidth)
            total += kernel.detach() * wishes[j] - torch.autograd.grad(kernel, x)[0]
        assert torch.allclose(collaborative(wishes, particles)[i], total / 4, atol=1e-6)


def test_the_middle_of_coupled_views_comes_to_rest_where_one_does() -> None:
    guidance, views = Guidance(Gaussian(spread=0.2), settings("csd")), some_views(4)
    start = float((views.mean(dim=0) * 2 - 1 - mean_of("wanted")[0]).abs().mean())
    for step in range(500):
        views = views - 0.3 * (1 - step / 500) * guidance(views, step, 500).gradient
    assert start > 0.2 and float((views.mean(dim=0) * 2 - 1 - mean_of("wanted")[0]).abs().mean()) < 0.04


def test_coupled_views_move_apart_where_nothing_else_is_wished() -> None:
    particles = some_views(5)
    moved = particles - 0.1 * collaborative(torch.zeros_like(particles), particles)
    before, after = (torch.pdist(views.flatten(1)) for views in (particles, moved))
    assert bool((after > before).all())
    assert torch.allclose(moved.mean(dim=0), particles.mean(dim=0), atol=1e-6)


# --- a real network at a tiny size ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("tiny"))


def load(folder: Path, kind: str = "epsilon", **options: Any) -> LatentModel:
    model = distillable(load_model(DiffusionConfig(prompt="x", model=str(folder), device="cpu", **options), DESCRIBE))
    model.scheduler = DDIMScheduler.from_config(model.scheduler.config, prediction_type=kind)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_step_equals_one_by_hand(folder: Path, kind: str, rescale: float) -> None:
    model = load(folder, kind)
    views = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(5))
    own = settings(guidance=5.0, rescale=rescale, negative="blue", prompt="red stripes", seed=3)
    guidance = Guidance(model, own)
    guided = guidance(views, 2, 7)
    t, noise = guided.t, guidance.noise(torch.empty(2, 4, 8, 12), 2)
    a = model.scheduler.alphas_cumprod[t]
    total = torch.zeros_like(views)
    texts, against = model.pipeline.encode_prompt("red stripes", torch.device("cpu"), 1, True, "blue")
    for k in range(2):
        pixels = views[k : k + 1].clone().requires_grad_()
        latents = model.vae.encode(pixels * 2 - 1).latent_dist.mode() * model.vae.config.scaling_factor
        with torch.no_grad():
            noisy = a.sqrt() * latents + (1 - a).sqrt() * noise[k : k + 1]
            with_prompt, without = (
                model.unet(noisy, t, encoder_hidden_states=text).sample for text in (texts, against)
            )
            found = without + 5.0 * (with_prompt - without)
            found = found * (rescale * with_prompt.std() / found.std() + 1 - rescale)
            predicted = found if kind == "epsilon" else a.sqrt() * found + (1 - a).sqrt() * noisy
            gradient = (1 - a) * (predicted - noise[k : k + 1])
        total[k] = torch.autograd.grad(latents, pixels, gradient)[0][0]
    assert torch.allclose(guided.gradient, total, atol=1e-5 + 1e-4 * float(total.abs().max()))
    assert float(total.abs().max()) > 1e-3


def test_the_loss_has_the_gradient_that_it_says(folder: Path) -> None:
    guidance = Guidance(load(folder), settings())
    views = torch.rand(1, 3, 16, 16, requires_grad=True)
    guided = guidance(views, 0, 5)
    guided.loss.backward()
    assert views.grad is not None and torch.equal(views.grad, guided.gradient)
    parameters = [*guidance.model.unet.parameters(), *guidance.model.vae.parameters()]  # type: ignore[attr-defined]
    assert all(value.grad is None for value in parameters), "the model itself is not trained"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_goes_the_same_way(folder: Path, method: str, dtype: str) -> None:
    views, source = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    own = settings(method, guidance=3.0)
    full = Guidance(load(folder), own)(views, 1, 5, source)
    half = Guidance(load(folder, dtype=dtype), own)(views, 1, 5, source)
    assert half.gradient.dtype == torch.float32 and half.skipped == 0
    a, b = full.gradient.flatten(), half.gradient.flatten()
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.95


def test_the_same_seed_and_step_give_the_same(folder: Path) -> None:
    model, views = load(folder), torch.rand(1, 3, 16, 16)
    one, again, later, other = (
        Guidance(model, settings(seed=seed))(views, step, 20) for seed, step in ((1, 4), (1, 4), (1, 5), (2, 4))
    )
    assert torch.equal(one.gradient, again.gradient) and one.t == again.t
    assert not torch.equal(one.gradient, later.gradient) and not torch.equal(one.gradient, other.gradient)


def test_rescaled_guidance_is_smaller_and_each_view_has_its_own(folder: Path) -> None:
    model, views = load(folder), torch.rand(3, 3, 16, 16)
    views[1] *= 0.1
    together = {share: Guidance(model, settings(guidance=30.0, rescale=share))(views, 0, 5) for share in (0.0, 0.7)}
    assert together[0.7].size < together[0.0].size
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents *= torch.tensor([1, 3, 0.2])[:, None, None, None]
    guide = replace(model.guide("red", "", 20.0, (16, 16)), rescale=0.7)
    t = torch.tensor(500)
    alone = torch.cat([model.predict(one[None], t, guide) for one in latents])
    assert torch.allclose(model.predict(latents, t, guide), alone, rtol=1e-3, atol=1e-4)


def test_a_negative_prompt_and_a_prompt_of_the_call_count(folder: Path) -> None:
    model, views = load(folder), torch.rand(1, 3, 16, 16)
    plain, against = (Guidance(model, settings(negative=text))(views, 0, 5).gradient for text in ("", "blue dots"))
    of_call = Guidance(model, settings(prompt="other"))(views, 0, 5, prompt="wanted").gradient
    assert not torch.allclose(plain, against) and torch.equal(plain, of_call)


def test_gradients_are_clipped_view_by_view() -> None:
    views = some_views(2)
    views[0] += 3
    free, clipped = (Guidance(Gaussian(), settings(clip=clip))(views, 1, 5).gradient / 2 for clip in (0.0, 0.3))
    sizes = free.square().mean(dim=(1, 2, 3)).sqrt()
    assert float(sizes[0]) > 0.3
    for k in range(2):
        wanted = free[k] * min(0.3 / float(sizes[k]), 1.0)
        assert torch.allclose(clipped[k], wanted, atol=1e-6)


def test_noise_levels_follow_the_annealing() -> None:
    annealing = Annealing((0.6, 0.9), (0.1, 0.2))
    guidance = Guidance(Gaussian(), settings(annealing=annealing))
    levels = [guidance.level(step, 100).t / 1000 for step in range(100)]
    for step, t in enumerate(levels):
        low, high = annealing.range(step / 99)
        assert low - 1e-3 <= t <= high
    assert levels[0] >= 0.599 and levels[-1] <= 0.2 and len(set(levels)) > 60


# --- what cannot be used ---


class Overflowing(Gaussian):
    """Gives no number for the first of several views, or for all."""

    every = False

    def predict(self, latents: Tensor, t: Tensor, guide: Guide) -> Tensor:
        found = super().predict(latents, t, guide)
        found[: len(found) if self.every else 1] = torch.inf
        return found


@pytest.mark.parametrize("method", ["sds", "csd"])
def test_views_without_a_finite_gradient_are_skipped_and_counted(method: str) -> None:
    guidance = Guidance(Overflowing(), settings(method))
    for step in range(20):
        guided = guidance(some_views(3), step, 20)
        assert guided.skipped == 1 and not guided.gradient[0].any() and bool(torch.isfinite(guided.gradient).all())
        assert guided.gradient[1].abs().max() > 0
    guidance.check()
    assert (guidance.asked, guidance.skipped) == (60, 20)


def test_a_model_that_always_runs_over_is_given_up() -> None:
    model = Overflowing()
    model.every = True
    guidance = Guidance(model, settings())
    with pytest.raises(InputError, match="ran over in every view"):
        for step in range(20):
            guidance(some_views(2), step, 20)
    with pytest.raises(InputError, match="bfloat16"):
        guidance.check()


def test_what_cannot_be_guided_ends_in_one_sentence(tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"method": "sdss"}, "'sdss' is not known; choose one of sds, dds"),
        ({"weighting": "heavy"}, "'heavy' is not known"),
        ({"space": "frequency"}, "'frequency' is not known"),
        ({"guidance": -1.0}, "at least 0"),
        ({"rescale": 2.0}, "out of range"),
    ):
        with pytest.raises(InputError, match=sentence):
            Settings(**{"prompt": "x", **wrong})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no range"):
        Annealing((0.5, 0.2))
    with pytest.raises(InputError, match="source's views"):
        Guidance(Gaussian(), settings("dds"))(some_views(), 0, 5)
    with pytest.raises(InputError, match="cannot be distilled"):
        Guidance(Gaussian("sample"), settings())
    flux = load_model(DiffusionConfig(prompt="x", model=str(tiny_models.flux(tmp_path / "flux"))), DESCRIBE)
    with pytest.raises(InputError, match="cannot be distilled"):
        distillable(flux)
