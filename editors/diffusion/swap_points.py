"""Semantic points of a swap: where people put them, where they are in every frame, and where they are dragged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from canon.clip import check_frame
from canon.editors.diffusion.swap import SwapConfig
from canon.editors.shape.drag import DragConfig
from canon.editors.shape.dragging import drag, read_points
from canon.edits import Edit
from canon.errors import InputError
from canon.fits import Fit


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one frame.

    Attributes:
        frame: its number.
        names: how people call them.
        at: float32 [K, 2], pixels (x, y).
        to: float32 [K, 2], where they lie on the new subject.
        followed: bool [K], those that were not dropped.
    """

    frame: int
    names: tuple[str, ...]
    at: np.ndarray
    to: np.ndarray
    followed: np.ndarray

    @property
    def dragged(self) -> np.ndarray:
        """Those that lie elsewhere on the new subject, bool [K]."""
        return self.followed & (self.at != self.to).any(axis=-1)


def given(fit: Fit, layer: str, config: SwapConfig) -> Points:
    """The points that the options ask for.

    Raises:
        InputError: a file or a point that cannot be read, points outside of the frame or not on the layer, or names of
            points that are not there.
    """
    points = _read(config)
    check_frame(points.frame, len(fit))
    last = np.array([fit.size[1] - 1, fit.size[0] - 1])
    outside = ((points.at < 0) | (points.at > last)).any(axis=-1)
    if outside.any():
        x, y = points.at[outside][0]
        raise InputError(
            f"The point ({x:g}, {y:g}) lies outside of the frame, which is {fit.size[1]}x{fit.size[0]} pixels."
        )
    _, visible = fit.track(points.at, points.frame, layer)
    hidden = ~visible[points.frame]
    if hidden.any():
        x, y = points.at[hidden][0]
        raise InputError(f"The point ({x:g}, {y:g}) does not lie on '{layer}' in frame {points.frame}.")
    return _changed(points, config)


def shaped(fit: Fit, layer: str, points: Points) -> Edit | None:
    """The layer moved so that dragged points lie where they were dragged, and the others where they are; None if none
    was dragged.

    Raises:
        InputError: the layer cannot be moved.
    """
    moved = points.dragged
    if not moved.any():
        return None
    held = points.followed & ~moved
    moves = np.concatenate([points.at[moved], points.to[moved]], axis=1)
    asked = DragConfig(
        tuple(moves.ravel().tolist()), tuple(points.at[held].ravel().tolist()), layer=layer, frame=points.frame
    )
    return drag(fit, asked)


def _read(config: SwapConfig) -> Points:
    """All points, none of them dropped or dragged but by their file."""
    frame = config.frame
    entries: list[tuple[str, np.ndarray, np.ndarray | None]]
    if len(config.points) == 1 and Path(config.points[0]).suffix == ".json":
        own, entries = read_points(Path(config.points[0]))
        frame = frame if own is None else own
    elif len(config.points) == 1 and Path(config.points[0]).suffix == ".npz":
        own, places = _read_arrays(Path(config.points[0]))
        frame = frame if own is None else own
        entries = [(str(k), place, None) for k, place in enumerate(places)]
    else:
        entries = [(str(k), _pair(text), None) for k, text in enumerate(config.points)]
    names = tuple(name for name, _, _ in entries)
    if len(set(names)) < len(names):
        raise InputError(f"Two points have one name among {', '.join(names)}.")
    at = np.array([place for _, place, _ in entries], np.float32).reshape(-1, 2)
    to = np.array([place if goal is None else goal for _, place, goal in entries], np.float32).reshape(-1, 2)
    if not (np.isfinite(at).all() and np.isfinite(to).all()):
        raise InputError("Points are finite numbers of pixels.")
    return Points(frame, names, at, to, np.ones(len(names), bool))


def _read_arrays(path: Path) -> tuple[int | None, np.ndarray]:
    """The frame, if it is said, and the points [K, 2] of a file of numpy."""
    try:
        with np.load(path, allow_pickle=False) as file:
            places = np.asarray(file["points"], np.float32)
            frame = int(file["frame"]) if "frame" in file else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is no file of points; it is to hold an array 'points' [K, 2].") from error
    if places.ndim != 2 or places.shape[1] != 2:
        raise InputError(f"The points in '{path}' must be [K, 2], not {list(places.shape)}.")
    return frame, places


def _pair(text: str) -> np.ndarray:
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"'{text}' is no point; give X,Y, such as 120,80, or a .json or .npz file.") from error
    return np.array([x, y])


def _changed(points: Points, config: SwapConfig) -> Points:
    """Points, some of them dropped or dragged as the options say."""

    def number(name: str) -> int:
        if name not in points.names:
            known = f"the points are called {', '.join(points.names)}" if points.names else "none was given"
            raise InputError(f"There is no point '{name}'; {known}.")
        return points.names.index(name)

    followed, to = points.followed.copy(), points.to.copy()
    for name in config.drop:
        followed[number(name)] = False
    for text in config.drag:
        name, _, place = text.partition("=")
        if not followed[number(name)]:
            raise InputError(f"The point '{name}' is both dropped and dragged.")
        to[number(name)] = _pair(place)
    if not np.isfinite(to).all():
        raise InputError("Points are finite numbers of pixels.")
    return replace(points, followed=followed, to=to)
