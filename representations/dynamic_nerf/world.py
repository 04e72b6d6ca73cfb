"""A person and the background behind them as rays see them: samples of both, merged by depth, in one composite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from canon.representations.dynamic_nerf.deformation import Deformation
from canon.representations.dynamic_nerf.fields import HumanField, SceneField
from canon.representations.dynamic_nerf.rays import Rays, capsule_hits
from canon.representations.dynamic_nerf.sizes import Sizes
from canon.representations.dynamic_nerf.volume import (
    composite,
    distortion,
    interlevel,
    merged_weights,
    middle,
    render_weights,
    resample,
)

REACH = 2.0
"""Radii of its bones beyond which there is nothing of the person."""
_DISTORTION = 0.002
_MIST, _CLOSE = 0.02, 0.5
"""How much is asked of things closer to the camera than this, in units of the scene: they must be worth it."""
_FAINT = 1e-5
"""Weight up to which a sample is not worth its colour."""
_NEAR, _FAR = 0.05, 200.0
"""Where background rays begin and end, in units of the scene."""


@dataclass(frozen=True, eq=False)
class Posed:
    """The pose of each ray: [R, J, 4, 4] from the rest pose, [R, J, 3, 3] of the joints, and its state int64 [R]."""

    transforms: Tensor
    rotations: Tensor
    state: Tensor

    def of(self, chosen: Tensor) -> Posed:
        """Those of some rays."""
        return Posed(self.transforms[chosen], self.rotations[chosen], self.state[chosen])

    def repeated(self, count: int) -> Posed:
        """That of one ray, for so many."""
        return Posed(*(part.expand(count, *part.shape[1:]) for part in (self.transforms, self.rotations, self.state)))


@dataclass(frozen=True, eq=False)
class Samples:
    """Of one field along rays.

    Attributes:
        at: [R, S], lengths along the rays.
        depth: [R, S], optical depth.
        colour: [R, S, 3].
        rest: [R, S, 3], where in the rest pose; of a person only.
        loss: what its sampling asks for while it is trained; a number.
    """

    at: Tensor
    depth: Tensor
    colour: Tensor
    rest: Tensor | None = None
    loss: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """What rays see.

    Attributes:
        rgb: [R, 3] in 0..1.
        human: [R] in 0..1, the person's share of it.
        depth: [R], mean length along the ray.
        rest: [R, 3], mean place in the rest pose of what is seen of the person; 0 where nothing is.
        loss: of the sampling; see :class:`Samples`.
    """

    rgb: Tensor
    human: Tensor
    depth: Tensor
    rest: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Trace:
    """What rays [R] see of the person, but for their colours: for those, it need not be found again.

    Attributes:
        rest: [K, 3], places in the rest pose that count.
        state: int64 [K].
        ray: int64 [K], whose they are.
        weight: [K], how much they count there.
        human: [R] in 0..1, the person's share.
        depth: [R], mean length along the ray, times that share.
        behind: [R, 3], what the background adds.
    """

    rest: Tensor
    state: Tensor
    ray: Tensor
    weight: Tensor
    human: Tensor
    depth: Tensor
    behind: Tensor

    def rgb(self, human: HumanField) -> Tensor:
        """Colours [R, 3] with a field's for the person; differentiable."""
        return self.seen(human.colours(self.rest, self.state))

    def seen(self, colours: Tensor) -> Tensor:
        """Colours [R, 3] of rays, of those [K, 3] of the places."""
        return self.behind.index_add(0, self.ray, self.weight[:, None] * colours)


class World(nn.Module):
    """The networks of a fit: either of the two, or both."""

    def __init__(
        self, sizes: Sizes, background: SceneField | None, human: HumanField | None, deformation: Deformation | None
    ) -> None:
        super().__init__()
        self.sizes, self.background, self.human, self.deformation = sizes, background, human, deformation

    def behind(self, rays: Rays, generator: torch.Generator | None = None, trust: float = 1.0) -> Samples:
        """The background along rays [R]: a proposal, then the field where that says.

        Args:
            trust: in the proposal, 0..1: with 0 the field is looked at evenly (mip-NeRF 360, annealing).
        """
        field = self.background
        assert field is not None
        scale = field.frame.scale
        count = len(rays.origins)
        spaced = torch.linspace(_spaced(_NEAR), _spaced(_FAR), self.sizes.coarse + 1, device=rays.origins.device)
        spaced = spaced.expand(count, -1)
        if generator is not None:
            step = spaced[0, 1] - spaced[0, 0]
            moved = torch.rand((count, spaced.shape[1] - 2), generator=generator).to(spaced.device) - 0.5
            spaced = torch.cat([spaced[:, :1], spaced[:, 1:-1] + step * moved, spaced[:, -1:]], dim=-1)
        edges = _lengths(spaced) / scale
        proposed, _ = render_weights(field.proposal.density(rays.at(middle(edges))), edges)
        finer = resample(spaced, (proposed.detach() + 1e-6) ** trust, self.sizes.fine, generator)
        edges = _lengths(finer) / scale
        at = middle(edges)
        density, colour = field(rays.at(at), rays.directions[:, None].expand(*at.shape, 3))
        if generator is not None:
            density, colour = _by_distance(density, colour, at * scale)
        depth = density * torch.diff(edges, dim=-1)
        loss = None
        if generator is not None:
            weights, _ = render_weights(density, edges)
            # The light that is left comes from the far end: half a surface before it is no surface.
            left = (1 - weights.sum(dim=-1, keepdim=True)).clamp_min(0)
            spread = distortion(torch.cat([weights[:, :-1], weights[:, -1:] + left], dim=-1), finer).mean()
            close = (density * torch.diff(edges, dim=-1) * (at * scale < _CLOSE)).sum(dim=-1)
            mist = (1 - torch.exp(-close)).mean()
            loss = interlevel(proposed, spaced, weights, finer).mean() + _DISTORTION * spread + _MIST * mist
        # The last sample is as far as anything: whatever light is left comes from there.
        depth = torch.cat([depth[:, :-1], depth[:, -1:] + 20.0], dim=-1)
        return Samples(at, depth, colour, loss=loss)

    def body(self, rays: Rays, posed: Posed, generator: torch.Generator | None = None, opened: float = 1.0) -> Samples:
        """The person along rays [R] that all hit the posed body's capsules (:meth:`hits`)."""
        assert self.human is not None
        at, width, inside, rest, radii = self._inside(rays, posed, generator, opened)
        density, colour = self.human(rest, radii, posed.state[inside // at.shape[1]])
        found = torch.cat([(density * width.flatten()[inside])[:, None], colour, rest], dim=-1)
        every = found.new_zeros(at.numel(), 7).index_copy(0, inside, found).reshape(*at.shape, 7)
        depth, colours, places = every[..., 0], every[..., 1:4], every[..., 4:]
        return Samples(at, depth, colours, places)

    def _inside(
        self, rays: Rays, posed: Posed, generator: torch.Generator | None, opened: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Samples along rays [R]: lengths [R, S], widths [R, S], which of them may be in the person int64 [N], and of
        those, where in the rest pose [N, 3] and how far from the bones [N]."""
        assert self.deformation is not None
        near, far, _ = capsule_hits(self.deformation.body, posed.transforms.detach(), rays, REACH)
        count = self.sizes.body
        share = torch.linspace(0, 1, count + 1, device=near.device)
        edges = near[:, None] + (far - near)[:, None] * share
        shift = torch.full((len(near), 1), 0.5, device=near.device)
        if generator is not None:
            shift = torch.rand((len(near), count), generator=generator).to(near.device)
        width = torch.diff(edges, dim=-1)
        at = edges[:, :-1] + shift * width
        inside, rest, radii = self.deformation(rays.at(at), posed.transforms, posed.rotations, opened, REACH)
        return at, width, inside, rest, radii

    @torch.no_grad()
    def trace(self, rays: Rays, posed: Posed, background: bool = True) -> Trace:
        """What rays [R] that all hit the person see of them; as :meth:`forward` has it, but for faint samples.

        Args:
            background: whether it is there.
        """
        assert self.human is not None
        at, width, inside, rest, radii = self._inside(rays, posed, None, 1.0)
        state = posed.state[inside // at.shape[1]]
        density = self.human.density(rest, radii, state)
        depth = at.new_zeros(at.numel()).index_copy(0, inside, density * width.flatten()[inside]).reshape(at.shape)
        behind = torch.zeros(len(at), 3, device=at.device)
        if background and self.background is not None:
            far = self.behind(rays)
            weights, others = merged_weights([at, far.at], [depth, far.depth])
            behind = composite(others, far.colour)
        else:
            (weights,) = merged_weights([at], [depth])
        found = weights.flatten()[inside]
        seen = (found > _FAINT).nonzero()[:, 0]
        ray = inside[seen] // at.shape[1]
        human, lengths = weights.sum(dim=-1), (weights * at).sum(dim=-1)
        return Trace(rest[seen], state[seen], ray, found[seen], human, lengths, behind)

    def hits(self, rays: Rays, posed: Posed) -> Tensor:
        """Which rays [R] come near the person, bool."""
        assert self.deformation is not None
        return capsule_hits(self.deformation.body, posed.transforms.detach(), rays, REACH)[2]

    def forward(
        self,
        rays: Rays,
        posed: Posed | None,
        generator: torch.Generator | None = None,
        opened: float = 1.0,
        background: bool = True,
        trust: float = 1.0,
    ) -> Seen:
        """What rays [R] see of both.

        Args:
            posed: poses of the rays; None leaves the person out.
            generator: shifts samples at random, as for training.
            opened: how much of the non-rigid residual counts.
            background: whether it is there; black otherwise.
            trust: in the background's proposal; see :meth:`behind`.
        """
        device, count = rays.origins.device, len(rays.origins)
        zero = torch.zeros(count, device=device)
        rgb, rest = torch.zeros(count, 3, device=device), torch.zeros(count, 3, device=device)
        human, depth = zero, zero
        loss = torch.zeros((), device=device)
        far = None
        if background and self.background is not None:
            far = self.behind(rays, generator, trust)
            loss = loss if far.loss is None else far.loss
            (weights,) = merged_weights([far.at], [far.depth])
            rgb, depth = composite(weights, far.colour), (weights * far.at).sum(dim=-1)
        if posed is None or self.human is None:
            return Seen(rgb, human, depth, rest, loss)
        hit = self.hits(rays, posed)
        if bool(hit.any()):
            through = Rays(rays.origins[hit], rays.directions[hit])
            near = self.body(through, posed.of(hit), generator, opened)
            parts = [near] if far is None else [near, Samples(far.at[hit], far.depth[hit], far.colour[hit])]
            each = merged_weights([part.at for part in parts], [part.depth for part in parts])
            together = sum(composite(w, part.colour) for w, part in zip(each, parts, strict=True))
            lengths = sum((w * part.at).sum(dim=-1) for w, part in zip(each, parts, strict=True))
            assert isinstance(together, Tensor) and isinstance(lengths, Tensor) and near.rest is not None
            share = each[0].sum(dim=-1)
            place = composite(each[0], near.rest) / share.clamp_min(1e-6)[:, None]
            rgb, depth = rgb.index_put((hit,), together), depth.index_put((hit,), lengths)
            human, rest = human.index_put((hit,), share), rest.index_put((hit,), place)
        return Seen(rgb, human, depth, rest, loss)


def _spaced(length: float) -> float:
    """Half of the samples before a length of 1, the other half evenly in 1 / length (Nerfacto's piecewise sampler)."""
    return length / 2 if length < 1 else 1 - 1 / (2 * length)


def _lengths(spaced: Tensor) -> Tensor:
    """Inverse of :func:`_spaced`."""
    return torch.where(spaced < 0.5, 2 * spaced, 1 / (2 - 2 * spaced).clamp_min(1e-6))


def _by_distance(density: Tensor, colour: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """The same, but with less gradient close to the camera, where many more samples lie in the same space.

    Without it mist grows before the lens (Philip and Deschaintre, Floaters No More, 2023).
    """
    share = distance.square().clamp(0, 1).detach()
    scaled = share * density + ((1 - share) * density).detach()
    return scaled, share[..., None] * colour + ((1 - share)[..., None] * colour).detach()
