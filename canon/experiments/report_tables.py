"""Tables and plots of a report, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from canon.experiments import measures
from canon.experiments.contracts import Row
from canon.experiments.plots import COLOURS, Axis, Point, mark, scatter

_FEW = 40
"""Up to so many points of a plot are labelled with their clip, too."""


@dataclass(frozen=True)
class Series:
    """The representations of an experiment, each with a colour and a shape of its own."""

    names: Sequence[str]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Series:
        """In the order in which they come."""
        return cls(list(dict.fromkeys(str(row.get("representation")) for row in rows)))

    def badge(self, name: Any) -> str:
        """A representation's mark and name."""
        number = self.number(name)
        svg = f'<svg class="mark s{number % COLOURS}" viewBox="0 0 14 14" aria-hidden="true">{mark(number, 7, 7)}</svg>'
        return f'<span class="rep">{svg}{escape(str(name))}</span>'

    def number(self, name: Any) -> int:
        """Of a representation, from 0."""
        return self.names.index(str(name))


def label(row: Row) -> str:
    """What a row is of, but for the clip: ``atlas · gold · seed 1``."""
    parts = [row.get("representation"), row.get("editor")]
    if row.get("seed") is not None:
        parts.append(f"seed {row['seed']}")
    return " · ".join(str(part) for part in parts if part is not None)


def found_by(row: Row) -> str:
    """Attributes of an element of a row: by what the page's filter finds it, and which fit it is of.

    What is of a fit alone stays as long as the filter finds any edit of it.
    """
    fit = _attribute(f"{row.get('clip')}/{row.get('representation')}")
    return f'data-text="{_searched(row)}" data-fit="{fit}"' + ("" if row.get("editor") else " data-alone")


def _searched(row: Row) -> str:
    names = (*measures.IDENTITY[1:4], "kind", "tool", "prompt", "status")
    words = [str(row[name]) for name in names if row.get(name) is not None]
    if row.get("seed") is not None:
        words.append(f"seed {row['seed']}")
    return escape(" ".join(words).lower(), quote=True)


def by_clip(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows in groups."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row.get("clip")), []).append(row)
    return found


def tables(rows: Sequence[Row], series: Series) -> Iterator[str]:
    """The table of fits and the table of edits, best figures marked within each clip."""
    alone = [row for row in rows if row.get("editor") is None]
    edits = [row for row in rows if row.get("editor") is not None]
    if edits:
        yield from _table("edits", "Edits", edits, measures.of_edits(rows), series)
    if alone:
        yield from _table("fits", "Fits", alone, measures.of_fits(rows), series)


def _table(identity: str, title: str, rows: Sequence[Row], names: Sequence[str], series: Series) -> Iterator[str]:
    swept = list(dict.fromkeys(name for row in rows for name in row.get("swept") or ()))
    known = [measures.measure(name) for name in names]
    hidden = sum(not measure.main for measure in known)
    yield f'<section class="results" id="{identity}"><div class="bar"><h3>{title}</h3>'
    if hidden:
        yield f'<button type="button" class="more" aria-pressed="false">{hidden} more figures</button>'
    yield '</div><div class="scroll"><table><thead><tr>'
    yield _head("Representation", "", 0)
    if identity == "edits":
        yield _head("Edit", "", 0) + _head("Seed", "", 0)
    yield "".join(_head(name.partition(".")[2] or name, name, 0) for name in swept)
    for measure in known:
        kind = "figure" if measure.main else "figure extra"
        yield _head(measure.title, measure.name, measure.better, measure.unit, kind)
    yield "</tr></thead>"
    across = 1 + 2 * (identity == "edits") + len(swept) + len(names)
    for clip, group in by_clip(rows).items():
        yield f'<tbody><tr class="group"><th colspan="{across}" scope="rowgroup">{escape(clip)}</th></tr>'
        marked = {name: _best(name, group) for name in names}
        for number, row in enumerate(group):
            best = {name for name in names if number in marked[name]}
            yield _row(row, identity == "edits", swept, names, best, series)
        yield "</tbody>"
    yield "</table></div></section>"


def _best(name: str, rows: Sequence[Row]) -> set[int]:
    whole = {k: row for k, row in enumerate(rows) if row.get("status") == "ok"}
    return measures.best(name, {k: row[name] for k, row in whole.items() if measures.is_figure(name, row.get(name))})


def _head(title: str, name: str, better: int, unit: str = "", kind: str = "") -> str:
    arrow = {1: "\u00a0↑", -1: "\u00a0↓"}.get(better, "")
    hint = {1: ": higher is better", -1: ": lower is better"}.get(better, "")
    about = f' title="{escape(name + hint, quote=True)}"' if name else ""
    small = f"<small>{escape(unit)}</small>" if unit else ""
    styled = f' class="{kind}"' if kind else ""
    sign = f' data-better="{better}"' if better else ""
    return f'<th scope="col"{styled}{sign}{about}><button type="button">{escape(title)}{arrow}{small}</button></th>'


def _row(row: Row, edit: bool, swept: Sequence[str], names: Sequence[str], best: set[str], series: Series) -> str:
    status = str(row.get("status"))
    said = ""
    if status != "ok":
        said = f' <span class="chip {escape(status)}" title="{_attribute(row.get("error"))}">{escape(status)}</span>'
    first = series.badge(row.get("representation"))
    cells = [_cell(row.get("representation"), first if edit else first + said)]
    if edit:
        prompt = f"<small>{escape(str(row['prompt']))}</small>" if row.get("prompt") else ""
        cells.append(_cell(row.get("editor"), f"{escape(str(row.get('editor')))}{said}{prompt}"))
        cells.append(_cell(row.get("seed"), escape(_plain(row.get("seed")))))
    cells += [_cell(row.get(name), escape(_plain(row.get(name)))) for name in swept]
    for name in names:
        value = row.get(name)
        kind = f"figure{'' if measures.measure(name).main else ' extra'}{' best' if name in best else ''}"
        if value is not None and measures.is_figure(name, value):
            cells.append(f'<td class="{kind}" data-v="{value!r}">{escape(measures.shown(name, float(value)))}</td>')
        else:
            cells.append(f'<td class="{kind}"></td>')
    return f"<tr {found_by(row)}>{''.join(cells)}</tr>"


def _cell(value: Any, inner: str) -> str:
    return f'<td data-v="{_attribute("" if value is None else value)}">{inner}</td>'


def _attribute(value: Any) -> str:
    return escape(str(value), quote=True)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- plots ---


def plots(rows: Sequence[Row], series: Series) -> Iterator[str]:
    """PSNR against the time of the fit, consistency against alignment; a sentence for each that cannot be drawn."""
    alone = [row for row in rows if row.get("editor") is None]
    edits = [row for row in rows if row.get("editor") is not None]
    left_out = []
    seconds = "seconds" if any("seconds" in row for row in alone) else "seconds_fit"
    drawn = _plot(
        alone, seconds, "psnr", "Quality of fits and what they cost", series, lambda row: str(row.get("clip"))
    )
    if not drawn:
        left_out.append("PSNR against seconds of the fit is left out: no fit has both figures.")
    pairs = (
        ("clip_text", "frame_consistency_consecutive", "Consistency and alignment of edits, by CLIP"),
        ("palette_distance", "warp_error_excess_inside", "Flicker and colour of edits"),
    )
    short = _with_clip if len(by_clip(edits)) > 1 and len(edits) <= _FEW else _edit_label
    both = [_plot(edits, x, y, title, series, short) for x, y, title in pairs]
    if not any(both):
        title = "Flicker and alignment of edits"
        both = [_plot(edits, "clip_text", "warp_error_excess_inside", title, series, short)]
    if edits and not any(both):
        left_out.append(
            "Consistency against alignment is left out: no edit has both a figure of consistency "
            "(warp_error_excess_inside, frame_consistency) and one of alignment (clip_text, palette_distance)."
        )
    yield '<div class="plots">'
    yield drawn
    yield "".join(both)
    yield "</div>"
    yield "".join(f'<p class="note">{escape(sentence)}</p>' for sentence in left_out)


def _clip(row: Row) -> str:
    return str(row.get("clip"))


def _with_clip(row: Row) -> str:
    return f"{row.get('clip')} {_edit_label(row)}"


def _edit_label(row: Row) -> str:
    seed = "" if row.get("seed") is None else f" {row['seed']}"
    return f"{row.get('editor')}{seed}"


def _plot(rows: Sequence[Row], x: str, y: str, title: str, series: Series, short: Any) -> str:
    shown = [row for row in rows if all(measures.is_figure(name, row.get(name)) for name in (x, y))]
    if not shown:
        return ""
    points = [
        Point(
            float(row[x]),
            float(row[y]),
            series.number(row.get("representation")),
            short(row),
            _detail(row, x, y),
            found_by(row),
        )
        for row in shown
    ]
    names = dict.fromkeys(str(row.get("representation")) for row in shown)
    legend = "".join(f"<li>{series.badge(name)}</li>" for name in names)
    svg = scatter(points, _axis(x), _axis(y))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{svg}<ul class="legend">{legend}</ul></figure>'
    )


def _axis(name: str) -> Axis:
    known = measures.measure(name)
    title = "Seconds of fit" if name in ("seconds", "seconds_fit") else known.title
    unit = f" ({known.unit})" if known.unit and known.unit not in ("s", "cos") else ""
    return Axis(title + unit, known.better)


def _detail(row: Mapping[str, Any], x: str, y: str) -> str:
    values = ", ".join(f"{measures.measure(name).title} {measures.shown(name, float(row[name]))}" for name in (y, x))
    return f"{row.get('clip')} · {label(dict(row))}: {values}"
