"""The report of an experiment: one HTML file that needs nothing else, neither network nor server.

Nothing in it is executed but its own script: the page says so to the browser by that script's digest
(Content-Security-Policy), whatever a prompt or a file's name may contain.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from canon.errors import InputError
from canon.experiments.contracts import Row
from canon.experiments.report_tables import Series, found_by, label, plots, tables
from canon.experiments.report_videos import Media, canvases, grids
from canon.experiments.results import Results
from canon.experiments.store import DONE, FAILED
from canon.storage import atomic_path, content_hash, to_plain

log = logging.getLogger("canon")

REPORT = "report.html"
BUDGET_MIB = 150
_OF_A_RUN = ("date", "machine", "engine", "ended", "seconds", "tasks")
_TASKS = ("fit", "edit", "render", "measure")


def write_report(results: Results, path: str | Path | None = None, *, budget_mib: float = BUDGET_MIB) -> Path:
    """Write the report: failures, tables, canonical images, videos that play in step, plots, and provenance.

    Renders are read one frame at a time and written as they are encoded, so that memory stays flat.

    Args:
        path: of the HTML file; None = ``report.html`` in the store of the results.
        budget_mib: pictures and videos beyond that size are not put into the file but linked.

    Raises:
        InputError: there is neither path nor store, the folder cannot be written, or the disk is full.
    """
    if path is None and results.store is None:
        raise InputError("These results have no store to write the report to; give a path.")
    target = Path(path) if path is not None else results.store.path(REPORT)  # type: ignore[union-attr]
    of = Media(results.store, target.resolve(), round(budget_mib * 2**20))
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in _page(results, of):
            file.write(part)
    if of.linked:
        log.warning("%d videos are linked, not part of '%s', which would exceed %g MiB", of.linked, target, budget_mib)
    if path is None and results.store is not None:
        results.store.publish(REPORT)
    return target


def is_current(path: Path, results: Results) -> bool:
    """Whether a report is there that says the same of results, but for when and where they were asked for last."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return _source(results) in file.read(4096)
    except OSError:
        return False


def _source(results: Results) -> str:
    """The tag that says what a report was made from."""
    kept = {name: value for name, value in results.provenance.items() if name not in _OF_A_RUN}
    return f'<meta name="canon-results" content="{content_hash(results.rows, to_plain(kept))}">'


def _asset(name: str) -> str:
    return (files("canon.experiments") / "assets" / name).read_text(encoding="utf-8")


def _page(results: Results, of: Media) -> Iterator[str]:
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src blob: 'self' file:; base-uri 'none'; form-action 'none'"
    )
    series = Series.of(results.rows)
    name = escape(results.name)
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"{_source(results)}"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{name}</title><link rel="icon" href="data:,"><style>{_asset("report.css")}</style></head><body>'
    )
    yield from _header(results, name)
    yield from _failures(results.failures())
    yield from _section("figures", "Figures", tables(results.rows, series), _FIGURES_NOTE)
    yield from _section("canonical", "Canonical images", canvases(results.rows, series, of))
    yield from _section("videos", "Videos", grids(results.rows, series, of), _VIDEOS_NOTE)
    yield f'<p class="note">{_linked(of.linked)}</p>' if of.linked else ""
    yield from _section("plots", "Plots", plots(results.rows, series))
    yield from _section("provenance", "Provenance", _provenance(results))
    yield f"</main><dialog><div></div></dialog><script>{script}</script></body></html>\n"


_FIGURES_NOTE = """The best of each clip is marked; ↑ and ↓ say whether more or less is better. Click a heading to \
sort within clips."""
_VIDEOS_NOTE = """All videos of a clip play in step. Click one to enlarge it and to compare it with the source. Keys: \
space plays, <kbd>,</kbd> and <kbd>.</kbd> step by a frame."""


def _linked(count: int) -> str:
    what = "One video is" if count == 1 else f"{count} videos are"
    return (
        f"{what} not part of this file, which would have become too large; it is played from where it was rendered to."
    )


def _section(identity: str, title: str, parts: Iterable[str], note: str = "") -> Iterator[str]:
    about = f'<p class="note screen-only">{note}</p>' if note else ""
    yield f'<section class="part" id="{identity}"><h2>{title}</h2>{about}'
    yield from parts
    yield "</section>"


def _header(results: Results, name: str) -> Iterator[str]:
    known = results.provenance
    version = known.get("versions", {}).get("canon-video", "?") if isinstance(known.get("versions"), dict) else "?"
    commit = f" ({known['commit']})" if known.get("commit") else ""
    date = str(known.get("date", "")).replace("T", " ").replace("+00:00", " UTC")
    about = [date, f"canon {version}{commit}", str(known.get("machine", "")), str(known.get("engine", ""))]
    yield f'<header><h1>{name}</h1><p class="about">{escape(" · ".join(part for part in about if part))}</p>'
    if known.get("description"):
        yield f'<p class="note">{escape(str(known["description"]))}</p>'
    counts = {**{"ok": 0}, **results.counts}
    rows = results.rows
    tiles = [
        (f"{counts['ok']}", f"of {len(rows)} done", "ok" if counts["ok"] == len(rows) else ""),
        *((f"{counts[kind]}", kind, kind) for kind in ("failed", "skipped") if counts.get(kind)),
        (f"{_distinct(rows, 'clip')}", "clips", ""),
        (f"{_distinct(rows, 'representation')}", "representations", ""),
        (f"{_distinct(rows, 'editor')}", "edits", ""),
        (_duration(rows), "of computing", ""),
    ]
    cells = "".join(
        f'<div class="{kind}"><dd>{escape(number)}</dd><dt>{_one(what, number)}</dt></div>'
        for number, what, kind in tiles
    )
    yield f'<dl class="tiles">{cells}</dl></header>'
    links = "".join(f'<a href="#{k}">{t}</a>' for k, t in _CONTENTS.items())
    yield (
        f'<nav>{links}<input type="search" id="filter" placeholder="Filter: bear atlas gold" aria-label="Filter">'
        '<span id="found" aria-live="polite"></span>'
        '<button type="button" id="theme" title="Light or dark" aria-label="Light or dark">◐</button></nav><main>'
        '<p class="note" id="nothing" hidden>Nothing matches.</p>'
    )


_CONTENTS = {
    "figures": "Figures",
    "canonical": "Canonical images",
    "videos": "Videos",
    "plots": "Plots",
    "provenance": "Provenance",
}


def _distinct(rows: Iterable[Row], name: str) -> int:
    return len({row.get(name) for row in rows} - {None})


def _one(what: str, number: str) -> str:
    return what.removesuffix("s") if number == "1" and what.endswith("s") else what


def _duration(rows: Iterable[Row]) -> str:
    """Seconds of all tasks, each counted once although several rows have it."""
    tasks: dict[str, float] = {}
    for k, row in enumerate(rows):
        for kind in _TASKS:
            seconds = row.get(f"seconds_{kind}")
            if isinstance(seconds, int | float):
                fit = f"{row.get('clip')}/{row.get('representation')}"
                own = fit if kind == "fit" else f"{fit}/{k}"
                tasks[f"{kind} {row.get(f'key_{kind}') or own} {fit}"] = float(seconds)
    total = round(sum(tasks.values()))
    if total < 100:
        return f"{total} s"
    return f"{total // 60} min" if total < 6000 else f"{total // 3600} h {total % 3600 // 60:02d}"


def _failures(rows: Iterable[Row]) -> Iterator[str]:
    """What failed first, and whether bad luck or bad input; rows with the same sentence together."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        said = str(row.get("error") or "no reason was noted")
        grouped.setdefault((str(row.get("status")), said), []).append(row)
    if not grouped:
        return
    yield '<section class="failures" id="failures"><h2>What failed</h2><ul>'
    for (status, said), group in sorted(grouped.items(), key=lambda item: item[0][0] != "failed"):
        names = [f"{row.get('clip')} · {label(row)}" for row in group]
        more = f" and {len(names) - 4} more" if len(names) > 5 else ""
        listed = "; ".join(names if not more else names[:4])
        yield (
            f'<li><span class="chip {escape(status)}">{escape(status)}</span> <b>{escape(said)}</b>'
            f"<small>{escape(listed)}{more}</small></li>"
        )
    yield "</ul></section>"


# --- provenance ---


def _provenance(results: Results) -> Iterator[str]:
    known = dict(to_plain(results.provenance))
    spec = known.pop("spec", None)
    if spec is not None:
        text = spec if isinstance(spec, str) else _yaml(spec)
        yield f"<details><summary>Experiment</summary><pre>{escape(text)}</pre></details>"
    texts = known.get("files")
    if isinstance(texts, dict):
        for name, text in known.pop("files").items():
            yield f"<details><summary>{escape(str(name))}</summary><pre>{escape(str(text))}</pre></details>"
    yield f"<details><summary>Versions, machine, files</summary><pre>{escape(_yaml(known))}</pre></details>"
    yield "<details><summary>Options, seeds and keys of every row</summary>"
    for row in results.rows:
        chosen = {name: row[name] for name in row if "." in name and row[name] is not None}
        keys = {name: row[name] for name in row if name.startswith("key_") and row[name]}
        places = {name: row.get(name) for name in ("project", "fit", "edits", "render") if row.get(name)}
        name = f"{row.get('clip')} · {label(row)}"
        said = {name: row[name] for name in ("seed", "prompt", "notes") if row.get(name) is not None}
        yield (
            f"<details {found_by(row)}><summary>{escape(name)}</summary>"
            f"<pre>{escape(_yaml({**said, **chosen, **places, **keys}))}</pre></details>"
        )
    yield "</details>"
    yield "<details><summary>Records of tasks: arguments, versions, digests of what was read</summary>"
    yield from _records(results)
    yield "</details>"


def _records(results: Results) -> Iterator[str]:
    if results.store is None:
        yield '<p class="note">There is no store to read them from.</p>'
        return
    wanted = [key for row in results.rows for name in row if name.startswith("key_") for key in _keys(row[name])]
    try:
        found = {**results.store.records(FAILED), **results.store.records(DONE)}
    except (InputError, OSError) as error:
        yield f'<p class="note">{escape(str(error))}</p>'
        return
    there = [key for key in dict.fromkeys(wanted) if key in found]
    if not there:
        yield '<p class="note">There are none.</p>'
    for key in there:
        text = json.dumps(found[key], indent=1, ensure_ascii=False, default=str)
        what = str(found[key].get("label") or found[key].get("kind") or "")
        head = f"<summary>{escape(what)} <code>{escape(key)}</code></summary>"
        yield f"<details>{head}<pre>{escape(text)}</pre></details>"


def _keys(value: Any) -> list[str]:
    return str(value).split("+") if value else []


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True, width=110))
