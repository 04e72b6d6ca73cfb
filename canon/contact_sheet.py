"""Pictures to look at: labelled rows of frames with canvases below, and an overview of a fit's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from canon.edits import Edit, Over, resize_to
from canon.fits import Fit
from canon.rendering import render
from canon.sources import resize
from canon.storage import to_uint8
from canon.timing import spread

_GROUND, _INK, _FAINT = (22, 24, 29), (236, 238, 242), (140, 146, 158)
_GAP, _LABEL, _HEADER = 8, 132, 24
_TINTS = np.array([[235, 64, 52], [52, 140, 235], [80, 200, 90], [240, 190, 40], [180, 80, 220]], np.float32)


@dataclass
class Sheet:
    """A contact sheet: rows of equally many pictures of one size, and canvases below."""

    title: str
    subtitle: str = ""
    columns: Sequence[str] = ()
    """Headings above the pictures."""
    rows: list[tuple[str, list[np.ndarray]]] = field(default_factory=list)
    """Label and pictures, uint8 [H, W, 3]."""
    canvases: list[tuple[str, np.ndarray]] = field(default_factory=list)
    """Label and canvas, float32 [Hc, Wc, 4] in 0..1; what is transparent shows a checkerboard."""

    def draw(self, width: int = 300, canvas_height: int = 260) -> np.ndarray:
        """The sheet, uint8 [H, W, 3].

        Args:
            width: of one picture, in pixels; smaller ones stay as they are.
            canvas_height: largest height of a canvas.
        """
        first = self.rows[0][1][0]
        cell = _fitted(first.shape[:2], width, 4 * width)
        across = max(len(images) for _, images in self.rows)
        total = _LABEL + across * (cell[1] + _GAP) + _GAP
        strips = [self._head(total), self._headings(total, cell[1])] if self.columns else [self._head(total)]
        for label, images in self.rows:
            strip = _blank(total, cell[0] + _GAP)
            _write(strip, label, (16, cell[0] // 2), 16, _INK)
            for k, image in enumerate(images):
                x = _LABEL + k * (cell[1] + _GAP)
                strip[: cell[0], x : x + cell[1]] = resize(image, cell)
            strips.append(strip)
        return np.concatenate([*strips, *self._canvas_strips(total, canvas_height), _blank(total, _GAP)])

    def _head(self, total: int) -> np.ndarray:
        strip = _blank(total, 62)
        _write(strip, self.title, (16, 24), 22, _INK)
        _write(strip, self.subtitle, (16, 48), 13, _FAINT)
        return strip

    def _headings(self, total: int, cell: int) -> np.ndarray:
        strip = _blank(total, _HEADER)
        for k, text in enumerate(self.columns):
            _write(strip, text, (_LABEL + k * (cell + _GAP), _HEADER // 2 + 1), 13, _FAINT)
        return strip

    def _canvas_strips(self, total: int, height: int) -> list[np.ndarray]:
        """Canvases from left to right, in as many strips as they need."""
        strips: list[np.ndarray] = []
        room, x = total - _LABEL - _GAP, 0
        for label, canvas in self.canvases:
            size = _fitted((canvas.shape[0], canvas.shape[1]), room, height)
            if not strips or x + size[1] > total - _GAP:
                strips.append(_blank(total, height + _HEADER + _GAP))
                _write(strips[-1], "canvases" if len(strips) == 1 else "", (16, _HEADER + height // 2), 16, _INK)
                x = _LABEL
            _write(strips[-1], label, (x, _HEADER // 2 + 1), 13, _FAINT)
            strips[-1][_HEADER : _HEADER + size[0], x : x + size[1]] = _on_checkerboard(canvas, size)
            x += max(size[1], 150) + 2 * _GAP
        return strips


def _fitted(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(height, width) shrunk into a box, never enlarged."""
    factor = min(width / size[1], height / size[0], 1.0)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _blank(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), _GROUND, np.uint8)


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: int, colour: tuple[int, int, int]) -> None:
    """Text into uint8 [H, W, 3], in place; ``at`` is its left end at half its height."""
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(at, text, fill=colour, font=ImageFont.load_default(size), anchor="lm")
    image[:] = np.asarray(picture)


def _on_checkerboard(rgba: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    premultiplied = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]])
    small = cv2.resize(premultiplied, size[::-1], interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[: size[0], : size[1]]
    board = np.where((x // 8 + y // 8) % 2, np.float32(0.30), np.float32(0.36))[..., None]
    return to_uint8(small[..., :3] + board * (1 - small[..., 3:]))


def edits_sheet(fit: Fit, edits: Mapping[str, Edit], count: int = 4) -> np.ndarray:
    """Edits below each other, ``count`` frames of each, and their canvases, uint8 [H, W, 3]."""
    times = spread(len(fit), count)
    what = f"{len(fit)} frames of {fit.size[1]}x{fit.size[0]}"
    sheet = Sheet("variants", what, [f"frame {t}" for t in times])
    sheet.rows.append(("source", [np.asarray(fit.clip.frames[t]) for t in times]))
    for name, edit in edits.items():
        video = render(fit, edit)
        sheet.rows.append((name[-14:], [video[t] for t in times]))
        for layer in edit.layers:
            sheet.canvases.append((f"{name} {layer}", _painted_canvas(fit, edit, layer)))
    return sheet.draw()


def _painted_canvas(fit: Fit, edit: Edit, layer: str) -> np.ndarray:
    """A layer's whole canvas with what was painted on it, float32 [Hc, Wc, 4] in 0..1."""
    rgba = fit.canvas(layer).rgba.copy()
    for operation in edit.operations(layer):
        if isinstance(operation, Over):
            paint = resize_to(operation.rgba, (rgba.shape[0], rgba.shape[1]))
            rgba[..., :3] += paint[..., 3:] * (np.clip(paint[..., :3], 0, 1) - rgba[..., :3])
    return rgba


def mask_overview(fit: Fit, count: int = 12, width: int = 320) -> np.ndarray:
    """Up to ``count`` frames, each front layer tinted by what it shows there, uint8 [H, W, 3]."""
    size = _fitted(fit.size, width, 2 * width)
    cells = []
    for t in spread(len(fit), count):
        frame = np.asarray(fit.clip.frames[t]).astype(np.float32)
        for k, weight in enumerate(fit.weights(t)[:-1]):
            frame += 0.55 * weight[..., None] * (_TINTS[k % len(_TINTS)] - frame)
        cell = resize(to_uint8(frame / 255), size)
        _write(cell, str(t), (5, 10), 12, _INK)
        cells.append(cell)
    across = min(4, len(cells))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % across)
    rows = [np.concatenate(cells[k : k + across], axis=1) for k in range(0, len(cells), across)]
    return np.concatenate(rows)
