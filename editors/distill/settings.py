"""What a guidance is told; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from canon.errors import InputError

METHODS = ("sds", "dds", "pds", "csd", "csd-edit")
"""See :mod:`canon.editors.distill.residuals`; csd-edit is csd with the source's score taken off."""
NEED_SOURCE = ("dds", "pds", "csd-edit")
"""Methods that are shown what the source looks like in the same view."""
WEIGHTINGS = ("variance", "uniform", "balanced")
"""w(t): 1 - a, as in DreamFusion; 1; and sqrt(a) (1 - a), which is small at both ends."""
SPACES = ("latent", "pixel")


@dataclass(frozen=True)
class Annealing:
    """From which noise levels timesteps are drawn, as shares of all: evenly from a range that moves while optimising.

    Attributes:
        first: lowest and highest at the first step.
        last: the same at the last step; in between, both ends move evenly.
    """

    first: tuple[float, float] = (0.02, 0.98)
    last: tuple[float, float] = (0.02, 0.98)

    def __post_init__(self) -> None:
        for low, high in (self.first, self.last):
            if not 0 <= low <= high <= 1:
                raise InputError(f"Noise levels from {low:g} to {high:g} are no range; choose 0 <= from <= to <= 1.")

    def range(self, progress: float) -> tuple[float, float]:
        """Lowest and highest when a share ``progress`` of all steps is done."""
        low, high = (a + (b - a) * min(max(progress, 0), 1) for a, b in zip(self.first, self.last, strict=True))
        return low, high


@dataclass(frozen=True)
class Settings:
    """How a model is asked for a gradient.

    Attributes:
        method: one of :data:`METHODS`.
        prompt, source_prompt, negative: what is wanted, what the source shows, and what is not wanted.
        guidance: scale of classifier-free guidance.
        rescale: share of the contrast that guidance adds which is taken back; None = the model's default.
        weighting: one of :data:`WEIGHTINGS`.
        space: ``latent``: the residual goes back through the encoder; ``pixel``: pictures are compared.
        annealing: of the timesteps.
        clip: largest root mean square of a view's gradient; 0 = any.
        seed: of timesteps and noise; they follow from it and the step alone.
    """

    method: str = "sds"
    prompt: str = ""
    source_prompt: str = ""
    negative: str = ""
    guidance: float = 7.5
    rescale: float | None = None
    weighting: str = "variance"
    space: str = "latent"
    annealing: Annealing = Annealing()
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("method", self.method, METHODS),
            ("weighting", self.weighting, WEIGHTINGS),
            ("gradient space", self.space, SPACES),
        ):
            if value not in known:
                raise InputError(f"The {what} '{value}' is not known; choose one of {', '.join(known)}.")
        if self.guidance < 0 or self.clip < 0:
            raise InputError(f"Guidance {self.guidance:g} and clip {self.clip:g} must be at least 0.")
        if self.rescale is not None and not 0 <= self.rescale <= 1:
            raise InputError(f"The guidance rescale {self.rescale:g} is out of range; choose 0 to 1.")

    @property
    def needs_source(self) -> bool:
        """Whether a view of the source goes with every view."""
        return self.method in NEED_SOURCE
