"""First coordinates of a moving layer: carried from a keyframe by flow, and registered to the canvas as it grows.

Chained flow drifts; a frame that is registered to what has been seen so far does not (as in mosaicing and SLAM).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.coordinates import apply_homography, grid_nodes, grid_size
from canon.grids import sample_grid
from canon.representations.motion.flow import Flow
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.canvas import enlarge, gather, interior
from canon.representations.solve.grids import solve_scalar_grid
from canon.representations.solve.layers import Layer, Problem
from canon.representations.solve.register import (
    RegisterOptions,
    affine_reference,
    carry,
    grid_step,
    normal_equations,
    visible_nodes,
)
from canon.runtime import map_frames
from canon.sampling import fill_unseen

CANVAS_MARGIN = 24
_MOST_TEXELS = 40_000_000
_STIFF_TO_SOFT = (200.0, 50.0, 10.0)
_ASTRAY = 1.0  # pixels per frame
_SHAKE = 0.3
"""Pixels per frame by which flow may depart from a camera's homography before it is half believed."""


@dataclass(frozen=True)
class Survival:
    """How much of a layer optical flow can follow from frame to frame.

    Attributes:
        areas: [T] pixels (half size) of the layer in each frame.
        reach: [T, T] share of the layer in frame t that is still followed in frame k: ``reach[k, t]``.
    """

    areas: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, problem: Problem, index: int, flow: Flow) -> Survival:
        """By the flow that goes forth and back."""
        count = problem.count
        areas, forth, back = np.zeros(count), np.ones(count), np.ones(count)

        def one(t: int) -> tuple[float, float, float]:
            seen = problem.weights(t, 1)[index].cpu().numpy()
            mass = float(seen.sum())
            shares = [
                float((seen * (flow.confidence(t, s) > 0.5)).sum()) / mass if 0 <= s < count and mass > 0 else 0.0
                for s in (t + 1, t - 1)
            ]
            return mass, shares[0], shares[1]

        for t, (mass, onward, backward) in enumerate(map_frames(one, range(count))):
            areas[t], forth[t], back[t] = mass, onward, backward
        # Frame t reaches a later k by way of t, t + 1, ... k - 1, and an earlier one by way of t, t - 1, ... k + 1.
        ways = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(forth, 1e-3)))])
        ways_back = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(back, 1e-3)))])
        times = np.arange(count)
        later = np.exp(np.minimum(ways[:-1][:, None] - ways[:-1][None], 0.0))  # for t < k
        earlier = np.exp(np.minimum(ways_back[1:][None] - ways_back[1:][:, None], 0.0))  # for t > k
        reach = np.where(times[None] < times[:, None], later, np.where(times[None] > times[:, None], earlier, 1.0))
        return cls(areas, reach)

    def best_keyframe(self, times: range) -> int:
        """The frame, of some, that most of the layer in them can be tied to.

        A frame counts with the layer's area in it (its finest view), times what survives on the way to each other.
        """
        part = slice(times.start, times.stop)
        areas = self.areas[part]
        return times.start + int(np.argmax(areas * (self.reach[part, part] * areas[None]).sum(axis=1)))


def _outward(keyframe: int, times: range) -> list[tuple[int, int]]:
    """(frame, neighbour already done) pairs from the keyframe outwards, both directions in turn."""
    after = [(t, t - 1) for t in range(keyframe + 1, times.stop)]
    before = [(t, t + 1) for t in range(keyframe - 1, times.start - 1, -1)]
    mixed = [pair for both in zip(after, before, strict=False) for pair in both]
    longer = after if len(after) > len(before) else before
    return mixed + longer[min(len(after), len(before)) :]


def carried_positions(
    problem: Problem,
    index: int,
    t: int,
    s: int,
    flow: Flow,
    rigid: Tensor | None = None,
    pull: float = 20.0,
    membrane: float = 0.5,
) -> Tensor | None:
    """Where the flow takes the nodes of frame t in its neighbour s, [gh, gw, 2]; None where it does not know.

    The motion is continued smoothly to where the layer is hidden or the flow is not sure of itself.

    Args:
        rigid: where the nodes go but for bends [gh, gw, 2]; None = the affine motion closest to the flow.
    """
    nodes = grid_nodes(problem.size, problem.stride, problem.device)
    positions, sure = carry(problem, index, flow, t, s)
    if float(sure.sum()) < 0.2:
        return rigid
    camera = rigid is not None
    if rigid is None:
        rigid = affine_reference(positions, sure + 1e-6, nodes)
    moved, trust = rigid, sure
    for stiffness in (*_STIFF_TO_SOFT, membrane):
        weight = (pull * trust)[None, None].expand(1, 2, *trust.shape)
        deviation = (positions - rigid).permute(2, 0, 1)[None]
        moved = rigid + solve_scalar_grid(weight, weight * deviation, stiffness, steps=25)[0].permute(1, 2, 0)
        # A patch whose flow departs from what surrounds it (a reflection, a flow gone astray) is left out.
        trust = sure / (1.0 + (positions - moved).square().sum(-1) / _ASTRAY**2).square()
    if not camera:
        return moved
    bend = moved - rigid
    size = bend.square().sum(-1, keepdim=True)
    return rigid + bend * (size / (size + _SHAKE**2))


def carried_by_camera(problem: Problem, camera: CameraMotion, t: int, s: int) -> Tensor:
    """Where the camera takes the nodes of frame t in frame s, [gh, gw, 2]."""
    matrix = np.linalg.inv(camera.to_reference[s]) @ camera.to_reference[t]
    nodes = grid_nodes(problem.size, problem.stride, problem.device)
    return apply_homography(torch.from_numpy(matrix).float().to(nodes.device), nodes.reshape(-1, 2)).view_as(nodes)


class Chain:
    """A layer carried by flow outwards from its keyframe: which frame from which, and where its nodes lie there.

    With a ``camera``, its homographies say how the layer moves but for bends, also where it is seen in few frames.
    Only the frames ``times`` are reached; None = all. What several chains of a layer need is found once and kept in
    ``known``.
    """

    def __init__(
        self,
        problem: Problem,
        index: int,
        flow: Flow,
        keyframe: int,
        camera: CameraMotion | None = None,
        times: range | None = None,
        known: dict[tuple[int, int], Tensor | None] | None = None,
    ) -> None:
        self.problem, self.index, self.keyframe, self.camera = problem, index, keyframe, camera
        self.pairs = _outward(keyframe, times or range(problem.count))

        def one(pair: tuple[int, int]) -> Tensor | None:
            rigid = None if camera is None else carried_by_camera(problem, camera, *pair)
            return carried_positions(problem, index, *pair, flow, rigid)

        known = {} if known is None else known
        new = [pair for pair in self.pairs if pair not in known]
        known |= zip(new, map_frames(one, new), strict=True)
        self.positions = [known[pair] for pair in self.pairs]

    def rest(self) -> None:
        """Set the layer's coordinates to pixels of the keyframe there, and where the camera takes them elsewhere."""
        layer = self.problem.layers[self.index]
        nodes = grid_nodes(self.problem.size, self.problem.stride, self.problem.device)
        layer.grid[self.keyframe] = layer.reference[self.keyframe] = nodes
        if self.camera is not None:
            for t, _ in self.pairs:
                layer.reference[t] = carried_by_camera(self.problem, self.camera, t, self.keyframe)

    def __iter__(self) -> Iterator[int]:
        """Give every frame its neighbour's coordinates, as they are by then, and its number."""
        layer = self.problem.layers[self.index]
        nodes = grid_nodes(self.problem.size, self.problem.stride, self.problem.device)
        for (t, s), positions in zip(self.pairs, self.positions, strict=True):
            if positions is None:
                layer.grid[t], layer.reference[t] = layer.grid[s], layer.reference[s]
            else:
                # Sampled, not invented, where the layer is hidden: its coordinates there are remembered.
                layer.grid[t] = sample_grid(layer.grid[s], positions, self.problem.stride)
                if self.camera is None:
                    seen = visible_nodes(self.problem, self.index, t) + 1e-6
                    layer.reference[t] = affine_reference(layer.grid[t], seen, nodes)
            yield t


def chain_layer(problem: Problem, chain: Chain, scale: float) -> None:
    """Coordinates by flow alone, and the canvas that holds them: sets the layer's grid, reference and canvas size."""
    chain.rest()
    for _ in chain:
        pass
    place_canvas(problem, chain.index, scale)


def place_canvas(problem: Problem, index: int, scale: float) -> None:
    """Move (and scale) a layer's coordinates into a canvas that holds all that is seen of it, with a margin."""
    layer = problem.layers[index]
    lows, highs = [], []
    for t in np.nonzero(layer.present)[0]:
        seen = visible_nodes(problem, index, int(t)) > 0.02
        if bool(seen.any()):
            points = layer.grid[t][seen]
            lows.append(points.amin(0))
            highs.append(points.amax(0))
    if not lows:  # never seen: a canvas of the frame's size holds it as well as any
        lows, highs = [layer.grid[0].amin((0, 1))], [layer.grid[0].amax((0, 1))]
    extent = (torch.stack(highs).amax(0) - torch.stack(lows).amin(0)).double()
    scale = min(scale, float((_MOST_TEXELS / extent.prod().clamp_min(1.0)).sqrt()))
    low = (torch.stack(lows).amin(0) * scale).floor() - CANVAS_MARGIN
    high = (torch.stack(highs).amax(0) * scale).ceil() + CANVAS_MARGIN
    width, height = (int(v) for v in (high - low + 1).tolist())
    layer.grid = layer.grid * scale - low
    layer.reference = layer.reference * scale - low
    empty = torch.zeros((height, width, 3), device=problem.device)
    layer.set_canvas(empty, empty[..., 0])


def register_outward(problem: Problem, chain: Chain, options: RegisterOptions, levels: tuple[int, ...]) -> None:
    """Second pass over the chain: every frame is carried from its (registered) neighbour, registered to the canvas seen
    so far by one Gauss-Newton step per entry of ``levels``, and added to it."""
    index, base = chain.index, min(levels)
    layer = problem.layers[index]
    # What no step looks at is not made: the canvas that grows is as fine as the finest of them.
    total = torch.zeros((*layer.levels[base].shape[:2], 4), device=problem.device)

    def add(t: int) -> None:
        seen = interior(problem.weights(t, base)[index], 1)
        found = gather(problem, index, t, problem.frame(t, base) / problem.light(layer, t, base), seen, base)
        if found is None:
            return
        print_, color, weight = found
        total[print_.rows, print_.columns] *= 1.0 - 0.1 * (weight[..., None] > 0.5)
        total[print_.rows, print_.columns] += torch.cat([color * weight[..., None], weight[..., None]], -1)
        mass = total[..., 3]
        layer.set_levels(fill_unseen(total[..., :3] / mass.clamp_min(1e-6)[..., None], mass), mass, base)

    add(chain.keyframe)
    for t in chain:
        if not layer.present[t]:
            continue
        register_frame(problem, index, t, options, levels)
        add(t)
    if base:
        known = torch.cat([layer.levels[base][..., :3], total[..., 3:]], dim=-1)
        whole = enlarge(known, layer.canvas_size, 2**base)
        layer.set_canvas(whole[..., :3], whole[..., 3])


def register_frame(problem: Problem, index: int, t: int, options: RegisterOptions, levels: tuple[int, ...]) -> None:
    """Register a frame, whose coordinates flow has brought, to the layer's canvas: one step per entry of ``levels``."""
    grid = problem.layers[index].grid
    carried = grid[t : t + 1].clone()
    for level in levels:
        equations = normal_equations(problem, t, level, options, [index]).get(index)
        if equations is None:  # the layer is not seen
            return
        # Smooth around what the flow says, not around a rigid motion: a bend must not be ironed out frame by frame.
        matrix, right = (sums[None] for sums in equations)
        grid[t] += grid_step(grid[t : t + 1], carried, matrix, right, None, options, level)[0]


def new_layer(problem: Problem, name: str, present: np.ndarray) -> Layer:
    """A layer at rest: identity coordinates, an empty canvas of frame size, neutral lighting."""
    nodes = grid_nodes(problem.size, problem.stride, problem.device)
    grid = nodes[None].repeat(problem.count, 1, 1, 1)
    light = torch.ones((problem.count, *grid_size(problem.size, problem.light_stride), 3), device=problem.device)
    empty = torch.zeros((*problem.size, 3), device=problem.device)
    layer = Layer(name, grid, grid.clone(), empty, empty[..., 0], light, present)
    layer.set_canvas(empty, empty[..., 0])
    return layer
