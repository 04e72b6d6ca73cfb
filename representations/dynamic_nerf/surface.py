"""The canonical surface of a field: where its density crosses a level, and that surface unwrapped onto an atlas.

Convention: faces run anticlockwise when they are seen from outside; texels are (x, y) with their centres at integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes
from torch import Tensor

from canon.coordinates import Size
from canon.errors import InputError
from canon.rasterise import Raster, interpolate, rasterise_flat

_CHUNK = 1 << 18
"""Places at which a density is asked for at once."""
_GUTTER = 6
"""Texels between charts before the packing is brought to its size, which leaves about two thirds of them: so that
neither filtering nor painting carries one chart into another."""
_EVENING = 5
"""Steps towards the middle of their neighbours that vertices take along the surface."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3], numbers of vertices.
    """

    vertices: np.ndarray
    faces: np.ndarray

    @property
    def normals(self) -> np.ndarray:
        """Outward directions at the vertices, float32 [V, 3] of length 1; 0 at vertices without a face."""
        return _vertex_normals(self, np.arange(len(self.vertices)))


@dataclass(frozen=True, eq=False)
class TextureAtlas:
    """A surface unwrapped onto a picture.

    Attributes:
        mesh: whose vertices are repeated where charts part.
        uv: float32 [V, 2], where its vertices are in the picture, as (x, y) in texels.
        size: (height, width) of the picture.
        source: int64 [V], which vertices of the mesh that was unwrapped these are.
    """

    mesh: Mesh
    uv: np.ndarray
    size: Size
    source: np.ndarray

    @property
    def normals(self) -> np.ndarray:
        """Outward directions at the vertices, float32 [V, 3]; the same on both sides of a seam."""
        return _vertex_normals(self.mesh, self.source)

    def raster(self) -> Raster:
        """Which face is at which texel, and where on it."""
        return rasterise_flat(self.uv, self.mesh.faces, self.size)

    def texels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The surface at every texel whose centre is in a chart.

        Returns:
            positions: float32 [h, w, 3]; 0 outside of the charts, as are the normals.
            normals: float32 [h, w, 3] of length 1.
            inside: bool [h, w].
        """
        raster = self.raster()
        found = interpolate(raster, self.mesh.faces, np.concatenate([self.mesh.vertices, self.normals], axis=1))
        return found[..., :3], _unit(found[..., 3:]), raster.face >= 0


def extract(
    density: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    cells: int,
    level: float,
    keep: float = 0.02,
    smooth: float = 0.0,
) -> Mesh:
    """The closed surface around all places of a box where a density is above a level, by marching cubes.

    What reaches out of the box is closed there, within a cell. Pieces that are small are floaters of the field, and
    hollows within a piece are never seen: neither is kept.

    Args:
        density: of places float32 [N, 3], [N].
        low, high: [3], corners of the box; places are asked for on their device.
        cells: along its longest side; cells are cubes.
        keep: share of all faces that a piece must have.
        smooth: cells over which the density is averaged (sigma of a Gaussian); rough surfaces unwrap into crumbs.

    Raises:
        ValueError: there is no surface, or no box.
    """
    values, step = _on_grid(density, low, high, cells)
    if smooth:
        values = gaussian_filter(values, smooth, mode="nearest")
    if not (values > level).any():
        raise ValueError(f"the density is nowhere above {level:g}: its largest value is {values.max():g}")
    # As far below the level as the largest value is above it: then what ends at the box ends within half a cell of it.
    below = min(float(values.min()), 2 * level - float(values.max()))
    padded = np.pad(values, 1, constant_values=below if below < level else level - 1)
    vertices, faces, *_ = marching_cubes(padded, level, gradient_direction="ascent", allow_degenerate=False)
    vertices = (vertices.astype(np.float64) - 1) * step + low.detach().cpu().numpy()
    kept = _pieces(Mesh(vertices.astype(np.float32), faces.astype(np.int32)), keep)
    if not len(kept.faces):
        raise ValueError(f"no piece of the surface at {level:g} has {keep:.0%} of its faces")
    return _evened(kept)


def _on_grid(
    density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, cells: int
) -> tuple[NDArray[np.float32], float]:
    """A density at the corners of cells, [X, Y, Z] and finite, and how far these are apart."""
    sides = (high - low).detach().cpu().numpy().astype(np.float64)
    if cells < 1 or not (np.isfinite(sides).all() and (sides > 0).all()):
        raise ValueError(f"a box of {sides.tolist()} has no {cells} cells")
    step = float(sides.max()) / cells
    shape = [int(count) for count in np.ceil(sides / step - 1e-6) + 1]
    values = np.empty(shape[0] * shape[1] * shape[2], np.float32)
    across = torch.tensor([shape[1] * shape[2], shape[2], 1], device=low.device)
    with torch.no_grad():
        for begin in range(0, len(values), _CHUNK):
            number = torch.arange(begin, min(begin + _CHUNK, len(values)), device=low.device)
            corner = number[:, None] // across % torch.tensor(shape, device=low.device)
            found = density(low.float() + corner.float() * step).reshape(-1).float().cpu()
            values[begin : begin + len(number)] = torch.nan_to_num(found).numpy()
    return values.reshape(shape), step


def _pieces(mesh: Mesh, keep: float) -> Mesh:
    """The mesh without its small pieces, and without what is turned inwards as a whole."""
    faces = mesh.faces
    total, piece = connected_components(_links(mesh), directed=False)
    owner = piece[faces[:, 0]]
    corners = (mesh.vertices - mesh.vertices.mean(axis=0)).astype(np.float64)[faces]
    volumes = np.bincount(owner, np.linalg.det(corners), minlength=total)
    large = np.bincount(owner, minlength=total) >= keep * len(faces)
    faces = faces[(large & (volumes > 0))[owner]]
    used, numbers = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], numbers.reshape(-1, 3).astype(np.int32))


def _evened(mesh: Mesh) -> Mesh:
    """The mesh with faces of like shapes: its vertices slide along the surface, to which they stay as near as they are.

    Marching cubes leaves slivers, whose directions are noise; xatlas would cut a thousand charts along them.
    """
    links = _links(mesh)
    means = diags_array(1 / np.maximum(links.sum(axis=1), 1)) @ links
    vertices = mesh.vertices.astype(np.float64)
    for _ in range(_EVENING):
        normals = Mesh(vertices, mesh.faces).normals
        step = means @ vertices - vertices
        vertices = vertices + 0.5 * (step - (step * normals).sum(axis=1, keepdims=True) * normals)
    return Mesh(vertices.astype(np.float32), mesh.faces)


def _links(mesh: Mesh) -> csr_array:
    """Which vertices an edge joins, float64 [V, V]."""
    ends = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    both = np.concatenate([ends, ends[:, ::-1]])
    count = len(mesh.vertices)
    links = coo_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(count, count)).tocsr()
    return links.sign()


def unwrap(mesh: Mesh, texels: int) -> TextureAtlas:
    """A surface cut into charts that lie beside one another on a picture, a few texels apart.

    Args:
        texels: along the picture's longer side.

    Raises:
        InputError: xatlas is not installed.
        ValueError: there are no faces, or too few texels for gutters.
    """
    try:
        import xatlas
    except ImportError as error:
        raise InputError("Unwrapping a surface needs the package xatlas; run: pip install canon-video[nerf]") from error
    if not len(mesh.faces) or texels < 8 * _GUTTER:
        raise ValueError(f"{len(mesh.faces)} faces cannot be unwrapped onto {texels} texels")
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    # Forty to fifty charts for a person, whose texels are of like size: by default there are thirty, some of which
    # are several times finer than others.
    charts.normal_deviation_weight, charts.max_iterations = 8.0, 2
    # Charts would be "rotated" by swapping x and y, which mirrors them, and writing with them.
    packing.rotate_charts, charts.fix_winding = False, True
    packing.padding, packing.resolution = _GUTTER, texels
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.uint32))
    atlas.generate(charts, packing)
    source, faces, uv = atlas[0]
    # The packing only comes near the size that is asked for, and its y goes up.
    scale = texels / max(atlas.width, atlas.height)
    height, width = (max(1, min(math.ceil(side * scale - 1e-6), texels)) for side in (atlas.height, atlas.width))
    placed = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1) * np.array([atlas.width, atlas.height]) * scale - 0.5
    source = source.astype(np.int64)
    split = Mesh(np.asarray(mesh.vertices, np.float32)[source], faces.astype(np.int32))
    return TextureAtlas(split, placed.astype(np.float32), (height, width), source)


def _vertex_normals(mesh: Mesh, owner: NDArray[np.int64]) -> NDArray[np.float32]:
    """Means of the normals around vertices, weighted by area; vertices with one owner [V] share theirs."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    places = owner[mesh.faces].ravel()
    count = int(owner.max(initial=-1)) + 1
    sums = [np.bincount(places, np.repeat(areas[:, axis], 3), minlength=count) for axis in range(3)]
    return _unit(np.stack(sums, axis=-1))[owner]


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)
