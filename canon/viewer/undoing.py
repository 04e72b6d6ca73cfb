"""What a draft can take back and do again: pixels before and after, and the layers as they were, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from canon.boxes import Box, around, box_size
from canon.storage import encoded_image
from canon.viewer.draft_layers import DraftLayer
from canon.viewer.images import decoded_rgba, picture_size

_MOST_BYTES = 192 << 20
_MOST_STEPS = 500


@dataclass(eq=False)
class Patch:
    """Pixels of a part of a layer before and after, as PNG.

    Attributes:
        layer: its number.
        x, y: upper left corner of the part.
    """

    layer: int
    x: int
    y: int
    before: bytes
    after: bytes


@dataclass(eq=False)
class Entry:
    """What one undo takes back: patches in order, and the layers before and after, if they were changed otherwise.

    Attributes:
        label: what it was, for people.
        stroke: changes of the same one are undone together.
    """

    label: str
    stroke: str | None
    patches: list[Patch] = field(default_factory=list)
    before: list[DraftLayer] | None = None
    after: list[DraftLayer] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it holds."""
        whole = sum(len(patch.before) + len(patch.after) for patch in self.patches)
        kept = {id(layer.rgba): layer.rgba.nbytes for layer in [*(self.before or []), *(self.after or [])]}
        # Layers that are removed are held by their entry alone.
        return whole + sum(kept.values()) // 8

    def places(self) -> list[dict[str, Any]]:
        """What it changes of the pixels: layer, x, y, width, height, one box for each layer."""
        boxes: dict[int, Box] = {}
        for patch in self.patches:
            height, width = picture_size(patch.before)
            box = slice(patch.y, patch.y + height), slice(patch.x, patch.x + width)
            boxes[patch.layer] = around([boxes[patch.layer], box]) if patch.layer in boxes else box
        found = []
        for number, box in boxes.items():
            height, width = box_size(box)
            corner = {"x": box[1].start, "y": box[0].start}
            found.append({"layer": number, **corner, "width": width, "height": height})
        return found


class Undoing:
    """The entries that can be taken back, and those that can be done again."""

    def __init__(self) -> None:
        self._undo: list[Entry] = []
        self._redo: list[Entry] = []

    @property
    def labels(self) -> dict[str, str | None]:
        """What "undo" and "redo" would do, None for nothing."""
        last = {"undo": self._undo, "redo": self._redo}
        return {name: entries[-1].label if entries else None for name, entries in last.items()}

    def entry(self, label: str, stroke: str | None) -> Entry:
        """The entry that a change belongs to: that of its stroke, or a new one. What was taken back is forgotten."""
        self._redo.clear()
        last = self._undo[-1] if self._undo else None
        if last is not None and stroke is not None and last.stroke == stroke:
            return last
        self._undo.append(Entry(label, stroke))
        total = sum(entry.bytes for entry in self._undo)
        while len(self._undo) > 2 and (total > _MOST_BYTES or len(self._undo) > _MOST_STEPS):
            total -= self._undo.pop(0).bytes
        return self._undo[-1]

    def back(self) -> Entry | None:
        """The last entry, which can be done again from now on; None if there is nothing."""
        return _moved(self._undo, self._redo)

    def again(self) -> Entry | None:
        """The entry that was taken back last, which can be taken back again from now on; None if there is nothing."""
        return _moved(self._redo, self._undo)

    def clear(self) -> None:
        """Let there be nothing."""
        self._undo.clear()
        self._redo.clear()


def _moved(source: list[Entry], target: list[Entry]) -> Entry | None:
    if not source:
        return None
    target.append(source.pop())
    return target[-1]


def packed(pixels: np.ndarray) -> bytes:
    """PNG, quickly; of nothing but transparency, a few bytes."""
    return encoded_image(np.ascontiguousarray(pixels), ".png", 1)


def unpacked(data: bytes) -> np.ndarray:
    """What :func:`packed` packed, uint8 [h, w, 4]."""
    return decoded_rgba(data)
