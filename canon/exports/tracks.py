"""Point tracks through the canonical space, as JSON, CSV, After Effects keyframes or a Nuke tracker."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from canon.clip import check_frame
from canon.errors import InputError
from canon.fits import Fit
from canon.storage import write_bytes

_MOST = 100_000
_PER_NODE = 4  # tracks of one Tracker3


@dataclass(frozen=True)
class Tracks:
    """Points followed through a clip.

    Attributes:
        positions: float32 [T, N, 2] pixels (x, y), centres at integers.
        visible: bool [T, N].
        layers: the layer of each point.
        size: of the frames (height, width).
        fps: frames per second.
        frame: the one in which the points were chosen.
    """

    positions: np.ndarray
    visible: np.ndarray
    layers: Sequence[str]
    size: tuple[int, int]
    fps: float
    frame: int


def lattice_points(fit: Fit, layer: str, frame: int, spacing: int) -> np.ndarray:
    """Points every ``spacing`` pixels of a frame where the layer is what is seen, float32 [N, 2].

    Raises:
        InputError: there is no such frame or layer.
    """
    check_frame(frame, len(fit))
    height, width = fit.size
    x, y = np.meshgrid(np.arange(spacing // 2, width, spacing), np.arange(spacing // 2, height, spacing))
    weight = fit.weights(frame)[fit.layers.index(fit.layer(layer).name)]
    seen = weight[y, x] > 0.5
    return np.stack([x[seen], y[seen]], axis=-1).astype(np.float32)


def read_points(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Points of a text file, one "x,y" (or "x y") to a line, as float32 [N, 2].

    Raises:
        InputError: the file cannot be read, holds something else, or a point outside the frame.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The points '{path}' cannot be read; give a text file with one 'x,y' to a line.") from error
    rows = [line.replace(",", " ").split() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    if rows and [word.lower() for word in rows[0]] == ["x", "y"]:
        rows = rows[1:]
    try:
        points = np.array([[float(word) for word in row] for row in rows]).astype(np.float32)
    except ValueError as error:
        raise InputError(f"'{path}' holds something that is no point; give one 'x,y' to a line.") from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) > _MOST:
        raise InputError(f"'{path}' must hold 1 to {_MOST} points, one 'x,y' to a line.")
    outside = ~((points >= -0.5) & (points <= np.array([size[1] - 0.5, size[0] - 0.5]))).all(axis=1)
    if outside.any():
        x, y = points[outside][0]
        raise InputError(f"The point ({x:g}, {y:g}) of '{path}' lies outside the {size[1]}x{size[0]} frame.")
    return points


def follow(fit: Fit, points: np.ndarray, frame: int = 0, layer: str | None = None) -> Tracks:
    """Tracks of points [N, 2] of a frame; see :meth:`canon.Fit.track`.

    Raises:
        InputError: there are no points, or there is no such frame or layer.
    """
    check_frame(frame, len(fit))
    if len(points) == 0:
        raise InputError(f"There is no point to follow on frame {frame}; choose another frame or give --points.")
    positions, visible = fit.track(points, frame, layer)
    if layer is None:
        owners = [fit.layers[k] for k in fit.owners(points, frame)]
    else:
        owners = [fit.layer(layer).name] * len(points)
    return Tracks(positions, visible, owners, fit.size, float(fit.clip.fps), frame)


def export_tracks(tracks: Tracks, path: str | Path, form: str) -> None:
    """Write tracks atomically.

    Args:
        form: json and csv hold everything, in pixels with centres at integers; ae is text to paste onto a layer of
            After Effects (one null or effect point per track, in its pixels, whose edges lie at integers); nuke is a
            script of Tracker3 nodes with four tracks each (y upwards). The last two have keys where a point is seen.

    Raises:
        InputError: unknown format, or the file cannot be written.
    """
    write_bytes(Path(path), _format(form)[1](tracks).encode())


def suffix(form: str) -> str:
    """Suffix of the files of a format of :func:`export_tracks`.

    Raises:
        InputError: unknown format.
    """
    return _format(form)[0]


def _format(form: str) -> tuple[str, Callable[[Tracks], str]]:
    formats = {"json": (".json", _json), "csv": (".csv", _csv), "ae": (".txt", _after_effects), "nuke": (".nk", _nuke)}
    if form not in formats:
        raise InputError(f"The format '{form}' is not known; choose one of {', '.join(formats)}.")
    return formats[form]


def _json(tracks: Tracks) -> str:
    rows = [
        {
            "id": k,
            "layer": tracks.layers[k],
            "positions": tracks.positions[:, k].astype(np.float64).round(4).tolist(),
            "visible": tracks.visible[:, k].tolist(),
        }
        for k in range(tracks.positions.shape[1])
    ]
    height, width = tracks.size
    head = {"width": width, "height": height, "fps": tracks.fps, "frames": len(tracks.positions), "frame": tracks.frame}
    return json.dumps(head | {"tracks": rows}) + "\n"


def _csv(tracks: Tracks) -> str:
    count, number = tracks.visible.shape
    frame, track = np.mgrid[:count, :number]
    table = [frame.ravel(), track.ravel(), *tracks.positions.reshape(-1, 2).T, tracks.visible.ravel()]
    out = io.StringIO()
    np.savetxt(out, np.column_stack(table), fmt="%d,%d,%.4f,%.4f,%d", header="frame,track,x,y,visible", comments="")
    return out.getvalue()


def _after_effects(tracks: Tracks) -> str:
    height, width = tracks.size
    lines = ["Adobe After Effects 8.0 Keyframe Data", "", f"\tUnits Per Second\t{tracks.fps:.6g}"]
    lines += [f"\tSource Width\t{width}", f"\tSource Height\t{height}"]
    lines += ["\tSource Pixel Aspect Ratio\t1", "\tComp Pixel Aspect Ratio\t1", ""]
    for k in range(tracks.positions.shape[1]):
        lines += [f"Effects\tPoint Control #{k + 1}\tPoint #2", "\tFrame\tX pixels\tY pixels"]
        for t in np.flatnonzero(tracks.visible[:, k]):
            x, y = tracks.positions[t, k] + 0.5
            lines.append(f"\t{t}\t{x:.4f}\t{y:.4f}")
        lines.append("")
    return "\n".join([*lines, "End of Keyframe Data", ""])


def _nuke(tracks: Tracks) -> str:
    height, width = tracks.size
    lines = [f'Root {{\n inputs 0\n format "{width} {height} 0 0 {width} {height} 1 canon"\n}}']
    number = tracks.positions.shape[1]
    for first in range(0, number, _PER_NODE):
        knobs = []
        for slot, k in enumerate(range(first, min(first + _PER_NODE, number)), start=1):
            seen = np.flatnonzero(tracks.visible[:, k])
            x, y = tracks.positions[:, k, 0] + 0.5, height - (tracks.positions[:, k, 1] + 0.5)
            knobs.append(f" enable{slot} true\n track{slot} {{{_curve(seen, x)} {_curve(seen, y)}}}")
        name = f" name Tracks{first // _PER_NODE + 1}"
        lines.append("\n".join(["Tracker3 {", " inputs 0", *knobs, name, "}"]))
    return "\n".join(lines) + "\n"


def _curve(frames: np.ndarray, values: np.ndarray) -> str:
    return "{curve " + " ".join(f"x{t} {values[t]:.4f}" for t in frames) + "}"
