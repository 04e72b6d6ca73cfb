"""The viewer's two elements in a real browser, on a page with nothing else: painting, looking, losing the server."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="needs the package playwright")
pytest.importorskip("fastapi", reason="the viewer needs the extra [viewer]")
pytest.importorskip("uvicorn", reason="the viewer needs the extra [viewer]")

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.sync_api import Browser, Page, sync_playwright
from viewing import saved_project

import canon
from canon.project import Project
from canon.storage import write_image
from canon.viewer.api import router
from canon.viewer.draft_layers import Target
from canon.viewer.images import decoded_rgba
from canon.viewer.studio import Studio
from tests.helpers.truth import small_scene, true_fit

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>body {{ margin: 0 }} canon-{0} {{ height: 100vh }}</style><canon-{0}></canon-{0}>
<script type="module" src="/canon/assets/canon.js"></script>"""


class Server:
    """The viewer's routes and a bare page for each element, on a free port; can be stopped and started again."""

    def __init__(self, project: Path) -> None:
        self.project = project
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.studio = Studio(Project.open(self.project))
        app = FastAPI()
        app.include_router(router(self.studio))

        @app.get("/{kind}", response_class=HTMLResponse)
        def page(kind: str) -> str:
            return PAGE.format(kind)

        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_level="critical", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)

    def stop(self) -> None:
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fit = true_fit(small_scene())
    return saved_project(tmp_path_factory.mktemp("viewer") / "project", fit, "true").folder


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copytree(folder, tmp_path / "project")
    server = Server(tmp_path / "project")
    yield server
    server.stop()
    server.studio.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    page.set_default_timeout(20000)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.errors = errors  # type: ignore[attr-defined]
    yield page
    context.close()


def opened(page: Page, server: Server, kind: str, options: str = "{fit: 'true'}") -> None:
    page.goto(f"http://127.0.0.1:{server.port}/{kind}")
    page.wait_for_function(f"customElements.get('canon-{kind}') !== undefined")
    page.evaluate(f"document.querySelector('canon-{kind}').open({options})")


def painter(page: Page, expression: str) -> Any:
    return page.evaluate(
        f"(async () => {{ const p = document.querySelector('canon-painter'); return {expression} }})()"
    )


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of what is painted on lies on the page."""
    box = page.locator(".stage").bounding_box()
    assert box is not None
    sx, sy = painter(page, f"p.stage.toScreen({x + 0.5}, {y + 0.5})")
    return box["x"] + sx, box["y"] + sy


def stroke(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*place(page, *start))
    page.mouse.down()
    page.mouse.move(*place(page, *end), steps=12)
    page.mouse.up()
    painter(page, "await p.flush()")


def preview_until(page: Page, wanted: np.ndarray) -> None:
    """Wait until the preview shows a frame, up to what JPEG changes."""
    read = "document.querySelector('canon-painter').previewCanvas.toDataURL('image/png')"
    until, apart = time.monotonic() + 20, 255.0
    while time.monotonic() < until:
        shown = decoded_rgba(base64.b64decode(page.evaluate(read).partition(",")[2]))[..., :3]
        if shown.shape == wanted.shape:
            apart = float(np.abs(shown.astype(int) - wanted).mean())
            if apart < 3:
                return
        time.sleep(0.05)
    raise AssertionError(f"the preview is {apart:.1f} levels away from the frame")


def test_a_stroke_on_a_canvas_is_seen_in_another_frame(page: Page, server: Server) -> None:
    opened(page, server, "painter", "{fit: 'true', layer: 'background', frame: 6}")
    fit, draft = server.studio.fit("true"), server.studio.draft(painter(page, "p.draft"))
    painter(page, "(p.settings.size = 20, p.settings.hardness = 1, p.setColour('#ff2010'))")
    stroke(page, (80, 40), (130, 70))
    (layer,) = draft.layers
    ys, xs = np.nonzero(layer.rgba[..., 3])
    assert abs(xs.min() - 70) <= 2 and abs(xs.max() - 140) <= 2, "the stroke lies where it was drawn, a brush wide"
    assert abs(ys.min() - 30) <= 2 and abs(ys.max() - 80) <= 2
    np.testing.assert_allclose(layer.rgba[55, 105].astype(int), [255, 32, 16, 255], atol=3)
    wanted = canon.render(fit, draft.edit())[6]
    assert (wanted != fit.clip.frames[6]).any(axis=-1).mean() > 0.02
    preview_until(page, wanted)
    page.keyboard.press("e")
    stroke(page, (60, 55), (150, 55))
    assert draft.layers[0].rgba[55, 105, 3] == 0 and draft.layers[0].rgba[42, 82, 3] == 255
    preview_until(page, canon.render(fit, draft.edit())[6])
    page.keyboard.press("Control+z")
    painter(page, "await p.flush()")
    assert draft.layers[0].rgba[55, 105, 3] == 255
    page.keyboard.press("Control+z")
    painter(page, "await p.flush()")
    preview_until(page, np.asarray(fit.clip.frames[6]))
    page.keyboard.press("Control+Shift+z")
    painter(page, "await p.flush()")
    preview_until(page, canon.render(fit, draft.edit())[6])
    page.get_by_label("Name of the edit").fill("mine")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved as 'mine'.").wait_for()
    np.testing.assert_array_equal(canon.render(fit, server.studio.edit("mine"))[6], wanted)
    page.get_by_role("button", name="Open").click()
    page.wait_for_function(f"document.querySelector('canon-painter').draft !== '{draft.id}'")
    page.get_by_role("button", name="Replace").wait_for()
    back = server.studio.draft(painter(page, "p.draft"))
    np.testing.assert_array_equal(back.layers[0].rgba, draft.layers[0].rgba)
    assert painter(page, "p.sheet.buffers.size") == 1
    assert page.errors == []  # type: ignore[attr-defined]


def test_painting_on_a_frame(page: Page, server: Server) -> None:
    opened(page, server, "painter", "{fit: 'true', frame: 4, onFrame: true}")
    fit, draft = server.studio.fit("true"), server.studio.draft(painter(page, "p.draft"))
    painter(page, "p.settings.size = 24")
    stroke(page, (40, 30), (90, 60))
    assert draft.layers[0].target.frame == 4
    painter(page, "p.timeline.go(7)")
    wanted = canon.render(fit, draft.edit())[7]
    assert (wanted != fit.clip.frames[7]).any(axis=-1).mean() > 0.02
    preview_until(page, wanted)
    assert painter(page, "p.sheet.target.frame") == 4, "a frame that was chosen stays"
    # The frame that is shown can be chosen, and is followed.
    scrubber, choice = page.locator(".scrubber"), page.get_by_label("Paint on", exact=True)
    scrubber.press("ArrowLeft")
    choice.focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function("document.querySelector('canon-painter').sheet.target.frame === 6")
    stroke(page, (40, 30), (60, 60))
    assert draft.layers[-1].target.frame == 6
    scrubber.press("Home")
    page.wait_for_function("document.querySelector('canon-painter').sheet.target.frame === 0")
    assert choice.locator("option:checked").text_content() == "frame shown (0)"
    page.reload()
    page.wait_for_function("customElements.get('canon-painter') !== undefined")
    painter(page, "await p.open({fit: 'true'})")
    assert painter(page, "[p.timeline.frame, p.sheet.target.frame]") == [6, 6], "it is shown what was painted on"
    assert page.errors == []  # type: ignore[attr-defined]


def test_stickers_and_text_can_be_moved_and_come_back(page: Page, server: Server, tmp_path: Path) -> None:
    opened(page, server, "painter", "{fit: 'true', layer: 'background'}")
    draft = server.studio.draft(painter(page, "p.draft"))
    write_image(tmp_path / "sticker.png", np.full((40, 60, 3), (10, 200, 30), np.uint8))
    page.locator("input[type=file]").set_input_files(tmp_path / "sticker.png")
    page.locator(".handles .outline").wait_for()
    page.wait_for_function("document.querySelector('canon-painter').state.undo === 'add layer'")
    painter(page, "await p.flush()")
    before = np.argwhere(draft.layers[0].rgba[..., 3] > 128).mean(axis=0)
    assert draft.layers[0].kind == "image" and draft.layers[0].asset is not None
    box = page.locator(".handles .outline").bounding_box()
    assert box is not None
    scale = painter(page, "p.stage.scale")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 20 * scale, box["y"] + box["height"] / 2 + 10 * scale, steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelector('canon-painter').state.undo === 'place picture'")
    painter(page, "await p.flush()")
    after = np.argwhere(draft.layers[0].rgba[..., 3] > 128).mean(axis=0)
    np.testing.assert_allclose(after - before, [10, 20], atol=1)
    lit = "p.toolbox.buttons.filter((b) => b.getAttribute('aria-pressed') === 'true').map((b) => b.dataset.tool)"
    assert painter(page, lit) == ["move"]
    painter(page, "await p.undo()")
    np.testing.assert_allclose(np.argwhere(draft.layers[0].rgba[..., 3] > 128).mean(axis=0), before, atol=0.1)
    page.keyboard.press("t")
    page.mouse.click(*place(page, 60, 30))
    page.wait_for_function("document.querySelector('canon-painter').root.activeElement?.tagName === 'TEXTAREA'")
    page.keyboard.type("héron")
    page.wait_for_function("document.querySelector('canon-painter').state.layers.at(-1).extra.text === 'héron'")
    painter(page, "await p.flush()")
    assert draft.layers[1].extra["text"] == "héron" and draft.layers[1].rgba[..., 3].max() == 255
    ys, xs = np.nonzero(draft.layers[1].rgba[..., 3])
    assert abs(xs.mean() - 60) < 6 and abs(ys.mean() - 30) < 6
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("gris")
    assert page.locator("textarea").get_attribute("rows") == "2"
    page.keyboard.press("Enter")
    painter(page, "await p.flush()")
    assert draft.layers[1].extra["text"] == "héron\ngris"
    assert painter(page, "p.root.activeElement.className") == "app painter", "Enter ends the text"
    assert painter(page, lit) == ["move"]
    placed = dict(draft.layers[1].extra)
    page.keyboard.press("b")
    stroke(page, (55, 30), (65, 34))
    assert painter(page, lit) == ["brush"] and draft.layers[1].extra == placed
    assert draft.layers[2].kind == "brush" and draft.layers[2].rgba[30, 56, 3] > 0, "a brush paints, it moves nothing"
    painter(page, "await p.undo()")
    painter(page, "await p.undo()")
    page.reload()
    page.wait_for_function("customElements.get('canon-painter') !== undefined")
    painter(page, "await p.open({fit: 'true'})")
    assert painter(page, "p.draft") == draft.id, "the same tab finds its drawing again"
    assert painter(page, "p.state.layers.map((layer) => layer.kind)") == ["image", "text"]
    assert page.errors == []  # type: ignore[attr-defined]


def test_a_file_that_is_no_picture_is_a_sentence(page: Page, server: Server, tmp_path: Path) -> None:
    opened(page, server, "painter")
    (tmp_path / "bad.png").write_bytes(b"nothing of the kind")
    page.locator("input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_text("'bad.png' is not a picture that can be read").wait_for()
    assert page.errors == [] and painter(page, "p.state.layers") == []  # type: ignore[attr-defined]


def test_what_is_painted_while_the_server_is_away_is_not_lost(page: Page, server: Server) -> None:
    opened(page, server, "painter", "{fit: 'true', layer: 'background'}")
    painter(page, "p.settings.size = 12")
    stroke(page, (40, 30), (90, 30))
    id = painter(page, "p.draft")
    server.stop()
    page.mouse.move(*place(page, 40, 60))
    page.mouse.down()
    page.mouse.move(*place(page, 90, 60), steps=5)
    page.mouse.up()
    page.get_by_text("does not answer").wait_for()
    server.start()  # which knows what was written before, at most
    page.get_by_text("there again").wait_for()
    painter(page, "await p.flush()")
    draft = server.studio.draft(painter(page, "p.draft"))
    pixels = draft.layers[0].rgba
    assert pixels[30, 65, 3] == 255 and pixels[60, 65, 3] == 255
    assert painter(page, "p.draft") == id or len(draft.layers) == 1


def test_two_tabs_have_a_drawing_each(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    tabs = [context.new_page(), context.new_page()]
    for tab in tabs:
        opened(tab, server, "painter", "{fit: 'true', layer: 'background'}")
    ids = [painter(tab, "p.draft") for tab in tabs]
    assert ids[0] != ids[1]
    opened(tabs[1], server, "painter", f"{{fit: 'true', draft: '{ids[0]}'}}")
    assert painter(tabs[1], "p.draft") not in ids, "what is open elsewhere is opened as a copy"
    context.close()


def test_drawings_that_were_left_are_offered(page: Page, server: Server) -> None:
    ids = []
    for name in ("saved", "changed", "left"):
        draft = server.studio.new_draft("true")
        layer = draft.add_layer(Target("background"), name)
        draft.patch(layer.id, 30, 30, np.full((20, 20, 4), 255, np.uint8))
        if name != "left":
            server.studio.save_draft(draft.id, name)
        if name == "changed":
            draft.patch(layer.id, 60, 30, np.full((20, 20, 4), 255, np.uint8))
        ids.append(draft.id)
    opened(page, server, "painter")
    offered = page.locator(".offer li span")
    offered.first.wait_for()
    texts = offered.all_text_contents()
    assert len(texts) == 2 and texts[0].endswith(": left"), "the newest first, without what an edit holds unchanged"
    assert texts[1].endswith("changed; changed since it was saved as “changed”")
    page.get_by_role("button", name="Go on with it").last.click()
    page.wait_for_function(f"document.querySelector('canon-painter').draft === '{ids[1]}'")
    page.locator(".offer").wait_for(state="hidden")
    assert page.errors == []  # type: ignore[attr-defined]


def test_the_inspector_shows_frames_and_where_a_pixel_lies(page: Page, server: Server) -> None:
    opened(page, server, "inspector", "{fit: 'true', frame: 2}")
    fit = server.studio.fit("true")
    inspector = "document.querySelector('canon-inspector')"
    page.wait_for_function(f"{inspector}.panes.every((pane) => pane.canvas.width === {fit.size[1]})")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.locator(".app").press(key)
    assert page.evaluate(f"{inspector}.frame") == 3
    page.locator(".app").press(" ")
    page.wait_for_function(f"{inspector}.timeline.shown > 4")
    page.locator(".app").press(" ")
    page.evaluate(f"{inspector}.frame = 4")
    x, y = page.evaluate(f"{inspector}.panes[0].viewport.toScreen(97.5, 52.5)")
    pane = page.locator(".viewport").first.bounding_box()
    assert pane is not None
    page.mouse.move(pane["x"] + x, pane["y"] + y)
    page.wait_for_function(f"{inspector}.canvases.every((pane) => pane.marker.at)")
    page.locator(".probe").first.wait_for()
    at = page.evaluate(f"{inspector}.canvases.map((pane) => pane.marker.at)")
    pixel = page.evaluate(f"{inspector}.pointed.frame")
    np.testing.assert_allclose(pixel, [97, 52], atol=1)
    column, row = round(pixel[0]), round(pixel[1])
    for found, name in zip(at, fit.layers, strict=True):
        uv = fit.coordinates(4, name)[0][row, column]
        np.testing.assert_allclose(np.array(found[:2]) - 0.5, uv, atol=2.5)
    # And back: over the canvas, the marker in the frame.
    box = page.locator(".canvases .viewport").last.bounding_box()
    assert box is not None
    x, y = page.evaluate(f"{inspector}.canvases.at(-1).viewport.toScreen({at[-1][0]}, {at[-1][1]})")
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_function(f"{inspector}.pointed?.pane && {inspector}.panes[0].marker.at")
    back = page.evaluate(f"{inspector}.panes[0].marker.at")
    np.testing.assert_allclose(np.array(back[:2]) - 0.5, pixel, atol=3)
    page.set_viewport_size({"width": 390, "height": 700})
    wide = f"[...{inspector}.root.querySelectorAll('.bar > *')].map((part) => part.getBoundingClientRect().right)"
    assert max(page.evaluate(wide)) <= 390, "the bar wraps where the window is narrow"
    page.set_viewport_size({"width": 1366, "height": 768})
    for view in ("error", "opacity", "lighting", "checkerboard", "uv"):
        page.get_by_label("What this pane shows").first.select_option(view)
        page.wait_for_function(f"{inspector}.store.peek({inspector}.panes[0].url(4))")
    assert page.errors == []  # type: ignore[attr-defined]
