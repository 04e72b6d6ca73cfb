"""What the swap editor does: keyframes drawn with a new subject, and gathered on the layer's canvas."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor

from canon import progress
from canon.boxes import Box, box_size
from canon.coordinates import resize_points
from canon.editors.diffusion.attention import Chain, tell_what_attends
from canon.editors.diffusion.canvases import Region, regions, repainted, resized, working_size
from canon.editors.diffusion.frames_in_turn import gathered
from canon.editors.diffusion.latents import Keep, latent_mask, to_picture, to_tensor
from canon.editors.diffusion.models import step_of_sides
from canon.editors.diffusion.options import NONE
from canon.editors.diffusion.painters import Painter, invertible, size_of, source_guide
from canon.editors.diffusion.running import as_edit
from canon.editors.diffusion.swap import SwapConfig
from canon.editors.diffusion.swap_adapter import (
    Places,
    PointAdapter,
    PointedModel,
    new_adapter,
    point_features,
    train_adapter,
)
from canon.editors.diffusion.swap_concepts import base_of, check_concept, concept_files, kept, subject
from canon.editors.diffusion.swap_motion import with_motion
from canon.editors.diffusion.swap_points import Points, given, shaped
from canon.edits import Edit
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.per_frame import PerFrame
from canon.sampling import fill_unseen
from canon.storage import content_hash, file_digest, to_float, to_uint8
from canon.warping import warped

log = logging.getLogger("canon")

_SOLID = 0.5
"""Weight from which a pixel shows a layer."""
_AROUND = 24
"""Pixels around the layer that the model sees of a keyframe besides."""


@dataclass(frozen=True, eq=False)
class Views:
    """What a model sees of keyframes, all of one size.

    Attributes:
        times: their numbers.
        boxes: the part of each frame.
        pictures: float32 [h, w, 3] in 0..1 each.
        areas: float32 [h, w] in 0..1 each, what is drawn anew.
        places: points, in pixels of the pictures; none if there are none.
    """

    times: list[int]
    boxes: list[Box]
    pictures: list[np.ndarray]
    areas: list[np.ndarray]
    places: Places | None


def swap(fit: Fit, config: SwapConfig) -> Edit:
    """See :class:`canon.editors.diffusion.swap.Swap`."""
    layer = fit.layer(config.layer or fit.layers[0])
    if layer.opacity is None:
        raise InputError(f"'{layer.name}' lies behind all others and is no subject; restyle and others edit it.")
    name, found = layer.name, regions(fit, layer.name, config)
    points = given(fit, name, config)
    concept_files(config)
    shape = shaped(fit, name, points)
    moved = fit if shape is None else warped(fit, [shape])
    times = chosen(moved, name, config.keyframes)
    learning, pointing, drawing, laying = progress.shares(
        config.concept_steps if config.concept_images else 0,
        config.adapter_steps if len(points.at) else 0,
        2 * config.steps * len(times),
        config.steps,
    )
    with learning:
        painter = SwapPainter(config)
    with pointing:
        painter.learn(fit, name, points)
    with drawing:
        views = viewed(moved, name, points, points.to, times, painter)
        drawn = dict(zip(times, painter.paint_all(views), strict=True))
    with laying:
        frames = {t: _put(moved, t, box, drawn[t]) for t, box in zip(times, views.boxes, strict=True)}
        edit = _on_canvas(fit, moved, name, found, frames, config)
    warp = [] if shape is None else [replace(step, provenance=edit.steps[0].provenance) for step in shape.steps]
    return Edit([*warp, *edit.steps], fit.id)


class SwapPainter(Painter[SwapConfig]):
    """See :mod:`canon.editors.diffusion.swap`."""

    def __init__(self, config: SwapConfig) -> None:
        """Load or learn what the options ask for.

        Raises:
            InputError: it cannot be loaded, or the model cannot learn it.
        """
        check_concept(config.concept)
        super().__init__(replace(config, lora=(*config.lora, config.concept)) if config.concept else config)
        self.own = invertible(subject(invertible(self.model), config))
        self.moving = with_motion(self.own, config.motion) if config.motion else None
        self.adapter: PointAdapter | None = None
        if self.moving is None and config.attention != NONE:
            tell_what_attends(self.own.unet)

    def learn(self, fit: Fit, layer: str, points: Points) -> None:
        """Learn what points of a layer say, from frames of the clip; nothing without points."""
        own = self.config
        if not len(points.at):
            return

        def learned() -> dict[str, Tensor]:
            times = sorted({*chosen(fit, layer, own.keyframes), points.frame})
            views = viewed(fit, layer, points, points.at, times, self, followed=np.ones(len(points.at), bool))
            adapter = self._trained(views, times.index(points.frame))
            return {key: value.detach().float().cpu().contiguous() for key, value in adapter.state_dict().items()}

        key = content_hash(
            *(fit.id, layer, points.at, points.frame, own.source_prompt, own.keyframes, own.size, own.seed),
            *(own.adapter_steps, own.adapter_rate, base_of(own), [file_digest(path) for path in concept_files(own)]),
            *(own.concept_prompt or own.prompt, own.concept_steps, own.concept_rate, own.concept_class),
        )
        state = kept(own, "points", key, learned, lora=False)
        self.adapter = new_adapter(self.own, state["features"].to(self.own.device))
        self.adapter.load_state_dict(dict(state))

    def _trained(self, views: Views, first: int) -> PointAdapter:
        own, model, places = self.config, self.own, views.places
        assert places is not None
        guide = model.guide(own.source_prompt, "", 1.0, places.size)
        guide = replace(guide, context=guide.context.detach())
        features = point_features(model, to_tensor(views.pictures[first]), places.of(slice(first, first + 1)), guide)
        adapter = new_adapter(model, features, own.seed)
        train_adapter(model, adapter, views.pictures, places, guide, own.adapter_steps, own.adapter_rate, own.seed)
        return adapter

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`; a picture by itself, without points."""
        return self.paint_all(Views([0], [(slice(0), slice(0))], [picture], [area], None))[0]

    @torch.no_grad()
    def paint_all(self, views: Views) -> list[np.ndarray]:
        """Keyframes with the new subject, float32 [h, w, 3] in 0..1 each, in the size of their pictures."""
        own, count = self.config, len(views.pictures)
        every = [slice(k, k + 1) for k in range(count)]
        if self.moving is not None:
            model = PointedModel(self.moving, self.adapter, own.adapter_scale, own.window)
            return self._together(model, views, slice(0, count))
        model = PointedModel(self.own, self.adapter, own.adapter_scale)
        kept_at = torch.device("cpu") if own.offload else None
        chain, found = Chain(self.own.unet, own.attention, kept_at), list[np.ndarray]()
        for part in progress.parts(every):
            found += self._together(model, views, part, chain)
        return found

    def _together(self, model: PointedModel, views: Views, part: slice, chain: Chain | None = None) -> list[np.ndarray]:
        """Some of the keyframes, drawn at once."""
        own, size = self.config, size_of(views.pictures[0])
        guide = self._guide(self.own, size)
        source = source_guide(self.own, guide, own.source_prompt, size)
        clean, ways = [], []
        inverting, denoising = progress.shares(1, 1)
        with inverting:
            for picture in progress.parts(views.pictures[part]):
                clean.append(self.own.encode(to_tensor(picture)))
                levels, way = self.own.invert(clean[-1], source, own.steps, own.ratio)
                ways.append(way)
        latents = torch.cat(clean)
        trajectory = {t: torch.cat([way[t] for way in ways]) for t in ways[0]}
        masks = [latent_mask(area, model.factor, latents.device) for area in views.areas[part]]
        keep = Keep(torch.cat(masks).to(latents.dtype), lambda t: latents if t is None else trajectory[int(t)])
        seeing = model.seeing(None if views.places is None else views.places.of(part))
        start, generator = trajectory[int(levels[0])], torch.Generator("cpu")
        with denoising, nullcontext() if chain is None else chain.next():
            made = seeing.denoise(start, levels, guide, generator, keep)
        return [to_picture(self.own.decode(one[None])) for one in made]


# --- frames ---


def chosen(fit: Fit, layer: str, count: int) -> list[int]:
    """Frames that show a layer: of every segment so many at even distances, or all for 0.

    Raises:
        InputError: none does.
    """
    k, found = fit.layers.index(layer), set[int]()
    for first, last in fit.segments(layer):
        shows = [t for t in range(first, last + 1) if (fit.weights(t)[k] > _SOLID).any()]
        wanted = min(count or len(shows), len(shows))
        found |= {shows[round(at)] for at in np.linspace(0, len(shows) - 1, wanted).tolist()}
    if not found:
        raise InputError(f"'{layer}' is to be seen in no frame.")
    return sorted(found)


def viewed(
    fit: Fit,
    layer: str,
    points: Points,
    at: np.ndarray,
    times: Sequence[int],
    painter: SwapPainter,
    followed: np.ndarray | None = None,
) -> Views:
    """What a painter sees of some frames: the surroundings of a layer, all at one size.

    Args:
        at: float32 [K, 2], where the points are in their frame of this fit.
        followed: bool [K], those that are shown; None = those that were not dropped.
    """
    config, k = painter.config, fit.layers.index(layer)
    weights = [fit.weights(t)[k] for t in times]
    boxes = _boxes(weights)
    size = box_size(boxes[0])
    working = working_size(size, config.size or painter.own.native, step_of_sides(painter.own))
    pictures = [
        resized(to_float(np.asarray(fit.clip.frames[t]))[box], working) for t, box in zip(times, boxes, strict=True)
    ]
    around = np.ones((2 * config.dilate + 1,) * 2, np.uint8)
    areas = [resized(cv2.dilate(w, around)[box], working) for w, box in zip(weights, boxes, strict=True)]
    if not len(at):
        return Views(list(times), boxes, pictures, areas, None)
    positions, visible = fit.track(at, points.frame, layer)
    corners = np.array([[box[1].start, box[0].start] for box in boxes], np.float32)
    own = torch.from_numpy(positions[list(times)] - corners[:, None])
    seen = visible[list(times)] & (points.followed if followed is None else followed)
    device = painter.own.device
    places = Places(working, resize_points(own, size, working).to(device), torch.from_numpy(seen).float().to(device))
    return Views(list(times), boxes, pictures, areas, places)


def _boxes(weights: Sequence[np.ndarray]) -> list[Box]:
    """The surroundings of a layer in frames, all of one size, by its weights [H, W]."""
    height, width = weights[0].shape
    inner = [nonzero_box((weight > _SOLID).astype(np.uint8)) for weight in weights]
    shown = [box for box in inner if box is not None]
    rows, columns = (
        min(max(box[k].stop - box[k].start for box in shown) + 2 * _AROUND, (height, width)[k]) for k in (0, 1)
    )

    def placed(side: slice, length: int, limit: int) -> slice:
        start = min(max((side.start + side.stop - length) // 2, 0), limit - length)
        return slice(start, start + length)

    whole = (slice(0, height), slice(0, width))
    return [(placed((box or whole)[0], rows, height), placed((box or whole)[1], columns, width)) for box in inner]


def _put(fit: Fit, t: int, box: Box, made: np.ndarray) -> np.ndarray:
    """A frame, a part of which is as it was drawn, uint8 [H, W, 3]."""
    frame = np.array(fit.clip.frames[t])
    frame[box] = to_uint8(resized(made, box_size(box)))
    return frame


# --- on the canvas ---


def _on_canvas(
    fit: Fit, moved: Fit, layer: str, found: list[Region], frames: dict[int, np.ndarray], config: SwapConfig
) -> Edit:
    """Keyframes of a fit that was moved as paint on the layer's canvas."""
    drawn = PerFrame(fit.clip.frames.shape, np.uint8, frames.__getitem__)
    colours, known = gathered(seen_in(moved, layer, set(frames)), layer, cast(np.ndarray, drawn))

    def made(region: Region) -> np.ndarray:
        seen = known[region.box]
        if not seen.any():
            return np.dstack([region.image, np.zeros_like(region.area)])
        own = torch.from_numpy(np.ascontiguousarray(colours[region.box]))
        whole = fill_unseen(own, torch.from_numpy(seen.astype(np.float32))).numpy()
        # Of the old subject nothing is to stay, not even a rim that its canvas does not show.
        return whole if config.mask else np.dstack([whole, np.ones_like(region.area)])

    files = [str(path) for path in concept_files(config)]
    files += [path for path in config.points if path.endswith((".json", ".npz"))]
    return as_edit(fit, layer, repainted(fit, layer, found, made), config, "swap", files)


def seen_in(fit: Fit, layer: str, times: set[int]) -> Fit:
    """The fit in which a layer is to be seen in some frames alone."""

    def opacity(t: int) -> np.ndarray:
        assert own.opacity is not None
        shown = np.asarray(own.opacity[t])
        return shown if t in times else np.zeros_like(shown)

    own = fit.layer(layer)
    assert own.opacity is not None
    hidden = replace(own, opacity=cast(np.ndarray, PerFrame(own.opacity.shape, np.uint8, opacity)))
    layers = [hidden if data.name == layer else data for data in fit.baked]
    return Fit(fit.clip, fit.representation, fit.config, layers, fit.stride, fit.light_stride, fit.stats)
