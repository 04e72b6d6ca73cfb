"""Options of the layered atlas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from canon.coordinates import Size
from canon.errors import InputError

PRESETS = ("fast", "balanced", "quality")
SOLVERS = ("default", "neural")


@dataclass
class AtlasConfig:
    """Layered atlas: every layer is one canvas, moved over the frames by control grids."""

    preset: str = "balanced"
    """How much work to spend: fast, balanced or quality."""
    solver: str = "default"
    """default: motion first, closed form; neural: Layered Neural Atlases as published (slow)."""
    box: tuple[int, int, int, int] | None = None
    """Foreground on --prompt-frame as x y width height in pixels, when there are no masks."""
    scribble: Path | None = None
    """Image of --prompt-frame's size: white on the foreground, black off it, gray where unknown."""
    prompt_frame: int = 0
    """Frame that --box or --scribble belongs to."""
    search: bool = True
    """Without masks, box and scribble: look for what moves; otherwise the clip gets one layer."""
    raft: Path | None = None
    """Weights of torchvision's RAFT (.safetensors or .pth) to find optical flow with; none takes OpenCV's DIS."""
    lighting: bool = True
    """Fit a smooth, bounded, multiplicative lighting per layer and frame."""
    stride: int = 0
    """Pixels between the control nodes of the coordinates; 0 chooses by preset (fast 6, above 640 pixels 8; else 4)."""
    canvas_scale: float = 0.0
    """Canvas texels per pixel; 0 chooses 1.5 for what moves and 1.25 to 1.5 behind (fast: 1, 1 to 1.5)."""
    steps: int = 20000
    """Neural solver: optimisation steps."""
    minutes: float = 10.0
    """Neural solver: stop after this many minutes; 0 = no limit."""
    batch: int = 10000
    """Neural solver: pixels per step."""

    def node_distance(self, size: Size) -> int:
        """The stride that is used for frames of a size (height, width)."""
        if self.stride:
            return self.stride
        return 4 if self.preset != "fast" else 6 if max(size) <= 640 else 8

    def __post_init__(self) -> None:
        for name, value, allowed in (("preset", self.preset, PRESETS), ("solver", self.solver, SOLVERS)):
            if value not in allowed:
                raise InputError(f"The {name} '{value}' is not known; choose one of {', '.join(allowed)}.")
        if self.stride and not 2 <= self.stride <= 64:
            raise InputError(f"The stride {self.stride} is out of range; choose 2 to 64 pixels, or 0 for automatic.")
        if self.canvas_scale and not 0.1 <= self.canvas_scale <= 8:
            raise InputError(
                f"The canvas scale {self.canvas_scale} is out of range; choose 0.1 to 8, or 0 for automatic."
            )
        if self.steps < 1 or self.batch < 1 or self.minutes < 0:
            raise InputError("Steps and batch must be at least 1, and minutes at least 0.")
