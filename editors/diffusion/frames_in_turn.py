"""What the Pix2Video editor does: frames drawn one after another, and gathered on the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from canon import progress
from canon.clip import Clip
from canon.editors.diffusion.annotators import annotate
from canon.editors.diffusion.attention import Chain, tell_what_attends
from canon.editors.diffusion.canvases import Region, painted, regions, repainted
from canon.editors.diffusion.latents import Control, Guide, LatentModel, to_picture, to_tensor
from canon.editors.diffusion.models import load_controlnet, memory_told
from canon.editors.diffusion.options import NONE
from canon.editors.diffusion.painters import Painter, invertible, size_of, source_guide
from canon.editors.diffusion.pix2video import Pix2VideoConfig
from canon.editors.diffusion.running import PaintedFrames, as_edit
from canon.editors.painting import pull_back
from canon.edits import Edit
from canon.fits import Fit
from canon.sampling import fill_unseen
from canon.storage import to_float, to_uint8

_PAPER_STEPS = 50
"""Steps of a run of which the pull is a share for each."""
_SOLID = 0.5
"""Weight from which a pixel shows a layer."""
_ALIKE = 0.1
"""Difference of colours, 0..1, from which a frame counts for less than half of one that agrees with the others."""


def pix2video(fit: Fit, config: Pix2VideoConfig) -> Edit:
    """See :class:`canon.editors.diffusion.pix2video.Pix2Video`."""
    return on_canvas(FramesInTurn(fit, replace(config, mask=None, segment=None)), config)


def on_canvas(frames: FramesInTurn, config: Pix2VideoConfig) -> Edit:
    """The edit of a layer's canvas that frames of it make.

    Raises:
        InputError: unknown segment, or a mask that cannot be used.
    """
    fit = frames.fit
    layer = fit.layers[frames.layer]
    found = regions(fit, layer, config)
    drawing, gathering, laying = progress.shares(20, 2, 1)
    with drawing:
        drawn = frames.drawn.frames
    with gathering:
        colours, known = gathered(fit, layer, drawn)

    def made(region: Region) -> np.ndarray:
        seen = known[region.box]
        if not seen.any():
            return np.dstack([region.image, np.zeros_like(region.area)])
        own = torch.from_numpy(np.ascontiguousarray(colours[region.box]))
        return np.asarray(fill_unseen(own, torch.from_numpy(seen.astype(np.float32))).numpy())

    with laying:
        paint = repainted(fit, layer, found, made)
    return as_edit(fit, layer, paint, config, "pix2video")


class FramesInTurn(PaintedFrames):
    """The frames of Pix2Video, laid over the source by the layer's weight, uint8 [H, W, 3]; all are made at once."""

    painter: Pix2VideoPainter

    def __init__(self, fit: Fit, config: Pix2VideoConfig) -> None:
        """See :meth:`PaintedFrames.__init__`."""
        super().__init__(fit, config, Pix2VideoPainter)

    @cached_property
    def drawn(self) -> Clip:
        """The frames as the model makes them, on disk."""
        return Clip.from_frames(self._drawn(), self.fit.clip.fps)

    def _drawn(self) -> Iterator[np.ndarray]:
        fit, first = self.fit, beginnings(self.fit, self.fit.layers[self.layer])
        for t in progress.parts(range(len(fit))):
            if t in first:
                self.painter.begin()
            source, weight = np.asarray(fit.clip.frames[t]), fit.weights(t)[self.layer]
            if not (weight > 0).any():
                yield source
                continue
            with memory_told():
                yield to_uint8(painted(to_float(source), weight, self.painter))

    def __getitem__(self, t: int, /) -> np.ndarray:
        t = self.fit.index(t)
        source, made = (to_float(np.asarray(clip.frames[t])) for clip in (self.fit.clip, self.drawn))
        weight = self.fit.weights(t)[self.layer]
        return to_uint8(source + weight[..., None] * (made - source))


def beginnings(fit: Fit, layer: str) -> set[int]:
    """Frames that do not go on from the one before: the first of a view, or of a segment that no other leads into."""
    segments = fit.segments(layer)
    cuts = {first for first, _ in segments if not any(a < first <= b for a, b in segments)}
    return cuts | set(np.flatnonzero(fit.clip.moments == 0).tolist())


class Pix2VideoPainter(Painter[Pix2VideoConfig]):
    """See :mod:`canon.editors.diffusion.pix2video`; pictures of one size are painted one after another."""

    def __init__(self, config: Pix2VideoConfig) -> None:
        """See :meth:`Painter.__init__`."""
        super().__init__(config)
        self._network = load_controlnet(config.controlnet, self.model) if config.controlnet else None
        self._denoiser = invertible(self.model)
        if config.attention != NONE:
            tell_what_attends(self._denoiser.unet)
        self.begin()

    def begin(self) -> None:
        """Forget what was painted: the next picture is the first of a shot."""
        kept = torch.device("cpu") if self.config.offload else None
        self._chain = Chain(self._denoiser.unet, self.config.attention, kept)
        self._previous: dict[int, Tensor] = {}

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        own, model, size = self.config, self._denoiser, size_of(picture)
        guide = replace(self._guide(model, size), control=self._held(picture))
        source = source_guide(model, guide, own.source_prompt, size)
        inverting, denoising = progress.shares(1, 1)
        with inverting:
            levels, trajectory = model.invert(model.encode(to_tensor(picture)), source, own.steps, own.ratio)
        with denoising, self._chain.next():
            made, self._previous = self._denoised(trajectory[int(levels[0])], levels, guide)
        return to_picture(model.decode(made))

    def refine(self, picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.refine`."""
        return self._gone_over(picture, self._held(source))

    def _held(self, picture: np.ndarray) -> Control | None:
        own = self.config
        if self._network is None:
            return None
        shown = annotate(picture, own.control, own.annotator, torch.device(self.model.pipeline.device))
        return Control(self._network, to_tensor(shown), own.control_scale)

    def _denoised(self, latents: Tensor, levels: Tensor, guide: Guide) -> tuple[Tensor, dict[int, Tensor]]:
        """Clean latents, and what was predicted of them on the way, pulled: timestep -> [1, c, h, w]."""
        own, model = self.config, self._denoiser
        left_out = own.steps - int(own.steps * own.ratio)
        last = round(own.pulled * (len(levels) + left_out)) - left_out if own.pull else 0
        share = 1 - (1 - own.pull) ** (_PAPER_STEPS / own.steps)
        predicted: dict[int, Tensor] = {}
        for k, level in enumerate(progress.parts(levels, "denoising")):
            t = int(level)
            target = self._previous.get(t) if k < last else None
            found, clean, slope = asked(model, latents, level, guide, target, own.through_network)
            latents = model.scheduler.step(found, level, latents, return_dict=False)[0].to(model.dtype)
            if target is not None and slope is not None:
                alpha = cumulative_alpha(model, levels[k + 1] if k + 1 < len(levels) else None)
                scale = 1.0 if own.through_network else alpha.sqrt()
                latents = (latents - share * scale * whole_step(clean - target, slope)).to(model.dtype)
                # The one after it is pulled to where this one was; else guidance adds to the pull from frame to frame.
                clean = clean + share * (target - clean)
            if k < last:
                predicted[t] = clean
        return latents, predicted


def asked(
    model: LatentModel, latents: Tensor, level: Tensor, guide: Guide, target: Tensor | None, through_network: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a model says of latents at a noise level, and which way leads away from a target (section 3.2 of the paper).

    Args:
        target: [1, c, h, w], what the clean latents are to be near; None for no slope.
        through_network: whether the slope is taken with respect to the latents; otherwise, to the prediction.

    Returns:
        found: the model's answer [1, c, h, w].
        clean: the prediction of the clean latents that follows from it.
        slope: float32, the gradient of half the prediction's squared distance to the target.
    """
    alpha = cumulative_alpha(model, level)
    if target is None or not through_network:
        found = model.predict(latents, level, guide)
        clean = model.split(found, latents, alpha)[0]
        return found, clean, None if target is None else (clean - target).float()
    control = [] if guide.control is None else [guide.control.network]
    with torch.enable_grad(), _frozen(model.unet, *control):
        begun = latents.detach().requires_grad_()
        found = model.predict_with_gradient(begun, level, guide)
        clean = model.split(found, begun, alpha)[0]
        distance = ((clean.float() - target.float()) ** 2).sum() / 2
        (slope,) = torch.autograd.grad(distance, begun)
    return found.detach(), clean.detach(), slope.float()


def whole_step(off: Tensor, slope: Tensor) -> Tensor:
    """The step down a slope that leads, were the network linear and blind to all other ways, onto the target.

    How far a step of fixed size leads depends on the noise level, and guidance multiplies it.

    Args:
        off: what the prediction is off the target by.
        slope: of half its squared distance.
    """
    return slope * ((off.float() ** 2).sum() / (slope**2).sum().clamp_min(1e-12))


def cumulative_alpha(model: LatentModel, level: Tensor | None) -> Tensor:
    """Share of the signal in the latents' variance at a noise level; None = after the last one."""
    scheduler = model.scheduler
    found = scheduler.final_alpha_cumprod if level is None else scheduler.alphas_cumprod[int(level)]
    assert isinstance(found, Tensor)
    return found.to(model.device)


@contextmanager
def _frozen(*networks: nn.Module) -> Iterator[None]:
    """Take no gradients with respect to weights meanwhile, so that nothing is kept for them."""
    weights = [weight for network in networks for weight in network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


# --- on the canvas ---


def gathered(fit: Fit, layer: str, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What frames make of a layer's whole canvas: per texel, a robust mean of all that show it.

    A frame counts by how large it shows the texel, and, in a second round, less the more it is off the mean of the
    first (one step of iteratively reweighted least squares, with Cauchy's weights). No canvas of a frame is kept.

    Args:
        drawn: uint8 [T, H, W, 3].

    Returns:
        colours: float32 [Hc, Wc, 3], the light divided out.
        known: bool [Hc, Wc], where any frame shows it.
    """
    size = fit.layer(layer).canvas_size
    mean: np.ndarray = np.zeros((*size, 3), np.float32)
    total: np.ndarray = np.zeros(size, np.float32)
    for again in progress.parts((False, True)):
        colours, total = np.zeros_like(mean), np.zeros_like(total)
        for t in progress.parts(range(len(fit)), "gathering"):
            area = fit.weights(t)[fit.layers.index(layer)] > _SOLID
            if not area.any():
                continue
            paint = pull_back(fit, layer, t, to_float(np.asarray(drawn[t])), area).rgba
            share = paint[..., 3] * _largeness(fit, layer, t, area)
            if again:
                share = share / (1 + (((paint[..., :3] - mean) / _ALIKE) ** 2).sum(axis=-1))
            colours += paint[..., :3] * share[..., None]
            total += share
        mean = np.asarray(colours / np.maximum(total, 1e-9)[..., None], np.float32)
    return mean, total > 0


def _largeness(fit: Fit, layer: str, t: int, area: np.ndarray) -> np.ndarray:
    """Pixels per texel of a frame on the canvas, at most 1, float32 [Hc, Wc]."""
    uv = fit.coordinates(t, layer)[0]
    down, across = np.gradient(uv, axis=(0, 1))
    texels = np.abs(across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0])
    pixels = (1 / np.maximum(texels, 1)).astype(np.float32)
    return np.asarray(pull_back(fit, layer, t, pixels[..., None] * fit.lighting(t, layer), area).rgba[..., 0])
