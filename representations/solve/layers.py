"""The state that the solvers move: per layer a canvas, a control grid per frame, lighting, and shared opacity."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from canon.coordinates import Size
from canon.representations.solve.grids import GridBasis
from canon.sampling import UNSEEN, pyramid, sample_mip
from canon.segments import Segment

_LIGHT_NODES = 7.5
"""Lighting nodes along the short side of a frame: what varies faster is texture."""
FAINT_GRADIENT = 0.012
"""Change of brightness (0..1) per half-size pixel at which texture is as good as none."""
_LEVELS = 5


def light_stride(size: Size) -> int:
    """Pixels between the nodes of the lighting, for frames of a size."""
    return max(8 * round(min(size) / _LIGHT_NODES / 8), 16)


def central_differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """d/dx and d/dy of [h, w, C], zero on the border."""
    gx, gy = torch.zeros_like(image), torch.zeros_like(image)
    gx[:, 1:-1] = (image[:, 2:] - image[:, :-2]) * 0.5
    gy[1:-1] = (image[2:] - image[:-2]) * 0.5
    return gx, gy


@dataclass
class Layer:
    """One layer while it is being solved.

    Attributes:
        grid: [T, gh, gw, 2] canvas position (px) of every control node.
        reference: [T, gh, gw, 2] the rigid motion (homography or affine) that the grid is kept smooth around.
        color: [Hc, Wc, 3] canvas, 0..1.
        coverage: [Hc, Wc] sum of weights that each texel was seen with; 0 is never seen.
        lighting: [T, lh, lw, 3] multiplicative lighting on nodes every :attr:`Problem.light_stride` px.
        present: [T] whether the layer is seen in the frame at all.
    """

    name: str
    grid: Tensor
    reference: Tensor
    color: Tensor
    coverage: Tensor
    lighting: Tensor
    present: np.ndarray
    levels: list[Tensor] = field(default_factory=list)
    detail: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[T] level of detail at which each frame samples the canvas (see :func:`canon.sampling.sample_mip`)."""
    segments: tuple[Segment, ...] = ()
    """The canvas's parts, each for some frames, if one picture cannot explain all of them."""

    def together(self, t: int, s: int) -> bool:
        """Whether two frames look at the same picture."""
        return not self.segments or any(part.first <= min(t, s) and max(t, s) <= part.last for part in self.segments)

    @property
    def canvas_size(self) -> Size:
        return self.color.shape[0], self.color.shape[1]

    def set_canvas(self, color: Tensor, coverage: Tensor) -> None:
        """Replace the canvas and its pyramid (colour, and whether a texel was ever seen)."""
        self.color, self.coverage = color, coverage
        self.set_levels(color, coverage, 0)
        if not len(self.detail):
            self.detail = np.zeros(len(self.grid))

    def set_levels(self, color: Tensor, coverage: Tensor, level: int) -> None:
        """Replace the pyramid from one level on, given colour and coverage there."""
        known = (coverage > UNSEEN).float()[..., None]
        self.levels[level:] = pyramid(torch.cat([color, known], dim=-1), _LEVELS - level)


@dataclass
class Problem:
    """A clip being explained by layers, front to back; the last one is the background and opaque.

    Attributes:
        frames: uint8 [T, H, W, 3], memory-mapped.
        opacity: one uint8 [T, H, W] per layer but the last: stick-breaking opacity.
        stride: pixels between control nodes.
        first: what people call the first frame, where these are a part of a clip.
    """

    frames: np.ndarray
    layers: list[Layer]
    opacity: list[np.ndarray]
    stride: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bases: dict[tuple[int, int], GridBasis] = field(default_factory=dict)
    textures: dict[int, Tensor] = field(default_factory=dict)
    first: int = 0

    @property
    def size(self) -> Size:
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def light_stride(self) -> int:
        """Pixels between the nodes of the lighting."""
        return light_stride(self.size)

    @property
    def count(self) -> int:
        return len(self.frames)

    def basis(self, level: int = 0, stride: int | None = None) -> GridBasis:
        """The (cached) basis of the coordinates, or of another stride, at a pyramid level."""
        key = (level, stride or self.stride)
        if key not in self.bases:
            self.bases[key] = GridBasis(self.size, key[1], level, self.device)
        return self.bases[key]

    def frame(self, t: int, level: int = 0) -> Tensor:
        """Frame t, float32 0..1 at a pyramid level."""
        image = torch.from_numpy(self.frames[t].astype(np.float32)).to(self.device) / 255.0
        return pyramid(image, level + 1)[-1]

    def texture(self, t: int) -> Tensor:
        """How well motion can be seen at each node, 0..1 [gh, gw]: the smaller eigenvalue of the structure tensor.

        (Shi and Tomasi, 1994.) On a smooth surface neither flow nor registration can tell where it went.
        """
        if t not in self.textures:
            gx, gy = central_differences(self.frame(t, 1).mean(-1, keepdim=True))
            sums = self.basis(1).gather(torch.cat([gx * gx, gx * gy, gy * gy], dim=-1))
            xx, xy, yy = (sums / (self.stride / 2) ** 2).unbind(-1)
            smaller = 0.5 * (xx + yy - ((xx - yy).square() + 4 * xy * xy).sqrt())
            self.textures[t] = smaller / (smaller + FAINT_GRADIENT**2)
        return self.textures[t]

    def weights(self, t: int, level: int = 0) -> list[Tensor]:
        """Contribution of every layer at frame t, [h, w] each, summing to 1."""
        through: Tensor | None = None
        found = []
        for planes in self.opacity:
            alpha = torch.from_numpy(planes[t].astype(np.float32)).to(self.device)[..., None] / 255.0
            alpha = pyramid(alpha, level + 1)[-1][..., 0]
            found.append(alpha if through is None else alpha * through)
            through = 1.0 - alpha if through is None else through * (1.0 - alpha)
        if through is None:
            through = torch.ones(self.basis(level).level_size, device=self.device)
        return [*found, through]

    def coordinates(self, layer: Layer, t: int, level: int = 0) -> Tensor:
        """Canvas coordinates [h, w, 2] of frame t at a level, in pixels of the canvas at that level."""
        xy = self.basis(level).to_pixels(layer.grid[t])
        return xy if level == 0 else (xy + 0.5) / 2**level - 0.5

    def light(self, layer: Layer, t: int, level: int = 0) -> Tensor:
        """Lighting of frame t at a level, [h, w, 3]."""
        return self.basis(level, self.light_stride).to_pixels(layer.lighting[t])

    def look(self, layer: Layer, t: int, level: int = 0) -> tuple[Tensor, Tensor]:
        """The canvas seen in frame t, without lighting [h, w, 3], and how far its texels are known [h, w]."""
        found = sample_mip(layer.levels[level:], self.coordinates(layer, t, level), float(layer.detail[t]))
        return found[..., :3], found[..., 3]

    def render(self, t: int, level: int = 0, lit: bool = True) -> Tensor:
        """The reconstruction of frame t, [h, w, 3]."""
        total: Tensor | None = None
        for layer, weight in zip(self.layers, self.weights(t, level), strict=True):
            if not layer.present[t]:
                continue
            image = self.look(layer, t, level)[0] * weight[..., None]
            if lit:
                image = image * self.light(layer, t, level)
            total = image if total is None else total + image
        assert total is not None
        return total
