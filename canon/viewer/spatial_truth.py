"""What the fields themselves show from where somebody looks: pictures of any camera, and of one that moves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from canon.cameras import Camera
from canon.coordinates import Size
from canon.editing import edit
from canon.edits import Edit, Field
from canon.rendering import render
from canon.skeletons import Motion
from canon.spatial import SpatialFit, spatial, with_fields
from canon.storage import to_uint8
from canon.viewer.spatial_paths import Eye
from canon.viewer.spatial_world import Posed

log = logging.getLogger("canon")

_SECONDS = (0.12, 0.8, 5.0)
"""How long pictures may take: while the camera moves, and at rest one after the other."""
_REST = 0.25
"""Seconds without movement after which the camera rests."""
_LEAST, _MOST = 600, 1280 * 960
"""Pixels of a picture."""
_STRIP = 0.15
"""Seconds between two looks at whether a picture is still wanted."""


class Looker:
    """Pictures of a fit with edits, from any camera."""

    def __init__(self, fit: SpatialFit, edits: Sequence[Edit] = ()) -> None:
        """Make fields as edits say.

        Raises:
            InputError: see :func:`canon.spatial.with_fields`.
        """
        self._fit, self._edits = fit, list(edits)
        self._fields = spatial(with_fields(fit, edits))
        self._painted = any(not isinstance(step.operation, Field) for one in edits for step in one.steps)

    def picture(
        self,
        t: int,
        camera: Camera,
        pose: Posed | None,
        layers: Sequence[str],
        wanted: Callable[[], bool] = lambda: True,
        rows: int | None = None,
    ) -> np.ndarray | None:
        """What a camera sees, uint8 [H, W, 3]; black where nothing is.

        Args:
            pose: None = that of frame ``t``.
            layers: that are shown.
            wanted: asked between parts of the picture; None is given back once it says no.
            rows: of a part; None = the whole picture at once. Pictures with paint on canvases have no parts.
        """
        shown = [name for name in self._fit.layers if name in layers]
        if not shown:
            return np.zeros((*camera.size, 3), np.uint8)
        if self._painted:
            return self._rendered(t, camera, pose, shown) if wanted() else None
        parts = []
        height, width = camera.size
        for top in range(0, height, rows or height):
            if not wanted():
                return None
            part = replace(camera, size=(min(rows or height, height - top), width), intrinsics=camera.intrinsics.copy())
            part.intrinsics[1, 2] -= top
            parts.append(to_uint8(self._fields.view(t, part, pose, shown)))
        return np.concatenate(parts)

    def _rendered(self, t: int, camera: Camera, pose: Posed | None, shown: list[str]) -> np.ndarray:
        """As ``canon render --camera`` does it."""
        motion = None
        if pose is not None and self._fit.clip.poses is not None:
            one = [np.asarray(part, np.float32)[None] for part in pose]
            motion = Motion(self._fit.clip.poses.skeleton, one[0], one[1], float(self._fit.clip.fps))
        found = self._fit.from_elsewhere([camera], motion, [t])
        hidden = [edit(found, "remove", layer=name) for name in found.layers[:-1] if name not in shown]
        video = render(found, [*self._edits, *hidden])
        if found.layers[-1] in shown:
            return video[0]
        cut = video.rgba(0, shown[0]).astype(np.uint16)
        return ((cut[..., :3] * cut[..., 3:] + 127) // 255).astype(np.uint8)


@dataclass
class _Wish:
    """What one browser is to see.

    Attributes:
        window: (height, width) of its picture.
        stage: of :data:`_SECONDS`, the next one.
    """

    eye: Eye
    window: Size
    since: float
    stage: int = 0
    version: int = field(default=0)


class TrueView:
    """Renders for browsers, whose cameras move, in a thread of its own: roughly at once, sharper at rest."""

    def __init__(
        self,
        picture: Callable[[Camera, Callable[[], bool], int | None], np.ndarray | None],
        send: Callable[[int, np.ndarray, int], None],
    ) -> None:
        """Start the thread.

        Args:
            picture: of a camera, given how to ask whether it is still wanted, and the rows of its parts.
            send: to the browser of a number; with the stage that a picture is of.
        """
        self._picture, self._send = picture, send
        self._wishes: dict[int, _Wish] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._rate = 10_000.0
        self._thread = threading.Thread(target=self._run, name="canon-true-view", daemon=True)
        self._thread.start()

    def want(self, client: int, eye: Eye, window: Size) -> None:
        """A browser looks from there now."""
        with self._changed:
            before = self._wishes.get(client)
            version = 0 if before is None else before.version + 1
            self._wishes[client] = _Wish(eye, window, time.monotonic(), version=version)
            self._changed.notify_all()

    def refresh(self) -> None:
        """What is to be seen has changed, for all."""
        with self._changed:
            for wish in self._wishes.values():
                wish.version, wish.stage, wish.since = wish.version + 1, 0, time.monotonic()
            self._changed.notify_all()

    def forget(self, client: int | None = None) -> None:
        """A browser has gone, or none wants anything any more."""
        with self._changed:
            for number in [client] if client is not None else list(self._wishes):
                self._wishes.pop(number, None)

    def stop(self) -> None:
        """End the thread, once its picture's part is done."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._changed:
                chosen = self._next()
                while chosen is None and not self._stopped:
                    self._changed.wait(_REST / 2)
                    chosen = self._next()
                if self._stopped:
                    return
                assert chosen is not None
                client, wish = chosen
                version, stage, size = wish.version, wish.stage, self._size(wish)
            self._render(client, wish.eye, version, stage, size)

    def _next(self) -> tuple[int, _Wish] | None:
        """The wish whose picture is the roughest, of those whose time has come."""
        now = time.monotonic()
        due = [
            (wish.stage, wish.since, number)
            for number, wish in self._wishes.items()
            if wish.stage < len(_SECONDS) and (wish.stage == 0 or now - wish.since >= _REST)
        ]
        return None if not due else (min(due)[2], self._wishes[min(due)[2]])

    def _size(self, wish: _Wish) -> Size:
        height, width = (max(length, 8) for length in wish.window)
        pixels = np.clip(self._rate * _SECONDS[wish.stage], _LEAST, min(_MOST, height * width))
        share = min(1.0, float(np.sqrt(pixels / (height * width))))
        return max(round(height * share), 8), max(round(width * share), 8)

    def _render(self, client: int, eye: Eye, version: int, stage: int, size: Size) -> None:
        def wanted() -> bool:
            wish = self._wishes.get(client)
            return not self._stopped and wish is not None and (stage == 0 or wish.version == version)

        rows = None if stage == 0 else max(int(self._rate * _STRIP / size[1]), 1)
        begin = time.monotonic()
        try:
            found = self._picture(eye.camera(size), wanted, rows)
        except Exception:
            log.exception("the true view could not be rendered")
            found = None
        seconds = max(time.monotonic() - begin, 1e-3)
        if found is not None:
            self._rate = 0.5 * self._rate + 0.5 * size[0] * size[1] / seconds
        with self._changed:
            wish = self._wishes.get(client)
            if wish is not None and wish.version == version:
                wish.stage = stage + 1
            send = found is not None and wanted()
        if send and found is not None:
            self._send(client, found, stage)
