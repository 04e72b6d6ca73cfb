"""The baked fit: what it gives against a scene's truth, tracking, files, and everything damaged or foreign."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from truth import psnr, small_scene, true_fit

import canon
from canon import fit_folder
from canon.clip import Clip
from canon.coordinates import grid_nodes
from canon.errors import InputError
from canon.fits import Fit, FitLayer, nonzero_box
from canon.scenes import Scene
from canon.storage import open_arrays, read_image, to_uint8, write_arrays, write_image


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("occlusion", lighting=0.25, bend=0.03)


def tiny(layers: list[FitLayer] | None = None, **more: object) -> Fit:
    """One opaque grey layer over three frames of 12x20."""
    clip = Clip.from_frames(np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), np.uint8))
    return Fit(clip, "test", {}, layers or [plain_layer()], **{"stride": 8, **more})  # type: ignore[arg-type]


def plain_layer(name: str = "background", **more: object) -> FitLayer:
    arrays = {
        "color": np.full((15, 25, 3), 0.5, np.float32),
        "coverage": np.ones((15, 25), np.float32),
        "grid": grid_nodes((12, 20), 8).numpy()[None].repeat(3, axis=0),
        "lighting": np.ones((3, 2, 2, 3), np.float32),
        "opacity": None,
    }
    return FitLayer(name, **{**arrays, **more})  # type: ignore[arg-type]


def test_reconstruction_is_the_clean_scene(scene: Scene, fit: Fit) -> None:
    lit = [psnr(fit.reconstruct(t), scene.clean(t)) for t in range(len(fit))]
    # Frame 0 lies half a texel off: what is left there is the area average against one sample a pixel.
    assert min(lit) > 36 and np.mean(lit) > 41
    unlit = psnr(fit.reconstruct(3, lit=False), scene.clean(3))
    assert unlit < lit[3] - 8, "the light of this scene changes by a quarter"


def test_weights_coordinates_and_light_are_the_scenes(scene: Scene, fit: Fit) -> None:
    assert fit.layers == ["occluder", "foreground", "background"]
    for t in (0, 5, -1):
        assert np.abs(sum(fit.weights(t)) - 1).max() < 1e-6
        for layer in fit.layers:
            uv, weight = fit.coordinates(t, layer)
            true_uv, true_weight = scene.coordinates(t, layer)
            assert uv.dtype == weight.dtype == np.float32 and np.isfinite(uv).all()
            assert np.abs(uv - true_uv).max() < 0.25, "bilinear between nodes every 8 px"
            assert np.abs(weight - true_weight).mean() < 2e-3
            assert np.abs(fit.lighting(t, layer) - scene.lighting(t, layer)).max() < 8e-3
    box = (slice(20, 50), slice(33, 90))
    for part, whole in zip(fit.weights(2, box), fit.weights(2), strict=True):
        assert np.array_equal(part, whole[box])
    with pytest.raises(IndexError, match="8 frames"):
        fit.coordinates(8, "foreground")
    with pytest.raises(InputError, match="'sky'"):
        fit.coordinates(0, "sky")


def test_a_look_is_what_the_frame_shows(scene: Scene) -> None:
    fine = true_fit(scene, canvas_scale=4)
    for layer in fine.layers:
        solid = fine.coordinates(6, layer)[1] == 1
        points = np.argwhere(solid)[:, ::-1].astype(np.float32)
        assert len(points) > 100 and np.abs(fine.look(6, layer, points) - fine.reconstruct(6)[solid]).max() < 1e-3
    assert fine.look(6, "foreground", np.zeros((0, 2), np.float32)).shape == (0, 3)


def test_a_layer_that_is_taken_away_uncovers_what_is_behind(fit: Fit) -> None:
    front, middle, back = fit.weights(4, without=["occluder"])
    own = fit.layer("foreground").opacity[4] / np.float32(255)  # type: ignore[index]
    assert not front.any() and np.array_equal(middle, own) and np.allclose(back, 1 - own)
    assert np.array_equal(fit.weights(4, without=["occluder", "foreground"])[2], np.ones(fit.size, np.float32))


def test_canvas_is_upright_and_says_what_is_known(scene: Scene, fit: Fit, tmp_path: Path) -> None:
    canvas = fit.canonical("foreground")
    texture = scene.textures["foreground"]
    assert canvas.size == texture.shape[:2] and canvas.rgba.dtype == np.float32
    assert np.array_equal(canvas.rgba[..., :3], texture[..., :3])
    assert np.array_equal(canvas.coverage, (texture[..., 3] > 0).astype(np.float32))
    inside = canvas.rgba[..., 3][texture[..., 3] == 1]
    assert np.quantile(inside, 0.1) == 1 and (canvas.rgba[:5, :5, 3] == 0).all()
    soft = (canvas.rgba[..., 3] > 0.1) & (canvas.rgba[..., 3] < 0.9)
    assert 50 < soft.sum() < 0.2 * inside.size
    canvas.save(tmp_path / "a.png")
    canvas.save(tmp_path / "b.png", bits=16)
    assert np.array_equal(read_image(tmp_path / "a.png"), to_uint8(canvas.rgba))
    assert np.abs(read_image(tmp_path / "b.png") / 65535 - canvas.rgba).max() <= 0.5 / 65535 + 1e-7
    pytest.importorskip("OpenEXR")
    canvas.save(tmp_path / "c.exr")
    import OpenEXR

    with OpenEXR.File(str(tmp_path / "c.exr")) as file:
        assert np.array_equal(file.channels()["RGBA"].pixels, canvas.rgba)
    with pytest.raises(InputError, match=r"'c\.jpg'"):
        canvas.save(tmp_path / "c.jpg")
    assert fit.segments("foreground") == [(0, 7)]
    with pytest.raises(InputError, match="no segment 1"):
        fit.canonical("foreground", segment=1)


def test_fine_canvases_are_averaged_over_their_area(scene: Scene, fit: Fit) -> None:
    fine = true_fit(scene, canvas_scale=4)
    assert fine.texels(3, "background") == pytest.approx(4 * fit.texels(3, "background"), rel=1e-3)
    # The texture is repeated 4 x 4, so its average over a texel's area is the texture itself.
    assert psnr(fine.reconstruct(3), fit.reconstruct(3)) > 38
    rng = np.random.default_rng(0)
    for layer in fine.baked:
        layer.color[:] = np.clip(layer.color + rng.normal(0, 0.2, layer.color.shape).astype(np.float32), 0, 1)
    noisy = true_fit(scene, canvas_scale=4)
    noisy = Fit(fine.clip, "test", {}, fine.baked[2:], fine.stride, fine.light_stride)
    clean = Fit(fine.clip, "test", {}, fit.baked[2:], fine.stride, fine.light_stride)
    left = np.std(noisy.reconstruct(3) - clean.reconstruct(3))
    assert left < 0.2 / 4 * 1.3, "noise of single texels averages out over 4 x 4 of them"


@pytest.mark.parametrize("layer", ["foreground", "background"])
def test_tracks_follow_the_surface(scene: Scene, fit: Fit, layer: str) -> None:
    for frame in (0, 5):
        true, seen = scene.tracks(layer, 60, seed=frame, frame=frame)
        found, visible = fit.track(true[frame], frame=frame)
        assert found.dtype == np.float32 and visible.dtype == bool and np.isfinite(found).all()
        error = np.linalg.norm(found - true, axis=-1)
        assert np.median(error[seen]) < 0.1 and error[seen].max() < 0.3
        assert (visible == seen).mean() > 0.97
        assert not visible.all() or layer == "foreground", "some points leave the frame or are hidden"
        named, _ = fit.track(true[frame], frame=frame, layer=layer)
        assert np.array_equal(named, found)


def test_tracking_another_layer_than_the_one_seen(scene: Scene, fit: Fit) -> None:
    points = scene.tracks("foreground", 20)[0][0]
    behind, visible = fit.track(points, layer="background")
    assert not visible[0].any(), "the background is hidden there"
    texels = scene.to_texture(0, "background", points)
    true = np.stack([scene.to_frame(t, "background", texels) for t in range(len(scene))])
    assert np.linalg.norm(behind - true, axis=-1).max() < 0.3


def test_saved_and_loaded_is_the_same_to_the_bit(fit: Fit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit")
    loaded = canon.load(tmp_path / "fit")
    assert loaded.id == fit.id and loaded.layers == fit.layers and loaded.stats == fit.stats
    assert loaded.config == fit.config and loaded.representation == "truth"
    assert loaded.clip.fps == fit.clip.fps and np.array_equal(loaded.clip.frames, fit.clip.frames)
    for t in (0, 6):
        assert np.array_equal(loaded.reconstruct(t), fit.reconstruct(t))
        assert np.array_equal(loaded.coordinates(t, "foreground")[0], fit.coordinates(t, "foreground")[0])
    exported = read_image(tmp_path / "fit" / "canonical" / "foreground.png")
    assert np.array_equal(exported, to_uint8(fit.canonical("foreground").rgba))
    base = loaded.layer("foreground").grid
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap), "nothing is read before it is used"


def test_a_project_has_one_clip(fit: Fit, tmp_path: Path) -> None:
    fit.clip.save(tmp_path / "p" / "clip")
    fit.save(tmp_path / "p" / "fits" / "a")
    assert not (tmp_path / "p" / "fits" / "a" / "clip").exists()
    (tmp_path / "p").rename(tmp_path / "moved")
    assert np.array_equal(canon.load(tmp_path / "moved" / "fits" / "a").clip.frames, fit.clip.frames)
    other = tiny()
    other.save(tmp_path / "moved" / "fits" / "b")
    assert (tmp_path / "moved" / "fits" / "b" / "clip").is_dir(), "the project's clip is another one"
    shutil.rmtree(tmp_path / "moved" / "clip")
    other.clip.save(tmp_path / "moved" / "clip")
    with pytest.raises(InputError, match="another clip"):
        canon.load(tmp_path / "moved" / "fits" / "a")


def test_a_loaded_fit_can_be_saved_over_itself(tmp_path: Path) -> None:
    tiny().save(tmp_path / "fit")
    loaded = canon.load(tmp_path / "fit")
    loaded.save(tmp_path / "fit")
    assert np.array_equal(canon.load(tmp_path / "fit").reconstruct(1), loaded.reconstruct(1))


def test_a_crash_leaves_the_earlier_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny()
    first.save(tmp_path / "fit")
    other = tiny([plain_layer(color=np.full((15, 25, 3), 0.75, np.float32))])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_arrays", "write_yaml"):
        monkeypatch.setattr(fit_folder, name, fail)
        with pytest.raises(InputError, match="No space is left"):
            other.save(tmp_path / "fit")
        monkeypatch.undo()
        assert np.array_equal(canon.load(tmp_path / "fit").reconstruct(0), first.reconstruct(0))
        assert [p.name for p in tmp_path.iterdir()] == ["fit"]
    other.save(tmp_path / "fit")
    assert canon.load(tmp_path / "fit").reconstruct(0).mean() == 0.75


def test_what_a_person_painted_is_never_overwritten(tmp_path: Path) -> None:
    fit = tiny()
    fit.save(tmp_path / "fit")
    canvases = tmp_path / "fit" / "canonical"
    painted, other = np.full((15, 25, 4), 99, np.uint8), np.full((4, 4, 3), 7, np.uint8)
    write_image(canvases / "background.png", painted)
    write_image(canvases / "sketch.png", other)
    (tmp_path / "fit" / "notes.txt").write_text("mine")
    for _ in range(2):
        fit.save(tmp_path / "fit")
        assert np.array_equal(read_image(canvases / "background-kept1.png"), painted)
        assert np.array_equal(read_image(canvases / "sketch.png"), other)
        assert np.array_equal(read_image(canvases / "background.png"), to_uint8(fit.canonical("background").rgba))
        assert (tmp_path / "fit" / "notes.txt").read_text() == "mine"
        assert len(list(canvases.iterdir())) == 3


def test_a_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "fit.yaml.bak").write_text("x")
    (tmp_path / "fit" / "canonical").mkdir()
    with pytest.raises(InputError, match="'canonical'"):
        tiny().save(tmp_path / "fit")
    assert sorted(p.name for p in (tmp_path / "fit").iterdir()) == ["canonical", "fit.yaml.bak"]


def damage_yaml(folder: Path, **changes: object) -> None:
    record = yaml.safe_load((folder / "fit.yaml").read_text())
    record.update(changes)
    (folder / "fit.yaml").write_text(yaml.safe_dump({k: v for k, v in record.items() if v != "DROP"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "does not describe a fit"),
        ({"version": 99}, "version 99"),
        ({"layers": "DROP"}, "damaged"),
        ({"layers": [{"name": "sky"}]}, "damaged"),
        ({"layers": 3}, "damaged"),
        ({"stride": 4}, "damaged: The grid of layer 'background'"),
        ({"stride": "wide"}, "damaged"),
        ({"clip": "../../../etc"}, "damaged"),
        ({"clip": "../../clip"}, "damaged or not canon's"),
        ({"clip_hash": "0"}, "another clip"),
    ],
)
def test_damaged_fits_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    tiny().save(tmp_path / "fit")
    damage_yaml(tmp_path / "fit", **changes)
    with pytest.raises(InputError, match=message):
        canon.load(tmp_path / "fit")


def test_damaged_maps_are_refused(tmp_path: Path) -> None:
    tiny().save(tmp_path / "fit")
    maps = tmp_path / "fit" / "maps.safetensors"
    arrays = {name: np.array(array) for name, array in open_arrays(maps).items()}
    maps.write_bytes(maps.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged"):
        canon.load(tmp_path / "fit")
    write_arrays(maps, {**arrays, "background/grid": arrays["background/grid"].astype(np.float64)})
    with pytest.raises(InputError, match="float64"):
        canon.load(tmp_path / "fit")
    maps.unlink()
    with pytest.raises(InputError, match="missing"):
        canon.load(tmp_path / "fit")
    with pytest.raises(InputError, match="not canon's"):
        canon.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([plain_layer(grid=np.zeros((3, 3, 3, 2), np.float32))], "grid"),
        ([plain_layer(coverage=np.zeros((15, 24), np.float32))], "coverage"),
        ([plain_layer(lighting=np.ones((3, 2, 2, 3)))], "float64"),
        ([plain_layer(opacity=np.zeros((3, 12, 20), np.uint8))], "the last has none"),
        ([plain_layer("a"), plain_layer("b")], "every layer but the last"),
        ([plain_layer("../up")], "file name"),
        ([plain_layer("A", opacity=np.zeros((3, 12, 20), np.uint8)), plain_layer("a")], "distinct"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(layers: list[FitLayer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(layers)


def test_single_frames_and_tiny_sizes() -> None:
    clip = Clip.from_frames(np.full((1, 1, 2, 3), 100, np.uint8))
    layer = FitLayer(
        "all",
        np.full((1, 2, 3), 0.5, np.float32),
        np.ones((1, 2), np.float32),
        np.zeros((1, 1, 2, 2), np.float32),
        np.ones((1, 1, 2, 3), np.float32),
    )
    fit = Fit(clip, "test", {}, [layer], 8)
    assert fit.reconstruct(0).tolist() == [[[0.5] * 3] * 2]
    positions, visible = fit.track(np.array([[1.0, 0.0]]))
    assert positions.tolist() == [[[1.0, 0.0]]] and visible.shape == (1, 1)


def test_nonzero_box() -> None:
    image = np.zeros((7, 9), np.uint8)
    assert nonzero_box(image) is None
    image[2, 3] = image[4, 8] = 1
    assert nonzero_box(image) == (slice(2, 5), slice(3, 9))
