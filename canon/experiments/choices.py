"""What an experiment asks for, once it is checked: choices of clips, representations and editors, in cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from canon.experiments.contracts import Resources
from canon.experiments.nodes import Node
from canon.experiments.places import Place

FIT_FIGURES = (
    "psnr", "ssim", "psnr_min", "psnr_unlit", "ssim_unlit", "lpips", "tracks_fb", "folded", "iou_*", "seconds",
    "seconds_*", "peak_mib",
)  # fmt: skip
"""Figures of :func:`canon.evaluate` that are of a fit."""
EDIT_FIGURES = (
    "warp_error", "warp_error_inside", "warp_error_source", "warp_error_source_inside", "warp_error_excess_inside",
    "edited_share", "changed_outside", "changed_outside_mean", "palette_distance", "palette_distance_source",
    "palette_colour", "clip_text", "clip_text_source", "clip_direction", "frame_consistency_pairs",
    "frame_consistency_consecutive", "consistency_gain", "framewise_*",
)  # fmt: skip
"""Those that are of an edit."""
MOST_TASKS = 20_000


@dataclass
class ClipOptions:
    """What can be said of a clip; see :meth:`canon.Clip.load`."""

    masks: Path | tuple[Path | None, ...] | None = None
    cameras: Literal["solve"] | Path | None = None
    poses: Path | None = None
    max_frames: int | None = None
    size: int | tuple[int, int] | None = None
    fps: float | None = None


@dataclass
class MetricsOptions:
    """What is measured; see :func:`canon.evaluate`."""

    only: tuple[str, ...] = ("*",)
    clip_model: str | None = None
    framewise: bool = False
    colour: str | None = None
    source_prompt: str | None = None


@dataclass
class RenderOptions:
    """How videos are written; see :func:`canon.render`."""

    scale: int = 1
    format: Literal["mp4", "mov", "webm", "gif"] = "mp4"
    lit: bool = True


@dataclass
class ResourceOptions:
    """What tasks of a kind may use."""

    cpus: int = 2
    gpus: float = 0.0
    memory: int | str = 0


@dataclass(frozen=True)
class ClipChoice:
    """A clip as it is wanted."""

    name: str
    sources: tuple[str, ...]
    options: Mapping[str, Any]
    frames: int
    """As the files say; of videos that do not say it, a guess."""
    size: tuple[int, int]
    cameras: bool
    """Whether it comes with cameras."""
    place: Place
    swept: tuple[str, ...] = ()
    metrics: Node | None = None


@dataclass(frozen=True)
class FitChoice:
    """A representation as it is wanted of one clip."""

    name: str
    kind: str
    options: Mapping[str, Any]
    """As given, JSON primitives, paths absolute."""
    config: Mapping[str, Any]
    """All fields of the config."""
    seed: int
    device: str | None
    swept: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolChoice:
    """One run of an editor."""

    name: str
    """Of the item, without the seed."""
    editor: str
    options: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, Any]] | None
    configs: tuple[Mapping[str, Any], ...]
    """All fields of the config, of every layer."""
    seed: int | None = None


@dataclass(frozen=True)
class EditChoice:
    """An edit, or a stack of them, on one fit."""

    name: str
    """Of the item, without the seed."""
    tools: tuple[ToolChoice, ...]
    seed: int | None
    swept: tuple[str, ...]
    metrics: MetricsOptions | None
    render: RenderOptions | None


@dataclass(frozen=True)
class Cell:
    """One row of the results."""

    clip: ClipChoice
    fit: FitChoice
    edit: EditChoice | None = None
    metrics: MetricsOptions | None = None
    """Of the fit alone."""


@dataclass
class Experiment:
    """What is to be done, all of it checked."""

    name: str
    out: str
    """Path or URL of the store."""
    cells: list[Cell]
    resources: dict[str, Resources]
    log: str | None = None
    description: str = ""
    max_tasks: int = MOST_TASKS
    plain: dict[str, Any] = field(default_factory=dict)
    """The whole YAML, includes resolved."""
    out_place: Place | None = None
