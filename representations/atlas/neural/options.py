"""Options of the neural solver."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError


@dataclass(frozen=True)
class NeuralOptions:
    """Layered Neural Atlases; the weights, widths and depths are the published ones, the lengths of the run are not."""

    steps: int = 100_000
    """Training steps; published: 300,000 to 400,000."""
    minutes: float | None = 10.0
    """Training stops after so many minutes, interruptions not counted; None = only after all steps, as published."""
    batch: int = 10_000
    """Random pixels per step; a step costs about 3 s on 2 CPU cores, and a tenth of that with a tenth of the pixels."""
    learning_rate: float = 1e-4
    """Of Adam."""
    pretraining: int = 400
    """Steps that first fit the mappings to uv = 0.8 xy; published: 100 for every frame."""
    pretraining_rate: float = 1e-3
    """Learning rate of the pretraining; published: 1e-4, for several thousand steps."""
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
    canvas_limit: int = 4096
    """Largest side of a baked canvas, in texels."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints; 0 = every step."""
    record_seconds: float = 5.0
    """Seconds between points of the PSNR curve; 0 = every step."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "pretraining": 0, "width": 1, "canvas_limit": 16, "opacity_bands": 0}
        depths = dict.fromkeys(("foreground_depth", "background_depth", "opacity_depth", "atlas_depth"), 1)
        for name, low in {**least, **depths, "atlas_bands": 0}.items():
            if getattr(self, name) < low:
                raise InputError(f"The neural solver's {name} is {getattr(self, name)}; give at least {low}.")
        for name in ("learning_rate", "pretraining_rate", "mapping_scale", "global_distance"):
            if not getattr(self, name) > 0:
                raise InputError(f"The neural solver's {name} is {getattr(self, name)}; give a number above 0.")
        if not self.mapping_scale <= 0.95:
            raise InputError(f"The neural solver's mapping_scale is {self.mapping_scale}; give at most 0.95.")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"The neural solver's minutes is {self.minutes}; give a number above 0, or None.")
