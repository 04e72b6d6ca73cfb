"""A draft's layers as files of other paint programs, and back."""

from __future__ import annotations

import numpy as np

from canon.errors import InputError
from canon.viewer import pictures
from canon.viewer.draft_layers import DraftLayer, Target
from canon.viewer.drafts import Draft
from canon.viewer.images import decoded_rgba, encoded
from canon.viewer.studio import Studio

FORMATS = ("ora", "psd", "png")
BOTTOM = "canonical"
"""Name of the layer that is painted on; layers of this name are not read back."""


def exported(studio: Studio, draft: Draft, target: Target, format: str) -> bytes:
    """What is painted on a canvas or frame as a layered file, what was painted on at the bottom; or flat, as PNG.

    Raises:
        InputError: no such target or format, or a package for it is missing.
    """
    from canon.layered_images import LayeredImage, PaintLayer, encoded_layers, flattened

    if format not in FORMATS:
        raise InputError(f"A drawing is exported as {', '.join(FORMATS)}, not as '{format}'.")
    box = target.box(draft.fit)
    if target.frame is None:
        assert target.layer is not None
        composed = studio.composed(draft.fit_name, draft.edits) if draft.edits else {}
        bottom = pictures.canvas(draft.fit, target.layer, target.segment, composed.get(target.layer))
    else:
        frame = studio.preview(draft.fit_name, target.frame, draft.edits)
        bottom = np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
    with draft.lock:
        layers = [PaintLayer(BOTTOM, bottom)]
        for layer in draft.layers:
            if layer.target == target:
                layers.append(PaintLayer(layer.name, layer.rgba.copy(), opacity=layer.opacity, visible=layer.visible))
    image = LayeredImage((box[0].stop - box[0].start, box[1].stop - box[1].start), layers)
    if format == "png":
        return encoded(flattened(image), "png")
    return encoded_layers(image, f".{format}")


def imported(draft: Draft, target: Target, data: bytes, name: str) -> list[DraftLayer]:
    """The layers of a file as layers of paint on a canvas or frame, on top of those that are there.

    Args:
        name: of the file; its ending says what it is.

    Raises:
        InputError: it cannot be read, or is of another size than what it was painted on.
    """
    from canon.layered_images import read_layers

    box = target.box(draft.fit)
    size = box[0].stop - box[0].start, box[1].stop - box[1].start
    suffix = name.lower().rpartition(".")[2]
    if suffix in ("ora", "psd"):
        image = read_layers(data)
        _check_size(image.size, size)
        found = []
        for layer in image.layers:
            if layer.name.strip().lower() == BOTTOM:
                continue
            rgba = np.zeros((*size, 4), np.uint8)
            _put(rgba, layer.rgba, layer.offset)
            found.append((layer.name, rgba, float(layer.opacity), bool(layer.visible)))
        if not found:
            raise InputError(f"'{name}' holds no layer besides the one called '{BOTTOM}'; paint on layers above it.")
    else:
        rgba = decoded_rgba(data)
        _check_size((rgba.shape[0], rgba.shape[1]), size)
        found = [(name.rpartition(".")[0] or name, rgba, 1.0, True)]
    with draft.lock:
        return [
            draft.add_layer(target, label, rgba=rgba, opacity=opacity, visible=visible)
            for label, rgba, opacity, visible in found
        ]


def _check_size(seen: tuple[int, int], wanted: tuple[int, int]) -> None:
    if tuple(seen) != tuple(wanted):
        raise InputError(
            f"The picture is {seen[1]}x{seen[0]} and what it is to lie on {wanted[1]}x{wanted[0]}; keep the size, or"
            " place it as a sticker."
        )


def _put(canvas: np.ndarray, image: np.ndarray, offset: tuple[int, int]) -> None:
    """Copy an image into another one, as far as it lies inside of it."""
    x, y = offset
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + image.shape[1], canvas.shape[1]), min(y + image.shape[0], canvas.shape[0])
    if left < right and top < bottom:
        canvas[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
