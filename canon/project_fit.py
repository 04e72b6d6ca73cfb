"""Fitting a video into a project: found again if it was done before, taken up if it was interrupted."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from canon import registry, trackers
from canon.clip import Clip
from canon.contact_sheet import mask_overview
from canon.errors import InputError
from canon.fit_folder import FIT_FILE, load
from canon.fits import Fit
from canon.fitting import check_views, fit, no_progress
from canon.folders import atomic_folder
from canon.project import PROJECT_FILE, WORK, Project
from canon.storage import content_hash, file_digest, read_yaml, to_plain, to_uint8, write_bytes, write_image

if TYPE_CHECKING:
    from canon.clip_world import Cameras
    from canon.skeletons import Motion

log = logging.getLogger("canon")

MASKS, OVERVIEW, _DIGEST = "masks", "masks-overview.png", ".digest"


@dataclass
class FitRequest:
    """What is to be fitted, and how."""

    source: str | Path | Sequence[str | Path]
    """As for :meth:`canon.Clip.load`, like masks, cameras and poses."""
    representation: str = "atlas"
    name: str | None = None
    """Name in the project; None = the representation's, numbered where that is taken by a fit with other options."""
    masks: str | Path | Sequence[str | Path | None] | None = None
    max_frames: int | None = None
    size: int | tuple[int, int] | None = None
    device: str | None = None
    seed: int = 0
    refit: bool = False
    """Fit again although this very fit, or another one of this name, is there."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the representation's config."""
    cameras: Cameras | None = None
    poses: str | Path | Motion | None = None
    log: str | None = None
    """Log the fitting in the project: one of :data:`canon.trackers.NAMES`."""


def fit_into(
    folder: str | Path, request: FitRequest, progress: registry.Progress = no_progress
) -> tuple[str, Fit, bool]:
    """Fit a video into a project folder, which is made if need be.

    Returns:
        the fit's name in the project, the fit (mapped from disk), and whether it had to be solved now.

    Raises:
        InputError: bad video, masks, cameras, poses or options; a folder that is not canon's, holds another clip, or
            cannot be written; a tracker whose package is not installed.
    """
    if request.log is not None:
        trackers.check(request.log)
    kind = registry.representation(request.representation)
    config = registry.make_config(kind.Config, request.options)  # refused before anything is written
    check_views(request.representation, 1 if isinstance(request.source, str | Path) else len(request.source))
    if request.name is not None:
        Project(Path(folder)).fit_folder(request.name)
    fresh = not (Path(folder) / PROJECT_FILE).exists()
    project = Project.create(folder)
    try:
        with project.lock():
            # On the project's own disk: the clip is then a link to it, and /tmp may be small.
            cache = project.folder / WORK / "clip"
            shutil.rmtree(cache, ignore_errors=True)
            try:
                clip = project.adopt(_load(request, cache))
            finally:
                shutil.rmtree(cache, ignore_errors=True)
            return _fit(project, clip, request, config, progress)
    except InputError:
        if fresh:
            project.discard_if_empty()
        raise


def fit_beside(
    project: Project, request: FitRequest, progress: registry.Progress = no_progress
) -> tuple[str, Fit, bool]:
    """Fit the clip that a project holds already, while others may make other fits of it.

    Args:
        request: what it says of the clip (source, masks, cameras, poses, size) is not looked at; it names the fit.

    Returns:
        see :func:`fit_into`.

    Raises:
        InputError: bad options, a fit of that name with other ones, or the project holds no clip.
    """
    config = registry.make_config(registry.representation(request.representation).Config, request.options)
    if request.name is None:
        raise InputError("A fit that is made beside others needs a name.")
    with project.share(request.name):
        return _fit(project, Clip.open(project.clip_folder), request, config, progress)


def _load(request: FitRequest, cache: Path) -> Clip:
    world = request.cameras, request.poses
    return Clip.load(request.source, request.masks, *world, request.max_frames, request.size, cache)


def _fit(
    project: Project, clip: Clip, request: FitRequest, config: Any, progress: registry.Progress
) -> tuple[str, Fit, bool]:
    key = _key(clip, request, config)
    name, found = _choose_name(project, request, key)
    folder, workspace = project.fit_folder(name), project.workspace(name)
    if found and not request.refit:
        there = load(folder)
        if not (folder / OVERVIEW).exists():  # killed on the last yards
            save_masks(there, folder)
        shutil.rmtree(workspace, ignore_errors=True)
        return name, there, False
    with trackers.logged(request.log, project.folder, name) as callbacks:
        made = fit(
            clip,
            request.representation,
            device=request.device,
            seed=request.seed,
            workspace=workspace,
            progress=progress,
            callbacks=callbacks,
            **request.options,
        )
    made.stats["key"] = key
    made.save(folder)
    save_masks(made, folder)
    shutil.rmtree(workspace, ignore_errors=True)
    return name, load(folder), True


def _key(clip: Clip, request: FitRequest, config: Any) -> str:
    """Hash of everything that a fit depends on: equal keys, equal fits."""
    plain = to_plain(config)
    named = {key: Path(value) for key, value in vars(config).items() if isinstance(value, Path | str)}
    paths = {key: path for key, path in named.items() if isinstance(getattr(config, key), Path) or path.is_file()}
    files = {key: [file_digest(file) for file in _files(path)] for key, path in paths.items()}
    kind = registry.representation(request.representation)
    versions = [importlib.metadata.version("canon-video"), getattr(kind, "version", None)]
    return content_hash(clip.content_hash, request.representation, plain, files, request.seed, json.dumps(versions))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.glob("*") if file.is_file())


def _choose_name(project: Project, request: FitRequest, key: str) -> tuple[str, bool]:
    """The fit's name, and whether that very fit is there already."""
    keys = {name: _stored_key(project, name) for name in project.fits}
    if request.name is not None:
        there = keys.get(request.name)
        if request.name in keys and there != key and not request.refit:
            name = request.name
            raise InputError(
                f"The fit '{name}' was made with other options; give another --name, or --refit to replace it."
            )
        return request.name, there == key
    for name, there in keys.items():
        if there == key:
            return name, True
    name, number = request.representation, 2
    while name in keys:
        name, number = f"{request.representation}-{number}", number + 1
    return name, False


def _stored_key(project: Project, name: str) -> str | None:
    try:
        stats = read_yaml(project.fit_folder(name) / FIT_FILE).get("stats")
    except InputError:
        return None
    return str(stats.get("key")) if isinstance(stats, dict) else None


def save_masks(fit: Fit, folder: Path) -> None:
    """Write what each layer shows of every frame as ``masks/LAYER/00000.png``, and a picture of it beside that folder.

    The folder can be given to ``--masks`` as it is, or after masks in it were painted over; in that case a re-fit
    leaves it under another name.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    front = fit.layers[:-1]
    target = folder / MASKS
    _set_aside_changed(target)
    if front:
        with atomic_folder(target, lambda old: {path.name for path in old.iterdir()}) as new:
            for t in range(len(fit)):
                for name, weight in zip(front, fit.weights(t), strict=False):
                    write_image(new / name / f"{t:05d}.png", to_uint8(np.asarray(weight)), compression=1)
            write_bytes(new / _DIGEST, _digest(new).encode())
    write_image(folder / OVERVIEW, mask_overview(fit))


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _DIGEST)
    return content_hash(*([str(path.relative_to(folder)), file_digest(path)] for path in files))


def _set_aside_changed(target: Path) -> None:
    if not target.is_dir():
        return
    stored = target / _DIGEST
    if stored.is_file() and stored.read_text() == _digest(target):
        return
    number = 1
    while (kept := target.with_name(f"{MASKS}-kept{number}")).exists():
        number += 1
    target.rename(kept)
    log.warning("the masks in '%s' were changed by hand; they are kept as '%s'", target, kept.name)
