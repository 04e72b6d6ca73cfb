"""What the layers of a draft are on the whole canvases of their fit, and which live videos do not show that yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from canon.boxes import Box
from canon.carrying import Ways, crossings
from canon.fits import Fit, nonzero_box
from canon.viewer.carried import Carried
from canon.viewer.draft_layers import DraftLayer
from canon.viewer.frame_paint import FramePainter
from canon.viewer.live import Flat, LiveVideo, Made, Paint, without


@dataclass(eq=False)
class _Placed:
    """What a layer on a frame or on one of several segments is on the whole canvases.

    Attributes:
        key: which state of the layer that is.
        boxes: of the layer, that have changed since.
        sources: what was pulled back from a frame, before it was carried on, by layer of the fit.
        paints: what counts, by layer of the fit.
    """

    key: tuple[int, float] | None = None
    boxes: list[Box] = field(default_factory=list)
    sources: dict[str, Made] = field(default_factory=dict)
    paints: dict[str, Paint] = field(default_factory=dict)


class PlacedPaint:
    """The paint of a draft as previews need it; a draft calls it while it holds its lock."""

    def __init__(self, fit: Fit, ways: dict[str, Ways]) -> None:
        """
        Args:
            ways: what is known of the ways between the segments of each layer; it is added to.
        """
        self.fit, self._ways = fit, ways
        self._painter = FramePainter(fit)
        self._made: dict[int, _Placed] = {}
        self._lives: dict[int, dict[str, list[Box]]] = {}

    def watch(self, live: LiveVideo, layers: Sequence[DraftLayer]) -> None:
        """Keep a live video up to date from now on; see :meth:`refresh`."""
        self._lives[id(live)] = {}
        for layer in layers:
            self.mark(layer, None)

    def unwatch(self, live: LiveVideo) -> None:
        """End :meth:`watch`."""
        self._lives.pop(id(live), None)

    def refresh(self, live: LiveVideo, layers: Sequence[DraftLayer]) -> None:
        """Let a watched live video show the layers as they are."""
        paints: dict[str, list[Paint]] = {}
        for layer in layers:
            if layer.seen:
                for name, paint in self.of(layer).items():
                    paints.setdefault(name, []).append(paint)
        dirty = self._lives[id(live)]
        for name, boxes in dirty.items():
            live.change(name, boxes, paints.get(name, []))
        dirty.clear()

    def of(self, layer: DraftLayer) -> dict[str, Paint]:
        """A layer's paint by the layer of the fit that it lies on; live videos are told what of it has changed."""
        flat = self._flat(layer)
        if flat is not None:
            return {flat: Flat(layer.rgba, layer.place, layer.opacity)}
        key = (layer.changed, layer.opacity)
        known = self._made.get(layer.id)
        if known is None or known.key != key:
            known = known or _Placed()
            self._made[layer.id] = known
            for name, boxes in self._place(layer, known).items():
                self._tell(name, boxes)
            known.key = key
            known.boxes.clear()
        return dict(known.paints)

    def mark(self, layer: DraftLayer, box: Box | None) -> None:
        """Note what a change of a part of a layer (None = all) changes of the canvases."""
        flat = self._flat(layer)
        if flat is not None:
            if box is None:
                box = nonzero_box(np.ascontiguousarray(layer.rgba[..., 3]))
            if box is not None:
                self._tell(flat, [without(box, layer.place)])
            return
        known = self._made.get(layer.id)
        if known is None:
            return
        if box is not None:
            known.boxes.append(box)
            return
        # Shown or hidden, or in another order: its pixels are as they were.
        for name, paint in known.paints.items():
            seen = paint.painted if isinstance(paint, Carried) else paint.box if isinstance(paint, Made) else None
            if seen is not None:
                self._tell(name, [seen])

    def _flat(self, layer: DraftLayer) -> str | None:
        """The layer of the fit whose one canvas is painted on as it is; None if paint has to be carried there."""
        target = layer.target
        if target.frame is not None or target.layer is None or len(self.fit.segments(target.layer)) != 1:
            return None
        return target.layer

    def _tell(self, name: str, boxes: Sequence[Box]) -> None:
        for dirty in self._lives.values():
            dirty.setdefault(name, []).extend(boxes)

    def _place(self, layer: DraftLayer, known: _Placed) -> dict[str, list[Box]]:
        """Pull a layer back from its frame, or carry it on to other segments; the boxes that it changes."""
        target = layer.target
        if target.frame is None:
            assert target.layer is not None
            flat = Flat(layer.rgba, layer.place, layer.opacity)
            boxes = [without(box, layer.place) for box in known.boxes]
            if known.key is None or known.key[1] != layer.opacity:
                boxes = [layer.place]
            return {target.layer: self._carried(known, target.layer, target.segment, flat, boxes)}
        made = self._painter.pull_back(target.frame, layer.rgba, layer.opacity, target.layer)
        found: dict[str, list[Box]] = {}
        for name in dict.fromkeys([*made, *known.sources]):
            now, before = made.get(name), known.sources.get(name)
            boxes = [each.box for each in (before, now) if each is not None]
            share = self.fit.layer(name).shares.get(target.frame)
            if share is not None:
                found[name] = self._carried(known, name, share.own, now, boxes)
            else:
                found[name] = boxes
                known.paints.pop(name, None)
                if now is not None:
                    known.paints[name] = now
        known.sources = made
        return found

    def _carried(self, known: _Placed, name: str, segment: int, paint: Paint | None, boxes: list[Box]) -> list[Box]:
        carried = known.paints.get(name)
        if not isinstance(carried, Carried):
            ways = crossings(self.fit, name, segment, 1, self._ways.setdefault(name, {}))
            carried = known.paints[name] = Carried(self.fit.layer(name).canvas_size, ways)
        return carried.update(paint, boxes)
