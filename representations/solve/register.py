"""Coordinates by Gauss-Newton: every frame is registered to the canvases, on control grids.

One step linearises the composite R = sum w L s(uv) around the present grids, gathers each layer's normal equations onto
its nodes (whole-frame passes, no loop over pixels), adds smoothness and agreement with optical flow, and solves. Before
the lighting is known, the mean of residual and gradient over a node's window is projected out, so that a change of
brightness is not mistaken for motion (as with mean-normalised patches, Kroeger et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from canon.coordinates import grid_nodes, pixel_grid
from canon.grids import jacobian, level_of_detail, sample_grid, texels_per_pixel
from canon.representations.motion.flow import FLOW_STRIDE, Flow
from canon.representations.solve.grids import fit_affine, smoothness, solve_grid, solve_scalar_grid
from canon.representations.solve.layers import Layer, Problem, central_differences
from canon.runtime import map_frames
from canon.sampling import halve, sample

_FRAMES_PER_SOLVE = 4
_REFERENCE_MEMBRANE = 6.0
_LEAST_TRUST = 0.02
_STIFFEST = 100.0
_ROUNDING = 0.02  # px: roughness that means nothing


@dataclass(frozen=True)
class RegisterOptions:
    """Weights of one registration step.

    Attributes:
        noise: residual (0..1) that counts as one standard deviation.
        membrane: smoothness of the grid around its rigid reference, per squared pixel between neighbouring nodes.
        temporal: agreement with flow-carried neighbours, per squared pixel at a node.
        robust: residual (0..1) from which a pixel is distrusted.
        limit: largest step in pixels of the level.
        anchor: pull of nodes without texture towards the reference, per squared pixel.
        rough: roughness (px between neighbouring nodes) below which the background is taken to be stiff: a homography
            explains it, and what is left is noise.
        brightness: share of the windows' mean residual that is projected out: 1 before the lighting is known, 0 after.
    """

    noise: float = 0.05
    membrane: float = 0.3
    temporal: float = 0.3
    robust: float = 0.4
    limit: float = 1.0
    brightness: float = 0.0
    anchor: float = 0.01
    rough: float = 0.4


def register_all(problem: Problem, flow: Flow | None, level: int, options: RegisterOptions) -> None:
    """One Gauss-Newton step of the grids of all layers in all frames."""
    everything = range(len(problem.layers))

    def some(times: range) -> list[Tensor]:
        equations = [normal_equations(problem, t, level, options, everything) for t in times]
        return [
            _steps(problem, i, times, [found.get(i) for found in equations], flow, level, options) for i in everything
        ]

    # A few frames at a time, so that memory does not grow with the clip.
    parts = [range(t, min(t + _FRAMES_PER_SOLVE, problem.count)) for t in range(0, problem.count, _FRAMES_PER_SOLVE)]
    steps = list(map_frames(some, parts))
    for i, layer in enumerate(problem.layers):
        layer.grid = layer.grid + torch.cat([part[i] for part in steps])


def _steps(
    problem: Problem,
    index: int,
    times: range,
    equations: list[tuple[Tensor, Tensor] | None],
    flow: Flow | None,
    level: int,
    options: RegisterOptions,
) -> Tensor:
    """Steps [len(times), gh, gw, 2] of one layer's grids, given its normal equations where it is seen."""
    layer, part = problem.layers[index], slice(times.start, times.stop)
    grid, reference = layer.grid[part], layer.reference[part]
    matrix = grid.new_zeros((len(times), 3, *grid.shape[1:3]))
    right = grid.new_zeros((len(times), 2, *grid.shape[1:3]))
    for k, found in enumerate(equations):
        if found is not None:
            matrix[k], right[k] = found
    # Shading that wanders over a smooth surface looks like motion; where there is no texture, it is not believed.
    pull = options.anchor * torch.stack([1.0 - problem.texture(t) for t in times])
    matrix[:, 0] += pull
    matrix[:, 2] += pull
    right += pull[:, None] * (reference - grid).permute(0, 3, 1, 2)
    # The background has its camera: neighbour flow would only bring in the errors of fast pans.
    if layer is problem.layers[-1]:
        return grid_step(grid, reference, matrix, right, None, options, level)
    targets = None if flow is None else flow_targets(problem, layer, flow, times)
    return grid_step(grid, reference, matrix, right, targets, replace(options, rough=0.0), level)


def normal_equations(
    problem: Problem, t: int, level: int, options: RegisterOptions, which: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """Per layer of ``which`` seen at t: 2x2 blocks [3, gh, gw] and right-hand side [2, gh, gw] in canvas pixels."""
    frame = problem.frame(t, level)
    weights = problem.weights(t, level)
    residual = frame
    gradients: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for i, (layer, weight) in enumerate(zip(problem.layers, weights, strict=True)):
        if not layer.present[t]:
            continue
        albedo, known = problem.look(layer, t, level)
        lit = albedo * problem.light(layer, t, level)
        residual = residual - weight[..., None] * lit
        if i in which:
            gradients[i] = (*central_differences(lit), known)
    trust = 1.0 / (1.0 + (residual.square().sum(-1) / (3.0 * options.robust**2))).square()
    basis = problem.basis(level)
    found = {}
    for i, (gx, gy, known) in gradients.items():
        layer, weight = problem.layers[i], weights[i]
        w = (trust * weight * weight * (known > 0.99))[..., None]
        wx, wy = w * gx, w * gy
        products = [
            (wx * gx).sum(-1),
            (wx * gy).sum(-1),
            (wy * gy).sum(-1),
            (wx * residual).sum(-1),
            (wy * residual).sum(-1),
        ]
        sums = list(basis.gather(torch.stack(products, -1)).unbind(-1))
        if options.brightness > 0:
            sums = _without_brightness(
                basis.gather(torch.cat([wx, wy, w * residual, w], dim=-1)), sums, options.brightness
            )
        xx, xy, yy, xe, ye = sums
        scale = 4.0**level / (3.0 * options.noise**2)
        pixel = 2.0**level
        found[i] = _to_canvas(
            torch.stack([xx, xy, yy]) * (scale / pixel**2),
            torch.stack([xe, ye]) * (scale / pixel),
            jacobian(layer.reference[t], problem.stride),
        )
    return found


def _without_brightness(means: Tensor, sums: list[Tensor], share: float) -> list[Tensor]:
    """Normal equations with (a share of) the windows' mean gradient and residual projected out, channel by channel."""
    sx, sy, se, n = means[..., :3], means[..., 3:6], means[..., 6:9], (means[..., 9] + 1e-3) / share
    pairs = ((sx, sx), (sx, sy), (sy, sy), (sx, se), (sy, se))
    return [total - (a * b).sum(-1) / n for total, (a, b) in zip(sums, pairs, strict=True)]


def _to_canvas(matrix: Tensor, right: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations of a step in frame pixels -> of a step in canvas pixels (d = J delta)."""
    a, b, c, d = j[..., 0, 0], j[..., 0, 1], j[..., 1, 0], j[..., 1, 1]
    det = a * d - b * c
    det = torch.where(det.abs() < 1e-3, torch.full_like(det, 1e-3), det)
    ia, ib, ic, id_ = d / det, -b / det, -c / det, a / det
    xx, xy, yy = matrix
    # J^-T M J^-1 and J^-T r.
    p, q = xx * ia + xy * ic, xx * ib + xy * id_
    r, s = xy * ia + yy * ic, xy * ib + yy * id_
    out = torch.stack([ia * p + ic * r, ia * q + ic * s, ib * q + id_ * s])
    return out, torch.stack([ia * right[0] + ic * right[1], ib * right[0] + id_ * right[1]])


def grid_step(
    grid: Tensor,
    reference: Tensor,
    matrix: Tensor,
    right: Tensor,
    targets: tuple[Tensor, Tensor] | None,
    options: RegisterOptions,
    level: int,
    steps: int = 30,
) -> Tensor:
    """The step [B, gh, gw, 2] that the normal equations, the smoothness and the flow targets agree on."""
    if targets is not None:
        aim, weight = targets
        pull = options.temporal * weight
        matrix = matrix.clone()
        matrix[:, 0] += pull
        matrix[:, 2] += pull
        right = right + pull[:, None] * (aim - grid).permute(0, 3, 1, 2)
    deviation = (grid - reference).permute(0, 3, 1, 2)
    # A coarse level has few pixels to a node: neighbours must share them.
    membrane = torch.full_like(deviation[:, 0], options.membrane * 4.0**level)
    free = steps if options.rough <= 0 else steps // 3  # a first look at how rough the motion is
    step = solve_grid(matrix, right - smoothness(deviation, membrane[:, None]), membrane, steps=free)
    if options.rough > 0:
        ratio = options.rough**2 / (roughness(deviation + step) + _ROUNDING**2)
        membrane = membrane * ratio.square().clamp(1.0, _STIFFEST / options.membrane)
        step = solve_grid(matrix, right - smoothness(deviation, membrane[:, None]), membrane, step, steps)
    limit = options.limit * 2.0**level
    return step.clamp(-limit, limit).permute(0, 2, 3, 1)


def roughness(grid: Tensor, window: int = 5) -> Tensor:
    """Mean squared difference to the neighbouring nodes, over a window of nodes: [B, C, gh, gw] -> [B, gh, gw]."""
    pad = torch.nn.functional.pad
    across = (grid[..., 1:] - grid[..., :-1]).square().sum(1)
    down = (grid[..., 1:, :] - grid[..., :-1, :]).square().sum(1)
    mean = (pad(across, (0, 1)) + pad(across, (1, 0)) + pad(down, (0, 0, 0, 1)) + pad(down, (0, 0, 1, 0)))[:, None] / 4
    return torch.nn.functional.avg_pool2d(mean, window, 1, window // 2, count_include_pad=False)[:, 0]


def flow_targets(problem: Problem, layer: Layer, flow: Flow, times: range) -> tuple[Tensor, Tensor]:
    """Where optical flow, read in the neighbouring frames' grids, says that the nodes of the frames ``times`` lie.

    Returns:
        canvas positions [len(times), gh, gw, 2] and weights [len(times), gh, gw] in 0..1 (layer visible there, flow
        confident).
    """
    index = problem.layers.index(layer)
    aims, weights = [], []
    for t in times:
        aim, weight = torch.zeros_like(layer.grid[0]), torch.zeros_like(layer.grid[0, ..., 0])
        for s in (t - 1, t + 1):
            if 0 <= s < problem.count and layer.present[t] and layer.present[s] and layer.together(t, s):
                positions, sure = carry(problem, index, flow, t, s)
                carried = sample_grid(layer.grid[s], positions, problem.stride)
                aim, weight = aim + carried * sure[..., None], weight + sure
        aims.append(aim / weight.clamp_min(1e-6)[..., None])
        weights.append(weight * 0.5)
    return torch.stack(aims), torch.stack(weights)


def carry(problem: Problem, index: int, flow: Flow, t: int, s: int) -> tuple[Tensor, Tensor]:
    """Where the nodes of frame t lie in its neighbour s, by the flow of the layer's own pixels.

    Only pixels that show the layer in both frames count: next to an occluder the flow is the occluder's.

    Returns:
        positions [gh, gw, 2] in pixels of s, and their certainty [gh, gw] in 0..1.
    """
    there = torch.from_numpy(flow.between(t, s)).to(problem.device)
    sure = torch.from_numpy(flow.confidence(t, s)).to(problem.device)
    lattice = (there.shape[0], there.shape[1])
    here = halve(problem.weights(t)[index][..., None])
    target = (pixel_grid(lattice, problem.device) + there / FLOW_STRIDE).contiguous()
    seen = here[..., 0] * sample(halve(problem.weights(s)[index][..., None]), target)[..., 0]
    weight = (sure * seen * (seen > 0.8) * (sure > 0.5))[..., None]
    basis = problem.basis(1)
    mass, moved = basis.gather(torch.cat([weight, weight * there], dim=-1)).split([1, 2], dim=-1)
    nodes = grid_nodes(problem.size, problem.stride, problem.device)
    full = problem.stride**2 / FLOW_STRIDE**2
    trust = (mass[..., 0] / full).clamp(0, 1) * (_LEAST_TRUST + problem.texture(t)).clamp_max(1.0)
    return nodes + moved / mass.clamp_min(1e-4), trust


def affine_reference(grid: Tensor, weight: Tensor, nodes: Tensor) -> Tensor:
    """The affine motion closest to a grid [gh, gw, 2] where ``weight`` [gh, gw] is high, evaluated at the nodes."""
    flat = nodes.reshape(-1, 2)
    matrix = fit_affine(flat, grid.reshape(-1, 2), weight.reshape(-1)).to(grid.dtype)
    ones = torch.ones_like(flat[:, :1])
    return (torch.cat([flat, ones], 1) @ matrix).reshape(grid.shape)


def smooth_reference(grid: Tensor, reference: Tensor, weight: Tensor, membrane: float = _REFERENCE_MEMBRANE) -> Tensor:
    """The reference moved along with the grid, as far as the difference varies over several nodes.

    Smoothness is asked of the difference that remains, so that a strong but smooth bend costs nothing. Where ``weight``
    [gh, gw] is low, the difference is continued from where it is high.
    """
    rest = (weight[..., None] * (grid - reference)).permute(2, 0, 1)[None]
    bend = solve_scalar_grid(weight[None, None].expand_as(rest), rest, membrane, steps=30)
    return reference + bend[0].permute(1, 2, 0)


def visible_nodes(problem: Problem, index: int, t: int) -> Tensor:
    """Share [gh, gw] of each node's window in which layer ``index`` is seen."""
    basis = problem.basis(1)
    seen = problem.weights(t, 1)[index][..., None]
    return (basis.gather(seen)[..., 0] / (problem.stride / 2) ** 2).clamp(0, 1)


def refresh_references(problem: Problem) -> None:
    """Let every layer's reference follow its grid, after the grids have moved."""
    for i, layer in enumerate(problem.layers):

        def one(t: int, i: int = i, layer: Layer = layer) -> Tensor:
            return smooth_reference(layer.grid[t], layer.reference[t], visible_nodes(problem, i, t) + 1e-6)

        times = [int(t) for t in np.nonzero(layer.present)[0]]
        for t, reference in zip(times, map_frames(one, times), strict=True):
            layer.reference[t] = reference


def refresh_detail(problem: Problem) -> None:
    """Set the level of detail at which every frame samples every canvas, as :meth:`canon.Fit.texels` will."""
    height, width = problem.size
    nodes = grid_nodes(problem.size, problem.stride).numpy().astype(int)
    x, y = np.minimum(nodes[..., 0], width - 1), np.minimum(nodes[..., 1], height - 1)
    for i, layer in enumerate(problem.layers):
        for t in np.nonzero(layer.present)[0]:
            seen = np.asarray(problem.opacity[i][t])[y, x] if i < len(problem.opacity) else np.ones(x.shape, np.uint8)
            texels = texels_per_pixel(layer.grid[t].cpu(), problem.stride, torch.from_numpy(seen))
            layer.detail[t] = level_of_detail(texels)
