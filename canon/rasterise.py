"""Triangles as a camera sees them, or as they lie on a picture: which face is at which pixel, and where on it.

Convention: pixels are (x, y) with their centres at integers; a depth is a length along the ray through the pixel's
centre. A pixel belongs to a face when its ray meets the face, so that what is found is exact through any lens and for
faces of any size; vertices are projected only to know which pixels to try.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from canon.cameras import Camera
from canon.coordinates import Size, pixel_grid
from canon.errors import InputError

Floats = NDArray[np.floating]
_CHUNK = 1 << 18
"""Pairs of a face and a pixel that are tried at once: about 60 MiB."""
_SLACK = 0.05
"""Pixels by which boxes of faces are widened, for what projecting there and back rounds off."""
_STRAIGHT = 8.0
"""Pixels of a box below which edges are taken to be straight, whatever the lens."""


@dataclass(frozen=True, eq=False)
class Raster:
    """What is seen at every pixel.

    Attributes:
        face: int32 [H, W], the nearest face; -1 where there is none.
        weights: float32 [H, W, 3], of the face's vertices, right in perspective; they sum to 1, or are 0.
        depth: float32 [H, W], length along the ray; infinite where there is nothing.
    """

    face: np.ndarray
    weights: np.ndarray
    depth: np.ndarray


def rasterise(
    vertices: np.ndarray, faces: np.ndarray, camera: Camera, *, near: float = 1e-3, backend: str = "numpy"
) -> Raster:
    """What a camera sees of a mesh, from either side of its faces; the first face wins where two are equally near.

    Args:
        vertices: float [V, 3], in the world.
        faces: int [F, 3], numbers of vertices.
        near: faces of which any vertex is nearer than this along the camera's axis are left out.
        backend: "numpy", or "pytorch3d" where that is installed, which takes edges of faces to be straight in the
            picture also through a lens.

    Raises:
        InputError: there is no such backend, or it is not installed.
    """
    seen, ahead = camera.project(vertices)
    faces = np.asarray(faces, np.int64).reshape(-1, 3)
    kept = np.flatnonzero((ahead > near)[faces].all(axis=1))
    if backend == "pytorch3d":
        return _with_pytorch3d(seen, ahead, faces, kept, camera)
    if backend != "numpy":
        raise InputError(f"There is no rasteriser '{backend}'; use numpy or pytorch3d.")
    corners = (np.asarray(vertices, np.float64) @ camera.rotation.T + camera.translation)[faces[kept]]
    low, high = _boxes(seen[faces[kept]], camera, corners)
    plane, length = _sight(camera)
    raster = _scan(corners, low, high, plane, camera.size)
    face = np.where(raster.face >= 0, kept[raster.face] if len(kept) else -1, -1).astype(np.int32)
    return Raster(face, raster.weights, (raster.depth * length.reshape(camera.size)).astype(np.float32))


def rasterise_flat(points: np.ndarray, faces: np.ndarray, size: Size) -> Raster:
    """Triangles that lie on a picture themselves, such as those of an atlas; the first one wins where they overlap.

    Args:
        points: float [V, 2] as (x, y), in pixels.
        faces: int [F, 3], numbers of points.
        size: (height, width) of the picture.

    Returns:
        As :func:`rasterise`, with a depth of 1 where a face is.
    """
    flat = np.asarray(points, np.float64)[np.asarray(faces, np.int64).reshape(-1, 3)]
    corners = np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1)
    low, high = flat.min(axis=1) - 1e-6, flat.max(axis=1) + 1e-6
    plane = pixel_grid(size).numpy().reshape(-1, 2).astype(np.float64)
    return _scan(corners, low, high, plane, size, flat=True)


def interpolate(raster: Raster, faces: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """What vertices carry, at every pixel.

    Args:
        faces: int [F, 3], as they were rasterised.
        attributes: float [V, C].

    Returns:
        float32 [H, W, C], 0 where nothing is.
    """
    hit = raster.face >= 0
    corners = np.asarray(attributes)[np.asarray(faces)[raster.face[hit]]]
    found = np.zeros((*raster.face.shape, corners.shape[-1]), np.float32)
    found[hit] = (corners * raster.weights[hit][..., None]).sum(axis=1)
    return found


def _sight(camera: Camera) -> tuple[Floats, Floats]:
    """Where rays meet the plane at depth 1, float64 [HW, 2], and the lengths of the rays up to it, [HW]."""
    lens = (camera.distortion, camera.fisheye)
    return _rays(camera.size, tuple(camera.intrinsics.ravel().tolist()), *lens)


@lru_cache(maxsize=2)  # undistorting every pixel costs more than drawing, and frames share their lens
def _rays(
    size: Size, intrinsics: tuple[float, ...], distortion: tuple[float, ...], fisheye: bool
) -> tuple[Floats, Floats]:
    straight = Camera(
        size, np.reshape(intrinsics, (3, 3)), np.eye(3), np.zeros(3), distortion=distortion, fisheye=fisheye
    )
    rays = straight.directions(pixel_grid(size).numpy().reshape(-1, 2))
    plane = rays[:, :2] / rays[:, 2:]
    return plane, np.sqrt((plane**2).sum(axis=1) + 1)


def _boxes(seen: Floats, camera: Camera, corners: Floats) -> tuple[Floats, Floats]:
    """Corners [F, 2] of the boxes that faces fill in the picture, of their vertices there, [F, 3, 2]."""
    low, high = seen.min(axis=1) - _SLACK, seen.max(axis=1) + _SLACK
    large = np.flatnonzero((high - low).max(axis=1) > _STRAIGHT)
    if (any(camera.distortion) or camera.fisheye) and len(large):
        # A lens bends edges, to about four thirds of what it moves their middles by where the bend is uneven.
        after = [1, 2, 0]
        middles = (corners[large] + corners[large][:, after]) / 2
        shown, _ = replace(camera, rotation=np.eye(3), translation=np.zeros(3)).project(middles)
        bend = 2 * np.abs(shown - (seen[large] + seen[large][:, after]) / 2).max(axis=1)
        low[large] -= bend
        high[large] += bend
    return low, high


def _scan(corners: Floats, low: Floats, high: Floats, plane: Floats, size: Size, flat: bool = False) -> Raster:
    """The nearest face at every pixel.

    Args:
        corners: float64 [F, 3, 3] of the faces, in the camera's axes, all in front of it.
        low, high: float64 [F, 2], boxes in pixels outside of which a face is not.
        plane: float64 [HW, 2], where the pixels' rays meet the plane at depth 1.
        flat: all faces lie in that plane, and rounding is not to tell which of them is nearer.

    Returns:
        A raster whose depths are along the camera's axis.
    """
    edges, slopes, solid = _edge_functions(corners)
    if flat:
        slopes = np.broadcast_to(np.array([0.0, 0.0, 1.0]), slopes.shape)
    first, last = _whole_pixels(low, high, size)
    tried = np.flatnonzero(solid & (last >= first).all(axis=1))
    nearness = np.zeros(len(plane))  # 1 / depth
    face = np.full(len(plane), -1, np.int32)
    for owner, pixel in _candidates(first[tried], last[tried], size[1]):
        owner = tried[owner]
        sides = _along(edges[owner], plane[pixel])
        met = np.flatnonzero(sides.min(axis=1) >= 0)
        owner, pixel = owner[met], pixel[met]
        close = _along(slopes[owner][:, None], plane[pixel])[:, 0]
        better = close > nearness[pixel]
        owner, pixel, close = owner[better], pixel[better], close[better]
        np.maximum.at(nearness, pixel, close)
        won = np.flatnonzero(close == nearness[pixel])[::-1]  # of equals the first, which is written last
        face[pixel[won]] = owner[won]
    return _weighted(face, edges, nearness, plane, size)


def _edge_functions(corners: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of faces [F, 3, 3]: for each vertex a normal [F, 3, 3] whose product with a ray is the vertex's share of it.

    Shares are 0 or more where the ray meets the face (Olano and Greer, Triangle scan conversion using 2D homogeneous
    coordinates, 1997). The two faces at an edge get the same normal with opposite signs, to the last bit: no ray
    passes between them. The product of a ray with the second result, [F, 3], is 1 / depth of the plane of the face.
    """
    edges = np.stack([np.cross(corners[:, (k + 1) % 3], corners[:, (k + 2) % 3]) for k in range(3)], axis=1)
    volume = (edges[:, 0] * corners[:, 0]).sum(axis=1)
    # A face that is seen from its edge, or has none; the sum of rounding errors is about this large.
    scale = np.abs(corners).max(axis=(1, 2), initial=0) ** 3
    solid = np.isfinite(volume) & (np.abs(volume) > 1e-15 * scale)
    safe = np.where(solid, volume, 1)
    return edges * np.sign(safe)[:, None, None], edges.sum(axis=1) / safe[:, None], solid


def _whole_pixels(low: Floats, high: Floats, size: Size) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixels (x, y) within boxes and the picture, int64 [F, 2]; the last before the first: none."""
    bad = ~(np.isfinite(low) & np.isfinite(high)).all(axis=1, keepdims=True)
    far = np.array([size[1], size[0]])
    first = np.ceil(np.clip(np.where(bad, 1, low), 0, far))
    last = np.floor(np.clip(np.where(bad, 0, high), -1, far - 1))
    return first.astype(np.int64), last.astype(np.int64)


def _candidates(
    first: NDArray[np.int64], last: NDArray[np.int64], width: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of a box and a pixel of it, as numbers int64 [N] and [N], box by box and at most a chunk at once."""
    wide, high = (last - first + 1).T
    ends = np.cumsum(wide * high)
    total = int(ends[-1]) if len(ends) else 0
    for begin in range(0, total, _CHUNK):
        end = min(begin + _CHUNK, total)
        boxes = np.arange(np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left") + 1)
        starts = ends[boxes] - (wide * high)[boxes]
        counts = np.minimum(ends[boxes], end) - np.maximum(starts, begin)
        rows, columns = np.divmod(np.arange(begin, end) - np.repeat(starts, counts), np.repeat(wide[boxes], counts))
        corner = first[boxes, 1] * width + first[boxes, 0]
        yield np.repeat(boxes, counts), np.repeat(corner, counts) + rows * width + columns


def _along(normals: Floats, plane: Floats) -> Floats:
    """Products of normals [N, K, 3] with rays (x, y, 1), of [N, 2]: [N, K]."""
    return normals[..., 0] * plane[:, :1] + normals[..., 1] * plane[:, 1:] + normals[..., 2]


def _weighted(face: NDArray[np.int32], edges: Floats, nearness: Floats, plane: Floats, size: Size) -> Raster:
    hit = np.flatnonzero(face >= 0)
    shares = _along(edges[face[hit]], plane[hit])
    weights = np.zeros((len(face), 3), np.float32)
    weights[hit] = shares / shares.sum(axis=1, keepdims=True)
    depth = np.full(len(face), np.inf, np.float64)
    depth[hit] = 1 / nearness[hit]
    return Raster(face.reshape(size), weights.reshape(*size, 3), depth.reshape(size).astype(np.float32))


def _with_pytorch3d(
    seen: Floats, ahead: Floats, faces: NDArray[np.int64], kept: NDArray[np.int64], camera: Camera
) -> Raster:
    try:
        import torch
        from pytorch3d.renderer.mesh import rasterize_meshes
        from pytorch3d.structures import Meshes
    except ImportError as error:
        raise InputError("The rasteriser 'pytorch3d' is not installed; install pytorch3d, or use numpy.") from error
    height, width = camera.size
    # Its axes go to the left and up, from -1 to 1 between the edges of the shorter side.
    flat = (np.array([width, height]) - 1 - 2 * seen) / min(camera.size)
    points = torch.from_numpy(np.concatenate([flat, ahead[:, None]], axis=1).astype(np.float32))
    if not len(kept):
        return _scan(np.zeros((0, 3, 3)), np.zeros((0, 2)), np.zeros((0, 2)), _sight(camera)[0], camera.size)
    meshes = Meshes([points], [torch.from_numpy(faces[kept])])
    found = rasterize_meshes(meshes, camera.size, faces_per_pixel=1, perspective_correct=True)
    face, depth, weights = (part[0, :, :, 0].numpy() for part in found[:3])
    hit, length = face >= 0, _sight(camera)[1].reshape(camera.size)
    return Raster(
        np.where(hit, kept[face], -1).astype(np.int32),
        np.where(hit[..., None], weights, 0).astype(np.float32),
        np.where(hit, depth * length, np.inf).astype(np.float32),
    )
