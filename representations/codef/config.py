"""Options of CoDeF."""

from __future__ import annotations

from dataclasses import dataclass

from canon.representations.layered import LayeredConfig


@dataclass
class CodefConfig(LayeredConfig):
    """CoDeF: every mask group has a canonical image, a keyframe and what goes beyond it, that bends over the frames."""
