"""What is known of the figures: names for people, units, and whether more or less of them is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from canon.experiments.contracts import Row

IDENTITY = ("experiment", "clip", "representation", "editor", "seed")
"""Columns that say which item a row is of."""
LISTS = ("swept", "edits", "canonical")
"""Columns of lists of texts."""
WHOLE = ("seed", "frames", "height", "width", "attempts")
"""Columns of whole numbers."""
_OTHERS = ("kind", "tool", "prompt", "status", "error", "notes", "palette_colour", "project", "fit", "render")
_COSTS = ("seconds_fit", "seconds_edit", "seconds_render", "seconds_measure", "peak_mib_fit", "peak_mib_edit")


@dataclass(frozen=True)
class Measure:
    """A figure."""

    name: str
    title: str
    """Short, for the head of a column."""
    unit: str = ""
    better: int = 0
    """1 if more is better, -1 if less is, 0 if neither or if it is not known."""
    digits: int = 3
    """Significant digits that are worth showing."""
    main: bool = False
    """Whether a table shows it without being asked to."""


_KNOWN = {
    measure.name: measure
    for measure in (
        Measure("psnr", "PSNR", "dB", 1, 4, True),
        Measure("psnr_min", "PSNR, worst frame", "dB", 1, 4, True),
        Measure("psnr_unlit", "PSNR unlit", "dB", 1, 4),
        Measure("ssim", "SSIM", "", 1, 4, True),
        Measure("ssim_unlit", "SSIM unlit", "", 1, 4),
        Measure("lpips", "LPIPS", "", -1, 3, True),
        Measure("tracks_fb", "Track error", "px", -1, 3, True),
        Measure("folded", "Folded", "share", -1, 3, True),
        Measure("seconds", "Fit time", "s", -1, 3, True),
        Measure("peak_mib", "Peak memory", "MiB", -1, 4, True),
        Measure("warp_error", "Warp error", "", -1, 3),
        Measure("warp_error_inside", "Warp error inside", "", -1, 3, True),
        Measure("warp_error_source", "Warp error of source", ""),
        Measure("warp_error_source_inside", "Warp error of source inside", ""),
        Measure("warp_error_excess_inside", "Warp error excess inside", "", -1, 3, True),
        Measure("edited_share", "Edited", "share", 0, 3, True),
        Measure("changed_outside", "Changed outside, largest", "of 255", -1, 3, True),
        Measure("changed_outside_mean", "Changed outside, mean", "of 255", -1),
        Measure("palette_distance", "Palette distance", "ΔE", -1, 3, True),
        Measure("palette_distance_source", "Palette distance of source", "ΔE"),
        Measure("clip_text", "CLIP text", "cos", 1, 4, True),
        Measure("clip_text_source", "CLIP text of source", "cos", 0, 4),
        Measure("clip_direction", "CLIP direction", "cos", 1, 4, True),
        Measure("frame_consistency_pairs", "Frame consistency, pairs", "cos", 1, 4, True),
        Measure("frame_consistency_consecutive", "Frame consistency, neighbours", "cos", 1, 4, True),
        Measure("consistency_gain", "Consistency gain", "×", 1, 3, True),
        Measure("seconds_fit", "Fit task time", "s", -1, 3),
        Measure("seconds_edit", "Edit time", "s", -1, 3, True),
        Measure("seconds_render", "Render time", "s", -1, 3),
        Measure("seconds_measure", "Measuring time", "s", -1, 3),
        Measure("peak_mib_fit", "Peak memory of fit", "MiB", -1, 4),
        Measure("peak_mib_edit", "Peak memory of edit", "MiB", -1, 4),
    )
}


def measure(name: str) -> Measure:
    """What is known of a figure; of an unknown one nothing but its name is."""
    if name in _KNOWN:
        return _KNOWN[name]
    if name.startswith("iou_"):
        return Measure(name, f"IoU {name[4:]}", "", 1, 3, True)
    if name.startswith("seconds_"):
        return Measure(name, f"{name[8:].replace('_', ' ').capitalize()} stage", "s", -1, 3)
    if name.startswith("framewise_") and name[10:] in _KNOWN:
        # A baseline's figure is no merit of the edit.
        known = _KNOWN[name[10:]]
        return Measure(name, f"{known.title}, frame by frame", known.unit, 0, known.digits)
    return Measure(name, name.replace("_", " "), main=True)


def is_figure(name: str, value: Any) -> bool:
    """Whether a column's value is a figure: a number that was measured, not one that was asked for."""
    asked = name in WHOLE or name in _OTHERS or name in IDENTITY or "." in name or name.startswith("key_")
    return not asked and isinstance(value, int | float) and not isinstance(value, bool)


def figures(rows: Iterable[Row]) -> list[str]:
    """Names of the figures that any of the rows has: known ones in their own order, then others as they come."""
    found = dict.fromkeys(name for row in rows for name, value in row.items() if is_figure(name, value))
    order = {name: k for k, name in enumerate(_KNOWN)}
    return sorted(found, key=lambda name: order.get(name, len(order)))


def of_fits(rows: Iterable[Row]) -> list[str]:
    """Names of the figures of fits, of which the rows of edits have copies."""
    alone = [row for row in rows if row.get("editor") is None]
    known = ("psnr", "psnr_min", "psnr_unlit", "ssim", "ssim_unlit", "lpips", "tracks_fb", "folded")
    named = [row for row in rows if row.get("editor") is not None]
    more = [name for name in figures(named) if name in known or name.startswith("iou_")]
    return list(dict.fromkeys([*(name for name in figures(alone) if name != "seconds_measure"), *more]))


def of_edits(rows: Iterable[Row]) -> list[str]:
    """Names of the figures that only edits have."""
    rows = list(rows)
    fits = set(of_fits(rows))
    return [name for name in figures(row for row in rows if row.get("editor") is not None) if name not in fits]


def best(name: str, values: Mapping[int, float], lowest: bool | None = None) -> set[int]:
    """The keys of the best values; empty if it is not known which these are, or if all are alike.

    Args:
        values: finite values by any keys.
        lowest: whether less is better; None goes by what is known of the figure.
    """
    better = measure(name).better if lowest is None else -1 if lowest else 1
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    if not better or len(set(finite.values())) < 2:
        return set()
    top = max(better * value for value in finite.values())
    return {key for key, value in finite.items() if better * value == top}


def shown(name: str, value: float) -> str:
    """A figure for people: ``31.25``, ``0.00213``, ``-1.7e-05``."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = measure(name).digits
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(value) < 1e-4:
        return f"{value:.2e}".replace("-", "−")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}".replace("-", "−")
