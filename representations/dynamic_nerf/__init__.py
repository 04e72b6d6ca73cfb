"""A dynamic human and the background behind it, in three dimensions.

After HOSNeRF (Liu et al., ICCV 2023) and DynVideo-E (Liu et al., CVPR 2024): the person is a field in a rest pose that
a skeleton moves, the background a field of the contracted world; both are rendered along the same rays.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from canon.errors import InputError
from canon.registry import Progress, Representation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from canon.bodies import BodyModel
    from canon.clip import Clip
    from canon.fits import Fit
    from canon.representations.dynamic_nerf.fields import Frame
    from canon.representations.dynamic_nerf.model import Model
    from canon.representations.dynamic_nerf.sizes import Sizes
    from canon.representations.dynamic_nerf.world import World
    from canon.representations.motion.flow import Flow
    from canon.skeletons import Motion

log = logging.getLogger("canon")

_SHARES = {"scene": 0.35, "human": 0.4, "joint": 0.1, "bake": 0.1, "canvases": 0.05}
_STEPS = ("scene", "human", "joint")


@dataclass
class DynamicNerfConfig:
    """A person and the background as fields that are seen along rays."""

    preset: str = "balanced"
    """How much work to spend: fast and balanced suit a CPU, quality a GPU."""
    solver: str = "default"
    """There is one: default."""
    body: str = "capsules"
    """What the person is at first: capsules (around the bones), a skinned .glb, an SMPL model (.npz, .pkl), or anny."""
    states: tuple[int, ...] = ()
    """Moments from which on the person holds or wears something else: each stretch gets a look of its own in the
    field, but the texture atlas stays one canvas, a mean over all of them."""
    refine_poses: bool = True
    """Correct the given poses where the frames say so."""
    non_rigid: bool = True
    """Let clothes and flesh move beside the bones, as the pose asks."""
    background: str = "hashgrid"
    """What the background is: hashgrid, or nerfacto (nerfstudio's field, where nerfstudio is installed)."""
    view_dependent: bool = False
    """Let the background's colour depend on where it is seen from."""
    perceptual: bool = True
    """Compare patches of at least 32 pixels (preset quality) by LPIPS as well, where its weights are at hand."""
    flow: bool = False
    """Let the person follow the optical flow between frames; helps where poses are rough."""
    scene_steps: int = 0
    """Steps on the background alone; 0 chooses by preset."""
    human_steps: int = 0
    """Steps on the person alone; 0 chooses by preset."""
    joint_steps: int = 0
    """Steps on both together; 0 chooses by preset."""
    backend: str = "auto"
    """What computes hash grids: auto, torch, triton or tiny-cuda-nn."""

    def __post_init__(self) -> None:
        from canon.representations.dynamic_nerf.sizes import BACKGROUNDS, SIZES
        from canon.representations.fields.hashgrid import BACKENDS

        self.body = str(self.body)
        self.states = tuple(self.states)
        allowed: tuple[tuple[str, str, Sequence[str]], ...] = (
            ("preset", self.preset, tuple(SIZES)),
            ("solver", self.solver, ("default",)),
            ("backend", self.backend, BACKENDS),
            ("background", self.background, BACKGROUNDS),
        )
        for name, value, known in allowed:
            if value not in known:
                raise InputError(f"The {name} '{value}' is not known; choose one of {', '.join(known)}.")
        for name in _STEPS:
            if getattr(self, f"{name}_steps") < 0:
                raise InputError(f"There cannot be {getattr(self, f'{name}_steps')} steps; give at least 0.")
        if any(b <= a for a, b in zip((0, *self.states), self.states, strict=False)):
            raise InputError(f"The states {list(self.states)} must begin at ascending moments after 0.")


class DynamicNerf(Representation):
    """Scene first, then the person, then both; then their surfaces are found and baked as layers."""

    Config = DynamicNerfConfig
    version: ClassVar[int] = 1
    several_views: ClassVar[bool] = True

    def fit(
        self,
        clip: Clip,
        config: DynamicNerfConfig,
        *,
        workspace: Path,
        device: torch.device,
        seed: int,
        progress: Progress,
    ) -> Fit:
        """See :meth:`canon.registry.Representation.fit`."""
        from canon.representations.dynamic_nerf import baking
        from canon.representations.dynamic_nerf.buffers import Shot
        from canon.representations.dynamic_nerf.fit import NerfFit
        from canon.representations.dynamic_nerf.model import pack
        from canon.representations.layered import Clock, plain_options
        from canon.representations.workspace import Workspace
        from canon.storage import file_digest

        check(clip, config)
        assert clip.cameras is not None
        clock = Clock(progress, _SHARES)
        plain = plain_options(config)
        files = [file_digest(Path(config.body))] if Path(config.body).is_file() else []
        work = Workspace(workspace, clip.content_hash, self.version, seed)
        folder = work.stage("train", plain, files)
        model, figures = trained(clip, config, folder, device, seed, clock)
        shots = [
            Shot(camera, model.pose(int(moment))) for camera, moment in zip(clip.cameras, clip.moments, strict=True)
        ]
        with clock.stage("bake"):
            baking.find_canvases(model, shots)
            place = work.stage("bake", plain, files)
            baked = baking.bake(model, shots, place, lambda share: clock.report("bake", share, {}))
        with clock.stage("canvases"):
            canvases = baking.paint_canvases(model, shots, clip.frames, baked)
        attached, arrays = pack(model)
        stats = {"seconds": clock.seconds, **figures}
        layers = baking.layers(model, baked, canvases)
        return NerfFit(clip, plain, layers, attached, {**arrays, "depth": baked.depth}, stats, model=model)

    @classmethod
    def restored(cls, fit: Fit, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Fit:
        """See :meth:`canon.registry.Representation.restored`."""
        from canon.representations.dynamic_nerf.fit import NerfFit

        return NerfFit.restored(fit, plain, arrays)


def check(clip: Clip, config: DynamicNerfConfig) -> None:
    """Refuse a clip that cannot be fitted.

    Raises:
        InputError: cameras are missing, poses are those of another skeleton, or all masks are empty.
    """
    if clip.cameras is None:
        raise InputError(
            "dynamic-nerf needs a camera for every frame, and the clip has none; give --cameras with a transforms.json,"
            " a cameras.json, or a COLMAP model."
        )
    if clip.poses is None:
        log.warning("there are no poses (--poses): only the background is fitted")
        return
    joints = len(clip.poses.skeleton)
    if joints != 24:
        raise InputError(f"The poses have {joints} joints; dynamic-nerf needs the 24 joints of SMPL.")
    if config.flow and any(any(camera.distortion) for camera in clip.cameras):
        raise InputError("--flow needs pictures without lens distortion; undistort them first, or leave --flow out.")
    if config.states and config.states[-1] >= len(clip.poses):
        raise InputError(f"A state begins at moment {config.states[-1]}, and there are {len(clip.poses)} moments.")
    masks = next(iter(clip.masks.values()), None)
    if masks is not None and not any(bool(np.any(values > 127)) for values in masks.values):
        raise InputError("The masks show no person in any frame; give masks that are white on the person, or none.")
    if config.states:
        log.warning("the person has %d states and one canvas: it is a mean over all of them", len(config.states) + 1)


def trained(
    clip: Clip, config: DynamicNerfConfig, folder: Path, device: torch.device, seed: int, clock: Any
) -> tuple[Model, dict[str, Any]]:
    """The fields of a clip, and what is worth telling of their training; taken up again where ``folder`` holds it."""
    from canon.representations.dynamic_nerf.model import Model
    from canon.representations.dynamic_nerf.observations import Observations
    from canon.representations.dynamic_nerf.sizes import SIZES
    from canon.representations.dynamic_nerf.training import Training

    assert clip.cameras is not None
    chosen = {name: getattr(config, f"{name}_steps") for name in _STEPS}
    sizes = replace(SIZES[config.preset], **{name: steps for name, steps in chosen.items() if steps})
    count = 0 if clip.poses is None else len(clip.poses)
    states = tuple(int(np.searchsorted(config.states, moment, side="right")) for moment in range(count))
    motion, body = None, None
    if clip.poses is not None:
        motion, body = clip.poses, starting_body(config, clip.poses)
    world = make_world(sizes, scene_frame(clip), body, motion, config, len(config.states) + 1, seed).to(device)
    seen = Observations(clip, clip.cameras, device)
    training = Training(
        world,
        seen,
        torch.tensor(states or (0,), device=device),
        config.refine_poses,
        seed,
        folder,
        str(asdict(sizes)),
        _perceptual(config, sizes, device),
        _flow(config, clip, folder),
    )
    if motion is not None and not len(training.places.near):
        raise InputError("The poses are in no frame as its camera sees it; poses and cameras must be of one world.")
    stages = ("scene", "human", "joint") if motion is not None else ("scene",)
    for name in stages:
        with clock.stage(name):
            run = {"scene": training.scene, "human": training.person, "joint": training.joint}[name]
            run(partial(clock.report, name))
    model = Model(world.eval(), states, device)
    return model, {"curve": training.curve, "steps": chosen}


def _perceptual(config: DynamicNerfConfig, sizes: Sizes, device: torch.device) -> torch.nn.Module | None:
    """LPIPS, if it is asked for, would mean anything, and is at hand."""
    from canon.perceptual import load_lpips
    from canon.representations.dynamic_nerf.training import LEAST_PATCH

    if not config.perceptual or sizes.patch < LEAST_PATCH:
        return None
    found = load_lpips()
    if isinstance(found, str):
        log.info("LPIPS is left out of the loss: %s", found)
        return None
    return found.to(device).requires_grad_(False)  # type: ignore[no-any-return]


def _flow(config: DynamicNerfConfig, clip: Clip, folder: Path) -> Flow | None:
    """Optical flow between neighbouring frames, if it is asked for."""
    from canon.representations.motion.flow import compute_flow

    if not config.flow or len(clip) < 2 or clip.poses is None:
        return None
    place = folder / "flow"
    place.mkdir(parents=True, exist_ok=True)
    return compute_flow(clip.frames, place)


def make_world(
    sizes: Sizes,
    frame: Frame,
    body: BodyModel | None,
    motion: Motion | None,
    config: DynamicNerfConfig,
    states: int,
    seed: int,
) -> World:
    """Networks that know nothing yet."""
    from canon.representations.dynamic_nerf.deformation import Deformation
    from canon.representations.dynamic_nerf.fields import HumanField
    from canon.representations.dynamic_nerf.model import make_background
    from canon.representations.dynamic_nerf.world import World

    background = make_background(sizes, frame, config.background, config.backend, seed, config.view_dependent)
    if body is None or motion is None:
        return World(sizes, background, None, None)
    deformation = Deformation(body, motion, sizes.width, seed + 5, non_rigid=config.non_rigid)
    human = HumanField(sizes, deformation.low, deformation.high, config.backend, seed + 7, states)
    return World(sizes, background, human, deformation)


def starting_body(config: DynamicNerfConfig, motion: Motion) -> BodyModel:
    """The body that the poses move."""
    from canon.body_models import find_body
    from canon.representations.dynamic_nerf.body_volume import in_volume

    body = find_body(config.body, motion.skeleton)
    return body if config.body == "capsules" else in_volume(body)


def scene_frame(clip: Clip) -> Frame:
    """What part of the world is looked at: the cameras' surroundings about the person, or about what they look at."""
    from canon.representations.dynamic_nerf.fields import Frame
    from canon.representations.dynamic_nerf.training import focus

    assert clip.cameras is not None
    places = np.array([camera.position for camera in clip.cameras])
    ahead = np.array([camera.rotation[2] for camera in clip.cameras])
    if clip.poses is not None:
        centre = np.asarray(clip.poses.root, np.float64).mean(axis=0)
    else:
        centre = focus(places, ahead)
        spread = np.linalg.norm(places - places.mean(axis=0), axis=1).max()
        before = ((centre - places) * ahead).sum(axis=1)
        if not (before > 0).mean() > 0.9 or np.linalg.norm(centre - places.mean(axis=0)) > 20 * spread:
            # Nothing that all look at: cameras side by side, or one that stands still.
            centre = places.mean(axis=0) + ahead.mean(axis=0) * max(2 * spread, 1.0)
    reach = max(float(np.linalg.norm(places - centre, axis=1).max()), 1e-3)
    return Frame((float(centre[0]), float(centre[1]), float(centre[2])), 1.0 / reach)
