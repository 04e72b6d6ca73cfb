"""An edit made again frame by frame, without the representation: what its consistency is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from canon.clip import Clip
from canon.edits import Edit, Provenance
from canon.errors import InputError
from canon.fits import Fit
from canon.registry import Editor, editor, make_config


def framewise_clip(fit: Fit, edits: Sequence[Edit]) -> Clip:
    """The frames that the editors of some edits make of every frame by itself, from the options in the provenance.

    Several steps follow each other, each on the frames that the former gave. Frames are made once and kept on disk.

    Raises:
        InputError: a step does not say how it was made, its editor has no frame-by-frame baseline (see
            :meth:`canon.registry.Editor.framewise`), or that gives frames of another number or size.
    """
    runs = [_tool(made) for edit in edits for made in _runs(edit)]
    if not runs:
        raise InputError("The edit has no steps, so there is nothing to make frame by frame.")
    for tool, config in runs:
        tool.framewise(fit, config)  # what refuses does so before a step in front of it has taken its time
    clip = fit.clip
    for tool, config in runs:
        frames = tool.framewise(fit, config)
        if len(frames) != len(fit):
            raise InputError(f"The frame-by-frame baseline has {len(frames)} frames instead of {len(fit)}.")
        clip = Clip.from_frames((frames[t] for t in range(len(fit))), fit.clip.fps)
        if clip.size != fit.size:
            raise InputError(f"The frame-by-frame baseline has frames of {clip.size} instead of {fit.size}.")
        fit = fit.over(replace(fit.clip, frames=clip.frames, known_hash=clip.known_hash))
    return clip


def _runs(edit: Edit) -> list[Provenance]:
    """How often editors were run for an edit, and with what: one run may have given several steps."""
    runs: list[Provenance] = []
    for step in edit.steps:
        if step.provenance not in runs:
            runs.append(step.provenance)
    return runs


def _tool(made: Provenance) -> tuple[Editor, Any]:
    if not made.editor:
        raise InputError("A step of the edit does not say which editor made it, so it cannot be made frame by frame.")
    kind = editor(made.editor)
    known = {field.name for field in fields(kind.Config) if field.init}
    # Beside its options an editor may note what it found, such as the hash of a model.
    return kind(), make_config(kind.Config, {key: value for key, value in made.options.items() if key in known})
