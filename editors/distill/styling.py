"""What the editor ``stylize`` makes of a region of a canvas, or of a frame."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon.coordinates import Size
from canon.editors.diffusion.canvases import regions, repainted, resized, working_size
from canon.editors.diffusion.latents import to_tensor
from canon.editors.diffusion.models import fingerprint
from canon.editors.diffusion.running import PaintedFrames
from canon.editors.distill.features import Features, load_features
from canon.editors.distill.nnfm import colours_of, content_distance, nnfm, recoloured
from canon.editors.distill.painters import CanvasPainter
from canon.editors.distill.pictures import Paint, Proportional, Pyramid, bounded, total_variation
from canon.editors.distill.stylize import StylizeConfig, provenance_options
from canon.editors.distill.views import FrameView, Views
from canon.edits import Edit, Provenance, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.runtime import usable_device
from canon.sources import read_rgb
from canon.storage import to_float, to_uint8

_ARF_SCALE = 0.5
"""Length of the style picture, of what is painted."""
_LARGEST = 1024
"""Pixels along a side of a style picture whose features are compared in reasonable time, as a square."""
_JITTER = 1.15
"""Times that views are enlarged or shrunk at random: a pattern of the network's own strides, of single pixels, would
else be painted along with the style."""
_FADE, _AT_RIM = 1 / 8, 0.4
"""Share of a view's side over which what it asks for fades towards its rim, and how much is left there."""
_SHIFTS = (0, 5)
"""Pixels by which the style picture is cut: its features depend on where it begins."""


class StylePainter(CanvasPainter[StylizeConfig]):
    """See :mod:`canon.editors.distill.stylize`."""

    def __init__(self, config: StylizeConfig) -> None:
        """Read the picture and load what its style is told by; of a diffusion model no more than that.

        Raises:
            InputError: the picture or the weights cannot be used.
        """
        self.config = config
        self.device = usable_device(config.device)
        self.picture = to_float(read_rgb(Path(config.image)))
        self.features: Features = load_features(config, self.device)
        self.step, self.view = self.features.step, config.view

    def canvas_size(self, size: Size) -> Size:
        """See :meth:`CanvasPainter.canvas_size`."""
        return working_size(size, min(self.config.size, round((size[0] * size[1]) ** 0.5)), self.step)

    def _read(self) -> list[str]:
        return [self.config.image, self.config.vgg or self.config.model]

    def _made(self, source: Tensor, area: np.ndarray, frames: list[FrameView], place: tuple[Path, str] | None) -> Paint:
        own = self.config
        weight = torch.from_numpy(np.ascontiguousarray(area, np.float32))[None, None].to(source.device)
        style, before = self._style((source.shape[-2], source.shape[-1])), colours_of(source, weight)
        palette = colours_of(style) if own.colours else before
        if not own.colours:
            style = recoloured(style, colours_of(style), before).clamp(0, 1)
        begun = recoloured(source, before, palette).clamp(0, 1)
        loss = _StyleLoss(
            own, self.features, self._style_features(style), Painted(begun)(), self._views(source, area, frames)
        )
        found = self._optimised(Painted(begun).to(source.device), loss, area, frames, place).picture
        return _opaque(recoloured(found, colours_of(found, weight), palette).clamp(0, 1))

    def _style(self, canvas: Size) -> Tensor:
        """The style picture [1, 3, h, w] at the size at which it is to appear on a canvas.

        Raises:
            InputError: it is too small or too large then.
        """
        own, (height, width) = self.config, self.picture.shape[:2]
        scale = _ARF_SCALE * max(canvas) / max(height, width) if own.scale is None else own.scale
        shown = (max(round(height * scale), 1), max(round(width * scale), 1))
        least = self.step + max(_SHIFTS)
        if min(shown) < least:
            raise InputError(
                f"The picture '{own.image}' is {shown[1]}x{shown[0]} at the scale {scale:.3g}, and at least {least}"
                " pixels a side are needed; give a larger --scale."
            )
        if shown[0] * shown[1] > _LARGEST**2:
            raise InputError(
                f"The picture '{own.image}' is {shown[1]}x{shown[0]} at the scale {scale:.3g}, which is too large to"
                " compare; give a smaller --scale."
            )
        return to_tensor(resized(self.picture, shown)).to(self.device)

    @torch.no_grad()
    def _style_features(self, style: Tensor) -> list[Tensor]:
        """Features [1, C, n, 1] of the style picture, cut at some places."""
        found = []
        for shift in _SHIFTS:
            height, width = (length - (length - shift) % self.step for length in style.shape[-2:])
            found.append(self.features(style[..., shift:height, shift:width]))
        return [torch.cat([part.flatten(2) for part in parts], dim=2)[..., None] for parts in zip(*found, strict=True)]


class Painted(nn.Module):
    """A canvas that begins from some colours and hides what is below it."""

    def __init__(self, begun: Tensor) -> None:
        """Begin from [1, 3, h, w] in 0..1."""
        super().__init__()
        self.begun: Tensor
        self.register_buffer("begun", begun.clone(), persistent=False)
        self.pyramid = Pyramid(3, (begun.shape[-2], begun.shape[-1]))

    def forward(self) -> Paint:
        return _opaque(bounded(self.begun + self.pyramid()))

    def optimiser(self, rate: float) -> Proportional:
        """See :meth:`Pyramid.optimiser`."""
        return self.pyramid.optimiser(rate)


def _opaque(picture: Tensor) -> Paint:
    return Paint(picture, torch.ones_like(picture[:, :1]), picture)


class _StyleLoss:
    """Likeness of the views' features to the style's, and to those of the views as they were at the beginning."""

    def __init__(
        self, config: StylizeConfig, features: Features, style: list[Tensor], begun: Paint, views: Views
    ) -> None:
        self.config, self.features, self.style, self.begun, self.views = config, features, style, begun, views

    def __call__(self, paint: Paint, step: int) -> Tensor:
        own = self.config
        found = self.features(self._jittered(_faded(self.views(paint, step)[0]), step))
        total = torch.stack([nnfm(maps, style) for maps, style in zip(found, self.style, strict=True)]).mean()
        if own.content:
            with torch.no_grad():
                wanted = self.features(self._jittered(self.views(self.begun, step)[0], step))
            pairs = zip(found, wanted, strict=True)
            total = total + own.content * torch.stack([content_distance(*pair) for pair in pairs]).mean()
        return total + own.smooth * total_variation(paint.picture)

    def _jittered(self, views: Tensor, step: int) -> Tensor:
        """Views a little larger or smaller, and moved by parts of a pixel."""
        rng = np.random.default_rng([self.config.seed, step, 2])
        scale = float(rng.uniform(1 / _JITTER, _JITTER))
        across, down = ((2 * float(rng.random()) - 1) / length for length in (views.shape[-1], views.shape[-2]))
        placed = torch.tensor([[scale, 0, across], [0, scale, down]], dtype=views.dtype, device=views.device)
        grid = F.affine_grid(placed.expand(len(views), -1, -1), list(views.shape), align_corners=False)
        return F.grid_sample(views, grid, padding_mode="reflection", align_corners=False)


def _faded(views: Tensor) -> Tensor:
    """Views as they are, of which the gradient fades towards the rim: else it would end there, and a seam be seen."""
    shares = []
    for length in views.shape[-2:]:
        place = torch.arange(length, device=views.device) + 0.5
        inside = torch.minimum(place, length - place) / (_FADE * length)
        shares.append(_AT_RIM + (1 - _AT_RIM) * inside.clamp(max=1))
    share = shares[0][:, None] * shares[1]
    return views.detach() * (1 - share) + views * share


def stylize(fit: Fit, config: StylizeConfig) -> Edit:
    """The edit of a layer that the options name.

    Raises:
        InputError: unknown segment, or a mask, a picture or weights that cannot be used.
    """
    assert config.layer is not None
    found = regions(fit, config.layer, config)
    painter = StylePainter(config)
    paint = repainted(fit, config.layer, found, lambda region: painter.region(fit, config.layer or "", region))
    weights = config.vgg or config.model
    options = {
        **provenance_options(config),
        "weights": {weights: fingerprint(weights)},
        "versions": {"torch": importlib.metadata.version("torch")},
    }
    read = [path for path in (config.image, config.mask, config.vgg) if path]
    return Edit([Step(config.layer, paint, Provenance.now("stylize", options, read))], fit.id)


class StyledFrames(PaintedFrames):
    """Every frame in the style by itself, laid over the source by the layer's weight, uint8 [H, W, 3]."""

    painter: StylePainter

    def __getitem__(self, t: int, /) -> np.ndarray:
        source = to_float(np.asarray(self.fit.clip.frames[self.fit.index(t)]))
        weight = self.fit.weights(t)[self.layer]
        size = (source.shape[0], source.shape[1])
        working = self.painter.canvas_size(size)
        made = resized(self.painter.paint(resized(source, working), resized(weight, working)), size)
        return to_uint8(source + weight[..., None] * (made - source))
