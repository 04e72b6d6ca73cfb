"""Videos that play in step and canonical images of a report, as HTML that is written while they are encoded."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from urllib.parse import quote

import numpy as np

from canon.errors import InputError
from canon.experiments import report_media as media
from canon.experiments.contracts import Row
from canon.experiments.report_tables import Series, by_clip, found_by, label
from canon.experiments.store import Store
from canon.storage import MAX_IMAGE_PIXELS, image_size


@dataclass
class Media:
    """Where pictures and videos come from, and how much of them may still be put into the page."""

    store: Store | None
    page: Path
    """Where the report will lie; links are relative to it."""
    left: int
    """Bytes."""
    linked: int = 0
    """Videos that are not in the page because it would have become too large."""

    def __post_init__(self) -> None:
        self._numbers = count()

    def place(self, name: str) -> Path:
        """The local path of a file or folder of the store.

        Raises:
            InputError: there is no store, or it cannot be reached.
        """
        if self.store is None:
            raise InputError("These results are not of a store on this machine.")
        return self.store.fetch(name)

    def number(self) -> int:
        """A number for an element of the page."""
        return next(self._numbers)

    def takes(self, size: int) -> bool:
        """Whether so many bytes, as text, still fit in; they are then taken off."""
        cost = size * 4 // 3
        if cost > self.left:
            return False
        self.left -= cost
        return True

    def link(self, path: Path) -> str:
        """A relative address from the page, as an HTML attribute."""
        return escape(quote(Path(os.path.relpath(path, self.page.parent)).as_posix()), quote=True)


# --- canonical images ---

_CANVAS_HEIGHT = 220
"""Largest height of a canonical image before it is enlarged, in pixels of the page."""


def canvases(rows: Sequence[Row], series: Series, of: Media) -> Iterator[str]:
    """The canonical images of every fit, clip by clip."""
    fits: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.get("canonical"):
            fits.setdefault((str(row.get("clip")), str(row.get("fit"))), row)
    if not fits:
        yield '<p class="note">No fit left canonical images.</p>'
    for clip, group in by_clip(fits.values()).items():
        yield f'<section class="clip"><h3>{escape(clip)}</h3><div class="canvases">'
        for row in group:
            yield f'<div class="fit" {found_by({**row, "editor": None, "tool": None, "prompt": None})}>'
            yield f'<p class="of">{series.badge(row.get("representation"))}</p>'
            for name in row["canonical"]:
                yield _canvas(str(name), of)
            yield "</div>"
        yield "</div></section>"


def _canvas(name: str, of: Media) -> str:
    stem = escape(Path(name).stem)
    try:
        path = of.place(name)
        height, width = image_size(path)
        if height * width > MAX_IMAGE_PIXELS:
            raise InputError("It is too large.")
        data, (height, width) = media.canvas_image(path)
    except (InputError, OSError) as error:
        return f'<figure class="canvas missing"><p>{escape(str(error))}</p><figcaption>{stem}</figcaption></figure>'
    if not of.takes(len(data)):
        return (
            f'<figure class="canvas missing"><p>Left out for its size: <a href="{of.link(path)}">open it</a></p>'
            f"<figcaption>{stem}</figcaption></figure>"
        )
    factor = min(_CANVAS_HEIGHT / height, 1.0)
    room = f'width="{max(round(width * factor), 1)}" height="{max(round(height * factor), 1)}"'
    return (
        f'<figure class="canvas"><button type="button" class="zoom"><img {room} loading="lazy" decoding="async" '
        f'alt="canonical image: {stem}" src="data:image/webp;base64,{base64.b64encode(data).decode()}"></button>'
        f"<figcaption>{stem} <small>{width}×{height}</small></figcaption></figure>"
    )


# --- videos ---

_TRANSPORT = """<div class="transport">
<button type="button" class="back" title="One frame back (,)" aria-label="One frame back">{back}</button>
<button type="button" class="play" title="Play or pause (space)" aria-label="Play">{play}</button>
<button type="button" class="forth" title="One frame on (.)" aria-label="One frame on">{forth}</button>
<input type="range" class="scrub" min="0" max="{last}" value="{middle}" step="1" aria-label="Frame">
<output class="at">{shown} / {count}</output>
<label>Speed <select class="speed"><option value="0.25">¼</option><option value="0.5">½</option>\
<option value="1" selected>1</option><option value="2">2</option></select></label>
<label><input type="checkbox" class="loop" checked> Loop</label>
<label>Columns <select class="columns"><option value="">auto</option><option>1</option><option>2</option>\
<option>3</option><option>4</option><option>5</option><option>6</option><option>8</option></select></label>
</div>"""
_ICON = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{}"/></svg>'
_ICONS = {
    "back": _ICON.format("M3 2h2v12H3zM14 2v12L6 8z"),
    "forth": _ICON.format("M13 2h-2v12h2zM2 2v12l8-6z"),
    "play": _ICON.format("M3 1.5v13L14 8z"),
}


def grids(rows: Sequence[Row], series: Series, of: Media) -> Iterator[str]:
    """For every clip the source and all renders, which the page plays in step."""
    edits = [row for row in rows if row.get("editor") is not None]
    if not edits:
        yield '<p class="note">There are no edits in this experiment, so there are no videos.</p>'
    for clip, group in by_clip(edits).items():
        yield from _grid(clip, group, series, of)


def _grid(clip: str, rows: Sequence[Row], series: Series, of: Media) -> Iterator[str]:
    try:
        project = next((str(row["project"]) for row in rows if row.get("project")), None)
        if project is None:
            raise InputError("The clip was not decoded.")
        source = media.source(of.place(f"{project}/clip"))
    except (InputError, OSError) as error:
        yield f'<section class="clip"><h3>{escape(clip)}</h3><p class="note">{escape(str(error))}</p></section>'
        return
    frames, (height, width) = source.count, source.frames.shape[1:3]
    fps = float(source.fps)
    cut = f", of which the first {frames} are shown" if frames < len(source.frames) else ""
    yield (
        f'<section class="clip grid" data-frames="{frames}" data-fps="{fps!r}"><div class="bar"><h3>{escape(clip)}</h3>'
        f"<small>{len(source.frames)} frames of {width}×{height}, {fps:g} a second{cut}</small></div>"
    )
    numbers = {"last": frames - 1, "middle": frames // 2, "shown": frames // 2 + 1, "count": frames}
    yield _TRANSPORT.format(**numbers, **_ICONS)
    yield f'<div class="cells" style="--aspect:{source.size[1]}/{source.size[0]}">'
    yield from _cell('<span class="rep">source</span>', " source", None, source, of)
    kinds = {row.get("representation") for row in rows}
    yield f'<div class="edits" data-kinds="{len(kinds)}">'
    for row in _side_by_side(rows):
        caption = f"{series.badge(row.get('representation'))} <span>{escape(_edit(row))}</span>"
        if row.get("prompt"):
            caption += f' <small title="{escape(str(row["prompt"]), quote=True)}">{escape(str(row["prompt"]))}</small>'
        yield from _cell(caption, "", row, source, of)
    yield "</div></div></section>"


def _side_by_side(rows: Sequence[Row]) -> list[Row]:
    """The same edit of all representations beside each other."""
    edits = list(dict.fromkeys(_edit(row) for row in rows))
    return sorted(rows, key=lambda row: edits.index(_edit(row)))


def _edit(row: Row) -> str:
    return label({**row, "representation": None})


def _cell(caption: str, kind: str, row: Row | None, source: media.Source, of: Media) -> Iterator[str]:
    """A cell of the grid; ``row`` None is the source."""
    of_what = found_by(row) if row is not None else "data-always"
    head, tail = f'<figure class="cell{kind}" {of_what}', f"<figcaption>{caption}</figcaption></figure>"
    if row is not None and row.get("render") is None:
        said = row.get("error") or "It was not rendered."
        yield f'{head}><div class="screen missing"><p>{escape(str(said))}</p></div>{tail}'
        return
    where = ""
    try:
        if row is None:
            frames: Iterator[np.ndarray] = iter(source.frames)
        else:
            path = of.place(str(row["render"]))
            where = f' data-src="{of.link(path)}"'
            frames = media.rendered(path, source)
        movie = media.movie(frames, source) if of.left > 0 else media.still(frames, source)
    except (InputError, OSError) as error:
        yield f'{head}><div class="screen missing"><p>{escape(str(error))}</p></div>{tail}'
        return
    poster = base64.b64encode(movie.poster).decode()
    still = f'<img class="poster" alt="" loading="lazy" decoding="async" src="data:image/jpeg;base64,{poster}">'
    if not movie.data or not of.takes(len(movie.data)):
        of.left = 0  # so that no more are encoded in vain
        of.linked += 1
        yield f'{head}{where}><button type="button" class="screen" title="Enlarge">{still}</button>{tail}'
        return
    number = of.number()
    yield f'{head} data-video="v{number}"><button type="button" class="screen" title="Enlarge">{still}</button>{tail}'
    # Not executed, and not decoded before it is looked at.
    yield f'<script type="text/plain" id="v{number}">{base64.b64encode(movie.data).decode()}</script>'
