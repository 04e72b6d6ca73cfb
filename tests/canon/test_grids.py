"""Control grids and area-filtered sampling: fast paths against plain twins, exact inverses, known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from canon.coordinates import grid_nodes, grid_size, grid_to_pixels, pixel_grid
from canon.errors import InputError
from canon.grids import find_pixels, grid_window, invert_grid, level_of_detail, sample_grid, texels_per_pixel
from canon.sampling import (
    halve,
    mip_weights,
    pyramid,
    remap,
    remap_points,
    sample_mip,
    sample_mip_points,
    sample_plain,
)

SIZE = (61, 97)


def bent_grid(stride: int, seed: int = 0) -> torch.Tensor:
    """A smooth invertible map with shear, scale and bends, float32 [gh, gw, 2]."""
    p = grid_nodes(SIZE, stride)
    x, y = p[..., 0], p[..., 1]
    phase = float(np.random.default_rng(seed).uniform(0, 6))
    u = 31 + 1.2 * x + 0.15 * y + 2.5 * torch.sin(y / 13 + phase)
    return torch.stack([u, 17 - 0.1 * x + 0.9 * y + 2 * torch.sin(x / 17)], dim=-1)


@pytest.mark.parametrize("stride", [1, 2, 7, 8, 16, 20, 64])
def test_grid_window_is_grid_to_pixels(stride: int) -> None:
    rng = np.random.default_rng(stride)
    for channels in (1, 2, 3):
        grid = rng.uniform(-300, 300, (*grid_size(SIZE, stride), channels)).astype(np.float32)
        plain = grid_to_pixels(torch.from_numpy(grid).permute(2, 0, 1)[None], SIZE, stride)[0].permute(1, 2, 0).numpy()
        for rows, columns in (
            (slice(0, 61), slice(0, 97)),
            (slice(13, 61), slice(31, 32)),
            (slice(8, 9), slice(0, 16)),
        ):
            found = grid_window(grid, stride, (rows, columns))
            assert found.shape == plain[rows, columns].shape
            assert np.abs(found - plain[rows, columns]).max() < 2e-3


def test_sample_grid_agrees_at_pixels_and_continues_linearly() -> None:
    grid = bent_grid(8)
    dense = grid_to_pixels(grid.permute(2, 0, 1)[None], SIZE, 8)[0].permute(1, 2, 0)
    assert torch.allclose(sample_grid(grid, pixel_grid(SIZE), 8), dense, atol=1e-3)
    affine = grid_nodes(SIZE, 8) * 2.0 + 5.0
    outside = torch.tensor([[-30.0, 10.0], [140.0, -7.5]])
    assert torch.allclose(sample_grid(affine, outside, 8), outside * 2 + 5, atol=1e-3)


def test_inversion_returns_to_the_pixel() -> None:
    grid = bent_grid(8)
    points = torch.from_numpy(np.random.default_rng(1).uniform([-5, -5], [101, 65], (500, 2)).astype(np.float32))
    targets = sample_grid(grid, points, 8)
    found, error = invert_grid(grid, 8, targets, points + 6.0)
    assert float((found - points).norm(dim=-1).max()) < 2e-2 and float(error.max()) < 2e-2


def test_a_bad_first_guess_is_mended_by_a_search() -> None:
    grid = bent_grid(8)
    points = torch.tensor([[12.3, 45.6], [90.0, 3.0], [50.5, 30.25]])
    targets = sample_grid(grid, points, 8)
    lost = torch.tensor([[1e4, -1e4], [float("nan"), 0.0], [-900.0, 900.0]])
    found, error = find_pixels(grid, 8, targets, lost)
    assert float((found - points).norm(dim=-1).max()) < 2e-2 and float(error.max()) < 2e-2
    # Sheared to and fro by more than a cell, Newton's method with smoothed derivatives jumps about and loses points.
    p = grid_nodes(SIZE, 8)
    bent = p + torch.stack([30 * torch.sin(p[..., 1] / 9), 7 * torch.sin(p[..., 0] / 9)], dim=-1)
    many = torch.from_numpy(np.random.default_rng(0).uniform([5, 5], [90, 55], (300, 2)).astype(np.float32))
    aims, middle = sample_grid(bent, many, 8), torch.tensor([[48.0, 30.0]]).expand(300, 2)
    assert int((invert_grid(bent, 8, aims, middle, steps=12)[1] > 0.05).sum()) > 20
    assert float(find_pixels(bent, 8, aims, middle)[1].max()) < 0.05
    assert torch.isfinite(find_pixels(grid, 8, torch.tensor([[1e6, -1e6]]), points[:1])[0]).all()


def test_texels_per_pixel_is_the_scale_where_the_layer_is_seen() -> None:
    nodes = grid_nodes(SIZE, 8)
    seen = torch.ones(nodes.shape[:2])
    assert texels_per_pixel(nodes * 3.0, 8, seen) == pytest.approx(3.0, rel=1e-5)
    stretched = nodes * torch.tensor([4.0, 0.25])
    assert texels_per_pixel(stretched, 8, seen) == pytest.approx(1.0, rel=1e-5)
    half = nodes.clone()
    half[:, 6:] = half[:, 6:] * 5
    seen[:, 5:] = 0
    assert texels_per_pixel(half, 8, seen) == pytest.approx(1.0, rel=1e-5)
    assert [level_of_detail(texels) for texels in (1.0, 0.3, 1.4, 4.0)] == [0.0, 0.0, 0.0, 1.5]


@pytest.mark.parametrize("shape", [(9, 14, 4), (16, 7, 1), (1, 5, 3)])
def test_halving_arrays_and_tensors_agree(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    plain = halve(torch.from_numpy(image)).numpy()
    assert halve(image).shape == plain.shape and np.abs(halve(image) - plain).max() < 1e-6


def test_mip_sampling_is_an_area_average() -> None:
    image = np.random.default_rng(0).random((64, 96, 3), np.float32)
    block = image.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    centres = (pixel_grid((16, 24)).numpy() + 0.5) * 4 - 0.5
    levels = pyramid(image, 4)
    assert np.abs(sample_mip(levels, centres, 2.0) - block).max() < 1e-5
    tensors = pyramid(torch.from_numpy(image), 4)
    for lod in (0.0, 0.3, 1.0, 1.98, 2.5, 9.0):
        plain = sample_mip(tensors, torch.from_numpy(centres), lod).numpy()
        assert np.abs(sample_mip(levels, centres, lod) - plain).max() < 1e-5
        points = sample_mip_points(levels, centres.reshape(-1, 2), lod)
        assert np.array_equal(points, sample_mip(levels, centres, lod).reshape(-1, 3))
    between = sample_mip(levels, centres, 1.5)
    assert np.allclose(between, (sample_mip(levels, centres, 1.0) + sample_mip(levels, centres, 2.0)) / 2, atol=1e-6)
    assert mip_weights(1.25) == {1: 0.75, 2: 0.25} and mip_weights(0.02) == {0: 1.0}
    # Constants stay constant to the bit at every level: opaque paint stays opaque.
    assert np.unique(sample_mip(pyramid(np.ones((37, 51, 1), np.float32), 5), centres, 1.37)).tolist() == [1.0]


def test_mip_sampling_has_gradients() -> None:
    xy = (pixel_grid((4, 5)) * 2.3 + 1.1).double().requires_grad_()
    image = torch.rand(16, 20, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, p: sample_mip(pyramid(i, 3), p, 1.4), (image, xy), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 9])
def test_sampling_is_exact_for_any_number_of_channels(channels: int) -> None:
    """OpenCV itself rounds positions to 1/32 px unless there are 1, 3 or 4 of them."""
    rng = np.random.default_rng(0)
    image = rng.random((23, 31, channels), np.float32)
    xy = rng.uniform(-3, [34, 26], (40, 50, 2)).astype(np.float32)
    plain = sample_plain(torch.from_numpy(image), torch.from_numpy(xy)).numpy()
    assert remap(image, xy).shape == plain.shape and np.abs(remap(image, xy) - plain).max() < 1e-5


def test_wide_images_are_sampled_in_parts() -> None:
    wide = np.random.default_rng(0).random((3, 40000, 2), np.float32)
    xy = np.stack(np.meshgrid(np.linspace(36000, 36050, 40), np.linspace(0, 2, 5)), axis=-1).astype(np.float32)
    part, shifted = wide[:, 35900:36100].copy(), xy - np.float32([35900, 0])
    plain = sample_plain(torch.from_numpy(part), torch.from_numpy(shifted)).numpy()
    assert np.abs(remap(wide, xy) - plain).max() < 1e-4
    beyond = np.array([[[39999.0, 1.0], [41000.0, 1.0]]], np.float32)
    assert np.array_equal(remap(wide, beyond)[0], np.stack([wide[1, -1], wide[1, -1]]))
    with pytest.raises(InputError, match="texels"):
        remap(wide, np.array([[[0.0, 0.0], [39000.0, 0.0]]], np.float32))
    assert remap_points(wide[:, :9], np.full((70000, 2), 1.0, np.float32)).shape == (70000, 2)
