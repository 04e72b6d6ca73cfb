"""Segments: stretches of time with a canvas each, where one canvas cannot explain a layer in all frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canon.boxes import Box

GAP = 32
"""Texels between two segments' pictures, so that a frame that looks at half or quarter size sees its own only."""


@dataclass(frozen=True)
class Segment:
    """Frames ``first`` to ``last`` (both counted) that have a canvas of their own: this part of the layer's.

    ``top``, ``left``, ``height`` and ``width`` are in texels.
    """

    first: int
    last: int
    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> Box:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Share:
    """Which segments a frame looks at.

    Attributes:
        own: number of the segment that reconstructs it: the nearer one, where two overlap.
        other: number of the other one there, or None.
        fade: how much of an edit is taken from the other one, 0..0.5; edits cross-fade evenly over the overlap.
    """

    own: int
    other: int | None = None
    fade: float = 0.0


def shares(segments: Sequence[Segment]) -> dict[int, Share]:
    """The :class:`Share` of every frame that a segment has, in order of time; a segment may overlap the next one."""
    found: dict[int, Share] = {}
    for k, part in enumerate(segments):
        for t in range(part.first, part.last + 1):
            if t not in found:
                found[t] = Share(k)
                continue
            count = segments[k - 1].last - part.first + 1
            onward = (t - part.first + 1) / (count + 1)
            late = 2 * (t - part.first) >= count
            found[t] = Share(k, k - 1, 1.0 - onward) if late else Share(k - 1, k, onward)
    return found


def misplaced(segments: Sequence[Segment], count: int, canvas: tuple[int, int]) -> Segment | None:
    """The first segment that lies outside of a clip of ``count`` frames or of the canvas (height, width), that is not
    after the one before, or that overlaps more than the next."""
    last = before_last = -1
    for k, part in enumerate(segments):
        inside = min(part.top, part.left) >= 0 and min(part.height, part.width) >= 1
        inside &= part.top + part.height <= canvas[0] and part.left + part.width <= canvas[1]
        in_order = k == 0 or (segments[k - 1].first < part.first and last < part.last)
        if not (inside and in_order and before_last < part.first <= part.last < count and part.first >= 0):
            return part
        before_last, last = last, part.last
    return None


def neighbours(segments: Sequence[Segment], segment: int) -> list[tuple[int, int]]:
    """(from, to) of the steps that lead from a segment to all that hang together with it by overlaps, in order."""
    steps = []
    for k in range(segment, len(segments) - 1):
        if segments[k + 1].first > segments[k].last:
            break
        steps.append((k, k + 1))
    for k in range(segment, 0, -1):
        if segments[k - 1].last < segments[k].first:
            break
        steps.append((k, k - 1))
    return steps
