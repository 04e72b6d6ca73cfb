"""Layered Neural Atlases as published: the losses against analytic mappings, the run, its resumption, the baking."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from canon.clip import Clip
from canon.coordinates import from_square, pixel_grid, to_square
from canon.errors import InputError
from canon.fits import Fit
from canon.representations.atlas.neural import NeuralOptions, solve_neural
from canon.representations.atlas.neural import losses as L
from canon.representations.atlas.neural.networks import AtlasNetworks, atlas_cells
from canon.representations.atlas.neural.solver import AtlasTrainer
from canon.representations.fields.mlp import MLP, positional_encoding
from canon.representations.motion.flow import Flow, compute_flow
from canon.representations.neural.baking import bake_opacity
from canon.representations.neural.evaluation import contributions, in_chunks
from canon.representations.neural.samples import BACKWARD, BASE, FORWARD, Sampler, frame_points
from canon.representations.neural.training import NeuralResult
from canon.representations.solve.layers import light_stride
from canon.scenes import make

CPU = torch.device("cpu")
SMALL = NeuralOptions(
    steps=400, minutes=None, batch=512, learning_rate=2e-3, pretraining=100, width=48, bootstrap_steps=300,
    global_steps=150, record_seconds=1.0,
)  # fmt: skip
TINY = dataclasses.replace(SMALL, steps=12, pretraining=6, batch=600, width=16, global_steps=4, bootstrap_steps=8)
SIZE, COUNT = (36, 64), 6


@dataclasses.dataclass
class Material:
    """What the solver is given."""

    frames: np.ndarray
    masks: list[tuple[str, np.ndarray]]
    flow: Flow


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A small moving scene with its true masks."""
    scene = make("demo", width=SIZE[1], height=SIZE[0], frames=COUNT)
    frames = np.stack([scene.frame(t) for t in range(COUNT)])
    masks = [(name, np.stack([scene.masks(t, name) for t in range(COUNT)])) for name in scene.layers[:-1]]
    return Material(frames, masks, compute_flow(frames, tmp_path_factory.mktemp("flow")))


def solve(
    material: Material, folder: Path, options: NeuralOptions, progress: Any = None, seed: int = 0
) -> NeuralResult:
    progress = progress or (lambda stage, share, figures: None)
    given = (material.frames, material.masks, material.flow, options)
    return solve_neural(*given, stride=4, device=CPU, seed=seed, checkpoint=folder, progress=progress)


@pytest.fixture(scope="module")
def solved(material: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[NeuralResult, AtlasTrainer]:
    """A run of some hundred steps, and its networks."""
    folder = tmp_path_factory.mktemp("run")
    result = solve(material, folder, SMALL)
    sampler = Sampler(material.frames, [m for _, m in material.masks], material.flow, folder, CPU, 0)
    return result, AtlasTrainer(sampler, SMALL, folder)


def shifting_clip(size: tuple[int, int], speed: tuple[float, float], count: int = 4) -> tuple[np.ndarray, Flow]:
    """Frames (black) of a plane that moves by ``speed`` px a frame, and their exact flow."""
    lattice = (count - 1, -(-size[0] // 2), -(-size[1] // 2), 2)
    flow = np.broadcast_to(np.array(speed, np.float16), lattice)
    return np.zeros((count, *size, 3), np.uint8), Flow(np.array(flow), -np.array(flow))


# --- encodings and coordinates ---


def test_positional_encoding_has_the_published_frequencies() -> None:
    x = torch.tensor([[0.5, -0.25]])
    found = positional_encoding(x, 2)
    angles = [0.5 * math.pi, math.pi, -0.25 * math.pi, -0.5 * math.pi]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(found, torch.tensor([expected]))
    assert positional_encoding(x, 0) is x


def test_mlp_takes_its_input_again_at_the_skips() -> None:
    network = MLP(2, 3, width=16, depth=8, bands=10, skips=(4, 7), generator=torch.Generator().manual_seed(0))
    assert [layer.in_features for layer in network.layers] == [40, 16, 16, 16, 56, 16, 16, 56]
    assert network(torch.zeros(5, 7, 2)).shape == (5, 7, 3)
    again = MLP(2, 3, width=16, depth=8, bands=10, skips=(4, 7), generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("size", [(36, 64), (65, 33), (1, 7)])
def test_square_coordinates_keep_the_aspect_and_come_back(size: tuple[int, int]) -> None:
    xy = pixel_grid(size)
    there = to_square(xy, size)
    torch.testing.assert_close(from_square(there, size), xy, atol=1e-4, rtol=0)
    torch.testing.assert_close(there[0, 0], torch.tensor([-1.0, -1.0]))
    a, b = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])
    assert float((to_square(b, size) - to_square(a, size)).norm()) == pytest.approx(5.0 * 2 / max(size))


# --- losses ---


@pytest.mark.parametrize("size", [(36, 64), (64, 36), (45, 80)])
@pytest.mark.parametrize("speed", [(0.0, 3.0), (5.0, 0.0), (-2.0, 1.5)])
def test_true_mappings_have_no_flow_loss(size: tuple[int, int], speed: tuple[float, float], tmp_path: Path) -> None:
    frames, flow = shifting_clip(size, speed)
    sampler = Sampler(frames, [], flow, tmp_path, CPU, seed=0)
    samples = sampler.draw(0, 2000, None)
    scale = max(size) / 2 / 0.8

    def true_uv(points: Tensor) -> Tensor:
        """Undo the motion in pixels, which the inputs are brought back to here by their definition."""
        pixels = (points[..., :2] + 1) * max(size) / 2
        t = (points[..., 2:] + 1) * len(frames) / 2
        return (pixels - t * torch.tensor(speed)) / scale

    uv = true_uv(samples.points)
    error = L.flow_error(uv[BASE], uv[[FORWARD, BACKWARD]], scale)
    trusted = samples.confidence > 0.5
    assert trusted.float().mean() > 0.5
    assert float(error[trusted].max()) < 1e-2

    still = samples.points[..., :2]
    error = L.flow_error(still[BASE], still[[FORWARD, BACKWARD]], max(size) / 2)
    torch.testing.assert_close(error[trusted], torch.full_like(error[trusted], math.hypot(*speed)), rtol=1e-3, atol=0)


def test_flow_is_not_trusted_beyond_the_clip_and_the_frame(tmp_path: Path) -> None:
    frames, flow = shifting_clip((36, 64), (4.0, 0.0))
    samples = Sampler(frames, [], flow, tmp_path, CPU, seed=0).draw(0, 3000, None)
    t = ((samples.points[BASE, :, 2] + 1) * 2).round()
    x = (samples.points[BASE, :, 0] + 1) * 32
    forward, backward = samples.confidence
    assert not forward[t == 3].any() and not backward[t == 0].any()
    assert not forward[x > 59.5].any() and not backward[x < 3.5].any()
    assert bool((forward[(t < 3) & (x < 59)] == 1).all()) and bool((backward[(t > 0) & (x > 4.5)] == 1).all())


def test_rigidity_is_least_for_rotations() -> None:
    scale, step = 32 / 0.8, 0.8 / 32
    uv = torch.rand(50, 2)

    def of(matrix: Tensor) -> Tensor:
        return L.rigidity(uv, uv + matrix[:, 0] * step, uv + matrix[:, 1] * step, scale)

    for angle in (0.0, 0.4, 2.0):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        torch.testing.assert_close(of(turn), torch.full((50,), 2 * math.sqrt(2)), atol=0.01, rtol=0)
        for stretch in (torch.diag(torch.tensor([1.2, 1.0])), torch.eye(2) * 0.8, torch.tensor([[1, 0.3], [0, 1]])):
            assert float(of(turn @ stretch).min()) > 2 * math.sqrt(2) + 0.02
    assert of(torch.zeros(2, 2)).isfinite().all()


def test_mask_entropy_is_least_at_the_masks_and_spares_the_hidden() -> None:
    masks = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    right = masks.clamp(0.001, 0.991)
    assert float(L.mask_entropy(right, masks).max()) < 0.02
    assert bool((L.mask_entropy(1 - right, masks) > 4).all())
    other = right.clone()
    other[1, 0] = 0.9  # behind the first layer: nobody can tell
    torch.testing.assert_close(L.mask_entropy(other, masks), L.mask_entropy(right, masks))


def test_sparsity_counts_colour_where_the_layer_is_transparent() -> None:
    colour = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]])
    torch.testing.assert_close(L.sparsity(colour, torch.tensor([[0.0, 1.0]])), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(L.sparsity(colour, torch.tensor([[1.0, 0.5]])), torch.tensor([0.0, 0.1875]))


# --- networks ---


def test_layers_have_cells_of_their_own() -> None:
    torch.testing.assert_close(atlas_cells(2), torch.tensor([[0.5, 0.5], [-0.5, -0.5]]))
    for count in (1, 3, 4, 5, 10):
        centres = atlas_cells(count)
        extent = AtlasNetworks(count, TINY, 0).extent
        assert len(centres) == count and torch.allclose(centres[-1], torch.tensor(extent - 1))
        assert bool((centres.abs() + extent <= 1 + 1e-6).all())
        apart = torch.cdist(centres, centres, p=math.inf) + torch.eye(count) * 9
        assert float(apart.min()) >= 2 * extent - 1e-6


def test_contributions_sum_to_one() -> None:
    opacity = torch.rand(3, 11)
    found = contributions(opacity)
    torch.testing.assert_close(found.sum(0), torch.ones(11))
    torch.testing.assert_close(found[2], opacity[2] * (1 - opacity[0]) * (1 - opacity[1]))


def test_gradients_reach_every_network(material: Material, tmp_path: Path) -> None:
    mask = material.masks[0][1]
    sampler = Sampler(material.frames, [mask // 2, mask], material.flow, tmp_path, CPU, 0)
    trainer = AtlasTrainer(sampler, dataclasses.replace(TINY, pretraining=0), tmp_path)
    names = [name for name, _ in trainer.run.networks.named_parameters()]
    assert {name.rsplit(".layers", 1)[0] for name in names} == {
        "mappings.0", "mappings.1", "mappings.2", "opacities.0", "opacities.1", "atlas",
    }  # fmt: skip
    for name, gradient in zip(names, trainer._gradients(), strict=True):
        assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0, name


def test_parts_of_a_step_add_up(material: Material, tmp_path: Path) -> None:
    sampler = Sampler(material.frames, [m for _, m in material.masks], material.flow, tmp_path, CPU, 0)
    networks = AtlasNetworks(2, TINY, 0)
    samples = sampler.draw(3, 100, 8.0)
    whole = L.loss_terms(L.predict(networks, samples), samples, TINY, 40.0, 0, 8.0)
    parts = [L.loss_terms(L.predict(networks, part), part, TINY, 40.0, 0, 8.0) for part in samples.split(32)]
    assert set(whole) == {
        "rgb", "gradient", "rigidity", "flow", "opacity_flow", "sparsity", "masks", "global_rigidity",
    }  # fmt: skip
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-4, atol=1e-6)


# --- the run ---


@pytest.mark.slow
def test_losses_fall_and_psnr_rises(solved: tuple[NeuralResult, AtlasTrainer]) -> None:
    curve = solved[0].curve
    seconds, steps, psnr, loss = zip(*curve, strict=True)
    assert steps[0] == 1 and steps[-1] == SMALL.steps and list(steps) == sorted(steps)
    assert list(seconds) == sorted(seconds)
    assert psnr[-1] > psnr[0] + 6 and solved[0].psnr > psnr[0] + 6
    assert loss[-1] < loss[0] / 5


def as_fit(result: NeuralResult, frames: np.ndarray, cache: Path) -> Fit:
    clip = Clip.from_frames(frames, cache=cache)
    return Fit(clip, "atlas", {}, result.layers, stride=4, light_stride=light_stride(clip.size))


@pytest.mark.slow
def test_baked_layers_show_what_the_networks_render(
    solved: tuple[NeuralResult, AtlasTrainer], material: Material, tmp_path: Path
) -> None:
    result, trainer = solved
    fit = as_fit(result, material.frames, tmp_path)
    assert fit.layers == ["foreground", "background"] and all(layer.neutral for layer in fit.baked)
    errors = []
    for t in range(COUNT):
        points = frame_points(pixel_grid(SIZE), t, SIZE, COUNT)
        drawn = in_chunks(trainer.networks.render, points).numpy()
        errors.append(np.square(fit.reconstruct(t) - drawn).mean())
        for name in fit.layers:
            assert 0.7 < fit.texels(t, name) < 1.4
    assert -10 * np.log10(np.mean(errors)) > 33
    found = np.mean([np.square(fit.reconstruct(t) - material.frames[t] / 255.0).mean() for t in range(COUNT)])
    assert -10 * np.log10(found) > result.psnr - 1


@pytest.mark.slow
def test_coverage_is_where_frames_look(solved: tuple[NeuralResult, AtlasTrainer], material: Material) -> None:
    front, back = solved[0].layers
    assert front.opacity is not None
    mask = material.masks[0][1]
    overlap = ((front.opacity > 127) & (mask > 127)).sum() / ((front.opacity > 127) | (mask > 127)).sum()
    assert overlap > 0.7
    # About as many texels as pixels the foreground ever shows: at least one frame's, at most all of them.
    shown = (front.coverage == 1).sum()
    pixels = (front.opacity > 127).sum(axis=(1, 2))
    assert 0.6 * pixels.max() < shown < 1.5 * pixels.sum() and not (front.coverage == 0.5).any()
    assert (back.coverage == 1).any()


@pytest.mark.parametrize("trained", [True, False])
def test_the_coarse_look_up_of_opacity_misses_nothing(solved: tuple[NeuralResult, AtlasTrainer], trained: bool) -> None:
    networks = solved[1].networks if trained else AtlasNetworks(2, SMALL, 1)
    fast = bake_opacity(networks, (COUNT, *SIZE), 2)
    asked = in_chunks(lambda p: networks.opacity(p).T, frame_points(pixel_grid(SIZE), 2, SIZE, COUNT))
    plain = ((asked - 0.05) / 0.9).clamp(0, 1).permute(2, 0, 1) * 255
    assert np.abs(fast - plain.numpy()).max() <= 0.51
    assert np.isin(fast, (0, 255)).mean() > (0.5 if trained else -1)


def weights(folder: Path) -> bytes:
    (state,) = folder.glob("neural-*.safetensors")
    return state.read_bytes()


def test_same_seed_same_result(material: Material, tmp_path: Path) -> None:
    results = [solve(material, tmp_path / str(k), TINY, seed=k // 2) for k in range(3)]
    assert weights(tmp_path / "0") == weights(tmp_path / "1") != weights(tmp_path / "2")
    for a, b in zip(results[0].layers, results[1].layers, strict=True):
        assert np.array_equal(a.color, b.color) and np.array_equal(a.grid, b.grid)
        assert a.opacity is None or (b.opacity is not None and np.array_equal(a.opacity, b.opacity))


class Killed(Exception):
    """Nothing that a solver could know."""


@pytest.mark.parametrize("when", [3, 6, 7, 11])
@pytest.mark.parametrize("how", [Killed, KeyboardInterrupt])
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    material: Material, tmp_path: Path, when: int, how: type[BaseException]
) -> None:
    options = dataclasses.replace(TINY, checkpoint_seconds=0.0 if how is Killed else 1e9)
    calls = []

    def interrupt(stage: str, share: float, figures: object) -> None:
        calls.append(stage)
        if len(calls) == when:
            raise how

    with pytest.raises(how):
        solve(material, tmp_path / "cut", options, interrupt)
    calls.extend([""] * 1000)
    before = len(calls)
    solve(material, tmp_path / "cut", options, interrupt)
    solve(material, tmp_path / "whole", options)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    # A kill comes before the step's checkpoint, an interruption makes one of it.
    trained = [stage for stage in calls[before:] if "train" in stage]
    assert len(trained) == 18 - when + (how is Killed)


def test_a_finished_run_is_not_trained_again_and_a_longer_one_goes_on(material: Material, tmp_path: Path) -> None:
    stages: list[str] = []

    def watch(stage: str, share: float, figures: object) -> None:
        stages.append(stage)
        assert 0 <= share <= 1

    first = solve(material, tmp_path, TINY, watch)
    assert stages.count("pretrain") + stages.count("train") == 18
    stages.clear()
    second = solve(material, tmp_path, TINY, watch)
    assert "train" not in stages and second.curve == first.curve and second.psnr == first.psnr
    solve(material, tmp_path, dataclasses.replace(TINY, steps=14), watch)
    assert stages.count("train") == 2


@pytest.mark.parametrize("damage", ["record", "weights", "other"])
def test_a_checkpoint_that_does_not_fit_is_not_used(material: Material, tmp_path: Path, damage: str) -> None:
    solve(material, tmp_path / "a", TINY)
    if damage == "record":
        (tmp_path / "a" / "neural.json").write_text("{")
    elif damage == "weights":
        (state,) = (tmp_path / "a").glob("neural-*.safetensors")
        state.write_bytes(state.read_bytes()[:-7])
    options = dataclasses.replace(TINY, width=24) if damage == "other" else TINY
    solve(material, tmp_path / "a", options)
    solve(material, tmp_path / "b", options)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_stops_after_the_minutes(material: Material, tmp_path: Path) -> None:
    result = solve(material, tmp_path, dataclasses.replace(TINY, steps=10**6, minutes=0.4 / 60))
    assert 0.4 <= result.seconds["train"] < 5
    assert result.curve[-1][1] < 10**5 and result.curve[-1][0] == pytest.approx(result.seconds["train"])
    again = solve(material, tmp_path, dataclasses.replace(TINY, steps=10**6, minutes=0.4 / 60))
    assert again.curve == result.curve


def test_one_frame_three_layers_and_none(material: Material, tmp_path: Path) -> None:
    mask = material.masks[0][1]
    one = np.zeros((0, 18, 32, 2), np.float16)
    still = Material(material.frames[:1], [("front", mask[:1] // 2), ("middle", mask[:1])], Flow(one, one))
    odd = Material(material.frames[:, :27, :51], [], compute_flow(material.frames[:, :27, :51], tmp_path / "flow"))
    for number, given in enumerate((still, odd)):
        result = solve(given, tmp_path / str(number), TINY)
        fit = as_fit(result, given.frames, tmp_path / f"clip{number}")
        assert fit.layers == [*(name for name, _ in given.masks), "background"]
        assert np.isfinite(fit.reconstruct(0)).all() and math.isfinite(result.psnr)


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="batch is 0"):
        NeuralOptions(batch=0)
    with pytest.raises(InputError, match="minutes is 0"):
        NeuralOptions(minutes=0)
    with pytest.raises(InputError, match=r"mapping_scale is 1\.5"):
        NeuralOptions(mapping_scale=1.5)
