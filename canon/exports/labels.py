"""Labels (masks, part maps) of one frame or of a canvas, carried to every frame through the canonical space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
from PIL import Image
from scipy.spatial import cKDTree

from canon.boxes import box_size
from canon.carrying import check_segment, crossings
from canon.charts import chart_numbers
from canon.clip import check_frame
from canon.coordinates import Size
from canon.encode import image_folder
from canon.errors import InputError
from canon.fits import Fit, FitLayer
from canon.runtime import map_frames
from canon.sampling import fill_from_nearest
from canon.segments import neighbours
from canon.spatial import SpatialFit
from canon.storage import image_size

_MODES = ("1", "L", "P", "RGB")
_RIM = 2  # pixels of a layer's outline whose labels are not trusted
_GAP = 2.0  # texels between neighbouring pixels on a canvas finer than the frame

_Look = Callable[[int, np.ndarray], np.ndarray]
"""The labels [N, ...] of those pixels of a frame that a bool [H, W] chooses."""


def propagate_labels(fit: Fit, labels: np.ndarray, frame: int = 0, extend: bool = True) -> Iterator[np.ndarray]:
    """Every frame's labels, given those of one frame.

    Each layer carries the labels well inside it on its canvas; a pixel takes those of the layer that it shows. Where a
    canvas is made of charts, what is near on it may be far on the surface: there, labels are carried by the places in
    three dimensions that pixels show, or, in a fit without these, no further than around the labelled pixels.

    Args:
        labels: [H, W] or [H, W, C] of any kind that compares; they are never mixed.
        extend: whether a place that the labelled frame does not show takes the nearest label, or 0.

    Raises:
        InputError: there is no such frame, or the labels have another size than the frames.
    """
    check_frame(frame, len(fit))
    if labels.shape[:2] != fit.size:
        seen, wanted = f"{labels.shape[1]}x{labels.shape[0]}", f"{fit.size[1]}x{fit.size[0]}"
        raise InputError(f"The labels are {seen} and the frames {wanted}; label a frame at its own size.")
    owner = np.argmax(fit.weights(frame), axis=0)
    looks = [_look(fit, name, frame, labels, owner == k, extend) for k, name in enumerate(fit.layers)]

    def one(t: int) -> np.ndarray:
        if t == frame:
            return labels.copy()
        found, here = np.zeros_like(labels), np.argmax(fit.weights(t), axis=0)
        for k, look in enumerate(looks):
            shown = here == k
            if shown.any():
                found[shown] = look(t, shown)
        return found

    return map_frames(one, range(len(fit)))


def _look(fit: Fit, name: str, frame: int, labels: np.ndarray, own: np.ndarray, extend: bool) -> _Look:
    """How frames look up the labels that one frame's pixels ``own`` give to a layer."""
    kernel = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
    # Who labels an outline and who mattes it rarely agree to the pixel.
    inner = cv2.erode(own.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    inner = inner if inner.any() else own
    if not inner.any():
        return lambda t, shown: np.zeros((np.count_nonzero(shown), *labels.shape[2:]), labels.dtype)
    layer = fit.layer(name)
    if layer.charts and isinstance(fit, SpatialFit):
        return _by_place(fit, name, frame, labels, inner, extend)
    canvas = _on_canvas(fit, name, frame, labels, inner, extend and not layer.charts)

    def look(t: int, shown: np.ndarray) -> np.ndarray:
        x, y = _nearest(fit.coordinates(t, name)[0][shown], layer.canvas_size)
        return np.asarray(canvas[y, x])

    return look


def _by_place(fit: SpatialFit, name: str, frame: int, labels: np.ndarray, inner: np.ndarray, extend: bool) -> _Look:
    """Labels of one frame's pixels ``inner``, looked up by the nearest of the places of the layer that they show."""
    places, known = fit.coordinates_3d(frame, name)[inner], labels[inner]
    tree = cKDTree(places)
    apart = float(np.median(tree.query(places, k=2)[0][:, 1]))
    # As far as on a canvas whose texels are as large as what a pixel shows; a single place says nothing of its size.
    reach = np.inf if extend else (_RIM + _GAP) * apart if np.isfinite(apart) else 0.0

    def look(t: int, shown: np.ndarray) -> np.ndarray:
        distance, index = tree.query(fit.coordinates_3d(t, name)[shown])
        found = known[index]
        found[distance > reach] = 0
        return np.asarray(found)

    return look


def _on_canvas(fit: Fit, name: str, frame: int, labels: np.ndarray, inner: np.ndarray, extend: bool) -> np.ndarray:
    """The labels of one frame's pixels ``inner`` on a layer's canvas; every texel takes those of the nearest pixel."""
    size = fit.layer(name).canvas_size
    canvas = np.zeros((*size, *labels.shape[2:]), labels.dtype)
    x, y = _nearest(fit.coordinates(frame, name)[0][inner], size)
    known = np.zeros(size, bool)
    canvas[y, x], known[y, x] = labels[inner], True
    distance, (rows, columns) = _nearest_known(fit.layer(name), known)
    canvas = canvas[rows, columns]
    far = distance > _GAP + _RIM * fit.texels(frame, name)
    if not extend:
        canvas[far] = 0
    share = fit.layer(name).shares.get(frame)
    return canvas if share is None else _on_segments(fit, name, canvas, ~far, share.own, extend)


def _nearest_known(layer: FitLayer, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every texel how far the nearest known one of the same chart is, [Hc, Wc], and its row and column.

    Args:
        known: bool [Hc, Wc], not empty. In charts without such texels the distance is infinite.

    Returns:
        distance: float64 [Hc, Wc] in texels.
        place: int [2, Hc, Wc].
    """
    if not layer.charts:
        return scipy.ndimage.distance_transform_edt(~known, return_indices=True)  # type: ignore[no-any-return]
    charts = chart_numbers(layer)
    distance, place = np.full(known.shape, np.inf), np.indices(known.shape)
    for number, box in enumerate(scipy.ndimage.find_objects(charts), start=1):
        own = charts[box] == number
        if (own & known[box]).any():
            away, nearest = scipy.ndimage.distance_transform_edt(~(own & known[box]), return_indices=True)
            corner = np.array([[box[0].start], [box[1].start]])
            distance[box][own], place[:, *box][:, own] = away[own], nearest[:, own] + corner
    return distance, place


def _on_segments(fit: Fit, name: str, canvas: np.ndarray, known: np.ndarray, segment: int, extend: bool) -> np.ndarray:
    """Labels of a layer's whole canvas that are right in one segment, carried to those that overlap it in time.

    Args:
        known: bool [Hc, Wc], where the labels were not guessed.
        extend: whether texels that no shared frame shows take the nearest label, or 0.
    """
    found, right = np.zeros_like(canvas), np.zeros_like(known)
    box = fit.segment_box(name, segment)
    found[box], right[box] = canvas[box], known[box]
    for way in crossings(fit, name, segment):
        x, y = _nearest(way.positions, fit.layer(name).canvas_size)
        there = way.known & right[y, x]
        if not there.any():
            continue
        labels = np.where(there.reshape(*there.shape, *[1] * (canvas.ndim - 2)), found[y, x], 0)
        if extend:
            rows, columns = scipy.ndimage.distance_transform_edt(~there, return_distances=False, return_indices=True)
            labels = labels[rows, columns]
        found[way.target], right[way.target] = labels, there
    return found


def labels_from_canvas(fit: Fit, labels: np.ndarray, layer: str, segment: int = 0) -> Iterator[np.ndarray]:
    """Every frame's labels, given those of a layer's canvas; pixels that show another layer get 0.

    On a canvas of charts, labels drawn beside these count for nothing.

    Args:
        labels: [h, w] or [h, w, C], of the canvas's aspect.
        segment: the one that they are of; those that overlap it in time show what is carried to them, others get 0.

    Raises:
        InputError: unknown layer or segment, or labels of another aspect.
    """
    box, size = fit.segment_box(layer, segment), (labels.shape[0], labels.shape[1])
    height, width = box_size(box)
    check_segment("The labels are", size, fit, layer, segment)
    parts = fit.layer(layer).segments
    if fit.layer(layer).charts:
        labels = _filled(labels, fit.layer(layer).coverage[box] > 0)
    scale = np.array([size[1] / width, size[0] / height], np.float32)
    whole, corner = labels, np.array([box[1].start, box[0].start], np.float32)
    reached = {segment, *(way for _, way in neighbours(parts, segment))}
    if len(reached) > 1:
        y, x = np.ogrid[:height, :width]
        placed = np.zeros((*fit.layer(layer).canvas_size, *labels.shape[2:]), labels.dtype)
        placed[box] = labels[(y * size[0]) // height, (x * size[1]) // width]
        whole = _on_segments(fit, layer, placed, np.ones(placed.shape[:2], bool), segment, extend=False)

    def one(t: int) -> np.ndarray:
        found = np.zeros((*fit.size, *labels.shape[2:]), labels.dtype)
        if parts and (t not in fit.layer(layer).shares or fit.layer(layer).shares[t].own not in reached):
            return found
        uv, weight = fit.coordinates(t, layer)
        own = not parts or fit.layer(layer).shares[t].own == segment
        # On their own segment the labels keep their size.
        at = (uv - corner + np.float32(0.5)) * scale - np.float32(0.5) if own else uv
        source = labels if own else whole
        x, y = _nearest(at, (source.shape[0], source.shape[1]))
        shown = weight > 0.5
        found[shown] = source[y[shown], x[shown]]
        return found

    return map_frames(one, range(len(fit)))


def _filled(labels: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Labels [h, w, ...] of a canvas whose texels beside the charts are those of the nearest one ``inside`` [Hc, Wc].

    What a chart's outermost texels show may round to the next one, whose centre is outside.
    """
    size = labels.shape[1], labels.shape[0]
    known = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return fill_from_nearest(labels.reshape(*labels.shape[:2], -1), known).reshape(labels.shape)


def _nearest(positions: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    whole = np.rint(positions).astype(np.int64)
    return whole[..., 0].clip(0, size[1] - 1), whole[..., 1].clip(0, size[0] - 1)


def export_labels(
    fit: Fit,
    source: Path,
    folder: str | Path,
    frame: int = 0,
    canvas_of: str | None = None,
    extend: bool = True,
    segment: int = 0,
) -> int:
    """Write a folder of PNGs, 00000.png and so on, with the labels of an image carried to all frames.

    Args:
        source: PNG of grey values, palette indices (kept with their palette) or colours.
        frame: the frame that the image belongs to.
        canvas_of: the layer on whose canvas the image lies instead.
        extend: see :func:`propagate_labels`.
        segment: of that layer, see :func:`labels_from_canvas`.

    Returns:
        the number of frames.

    Raises:
        InputError: the image cannot be read or does not fit, or the folder cannot be written.
    """
    labels, palette = _read_labels(source)
    frames = (
        propagate_labels(fit, labels, frame, extend)
        if canvas_of is None
        else labels_from_canvas(fit, labels, canvas_of, segment)
    )
    count = 0
    with image_folder(Path(folder)) as out:
        for count, found in enumerate(frames, start=1):
            image = Image.fromarray(found)
            if palette is not None:
                image.putpalette(palette)
            image.save(out / f"{count - 1:05d}.png")
    return count


def _read_labels(path: Path) -> tuple[np.ndarray, list[int] | None]:
    image_size(path)  # refuses what is no image, or too large, before it is decoded
    try:
        with Image.open(path) as file:
            image = file if file.mode in _MODES else file.convert("RGB")
            palette = image.getpalette() if image.mode == "P" else None
            return np.array(image.convert("L") if image.mode == "1" else image), palette
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"The labels '{path}' cannot be read; give a PNG.") from error
