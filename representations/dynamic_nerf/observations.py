"""What a training looks at: pixels of frames with their rays, masks and poses, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from canon.cameras import Camera
from canon.clip import Clip
from canon.representations.dynamic_nerf.rays import Rays, RaySource, same_cameras

_CHUNK = 8192
"""Rays that are looked at together where no gradient is wanted."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Pixels of frames.

    Attributes:
        frames, pixels: int64 [R]; see :class:`canon.representations.dynamic_nerf.rays.RaySource`.
        rays: [R].
        rgb: float32 [R, 3] in 0..1.
        mask: float32 [R] in 0..1, the person's share; None if that is not known.
    """

    frames: Tensor
    pixels: Tensor
    rays: Rays
    rgb: Tensor
    mask: Tensor | None


class Observations:
    """The frames of a clip with a camera each."""

    def __init__(self, clip: Clip, cameras: Sequence[Camera], device: torch.device) -> None:
        """Take the first layer's masks as those of the person; frames without one count as not known."""
        self.clip, self.device = clip, device
        self.count, self.size = len(clip), clip.size
        self.cameras, self.source = list(cameras), RaySource(cameras, device)
        self.views = same_cameras(cameras)
        """Number of the first frame with the same camera, for each frame."""
        self.moments = torch.from_numpy(np.asarray(clip.moments)).to(device)
        self.masks = next(iter(clip.masks.values()), None)

    def take(self, frames: np.ndarray, pixels: np.ndarray) -> Batch:
        """Pixels (row * width + column) of frames, int64 [R] both."""
        width = self.size[1]
        rows, columns = pixels // width, pixels % width
        rgb = torch.from_numpy(np.asarray(self.clip.frames[frames, rows, columns])).to(self.device).float() / 255
        mask = None
        if self.masks is not None:
            place = np.full(self.count, -1)
            place[list(self.masks.indices)] = np.arange(len(self.masks.indices))
            known = place[frames]
            found = np.asarray(self.masks.values[np.maximum(known, 0), rows, columns]).astype(np.float32) / 255
            found[known < 0] = np.nan
            mask = torch.from_numpy(found).to(self.device)
        f, p = torch.from_numpy(frames).to(self.device), torch.from_numpy(pixels).to(self.device)
        return Batch(f, p, self.source(f, p), rgb, mask)

    def project(self, frames: Tensor, places: Tensor) -> Tensor:
        """Where places [N, 3] of the world are seen in frames [N], as (x, y), [N, 2]; without a lens's distortion."""
        turns, shifts, matrices = (table[frames] for table in self._matrices())
        seen = (turns @ places[..., None])[..., 0] + shifts
        flat = (matrices @ seen[..., None])[..., 0]
        return flat[..., :2] / flat[..., 2:].clamp_min(1e-3)

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        if not hasattr(self, "_known"):
            every = ("rotation", "translation", "intrinsics")
            tables = (np.stack([getattr(camera, name) for camera in self.cameras]) for name in every)
            self._known = tuple(torch.from_numpy(table.astype(np.float32)).to(self.device) for table in tables)
        turns, shifts, matrices = self._known
        return turns, shifts, matrices

    def rays(self, frame: int, pixels: Tensor | None = None) -> Rays:
        """Of a whole frame, or of some of its pixels."""
        if pixels is None:
            pixels = torch.arange(self.size[0] * self.size[1], device=self.device)
        return self.source(torch.full_like(pixels, frame), pixels)

    def mask(self, frame: int) -> np.ndarray | None:
        """The person's mask, float32 [H, W] in 0..1."""
        values = None if self.masks is None else self.masks.get(frame)
        return None if values is None else np.asarray(values).astype(np.float32) / 255

    def without_person(self, frame: int, hits: np.ndarray | None, margin: int) -> np.ndarray:
        """Where a frame surely shows the background, bool [H, W].

        Args:
            hits: bool [H, W], where rays come near the person; stands in for a mask that is missing.
            margin: pixels kept away from a mask.
        """
        mask = self.mask(frame)
        if mask is not None:
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
            return cv2.dilate((mask > 0.02).astype(np.uint8), kernel) == 0
        return np.ones(self.size, bool) if hits is None else ~hits


class Pixels:
    """Some of the pixels of all frames, kept as runs along rows: a few bytes for each row and outline.

    Pixels are numbered frame after frame, row by row in each.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._begins: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._passed = 0

    def add(self, mask: np.ndarray) -> None:
        """Take those of the next frame that are True in its mask, bool [H, W]."""
        steps = np.diff(mask.reshape(-1).astype(np.int8), prepend=0, append=0)
        begin = np.flatnonzero(steps > 0)
        self._begins.append(begin + self._passed)
        self._counts.append(np.flatnonzero(steps < 0) - begin)
        self._passed += mask.size
        self.__dict__.pop("_runs", None)

    @cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Where runs begin, int64 [N], and how many pixels there are before each and in all, int64 [N + 1]."""
        none = np.zeros(1, np.int64)
        return np.concatenate([none[:0], *self._begins]), np.cumsum(np.concatenate([none, *self._counts]))

    def __len__(self) -> int:
        """How many there are."""
        return int(self._runs[1][-1])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """The so-manieth of them, int64 [N] both."""
        begins, before = self._runs
        run = np.searchsorted(before, numbers, side="right") - 1
        return np.asarray(begins[run] + numbers - before[run])


def chunks(rays: Rays, size: int = _CHUNK) -> Iterator[tuple[slice, Rays]]:
    """Rays [R] in parts, and where they belong."""
    for first in range(0, len(rays.origins), size):
        part = slice(first, first + size)
        yield part, Rays(rays.origins[part], rays.directions[part])
