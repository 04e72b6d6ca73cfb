"""First coordinates of the layered atlas: homographies behind, tracked layers in front."""

from __future__ import annotations

import torch

from canon.coordinates import apply_homography, grid_nodes
from canon.grids import jacobian
from canon.representations.atlas.config import AtlasConfig
from canon.representations.motion.flow import Flow
from canon.representations.motion.homography import CameraMotion
from canon.representations.solve.canvas import robust_canvas
from canon.representations.solve.layers import Problem
from canon.representations.solve.refinement import BACKGROUND_FINE, FINE
from canon.representations.solve.register import refresh_detail
from canon.representations.solve.segments import camera_views, place_parts, track_segments
from canon.representations.solve.tracking import place_canvas

_BACKGROUND_FINEST = 1.5  # texels per pixel at most, where the clip zooms in


def start(problem: Problem, flow: Flow, camera: CameraMotion, config: AtlasConfig) -> None:
    """Give a resting problem its first coordinates and canvases."""
    last, scale, preset = len(problem.layers) - 1, config.canvas_scale, config.preset
    views = camera_views(problem, camera, config.split)

    def place(times: range) -> None:
        _place_background(problem, last, camera.seen_from(views[times]), times, scale, BACKGROUND_FINE[preset])

    place_parts(problem, last, list(views), place)
    robust_canvas(problem, last, erode=5, scales=(None, 0.1) if preset == "fast" else (None, 0.15, 0.07))
    for i in range(last):
        track_segments(problem, i, flow, scale or FINE[preset], preset, config.split)
    refresh_detail(problem)


def _place_background(
    problem: Problem, index: int, camera: CameraMotion, times: range, scale: float, least: float
) -> None:
    layer = problem.layers[index]
    nodes = grid_nodes(problem.size, problem.stride, problem.device)
    flat = nodes.reshape(-1, 2)
    for t in times:
        found = apply_homography(torch.from_numpy(camera.to_reference[t]).float().to(problem.device), flat)
        layer.grid[t] = found.reshape(nodes.shape)
    if not scale:
        # Fine enough for the frames that zoom in: the canvas must not lose what they show.
        dets = torch.stack([jacobian(layer.grid[t], problem.stride).det().abs().median() for t in times])
        scale = float((1.0 / torch.quantile(dets.sqrt(), 0.15)).clamp(least, _BACKGROUND_FINEST))
    place_canvas(problem, index, scale)
    layer.reference = layer.grid.clone()
