"""All that a fit of a person and a background knows in three dimensions, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np
import torch

from canon.bodies import BodyModel, Bones
from canon.rasterise import Raster
from canon.representations.dynamic_nerf.body_volume import VolumeBody
from canon.representations.dynamic_nerf.buffers import Pose
from canon.representations.dynamic_nerf.deformation import Deformation
from canon.representations.dynamic_nerf.fields import Frame, HumanField, SceneField
from canon.representations.dynamic_nerf.panorama import Panorama
from canon.representations.dynamic_nerf.sizes import Sizes
from canon.representations.dynamic_nerf.skinning import skin
from canon.representations.dynamic_nerf.surface import Mesh, TextureAtlas
from canon.representations.dynamic_nerf.world import World
from canon.skeletons import Motion, Skeleton

_VOLUME = ("volume", "low", "high")
_KEYS = {"human": ("skeleton", "non_rigid", "atlas"), "background": ("frame", "view_dependent", "panorama")}
"""Entries that there are with each layer."""
_WORLD, _POSES = "world.", "poses."
"""What the names of arrays begin with."""


@dataclass(frozen=True, eq=False)
class Poses:
    """The person in frames that are not the moments of the clip that was fitted.

    Attributes:
        rotations: float32 [T, J, 3, 3], of the joints.
        root: float32 [T, 3], where the pelvis is.
        states: int64 [T].
    """

    rotations: np.ndarray
    root: np.ndarray
    states: np.ndarray

    @classmethod
    def of(cls, poses: Sequence[Pose]) -> Poses:
        """Those of one or more frames, in order."""
        rotations, root = (
            torch.stack(parts).cpu().numpy()
            for parts in zip(*((pose.rotations, pose.root) for pose in poses), strict=True)
        )
        return cls(rotations, root, np.array([pose.state for pose in poses], np.int64))

    @classmethod
    def taken_from(cls, arrays: dict[str, np.ndarray]) -> Poses | None:
        """What :meth:`named` put among other arrays, out of which they are taken; None if they are not there.

        Raises:
            KeyError: some of them are not there.
        """
        names = [entry.name for entry in fields(cls)]
        if not any(_POSES + name in arrays for name in names):
            return None
        return cls(**{name: arrays.pop(_POSES + name) for name in names})

    def named(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {_POSES + entry.name: getattr(self, entry.name) for entry in fields(self)}


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
    world, arrays = model.world, _weights(model.world)
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


def described(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Dtype and shape of arrays by name, for :func:`check`."""
    return {name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()}


def check(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], layers: Sequence[str]) -> None:
    """Refuse what :func:`unpack` could not use, as far as that shows without making the networks.

    Args:
        plain, arrays: of :func:`pack`; with an entry ``arrays`` (:func:`described`), all arrays have to be as it says.
        layers: of the fit.

    Raises:
        KeyError, TypeError, ValueError: something is missing or of another kind.
    """
    if "arrays" in plain:
        _agree(described(arrays), dict(plain["arrays"]))
    missing = [f"'{key}'" for name, keys in _KEYS.items() if name in layers for key in keys if key not in plain]
    if missing:
        raise ValueError(f"{' and '.join(missing)} should be there and cannot be found")
    _sizes(plain)
    states = _states(plain)
    if "human" in layers:
        joints = len(_skeleton(plain, arrays))
        shapes = {"rotations": (len(states), joints, 3, 3), "root": (len(states), 3)}
        for name, shape in shapes.items():
            own = arrays[f"world.deformation.{name}"].shape
            if own != shape:
                raise ValueError(f"'{name}' should be {list(shape)} and is {list(own)}")
    if "background" in layers:
        _frame(plain)
    _atlas(plain, arrays)
    _panorama(plain, arrays)


def unpack(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], device: torch.device) -> Model:
    """The model that :func:`pack` took apart.

    Raises:
        InputError: the background is nerfstudio's, which is not installed.
        KeyError, TypeError, ValueError: something of it is missing or of another kind.
    """
    sizes, states = _sizes(plain), _states(plain)
    background = human = deformation = None
    if "frame" in plain:
        kind = str(plain.get("background", "hashgrid"))
        background = make_background(sizes, _frame(plain), kind, "auto", 0, bool(plain["view_dependent"]))
    if "skeleton" in plain:
        body = _body(plain, arrays)
        rotations, root = arrays["world.deformation.rotations"], arrays["world.deformation.root"]
        motion = Motion(body.skeleton, np.array(rotations), np.array(root), 30.0)
        deformation = Deformation(body, motion, sizes.width, 0, non_rigid=bool(plain["non_rigid"]))
        human = HumanField(sizes, deformation.low, deformation.high, "auto", 0, max(states, default=0) + 1)
    world = World(sizes, background, human, deformation)
    own = {name: array for name, array in arrays.items() if name.startswith(_WORLD)}
    _agree(described(own), described(_weights(world)))
    world.load_state_dict({name.removeprefix(_WORLD): torch.from_numpy(np.array(value)) for name, value in own.items()})
    return Model(world.to(device).eval(), states, device, _atlas(plain, arrays), _panorama(plain, arrays))


def _weights(world: World) -> dict[str, np.ndarray]:
    return {_WORLD + name: value.detach().cpu().numpy() for name, value in world.state_dict().items()}


def _agree(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse arrays that are not as they should be, both as :func:`described`."""
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise ValueError(f"'{name}' should be {wanted.get(name, 'absent')} and is {found.get(name, 'missing')}")


def _sizes(plain: Mapping[str, Any]) -> Sizes:
    # Older fits do not say how large a panorama might be: theirs was found already.
    return Sizes(**{"panorama": 0, **{key: int(value) for key, value in dict(plain["sizes"]).items()}})


def _states(plain: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(state) for state in plain["states"])


def _frame(plain: Mapping[str, Any]) -> Frame:
    x, y, z, scale = (float(value) for value in plain["frame"])
    return Frame((x, y, z), scale)


def _skeleton(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Skeleton:
    names, parents = plain["skeleton"]["names"], plain["skeleton"]["parents"]
    return Skeleton(tuple(map(str, names)), tuple(map(int, parents)), arrays["body.offsets"])


def _body(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BodyModel:
    skeleton = _skeleton(plain, arrays)
    parts = (torch.from_numpy(np.array(arrays[f"body.{key}"])) for key in ("joint", "start", "end", "radius"))
    bones, rest = Bones(*parts), torch.from_numpy(np.array(arrays["body.rest"]))
    if "body.volume" not in arrays:
        return BodyModel(skeleton, bones, rest)
    return VolumeBody(skeleton, bones, rest, *(torch.from_numpy(np.array(arrays[f"body.{key}"])) for key in _VOLUME))


def _atlas(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TextureAtlas | None:
    if "atlas" not in plain:
        return None
    height, width = plain["atlas"]
    vertices, faces, uv, source = (np.array(arrays[f"atlas.{key}"]) for key in ("vertices", "faces", "uv", "source"))
    return TextureAtlas(Mesh(vertices, faces), uv, (int(height), int(width)), source)


def _panorama(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Panorama | None:
    if "panorama" not in plain:
        return None
    own = plain["panorama"]
    around, down = own["start"]
    height, width = own["size"]
    centre, axes = (np.array(arrays[f"panorama.{key}"]) for key in ("centre", "axes"))
    start, size = (float(around), float(down)), (int(height), int(width))
    return Panorama(centre, axes, start, float(own["density"]), size)
