"""What the distilling editors make of a region of a canvas, or of one picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from canon.boxes import box_size
from canon.coordinates import Size
from canon.editors.diffusion.canvases import Region, regions, repainted, resized, working_size
from canon.editors.diffusion.latents import LatentModel, to_picture, to_tensor
from canon.editors.diffusion.models import fingerprint, step_of_sides
from canon.editors.diffusion.painters import Painter
from canon.editors.diffusion.running import as_edit
from canon.editors.distill.clip_losses import ClipLosses, Texts
from canon.editors.distill.editor import DistillConfig
from canon.editors.distill.generator import Generator
from canon.editors.distill.guidance import Guidance, distillable
from canon.editors.distill.optimising import Checkpoints, optimised
from canon.editors.distill.pictures import Overlaid, Paint, Repainted, straight_rgba, total_variation
from canon.editors.distill.text2live import Text2LiveConfig
from canon.editors.distill.views import FrameView, Views, frame_view
from canon.edits import Edit
from canon.fits import Fit
from canon.storage import content_hash, to_plain, to_uint8
from canon.timing import spread

_LOCAL_CANVAS, _LOCAL_VIEW = 2 / 3, 1 / 3
"""Of the size of what a model without self-attention works on: of the canvas, and of a view."""
_PREVIEWED = 3  # frames in a preview

D = TypeVar("D", bound=DistillConfig)


class CanvasPainter(Painter[D]):
    """Paint that is optimised in views of a region; derived classes set what is below, and say what it goes down."""

    device: torch.device
    step: int
    """Pixels of which the sides of pictures are multiples."""
    side: int
    """Pixels along a side of what is worked on, as a square of the same area."""
    view: int
    """Pixels along a side of a view, at most."""

    def paint(self, picture: np.ndarray, area: np.ndarray) -> np.ndarray:
        """See :meth:`Painter.paint`."""
        source = to_tensor(picture).to(self.device)
        paint = self._made(source, area, [], None)
        return to_picture(paint.picture)

    def canvas_size(self, size: Size) -> Size:
        """(height, width) at which a region of ``size`` is worked on."""
        return working_size(size, self.side, self.step)

    def region(self, fit: Fit, layer: str, region: Region) -> np.ndarray:
        """A region of a layer's canvas as paint, float32 [h, w, 4] in 0..1 of its size."""
        own, size = self.config, box_size(region.box)
        working = self.canvas_size(size)
        first, last = fit.segments(layer)[region.segment]
        times = [first + t for t in spread(last - first + 1, own.frames)] if own.frames else []
        found = [frame_view(fit, layer, region, t, working) for t in times]
        frames = [frame for frame in found if frame is not None and frame.solid.any()]
        source = to_tensor(resized(region.image, working)).to(self.device)
        paint = self._made(source, resized(region.area, working), frames, self._folder(fit, layer, region))
        made = resized(straight_rgba(paint), size)
        made[..., 3] *= region.area
        return made

    @abstractmethod
    def _read(self) -> list[str]:
        """Models and files that the paint depends on, by name."""

    @abstractmethod
    def _made(self, source: Tensor, area: np.ndarray, frames: list[FrameView], place: tuple[Path, str] | None) -> Paint:
        """Paint for a canvas [1, 3, h, w] whose ``area`` is wanted; ``place`` is the folder and key of its state."""

    def _folder(self, fit: Fit, layer: str, region: Region) -> tuple[Path, str] | None:
        own = self.config
        if not own.checkpoints:
            return None
        options = {**to_plain(asdict(own)), "checkpoints": "", "device": None}
        weights = [fingerprint(name) for name in self._read()]
        folder = Path(own.checkpoints) / f"{layer}-{region.segment}"
        return folder, content_hash(fit.id, layer, options, weights, region.image, region.area)

    def _views(self, source: Tensor, area: np.ndarray, frames: list[FrameView]) -> Views:
        length = tuple(max(min(self.view, side) // self.step * self.step, self.step) for side in source.shape[-2:])
        return Views(source, area, frames, (length[0], length[1]), self.config, masked=bool(self.config.mask))

    def _optimised(
        self,
        picture: nn.Module,
        loss: Callable[[Paint, int], Tensor],
        area: np.ndarray,
        frames: list[FrameView],
        place: tuple[Path, str] | None,
    ) -> Paint:
        checkpoints: Checkpoints[Paint] | None = None
        if place is not None:
            checkpoints = Checkpoints(*place, lambda paint: preview(paint, area, frames))
        return optimised(picture, loss, self.config.steps, self.config.rate, checkpoints)


class DistillPainter(CanvasPainter[D]):
    """See :mod:`canon.editors.distill.editor`."""

    def __init__(self, config: D) -> None:
        """See :meth:`Painter.__init__`."""
        super().__init__(config)
        self.latent: LatentModel = distillable(self.model)
        local, native = self.latent.local, self.latent.native
        self.device, self.step = self.latent.device, step_of_sides(self.latent)
        self.side = config.size or round(native * (_LOCAL_CANVAS if local else 1.0))
        self.view = config.view or round(native * (_LOCAL_VIEW if local else 1.0))

    def _read(self) -> list[str]:
        own = self.config
        return [own.model, *own.lora, getattr(own, "clip_model", "")]

    def _made(self, source: Tensor, area: np.ndarray, frames: list[FrameView], place: tuple[Path, str] | None) -> Paint:
        loss = self._loss(source, self._views(source, area, frames))
        return self._optimised(self._module(source), loss, area, frames, place)

    def _module(self, source: Tensor) -> nn.Module:
        return (Overlaid if self.config.edit_layer else Repainted)(source).to(source.device)

    def _loss(self, source: Tensor, views: Views) -> Loss:
        return Loss(self.config, Guidance(self.latent, self.config.settings()), source, views)


class Loss:
    """What a distillation goes down: the guidance's surrogate, and what is asked of the picture besides."""

    def __init__(self, config: DistillConfig, guidance: Guidance, source: Tensor, views: Views) -> None:
        self.config, self.guidance, self.source, self.views = config, guidance, source, views

    def __call__(self, paint: Paint, step: int) -> Tensor:
        made, shown = self.views(paint, step)
        return self.guided(made, shown, step) + self.besides(paint)

    def guided(self, made: Tensor, shown: Tensor, step: int) -> Tensor:
        """The guidance's part, per pixel."""
        own, guidance = self.config, self.guidance
        source = shown if guidance.settings.needs_source else None
        found = guidance(made, step, own.steps, source)
        if step == own.steps - 1:
            guidance.check()
        return found.loss / made[:, 0].numel()

    def besides(self, paint: Paint) -> Tensor:
        """Smoothness, likeness to the source, and how little an edit layer covers."""
        own, found = self.config, paint.picture.new_zeros(())
        if own.smooth:
            found = found + own.smooth * total_variation(paint.picture)
        if own.held:
            found = found + own.held * (paint.picture - self.source).square().mean()
        if own.sparse and paint.hides.requires_grad:
            found = found + own.sparse * sparsity(paint.hides)
        return found


class Text2LivePainter(DistillPainter[Text2LiveConfig]):
    """See :mod:`canon.editors.distill.text2live`."""

    def _module(self, source: Tensor) -> nn.Module:
        return Generator(source, self.config.width, self.config.seed).to(source.device)

    def _loss(self, source: Tensor, views: Views) -> Loss:
        plain = super()._loss(source, views)
        own = self.config
        if not own.clip_model:
            return plain
        texts = Texts(own.prompt, own.screen_prompt or own.prompt, own.source_prompt)
        clip = ClipLosses(own.clip_model, texts, source.device)
        return _ClipLoss(own, plain.guidance, source, views, clip)


class _ClipLoss(Loss):
    """Text2LIVE's: composite, layer over green, and structure."""

    def __init__(
        self, config: Text2LiveConfig, guidance: Guidance, source: Tensor, views: Views, clip: ClipLosses
    ) -> None:
        super().__init__(config, guidance, source, views)
        self.weights, self.clip = config, clip

    def __call__(self, paint: Paint, step: int) -> Tensor:
        own = self.weights
        made, shown = self.views(paint, step)
        found = self.clip.composite(made, shown)
        if own.screen:
            found = found + own.screen * self.clip.screen(self.views.over_green(paint, step))
        if own.structure:
            found = found + own.structure * self.clip.structure(made, shown)
        return found + self.besides(paint)


def sparsity(opacity: Tensor) -> Tensor:
    """Mean of the opacity and of a smooth count of what is opaque at all (Text2LIVE, eq. 7)."""
    return opacity.mean() + (2 * torch.sigmoid(5 * opacity) - 1).mean()


def distil(fit: Fit, config: DistillConfig, editor: str, kind: type[DistillPainter[D]]) -> Edit:
    """A layer's canvases as a painter distils them.

    Raises:
        InputError: unknown layer or segment, a mask or a model that cannot be used.
    """
    name = fit.layer(config.layer or fit.layers[0]).name
    found = regions(fit, name, config)
    painter = kind(config)  # type: ignore[arg-type]
    paint = repainted(fit, name, found, lambda region: painter.region(fit, name, region))
    edit = as_edit(fit, name, paint, config, editor)
    judge = getattr(config, "clip_model", "")
    if judge:
        edit.steps[0].provenance.options["weights"][judge] = fingerprint(judge)
    return edit


def preview(paint: Paint, area: np.ndarray, frames: list[FrameView]) -> np.ndarray:
    """The canvas with some paint, and frames as they show it, uint8 [h, w, 3]."""
    canvas = to_picture(paint.picture) * area[..., None] + 0.5 * (1 - area[..., None])
    pictures = [canvas]
    for frame in frames[:: max(-(-len(frames) // _PREVIEWED), 1)]:
        shown, _ = frame.shown(paint, 0, 0, (frame.solid.shape[0], frame.solid.shape[1]))
        pictures.append(to_picture(shown[None]))
    height = canvas.shape[0]
    rows = [resized(one, (height, max(round(one.shape[1] * height / one.shape[0]), 1))) for one in pictures]
    return to_uint8(np.concatenate(rows, axis=1))
