"""Results of an experiment as tables on disk, and the report: what is in the file, and that a browser shows it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from truth import psnr, small_scene, true_fit

import canon
from canon.errors import InputError
from canon.experiments import measures
from canon.experiments.contracts import Row
from canon.experiments.plots import Axis, Point, scatter
from canon.experiments.report import write_report
from canon.experiments.report_media import small_size
from canon.experiments.results import CSV, PARQUET, Results
from canon.experiments.store import Store
from canon.project import Project
from canon.video import probe, read_frames

CLIP, FRAMES, SIZE = "pan <b>", 20, (66, 98)
INJECTED = '"\'></script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
SPEC = {"name": "two", "editors": [{"name": "gold", "prompt": INJECTED}]}


def row(**more: Any) -> Row:
    base = {"experiment": "two", "clip": CLIP, "representation": "atlas", "editor": None, "seed": None}
    base |= {"kind": "atlas", "tool": None, "prompt": None, "swept": [], "status": "ok", "error": None}
    base |= {"frames": FRAMES, "height": SIZE[0], "width": SIZE[1], "project": "projects/pan", "edits": []}
    return {**base, "fit": "projects/pan/fits/atlas", "render": None, "canonical": [], **more}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two representations of one clip, each with two edits; a third edit failed."""
    store = Store.open(tmp_path_factory.mktemp("run"))
    project = Project.create(store.path("projects/pan"))
    fit = true_fit(small_scene("pan", width=SIZE[1], height=SIZE[0], frames=FRAMES))
    fit.clip.save(project.clip_folder)
    rows = []
    for number, name in enumerate(("atlas", "codef")):
        fit.save(project.fit_folder(name))
        own = {"representation": name, "kind": name, "fit": f"projects/pan/fits/{name}", "key_fit": f"fit-{name}"}
        own |= {"canonical": [f"projects/pan/fits/{name}/canonical/{layer}.png" for layer in fit.layers]}
        own |= {"psnr": 30.5 + number, "seconds": 12.0 - 4 * number, "seconds_fit": 13.0, "folded": 0.0}
        rows.append(row(**own))
        for seed in (0, 1):
            made = canon.edit(fit, "grade", exposure=-1.0 + 1.5 * seed + 0.2 * number)
            edit = f"{name}-gold-{seed}"
            canon.render(fit, made).save(project.render_path([edit]))
            figures = {"warp_error_excess_inside": 0.002 - 0.001 * seed, "palette_distance": 20.0 + 5 * seed + number}
            figures |= {"my_score": 1.0 * seed, "changed_outside": 0.0, "seconds_edit": 0.5}
            rows.append(
                row(
                    **own,
                    **figures,
                    editor="gold",
                    tool="grade",
                    seed=seed,
                    prompt=INJECTED,
                    edits=[f"projects/pan/edits/{edit}"],
                    render=f"projects/pan/renders/{edit}.mp4",
                    **{
                        "editor.strength": 0.5,
                        "editor.overlay": seed == 1,
                        "editor.tint": [1, 0.5],
                        "swept": ["editor.strength"],
                    },
                    key_edit=f"edit-{edit}",
                )
            )
    gone = {"status": "failed", "error": "There is no layer <script>'sky'</script>."}
    rows.append(row(editor="gold", seed=2, tool="grade", prompt=INJECTED, **gone, seconds_edit=0.1))
    store.write_record("fit-atlas", {"label": "fit pan / atlas", "digests": {"clip.mp4": "abc123"}})
    return Results(rows, store, {"spec": SPEC, "engine": "in-process"})


@pytest.fixture(scope="module")
def report(results: Results) -> Path:
    return write_report(results)


class Tags(HTMLParser):
    """All tags with their attributes, and the text of all scripts; or those of what it is fed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        (self.scripts if self.tags and self.tags[-1][0] == "script" else self.text).append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def videos(path: Path, folder: Path) -> dict[str, Path]:
    """The embedded videos as files, by their elements' ids."""
    found = {}
    pattern = r'<script type="text/plain" id="(v\d+)">([^<]*)</script>'
    for name, data in re.findall(pattern, path.read_text(encoding="utf-8")):
        found[name] = folder / f"{name}.mp4"
        found[name].write_bytes(base64.b64decode(data))
    return found


# --- results ---


def test_the_frame_has_fitting_types(results: Results) -> None:
    frame = results.frame
    types = {name: str(frame[name].dtype) for name in frame}
    assert types["seed"] == types["frames"] == "Int64" and types["clip"] == types["representation"] == "category"
    assert types["psnr"] == types["seconds"] == types["changed_outside"] == "float64"
    assert types["prompt"].startswith("str") and frame["swept"][1] == ["editor.strength"]
    assert frame[frame.editor == "gold"].groupby("representation", observed=True).palette_distance.mean().to_dict() == {
        "atlas": 22.5,
        "codef": 23.5,
    }


@pytest.mark.parametrize("by", [PARQUET, CSV])
def test_results_come_back_from_disk(results: Results, tmp_path: Path, by: str) -> None:
    written = results.save(tmp_path)
    assert {path.name for path in written} == {PARQUET, CSV, "provenance.json"}
    if by == CSV:
        (tmp_path / PARQUET).unlink()
    back = Results.load(tmp_path)
    always = (*measures.IDENTITY, "kind", "tool", "prompt", "error")
    wanted = [{k: v for k, v in line.items() if v is not None or k in always} for line in results]
    assert back.rows == wanted
    assert back.provenance == results.provenance and back.store is not None and back.store.url == results.store.url


def test_parquet_has_types_of_its_own(results: Results, tmp_path: Path) -> None:
    import pandas

    results.save(tmp_path)
    frame = pandas.read_parquet(tmp_path / PARQUET)
    assert str(frame["seed"].dtype) == "Int64" and str(frame["psnr"].dtype) == "float64"
    assert json.loads(frame["editor.tint"][1]) == [1, 0.5] and list(frame["swept"][1]) == ["editor.strength"]


def test_without_pandas_there_is_csv_and_a_sentence(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fresh = Results(results.rows, results.store, results.provenance)
    with pytest.raises(InputError, match=r"need pandas; install 'canon-video\[experiments\]'"):
        _ = fresh.frame
    assert {path.name for path in fresh.save(tmp_path)} == {CSV, "provenance.json"}
    assert "canon-video[experiments]" in caplog.text
    assert len(Results.load(tmp_path)) == len(results)


def test_the_best_of_each_clip(results: Results) -> None:
    assert [line["representation"] for line in results.best("psnr")] == ["codef"]
    assert [(line["representation"], line["seed"]) for line in results.best("palette_distance")] == [("atlas", 0)]
    assert [line["seed"] for line in results.best("my_score", lowest=False)] == [1]
    with pytest.raises(InputError, match="Whether more or less of 'my_score' is better is not known"):
        results.best("my_score")
    with pytest.raises(InputError, match="No row has a figure 'pnsr'"):
        results.best("pnsr")
    assert [line["seed"] for line in results.failures()] == [2]
    assert "7 rows (6 ok, 1 failed)" in repr(results)


def test_what_is_alike_or_unknown_is_not_marked() -> None:
    assert measures.best("psnr", {0: 30.0, 1: 31.0, 2: 31.0, 3: float("nan")}) == {1, 2}
    assert measures.best("warp_error_excess_inside", {0: 1e-3, 1: -1e-3}) == {1}
    assert measures.best("psnr", {0: 30.0, 1: 30.0}) == measures.best("my_score", {0: 1.0, 1: 2.0}) == set()


@pytest.mark.parametrize(
    ("value", "text"),
    [(31.2549, "31.25"), (0.0021349, "0.002135"), (-1.74e-5, "−1.74e−05"), (0.0, "0"), (9.999, "9.999")],
)
def test_figures_are_rounded_for_people(value: float, text: str) -> None:
    assert measures.shown("psnr", value) == text


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results that can be read"):
        Results.load(tmp_path)
    record = {"format": "canon-results", "columns": {}, "provenance": {}, "store": None}
    (tmp_path / "provenance.json").write_text(json.dumps({**record, "version": 9}))
    with pytest.raises(InputError, match="this canon reads canon-results 1"):
        Results.load(tmp_path)


# --- plots ---


def test_points_stand_where_their_values_are() -> None:
    points = [Point(x, y, 0, "") for x, y in ((10.0, 1.0), (20.0, 3.0), (40.0, 2.0))]
    svg = scatter(points, Axis("seconds"), Axis("psnr"))
    places = np.array(re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg), float)
    across, up = places[:, 0], places[:, 1]
    assert (across[2] - across[0]) / (across[1] - across[0]) == pytest.approx(3, abs=0.01)
    assert (up[1] - up[0]) / (up[2] - up[0]) == pytest.approx(2, abs=0.01) and up[1] < up[0]
    ticks = re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d.]+)</text>', svg)
    (at, tick), *_ = [(float(x), float(text)) for x, text in ticks if float(text) > 10]
    assert at == pytest.approx(across[0] + (tick - 10) / 10 * (across[1] - across[0]), abs=0.2)


def test_wide_ranges_are_logarithmic_and_one_point_is_enough() -> None:
    svg = scatter([Point(10.0**k, 1.0, 1, "<i>") for k in range(4)], Axis("s", -1), Axis("dB", 1))
    places = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', svg)]
    assert np.diff(places) == pytest.approx(np.diff(places)[0], abs=0.2)
    assert "<i>" not in svg and "&lt;i&gt;" in svg
    assert scatter([Point(0.0, 0.0, 0, "zero")], Axis("x"), Axis("y")).count("<circle") == 1


# --- the file ---


def test_the_report_is_one_file_that_runs_only_its_own_script(report: Path) -> None:
    page = Tags(report.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        for name in ("src", "href", "data-src", "action", "srcset"):
            assert re.match(r"$|data:|#", attributes.get(name, "")), (tag, attributes[name][:80])
        assert not [name for name in attributes if name.startswith("on")]
    assert [a for a in page.named("script") if a.get("type") != "text/plain"] == [{}]
    (policy,) = (a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "unsafe-inline'; img" in policy
    assert INJECTED in "".join(page.text) and "window.hacked" not in "".join(page.scripts)


def test_what_failed_comes_first(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    said = "There is no layer &lt;script&gt;&#x27;sky&#x27;&lt;/script&gt;."
    assert 0 < text.index(said) < text.index('id="figures"')
    assert text.count(said) >= 3  # above, in the table, and in the place of the video


def test_the_provenance_is_in_it(report: Path) -> None:
    text = "".join(Tags(report.read_text(encoding="utf-8")).text)
    for part in (
        "window.hacked = 1",
        "canon-video: 0.",
        "editor.strength: 0.5",
        "key_edit: edit-codef-gold-1",
        "abc123",
    ):
        assert part in text


def test_the_best_is_marked(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    marked = re.findall(r'<td class="figure[^"]* best" data-v="([^"]+)"', text)
    assert marked == ["0.001", "0.001", "20.0", "8.0", "31.5"] or sorted(marked) == sorted(
        ["0.001", "0.001", "20.0", "31.5", "8.0"]
    )
    assert re.search(r'<th scope="col" title="editor.strength"><button', text), "as its values, on the left"
    assert "PSNR\xa0↑" in text and "Palette distance\xa0↓" in text and "my score<" in text


def test_videos_are_alike_and_show_the_renders(results: Results, report: Path, tmp_path: Path) -> None:
    page = report.read_text(encoding="utf-8")
    found = videos(report, tmp_path)
    assert len(found) == 5
    for path in found.values():
        info = probe(path)
        assert (info.size, info.fps, info.frames) == (SIZE, 24, FRAMES)
    order = re.findall(r'data-video="(v\d+)".*?<figcaption>(.*?)</figcaption>', page, re.DOTALL)
    captions = [" ".join("".join(Tags(caption).text).split()) for _, caption in order]
    # The same edit of all representations is side by side.
    assert [text.partition(' "')[0] for text in captions] == ["source"] + [
        f"{name} gold · seed {seed}" for seed in (0, 1) for name in ("atlas", "codef")
    ]
    sources = [results.store.path("projects/pan/clip")]
    clip = canon.Clip.open(sources[0])
    names = [None, "atlas-gold-0", "codef-gold-0", "atlas-gold-1", "codef-gold-1"]
    for (video, _), name in zip(order, names, strict=True):
        shown = [frame.rgb for frame in read_frames(found[video])]
        if name is None:
            wanted = list(clip.frames)
        else:
            wanted = [frame.rgb for frame in read_frames(results.store.path(f"projects/pan/renders/{name}.mp4"))]
        for t in (0, FRAMES // 2, FRAMES - 1):
            assert psnr(shown[t], np.asarray(wanted[t])) > 27
            assert psnr(shown[t], np.asarray(wanted[t])) > psnr(shown[t], np.asarray(wanted[(t + 6) % FRAMES])) + 3


@pytest.mark.parametrize(
    ("size", "small"), [((1080, 1920), (360, 640)), ((65, 97), (64, 96)), ((400, 4000), (96, 960))]
)
def test_videos_are_small_and_even(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert small_size(size) == small


def test_videos_beyond_the_budget_are_linked(
    results: Results, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, path = write_report(results, tmp_path / "whole.html"), tmp_path / "a b" / "small.html"
    write_report(results, path, budget_mib=0.04)
    page = Tags(path.read_text(encoding="utf-8"))
    links = [a["data-src"] for _, a in page.tags if "data-src" in a]
    assert links and path.stat().st_size < whole.stat().st_size
    for link in links:
        assert (path.parent / link).resolve().is_file()
    assert "videos are not part of this file" in "".join(page.text) and "are linked" in caplog.text


def test_what_is_missing_is_said_and_the_rest_is_there(results: Results, tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(results.store.local, tmp_path / "run"))
    store.path("projects/pan/renders/atlas-gold-0.mp4").write_bytes(b"no video")
    store.path("projects/pan/fits/codef/canonical/background.png").unlink()
    path = write_report(Results(results.rows, store, results.provenance))
    text = "".join(Tags(path.read_text(encoding="utf-8")).text)
    assert "cannot be read as a video" in text and "background.png' does not exist" in text
    assert len(videos(path, tmp_path)) == 4


def test_results_without_a_store_have_tables_at_least(results: Results, tmp_path: Path) -> None:
    bare = Results(results.rows)
    with pytest.raises(InputError, match="no store to write the report to"):
        write_report(bare)
    text = write_report(bare, tmp_path / "bare.html").read_text(encoding="utf-8")
    assert "not of a store on this machine" in text and "31.50" in text


def test_plots_that_cannot_be_drawn_are_named(tmp_path: Path) -> None:
    lines = [row(), row(editor="gold", tool="grade")]
    text = write_report(Results(lines), tmp_path / "none.html").read_text(encoding="utf-8")
    assert "PSNR against seconds of the fit is left out" in text
    assert "Consistency against alignment is left out" in text


# --- in a browser ---


@pytest.fixture
def page(chromium: Any, report: Path) -> Iterator[Any]:
    found = chromium.new_page(viewport={"width": 1366, "height": 768}, color_scheme="light")
    said: list[str] = []
    found.on("console", lambda message: said.append(message.text))
    found.on("pageerror", lambda error: said.append(str(error)))
    found.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    found.goto(report.as_uri())
    yield found
    assert found.evaluate("window.hacked") is None
    assert said == []
    found.close()


def read_png(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def until(page: Any, holds: str, seconds: float = 20) -> None:
    """Wait; playwright's own way evaluates a text within the page, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(holds):
        assert time.monotonic() < end, f"not within {seconds} s: {holds}"
        page.wait_for_timeout(50)


TIMES = "[...document.querySelectorAll('video')].map(video => video.currentTime)"


@pytest.mark.slow
def test_videos_play_in_step(page: Any) -> None:
    page.locator("#videos").scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('video')].filter(v => v.readyState >= 2).length === 5")
    page.select_option(".speed", "0.5")
    page.locator(".play").click()
    until(page, "[...document.querySelectorAll('video')].every(v => !v.paused && v.currentTime > 0)")
    # A second round shows that they begin anew together. Read 12 times in 1.8 s; the clip takes 1.7 s at half speed.
    seen = []
    for _ in range(12):
        seen.append(page.evaluate(TIMES))
        page.wait_for_timeout(150)
    spread = np.ptp(np.array(seen), axis=1)
    assert np.median(spread) < 1 / 24 and np.ptp(np.array(seen)[:, 0]) > 0.3
    page.locator(".play").click()
    until(page, "[...document.querySelectorAll('video')].every(video => video.paused && !video.seeking)")
    assert np.ptp(page.evaluate(TIMES)) < 1e-3


@pytest.mark.slow
def test_scrubbing_and_stepping_show_one_frame_everywhere(page: Any) -> None:
    page.locator("#videos").scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('video')].filter(v => v.readyState >= 2).length === 5")
    page.locator(".scrub").fill("7")
    page.locator(".forth").click()
    page.keyboard.press(".")
    page.keyboard.press(",")
    settled = (
        "[...document.querySelectorAll('video')].every(v => !v.seeking && Math.abs(v.currentTime - 8.5 / 24) < 1e-3)"
    )
    until(page, settled)
    assert page.locator(".at").inner_text() == f"9 / {FRAMES}"
    page.locator(".edits .screen").first.click()
    until(page, "document.querySelector('dialog').open")
    # To the left of the pointer the source, to the right the edit, which is a stop darker.
    means = {}
    for name, x in (("edit", 0.01), ("source", 0.99)):
        box = page.locator("dialog canvas").bounding_box()
        page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
        picture = read_png(page.locator("dialog canvas").screenshot())
        means[name] = float(picture[:, picture.shape[1] // 3 : -picture.shape[1] // 3].mean())
    assert means["edit"] < 0.9 * means["source"]
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('dialog').open")


def column(page: Any, table: str, number: int) -> list[str]:
    rows = f"[...document.querySelectorAll('#{table} tbody tr[data-text]')].filter(row => !row.hidden)"
    return page.evaluate(f"{rows}.map(row => row.cells[{number}].innerText.trim())")


@pytest.mark.slow
def test_sorting_filtering_and_the_dark(page: Any) -> None:
    heads = [text.split("\n")[0] for text in page.locator("#edits thead th").all_inner_texts()]
    number = heads.index("Palette distance\xa0↓")
    for wanted in (["20.0", "21.0", "25.0", "26.0", ""], ["26.0", "25.0", "21.0", "20.0", ""]):
        page.locator("#edits thead th button").nth(number).click()
        assert column(page, "edits", number) == wanted
    page.fill("#filter", "codef gold")
    until(page, "document.querySelector('#found').textContent === '2 of 7'")
    assert column(page, "edits", number) == ["26.0", "21.0"] and column(page, "fits", 0) == ["codef"], "with its fit"
    assert page.locator(".chart .point:visible").count() == 3, "two edits and their fit"
    page.locator("#videos").scroll_into_view_if_needed()
    until(page, "document.querySelectorAll('video').length === 3")
    assert page.locator("#nothing").is_hidden()
    page.fill("#filter", "codef gold silver")
    until(page, "document.querySelector('#found').textContent === '0 of 7'")
    assert page.locator("#nothing").is_visible()
    assert page.locator("main h2:visible, main h3:visible, .chart:visible").all_inner_texts() == [
        "What failed",
        "Provenance",
    ]
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert [sum(map(int, re.findall(r"\d+", text))) > 380 for text in (before, after)] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1366, 390])
def test_nothing_is_wider_than_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
