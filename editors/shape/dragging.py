"""What the drag editor does: its points on every canvas of the layer, and the displacement that follows from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from canon.boxes import Box
from canon.clip import check_frame
from canon.editors.shape.drag import DragConfig
from canon.editors.shape.solving import Shape, shape_of, solve
from canon.edits import Edit, Provenance, Step, Warp
from canon.errors import InputError
from canon.fits import Fit
from canon.warping import Follower, check_movable

log = logging.getLogger("canon")

_LEAST, _TIMES = 0.12, 2.5
"""How far a shape gives way by itself: this share of its size, and so many times the longest drag."""
_WIDTH = 0.02
"""Share of a shape's size about a dragged point that moves along with it as one."""
_LARGEST_FILE = 1 << 20
_AWAY = 3
"""Pixels by which a point may lie beside its layer."""
_APART, _RING = (5.0, 10.0), 8
"""Pixels about a point where places are followed to tell how its surroundings turn, and their number on each ring."""
_SCALED = 2.0
"""Times by which a drag may grow or shrink from one canvas to another."""


@dataclass(frozen=True, eq=False)
class Handles:
    """Points of a frame or a canvas; those that are held go where they are.

    Attributes:
        at, to: float64 [K, 2].
        dragged: bool [K].
        names: how people call them.
    """

    at: np.ndarray
    to: np.ndarray
    dragged: np.ndarray
    names: tuple[str, ...]

    def only(self, chosen: np.ndarray) -> Handles:
        """Those that are chosen, bool [K]."""
        names = tuple(name for name, wanted in zip(self.names, chosen, strict=True) if wanted)
        return Handles(self.at[chosen], self.to[chosen], self.dragged[chosen], names)


@dataclass(frozen=True, eq=False)
class Placed:
    """Points on a canvas.

    Attributes:
        places, targets: float64 [K, 2] in texels, where they are and where they go.
        dragged: bool [K].
        texels: along a pixel of the frame that they are of.
    """

    places: np.ndarray
    targets: np.ndarray
    dragged: np.ndarray
    texels: float


def drag(fit: Fit, config: DragConfig) -> Edit:
    """See :class:`canon.editors.shape.drag.Drag`."""
    config, handles = _given(config)
    name = _layer(fit, config, handles)
    data = fit.layer(name)
    check_movable(data)
    if config.on_canvas:
        config, handles = _on_frame(fit, name, config, handles)
    _check_places(fit, name, config, handles)
    options = {**asdict(config), "layer": name}
    files = [config.points] if config.points else []
    warp = displaced(fit, name, config.frame, handles, lambda shape, own: _given_way(shape, own, config))
    return Edit([Step(name, warp, Provenance.now("drag", options, files))], fit.id)


def displaced(fit: Fit, name: str, frame: int, handles: Handles, move: Callable[[Shape, Placed], np.ndarray]) -> Warp:
    """A warp of a layer's canvases by points of one frame.

    Args:
        move: gives the displacement float32 [gh, gw, 2] of a canvas's lattice by the points on it.
    """
    data = fit.layer(name)
    coverage = np.asarray(data.coverage)
    shape = shape_of(coverage > 0.75 if (coverage > 0.75).any() else coverage > 0)
    found = np.zeros((*shape.inside.shape, 2), np.float32)
    for segment, t, own in _everywhere(fit, name, frame, handles):
        rows, part = _part(shape, fit.segment_box(name, segment))
        found[rows] = move(part, _placed(fit, name, t, own))[rows]
    return Warp(found, shape.stride)


def _placed(fit: Fit, name: str, t: int, handles: Handles) -> Placed:
    follower, at = Follower(fit, name, t), torch.from_numpy(handles.at.astype(np.float32))
    moves = torch.from_numpy((handles.to - handles.at).astype(np.float32))
    places = follower.texels(at).numpy().astype(np.float64)
    return Placed(places, places + follower.shift(at, moves).numpy(), handles.dragged, fit.texels(t, name))


def _given_way(shape: Shape, points: Placed, config: DragConfig) -> np.ndarray:
    """Displacement float32 [gh, gw, 2] of a lattice that gives way around the points that are dragged."""
    nodes = shape.nodes
    size = float(np.linalg.norm(np.ptp(nodes, axis=0)))
    if config.radius is not None:
        radius = config.radius * points.texels
    elif (~points.dragged).any():
        radius = 0.0
    else:
        radius = max(_TIMES * float(np.linalg.norm(points.targets - points.places, axis=1).max()), _LEAST * size)
    held = np.zeros(len(nodes), bool)
    if radius > 0:
        near = [np.linalg.norm(nodes - place, axis=1) <= radius for place in points.places[points.dragged]]
        held = ~np.any(near, axis=0)
    return solve(shape, points.places, points.targets, held, config.warp, _WIDTH * size)


# --- where the points are ---


def _given(config: DragConfig) -> tuple[DragConfig, Handles]:
    """The options with the frame that the file of points names, and all points that are switched on."""
    moves = np.reshape(config.move, (-1, 4)).astype(np.float64)
    held = np.reshape(config.hold, (-1, 2)).astype(np.float64)
    at, to = [*moves[:, :2], *held], [*moves[:, 2:], *held]
    dragged = [True] * len(moves) + [False] * len(held)
    names = [f"({x:g}, {y:g})" for x, y in at]
    if config.points:
        frame, found = read_points(Path(config.points))
        config = config if frame is None else replace(config, frame=frame)
        for label, place, target in found:
            at.append(place)
            to.append(place if target is None else target)
            dragged.append(target is not None)
            names.append(label)
    handles = Handles(np.reshape(at, (-1, 2)), np.reshape(to, (-1, 2)), np.array(dragged, bool), tuple(names))
    if not handles.dragged.any():
        raise InputError("Nothing is dragged; say with --move X Y TO_X TO_Y which point goes where.")
    if not (np.isfinite(handles.at).all() and np.isfinite(handles.to).all()):
        raise InputError("Points are finite numbers of pixels.")
    return config, handles


def read_points(path: Path) -> tuple[int | None, list[tuple[str, np.ndarray, np.ndarray | None]]]:
    """The frame and the points (name, place, target or None) of a file; those that are off are left out."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"'{path}' is too large to be a file of points.")
        record = json.loads(path.read_text(encoding="utf-8"))
        frame = None if record.get("frame") is None else int(record["frame"])
        found = []
        for number, entry in enumerate(record["points"]):
            if not entry.get("off", False):
                place, target = (None if entry.get(key) is None else _pair(entry[key]) for key in ("at", "to"))
                if place is None:
                    raise KeyError("at")
                found.append((str(entry.get("name", number)), place, target))
    except OSError as error:
        raise InputError(f"Cannot read '{path}' ({error.strerror}); check the name.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'\'{path}\' is no file of points; it is to hold {{"points": [{{"at": [x, y], "to": [x, y]}}, ...]}}.'
        ) from error
    return frame, found


def _pair(value: Any) -> np.ndarray:
    x, y = value
    return np.array([float(x), float(y)])


def _layer(fit: Fit, config: DragConfig, handles: Handles) -> str:
    if config.layer is not None:
        return fit.layer(config.layer).name
    if config.on_canvas:
        return fit.layers[0]
    check_frame(config.frame, len(fit))
    first = handles.at[handles.dragged][:1].astype(np.float32)
    return fit.layers[int(fit.owners(first, fit.index(config.frame))[0])]


def _on_frame(fit: Fit, name: str, config: DragConfig, handles: Handles) -> tuple[DragConfig, Handles]:
    """Points of a canonical image as those of the frame that shows them best."""
    box = fit.segment_box(name, config.segment)
    first, last = fit.segments(name)[config.segment]
    corner = np.array([box[1].start, box[0].start])
    k, best = fit.layers.index(name), (np.inf, -1, handles)
    for t in np.unique(np.linspace(first, last, 9).round().astype(int)).tolist():
        weight = fit.weights(t)[k]
        share = fit.layer(name).shares.get(t)
        if not (weight > 0.5).any() or (share is not None and share.own != config.segment):
            continue
        pixels, error = fit.pixels_of(t, name, (handles.at + corner).astype(np.float32), weight > 0.5)
        missed = float(np.maximum(error, _beside(weight, pixels)).max())
        if missed < best[0]:
            ends, _ = fit.pixels_of(t, name, (handles.to + corner).astype(np.float32), weight > 0.5)
            best = missed, t, replace(handles, at=pixels.astype(np.float64), to=ends.astype(np.float64))
    if best[1] < 0:
        raise InputError(f"Segment {config.segment} of '{name}' is seen in no frame.")
    radius = config.radius and config.radius / fit.texels(best[1], name)
    return replace(config, frame=best[1], radius=radius), best[2]


def _check_places(fit: Fit, name: str, config: DragConfig, handles: Handles) -> None:
    check_frame(config.frame, len(fit))
    weight = fit.weights(fit.index(config.frame))[fit.layers.index(name)]
    away = _beside(weight, handles.at)
    if away.max() > _AWAY:
        where = "its canonical image" if config.on_canvas else f"frame {config.frame}"
        raise InputError(f"The point {handles.names[int(away.argmax())]} does not lie on '{name}' in {where}.")


def _beside(weight: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Pixels from points [K, 2] to where a layer's weight is at least a half, and to the frame, [K]."""
    far = cv2.distanceTransform((weight < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    last = np.array([weight.shape[1] - 1, weight.shape[0] - 1])
    inside = np.clip(np.round(points), 0, last).astype(int)
    return np.asarray(far[inside[:, 1], inside[:, 0]] + np.abs(points - np.clip(points, 0, last)).max(axis=1))


def _everywhere(fit: Fit, name: str, frame: int, handles: Handles) -> Iterator[tuple[int, int, Handles]]:
    """The points on every segment of a layer, each as points of one of its frames."""
    frame, data = fit.index(frame), fit.layer(name)
    if not data.segments:
        yield 0, frame, handles
        return
    own = data.shares[frame].own
    yield own, frame, handles
    for segment in range(len(data.segments)):
        times = [t for t, share in data.shares.items() if share.own == segment]
        if segment == own or not times:
            continue
        nearest = min(times, key=lambda t: abs(t - frame))
        there = _followed(fit, name, frame, nearest, handles)
        if there is None:
            log.warning("segment %d of '%s' does not show what is dragged, and stays as it is", segment, name)
        else:
            yield segment, nearest, there


def _followed(fit: Fit, name: str, frame: int, t: int, handles: Handles) -> Handles | None:
    """Points of one frame as those of another, their drags turned as their surroundings have; None if none is there."""
    ring = np.exp(2j * np.pi * np.arange(_RING) / _RING)
    around = np.concatenate([[0], *(away * ring for away in _APART)])
    ways = np.stack([around.real, around.imag], axis=-1)
    places = (handles.at[:, None] + ways).reshape(-1, 2).astype(np.float32)
    positions, visible = fit.track(places, frame, name)
    seen = positions[t].reshape(-1, len(ways), 2).astype(np.float64)
    shown = visible[t].reshape(-1, len(ways))
    known = shown[:, 0]
    if not (known & handles.dragged).any():
        return None
    # A turn and a scale: all that is safe to tell of so few pixels.
    apart = (seen - seen[:, :1]) @ np.array([1, 1j])
    turn = (np.conj(around) * apart * shown).sum(axis=1) / np.maximum((np.abs(around) ** 2 * shown).sum(axis=1), 1e-9)
    turn *= np.clip(np.abs(turn), 1 / _SCALED, _SCALED) / np.maximum(np.abs(turn), 1e-9)
    moves = turn * ((handles.to - handles.at) @ np.array([1, 1j]))
    ends = seen[:, 0] + np.stack([moves.real, moves.imag], axis=-1)
    return replace(handles, at=seen[:, 0], to=ends).only(known)


def _part(shape: Shape, box: Box) -> tuple[slice, Shape]:
    """The rows of a lattice that a segment has, and its nodes in them."""
    rows = slice(-(-box[0].start // shape.stride), -(-box[0].stop // shape.stride))
    if rows.stop * shape.stride >= box[0].stop and rows.stop + 1 == len(shape.inside):
        rows = slice(rows.start, rows.stop + 1)
    inside = np.zeros_like(shape.inside)
    inside[rows] = shape.inside[rows]
    return rows, Shape(shape.stride, inside)
