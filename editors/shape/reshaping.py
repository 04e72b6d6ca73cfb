"""What the reshape editor does: an old silhouette brought onto a new one, and its colours pulled back."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from canon import progress, rendering
from canon.boxes import grown
from canon.clip import check_frame
from canon.compose import LayerEdit, compose
from canon.editors.painting import pull_back, read_rgba
from canon.editors.shape.dragging import Handles, Placed, displaced
from canon.editors.shape.reshape import ReshapeConfig
from canon.editors.shape.silhouettes import matched, outline
from canon.editors.shape.solving import Shape, solve
from canon.edits import Edit, Provenance, Remove, Step, resize_to
from canon.errors import InputError
from canon.fits import Fit, FitLayer, nonzero_box
from canon.per_frame import PerFrame
from canon.storage import to_float
from canon.warping import check_movable, warped

_DIFFERS = 0.08
"""Difference in colour (0..1) from which a pixel of the edited frame is not what lies behind the layer."""
_SAME = 0.02
"""The same, from which the edited frame has other colours than the layer has there."""
_CONTEXT = 16
"""Pixels beyond what a model may fill that it is shown."""
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
    before = fit.coordinates(config.frame, name)[1] > 0.5
    if not before.any():
        raise InputError(f"'{name}' is not to be seen in frame {config.frame}; choose another --frame.")
    filling, shaping, refining = progress.shares(0 if config.image else 20, 5, config.refine)
    with filling:
        image = _read(fit, config.image) if config.image else _filled(fit, config, before)
    after = _read(fit, config.mask).mean(axis=-1) > 0.5 if config.mask else _silhouette(fit, name, config.frame, image)
    with shaping:
        edit = _shaped(fit, name, config, before, after)
    if config.repaint:
        moved = warped(fit, [edit])
        shown = to_float(np.asarray(moved.clip.frames[config.frame]))
        own = moved.coordinates(config.frame, name)[1] > 0.9
        other = own & after & (np.abs(image - shown).max(axis=-1) > _SAME)
        if other.any():
            edit.steps.append(Step(name, pull_back(moved, name, config.frame, image, other)))
    if config.refine:
        with refining:
            edit.steps.append(_refined(fit, name, config, edit))
    files = [path for path in (config.image, config.mask) if path]
    told = Provenance.now("reshape", {**asdict(config), "layer": name, **_models(config)}, files)
    return Edit([replace(step, provenance=told) for step in edit.steps], fit.id)


def _models(config: ReshapeConfig) -> dict[str, str]:
    """What models have had a say, for the provenance."""
    if config.image and not config.refine:
        return {}
    from canon.editors.diffusion.models import fingerprint

    return {"model_hash": fingerprint(config.model)}


def _filled(fit: Fit, config: ReshapeConfig, before: np.ndarray) -> np.ndarray:
    """The frame with the layer, and what is around it, filled in by a model, float32 [H, W, 3]."""
    from canon.editors.diffusion.canvases import painted
    from canon.editors.diffusion.inpaint import InpaintConfig
    from canon.editors.diffusion.models import memory_told
    from canon.editors.diffusion.painters import InpaintPainter

    side = 2 * config.around + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    area = cv2.dilate(before.astype(np.float32), kernel)
    around = nonzero_box(area.astype(np.uint8))
    assert around is not None
    box = grown(around, config.around + _CONTEXT, fit.size)
    image = to_float(np.asarray(fit.clip.frames[config.frame]))
    own = {"prompt": config.prompt, "model": config.model, "seed": config.seed, "device": config.device}
    with memory_told():
        painter = InpaintPainter(InpaintConfig(mask="in the frame", **own))  # type: ignore[arg-type]
        made = painted(image[box], area[box], painter)
    share = cv2.GaussianBlur(area[box], (0, 0), 1.0)[..., None]
    image[box] += share * (made - image[box])
    return image


def _refined(fit: Fit, name: str, config: ReshapeConfig, edit: Edit) -> Step:
    """Paint that brings the reshaped and repainted layer nearer to the prompt, by score distillation."""
    from canon.editors.diffusion.models import memory_told
    from canon.editors.distill.editor import DistillConfig
    from canon.editors.distill.painters import DistillPainter, distil

    own = {"prompt": config.prompt, "model": config.model, "seed": config.seed, "device": config.device}
    with memory_told():
        options = DistillConfig(layer=name, steps=config.refine, **own)  # type: ignore[arg-type]
        return distil(_as_fit(fit, name, edit), options, "reshape", DistillPainter).steps[0]


def _as_fit(fit: Fit, name: str, edit: Edit) -> Fit:
    """The fit of the edited video, with the layer's canvas as it is painted."""
    video = rendering.render(fit, edit)
    frames = PerFrame(fit.clip.frames.shape, np.uint8, video.__getitem__)
    moved = video.shown.over(replace(video.shown.clip, frames=cast(np.ndarray, frames)))
    painted = compose(moved, [edit]).get(name)
    if painted is None or not painted.levels:
        return moved
    layers = [replace(layer, color=_canvas(layer, painted)) if layer.name == name else layer for layer in moved.baked]
    found = Fit(moved.clip, moved.representation, moved.config, layers, moved.stride, moved.light_stride, moved.stats)
    found.pose_as(fit)
    return found


def _canvas(layer: FitLayer, edit: LayerEdit) -> np.ndarray:
    """A canvas with what an edit lays over it, float32 [Hc, Wc, 3]."""
    found = np.array(resize_to(layer.color, edit.size))
    own, (left, top) = edit.levels[0], edit.offset
    part = (slice(top, top + own.shape[0]), slice(left, left + own.shape[1]))
    found[part] = own[..., :3] + (1 - own[..., 3:]) * found[part]
    return np.clip(resize_to(found, layer.canvas_size), 0, 1)


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
    for _ in progress.parts(range(_ROUNDS), "shaping"):
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
