"""A layer that turns or folds is split in time, where one canvas would have to show what other frames contradict.

What gives it away is not the error of the colours (any canvas more lowers that) but the silhouettes: the union of all
that the frames show, seen from a single one, reaches beyond the layer there. A dog that turns round grows a second tail
on its canvas; a car that drives into view does not.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch

from canon.coordinates import pixel_grid
from canon.grids import affine_guess, invert_grid, sample_grid, texels_per_pixel
from canon.representations.motion.flow import Flow
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.canvas import robust_canvas
from canon.representations.solve.layers import Layer, Problem
from canon.representations.solve.lighting import estimate_lighting
from canon.representations.solve.refinement import TRACKED, TRACKING, TRACKING_LEVELS, track_frames
from canon.representations.solve.register import visible_nodes
from canon.representations.solve.tracking import (
    Chain,
    Survival,
    carried_by_camera,
    carried_positions,
    new_layer,
    register_frame,
)
from canon.runtime import map_frames, single_threaded_operations
from canon.sampling import fill_unseen, remap_points
from canon.segments import GAP, Segment

log = logging.getLogger("canon")

_DEMANDED = 0.4
"""Contradicted area, in areas of the layer and on average, from which one canvas is not enough."""
_TOLERATED = 0.25
"""Contradicted area, in areas of the layer, that a canvas may have on average: swinging legs, masks that flicker."""
_WORTH_A_CANVAS, _WORTH_OF_ALL = 4.0, 0.02
"""What a further canvas must save of it, in areas of the layer, summed over its frames; and at least, as a share of the
number of all frames."""
_TURNS = "the outlines differ too much (it turns, or its masks are wrong)"
_FAR = "the camera turns too far"
_SHORTEST = 6
_TRIAL = (2,)
_OVERLAP = 4  # frames on either side of where two segments meet
_TEXELS_OF_A_FRAME, _MOST_SAMPLES, _MOST_TIMES = 1000, 1_000_000, 400
_RIM = 0.1
"""Width of the rim around a layer, of the root of its area, in which nothing is denied."""
_TIE = 0.003
_ENOUGH = 3  # frames that make a texel count as shown


def track_segments(problem: Problem, index: int, flow: Flow, scale: float, preset: str, split: bool) -> None:
    """First coordinates and canvas of a layer that moves in its own way, in as many segments as it takes.

    Args:
        scale: canvas texels per pixel of the keyframes.
        split: whether it may take more than one.
    """
    survival = Survival.of(problem, index, flow)
    known: dict[tuple[int, int], torch.Tensor | None] = {}

    def track(times: range, levels: tuple[int, ...]) -> None:
        chain = Chain(problem, index, flow, survival.best_keyframe(times), times=times, known=known)
        track_frames(problem, chain, scale, levels)

    parts = [range(problem.count)]
    # Chained flow drifts, which looks the same: what it says must be true of registered frames, too.
    for levels in ((), _TRIAL) if split else ():
        track(range(problem.count), levels)
        parts = _split(*_silhouettes(problem, index))
        if len(parts) == 1:
            break
    place_parts(problem, index, parts, lambda times: track(times, TRACKING_LEVELS[preset]), _TURNS)
    robust_canvas(problem, index, erode=1, scales=TRACKED[preset])


def place_parts(
    problem: Problem, index: int, parts: list[range], place: Callable[[range], None], why: str = _FAR
) -> None:
    """Let ``place`` give a layer coordinates and a canvas for the frames of each part; several go below each other."""
    whole, found = problem.layers[index], []
    for times in parts:
        if len(parts) > 1:
            problem.layers[index] = new_layer(problem, whole.name, whole.present & _within(times, problem.count))
        place(times)
        found.append((times, problem.layers[index]))
    if len(parts) > 1:
        problem.layers[index] = _stacked(problem, whole, found)
        where = ", ".join(str(problem.first + times.start) for times in parts[1:])
        log.warning("%s for one canvas of '%s': it gets another about frame %s", why, whole.name, where)


def camera_views(problem: Problem, camera: CameraMotion, split: bool) -> dict[range, int]:
    """The parts in which a background is laid out flat, and the frame that each is seen from."""
    whole = {range(problem.count): camera.reference}
    return dict(camera.directions(problem.size)) if split else whole


def _within(times: range, count: int) -> np.ndarray:
    inside = np.zeros(count, bool)
    inside[times.start : times.stop] = True
    return inside


def _silhouettes(problem: Problem, index: int) -> tuple[np.ndarray, np.ndarray]:
    """What every frame shows of a layer on its canvas, and what it denies: float32 [T, N] each, of coarse texels.

    Denied is a place that the frame has in view, well off this layer, and with none in front of it: outlines are never
    exact. Areas are in units of the layer's in the frame; frames without the layer are 0.
    """
    layer, (height, width) = problem.layers[index], problem.size
    areas = [float(problem.weights(t, 2)[index].sum()) * 16 for t in range(problem.count)]
    texels = float(np.prod(layer.canvas_size))
    fine = [
        texels_per_pixel(layer.grid[t].cpu(), problem.stride, visible_nodes(problem, index, t).cpu())
        for t in np.nonzero(layer.present)[0][:: max(problem.count // 8, 1)]
    ]
    side = (max(np.median(areas), 1.0) / _TEXELS_OF_A_FRAME) ** 0.5 * float(np.median(fine or [1.0]))
    side = max(side, (texels * problem.count / _MOST_SAMPLES) ** 0.5, 1.0)
    size = tuple(max(int(np.ceil(length / side)), 1) for length in layer.canvas_size)
    targets = ((pixel_grid((size[0], size[1])) + 0.5) * side - 0.5).reshape(-1, 2)
    last = torch.tensor([width - 1.0, height - 1.0])

    def one(t: int) -> tuple[np.ndarray, np.ndarray]:
        if not layer.present[t] or areas[t] < 1:
            return np.zeros(len(targets), np.float32), np.zeros(len(targets), np.float32)
        grid = layer.grid[t].cpu()
        near = visible_nodes(problem, index, t).cpu() > 0.1
        start = affine_guess(grid, problem.stride, targets, near if int(near.sum()) > 2 else None)
        pixels, error = invert_grid(grid, problem.stride, targets, start)
        inside = (error < side) & ((pixels >= 0) & (pixels <= last)).all(-1)
        at = pixels.nan_to_num(0.0).numpy()
        planes = [weight.cpu().numpy() for weight in problem.weights(t)[: index + 1]]
        plane = np.asarray(problem.opacity[index][t])
        own = remap_points(plane[..., None], at)[:, 0] > 127
        reach = _RIM * areas[t] ** 0.5
        small = cv2.resize(plane, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        apart = cv2.distanceTransform((small < 128).astype(np.uint8), cv2.DIST_L2, 3) * 4
        beyond = remap_points(apart[..., None], (at + np.float32(0.5)) / 4 - np.float32(0.5))[:, 0] > reach
        front = remap_points(sum(planes[:index], np.zeros_like(planes[0]))[..., None], at)[:, 0]
        shown = (own & inside.numpy()).astype(np.float32)
        denied = (beyond & inside.numpy() & (front < 0.5)).astype(np.float32)
        return shown, denied / max(float(shown.sum()), 1.0)

    shown, denied = zip(*map_frames(one, range(problem.count)), strict=True)
    return np.stack(shown), np.stack(denied)


def _split(shown: np.ndarray, denied: np.ndarray) -> list[range]:
    """The segments that contradict themselves least, each one at its price; [T, N] as :func:`_silhouettes` gives."""
    count = len(shown)
    times = np.linspace(0, count, min(count, _MOST_TIMES) + 1).round().astype(int)
    sums = [np.concatenate([np.zeros_like(a[:1]), np.cumsum(a, axis=0)])[times] for a in (shown, denied)]
    if float((sums[1][-1] * np.minimum(sums[0][-1] / _ENOUGH, 1.0)).sum()) < _DEMANDED * count:
        return [range(count)]
    price = max(_WORTH_A_CANVAS, _WORTH_OF_ALL * count)
    best, before = np.full(len(times), np.inf), np.zeros(len(times), int)
    best[0] = 0.0
    for a in range(len(times) - 1):
        if not np.isfinite(best[a]):
            continue
        ends = np.arange(a + 1, len(times))
        lengths = times[ends] - times[a]
        ends = ends[(lengths >= _SHORTEST) | ((a == 0) & (ends == len(times) - 1))]
        if not len(ends):
            continue
        union = np.minimum((sums[0][ends] - sums[0][a]) / _ENOUGH, 1.0)
        contradicted = ((sums[1][ends] - sums[1][a]) * union).sum(axis=1)
        excess = np.maximum(contradicted - _TOLERATED * (times[ends] - times[a]), 0.0)
        # What is tolerated is not free: of two splits that do, the one that is contradicted less is the better one.
        cost = best[a] + price + excess + _TIE * contradicted
        better = cost < best[ends]
        best[ends[better]], before[ends[better]] = cost[better], a
    found, b = [], len(times) - 1
    while b > 0:
        found.append(range(int(times[before[b]]), int(times[b])))
        b = before[b]
    return found[::-1]


def _stacked(problem: Problem, whole: Layer, parts: list[tuple[range, Layer]]) -> Layer:
    """One layer of several, each with some frames: their canvases go below each other."""
    sizes = [part.canvas_size for _, part in parts]
    height = sum(size[0] for size in sizes) + GAP * (len(sizes) - 1)
    color = torch.zeros((height, max(size[1] for size in sizes), 3), device=problem.device)
    coverage = torch.zeros_like(color[..., 0])
    layer, segments, top = new_layer(problem, whole.name, whole.present), [], 0
    for times, part in parts:
        frames, (h, w) = slice(times.start, times.stop), part.canvas_size
        segment = Segment(times.start, times.stop - 1, top, 0, h, w)
        color[segment.box], coverage[segment.box] = part.color, part.coverage
        down = torch.tensor([0.0, float(top)], device=problem.device)
        layer.grid[frames] = part.grid[frames] + down
        layer.reference[frames] = part.reference[frames] + down
        segments.append(segment)
        top += h + GAP
    layer.set_canvas(fill_unseen(color, coverage), coverage)
    layer.segments = tuple(segments)
    return layer


def overlapped(
    problem: Problem, index: int, flow: Flow, lit: bool, camera: CameraMotion | None = None
) -> tuple[tuple[Segment, ...], np.ndarray, np.ndarray]:
    """The segments of a solved layer, widened so that each shares some frames with the next, and how they look at both.

    Args:
        lit: whether there is lighting to be found.
        camera: what moves the layer, if it does.

    Returns:
        segments, second coordinates [N, gh, gw, 2] and second lighting [N, lh, lw, 3], as :class:`canon.fits.FitLayer`
        has them.
    """
    layer = problem.layers[index]
    wide, sides = list(layer.segments), []
    for k, (a, b) in enumerate(itertools.pairwise(layer.segments)):
        into_a, into_b = (min(_OVERLAP, (part.last - part.first + 1) // 2) for part in (a, b))
        wide[k] = replace(wide[k], last=b.first + into_b - 1)
        wide[k + 1] = replace(wide[k + 1], first=a.last - into_a + 1)
        sides += [(b.first, range(a.last, a.last - into_a, -1)), (a.last, range(b.first, b.first + into_b))]
    with single_threaded_operations():
        parts = list(map_frames(lambda side: _seen_from_beyond(problem, index, flow, camera, *side), sides))
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for part, (_, times) in zip(parts, sides, strict=True):
        if lit:
            estimate_lighting(part, 1)
        other = part.layers[index]
        found |= {t: (other.grid[k].cpu().numpy(), other.lighting[k].cpu().numpy()) for k, t in enumerate(times)}
    grids, lights = zip(*(found[t] for t in sorted(found)), strict=True)
    return tuple(wide), np.stack(grids), np.stack(lights)


def _seen_from_beyond(
    problem: Problem, index: int, flow: Flow, camera: CameraMotion | None, start: int, times: range
) -> Problem:
    """The frames ``times``, one next to the other, whose first one is next to ``start``, looking at that one's canvas.

    As in :func:`canon.representations.solve.tracking.register_outward`, each is carried from the one before, and
    registered to the canvas.
    """
    frames = list(times)
    layers = [
        replace(
            layer,
            grid=layer.grid[frames],
            reference=layer.reference[frames],
            lighting=layer.lighting[frames],
            present=layer.present[frames],
            detail=layer.detail[frames],
        )
        for layer in problem.layers
    ]
    opacity = [np.asarray(planes[frames]) for planes in problem.opacity]
    part = Problem(problem.frames[frames], layers, opacity, problem.stride, problem.device, problem.bases)
    whole, layer = problem.layers[index], layers[index]
    grid, s = whole.grid[start], start
    layer.lighting = whole.lighting[start].repeat(len(frames), 1, 1, 1)
    for k, t in enumerate(frames):
        positions = None if camera is None else carried_by_camera(problem, camera, t, s)
        if camera is None and whole.present[t] and whole.present[s]:
            positions = carried_positions(problem, index, t, s, flow)
        carried = grid if positions is None else sample_grid(grid, positions, problem.stride)
        layer.grid[k], s = carried, t
        register_frame(part, index, k, TRACKING, TRACKING_LEVELS["fast"])
        grid = layer.grid[k]
    return part
