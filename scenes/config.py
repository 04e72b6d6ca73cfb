"""What a synthetic scene consists of, and the named presets."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from canon.errors import InputError


@dataclass(frozen=True)
class SceneConfig:
    """Everything a scene is made from; equal configs give bit-identical scenes on the same machine.

    "Short side" is min(width, height): lengths given as its fraction keep their look when the scene is made smaller.
    """

    width: int = 640
    """Frame width in pixels."""
    height: int = 360
    """Frame height in pixels."""
    frames: int = 50
    """Number of frames."""
    seed: int = 0
    """Seed of everything random: shapes, textures, phases, noise."""
    pan: tuple[float, float] = (3.0, 0.5)
    """Camera pan (x, y) in pixels per frame; the peak speed when the camera swings."""
    zoom: float = 0.0
    """Camera zoom per frame: 0.002 magnifies by 0.2 % more each frame."""
    rotation: float = 0.0
    """Camera roll in degrees per frame."""
    swing_period: float = 0.0
    """Frames after which pan, zoom and roll have gone to and fro; 0 = they go on steadily."""
    shake: float = 0.8
    """Amplitude of smooth hand-held camera shake, in pixels."""
    subject: str = "cat"
    """Photograph on the foreground: "cat", "astronaut", "cup" or "motorcycle"."""
    backdrop: tuple[str, ...] = ("motorcycle", "bricks", "coffee", "gravel", "rocket", "grass")
    """Photographs that the background is assembled from."""
    subject_size: float = 0.28
    """Mean radius of the foreground, as a fraction of the short side."""
    sway: tuple[float, float] = (0.11, 0.06)
    """Amplitude of the foreground's path through the frame, as fractions of (width, height)."""
    sway_period: float = 60.0
    """Frames after which the foreground has gone once round its path."""
    turn: float = 7.0
    """Amplitude of the foreground's rotation, in degrees."""
    breathe: float = 0.05
    """Amplitude of the foreground's change of scale: 0.05 = 5 %."""
    bend: float = 0.015
    """Amplitude of each of three non-rigid bends of the foreground, as a fraction of the short side."""
    bend_wavelength: float = 0.85
    """Wavelength of the bends, as a fraction of the short side."""
    bend_period: float = 30.0
    """Frames after which the first bend repeats (the others are incommensurate)."""
    lighting: float = 0.0
    """Largest relative change of the light: 0.25 = a gain within 0.75..1.25, smooth in time and space."""
    lighting_period: float = 45.0
    """Frames after which the light's change repeats."""
    noise: float = 1.5
    """Standard deviation of the sensor noise, in grey levels of 255."""
    thin: bool = True
    """Whether a tail a few pixels wide is attached to the foreground."""
    occluder: bool = False
    """Whether a second foreground layer passes in front of the first."""
    occluder_period: float = 90.0
    """Frames after which the occluder has crossed the frame to and fro."""

    def __post_init__(self) -> None:
        for name, low in (("width", 16), ("height", 16), ("frames", 1)):
            value = getattr(self, name)
            if int(value) != value or value < low:
                raise InputError(f"A scene's {name} is {value!r}; give a whole number of at least {low}.")
        for name in ("sway_period", "bend_period", "bend_wavelength", "lighting_period", "occluder_period"):
            if getattr(self, name) <= 0:
                raise InputError(f"A scene's {name} is {getattr(self, name)!r}; give a number above 0.")
        if not 0 <= self.lighting <= 0.6:
            raise InputError(f"A scene's lighting is {self.lighting!r}; give a relative change within 0..0.6.")
        if self.zoom <= -1 or self.noise < 0:
            raise InputError(f"A scene's zoom is {self.zoom!r} and noise {self.noise!r}; give zoom > -1, noise >= 0.")

    @property
    def short_side(self) -> int:
        """min(width, height) in pixels."""
        return min(self.width, self.height)


PRESETS: dict[str, dict[str, Any]] = {
    "pan": {},
    "fast-pan": {"pan": (25.0, 0.6), "subject": "astronaut"},
    "bend": {"pan": (2.0, 0.3), "bend": 0.04, "bend_period": 24.0, "backdrop": ("coffee", "grass")},
    "lighting": {"pan": (2.0, 0.4), "lighting": 0.25, "rotation": 0.05, "zoom": 0.001, "subject": "astronaut"},
    "occlusion": {"pan": (2.0, 0.2), "occluder": True, "sway": (0.06, 0.04), "backdrop": ("gravel", "motorcycle")},
    "long": {
        "width": 320, "height": 180, "frames": 1000, "pan": (1.6, 0.3), "zoom": 0.0012, "swing_period": 180.0,
        "sway_period": 140.0, "bend_period": 70.0,
    },
    "demo": {
        "width": 384, "height": 216, "frames": 32, "pan": (2.4, 0.2), "zoom": 0.001, "bend": 0.02, "lighting": 0.1,
        "noise": 1.0, "subject_size": 0.33, "backdrop": ("motorcycle", "coffee", "bricks"), "shake": 0.5,
    },
}  # fmt: skip
"""What each named preset changes of :class:`SceneConfig`'s defaults."""


def preset(name: str, **overrides: Any) -> SceneConfig:
    """The configuration of a named preset with fields overridden.

    Raises:
        InputError: the preset or a field is not known, or a value is out of range.
    """
    if name not in PRESETS:
        raise InputError(f"There is no scene called '{name}'; choose one of {', '.join(PRESETS)}.")
    unknown = sorted(set(overrides) - {field.name for field in fields(SceneConfig)})
    if unknown:
        raise InputError(f"A scene has no setting '{unknown[0]}'; see SceneConfig for those it has.")
    return replace(SceneConfig(), **{**PRESETS[name], **overrides})
