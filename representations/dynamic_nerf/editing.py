"""A world with other fields in the place of its own, and what its video shows then.

The video is the source, changed by what the two worlds show differently; see :func:`canon.spatial.recomposed`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from canon.edits import Field
from canon.errors import InputError
from canon.representations.dynamic_nerf.baking import solid
from canon.representations.dynamic_nerf.buffers import about, frame_rays, opacity, posed
from canon.representations.dynamic_nerf.deformation import Deformation
from canon.representations.dynamic_nerf.fields import HumanField
from canon.representations.dynamic_nerf.observations import chunks
from canon.representations.dynamic_nerf.world import World
from canon.spatial import recomposed
from canon.storage import to_float, to_uint8

if TYPE_CHECKING:
    from canon.representations.dynamic_nerf.fit import NerfFit

_BESIDE, _INSIDE = 0.4, 0.6
"""Skinning weights of chosen joints below which nothing is another, and above which all is."""
_KEPT = 8
"""Frames that are kept once they were made."""


class PartField(nn.Module):
    """A person of whom what moves with some joints is another field's; it answers as a :class:`HumanField`."""

    def __init__(self, own: nn.Module, other: HumanField, deformation: Deformation, joints: Sequence[int]) -> None:
        """Put both together.

        Args:
            joints: numbers of those whose part is the other's.
        """
        super().__init__()
        self.own, self.other, self.joints = own, other, list(joints)
        self._deformation = [deformation]  # its parameters are not this module's

    def forward(self, points: Tensor, radii: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`HumanField.forward`."""
        (before, colour), (after, changed), share = (
            self.own(points, radii, state),
            self.other(points, radii, state),
            self.share(points),
        )
        return torch.lerp(before, after, share), torch.lerp(colour, changed, share[..., None])

    def density(self, points: Tensor, radii: Tensor, state: Tensor) -> Tensor:
        """See :meth:`HumanField.density`."""
        before, after = (field.density(points, radii, state) for field in (self.own, self.other))  # type: ignore[operator]
        return torch.lerp(before, after, self.share(points))

    def colours(self, points: Tensor, state: Tensor) -> Tensor:
        """See :meth:`HumanField.colours`."""
        before, after = (field.colours(points, state) for field in (self.own, self.other))  # type: ignore[operator]
        return torch.lerp(before, after, self.share(points)[..., None])

    def looked_up(self, points: Tensor, state: Tensor) -> Callable[[], Tensor]:
        """See :meth:`HumanField.looked_up`; what is not the other's stays as it is now."""
        share = self.share(points)
        chosen = (share > 0).nonzero()[:, 0]
        with torch.no_grad():
            fixed = self.own.colours(points, state)  # type: ignore[operator]
        part = fixed[chosen], self.other.looked_up(points[chosen], state[chosen]), share[chosen][:, None]

        def found() -> Tensor:
            before, after, weight = part
            return fixed.index_copy(0, chosen, torch.lerp(before, after(), weight))

        return found

    def share(self, points: Tensor) -> Tensor:
        """How much of places [..., 3] of the rest pose is the other's, [...] in 0..1; exactly 0 elsewhere."""
        with torch.no_grad():
            weights = self._deformation[0].weights(points.reshape(-1, 3))[:, self.joints].sum(dim=-1)
            even = ((weights - _BESIDE) / (_INSIDE - _BESIDE)).clamp(0, 1)
            return (even * even * (3 - 2 * even)).reshape(points.shape[:-1])


def editable(field: nn.Module) -> nn.Module:
    """The field of which an edit holds parameters."""
    return field.other if isinstance(field, PartField) else field


def edited_world(world: World, fields: Mapping[str, Sequence[Field]]) -> World:
    """A world in which layers' fields are as edits say, in order; what is not edited is shared.

    Raises:
        InputError: an edit holds parameters that the field has not, or of joints that are not there.
    """
    human, background = world.human, world.background
    for own in fields.get("human", ()):
        assert world.human is not None and world.deformation is not None and human is not None
        joints = [_joint_number(world.deformation, name) for name in own.joints]
        other = _with(world.human, own, "human")
        human = PartField(human, other, world.deformation, joints) if joints else other  # type: ignore[assignment]
    for own in fields.get("background", ()):
        assert world.background is not None
        if own.joints:
            raise InputError("The background moves with no joints; leave them out.")
        background = _with(world.background, own, "background")
    return World(world.sizes, background, human, world.deformation).eval()


def _joint_number(deformation: Deformation, name: str) -> int:
    """Of a joint of the body.

    Raises:
        InputError: it has none of that name.
    """
    names = deformation.body.skeleton.names
    if name not in names:
        raise InputError(f"The body has no joint '{name}'; its joints are {', '.join(names)}.")
    return names.index(name)


_Module = TypeVar("_Module", bound=nn.Module)


def _with(field: _Module, edit: Field, layer: str) -> _Module:
    found, known = copy.deepcopy(field), field.state_dict()
    for name, value in edit.weights.items():
        if name not in known or tuple(known[name].shape) != value.shape:
            seen = f"'{name}' {list(value.shape)}"
            raise InputError(f"An edit of the field of '{layer}' has parameters {seen}, which this fit's has not.")
        known[name] = torch.from_numpy(value).to(known[name])
    found.load_state_dict(known)
    return found


def changes_shape(fields: Mapping[str, Sequence[Field]], world: World) -> bool:
    """Whether edits may have changed where the person is, and not colours alone."""
    if world.human is None:
        return False
    kept = {id(parameter) for parameter in world.human.appearance_parameters()}
    colours = {name for name, parameter in world.human.named_parameters() if id(parameter) in kept}
    return any(not set(own.weights) <= colours for own in fields.get("human", ()))


class EditedFrames:
    """Frames of a fit whose fields have changed, made when they are asked for."""

    def __init__(self, fit: NerfFit, before: World, after: World, device: torch.device, reshaped: bool = True) -> None:
        """Compare two worlds that share poses and cameras.

        Args:
            fit: of the first.
            reshaped: whether the person may have another shape, and not other colours alone.
        """
        self.fit, self.before, self.after, self.device, self.reshaped = fit, before, after, device, reshaped
        self.everywhere = before.background is not after.background
        self.frame = lru_cache(maxsize=_KEPT)(self._frame)
        self.opacity = lru_cache(maxsize=_KEPT)(self._opacity)

    @torch.no_grad()
    def _frame(self, t: int) -> np.ndarray:
        """Frame ``t``, uint8 [H, W, 3]."""
        fit = self.fit
        out = np.array(fit.clip.frames[t])
        flat = out.reshape(-1, 3)
        camera, pose = fit.cameras[t], fit.pose(t)
        if self.everywhere:
            for pixels, rays in chunks(frame_rays(camera, self.device)):
                where = None if pose is None else posed(self.before, pose, len(rays.origins))
                seen = [world(rays, where).rgb for world in (self.before, self.after)]
                flat[pixels] = changed(flat[pixels], *seen)
            return out
        if pose is None:
            return out
        there = np.asarray(fit.baked[0].opacity[t]) > 0  # type: ignore[index]
        if self.reshaped:
            there |= self.opacity(t) > 0
        for numbers, rays, where in about(self.before, camera, pose, self.device, there):
            if self.reshaped:
                seen = [world(rays, where).rgb for world in (self.before, self.after)]
            else:
                trace = self.before.trace(rays, where)
                seen = [trace.rgb(world.human) for world in (self.before, self.after)]  # type: ignore[arg-type]
            flat[numbers] = changed(flat[numbers], *seen)
        return out

    def _opacity(self, t: int) -> np.ndarray:
        """The person's opacity in frame ``t`` of the world as it is, uint8 [H, W]."""
        pose = self.fit.pose(t)
        if pose is None:
            return np.zeros(self.fit.size, np.uint8)
        camera, depth = self.fit.cameras[t], self.fit.depth[t]
        return solid(opacity(self.after, camera, pose, np.asarray(depth), self.device))


def changed(source: np.ndarray, before: Tensor, after: Tensor) -> np.ndarray:
    """Pixels uint8 [N, 3] of the source with what two renderings [N, 3] show differently."""
    found = recomposed(torch.from_numpy(to_float(source)).to(before.device), before, after)
    same = (before == after).all(dim=-1, keepdim=True).cpu().numpy()
    return np.where(same, source, to_uint8(found.clamp(0, 1).cpu().numpy()))
