"""A picture with the structure of one image in the patches of another: texture optimisation, coarse to fine.

Every patch of the result is to look like some patch of the exemplar (Kwatra et al., SIGGRAPH 2005) that is as light
there as the image is (texture transfer; Efros and Freeman, SIGGRAPH 2001), and all of the exemplar's are to be used
alike (Kaspar et al., Eurographics 2015; the completeness of Granot et al., CVPR 2022).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from canon import progress
from canon.sampling import fill_unseen

_LUMA = (0.299, 0.587, 0.114)
_COMPONENTS = 24
"""Principal components that stand for a patch."""
_EXACT = 2**28
"""Pairs of patches up to which all are compared."""
_COARSEST = 5
"""Patches along the shorter side of pictures that are halved once more."""
_FEWEST = 256
"""Patches that there must be to choose from at a coarser level."""
_ITERATIONS = (8, 6, 4, 3, 2)
"""Of the levels, coarsest first; further ones have as many as the last."""
_JUMPS = (4, 2, 1, 1)
"""Texels between those that tell each other of their patches, in the rounds of an iteration."""
_NEAR = 32.0
"""Texels within which is searched at random, after a first round anywhere."""
_EVEN = 0.1
"""Weight of even use of the exemplar, in mean distances of patches; with much more of it the finest detail is lost."""
_HELD = 0.95
"""Share of light and shade in the distance of patches where all of it is to be kept."""
_GAIN = 2.0
"""Largest factor by which a colour is made lighter or darker."""
_DARK = 0.02
"""Luma below which there is no telling light from shade."""


@dataclass(frozen=True)
class Picture:
    """A picture, and where its look may be taken from.

    Attributes:
        image: float32 [h, w, 3] in 0..1.
        usable: bool [h, w].
    """

    image: np.ndarray
    usable: np.ndarray


@dataclass(frozen=True)
class _Pictures:
    """Both pictures at one resolution.

    Attributes:
        light: [1, 1, h, w], luma of the image.
        wanted: [1, 1, h, w] in 0..1, where the result is wanted.
        exemplar: [1, 3, H, W].
        usable: [1, 1, H, W] in 0..1, how much of a texel may be taken.
    """

    light: Tensor
    wanted: Tensor
    exemplar: Tensor
    usable: Tensor

    @classmethod
    def of(cls, image: np.ndarray, area: np.ndarray, exemplar: Picture) -> _Pictures:
        usable = torch.from_numpy(exemplar.usable.astype(np.float32))
        # What may not be taken must not be seen in the averages beside it either.
        colours = fill_unseen(torch.from_numpy(np.ascontiguousarray(exemplar.image, np.float32)), usable)
        own = torch.from_numpy(np.ascontiguousarray(image, np.float32))
        wanted = torch.from_numpy(np.ascontiguousarray(area, np.float32))
        return cls(_luma(_batched(own)), wanted[None, None], _batched(colours), usable[None, None])

    def halved(self) -> _Pictures:
        return _Pictures(*(_halved(one) for one in (self.light, self.wanted, self.exemplar, self.usable)))


@dataclass(frozen=True)
class _Level:
    """What patches are compared by at one resolution.

    Attributes:
        guide: [1, 1, h, w], how light the result is to be.
        image: [1, 3, H, W], the exemplar.
        light: [1, 1, H, W], what is compared with the guide.
        allowed: bool [H W], where a patch is centred that may be taken.
        centres: int64 [K], the same as numbers: row times W plus column.
    """

    guide: Tensor
    image: Tensor
    light: Tensor
    allowed: Tensor
    centres: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return self.guide.shape[2], self.guide.shape[3]


def count_patches(usable: np.ndarray, patch: int) -> int:
    """Patches that lie wholly in bool [h, w]."""
    return int(_centres(torch.from_numpy(usable.astype(np.float32))[None, None], patch).sum())


def synthesise(
    image: np.ndarray, area: np.ndarray, exemplar: Picture, *, structure: float, patch: int = 7, seed: int = 0
) -> np.ndarray:
    """An image in the look of an exemplar.

    Args:
        image: float32 [h, w, 3] in 0..1; of it, only how light it is counts.
        area: float32 [h, w] in 0..1, where the result is wanted.
        exemplar: at the size at which it is to appear, with one usable patch at least.
        structure: 0..1, how much of the image's light and shade stays.
        patch: side of the patches, odd.

    Returns:
        float32 [h, w, 3], within the range of the usable colours.
    """
    with torch.no_grad():
        pictures = _Pictures.of(image, area, exemplar)
        levels = _levels(pictures, structure, patch)
        generator = torch.Generator().manual_seed(seed)
        field = _first(levels[0], patch, generator)
        rounds = [_ITERATIONS[min(number, len(_ITERATIONS) - 1)] for number in range(len(levels))]
        work = [count * math.prod(level.size) for count, level in zip(rounds, levels, strict=True)]
        for number, level in enumerate(progress.parts(levels, weights=work)):
            if number:
                field = _doubled(field, levels[number - 1], level, patch)
            for _ in progress.parts(range(rounds[number]), "matching patches"):
                made = vote(level.image, field, patch, nearest=number > 0)
                field = _match(level, made, field, structure, patch, generator)
        made = _shaded(vote(levels[-1].image, field, patch, nearest=True), pictures, structure, patch)
    colours = exemplar.image[exemplar.usable]
    return np.clip(made[0].permute(1, 2, 0).numpy(), colours.min(axis=0), colours.max(axis=0))


# --- levels ---


def _levels(pictures: _Pictures, structure: float, patch: int) -> list[_Level]:
    """Resolutions at which there are patches enough to choose from, coarsest first; the full one always."""
    levels: list[_Level] = []
    while True:
        allowed = _centres(pictures.usable, patch).flatten()
        if levels and int(allowed.sum()) < _FEWEST:
            return levels[::-1]
        # The finest of the light is the pattern's own, unless it is all that counts.
        sigma = (1 - structure) * patch
        light = _blurred(_luma(pictures.exemplar), sigma)
        guide = _as_light_as(_blurred(pictures.light, sigma), pictures.wanted, light, pictures.usable)
        levels.append(_Level(guide, pictures.exemplar, light, allowed, allowed.nonzero()[:, 0]))
        if min(*pictures.light.shape[2:], *pictures.exemplar.shape[2:]) < _COARSEST * patch:
            return levels[::-1]
        pictures = pictures.halved()


def _centres(share: Tensor, patch: int) -> Tensor:
    """bool [H, W]: where a patch of [1, 1, H, W] is centred that is wholly usable."""
    if min(share.shape[2:]) < patch:
        return torch.zeros(share.shape[2:], dtype=torch.bool)
    whole = -F.max_pool2d(-share, patch, stride=1) > 0.999
    return F.pad(whole, (patch // 2,) * 4)[0, 0]


def _halved(image: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(image, (0, image.shape[3] % 2, 0, image.shape[2] % 2), mode="replicate"), 2)


def _batched(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None].contiguous()


def _luma(image: Tensor) -> Tensor:
    return (image * torch.tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """[N, C, h, w] through a Gaussian; its own rim is continued."""
    radius = round(2.5 * sigma)
    if radius < 1:
        return image
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    count = image.shape[1]
    for pad, weights in (((radius, radius, 0, 0), kernel[None, :]), ((0, 0, radius, radius), kernel[:, None])):
        image = F.conv2d(F.pad(image, pad, mode="replicate"), weights.expand(count, 1, -1, -1), groups=count)
    return image


def _as_light_as(guide: Tensor, wanted: Tensor, light: Tensor, share: Tensor) -> Tensor:
    """A guide with the mean and the contrast of the exemplar's light (Hertzmann et al., SIGGRAPH 2001, section 3.4)."""

    def moments(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        mean = (values * weight).sum() / weight.sum()
        return mean, ((values - mean) ** 2 * weight).sum().div(weight.sum()).sqrt()

    (own, spread), (theirs, wide) = moments(guide, wanted), moments(light, share)
    known = light[share > 0]
    return ((guide - own) * (wide / spread.clamp_min(1e-3)) + theirs).clamp(known.min(), known.max())


# --- which patch goes where ---


def _first(level: _Level, patch: int, generator: torch.Generator) -> Tensor:
    """int64 [h, w]: pieces of the exemplar, side by side."""
    height, width = level.size
    across = level.image.shape[3]
    side = 2 * patch
    rows, columns = -(-height // side), -(-width // side)
    corner = level.centres[torch.randint(len(level.centres), (rows, columns), generator=generator)]
    spread = corner.repeat_interleave(side, 0).repeat_interleave(side, 1)[:height, :width]
    y = torch.arange(height)[:, None] % side - side // 2
    x = torch.arange(width) % side - side // 2
    return _snapped(level, spread // across + y, spread % across + x, spread)


def _snapped(level: _Level, y: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    """Patches at rows and columns; another one where none may be taken."""
    high, wide = level.image.shape[2:]
    there = y.clamp(0, high - 1) * wide + x.clamp(0, wide - 1)
    return torch.where(level.allowed[there], there, otherwise)


def _doubled(field: Tensor, coarse: _Level, fine: _Level, patch: int) -> Tensor:
    """The same patches at twice the resolution."""
    height, width = fine.size
    across = coarse.image.shape[3]
    large = field.repeat_interleave(2, 0).repeat_interleave(2, 1)[:height, :width]
    y, x = 2 * (large // across) + torch.arange(height)[:, None] % 2, 2 * (large % across) + torch.arange(width) % 2
    # At the rim of a picture of odd size, there is less than twice a coarse texel.
    high, wide = fine.image.shape[2:]
    y, x = y.clamp(patch // 2, high - 1 - patch // 2), x.clamp(patch // 2, wide - 1 - patch // 2)
    there = y * wide + x
    nearest = fine.centres[torch.searchsorted(fine.centres, there).clamp(max=len(fine.centres) - 1)]
    return torch.where(fine.allowed[there], there, nearest)


def vote(exemplar: Tensor, field: Tensor, patch: int, nearest: bool = False) -> Tensor:
    """The picture on which overlapping patches agree.

    Args:
        exemplar: [1, C, H, W].
        field: int64 [h, w], the centre of the patch at every texel: row times W plus column.
        nearest: give of all colours proposed the one nearest to their mean, in place of the mean, which is blurred.

    Returns:
        [1, C, h, w].
    """
    radius, across = patch // 2, exemplar.shape[3]
    flat = exemplar[0].flatten(1).T.contiguous()
    height, width = field.shape
    around = F.pad(field, (radius,) * 4)
    inside = F.pad(torch.ones(field.shape), (radius,) * 4)
    steps = range(-radius, radius + 1)

    def proposed(dy: int, dx: int) -> tuple[Tensor, Tensor]:
        """What the patches around a texel say that lie at (dy, dx) from it, and whether there is one."""
        place = (slice(radius + dy, radius + dy + height), slice(radius + dx, radius + dx + width))
        there = (around[place] - dy * across - dx).clamp(0, len(flat) - 1)
        return flat[there.flatten()], inside[place].reshape(-1, 1)

    total, weight = torch.zeros(height * width, flat.shape[1]), torch.zeros(height * width, 1)
    for dy, dx in itertools.product(steps, steps):
        colour, known = proposed(dy, dx)
        fall = known * math.exp(-(dy * dy + dx * dx) / (2 * (radius / 1.5) ** 2))
        total.addcmul_(colour, fall)
        weight += fall
    mean = total / weight
    if nearest:
        best, least = mean, torch.full((height * width, 1), torch.inf)
        for dy, dx in itertools.product(steps, steps):
            colour, known = proposed(dy, dx)
            far = ((colour - mean) ** 2).sum(dim=1, keepdim=True)
            closer = (far < least) & (known > 0)
            best, least = torch.where(closer, colour, best), torch.where(closer, far, least)
        mean = best
    return mean.T.reshape(1, -1, height, width)


def _match(
    level: _Level, made: Tensor, field: Tensor, structure: float, patch: int, generator: torch.Generator
) -> Tensor:
    """For every patch of the picture made so far, one of the exemplar's: int64 [h, w]."""
    share = _HELD * structure**3
    weights = torch.tensor([(1 - share) ** 0.5] * 3 + [(3 * share) ** 0.5])[:, None, None]
    theirs = torch.cat([level.image, level.light], dim=1) * weights
    own = torch.cat([made, level.guide], dim=1) * weights
    filters, mean = _components(theirs, level.centres, patch)
    pad = (patch // 2,) * 4
    keys, queries = (
        F.conv2d(F.pad(one - mean, pad, mode="replicate"), filters)[0].flatten(1).T.contiguous()
        for one in (theirs, own)
    )
    used = _usage(field, level, patch) * _EVEN * (1 - structure)
    flat = field.flatten()
    scale = ((keys[flat] - queries) ** 2).sum(dim=1).mean()
    cost = used * scale
    if len(flat) * len(level.centres) <= _EXACT:
        return nearest_patches(queries, keys, cost, level.centres).reshape(field.shape)
    return _searched(queries, keys, cost, field, level, generator)


def _components(image: Tensor, centres: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Principal components [D, C, p, p] of patches, and their mean colour [1, C, 1, 1]."""
    mean = image.flatten(2).mean(dim=2)[..., None, None]
    some = centres[:: max(len(centres) // 4096, 1)]
    radius, across = patch // 2, image.shape[3]
    step = torch.arange(-radius, radius + 1)
    offsets = (step[:, None] * across + step).flatten()
    patches = (image - mean)[0].flatten(1)[:, some[:, None] + offsets].permute(1, 0, 2).flatten(1)
    _, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return vectors[:, -_COMPONENTS:].T.reshape(-1, image.shape[1], patch, patch), mean


def _usage(field: Tensor, level: _Level, patch: int) -> Tensor:
    """How often patches are used, [H W]; 1 = as often as all are on average."""
    counts = torch.bincount(field.flatten(), minlength=len(level.allowed)).float()
    size = level.image.shape[2:]
    counts = F.avg_pool2d(counts.reshape(1, 1, *size), patch, stride=1, padding=patch // 2).flatten()
    return counts * (len(level.centres) / field.numel())


def nearest_patches(queries: Tensor, keys: Tensor, cost: Tensor, centres: Tensor) -> Tensor:
    """Of the keys at ``centres``, the one with the least squared distance plus cost, for each query.

    Args:
        queries: [N, D].
        keys: [M, D].
        cost: [M].
        centres: int64 [K], which of the M may be taken.

    Returns:
        int64 [N], out of ``centres``.
    """
    some = keys[centres]
    offset = (some**2).sum(dim=1) + cost[centres]
    chunks = queries.split(max(2**24 // len(centres), 1))
    return centres[torch.cat([torch.addmm(offset, one, some.T, alpha=-2).argmin(dim=1) for one in chunks])]


def _searched(
    queries: Tensor, keys: Tensor, cost: Tensor, field: Tensor, level: _Level, generator: torch.Generator
) -> Tensor:
    """Nearly what :func:`nearest_patches` gives: PatchMatch (Barnes et al., SIGGRAPH 2009), all texels at a time."""
    high, wide = level.image.shape[2:]
    shape, best = field.shape, field.flatten()

    least = ((keys[best] - queries) ** 2).sum(dim=1) + cost[best]

    def tried(y: Tensor, x: Tensor) -> None:
        nonlocal best, least
        inside = (y >= 0) & (y < high) & (x >= 0) & (x < wide)
        there = torch.where(inside, y * wide + x, best)
        there = torch.where(level.allowed[there], there, best)
        (changed,) = torch.nonzero(there != best, as_tuple=True)
        far = ((keys[there[changed]] - queries[changed]) ** 2).sum(dim=1) + cost[there[changed]]
        better = far < least[changed]
        at = changed[better]
        best, least = best.index_copy(0, at, there[at]), least.index_copy(0, at, far[better])

    for number, step in enumerate(_JUMPS):
        for dy, dx in ((0, step), (step, 0), (0, -step), (-step, 0)):
            moved = torch.roll(best.reshape(shape), (dy, dx), (0, 1)).flatten()
            tried(moved // wide + dy, moved % wide + dx)
        radius = max(high, wide) / 2 if number == 0 else _NEAR
        while radius >= 1:
            jump = ((torch.rand((2, len(best)), generator=generator) * 2 - 1) * radius).round().long()
            tried(best // wide + jump[0], best % wide + jump[1])
            radius /= 3
    return best.reshape(shape)


def _shaded(made: Tensor, pictures: _Pictures, structure: float, patch: int) -> Tensor:
    """The result with the image's light and shade, as far as it lacks them; what is finer than the pattern stays.

    With all of the structure, a texel is as light as the image; with less, the broad light of the result gives way to
    that of the image, at a finer scale, and in part.
    """
    guide = _as_light_as(pictures.light, pictures.wanted, _luma(pictures.exemplar), pictures.usable)
    fine, broad = ((1 - structure) * patch * times for times in (0.3, 2.0))
    gain = (_blurred(guide, fine) + _DARK) / (_blurred(_luma(made), broad) + _DARK)
    return made * gain.clamp(1 / _GAIN, _GAIN) ** (1 - (1 - structure) ** 2)
