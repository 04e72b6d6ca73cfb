"""How good a fit and an edit are: reconstruction, flicker against the source's own motion, what sticks, what leaks.

What takes arrays is pure; what takes a fit or a video streams it, a few frames in memory. :func:`canon.evaluate` puts
them together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from canon.charts import chart_numbers, charts_at, unbroken
from canon.coordinates import grid_nodes
from canon.edits import Delta, Field, Over, Warp, resize_to
from canon.fits import Fit
from canon.grids import grid_window, jacobian
from canon.registry import Frames
from canon.rendering import Video
from canon.runtime import map_frames
from canon.sampling import remap
from canon.warping import moved_area

BEST_PSNR = 100.0
"""Decibels that are reported for frames without any error: files of figures hold no infinity."""
TRACK_THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pixels; those of TAP-Vid (Doersch et al. 2022), which applies them at 256x256."""
_SMALLEST_WINDOW = 7
_FLOW_SIDE = 16  # DIS needs images of at least this side
_TRACKED = 256
_PALETTE_PIXELS = 20_000  # of a frame: their mean is the frame's within a hundredth of the spread of its values
_SAME = 1e-4  # embeddings of unit length that differ by less have no direction but that of rounding


# --- images ---


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Decibels between two images; infinite when they are equal.

    Args:
        a, b: [H, W, C], uint8 or float in 0..1.
        where: bool [H, W]; only these pixels count, and at least one must.
    """
    square = (_unit(a) - _unit(b)) ** 2
    mean = float(np.mean(square if where is None else square[where], dtype=np.float64))
    return float("inf") if mean == 0 else float(-10 * np.log10(mean))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, with their Gaussian window) of two images, at most 1.

    Args:
        a, b: [H, W, C], uint8 or float in 0..1. Images with a side below 11 pixels are compared with a smaller window.
    """
    from skimage.metrics import structural_similarity

    side = min(a.shape[:2])
    # The Gaussian window is 11 wide; a box that still fits is the best that a sliver of an image allows.
    window: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    if side < 11:
        window = {"win_size": min(_SMALLEST_WINDOW, side if side % 2 else side - 1)}
    if side < 3:
        return float("nan")
    return float(structural_similarity(_unit(a), _unit(b), data_range=1.0, channel_axis=-1, **window))


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one shape; 1 when both are empty."""
    union = int(np.count_nonzero(a | b))
    return 1.0 if union == 0 else int(np.count_nonzero(a & b)) / union


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image.astype(np.float32)


# --- motion ---


def source_flow(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optical flow (DIS: Kroeger et al. 2016) between two frames, and where it can be believed.

    Args:
        a, b: uint8 [H, W, 3].

    Returns:
        flow: float32 [H, W, 2] (x, y) in pixels, from ``a`` to ``b``; 0 in images too small for DIS.
        valid: bool [H, W], inside ``b`` and undone by the flow back (Sundaram et al. 2010): False where occluded.
    """
    height, width = a.shape[:2]
    if min(height, width) < _FLOW_SIDE:
        return np.zeros((height, width, 2), np.float32), np.ones((height, width), bool)
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grays = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (a, b)]
    flow, back = (
        np.asarray(engine.calc(a, b, np.zeros((height, width, 2), np.float32))) for a, b in (grays, grays[::-1])
    )
    xy = _moved(flow)
    returned = remap(back, xy)
    error = ((flow + returned) ** 2).sum(axis=-1)
    allowed = 0.01 * ((flow**2).sum(axis=-1) + (returned**2).sum(axis=-1)) + 0.5
    inside = ((xy >= 0) & (xy <= np.array([width - 1, height - 1]))).all(axis=-1)
    return flow, inside & (error < allowed)


def warp_error(frame: np.ndarray, following: np.ndarray, flow: np.ndarray, valid: np.ndarray) -> float:
    """Flicker: mean squared difference of a frame and the next one warped back, colours in 0..1 (Lai et al. 2018).

    Args:
        frame, following: uint8 [H, W, 3] or float in 0..1.
        flow: [H, W, 2] from ``frame`` to ``following``, of the source.
        valid: bool [H, W], where it is judged; nan if nowhere.
    """
    if not valid.any():
        return float("nan")
    warped = remap(_unit(following), _moved(flow))
    return float(np.mean((_unit(frame) - warped)[valid] ** 2, dtype=np.float64))


def _moved(flow: np.ndarray) -> np.ndarray:
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], axis=-1) + flow.astype(np.float32)


# --- tracks ---


def track_errors(
    predicted: np.ndarray,
    visible: np.ndarray,
    truth: np.ndarray,
    truth_visible: np.ndarray,
    thresholds: Sequence[float] = TRACK_THRESHOLDS,
) -> dict[str, float]:
    """Point tracks against the truth, by the definitions of TAP-Vid (Doersch et al. 2022, section 3).

    Args:
        predicted, truth: [T, N, 2] positions (x, y) in pixels. Leave out the frame where the points were given.
        visible, truth_visible: bool [T, N].
        thresholds: pixels within which a position counts as right.

    Returns:
        median, p90: of the distance in pixels where the point is truly visible; delta: share of those within the
        threshold, averaged over thresholds; average_jaccard: true positives over true positives, false positives and
        false negatives, averaged over thresholds; occlusion_accuracy. All nan if no point is visible.
    """
    distance = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=-1)
    visible, truth_visible = np.asarray(visible, bool), np.asarray(truth_visible, bool)
    names = ("median", "p90", "delta", "average_jaccard", "occlusion_accuracy")
    if not truth_visible.any():
        return dict.fromkeys(names, float("nan"))
    seen = distance[truth_visible]
    deltas, jaccards = [], []
    for threshold in thresholds:
        near = distance < threshold
        deltas.append(float((seen < threshold).mean()))
        true_positives = int((near & visible & truth_visible).sum())
        # A visible guess is wrong where the point is hidden, or elsewhere.
        false_positives = int((visible & ~(near & truth_visible)).sum())
        jaccards.append(true_positives / (int(truth_visible.sum()) + false_positives))
    accuracy = float((visible == truth_visible).mean())
    values = (np.median(seen), np.percentile(seen, 90), np.mean(deltas), np.mean(jaccards), accuracy)
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def cycle_error(fit: Fit, count: int = _TRACKED, seed: int = 0) -> float:
    """Median distance in pixels after following points from the first frame to the last seen and back; nan if none is.

    It finds maps that contradict themselves (folds, mixed-up layers), not ones that are wrong in a consistent way.
    """
    rng = np.random.default_rng(seed)
    points = (rng.uniform(0, 1, (count, 2)) * [fit.size[1] - 1, fit.size[0] - 1]).astype(np.float32)
    positions, visible = fit.track(points, 0)
    errors = []
    for t in sorted({len(fit) // 2, len(fit) - 1} - {0}):
        if visible[t].any():
            back, _ = fit.track(positions[t][visible[t]], t)
            errors.append(np.linalg.norm(back[0] - points[visible[t]], axis=-1))
    return float(np.median(np.concatenate(errors))) if errors else float("nan")


def folded(fit: Fit) -> float:
    """Share of what is seen of the layers where their coordinates fold: the Jacobian's determinant is not above 0.

    A place that is folded is on its canvas twice, or mirrored; published fields are asked to have next to none. On a
    canvas of charts, nodes count whose neighbours are on the same chart (:func:`canon.charts.unbroken`), and since a
    chart may be mirrored as a whole, those are folded whose sign is not that of most nodes on their chart.
    """
    height, width = fit.size
    nodes = grid_nodes(fit.size, fit.stride).numpy().astype(int)
    x, y = np.minimum(nodes[..., 0], width - 1), np.minimum(nodes[..., 1], height - 1)
    canvases = [chart_numbers(layer) if layer.charts else None for layer in fit.baked]

    def frame(t: int) -> list[np.ndarray]:
        """For each layer the nodes that are upright and turned, on each chart: int64 [2, charts]."""
        found = []
        for layer, numbers, weight in zip(fit.baked, canvases, fit.weights(t), strict=True):
            grid = np.array(layer.grid[t])
            turned = jacobian(torch.from_numpy(grid), fit.stride).det().numpy() <= 0
            chart, count = (weight[y, x] > 0.5).astype(np.int64), 1
            if numbers is not None:
                chart *= charts_at(numbers, grid)
                chart[~unbroken(grid, chart)] = 0
                count = int(numbers.max())
            tally = [np.bincount(chart[way], minlength=count + 1)[1:] for way in (~turned, turned)]
            found.append(np.stack(tally))
        return found

    bad = total = 0
    for layer, frames in zip(fit.baked, zip(*map_frames(frame, range(len(fit))), strict=True), strict=True):
        upright, turned = np.sum(frames, axis=0)
        bad += int((np.minimum(upright, turned) if layer.charts else turned).sum())
        total += int((upright + turned).sum())
    return bad / max(total, 1)


# --- a whole fit ---


def reconstruction(fit: Fit) -> dict[str, float]:
    """PSNR and SSIM of the reconstruction, with and without lighting: means over frames, and the worst frame."""

    def frame(t: int) -> tuple[float, ...]:
        source = np.asarray(fit.clip.frames[t])
        looks = [np.clip(fit.reconstruct(t, lit), 0, 1) for lit in (True, False)]
        return tuple(min(psnr(look, source), BEST_PSNR) for look in looks) + tuple(ssim(look, source) for look in looks)

    rows = np.array(list(map_frames(frame, range(len(fit)))))
    names = ("psnr", "psnr_unlit", "ssim", "ssim_unlit")
    figures = {name: float(rows[:, k].mean()) for k, name in enumerate(names) if np.isfinite(rows[:, k]).all()}
    return {**figures, "psnr_min": float(rows[:, 0].min())}


def mask_agreement(fit: Fit) -> dict[str, float]:
    """``iou_LAYER``: mean over the frames whose mask the clip knows."""
    found = {}
    front = fit.layers[0]
    for given, mask in fit.clip.masks.items():
        # Masks of a flat folder are of "the foreground", whatever a representation calls what is in front.
        name = front if front != fit.layers[-1] and not set(fit.clip.masks) & set(fit.layers) else given
        if name in fit.layers and f"iou_{name}" not in found:
            k = fit.layers.index(name)
            known = [(t, mask.get(t)) for t in mask.indices]
            values = [mask_iou(fit.weights(t)[k] > 0.5, np.asarray(m) > 127) for t, m in known if m is not None]
            found[f"iou_{name}"] = float(np.mean(values))
    return found


# --- a whole edit ---


def flicker(video: Video, frames: Frames | None = None) -> dict[str, float]:
    """Warp errors of an edited video and of its source: on the whole frame, and inside :func:`edited_area`.

    Args:
        frames: uint8 [H, W, 3] each, to be judged in the video's place on the very same pixels.

    Returns:
        warp_error, warp_error_source, and both again with ``_inside``: means over pairs of frames of one view;
        warp_error_excess_inside: what the edit adds to the source's own inside. Left out where there is nothing to see.
    """
    source = video.fit.clip.frames
    judged = video if frames is None else frames

    def pair(t: int) -> list[float]:
        before = [np.asarray(source[t]), np.asarray(source[t + 1])]
        after = [np.asarray(judged[t]), np.asarray(judged[t + 1])]
        flow, valid = source_flow(*before)
        inside = valid & edited_area(video, t)
        return [warp_error(x[0], x[1], flow, where) for where in (valid, inside) for x in (after, before)]

    # Where the next view begins, the frame that follows is another camera's.
    pairs = np.flatnonzero(np.diff(video.fit.clip.moments) > 0).tolist()
    rows = np.array(list(map_frames(pair, pairs))).reshape(-1, 4)
    names = ("warp_error", "warp_error_source", "warp_error_inside", "warp_error_source_inside")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column may hold nothing but nan
        means = np.nanmean(rows, axis=0) if len(rows) else np.full(4, np.nan)
    found = dict(zip(names, means.tolist(), strict=True))
    found["warp_error_excess_inside"] = found["warp_error_inside"] - found["warp_error_source_inside"]
    return {name: value for name, value in found.items() if np.isfinite(value)}


def palette_distance(video: Video, frames: Frames, colour: np.ndarray) -> float:
    """Mean CIEDE2000 between a colour and the pixels of some frames inside :func:`edited_area`; nan if that is empty.

    Args:
        video: says which pixels are edited.
        frames: uint8 [H, W, 3] each, to be judged: the video itself, its source, or a baseline.
        colour: uint8 [3], sRGB.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    target = rgb2lab(np.asarray(colour, np.uint8)[None])

    def frame(t: int) -> tuple[float, int]:
        pixels = np.asarray(frames[t])[edited_area(video, t)]
        some = pixels
        if len(pixels) > _PALETTE_PIXELS:
            # At random, since even steps fall in with stripes; the same for every video of this area.
            some = pixels[np.random.default_rng(0).integers(len(pixels), size=_PALETTE_PIXELS)]
        return (float(deltaE_ciede2000(rgb2lab(some), target).mean()) if len(some) else 0.0), len(pixels)

    means, counts = np.array(list(map_frames(frame, range(len(video))))).T
    return float((means * counts).sum() / counts.sum()) if counts.any() else float("nan")


def leaks(video: Video) -> dict[str, float]:
    """What changed where no edit touches, and how much of the video was edited at all."""

    def frame(t: int) -> tuple[float, float, float, float]:
        change = cv2.absdiff(video[t], np.asarray(video.fit.clip.frames[t])).max(axis=-1)
        outside = change[~touched(video, t)]
        return float(outside.max(initial=0)), float(outside.sum()), float(outside.size), float((change > 0).mean())

    rows = np.array(list(map_frames(frame, range(len(video)))))
    return {
        "changed_outside": float(rows[:, 0].max()),
        "changed_outside_mean": float(rows[:, 1].sum() / max(rows[:, 2].sum(), 1)),
        "edited_share": float(rows[:, 3].mean()),
    }


def touched(video: Video, t: int) -> np.ndarray:
    """Pixels of frame ``t`` that an edit may change, bool [H, W], found without the renderer's help.

    A pixel is touched when a layer that is edited there is seen in it; paint counts with the texels around it that
    filtering reads along with it, and a removal with the pixels by which it is widened.
    """
    return _area(video, t, rim=True)


def edited_area(video: Video, t: int) -> np.ndarray:
    """Pixels of frame ``t`` that are an edit's own, bool [H, W]: where its figures are measured.

    There the edited layer makes up more than half of the pixel, and paint or mask is above half of its highest opacity
    in the texel seen; a removal counts with the pixels by which it is widened. Values of pixels play no part, so that
    the area is the same for every video that is compared on it.
    """
    return _area(video, t, rim=False)


def _area(video: Video, t: int, rim: bool) -> np.ndarray:
    """The two areas above: ``rim`` takes in all that an edit could reach, however faintly."""
    fit = video.shown
    weights = fit.weights(t)
    found = np.zeros(fit.size, bool)
    for edit in video.edits:
        for step in edit.steps:
            k = fit.layers.index(step.layer)
            seen = weights[k] > (0 if rim else 0.5)
            if isinstance(step.operation, Over | Delta):
                area = step.operation.rgba[..., 3] if isinstance(step.operation, Over) else step.operation.mask
                found |= seen if area is None else seen & _reached(fit, t, step.layer, area, rim)
            elif isinstance(step.operation, Warp):
                found |= moved_area(video.fit, step.layer, t, step.operation, rim)
            elif isinstance(step.operation, Field):
                found |= seen | (video.fit.weights(t)[k] > (0 if rim else 0.5))
            else:
                # Whatever hides it may be soft: there the removal shows through, and its own opacity is what counts.
                gone = np.asarray(fit.baked[k].opacity[t]) > 0 if rim else seen  # type: ignore[index]
                side = 2 * step.operation.grow + 1
                found |= cv2.dilate(gone.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    return found


def _reached(fit: Fit, t: int, name: str, area: np.ndarray, rim: bool) -> np.ndarray:
    """Where frame ``t`` sees texels whose ``area`` (of the canvas, at any scale) is high, or with ``rim`` any at all.

    With ``rim``, neighbours of such texels count, too.
    """
    canvas = fit.layer(name).canvas_size
    least = 0 if rim else 0.5 * float(area.max())
    on = (resize_to(np.ascontiguousarray(area, np.float32), canvas) > least).astype(np.uint8)
    found = np.zeros(fit.size, bool)
    for view in fit.views(t, name):
        coarse = max(view.texels, canvas[0] / area.shape[0], 1.0)
        side = 2 * int(np.ceil(2 * coarse + 1)) + 1 if rim else 1
        near = cv2.dilate(on, np.ones((side, side), np.uint8))
        uv = grid_window(view.grid, fit.stride, fit.whole)
        # Canvases may be wider than OpenCV's remap can address.
        x = np.clip(np.rint(uv[..., 0]), 0, canvas[1] - 1).astype(np.int64)
        y = np.clip(np.rint(uv[..., 1]), 0, canvas[0] - 1).astype(np.int64)
        found |= near[y, x] > 0
    return found


# --- embeddings of images and texts ---


def frame_consistency(embeddings: np.ndarray, all_pairs: bool = False, views: int = 1) -> float:
    """Mean cosine similarity between frames by their embeddings; nan if there are no two to compare.

    Args:
        embeddings: [T, D], of any length but 0.
        all_pairs: between any two frames (Tune-A-Video, Wu et al. 2023); else neighbours alone (FateZero, Qi et al.
            2023).
        views: how many synchronised views the frames are of, which lie view after view: neighbours are of one view.
    """
    unit = _unit_length(embeddings)
    count = len(unit)
    if count < 2:
        return float("nan")
    if all_pairs:
        # The square of the sum holds every pair twice, and every frame with itself.
        return float(((unit.sum(axis=0) ** 2).sum() - count) / (count * (count - 1)))
    each = unit.reshape(views, count // views, -1)
    similar = (each[:, 1:] * each[:, :-1]).sum(axis=-1)
    return float(similar.mean()) if similar.size else float("nan")


def text_similarity(embeddings: np.ndarray, text: np.ndarray) -> float:
    """Mean cosine similarity of frames [T, D] and a text [D] by their embeddings."""
    return float((_unit_length(embeddings) @ _unit_length(text)).mean())


def directional_similarity(source: np.ndarray, edited: np.ndarray, source_text: np.ndarray, text: np.ndarray) -> float:
    """Cosine of the change of the image and the change of the text (Gal et al. 2022), mean over frames that changed.

    Args:
        source, edited: embeddings [T, D] of the frames before and after.
        source_text, text: embeddings [D] of what describes them; nan if they are equal, or if no frame changed.
    """
    images, words = _unit_length(edited) - _unit_length(source), _unit_length(text) - _unit_length(source_text)
    changed = np.linalg.norm(images, axis=-1) > _SAME
    if not changed.any() or np.linalg.norm(words) <= _SAME:
        return float("nan")
    return text_similarity(images[changed], words)


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
