"""The layers' masks: from the user, propagated from some frames, a box or a scribble, or found by motion."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from canon.clip import Clip, check_frame
from canon.representations.motion.flow import Flow
from canon.representations.motion.homography import CameraMotion, estimate_camera
from canon.representations.motion.propagation import (
    box_within,
    enlarge,
    mask_from_box,
    mask_from_scribble,
    propagate,
    read_scribble,
    trim,
)
from canon.representations.motion.segmentation import Evidence, gather_evidence, moving_object, unexplained
from canon.storage import create_array

log = logging.getLogger("canon")

_RESTARTS, _WORTH_IT = 2, 0.99
_COMPARE = 0.5  # of the lattice: a ghost is a matter of areas
_FULL = 0.8
"""Quantile of the masks' areas at which a search starts again; the largest ones may be spills."""


@dataclass(frozen=True)
class MaskPrompt:
    """How to find a foreground in a clip that brings no masks.

    Attributes:
        frame: the frame that box or scribble belong to.
        box: x, y, width, height in pixels.
        scribble: an image of the frame's size: white = object, black = not, gray = unknown.
        search: whether to look for what moves when there is neither.
    """

    frame: int = 0
    box: tuple[int, int, int, int] | None = None
    scribble: Path | None = None
    search: bool = True


@dataclass(frozen=True)
class LayerMasks:
    """A layer's mask in every frame, uint8 [T, H, W], and in one sentence where it comes from.

    ``matte`` says that somebody made it with soft edges, which are to be believed.
    """

    name: str
    values: np.ndarray
    origin: str
    matte: bool = False


def check_prompt(clip: Clip, prompt: MaskPrompt) -> None:
    """Say at once what :func:`resolve_masks` would say after the optical flow.

    Raises:
        InputError: box, scribble or prompt frame do not fit the clip.
    """
    check_frame(prompt.frame, len(clip))
    if prompt.scribble is not None:
        read_scribble(prompt.scribble, clip.size)
    elif prompt.box is not None:
        box_within(prompt.box, clip.size)


def resolve_masks(clip: Clip, flow: Flow, prompt: MaskPrompt, folder: Path, seed: int) -> list[LayerMasks]:
    """Masks of all layers but the background, front to back, written to ``folder`` as NAME.npy.

    Raises:
        InputError: box, scribble or prompt frame do not fit the clip.
    """
    found = []
    for name, given in clip.masks.items():
        out = create_array(folder / f"{name}.npy", clip.frames.shape[:3], np.uint8)
        if given.complete(len(clip)):
            soft = 0
            for t in range(len(clip)):
                mask = np.asarray(given.get(t))
                soft += _is_soft(mask)
                out[t] = _soften(mask)
            matte = soft > len(clip) / 2
            how = " (soft mattes)" if matte else ""
            found.append(LayerMasks(name, out, f"'{name}': the masks that were given{how}", matte))
        else:
            known = {t: _soften(np.asarray(given.get(t))) for t in given.indices}
            _propagate_with_evidence(clip, flow, known, out, seed)
            frames = ", ".join(map(str, sorted(known)[:5])) + ("..." if len(known) > 5 else "")
            found.append(LayerMasks(name, out, f"'{name}': propagated from the mask of frame {frames}"))
    if not found:
        found = _prompted(clip, flow, prompt, folder, seed)
    for layer in found:
        log.info("mask of %s", layer.origin)
    return found


def _is_soft(mask: np.ndarray) -> bool:
    """Whether a mask [H, W] is a matte and not an outline: how many of its values lie in between."""
    between = int(((mask > 16) & (mask < 239)).sum())
    solid = (mask > 127).astype(np.uint8)
    outline = int((cv2.dilate(solid, np.ones((3, 3), np.uint8)) - solid).sum())
    return between > outline / 2


def _soften(mask: np.ndarray) -> np.ndarray:
    """Antialias a hard mask; leave a soft one as it is."""
    hard = np.isin(mask, (0, 255)).all()
    return cv2.GaussianBlur(mask, (0, 0), 0.7) if hard else mask


def _prompted(clip: Clip, flow: Flow, prompt: MaskPrompt, folder: Path, seed: int) -> list[LayerMasks]:
    image = np.asarray(clip.frames[prompt.frame])
    if prompt.scribble is not None:
        start, how = mask_from_scribble(image, read_scribble(prompt.scribble, clip.size)), "the scribble"
    elif prompt.box is not None:
        start, how = mask_from_box(image, prompt.box), f"the box {prompt.box}"
    elif prompt.search and len(clip) > 1:
        return _searched(clip, flow, folder, seed)
    else:
        return []
    out = create_array(folder / "foreground.npy", clip.frames.shape[:3], np.uint8)
    _propagate_with_evidence(clip, flow, {prompt.frame: _soften(start)}, out, seed)
    return [LayerMasks("foreground", out, f"'foreground': found from {how} on frame {prompt.frame}, propagated")]


def _propagate_with_evidence(clip: Clip, flow: Flow, known: dict[int, np.ndarray], out: np.ndarray, seed: int) -> None:
    """Carried by colour and flow first; then again with what moves against the background that this reveals."""
    propagate(clip.frames, flow, known, out)
    if len(clip) < 3:
        return
    around = np.stack([cv2.dilate(mask, np.ones((9, 9), np.uint8)) for mask in on_lattice(out, flow)])
    camera = estimate_camera(clip.frames, flow, 255 - around, seed, thorough=False)
    propagate(clip.frames, flow, known, out, gather_evidence(clip.frames, flow, camera))


def on_lattice(masks: np.ndarray, flow: Flow, share: float = 1.0) -> np.ndarray:
    """Masks [T, H, W] on the flow's lattice, or a ``share`` of its size: uint8 [T, h, w]."""
    size = round(flow.forward.shape[2] * share), round(flow.forward.shape[1] * share)
    return np.stack([cv2.resize(np.asarray(mask), size, interpolation=cv2.INTER_AREA) for mask in masks])


def _searched(clip: Clip, flow: Flow, folder: Path, seed: int) -> list[LayerMasks]:
    everywhere = np.full((len(clip), *flow.forward.shape[1:3]), 255, np.uint8)
    camera = estimate_camera(clip.frames, flow, everywhere, seed, thorough=False)
    evidence = gather_evidence(clip.frames, flow, camera)
    clearest = moving_object(evidence)
    if clearest is None:
        log.warning("nothing moves against the background: the clip gets one layer; give masks or a box to have more")
        return []
    t, rough = clearest
    lattice = (flow.forward.shape[2], flow.forward.shape[1])
    mask = enlarge(trim(cv2.resize(clip.frames[t], lattice, interpolation=cv2.INTER_AREA), rough), clip.size)
    out = create_array(folder / "foreground.npy", clip.frames.shape[:3], np.uint8)
    propagate(clip.frames, flow, {t: mask}, out, evidence, evidence.usual_counts())
    _complete(clip, flow, camera, evidence, out, folder)
    return [
        LayerMasks(
            "foreground",
            out,
            f"'foreground': found by its motion, clearest on frame {t}; look at it, and give a mask where it is wrong",
        )
    ]


def _complete(clip: Clip, flow: Flow, camera: CameraMotion, evidence: Evidence, out: np.ndarray, folder: Path) -> None:
    """Start again from a frame where much was found, as often as that leaves less of the clip unexplained.

    What stands still for a while (a bear's legs) is missed on the frames where it stands; a frame where it moves shows
    it, and from there colour and learnt evidence carry it on. ``out`` [T, H, W] is improved in place.
    """
    left = unexplained(clip.frames, camera, on_lattice(out, flow, _COMPARE))
    for _ in range(_RESTARTS):
        areas = [int((mask > 127).sum()) for mask in out]
        full = int(np.argsort(areas)[round(_FULL * (len(areas) - 1))])
        again = create_array(folder / "again.npy", out.shape, np.uint8)
        propagate(clip.frames, flow, {full: out[full].copy()}, again, evidence)
        now = unexplained(clip.frames, camera, on_lattice(again, flow, _COMPARE))
        if now > _WORTH_IT * left:
            break
        out[:], left = again, now
    (folder / "again.npy").unlink(missing_ok=True)
