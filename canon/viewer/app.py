"""The viewer as one application: our routes, and pages made with gradio around the painter and the inspector.

Nothing comes from elsewhere: fonts are the system's, gradio reports nothing, and its route for files gives only what
was uploaded here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from fastapi import FastAPI
from gradio.context import Context

from canon.project import WORK, Project
from canon.viewer.access import Access, is_local
from canon.viewer.api import router as painting
from canon.viewer.jobs import Jobs
from canon.viewer.page_edit import edit_page
from canon.viewer.page_render import render_page
from canon.viewer.page_spatial import SpatialViewers
from canon.viewer.page_spatial import router as spatial
from canon.viewer.routes import Workplace, answer_sentences
from canon.viewer.routes import router as work
from canon.viewer.shelf import Shelf
from canon.viewer.studio import Studio

MOST_UPLOADED = 256 << 20
"""Bytes of one file that is uploaded to an editor."""
_UPLOADS_KEPT = 30 * 86400.0
"""Seconds that an uploaded file is kept; edits that were made with it do not need it any more."""
_SCRIPTS = ("canon.js", "jobs.js", "project.js", "variants.js", "choosers.js")
_FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
_FILE_ROUTE = "/gradio_api/file"


def build(project: Path, *, password: str | None = None, host: str = "127.0.0.1", device: str | None = None) -> FastAPI:
    """The application that serves a project; ``app.state.close()`` ends what it has at work.

    Args:
        password: that is asked for; None = none.
        host: the address that will be bound to; requests for other ones are refused.
        device: for editors that have an option of that name.

    Raises:
        InputError: the folder is no project.
    """
    opened = Project.open(project)
    uploads = opened.folder.resolve() / WORK / "uploads"
    _make_room(uploads)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # gradio knows no other way
    studio = Studio(opened)
    place = Workplace(studio, Shelf(studio), Jobs(opened.folder.resolve() / WORK / "jobs"))
    exposed = not is_local(host)
    viewers = SpatialViewers(studio)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="canon")
    app.include_router(painting(studio))
    app.include_router(work(place))
    app.include_router(spatial(viewers, shown=not exposed))
    answer_sentences(app)
    pages = _pages(place, uploads, opened.folder.resolve() if exposed else None, device)
    app = gr.mount_gradio_app(
        app,
        pages,
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        allowed_paths=[],
        blocked_paths=[],
        show_error=False,
        max_file_size=MOST_UPLOADED,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=_theme(),
        head=_head(),
    )
    app.add_middleware(_OnlyUploads, uploads=uploads)
    app.add_middleware(Access, host=host, password=password)

    def close() -> None:
        viewers.close()
        place.jobs.close()
        studio.close()

    app.state.close, app.state.place = close, place
    return app


def _make_room(uploads: Path) -> None:
    """Make the folder for uploads, and delete those that are old."""
    uploads.mkdir(parents=True, exist_ok=True)
    for folder in uploads.iterdir():
        with contextlib.suppress(OSError):
            if folder.is_dir() and time.time() - folder.stat().st_mtime > _UPLOADS_KEPT:
                shutil.rmtree(folder, ignore_errors=True)


def _pages(place: Workplace, uploads: Path, confined: Path | None, device: str | None) -> gr.Blocks:
    project = place.shelf.project
    has_spatial = any(fit.get("spatial") for fit in place.shelf.contents()["fits"])
    title = f"{project.folder.resolve().name} · canon"
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as pages, gr.Tabs():
        with gr.Tab("Project", render_children=True):
            gr.HTML("<canon-project></canon-project>", padding=False)
        with gr.Tab("Look", render_children=True):
            gr.HTML("<canon-look></canon-look>", padding=False)
        with gr.Tab("Paint", render_children=True):
            gr.HTML('<canon-paint below="On top of"></canon-paint>', padding=False)
        with gr.Tab("Edit", render_children=True) as edit:
            edit_page(place, edit, uploads, confined, device)
        with gr.Tab("Render", render_children=True) as render:
            render_page(place, render)
        if has_spatial:
            with gr.Tab("3-D", render_children=True):
                gr.HTML("<canon-spatial></canon-spatial>", padding=False)
    # What is made later must not be taken, in a page that stayed open over a restart, for what was there before.
    Context.id += int(1000 * time.time())  # far more than forms take in a second
    pages.queue(default_concurrency_limit=4, max_size=64, api_open=False)
    return pages


def _theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        spacing_size="sm",
        font=_FONTS[0],
        font_mono=_FONTS[1],
    ).set(block_border_width="1px", button_primary_text_color="white")


def _head() -> str:
    icon = "data:image/svg+xml," + (
        "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' "
        "fill='%232563eb'/%3E%3Cpath d='M4 11 8 4l4 7z' fill='white'/%3E%3C/svg%3E"
    )
    scripts = "".join(f'<script type="module" src="/canon/assets/{name}"></script>' for name in _SCRIPTS)
    styles = '<link rel="stylesheet" href="/canon/assets/shell.css">'
    return f'<link rel="icon" href="{icon}">{styles}{scripts}'


class _OnlyUploads:
    """ASGI middleware: gradio's route for files gives uploads alone, and fetches nothing from elsewhere for a page."""

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Path) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 403 to other paths."""
        path = scope.get("path", "") if scope["type"] == "http" else ""
        if _FILE_ROUTE in path or "/gradio_api/proxy" in path:
            named = Path("/" + path.partition(_FILE_ROUTE)[2].lstrip("=/")).resolve()
            if self.uploads not in named.parents:
                await send(
                    {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
                )
                await send({"type": "http.response.body", "body": b"Only what was uploaded here can be fetched here."})
                return
        await self.app(scope, receive, send)
