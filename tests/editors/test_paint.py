"""The paint editor: what counts as painted, overlays, and frames pulled back to the canvas."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from contracts import EditorContract, fit  # noqa: F401
from PIL import Image
from PIL.Image import Resampling
from truth import psnr, small_scene, true_fit

import canon
from canon.edits import Edit, Over, Step
from canon.errors import InputError
from canon.fits import Fit, FitLayer
from canon.scenes import Scene
from canon.storage import file_digest, read_image, to_float, to_uint8, write_image


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("bend", lighting=0.2)


@pytest.fixture(scope="module")
def bent(scene: Scene) -> Fit:
    return true_fit(scene)


def exported(of: Fit, layer: str = "foreground") -> np.ndarray:
    return to_uint8(of.canonical(layer).rgba)


def blend(image: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    """An exported canvas (uint8 RGBA) with an overlay painted in, as a paint program would save it."""
    alpha = overlay[..., 3:]
    rgb = to_float(image)[..., :3] * (1 - alpha) + alpha * overlay[..., :3]
    return np.dstack([to_uint8(rgb), image[..., 3]])


def marked(of: Fit, layer: str = "foreground") -> tuple[np.ndarray, np.ndarray]:
    """The exported canvas with a hard red disc in its middle, and where that is."""
    image = exported(of, layer)
    height, width = image.shape[:2]
    area = np.hypot(*(np.indices((height, width)) - [[[height // 2]], [[width // 2]]])) < 12
    image[area, :3] = [200, 30, 30]
    return image, area


class TestPaintContract(EditorContract):
    name = "paint"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        # Near the middle of any canvas, of whatever size, as an overlay.
        image = np.zeros((64, 64, 4), np.uint8)
        image[:, :] = [220, 60, 30, 200]
        write_image(folder / "paint.png", image)
        return {"image": str(folder / "paint.png"), "overlay": True}


def test_the_exported_image_is_no_edit(bent: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bent.save(tmp_path / "fit")
    for layer in bent.layers:
        edit = canon.edit(bent, "paint", layer=layer, image=tmp_path / "fit" / "canonical" / f"{layer}.png")
        assert edit.steps == [] and "nothing differs" in caplog.text
        video = canon.render(bent, edit)
        assert all(np.array_equal(a, b) for a, b in zip(video, bent.clip.frames, strict=True))


@pytest.mark.parametrize("ground", [0, 255, None])
def test_programs_that_drop_opacity_or_hidden_colours(bent: Fit, ground: int | None) -> None:
    image = exported(bent)
    if ground is None:
        image[image[..., 3] == 0] = 0
    else:
        share = image[..., 3:] / 255
        image = (image[..., :3] * share + ground * (1 - share) + 0.5).astype(np.uint8)
    assert canon.edit(bent, "paint", layer="foreground", image=image).steps == []


def test_changed_texels_cover_and_equal_ones_do_not(bent: Fit) -> None:
    image, area = marked(bent)
    image[0, 0, 0] ^= 1  # one level off is rounding
    (operation,) = canon.edit(bent, "paint", layer="foreground", image=image).operations("foreground")
    assert isinstance(operation, Over)
    assert np.array_equal(operation.rgba[..., 3], area.astype(np.float32))
    assert np.array_equal(
        operation.rgba[area][:, :3], np.tile(np.float32([200, 30, 30]) / np.float32(255), (area.sum(), 1))
    )


def test_painting_beyond_the_rim_and_erasing(bent: Fit, caplog: pytest.LogCaptureFixture) -> None:
    image, _ = marked(bent)
    inner = exported(bent)[..., 3] == 255
    rows = np.argwhere(inner)[:200]
    image[rows[:, 0], rows[:, 1]] = 0
    image[:3, :5] = [10, 200, 10, 128]
    edit = canon.edit(bent, "paint", layer="foreground", image=image)
    alpha = edit.operations("foreground")[0].rgba[..., 3]  # type: ignore[union-attr]
    assert (alpha[rows[:, 0], rows[:, 1]] == 0).all() and "'remove' takes a layer away" in caplog.text
    assert np.allclose(alpha[:3, :5], 128 / 255), "a soft brush beyond the layer stays soft"


@pytest.mark.parametrize("method", ["BILINEAR", "BICUBIC", "LANCZOS"])
@pytest.mark.parametrize("times", [1.5, 2, 3])
def test_an_image_that_was_only_enlarged_is_no_edit(bent: Fit, method: str, times: float) -> None:
    """By a program that weighs colours by their opacity, as Pillow does."""
    image = Image.fromarray(exported(bent))
    size = round(image.width * times), round(image.height * times)
    larger = np.asarray(image.resize(size, Resampling[method]))
    steps = canon.edit(bent, "paint", layer="foreground", image=larger).steps
    assert not steps or (steps[0].operation.rgba[..., 3] > 0).mean() < 1e-4  # type: ignore[union-attr]


def test_painted_canvas_gives_the_true_edit(scene: Scene, bent: Fit, tmp_path: Path) -> None:
    for layer in bent.layers:
        emblem = scene.emblem(layer, soft=True)
        true = scene.true_edit({layer: emblem})
        write_image(tmp_path / "a.png", blend(exported(bent, layer), emblem))
        write_image(tmp_path / "b.png", to_uint8(emblem))
        for edit in (
            canon.edit(bent, "paint", layer=layer, image=tmp_path / "a.png"),
            canon.edit(bent, "paint", layer=layer, image=str(tmp_path / "b.png"), overlay=True),
        ):
            video = canon.render(bent, edit)
            for t in (0, 6):
                area = true.area(t) > 0
                assert psnr(video[t], true[t], area) > 34
                assert np.array_equal(video[t][~area], bent.clip.frames[t][~area])
    (step,) = edit.steps
    assert step.provenance.files == {str(tmp_path / "b.png"): file_digest(tmp_path / "b.png")}


@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4])
@pytest.mark.parametrize("scale", [0.5, 2, 3])
def test_other_sizes(bent: Fit, scale: float, method: int) -> None:
    image, area = marked(bent)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    if scale < 1:
        method = cv2.INTER_AREA
    untouched = cv2.resize(exported(bent), size, interpolation=method)
    assert canon.edit(bent, "paint", layer="foreground", image=untouched).steps == []
    painted = cv2.resize(image, size, interpolation=method)
    operation = canon.edit(bent, "paint", layer="foreground", image=painted).operations("foreground")[0]
    assert isinstance(operation, Over) and operation.rgba.shape[:2] == size[::-1]
    where = cv2.resize(area.astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    assert (operation.rgba[where == 1][:, 3] == 1).all()
    far = cv2.dilate((where > 0).astype(np.uint8), np.ones((15, 15))) == 0
    assert not operation.rgba[far][:, 3].any()


def test_a_painted_frame_looks_so_and_is_carried_along(scene: Scene, bent: Fit, tmp_path: Path) -> None:
    emblem = scene.emblem("foreground", soft=True)
    true = scene.true_edit({"foreground": emblem})
    write_image(tmp_path / "f.png", true[3])
    for layer in ("foreground", None):
        edit = canon.edit(bent, "paint", layer=layer, frame=3, image=tmp_path / "f.png")
        assert edit.layers == ["foreground"]
        video = canon.render(bent, edit)
        for t, least in ((3, 33), (0, 27), (7, 27)):
            area = true.area(t) > 0
            assert psnr(video[t], true[t], area) > least > psnr(bent.clip.frames[t], true[t], area) + 5
            far = cv2.dilate(area.astype(np.uint8), np.ones((7, 7))) == 0
            assert np.array_equal(video[t][far], bent.clip.frames[t][far])


def test_a_painted_frame_is_divided_by_its_light(scene: Scene, bent: Fit) -> None:
    frame = bent.clip.frames[5].copy()
    inside = bent.coordinates(5, "foreground")[1] == 1
    frame[inside] = [180, 90, 40]
    video = canon.render(bent, canon.edit(bent, "paint", layer="foreground", frame=5, image=frame))
    core = cv2.erode(inside.astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(video[5][core].astype(int) - [180, 90, 40]).max() <= 2
    weight = bent.coordinates(0, "foreground")[1]
    solid = cv2.erode((weight == 1).astype(np.uint8), np.ones((15, 15))) > 0
    ratio = video[0][solid] / np.maximum(bent.lighting(0, "foreground")[solid], 1e-3)
    assert np.median(ratio.std(axis=0)) < 3, "in another frame it is lit as the surface is there"
    assert np.abs(np.median(video[0][solid], axis=0) - [180, 90, 40]).max() > 5, "the light did change"


def test_a_frame_may_be_painted_across_layers(bent: Fit) -> None:
    frame = bent.clip.frames[2].copy()
    weight = bent.coordinates(2, "foreground")[1]
    y = int(np.nonzero(weight > 0.99)[0].mean())
    frame[y - 4 : y + 5] = [20, 200, 220]
    edit = canon.edit(bent, "paint", frame=2, image=frame)
    assert edit.layers == ["foreground", "background"]
    out = canon.render(bent, edit)[2]
    assert np.abs(out[y - 2 : y + 3, 3:-3].astype(int) - [20, 200, 220]).max() <= 12
    assert np.array_equal(out[: y - 8], bent.clip.frames[2][: y - 8])
    beside = bent.clip.frames[2].copy()
    beside[weight == 0] = [20, 200, 220]
    assert canon.edit(bent, "paint", frame=2, image=beside).layers == ["background"], "rims belong to what is painted"


def test_texels_larger_than_pixels_average_them() -> None:
    """A canvas four times as coarse as the frame: noise painted on the frame comes back averaged, not aliased."""
    base = true_fit(small_scene("pan", frames=2, noise=0.0))
    old = base.baked[-1]
    color = np.ascontiguousarray(cv2.resize(old.color, None, fx=0.25, fy=0.25))
    grid = ((old.grid + 0.5) / 4 - 0.5).astype(np.float32)
    layer = FitLayer("all", color, np.ones(color.shape[:2], np.float32), grid, old.lighting)
    coarse = Fit(base.clip, "test", {}, [layer], base.stride, base.light_stride)
    frame = np.random.default_rng(0).integers(0, 256, (*base.size, 3), np.uint8)
    video = canon.render(coarse, canon.edit(coarse, "paint", frame=0, image=frame))
    inside = video[0][8:-8, 8:-8].astype(int)
    # 74 levels of noise over 4 x 4 pixels leave 74 / 4; single pixels, or two by two of them, would leave 74 / 2.
    assert 8 < inside.std() < 18 and abs(inside.mean() - 127.5) < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "none.png"}, "does not exist"),
        (
            {"image": np.zeros((60, 90, 4), np.uint8)},
            r"is 90x60 and the canvas of 'foreground' \d+x\d+; keep the aspect",
        ),
        ({"image": np.zeros((64, 64, 3), np.uint8), "overlay": True}, "needs transparency"),
        ({"image": np.zeros((60, 90, 3), np.uint8), "frame": 1}, "is 90x60 and the clip 193x109"),
        ({"image": np.zeros((109, 193, 3), np.uint8), "frame": 8}, "frames 0 to 7"),
        ({"image": np.zeros((109, 193, 4), np.uint8), "frame": 1, "overlay": True}, "not both"),
        ({"image": np.zeros((109, 193), np.int64)}, "must be"),
        ({"image": np.zeros((5,), np.uint8)}, "must be"),
        ({}, "needs the option 'image'"),
    ],
)
def test_bad_input(bent: Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        canon.edit(bent, "paint", layer="foreground", **options)


def test_damaged_images(bent: Fit, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    write_image(tmp_path / "b.png", exported(bent))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:100])
    for name in ("a.png", "b.png"):
        with pytest.raises(InputError):
            canon.edit(bent, "paint", image=tmp_path / name)


def test_sixteen_bits_are_taken(bent: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bent.canonical("background").save(tmp_path / "c.png", bits=16)
    assert read_image(tmp_path / "c.png").dtype == np.uint16
    assert canon.edit(bent, "paint", layer="background", image=tmp_path / "c.png").steps == []


def test_several_layers_in_one_edit(bent: Fit) -> None:
    options = {layer: {"image": marked(bent, layer)[0]} for layer in bent.layers}
    edit = canon.edit(bent, "paint", layers=options)
    assert edit.layers == bent.layers
    apart = [canon.edit(bent, "paint", layer=layer, **own) for layer, own in options.items()]
    assert np.array_equal(canon.render(bent, edit)[4], canon.render(bent, apart)[4])
    assert all(isinstance(step, Step) for step in Edit(edit.steps).steps)
