"""A fit on disk: ``fit.yaml``, ``maps.safetensors``, ``canonical/LAYER.png`` to paint on, and which clip it is of."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from canon import registry
from canon.clip import CLIP_FILE, Clip
from canon.errors import InputError
from canon.fits import Fit, FitLayer
from canon.folders import atomic_folder
from canon.segments import Segment
from canon.storage import file_digest, inside, open_arrays, read_yaml, to_plain, write_arrays, write_yaml

log = logging.getLogger("canon")

FIT_FILE, MAPS_FILE, CANVAS_FOLDER = "fit.yaml", "maps.safetensors", "canonical"
ATTACHED_FILE = "attached.safetensors"
FORMAT, VERSION = "canon-fit", 1
OWN_CLIP, PROJECT_CLIP = "clip", "../../clip"
_ARRAYS = ("color", "coverage", "grid", "lighting")
_OPTIONAL = ("opacity", "second_grid", "second_lighting")


def save_fit(fit: Fit, folder: Path) -> None:
    """Write a fit atomically: a crash leaves what was there before.

    In a project (``PROJECT/fits/NAME`` beside ``PROJECT/clip`` of the same frames) that clip is referred to; elsewhere
    the clip is saved inside. What a person put into or changed in ``canonical/`` stays there, a changed export under
    another name.

    Raises:
        InputError: files that are not canon's are in the way, the folder cannot be written, or the disk is full.
    """
    with atomic_folder(folder, _owned) as target:
        reference = OWN_CLIP
        if _is_clip(_clip_folder(folder, PROJECT_CLIP), fit.clip):
            reference = PROJECT_CLIP
        else:
            fit.clip.save(target / OWN_CLIP)
        arrays: dict[str, np.ndarray] = {}
        digests: dict[str, str] = {}
        for layer in fit.baked:
            values = {key: getattr(layer, key) for key in (*_ARRAYS, *_OPTIONAL)}
            arrays |= {f"{layer.name}/{key}": array for key, array in values.items() if array is not None}
            for segment, file in enumerate(canvas_files(fit, layer.name)):
                export = inside(target / CANVAS_FOLDER, file)
                fit.canonical(layer.name, segment).save(export)
                digests[file] = file_digest(export)
        write_arrays(target / MAPS_FILE, arrays)
        plain, attached = fit.attachments()
        if attached:
            write_arrays(target / ATTACHED_FILE, attached)
        _keep_changed(folder, target)
        write_yaml(
            target / FIT_FILE, _record(fit, reference, digests) | ({"attached": to_plain(plain)} if plain else {})
        )


def canvas_files(fit: Fit, layer: str) -> list[str]:
    """File names of a layer's canonical images, one for each segment."""
    count = len(fit.segments(layer))
    return [f"{layer}.png"] if count == 1 else [f"{layer}-segment{k}.png" for k in range(count)]


def _record(fit: Fit, reference: str, digests: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": fit.id,
        "representation": fit.representation,
        "config": to_plain(fit.config),
        "clip": reference,
        "clip_hash": fit.clip.content_hash,
        "fps": f"{fit.clip.fps.numerator}/{fit.clip.fps.denominator}",
        "frames": len(fit),
        "size": list(fit.size),
        "stride": fit.stride,
        "light_stride": fit.light_stride,
        "layers": [
            {
                "name": layer.name,
                "canvas": list(layer.canvas_size),
                "exported": {file: digests[file] for file in canvas_files(fit, layer.name)},
                "segments": [list(astuple(part)) for part in layer.segments],
                **({"charts": True} if layer.charts else {}),
            }
            for layer in fit.baked
        ],
        "stats": to_plain(fit.stats),
    }


def _owned(folder: Path) -> set[str]:
    return {FIT_FILE, MAPS_FILE, ATTACHED_FILE, CANVAS_FOLDER, OWN_CLIP} if (folder / FIT_FILE).is_file() else set()


def _clip_folder(folder: Path, reference: str) -> Path:
    # Not folder / "../../clip": the system follows ".." only through folders that exist already.
    return folder / OWN_CLIP if reference == OWN_CLIP else folder.resolve().parent.parent / "clip"


def _is_clip(folder: Path, clip: Clip) -> bool:
    if not (folder / CLIP_FILE).is_file():
        return False
    try:
        return Clip.open(folder).content_hash == clip.content_hash
    except InputError:
        return False


def _keep_changed(folder: Path, target: Path) -> None:
    """Carry a person's own and painted-over files of ``canonical/`` over from the fit that is being replaced."""
    if not (folder / FIT_FILE).is_file() or not (folder / CANVAS_FOLDER).is_dir():
        return
    try:
        exported: dict[str, str] = {}
        for entry in read_yaml(folder / FIT_FILE)["layers"]:
            digests = entry["exported"]  # of one file, in fits that were written before clips were split
            exported |= digests if isinstance(digests, dict) else {f"{entry['name']}.png": digests}
    except (InputError, KeyError, TypeError):
        exported = {}
    for old in sorted((folder / CANVAS_FOLDER).iterdir()):
        if not old.is_file() or exported.get(old.name) == file_digest(old):
            continue
        new, number = target / CANVAS_FOLDER / old.name, 1
        while new.exists():
            new, number = new.with_name(f"{old.stem}-kept{number}{old.suffix}"), number + 1
        shutil.copy2(old, new)
        log.info("kept '%s' as '%s'", old, new.name)


def load(folder: str | Path) -> Fit:
    """The fit that :meth:`canon.Fit.save` wrote; its arrays are mapped from disk, not read.

    Raises:
        InputError: missing, damaged, of a later version, not canon's, or of a clip that is gone.
    """
    folder = Path(folder)
    record = read_yaml(folder / FIT_FILE)
    if record.get("format") != FORMAT:
        raise InputError(f"'{folder / FIT_FILE}' does not describe a fit; give a folder that canon saved a fit to.")
    if record.get("version") != VERSION:
        raise InputError(f"'{folder}' has format version {record.get('version')!r}; this canon reads {VERSION}.")
    arrays = open_arrays(folder / MAPS_FILE)
    try:
        reference, wanted = record["clip"], record["clip_hash"]
        if reference not in (OWN_CLIP, PROJECT_CLIP):
            raise ValueError(f"a clip at {reference!r}")
        layers = [_layer(str(entry["name"]), entry, arrays) for entry in record["layers"]]
        strides = int(record["stride"]), int(record["light_stride"])
        config, stats, representation = dict(record["config"]), dict(record["stats"]), str(record["representation"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{folder}' is damaged ({error!r}); delete it and fit again.") from error
    clip = Clip.open(_clip_folder(folder, reference))
    if clip.content_hash != wanted:
        raise InputError(f"'{folder}' was fitted to another clip than the one in '{reference}'; fit again.")
    try:
        fit = Fit(clip, representation, config, layers, *strides, stats)
        if "attached" not in record:
            return fit
        return registry.representation(representation).restored(
            fit, record["attached"], open_arrays(folder / ATTACHED_FILE)
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"'{folder}' is damaged: {error}") from error


def _layer(name: str, entry: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> FitLayer:
    found: dict[str, Any] = {key: arrays[f"{name}/{key}"] for key in _ARRAYS}
    found |= {key: arrays.get(f"{name}/{key}") for key in _OPTIONAL}
    parts = tuple(Segment(*(int(value) for value in part)) for part in entry.get("segments", ()))
    return FitLayer(name, **found, segments=parts, charts=bool(entry.get("charts")))
