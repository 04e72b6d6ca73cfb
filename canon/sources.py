"""Finding what to load: which files are the frames of a clip, in which order, and where its masks lie."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from canon.errors import InputError
from canon.storage import image_size

if TYPE_CHECKING:
    from canon.camera_files import View

log = logging.getLogger("canon")

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
    inverted: bool = False
    """Whether the masks found are white where the background is."""
    cameras: tuple[View, ...] = ()
    """Cameras that name the images, if there are."""
    poses: Path | None = None
    """Where a person's poses lie, if there are."""
    left_out: tuple[Path, ...] = ()
    """Images beside the others that no camera is of; there may be masks for them."""


def natural_key(name: str) -> list[str | int]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, in natural order."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=lambda path: natural_key(path.name))


def find_source(source: str | Path) -> Source:
    """Work out what ``source`` is: a video file, an image, a folder of images, a glob, or the DAVIS layout; or images
    with cameras, as nerfstudio (``transforms.json``), HumanNeRF and NeuMan lay them out.

    Raises:
        InputError: it does not exist, a folder or glob holds no images, two images share a name, or cameras found with
            them cannot be read.
    """
    path, name = Path(source), str(source)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return Source(name, images=(path,))
        return _listed(path, name) if path.suffix.lower() == ".json" else Source(name, video=path)
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
    return _with_cameras(folder) or _plain_folder(folder)


def _with_cameras(folder: Path) -> Source | None:
    """A folder as programs for three dimensions lay it out, or None."""
    from canon.camera_files import is_human_nerf

    name, masks, listed = str(folder), folder / "masks", folder / "metadata.json"
    found = masks if masks.is_dir() else None
    if (folder / "transforms.json").is_file():
        # Of nerfstudio's masks not all are of a foreground.
        return _listed(folder / "transforms.json", name, found, guessed=found is not None)
    if not (folder / "images").is_dir():
        return None
    if listed.is_file() and is_human_nerf(listed):
        return _listed(listed, name, found, poses=listed)
    sparse, masks = folder / "sparse", folder / "segmentations"
    if sparse.is_dir() and masks.is_dir():
        # NeuMan's are white where COLMAP may look for features, which is off the person.
        model = sparse / "0" if (sparse / "0").is_dir() else sparse
        return _listed(model, name, masks, guessed=True, inverted=True, poses=folder)
    return None


def _listed(
    cameras: Path,
    name: str,
    masks: Path | None = None,
    *,
    guessed: bool = False,
    inverted: bool = False,
    poses: Path | None = None,
) -> Source:
    """The images that a file of cameras names: by name if they are numbered, else in its order."""
    from canon.camera_files import read_cameras

    views = tuple(read_cameras(cameras))
    images = [view.image for view in views if view.image is not None]
    if not images:
        raise InputError(f"None of the {len(views)} pictures that '{cameras}' names is there; put them in their place.")
    if len(images) < len(views):
        first = next(view.name for view in views if view.image is None)
        log.warning("%d of %d pictures of '%s' are not there ('%s')", len(views) - len(images), len(views), name, first)
    twice = next((image for k, image in enumerate(images) if image in images[:k]), None)
    if twice is not None:
        raise InputError(f"'{cameras}' names '{twice.name}' twice; keep one camera for each picture.")
    if all(re.search(r"\d", image.stem) for image in images):
        images.sort(key=lambda image: natural_key(str(image)))
    beside = [path for folder in dict.fromkeys(image.parent for image in images) for path in images_in(folder)]
    known = {image.resolve() for image in images}
    left_out = tuple(path for path in beside if path.resolve() not in known)
    if left_out:
        log.warning("%d pictures of '%s' have no camera and are left out", len(left_out), name)
    return Source(name, None, _distinct(images), masks, guessed, inverted, views, poses, left_out)


def _plain_folder(folder: Path) -> Source:
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
