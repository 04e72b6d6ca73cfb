"""What fits in three dimensions can do beside what all fits can; the rest of canon asks for it here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from canon.cameras import Camera
from canon.errors import InputError
from canon.fits import Fit

if TYPE_CHECKING:
    from pathlib import Path

    from canon.skeletons import Motion


@dataclass(frozen=True, eq=False)
class Turntable:
    """Pictures of something canonical, from all around: ``count`` of them, each made when it is asked for."""

    name: str
    count: int
    frames: Iterator[np.ndarray]


class SpatialFit(Fit):
    """A fit whose layers are fields in the world, with a camera for every frame."""

    cameras: list[Camera]

    @property
    @abstractmethod
    def centre(self) -> np.ndarray:
        """What the frames are about, float64 [3] in the world: the person, or what the cameras look at."""

    @abstractmethod
    def field(self, layer: str) -> nn.Module:
        """The differentiable field of a layer, in its canonical space."""

    @abstractmethod
    def view(
        self,
        t: int,
        camera: Camera,
        pose: tuple[np.ndarray, np.ndarray] | None = None,
        layers: Sequence[str] | None = None,
    ) -> np.ndarray:
        """What another camera sees at the time of frame ``t``, float32 [H, W, 3] in 0..1; black where nothing is.

        Args:
            pose: rotations [J, 3, 3] of the joints and place [3] of the pelvis; None = that of frame ``t``.
            layers: only these; None = all.
        """

    @abstractmethod
    def coordinates_3d(self, t: int, layer: str) -> np.ndarray:
        """Where in its canonical space lies what every pixel shows of a layer, float32 [H, W, 3], finite."""

    @abstractmethod
    def from_elsewhere(
        self, cameras: Sequence[Camera], motion: Motion | None = None, frames: Sequence[int] | None = None
    ) -> SpatialFit:
        """The fit as other cameras see it, or in other poses: a fit whose source is rendered. Edits apply to it.

        Args:
            cameras: one for each new frame, with pictures of one size.
            motion: poses of the new frames, of this fit's joints; None keeps those of ``frames``.
            frames: number of the frame whose time each new frame shows; None = in order, again and again.
        """

    @abstractmethod
    def distance(self, t: int) -> np.ndarray:
        """How far what is seen in frame ``t`` is from its camera, float32 [H, W], in the world's units."""

    @abstractmethod
    def turntables(self) -> list[Turntable]:
        """The canonical layers from all around."""

    @abstractmethod
    def save_mesh(self, path: Path) -> None:
        """Write the canonical surface as ``.glb`` (texture, skeleton and skin weights) or ``.ply`` (vertex colours).

        Raises:
            InputError: there is no surface, or the suffix is another.
        """


def spatial(fit: Fit) -> SpatialFit:
    """A fit as one in three dimensions.

    Raises:
        InputError: it is none.
    """
    if not isinstance(fit, SpatialFit):
        raise InputError(f"A fit of '{fit.representation}' has no third dimension; fit with dynamic-nerf for that.")
    return fit
