"""An edit: what is to change on which layer's canvas, in order, and where that came from."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from canon import colour
from canon.boxes import Box, box_size
from canon.errors import InputError
from canon.storage import file_digest, to_plain

log = logging.getLogger("canon")

_MOST_STOPS = 16
_MOST_TEXELS = 200_000_000


@dataclass(eq=False)
class Over:
    """Paint laid over a layer's canvas; of the source, and of what earlier steps did, 1 - alpha shows through."""

    rgba: np.ndarray = field(repr=False)
    """float32 [h, w, 4], sRGB, straight alpha; any size of the canvas's aspect. Colours may exceed 1 (paint in a shadow
    that is lit elsewhere); values are kept to 16 bits, as they are saved."""

    def __post_init__(self) -> None:
        rgba = np.array(self.rgba, np.float32)
        if rgba.ndim != 3 or rgba.shape[2] != 4 or 0 in rgba.shape or not np.isfinite(rgba).all():
            raise InputError(f"Paint must be finite numbers [h, w, 4], not {list(rgba.shape)}.")
        rgba[..., :3] *= rgba[..., 3:] > 0
        self.scale = float(2.0 ** np.ceil(np.log2(max(float(rgba[..., :3].max()), 1.0))))
        """Power of two by which the colours are divided to be stored as 16-bit integers."""
        self.rgba = self.unpack(self.pack(rgba, self.scale), self.scale)

    @staticmethod
    def pack(rgba: np.ndarray, scale: float) -> np.ndarray:
        """float32 [h, w, 4] -> uint16 [h, w, 4] with colours divided by ``scale``."""
        divided = rgba / np.array([scale, scale, scale, 1], np.float64)
        return (np.clip(divided, 0, 1) * 65535 + 0.5).astype(np.uint16)

    @staticmethod
    def unpack(values: np.ndarray, scale: float) -> np.ndarray:
        """Inverse of :meth:`pack`, exactly."""
        return values.astype(np.float32) / np.float32(65535) * np.array([scale, scale, scale, 1], np.float32)


@dataclass(eq=False)
class Delta:
    """A change of colour that keeps all source detail. Defaults change nothing."""

    exposure: float = 0.0
    """Stops, in linear light."""
    hue: float = 0.0
    """Degrees; 120 turns red to green."""
    saturation: float = 1.0
    """0 = grey, 1 = unchanged."""
    contrast: float = 1.0
    """Factor about middle grey (0.5)."""
    temperature: float = 0.0
    """-1 (bluer) to 1 (warmer)."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors for red, green and blue."""
    mask: np.ndarray | None = field(default=None, repr=False)
    """float32 [h, w] in 0..1: how much of it applies where on the canvas, at any size of its aspect; None = all."""

    def __post_init__(self) -> None:
        self.tint = (float(self.tint[0]), float(self.tint[1]), float(self.tint[2]))
        numbers = (self.exposure, self.hue, self.saturation, self.contrast, self.temperature, *self.tint)
        if not np.isfinite(numbers).all() or min(self.saturation, self.contrast, *self.tint) < 0:
            raise InputError(f"A grade needs finite numbers, and factors of at least 0; it has {list(numbers)}.")
        if abs(self.exposure) > _MOST_STOPS:
            raise InputError(f"The exposure of a grade is {self.exposure:g} stops; give at most {_MOST_STOPS}.")
        if self.mask is not None:
            mask = np.clip(np.asarray(self.mask, np.float64), 0, 1)
            if mask.ndim != 2 or 0 in mask.shape or not np.isfinite(mask).all():
                raise InputError(f"The mask of a grade must be finite numbers [h, w], not {list(mask.shape)}.")
            self.mask = np.floor(mask * 65535 + 0.5).astype(np.float32) / np.float32(65535)

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """The colour function on sRGB float32 [..., 3]; what is not asked for is left out, so nothing is rounded."""
        if self.exposure or self.temperature:
            gains = colour.light_gains(self.exposure, self.temperature)
            rgb = colour.from_linear(colour.to_linear(rgb) * gains)
        if self.contrast != 1:
            rgb = (rgb - np.float32(0.5)) * np.float32(self.contrast) + np.float32(0.5)
        if self.hue % 360:
            rgb = rgb @ colour.hue_matrix(self.hue).T
        if self.saturation != 1:
            rgb = colour.saturate(rgb, self.saturation)
        return rgb * np.array(self.tint, np.float32) if self.tint != (1.0, 1.0, 1.0) else rgb

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but the mask, as plain primitives."""
        names = ("exposure", "hue", "saturation", "contrast", "temperature")
        return {**{name: float(getattr(self, name)) for name in names}, "tint": list(self.tint)}


@dataclass(eq=False)
class Remove:
    """The layer vanishes; what lies behind takes its place."""

    grow: int = 0
    """Pixels of the frame by which the layer's area is widened, so that no rim of it stays."""

    def __post_init__(self) -> None:
        if not 0 <= int(self.grow) <= 500:
            raise InputError(f"A removal can be grown by 0 to 500 pixels, not {self.grow}.")
        self.grow = int(self.grow)


@dataclass(eq=False)
class Warp:
    """The layer is moved within its frames: what lies at u on its canvas lies at u + displacement then."""

    grid: np.ndarray = field(repr=False)
    """float32 [gh, gw, 2], displacement (x, y) in texels at nodes every ``stride`` texels of the canvas, bilinear in
    between; see :func:`canon.coordinates.grid_size`."""
    stride: int = 8
    """Texels between the nodes."""

    def __post_init__(self) -> None:
        self.grid, self.stride = np.array(self.grid, np.float32), int(self.stride)
        if self.grid.ndim != 3 or self.grid.shape[2] != 2 or not np.isfinite(self.grid).all() or self.stride < 1:
            raise InputError(f"A displacement must be finite numbers [h, w, 2], not {list(self.grid.shape)}.")

    def at(self, texels: np.ndarray) -> np.ndarray:
        """Displacement float32 [N, 2] at canvas positions [N, 2]; beyond the canvas, that of its rim."""
        from canon.sampling import remap_points  # with torch, which editors that only describe themselves do without

        return remap_points(self.grid, np.asarray(texels, np.float32) / np.float32(self.stride))

    def check_canvas(self, size: tuple[int, int], layer: str) -> None:
        """Refuse a canvas of another size (height, width).

        Raises:
            InputError: it has another number of nodes.
        """
        from canon.coordinates import grid_size

        if self.grid.shape[:2] != grid_size(size, self.stride):
            seen, wanted = "x".join(map(str, self.grid.shape[1::-1])), f"{size[1]}x{size[0]}"
            raise InputError(f"A warp of '{layer}' has {seen} nodes, which are not those of its canvas ({wanted}).")


@dataclass(eq=False)
class Field:
    """The layer's field in three dimensions is another: colours, and shapes if they were changed, from all sides."""

    weights: dict[str, np.ndarray] = field(repr=False)
    """Parameters of the field that have changed, by name; the others stay."""
    joints: tuple[str, ...] = ()
    """Only what moves with these joints is another, the rest stays exactly as it is; none = all of it."""

    def __post_init__(self) -> None:
        self.weights = {str(name): np.array(value) for name, value in self.weights.items()}
        self.joints = tuple(map(str, self.joints))
        for name, value in self.weights.items():
            if value.dtype.kind != "f" or not np.isfinite(value).all():
                raise InputError(f"The parameters '{name}' of a field must be finite numbers.")


Operation = Over | Delta | Remove | Warp | Field


@dataclass(frozen=True)
class Provenance:
    """Where a step came from."""

    editor: str = ""
    """Name of the editor."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its options, plain primitives."""
    files: dict[str, str] = field(default_factory=dict)
    """Path -> SHA-256 of every file that it read."""
    created: str = ""
    """UTC, ISO 8601."""
    version: str = ""
    """canon's version."""

    @classmethod
    def now(cls, editor: str, options: Any, files: Iterable[str | Path] = ()) -> Provenance:
        """The provenance of something made at this moment.

        Args:
            options: a config dataclass or a mapping.
        """
        try:
            version = importlib.metadata.version("canon-video")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        digests = {str(path): file_digest(Path(path)) for path in files}
        return cls(editor, to_plain(options), digests, time, version)


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on one layer."""

    layer: str
    operation: Operation
    provenance: Provenance = Provenance()


@dataclass(eq=False)
class Edit:
    """Steps in order, on any number of layers. Edits are stacked by giving a list of them to :func:`canon.render`."""

    steps: list[Step] = field(default_factory=list)
    fit: str = ""
    """:attr:`canon.Fit.id` of the fit that it was made on."""

    @property
    def layers(self) -> list[str]:
        """The layers that are changed, each once, in the order of their first step."""
        return list(dict.fromkeys(step.layer for step in self.steps))

    def operations(self, layer: str) -> list[Operation]:
        """What happens to a layer, in order."""
        return [step.operation for step in self.steps if step.layer == layer]

    def save(self, folder: str | Path) -> None:
        """Write the edit; see :func:`canon.edit_folder.save_edit`."""
        from canon.edit_folder import save_edit

        save_edit(self, Path(folder))


def fits_canvas(size: tuple[int, int], canvas: tuple[int, int]) -> bool:
    """Whether an image of ``size`` (height, width) is that canvas at another scale, but for a rounded pixel."""
    exact = (size[1] * canvas[0] / canvas[1], size[0] * canvas[1] / canvas[0])
    return abs(size[0] - exact[0]) <= 1 or abs(size[1] - exact[1]) <= 1


def check_aspect(what: str, size: tuple[int, int], layer: str, canvas: tuple[int, int]) -> None:
    """Refuse an image of ``size`` (height, width) that does not have a canvas's aspect; ``what`` begins the sentence.

    Raises:
        InputError: see :func:`fits_canvas`.
    """
    if not fits_canvas(size, canvas):
        seen, wanted = f"{size[1]}x{size[0]}", f"{canvas[1]}x{canvas[0]}"
        raise InputError(f"{what} {seen} and the canvas of '{layer}' {wanted}; keep the aspect ratio.")


def in_segment(image: np.ndarray, whole: tuple[int, int], box: Box) -> np.ndarray:
    """An image of one segment as one of the layer's whole canvas, 0 elsewhere, at a whole multiple of its size.

    Args:
        image: float32 [h, w] or [h, w, C] of the segment's aspect, at any size; colours premultiplied.
        whole: (height, width) of the whole canvas.
        box: of the segment.
    """
    height, width = box_size(box)
    if (height, width) == whole:
        return image
    times = max(round(image.shape[0] / height), 1)
    fits = max(int((_MOST_TEXELS / (whole[0] * whole[1])) ** 0.5), 1)
    if times > fits:
        log.warning("%d times the size of a canvas of so many shots is too large; %d times is used", times, fits)
        times = fits
    out = np.zeros((whole[0] * times, whole[1] * times, *image.shape[2:]), np.float32)
    rows, columns = (slice(side.start * times, side.stop * times) for side in box)
    out[rows, columns] = resize_to(image, (height * times, width * times))
    return out


def resize_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w] or [h, w, C] at another size: averaged over areas when shrinking, bilinear when enlarging.

    Neither overshoots, so that opacities stay within 0..1 and what is 0 stays 0.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
