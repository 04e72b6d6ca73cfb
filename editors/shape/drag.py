"""Points dragged on one frame or on a canvas; every frame follows (drag through the atlas: Gu et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from canon.errors import InputError
from canon.registry import Editor

if TYPE_CHECKING:
    from canon.edits import Edit
    from canon.fits import Fit


@dataclass
class DragConfig:
    """Drag points of a layer elsewhere; its shape follows, in every frame."""

    move: tuple[float, ...] = ()
    """Points and where they go, in pixels of the frame: X Y TO_X TO_Y, and so on."""
    hold: tuple[float, ...] = ()
    """Points that stay where they are: X Y, and so on."""
    points: str | None = None
    """File of named points (JSON) that are moved, held or switched off; see the documentation."""
    layer: str | None = None
    """Layer to move; none takes the one that the first point lies on."""
    frame: int = 0
    """The frame that the points are of."""
    on_canvas: bool = False
    """The points are of the canonical image instead, in its pixels."""
    segment: int = 0
    """Which canonical image, from 0, where the layer has several (with --on-canvas)."""
    radius: float | None = None
    """How far around a dragged point the shape gives way, in the points' pixels; 0 = as far as it goes; none = by the
    length of the drag, or 0 if points are held."""
    warp: str = "arap"
    """How it gives way: arap (as rigid as possible) or tps (thin-plate spline)."""

    def __post_init__(self) -> None:
        self.move, self.hold = tuple(map(float, self.move)), tuple(map(float, self.hold))
        if len(self.move) % 4 or len(self.hold) % 2:
            raise InputError("Points to move are given as X Y TO_X TO_Y, and points to hold as X Y.")
        if self.warp not in WARPS:
            raise InputError(f"The warp '{self.warp}' is not known; choose one of {', '.join(WARPS)}.")
        if self.radius is not None and not 0 <= self.radius < float("inf"):
            raise InputError(f"The radius {self.radius:g} is out of range; choose at least 0.")


WARPS = ("arap", "tps")


class Drag(Editor):
    """Moves a layer's shape by its points; see :class:`DragConfig`."""

    Config = DragConfig

    def __call__(self, fit: Fit, config: DragConfig) -> Edit:
        """The edit.

        Raises:
            InputError: unknown layer, segment or frame, points that do not lie on the layer, or a file of points that
                cannot be read.
        """
        from canon.editors.shape.dragging import drag

        return drag(fit, config)
