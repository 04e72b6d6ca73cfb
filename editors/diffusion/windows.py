"""Overlapping windows over a picture or its latents, and how what was made in them is put together again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A part of a picture.

    Attributes:
        top, left, height, width: pixels, or latents.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def index(self) -> tuple[slice, slice, slice, slice]:
        """For a tensor [B, C, H, W]."""
        return (
            slice(None),
            slice(None),
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )

    def cut(self, tensor: Tensor) -> Tensor:
        """Its part of a tensor [B, C, H, W]."""
        return tensor[self.index]

    def scaled(self, factor: int) -> Window:
        """The same at ``factor`` times the size."""
        return Window(self.top * factor, self.left * factor, self.height * factor, self.width * factor)


def windows(size: tuple[int, int], side: int, overlap: float, multiple: int = 1, shrink: bool = False) -> list[Window]:
    """Windows of about ``side`` squared that cover all of ``size`` (height, width), at even distances.

    One alone is given if no side is above 1.5 times ``side``.

    Args:
        overlap: share of a window that the next one covers, too, at least.
        multiple: of which their positions and sizes are, but for the last row and column.
        shrink: make them as small as their number allows, so that no more than asked is covered twice.
    """
    if max(size) <= 1.5 * side:
        return [Window(0, 0, *size)]
    height, width = (_shrunk(length, side, overlap, multiple) if shrink else min(side, length) for length in size)
    rows, columns = (_spread(length, own, overlap, multiple) for length, own in zip(size, (height, width), strict=True))
    return [Window(top, left, height, width) for top in rows for left in columns]


def _spread(length: int, side: int, overlap: float, multiple: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - side) // _stride(side, overlap, multiple)) + 1
    starts = [k * (length - side) // (count - 1) // multiple * multiple for k in range(count - 1)]
    return [*starts, length - side]


def _stride(side: int, overlap: float, multiple: int) -> int:
    # Positions are rounded down, by less than a multiple: so much less may lie between them.
    return max(int(side * (1 - overlap)) - (multiple - 1), 1)


def _shrunk(length: int, side: int, overlap: float, multiple: int) -> int:
    """The smallest side, in multiples, that needs no more windows than ``side`` does."""
    largest = min(side, length)
    count = len(_spread(length, largest, overlap, multiple))
    sides = range(multiple, largest, multiple)
    return next((own for own in sides if len(_spread(length, own, overlap, multiple)) <= count), largest)


def blended(parts: Iterable[tuple[Window, Tensor]], like: Tensor) -> Tensor:
    """What was made in windows as one: their mean where they overlap, each counting less towards its border.

    Args:
        parts: windows that cover ``like``, and [B, C, h, w] of each.
        like: [B, C, H, W], whose shape, device and dtype the result has.
    """
    total = torch.zeros(like.shape, device=like.device)
    weight = torch.zeros((1, 1, *like.shape[-2:]), device=like.device)
    for place, part in parts:
        share = _ramp(place.height)[:, None] * _ramp(place.width)[None]
        share = share.to(like.device)
        total[place.index] += part.float() * share
        weight[place.index] += share
    return (total / weight).to(like.dtype)


def _ramp(length: int) -> Tensor:
    """Positive weights that fall from the middle to both ends."""
    position = torch.arange(length) + 0.5
    return torch.minimum(position, length - position) / (length / 2)
