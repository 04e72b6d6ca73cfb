"""The panel of the viewer in three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from canon.errors import InputError
from canon.viewer.spatial_paths import Eye
from canon.viewer.spatial_poses import FRAME, REST, groups, motions, read_motion

if TYPE_CHECKING:
    from canon.viewer.spatial import SpatialViewer

_STAGES = ("rough", "finer", "sharp")
_WIDEST = 120.0
"""Degrees by which a joint can be turned."""
_NONE = "(choose)"


class Controls:
    """Everything that can be set; one panel for all browsers. Nothing here takes long."""

    def __init__(self, viewer: SpatialViewer, server: Any) -> None:
        """Put the panel together."""
        self._viewer, self._server = viewer, server
        self._time()
        self._switches()
        self._edits: Any = None
        self.list_edits()
        if viewer.body is not None:
            self._pose()
        self._camera()

    # --- what others call ---

    def say(self, sentence: str, client: Any = None) -> None:
        """Show a sentence to one browser, or to all."""
        for one in [client] if client is not None else self._server.get_clients().values():
            one.add_notification("canon", sentence, color="red", auto_close_seconds=8.0)

    def show_step(self, step: int) -> None:
        """Move the timeline."""
        self._step.value = step
        self._viewer.go(step)

    def hide_cameras(self) -> None:
        """Out of the way of who looks through one of them."""
        self._shown["cameras"].value = False

    def tell_truth(self, picture: np.ndarray, stage: int) -> None:
        """Say what the true view shows now."""
        self._truth_state.content = f"{_STAGES[stage]}, {picture.shape[1]} x {picture.shape[0]}"

    def list_edits(self) -> None:
        """The switches of the edits that there are now."""
        if self._edits is not None:
            self._edits.remove()
        self._edits = self._server.gui.add_folder("Edits", order=3.0, visible=bool(self._viewer.edits))
        with self._edits:
            for name in self._viewer.edits:
                box = self._server.gui.add_checkbox(name[:60], self._viewer.active[name])
                self._on(box.on_update, self._switching(self._switch_edit, name))

    # --- parts of the panel ---

    def _on(self, register: Callable[[Callable[[Any], None]], Any], work: Callable[[Any], None]) -> None:
        """Run something when it is asked for; what cannot be done is said to whom asked."""

        def run(event: Any) -> None:
            try:
                work(event)
            except InputError as error:
                self.say(str(error), event.client)

        register(run)

    def _time(self) -> None:
        gui, viewer = self._server.gui, self._viewer
        with gui.add_folder("Time", order=1.0):
            self._step = gui.add_slider("frame", 0, max(viewer.poses.count - 1, 1), 1, 0)
            self._play = gui.add_checkbox("play", False)
            speed = gui.add_slider("speed", 0.1, 2.0, 0.1, 1.0)
        self._on(self._step.on_update, lambda event: viewer.go(int(event.target.value)))
        self._on(self._play.on_update, lambda event: viewer.play(bool(event.target.value)))
        self._on(speed.on_update, lambda event: setattr(viewer, "speed", float(np.clip(event.target.value, 0.1, 2))))

    def _switches(self) -> None:
        gui, viewer = self._server.gui, self._viewer
        with gui.add_folder("Show", order=2.0):
            self._shown = {name: gui.add_checkbox(name, True) for name in ("human", "background", "cameras")}
            truth = gui.add_checkbox(
                "true view", False, hint="what the fields themselves render from here, instead of their surfaces"
            )
            self._truth_state = gui.add_markdown("")
        self._shown["human"].disabled = viewer.body is None
        for name, box in self._shown.items():
            self._on(box.on_update, self._switching(self._switch, name))

        def show_truth(event: Any) -> None:
            viewer.show_truth(bool(event.target.value))
            self._truth_state.content = ""

        self._on(truth.on_update, show_truth)

    @staticmethod
    def _switching(work: Callable[[str, bool], None], name: str) -> Callable[[Any], None]:
        return lambda event: work(name, bool(event.target.value))

    def _switch(self, name: str, on: bool) -> None:
        self._viewer.visible[name] = on
        self._viewer.change("visible")

    def _switch_edit(self, name: str, on: bool) -> None:
        self._viewer.active[name] = on
        self._viewer.change("canvases")

    def _pose(self) -> None:
        gui, viewer = self._server.gui, self._viewer
        assert viewer.body is not None
        joints = viewer.body.joints
        self._turns: list[list[Any]] = [[] for _ in joints]
        with gui.add_folder("Pose", order=4.0, expand_by_default=False):
            kind = gui.add_dropdown("pose", [FRAME, REST, *motions(viewer.out)], initial_value=FRAME)
            reset = gui.add_button("reset joints")
            for part, numbers in groups(joints).items():
                with gui.add_folder(part, expand_by_default=False):
                    for joint in numbers:
                        for axis in range(3):
                            label = f"{joints[joint]} {'xyz'[axis]}"
                            slider = gui.add_slider(label, -_WIDEST, _WIDEST, 1.0, 0.0)
                            self._turns[joint].append(slider)
                            self._on(slider.on_update, self._turning(joint, axis))
        self._on(kind.on_update, lambda event: self._choose_pose(str(event.target.value)))
        self._on(reset.on_click, lambda event: self._reset_joints())

    def _turning(self, joint: int, axis: int) -> Callable[[Any], None]:
        def turn(event: Any) -> None:
            self._viewer.poses.turns[joint, axis] = np.clip(float(event.target.value), -_WIDEST, _WIDEST)
            self._viewer.change("pose")

        return turn

    def _reset_joints(self) -> None:
        for slider in (slider for own in self._turns for slider in own):
            slider.value = 0.0
        self._viewer.poses.turns[:] = 0
        self._viewer.change("pose")

    def _choose_pose(self, kind: str) -> None:
        viewer = self._viewer
        motion = None
        if kind not in (FRAME, REST):
            if viewer.out is None:
                raise InputError("Motions are read from the viewer's folder; open it with one.")
            motion = read_motion(viewer._fit, viewer.out, kind)
        viewer.poses.rest, viewer.poses.motion = kind == REST, motion
        self._step.max = max(viewer.poses.count - 1, 1)
        if viewer.step >= viewer.poses.count:
            self.show_step(0)
        viewer.change("pose")

    def _camera(self) -> None:
        gui, viewer, own = self._server.gui, self._viewer, self._viewer.recorder
        with gui.add_folder("Camera", order=5.0):
            jump = gui.add_button("to this frame's camera")
        with gui.add_folder("Camera path", order=6.0, expand_by_default=False):
            self._count = gui.add_markdown("no keyframes yet")
            add = gui.add_button("add keyframe")
            drop = gui.add_button_group("remove", ("last", "all"))
            seconds = gui.add_slider("seconds", 0.1, 10.0, 0.1, own.seconds, hint="from one keyframe to the next")
            preview = gui.add_button_group("preview", ("play", "stop"))
            self._name = gui.add_text("name", "path")
            save = gui.add_button("save", disabled=viewer.out is None)
            self._saved = gui.add_dropdown("open", [_NONE, *own.saved()], initial_value=_NONE)
            height = gui.add_number("height", own.size[0], min=8, max=4320, step=2)
            render = gui.add_button("render", disabled=viewer.out is None)
            cancel = gui.add_button("cancel", visible=False)
            bar = gui.add_progress_bar(0.0, visible=False)
            state = gui.add_markdown("")

        def go(event: Any) -> None:
            self.hide_cameras()
            viewer.jump(event.client, viewer.camera_of_step())

        def add_keyframe(event: Any) -> None:
            camera = event.client.camera
            own.add(Eye(np.array(camera.position), np.array(camera.wxyz), float(camera.fov)))
            self._show_path()

        def forget(event: Any) -> None:
            own.keyframes = own.keyframes[:-1] if event.target.value == "last" else []
            self._show_path()

        def time(event: Any) -> None:
            own.seconds = float(np.clip(event.target.value, 0.1, 10))
            self._show_path()

        def keep(event: Any) -> None:
            path = own.save(str(self._name.value))
            state.content = f"canon render DIR --camera {path.parent.name}/{path.name}"
            self._saved.options = [_NONE, *own.saved()]

        def take(event: Any) -> None:
            if event.target.value != _NONE:
                own.load(str(event.target.value))
                self._name.value = str(event.target.value)
                self._show_path()

        def report(share: float, ended: str) -> None:
            bar.visible, cancel.visible = not ended, not ended
            bar.value, state.content = 100 * share, ended

        self._on(jump.on_click, go)
        self._on(add.on_click, add_keyframe)
        self._on(drop.on_click, forget)
        self._on(seconds.on_update, time)
        self._on(preview.on_click, lambda event: viewer.preview(event.client if event.target.value == "play" else None))
        self._on(save.on_click, keep)
        self._on(self._saved.on_update, take)
        self._on(render.on_click, lambda event: viewer.film(str(self._name.value), int(height.value), report))
        self._on(cancel.on_click, lambda event: viewer.filming.cancel() if viewer.filming is not None else None)

    def _show_path(self) -> None:
        own = self._viewer.recorder
        count = len(own.keyframes)
        frames = 0 if not count else (count - 1) * own.between + 1
        self._count.content = f"{count} keyframes, {frames} frames" if count else "no keyframes yet"
        self._viewer.change("path")
