"""What the StableVideo editor does: propagation from keyframe to keyframe, and their aggregation on the canvas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon import progress, rendering
from canon.boxes import Box, grown
from canon.coordinates import Size, to_normalised
from canon.editors.diffusion.attention import Chain, tell_what_attends
from canon.editors.diffusion.canvases import Region, painted, regions, repainted
from canon.editors.diffusion.options import NONE
from canon.editors.diffusion.painters import StableVideoPainter
from canon.editors.diffusion.running import as_edit
from canon.editors.diffusion.stablevideo import StableVideoConfig
from canon.editors.painting import pull_back
from canon.edits import Edit, Over, Step
from canon.errors import InputError
from canon.fits import Fit, nonzero_box
from canon.storage import to_float

_AROUND = 24  # pixels around the layer that the model sees of a keyframe besides
_SOLID = 0.5  # weight from which a pixel shows a layer
_HIDDEN = 16  # channels of the aggregation network
_LEARNING = 3e-3


@dataclass(frozen=True)
class Keyframe:
    """An edited frame.

    Attributes:
        t: its number.
        box: the part that was edited.
        image: float32 [h, w, 3] in 0..1, of the box.
        paint: the same on the canvas.
    """

    t: int
    box: Box
    image: np.ndarray
    paint: Over


def stablevideo(fit: Fit, config: StableVideoConfig) -> Edit:
    """See :class:`canon.editors.diffusion.stablevideo.StableVideo`."""
    data = fit.layer(config.layer or fit.layers[0])
    found = regions(fit, data.name, config)
    chosen = {region.segment: _chosen(fit, data.name, region.segment, config) for region in found}
    painter = StableVideoPainter(config)
    if config.attention != NONE:
        tell_what_attends(painter.model.pipeline.unet)

    def made(region: Region) -> np.ndarray:
        if data.opacity is None or not any(chosen.values()):
            return painted(region.image, region.area, painter.hinted(region.hint))
        return _gathered(fit, data.name, region, chosen[region.segment], painter)

    paint = repainted(fit, data.name, found, made)
    return as_edit(fit, data.name, paint, config, "stablevideo")


def _chosen(fit: Fit, layer: str, segment: int, config: StableVideoConfig) -> list[int]:
    """Keyframes of a segment that show the layer."""
    first, last = fit.segments(layer)[segment]
    for t in config.at:
        if not 0 <= t < len(fit):
            raise InputError(f"There is no frame {t}; the clip has frames 0 to {len(fit) - 1}.")
    if config.at:
        wanted = [t for t in config.at if first <= t <= last]
    else:
        count = min(config.keyframes, last - first + 1)
        ends = np.linspace(first, last, count + 1)
        wanted = [round(float(a + b) / 2) for a, b in itertools.pairwise(ends)]
    k = fit.layers.index(layer)
    return [t for t in wanted if (fit.weights(t)[k] > _SOLID).any()]


def _gathered(fit: Fit, layer: str, region: Region, chosen: list[int], painter: StableVideoPainter) -> np.ndarray:
    """A region as its keyframes make it, float32 [h, w, 3]."""
    edited: list[Keyframe] = []
    config = painter.config
    chain = Chain(painter.model.pipeline.unet, config.attention, torch.device("cpu") if config.offload else None)
    drawing, aggregating, filling = progress.shares(len(chosen), 1, 1)
    with drawing:
        for t in progress.parts(chosen):
            with chain.next():
                edited.append(_keyframe(fit, layer, t, edited, painter))
    covered = np.zeros(region.area.shape, bool)
    image = region.image
    if edited:
        colours, covered = _median([frame.paint.rgba[region.box] for frame in edited])
        if painter.config.aggregation_steps:
            with aggregating:
                colours = _aggregated(fit, layer, region, colours, covered, edited, painter.config)
        image = np.where(covered[..., None], colours, image)
    rest = region.area * ~covered
    if (rest > 0).any():
        begun = painter.later() if edited else painter.first()
        with filling:
            made = painted(image, rest, begun.seeing(region.image))
        image = np.where(covered[..., None], image, made)
    return image


def _keyframe(fit: Fit, layer: str, t: int, before: list[Keyframe], painter: StableVideoPainter) -> Keyframe:
    """A frame edited on from what the keyframes before it made of it."""
    weight = fit.weights(t)[fit.layers.index(layer)]
    around = nonzero_box((weight > _SOLID).astype(np.uint8))
    assert around is not None
    box = grown(around, _AROUND, fit.size)
    source = to_float(np.asarray(fit.clip.frames[t]))[box]
    shown = source
    if before:
        so_far = Edit([Step(layer, frame.paint) for frame in reversed(before)], fit.id)
        shown = to_float(rendering.render(fit, so_far)[t])[box]
    start = painter.later() if before else painter.first()
    image = painted(shown, weight[box], start.seeing(source))
    whole = np.zeros((*fit.size, 3), np.float32)
    whole[box] = image
    return Keyframe(t, box, image, pull_back(fit, layer, t, whole, weight > _SOLID))


def _median(paints: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Per texel, the median of the colours [h, w, 3] of all paints that are there, and where any is, bool [h, w]."""
    valid = np.stack([paint[..., 3] > _SOLID for paint in paints])
    colours = np.stack([paint[..., :3] for paint in paints])
    ordered = np.sort(np.where(valid[..., None], colours, np.inf), axis=0)
    count = valid.sum(axis=0)
    middle = [
        np.take_along_axis(ordered, k[None, ..., None], axis=0)[0] for k in ((count - 1).clip(0) // 2, count // 2)
    ]
    known = count > 0
    return np.where(known[..., None], (middle[0] + middle[1]) / 2, 0).astype(np.float32), known


class _Aggregation(nn.Module):
    """Two layers that say what to add to the median."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, _HIDDEN, 3, padding=1), nn.Conv2d(_HIDDEN, 3, 3, padding=1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.relu(self.inner(x)))  # type: ignore[no-any-return]


def _aggregated(
    fit: Fit,
    layer: str,
    region: Region,
    colours: np.ndarray,
    known: np.ndarray,
    edited: list[Keyframe],
    config: StableVideoConfig,
) -> np.ndarray:
    """The median, changed so that the keyframes that are rendered from it look as they were edited (L1)."""
    generator = torch.Generator("cpu").manual_seed(config.seed)
    network = _Aggregation()
    for value in network.inner.parameters():
        nn.init.uniform_(value, -0.2, 0.2, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), _LEARNING)
    canvas = torch.from_numpy(np.ascontiguousarray(colours)).permute(2, 0, 1)[None]
    views = [_view(fit, layer, region, known, frame) for frame in edited]
    for _ in progress.parts(range(config.aggregation_steps), "aggregating"):
        made = network(canvas)
        losses = [
            ((F.grid_sample(made, xy, align_corners=True) * light - image).abs() * weight).sum() / weight.sum()
            for xy, light, image, weight in views
            if float(weight.sum()) > 0
        ]
        if not losses:
            break
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return np.asarray(network(canvas)[0].permute(1, 2, 0).numpy(), np.float32)


def _view(
    fit: Fit, layer: str, region: Region, known: np.ndarray, frame: Keyframe
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How a keyframe sees a region: positions for grid_sample, light, and what it is to look like where."""
    uv, weight = fit.coordinates(frame.t, layer)
    size: Size = (region.area.shape[0], region.area.shape[1])
    corner = np.array([region.box[1].start, region.box[0].start], np.float32)
    own = uv[frame.box] - corner
    nearest = np.rint(own).astype(int).clip(0, np.array(size[::-1]) - 1)
    solid = (weight[frame.box] > 0.9) & known[nearest[..., 1], nearest[..., 0]]
    solid &= ((own >= 0) & (own <= np.array(size[::-1]) - 1)).all(axis=-1)
    xy = to_normalised(torch.from_numpy(own), size)[None]
    light, image = (
        torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None].float()
        for part in (fit.lighting(frame.t, layer, frame.box), frame.image)
    )
    return xy, light, image, torch.from_numpy(solid.astype(np.float32))[None, None]
