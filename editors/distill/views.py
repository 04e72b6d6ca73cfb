"""Differentiable views of a region's paint: crops of its canvas, and crops of frames as the renderer will show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from canon.boxes import box_size, grown
from canon.coordinates import Size, pixel_grid, resize_points
from canon.editors.diffusion.canvases import Region
from canon.editors.distill.editor import DistillConfig
from canon.editors.distill.pictures import Paint, bounded
from canon.edits import resize_to
from canon.fits import Fit, nonzero_box
from canon.grids import sample_grid
from canon.sampling import sample_plain
from canon.storage import to_float

_SOLID = 0.5  # weight from which a pixel shows a layer
_AROUND = 16  # pixels around the layer that a view shows besides
_GREEN = (0.05, 0.8, 0.1)
_ENLARGED = 2.0  # times that a frame is enlarged at most, so that a texel is as large as on the canvas


@dataclass(frozen=True)
class FrameView:
    """The part of a frame that shows a region, at a size where a texel of the worked-on canvas is about a pixel.

    With the paint's e and m sampled at :attr:`positions` the frame shows  source + light e + hidden m,  which is the
    renderer's formula (:mod:`canon.rendering`): light is w L, and hidden is w (R - L s - source).

    Attributes:
        positions: [h, w, 2] on the worked-on canvas, in its pixels.
        source, light, hidden: [3, h, w].
        solid: bool [h, w], where the region's paint is seen.
    """

    positions: Tensor
    source: Tensor
    light: Tensor
    hidden: Tensor
    solid: np.ndarray

    @cached_property
    def middles(self) -> np.ndarray:
        """Where the paint is seen, int [N, 2] as (row, column)."""
        return np.argwhere(self.solid)

    def shown(self, paint: Paint, top: int, left: int, size: Size) -> tuple[Tensor, Tensor]:
        """A window of the edited frame and of its source, [3, h, w] each in 0..1; beyond the frame its rim goes on."""
        rows, columns = (
            (torch.arange(length) + start).clamp(0, most - 1)
            for length, start, most in zip(size, (top, left), self.positions.shape[:2], strict=True)
        )
        cut = np.ix_(rows.numpy(), columns.numpy())
        packed = torch.cat([paint.colour, paint.hides], dim=1)[0].permute(1, 2, 0)
        found = sample_plain(packed, self.positions[cut].to(packed.device)).permute(2, 0, 1)
        source, light, hidden = (
            part[:, rows][:, :, columns].to(found.device) for part in (self.source, self.light, self.hidden)
        )
        return bounded(source + light * found[:3] + hidden * found[3:]), source


def frame_view(fit: Fit, layer: str, region: Region, t: int, working: Size) -> FrameView | None:
    """How frame ``t`` shows a region that is worked on at ``working`` (height, width); None if it does not.

    Raises:
        InputError: unknown layer.
    """
    data = fit.layer(layer)
    weight = fit.weights(t)[fit.layers.index(layer)]
    around = nonzero_box((weight > _SOLID).astype(np.uint8))
    own_segment = not data.segments or (t in data.shares and data.shares[t].own == region.segment)
    if not own_segment or around is None:
        return None
    box = grown(around, _AROUND, fit.size)
    frame, whole = box_size(box), box_size(region.box)
    scale = min(fit.texels(t, layer) * working[1] / whole[1], _ENLARGED)
    size = max(round(frame[0] * scale), 1), max(round(frame[1] * scale), 1)
    corner = torch.tensor([box[1].start, box[0].start])
    pixels = resize_points(pixel_grid(size), size, frame) + corner
    texels = sample_grid(torch.from_numpy(np.array(data.grid[t])), pixels, fit.stride)
    texels = texels - torch.tensor([region.box[1].start, region.box[0].start])
    inside = ((texels >= 0) & (texels <= torch.tensor([whole[1] - 1, whole[0] - 1]))).all(dim=-1).numpy()

    part, source = weight[box][..., None], to_float(np.asarray(fit.clip.frames[t])[box])
    points = (pixel_grid(frame) + corner).reshape(-1, 2).numpy()
    own = fit.look(t, layer, points).reshape(*frame, 3)
    light, hidden = part * fit.lighting(t, layer, box), part * (fit.reconstruct(t)[box] - own - source)
    shown, lit, lost = (_planes(image, size) for image in (source, light, hidden))
    reached = torch.from_numpy(inside.astype(np.float32))
    solid = (resize_to(np.ascontiguousarray(weight[box]), size) > _SOLID) & inside
    return FrameView(resize_points(texels, whole, working), shown, lit * reached, lost * reached, solid)


def _planes(image: np.ndarray, size: Size) -> Tensor:
    """[h, w, 3] at another size, as float32 [3, h, w]."""
    found = resize_to(np.ascontiguousarray(image, np.float32), size)
    return torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))


class Views:
    """Draws views of a region's paint, by seed and step alone."""

    def __init__(
        self,
        source: Tensor,
        area: np.ndarray,
        frames: Sequence[FrameView],
        size: Size,
        config: DistillConfig,
        masked: bool = False,
    ) -> None:
        """Prepare.

        Args:
            source: [1, 3, h, w], the canvas at the size at which it is worked on.
            area: float32 [h, w] in 0..1, where the paint is wanted.
            size: (height, width) of a view, no larger than the canvas.
            config: says how many views there are in a step, and which share are frames.
            masked: whether the paint is shown in the area only.
        """
        self.source, self.size, self.config = source, size, config
        self.frames = [frame for frame in frames if frame.solid.any()]
        self.of_frames = config.frame_views if self.frames else 0.0
        self.shown = torch.from_numpy(np.array(area if masked else 1.0, np.float32)).to(source.device)
        solid = area > min(_SOLID, float(area.max()) / 2)
        self._places = np.argwhere(solid if solid.any() else ~solid)

    def __call__(self, paint: Paint, step: int) -> tuple[Tensor, Tensor]:
        """Views of the paint and of the source, [N, 3, h, w] each."""
        rng = np.random.default_rng([self.config.seed, step])
        count = self.config.views
        of_frames = int(count * self.of_frames + rng.random())
        pairs = [self._of_frame(paint, rng) if k < of_frames else self._of_canvas(paint, rng) for k in range(count)]
        made, source = zip(*pairs, strict=True)
        return torch.stack(made), torch.stack(source)

    def over_green(self, paint: Paint, step: int) -> Tensor:
        """Parts of the paint alone over a green screen, [N, 3, h, w]."""
        rng = np.random.default_rng([self.config.seed, step, 1])
        green = torch.tensor(_GREEN, device=paint.colour.device)[None, :, None, None]
        whole = paint.colour * self.shown + (1 - paint.hides * self.shown) * green
        return torch.cat([whole[self._window(rng)] for _ in range(self.config.views)])

    def _window(self, rng: np.random.Generator) -> tuple[slice, ...]:
        """A window of the canvas that holds a random place of the area."""
        y, x = self._places[rng.integers(len(self._places))]
        top, left = (
            int(np.clip(at - rng.integers(length), 0, whole - length))
            for at, length, whole in zip((y, x), self.size, self.source.shape[-2:], strict=True)
        )
        return np.s_[:, :, top : top + self.size[0], left : left + self.size[1]]

    def _of_canvas(self, paint: Paint, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        window = self._window(rng)
        change = (paint.picture - self.source) * self.shown
        return (self.source + change)[window][0], self.source[window][0]

    def _of_frame(self, paint: Paint, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        frame = self.frames[rng.integers(len(self.frames))]
        y, x = frame.middles[rng.integers(len(frame.middles))]
        top, left = (
            int(np.clip(at - rng.integers(length), min(0, (whole - length) // 2), max(whole - length, 0)))
            for at, length, whole in zip((y, x), self.size, frame.solid.shape, strict=True)
        )
        seen = Paint(paint.colour * self.shown, paint.hides * self.shown, paint.picture)
        return frame.shown(seen, top, left, self.size)
