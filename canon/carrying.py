"""What lies on one segment's canvas, found on its neighbours': by way of the frames that two segments share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from canon.boxes import Box, box_size
from canon.coordinates import Size, grid_nodes
from canon.edits import Over, check_aspect, fits_canvas, in_segment
from canon.errors import InputError
from canon.fits import Fit, pixels_of
from canon.grids import grid_window
from canon.sampling import remap
from canon.segments import neighbours
from canon.storage import read_image, to_float

log = logging.getLogger("canon")

_STRIDE = 4  # texels between the places that are looked up; the rest is interpolated
_RIM = 2  # pixels around what is seen of a layer that are carried along
_MOST_LIGHT = 4.0


@dataclass(frozen=True)
class Crossing:
    """The way from a segment's canvas to the one before or after it.

    Attributes:
        number: of the segment that it leads to.
        target: that one's box in the whole canvas, at the size that was asked for.
        positions: [h, w, 2] of every texel of the target in the whole canvas, where the source has the same.
        known: bool [h, w], where a shared frame shows it.
        gain: [h, w, 3] light of the source over that of the target, which colours are multiplied with.
    """

    number: int
    target: Box
    positions: np.ndarray
    known: np.ndarray
    gain: np.ndarray

    @cached_property
    def soft(self) -> np.ndarray:
        """:attr:`known` with its border antialiased, float32 [h, w, 1]."""
        return (cv2.GaussianBlur(self.known.astype(np.float32), (0, 0), 0.7) * self.known)[..., None]

    def bring(self, image: np.ndarray, colours: bool = False, part: Box | None = None) -> np.ndarray:
        """What an image of the whole canvas shows of the target, or of a part of it, [h, w, C]; see :func:`carry`."""
        part = part or (slice(None), slice(None))
        found = remap(image, self.positions[part]) * self.soft[part]
        if colours:
            found[..., :-1] *= self.gain[part]
        return np.asarray(found)


Ways = dict[tuple[int, int, int], Crossing]
"""From a segment to another, at so many times the canvas's size."""


def crossings(fit: Fit, layer: str, segment: int, times: int = 1, ways: Ways | None = None) -> list[Crossing]:
    """The ways from a segment to all that hang together with it by overlaps, in the order in which to go them.

    Args:
        times: how many times the canvas's size the images are that are to be carried.
        ways: those that were found before; what is found is added.

    Raises:
        InputError: unknown layer or segment.
    """
    fit.segment_box(layer, segment)
    ways = {} if ways is None else ways
    keys = [(a, b, times) for a, b in neighbours(fit.layer(layer).segments, segment)]
    for key in keys:
        if key not in ways:
            ways[key] = _crossing(fit, layer, *key)
    return [ways[key] for key in keys]


def carry(
    fit: Fit, layer: str, image: np.ndarray, segment: int, colours: bool = False, ways: Ways | None = None
) -> np.ndarray:
    """An image of a layer's whole canvas, made on one segment, with what its neighbours show of the same.

    Args:
        image: float32 [Hc k, Wc k, C], premultiplied, 0 outside of the segment.
        colours: whether the channels but the last are colours, in the segment's light; the last one is opacity then.
        ways: see :func:`crossings`.

    Raises:
        InputError: unknown layer or segment.
    """
    times = max(round(image.shape[0] / fit.layer(layer).canvas_size[0]), 1)
    path, reached = crossings(fit, layer, segment, times, ways), []
    out = image.copy() if path else image
    for way in path:
        found = way.bring(out, colours)
        out[way.target] = found
        if found.any():
            reached.append(way.number)
    if reached:
        others = ", ".join(map(str, sorted(reached)))
        log.warning(
            "what is on segment %d of '%s' is carried on to segment %s, where they overlap", segment, layer, others
        )
    return out


def carry_paint(fit: Fit, layer: str, paint: Over, segment: int, ways: Ways | None = None) -> Over:
    """Paint on a layer's whole canvas, made on one segment, as :func:`carry` carries it to the others.

    Args:
        ways: see :func:`crossings`.
    """
    premultiplied = _premultiplied(paint)
    found = carry(fit, layer, premultiplied, segment, colours=True, ways=ways)
    return paint if found is premultiplied else Over(straight(found))


def check_segment(what: str, size: Size, fit: Fit, layer: str, segment: int) -> None:
    """Refuse an image of ``size`` that has not the aspect of a segment's canvas; ``what`` begins the sentence.

    Raises:
        InputError: see :func:`canon.edits.check_aspect`; it names the segments whose aspect it has.
    """
    canvases = [box_size(fit.segment_box(layer, k)) for k in range(len(fit.segments(layer)))]
    alike = [str(k) for k, canvas in enumerate(canvases) if fits_canvas(size, canvas)]
    wanted = box_size(fit.segment_box(layer, segment))
    if alike and str(segment) not in alike:
        raise InputError(
            f"{what} {size[1]}x{size[0]} as the canvas of segment {' or '.join(alike)} of '{layer}', not as that of"
            f" segment {segment} ({wanted[1]}x{wanted[0]}); say which with --segment."
        )
    check_aspect(what, size, layer, wanted)


def read_mask(path: str, fit: Fit, layer: str, segment: int) -> np.ndarray:
    """An image of a segment's aspect as how much is wanted where, float [h, w] in 0..1: its brightness.

    Raises:
        InputError: it cannot be read, or has another aspect.
    """
    image = to_float(read_image(Path(path)))
    check_segment(f"The mask '{path}' is", (image.shape[0], image.shape[1]), fit, layer, segment)
    brightness = image[..., :3].mean(axis=-1)
    # A mask drawn on transparency means: nothing where nothing was drawn.
    return np.asarray(brightness * image[..., 3] if image.shape[2] == 4 else brightness)


def on_whole_canvas(fit: Fit, layer: str, paint: Over, box: Box) -> Over:
    """Paint of the aspect of a part of a layer's whole canvas, such as a segment's box, as paint on the whole.

    Raises:
        InputError: unknown layer.
    """
    whole = fit.layer(layer).canvas_size
    if box_size(box) == whole:
        return paint
    return Over(straight(in_segment(_premultiplied(paint), whole, box)))


def _premultiplied(paint: Over) -> np.ndarray:
    alpha = paint.rgba[..., 3:]
    return np.dstack([paint.rgba[..., :3] * alpha, alpha])


def straight(premultiplied: np.ndarray) -> np.ndarray:
    """Colours and alpha [h, w, 4], the colours no longer multiplied with it."""
    alpha = premultiplied[..., 3:]
    return np.dstack([premultiplied[..., :3] / np.maximum(alpha, 1e-6), alpha])


def _crossing(fit: Fit, layer: str, a: int, b: int, times: int) -> Crossing:
    data = fit.layer(layer)
    rows, columns = fit.segment_box(layer, b)
    target = slice(rows.start * times, rows.stop * times), slice(columns.start * times, columns.stop * times)
    height, width = box_size(target)
    nodes = grid_nodes((height, width), _STRIDE)
    corner = torch.tensor([target[1].start, target[0].start])
    texels = ((nodes + corner + 0.5) / times - 0.5).reshape(-1, 2)
    positions = np.zeros((height, width, 2), np.float32)
    known = np.zeros((height, width), bool)
    gain = np.ones((height, width, 3), np.float32)
    both = [t for t in data.shared if {data.shares[t].own, data.shares[t].other} == {a, b}]
    # From where the two meet, outwards: what is closest to both is carried first.
    for t in sorted(both, key=lambda t: -data.shares[t].fade):
        here, there = data.maps(t, a), data.maps(t, b)
        seen = fit.weights(t)[fit.layers.index(layer)] > 0.5
        if here is None or there is None or not seen.any():
            continue
        pixels, error = pixels_of(there.grid, fit.stride, fit.size, texels, seen)
        lattice = np.concatenate([pixels, error[:, None]], axis=1).reshape(*nodes.shape[:2], 3)
        dense = grid_window(lattice, _STRIDE, (slice(0, height), slice(0, width)))
        at = np.ascontiguousarray(dense[..., :2])
        wide = cv2.dilate(seen.astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)).astype(np.float32)
        inside = ((at >= 0) & (at <= np.array([fit.size[1] - 1, fit.size[0] - 1], np.float32))).all(axis=-1)
        new = ~known & inside & (dense[..., 2] < 0.5) & (remap(wide[..., None], at)[..., 0] > 0.5)
        canvas = remap(np.ascontiguousarray(here.grid), at / np.float32(fit.stride))
        positions[new] = ((canvas + np.float32(0.5)) * times - np.float32(0.5))[new]
        node = at / np.float32(fit.light_stride)
        before, after = (remap(np.ascontiguousarray(light), node) for light in (here.lighting, there.lighting))
        gain[new] = (before / np.maximum(after, 1e-3)).clip(1 / _MOST_LIGHT, _MOST_LIGHT)[new]
        known |= new
    return Crossing(b, target, positions, known, gain)
