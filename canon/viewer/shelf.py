"""What is in a project, as the project page shows it: facts, thumbnails that are made once, renaming and deleting."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from canon.clip import CLIP_FILE, Clip
from canon.edit_folder import EDIT_FILE
from canon.errors import InputError
from canon.fit_folder import FIT_FILE
from canon.project import RENDERS, WORK
from canon.storage import encoded_image, explain_os_error, inside, read_yaml, to_uint8, write_bytes
from canon.timing import spread

if TYPE_CHECKING:
    from canon.canvas import Canvas
    from canon.viewer.studio import Studio

FITS, EDITS, FILMS = KINDS = ("fits", "edits", "renders")
VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".mov": "video/quicktime"}
"""Suffixes of renders that can be fetched, and what a browser is told they are."""
_HEIGHT, _GAP, _MOST_ASPECT = 132, 6, 3.0
_FRAMES = 3


class Shelf:
    """The contents of one project; methods may be called from any thread."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.project = studio, studio.project
        self._drawing = threading.Lock()

    # --- what is there ---

    def contents(self) -> dict[str, Any]:
        """Everything that the project page shows, as plain data; what is damaged says so in ``sentence``."""
        return {
            "folder": str(self.project.folder.resolve()),
            "name": self.project.folder.resolve().name,
            "clip": self._clip(),
            FITS: [self._described(FITS, name) for name in reversed(self.project.fits)],
            EDITS: [self._described(EDITS, name) for name in self.project.edits],
            FILMS: [self._described(FILMS, path.name) for path in self.films()],
        }

    def films(self) -> list[Path]:
        """Rendered files, the newest first."""
        folder = self.project.folder / RENDERS
        found = [path for path in folder.glob("*") if path.suffix in VIDEO_TYPES and not path.name.startswith(".")]
        return sorted(found, key=lambda path: -path.stat().st_mtime_ns)

    def film(self, name: str) -> Path:
        """A rendered file by name.

        Raises:
            InputError: there is none, or the name is none of a file in ``renders``.
        """
        path = inside(self.project.folder / RENDERS, name)
        if path.suffix not in VIDEO_TYPES or path.parent != (self.project.folder / RENDERS).resolve():
            raise InputError(f"The name '{name}' is not allowed; choose one of the project's renders.")
        if not path.is_file():
            raise InputError(f"There is no render '{name}'; it was deleted or renamed.")
        return path

    def _clip(self) -> dict[str, Any]:
        try:
            record = read_yaml(self.project.clip_folder / CLIP_FILE)
            height, width = record["size"]
            rate = float(Fraction(str(record["fps"])))
            return {
                "source": Path(str(record["source"])).name,
                "frames": int(record["frames"]),
                "width": int(width),
                "height": int(height),
                "fps": rate,
                "seconds": int(record["frames"]) / rate,
                "audio": bool(record.get("audio")),
                "masks": [str(entry["name"]) for entry in record.get("layers", [])],
            }
        except (InputError, LookupError, TypeError, ValueError, ZeroDivisionError) as error:
            return {"sentence": str(error) if isinstance(error, InputError) else "The clip's record is damaged."}

    def _described(self, kind: str, name: str) -> dict[str, Any]:
        path = self._path(kind, name)
        with contextlib.suppress(OSError):
            stamp = self._marker(kind, path).stat().st_mtime_ns
            found: dict[str, Any] = {"name": name, "version": str(stamp), "made": stamp / 1e9}
            try:
                return {**found, **self._facts(kind, path), "figures": self._figures(kind, name, stamp)}
            except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
                return {**found, "sentence": f"'{name}' is damaged ({error})."}
        return {"name": name, "version": "", "made": 0.0, "sentence": f"'{name}' was just removed."}

    def _facts(self, kind: str, path: Path) -> dict[str, Any]:
        if kind == FILMS:
            return {"bytes": path.stat().st_size, "type": VIDEO_TYPES[path.suffix]}
        record = read_yaml(self._marker(kind, path))
        if kind == FITS:
            return {
                "representation": str(record["representation"]),
                "layers": [str(layer["name"]) for layer in record["layers"]],
                "settings": _settings(record.get("config") or {}),
                "stats": _stats(record.get("stats") or {}),
                "spatial": "spatial" in record or str(record["representation"]) == "dynamic-nerf",
            }
        steps = record["steps"]
        return {
            "editors": list(dict.fromkeys(str(step["provenance"].get("editor", "?")) for step in steps)),
            "layers": list(dict.fromkeys(str(step["layer"]) for step in steps)),
            "prompt": next((str(o["prompt"]) for o in _step_options(steps) if o.get("prompt")), ""),
            "settings": _settings(next(iter(_step_options(steps)), {})),
            "fit": self._fit_called(str(record.get("fit", ""))),
        }

    def _fit_called(self, id: str) -> str:
        for name in reversed(self.project.fits):
            with contextlib.suppress(InputError):
                if read_yaml(self.project.fit_folder(name) / FIT_FILE).get("id") == id:
                    return name
        return ""

    def _path(self, kind: str, name: str) -> Path:
        """Where a thing of the project lies.

        Raises:
            InputError: an unknown kind, or a name that cannot be a folder's.
        """
        if kind == FITS:
            return self.project.fit_folder(name)
        if kind == EDITS:
            return self.project.edit_folder(name)
        if kind == FILMS:
            return self.film(name)
        raise InputError(f"A project has {', '.join(KINDS)}, no '{kind}'.")

    @staticmethod
    def _marker(kind: str, path: Path) -> Path:
        return {FITS: path / FIT_FILE, EDITS: path / EDIT_FILE}.get(kind, path)

    # --- figures ---

    def record(self, kind: str, name: str) -> Path:
        """Where the figures of a fit or an edit are kept."""
        self._path(kind, name)
        return self.project.folder / WORK / "figures" / f"{kind}-{name}.json"

    def _figures(self, kind: str, name: str, stamp: int) -> dict[str, Any]:
        """What was measured of it since it was made; {} if nothing was."""
        path = self.record(kind, name) if kind != FILMS else None
        if path is None or not path.is_file() or path.stat().st_mtime_ns < stamp:
            return {}
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}

    # --- changes ---

    def rename(self, kind: str, name: str, to: str) -> None:
        """Give a thing another name.

        Raises:
            InputError: it is not there, the new name is taken or cannot be a file's, or somebody is fitting.
        """
        path = self._there(kind, name)
        if kind == FILMS:
            to = to if Path(to).suffix == path.suffix else to + path.suffix
            self.project.edit_folder(Path(to).stem)
            target = inside(path.parent, to)
        else:
            target = self._path(kind, to)
        if target == path:
            return
        with self._changing(kind):
            if target.exists():
                raise InputError(f"There is '{to}' already; choose another name.")
            try:
                path.rename(target)
            except OSError as error:
                raise explain_os_error(error, target) from error
            if kind != FILMS and self.record(kind, name).is_file():
                self.record(kind, name).replace(self.record(kind, to))

    def delete(self, kind: str, name: str) -> None:
        """Delete a thing for good.

        Raises:
            InputError: it is not there, cannot be deleted, or somebody is fitting.
        """
        path = self._there(kind, name)
        with self._changing(kind):
            try:
                if path.is_file():
                    path.unlink()
                else:
                    # In one step, so that nobody sees half of it.
                    gone = path.with_name(f".removed-{os.getpid()}-{time.monotonic_ns()}")
                    path.rename(gone)
                    shutil.rmtree(gone)
            except OSError as error:
                raise explain_os_error(error, path) from error
            if kind != FILMS:
                self.record(kind, name).unlink(missing_ok=True)

    def _there(self, kind: str, name: str) -> Path:
        path = self._path(kind, name)
        if not self._marker(kind, path).is_file():
            raise InputError(f"There is no '{name}' among the {kind}; it was deleted or renamed.")
        return path

    @contextlib.contextmanager
    def _changing(self, kind: str) -> Iterator[None]:
        if kind == FITS:
            with self.project.lock():
                yield
            return
        with self.studio.writing():
            yield

    # --- pictures ---

    def thumbnail(self, kind: str, name: str) -> bytes:
        """A strip of pictures of a fit (canvases), an edit or a render (frames), as JPEG; made once and kept.

        Raises:
            InputError: it is not there, or damaged.
        """
        path = self._there(kind, name)
        stamp = self._marker(kind, path).stat().st_mtime_ns
        kept = self.project.folder / WORK / "thumbnails" / f"{kind}-{name}.jpg"
        if not _fresh(kept, stamp):
            with self._drawing:
                if not _fresh(kept, stamp):
                    write_bytes(kept, encoded_image(self._drawn(kind, name), ".jpg"))
                    os.utime(kept, ns=(stamp, stamp))
        return kept.read_bytes()

    def clip_thumbnail(self) -> bytes:
        """Some frames of the clip, as JPEG."""
        clip = Clip.open(self.project.clip_folder)
        return encoded_image(_strip([np.asarray(clip.frames[t]) for t in spread(len(clip), 4)]), ".jpg")

    def _drawn(self, kind: str, name: str) -> np.ndarray:
        if kind == FITS:
            fit = self.studio.fit(name)
            return _strip([_over_board(fit.canonical(layer)) for layer in fit.layers])
        if kind == EDITS:
            from canon.rendering import render

            edit = self.project.edit(name)
            video = render(self.studio.fit(self.project.fit_of([edit])), edit)
            return _strip([video[t] for t in spread(len(video), _FRAMES)])
        from canon.video import probe, read_frames

        path = self.film(name)
        count = probe(path).frames or 1
        wanted = set(spread(count, _FRAMES))
        return _strip([frame.rgb for t, frame in enumerate(read_frames(path)) if t in wanted] or [_nothing()])


def _fresh(path: Path, stamp: int) -> bool:
    return path.is_file() and path.stat().st_mtime_ns == stamp


def _step_options(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step["provenance"].get("options") or {}


def _settings(config: dict[str, Any]) -> dict[str, str]:
    """Options that say something, as texts."""
    kept = {name: value for name, value in config.items() if value not in (None, "", [], ())}
    return {str(name): _short(value) for name, value in kept.items() if not isinstance(value, dict)}


def _short(value: Any) -> str:
    text = (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    return text if len(text) <= 160 else text[:157] + "..."


def _stats(stats: dict[str, Any]) -> dict[str, float]:
    wanted = ("psnr", "seconds_total", "peak_mib")
    return {name: float(stats[name]) for name in wanted if isinstance(stats.get(name), int | float)}


def _over_board(canvas: Canvas) -> np.ndarray:
    rgba = canvas.rgba
    factor = min(2 * _HEIGHT / rgba.shape[0], 1.0)
    size = (max(round(rgba.shape[1] * factor), 1), max(round(rgba.shape[0] * factor), 1))
    premultiplied = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]])
    small = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[: small.shape[0], : small.shape[1]]
    board = np.where((x // 12 + y // 12) % 2, np.float32(0.62), np.float32(0.70))[..., None]
    return to_uint8(small[..., :3] + board * (1 - small[..., 3:]))


def _strip(images: list[np.ndarray]) -> np.ndarray:
    """Pictures of one height beside each other, uint8 [H, W, 3]."""
    cells = []
    for image in images:
        height, width = image.shape[:2]
        wide = max(min(round(width * 2 * _HEIGHT / height), round(2 * _HEIGHT * _MOST_ASPECT)), 1)
        cells.append(cv2.resize(image, (wide, 2 * _HEIGHT), interpolation=cv2.INTER_AREA))
    gap = np.full((2 * _HEIGHT, _GAP, 3), 128, np.uint8)
    parts = [part for cell in cells for part in (cell, gap)][:-1]
    return np.concatenate(parts, axis=1)


def _nothing() -> np.ndarray:
    return np.full((_HEIGHT, _HEIGHT, 3), 90, np.uint8)
