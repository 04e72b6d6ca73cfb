"""The losses of Layered Neural Atlases (Kasten et al., 2021, section 3), as functions of what the networks say.

Every function gives one value for each sample, [B]; the caller takes the mean. Where a distance between atlas positions
appears, it is in frame pixels of the start: ``scale`` is max(W, H) / 2 over the mapping scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from canon.representations.atlas.neural.networks import AtlasNetworks
from canon.representations.atlas.neural.options import NeuralOptions
from canon.representations.neural.evaluation import contributions
from canon.representations.neural.samples import (
    BACKWARD,
    BASE,
    DOWN,
    FAR_DOWN,
    FAR_RIGHT,
    FLOWING,
    FORWARD,
    PAINTED,
    RIGHT,
    Samples,
)

_STIFF = 1e-3  # keeps the inverse of a collapsed Jacobian finite


@dataclass(frozen=True)
class Prediction:
    """What the networks say of samples.

    Attributes:
        uv: [N, P, B, 2] positions on every layer.
        opacity: [N - 1, 5, B] stick-breaking opacity.
        weight: [N, 5, B] contribution of every layer.
        colour: [N, 3, B, 3] of every layer.
    """

    uv: Tensor
    opacity: Tensor
    weight: Tensor
    colour: Tensor


def predict(networks: AtlasNetworks, samples: Samples) -> Prediction:
    """Every network is called once, on all the points that it is needed for."""
    uv = torch.stack([networks.uv(k, samples.points) for k in range(networks.count)])
    opacity = networks.opacity(samples.points[:FLOWING])
    return Prediction(uv, opacity, contributions(opacity), networks.colours(uv[:, :PAINTED]))


def rigidity(uv: Tensor, right: Tensor, down: Tensor, scale: float) -> Tensor:
    """|J^T J| + |(J^T J)^-1| (Frobenius) of a mapping: 2 sqrt(2), the least, where it only rotates and shifts.

    Args:
        uv, right, down: positions [..., 2] of a point and of those one unit of ``scale`` to the right and below.
        scale: what makes differences of positions a Jacobian whose wanted scale is 1.
    """
    a, b = (right - uv) * scale, (down - uv) * scale
    xx = a.square().sum(-1) + _STIFF
    yy = b.square().sum(-1) + _STIFF
    xy = (a * b).sum(-1)
    norm = (xx.square() + yy.square() + 2.0 * xy.square()).sqrt()
    # The inverse of a symmetric 2x2 matrix has the same entries, rearranged, over the determinant.
    return norm + norm / (xx * yy - xy.square()).clamp_min(_STIFF**2)


def flow_error(uv: Tensor, moved: Tensor, scale: float) -> Tensor:
    """Distance in pixels between atlas positions [..., 2] of the same surface point in two frames."""
    # The square root has no slope at zero, which is where this wants to be.
    return ((uv - moved) * scale).square().sum(-1).add(1e-12).sqrt()


def mask_entropy(opacity: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of opacity and masks, [N - 1, B] each: [B]. A layer is not judged where masks in front hide it."""
    entropy = -(masks * opacity.log() + (1.0 - masks) * (1.0 - opacity).log())
    hidden = torch.cumprod(1.0 - masks, dim=0)[:-1]
    return (entropy * torch.cat([torch.ones_like(masks[:1]), hidden])).sum(0)


def sparsity(colour: Tensor, opacity: Tensor) -> Tensor:
    """Squared colour of the layers [N - 1, B, 3] where they are transparent: it keeps the atlas empty where unused."""
    return (colour * (1.0 - opacity)[..., None]).square().sum(-1).sum(0)


def loss_terms(
    prediction: Prediction, samples: Samples, options: NeuralOptions, scale: float, step: int, far: float | None
) -> dict[str, Tensor]:
    """Every weighted loss as a mean over the whole step, of which ``samples`` may be a part: the parts' terms add up.

    Args:
        scale: pixels per unit of uv at the start.
        far: distance of the far points in pixels, or None when they are not among the samples.
    """
    p, o = prediction, options
    count, trusted = samples.total[0], max(samples.total[1], 1.0)
    shown = (p.weight[:, :PAINTED, :, None] * p.colour).sum(0)
    wrong = shown - samples.colours
    slopes = wrong[[RIGHT, DOWN]] - wrong[BASE]
    stretch = rigidity(p.uv[:, BASE], p.uv[:, RIGHT], p.uv[:, DOWN], scale)
    moved = flow_error(p.uv[:, None, BASE], p.uv[:, [FORWARD, BACKWARD]], scale)
    terms = {
        "rgb": wrong[BASE].square().sum() * (o.rgb / count),
        "gradient": slopes.square().sum() * (o.gradient / count),
        "rigidity": stretch.sum() * (o.rigidity / count),
        "flow": (moved * p.weight[:, None, BASE] * samples.confidence).sum() * (o.flow / trusted),
    }
    if len(p.opacity):
        change = (p.opacity[:, [FORWARD, BACKWARD]] - p.opacity[:, None, BASE]).abs()
        terms["opacity_flow"] = (change * samples.confidence).sum() * (o.opacity_flow / trusted)
        terms["sparsity"] = sparsity(p.colour[:-1, BASE], p.opacity[:, BASE]).sum() * (o.sparsity / count)
        if step < o.bootstrap_steps:
            terms["masks"] = mask_entropy(p.opacity[:, BASE], samples.masks).sum() * (o.bootstrap / count)
    if far is not None:
        wide = rigidity(p.uv[:, BASE], p.uv[:, FAR_RIGHT], p.uv[:, FAR_DOWN], scale / far).sum(-1)
        front = wide[:-1].sum() * o.global_rigidity_foreground
        terms["global_rigidity"] = (front + wide[-1] * o.global_rigidity_background) / count
    return terms
