"""Cameras: what they project against known points, there and back, other conventions, other sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from truth import turned

from canon.cameras import Camera, pinhole
from canon.errors import InputError

SIZE = (48, 90)
LENSES = [((), False), ((0.06, -0.08, -1e-3, 2e-4), False), ((0.1, -0.05, 1e-3, 0.0, 0.02), False), ((0.0,) * 4, True)]
LENSES += [((0.03, -0.01, 2e-3, 1e-4), True), ((0.1, 0.02, 1e-3, -1e-3, 0.01, 0.05, 0.01, 0.002), False)]


def camera(lens: tuple[float, ...] = (), fisheye: bool = False, **changes: object) -> Camera:
    rotation = turned((0.3, -0.5, 1.1))
    options = {"intrinsics": pinhole((70, 66), (43, 25)), "rotation": rotation, "translation": np.array([0.2, -1, 3])}
    return Camera(SIZE, **{**options, **changes}, distortion=lens, fisheye=fisheye)  # type: ignore[arg-type]


def test_known_points() -> None:
    straight = camera(rotation=np.eye(3), translation=np.zeros(3))
    pixels, depth = straight.project(np.array([[0, 0, 2.0], [1, 0.5, 2.0], [0.2, -0.1, -1.0]]))
    assert np.allclose(pixels[:2], [[43, 25], [43 + 35, 25 + 16.5]]) and np.allclose(depth, [2, 2, -1])
    bent = camera((0.1, 0.0, 0.0, 0.0), rotation=np.eye(3), translation=np.zeros(3))
    r2 = 0.5**2 + 0.25**2
    assert np.allclose(bent.project(np.array([1, 0.5, 2.0]))[0], [43 + 35 * (1 + 0.1 * r2), 25 + 16.5 * (1 + 0.1 * r2)])


@pytest.mark.parametrize(("lens", "fisheye"), LENSES)
def test_rays_lead_back_to_their_pixels(lens: tuple[float, ...], fisheye: bool) -> None:
    own = camera(lens, fisheye)
    pixels = np.stack(np.meshgrid(np.arange(0, 90, 7.0), np.arange(0, 48, 5.0)), axis=-1)
    rays = own.directions(pixels)
    assert np.allclose(np.linalg.norm(rays, axis=-1), 1)
    back, depth = own.project(own.position + rays * 2.5)
    assert np.abs(back - pixels).max() < 1e-4 and (depth > 0).all()


@pytest.mark.parametrize("lens", [(-0.3, 0.0, 0.0, 0.0), (-0.1, 0.0, 0.0, 0.0), (-0.3, 0.12, 1e-3, 0.0)])
def test_a_barrel_shows_nothing_from_outside_of_its_view(lens: tuple[float, ...]) -> None:
    own = camera(lens)
    around, down = np.meshgrid(np.radians(np.linspace(-88, 88, 89)), np.radians(np.linspace(-80, 80, 61)))
    ways = np.stack([np.sin(around) * np.cos(down), np.sin(down), np.cos(around) * np.cos(down)], axis=-1)
    pixels, depth = own.project(own.position + 3 * ways @ own.rotation)
    inside = (depth > 0) & ((pixels >= -0.5) & (pixels <= [SIZE[1] - 0.5, SIZE[0] - 0.5])).all(axis=-1)
    assert inside.sum() > 10
    back = own.directions(pixels[inside]) @ own.rotation.T
    # At the very rim of what the model holds for its inverse is not sharp; what is folded is tens of degrees off.
    assert np.abs(back - ways[inside]).max() < 0.01


@given(st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-5, 5)] * 3))
@example((0.0, 0.0, 1e-5), (0.0, 2.0, 0.0))
def test_opengl_there_and_back(angles: tuple[float, float, float], shift: tuple[float, float, float]) -> None:
    own = camera(rotation=turned(angles), translation=np.array(shift))
    pose = own.to_opengl()
    other = Camera.from_opengl(SIZE, own.intrinsics, pose)
    assert np.allclose(other.rotation, own.rotation) and np.allclose(other.translation, own.translation)
    # What lies along -z of the pose is in the middle of the picture; up is up.
    ahead = pose[:3, 3] - 2 * pose[:3, 2]
    assert np.allclose(own.project(ahead)[0], [43, 25])
    assert own.project(ahead + 0.1 * pose[:3, 1])[0][1] < 25 and own.project(ahead + 0.1 * pose[:3, 0])[0][0] > 43


@pytest.mark.parametrize("size", [(24, 45), (144, 270), (31, 200)])
def test_another_size_shows_the_same(size: tuple[int, int]) -> None:
    own = camera((0.06, -0.08, -1e-3, 2e-4))
    points = own.position + own.directions(np.array([[-0.5, -0.5], [89.5, 47.5], [30, 20]])) * 3
    found, _ = own.resized(size).project(points)
    scale = np.array([size[1] / 90, size[0] / 48])
    assert np.allclose(found[:2], [[-0.5, -0.5], [size[1] - 0.5, size[0] - 0.5]], atol=1e-3)
    assert np.allclose(found[2], (np.array([30, 20]) + 0.5) * scale - 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"intrinsics": pinhole((0, 10), (1, 1))}, "focal lengths must be larger than 0"),
        ({"intrinsics": np.full((3, 3), np.nan)}, "intrinsics must be 3x3 finite"),
        ({"rotation": np.eye(3) * 2}, "orthonormal"),
        ({"rotation": np.diag([1.0, 1, -1])}, "no reflection"),
        ({"translation": np.zeros(4)}, "translation must be 3 finite"),
        ({"lens": (0.1,)}, "distortion must be 0 or 4"),
    ],
)
def test_what_is_no_camera_is_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        camera(**changes)  # type: ignore[arg-type]
