"""A layer's field on its way to be another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from canon.boxes import Box
from canon.cameras import Camera
from canon.editors.distill.pictures import BETAS
from canon.edits import Field
from canon.spatial import SpatialFit

PERSON = "human"
"""The layer of a person."""
_NETWORKS = 0.1
"""Learning rate of networks, of that of tables."""


class EditedField(nn.Module):
    """The field that is optimised, and the fit that shows it."""

    def __init__(self, fit: SpatialFit, layer: str, joints: Sequence[str] = (), shape: float = 0.0) -> None:
        """Make a copy of a layer's field.

        Args:
            joints: of a person, whose part may change; none = everything.
            shape: of a person, the learning rate of what makes the shape, as a share; 0 leaves it alone.
        """
        super().__init__()
        self._fit = [fit.with_fields({layer: [Field({}, tuple(joints))]})]
        self.share = shape
        for name in self.fit.layers:
            self.fit.field(name).requires_grad_(False)
        self.field = self.fit.field(layer)
        colours = None
        if layer == PERSON:
            colours = {id(parameter) for parameter in self.field.appearance_parameters()}  # type: ignore[operator]
        self.learned: dict[str, tuple[nn.Parameter, bool]] = {}
        for name, parameter in self.field.named_parameters():
            of_colour = colours is None or id(parameter) in colours
            if parameter.numel() and (of_colour or shape > 0):
                parameter.requires_grad_(True)
                self.learned[name] = parameter, of_colour

    @property
    def fit(self) -> SpatialFit:
        """What shows it."""
        return self._fit[0]

    def forward(self) -> SpatialFit:
        """See :attr:`fit`."""
        return self.fit

    def optimiser(self, rate: float) -> torch.optim.Adam:
        """Tables learn faster than networks."""
        groups = []
        for name, (parameter, of_colour) in self.learned.items():
            own = rate * (1.0 if name.endswith("table") else _NETWORKS) * (1.0 if of_colour else self.share)
            groups.append({"params": [parameter], "lr": own})
        return torch.optim.Adam(groups, betas=BETAS, eps=1e-15)

    def weights(self) -> dict[str, np.ndarray]:
        """What has been learned, for :class:`canon.edits.Field`."""
        return {name: parameter.detach().cpu().numpy() for name, (parameter, _) in self.learned.items()}


def cut(camera: Camera, rows: slice, columns: slice) -> Camera:
    """A camera that sees a part of what another does."""
    matrix = np.array(camera.intrinsics)
    matrix[0, 2] -= columns.start
    matrix[1, 2] -= rows.start
    return replace(camera, size=(rows.stop - rows.start, columns.stop - columns.start), intrinsics=matrix)


def part_of(box: Box, side: int, rng: np.random.Generator) -> Box:
    """A square of a box, so many pixels along a side at most, anywhere in it."""
    found = []
    for whole in box:
        length = min(side, whole.stop - whole.start)
        first = int(rng.integers(whole.start, whole.stop - length + 1))
        found.append(slice(first, first + length))
    return found[0], found[1]


def on(values: np.ndarray, like: Tensor) -> Tensor:
    """float32, on the device of another."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(like.device)
