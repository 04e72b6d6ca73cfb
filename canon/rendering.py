"""Edits composited onto the source: pixels that no edit touches are the source's, bit for bit.

With canvas colour s, edited colour c', lighting L, weight w and kept share k per layer, residual r = source - sum w L s
and w' the weights once removed layers are gone, a frame is

    out = K r + sum w' L c'        where K = 1 - sum over edited layers of w (1 - k), removed layers counting as k = 0

which is ``source + sum w [L (c' - s) - (1 - k) r]`` if none is removed. It is computed as source * K plus the edit's
own colour, plus canvas colours at the few pixels where they do not cancel: soft edges, and what a removal uncovers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from canon import progress
from canon.boxes import Box, around, grown
from canon.clip import Clip
from canon.compose import compose
from canon.edits import Edit
from canon.enlarging import enlarged
from canon.fits import Fit, View, nonzero_box
from canon.grids import grid_window
from canon.runtime import map_frames
from canon.spatial import with_fields
from canon.video import write_video
from canon.warping import warped

_STAGE = "rendering"
_FAINT = 13
"""Opacity (of 255) below which a trace of a removed layer does not make its surroundings vanish: 5 %."""


def render(fit: Fit, edits: Edit | Sequence[Edit] = (), lit: bool = True, scale: int = 1) -> Video:
    """The video with an edit, or with a stack of edits in order; frames are made when they are asked for.

    Args:
        lit: whether the light of the scene falls on the edit, too.
        scale: times the clip's size; the source is enlarged, edits keep the detail that their canvases have.

    Raises:
        InputError: an edit does not belong to this fit (layer, aspect), or removes the last layer; or the scale is not
            one that :func:`canon.enlarging.enlarged` takes.
    """
    return Video(fit, [edits] if isinstance(edits, Edit) else list(edits), lit, scale)


def save_frames(clip: Clip, path: str | Path, frames: Iterable[np.ndarray]) -> int:
    """Write frames with the times, sound and colour range of a clip; see :func:`canon.video.write_video`."""
    return write_video(
        path,
        frames,
        clip.fps,
        timestamps=clip.timestamps,
        audio_from=clip.audio_path,
        color_range=clip.color_range,
    )


def _of_view(path: str | Path, view: str) -> str:
    """``out-cam01.mp4`` of ``out.mp4``, ``out/cam01/`` of a folder."""
    place = Path(path)
    if str(path).endswith("/") or not place.suffix:
        return f"{place / view}/"
    return str(place.with_name(f"{place.stem}-{view}{place.suffix}"))


class Video:
    """An edited video: ``len(video)``, ``video[t]``, iteration on all cores, :meth:`save`."""

    def __init__(self, fit: Fit, edits: Sequence[Edit], lit: bool = True, scale: int = 1) -> None:
        self.fit, self.edits, self.lit = enlarged(fit, scale), list(edits), lit
        changed = with_fields(self.fit, edits)
        self.shown = warped(changed, edits)
        """The fit after fields were replaced and layers moved: its frames are the source that all else of the edits is
        laid over."""
        self._layers = compose(changed, edits)
        for edit in self._layers.values():
            edit.grow *= scale
        self._removed = [name for name, edit in self._layers.items() if edit.removed]

    def __len__(self) -> int:
        return len(self.fit)

    def __getitem__(self, t: int) -> np.ndarray:
        """Edited frame ``t``, uint8 [H, W, 3]."""
        t = self.shown.index(t)
        out = np.array(self.shown.clip.frames[t])
        boxes = self._boxes(t)
        if boxes:
            box = around(boxes.values())
            out[box] = self._part(t, box, boxes, out[box])
        return out

    def __iter__(self) -> Iterator[np.ndarray]:
        return map_frames(self.__getitem__, range(len(self)))

    def rgba(self, t: int, layer: str) -> np.ndarray:
        """One layer of the edited frame cut out, uint8 [H, W, 4], straight alpha.

        Opacity is the layer's weight. At soft edges the colour is the layer's own, not the mixture with what is behind.
        """
        t = self.shown.index(t)
        weight = self.shown.weights(t, without=self._removed)[self.shown.layers.index(layer)]
        colour = self[t]
        y, x = np.nonzero((weight > 0) & (weight < 1))
        if len(y):
            colour[y, x] = self._own_colour(t, layer, np.stack([x, y], axis=-1).astype(np.float32))
        return np.dstack([colour, (weight * 255 + 0.5).astype(np.uint8)])

    def alpha(self, t: int, layer: str) -> np.ndarray:
        """Opacity of :meth:`rgba`, uint8 [H, W]."""
        return self.rgba(t, layer)[..., 3]

    def _own_colour(self, t: int, layer: str, points: np.ndarray) -> np.ndarray:
        colour = self.shown.look(t, layer, points) * 255
        edit = self._layers.get(layer)
        if edit is not None and edit.levels:
            x, y = points[:, 0].astype(int), points[:, 1].astype(int)
            kept, added = np.ones((len(points), 1), np.float32), np.zeros_like(colour)
            for view in self.shown.views(t, layer):
                patch = edit.look(view, self.shown.stride, self.shown.whole)[y, x] * view.fade
                light = grid_window(view.lighting, self.shown.light_stride, self.shown.whole)[y, x] if self.lit else 1.0
                kept -= patch[:, 3:]
                added += 255 * light * patch[:, :3]
            colour = colour * kept + added
        return (np.clip(colour, 0, 255) + 0.5).astype(np.uint8)

    def save(self, path: str | Path, cutout: str | None = None) -> int:
        """Write the video with the source's times, sound and colour range; returns the number of frames.

        Several views are written one by one: ``out-VIEW.mp4``, or ``out/VIEW/``.

        Args:
            path: ``.mp4``, ``.mov``, ``.webm``, ``.gif``, or a folder (trailing ``/`` or no suffix) that gets PNGs.
            cutout: write only this layer, with opacity (``.mov`` or a folder).

        Raises:
            InputError: see :func:`canon.video.video_writer`.
        """
        show = self.__getitem__
        if cutout is not None:
            name = self.fit.layer(cutout).name
            show = partial(self.rgba, layer=name)
        views, clip = self.fit.clip.views, self.fit.clip
        if len(views) == 1:
            frames = progress.parts(map_frames(show, range(len(self))), _STAGE, [1.0] * len(self))
            return save_frames(clip, path, frames)
        length = len(self) // len(views)
        for k, view in enumerate(progress.parts(views, _STAGE)):
            times = clip.timestamps[:length]
            frames = map_frames(show, range(k * length, (k + 1) * length))
            frames = progress.parts(frames, _STAGE, [1.0] * length)
            write_video(_of_view(path, view), frames, clip.fps, timestamps=times, color_range=clip.color_range)
        return len(self)

    # --- one frame ---

    def _boxes(self, t: int) -> dict[str, Box]:
        """The part of frame ``t`` that the edits of each layer can touch, where there is one."""
        boxes = {}
        for name, edit in self._layers.items():
            seen = self._seen(t, name, edit.grow)
            both = seen if edit.removed or seen is None else _overlap(seen, self._reach(t, name))
            if both is not None:
                boxes[name] = both
        return boxes

    def _reach(self, t: int, name: str) -> Box | None:
        reaches = [
            self._layers[name].reach(view, self.shown.stride, self.shown.size) for view in self.shown.views(t, name)
        ]
        boxes = [reach for reach in reaches if reach is not None]
        return around(boxes) if boxes else None

    def _seen(self, t: int, name: str, grow: int) -> Box | None:
        opacity = self.shown.layer(name).opacity
        box = self.shown.whole if opacity is None else nonzero_box(opacity[t])
        return None if box is None else grown(box, grow, self.shown.size)

    def _part(self, t: int, box: Box, boxes: dict[str, Box], source: np.ndarray) -> np.ndarray:
        """The edited pixels of ``box``, which holds the ``boxes`` of the layers, uint8 [h, w, 3]."""
        fit = self.shown
        before = fit.weights(t, box)
        after = fit.weights(t, box, self._removed) if self._removed else before
        # Red, green, blue of the edits themselves (0..255), and the share of the source that they hide.
        total = np.zeros((*source.shape[:2], 4), np.float32)
        hidden: dict[str, np.ndarray] = {}
        for k, name in enumerate(fit.layers):
            if name not in boxes:
                continue
            edit, own = self._layers[name], boxes[name]
            if edit.removed:
                total[..., 3] += self._grown(t, k, box, edit.grow)
                continue
            inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(own, box, strict=True))
            if edit.hides:
                hidden[name] = np.zeros(total.shape[:2], np.float32)
            for view in fit.views(t, name):
                patch = edit.look(view, fit.stride, own)
                if view.fade < 1:
                    patch *= view.fade
                if edit.hides:
                    hidden[name][inner] += patch[..., 3]
                total[inner] += cv2.multiply(patch, self._factors(view, name, own, before[k][inner], after[k][inner]))
        kept = np.maximum(1 - total[..., 3], 0)
        colour = cv2.cvtColor(total, cv2.COLOR_RGBA2RGB)
        if hidden or self._removed:
            self._add_canvases(t, box, before, after, hidden, kept, colour)
        scaled = cv2.multiply(source.astype(np.float32), cv2.merge([kept, kept, kept]))
        # The sum is rounded and clipped on its way to 8 bits; whole numbers stay what they are.
        return np.asarray(cv2.add(scaled, colour, dtype=cv2.CV_8U))

    def _factors(self, view: View, name: str, box: Box, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """What e (three channels) and m are multiplied with, float32 [h, w, 4]."""
        bright = after * np.float32(255)
        if not self.lit or self.shown.layer(name).neutral:
            return cv2.merge([bright, bright, bright, before])
        light = cv2.split(grid_window(view.lighting, self.shown.light_stride, box))
        return cv2.merge([*(bright * channel for channel in light), before])

    def _grown(self, t: int, k: int, box: Box, grow: int) -> np.ndarray:
        """Weight of layer ``k`` if all but its faintest traces were opaque and widened by ``grow`` pixels, [h, w]."""
        fit = self.shown
        through = 1 - sum(fit.weights(t, box)[:k], np.zeros((), np.float32))
        opacity = fit.baked[k].opacity
        assert opacity is not None
        part = np.ascontiguousarray(opacity[t][box])
        if grow:
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
            # Widening soft opacity as it is would leave a share of the rim that is to go.
            solid = np.where(part >= _FAINT, np.uint8(255), np.uint8(0))
            part = np.maximum(part, cv2.dilate(solid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0))
        return through * np.divide(part, np.float32(255), dtype=np.float32)

    def _add_canvases(
        self,
        t: int,
        box: Box,
        before: Sequence[np.ndarray],
        after: Sequence[np.ndarray],
        hidden: dict[str, np.ndarray],
        kept: np.ndarray,
        colour: np.ndarray,
    ) -> None:
        """Add ``((1 - m) w' - K w) L s`` of every layer where that is not 0, in place, to [h, w, 3] in 0..255."""
        flat, width = colour.reshape(-1, 3), colour.shape[1]
        for k, name in enumerate(self.shown.layers):
            share = after[k] - hidden[name] * after[k] if name in hidden else after[k].copy()
            share -= kept * before[k]
            # One hundred-thousandth is far below what a rounded pixel shows.
            places = np.flatnonzero(np.abs(share) > 1e-5)
            if len(places) == 0:
                continue
            y, x = np.divmod(places, width)
            points = np.stack([x + box[1].start, y + box[0].start], axis=-1).astype(np.float32)
            flat[places] += self.shown.look(t, name, points) * (255 * share.reshape(-1)[places])[:, None]


def _overlap(a: Box | None, b: Box | None) -> Box | None:
    if a is None or b is None:
        return None
    rows = slice(max(a[0].start, b[0].start), min(a[0].stop, b[0].stop))
    columns = slice(max(a[1].start, b[1].start), min(a[1].stop, b[1].stop))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
