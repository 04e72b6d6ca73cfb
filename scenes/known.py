"""Clips that people of this field know, and how their folders are laid out: ``NAME/frames/``, ``NAME/masks/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from canon.errors import InputError


@dataclass(frozen=True)
class KnownClip:
    """A clip in a folder of its own, frames and masks numbered alike (00000.jpg, 00000.png)."""

    size: tuple[int, int]
    """(height, width) of the frames."""
    frames: int
    """Number of frames."""
    masks: bool
    """Whether foreground masks come with it, one per frame."""
    note: str
    """What is hard about it."""


KNOWN_CLIPS: dict[str, KnownClip] = {
    "blackswan": KnownClip((480, 854), 50, True, "slow pan, dark subject, water"),
    "car-shadow": KnownClip((480, 854), 40, True, "rigid subject with a moving shadow"),
    "dog": KnownClip((480, 854), 60, True, "fast articulated subject, handheld camera"),
    "dance-twirl": KnownClip((480, 854), 90, True, "subject turns round, people behind"),
    "bear": KnownClip((480, 854), 70, False, "slow pan, walking subject, rocks in front"),
    "tennis": KnownClip((240, 432), 70, True, "fast pan and limbs; dilated removal masks with shadow and ball"),
    "wolf": KnownClip((512, 512), 40, False, "almost static camera, head turns out of plane, fur"),
}
"""Name -> description."""


def known_clip(name: str, root: Path | str) -> tuple[Path, Path | None]:
    """The frame folder and the mask folder (None where the clip has no masks) of a known clip under ``root``.

    Raises:
        InputError: the name is not known, or the folder is not there.
    """
    if name not in KNOWN_CLIPS:
        raise InputError(f"There is no known clip called '{name}'; choose one of {', '.join(KNOWN_CLIPS)}.")
    folder = Path(root) / name
    frames, masks = folder / "frames", folder / "masks"
    for wanted in (frames, masks) if KNOWN_CLIPS[name].masks else (frames,):
        if not wanted.is_dir():
            raise InputError(f"'{wanted}' does not exist; put the clip '{name}' there, or give another root folder.")
    return frames, masks if KNOWN_CLIPS[name].masks else None
