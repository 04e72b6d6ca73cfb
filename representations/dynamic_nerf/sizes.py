"""How large networks, samples and schedules are, by preset: for a small CPU, and for one GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Of one preset.

    Attributes:
        levels, log2_size, finest: of the hash grids; see :class:`canon.representations.fields.hashgrid.HashGrid`.
        width: of the hidden layers.
        coarse, fine: samples of a background ray, in the proposal and in the field.
        body: samples of a ray through the body.
        rays: of the background in a step.
        patch, patches: side and number of the squares of pixels that a step on the person looks at.
        scene, human, joint: steps of the stages.
        texels: along a side of the texture atlas.
        panorama: texels along a side of the background's canvas, at most.
        cells: of marching cubes, along the longest side of the body.
    """

    levels: int
    log2_size: int
    finest: int
    width: int
    coarse: int
    fine: int
    body: int
    rays: int
    patch: int
    patches: int
    scene: int
    human: int
    joint: int
    texels: int
    panorama: int
    cells: int


SIZES = {
    "fast": Sizes(8, 15, 256, 32, 24, 14, 16, 1024, 12, 6, 600, 400, 100, 512, 2048, 128),
    "balanced": Sizes(10, 16, 512, 32, 24, 14, 20, 1024, 14, 6, 1800, 1200, 250, 1024, 4096, 144),
    "quality": Sizes(16, 19, 2048, 64, 96, 48, 64, 8192, 32, 8, 8000, 8000, 4000, 2048, 8192, 256),
}

BACKGROUNDS = ("hashgrid", "nerfacto")
"""What a background may be."""
