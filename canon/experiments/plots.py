"""Scatter plots as SVG that takes its colours from the page, so that they look right in light, in dark and printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 620, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 22, 18, 52
_LETTER, _LINE = 6.4, 13
"""About the width and height of a letter of a label, in the units of the SVG."""
_WIDE = 20.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""

COLOURS = 8
"""How many series the page has colours for; then they begin anew."""
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Point:
    """A point of a plot."""

    x: float
    y: float
    series: int
    """Number of its series, from 0."""
    label: str
    """Short, written beside it where there is room."""
    detail: str = ""
    """Shown when the pointer rests on it."""
    attributes: str = ""
    """More of its elements in the SVG, as HTML."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows."""

    title: str
    better: int = 0
    """1 if more is better, -1 if less is, 0 if neither."""


def scatter(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """An SVG of at least one point, all finite. Series are told apart by the page's classes ``sN`` and by shape."""
    across = _Scale.of([point.x for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _Scale.of([point.y for point in points], _HEIGHT - _BOTTOM, _TOP)
    title = escape(f"{y.title} against {x.title}", quote=True)
    parts = [f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">']
    parts += [_grid_line(across.place(value), value, True) for value in across.ticks]
    parts += [_grid_line(up.place(value), value, False) for value in up.ticks]
    parts.append(
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
        f'<text class="title" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(_directed(x, '←', '→'))}</text>"
        f'<text class="title" transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(_directed(y, "←", "→"))}</text>'
    )
    placed = [(across.place(point.x), up.place(point.y)) for point in points]
    parts += [
        f'<g class="point s{point.series % COLOURS}"{_more(point)}><title>{escape(point.detail or point.label)}</title>'
        f"{mark(point.series, *at)}</g>"
        for point, at in zip(points, placed, strict=True)
    ]
    parts += _labels(points, placed)
    return "".join([*parts, "</svg>"])


def _more(point: Point) -> str:
    return f" {point.attributes}" if point.attributes else ""


def mark(series: int, x: float, y: float, r: float = 5.5) -> str:
    """The mark of a series: a shape of its own besides the colour, for print and for those who see few colours."""
    shape = SHAPES[series % len(SHAPES)]
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    if shape == "square":
        return f'<rect x="{x - r + 0.5:.1f}" y="{y - r + 0.5:.1f}" width="{2 * r - 1}" height="{2 * r - 1}"/>'
    if shape == "triangle":
        return f'<path d="M{x:.1f} {y - r - 0.5:.1f}l{r + 0.5} {2 * r}h-{2 * r + 1}z"/>'
    return f'<path d="M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l-{r + 1} {r + 1}l-{r + 1} -{r + 1}z"/>'


def _directed(axis: Axis, less: str, more: str) -> str:
    if axis.better == 0:
        return axis.title
    return f"{axis.title}  {more} better" if axis.better > 0 else f"better {less}  {axis.title}"


def _grid_line(at: float, value: float, across: bool) -> str:
    if across:
        line, text = f"M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}", f'x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
        anchor = "middle"
    else:
        line, text = f"M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}", f'x="{_LEFT - 8}" y="{at + 4:.1f}"'
        anchor = "end"
    return f'<path class="grid" d="{line}"/><text class="tick" {text} text-anchor="{anchor}">{_short(value)}</text>'


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


@dataclass(frozen=True)
class _Scale:
    place: Callable[[float], float]
    """Where a value stands."""
    ticks: list[float]

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float) -> _Scale:
        """The scale that shows all values between two places with some room around them."""
        low, high = min(values), max(values)
        if low > 0 and high / low >= _WIDE:
            return cls._logarithmic(low, high, begin, end)
        room = 0.1 * (high - low) or abs(high) * 0.1 or 1.0
        step = _nice((high - low + 2 * room) / 5)
        if low < high:  # an axis that would only just pass zero ends there
            low = room if 0 <= low < room else low
            high = -room if -room < high <= 0 else high
        low, high = low - room, high + room
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        ticks = [round(k * step, 12) for k in range(first, last + 1)]
        return cls(lambda value: begin + (end - begin) * (value - low) / (high - low), ticks)

    @classmethod
    def _logarithmic(cls, low: float, high: float, begin: float, end: float) -> _Scale:
        a, b = math.log10(low) - 0.1, math.log10(high) + 0.1
        powers = range(math.floor(a), math.ceil(b) + 1)
        digits = (1, 2, 5) if b - a < 3 else (1,)
        ticks = [digit * 10.0**power for power in powers for digit in digits if a <= math.log10(digit) + power <= b]
        return cls(lambda value: begin + (end - begin) * (math.log10(value) - a) / (b - a), ticks)


def _nice(step: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * (1 - 1e-9))


def _labels(points: Sequence[Point], placed: Sequence[tuple[float, float]]) -> list[str]:
    """Labels beside their points where they cover neither a point, nor each other, nor the edge."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in placed]
    found = []
    for point, (x, y) in zip(points, placed, strict=True):
        width = _LETTER * len(point.label)
        for left, base, anchor in (
            (x + 9, y + 4, "start"),
            (x - 9 - width, y + 4, "end"),
            (x - width / 2, y - 10, "middle"),
            (x - width / 2, y + 19, "middle"),
        ):
            box = (left, base - _LINE + 2, left + width, base + 2)
            inside = box[0] > _LEFT + 2 and box[2] < _WIDTH - 2 and box[1] > 2 and box[3] < _HEIGHT - _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                at = {"start": left, "middle": left + width / 2, "end": left + width}[anchor]
                text = f'<text class="label" x="{at:.1f}" y="{base:.1f}" text-anchor="{anchor}"{_more(point)}>'
                found.append(f"{text}{escape(point.label)}</text>")
                break
    return found


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
