"""Fits in three dimensions in the browser, with viser: look around, pose, compare with the fields, film.

The person's surface and the background are drawn by the browser's own GPU; when somebody asks for it, pictures of the
fields themselves take their place. Time, pose, edits and switches are the same in all browsers that are open; where
they look from is each one's own.

Convention: the world is the fit's own, whatever is up in it; "up" for orbiting is that of the clip's cameras. Cameras
and quaternions are as in :mod:`canon.viewer.spatial_paths`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from canon.cameras import Camera
from canon.edits import Edit
from canon.errors import InputError
from canon.spatial import SpatialFit
from canon.viewer.spatial_controls import Controls
from canon.viewer.spatial_paths import Eye
from canon.viewer.spatial_poses import Poses
from canon.viewer.spatial_record import Filming, Recorder
from canon.viewer.spatial_scene import Scene
from canon.viewer.spatial_server import close_server, open_server
from canon.viewer.spatial_truth import Looker, TrueView
from canon.viewer.spatial_world import Body, Posed, canvases, fields_of

log = logging.getLogger("canon")

_STILL = 0.12
"""Seconds without a new pose after which the exact surface is found."""


class SpatialViewer:
    """A fit in the browser: :meth:`start`, then open :attr:`url`."""

    def __init__(
        self,
        fit: SpatialFit,
        edits: Sequence[Edit] | Mapping[str, Edit] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        out: Path | None = None,
    ) -> None:
        """Prepare what is shown; nothing is opened yet.

        Args:
            edits: that can be switched on and off, by name where they have one; all are on.
            host: where browsers reach it. There is no password: everybody who reaches it can use it.
            port: 0 = any that is free.
            out: folder, such as a project's, that holds motions and gets ``paths/`` and ``renders/``; None = nothing
                is read or written.

        Raises:
            InputError: the fit has no surface or background that could be shown.
        """
        own = fields_of(fit)
        self._fit, self._host, self._port = own, host, port
        self.out = None if out is None else Path(out)
        self.poses = Poses(own)
        self.recorder = Recorder(self.out, own.size, float(own.clip.fps))
        self.body = Body(own) if "human" in own.layers else None
        self._edits = _named(edits)
        self.active = dict.fromkeys(self._edits, True)
        self.step, self.speed, self.playing = 0, 1.0, False
        self.visible = {"human": True, "background": True, "cameras": True}
        self._looker = Looker(own)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._dirty: set[str] = set()
        self._stopped = False
        self._server: Any = None
        self._threads: list[threading.Thread] = []
        self._truth: TrueView | None = None
        self._covered = False
        self._removed: set[str] = set()
        self._posed_at = 0.0
        self._seen_layers: list[str] = []
        self._preview: tuple[Any, list[Eye], float] | None = None
        self.filming: Filming | None = None

    # --- life ---

    @property
    def url(self) -> str:
        """Where it is.

        Raises:
            InputError: it is not started.
        """
        if self._server is None:
            raise InputError("The viewer is not open; start it first.")
        host = "localhost" if self._host in ("0.0.0.0", "::") else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self._server.get_port()}"

    def start(self) -> None:
        """Open it; returns at once.

        Raises:
            InputError: viser is not installed, or the port cannot be used.
        """
        if self._server is not None:
            return
        self._stopped = False
        self._server = open_server(self._host, self._port, "canon")
        self._scene = Scene(self._server, self._fit, self.body, self._choose_camera)
        self.controls = Controls(self, self._server)
        self._server.on_client_connect(self._joined)
        self._server.on_client_disconnect(self._left)
        self.change("canvases", "pose", "visible", "path")
        self._threads = [
            threading.Thread(target=work, name=f"canon-{name}", daemon=True)
            for name, work in (("show", self._run), ("surface", self._refine))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close it; a video that is being rendered is given up."""
        if self._server is None:
            return
        if self.filming is not None:
            self.filming.cancel(wait=True)
        self.show_truth(False)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)
        close_server(self._server)
        self._server = None

    def __enter__(self) -> SpatialViewer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what is asked for; all of it returns at once ---

    @property
    def edits(self) -> list[str]:
        """Names of the edits that can be switched."""
        return list(self._edits)

    def set_edits(self, edits: Sequence[Edit] | Mapping[str, Edit]) -> None:
        """Other edits, which are all on; those of the same name stay switched off if they were."""
        with self._lock:
            self._edits = _named(edits)
            self.active = {name: self.active.get(name, True) for name in self._edits}
        if self._server is not None:
            self.controls.list_edits()
        self.change("canvases")

    def change(self, *what: str) -> None:
        """Something is to be shown anew: "canvases", "pose", "visible" or "path"."""
        with self._changed:
            self._dirty.update(what)
            if "pose" in what:
                self._posed_at = time.monotonic()
            self._changed.notify_all()

    def go(self, step: int) -> None:
        """Show a step of the timeline."""
        with self._lock:
            step = int(np.clip(step, 0, self.poses.count - 1))
            if step == self.step:
                return
            self.step = step
        self.change("pose")

    def play(self, on: bool) -> None:
        """Let the time run, or stop it."""
        with self._changed:
            self.playing = on
            self._changed.notify_all()

    def show_truth(self, on: bool) -> None:
        """Whether the fields themselves are shown."""
        with self._lock:
            truth = self._truth
            if on == (truth is not None):
                return
            self._truth = TrueView(self._seen, self._send) if on else None
        if truth is not None:
            truth.stop()
            self._covered = False
            for client in self._clients().values():
                client.scene.set_background_image(None)
        for client in self._clients().values() if on else ():
            self._look(client.camera)
        self.change("visible")

    def jump(self, client: Any, eye: Eye) -> None:
        """Put a browser's camera somewhere."""
        turn = eye.turn.as_matrix()
        reach = max(float(np.linalg.norm(self._fit.centre - eye.position)), 1e-3)
        with client.atomic():
            client.camera.position = eye.position
            client.camera.look_at = eye.position + reach * turn[:, 2]
            client.camera.up_direction = -turn[:, 1]
            client.camera.fov = eye.fov

    def camera_of_step(self) -> Eye:
        """Where the clip's camera is at this step."""
        return Eye.of(self._fit.cameras[self.poses.time(self.step)])

    def preview(self, client: Any | None) -> None:
        """Let a browser's camera follow the path; None stops it.

        Raises:
            InputError: there is no path.
        """
        way = None if client is None else self.recorder.way()
        with self._changed:
            self._preview = None if way is None else (client, way, time.monotonic())
        self.change("visible")

    def film(self, name: str, height: int, report: Callable[[float, str], None]) -> None:
        """Render the path to ``renders/NAME.mp4``, with the edits, layers and poses that are shown now.

        Raises:
            InputError: there is no path, one is being rendered, or the name or size cannot be used.
        """
        if self.filming is not None and self.filming.running:
            raise InputError("A video is being rendered already; cancel it, or wait.")
        size, path = self.recorder.sized(height), self.recorder.video(name)
        cameras = [eye.camera(size) for eye in self.recorder.way()]
        with self._lock:
            looker, layers = self._looker, self._layers()
            moments = [(self.poses.time(k), self.poses.own(k)) for k in range(self.poses.count)]

        def picture(k: int, camera: Camera, wanted: Callable[[], bool]) -> np.ndarray | None:
            t, pose = moments[k % len(moments)]
            return looker.picture(t, camera, pose, layers, wanted, rows=32)

        self.filming = Filming(path, cameras, picture, self.recorder.fps, report)

    # --- browsers ---

    def _clients(self) -> dict[int, Any]:
        return dict(self._server.get_clients()) if self._server is not None else {}

    def _joined(self, client: Any) -> None:
        client.camera.on_update(self._look)
        self._look(client.camera)

    def _left(self, client: Any) -> None:
        if self._truth is not None:
            self._truth.forget(client.client_id)

    def _look(self, camera: Any) -> None:
        truth = self._truth
        if truth is not None and camera.image_height and camera.image_width:
            eye = Eye(np.array(camera.position), np.array(camera.wxyz), float(camera.fov))
            truth.want(camera.client.client_id, eye, (camera.image_height, camera.image_width))

    def _layers(self) -> list[str]:
        return [name for name in self._fit.layers if self.visible.get(name, True)]

    def _seen(self, camera: Camera, wanted: Callable[[], bool], rows: int | None) -> np.ndarray | None:
        with self._lock:
            looker, layers = self._looker, self._layers()
            t, pose = self.poses.time(self.step), self.poses.own(self.step)
        return looker.picture(t, camera, pose, layers, wanted, rows)

    def _send(self, client: int, picture: np.ndarray, stage: int) -> None:
        own = self._clients().get(client)
        if own is None or self._truth is None:
            return
        own.scene.set_background_image(picture, format="jpeg", jpeg_quality=92)
        self.controls.tell_truth(picture, stage)
        if not self._covered:
            self._covered = True
            self.change("visible")

    def _choose_camera(self, client: Any, t: int) -> None:
        self.controls.show_step(t)
        self.controls.hide_cameras()
        self.jump(client, Eye.of(self._fit.cameras[t]))

    # --- threads ---

    def _run(self) -> None:
        """Show what has changed, and let the time run."""
        due = 0.0
        while True:
            with self._changed:
                moving = self.playing or self._preview is not None
                if not self._dirty and not self._stopped:
                    self._changed.wait(max(due - time.monotonic(), 0.001) if moving else None)
                if self._stopped:
                    return
                what, self._dirty = self._dirty, set()
            try:
                self._show(what)
                if moving and time.monotonic() >= due:
                    due = time.monotonic() + 1 / (self.recorder.fps * (self.speed if self.playing else 1.0))
                    self._tick()
            except InputError as error:
                self.controls.say(str(error))
            except Exception:
                log.exception("the viewer could not show a change")

    def _tick(self) -> None:
        preview = self._preview
        if preview is not None:
            client, way, begin = preview
            k = int((time.monotonic() - begin) * self.recorder.fps)
            if k >= len(way) or client.client_id not in self._clients():
                self.preview(None)
                k = len(way) - 1
            self.jump(client, way[k])
            self.controls.show_step(k % self.poses.count)
        elif self.playing:
            self.controls.show_step((self.step + 1) % self.poses.count)

    def _show(self, what: set[str]) -> None:
        if not what:
            return
        if "canvases" in what:
            self._show_canvases()
        pose = self.poses.at(self.step) if self.body is not None and "pose" in what else None
        if pose is not None and self.body is not None:
            exact = self.body.known(pose)
            self._scene.place(self.body.quick(pose) if exact is None else exact)
        if "path" in what:
            own = self.recorder
            self._scene.show_path(own.keyframes, own.way() if own.keyframes else [])
        layers = [name for name in self._layers() if name not in self._removed]
        with self._server.atomic():
            self._scene.show(
                person="human" in layers and not self._covered,
                background="background" in layers and not self._covered,
                cameras=self.visible["cameras"],
                path=self._preview is None,
            )
        if self._truth is not None and (what & {"canvases", "pose"} or layers != self._seen_layers):
            self._truth.refresh()
        self._seen_layers = layers

    def _show_canvases(self) -> None:
        """The canvases with the edits that are on; those that are there stay until the new ones are ready."""
        with self._lock:
            edits = [edit for name, edit in self._edits.items() if self.active[name]]
        looker, pictures = Looker(self._fit, edits), canvases(self._fit, edits)
        with self._lock:
            self._looker = looker
        self._removed = set(self._fit.layers) - set(pictures)
        pose = None if self.body is None else self.poses.at(self.step)
        vertices = None if self.body is None or pose is None else self.body.quick(pose)
        self._scene.show_canvases(pictures, vertices)
        if vertices is not None:
            self.change("pose")

    def _refine(self) -> None:
        """Once a pose rests, show its exact surface; while time runs, find those to come."""
        done = 0.0
        while self.body is not None:
            with self._changed:
                self._changed.wait(_STILL)
                if self._stopped:
                    return
                since, pose = self._posed_at, self._next_pose(done)
            if pose is None:
                continue
            try:
                vertices = self.body.exact(pose)
            except Exception:
                log.exception("the exact surface could not be found")
                return  # the quick one stays
            with self._lock:
                if since == self._posed_at and not self.playing:
                    done = since
                    self._scene.place(vertices)

    def _next_pose(self, done: float) -> Posed | None:
        """The pose whose exact surface is needed next."""
        if self.playing:
            return self._coming()
        rests = time.monotonic() - self._posed_at >= _STILL and self._posed_at != done
        return self.poses.at(self.step) if rests else None

    def _coming(self) -> Posed | None:
        if self.body is None or self.poses.turns.any():
            return None
        for k in range(1, min(self.poses.count, 100) + 1):
            pose = self.poses.at((self.step + k) % self.poses.count)
            if pose is not None and self.body.known(pose) is None:
                return pose
        return None


def _named(edits: Sequence[Edit] | Mapping[str, Edit]) -> dict[str, Edit]:
    if isinstance(edits, Mapping):
        return dict(edits)
    return {f"{k}: {_described(edit)}": edit for k, edit in enumerate(edits, 1)}


def _described(edit: Edit) -> str:
    editors = dict.fromkeys(step.provenance.editor or "edit" for step in edit.steps)
    return f"{', '.join(editors) or 'edit'} on {', '.join(edit.layers) or 'nothing'}"
