"""Options of the neural solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from canon.errors import InputError
from canon.representations.neural.training import TrainingOptions


@dataclass(frozen=True)
class NeuralOptions(TrainingOptions):
    """Layered Neural Atlases; the weights, widths and depths are the published ones, the lengths of the run are not.

    Published: 300,000 to 400,000 steps of 10,000 pixels, pretraining of 100 steps a frame at 1e-4. A step costs about
    3 s on 2 CPU cores, and a tenth of that with a tenth of the pixels.
    """

    pretraining: int = 400
    """Steps that first fit the mappings to uv = 0.8 xy."""
    mapping_scale: float = 0.8
    """Share of the atlas that the frame spans at the start."""
    rgb: float = 5000.0
    """Weight of the squared colour error."""
    gradient: float = 1000.0
    """Weight of the squared error of colour differences between neighbouring pixels."""
    sparsity: float = 1000.0
    """Weight of atlas colour where its layer is transparent."""
    flow: float = 5.0
    """Weight of the distance between atlas positions that optical flow says are the same."""
    opacity_flow: float = 49.0
    """Weight of the difference of opacity along optical flow."""
    rigidity: float = 1.0
    """Weight of the local stretch of the mappings."""
    global_rigidity_foreground: float = 5.0
    """Weight of the stretch over ``global_distance``, of every layer but the background."""
    global_rigidity_background: float = 50.0
    """Weight of the stretch over ``global_distance``, of the background."""
    global_distance: float = 100.0
    """Pixels over which the global stretch is measured (of frames 768 wide)."""
    global_steps: int = 5_000
    """Steps after which the global stretch is left alone."""
    bootstrap: float = 2000.0
    """Weight of the cross-entropy between opacity and masks."""
    bootstrap_steps: int = 10_000
    """Steps after which the masks are no longer used."""
    width: int = 256
    """Width of all networks."""
    foreground_depth: int = 6
    """Linear layers of the mapping networks of all layers but the background."""
    background_depth: int = 4
    """Linear layers of the background's mapping network."""
    opacity_depth: int = 8
    """Linear layers of the opacity networks."""
    opacity_bands: int = 5
    """Frequency bands of the opacity networks."""
    atlas_depth: int = 8
    """Linear layers of the atlas network; the input joins again before layers 4 and 7."""
    atlas_bands: int = 10
    """Frequency bands of the atlas network."""

    least: ClassVar[dict[str, int]] = {
        **TrainingOptions.least,
        **dict.fromkeys(("batch", "width", "foreground_depth", "background_depth", "opacity_depth", "atlas_depth"), 1),
        **dict.fromkeys(("opacity_bands", "atlas_bands"), 0),
    }
    positive: ClassVar[tuple[str, ...]] = (*TrainingOptions.positive, "mapping_scale", "global_distance")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mapping_scale <= 0.95:
            raise InputError(f"The neural solver's mapping_scale is {self.mapping_scale}; give at most 0.95.")
