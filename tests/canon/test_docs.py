"""The documentation: it builds without a complaint, loads nothing from elsewhere, and what it prints works."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import canon
from canon import registry
from canon.cli import BAD_INPUT, COMMANDS, DONE, main
from canon.edits import Over
from canon.project import Project
from canon.scenes import make
from canon.storage import to_float, write_image
from canon.video import read_frames, write_video

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FRAMES = 8
NOT_RUN = "<!-- not run"
PICTURES_AT_MOST, PICTURE_AT_MOST = 1_500_000, 150_000

needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed: pip install -e '.[docs]'"
)


# --- the site ---


@dataclass
class Page(HTMLParser):
    """What a built page loads, links to, and can be linked at."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link":
            self.loads.append(found.get("href", ""))
        elif found.get("src"):
            self.loads.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew."""
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # mkdocs-material's notice of another program
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        found[path] = Page()
        found[path].feed(path.read_text())
    return found


@needs_mkdocs
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        outside = [one for one in page.loads if urlsplit(one).scheme not in ("", "data") or one.startswith("//")]
        assert not outside, f"{path.name} loads {outside}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path.name
    assert not list(site.rglob("*.py"))


@needs_mkdocs
def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses begin at the root of the site
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file() and target.is_relative_to(site), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.relative_to(site)}: {link}"


@needs_mkdocs
def test_every_command_editor_and_representation_has_its_page(site: Path, pages: dict[Path, Page]) -> None:
    folders = {
        "commands": [*COMMANDS],
        "editors": own(registry.EDITORS),
        "representations": own(registry.REPRESENTATIONS),
    }
    for folder, names in folders.items():
        assert names
        index = (site / "reference" / folder / "index.html").read_text()
        for name in names:
            page = pages[site / "reference" / folder / f"{name}.html"]
            assert f"{name}.html" in index
            assert {option.replace("_", "-") for option in own_options(folder, name)} <= page.ids, name


@needs_mkdocs
def test_every_public_name_is_described(site: Path, pages: dict[Path, Page]) -> None:
    ids = set().union(*(page.ids for path, page in pages.items() if path.parent.name == "python"))
    assert {f"canon.{name}" for name in canon.__all__} <= ids
    assert {"canon.Fit.coordinates", "canon.Clip.load", "canon.spatial.SpatialFit.view"} <= ids
    text = (site / "reference" / "python" / "fit.html").read_text()
    assert "[N, 2] pixels (x, y) of <code>frame</code>" in text, "arguments are described"


@needs_mkdocs
def test_no_markup_of_docstrings_is_left(pages: dict[Path, Page]) -> None:
    for path in pages:
        if path.parent.parent.name == "reference":
            text = re.sub(r"<pre.*?</pre>|<script.*?</script>", "", path.read_text(), flags=re.DOTALL)
            assert not re.search(r":(class|func|meth|attr|data):|``|\\[*_|]", text), path


def own(group: str) -> list[str]:
    """Names that this package registers."""
    return [entry.name for entry in entry_points(group=group) if entry.value.startswith("canon.")]


def own_options(folder: str, name: str) -> set[str]:
    """Names of the fields that a page has to describe."""
    return {option.name for option in options_of(folder, name)}


def options_of(folder: str, name: str) -> list:
    """Options of a command, an editor or a representation, as the site describes them."""
    pages, options = generator()
    if folder == "commands":
        return options.options(pages.arguments_of(importlib.import_module(COMMANDS[name][0])))
    kind = registry.editor(name) if folder == "editors" else registry.representation(name)
    return options.options(kind.Config)


@functools.cache
def generator():  # type: ignore[no-untyped-def]
    """The modules that write the reference."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("generator.pages"), importlib.import_module("generator.options")
    finally:
        sys.path.remove(str(DOCS))


# --- pictures ---


def test_pictures_are_small_and_all_of_them_are_shown() -> None:
    pictures = sorted((DOCS / "pictures").iterdir())
    assert pictures and sum(path.stat().st_size for path in pictures) < PICTURES_AT_MOST
    text = "".join(path.read_text() for path in DOCS.glob("*.md"))
    for path in pictures:
        assert path.stat().st_size < PICTURE_AT_MOST, path.name
        assert f"pictures/{path.name}" in text, f"{path.name} is shown nowhere"


# --- what the pages say ---


def blocks(page: str, language: str = "") -> list[tuple[str, str, str]]:
    """The code of a page that is to be run: language, title, text."""
    found = []
    pattern = r"(?:(<!--[^\n]*-->)\n)?^ *```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^ *```$"
    for note, kind, title, code in re.findall(pattern, (DOCS / page).read_text(), re.DOTALL | re.MULTILINE):
        if not note.startswith(NOT_RUN) and language in ("", kind):
            found.append((kind, title, code))
    return found


def shell_commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of canon in a shell block of the documentation: where, and its arguments."""
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        for code in re.findall(r"^ *```sh\n(.*?)^ *```$", path.read_text(), re.DOTALL | re.MULTILINE):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["canon"]:
                    yield path.name, words[1:]


def test_every_printed_command_knows_its_options() -> None:
    count = 0
    for where, words in shell_commands():
        assert words[0] in COMMANDS, f"{where}: canon {words[0]}"
        known = {option.flag for option in options_of("commands", words[0])}
        known |= {"--help", "--list", "--debug", "--json", "--and"}
        if "--editor" in words:
            name = words[words.index("--editor") + 1]
            if name == "NAME":
                continue
            known |= (
                {option.flag for option in options_of("editors", name)} if name in own(registry.EDITORS) else set(words)
            )
        if words[0] == "fit":
            name = words[words.index("--representation") + 1] if "--representation" in words else "atlas"
            if name in own(registry.REPRESENTATIONS):
                known |= {option.flag for option in options_of("representations", name)}
            else:
                known |= set(words)
        unknown = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)} - known
        assert not unknown, f"{where}: canon {' '.join(words)}"
        count += 1
    assert count > 80


def test_the_messages_in_troubleshooting_are_those_of_the_program() -> None:
    real = [text for folder in ("canon", "representations", "editors") for text in messages(ROOT / folder)]
    rows = re.findall(r"^\| `([^`]*…?[^`]*)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for row in rows:
        parts = [part.strip() for part in row.split("…") if part.strip()]
        assert any(all(part in text for part in parts) for text in real), row


def messages(folder: Path) -> Iterator[str]:
    """Every text in the code of a folder, with … for what is filled in."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sd]", "…", node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


# --- what the pages do ---


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small ``walk.mp4``."""
    folder = tmp_path_factory.mktemp("pages")
    scene = make("demo", width=288, height=240, frames=FRAMES)
    write_video(folder / "walk.mp4", (scene.frame(t) for t in range(FRAMES)), 24)
    return folder


def run(code: str, language: str = "sh") -> None:
    """Run a block of a page in the current folder: calls of canon in this process, all else as its reader would."""
    if language == "python":
        exec(compile(code, "page", "exec"), {})
        return
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["canon"]:
            assert main(words[1:]) == DONE, line
        elif words and words[0] != "pip":
            subprocess.run(["bash", "-euc", line], check=True)


@pytest.mark.slow
def test_the_first_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make("demo", width=128, height=80, frames=FRAMES)
    write_video("walk.mp4", (scene.frame(t) for t in range(FRAMES)), 24)
    for language, _, code in blocks("first-ten-minutes.md"):
        run(code.replace("--size 240", "--size 80").replace("size=240", "size=80"), language)
    shown = [frame.rgb.astype(np.int32) for frame in read_frames(Path("walk/renders/disc.mp4"))]
    red = [(frame[..., 0] > 180) & (frame[..., 1:].max(axis=-1) < 90) for frame in shown]
    assert len(shown) == FRAMES and all(mask.mean() > 0.02 for mask in red), "the disc is in every frame"
    assert Path("graded.mp4").is_file() and Path("dusk-and-disc.mp4").is_file()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """What puts the package of a page where pip would; the tests then run in a folder of their own."""

    def install(page: str) -> None:
        files = {title: code for _, title, code in blocks(page) if title}
        about = tomllib.loads(files.pop("pyproject.toml"))["project"]
        place = tmp_path / "installed"
        for path, code in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(code)
        info = place / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
        lines = [
            line
            for group, entries in about["entry-points"].items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(place))
        registry._entries.cache_clear()

    monkeypatch.chdir(tmp_path)
    yield install
    monkeypatch.undo()
    registry._entries.cache_clear()


def paint_of(name: str) -> np.ndarray:
    """What an edit of the project ``walk`` paints on the background."""
    (paint,) = canon.load_edit(f"walk/edits/{name}").operations("background")
    assert isinstance(paint, Over)
    return paint.rgba


@pytest.mark.slow
def test_the_editor_of_the_page(install: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    install("adding-an-editor.md")
    scene = make("demo", width=96, height=54, frames=FRAMES)
    write_video("walk.mp4", (scene.frame(t) for t in range(FRAMES)), 24)
    run("canon fit walk.mp4 --project walk --preset fast --no-search")
    for _, _, code in blocks("adding-an-editor.md", "sh"):
        run(code)
    said = " ".join(capsys.readouterr().out.split())
    assert "Leave a layer a few levels of each colour." in said and "red, green and blue are left" in said
    assert "framewise_warp_error" in said
    painted = paint_of("few")
    assert np.abs(painted[..., :3] * 2 - np.round(painted[..., :3] * 2)).max() < 1e-3, "three levels"
    assert main(["edit", "walk", "--editor", "posterise", "--name", "bad", "--levels", "1"]) == BAD_INPUT
    assert capsys.readouterr().err.strip() == "canon: There cannot be 1 levels of a colour; choose 2 to 64."
    known = Project.open("walk").fit().canonical("background").rgba[..., 3]
    left = np.zeros(known.shape, np.uint8)
    left[:, : known.shape[1] // 2] = 255
    write_image(Path("mask.png"), np.repeat(left[..., None], 3, axis=-1))
    assert main(["edit", "walk", "--editor", "posterise", "--name", "half", "--mask", "mask.png"]) == DONE
    half = paint_of("half")[..., 3]
    assert np.abs(half - known * (left > 0)).max() < 1e-3, "the mask holds"


@pytest.mark.slow
def test_the_representation_of_the_page(install: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    install("adding-a-representation.md")
    still = make("pan", width=96, height=64, frames=1).frame(0)
    gains = np.linspace(0.8, 1.1, FRAMES)
    write_video("walk.mp4", [np.clip(still * gain, 0, 255).round().astype(np.uint8) for gain in gains], 24)
    for _, _, code in blocks("adding-a-representation.md", "sh"):
        run(code)
    said = " ".join(capsys.readouterr().out.split())
    assert "Let the brightness of the whole frame change over time" in said
    fit = Project.open("held").fit("still")
    assert fit.layers == ["background"]
    light = np.array([fit.lighting(t, "background").mean() for t in range(FRAMES)])
    assert np.abs(light / light[0] - gains / gains[0]).max() < 0.02, "the light is that of the clip"
    error = np.mean([(fit.reconstruct(t) - to_float(np.asarray(fit.clip.frames[t]))) ** 2 for t in range(FRAMES)])
    assert -10 * np.log10(error) > 35
