"""Parts of a body by their everyday names."""

from __future__ import annotations

from collections.abc import Sequence

from canon.errors import InputError
from canon.retargeting import source_of
from canon.skeletons import Skeleton

_LIMBS = {
    "arms": ("shoulder", "elbow"),
    "hands": ("wrist", "hand"),
    "legs": ("hip", "knee"),
    "feet": ("ankle", "foot"),
}
PARTS = ("head", "torso", *_LIMBS)
"""What parts there are."""


def joints_of(skeleton: Skeleton, parts: Sequence[str]) -> tuple[str, ...]:
    """Names of the joints that move some parts, each one of :data:`PARTS` or a joint.

    Raises:
        InputError: a part is neither, or the skeleton's joints do not say where it is.
    """
    found = [name for part in parts for name in _joints(skeleton, part)]
    return tuple(dict.fromkeys(found))


def _joints(skeleton: Skeleton, part: str) -> list[str]:
    if part not in PARTS:
        if part in skeleton.names:
            return [part]
        joints = ", ".join(skeleton.names)
        raise InputError(f"'{part}' is no part of the body; give {', '.join(PARTS)}, or one of its joints: {joints}.")
    source = source_of(skeleton)
    if part == "head":
        limbs = {k for name, k in source.joint.items() if name.startswith(("left_", "right_"))}
        top = source.spine[-1]
        numbers = [
            k for k in range(len(skeleton.names)) if _below(skeleton, k, top) and not _any_below(skeleton, k, limbs)
        ]
    elif part == "torso":
        collars = [source.joint[name] for name in ("left_collar", "right_collar") if name in source.joint]
        numbers = [*source.spine, *collars]
    else:
        wanted = [f"{side}_{one}" for one in _LIMBS[part] for side in ("left", "right")]
        numbers = [source.joint[name] for name in wanted if name in source.joint]
    if not numbers:
        raise InputError(f"The joints of this body do not say where its {part} is; name joints instead.")
    return [skeleton.names[k] for k in numbers]


def _below(skeleton: Skeleton, k: int, top: int) -> bool:
    """Whether a joint hangs on another, however far down."""
    above = skeleton.parents[k]
    return above >= 0 and (above == top or _below(skeleton, above, top))


def _any_below(skeleton: Skeleton, k: int, limbs: set[int]) -> bool:
    """Whether a joint is of a limb, or hangs on one of it."""
    return k in limbs or any(_below(skeleton, k, limb) for limb in limbs)
