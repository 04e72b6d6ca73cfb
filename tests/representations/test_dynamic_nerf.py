"""The dynamic NeRF: what every representation must do, and what is true of it alone, against the synthetic person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts import RepresentationContract
from truth import psnr

import canon
from canon.bodies import capsule_body
from canon.camera_paths import orbit
from canon.cameras import Camera
from canon.clip import Clip
from canon.editing import edit as make_edit
from canon.edits import Edit, Over, Step
from canon.fits import Fit
from canon.metrics import track_errors
from canon.representations.dynamic_nerf import DynamicNerfConfig, make_world, scene_frame
from canon.representations.dynamic_nerf.buffers import Pose, frame_rays, posed
from canon.representations.dynamic_nerf.deformation import Deformation, rotations_of
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.representations.dynamic_nerf.observations import Observations
from canon.representations.dynamic_nerf.panorama import Panorama
from canon.representations.dynamic_nerf.rays import RaySource, capsule_hits
from canon.representations.dynamic_nerf.sizes import SIZES
from canon.representations.dynamic_nerf.skinning import skin
from canon.representations.dynamic_nerf.volume import merged_weights, render_weights
from canon.representations.dynamic_nerf.world import World
from canon.scenes.human import HumanScene, HumanSceneConfig, nearest_capsule
from canon.skeletons import Motion
from canon.storage import to_uint8, write_image

CPU = torch.device("cpu")
STEPS = {"scene_steps": 30, "human_steps": 8, "joint_steps": 3}
TINY = replace(SIZES["fast"], levels=4, log2_size=12, width=16, rays=256, patches=2, texels=128, panorama=512, cells=40)


def person(**overrides: Any) -> HumanScene:
    return HumanScene(HumanSceneConfig(**{"width": 60, "height": 72, "frames": 4, "orbit": 40.0, **overrides}))


@pytest.fixture(scope="class")
def tiny() -> Iterator[None]:
    """Networks, canvases and a surface of another size, for what is true of any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "fast", TINY)
        yield


@pytest.mark.usefixtures("tiny")
class TestContract(RepresentationContract):
    name = "dynamic-nerf"
    given = {"preset": "fast", **STEPS}  # noqa: RUF012
    interrupt_stage = "human"
    interruptions = (4,)
    converged = False

    def make_clip(self, **overrides: object) -> Clip:
        return person(**overrides).clip()


# --- the parts, against analytic answers ---


def test_rays_go_where_cameras_look_through_any_lens() -> None:
    lens = (-0.2, 0.05, 0.001, -0.002)
    cameras = [
        HumanScene(HumanSceneConfig(width=41, height=30, distortion=d)).orbiting(g)
        for d, g in (((), 10), (lens, 70), ((), 200))
    ]
    source = RaySource(cameras, CPU)
    frames, pixels = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 7, 1229, 40 + 41 * 29])
    rays = source(frames, pixels)
    places = rays.at(torch.full((4, 1), 2.5))[:, 0].double().numpy()
    for k in range(4):
        seen, _ = cameras[int(frames[k])].project(places[k])
        assert seen == pytest.approx([int(pixels[k]) % 41, int(pixels[k]) // 41], abs=1e-3)


def test_capsules_are_hit_where_the_analytic_renderer_hits_them() -> None:
    scene = person()
    camera, (rotations, root) = scene.camera(1), scene.pose(1)
    moved = scene.body.moved(torch.from_numpy(rotations), torch.from_numpy(root))
    rays = frame_rays(camera, CPU)
    near, far, hit = capsule_hits(scene.body, moved.expand(len(rays.origins), -1, -1, -1), rays, 1.0)
    _, depth = nearest_capsule(scene.body, moved.double().numpy(), camera.position, rays.directions.double().numpy())
    true = depth < 1e6
    assert (hit.numpy() == true).mean() > 0.999
    both = hit.numpy() & true
    assert np.abs(near.numpy() - depth)[both].max() < 2e-3
    assert (far > near)[hit].all()


def test_samples_of_two_fields_merge_by_depth() -> None:
    """Against one field that holds both: a thin sheet before, and one behind, half of the other's."""
    edges = torch.tensor([[0.0, 1, 2, 3, 4]], dtype=torch.float64)
    density = torch.tensor([[0.3, 0.0, 0.8, 0.2]], dtype=torch.float64)
    whole, _ = render_weights(density, edges)
    at = torch.tensor([[0.5, 1.5, 2.5, 3.5]], dtype=torch.float64)
    first, second = merged_weights([at[:, [0, 2]], at[:, [1, 3]]], [density[:, [0, 2]], density[:, [1, 3]]])
    assert torch.allclose(torch.stack([first[0, 0], second[0, 0], first[0, 1], second[0, 1]]), whole[0])


def test_rotation_vectors_are_what_they_say() -> None:
    vectors = torch.tensor([[0.0, 0, 0], [1e-7, 0, 0], [0, torch.pi / 2, 0], [0.3, -0.4, 1.1]], dtype=torch.float64)
    vectors.requires_grad_(True)
    found = rotations_of(vectors)
    assert torch.allclose(found, torch.linalg.matrix_exp(_crosses(vectors)), atol=1e-10)
    assert torch.autograd.gradcheck(rotations_of, (vectors[3:].detach().requires_grad_(True),))
    found.sum().backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all()


def _crosses(vectors: torch.Tensor) -> torch.Tensor:
    x, y, z = vectors.unbind(-1)
    none = torch.zeros_like(x)
    return torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=-1).unflatten(-1, (3, 3))


@pytest.fixture(scope="module")
def deformation() -> Deformation:
    scene = person()
    found = Deformation(scene.body, scene.motion(), 16, 0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        found.volume += 0.3 * torch.randn(found.volume.shape, generator=generator)
    return found


def test_what_is_moved_forward_comes_back(deformation: Deformation) -> None:
    body = deformation.body
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(400, 1, generator=generator)
    number = torch.randint(len(body.bones.joint), (400,), generator=generator)
    start, end = body.bones.start[number], body.bones.end[number]
    rest = (
        start + share * (end - start) + 0.5 * body.bones.radius[number, None] * torch.randn(400, 3, generator=generator)
    )
    rotations, root = deformation.poses(torch.tensor(2))
    moved = deformation.transforms(rotations, root)
    placed = skin(deformation, rest, moved, rotations)
    near, back, _ = deformation(placed[None], moved[None], rotations[None], 1.0, torch.inf)
    error = (back - rest).norm(dim=-1)
    assert len(near) == 400
    assert error.median() < 1e-4 and (error < 2e-3).float().mean() > 0.9


def test_the_panorama_knows_where_its_texels_look() -> None:
    scene = person()
    cameras = [scene.camera(t) for t in range(4)]
    places = cameras[0].position + 3 * cameras[0].directions(np.array([[5.0, 9], [50, 60], [30, 2]]))
    panorama = Panorama.of(cameras, places, 1.0, 4096)
    height, width = panorama.size
    texels = np.stack(np.meshgrid(np.arange(0, width, 3), np.arange(0, height, 5)), axis=-1).astype(np.float64)
    back = panorama.coordinates(panorama.centre + 2.7 * panorama.towards(texels))
    assert np.abs(back - texels).max() < 1e-3
    assert np.allclose(np.linalg.norm(panorama.directions(), axis=-1), 1)
    # To the right in a picture is to the right in the panorama, down is down.
    x, y = panorama.coordinates(
        cameras[1].position + 3 * cameras[1].directions(np.array([[10.0, 30], [40, 30], [10, 50]]))
    ).T
    assert x[1] > x[0] and y[2] > y[0]


# --- the world: both together ---


def small_world(scene: HumanScene, seed: int = 0, **options: Any) -> World:
    clip = scene.clip()
    sizes = replace(SIZES["fast"], coarse=12, fine=8, body=48)
    return make_world(sizes, scene_frame(clip), scene.body, scene.motion(), DynamicNerfConfig(**options), 1, seed)


def test_the_person_before_the_background_is_both_together() -> None:
    scene = person()
    world, camera = small_world(scene), scene.camera(0)
    assert world.background is not None
    with torch.no_grad():  # the background lies behind the person: nothing of it is nearer than four metres
        world.background.forward = _behind(world, 4.0)  # type: ignore[method-assign]
        rays = frame_rays(camera, CPU)
        rotations, root = (torch.from_numpy(part) for part in scene.pose(0))
        pose = posed(world, Pose(rotations, root), len(rays.origins))
        both, human, far = world(rays, pose), world(rays, pose, background=False), world(rays, None)
        over = human.rgb + (1 - human.human[:, None]) * far.rgb
        assert human.human.max() > 0.99
        assert (both.rgb - over).abs().max() < 1e-5 and (both.human - human.human).abs().max() < 1e-5


def _behind(world: World, least: float) -> Any:
    field = world.background
    assert field is not None
    plain = type(field).forward

    def only(points: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density, colour = plain(field, points, directions)
        centre = points.new_tensor(field.frame.centre)
        return density * ((points - centre).norm(dim=-1) > least), colour

    return only


def test_gradients_reach_the_appearance_and_leave_a_frozen_deformation_alone() -> None:
    scene = person()
    world = small_world(scene)
    assert world.human is not None and world.deformation is not None and world.background is not None
    world.requires_grad_(False)
    for parameter in world.human.appearance_parameters():
        parameter.requires_grad_(True)
    rotations, root = (torch.from_numpy(part) for part in scene.pose(0))
    rays = frame_rays(scene.camera(0), CPU)
    seen = world(rays, posed(world, Pose(rotations, root), len(rays.origins)))
    (seen.rgb * seen.human[:, None]).sum().backward()
    reached = [
        parameter.grad is not None and bool(parameter.grad.any()) for parameter in world.human.appearance_parameters()
    ]
    assert all(reached)
    untouched = [*world.deformation.parameters(), *world.human.shape.parameters(), *world.background.parameters()]
    assert all(parameter.grad is None for parameter in untouched)


def test_an_unlearned_person_is_as_the_bones_say() -> None:
    """So that a fit starts from the right silhouette: the prior alone finds most of the true mask."""
    scene = person()
    world = small_world(scene)
    camera, (rotations, root) = scene.camera(2), scene.pose(2)
    rays = frame_rays(camera, CPU)
    with torch.no_grad():
        pose = posed(world, Pose(torch.from_numpy(rotations), torch.from_numpy(root)), len(rays.origins))
        found = world(rays, pose, background=False).human.reshape(camera.size).numpy() > 0.5
    true = scene.frame(2).mask > 0.5
    assert (found & true).sum() / (found | true).sum() > 0.85


# --- a fit, against the truth ---


@pytest.fixture(scope="module")
def scene() -> HumanScene:
    return person(width=72, height=80, frames=12, orbit=60.0)


@pytest.fixture(scope="module")
def fit(scene: HumanScene) -> NerfFit:
    found = canon.fit(
        scene.clip(), "dynamic-nerf", preset="fast", device="cpu", scene_steps=500, human_steps=250, joint_steps=40
    )
    assert isinstance(found, NerfFit)
    return found


def test_frames_and_views_and_poses_that_were_not_seen(scene: HumanScene, fit: NerfFit) -> None:
    trained = [psnr(fit.view(t, fit.cameras[t]), scene.frame(t).rgb) for t in (0, 5, 11)]
    camera = scene.orbiting(12.0, 1.35)
    view = psnr(fit.view(4, camera), scene.view(camera, scene.pose(4)).rgb)
    wave = HumanScene(replace(scene.config, motion="wave"))
    pose = psnr(fit.view(3, fit.cameras[3], wave.pose(5)), scene.view(scene.camera(3), wave.pose(5)).rgb)
    assert min(trained) > 26 and view > 25 and pose > 24
    overlaps = []
    for t in (0, 5, 11):
        found, true = fit.weights(t)[0] > 0.5, scene.frame(t).mask > 0.5
        overlaps.append((found & true).sum() / (found | true).sum())
    assert min(overlaps) > 0.85


def test_a_reference_of_one_frame_is_reached_and_worn_everywhere(
    scene: HumanScene, fit: NerfFit, tmp_path: Path
) -> None:
    """Of the same person in another shirt: at its own frame, in others, and elsewhere as far as it shows them."""
    dressed = HumanScene(replace(scene.config, shirt=((0.1, 0.45, 0.15), (0.85, 0.9, 0.5))))
    true = dressed.frame(5)
    write_image(tmp_path / "reference.png", to_uint8(true.rgb))
    edit = canon.edit(fit, "dynvideo-e", reference=str(tmp_path / "reference.png"), frame=5, steps=80)
    video = canon.render(fit, edit)
    assert psnr(video[5] / 255, true.rgb, true.mask > 0.5) > 28
    for t in (1, 9):
        other, before = dressed.frame(t), fit.clip.frames[t] / 255
        assert psnr(video[t] / 255, other.rgb, other.mask > 0.5) > psnr(before, other.rgb, other.mask > 0.5) + 5
    for t in range(len(fit)):
        nobody = fit.weights(t)[0] == 0
        assert np.array_equal(video[t][nobody], fit.clip.frames[t][nobody])


def test_canonical_places_are_the_true_ones(scene: HumanScene, fit: NerfFit) -> None:
    errors = []
    for t in (1, 6, 10):
        truth, found = scene.frame(t), fit.coordinates_3d(t, "human")
        inside = np.isfinite(truth.canonical).all(axis=-1) & (fit.weights(t)[0] > 0.9)
        errors.append(np.linalg.norm(found - truth.canonical, axis=-1)[inside])
    assert np.median(np.concatenate(errors)) < 0.02
    assert np.isfinite(fit.coordinates_3d(0, "background")).all()


def test_points_are_followed_on_the_person_and_behind(scene: HumanScene, fit: NerfFit) -> None:
    first = scene.frame(0)
    solid = np.argwhere(np.isfinite(first.canonical).all(axis=-1) & (first.mask > 0.999))
    chosen = solid[:: max(len(solid) // 60, 1)]
    rest, joint = (part[chosen[:, 0], chosen[:, 1]] for part in (first.canonical, first.joint))
    truth, seen = [], []
    for t in range(len(scene)):
        rotations, root = scene.pose(t)
        moved = scene.body.moved(torch.from_numpy(rotations), torch.from_numpy(root)).numpy()[joint]
        places = (moved[:, :3, :3] @ rest[..., None])[..., 0] + moved[:, :3, 3]
        pixels, _ = scene.camera(t).project(places)
        truth.append(pixels)
        depth = scene.frame(t).depth
        at = np.clip(np.round(pixels), 0, [71, 79]).astype(int)
        seen.append(np.linalg.norm(places - scene.camera(t).position, axis=1) < depth[at[:, 1], at[:, 0]] + 0.03)
    positions, visible = fit.track(chosen[:, ::-1].astype(np.float32), 0)
    errors = track_errors(positions[1:], visible[1:], np.stack(truth)[1:].astype(np.float32), np.stack(seen)[1:])
    assert errors["median"] < 1.0 and errors["p90"] < 2.5
    corner = np.array([[6.0, 8.0]], np.float32)
    there, _ = fit.correspondence(0, 6, "background")
    followed, _ = fit.track(corner, 0, "background")
    assert np.allclose(followed[6, 0], there[8, 6], atol=0.5)


def test_paint_on_the_atlas_sticks_from_every_camera(fit: NerfFit) -> None:
    canvas = fit.canonical("human")
    red = np.zeros_like(canvas.rgba)
    red[..., 0] = red[..., 3] = 1
    paint = Edit([Step("human", Over(red))], fit.id)
    video = canon.render(fit, paint)
    t = 5
    solid = fit.coordinates(t, "human")[1] > 0.999
    assert np.abs(video[t][solid].astype(int) - [255, 0, 0]).max() <= 3
    outside = fit.coordinates(t, "human")[1] == 0
    assert np.array_equal(video[t][outside], fit.clip.frames[t][outside])
    elsewhere = fit.from_elsewhere(orbit(fit.cameras, fit.centre, 3), frames=[0, 4, 8])
    seen = canon.render(elsewhere, paint)
    assert len(seen) == 3 and elsewhere.id == fit.id
    for k in range(3):
        solid = elsewhere.coordinates(k, "human")[1] > 0.999
        assert solid.sum() > 100 and np.abs(seen[k][solid].astype(int) - [255, 0, 0]).max() <= 3


def test_an_edited_frame_is_pulled_back_to_both_canvases(scene: HumanScene, fit: NerfFit, tmp_path: Path) -> None:
    t = 5
    frame = np.array(fit.clip.frames[t])
    shirt = np.argwhere(fit.coordinates(t, "human")[1] > 0.999)
    y, x = shirt[np.linalg.norm(shirt - [32, 36], axis=1).argmin()]
    frame[y - 3 : y + 4, x - 3 : x + 4] = (255, 0, 255)
    frame[4:16, 4:16] = (255, 0, 255)
    from canon.storage import write_image

    write_image(tmp_path / "frame.png", frame)
    for layer, (row, column) in (("human", (y, x)), ("background", (10, 10))):
        paint = make_edit(fit, "paint", layer=layer, frame=t, image=str(tmp_path / "frame.png"))
        video = canon.render(fit, paint)
        assert np.abs(video[t][row, column].astype(int) - [255, 0, 255]).max() < 40, layer
        positions, visible = fit.track(np.array([[column, row]], np.float32), t, layer)
        other = 7
        assert visible[other, 0]
        px, py = np.round(positions[other, 0]).astype(int)
        assert np.abs(video[other][py, px].astype(int) - [255, 0, 255]).max() < 60, layer


def test_a_camera_that_stands_still_sees_what_it_would_see_each_time(fit: NerfFit) -> None:
    camera = fit.cameras[4]
    still = fit.from_elsewhere([camera] * 3, frames=[0, 4, 8])
    for k, t in enumerate((0, 4, 8)):
        plain = np.rint(255 * fit.view(t, camera))
        assert np.abs(still.clip.frames[k].astype(int) - plain).max() <= 1
        own = fit.from_elsewhere([camera], frames=[t])
        assert np.array_equal(own.depth[0], still.depth[k])


def test_what_was_seen_from_elsewhere_is_seen_from_elsewhere_again(scene: HumanScene, fit: NerfFit) -> None:
    wave = HumanScene(replace(scene.config, motion="wave", frames=14))
    cameras = [fit.cameras[2].resized((40, 36))] * 14
    once = fit.from_elsewhere(cameras, wave.motion())
    again = once.from_elsewhere(cameras[:2], frames=[13, 3])
    assert np.array_equal(again.clip.frames[0], once.clip.frames[13])
    other = once.over(replace(once.clip, frames=np.zeros_like(once.clip.frames)))
    assert isinstance(other, NerfFit) and np.array_equal(other.distance(13), once.distance(13))
    with pytest.raises(canon.InputError, match="cannot be enlarged"):
        canon.render(fit, scale=2)


def test_removing_the_person_shows_the_room(scene: HumanScene, fit: NerfFit) -> None:
    video = canon.render(fit, make_edit(fit, "remove", layer="human"))
    t = 6
    empty = scene.view(scene.camera(t)).rgb
    covered = scene.frame(t).mask > 0.5
    assert psnr(video[t] / 255.0, empty, covered) > 18


def test_saved_and_loaded_it_can_still_be_seen_from_elsewhere(fit: NerfFit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit")
    loaded = canon.load(tmp_path / "fit")
    assert isinstance(loaded, NerfFit) and loaded.id == fit.id
    camera = orbit(fit.cameras, fit.centre, 5)[2]
    assert np.allclose(loaded.view(3, camera), fit.view(3, camera), atol=1e-5)
    assert np.array_equal(loaded.coordinates_3d(2, "human"), fit.coordinates_3d(2, "human"))
    loaded.save_mesh(tmp_path / "person.glb")
    loaded.save_mesh(tmp_path / "person.ply")
    from canon.gltf import read_glb

    body = read_glb(tmp_path / "person.glb")
    assert len(body.skeleton) == 24 and np.allclose(body.weights.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(canon.InputError, match=r"'person.obj'; give a .glb or a .ply"):
        loaded.save_mesh(tmp_path / "person.obj")


def test_distances_are_the_true_ones(scene: HumanScene, fit: NerfFit) -> None:
    t = 4
    truth, found = scene.frame(t), fit.distance(t)
    inside = (truth.mask > 0.999) & (fit.weights(t)[0] > 0.9)
    assert np.median(np.abs(found - truth.depth)[inside]) < 0.03
    outside = truth.mask == 0
    assert np.median(np.abs(found / truth.depth - 1)[outside]) < 0.08


def test_turntables_show_the_person_and_the_room(fit: NerfFit) -> None:
    human, background = fit.turntables()
    picture = next(human.frames)
    grey = np.abs(picture.astype(int) - picture[0, 0]).max(axis=-1) < 8
    assert human.name == "human" and 0.02 < (~grey).mean() < 0.5
    height = np.flatnonzero((~grey).any(axis=1))
    assert height[-1] - height[0] > 0.6 * len(picture) * 0.5
    assert background.name == "background" and next(background.frames).std() > 5


# --- bad input ---


def test_what_cannot_be_fitted_is_refused_in_a_sentence(scene: HumanScene) -> None:
    clip = person(frames=2).clip()
    every = {"human": np.full((2, 72, 60), 255, np.uint8)}
    covered = Clip.from_frames(clip.frames, masks=every, cameras=clip.cameras, poses=clip.poses)
    cases: list[tuple[Clip, dict[str, Any], str]] = [
        (replace(clip, cameras=None), {}, "needs a camera for every frame"),
        (replace(clip, poses=_of_three_joints()), {}, "have 3 joints; dynamic-nerf needs the 24"),
        (clip, {"states": (5,)}, "begins at moment 5, and there are 2 moments"),
        (clip, {"states": (1, 1)}, "ascending moments"),
        (clip, {"preset": "huge"}, "'huge' is not known"),
        (clip, {"scene_steps": -1}, "-1 steps"),
        (
            Clip.from_frames(
                clip.frames, masks={"human": np.zeros((2, 72, 60), np.uint8)}, cameras=clip.cameras, poses=clip.poses
            ),
            {},
            "no person in any frame",
        ),
        (replace(clip, poses=_moved(clip.poses, 50.0)), {}, "in no frame as its camera sees it"),
        (covered, {}, "leave nothing of the background"),
    ]
    for wrong, options, sentence in cases:
        with pytest.raises(canon.InputError, match=sentence):
            canon.fit(wrong, "dynamic-nerf", **{"preset": "fast", **options})


def _of_three_joints() -> Motion:
    from canon.skeletons import Skeleton

    skeleton = Skeleton(("a", "b", "c"), (-1, 0, 1), np.eye(3, dtype=np.float32))
    return Motion(skeleton, np.tile(np.eye(3, dtype=np.float32), (2, 3, 1, 1)), np.zeros((2, 3), np.float32), 24.0)


def _moved(motion: Motion | None, by: float) -> Motion:
    assert motion is not None
    return replace(motion, root=motion.root + np.float32(by))


def test_a_flat_fit_has_no_third_dimension() -> None:
    from truth import still_fit

    from canon.spatial import spatial

    flat: Fit = still_fit(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(canon.InputError, match="has no third dimension"):
        spatial(flat)


@pytest.mark.usefixtures("tiny")
def test_the_background_alone(scene: HumanScene) -> None:
    cameras: list[Camera] = [scene.orbiting(10 * k) for k in range(4)]
    frames = [np.uint8(255 * scene.view(camera).rgb) for camera in cameras]
    fit = canon.fit(Clip.from_frames(frames, cameras=cameras), "dynamic-nerf", preset="fast", scene_steps=30)
    assert isinstance(fit, NerfFit) and fit.layers == ["background"]
    assert fit.view(0, cameras[1]).shape == (80, 72, 3)
    with pytest.raises(canon.InputError, match="no person that could be posed"):
        fit.posing(*scene.pose(0))


def test_the_body_of_a_taller_person_is_taller() -> None:
    assert float(capsule_body(1.9).box[1][1]) > float(capsule_body(1.6).box[1][1])


@pytest.mark.usefixtures("tiny")
def test_the_person_follows_the_flow_when_asked_and_leaves_a_preview(tmp_path: Path) -> None:
    scene = person(frames=3)
    steps = {"scene_steps": 8, "human_steps": 6, "joint_steps": 2}
    fits = [
        canon.fit(scene.clip(), "dynamic-nerf", preset="fast", flow=flow, workspace=tmp_path / str(flow), **steps)
        for flow in (False, True)
    ]
    weights = [fit.model.world.human.shape.layers[0].weight for fit in fits]  # type: ignore[attr-defined]
    assert not torch.equal(*weights), "flow counts"
    (preview,) = (tmp_path / "True").rglob("preview.png")
    from canon.storage import read_image

    assert read_image(preview).shape == (72, 120, 3)


def test_true_positions_agree_with_the_projection_that_flow_is_compared_with() -> None:
    clip = person().clip()
    assert clip.cameras is not None
    seen = Observations(clip, clip.cameras, CPU)
    places = torch.tensor([[0.1, 1.0, 0.2], [-0.3, 0.4, 0.0]])
    found = seen.project(torch.tensor([0, 3]), places).numpy()
    for k, t in enumerate((0, 3)):
        wanted, _ = clip.cameras[t].project(places[k].double().numpy())
        assert np.allclose(found[k], wanted, atol=1e-3)


@pytest.mark.usefixtures("tiny")
def test_masks_of_some_frames_are_enough_and_given_poses_can_be_kept() -> None:
    whole = person(frames=4).clip()
    masks = {"human": {1: np.asarray(whole.masks["human"].get(1))}}
    clip = Clip.from_frames(whole.frames, masks=masks, cameras=whole.cameras, poses=whole.poses)
    options = {"scene_steps": 6, "human_steps": 8, "joint_steps": 3, "refine_poses": False}
    fit = canon.fit(clip, "dynamic-nerf", preset="fast", **options)
    assert isinstance(fit, NerfFit) and fit.model.world.deformation is not None
    assert not fit.model.world.deformation.turns.any() and not fit.model.world.deformation.shifts.any()
    assert all(bool(value.isfinite().all()) for value in fit.model.world.state_dict().values())
