"""Lighting in closed form: per frame a coarse, bounded, multiplicative field, seen where there is colour to light."""

from __future__ import annotations

from torch import Tensor

from canon.representations.solve.grids import solve_scalar_grid
from canon.representations.solve.layers import Problem
from canon.runtime import map_frames

LOW, HIGH = 0.5, 2.0


def estimate_lighting(
    problem: Problem, level: int, membrane: float = 20.0, prior: float = 8.0, noise: float = 0.05
) -> None:
    """Replace every layer's lighting by the least-squares one given canvases and coordinates.

    Minimises |I - sum w L s|^2 / noise^2 + membrane |grad L|^2 + prior (L - 1)^2 on a coarse grid of nodes:
    s^2 weighs the data, so that a dark surface, whose lighting cannot be seen, keeps that of its surroundings.
    """

    def one(t: int) -> tuple[int, list[Tensor | None]]:
        weights = problem.weights(t, level)
        residual = problem.frame(t, level) - problem.render(t, level)
        trust = 1.0 / (1.0 + residual.square().sum(-1, keepdim=True) / (3 * 0.2**2)).square()
        basis = problem.basis(level, problem.light_stride)
        area = (problem.light_stride / 64) ** 2  # of a node, as the prior is per area
        scale = 4.0**level / noise**2 / 64.0  # neighbouring residuals are far from independent
        found: list[Tensor | None] = []
        for layer, weight in zip(problem.layers, weights, strict=True):
            if not layer.present[t]:
                found.append(None)
                continue
            seen = weight[..., None] * problem.look(layer, t, level)[0]
            mass = basis.gather(trust * seen * seen) * scale
            pull = basis.gather(trust * seen * residual) * scale
            found.append(_solve(mass, pull, layer.lighting[t], membrane, prior * area))
        return t, found

    for t, found in map_frames(one, range(problem.count)):
        for layer, light in zip(problem.layers, found, strict=True):
            if light is not None:
                layer.lighting[t] = light


def _solve(mass: Tensor, pull: Tensor, current: Tensor, membrane: float, prior: float) -> Tensor:
    """Solve for L - 1 [lh, lw, 3] given the sums of w s^2 and of w s (I - R)."""
    weight = mass.permute(2, 0, 1)[None]
    right = (pull + mass * (current - 1.0)).permute(2, 0, 1)[None]
    found = solve_scalar_grid(weight + prior, right, membrane)
    return (1.0 + found[0].permute(1, 2, 0)).clamp(LOW, HIGH)
