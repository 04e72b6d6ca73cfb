"""What the reshape editor does: an old silhouette brought onto a new one, and its colours pulled back."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from canon import rendering
from canon.clip import check_frame
from canon.editors.painting import pull_back, read_rgba
from canon.editors.shape.dragging import Handles, Placed, displaced
from canon.editors.shape.reshape import ReshapeConfig
from canon.editors.shape.silhouettes import matched, outline
from canon.editors.shape.solving import Shape, solve
from canon.edits import Edit, Provenance, Remove, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.storage import to_float
from canon.warping import check_movable, warped

_DIFFERS = 0.08
"""Difference in colour (0..1) from which a pixel of the edited frame is not what lies behind the layer."""
_SAME = 0.02
"""The same, from which the edited frame has other colours than the layer has there."""
_ROUNDS = 4
"""Times that outlines are matched again after the shape has followed."""
_SMOOTH = 1e-4
"""How much a matched place counts against a smooth displacement; see :func:`canon.editors.shape.solving.solve`."""
_SETTLED = 0.985
"""Overlap (intersection over union) that is good enough."""


def reshape(fit: Fit, config: ReshapeConfig) -> Edit:
    """See :class:`canon.editors.shape.reshape.Reshape`."""
    name = fit.layer(config.layer or fit.layers[0]).name
    data = fit.layer(name)
    check_movable(data)
    if data.opacity is None:
        raise InputError(f"'{name}' lies behind all others and has no silhouette; reshape a layer before it.")
    check_frame(config.frame, len(fit))
    image = _read(fit, config.image)
    before = fit.coordinates(config.frame, name)[1] > 0.5
    if not before.any():
        raise InputError(f"'{name}' is not to be seen in frame {config.frame}; choose another --frame.")
    after = _read(fit, config.mask).mean(axis=-1) > 0.5 if config.mask else _silhouette(fit, name, config.frame, image)
    edit = _shaped(fit, name, config, before, after)
    files = [path for path in (config.image, config.mask) if path]
    told = Provenance.now("reshape", {**asdict(config), "layer": name}, files)
    if config.repaint:
        moved = warped(fit, [edit])
        shown = to_float(np.asarray(moved.clip.frames[config.frame]))
        own = moved.coordinates(config.frame, name)[1] > 0.9
        other = own & after & (np.abs(image - shown).max(axis=-1) > _SAME)
        if other.any():
            edit.steps.append(Step(name, pull_back(moved, name, config.frame, image, other)))
    return Edit([replace(step, provenance=told) for step in edit.steps], fit.id)


def _read(fit: Fit, path: str) -> np.ndarray:
    image = read_rgba(Path(path))[..., :3]
    if image.shape[:2] != fit.size:
        seen, wanted = f"{image.shape[1]}x{image.shape[0]}", f"{fit.size[1]}x{fit.size[0]}"
        raise InputError(f"'{path}' is {seen} and the clip {wanted}; edit the frame at its own size.")
    return image


def _silhouette(fit: Fit, name: str, t: int, image: np.ndarray) -> np.ndarray:
    """Where an edited frame shows the layer: not what lies behind it, and where it was not edited as before, [H, W]."""
    source = to_float(np.asarray(fit.clip.frames[t]))
    empty = to_float(rendering.render(fit, Edit([Step(name, Remove(2))], fit.id))[t])
    before = fit.coordinates(t, name)[1] > 0.5
    edited = np.abs(image - source).max(axis=-1) > _SAME
    shows = np.abs(image - empty).max(axis=-1) > _DIFFERS
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    found = cv2.morphologyEx(np.where(edited, shows, before).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found)
    if count < 2:
        raise InputError("The edited frame shows nothing of the layer; give its silhouette with --mask.")
    largest = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    # Holes within are of what merely looks like the background.
    outside = np.pad(largest.astype(np.uint8), 1)
    cv2.floodFill(outside, None, (0, 0), 1)
    return largest | (outside[1:-1, 1:-1] == 0)


def _shaped(fit: Fit, name: str, config: ReshapeConfig, before: np.ndarray, after: np.ndarray) -> Edit:
    """The warp after which the layer's silhouette in the frame is the new one."""
    aim, pairs = outline(after), np.reshape(config.pairs, (-1, 4))
    start = outline(before)
    places, targets = matched(start, aim, pairs)
    best: tuple[float, Edit] | None = None
    for _ in range(_ROUNDS):
        handles = Handles(places, targets, np.ones(len(places), bool), ("",) * len(places))
        edit = Edit([Step(name, displaced(fit, name, config.frame, handles, _by_outline))], fit.id)
        found = warped(fit, [edit]).coordinates(config.frame, name)[1] > 0.5
        overlap = float((found & after).sum() / max((found | after).sum(), 1))
        if best is None or overlap > best[0]:
            best = overlap, edit
        if overlap > _SETTLED or not found.any():
            break
        # What still sticks out is pushed on, from where it has come to.
        here, there = matched(outline(found), aim)
        away = there - here
        nearest = np.linalg.norm(targets[:, None] - here[None], axis=-1).argmin(axis=1)
        targets = targets + 0.7 * away[nearest]
    assert best is not None
    return best[1]


def _by_outline(shape: Shape, points: Placed) -> np.ndarray:
    nothing = np.zeros(len(shape.nodes), bool)
    return solve(shape, points.places, points.targets, nothing, "tps", smooth=_SMOOTH)
