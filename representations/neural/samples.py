"""Random pixels of a clip with their neighbours in space and, along the flow, in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canon.coordinates import Size, to_square
from canon.representations.motion.flow import Flow
from canon.storage import fresh_array

BASE, RIGHT, DOWN, FORWARD, BACKWARD, FAR_RIGHT, FAR_DOWN = range(7)
"""The points that belong to each sample: itself, 1 px away, one frame away along the flow, and far away."""
PAINTED, FLOWING = 3, 5
"""How many of them, from the first, need colours, and how many need opacity."""


def frame_points(xy: Tensor, t: Tensor | float, size: Size, count: int) -> Tensor:
    """Input of the networks: pixels [..., 2] of frame t (a number, or [...]) -> [..., 3]."""
    place = to_square(xy, size)
    when = torch.as_tensor(t, dtype=place.dtype, device=place.device) / (count / 2.0) - 1.0
    return torch.cat([place, when.expand(place.shape[:-1])[..., None]], dim=-1)


@dataclass(frozen=True)
class Samples:
    """One step's pixels. P = 5 points a sample, or 7 with the far ones.

    Attributes:
        points: [P, B, 3] input of the networks.
        colours: [3, B, 3] of the frames, 0..1, at the first three points.
        masks: [N - 1, B] in 0..1.
        confidence: [2, B] of the flow forward and backward, 0 where there is none.
        total: number of samples and sum of the confidence of the whole step, of which these may be a part.
    """

    points: Tensor
    colours: Tensor
    masks: Tensor
    confidence: Tensor
    total: tuple[int, float]

    def split(self, size: int) -> list[Samples]:
        """The same samples in parts of at most ``size``."""
        parts = zip(
            self.points.split(size, 1),
            self.colours.split(size, 1),
            self.masks.split(size, 1),
            self.confidence.split(size, 1),
            strict=True,
        )
        return [Samples(*part, self.total) for part in parts]


class Sampler:
    """Draws random pixels; nothing of the clip is held in memory beyond what is drawn."""

    def __init__(
        self,
        frames: np.ndarray,
        masks: Sequence[np.ndarray],
        flow: Flow,
        folder: Path,
        device: torch.device,
        seed: int,
    ) -> None:
        """Look at a clip.

        Args:
            frames: uint8 [T, H, W, 3].
            masks: one uint8 [T, H, W] for each layer but the background.
            folder: where the confidence of the flow is written, memory-mapped.
        """
        self.frames, self.masks, self.flow, self.device, self.seed = frames, list(masks), flow, device, seed
        self.count, self.size = len(frames), (frames.shape[1], frames.shape[2])
        self.confidence = _confidence(flow, folder) if self.count > 1 else None

    def generator(self, *key: int) -> np.random.Generator:
        """Random numbers that depend on the seed and the key alone, so that a resumed run draws what it would have."""
        return np.random.default_rng((self.seed & 0xFFFFFFFF, *key))

    def pixels(self, generator: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames, columns and rows of random pixels, int64 [B] each; with no ``batch``, those of one whole frame."""
        if not batch:
            area = self.size[0] * self.size[1]
            y, x = np.divmod(np.arange(area), self.size[1])
            return np.full(area, generator.integers(0, self.count)), x, y
        flat = generator.integers(0, self.count * self.size[0] * self.size[1], batch)
        t, y, x = np.unravel_index(flat, (self.count, *self.size))
        return t, x, y

    def tensor(self, array: np.ndarray) -> Tensor:
        """``array`` as float32 on the device."""
        return torch.from_numpy(np.asarray(array, np.float32)).to(self.device)

    def look(self, t: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        """Input of the networks [B, 3] and colours [B, 3] of pixels."""
        points = frame_points(self.tensor(np.stack([x, y], -1)), self.tensor(t), self.size, self.count)
        return points, self.tensor(self.frames[t, y, x]) / 255.0

    def draw(self, step: int, batch: int, far: float | None) -> Samples:
        """The samples of a step.

        Args:
            batch: number of pixels; 0 = one whole frame.
            far: distance of the far points in pixels; None = without them.
        """
        t, x, y = self.pixels(self.generator(step), batch)
        height, width = self.size
        # The neighbour of a pixel at the rim is the one inside; the losses do not mind the sign.
        right = np.where(x + 1 < width, x + 1, np.maximum(x - 1, 0))
        down = np.where(y + 1 < height, y + 1, np.maximum(y - 1, 0))
        colours = [self.frames[t, y, x], self.frames[t, y, right], self.frames[t, down, x]]
        moved, confidence = self._along_flow(t, x, y)
        places = [(x, y, t), (right, y, t), (x, down, t), *moved]
        if far is not None:
            places += [(x + far, y, t), (x, y + far, t)]
        stacked = self.tensor(np.stack([np.stack(place, -1) for place in places]))
        masks = [mask[t, y, x] for mask in self.masks]
        return Samples(
            frame_points(stacked[..., :2], stacked[..., 2], self.size, self.count),
            self.tensor(np.stack(colours)) / 255.0,
            self.tensor(np.stack(masks) if masks else np.zeros((0, len(t)))) / 255.0,
            self.tensor(confidence),
            (len(t), float(confidence.sum())),
        )

    def _along_flow(
        self, t: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray, np.ndarray]], np.ndarray]:
        """Where the pixels are in the next and in the last frame, as (x, y, t), and with what confidence, [2, B]."""
        if self.confidence is None:
            return [(x, y, t), (x, y, t)], np.zeros((2, len(t)), np.float32)
        h, w = self.flow.forward.shape[1:3]
        row, column = y * h // self.size[0], x * w // self.size[1]
        moved, trust = [], []
        for flow, sure, pair, other in (
            (self.flow.forward, self.confidence[0], t, t + 1),
            (self.flow.backward, self.confidence[1], t - 1, t - 1),
        ):
            exists = (other >= 0) & (other < self.count)
            pair = np.where(exists, pair, 0)
            shift = np.where(exists[:, None], flow[pair, row, column], 0).astype(np.float32)
            at_x, at_y = x + shift[:, 0], y + shift[:, 1]
            inside = (at_x >= 0) & (at_y >= 0) & (at_x <= self.size[1] - 1) & (at_y <= self.size[0] - 1)
            moved.append((at_x, at_y, np.where(exists, other, t)))
            trust.append(sure[pair, row, column] * (exists & inside) / np.float32(255))
        return moved, np.stack(trust).astype(np.float32)


def _confidence(flow: Flow, folder: Path) -> np.ndarray:
    """Confidence of all flow, uint8 [2 (forward, backward), T - 1, h, w], in a file."""
    array = fresh_array(folder / "confidence.npy", (2, *flow.forward.shape[:3]))
    for t in range(len(flow.forward)):
        array[0, t] = flow.confidence(t, t + 1) * 255.0 + 0.5
        array[1, t] = flow.confidence(t + 1, t) * 255.0 + 0.5
    return array
