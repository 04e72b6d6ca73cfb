"""The background behind the person while they are learned: rendered once for every camera, or ray by ray."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from canon.boxes import Box, around, box_size, grown
from canon.representations.dynamic_nerf.observations import Batch, Observations, chunks
from canon.representations.dynamic_nerf.world import World


class Backdrop:
    """Colours of a background that does not learn, about the person of each frame.

    They are rendered once for every camera that differs from the others, and kept; if fewer rays than that will be
    asked for, they are rendered as they are.
    """

    def __init__(self, world: World, seen: Observations, box: Callable[[int], Box | None], rays: int) -> None:
        """Take the world's background.

        Args:
            box: rows and columns of a frame outside of which the person is not; batches lie within a patch of it.
            rays: how many will be asked for in all.
        """
        self.world, self.seen, self.box, self.rays = world, seen, box, rays
        self._ready = world.background is None
        self._kept: np.ndarray | None = None  # uint8 [N, 3], part after part
        self._first = np.zeros(seen.count, np.int64)  # of a frame's part in what is kept
        self._corner = np.zeros((seen.count, 2), np.int64)  # row and column
        self._width = np.ones(seen.count, np.int64)

    def __call__(self, batch: Batch) -> Tensor:
        """Colours [R, 3] in 0..1 along the rays of a batch; call :meth:`prepare` before."""
        if self._kept is None:
            if self.world.background is None:
                return torch.zeros_like(batch.rgb)
            with torch.no_grad():
                return self.world(batch.rays, None).rgb
        frames, pixels, across = batch.frames.cpu().numpy(), batch.pixels.cpu().numpy(), self.seen.size[1]
        rows, columns = pixels // across - self._corner[frames, 0], pixels % across - self._corner[frames, 1]
        found = self._kept[self._first[frames] + rows * self._width[frames] + columns]
        return torch.from_numpy(found).to(self.seen.device).float() / 255

    @torch.no_grad()
    def prepare(self) -> None:
        """Render what is to be kept, unless that is done."""
        if self._ready:
            return
        self._ready = True
        boxes = self._boxes()
        if sum(int(np.prod(box_size(own))) for own in boxes.values()) > self.rays:
            return
        numbers = np.arange(self.seen.size[0] * self.seen.size[1]).reshape(self.seen.size)
        parts, total = [np.zeros((0, 3), np.uint8)], 0
        for view, (rows, columns) in boxes.items():
            frames = np.array(self.seen.views) == view
            self._first[frames], self._width[frames] = total, columns.stop - columns.start
            self._corner[frames] = rows.start, columns.start
            pixels = torch.from_numpy(numbers[rows, columns].reshape(-1)).to(self.seen.device)
            for _, rays in chunks(self.seen.rays(view, pixels)):
                parts.append((self.world(rays, None).rgb.clamp(0, 1) * 255 + 0.5).byte().cpu().numpy())
            total += len(pixels)
        self._kept = np.concatenate(parts)

    def _boxes(self) -> dict[int, Box]:
        """What each camera that differs from the others sees about the person, in all of its frames."""
        found: dict[int, Box] = {}
        for t, view in enumerate(self.seen.views):
            own = self.box(t)
            if own is not None:
                wide = grown(own, self.world.sizes.patch, self.seen.size)
                found[view] = around([found[view], wide]) if view in found else wide
        return found
