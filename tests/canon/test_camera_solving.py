"""Cameras from pictures alone, against those that the pictures were made with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from canon.camera_solving import solve_cameras
from canon.cameras import Camera
from canon.clip import Clip
from canon.clip_world import read_world, solved
from canon.errors import InputError
from canon.scenes.human import HumanScene, HumanSceneConfig


def needs_pycolmap() -> None:
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")


def agree(found: list[Camera], truth: list[Camera]) -> tuple[float, float, float]:
    """After a similarity: error of places in the way's length, of directions in degrees, of the focal length."""
    u, _, v = np.linalg.svd(sum(real.rotation.T @ own.rotation for own, real in zip(found, truth, strict=True)))
    turn = u @ v
    own_places, places = (np.array([camera.position for camera in cameras]) for cameras in (found, truth))
    a, b = (own_places - own_places.mean(axis=0)) @ turn.T, places - places.mean(axis=0)
    scale = (a * b).sum() / (a * a).sum()
    apart = np.linalg.norm(scale * a - b, axis=1).max() / np.linalg.norm(np.diff(b, axis=0), axis=1).sum()
    angles = [
        np.degrees(np.arccos(np.clip((np.trace(own.rotation @ turn.T @ real.rotation.T) - 1) / 2, -1, 1)))
        for own, real in zip(found, truth, strict=True)
    ]
    focal = max(abs(own.intrinsics[0, 0] / real.intrinsics[0, 0] - 1) for own, real in zip(found, truth, strict=True))
    return float(apart), float(max(angles)), float(focal)


def scene(frames: int = 14) -> HumanScene:
    return HumanScene(HumanSceneConfig(width=241, height=180, frames=frames, orbit=60.0, distance=2.0))


def same(a: Camera, b: Camera) -> bool:
    """To the last bit."""
    numbers = ("intrinsics", "rotation", "translation")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in numbers) and a.distortion == b.distortion


def byte(rgb: np.ndarray) -> np.ndarray:
    return np.asarray((rgb * 255).round(), np.uint8)


@pytest.fixture(scope="module")
def room() -> tuple[HumanScene, Clip]:
    """The empty room, from a camera that goes round."""
    own = scene()
    return own, Clip.from_frames([byte(own.view(own.camera(t), None).rgb) for t in range(len(own))])


@pytest.mark.slow
def test_cameras_of_a_room_are_those_that_it_was_seen_from(room: tuple[HumanScene, Clip], tmp_path: Path) -> None:
    needs_pycolmap()
    own, clip = room
    found = solve_cameras(clip, tmp_path)
    truth = [own.camera(t) for t in range(len(own))]
    apart, angle, focal = agree(found, truth)
    assert apart < 0.03 and angle < 1 and focal < 0.04

    # One lens; a world that stands upright, and begins where the first camera is.
    assert all(np.array_equal(one.intrinsics, found[0].intrinsics) and one.size == (180, 241) for one in found)
    assert np.abs(found[0].position).max() < 1e-9
    assert -np.mean([one.rotation[1] for one in found], axis=0)[1] > 0.9 and found[0].rotation[2, 2] < 0
    # What is kept is given back to the last bit, and only for the same frames.
    (kept,) = tmp_path.glob("cameras-*.json")
    again = solve_cameras(clip, tmp_path)
    assert all(map(same, solve_cameras(clip), found))  # solved once more, not read
    assert all(map(same, found, again))
    assert list(tmp_path.glob("*")) == [kept]


@pytest.mark.slow
def test_what_is_masked_is_not_looked_at(room: tuple[HumanScene, Clip]) -> None:
    """Something with much texture that goes along with the camera, and would say that it stands still."""
    needs_pycolmap()
    own, clip = room
    height, width = clip.size
    y, x = np.mgrid[:height, :width]
    shown = ((x - 0.55 * width) / 40) ** 2 + ((y - 0.5 * height) / 70) ** 2 < 1
    speckled = np.random.default_rng(0).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
    speckled = speckled.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    frames = np.where(shown[..., None], speckled, clip.frames)
    masks = np.broadcast_to(shown, frames.shape[:3])
    found = solve_cameras(Clip.from_frames(frames, masks={"foreground": masks}))
    apart, angle, focal = agree(found, [own.camera(t) for t in range(len(own))])
    assert apart < 0.04 and angle < 1.5 and focal < 0.06
    with pytest.raises(InputError, match="COLMAP found"):
        solve_cameras(Clip.from_frames(frames))


@pytest.mark.slow
def test_what_cannot_be_solved_is_told_in_one_sentence(room: tuple[HumanScene, Clip]) -> None:
    needs_pycolmap()
    _, clip = room
    grey = Clip.from_frames(np.full((6, 64, 81, 3), 128, np.uint8))
    with pytest.raises(InputError, match="COLMAP found no cameras in this video"):
        solve_cameras(grey)
    frames = np.array(clip.frames)
    frames[-2:] = np.random.default_rng(0).integers(0, 255, frames[-2:].shape)
    with pytest.raises(InputError, match="found cameras for 12 of 14 frames, and none for frame 12 first"):
        solve_cameras(Clip.from_frames(frames))


def test_what_no_cameras_can_be_solved_for_is_refused(
    room: tuple[HumanScene, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, clip = room
    two = Clip.from_frames(np.array(clip.frames[:4]), views=("left", "right"))
    with pytest.raises(InputError, match="one view, and the clip has 2"):
        solve_cameras(two)
    with pytest.raises(InputError, match="from 2 frames; give at least 3"):
        solve_cameras(Clip.from_frames(np.array(clip.frames[:2])))
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(InputError, match=r"needs pycolmap.*canon-video\[sfm\].*--cameras"):
        solve_cameras(clip)


@pytest.mark.slow
def test_cameras_are_solved_where_that_is_asked_for(room: tuple[HumanScene, Clip]) -> None:
    own, clip = room
    assert solved(read_world(None, None), clip) is None
    given = read_world("solve", None)
    assert given.solve and given.cameras is None
    needs_pycolmap()
    found = solved(given, clip)
    assert found is not None and agree(found, [own.camera(t) for t in range(len(own))])[1] < 1
