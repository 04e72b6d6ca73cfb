"""The viewer, started as people start it and driven in a real browser."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from truth import LIGHT_STRIDE, STRIDE

from canon import registry
from canon.cli import DONE
from canon.clip import Clip
from canon.coordinates import grid_nodes
from canon.fits import Fit, FitLayer
from canon.project import Project
from canon.viewer import forms

FIT = "truth"
"""Name of the fit in projects that are made here."""


def saved_project(folder: Path, fit: Fit, name: str = FIT) -> Project:
    """A project of a fit that was made by other means."""
    project = Project.create(folder)
    project.adopt(fit.clip)
    fit.save(project.fit_folder(name))
    return project


def long_project(folder: Path, frames: int = 70, size: tuple[int, int] = (480, 854)) -> Project:
    """A project as long and large as people's, of a fit that nobody had to solve: a disc before a wall that pans."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(40, 216, (34, 80, 3), np.uint8), (1100, 540), interpolation=cv2.INTER_CUBIC)
    coin = cv2.resize(rng.integers(0, 255, (12, 12, 3), np.uint8), (260, 260), interpolation=cv2.INTER_NEAREST)
    nodes, lights = (grid_nodes(size, stride).numpy() for stride in (STRIDE, LIGHT_STRIDE))
    pixels, opacity, back, front = [], [], [], []
    y, x = np.mgrid[: size[0], : size[1]]
    for t in range(frames):
        pan, place = np.array([3 * t, t // 2]), np.array([40 + 7 * t, 110])
        inside = ((x - place[0] - 130) ** 2 + (y - place[1] - 130) ** 2 < 125**2).astype(np.uint8)
        frame = wall[pan[1] : pan[1] + size[0], pan[0] : pan[0] + size[1]].copy()
        rows, columns = slice(place[1], place[1] + 260), slice(place[0], place[0] + 260)
        frame[rows, columns] = np.where(inside[rows, columns, None] > 0, coin, frame[rows, columns])
        pixels.append(frame)
        opacity.append(inside * 255)
        back.append(nodes + pan)
        front.append(nodes - place)
    light = np.ones((frames, *lights.shape[:2], 3), np.float32)
    clip = Clip.from_frames(pixels, fps=Fraction(24))
    ones = [np.ones(image.shape[:2], np.float32) for image in (coin, wall)]
    layers = [
        FitLayer("coin", coin / np.float32(255), ones[0], np.float32(front), light, np.stack(opacity)),
        FitLayer("wall", wall / np.float32(255), ones[1], np.float32(back), light, None),
    ]
    return saved_project(folder, Fit(clip, "truth", {}, layers, STRIDE, LIGHT_STRIDE, {}))


def until(met: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is so, and give it."""
    end = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
    return found


THIRD_PARTY = '''
import time
from dataclasses import dataclass
from typing import Literal
from canon.edits import Delta, Edit, Provenance, Step
from canon.progress import report
from canon.registry import Editor

@dataclass
class DimConfig:
    """Make a layer darker, slowly."""

    layer: str | None = None
    """Layer to make darker."""
    how: Literal["little", "much"] = "little"
    """How much darker."""
    wait: float = 0.0
    """Seconds that it takes."""
    seed: int = 0
    """Of chance."""

class Dim(Editor):
    Config = DimConfig

    def __call__(self, fit, config):
        for k in range(100):
            report("dimming", k / 100)
            time.sleep(config.wait / 100)
        stops = {"little": -1.0, "much": -4.0}[config.how] - 0.25 * config.seed
        name = config.layer or fit.layers[0]
        return Edit([Step(name, Delta(exposure=stops), Provenance.now("dim", config))], fit.id)
'''


def third_party(folder: Path) -> None:
    """A package of somebody else's as pip installs it: a module, and an entry point."""
    info = folder / "dim-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "somebody_dims.py").write_text(THIRD_PARTY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dim\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[canon.editors]\ndim = somebody_dims:Dim\n")


@contextlib.contextmanager
def serving(folder: Path, *paths: Path, port: str = "") -> Iterator[tuple[str, int]]:
    """``canon view`` as people start it; the address and the process's id. Ctrl-C has to end it, with all its work."""
    joined = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-m",
        "canon.cli",
        "view",
        str(folder),
        "--no-browser",
        *(["--port", port] if port else []),
    ]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": joined})
    try:
        assert started.stdout is not None
        said = started.stdout.readline()
        url = re.match(r"http://127\.0\.0\.1:\d+/", said)
        assert url is not None, said
        yield url[0], started.pid
        workers = children(started.pid)
        started.send_signal(signal.SIGINT)
        assert started.wait(15) == DONE
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    finally:
        started.kill()
        started.wait()


def children(pid: int) -> list[int]:
    """Processes that a process started and that run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


@dataclass
class Browser:
    """Headless Chromium; what pages complain about is collected."""

    browser: Any
    url: str
    complaints: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    def page(self, dark: bool = False) -> Any:
        """The viewer in a tab of its own, with nothing shared with others."""
        context = self.browser.new_context(
            viewport={"width": 1366, "height": 768}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self._check(asked.url))
        page.goto(self.url)
        page.wait_for_selector("canon-project h2")
        return page

    def _hear(self, said: Any) -> None:
        # What gradio's own script says while a file is uploaded is nothing of ours.
        if said.type in ("error", "warning") and said.text != "Method not implemented.":
            self.complaints.append(said.text)

    def _check(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(f"asks elsewhere: {url}")

    def done(self) -> list[str]:
        """What was complained about; pages are closed."""
        for context in self.contexts:
            context.close()
        self.contexts.clear()
        found, self.complaints = self.complaints, []
        return found


def open_tab(page: Any, label: str) -> None:
    page.click(f'button[role="tab"]:text-is("{label}")')


def js(page: Any, code: str, *arguments: Any) -> Any:
    return page.evaluate(f"(arguments) => {{ {code} }}", list(arguments))


def painter_ready(page: Any) -> None:
    open_tab(page, "Paint")
    page.wait_for_function(
        "document.querySelector('canon-painter')?.draft && document.querySelector('canon-painter').part"
    )


def stroke(page: Any, points: list[tuple[float, float]], size: float, colour: str = "#ff0000") -> None:
    """Paint on the stage, through points of the canvas, with the mouse."""
    code = """
        const painter = document.querySelector('canon-painter');
        painter.settings.size = arguments[0]; painter.settings.hardness = 1; painter.setColour(arguments[1]);
        const box = painter.stage.element.getBoundingClientRect();
        return [box.left + painter.stage.shift[0], box.top + painter.stage.shift[1], painter.stage.scale];
    """
    left, top, scale = js(page, code, size, colour)
    at = [(left + x * scale, top + y * scale) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()
    page.evaluate("document.querySelector('canon-painter').flush()")


def scrub(page: Any, element: str, t: int) -> None:
    """Move an element's frame slider as the keyboard does."""
    page.locator(f"{element} input.scrubber").evaluate(
        "(slider, t) => { slider.value = t; slider.dispatchEvent(new Event('input', {bubbles: true})); }", t
    )


def responsiveness(page: Any, strokes: int = 8, at: tuple[float, float] = (60, 60)) -> tuple[list[float], list[float]]:
    """Milliseconds until the painter's preview shows another frame, and until it shows the beginning of a stroke."""
    shown = """
        const painter = document.querySelector('canon-painter'), seconds = [];
        const copy = document.createElement('canvas'), context = copy.getContext('2d', {willReadFrequently: true});
        const look = () => {
            const { width, height } = painter.previewCanvas;
            [copy.width, copy.height] = [width, height];
            context.drawImage(painter.previewCanvas, 0, 0);
            const { data } = context.getImageData(0, 0, width, height);
            let sum = 7;
            for (let k = 0; k < data.length; k += 97) sum = (sum * 31 + data[k]) >>> 0;
            return sum;
        };
        const next = async (before) => {
            const end = performance.now() + 5000;
            while (look() === before && performance.now() < end) await new Promise((r) => setTimeout(r, 4));
        };
    """
    scrubbed = page.evaluate(
        f"""async () => {{ {shown}
        for (let t = 3; t < painter.timeline.count - 1; t += 5) {{
            const before = look(), begin = performance.now();
            painter.timeline.go(t);
            await next(before);
            seconds.push(performance.now() - begin);
        }}
        return seconds; }}"""
    )
    x, y = at
    stroke(page, [(x, y), (x + 30, y)], 20)
    painted = []
    for k in range(strokes):
        page.evaluate(
            f"""async () => {{ {shown}
            let before = null;
            while (before !== (before = look())) await new Promise((done) => setTimeout(done, 400));
            const stage = painter.stage.element;
            window.waited = new Promise((done) => stage.addEventListener('pointerdown', async () => {{
                const begin = performance.now();
                await next(before);
                done(performance.now() - begin);
            }}, {{ once: true }})); }}"""
        )
        place = x + 5 * k % 40, y + 30 + 10 * k % 70
        stroke(page, [place, (place[0] + 60, place[1])], 20)
        painted.append(page.evaluate("window.waited"))
    return scrubbed, painted


def previewed(page: Any, size: tuple[int, int]) -> np.ndarray:
    """What the painter's preview shows, uint8 [H, W, 3], at a frame's size."""
    url = js(page, "return document.querySelector('canon-painter').previewCanvas.toDataURL('image/png');")
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return cv2.resize(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def reddened(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Where much red came in."""
    change = image.astype(int) - source.astype(int)
    return (change[..., 0] - change[..., 1:].mean(axis=-1)) > 60


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def save_painting(page: Any, name: str) -> None:
    page.fill("canon-painter input[aria-label='Name of the edit']", name)
    page.click("canon-painter .save button")


def choose_editor(page: Any, name: str, open: bool = True) -> None:
    if open:
        open_tab(page, "Edit")
    box = page.locator("#editor input")
    box.click()
    box.fill(name)
    page.locator(f'#editor [role="option"][aria-label="{name}"]').click()


def sent_untouched(page: Any, editor: str, folder: Path) -> dict[str, Any]:
    """The options that an editor's form sends when nobody touched it; nothing is run."""
    fields = forms.form(registry.editor(editor).Config)
    names = [field.name for plain in (True, False) for field in fields if field.plain is plain]
    sent: list[list[Any]] = []

    def keep(route: Any) -> None:
        data = json.loads(route.request.post_data)["data"]
        if len(data) != len(names) + 1:
            route.continue_()
            return
        sent.append(data[1:])
        route.fulfill(json={"data": [""], "is_generating": False, "duration": 0, "average_duration": 0})

    address = "**/gradio_api/run/predict*"
    choose_editor(page, editor)
    page.wait_for_selector(f"text={forms.described(editor)}")
    page.wait_for_selector(f"#option-{names[-1]}", state="attached")
    page.wait_for_timeout(300)
    page.route(address, keep)
    page.click("#run")
    while not sent:
        page.wait_for_timeout(20)
    page.unroute(address)
    return forms.options(fields, dict(zip(names, sent[0], strict=True)), folder)


def in_sight(page: Any, selector: str) -> bool:
    """Whether people see it without scrolling."""
    code = """
        const box = document.querySelector(arguments[0]).getBoundingClientRect();
        const top = document.elementFromPoint(box.left + 4, box.top + box.height / 2);
        return box.height > 8 && document.querySelector(arguments[0]).contains(top);
    """
    return bool(js(page, code, selector))


def fill(page: Any, option: str, value: Any) -> None:
    box = page.locator(f"#option-{option} input, #option-{option} textarea").first
    box.fill(str(value))
    box.press("Tab")


def run_editor(page: Any, variants: int = 1) -> None:
    page.fill("#variants input", str(variants))
    page.press("#variants input", "Tab")
    page.click("#run")
