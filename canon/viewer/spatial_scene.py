"""What is in the browser's scene: the person, the background, the clip's cameras, and the recorded path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from canon.cameras import Camera
from canon.coordinates import Size
from canon.edits import resize_to
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.storage import to_float, to_uint8
from canon.viewer.spatial_paths import Eye
from canon.viewer.spatial_world import Body, Relief, textured

_MOST_CAMERAS = 24
_THUMBNAIL = 96
"""Pixels of a camera's picture along its longer side."""
_GREY, _AMBER = (150, 150, 150), (255, 170, 60)
PERSON, BACKGROUND, CAMERAS, PATH = "/person", "/background", "/cameras", "/path"


class Scene:
    """The nodes of viser's scene, which is the same in all browsers."""

    def __init__(self, server: Any, fit: NerfFit, body: Body | None, chosen: Callable[[Any, int], None]) -> None:
        """Put up what does not change.

        Args:
            chosen: told the browser, and the number of the frame whose camera was clicked there.
        """
        self._scene, self._fit, self._body, self._relief = server.scene, fit, body, Relief.of(fit)
        self._skin: Any = None
        self._pose: Any = None
        self._ground: Any = None
        self._keys = 0
        cameras, centre = fit.cameras, fit.centre
        self._reach = float(np.mean([np.linalg.norm(camera.position - centre) for camera in cameras]))
        self._begin(server.initial_camera)
        for name in (PERSON, BACKGROUND, CAMERAS, PATH):
            server.scene.add_frame(name, show_axes=False)
        for t in apart(cameras[: len(fit) // len(fit.clip.views)], 0.02 * self._reach):
            picture = _thumbnail(fit.clip.frames[t])
            frustum = self._frustum(f"{CAMERAS}/{t:05d}", Eye.of(cameras[t]), 0.08, _GREY, picture)
            frustum.on_click(_telling(chosen, t))

    def _begin(self, start: Any) -> None:
        """Where browsers look from at first: behind the clip's first camera, and above it."""
        cameras, centre = self._fit.cameras, self._fit.centre
        up = -np.mean([camera.rotation[1] for camera in cameras], axis=0)
        up /= max(np.linalg.norm(up), 1e-9)
        self._scene.set_up_direction(up)
        start.position = centre + 1.5 * (cameras[0].position - centre) + 0.35 * self._reach * up
        start.look_at, start.up, start.fov = centre, up, float(np.radians(45))
        start.near, start.far = 0.01 * self._reach, 100 * self._reach

    def _frustum(
        self, name: str, eye: Eye, size: float, colour: tuple[int, int, int], picture: np.ndarray | None = None
    ) -> Any:
        aspect = self._fit.size[1] / self._fit.size[0]
        form = {"scale": size * self._reach, "thickness": 1.5, "thickness_units": "screen", "color": colour}
        place = {"position": eye.position, "wxyz": eye.wxyz}
        return self._scene.add_camera_frustum(name, eye.fov, aspect, image=picture, **form, **place)

    def show_canvases(self, pictures: Mapping[str, np.ndarray], vertices: np.ndarray | None) -> None:
        """Other colours.

        Args:
            pictures: canvases by layer, uint8 [h, w, 3].
            vertices: of the person now, float32 [V, 3].
        """
        if self._body is not None and vertices is not None and "human" in pictures:
            body = self._body
            skin = textured(vertices, body.faces, body.uv, body.size, pictures["human"])
            if self._pose is None:
                self._pose = self._scene.add_mesh_simple(f"{PERSON}/pose", vertices, body.faces, visible=False)
            self._skin = self._renewed(self._skin, f"{PERSON}/skin", skin)
        if self._relief is not None and "background" in pictures:
            own = self._relief
            ground = textured(own.vertices, own.faces, own.uv, own.size, pictures["background"])
            self._ground = self._renewed(self._ground, f"{BACKGROUND}/relief", ground)

    def _renewed(self, handle: Any, name: str, content: bytes) -> Any:
        if handle is None:
            return self._scene.add_glb(name, content, cast_shadow=False, receive_shadow=False)
        handle.glb_data = content
        return handle

    def place(self, vertices: np.ndarray) -> None:
        """Move the person's surface; only its vertices are sent."""
        if self._pose is not None:
            self._pose.vertices = vertices

    def show(self, **nodes: bool) -> None:
        """Whether the person, the background, the cameras and the path are there, by their names."""
        for name, on in nodes.items():
            self._scene.get_handle_by_name(f"/{name}").visible = on

    def show_path(self, keyframes: Sequence[Eye], way: Sequence[Eye]) -> None:
        """Draw a path: its keyframes, and the curve through all of its frames."""
        for number in range(len(keyframes), self._keys):
            self._scene.remove_by_name(f"{PATH}/{number:03d}")
        self._keys = len(keyframes)
        for number, key in enumerate(keyframes):
            self._frustum(f"{PATH}/{number:03d}", key, 0.05, _AMBER)
        if len(way) < 2:
            self._scene.remove_by_name(f"{PATH}/curve")
            return
        places = np.stack([eye.position for eye in way]).astype(np.float32)
        pairs = np.stack([places[:-1], places[1:]], axis=1)
        self._scene.add_line_segments(f"{PATH}/curve", pairs, _AMBER, thickness=2.0, thickness_units="screen")


def _telling(chosen: Callable[[Any, int], None], t: int) -> Callable[[Any], None]:
    return lambda event: chosen(event.client, t)


def apart(cameras: Sequence[Camera], least: float) -> list[int]:
    """Numbers of cameras that do not stand and look as one before them does, and of these not too many."""
    found: list[int] = []
    for t, camera in enumerate(cameras):
        others = [cameras[s] for s in found]
        near = [np.linalg.norm(camera.position - other.position) < least for other in others]
        alike = [np.abs(camera.rotation - other.rotation).max() < 0.05 for other in others]
        if not any(a and b for a, b in zip(near, alike, strict=True)):
            found.append(t)
    return [found[k] for k in np.unique(np.linspace(0, len(found) - 1, min(len(found), _MOST_CAMERAS)).astype(int))]


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    share = min(1.0, _THUMBNAIL / max(frame.shape[:2]))
    size: Size = (max(round(frame.shape[0] * share), 1), max(round(frame.shape[1] * share), 1))
    return to_uint8(resize_to(to_float(np.ascontiguousarray(frame)), size))
