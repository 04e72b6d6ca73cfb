"""The hash grid against the formula written out point by point, its gradients, and its annealing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from canon.representations.fields.hashgrid import HashGrid, level_weights, unavailable

PRIMES = (1, 2654435761, 805459861, 3674653429)


def plain(grid: HashGrid, point: np.ndarray) -> np.ndarray:
    """One point's features, with Python integers; the layout of tiny-cuda-nn."""
    table, out, first = grid.table.detach().double().numpy(), [], 0
    for level in range(grid.levels):
        scale = 2 ** (level * math.log2(grid.finest / grid.coarsest) / max(grid.levels - 1, 1)) * grid.coarsest - 1
        resolution = math.ceil(scale) + 1
        size = min(-(-(resolution**grid.dimensions) // 8) * 8, 2**grid.log2_size)
        position = point * scale + 0.5
        cell, value = np.floor(position), 0.0
        for corner in itertools.product((0, 1), repeat=grid.dimensions):
            place = [int(c) + o for c, o in zip(cell, corner, strict=True)]
            if resolution**grid.dimensions > size:
                index = 0
                for coordinate, prime in zip(place, PRIMES, strict=False):
                    index ^= coordinate * prime % 2**32
            else:
                index = sum(coordinate * resolution**axis for axis, coordinate in enumerate(place))
            fraction = position - cell
            weight = np.prod([f if o else 1 - f for f, o in zip(fraction, corner, strict=True)])
            value = value + weight * table[first + index % size]
        out.append(value)
        first += size
    assert first == len(table)
    return np.concatenate(out)


@pytest.mark.parametrize(("dimensions", "features"), [(2, 1), (3, 2), (4, 2)])
def test_values_are_the_formulas(dimensions: int, features: int) -> None:
    grid = HashGrid(dimensions, levels=5, features=features, log2_size=9, coarsest=3, finest=61, seed=2)
    assert any(grid.hashed) and not all(grid.hashed)
    points = torch.rand(40, dimensions, generator=torch.Generator().manual_seed(1))
    points[0], points[1] = 0.0, 1.0
    found = grid(points)
    assert found.shape == (40, grid.width)
    expected = np.stack([plain(grid, point.double().numpy()) for point in points])
    assert np.abs(found.detach().numpy() - expected).max() < 1e-5 * np.abs(expected).max() + 1e-8


def test_gradients() -> None:
    grid = HashGrid(3, levels=3, features=2, log2_size=6, coarsest=2, finest=9).double()
    points = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, _: grid(p, 0.7), (points, grid.table), atol=1e-6)


def test_levels_open_one_after_the_other() -> None:
    assert level_weights(4, 0.0) == [0.0] * 4 and level_weights(4, 1.0) == [1.0] * 4
    assert level_weights(4, 0.625) == pytest.approx([1.0, 1.0, 0.5, 0.0])
    grid = HashGrid(2, levels=4, features=3, log2_size=8)
    points = torch.rand(2, 5, 2)
    half, whole = grid(points, 0.5), grid(points)
    assert half.shape == (2, 5, 12)
    assert torch.equal(half[..., :6], whole[..., :6]) and not half[..., 6:].any() and whole[..., 6:].any()


def test_a_picture_is_learnt() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    picture = (0.5 + 0.5 * torch.sin(20 * x) * torch.cos(31 * y * x)).reshape(-1, 1)
    points = torch.stack([x, y], -1).reshape(-1, 2)
    grid = HashGrid(2, levels=6, features=2, log2_size=12, coarsest=4, finest=64)
    head = torch.nn.Linear(grid.width, 1)
    optimiser = torch.optim.Adam([*grid.parameters(), *head.parameters()], lr=0.02)
    for _ in range(120):
        loss = (head(grid(points)) - picture).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["single", "half"])
@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("backend", ["triton", "tiny-cuda-nn"])
def test_fast_backends_give_what_the_plain_one_gives(backend: str, dimensions: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reason = unavailable(backend, device)
    if reason is not None:
        pytest.skip(reason)
    options = {"levels": 5, "features": 2, "log2_size": 9, "coarsest": 3, "finest": 61, "seed": 4}
    points = torch.rand(300, dimensions, generator=torch.Generator().manual_seed(1)).to(device)
    pull = torch.randn(300, 10, generator=torch.Generator().manual_seed(2)).to(device)
    found = []
    for name in ("torch", backend):
        grid = HashGrid(dimensions, backend=name, **options).to(device)  # type: ignore[arg-type]
        grid.table.data *= 1e4
        # The plain one in single precision is the truth for both.
        grid = grid if name == "torch" else grid.to(dtype)
        at = points.clone().requires_grad_()
        values = grid(at, 0.9)
        gradients = torch.autograd.grad((values.float() * pull).sum(), (at, grid.table))
        found.append([part.detach().float() for part in (values, *gradients)])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for plain_part, fast_part in zip(*found, strict=True):
        assert float((plain_part - fast_part).abs().max()) <= tolerance * float(plain_part.abs().max())


def test_what_cannot_run_here_is_not_chosen() -> None:
    cpu = torch.device("cpu")
    assert HashGrid(2, levels=2, log2_size=6, finest=32).runs_on(cpu) == "torch"
    assert unavailable("torch", cpu) is None and "GPU" in str(unavailable("tiny-cuda-nn", cpu))
    with pytest.raises(ValueError, match="'cupy' is not one of"):
        HashGrid(backend="cupy")


def test_impossible_grids_are_refused() -> None:
    for options in ({"dimensions": 5}, {"levels": 0}, {"coarsest": 9, "finest": 3}):
        with pytest.raises(ValueError, match="hash grid"):
            HashGrid(**options)
