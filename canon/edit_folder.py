"""An edit on disk: ``edit.yaml``, a 16-bit PNG for every painted layer or mask, and the numbers of warps and fields."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from canon.edits import Delta, Edit, Field, Operation, Over, Provenance, Remove, Step, Warp
from canon.errors import InputError
from canon.folders import atomic_folder
from canon.storage import inside, open_arrays, read_image, read_yaml, write_arrays, write_image, write_yaml

log = logging.getLogger("canon")

EDIT_FILE = "edit.yaml"
FORMAT, VERSION = "canon-edit", 1


def save_edit(edit: Edit, folder: Path) -> None:
    """Write an edit atomically; an earlier one there is replaced, other files are kept.

    Raises:
        InputError: files that are not canon's are in the way, the folder cannot be written, or the disk is full.
    """
    with atomic_folder(folder, _owned) as target:
        steps = []
        for number, step in enumerate(edit.steps):
            entry = _describe(step, target, f"{number:02d}-{step.layer}.png")
            steps.append({"layer": step.layer, **entry, "provenance": asdict(step.provenance)})
        record = {"format": FORMAT, "version": VERSION, "fit": edit.fit, "steps": steps}
        write_yaml(target / EDIT_FILE, record)


def _describe(step: Step, target: Path, image: str) -> dict[str, Any]:
    operation = step.operation
    if isinstance(operation, Over):
        write_image(inside(target, image), Over.pack(operation.rgba, operation.scale))
        return {"kind": "over", "image": image, "scale": operation.scale}
    if isinstance(operation, Delta):
        if operation.mask is None:
            return {"kind": "delta", **operation.parameters}
        write_image(inside(target, image), (operation.mask.astype(np.float64) * 65535 + 0.5).astype(np.uint16))
        return {"kind": "delta", **operation.parameters, "mask": image}
    if isinstance(operation, Warp):
        name = image.replace(".png", ".safetensors")
        write_arrays(inside(target, name), {"grid": operation.grid})
        return {"kind": "warp", "grid": name, "stride": operation.stride}
    if isinstance(operation, Field):
        name = image.replace(".png", ".safetensors")
        write_arrays(inside(target, name), operation.weights)
        return {"kind": "field", "weights": name, "joints": list(operation.joints)}
    return {"kind": "remove", "grow": operation.grow}


def _owned(folder: Path) -> set[str]:
    if not (folder / EDIT_FILE).is_file():
        return set()
    names = {EDIT_FILE}
    try:
        for entry in read_yaml(folder / EDIT_FILE)["steps"]:
            names |= {str(entry[key]) for key in ("image", "mask", "grid", "weights") if key in entry}
    except (InputError, KeyError, TypeError):
        log.warning("'%s' is damaged; it is replaced and the images beside it are kept", folder / EDIT_FILE)
    return names


def load_edit(folder: str | Path) -> Edit:
    """The edit that :meth:`canon.edits.Edit.save` wrote.

    Raises:
        InputError: missing, damaged, of a later version, or not canon's.
    """
    folder = Path(folder)
    record = read_yaml(folder / EDIT_FILE)
    if record.get("format") != FORMAT:
        raise InputError(f"'{folder / EDIT_FILE}' does not describe an edit; give a folder that canon saved one to.")
    if record.get("version") != VERSION:
        raise InputError(f"'{folder}' has format version {record.get('version')!r}; this canon reads {VERSION}.")
    try:
        return Edit([_step(entry, folder) for entry in record["steps"]], str(record["fit"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{folder / EDIT_FILE}' is damaged ({error!r}); make the edit again.") from error


def _step(entry: dict[str, Any], folder: Path) -> Step:
    kind = entry["kind"]
    operation: Operation | None = None
    if kind == "over":
        operation = Over(Over.unpack(_read(folder, entry["image"], 4), float(entry["scale"])))
    elif kind == "delta":
        numbers = {name: entry[name] for name in Delta().parameters}
        mask = _read(folder, entry["mask"], 1)[..., 0] if "mask" in entry else None
        operation = Delta(**numbers, mask=None if mask is None else mask.astype(np.float32) / np.float32(65535))
    elif kind == "remove":
        operation = Remove(int(entry["grow"]))
    elif kind == "warp":
        operation = Warp(open_arrays(inside(folder, entry["grid"]))["grid"], int(entry["stride"]))
    elif kind == "field":
        operation = Field(dict(open_arrays(inside(folder, entry["weights"]))), tuple(entry["joints"]))
    if operation is None:
        raise ValueError(f"an operation called {kind!r}")
    return Step(str(entry["layer"]), operation, Provenance(**entry["provenance"]))


def _read(folder: Path, name: str, channels: int) -> np.ndarray:
    image = read_image(inside(folder, name))
    if image.dtype != np.uint16 or image.shape[2] != channels:
        raise InputError(f"'{folder / name}' is not the image that canon wrote there; make the edit again.")
    return image
