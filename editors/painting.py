"""What the paint editor does: finding what was painted, and pulling a painted frame back into the canvas."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.Image import Resampling

from canon.carrying import carry_paint, check_segment, on_whole_canvas
from canon.editors.matching import match_pictures
from canon.editors.paint import PaintConfig
from canon.edits import Edit, Over, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.grids import level_of_detail
from canon.layered_images import CANONICAL, SUFFIXES, LayeredImage, flattened, read_layers
from canon.sampling import mip_levels, pyramid, remap, sample_mip_points
from canon.storage import read_image, to_float, to_uint8

log = logging.getLogger("canon")

_SAME = 1
"""Levels of 255 within which a texel counts as unedited."""
_SAME_RESIZED = 3
"""The same for an image that was resized on the way: paint programs round differently."""
_ANOTHERS = 0.2
"""Share of unedited texels below which an image may be of another segment."""
_RIM = 4
"""Pixels of a soft edge that go with the paint on the solid part beside it."""


def paint(fit: Fit, config: PaintConfig) -> Edit:
    """The edit that a :class:`PaintConfig` asks for; see :class:`canon.editors.paint.Paint`."""
    layers = _layers(config.image)
    image = read_rgba(config.image) if layers is None else to_float(flattened(layers))
    files = [config.image] if isinstance(config.image, str | Path) else []
    provenance = Provenance.now("paint", config, files)
    if config.frame is not None:
        if config.overlay or config.reference is not None:
            raise InputError("An image is an edited frame or a change of a canvas, not both; drop one option.")
        if config.segment:
            raise InputError("A painted frame belongs to the segments that show it; drop the option segment.")
        found = _from_frame(fit, config, image)
    else:
        name = config.layer or fit.layers[0]
        segment = fit.segment_box(name, config.segment)
        if config.reference is not None:
            if config.overlay:
                raise InputError("An image is an overlay or a change of a reference, not both; drop one option.")
            files += [config.reference] if isinstance(config.reference, str | Path) else []
            provenance = Provenance.now("paint", config, files)
            made = _from_reference(fit, name, image, read_rgba(config.reference), config.segment)
        elif layers is not None:
            made = _from_layers(fit, name, layers, config)
        elif config.overlay:
            made = _overlay(fit, name, image, config.segment)
        else:
            made = _replacement(fit, name, image, config.segment)
        made = on_whole_canvas(fit, name, made, segment)
        found = [(name, carry_paint(fit, name, made, config.segment) if config.carry else made)]
    steps = [Step(name, operation, provenance) for name, operation in found if (operation.rgba[..., 3] > 0).any()]
    if not steps:
        log.warning("nothing differs in the painted image, so the edit is empty")
    return Edit(steps, fit.id)


def read_rgba(image: object) -> np.ndarray:
    """An image file or array as float32 [h, w, 3 or 4] in 0..1; grey becomes RGB.

    Raises:
        InputError: unreadable, or not an image.
    """
    if isinstance(image, str | Path):
        values = read_image(Path(image))
    else:
        values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    kinds = (np.uint8, np.uint16, np.float32, np.float64)
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape or values.dtype not in kinds:
        raise InputError(f"A painted image must be [h, w, 3 or 4], not {values.dtype} {list(values.shape)}.")
    values = to_float(values)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def _layers(image: object) -> LayeredImage | None:
    """The layers of an image that has some."""
    if isinstance(image, str | Path) and Path(image).suffix.lower() in SUFFIXES:
        return read_layers(image)
    return image if isinstance(image, LayeredImage) else None


def _from_layers(fit: Fit, name: str, image: LayeredImage, config: PaintConfig) -> Over:
    """The layers above the canonical image, and what was changed of itself."""
    named = [layer for layer in image.layers if layer.name.strip().lower() == CANONICAL]
    canonical = named or ([] if config.overlay else image.layers[:1])
    paint = [layer for layer in image.layers if layer not in canonical]
    over = _overlay(fit, name, to_float(flattened(image, paint)), config.segment)
    if config.overlay or not canonical or not canonical[0].visible:
        return over
    bottom = to_float(flattened(image, [replace(canonical[0], opacity=1.0)]))
    under = _replacement(fit, name, bottom, config.segment)
    if not under.rgba[..., 3].any():
        return over
    above, below = over.rgba[..., 3:], under.rgba[..., 3:] * (1 - over.rgba[..., 3:])
    alpha = above + below
    colours = over.rgba[..., :3] * above + under.rgba[..., :3] * below
    return Over(np.dstack([colours / np.maximum(alpha, 1e-6), alpha]))


def _check_segment(fit: Fit, name: str, painted: np.ndarray, segment: int) -> None:
    """Refuse an image that is clearly another segment's, which would cover this one whole."""

    def same(k: int) -> float:
        exported = to_uint8(fit.canonical(name, k).rgba)
        if exported.shape[:2] != painted.shape[:2]:
            return 0.0
        known = exported[..., 3] > 0
        return float((cv2.absdiff(exported[..., :3], painted[..., :3]).max(axis=-1) <= _SAME)[known].mean())

    count = len(fit.segments(name))
    if count == 1 or same(segment) >= _ANOTHERS:
        return
    shares = {k: same(k) for k in range(count) if k != segment}
    best = max(shares, key=lambda k: shares[k])
    if shares[best] > 2 * _ANOTHERS:
        raise InputError(f"The painted image is the canvas of segment {best}, not of {segment}; add segment {best}.")


def _overlay(fit: Fit, name: str, image: np.ndarray, segment: int) -> Over:
    check_segment("The painted image is", (image.shape[0], image.shape[1]), fit, name, segment)
    if image.shape[2] != 4:
        raise InputError("An overlay needs transparency (RGBA); paint on a transparent layer and export that.")
    return Over(image)


def _replacement(fit: Fit, name: str, image: np.ndarray, segment: int) -> Over:
    """Where a changed canonical image differs from the exported one, as opaque paint."""
    check_segment("The painted image is", (image.shape[0], image.shape[1]), fit, name, segment)
    exported = to_uint8(fit.canonical(name, segment).rgba)
    painted = to_uint8(image)
    _check_segment(fit, name, painted, segment)
    size = (image.shape[0], image.shape[1])
    same = np.zeros(size, bool)
    for reference in _resized(exported, size):
        tolerance = _SAME if exported.shape[:2] == size else _SAME_RESIZED
        for look in _flattened(reference, with_alpha=image.shape[2] == 4):
            difference = cv2.absdiff(painted, look)
            same |= difference.max(axis=-1) <= tolerance
    known = cv2.resize(exported[..., 3], size[::-1], interpolation=cv2.INTER_AREA)
    alpha = np.where(same, 0.0, 1.0).astype(np.float32)
    if image.shape[2] == 4:
        erased = (image[..., 3] == 0) & ~same
        if (erased & (known > 0)).any():
            log.warning("what was erased from '%s' stays as it was; the editor 'remove' takes a layer away", name)
        alpha[image[..., 3] == 0] = 0
        # Beyond the layer's rim a brush may be soft; on the layer itself paint covers.
        beyond = ~same & (known == 0)
        alpha[beyond] = image[..., 3][beyond]
    return Over(np.dstack([image[..., :3], alpha]))


def _resized(exported: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """The exported canvas as the usual ways of resizing an image would give it."""
    if exported.shape[:2] == size:
        return [exported]
    methods = [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_AREA]
    found = [cv2.resize(exported, size[::-1], interpolation=method) for method in methods]
    # Others weigh colours by their opacity, and have other curves by the same names.
    others = [Resampling.NEAREST, Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS]
    return found + [np.asarray(Image.fromarray(exported).resize(size[::-1], method)) for method in others]


def _flattened(reference: np.ndarray, with_alpha: bool) -> list[np.ndarray]:
    """What an untouched canvas may look like after a paint program: as it is, or flattened onto white or black."""
    rgb, alpha = reference[..., :3], reference[..., 3:]
    if with_alpha:
        # Many programs forget colours where nothing is to be seen.
        cleared = np.where(alpha == 0, np.uint8(0), reference)
        white = np.dstack([np.where(alpha == 0, np.uint8(255), rgb), alpha])
        return [reference, cleared, white]
    share = alpha.astype(np.float32) / 255
    over = [to_uint8((rgb * share + ground * (1 - share)) / 255) for ground in (0.0, 255.0)]
    return [np.ascontiguousarray(rgb), *over]


# --- a painted picture of somebody else's ---


def _from_reference(fit: Fit, name: str, image: np.ndarray, reference: np.ndarray, segment: int) -> Over:
    """What was changed between two pictures of one size, carried to where the canonical image shows the same."""
    size = reference.shape[:2]
    if image.shape[:2] != size:
        raise InputError(
            f"The painted image is {image.shape[1]}x{image.shape[0]} and its reference {size[1]}x{size[0]}; they must"
            " be of one size."
        )
    before, after = (to_uint8(picture[..., :3]) for picture in (reference, image))
    changed = (cv2.absdiff(after, before).max(axis=-1) > _SAME).astype(np.float32)
    canvas = fit.canonical(name, segment)
    there = match_pictures(to_uint8(canvas.rgba[..., :3]), canvas.coverage > 0, before)
    if there is None:
        raise InputError(f"The reference does not show what the canonical image of '{name}' shows; nothing matches.")
    rgba = np.dstack([image[..., :3] * changed[..., None], changed])
    found = remap(rgba, there)
    found[..., :3] /= np.maximum(found[..., 3:], 1e-6)
    inside = ((there >= 0) & (there <= np.array([size[1] - 1, size[0] - 1], np.float32))).all(axis=-1)
    found[..., 3] *= inside & (canvas.coverage > 0)
    return Over(found)


# --- a painted frame ---


def _from_frame(fit: Fit, config: PaintConfig, image: np.ndarray) -> list[tuple[str, Over]]:
    assert config.frame is not None
    if not -len(fit) <= config.frame < len(fit):
        raise InputError(f"There is no frame {config.frame}; the clip has frames 0 to {len(fit) - 1}.")
    t = fit.index(config.frame)
    if image.shape[:2] != fit.size:
        seen, wanted = f"{image.shape[1]}x{image.shape[0]}", f"{fit.size[1]}x{fit.size[0]}"
        raise InputError(f"The painted frame is {seen} and the clip {wanted}; paint on the frame at its own size.")
    difference = cv2.absdiff(to_uint8(image[..., :3]), np.asarray(fit.clip.frames[t]))
    changed = difference.max(axis=-1) > _SAME
    if image.shape[2] == 4:
        changed &= image[..., 3] > 0
    found = []
    for name in [fit.layer(config.layer).name] if config.layer is not None else fit.layers:
        weight = fit.coordinates(t, name)[1]
        area = changed & (weight > 0)
        if config.layer is None:
            # Soft edges show two layers. Each gets its share only where the paint falls on its solid part, too: a
            # stroke beside the swan must not tint the swan's rim.
            solid = (changed & (weight > 0.9)).astype(np.uint8)
            area &= cv2.dilate(solid, np.ones((2 * _RIM + 1, 2 * _RIM + 1))) > 0
        if area.any():
            made = pull_back(fit, name, t, image[..., :3], area)
            share = fit.layer(name).shares.get(t)
            found.append(
                (name, carry_paint(fit, name, made, share.own) if config.carry and share is not None else made)
            )
    return found


def pull_back(fit: Fit, name: str, t: int, image: np.ndarray, area: np.ndarray) -> Over:
    """Colours of a part of one frame as paint on a layer's canvas.

    Args:
        image: float32 [H, W, 3] in 0..1, as it is to look in frame ``t``; the lighting there is divided out.
        area: bool [H, W], nonempty: the part. The paint's edge is antialiased.
    """
    layer, uv = fit.layer(name), fit.coordinates(t, name)[0]
    alpha = area.astype(np.float32)[..., None]
    rgba = np.concatenate([image / np.maximum(fit.lighting(t, name), 1e-3) * alpha, alpha], axis=-1)
    height, width = layer.canvas_size
    canvas = np.zeros((height, width, 4), np.float32)
    low = np.maximum(np.floor(uv[area].min(axis=0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(uv[area].max(axis=0)).astype(int) + 3, [width, height])
    ys, xs = np.mgrid[low[1] : high[1], low[0] : high[0]]
    targets = np.stack([xs, ys], axis=-1).reshape(-1, 2).astype(np.float32)
    if len(targets) == 0:
        return Over(canvas)
    pixels, error = fit.pixels_of(t, name, targets, area)
    # Texels larger than a pixel average the pixels that they cover.
    lod = level_of_detail(1.0 / max(fit.texels(t, name), 1e-3))
    found = sample_mip_points(pyramid(rgba, mip_levels(lod)), pixels, lod)
    last = np.array([fit.size[1] - 1, fit.size[0] - 1], np.float32)
    found[((pixels < -0.5) | (pixels > last + 0.5)).any(axis=-1) | (error > 0.5)] = 0
    found[:, :3] /= np.maximum(found[:, 3:], 1e-6)
    canvas[low[1] : high[1], low[0] : high[0]] = found.reshape(*xs.shape, 4)
    return Over(canvas)
