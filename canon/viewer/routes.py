"""What the pages ask for beside what is painted: the project's contents, jobs and their variants, renders.

Answers are JSON; of bad input ``{"error": sentence}`` with a status of 4xx. Names are those of things in the project:
no path is taken.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import cv2
import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from canon.edit_folder import load_edit
from canon.errors import InputError
from canon.storage import encoded_image
from canon.viewer.jobs import DONE, Job, Jobs
from canon.viewer.shelf import EDITS, FITS, VIDEO_TYPES, Shelf
from canon.viewer.work import VARIANTS

if TYPE_CHECKING:
    from canon.rendering import Video
    from canon.viewer.studio import Studio

_VIDEOS_KEPT = 8
_ONE_DAY = "private, max-age=86400, immutable"
_MOST_NAME = 120

Name = Annotated[str, Field(min_length=1, max_length=_MOST_NAME)]
Version = Annotated[str, Query(max_length=40)]


class Renaming(BaseModel):
    """A new name."""

    to: Name


class Choice(BaseModel):
    """A variant, and the name under which it is kept."""

    variant: int
    name: Name
    replace: bool = False


class Measuring(BaseModel):
    """What is to be measured: a fit, or an edit."""

    kind: str
    name: Name


@dataclass
class Workplace:
    """What the routes and the pages share."""

    studio: Studio
    shelf: Shelf
    jobs: Jobs

    def measure(self, kind: str, name: str) -> Job:
        """Have a fit or an edit measured.

        Raises:
            InputError: it is not there, or there is nothing to measure of it.
        """
        project = self.shelf.project
        if kind == FITS:
            fit, edits = project.fit_name(name), []
        elif kind == EDITS:
            fit, edits = project.fit_of([project.edit(name)]), [name]
        else:
            raise InputError("Fits and edits can be measured; choose one of those.")
        record = str(self.shelf.record(kind, name))
        arguments = {"project": str(project.folder), "fit": fit, "edits": edits, "record": record}
        return self.jobs.submit("measure", f"Measure {'the fit' if kind == FITS else 'the edit'} '{name}'", arguments)


class Variants:
    """Frames of variants that are not yet chosen; the videos last looked at are kept in memory."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self._videos: OrderedDict[tuple[str, int], Video] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, job: Job) -> int:
        """How many are made so far."""
        folder = self.place.jobs.folder_of(job) / VARIANTS
        return len([path for path in folder.glob("*") if path.name.isdecimal()]) if job.function == "edit" else 0

    def frame(self, job: Job, variant: int, t: int) -> np.ndarray:
        """Frame ``t``, uint8 [H, W, 3]; variant 0 is the source.

        Raises:
            InputError: there is no such frame or variant.
        """
        fit = self.place.studio.fit(str(job.arguments.get("fit")))
        if not 0 <= t < len(fit):
            raise InputError(f"There is no frame {t}; the clip has frames 0 to {len(fit) - 1}.")
        return np.asarray(fit.clip.frames[t]) if variant == 0 else self._video(job, variant)[t]

    def _video(self, job: Job, variant: int) -> Video:
        from canon.rendering import render

        with self._lock:
            key = (job.id, variant)
            if key not in self._videos:
                if not 1 <= variant <= self.count(job):
                    raise InputError(f"There is no variant {variant}; {self.count(job)} are made.")
                edit = load_edit(self.place.jobs.folder_of(job) / VARIANTS / str(variant))
                self._videos[key] = render(self.place.studio.fit(str(job.arguments["fit"])), edit)
            self._videos.move_to_end(key)
            while len(self._videos) > _VIDEOS_KEPT:
                self._videos.popitem(last=False)
            return self._videos[key]


def described(job: Job, variants: Variants) -> dict[str, Any]:
    """A job as the pages show it."""
    shown = ("id", "function", "title", "state", "stage", "done", "sentence", "created", "seconds")
    found = {name: getattr(job, name) for name in shown}
    if job.function == "edit":
        found |= {
            "editor": job.arguments.get("editor"),
            "wanted": job.arguments.get("count", 1),
            "variants": variants.count(job),
        }
    if job.function == "render" and job.state == DONE:
        found["files"] = job.result["files"]
    return found


def router(place: Workplace) -> APIRouter:
    """Everything below ``/work``."""
    shelf, jobs, variants = place.shelf, place.jobs, Variants(place)
    made = APIRouter(prefix="/work")

    @made.get("/project")
    def project() -> dict[str, Any]:
        return shelf.contents()

    @made.get("/clip.jpg")
    def clip() -> Response:
        return Response(shelf.clip_thumbnail(), media_type="image/jpeg", headers={"cache-control": _ONE_DAY})

    @made.get("/thumbnail/{kind}/{name}")
    def thumbnail(kind: str, name: str, v: Version = "") -> Response:
        cache = _ONE_DAY if v else "no-cache"
        return Response(shelf.thumbnail(kind, name), media_type="image/jpeg", headers={"cache-control": cache})

    @made.post("/{kind}/{name}/rename")
    def rename(kind: str, name: str, new: Renaming) -> dict[str, Any]:
        shelf.rename(kind, name, new.to)
        return {}

    @made.delete("/thing/{kind}/{name}")
    def delete(kind: str, name: str) -> dict[str, Any]:
        shelf.delete(kind, name)
        return {}

    @made.post("/measure")
    def measure(asked: Measuring) -> dict[str, Any]:
        return described(place.measure(asked.kind, asked.name), variants)

    @made.get("/jobs")
    def all_jobs() -> list[dict[str, Any]]:
        return [described(job, variants) for job in jobs.all()]

    @made.post("/jobs/{id}/cancel")
    def cancel(id: str) -> dict[str, Any]:
        jobs.cancel(id)
        return {}

    @made.delete("/jobs/{id}")
    def discard(id: str) -> dict[str, Any]:
        jobs.discard(id)
        return {}

    @made.get("/jobs/{id}/variants/{variant}/{t}.jpg")
    def frame(
        id: str, variant: int, t: int, width: Annotated[int, Query(ge=16, le=4096)] = 960, v: Version = ""
    ) -> Response:
        image = variants.frame(jobs.get(id), variant, t)
        data = encoded_image(_shrunk(image, width), ".jpg")
        return Response(data, media_type="image/jpeg", headers={"cache-control": _ONE_DAY})

    @made.get("/jobs/{id}/about")
    def about(id: str) -> dict[str, Any]:
        fit = place.studio.fit(str(jobs.get(id).arguments.get("fit")))
        return {"frames": len(fit), "width": fit.size[1], "height": fit.size[0], "fps": float(fit.clip.fps)}

    @made.post("/jobs/{id}/save")
    def save(id: str, choice: Choice) -> dict[str, Any]:
        job = jobs.get(id)
        if job.state != DONE or not 1 <= choice.variant <= variants.count(job):
            raise InputError("There is no such variant to save; wait until the job has ended.")
        if choice.name.strip() in shelf.project.edits and not choice.replace:
            raise HTTPException(
                409, f"There is an edit '{choice.name.strip()}' already; choose another name, or replace it."
            )
        edit = load_edit(jobs.folder_of(job) / VARIANTS / str(choice.variant))
        place.studio.save_edit(edit, choice.name, replace=choice.replace)
        jobs.discard(id)
        return {"name": choice.name}

    @made.get("/file/{name}")
    def film(name: str, download: bool = False) -> Response:
        path = shelf.film(name)
        kind = "attachment" if download else "inline"
        return FileResponse(
            path, media_type=VIDEO_TYPES[path.suffix], filename=path.name, content_disposition_type=kind
        )

    return made


def answer_sentences(app: FastAPI) -> None:
    """Have bad input answered by its sentence, and faults by one, instead of by traces."""

    @app.exception_handler(InputError)
    def bad_input(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, 400)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(getattr(error, "detail", error))}, getattr(error, "status_code", 400))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "The request cannot be understood; reload the page."}, 422)


def _shrunk(image: np.ndarray, width: int) -> np.ndarray:
    if image.shape[1] <= width:
        return image
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
