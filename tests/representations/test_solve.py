"""The pieces of the default solver against known answers: grids, canvases, registration, opacity, lighting."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from canon.coordinates import grid_nodes, grid_size, grid_to_pixels, pixel_grid
from canon.representations.solve.canvas import back_project, robust_canvas
from canon.representations.solve.filling import fill_holes, looked_at
from canon.representations.solve.grids import GridBasis, fit_affine, smoothness, solve_grid, solve_scalar_grid
from canon.representations.solve.layers import Problem
from canon.representations.solve.lighting import HIGH, LOW, estimate_lighting
from canon.representations.solve.opacity import refine_opacity
from canon.representations.solve.register import (
    RegisterOptions,
    affine_reference,
    central_differences,
    grid_step,
    normal_equations,
    register_all,
    smooth_reference,
)
from canon.representations.solve.tracking import Survival, new_layer
from canon.representations.workspace import Workspace
from canon.sampling import fill_unseen, sample, sample_plain, splat_plain

CPU = torch.device("cpu")


def picture(height: int, width: int, seed: int = 0, blur: float = 2.0) -> np.ndarray:
    """A smooth random texture with strong gradients, float32 [H, W, 3] in 0.1..0.9."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), blur)
    return np.clip(0.5 + 0.15 * image / image.std(), 0.1, 0.9)


def moving_window(canvas: np.ndarray, size: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    """uint8 frames [T, H, W, 3]: a window of ``canvas`` whose corner (x, y) px moves."""
    at = pixel_grid(size).numpy()
    frames = [cv2.remap(canvas, *(at[..., k] + np.float32(c[k]) for k in (0, 1)), cv2.INTER_CUBIC) for c in corners]
    return (np.clip(np.stack(frames), 0, 1) * 255 + 0.5).astype(np.uint8)


def one_layer(frames: np.ndarray, corners: np.ndarray, canvas: np.ndarray, stride: int = 8) -> Problem:
    """A problem with a background whose canvas and coordinates are known."""
    problem = Problem(frames, [], [], stride, CPU)
    layer = new_layer(problem, "background", np.ones(len(frames), bool))
    nodes = grid_nodes(problem.size, stride)
    layer.grid = torch.stack([nodes + torch.tensor(c, dtype=torch.float32) for c in corners])
    layer.reference = layer.grid.clone()
    layer.set_canvas(torch.from_numpy(canvas), torch.ones(canvas.shape[:2]))
    problem.layers = [layer]
    return problem


CORNERS = np.array([[20.0, 15.0], [22.5, 15.5], [25.0, 16.0]])


@pytest.fixture
def known() -> Problem:
    canvas = picture(110, 150)
    return one_layer(moving_window(canvas, (71, 93), CORNERS), CORNERS, canvas)


# --- grids ---


@pytest.mark.parametrize("size", [(37, 53), (64, 48), (17, 90)])
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("stride", [3, 8])
def test_gather_is_the_adjoint_of_to_pixels(size: tuple[int, int], level: int, stride: int) -> None:
    basis = GridBasis(size, stride, level)
    rng = torch.Generator().manual_seed(level)
    grid = torch.randn((*grid_size(size, stride), 3), generator=rng)
    values = torch.randn((*basis.level_size, 3), generator=rng)
    assert basis.level_size == (-(-size[0] // 2**level), -(-size[1] // 2**level))
    left, right = (basis.to_pixels(grid) * values).sum(), (grid * basis.gather(values)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(37, 53), (64, 48)])
def test_to_pixels_is_the_interpolation_of_the_fit(size: tuple[int, int]) -> None:
    grid = torch.randn((*grid_size(size, 8), 2), generator=torch.Generator().manual_seed(0))
    plain = grid_to_pixels(grid.permute(2, 0, 1)[None], size, 8)[0].permute(1, 2, 0)
    torch.testing.assert_close(GridBasis(size, 8).to_pixels(grid), plain, atol=1e-5, rtol=1e-5)
    # A linear function is kept at the centres of a reduced level's pixels.
    nodes = grid_nodes(size, 8)
    found = GridBasis(size, 8, 1).to_pixels(nodes)
    centres = pixel_grid(GridBasis(size, 8, 1).level_size) * 2 + 0.5
    inner = (centres[..., 0] <= nodes[..., 0].max()) & (centres[..., 1] <= nodes[..., 1].max())
    torch.testing.assert_close(found[inner], centres[inner], atol=1e-4, rtol=0)


def dense_laplacian(gh: int, gw: int, stiffness: np.ndarray | None = None) -> np.ndarray:
    stiff = np.ones(gh * gw) if stiffness is None else stiffness.ravel()
    matrix = np.zeros((gh * gw, gh * gw))
    for y in range(gh):
        for x in range(gw):
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy < gh and x + dx < gw:
                    a, b = y * gw + x, (y + dy) * gw + x + dx
                    matrix[[a, b], [a, b]] += (stiff[a] + stiff[b]) / 2
                    matrix[[a, b], [b, a]] -= (stiff[a] + stiff[b]) / 2
    return matrix


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_solve_grid_solves_the_normal_equations(spread: float) -> None:
    gh, gw, membrane = 4, 6, 0.9
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((gh * gw, 2, 2))
    blocks = factors @ factors.transpose(0, 2, 1)
    blocks[::3] = 0  # nodes without data lean on their neighbours
    right = rng.standard_normal((2, gh * gw))
    laplacian = dense_laplacian(gh, gw)
    stiffness = membrane * np.exp(spread * rng.random((gh, gw)))
    prior = dense_laplacian(gh, gw, stiffness)
    dense = np.zeros((2 * gh * gw, 2 * gh * gw))
    n = gh * gw
    for i in range(2):
        for j in range(2):
            dense[i * n : (i + 1) * n, j * n : (j + 1) * n] = np.diag(blocks[:, i, j]) + (prior if i == j else 0)
    wanted = np.linalg.solve(dense, right.ravel()).reshape(2, gh, gw)
    matrix = np.stack([blocks[:, 0, 0], blocks[:, 0, 1], blocks[:, 1, 1]]).reshape(1, 3, gh, gw)
    given = torch.from_numpy(matrix), torch.from_numpy(right.reshape(1, 2, gh, gw))
    found = solve_grid(*given, torch.from_numpy(stiffness)[None], steps=400)[0].numpy()
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
    vector = torch.from_numpy(rng.standard_normal((1, 1, gh, gw)))
    assert np.allclose(smoothness(vector).numpy().ravel(), laplacian @ vector.numpy().ravel())
    weight = torch.from_numpy(matrix[:, :1])
    scalar = solve_scalar_grid(weight, given[1][:, :1], membrane, steps=400)[0, 0].numpy()
    assert np.allclose(
        scalar.ravel(), np.linalg.solve(np.diag(matrix[0, 0].ravel()) + membrane * laplacian, right[0]), atol=1e-3
    )


def test_references_are_what_they_say() -> None:
    nodes = grid_nodes((72, 104), 8)
    affine = nodes @ torch.tensor([[1.1, 0.1], [-0.2, 0.9]]) + torch.tensor([30.0, 4.0])
    weight = torch.ones(nodes.shape[:2])
    torch.testing.assert_close(affine_reference(affine, weight, nodes), affine, atol=1e-2, rtol=0)
    # What lies where the weight is zero does not matter.
    spoilt = affine.clone()
    spoilt[:, -4:] += 50.0
    weight[:, -4:] = 0.0
    found = affine_reference(spoilt, weight, nodes)
    torch.testing.assert_close(found, affine, atol=2e-2, rtol=0)
    matrix = fit_affine(nodes.reshape(-1, 2), affine.reshape(-1, 2), torch.ones(nodes[..., 0].numel()))
    torch.testing.assert_close(matrix[2].float(), torch.tensor([30.0, 4.0]), atol=1e-2, rtol=0)
    # A smooth reference follows a wave of the frame's size, and not one from node to node.
    slow = affine + 4 * torch.sin(nodes[..., :1] / 104 * 3.14)
    fast = affine + 2 * ((nodes[..., :1] / 8) % 2 * 2 - 1)
    whole = torch.ones(nodes.shape[:2])
    kept = (smooth_reference(slow, affine, whole) - slow).abs()[1:-1, 2:-2].mean()
    assert float(kept) < 0.6 * float((affine_reference(slow, whole, nodes) - slow).abs()[1:-1, 2:-2].mean())
    assert float((smooth_reference(fast, affine, whole) - affine).abs().mean()) < 0.5


# --- registration ---


def shifted(problem: Problem, shift: tuple[float, float]) -> None:
    for layer in problem.layers:
        layer.grid = layer.grid + torch.tensor(shift)
        layer.reference = layer.grid.clone()


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("brightness", [0.0, 1.0])
def test_a_step_recovers_a_known_shift(level: int, brightness: float) -> None:
    shift = (0.6, -0.4)
    canvas = picture(110, 150, blur=2.0 * (1 + level))
    known = one_layer(moving_window(canvas, (71, 93), CORNERS), CORNERS, canvas)
    shifted(known, shift)
    options = RegisterOptions(brightness=brightness, limit=4.0)
    layer = known.layers[0]
    matrix, right = normal_equations(known, 1, level, options, [0])[0]
    step = grid_step(layer.grid[1:2], layer.reference[1:2], matrix[None], right[None], None, options, level)[0]
    inner = step[1:-2, 1:-2]
    torch.testing.assert_close(inner.mean((0, 1)), -torch.tensor(shift), atol=0.15, rtol=0)


def test_registration_converges_in_canvas_pixels_of_a_finer_canvas() -> None:
    canvas = picture(110, 150)
    fine = cv2.resize(canvas, (300, 220), interpolation=cv2.INTER_CUBIC)
    problem = one_layer(moving_window(canvas, (71, 93), CORNERS), CORNERS, canvas)
    layer = problem.layers[0]
    truth = (layer.grid + 0.5) * 2 - 0.5
    layer.grid = truth + torch.tensor([1.0, -0.8])
    layer.reference = layer.grid.clone()
    layer.set_canvas(torch.from_numpy(fine), torch.ones(fine.shape[:2]))
    for _ in range(4):
        register_all(problem, None, 0, RegisterOptions(limit=2.0))
    assert float((layer.grid - truth)[:, 1:-2, 1:-2].norm(dim=-1).median()) < 0.15


def test_a_change_of_brightness_is_not_motion(known: Problem) -> None:
    options = RegisterOptions(brightness=1.0)
    before = normal_equations(known, 1, 0, options, [0])[0]
    frames = known.frames.copy()
    brighter = Problem(np.clip(frames.astype(int) + 20, 0, 255).astype(np.uint8), known.layers, [], 8, CPU)
    projected = normal_equations(brighter, 1, 0, options, [0])[0]
    plain = normal_equations(brighter, 1, 0, RegisterOptions(brightness=0.0), [0])[0]
    inner = (slice(None), slice(1, -2), slice(1, -2))
    moved = float((projected[1] - before[1])[inner].abs().mean())
    fooled = float((plain[1] - before[1])[inner].abs().mean())
    assert moved < 0.05 * fooled


def test_central_differences_of_a_ramp() -> None:
    ramp = (pixel_grid((9, 11)) @ torch.tensor([[2.0], [-3.0]])).float()
    gx, gy = central_differences(ramp)
    assert torch.allclose(gx[1:-1, 1:-1], torch.tensor(2.0)) and torch.allclose(gy[1:-1, 1:-1], torch.tensor(-3.0))
    assert not gx[:, [0, -1]].any() and not gy[[0, -1]].any()


# --- canvases ---


def test_the_canvas_is_recovered_and_outliers_are_not(known: Problem) -> None:
    truth = known.layers[0].color.clone()
    known.frames[1, 20:50, 30:60] = 255  # something passes in one frame of three
    layer = known.layers[0]
    layer.set_canvas(torch.zeros_like(truth), torch.zeros(truth.shape[:2]))
    robust_canvas(known, 0, scales=(None, 0.15, 0.07, 0.07), erode=0)
    seen = layer.coverage > 0.5
    error = (layer.color - truth).abs().mean(-1)
    assert float(error[seen].mean()) < 0.02 and float(seen.float().mean()) > 0.3
    spot = error[38:62, 55:78]
    assert float(spot.mean()) < 0.06, "a mean would be off by about 0.17"
    first = back_project(known)
    for _ in range(4):
        last = back_project(known)
    assert last < first


def test_unseen_texels_continue_the_seen_ones() -> None:
    color = torch.full((40, 50, 3), 0.25)
    mass = torch.zeros((40, 50))
    mass[5:20, 8:30] = 1.0
    color[mass == 0] = 77.0
    found = fill_unseen(color, mass)
    torch.testing.assert_close(found, torch.full_like(found, 0.25), atol=1e-4, rtol=0)


def test_filling_keeps_what_is_known() -> None:
    color = picture(90, 120, blur=1.0)
    hole = np.zeros((90, 120), bool)
    hole[30:52, 40:70] = True
    start = color.copy()
    start[hole] = 5.0
    found = fill_holes(start, ~hole, hole, seed=3)
    assert np.array_equal(found[~hole], color[~hole])
    assert found[hole].min() >= -0.1 and found[hole].max() <= 1.1, "only colours of the seen texels"
    assert found[hole].std() > 0.4 * color.std(), "texture, not a smear"
    assert np.array_equal(found, fill_holes(start, ~hole, hole, seed=3))
    assert np.array_equal(fill_holes(color, ~hole, np.zeros_like(hole)), color)


def test_what_was_looked_at_is_the_frames_outline() -> None:
    nodes = grid_nodes((33, 49), 8).numpy()
    area = looked_at(np.stack([nodes + np.array([x, 5]) for x in (10, 30)]), (60, 100))
    assert area[5:38, 10:79].all() and area.sum() == 33 * 69


# --- opacity and lighting ---


def two_layers(alpha: np.ndarray, size: tuple[int, int] = (64, 80)) -> Problem:
    """A still front in red over a still back in green, mixed by ``alpha``."""
    front, back = (picture(*size, seed=k) * 0.3 for k in (1, 2))
    front[..., 0] += 0.6
    back[..., 1] += 0.6
    mixed = alpha[..., None] * front + (1 - alpha[..., None]) * back
    frames = (np.stack([mixed, mixed]) * 255 + 0.5).astype(np.uint8)
    hard = np.repeat(((alpha > 0.5) * 255).astype(np.uint8)[None], 2, axis=0)
    problem = Problem(frames, [], [hard], 8, CPU)
    for name, image in (("front", front), ("background", back)):
        layer = new_layer(problem, name, np.ones(2, bool))
        layer.set_canvas(torch.from_numpy(image.astype(np.float32)), torch.ones(size))
        problem.layers.append(layer)
    return problem


def test_matting_recovers_a_soft_edge() -> None:
    x = np.linspace(0, 79, 80, dtype=np.float32)
    alpha = np.repeat(np.clip((x - 37) / 6, 0, 1)[None], 64, axis=0)
    problem = two_layers(alpha)
    masks = problem.opacity[0]
    target = np.zeros_like(masks)
    refine_opacity(problem, [masks], [False], [target], band=6)
    found = target[1] / np.float32(255)
    hard = np.abs(masks[1] / 255.0 - alpha).mean()
    assert np.abs(found - alpha).mean() < 0.4 * hard and np.abs(found - alpha).max() < 0.2
    assert (found[:, :28] == 0).all() and (found[:, 52:] == 1).all(), "solid away from the edge"
    assert problem.opacity[0] is target


def test_a_matte_is_believed_more_than_an_outline() -> None:
    x = np.linspace(0, 79, 80, dtype=np.float32)
    alpha = np.repeat(np.clip((x - 20) / 40, 0, 1)[None], 64, axis=0)  # a wide soft edge, beyond the band
    problem = two_layers(alpha)
    matte = np.repeat((alpha * 255 + 0.5).astype(np.uint8)[None], 2, axis=0)
    errors = {}
    for believed in (True, False):
        problem.opacity = [matte]
        target = np.zeros_like(matte)
        refine_opacity(problem, [matte], [believed], [target], band=4)
        errors[believed] = np.abs(target[1] / 255.0 - alpha).mean()
    assert errors[True] < 0.03 < errors[False]


def test_masks_say_what_is_seen_and_opacity_what_is_there() -> None:
    size = (64, 80)
    colours = [np.broadcast_to(np.float32(c), (*size, 3)) for c in ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))]
    front = np.full(size, 0.5, np.float32)
    front[:, :8], front[:, 72:] = 0, 0
    middle = np.zeros(size, np.float32)
    middle[16:48, 20:60] = 1
    shares = [front, middle * (1 - front), (1 - middle) * (1 - front)]
    frame = sum(share[..., None] * colour for share, colour in zip(shares, colours, strict=True))
    assert isinstance(frame, np.ndarray)
    masks = [(share[None] * 255 + 0.5).astype(np.uint8) for share in shares[:2]]
    problem = Problem((frame[None] * 255 + 0.5).astype(np.uint8), [], masks, 8, CPU)
    for name, colour in zip(("front", "middle", "background"), colours, strict=True):
        layer = new_layer(problem, name, np.ones(1, bool))
        layer.set_canvas(torch.from_numpy(colour.copy()), torch.ones(size))
        problem.layers.append(layer)
    targets = [np.zeros_like(mask) for mask in masks]
    refine_opacity(problem, masks, [True, True], targets, band=4)
    found = targets[1][0] / np.float32(255)
    assert np.abs(found - middle)[:, 12:68].max() < 0.1, "whole behind a veil through which half of it is seen"


def test_matting_does_not_leave_the_band() -> None:
    alpha = np.zeros((64, 80), np.float32)
    alpha[20:40, 20:40] = 1
    problem = two_layers(alpha)
    problem.frames[:, 5:12, 60:70] = problem.frames[0, 25:32, 22:32]  # looks like the front, is far from the mask
    target = np.zeros_like(problem.opacity[0])
    refine_opacity(problem, [problem.opacity[0]], [False], [target], band=4)
    assert not target[:, :14].any() and not target[:, :, 50:].any() and (target[:, 26:34, 26:34] == 255).all()


def test_lighting_recovers_a_smooth_gain(known: Problem) -> None:
    at = pixel_grid(known.size)
    gain = 1.0 + 0.25 * torch.sin(at[..., :1] / 93 * 3.1) * torch.tensor([1.0, 0.8, 0.6])
    lit = known.frames.astype(np.float32)
    lit[1] *= gain.numpy()
    known.frames = np.clip(lit + 0.5, 0, 255).astype(np.uint8)
    for _ in range(3):
        estimate_lighting(known, 1)
    layer = known.layers[0]
    found = known.light(layer, 1)
    assert float((found - gain).abs().mean()) < 0.05, "0.13 on average if nothing were found"
    assert float((known.light(layer, 0) - 1).abs().max()) < 0.03
    assert layer.lighting.shape[1:3] == grid_size(known.size, known.light_stride)
    known.frames = np.zeros_like(known.frames)
    estimate_lighting(known, 1)
    assert float(layer.lighting.min()) >= LOW and float(layer.lighting.max()) <= HIGH


def test_black_says_nothing_about_the_light(known: Problem) -> None:
    layer = known.layers[0]
    layer.set_canvas(torch.zeros_like(layer.color), layer.coverage)
    known.frames = np.zeros_like(known.frames)
    known.frames[:, ::2] += 3  # noise
    estimate_lighting(known, 1)
    assert float((layer.lighting - 1).abs().max()) < 1e-3


# --- the rest ---


def test_the_keyframe_is_large_and_what_it_shows_survives() -> None:
    def best(areas: list[float], times: range | None = None, broken: int | None = None) -> int:
        t = np.arange(len(areas))
        reach = 0.9 ** np.abs(t[:, None] - t).astype(float)
        if broken is not None:  # nothing gets past this frame
            reach[np.ix_(t >= broken, t < broken)] = reach[np.ix_(t < broken, t >= broken)] = 0.0
        return Survival(np.array(areas), reach).best_keyframe(times or range(len(areas)))

    assert best([10, 10, 10, 10, 10]) == 2
    assert best([0, 0, 10, 10, 40, 0]) == 4
    assert best([0, 0, 0, 7]) == 3
    assert best([10] * 9, range(4, 9)) == 6
    assert best([10] * 9, broken=2) == 5


def test_a_finished_stage_is_loaded_and_a_broken_one_made_anew(tmp_path: Path) -> None:
    calls: list[str] = []

    def build(folder: Path) -> str:
        calls.append("build")
        assert not list(folder.iterdir()), "what a broken run left is gone"
        (folder / "x").write_text("7")
        if len(calls) == 1:
            raise KeyboardInterrupt
        return "7"

    def load(folder: Path) -> str:
        calls.append("load")
        return (folder / "x").read_text()

    work = Workspace(tmp_path, "clip", 1)
    with pytest.raises(KeyboardInterrupt):
        work.run(work.stage("flow", 1), build, load)
    assert work.run(work.stage("flow", 1), build, load) == "7"
    assert Workspace(tmp_path, "clip", 1).run(work.stage("flow", 1), build, load) == "7"
    assert calls == ["build", "build", "load"]
    folders = {work.stage("flow", 1), work.stage("flow", 2), work.stage("masks", 1)}
    assert len(folders | {Workspace(tmp_path, "clip", 2).stage("flow", 1)}) == 4
    work.clear()
    assert not tmp_path.exists()


def points(size: tuple[int, int], count: tuple[int, int], seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(0, [size[1] - 1, size[0] - 1], (*count, 2)).astype(np.float32))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_sampling_agrees_with_its_plain_twin(channels: int) -> None:
    size = (37, 53)
    image = torch.randn((*size, channels), generator=torch.Generator().manual_seed(channels))
    xy = points(size, (19, 23), 0)
    xy[0] += 40.0  # beyond the border
    xy[1] -= 40.0
    torch.testing.assert_close(sample(image, xy), sample_plain(image, xy), atol=2e-4, rtol=0)
    gradients = []
    weight = torch.randn((19, 23, channels), generator=torch.Generator().manual_seed(9))
    for function in (sample, sample_plain):
        a, b = image.clone().requires_grad_(), xy.clone().requires_grad_()
        gradients.append(torch.autograd.grad((function(a, b) * weight).sum(), (a, b)))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_splat_is_the_adjoint_of_the_sample() -> None:
    size = (31, 44)
    rng = torch.Generator().manual_seed(0)
    image, values = torch.randn((*size, 3), generator=rng), torch.randn((15, 17, 3), generator=rng)
    xy = points(size, (15, 17), 1)
    left, right = (sample_plain(image, xy) * values).sum(), (image * splat_plain(values, xy, size)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((sample_plain(leaf, xy) * values).sum(), leaf)
    torch.testing.assert_close(splat_plain(values, xy, size), gradient, atol=1e-5, rtol=1e-5)
    # One point on a texel lands there whole, one between two is shared.
    xy = torch.tensor([[[3.0, 2.0], [5.5, 4.0]]])
    found = splat_plain(torch.ones(1, 2, 1), xy, size)[..., 0]
    assert found[2, 3] == pytest.approx(1, abs=1e-5) and found[4, 5] == pytest.approx(0.5, abs=1e-5)
    assert float(found.sum()) == pytest.approx(2, abs=1e-5)
