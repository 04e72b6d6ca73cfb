"""All that a fit of a person and a background knows in three dimensions, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch

from canon.bodies import BodyModel, Bones
from canon.representations.dynamic_nerf.body_volume import VolumeBody
from canon.representations.dynamic_nerf.buffers import Pose
from canon.representations.dynamic_nerf.deformation import Deformation
from canon.representations.dynamic_nerf.fields import Frame, HumanField, SceneField
from canon.representations.dynamic_nerf.panorama import Panorama
from canon.representations.dynamic_nerf.rasterise import Raster
from canon.representations.dynamic_nerf.sizes import Sizes
from canon.representations.dynamic_nerf.skinning import skin
from canon.representations.dynamic_nerf.surface import Mesh, TextureAtlas
from canon.representations.dynamic_nerf.world import World
from canon.skeletons import Motion, Skeleton

_VOLUME = ("volume", "low", "high")


@dataclass(eq=False)
class Model:
    """The networks, and the canvases' geometry once that is found.

    Attributes:
        world: of eval mode; its deformation holds the corrected poses of all moments.
        states: number of the state at each moment.
        atlas: the person's unwrapped surface.
        panorama: of the background.
    """

    world: World
    states: tuple[int, ...]
    device: torch.device
    atlas: TextureAtlas | None = None
    panorama: Panorama | None = None
    _posed: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False)
    _charts: Raster | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers, front to back."""
        return (["human"] if self.world.human is not None else []) + ["background"]

    def pose(self, moment: int) -> Pose | None:
        """The person's pose at a moment of the clip, as corrected; None where there is no person."""
        if self.world.deformation is None:
            return None
        with torch.no_grad():
            rotations, root = self.world.deformation.poses(torch.tensor(moment, device=self.device))
        return Pose(rotations, root, self.states[moment])

    def posing(self, rotations: np.ndarray, root: np.ndarray, state: int = 0) -> Pose:
        """A pose of one's own: rotations [J, 3, 3] of the joints, and where the pelvis is [3]."""
        turn, place = (torch.from_numpy(np.array(part, np.float32)).to(self.device) for part in (rotations, root))
        return Pose(turn, place, state)

    def rest(self) -> Pose | None:
        """The rest pose, with the pelvis where the rest pose has it."""
        deformation = self.world.deformation
        if deformation is None:
            return None
        eye = torch.eye(3, device=self.device).expand(len(deformation.offsets), 3, 3)
        return Pose(eye, deformation.body.rest[0].to(self.device))

    def vertices(self, pose: Pose) -> np.ndarray:
        """Where the vertices of the atlas's surface are in a pose, float32 [V, 3]."""
        deformation, atlas = self.world.deformation, self.atlas
        assert deformation is not None and atlas is not None
        key = pose.rotations.cpu().numpy().tobytes() + pose.root.cpu().numpy().tobytes()
        known = self._posed.get(key)
        if known is None:
            if len(self._posed) > 64:
                self._posed.clear()
            # Vertices that were split where charts part are moved once.
            first, back = np.unique(atlas.source, return_index=True, return_inverse=True)[1:]
            rest = torch.from_numpy(atlas.mesh.vertices[first]).to(self.device)
            moved = deformation.transforms(pose.rotations, pose.root)
            known = skin(deformation, rest, moved, pose.rotations).cpu().numpy()[back]
            self._posed[key] = known
        return known

    def charts(self) -> Raster:
        """Which face of the surface is at which texel of the atlas."""
        if self._charts is None:
            assert self.atlas is not None
            self._charts = self.atlas.raster()
        return self._charts


def make_background(sizes: Sizes, frame: Frame, kind: str, backend: str, seed: int, view_dependent: bool) -> SceneField:
    """A background that knows nothing yet.

    Args:
        kind: one of :data:`canon.representations.dynamic_nerf.sizes.BACKGROUNDS`.

    Raises:
        InputError: nerfstudio is not installed.
    """
    if kind == "nerfacto":
        from canon.representations.dynamic_nerf.nerfstudio_fields import nerfacto_background

        # It answers as a SceneField does.
        return cast(SceneField, nerfacto_background(sizes, frame, seed))
    return SceneField(sizes, frame, backend, seed, view_dependent)


def pack(model: Model) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`unpack` needs: plain primitives, and arrays by name."""
    world, arrays = model.world, {}
    for name, value in world.state_dict().items():
        arrays[f"world.{name}"] = value.detach().cpu().numpy()
    plain: dict[str, Any] = {"sizes": asdict(world.sizes), "states": list(model.states)}
    if world.background is not None:
        own = world.background.frame
        plain["frame"] = [*own.centre, own.scale]
        plain["view_dependent"] = world.background.view_dependent
        plain["background"] = "hashgrid" if isinstance(world.background, SceneField) else "nerfacto"
    if world.deformation is not None:
        body = world.deformation.body
        plain["skeleton"] = {"names": list(body.skeleton.names), "parents": list(body.skeleton.parents)}
        plain["non_rigid"] = world.deformation.non_rigid
        arrays["body.offsets"], arrays["body.rest"] = body.skeleton.offsets, body.rest.cpu().numpy()
        for key, value in asdict(body.bones).items():
            arrays[f"body.{key}"] = value.cpu().numpy()
        if isinstance(body, VolumeBody):
            for key in _VOLUME:
                arrays[f"body.{key}"] = getattr(body, key).cpu().numpy()
    if model.atlas is not None:
        plain["atlas"] = list(model.atlas.size)
        arrays["atlas.vertices"], arrays["atlas.faces"] = model.atlas.mesh.vertices, model.atlas.mesh.faces
        arrays["atlas.uv"], arrays["atlas.source"] = model.atlas.uv, model.atlas.source
    if model.panorama is not None:
        own_view = model.panorama
        plain["panorama"] = {"start": list(own_view.start), "density": own_view.density, "size": list(own_view.size)}
        arrays["panorama.centre"], arrays["panorama.axes"] = own_view.centre, own_view.axes
    return plain, arrays


def unpack(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], device: torch.device) -> Model:
    """The model that :func:`pack` took apart.

    Raises:
        KeyError, ValueError, TypeError, RuntimeError: something of it is missing or of another shape.
    """
    sizes = Sizes(**{key: int(value) for key, value in plain["sizes"].items()})
    states = tuple(int(state) for state in plain["states"])
    background = human = deformation = None
    if "frame" in plain:
        *centre, scale = (float(value) for value in plain["frame"])
        frame = Frame((centre[0], centre[1], centre[2]), scale)
        kind = str(plain.get("background", "hashgrid"))
        background = make_background(sizes, frame, kind, "auto", 0, bool(plain["view_dependent"]))
    if "skeleton" in plain:
        names, parents = plain["skeleton"]["names"], plain["skeleton"]["parents"]
        skeleton = Skeleton(tuple(map(str, names)), tuple(map(int, parents)), arrays["body.offsets"])
        parts = (torch.from_numpy(np.array(arrays[f"body.{key}"])) for key in ("joint", "start", "end", "radius"))
        bones, rest = Bones(*parts), torch.from_numpy(np.array(arrays["body.rest"]))
        body = BodyModel(skeleton, bones, rest)
        if "body.volume" in arrays:
            volume = (torch.from_numpy(np.array(arrays[f"body.{key}"])) for key in _VOLUME)
            body = VolumeBody(skeleton, bones, rest, *volume)
        rotations, root = arrays["world.deformation.rotations"], arrays["world.deformation.root"]
        motion = Motion(skeleton, np.array(rotations), np.array(root), 30.0)
        deformation = Deformation(body, motion, sizes.width, 0, non_rigid=bool(plain["non_rigid"]))
        human = HumanField(sizes, deformation.low, deformation.high, "auto", 0, max(states, default=0) + 1)
    world = World(sizes, background, human, deformation)
    world.load_state_dict(
        {key[6:]: torch.from_numpy(np.array(value)) for key, value in arrays.items() if key.startswith("world.")}
    )
    model = Model(world.to(device).eval(), states, device)
    if "atlas" in plain:
        mesh = Mesh(np.array(arrays["atlas.vertices"]), np.array(arrays["atlas.faces"]))
        height, width = plain["atlas"]
        model.atlas = TextureAtlas(
            mesh, np.array(arrays["atlas.uv"]), (int(height), int(width)), np.array(arrays["atlas.source"])
        )
    if "panorama" in plain:
        own_view = plain["panorama"]
        start, size = own_view["start"], own_view["size"]
        model.panorama = Panorama(
            np.array(arrays["panorama.centre"]),
            np.array(arrays["panorama.axes"]),
            (float(start[0]), float(start[1])),
            float(own_view["density"]),
            (int(size[0]), int(size[1])),
        )
    return model
