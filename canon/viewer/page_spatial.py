"""Fits in three dimensions: a viewer of their own for each, started when it is asked for, on a port of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from canon.errors import InputError
from canon.spatial import SpatialFit

if TYPE_CHECKING:
    from canon.viewer.studio import Studio

_MOST_EDITS = 50
_ELSEWHERE = (
    "The view in three dimensions has no password, so that it is open to this machine alone; run 'canon view' there, "
    "or reach it by 'ssh -L'."
)

Name = Annotated[str, Field(max_length=120)]


class Asked(BaseModel):
    """A fit, and the edits that are to be seen on it."""

    fit: Name
    edits: Annotated[list[Name], Field(max_length=_MOST_EDITS)] = []


class SpatialViewers:
    """The viewers that run, one for each fit; methods may be called from any thread."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._running: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def url(self, fit: str, edits: list[str]) -> str:
        """The address of a fit's viewer, which is started if need be and shows these edits then.

        Raises:
            InputError: unknown names, a fit without a third dimension, or viser is not installed.
        """
        name = self.studio.project.fit_name(fit)
        found = self.studio.fit(name)
        if not isinstance(found, SpatialFit):
            raise InputError(f"The fit '{name}' has no third dimension; look at it on the page 'Look'.")
        shown = {edit: self.studio.edit(edit) for edit in edits}
        key = (name, self.studio.fit_version(name))
        with self._lock:
            if key in self._running:
                self._running[key].set_edits(shown)
            else:
                from canon.viewer.spatial import SpatialViewer

                made = SpatialViewer(found, shown, host="127.0.0.1", out=self.studio.project.folder)
                made.start()
                self._running[key] = made
            return str(self._running[key].url)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            running, self._running = list(self._running.values()), {}
        for one in running:
            one.stop()


def router(viewers: SpatialViewers, shown: bool = True) -> APIRouter:
    """``POST /work/spatial``, which gives the address of a fit's viewer.

    Args:
        shown: whether the browser is on this machine, so that it can reach the viewers.
    """
    made = APIRouter(prefix="/work")

    @made.post("/spatial")
    def open_one(asked: Asked) -> dict[str, str]:
        if not shown:
            raise InputError(_ELSEWHERE)
        return {"url": viewers.url(asked.fit, asked.edits)}

    return made
