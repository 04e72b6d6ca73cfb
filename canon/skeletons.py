"""Skeletons and how they move: joints that hang on one another, turned about themselves.

Convention: a joint's rotation turns all that hangs on it, in the axes of the joint above. In the rest pose all
rotations are the identity, and offsets say how joints lie from the joint above them. Units and axes are those of the
world that a skeleton is in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints, each after the one above it.

    Attributes:
        names: of the joints, each once.
        parents: number of the joint above; -1 for the first one, the root, alone.
        offsets: float32 [J, 3], from the joint above in the rest pose; the root's counts as 0.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: np.ndarray

    def __post_init__(self) -> None:
        """Check that the joints make a tree.

        Raises:
            InputError: they do not, or offsets are not finite.
        """
        count = len(self.names)
        offsets = np.array(self.offsets, np.float32)
        if not count or len(set(self.names)) < count or len(self.parents) != count or offsets.shape != (count, 3):
            raise InputError("A skeleton needs joints with names of their own, a joint above each, and offsets [J, 3].")
        if self.parents[0] != -1 or not all(0 <= above < k for k, above in enumerate(self.parents) if k):
            raise InputError(
                "A skeleton's first joint must be its root, and every other one come after the one above it."
            )
        if not np.isfinite(offsets).all():
            raise InputError("A skeleton's offsets must be finite numbers.")
        offsets[0] = 0
        object.__setattr__(self, "offsets", offsets)

    def __len__(self) -> int:
        return len(self.names)

    def transforms(self, rotations: Tensor, root: Tensor, offsets: Tensor | None = None) -> Tensor:
        """From every joint's axes to the world: forward kinematics, differentiable.

        Args:
            rotations: [..., J, 3, 3], of the joints.
            root: [..., 3], where the root is.
            offsets: [..., J, 3] in the place of the skeleton's own, such as those of longer bones.

        Returns:
            [..., J, 4, 4].
        """
        own = torch.as_tensor(self.offsets, dtype=rotations.dtype, device=rotations.device)
        bones = (own if offsets is None else offsets).expand(*rotations.shape[:-3], len(self), 3)
        turns, places = [rotations[..., 0, :, :]], [root.expand(*rotations.shape[:-3], 3)]
        for k, above in enumerate(self.parents[1:], 1):
            places.append(places[above] + (turns[above] @ bones[..., k, :, None])[..., 0])
            turns.append(turns[above] @ rotations[..., k, :, :])
        turn, place = torch.stack(turns, dim=-3), torch.stack(places, dim=-2)
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=turn.dtype, device=turn.device)
        upper = torch.cat([turn, place[..., None]], dim=-1)
        return torch.cat([upper, last.expand(*upper.shape[:-2], 1, 4)], dim=-2)

    def joints(self, rotations: Tensor, root: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Where the joints are, [..., J, 3]; see :meth:`transforms`."""
        return self.transforms(rotations, root, offsets)[..., :3, 3]


@dataclass(frozen=True, eq=False)
class Motion:
    """A skeleton over time.

    Attributes:
        skeleton: that moves.
        rotations: float32 [T, J, 3, 3].
        root: float32 [T, 3], where the root is.
        fps: frames per second.
    """

    skeleton: Skeleton
    rotations: np.ndarray
    root: np.ndarray
    fps: float

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def joints(self) -> np.ndarray:
        """Where the joints are, float32 [T, J, 3]."""
        return np.asarray(self.skeleton.joints(torch.from_numpy(self.rotations), torch.from_numpy(self.root)).numpy())


def axis_rotation(axis: int, angles: np.ndarray) -> np.ndarray:
    """Rotations by angles [...] in radians about x (0), y (1) or z (2), float64 [..., 3, 3]."""
    after, before = (axis + 1) % 3, (axis + 2) % 3
    found = np.zeros((*np.shape(angles), 3, 3))
    found[..., axis, axis] = 1
    found[..., after, after] = found[..., before, before] = np.cos(angles)
    found[..., before, after] = np.sin(angles)
    found[..., after, before] = -np.sin(angles)
    return found
