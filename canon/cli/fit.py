"""``canon fit VIDEO [VIDEO ...] --project DIR``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from canon import registry
from canon.cli.arguments import given, parse
from canon.cli.console import WorkProgress, fit_summary, program, shell
from canon.errors import InputError

DESCRIPTION = """Fit a video, once: every edit then uses that fit. Run it again after an interruption and it goes on;
run it again after it is done and it finds the fit. The options from --preset on are those of the representation."""

# Neither is required for tyro, whose hints would say so: run() looks at both together.
_VIDEOS = tyro.conf.arg(metavar="VIDEO [VIDEO ...]", help_behavior_hint="(required)")
_SEVERAL_MASKS = tyro.conf.arg(metavar="DIR [DIR ...]", help_behavior_hint="(default: None)")


@dataclass
class FitArguments:
    """Options of the command itself."""

    project: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Project folder; made if it is missing."""
    video: Annotated[tuple[str, ...], tyro.conf.Positional, _VIDEOS] = ()
    """A video file, a folder of images, a glob in quotes, or a DAVIS folder; a folder with transforms.json, or in the
    layout of HumanNeRF or NeuMan, whose cameras, masks and poses are found; several are synchronised views."""
    representation: str = "atlas"
    """What explains the video."""
    masks: Annotated[tuple[str, ...], _SEVERAL_MASKS] = ()
    """Folder of PNGs (the foreground), folder of named sub-folders (one per layer, front to back), or one PNG for
    frame 0; one for each view. Some frames are enough."""
    cameras: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Cameras of the frames, or of each view: transforms.json (nerfstudio), metadata.json (HumanNeRF), cameras.json
    (OpenCV's matrices), or the folder of a COLMAP model; or solve: found from the pictures of one view (extra [sfm]).
    Only representations in three dimensions use them."""
    poses: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Poses of the person in the world of the cameras, one for each frame: poses.npz, joints.npz (points in space), a
    .bvh, or what 4D-Humans, WHAM and ROMP write. Only representations of people use them."""
    name: str | None = None
    """Name of the fit in the project."""
    max_frames: int | None = None
    """Use at most so many frames, of each view."""
    size: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="H [W]")] = None
    """Resize frames to this height (and width)."""
    device: str | None = None
    """cpu or cuda; automatic without it."""
    seed: int = 0
    """Seed of everything random."""
    refit: bool = False
    """Fit again, though this fit or another one of that name is there."""
    log: Literal["tensorboard", "wandb", "mlflow"] | None = None
    """Log the fitting: curves of every stage, options and canonical images. tensorboard writes to DIR/logs/NAME; the
    others have to be installed, and their own settings hold."""


def run(arguments: list[str]) -> int:
    """Fit, and say where things are."""
    representation = given(arguments, "--representation") or "atlas"
    config_kind = registry.representation(representation).Config
    own, config = parse("fit", DESCRIPTION, [FitArguments, config_kind], arguments)
    size = own.size
    if size is not None and len(size) not in (1, 2):
        raise InputError(f"--size takes a height, or height and width, not {len(size)} numbers.")
    videos, masks = own.video, own.masks
    if not videos and len(masks) == 2:
        masks, videos = masks[:1], masks[1:]  # "--masks DIR VIDEO" reads as two folders of masks
    if not videos:
        raise InputError("canon fit needs VIDEO; 'canon fit --help' shows the options.")
    options = {name: getattr(config, name) for name in asdict(config)}

    from canon.fit_folder import canvas_files
    from canon.project_fit import FitRequest, fit_into
    from canon.trackers import LOGS

    request = FitRequest(
        videos[0] if len(videos) == 1 else videos,
        own.representation,
        own.name,
        None if not masks else masks[0] if len(masks) == 1 else masks,
        own.max_frames,
        None if size is None else size[0] if len(size) == 1 else (size[0], size[1]),
        own.device,
        own.seed,
        own.refit,
        options,
        own.cameras,
        own.poses,
        own.log,
    )
    with WorkProgress() as progress:
        name, fit, solved = fit_into(own.project, request, progress)
    place = f"{own.project.rstrip('/')}/fits/{name}"
    print(f"fitted: {place}" if solved else f"already fitted: {place} (--refit fits it again)")
    print("\n".join(fit_summary(fit)))
    print(f"  images     {place}/canonical/")
    print(f"  masks      {place}/masks-overview.png" + (f", {place}/masks/" if len(fit.layers) > 1 else ""))
    picture = shell(f"{own.project.rstrip('/')}/canonical/{name}/{canvas_files(fit, fit.layers[0])[0]}")
    if own.log == "tensorboard" and solved:
        print(f"  log        tensorboard --logdir {shell(own.project.rstrip('/'))}/{LOGS}")
    print("next:")
    print(f"  {program()} canonical {shell(own.project)}  # then paint on {picture}")
    print(
        f"  {program()} edit {shell(own.project)} --editor paint --name painted"
        f" --layer {shell(fit.layers[0])} --image {picture}"
    )
    print(f"  {program()} render {shell(own.project)} --edit painted")
    if len(fit.segments(fit.layers[0])) > 1:
        print(f"  # '{fit.layers[0]}' has several canvases: for that of segment 1, add --segment 1, and so on")
    return 0
