"""The synthetic person: what is said of a view is true of it, from any place, through any lens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from motions import write_bvh

from canon.errors import InputError
from canon.scenes.human import HumanScene, HumanSceneConfig, nearest_capsule

SMALL = {"width": 40, "height": 56, "frames": 8}
LENS = (0.08, -0.05, 1e-3, -2e-3)


def pixels(size: tuple[int, int]) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), axis=-1).astype(float)


@pytest.mark.parametrize("motion", ["walk", "wave", "turn"])
@pytest.mark.parametrize("lens", [(), LENS])
def test_places_in_the_rest_pose_are_where_the_rays_end(motion: str, lens: tuple[float, ...]) -> None:
    scene = HumanScene(HumanSceneConfig(motion=motion, distortion=lens, **SMALL))
    camera, pose, view = scene.camera(5), scene.pose(5), scene.frame(5)
    on = view.joint >= 0
    assert 0.05 < on.mean() < 0.4 and np.isfinite(view.canonical[on]).all() and np.isnan(view.canonical[~on]).all()
    moved = scene.body.moved(*map(torch.from_numpy, pose)).numpy()[view.joint[on]]
    world = np.einsum("nab,nb->na", moved[:, :3, :3], view.canonical[on]) + moved[:, :3, 3]
    found, depth = camera.project(world)
    assert np.abs(found - pixels(camera.size)[on]).max() < 1e-2 and (depth > 0).all()
    assert np.allclose(np.linalg.norm(world - camera.position, axis=1), view.depth[on], atol=1e-4)
    # They lie on the surface of a capsule, and inside of none of its own.
    apart = scene.body.bones.distance(torch.from_numpy(view.canonical[on])[:, None])
    own = scene.body.bones.joint[None] == torch.from_numpy(view.joint[on])[:, None].long()
    assert torch.allclose(torch.where(own, apart, torch.inf).amin(dim=1), torch.ones(int(on.sum())), atol=1e-3)


def test_nothing_lies_in_front_of_what_is_seen() -> None:
    scene = HumanScene(HumanSceneConfig(**SMALL))
    camera, view = scene.camera(3), scene.frame(3)
    moved = scene.body.moved(*map(torch.from_numpy, scene.pose(3)))
    ways = camera.directions(pixels(camera.size)).reshape(-1, 3)
    depth = view.depth.reshape(-1)
    for share in np.linspace(0.3, 0.999, 25):
        places = torch.from_numpy(camera.position + ways * (depth * share)[:, None]).float()
        turn, shift = moved[:, :3, :3], moved[:, :3, 3]
        back = torch.einsum("jba,njb->nja", turn, places[:, None] - shift)
        assert float(scene.body.bones.distance(back[:, scene.body.bones.joint]).min()) > 0.99


def test_the_room_is_seen_where_nobody_stands() -> None:
    scene = HumanScene(HumanSceneConfig(**SMALL))
    view, empty = scene.frame(0), scene.view(scene.camera(0))
    off = view.mask == 0
    assert np.array_equal(view.rgb[off], empty.rgb[off]) and np.array_equal(view.depth[off], empty.depth[off])
    assert not empty.mask.any() and (view.depth[view.mask == 1] < empty.depth[view.mask == 1]).all()
    camera = scene.camera(0)
    walls = camera.position + camera.directions(pixels(camera.size)) * empty.depth[..., None]
    faces = np.stack([walls - np.array([-2.6, 0, -2.6]), np.array([2.6, 2.7, 2.6]) - walls])
    assert np.allclose(np.abs(faces).min(axis=(0, -1)), 0, atol=1e-5)


def test_it_is_the_same_person_from_all_sides_and_in_all_poses() -> None:
    scene = HumanScene(HumanSceneConfig(motion="turn", **SMALL))
    # After half a turn the back is seen from the front; the emblem is on the chest alone.
    front, back = (scene.view(scene.orbiting(0), scene.pose(t)) for t in (0, 20))
    assert np.nanmedian(front.canonical[..., 2]) > 0 > np.nanmedian(back.canonical[..., 2])
    assert np.array_equal(scene.frame(2).rgb, HumanScene(HumanSceneConfig(motion="turn", **SMALL)).frame(2).rgb)
    around = scene.view(scene.orbiting(180), scene.pose(20))
    assert np.abs(around.mask - front.mask).mean() < 0.01
    feet = scene.body.skeleton.joints(*map(torch.from_numpy, scene.pose(0)))[:, 1].min()
    assert 0 < float(feet) < 0.1


def test_a_capsule_in_closed_form() -> None:
    scene = HumanScene(HumanSceneConfig(**SMALL))
    still = np.tile(np.eye(4), (24, 1, 1))
    thigh = next(k for k, joint in enumerate(scene.body.bones.joint.tolist()) if joint == 1)
    middle = ((scene.body.bones.start + scene.body.bones.end) / 2)[thigh].double().numpy()
    origin = middle + np.array([0.0, 0.0, 3.0])
    number, depth = nearest_capsule(scene.body, still, origin, np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]))
    assert int(number[0]) == thigh and depth[0] == pytest.approx(3 - float(scene.body.bones.radius[thigh]), abs=1e-3)
    assert depth[1] > 1e8


def test_what_is_no_scene_is_refused() -> None:
    with pytest.raises(InputError, match="'fly' is not known"):
        HumanSceneConfig(motion="fly")
    with pytest.raises(InputError, match="at least 8x8"):
        HumanSceneConfig(width=2)


def test_a_person_moves_as_a_file_says(tmp_path: Path) -> None:
    wave = HumanScene(HumanSceneConfig(motion="wave", fps=20, **SMALL))
    write_bvh(wave.motion(), tmp_path / "wave.bvh")
    again = HumanScene(HumanSceneConfig(motion=str(tmp_path / "wave.bvh"), fps=20, **SMALL))
    assert np.abs(again.motion().joints - wave.motion().joints).max() < 0.02
    assert np.allclose(again.pose(2)[0], again.pose(2 + len(wave))[0]), "again and again"
    with pytest.raises(InputError, match=r"'dance' is not known; give walk, wave, turn, or a \.bvh file"):
        HumanSceneConfig(motion="dance")
