"""How far work is that is done somewhere below: said there by :func:`report` and :func:`parts`, heard by whoever waits.

Nothing is passed through the calls in between, and nothing is done when nobody listens::

    with reporting(lambda stage, done, figures: print(f"{stage} {done:.0%}")):
        canon.edit(fit, "restyle", prompt="autumn")
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from canon.registry import Progress

T = TypeVar("T")

_EVERY = 0.05
"""Seconds between two calls of a listener, but for a new stage."""


class _Listener:
    """Whoever waits, and what they were told last.

    Attributes:
        share: (begin, end) of all the work, which reports are of at the moment.
    """

    def __init__(self, tell: Progress, every: float) -> None:
        self.tell, self.every = tell, every
        self.share, self.stage, self.done, self.told = (0.0, 1.0), "", 0.0, float("-inf")

    def hear(self, stage: str, done: float, figures: Mapping[str, float]) -> None:
        begin, end = self.share
        # Work may turn out to be less than was thought, or be done once more: nobody is sent back for that.
        self.done = max(self.done, begin + (end - begin) * min(max(done, 0.0), 1.0))
        now = time.monotonic()
        if stage != self.stage or now - self.told >= self.every:
            self.stage, self.told = stage, now
            self.tell(stage, self.done, figures)


_LISTENER: ContextVar[_Listener | None] = ContextVar("canon.progress", default=None)


@contextlib.contextmanager
def reporting(progress: Progress, every: float = _EVERY) -> Iterator[None]:
    """Have ``progress`` told of all work that is done meanwhile in this thread.

    The share that it is told never falls, and ends at 1 if no error ends the work. An inner ``reporting`` takes what is
    said meanwhile for itself.

    Args:
        every: seconds between two calls, at least, but for a new stage.
    """
    listener = _Listener(progress, every)
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
    progress(listener.stage, 1.0, {})


def listening() -> bool:
    """Whether anybody does; figures that take time to find out are for them alone."""
    return _LISTENER.get() is not None


def report(stage: str, done: float, figures: Mapping[str, float] | None = None) -> None:
    """Say what is being done, and how much of it is: 0..1 of the share that the work around it has given it."""
    listener = _LISTENER.get()
    if listener is not None:
        listener.hear(stage, done, figures or {})


@contextlib.contextmanager
def part(begin: float, end: float) -> Iterator[None]:
    """What is reported meanwhile is of this share, 0..1, of what it would be of else."""
    listener = _LISTENER.get()
    if listener is None:
        yield
        return
    before = listener.share
    start, length = before[0], before[1] - before[0]
    listener.share = start + length * begin, start + length * end
    try:
        yield
    finally:
        listener.share = before


def shares(*weights: float) -> list[AbstractContextManager[None]]:
    """A :func:`part` for each of several things that are done one after another and take so long, in any unit."""
    ends = list(accumulate(weights, initial=0.0))
    whole = ends[-1] or 1.0
    return [part(begin / whole, end / whole) for begin, end in pairwise(ends)]


def parts(items: Iterable[T], stage: str | None = None, weights: Sequence[float] | None = None) -> Iterator[T]:
    """The items of a loop, in each round of which a share of the work is done, as is reported at its end.

    Args:
        items: a sequence, a tensor, or what else knows its length; with weights anything that has as many.
        stage: what is being done; None = what was said before.
        weights: how long each takes, in any unit; alike without them.
    """
    listener = _LISTENER.get()
    if listener is None:
        return iter(items)
    own = [1.0] * len(items) if weights is None else list(weights)  # type: ignore[arg-type]
    return iter(items) if len(own) == 1 and stage is None else _parts(listener, items, stage, own)


def _parts(listener: _Listener, items: Iterable[T], stage: str | None, weights: list[float]) -> Iterator[T]:
    for item, own in zip(items, shares(*weights), strict=True):
        with own:
            yield item
            listener.hear(listener.stage if stage is None else stage, 1.0, {})
