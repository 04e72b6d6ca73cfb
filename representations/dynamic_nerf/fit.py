"""A fit in three dimensions: the layers of any other, and views from elsewhere, in other poses."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from canon.cameras import Camera
from canon.clip import Clip
from canon.edits import Field
from canon.errors import InputError, first_line
from canon.fits import Fit, FitLayer
from canon.per_frame import PerFrame
from canon.rasterise import Raster, interpolate, rasterise
from canon.representations.dynamic_nerf import model as models
from canon.representations.dynamic_nerf.baking import LIGHT_STRIDE, bake, colour_at, layers, repainted
from canon.representations.dynamic_nerf.buffers import Pose, Shot, Traced, pictures, see, trace
from canon.representations.dynamic_nerf.editing import (
    EditedFrames,
    changes_shape,
    editable,
    edited_world,
)
from canon.representations.dynamic_nerf.exporting import save_mesh, turntables
from canon.representations.dynamic_nerf.world import Seen
from canon.runtime import usable_device
from canon.sampling import fill_from_nearest, remap_points
from canon.skeletons import Motion
from canon.spatial import SpatialFit, Turntable
from canon.storage import content_hash

_NEARER = 0.04
"""Metres, or for the background the share of its distance, by which something may lie before what it hides."""
_FOLLOWED = 6
"""Steps in which a texel of the panorama is found in a frame."""


class NerfFit(SpatialFit):
    """Layers "human" (where there is one) and "background", and the fields that they were baked from."""

    def __init__(
        self,
        clip: Clip,
        config: Mapping[str, Any],
        baked: Sequence[FitLayer],
        plain: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        stats: Mapping[str, Any] | None = None,
        *,
        model: models.Model | None = None,
        poses: models.Poses | None = None,
    ) -> None:
        """Put a fit together.

        Args:
            plain, arrays: of :func:`canon.representations.dynamic_nerf.model.pack`, and the array ``depth``, float32
                [T, H, W], how far the background is.
            model: what they were packed from; None unpacks them when that is first asked for.
            poses: of the frames, where they are not those of the clip's moments.

        Raises:
            InputError: an array has another shape than the clip asks for, or the clip's cameras are missing.
        """
        super().__init__(clip, "dynamic-nerf", config, baked, 1, LIGHT_STRIDE, stats)
        if clip.cameras is None:
            raise InputError("A fit in three dimensions needs the cameras of its clip, which are missing.")
        if arrays["depth"].shape != (len(clip), *clip.size):
            raise InputError(f"The depth is {list(arrays['depth'].shape)}, and the clip {[len(clip), *clip.size]}.")
        if poses is not None and not len(clip) == len(poses.rotations) == len(poses.root) == len(poses.states):
            raise InputError(f"There are poses of {len(poses.rotations)} frames, and the clip has {len(clip)}.")
        self._plain, self._arrays = dict(plain), dict(arrays)
        self._model, self._poses, self._edited = model, poses, False
        self.cameras = list(clip.cameras)
        """One for each frame."""
        self.depth = arrays["depth"]
        """float32 [T, H, W], how far the background is, also behind the person."""

    @classmethod
    def restored(cls, fit: Fit, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> NerfFit:
        """The fit of which :meth:`attachments` were kept; its fields are made when they are first asked for.

        Raises:
            InputError: something of the attachments is missing or of another kind.
        """
        try:
            models.check(plain, arrays, fit.layers)
            values = dict(arrays)
            poses = models.Poses.taken_from(values)
            own = {key: value for key, value in plain.items() if key not in ("id", "arrays")}
            found = cls(fit.clip, fit.config, fit.baked, own, values, fit.stats, poses=poses)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{_damage(error)}; delete the fit and fit again.") from error
        # Seen from elsewhere it is still at home where the edits of the first fit are.
        found._id = str(plain["id"]) if "id" in plain else None
        return found

    @property
    def model(self) -> models.Model:
        """The fields, on the GPU where there is one.

        Raises:
            InputError: what was kept of them is damaged, or nerfstudio made them and is not installed.
        """
        if self._model is None:
            try:
                self._model = models.unpack(self._plain, self._arrays, usable_device(None))
            except InputError:
                raise
            except (KeyError, TypeError, ValueError) as error:
                name = f"'{self.clip.source}'"
                raise InputError(f"The fit of {name} is damaged: {_damage(error)}; delete it and fit again.") from error
        return self._model

    @property
    def id(self) -> str:
        """See :attr:`canon.Fit.id`."""
        if self._id is None:
            self._id = content_hash(super().id, {key: value for key, value in self._plain.items() if key != "sizes"})
        return self._id

    def attachments(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See :meth:`canon.Fit.attachments`.

        Raises:
            InputError: fields were replaced by an edit's.
        """
        if self._edited:
            raise InputError("A fit with edited fields is not saved; save the fit, and the edit beside it.")
        arrays = self._arrays | ({} if self._poses is None else self._poses.named())
        return {**self._plain, "id": self.id, "arrays": models.described(arrays)}, arrays

    def over(self, clip: Clip) -> NerfFit:
        """See :meth:`canon.Fit.over`."""
        clip = replace(clip, cameras=self.cameras, poses=self.clip.poses)
        known = self.config, self.baked, self._plain, self._arrays, self.stats
        found = NerfFit(clip, *known, model=self.model, poses=self._poses)
        found.pose_as(self)
        return found

    # --- three dimensions ---

    def with_fields(self, fields: Mapping[str, Sequence[Field]]) -> NerfFit:
        """See :meth:`canon.spatial.SpatialFit.with_fields`."""
        before, world = self.model, edited_world(self.model.world, fields)
        model = models.Model(world, before.states, before.device, before.atlas, before.panorama)
        reshaped = changes_shape(fields, before.world)
        changing = EditedFrames(self, before.world, world, before.device, reshaped)
        shown = PerFrame(self.clip.frames.shape, np.uint8, changing.frame)
        clip = replace(self.clip, frames=cast(np.ndarray, shown), masks={}, known_hash=self.clip.content_hash)
        canvases = repainted(before, model, {layer.name: layer.color for layer in self.baked})
        baked = [replace(layer, color=canvases[layer.name]) for layer in self.baked]
        if reshaped:
            first = baked[0]
            assert first.opacity is not None
            moved = PerFrame(first.opacity.shape, np.uint8, changing.opacity)
            baked[0] = replace(first, opacity=cast(np.ndarray, moved))
        found = NerfFit(clip, self.config, baked, self._plain, self._arrays, self.stats, model=model, poses=self._poses)
        found.pose_as(self)
        found._edited = True
        return found

    def field(self, layer: str) -> nn.Module:
        """The differentiable field of a layer, in its canonical space.

        :class:`canon.representations.dynamic_nerf.fields.HumanField` or ``SceneField``; the one of which an edit holds
        parameters, where that is another.
        """
        own = self.model.world.human if self.layer(layer).name == "human" else self.model.world.background
        assert own is not None
        return editable(own)

    def pose(self, t: int) -> Pose | None:
        """The person's pose in frame ``t``, as corrected; None where there is no person."""
        t = self.index(t)
        if self._poses is None:
            return self.model.pose(int(self.clip.moments[t]))
        return self.model.posing(self._poses.rotations[t], self._poses.root[t], int(self._poses.states[t]))

    def posed(self, t: int) -> tuple[np.ndarray, np.ndarray] | None:
        """See :meth:`canon.spatial.SpatialFit.posed`."""
        own = self.pose(t)
        return None if own is None else (own.rotations.cpu().numpy(), own.root.cpu().numpy())

    def view(
        self,
        t: int,
        camera: Camera,
        pose: tuple[np.ndarray, np.ndarray] | None = None,
        layers: Sequence[str] | None = None,
    ) -> np.ndarray:
        """See :meth:`canon.spatial.SpatialFit.view`."""
        with torch.no_grad():
            return self.seen(t, camera, pose, layers).rgb.clamp(0, 1).cpu().numpy()

    def seen(
        self,
        t: int,
        camera: Camera,
        pose: tuple[np.ndarray, np.ndarray] | None = None,
        layers: Sequence[str] | None = None,
    ) -> Seen:
        """:meth:`view` with opacity, depth and canonical places, as tensors [H, W, ...].

        Gradients reach the fields where they are on and parameters ask for them.
        """
        names = [self.layer(name).name for name in (self.layers if layers is None else layers)]
        own: Pose | None = None
        if "human" in names:
            own = self.pose(t)
            if pose is not None:
                own = replace(self.posing(*pose), state=0 if own is None else own.state)
        return see(self.model.world, camera, own, self.model.device, background="background" in names)

    def traced(self, t: int, camera: Camera, pose: tuple[np.ndarray, np.ndarray] | None = None) -> Traced:
        """See :meth:`canon.spatial.SpatialFit.traced`."""
        own = self.pose(t) if pose is None else self.posing(*pose)
        if own is None:
            raise InputError("This fit has no person who could be looked at.")
        return trace(self.model.world, camera, own, self.model.device)

    def posing(self, rotations: np.ndarray, root: np.ndarray) -> Pose:
        """A pose of one's own.

        Raises:
            InputError: it has other joints than the fit, or is not finite.
        """
        deformation = self.model.world.deformation
        if deformation is None:
            raise InputError("This fit has no person that could be posed.")
        count = len(deformation.offsets)
        right = np.shape(rotations) == (count, 3, 3) and np.shape(root) == (3,)
        if not right or not np.isfinite(rotations).all() or not np.isfinite(root).all():
            raise InputError(f"A pose must be {count} rotations 3x3 and a place, of finite numbers.")
        return self.model.posing(rotations, root)

    def coordinates_3d(self, t: int, layer: str) -> np.ndarray:
        """Where in its canonical space lies what every pixel shows of a layer, float32 [H, W, 3], finite.

        The person's is the rest pose, the background's the world.
        """
        t = self.index(t)
        if self.layer(layer).name == "background":
            return self._behind(t)
        raster, _ = self._surface(t)
        atlas = self.model.atlas
        assert atlas is not None
        return fill_from_nearest(interpolate(raster, atlas.mesh.faces, atlas.mesh.vertices), raster.face >= 0)

    def from_elsewhere(
        self, cameras: Sequence[Camera], motion: Motion | None = None, frames: Sequence[int] | None = None
    ) -> NerfFit:
        """See :meth:`canon.spatial.SpatialFit.from_elsewhere`."""
        times = list(frames) if frames is not None else [k % len(self) for k in range(len(cameras))]
        poses: list[Pose | None] = []
        for k, t in enumerate(times):
            pose = self.pose(t)
            if motion is not None:
                own = self.posing(motion.rotations[k], motion.root[k])
                pose = replace(own, state=0 if pose is None else pose.state)
            poses.append(pose)
        shots = [Shot(camera, pose) for camera, pose in zip(cameras, poses, strict=True)]

        rendered = pictures(self.model.world, shots, self.model.device)
        clip = Clip.from_frames(rendered, fps=self.clip.fps, source=self.clip.source, cameras=list(cameras))
        with tempfile.TemporaryDirectory(prefix="canon-views-") as folder:
            baked = bake(self.model, shots, Path(folder), lambda share: None)
            canvases = {layer.name: (layer.color, layer.coverage) for layer in self.baked}
            known = [pose for pose in poses if pose is not None]
            found = NerfFit(
                clip,
                self.config,
                layers(self.model, baked, canvases),
                self._plain,
                {**self._arrays, "depth": baked.depth},
                self.stats,
                model=self.model,
                poses=models.Poses.of(known) if known else None,
            )
        found.pose_as(self)
        return found

    @property
    def centre(self) -> np.ndarray:
        """See :attr:`canon.spatial.SpatialFit.centre`."""
        deformation = self.model.world.deformation
        if deformation is not None:
            return np.asarray(deformation.root.mean(dim=0).cpu().numpy(), np.float64)
        background = self.model.world.background
        assert background is not None
        return np.array(background.frame.centre)

    def surface(self) -> np.ndarray:
        """See :meth:`canon.spatial.SpatialFit.surface`."""
        atlas = self.model.atlas
        if atlas is None:
            raise InputError("This fit has no person whose surface could be given.")
        return atlas.mesh.vertices[np.unique(atlas.source, return_index=True)[1]]

    def colour_at(self, rest: torch.Tensor) -> torch.Tensor:
        """See :meth:`canon.spatial.SpatialFit.colour_at`."""
        return colour_at(self.model.world, rest.to(self.model.device))

    def distance(self, t: int) -> np.ndarray:
        """See :meth:`canon.spatial.SpatialFit.distance`."""
        t = self.index(t)
        behind = np.asarray(self.depth[t], np.float32)
        if "human" not in self.layers or self.pose(t) is None:
            return behind
        raster, _ = self._surface(t)
        return np.where((self.weights(t)[0] > 0.5) & np.isfinite(raster.depth), raster.depth, behind)

    def turntables(self) -> list[Turntable]:
        """See :meth:`canon.spatial.SpatialFit.turntables`."""
        return turntables(self.model, self.cameras, self.centre)

    def save_mesh(self, path: Path) -> None:
        """See :meth:`canon.spatial.SpatialFit.save_mesh`."""
        save_mesh(self, path)

    # --- correspondence, by way of the surface ---

    def _surface(self, t: int) -> tuple[Raster, np.ndarray]:
        """The person's surface in a frame, and where its vertices are."""
        pose, atlas = self.pose(t), self.model.atlas
        assert pose is not None and atlas is not None
        posed = self.model.vertices(pose)
        return rasterise(posed, atlas.mesh.faces, self.cameras[t]), posed

    def _behind(self, t: int) -> np.ndarray:
        """The background's places in the world, float32 [H, W, 3]."""
        height, width = self.size
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        camera = self.cameras[t]
        ways = camera.directions(grid)
        return np.asarray(camera.position + ways * self.depth[t][..., None], np.float32)

    def correspondence(self, t: int, s: int, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`canon.Fit.correspondence`; by way of the surface in three dimensions."""
        t, s = self.index(t), self.index(s)
        if self.layer(layer).name == "background":
            places = self._behind(t)
            known = np.ones(self.size, bool)
        else:
            raster, _ = self._surface(t)
            pose, atlas = self.pose(s), self.model.atlas
            assert pose is not None and atlas is not None
            known = raster.face >= 0
            places = fill_from_nearest(interpolate(raster, atlas.mesh.faces, self.model.vertices(pose)), known)
        pixels, ahead = self.cameras[s].project(places)
        last = np.array([self.size[1] - 0.5, self.size[0] - 0.5])
        sure = known & (ahead > 0) & ((pixels >= -0.5) & (pixels <= last)).all(axis=-1)
        return np.nan_to_num(pixels).astype(np.float32), sure

    def _follow(self, start: np.ndarray, frame: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        name = self.layers[k]
        positions = np.empty((len(self), *start.shape), np.float32)
        visible = np.zeros(positions.shape[:2], bool)
        camera = self.cameras[frame]
        ways = camera.directions(start.astype(np.float64))
        if name == "background":
            far = remap_points(np.ascontiguousarray(self.depth[frame])[..., None], start)[:, 0]
            fixed = camera.position + ways * far[:, None]
            for t in range(len(self)):
                positions[t], visible[t] = self._shown(t, k, fixed, self.depth[t], _NEARER * far)
        else:
            raster, posed = self._surface(frame)
            atlas = self.model.atlas
            assert atlas is not None
            corners, shares = _on_faces(raster, atlas.mesh.faces, posed, camera.position, ways, start)
            for t in range(len(self)):
                seen, own = self._surface(t)
                places = (own[corners].astype(np.float64) * shares[..., None]).sum(axis=1)
                near = np.where(np.isfinite(seen.depth), seen.depth, 1e6).astype(np.float32)
                positions[t], visible[t] = self._shown(t, k, places, near, np.full(len(start), _NEARER))
        positions[frame] = start
        return positions, visible

    def _shown(
        self, t: int, k: int, places: np.ndarray, depth: np.ndarray, slack: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, 2] of places [N, 3] of a layer in a frame, and whether they are seen there."""
        camera = self.cameras[t]
        pixels, ahead = camera.project(places)
        pixels = np.nan_to_num(pixels, posinf=1e6, neginf=-1e6).astype(np.float32)
        last = np.array([self.size[1] - 0.5, self.size[0] - 0.5])
        inside = (ahead > 0) & ((pixels >= -0.5) & (pixels <= last)).all(axis=-1)
        at = np.where(inside[:, None], pixels, 0)
        weight = remap_points(self.weights(t)[k][..., None], at)[:, 0]
        nearest = remap_points(np.ascontiguousarray(depth)[..., None], np.round(at).astype(np.float32))[:, 0]
        hidden = np.linalg.norm(places - camera.position, axis=1) > nearest + slack
        return pixels, inside & (weight > 0.5) & ~hidden

    def pixels_of(self, t: int, layer: str, texels: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`canon.Fit.pixels_of`: of the atlas by way of the surface, of the panorama by depth."""
        t = self.index(t)
        if self.layer(layer).name == "background":
            return self._pixels_behind(t, texels)
        atlas, charts = self.model.atlas, self.model.charts()
        assert atlas is not None
        seen, posed = self._surface(t)
        x, y = np.clip(np.round(texels), 0, np.array([atlas.size[1] - 1, atlas.size[0] - 1])).astype(int).T
        places = interpolate(charts, atlas.mesh.faces, posed)[y, x].astype(np.float64)
        near = np.where(np.isfinite(seen.depth), seen.depth, 1e6).astype(np.float32)
        pixels, shown = self._shown(t, self.layers.index(layer), places, near, np.full(len(places), _NEARER))
        shown &= charts.face[y, x] >= 0
        return pixels, np.where(shown, 0.0, np.inf).astype(np.float32)

    def _pixels_behind(self, t: int, texels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Texels [N, 2] of the panorama in a frame: the depth there says how far they are, and that, where they are."""
        panorama, camera = self.model.panorama, self.cameras[t]
        assert panorama is not None
        ways = panorama.towards(texels)
        depth = np.ascontiguousarray(self.depth[t])[..., None]
        far = np.full(len(texels), np.median(depth), np.float64)
        last = np.array([self.size[1] - 1, self.size[0] - 1])
        for _ in range(_FOLLOWED):
            pixels, ahead = camera.project(panorama.centre + ways * far[:, None])
            at = np.clip(np.nan_to_num(pixels), 0, last).astype(np.float32)
            there = camera.position + camera.directions(at.astype(np.float64)) * remap_points(depth, at)
            far = np.maximum(((there - panorama.centre) * ways).sum(axis=1), 1e-3)
        missed = np.linalg.norm(panorama.coordinates(there) - texels, axis=1)
        outside = (ahead <= 0) | ((pixels < -0.5) | (pixels > last + 0.5)).any(axis=1)
        return at, np.where(outside, np.inf, 0.3 * missed).astype(np.float32)


def _on_faces(
    raster: Raster, faces: np.ndarray, posed: np.ndarray, place: np.ndarray, ways: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices int64 [N, 3] and their shares [N, 3] where rays from ``place`` along ``ways`` meet the face that is seen
    nearest to their pixels; it is taken to go on as a plane between pixels."""
    hit = raster.face >= 0
    nearest = fill_from_nearest(raster.face[..., None], hit)[..., 0]
    height, width = nearest.shape
    x, y = np.clip(np.round(pixels), 0, [width - 1, height - 1]).astype(int).T
    corners = faces[np.maximum(nearest[y, x], 0)].astype(np.int64)
    a, b, c = (posed[corners[:, k]].astype(np.float64) for k in range(3))
    normal = np.cross(b - a, c - a)
    down = (normal * ways).sum(axis=1)
    length = ((a - place) * normal).sum(axis=1) / np.where(np.abs(down) < 1e-12, 1e-12, down)
    at = place + ways * length[:, None]
    square = np.maximum((normal**2).sum(axis=1), 1e-24)
    second = (
        (np.cross(c - b, at - b) * normal).sum(axis=1) / square,
        (np.cross(a - c, at - c) * normal).sum(axis=1) / square,
    )
    shares = np.stack([second[0], second[1], 1 - second[0] - second[1]], axis=1)
    return corners, np.clip(shares, -1, 2)


def _damage(error: Exception) -> str:
    """What is wrong with what was kept of a fit, for the beginning of a sentence."""
    return f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
