"""A draft on disk: ``draft.json``, a PNG of what every layer holds, and the files of stickers as they were given."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from canon.boxes import Box, box_size
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.storage import encoded_image, read_image, write_bytes, write_json
from canon.viewer.draft_layers import DraftLayer, Target, cleaned_name

DRAFT_FILE = "draft.json"
FORMAT, VERSION = "canon-draft", 1
_SAVE_SOON, _SAVE_LATEST = 1.5, 8.0
"""Seconds without a change, and seconds at most, after which a changed draft is written."""


class Autosave:
    """Calls a function some time after the last of several changes, in a thread of its own."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._write = write
        self._timer: threading.Timer | None = None
        self._since: float | None = None

    def changed(self) -> None:
        """Something is to be written soon."""
        now = time.monotonic()
        since = self._since = now if self._since is None else self._since
        self.stop()
        self._timer = threading.Timer(min(_SAVE_SOON, max(since + _SAVE_LATEST - now, 0.0)), self._fire)
        self._timer.start()

    def _fire(self) -> None:
        self._since = None
        self._write()

    def stop(self) -> None:
        """Call nothing any more until the next change."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True)
class _Cut:
    """A layer to be written: which one, after how many changes, and where it holds something, if that is not written.

    Attributes:
        pixels: uint8 [h, w, 4], None if there is nothing or it is written already.
    """

    number: int
    changed: int
    asset: bytes | None
    fresh: bool
    box: Box | None
    pixels: np.ndarray | None

    @property
    def file(self) -> str:
        return f"layer-{self.number}-{self.changed}.png"


@dataclass(frozen=True)
class DraftRecord:
    """What :class:`DraftFolder` reads.

    Attributes:
        fit_name, fit: what is painted on.
        edits: names of the saved edits that lay below.
        saved: when it was written, seconds since 1970.
        saved_as: name of the edit that it was saved as last, "" for none.
        saved_revision: the revision that was saved then.
    """

    fit_name: str
    fit: Fit
    edits: list[str]
    layers: list[DraftLayer]
    revision: int
    saved: float
    saved_as: str = ""
    saved_revision: int = -1


class DraftFolder:
    """The folder of a draft; a layer that has not changed since is not written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: dict[int, int] = {}

    def cut(self, layers: Sequence[DraftLayer]) -> list[_Cut]:
        """Copies of what has to be written of some layers, for :meth:`write`."""
        cuts = []
        for layer in layers:
            fresh, box = self._written.get(layer.id) != layer.changed, None
            if fresh:
                box = nonzero_box(np.ascontiguousarray(layer.rgba[..., 3]))
            pixels = None if box is None else layer.rgba[box].copy()
            cuts.append(_Cut(layer.id, layer.changed, layer.asset, fresh, box, pixels))
        return cuts

    def write(self, state: dict[str, Any], fit: Fit, cuts: Sequence[_Cut]) -> None:
        """Write a draft: what :meth:`canon.viewer.drafts.Draft.state` says, and its layers.

        Raises:
            InputError: it cannot be written.
        """
        for entry, cut in zip(state["layers"], cuts, strict=True):
            entry["file"] = cut.file
            path, asset = self.path / cut.file, self.path / f"asset-{cut.number}"
            if cut.fresh:
                if cut.pixels is not None:
                    write_bytes(path, encoded_image(cut.pixels, ".png", 1))
                write_json(path.with_suffix(".json"), None if cut.box is None else _corner(cut.box))
            if cut.asset is not None and not asset.exists():
                write_bytes(asset, cut.asset)
        record = {"format": FORMAT, "version": VERSION, "fit_id": fit.id, "saved": time.time(), **state}
        write_json(self.path / DRAFT_FILE, record)
        self._written = {cut.number: cut.changed for cut in cuts}
        wanted = {Path(cut.file).stem for cut in cuts}
        for path in self.path.glob("layer-*"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)

    def read(self, fit_of: Callable[[str], Fit]) -> DraftRecord:
        """What was written.

        Args:
            fit_of: gives a fit by name.

        Raises:
            InputError: missing, damaged, or of a fit that is gone or was made again.
        """
        record = read_json(self.path / DRAFT_FILE)
        try:
            if record["format"] != FORMAT or record["version"] != VERSION:
                raise InputError(f"'{self.path}' is not a drawing that this canon reads.")
            name, edits = str(record["fit"]), [str(edit) for edit in record["edits"]]
            fit = fit_of(name)
            if fit.id != record["fit_id"]:
                raise InputError(f"The fit '{name}' was made again; the drawing lies elsewhere on it now.")
            layers = [self._read_layer(entry, fit) for entry in record["layers"]]
            self._written = {layer.id: layer.changed for layer in layers}
            return DraftRecord(
                name,
                fit,
                edits,
                layers,
                int(record["revision"]),
                float(record["saved"]),
                str(record.get("saved_as", "")),
                int(record.get("saved_revision", -1)),
            )
        except (KeyError, TypeError, ValueError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"The drawing in '{self.path}' is damaged ({error!r}); it cannot be opened.") from error

    def _read_layer(self, entry: Mapping[str, Any], fit: Fit) -> DraftLayer:
        target = Target(entry["target"]["layer"], int(entry["target"]["segment"]), entry["target"]["frame"])
        box, number, file = target.box(fit), int(entry["id"]), str(entry["file"])
        if not re.fullmatch(r"layer-\d+-\d+\.png", file):
            raise ValueError(f"a file called {file!r}")
        rgba = np.zeros((*box_size(box), 4), np.uint8)
        corner = json.loads((self.path / file).with_suffix(".json").read_text())
        if corner is not None:
            x, y = (int(value) for value in corner)
            pixels = read_image(self.path / file)
            if pixels.dtype != np.uint8 or pixels.shape[2] != 4:
                raise ValueError("a layer that is no RGBA image of 8 bits")
            rgba[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
        layer = DraftLayer(number, cleaned_name(str(entry["name"])), str(entry["kind"]), target, rgba, box)
        asset = self.path / f"asset-{number}"
        if entry["asset"] and asset.is_file():
            layer.asset = asset.read_bytes()
        layer.take({key: entry[key] for key in ("opacity", "visible", "extra")})
        layer.changed = int(entry["changed"])
        return layer


def read_json(path: Path) -> dict[str, Any]:
    """A mapping that was written as JSON.

    Raises:
        InputError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is missing or damaged.") from error
    if not isinstance(value, dict):
        raise InputError(f"'{path}' is damaged.")
    return value


def _corner(box: Box) -> list[int]:
    return [box[1].start, box[0].start]
