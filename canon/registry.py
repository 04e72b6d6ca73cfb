"""Representations and editors by name, through entry points: the built-in ones are found as anyone else's are.

One folder and one line in ``pyproject.toml`` add one::

    [project.entry-points."canon.editors"]
    sketch = "my_package.sketch:Sketch"
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from canon.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from canon.clip import Clip
    from canon.edits import Edit
    from canon.fits import Fit

REPRESENTATIONS, EDITORS = "canon.representations", "canon.editors"

Progress = Callable[[str, float, Mapping[str, float]], None]
"""Called with the stage's name, the share of all work done (0..1), and figures such as loss and PSNR."""


class Frames(Protocol):
    """Frames by number, from 0: an array [T, H, W, 3], a :class:`canon.Video`, or what makes them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, t: int, /) -> np.ndarray: ...


class Representation(ABC):
    """Explains a clip by layers."""

    Config: ClassVar[type[Any]]
    """Dataclass of its options; field docstrings are the command line's help."""
    several_views: ClassVar[bool] = False
    """Whether it can fit a clip of several synchronised views."""

    @abstractmethod
    def fit(
        self, clip: Clip, config: Any, *, workspace: Path, device: torch.device, seed: int, progress: Progress
    ) -> Fit:
        """Solve and bake.

        Args:
            config: an instance of :attr:`Config`.
            workspace: folder for what a re-run after an interruption can take up again.
            device: where tensors live while solving.
            seed: of everything random.
        """

    @classmethod
    def restored(cls, fit: Fit, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Fit:
        """The fit of this representation's own kind, of what :meth:`canon.Fit.attachments` gave when it was saved."""
        return fit


class Editor(ABC):
    """Turns options into an edit of a fit's canvases."""

    Config: ClassVar[type[Any]]
    """Dataclass of its options, with a field ``layer``; field docstrings are the command line's help."""

    @abstractmethod
    def __call__(self, fit: Fit, config: Any) -> Edit:
        """The edit that ``config``, an instance of :attr:`Config`, asks for.

        Raises:
            InputError: an option cannot be used with this fit.
        """

    def framewise(self, fit: Fit, config: Any) -> Frames:
        """What ``config`` asks for, done to every frame by itself: the baseline that an edit is compared with.

        Args:
            config: an instance of :attr:`Config`, such as was given for the edit.

        Returns:
            as many frames as the clip has, uint8 [H, W, 3] of its size. Each is asked for once, in order, so they are
            best made then. ``fit.clip.frames`` are the frames to start from: those of an earlier step's baseline, if
            there is one.

        Raises:
            InputError: the editor has none, which is so unless it overrides this.
        """
        name = type(self).__name__.lower()
        raise InputError(f"The editor '{name}' has no frame-by-frame baseline; measure its edits without --framewise.")


@lru_cache(maxsize=8)
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=group))}


def names(group: str) -> list[str]:
    """The registered names of a group, sorted; nothing is imported."""
    return list(_entries(group))


def representation(name: str) -> type[Representation]:
    """The class of a registered representation.

    Raises:
        InputError: unknown, or a package that it needs is not installed.
    """
    return _load(REPRESENTATIONS, name, "representation")


def editor(name: str) -> type[Editor]:
    """The class of a registered editor.

    Raises:
        InputError: unknown, or a package that it needs is not installed.
    """
    return _load(EDITORS, name, "editor")


def _load(group: str, name: str, kind: str) -> Any:
    entries = _entries(group)
    if name not in entries:
        raise InputError(f"There is no {kind} called '{name}'; choose one of {', '.join(entries) or 'none'}.")
    try:
        return entries[name].load()
    except ImportError as error:
        raise InputError(f"The {kind} '{name}' cannot be loaded ({error}); install what it needs.") from error


def make_config(kind: type[Any], options: Mapping[str, Any]) -> Any:
    """An instance of a config dataclass from keywords.

    Raises:
        InputError: an unknown option (the nearest known one is named), or a required one is missing.
    """
    known = {field.name: field for field in fields(kind) if field.init}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known)}."
            raise InputError(f"{kind.__name__} has no option '{name}'; {hint}")
    for name, field in known.items():
        if name not in options and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{kind.__name__} needs the option '{name}'.")
    return kind(**options)
