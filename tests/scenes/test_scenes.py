"""The synthetic scenes are what the other tests trust, so what they claim to be true is checked here on its own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from canon.errors import InputError
from canon.scenes import KNOWN_CLIPS, PRESETS, Scene, known_clip, make

SMALL = {"width": 161, "height": 95, "frames": 7}
"""Odd and not square, so that swapped axes and uneven halves show."""


def small(name: str, **overrides: object) -> Scene:
    return make(name, **{**SMALL, "sway_period": 24.0, "bend_period": 12.0, **overrides})


def bilinear(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of an image [H, W, C] at positions [N, 2], written out independently of the code under test."""
    x, y = points[:, 0], points[:, 1]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x0, y0 = np.clip(x0, 0, image.shape[1] - 2), np.clip(y0, 0, image.shape[0] - 2)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    return top * (1 - fy) + (image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx) * fy


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.fixture(scope="module", params=list(PRESETS))
def scene(request: pytest.FixtureRequest) -> Scene:
    return small(request.param)


def test_equal_seeds_give_equal_bits_and_other_seeds_other_scenes() -> None:
    first, again, other = small("pan", seed=3), small("pan", seed=3), small("pan", seed=4)
    backwards = np.stack([again.frame(t) for t in reversed(range(len(again)))])[::-1]
    assert np.array_equal(first.frames, backwards), "a frame must not depend on what was rendered before it"
    assert not np.array_equal(first.frame(0), other.frame(0))
    assert not np.array_equal(first.frame(0), first.frame(1))


def test_layers_are_named_front_to_back() -> None:
    assert small("pan").layers == ["foreground", "background"]
    assert small("occlusion").layers == ["occluder", "foreground", "background"]


def test_weights_sum_to_one_and_coordinates_are_finite(scene: Scene) -> None:
    for t in (0, 5):
        pairs = [scene.coordinates(t, layer) for layer in scene.layers]
        assert np.abs(sum(weight for _, weight in pairs) - 1).max() < 1e-5
        assert all(uv.dtype == np.float32 and np.isfinite(uv).all() and uv.shape == (95, 161, 2) for uv, _ in pairs)
        for weight in (weight for _, weight in pairs):
            assert weight.min() >= -1e-6 and weight.max() <= 1 + 1e-6
        assert pairs[0][1].max() > 0.99, "the front layer is to be seen"


def test_frames_are_their_textures_seen_through_coordinates_and_light(scene: Scene) -> None:
    for t in (0, 4):
        image = np.zeros((*scene.size, 3))
        for layer in scene.layers:
            uv, weight = scene.coordinates(t, layer)
            colour = bilinear(scene.textures[layer][..., :3], uv.reshape(-1, 2)).reshape(*scene.size, 3)
            image += weight[..., None] * colour * scene.lighting(t, layer)
        # What is left is the area average against one sample a pixel.
        assert psnr(scene.clean(t), image) > 38
        noise = scene.frame(t) / 255.0 - scene.clean(t)
        assert abs(noise.std() * 255 - np.hypot(scene.config.noise, 12**-0.5)) < 0.1


def test_background_covers_every_frame(scene: Scene) -> None:
    height, width = scene.textures["background"].shape[:2]
    for t in range(len(scene)):
        uv, _ = scene.coordinates(t, "background")
        assert uv.min() >= 0 and uv[..., 0].max() <= width - 1 and uv[..., 1].max() <= height - 1


def test_tracks_follow_the_coordinates(scene: Scene) -> None:
    for layer in scene.layers:
        positions, visible = scene.tracks(layer, 60, seed=1, frame=2)
        assert positions.shape == (len(scene), 60, 2) and visible.shape == (len(scene), 60)
        assert visible[2].all()
        texels = bilinear(scene.coordinates(2, layer)[0], positions[2])
        for t in range(len(scene)):
            uv, weight = scene.coordinates(t, layer)
            here = positions[t][visible[t]]
            assert np.abs(bilinear(uv, here) - texels[visible[t]]).max(initial=0) < 0.05
            assert bilinear(weight[..., None], here).min(initial=1) > 0.2


def test_hidden_points_are_said_to_be_hidden() -> None:
    scene = make("occlusion", width=192, height=108, frames=50)
    _, visible = scene.tracks("foreground", 200)
    assert visible[0].all()
    assert (~visible).any(axis=1).sum() > 5, "the occluder passes in front of the foreground"
    moved, seen = make("fast-pan", width=192, height=108, frames=10).tracks("background", 50)
    outside = ((moved < 0) | (moved > [191, 107])).any(axis=-1)
    assert outside.any() and not (seen & outside).any()


def test_geometry_inverts_exactly_under_a_strong_bend() -> None:
    scene = make("bend", bend=0.06)
    points = np.random.default_rng(0).uniform(0, 360, (500, 2))
    for t in (0, 13, 49):
        back = scene.to_frame(t, "foreground", scene.to_texture(t, "foreground", points))
        assert np.abs(back - points).max() < 1e-9


def test_bend_is_not_an_affine_motion() -> None:
    scene = make("bend")
    points = scene.tracks("foreground", 200)[0]
    start = np.hstack([points[0], np.ones((200, 1))])
    residual = points[12] - start @ np.linalg.lstsq(start, points[12], rcond=None)[0]
    assert np.linalg.norm(residual, axis=-1).max() > 4


def test_flow_moves_points_as_tracks_do() -> None:
    scene = small("bend")
    positions, _ = scene.tracks("foreground", 40)
    moved = positions[0] + bilinear(scene.flow(0, 5, "foreground"), positions[0])
    assert np.abs(moved - positions[5]).max() < 0.05


def test_camera_pans_at_the_speed_asked_for() -> None:
    scene = make("fast-pan", width=160, height=96, frames=11, shake=0.0)
    positions, _ = scene.tracks("background", 5)
    assert np.allclose(positions[0] - positions[10], [250.0, 6.0], atol=1e-6)


def test_light_changes_smoothly_within_its_bounds() -> None:
    scene = make("lighting", width=160, height=96, frames=45)
    gains = np.stack([scene.lighting(t, "foreground") for t in range(45)])
    assert gains.min() >= 0.75 - 1e-6 and gains.max() <= 1.25 + 1e-6
    assert gains.max() - gains.min() > 0.3
    assert np.abs(np.diff(gains, axis=2)).max() < 0.02
    assert (small("pan").lighting(3, "background") == 1).all()
    assert max(scene.frame(t).max() for t in range(0, 45, 5)) < 255, "clipping would make the truth false"


def test_empty_overlay_gives_the_source_bit_for_bit(scene: Scene) -> None:
    edit = scene.true_edit({layer: np.zeros_like(scene.textures[layer]) for layer in scene.layers})
    assert len(edit) == len(scene)
    assert all(np.array_equal(edit[t], scene.frame(t)) for t in (0, 3, 6))


def test_edit_changes_its_area_only(scene: Scene) -> None:
    for layer in ("foreground", "background"):
        edit = scene.true_edit({layer: scene.emblem(layer, soft=False)})
        for t in (0, 6):
            changed = (edit[t] != scene.frame(t)).any(axis=-1)
            area = edit.area(t)
            assert not changed[area == 0].any()
            if t == 0:
                assert area.max() > 0.99, f"the emblem on the {layer} is to be seen"
                assert changed[area > 0.9].mean() > 0.95
            uv, weight = scene.coordinates(t, layer)
            overlay = bilinear(scene.emblem(layer, soft=False)[..., 3:], uv.reshape(-1, 2)).reshape(scene.size)
            inside = (uv >= 0).all(axis=-1) & (uv <= np.array(overlay_limits(scene, layer))).all(axis=-1)
            far = cv2.dilate(np.where(inside, overlay, 0) * (weight > 0), np.ones((3, 3))) == 0
            assert not changed[far].any()


def overlay_limits(scene: Scene, layer: str) -> tuple[int, int]:
    height, width = scene.textures[layer].shape[:2]
    return width - 1, height - 1


def test_opaque_paint_shows_its_colour_in_the_scene_s_light_without_source_noise() -> None:
    scene = small("lighting", noise=6.0)
    paint = np.ones_like(scene.textures["background"])
    paint[..., :3] = (0.2, 0.5, 0.6)
    edited = scene.true_edit({"background": paint})[3] / 255.0
    only = scene.coordinates(3, "background")[1] > 0.9999
    expected = np.array([0.2, 0.5, 0.6]) * scene.lighting(3, "background")
    assert np.abs(edited - expected)[only].max() < 1.01 * 0.5 / 255


def test_half_transparent_paint_keeps_half_of_the_residual() -> None:
    scene = small("pan", noise=6.0)
    paint = np.full_like(scene.textures["background"], 0.5)
    edited = scene.true_edit({"background": paint})[3] / 255.0
    source, clean = scene.frame(3) / 255.0, scene.clean(3)
    only = scene.coordinates(3, "background")[1] > 0.9999
    expected = 0.5 * clean + 0.25 + 0.5 * (source - clean)
    assert np.abs(edited - expected)[only].max() < 1.01 * 0.5 / 255


def test_emblems_lie_within_the_layer_and_soft_ones_have_no_hard_edge(scene: Scene) -> None:
    for layer in scene.layers:
        soft, sharp = scene.emblem(layer), scene.emblem(layer, soft=False)
        assert soft.shape == scene.textures[layer].shape and soft.min() >= 0 and soft.max() <= 1
        assert (scene.textures[layer][..., 3][sharp[..., 3] > 0.5] > 0.9).all()
        steps = [np.abs(np.diff(image[..., 3], axis=1)).max() for image in (soft, sharp)]
        assert steps[0] < 0.4 < 0.6 < steps[1]


def test_masks_are_the_visible_part_and_opacity_the_whole() -> None:
    scene = make("occlusion", width=192, height=108, frames=50)
    t = int(np.argmax([(~v).sum() for v in scene.tracks("foreground", 200)[1]]))
    visible, whole = scene.masks(t, "foreground"), scene.masks(t, "foreground", visible=False)
    assert visible.dtype == np.uint8 and (visible <= whole).all() and visible.astype(int).sum() < 0.95 * whole.sum()
    assert np.array_equal(scene.masks(t, "occluder"), scene.masks(t, "occluder", visible=False))
    total = sum(scene.masks(t, layer).astype(int) for layer in scene.layers)
    assert np.abs(total - 255).max() <= 2
    assert ((visible > 20) & (visible < 235)).any(), "edges are soft"


def test_thin_structure_is_a_few_pixels_wide() -> None:
    plain, tailed = make("pan", thin=False, frames=2), make("pan", frames=2)
    difference = tailed.masks(0, "foreground").astype(float) - plain.masks(0, "foreground")
    tail = (difference > 127).astype(np.uint8)
    widest = 2 * cv2.distanceTransform(np.pad(tail, 1), cv2.DIST_L2, 5).max()
    assert tail.sum() > 150 and 2 <= widest <= 9


def test_long_scene_keeps_a_bounded_background() -> None:
    scene = make("long")
    assert scene.size == (180, 320) and len(scene) == 1000
    assert max(scene.textures["background"].shape[:2]) < 640
    assert not np.array_equal(scene.frame(0), scene.frame(999))


@pytest.mark.parametrize("size", [(33, 57), (64, 17), (120, 80)])
def test_any_size_and_one_frame(size: tuple[int, int]) -> None:
    scene = make("occlusion", width=size[0], height=size[1], frames=1, lighting=0.2)
    assert scene.frames.shape == (1, size[1], size[0], 3)
    assert scene.true_edit({"foreground": scene.emblem("foreground")}).frames.shape == (1, size[1], size[0], 3)


def test_save_writes_frames_and_masks_in_the_layout_that_clips_read(tmp_path: Path) -> None:
    one, two = small("pan", frames=2), small("occlusion", frames=2)
    one.save(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "one" / "masks").iterdir()) == ["00000.png", "00001.png"]
    frame = cv2.imread(str(tmp_path / "one" / "frames" / "00001.png"))[..., ::-1]
    assert np.array_equal(frame, one.frame(1))
    mask = cv2.imread(str(tmp_path / "one" / "masks" / "00001.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, one.masks(1, "foreground"))
    two.save(tmp_path / "two")
    assert sorted(p.name for p in (tmp_path / "two" / "masks").iterdir()) == ["0-occluder", "1-foreground"]


def test_bad_input_is_one_sentence() -> None:
    for call in (
        lambda: make("swamp"),
        lambda: make("pan", colour=3),
        lambda: make("pan", frames=0),
        lambda: make("pan", lighting=2.0),
        lambda: make("pan", pan=(500.0, 0.0), frames=100),
        lambda: small("pan").masks(0, "sky"),
        lambda: small("pan").true_edit({"foreground": np.zeros((4, 4, 4))}),
        lambda: known_clip("swamp", "."),
    ):
        with pytest.raises(InputError, match=r"^[^\n]+\.$"):
            call()
    with pytest.raises(IndexError):
        small("pan").frame(99)


def test_known_clips_find_their_folders(tmp_path: Path) -> None:
    assert {"blackswan", "car-shadow", "dog", "dance-twirl", "bear", "tennis", "wolf"} <= set(KNOWN_CLIPS)
    for name in ("blackswan", "bear"):
        (tmp_path / name / "frames").mkdir(parents=True)
    (tmp_path / "blackswan" / "masks").mkdir()
    assert known_clip("blackswan", tmp_path) == (tmp_path / "blackswan" / "frames", tmp_path / "blackswan" / "masks")
    assert known_clip("bear", tmp_path) == (tmp_path / "bear" / "frames", None)
    with pytest.raises(InputError):
        known_clip("dog", tmp_path)
