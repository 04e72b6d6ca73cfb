"""The surface of a field against shapes whose equations are known, and what an unwrapped one must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from canon.bodies import capsule_body
from canon.rasterise import interpolate, rasterise_flat
from canon.representations.dynamic_nerf.surface import Mesh, TextureAtlas, extract, unwrap

LOW, HIGH = torch.tensor([-1.1, -0.9, -1.3]), torch.tensor([1.2, 1.5, 1.0])


def ball(points: Tensor, centre: tuple[float, float, float] = (0.1, 0.2, -0.1), radius: float = 0.7) -> Tensor:
    return radius - (points - torch.tensor(centre)).norm(dim=-1)


def volume(mesh: Mesh) -> float:
    return float(np.linalg.det(mesh.vertices[mesh.faces].astype(np.float64)).sum() / 6)


def is_closed(mesh: Mesh) -> bool:
    """Whether every edge has a face on either side, that run along it in opposite directions."""
    edges = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    there, back = ({tuple(edge) for edge in way.tolist()} for way in (edges, edges[:, ::-1]))
    return len(there) == len(edges) and there == back


def test_a_ball_is_found_where_it_is() -> None:
    mesh = extract(ball, LOW, HIGH, 40, 0.0)
    cell = 2.4 / 40
    assert mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int32
    away = mesh.vertices - np.array([0.1, 0.2, -0.1])
    assert np.abs(np.linalg.norm(away, axis=1) - 0.7).max() < cell**2
    assert is_closed(mesh) and volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)
    assert ((mesh.normals * away).sum(axis=1) / 0.7).min() > 0.99
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert (4 * 3**0.5 * areas / (sides**2).sum(axis=1)).min() > 0.3  # no slivers; 1 is equilateral


def test_a_ball_on_the_corners_of_cells_is_closed() -> None:
    mesh = extract(lambda p: ball(p, (0, 0, 0), 0.5), torch.full((3,), -1.0), torch.full((3,), 1.0), 16, 0.0)
    assert is_closed(mesh) and volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.05)


def test_what_reaches_out_of_the_box_is_closed_there() -> None:
    low, high = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([1.0, 1.0, 1.0])
    mesh = extract(lambda p: ball(p, (0, 0, 0), 0.6), low, high, 40, 0.0)
    assert is_closed(mesh) and volume(mesh) == pytest.approx(2 / 3 * np.pi * 0.6**3, rel=0.12)
    assert mesh.vertices[:, 0].min() > -2 / 40
    full = extract(lambda p: torch.ones(len(p)), low, high, 10, 0.5)
    assert is_closed(full) and (full.vertices.min(axis=0) > low.numpy() - 0.2).all()


def test_floaters_and_hollows_are_left_out() -> None:
    def density(points: Tensor) -> Tensor:
        shell = torch.minimum(ball(points), -ball(points, radius=0.4))
        return torch.maximum(shell, ball(points, (0.9, 1.2, 0.7), 0.1))

    whole = 4 / 3 * np.pi * 0.7**3
    assert volume(extract(density, LOW, HIGH, 50, 0.0)) == pytest.approx(whole, rel=0.01)
    small = extract(density, LOW, HIGH, 50, 0.0, keep=0.0)
    assert volume(small) == pytest.approx(whole + 4 / 3 * np.pi * 0.1**3, rel=0.01)
    assert small.vertices.max() > 1.25 and len(np.unique(small.faces)) == len(small.vertices)


def test_no_surface_is_an_error() -> None:
    with pytest.raises(ValueError, match="nowhere above 3"):
        extract(ball, LOW, HIGH, 10, 3.0)
    with pytest.raises(ValueError, match="no 10 cells"):
        extract(ball, HIGH, LOW, 10, 0.0)


@pytest.fixture(scope="module")
def body_mesh() -> Mesh:
    body = capsule_body()
    return extract(lambda p: -body.bones.distance(p[:, None]).amin(dim=-1), *body.box, 100, -1.0)


@pytest.fixture(scope="module")
def atlas(body_mesh: Mesh) -> TextureAtlas:
    pytest.importorskip("xatlas", reason="xatlas is part of canon-video[nerf], which is not installed")
    return unwrap(body_mesh, 517)


def areas(atlas: TextureAtlas) -> np.ndarray:
    """Signed areas of the faces in the picture, above 0 where they run as they do seen from outside, y downwards."""
    a, b, c = np.moveaxis(atlas.uv[atlas.mesh.faces].astype(np.float64), 1, 0)
    one, two = b - a, c - a
    return -(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2


def test_an_atlas_is_the_same_surface(atlas: TextureAtlas, body_mesh: Mesh) -> None:
    assert max(atlas.size) == 517 and min(atlas.size) > 200
    assert (atlas.mesh.vertices == body_mesh.vertices[atlas.source]).all()
    assert (atlas.source[atlas.mesh.faces] == body_mesh.faces).all()
    assert np.allclose(atlas.normals, body_mesh.normals[atlas.source])
    assert (atlas.uv >= -0.5).all() and (atlas.uv <= np.array(atlas.size)[::-1] - 0.5).all()


def test_charts_are_few_not_mirrored_and_little_stretched(atlas: TextureAtlas, body_mesh: Mesh) -> None:
    flat = areas(atlas)
    assert (flat > 0).mean() > 0.999
    corners = body_mesh.vertices[body_mesh.faces].astype(np.float64)
    true = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    texels = np.repeat(flat / true, np.ceil(true / np.median(true)).astype(int))
    assert np.percentile(texels, 95) / np.percentile(texels, 5) < 4
    assert len(np.unique(charts(atlas))) < 60


def charts(atlas: TextureAtlas) -> np.ndarray:
    """Which chart every face is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    faces, count = atlas.mesh.faces, len(atlas.uv)
    links = (np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()))
    return connected_components(coo_array(links, shape=(count, count)), directed=False)[1][faces[:, 0]]


def test_charts_keep_away_from_one_another(atlas: TextureAtlas) -> None:
    owner, raster = charts(atlas), atlas.raster()
    chart = np.where(raster.face >= 0, owner[raster.face], -1)
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2)):
        one, two = chart[down:, right:], chart[: chart.shape[0] - down, : chart.shape[1] - right]
        assert not ((one != two) & (one >= 0) & (two >= 0)).any()
    # None lies on another: what is drawn is as large as what is to be drawn.
    assert (chart >= 0).sum() == pytest.approx(areas(atlas).sum(), rel=0.02)


def test_texels_lie_on_the_surface(atlas: TextureAtlas) -> None:
    positions, normals, inside = atlas.texels()
    assert positions.dtype == normals.dtype == np.float32 and positions.shape == (*atlas.size, 3)
    assert 0.3 < inside.mean() < 1 and (positions[~inside] == 0).all()
    body = capsule_body()
    apart = body.bones.distance(torch.from_numpy(positions[inside])[:, None]).amin(dim=-1).sqrt() - 1
    assert float(apart.abs().median()) < 0.02 and float(apart.abs().max()) < 0.3  # in radii of limbs
    assert np.allclose(np.linalg.norm(normals[inside], axis=-1), 1, atol=1e-5)


def test_a_vertex_is_found_at_its_texel(atlas: TextureAtlas) -> None:
    """Positions change from texel to texel as they do from vertex to vertex: nothing is shifted by half of one."""
    raster = atlas.raster()
    places = interpolate(raster, atlas.mesh.faces, atlas.uv)
    ys, xs = np.nonzero(raster.face >= 0)
    assert np.abs(places[ys, xs] - np.stack([xs, ys], axis=1)).max() < 1e-2


def test_unwrapping_again_gives_the_same(atlas: TextureAtlas, body_mesh: Mesh) -> None:
    again = unwrap(body_mesh, 517)
    assert again.size == atlas.size and (again.uv == atlas.uv).all() and (again.source == atlas.source).all()


def test_what_cannot_be_unwrapped_is_refused(body_mesh: Mesh) -> None:
    pytest.importorskip("xatlas", reason="xatlas is part of canon-video[nerf], which is not installed")
    with pytest.raises(ValueError, match="onto 20 texels"):
        unwrap(body_mesh, 20)
    with pytest.raises(ValueError, match="0 faces"):
        unwrap(Mesh(body_mesh.vertices, body_mesh.faces[:0]), 512)


def test_a_flat_atlas_has_pixel_centres_at_integers() -> None:
    square = np.array([[-0.5, -0.5], [6.5, -0.5], [6.5, 3.5], [-0.5, 3.5]])
    found = rasterise_flat(square, np.array([[0, 1, 2], [0, 2, 3]]), (6, 9))
    inside = np.zeros((6, 9), bool)
    inside[:4, :7] = True
    assert ((found.face >= 0) == inside).all() and (found.depth[inside] == 1).all()
