"""A layer of paint of a draft: what it is painted on, its pixels, and what may be changed of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from canon.boxes import Box
from canon.errors import InputError
from canon.fits import Fit

KINDS = ("brush", "image", "text")
_MOST_EXTRA = 20_000
_MOST_ASSET = 32 << 20


@dataclass(frozen=True)
class Target:
    """What is painted on: a canvas, or a frame.

    Attributes:
        layer: of the fit; of a frame, the one layer that the paint goes to, or None for all that it falls on.
        segment: of the layer's canvas.
        frame: number of the frame, None for a canvas.
    """

    layer: str | None = None
    segment: int = 0
    frame: int | None = None

    def box(self, fit: Fit) -> Box:
        """Where it lies in the layer's whole canvas; of a frame, all of it.

        Raises:
            InputError: the fit has no such layer, segment or frame.
        """
        if self.frame is None:
            if self.layer is None:
                raise InputError("Say what to paint on: a layer, or a frame.")
            return fit.segment_box(self.layer, self.segment)
        if not 0 <= self.frame < len(fit):
            raise InputError(f"There is no frame {self.frame}; the clip has frames 0 to {len(fit) - 1}.")
        if self.layer is not None:
            fit.layer(self.layer)
        return fit.whole


@dataclass(eq=False)
class DraftLayer:
    """A layer of paint.

    Attributes:
        id: number that stays its own.
        kind: "brush", "image" or "text".
        rgba: uint8 [h, w, 4], straight alpha, of the target's size.
        extra: what the browser keeps with it (place of a sticker, words and font of a text), plain primitives.
        asset: the file of a sticker, as it was given.
        changed: counts its changes.
    """

    id: int
    name: str
    kind: str
    target: Target
    rgba: np.ndarray = field(repr=False)
    place: Box
    opacity: float = 1.0
    visible: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    asset: bytes | None = field(default=None, repr=False)
    changed: int = 0

    @property
    def seen(self) -> bool:
        """Whether it counts."""
        return self.visible and self.opacity > 0

    def describe(self) -> dict[str, Any]:
        """For the browser and for the disk, plain primitives."""
        found = {key: getattr(self, key) for key in ("id", "name", "kind", "opacity", "visible", "extra", "changed")}
        target = {"layer": self.target.layer, "segment": self.target.segment, "frame": self.target.frame}
        return {**found, "target": target, "size": list(self.rgba.shape[:2]), "asset": self.asset is not None}

    def take(self, changes: Mapping[str, Any]) -> None:
        """Set what may be set from outside, checked.

        Raises:
            InputError: an unknown name, or a value that cannot be.
        """
        for key, value in changes.items():
            if key == "name":
                self.name = cleaned_name(str(value))
            elif key == "opacity":
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                    raise InputError(f"The opacity of a layer is 0 to 1, not {value!r}.")
                self.opacity = float(value)
            elif key == "visible":
                self.visible = bool(value)
            elif key == "extra":
                if not isinstance(value, dict) or len(json.dumps(value)) > _MOST_EXTRA:
                    raise InputError("What is kept with a layer is too large.")
                self.extra = value
            elif key == "asset":
                if value is not None and len(value) > _MOST_ASSET:
                    raise InputError(f"The picture has more than {_MOST_ASSET >> 20} MiB; make it smaller.")
                self.asset = value
            else:
                raise InputError(f"A layer has no '{key}' to change.")


def cleaned_name(name: str) -> str:
    """A name as it may be shown: one line of at most 80 characters."""
    cleaned = " ".join("".join(c if c.isprintable() else " " for c in name).split())[:80]
    return cleaned or "Layer"


def whole_number(value: Any, what: str) -> int:
    """A number of JSON as an integer.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"The {what} must be a whole number, not {value!r}.")
    return int(value)
