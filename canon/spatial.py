"""What fits in three dimensions can do beside what all fits can; the rest of canon asks for it here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor, nn

from canon.cameras import Camera
from canon.edits import Edit, Field
from canon.errors import InputError
from canon.fits import Fit

if TYPE_CHECKING:
    from pathlib import Path

    from canon.skeletons import Motion


_SAME, _OTHER = 0.02, 0.1
"""Differences in colour up to which the source's own detail stays, and from which none of it does."""


@dataclass(frozen=True, eq=False)
class Turntable:
    """Pictures of something canonical, from all around: ``count`` of them, each made when it is asked for."""

    name: str
    count: int
    frames: Iterator[np.ndarray]


class Seen(Protocol):
    """What a camera sees, as tensors.

    Attributes:
        rgb: [H, W, 3] in 0..1; black where nothing is.
        human: [H, W] in 0..1, the person's share of it.
        depth: [H, W], mean length along the ray, weighted: where the person is alone, times their share.
    """

    @property
    def rgb(self) -> Tensor: ...
    @property
    def human(self) -> Tensor: ...
    @property
    def depth(self) -> Tensor: ...


class Traced(Protocol):
    """What a camera sees of the person alone, whose colours may still change.

    Attributes:
        human: [H, W] in 0..1, the person's share.
        depth: [H, W], mean length along the ray times that share.
    """

    @property
    def human(self) -> Tensor: ...
    @property
    def depth(self) -> Tensor: ...
    def rgb(self) -> Tensor:
        """[H, W, 3] with the colours that the person's field has now, black where nothing is; differentiable."""
        ...


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
    def seen(
        self,
        t: int,
        camera: Camera,
        pose: tuple[np.ndarray, np.ndarray] | None = None,
        layers: Sequence[str] | None = None,
    ) -> Seen:
        """:meth:`view` with more of what is known, differentiable."""

    @abstractmethod
    def traced(self, t: int, camera: Camera, pose: tuple[np.ndarray, np.ndarray] | None = None) -> Traced:
        """:meth:`seen` of the person alone, for optimising their colours: all else is found once.

        Raises:
            InputError: the fit has no person.
        """

    @abstractmethod
    def posed(self, t: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The person's pose in frame ``t``, as :meth:`view` takes it; None where there is no person."""

    @abstractmethod
    def surface(self) -> np.ndarray:
        """Places of the person's canonical surface, float32 [V, 3], about evenly over it.

        Raises:
            InputError: the fit has no person.
        """

    @abstractmethod
    def colour_at(self, rest: Tensor) -> Tensor:
        """Colour [N, 3] in 0..1 of the person at places [N, 3] of their canonical space, differentiable."""

    @abstractmethod
    def with_fields(self, fields: Mapping[str, Sequence[Field]]) -> SpatialFit:
        """The fit of the video in which layers' fields are as edits say, in order, by layer; frames when asked for.

        :meth:`field` of it is a copy that may be optimised.

        Raises:
            InputError: an edit holds parameters that the field has not, or of joints that are not there.
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


def recomposed(source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Pixels [..., 3] of a source, with what two renderings show differently.

    out = after + k (source - before)  with k = 1 where both are the same, so that the source stays as it is, and 0
    where they differ much, so that nothing of what the fields did not explain of the old look is seen in the new one.
    Differentiable.
    """
    apart = (after - before).abs().amax(dim=-1, keepdim=True)
    even = ((apart - _SAME) / (_OTHER - _SAME)).clamp(0, 1)
    lost = even * even * (3 - 2 * even)
    return source + (after - before) - lost * (source - before)


def with_fields(fit: Fit, edits: Sequence[Edit]) -> Fit:
    """The fit in which fields are as a stack of edits says; without such an edit it is ``fit``.

    Raises:
        InputError: see :meth:`SpatialFit.with_fields`; or the fit has no fields.
    """
    found: dict[str, list[Field]] = {}
    for edit in edits:
        for step in edit.steps:
            if isinstance(step.operation, Field):
                found.setdefault(fit.layer(step.layer).name, []).append(step.operation)
    return spatial(fit).with_fields(found) if found else fit
