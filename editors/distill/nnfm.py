"""Style by nearest-neighbour feature matching (NNFM; Zhang et al., ARF, ECCV 2022), and colours by their statistics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PAIRS = 2**24
"""Pairs of positions that are compared at once."""
_FLAT = 0.01
"""Standard deviation of colours, 0..1, below which they are not spread further: that would enlarge noise alone."""


def nnfm(features: Tensor, style: Tensor) -> Tensor:
    """Mean over all positions of the cosine distance to the nearest of the style's features (ARF, eq. 1).

    Args:
        features: [N, C, h, w], of pictures; differentiable.
        style: [M, C, h', w'], of the style picture.

    Returns:
        scalar, 0 (all features are the style's) to 2.
    """
    own, theirs = _directions(features), _directions(style.detach())
    with torch.no_grad():
        parts = own.split(max(_PAIRS // len(theirs), 1))
        nearest = torch.cat([(part @ theirs.T).argmax(dim=1) for part in parts])
    # Of unit vectors, half the squared distance is 1 - cos, and exactly 0 where they are the same.
    return (own - theirs[nearest]).square().sum(dim=1).mean() / 2


def _directions(features: Tensor) -> Tensor:
    """[N, C, h, w] -> unit vectors [N h w, C]."""
    return F.normalize(features.permute(0, 2, 3, 1).flatten(0, 2), dim=1)


def content_distance(features: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of features of one shape, in units of the mean square of those that are wanted."""
    wanted = wanted.detach()
    return (features - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)


@dataclass(frozen=True)
class Colours:
    """Mean [3] and covariance [3, 3] of colours."""

    mean: Tensor
    covariance: Tensor


def colours_of(picture: Tensor, weight: Tensor | None = None) -> Colours:
    """The statistics of a picture's colours.

    Args:
        picture: [1, 3, h, w].
        weight: [1, 1, h, w], how much each pixel counts; None = all alike.
    """
    values = picture[0].flatten(1)
    shares = torch.ones_like(values[:1]) if weight is None else weight[0].flatten(1).to(values)
    shares = shares / shares.sum().clamp_min(1e-12)
    mean = (values * shares).sum(dim=1)
    away = values - mean[:, None]
    return Colours(mean, (away * shares) @ away.T)


def recoloured(picture: Tensor, own: Colours, wanted: Colours) -> Tensor:
    """Colours [N, 3, h, w] of some statistics brought to others by a linear map, as ARF does before and after.

    Of all maps that give mean and covariance it is the one that moves colours least (Pitie and Kokaram, 2007). Where
    own colours hardly vary, the covariance is not reached: they are not spread any further.
    """
    root, inverse = (_power(own.covariance, exponent, _FLAT**2) for exponent in (0.5, -0.5))
    matrix = inverse @ _power(root @ wanted.covariance @ root, 0.5) @ inverse
    away = picture - own.mean[:, None, None]
    return torch.einsum("ij,njhw->nihw", matrix, away) + wanted.mean[:, None, None]


def _power(matrix: Tensor, exponent: float, least: float = 0.0) -> Tensor:
    """A power of a symmetric matrix [3, 3] whose eigenvalues are at least so much."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(least) ** exponent @ vectors.T
