"""Ways of a camera that are recorded in the viewer: keyframes, the curve between them, files and videos."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from canon.cameras import Camera
from canon.coordinates import Size
from canon.encode import write_video
from canon.errors import InputError
from canon.project import RENDERS
from canon.viewer.spatial_paths import MOST_FRAMES, MOST_KEYFRAMES, Eye, child, load_keyframes, save_keyframes, smooth

log = logging.getLogger("canon")

PATHS = "paths"
"""Folder of a project for camera paths."""
_MOST_FILES = 200


class Recorder:
    """Keyframes, and how long it takes from one to the next."""

    def __init__(self, out: Path | None, size: Size, fps: float) -> None:
        """Begin without keyframes.

        Args:
            out: where files are written; None = nowhere.
            size: (height, width) of the clip.
        """
        self.out, self.size, self.fps = out, size, fps
        self.keyframes: list[Eye] = []
        self.seconds = 2.0
        """From one keyframe to the next."""

    @property
    def between(self) -> int:
        """Frames from one keyframe to the next."""
        return max(round(self.seconds * self.fps), 1)

    def add(self, eye: Eye) -> None:
        """One more keyframe at the end.

        Raises:
            InputError: there are too many, or nothing could be seen from there.
        """
        eye.camera(self.size)
        count = len(self.keyframes) + 1
        if count > MOST_KEYFRAMES or (count - 1) * self.between + 1 > MOST_FRAMES:
            raise InputError(f"A camera path of {count} keyframes is too long; remove some, or make it shorter.")
        self.keyframes.append(eye)

    def way(self) -> list[Eye]:
        """All frames of the path; see :func:`canon.viewer.spatial_paths.smooth`."""
        return smooth(self.keyframes, self.between)

    def sized(self, height: int) -> Size:
        """(height, width) of pictures of the clip's aspect, both even, as video codecs want them.

        Raises:
            InputError: the height is out of range.
        """
        if not 8 <= height <= 4320:
            raise InputError(f"A height of {height} pixels is out of range; give 8 to 4320.")
        width = self.size[1] * height / self.size[0]
        return height // 2 * 2, max(round(width / 2) * 2, 2)

    def save(self, name: str) -> Path:
        """Write ``paths/NAME.json``.

        Raises:
            InputError: there are no keyframes, or the name cannot be a file's.
        """
        path = child(self._folder(PATHS), name, ".json")
        if not self.keyframes:
            raise InputError("A camera path needs keyframes; add at least one.")
        save_keyframes(path, self.keyframes, self.between, self.size, self.fps)
        return path

    def saved(self) -> list[str]:
        """Names of the paths that are there."""
        if self.out is None or not (self.out / PATHS).is_dir():
            return []
        return sorted(path.stem for path in (self.out / PATHS).glob("*.json"))[:_MOST_FILES]

    def load(self, name: str) -> None:
        """Take the keyframes of a path that was saved.

        Raises:
            InputError: it cannot be read, or is no path.
        """
        self.keyframes = load_keyframes(child(self._folder(PATHS), name, ".json"), self.size)

    def video(self, name: str) -> Path:
        """Where a video of a path is written.

        Raises:
            InputError: the name cannot be a file's.
        """
        return child(self._folder(RENDERS), name, ".mp4")

    def _folder(self, name: str) -> Path:
        if self.out is None:
            raise InputError("Nothing can be written; open the viewer with a folder for that.")
        return self.out / name


class _CancelledError(Exception):
    pass


class Filming:
    """A path that is rendered to a video, in a thread of its own; the file appears once it is whole."""

    def __init__(
        self,
        path: Path,
        cameras: Sequence[Camera],
        picture: Callable[[int, Camera, Callable[[], bool]], np.ndarray | None],
        fps: float,
        report: Callable[[float, str], None],
    ) -> None:
        """Begin.

        Args:
            picture: of frame k, given how to ask whether it is still wanted.
            report: told the share that is done, 0..1, and how it ended in words once it has, or "".
        """
        self.path, self._cameras, self._picture, self._fps, self._report = path, cameras, picture, fps, report
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canon-filming", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is at it."""
        return self._thread.is_alive()

    def cancel(self, wait: bool = False) -> None:
        """Stop before the next part of a picture; nothing is left of the video."""
        self._stopped.set()
        if wait:
            self._thread.join(timeout=30)

    def _frames(self) -> Iterator[np.ndarray]:
        for k, camera in enumerate(self._cameras):
            self._report(k / len(self._cameras), "")
            found = None if self._stopped.is_set() else self._picture(k, camera, lambda: not self._stopped.is_set())
            if found is None:
                raise _CancelledError
            yield found

    def _run(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            count = write_video(self.path, self._frames(), self._fps)
            self._report(1.0, f"{self.path.name}: {count} frames")
        except _CancelledError:
            self._report(0.0, "cancelled")
        except (InputError, OSError) as error:
            self._report(0.0, str(error))
        except Exception:
            log.exception("the video '%s' could not be rendered", self.path)
            self._report(0.0, "The video could not be rendered; the terminal says why.")
