"""``canon.evaluate``: every figure of a fit and of an edit that can be had without knowing the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canon.baseline import framewise_clip
from canon.clip import Clip
from canon.colour import colour_word, named_colour
from canon.edits import Edit
from canon.errors import InputError
from canon.fits import Fit
from canon.metrics import (
    cycle_error,
    directional_similarity,
    flicker,
    folded,
    frame_consistency,
    leaks,
    mask_agreement,
    palette_distance,
    reconstruction,
    text_similarity,
)
from canon.perceptual import DEFAULT_CLIP, ClipEncoder, lpips_distance
from canon.registry import Frames
from canon.rendering import Video, render


def evaluate(
    fit: Fit,
    edit: Edit | Sequence[Edit] | None = None,
    *,
    colour: str | None = None,
    clip_model: str | None = None,
    source_prompt: str | None = None,
    framewise: bool = False,
) -> dict[str, float | str]:
    """Everything that can be measured without knowing the truth; figures that do not apply are left out.

    Of the fit: ``psnr``, ``ssim`` (means over frames), ``psnr_min``, both ``_unlit`` (without the lighting term),
    ``tracks_fb`` (:func:`canon.metrics.cycle_error`), ``folded`` (:func:`canon.metrics.folded`), ``iou_LAYER`` where
    the clip has masks (weights above 0.5 against masks above half), ``lpips``, ``seconds``, ``seconds_STAGE`` and
    ``peak_mib`` of the fitting.

    Of an edit, or a stack in order; inside means :func:`canon.metrics.edited_area`:

    - ``warp_error`` (:func:`canon.metrics.warp_error`, by the source's flow), ``warp_error_source`` (the same of the
      source, which is the floor), both again ``_inside``, and ``warp_error_excess_inside``, the former less the latter;
    - ``edited_share`` of pixels that changed, ``changed_outside`` and ``changed_outside_mean``: largest and mean
      change, in levels of 255, of pixels that no edit touches, which must be 0;
    - ``palette_distance`` and ``palette_distance_source``: mean CIEDE2000 between ``palette_colour`` and the pixels
      inside, after and before the edit;
    - by CLIP: ``clip_text`` and ``clip_text_source``, cosine of the prompt and the frames after and before;
      ``clip_direction``, cosine of the change of the frames and the change from ``source_prompt`` to the prompt;
      ``frame_consistency_pairs`` (any two frames) and ``frame_consistency_consecutive`` (neighbours in a view);
    - with ``framewise``, warp errors, palette and CLIP again as ``framewise_...``, of the edit made on every frame by
      itself, judged on the same pixels; ``consistency_gain``: its ``warp_error_excess_inside`` over the edit's.

    ``notes`` says in sentences what was left out and why.

    Args:
        colour: CSS name, or #rrggbb, of the palette colour; None takes the first one that the edit's prompts name.
        clip_model: folder, or hub id in the hub's cache, of a CLIP model; None takes
            :data:`canon.perceptual.DEFAULT_CLIP` if it is there. Nothing is downloaded.
        source_prompt: what the source shows.
        framewise: whether to make the edit frame by frame, too, which takes as long as the editor does for all frames.

    Raises:
        InputError: an edit does not belong to the fit, an unknown colour, a CLIP model that was asked for and cannot be
            loaded, options of an edit without one, or no way to make the edit frame by frame.
    """
    if edit is None and (colour is not None or clip_model is not None or source_prompt is not None or framewise):
        raise InputError(
            "A colour, a CLIP model, a source prompt and a frame-by-frame baseline are for measuring an edit."
        )
    # First, since it refuses what cannot be used.
    measured: dict[str, float | str] = {}
    if edit is not None:
        measured = evaluate_edit(
            fit, edit, colour=colour, clip_model=clip_model, source_prompt=source_prompt, framewise=framewise
        )
    figures = evaluate_fit(fit)
    notes = [str(found.pop("notes")) for found in (measured, figures) if "notes" in found]
    found = {**figures, **measured}
    return {**found, "notes": " ".join(notes)} if notes else found


def evaluate_fit(fit: Fit) -> dict[str, float | str]:
    """The figures of :func:`evaluate` that are of a fit alone."""
    notes: list[str] = []
    figures = reconstruction(fit)
    cycle = cycle_error(fit)
    if np.isfinite(cycle):
        figures["tracks_fb"] = cycle
    figures["folded"] = folded(fit)
    figures |= mask_agreement(fit)
    figures |= lpips_distance(fit, notes)
    found: dict[str, float | str] = {**figures, **_spent(fit.stats)}
    return {**found, "notes": " ".join(notes)} if notes else found


def evaluate_edit(
    fit: Fit,
    edit: Edit | Sequence[Edit],
    *,
    colour: str | None = None,
    clip_model: str | None = None,
    source_prompt: str | None = None,
    framewise: bool = False,
) -> dict[str, float | str]:
    """The figures of :func:`evaluate` that are of an edit, whose fit is measured elsewhere; it refuses the same."""
    notes: list[str] = []
    video = render(fit, edit)
    judge = _judge(video, colour, clip_model, source_prompt, notes)
    found = judge.compared(framewise_clip(fit, video.edits) if framewise else None, notes)
    return {**found, "notes": " ".join(notes)} if notes else found


@dataclass(frozen=True)
class _Judge:
    """What the frames of an edit are judged by, whoever made them."""

    video: Video
    colour: str | None
    clip: ClipEncoder | None
    prompt: str
    source_prompt: str | None
    source: np.ndarray | None
    """CLIP's embeddings of the source's frames, [T, D]."""

    def compared(self, baseline: Clip | None, notes: list[str]) -> dict[str, float | str]:
        """Figures of the video, of its source, and of a baseline."""
        own = self.figures(self.video)
        found: dict[str, float | str] = {**own, **leaks(self.video)}
        frames = self.video.fit.clip.frames
        if self.colour is not None:
            before = {"palette_distance_source": palette_distance(self.video, frames, named_colour(self.colour))}
            found |= {**_finite(before), "palette_colour": self.colour}
        if self.clip is not None and self.source is not None and self.prompt:
            found["clip_text_source"] = text_similarity(self.source, self.clip.text(self.prompt))
        if baseline is None:
            return found
        other = self.figures(baseline.frames)
        found |= {f"framewise_{name}": value for name, value in other.items() if "_source" not in name}
        excess, others = (figures.get("warp_error_excess_inside", np.nan) for figures in (own, other))
        if excess > 0 and np.isfinite(others):
            found["consistency_gain"] = others / excess
        elif excess <= 0:
            notes.append("consistency_gain is left out: inside, the edit does not flicker more than the source does.")
        return found

    def figures(self, frames: Frames) -> dict[str, float]:
        """What can be said of any frames that are to show the edit."""
        found = flicker(self.video, frames)
        if self.colour is not None:
            found["palette_distance"] = palette_distance(self.video, frames, named_colour(self.colour))
        if self.clip is not None and self.source is not None:
            images = self.clip.images(frames[t] for t in range(len(frames)))
            found["frame_consistency_pairs"] = frame_consistency(images, all_pairs=True)
            found["frame_consistency_consecutive"] = frame_consistency(images, views=len(self.video.fit.clip.views))
            if self.prompt:
                text = self.clip.text(self.prompt)
                found["clip_text"] = text_similarity(images, text)
                if self.source_prompt is not None:
                    before = self.clip.text(self.source_prompt)
                    found["clip_direction"] = directional_similarity(self.source, images, before, text)
        return _finite(found)


def _judge(
    video: Video, colour: str | None, clip_model: str | None, source_prompt: str | None, notes: list[str]
) -> _Judge:
    prompts = list(_prompts(video.edits))
    if colour is not None:
        named_colour(colour)
    else:
        colour = next((word for word in map(colour_word, prompts) if word is not None), None)
    if colour is None:
        notes.append("palette_distance is left out: no colour was given, and no prompt of the edit names one.")
    encoder: ClipEncoder | None = None
    try:
        encoder = ClipEncoder(clip_model or DEFAULT_CLIP)
    except InputError:
        if clip_model is not None:
            raise
        notes.append("clip_text, clip_direction and frame_consistency are left out: no CLIP model is on this machine.")
    else:
        if not prompts:
            notes.append("clip_text and clip_direction are left out: the edit has no prompt.")
        elif source_prompt is None:
            notes.append("clip_direction is left out: there is no source prompt.")
    source = None if encoder is None else encoder.images(video.fit.clip.frames)
    return _Judge(video, colour, encoder, ", ".join(prompts), source_prompt, source)


def _prompts(edits: Iterable[Edit]) -> list[str]:
    """What was asked for in words, each once, in order."""
    found: list[Any] = []
    for options in (step.provenance.options for edit in edits for step in edit.steps):
        regions = options.get("regions") or ()
        found += [str(text).rpartition("=")[2] for text in regions] if regions else [options.get("prompt")]
    return list(dict.fromkeys(text.strip() for text in found if isinstance(text, str) and text.strip()))


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _spent(stats: Mapping[str, Any]) -> dict[str, float]:
    """``seconds``, ``seconds_STAGE`` and ``peak_mib`` as the fit noted them."""
    stages = stats.get("seconds")
    stages = {str(k): float(v) for k, v in stages.items()} if isinstance(stages, Mapping) else {}
    found = {f"seconds_{name}": value for name, value in stages.items()}
    if "seconds_total" in stats or stages:
        found = {"seconds": float(stats.get("seconds_total", sum(stages.values()))), **found}
    return {**found, "peak_mib": float(stats["peak_mib"])} if "peak_mib" in stats else found
