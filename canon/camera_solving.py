"""Cameras of an ordinary video, found from its pictures alone: structure from motion with COLMAP.

What moves by itself, such as a person, must not be looked at: masked layers are left out. A world that is found so has
no size and no direction of its own; here its y points up as the cameras see it, the first camera stands at the origin,
and half of what is seen lies nearer than 3 units ("metres"). (COLMAP: Schönberger and Frahm, CVPR 2016.)
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from canon.camera_files import read_cameras, write_cameras
from canon.cameras import Camera
from canon.errors import InputError, first_line
from canon.folders import array_digest
from canon.runtime import cores
from canon.storage import content_hash, write_image

if TYPE_CHECKING:
    from canon.clip import Clip

log = logging.getLogger("canon")

_VERSION = 1
_SEEN_AT = 3.0
"""How far away half of what is seen lies in the world that is given back."""
_FEWEST = 3
"""Frames below which there is nothing to solve."""
_OVERLAP = 10
"""Frames after each one that it is compared with; beyond those, the ones 16, 32, 64 and so on later."""
_MARGIN = 0.01
"""How far beyond a mask nothing is looked at, in the frame's longer side: outlines move with what they belong to."""


def solve_cameras(clip: Clip, workspace: str | Path | None = None) -> list[Camera]:
    """A camera for every frame of a clip, all with one lens: a focal length and one coefficient of radial distortion.

    Args:
        clip: of one view, whose camera moves. What its masks show is not looked at.
        workspace: folder that keeps the result, for the same frames and masks; None keeps nothing.

    Raises:
        InputError: pycolmap is not installed, the clip has several views or too few frames, or no camera is found for
            some of them.
    """
    if len(clip.views) > 1:
        raise InputError(
            f"Cameras can be solved for one view, and the clip has {len(clip.views)}; solve each view for itself, or "
            "give a file of cameras."
        )
    if len(clip) < _FEWEST:
        raise InputError(f"Cameras cannot be solved from {len(clip)} frames; give at least {_FEWEST}, or the cameras.")
    kept = None if workspace is None else Path(workspace) / f"cameras-{_key(clip)}.json"
    if kept is not None and kept.is_file():
        return [view.camera for view in read_cameras(kept)]
    pycolmap = _pycolmap()
    with tempfile.TemporaryDirectory(prefix="canon-cameras-") as folder:
        cameras, points = _reconstructed(pycolmap, clip, Path(folder))
    cameras = _placed(cameras, points)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_cameras(kept, {f"{t:05d}": camera for t, camera in enumerate(cameras)})
    return cameras


def _key(clip: Clip) -> str:
    """Of what the result depends on, whatever cameras and poses the clip has."""
    masks = [[name, list(mask.indices), array_digest(mask.values)] for name, mask in clip.masks.items()]
    return content_hash(_VERSION, list(clip.frames.shape), array_digest(clip.frames), masks)


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise InputError(
            "Solving cameras needs pycolmap, which is not installed; run: pip install 'canon-video[sfm]', or give "
            "--cameras with a file of cameras."
        ) from error
    return pycolmap


def _reconstructed(pycolmap: Any, clip: Clip, folder: Path) -> tuple[list[Camera], np.ndarray]:
    """One camera for each frame, and the points [N, 3] that they see."""
    images, masks = folder / "images", folder / "masks"
    for t, frame in enumerate(clip.frames):
        name = f"{t:06d}.png"
        write_image(images / name, frame)
        if clip.masks:
            write_image(masks / f"{name}.png", _looked_at(clip, t))
    reading = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL")
    if clip.masks:
        reading.mask_path = masks
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL  # it reports every frame on stderr
    try:
        found = _solved(pycolmap, images, folder, reading)
    except RuntimeError as error:
        raise InputError(f"COLMAP could not solve the cameras: {first_line(error)}.") from error
    finally:
        pycolmap.logging.minloglevel = before
    return _largest(clip, list(found.values()), folder / "model")


def _solved(pycolmap: Any, images: Path, folder: Path, reading: Any) -> dict[int, Any]:
    """COLMAP's models of the pictures in a folder; the same ones each time, to the last bit.

    For that, pictures are numbered before many threads look at them, and cameras are solved by a single one.
    """
    database = folder / "database.db"
    pycolmap.Database.open(database).close()
    one_lens = {"camera_mode": pycolmap.CameraMode.SINGLE}
    pycolmap.import_images(database, images, options=reading, **one_lens)
    extracting = pycolmap.FeatureExtractionOptions(num_threads=cores())
    pycolmap.extract_features(database, images, reader_options=reading, extraction_options=extracting, **one_lens)
    checking = pycolmap.TwoViewGeometryOptions()
    checking.ransac.random_seed = 0
    pycolmap.match_sequential(
        database,
        matching_options=pycolmap.FeatureMatchingOptions(num_threads=cores()),
        pairing_options=pycolmap.SequentialPairingOptions(overlap=_OVERLAP, quadratic_overlap=True),
        verification_options=checking,
    )
    count = sum(1 for _ in images.iterdir())
    mapping = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0, min_model_size=min(10, count))
    return dict(pycolmap.incremental_mapping(database, images, folder, options=mapping))


def _looked_at(clip: Clip, t: int) -> np.ndarray:
    """Where a frame shows no masked layer nor its surroundings, uint8 [H, W]: 0 or 255, as COLMAP takes it."""
    shown = np.full(clip.size, 255, np.uint8)
    reach = max(round(_MARGIN * max(clip.size)), 1)
    for mask in clip.masks.values():
        values = mask.get(t)
        if values is not None:
            wider = cv2.dilate((values > 0).astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))
            shown[wider > 0] = 0
    return shown


def _largest(clip: Clip, models: Sequence[Any], folder: Path) -> tuple[list[Camera], np.ndarray]:
    """The cameras of the largest model, which must have them all."""
    if not models:
        raise InputError(
            "COLMAP found no cameras in this video: it needs a camera that moves past things that stand still and have "
            "texture; give --cameras with a file of cameras."
        )
    model = max(models, key=lambda one: int(one.num_reg_images()))
    folder.mkdir()
    model.write(folder)
    named = {view.name: view.camera for view in read_cameras(folder)}
    missing = [t for t in range(len(clip)) if f"{t:06d}.png" not in named]
    if missing:
        raise InputError(
            f"COLMAP found cameras for {len(clip) - len(missing)} of {len(clip)} frames, and none for frame "
            f"{missing[0]} first of all; leave out frames that are blurred or show nothing that stands still, or give "
            "the cameras."
        )
    points = np.array([point.xyz for point in model.points3D.values()], np.float64).reshape(-1, 3)
    return [named[f"{t:06d}.png"] for t in range(len(clip))], points


def _placed(cameras: Sequence[Camera], points: np.ndarray) -> list[Camera]:
    """The same in a world with a direction and a size; see the module."""
    up = -np.mean([camera.rotation[1] for camera in cameras], axis=0)
    up = up / max(np.linalg.norm(up), 1e-9)
    ahead = cameras[0].rotation[2] - (cameras[0].rotation[2] @ up) * up
    if np.linalg.norm(ahead) < 1e-3:  # it looks straight up or down
        ahead = np.cross(cameras[0].rotation[0], up)
    back = -ahead / np.linalg.norm(ahead)
    turn = np.stack([np.cross(up, back), up, back])
    origin = cameras[0].position
    depths = np.concatenate([points @ camera.rotation[2] + camera.translation[2] for camera in cameras])
    ahead_of = depths[depths > 0]
    scale = _SEEN_AT / float(np.median(ahead_of)) if len(ahead_of) else 1.0
    placed = []
    for camera in cameras:
        rotation = camera.rotation @ turn.T
        place = scale * turn @ (camera.position - origin)
        placed.append(replace(camera, rotation=rotation, translation=-rotation @ place))
    return placed
