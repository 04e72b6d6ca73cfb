"""Milliseconds of the hash grid, forward and backward, for 100,000 points in 3-D, 16 levels of at most 2^15 entries.

python benchmarks/hashgrid.py [--device cuda] [--compile] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from fit import machine
from torch import Tensor

from canon.representations.fields.hashgrid import HashGrid, corners, unavailable


def indexed(grid: HashGrid, points: Tensor) -> Tensor:
    """The same encoding by plain indexing and autograd, to compare with."""
    found, first = [], 0
    for level, size in enumerate(grid.sizes):
        index, _ = corners(points, grid.scales[level], None if grid.hashed[level] else grid.resolutions[level], size)
        position = points * grid.scales[level] + 0.5
        fraction = position - position.detach().floor()
        x, y, z = torch.stack([1 - fraction, fraction], -1).unbind(1)
        share = (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None]).flatten(1)
        found.append((grid.table[first : first + size][index] * share[..., None]).sum(1))
        first += size
    return torch.cat(found, dim=-1)


def milliseconds(encode: Callable[[Tensor], Tensor], grid: HashGrid, points: Tensor, rounds: int) -> float:
    """Median time of one forward and backward pass, gradients of the points included."""
    times = []
    for _ in range(rounds + 2):
        grid.table.grad, points.grad = None, None
        begin = time.perf_counter()
        encode(points).square().sum().backward()
        if points.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begin))
    return float(np.median(times[2:]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well (needs a C++ compiler)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    grid = HashGrid(log2_size=15).to(options.device)
    points = torch.rand(options.points, 3).to(options.device).requires_grad_()
    grid.backend = "torch"
    ways: dict[str, Callable[[Tensor], Tensor]] = {"eager": grid, "plain indexing": lambda p: indexed(grid, p)}
    for backend in ("triton", "tiny-cuda-nn"):
        reason = unavailable(backend, points.device)
        if reason is None:
            ways[backend] = HashGrid(log2_size=15, backend=backend).to(options.device)
        else:
            print(f"left out: {reason}")
    if options.compile:
        ways["compiled"] = torch.compile(grid)
    found = {name: round(milliseconds(encode, grid, points, options.rounds), 2) for name, encode in ways.items()}
    print(found)
    record = {**machine(), "device": options.device, "points": options.points, "milliseconds": found}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"hashgrid-{record['date']}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
