"""The viewer's web interface under ``/canon``: pictures, maps, and drafts that are painted on.

Every error is ``{"error": sentence}`` with a status of 400 or more. Frames, layers and edits are named as everywhere;
``edits`` of a query is a list of names with commas between them.
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from canon.errors import InputError
from canon.viewer import exchange, pictures, probing
from canon.viewer.draft_layers import Target
from canon.viewer.drafts import Draft
from canon.viewer.guarding import (
    STALE,
    Bytes,
    Conflict,
    SentenceRoute,
    Turns,
    read_body,
    read_mapping,
    sentence,
)
from canon.viewer.images import decoded_rgba, encoded, fitted
from canon.viewer.studio import Studio

ASSETS = Path(__file__).parent / "assets"
_MOST_WIDTH = 4096
_FOREVER = "private, max-age=86400, immutable"
_MOST_EDITS = 50


def router(studio: Studio) -> APIRouter:
    """All routes, with the prefix ``/canon``; who may ask is :class:`canon.viewer.access.Access`'s business."""
    found = APIRouter(prefix="/canon", route_class=SentenceRoute)
    turns, kept = Turns(), Bytes()
    _add_assets(found)
    _add_fits(found, studio)
    _add_pictures(found, studio, turns, kept)
    _add_probes(found, studio)
    _add_drafts(found, studio)
    _add_layers(found, studio)
    _add_exchange(found, studio)
    _add_history(found, studio)

    @found.api_route("/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    def nothing(rest: str) -> Response:
        return sentence("There is nothing at this address.", 404)

    return found


def _add_assets(routes: APIRouter) -> None:
    @routes.get("/assets/{name}")
    def asset(name: str, request: Request) -> Response:
        path = next((path for path in ASSETS.iterdir() if path.name == name), None)
        if path is None or path.suffix not in (".js", ".css", ".svg"):
            return sentence("There is no such file.", 404)
        data = path.read_bytes()
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
        return _tagged(request, data, hashlib.sha256(data).hexdigest()[:16], str(kind), "no-cache")


def _add_fits(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/fits")
    def fits() -> Any:
        return {"fits": [{"name": name, "version": studio.fit_version(name)} for name in studio.project.fits]}

    @routes.get("/edits")
    def edits() -> Any:
        return {"edits": [{"name": name, "version": studio.edit_version(name)} for name in studio.project.edits]}

    @routes.get("/fits/{fit}")
    def fit(fit: str) -> Any:
        data = studio.fit(fit)
        name = studio.project.fit_name(fit)
        layers = []
        for k, layer in enumerate(data.baked):
            segments = []
            for number, (first, last) in enumerate(data.segments(layer.name)):
                rows, columns = data.segment_box(layer.name, number)
                place = {"x": columns.start, "y": rows.start}
                size = {"width": columns.stop - columns.start, "height": rows.stop - rows.start}
                segments.append({"first": first, "last": last, **place, **size})
            tint = [int(value) for value in pictures.TINTS[k % len(pictures.TINTS)]]
            canvas = {"width": layer.canvas_size[1], "height": layer.canvas_size[0]}
            layers.append({"name": layer.name, **canvas, "segments": segments, "tint": tint})
        return {
            "name": name,
            "version": studio.fit_version(name),
            "frames": len(data),
            "width": data.size[1],
            "height": data.size[0],
            "fps": float(data.clip.fps),
            "representation": data.representation,
            "layers": layers,
            "edits": studio.edits_of(name),
            "error_range": pictures.ERROR_RANGE,
        }


def _add_pictures(routes: APIRouter, studio: Studio, turns: Turns, kept: Bytes) -> None:
    async def answer(
        request: Request, tag: str, kind: str, channel: str, number: int, draft: str, make: Callable[[], np.ndarray]
    ) -> Response:
        tag = hashlib.sha256(tag.encode()).hexdigest()[:24]
        cache = "no-cache" if draft or "v" not in request.query_params else _FOREVER
        if request.headers.get("if-none-match") == f'"{tag}"':
            return Response(status_code=304, headers={"ETag": f'"{tag}"', "Cache-Control": cache})
        data = kept.get(tag)
        if data is None:
            data = await turns.run(request, channel, number, lambda: encoded(make(), kind))
            if data is None:
                return Response(status_code=204, headers={STALE: "1", "Cache-Control": "no-store"})
            kept.put(tag, data)
        return _tagged(request, data, tag, f"image/{kind}", cache)

    @routes.get("/fits/{fit}/frames/{t}")
    async def frame(
        request: Request,
        fit: str,
        t: int,
        view: str = "edited",
        edits: str = "",
        draft: str = "",
        layer: str = "",
        mix: float = Query(0.65, ge=0, le=1),
        width: int = Query(0, ge=0, le=_MOST_WIDTH),
        format: str = "jpeg",
        channel: str = Query("", max_length=100),
        number: int = 0,
    ) -> Response:
        stack = names_of(edits)
        studio.check_frame(fit, t)
        if view != "edited" and view not in pictures.VIEWS:
            raise InputError(f"A frame can be seen as {', '.join(['edited', *pictures.VIEWS])}, not as '{view}'.")
        below = await asyncio.to_thread(lambda: [studio.edit_version(name) for name in stack])
        revision = studio.draft(draft).revision if draft else 0
        tag = f"{fit}|{studio.fit_version(fit)}|{t}|{view}|{stack}|{below}|{draft}|{revision}|{layer}|{mix}"

        def make() -> np.ndarray:
            if view == "edited":
                image = studio.preview(fit, t, stack, draft or None)
            else:
                image = pictures.VIEWS[view](studio.fit(fit), t, layer or None, mix)
            return fitted(image, width or None)

        return await answer(request, f"{tag}|{width}|{format}", format, channel, number, draft, make)

    @routes.get("/fits/{fit}/canvases/{layer}")
    async def canvas(
        request: Request,
        fit: str,
        layer: str,
        segment: int = 0,
        edits: str = "",
        draft: str = "",
        width: int = Query(0, ge=0, le=_MOST_WIDTH),
        format: str = "png",
        channel: str = Query("", max_length=100),
        number: int = 0,
    ) -> Response:
        stack = names_of(edits)
        below = await asyncio.to_thread(lambda: [studio.edit_version(name) for name in stack])
        await asyncio.to_thread(lambda: studio.fit(fit).segment_box(layer, segment))
        revision = studio.draft(draft).revision if draft else 0
        tag = f"canvas|{fit}|{studio.fit_version(fit)}|{layer}|{segment}|{stack}|{below}|{draft}|{revision}"

        def make() -> np.ndarray:
            done = studio.composed(fit, stack, draft or None) if stack or draft else {}
            return fitted(pictures.canvas(studio.fit(fit), layer, segment, done.get(layer)), width or None)

        return await answer(request, f"{tag}|{width}|{format}", format, channel, number, draft, make)


def _add_probes(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/fits/{fit}/frames/{t}/map")
    def grid(request: Request, fit: str, t: int, layer: str) -> Response:
        """Canvas positions at the frame's control nodes: float32, little-endian, x and y by turns."""
        studio.check_frame(fit, t)
        data = studio.fit(fit)
        nodes = np.ascontiguousarray(data.layer(layer).grid[t], "<f4")
        tag = hashlib.sha256(f"{studio.fit_version(fit)}|{t}|{layer}".encode()).hexdigest()[:24]
        answer = _tagged(request, nodes.tobytes(), tag, "application/octet-stream", "no-cache")
        part = data.layer(layer).shares.get(t)
        answer.headers["X-Canon-Rows"], answer.headers["X-Canon-Columns"] = map(str, nodes.shape[:2])
        answer.headers["X-Canon-Stride"] = str(data.stride)
        answer.headers["X-Canon-Segment"] = str(0 if part is None else part.own)
        return answer

    @routes.get("/fits/{fit}/probe")
    def probe(fit: str, t: int, x: float, y: float) -> Any:
        studio.check_frame(fit, t)
        return {"frame": t, "x": x, "y": y, "layers": probing.in_frame(studio.fit(fit), t, x, y)}

    @routes.get("/fits/{fit}/locate")
    def locate(fit: str, t: int, layer: str, x: float, y: float) -> Any:
        studio.check_frame(fit, t)
        return probing.on_canvas(studio.fit(fit), t, layer, x, y)

    @routes.get("/fits/{fit}/track")
    def track(fit: str, t: int, x: float, y: float, layer: str = "") -> Any:
        studio.check_frame(fit, t)
        return probing.track(studio.fit(fit), t, x, y, layer or None)


def _add_drafts(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/drafts")
    def drafts() -> Any:
        return {"drafts": studio.drafts()}

    @routes.post("/drafts")
    async def new_draft(request: Request) -> Any:
        given = await read_mapping(request)
        edits = _names(given.get("edits", []))
        fit = given.get("fit")
        draft = await asyncio.to_thread(studio.new_draft, None if fit is None else str(fit), edits)
        studio.hold(draft, str(given.get("tab", "")))
        return draft.state()

    @routes.get("/drafts/{id}")
    def draft(id: str) -> Any:
        return studio.draft(id).state()

    @routes.delete("/drafts/{id}")
    def discard(id: str) -> Any:
        studio.discard_draft(id)
        return {}

    @routes.post("/drafts/{id}/open")
    async def open_draft(id: str, request: Request) -> Any:
        given = await read_mapping(request)
        opened = await asyncio.to_thread(studio.open_draft, id, str(given.get("tab", "")))
        return opened.state()

    @routes.post("/drafts/{id}/alive")
    async def alive(id: str, request: Request) -> Any:
        held = studio.hold(studio.draft(id), str((await read_mapping(request)).get("tab", "")))
        return {"held": held, "revision": studio.draft(id).revision}

    @routes.post("/drafts/{id}/release")
    async def release(id: str, request: Request) -> Any:
        studio.release(studio.draft(id), str((await read_mapping(request)).get("tab", "")))
        return {}

    @routes.post("/drafts/{id}/undo")
    def undo(id: str, tab: str = "") -> Any:
        draft = held(studio, id, tab)
        return {"places": draft.undo(), **draft.state()}

    @routes.post("/drafts/{id}/redo")
    def redo(id: str, tab: str = "") -> Any:
        draft = held(studio, id, tab)
        return {"places": draft.redo(), **draft.state()}

    @routes.post("/drafts/{id}/stack")
    async def stack(id: str, request: Request, tab: str = "") -> Any:
        draft = held(studio, id, tab)
        edits = _names((await read_mapping(request)).get("edits", []))
        # Refused before it is kept: edits that are not there or do not belong to the fit.
        await asyncio.to_thread(studio.video, draft.fit_name, edits)
        draft.stack(edits)
        return draft.state()

    @routes.post("/drafts/{id}/save")
    async def save(id: str, request: Request) -> Any:
        given = await read_mapping(request)
        name, replace = str(given.get("name", "")), given.get("replace") is True
        await asyncio.to_thread(studio.save_draft, id, name, replace)
        return {"name": name.strip()}


def _add_layers(routes: APIRouter, studio: Studio) -> None:
    @routes.post("/drafts/{id}/layers")
    async def add(id: str, request: Request, tab: str = "", stroke: str = "") -> Any:
        draft, given = held(studio, id, tab), await read_mapping(request)
        at = given.get("at")
        layer = await asyncio.to_thread(
            draft.add_layer,
            target_of(given.get("target")),
            str(given.get("name", "")),
            str(given.get("kind", "brush")),
            at if isinstance(at, int) else None,
            stroke or None,
            extra=given.get("extra", {}),
        )
        return {"layer": layer.describe(), **draft.state()}

    @routes.patch("/drafts/{id}/layers/{number}")
    async def change(id: str, number: int, request: Request, tab: str = "", stroke: str = "") -> Any:
        draft, given = held(studio, id, tab), await read_mapping(request)
        given.pop("asset", None)
        layer = await asyncio.to_thread(draft.change_layer, number, given, stroke or None)
        return {"layer": layer.describe(), **draft.state()}

    @routes.delete("/drafts/{id}/layers/{number}")
    def remove(id: str, number: int, tab: str = "") -> Any:
        draft = held(studio, id, tab)
        draft.remove_layer(number)
        return draft.state()

    @routes.post("/drafts/{id}/layers/{number}/patch")
    async def patch(
        id: str, number: int, request: Request, x: int, y: int, stroke: str = "", label: str = "paint", tab: str = ""
    ) -> Any:
        draft = held(studio, id, tab)
        data = await read_body(request)
        most = draft.layer(number).rgba.size // 4

        def apply() -> None:
            draft.patch(number, x, y, decoded_rgba(data, most), stroke or None, label[:40])

        await asyncio.to_thread(apply)
        return {"revision": draft.revision}

    @routes.get("/drafts/{id}/layers/{number}/pixels")
    def pixels(id: str, number: int, x: int = 0, y: int = 0, width: int = 0, height: int = 0) -> Response:
        draft = studio.draft(id)
        with draft.lock:
            rgba = draft.layer(number).rgba
            if x < 0 or y < 0 or x >= rgba.shape[1] or y >= rgba.shape[0] or width < 0 or height < 0:
                raise InputError("This part is not inside of the layer.")
            part = rgba[y : y + (height or rgba.shape[0]), x : x + (width or rgba.shape[1])].copy()
        return Response(encoded(part, "png"), media_type="image/png", headers={"Cache-Control": "no-store"})

    @routes.put("/drafts/{id}/layers/{number}/asset")
    async def set_asset(id: str, number: int, request: Request, tab: str = "", stroke: str = "") -> Any:
        draft, data = held(studio, id, tab), await read_body(request, 32 << 20)
        await asyncio.to_thread(decoded_rgba, data)
        draft.change_layer(number, {"asset": data}, stroke or None)
        return draft.state()

    @routes.get("/drafts/{id}/layers/{number}/asset")
    def asset(id: str, number: int) -> Response:
        data = studio.draft(id).layer(number).asset
        if data is None:
            return sentence("This layer has no picture of its own.", 404)
        return Response(encoded(decoded_rgba(data), "png"), media_type="image/png")


def _add_exchange(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/drafts/{id}/export")
    def export(id: str, format: str = "ora", layer: str = "", segment: int = 0, frame: int | None = None) -> Response:
        draft = studio.draft(id)
        target = Target(layer or None, segment, frame)
        data = exchange.exported(studio, draft, target, format)
        name = f"{draft.fit_name}-{layer}" if frame is None else f"{draft.fit_name}-frame{frame:05d}"
        disposition = f'attachment; filename="{_ascii(name)}.{format}"'
        kinds = {"ora": "image/openraster", "psd": "image/vnd.adobe.photoshop", "png": "image/png"}
        return Response(data, media_type=kinds[format], headers={"Content-Disposition": disposition})

    @routes.post("/drafts/{id}/import")
    async def read_in(
        id: str,
        request: Request,
        name: str = Query("", max_length=200),
        layer: str = "",
        segment: int = 0,
        frame: int | None = None,
        tab: str = "",
    ) -> Any:
        draft = held(studio, id, tab)
        data = await read_body(request)
        added = await asyncio.to_thread(exchange.imported, draft, Target(layer or None, segment, frame), data, name)
        return {"added": [layer.id for layer in added], **draft.state()}


def _add_history(routes: APIRouter, studio: Studio) -> None:
    @routes.get("/edits/{name}/history")
    def history(name: str) -> Any:
        return {"versions": studio.history(name)}

    @routes.post("/edits/{name}/open")
    async def open_edit(name: str, request: Request) -> Any:
        tab = str((await read_mapping(request)).get("tab", ""))
        return (await asyncio.to_thread(studio.open_edit, name, tab)).state()

    @routes.post("/edits/{name}/restore")
    async def restore(name: str, request: Request) -> Any:
        version = (await read_mapping(request)).get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise InputError("Say which version is to come back.")
        await asyncio.to_thread(studio.restore, name, version)
        return {"versions": studio.history(name)}


def held(studio: Studio, id: str, tab: str) -> Draft:
    """A draft that a tab is about to change.

    Raises:
        Conflict: another tab holds it.
        InputError: there is none.
    """
    draft = studio.draft(id)
    if not studio.hold(draft, tab):
        raise Conflict("This drawing is open in another tab; close it there, or go on in a copy.")
    return draft


def target_of(given: Any) -> Target:
    """What is to be painted on, from JSON.

    Raises:
        InputError: it says nothing that can be.
    """
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise InputError("Say what to paint on: a layer and segment, or a frame.")
    layer, segment, frame = given.get("layer"), given.get("segment", 0), given.get("frame")
    whole = all(
        isinstance(value, int) and not isinstance(value, bool) for value in (segment, 0 if frame is None else frame)
    )
    if not whole or not (layer is None or isinstance(layer, str)):
        raise InputError("Say what to paint on: a layer and segment, or a frame.")
    return Target(layer or None, segment, frame)


def names_of(text: str) -> list[str]:
    """The names in a query, with commas between them."""
    return _names([name for name in text.split(",") if name])


def _names(given: Any) -> list[str]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise InputError("Edits are given as a list of names.")
    if len(given) > _MOST_EDITS:
        raise InputError(f"At most {_MOST_EDITS} edits can be stacked.")
    return list(given)


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name) or "drawing"


def _tagged(request: Request, data: bytes, tag: str, kind: str, cache: str) -> Response:
    headers = {"ETag": f'"{tag}"', "Cache-Control": cache, "X-Content-Type-Options": "nosniff"}
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
