"""Rasterised triangles against analytic rays, through every lens, and against a plain loop over pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canon import rasterise as module
from canon.cameras import Camera, look_at, pinhole
from canon.coordinates import pixel_grid
from canon.errors import InputError
from canon.rasterise import interpolate, rasterise, rasterise_flat

SIZE = (61, 118)
LENSES = [((), False), ((0.06, -0.08, -1e-3, 2e-4), False), ((-0.25, 0.08, 1e-3, 0.0), False)]
LENSES += [((0.03, -0.01, 2e-3, 1e-4), True)]


def camera(lens: tuple[float, ...] = (), fisheye: bool = False, size: tuple[int, int] = SIZE) -> Camera:
    found = look_at(size, pinhole((90, 86), (58, 31)), np.array([0.7, 0.4, 3.0]), np.array([0.05, 0.0, 0.0]))
    return Camera(size, found.intrinsics, found.rotation, found.translation, lens, fisheye=fisheye)


def rays(own: Camera) -> np.ndarray:
    return own.directions(pixel_grid(own.size).numpy())


def ball(centre: tuple[float, float, float], radius: float, rings: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A sphere of quads cut in two; its vertices lie on it."""
    up, around = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    flat = np.stack(np.meshgrid(up, around, indexing="ij"), axis=-1).reshape(-1, 2)
    sine = np.sin(flat[:, 0])
    points = np.stack([sine * np.cos(flat[:, 1]), np.cos(flat[:, 0]), sine * np.sin(flat[:, 1])], axis=1)
    k, j = np.meshgrid(np.arange(rings), np.arange(2 * rings), indexing="ij")
    one, two = 2 * rings * k + j, 2 * rings * k + (j + 1) % (2 * rings)
    below = 2 * rings
    faces = np.concatenate([np.stack([one, two, one + below], -1), np.stack([two, two + below, one + below], -1)])
    return points * radius + centre, faces.reshape(-1, 3)


def ball_depth(own: Camera, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """Lengths of rays up to a sphere, infinite beside it."""
    off = own.position - np.array(centre)
    along = rays(own) @ off
    under = along**2 - off @ off + radius**2
    return np.where(under > 0, -along - np.sqrt(np.maximum(under, 0)), np.inf)


@pytest.mark.parametrize(("lens", "fisheye"), LENSES)
def test_a_ball_is_as_far_as_its_equation_says(lens: tuple[float, ...], fisheye: bool) -> None:
    own, centre = camera(lens, fisheye), (0.1, -0.2, 0.3)
    points, faces = ball(centre, 0.8)
    found, true = rasterise(points, faces, own), ball_depth(own, centre, 0.8)
    both = np.isfinite(found.depth) & np.isfinite(true)
    assert both.sum() > 900 and (np.isfinite(found.depth) != np.isfinite(true)).sum() < 12
    facing = np.abs(true[both] - found.depth[both])
    assert np.median(facing) < 1e-3 and np.percentile(facing, 99) < 0.03
    assert ((found.face >= 0) == np.isfinite(found.depth)).all()


@pytest.mark.parametrize(("lens", "fisheye"), LENSES)
@pytest.mark.parametrize("cells", [1, 23])
def test_a_plane_of_two_or_many_faces_is_exact(lens: tuple[float, ...], fisheye: bool, cells: int) -> None:
    own = camera(lens, fisheye)
    at = np.linspace(-1, 1, cells + 1)
    across = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    points = np.concatenate([across, 0.4 * across[:, :1] - 0.2 * across[:, 1:]], axis=1)  # z = 0.4 x - 0.2 y
    one = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    low = np.stack([one, one + 1, one + cells + 1], -1)
    faces = np.concatenate([low, np.stack([one + 1, one + cells + 2, one + cells + 1], -1)])
    found = rasterise(points, faces, own)
    normal = np.array([-0.4, 0.2, 1.0])
    true = -(own.position @ normal) / (rays(own) @ normal)
    where = own.position + rays(own) * true[..., None]
    reach = np.abs(where[..., :2]).max(axis=-1)
    # Every pixel whose ray meets the square is drawn, also where a lens bends its edges, and none besides.
    assert (found.face[reach < 1 - 1e-6] >= 0).all() and (found.face[reach > 1 + 1e-6] < 0).all()
    assert np.allclose(found.depth[reach < 1 - 1e-6], true[reach < 1 - 1e-6], rtol=1e-5)


@pytest.mark.parametrize(("lens", "fisheye"), LENSES)
def test_weights_lead_to_the_place_that_is_seen(lens: tuple[float, ...], fisheye: bool) -> None:
    own = camera(lens, fisheye)
    points, faces = ball((0.1, -0.2, 0.3), 0.8, rings=7)  # large faces, so that perspective shows
    found = rasterise(points, faces, own)
    hit = found.face >= 0
    seen = own.position + rays(own)[hit] * found.depth[hit][:, None]
    assert np.abs(interpolate(found, faces, points)[hit] - seen).max() < 1e-5
    assert np.allclose(found.weights[hit].sum(-1), 1, atol=1e-6) and (found.weights >= 0).all()
    assert (found.weights[~hit] == 0).all() and (interpolate(found, faces, points)[~hit] == 0).all()


def test_of_two_balls_the_nearer_is_seen() -> None:
    own = camera((0.06, -0.08, -1e-3, 2e-4))
    balls = [((0.45, 0.0, 0.1), 0.5), ((-0.1, 0.1, 0.0), 0.6)]
    points, faces = zip(*(ball(*one) for one in balls), strict=True)
    for order in ([0, 1], [1, 0]):
        both = np.concatenate([faces[order[0]], faces[order[1]] + len(points[order[0]])])
        found = rasterise(np.concatenate([points[k] for k in order]), both, own)
        depths = np.nan_to_num(np.stack([ball_depth(own, *balls[k]) for k in order]), posinf=99)
        within = [np.isfinite(ball_depth(own, balls[k][0], balls[k][1] * 0.98)) for k in order]
        clear = within[0] & within[1]
        clear[clear] = np.abs(depths[0] - depths[1])[clear] > 0.05
        assert clear.sum() > 100
        owner = found.face // len(faces[0])
        assert (owner[clear] == depths.argmin(axis=0)[clear]).all()
        assert set(np.unique(owner[clear])) == {0, 1}


def test_no_ray_passes_between_faces() -> None:
    points, faces = ball((0.0, 0.0, 0.0), 0.5, rings=40)
    own = camera(size=(200, 231))
    found = rasterise(points, faces, Camera(own.size, pinhole((400, 400), (115, 100)), own.rotation, own.translation))
    for row in found.face >= 0:  # the outline of a ball is convex
        inside = np.flatnonzero(row)
        assert len(inside) == 0 or inside[-1] - inside[0] + 1 == len(inside)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(9, 14), (17, 6), (1, 5)]))
def test_the_same_as_one_pixel_and_face_after_another(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, 17, (24, 2))
    faces = np.stack([rng.permutation(24)[:3] for _ in range(9)])
    found = rasterise_flat(points, faces, size)
    for y in range(size[0]):
        for x in range(size[1]):
            wanted = -1
            for k, (a, b, c) in enumerate(points[faces]):
                turns = [np.linalg.det([t - s, [x - s[0], y - s[1]]]) for s, t in pairwise([a, b, c, a])]
                if min(turns) >= 0 or max(turns) <= 0:
                    wanted = k
                    break
            assert found.face[y, x] == wanted
            if wanted >= 0:
                assert np.allclose(found.weights[y, x] @ points[faces[wanted]], [x, y], atol=1e-4)


def test_large_faces_are_tried_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    points, faces = ball((0.1, -0.2, 0.3), 0.8, rings=9)
    points, faces = (
        np.concatenate([points, [[-9, -9, -1], [9, -9, -1], [0, 9, -1]]]),
        [*faces, np.arange(3) + len(points)],
    )
    whole = rasterise(points, np.array(faces), camera())
    assert (whole.face == len(faces) - 1).sum() > 1000
    monkeypatch.setattr(module, "_CHUNK", 37)
    pieces = rasterise(points, faces, camera())
    assert (pieces.face == whole.face).all() and (pieces.depth == whole.depth).all()


def test_what_is_behind_or_nothing_is_not_drawn() -> None:
    own = camera()
    ahead, side = own.rotation[2], own.rotation[0]
    away = np.stack([own.position + ahead * z + side * x for z, x in ((2, -1), (2, 1), (-1, 0))])
    assert (rasterise(away, np.array([[0, 1, 2]]), own).face == -1).all()
    behind = np.stack([own.position - ahead * 2 + d for d in np.eye(3)])
    assert (rasterise(behind, np.array([[0, 1, 2]]), own).face == -1).all()
    line = np.stack([own.position + ahead * 2 + side * x for x in (-0.5, 0.1, 0.5)])
    empty = rasterise(line, np.array([[0, 1, 2], [1, 1, 1]]), own)
    assert (empty.face == -1).all() and np.isinf(empty.depth).all()
    none = rasterise(np.zeros((0, 3)), np.zeros((0, 3), int), own)
    assert none.face.shape == SIZE and (none.face == -1).all()


def test_other_backends() -> None:
    points, faces = ball((0.1, -0.2, 0.3), 0.8)
    with pytest.raises(InputError, match="no rasteriser 'opengl'"):
        rasterise(points, faces, camera(), backend="opengl")


def test_pytorch3d_sees_the_same() -> None:
    pytest.importorskip("pytorch3d", reason="pytorch3d is not installed; it has no wheel for this torch")
    points, faces = ball((0.1, -0.2, 0.3), 0.8)
    for lens in ((), (0.06, -0.08, -1e-3, 2e-4)):
        ours, theirs = (rasterise(points, faces, camera(lens), backend=name) for name in ("numpy", "pytorch3d"))
        same = ours.face == theirs.face
        assert same.mean() > 0.99
        hit = same & (ours.face >= 0)
        assert np.abs(ours.depth[hit] - theirs.depth[hit]).max() < 1e-3
        assert np.abs(ours.weights[hit] - theirs.weights[hit]).max() < 1e-2
