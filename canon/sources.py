"""Finding what to load: which files are the frames of a clip, in which order, and where its masks lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from canon.errors import InputError
from canon.storage import image_size

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """Either a video file or the images of a clip in order."""

    name: str
    video: Path | None = None
    images: tuple[Path, ...] = ()
    masks: Path | tuple[tuple[str, Path], ...] | None = None
    """Masks found beside the frames: of one layer or of all, or a folder for each named layer, front to back."""
    guessed: bool = False
    """Whether the masks lie where another program puts them, and may be something else."""


def natural_key(name: str) -> list[str | int]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, in natural order."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=lambda path: natural_key(path.name))


def find_source(source: str | Path) -> Source:
    """Work out what ``source`` is: a video file, an image, a folder of images, a glob, or the DAVIS layout.

    Raises:
        InputError: it does not exist, a folder or glob holds no images, or two images share a name.
    """
    path, name = Path(source), str(source)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return Source(name, images=(path,))
        return Source(name, video=path)
    if any(character in name for character in "*?["):
        pattern = path.relative_to(path.anchor)
        matches = sorted(Path(path.anchor).glob(str(pattern)), key=lambda match: natural_key(str(match)))
        images = [p for p in matches if p.suffix.lower() in IMAGE_SUFFIXES]
        if not images and len(matches) == 1:
            return find_source(matches[0])
        if not images:
            raise InputError(f"No image matches '{name}'; check the pattern.")
        return Source(name, images=_distinct(images))
    raise InputError(f"'{name}' does not exist; give a video file, a folder of images or a glob.")


def _from_folder(folder: Path) -> Source:
    own = folder / folder.resolve().name
    if (
        own.is_dir()
        and images_in(own)
        and not any(place.is_dir() and images_in(place) for place in (folder, folder / "frames", folder / "images"))
    ):
        folder = own  # CoDeF: all_sequences/NAME/NAME beside all_sequences/NAME/NAME_masks_0
    images: list[Path] = []
    # First of all the inner folders: beside them people keep a thumbnail or a background plate.
    for inner in ("frames", "images"):
        if not images and (folder / inner).is_dir():
            images = images_in(folder / inner)
    images = images or images_in(folder)
    masks = folder / "masks" if (folder / "masks").is_dir() else _davis_annotations(folder)
    guessed = None if masks is not None else _published_masks(folder)
    if not images:
        raise InputError(f"The folder '{folder}' holds no images, nor a 'frames' or 'images' folder that does.")
    return Source(str(folder), images=_distinct(images), masks=masks or guessed, guessed=guessed is not None)


def _davis_annotations(folder: Path) -> Path | None:
    """``X/JPEGImages/480p/name`` -> ``X/Annotations/480p/name`` where that is a folder."""
    parts = list(folder.resolve().parts)
    if "JPEGImages" not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index("JPEGImages")
    annotations = Path(*parts[:last], "Annotations", *parts[last + 1 :])
    return annotations if annotations.is_dir() else None


def _published_masks(folder: Path) -> Path | tuple[tuple[str, Path], ...] | None:
    """Masks where published projects keep them, beside the folder of the frames.

    CoDeF: NAME_masks_0, NAME_masks_1 and so on, the last of which is the background; or NAME_masks. Layered Neural
    Atlases: NAME_maskrcnn.
    """
    place, name = folder.resolve().parent, folder.resolve().name
    groups = [place / f"{name}_masks_0"]
    while groups[-1].is_dir() and images_in(groups[-1]):
        groups.append(place / f"{name}_masks_{len(groups)}")
    groups = groups[:-1]
    fronts = groups[:-1] or groups
    if len(fronts) > 1:
        return tuple((f"group-{k}", group) for k, group in enumerate(fronts))
    candidates = [*fronts, place / f"{name}_masks", place / f"{name}_maskrcnn"]
    return next((masks for masks in candidates if masks.is_dir() and images_in(masks)), None)


def _distinct(images: Iterable[Path]) -> tuple[Path, ...]:
    images = tuple(images)
    seen: dict[tuple[Path, str], Path] = {}
    for path in images:
        other = seen.setdefault((path.parent, path.stem), path)
        if other is not path:
            raise InputError(f"'{path.parent}' holds both '{other.name}' and '{path.name}'; keep one of them.")
    return images


def read_rgb(path: Path) -> np.ndarray:
    """An image of any kind as upright RGB uint8 [H, W, 3]; opacity is dropped, 16 bits become 8.

    Raises:
        InputError: missing, too large, not an image, or damaged.
    """
    image_size(path)
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise InputError(f"'{path}' is damaged: its pixels cannot be decoded.")
    return np.asarray(image)


def resized_size(original: tuple[int, int], size: int | tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) that ``size`` asks for: itself, or a height whose width follows the aspect.

    Raises:
        InputError: not one or two positive whole numbers.
    """
    if size is None:
        return original
    values = (size,) if isinstance(size, int) else tuple(size)
    if not 1 <= len(values) <= 2 or any(not isinstance(v, int) or v < 1 for v in values):
        raise InputError(f"The size {size!r} cannot be used; give a height, or (height, width), in whole pixels.")
    if len(values) == 1:
        return values[0], max(1, round(original[1] * values[0] / original[0]))
    return values[0], values[1]


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] at (height, width): averaged over areas when shrinking, bicubic when enlarging."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
