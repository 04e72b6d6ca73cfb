"""The renderer against the true edited video, and its promises: source bits, opaque paint, residual, removal."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from truth import LIGHT_STRIDE, STRIDE, psnr, small_scene, true_fit

import canon
from canon.clip import Clip
from canon.compose import compose
from canon.edits import Delta, Edit, Operation, Over, Remove, Step
from canon.errors import InputError
from canon.fits import Fit
from canon.scenes import Scene
from canon.storage import read_image, to_uint8
from canon.video import probe, read_frames

RED = np.float32([0.8, 0.1, 0.1])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("occlusion", lighting=0.25)


def edit(layer: str, *operations: Operation) -> Edit:
    return Edit([Step(layer, operation) for operation in operations])


def paint(fit: Fit, layer: str, colour: np.ndarray = RED, alpha: float = 1.0, scale: float = 1.0) -> Over:
    """The whole canvas of a layer in one colour."""
    size = [round(side * scale) for side in fit.layer(layer).canvas_size]
    return Over(np.broadcast_to(np.float32([*colour, alpha]), (*size, 4)))


def with_frames(fit: Fit, frames: np.ndarray) -> Fit:
    """The same maps over other source frames."""
    return Fit(Clip.from_frames(frames), "test", {}, fit.baked, fit.stride, fit.light_stride)


def plain_render(fit: Fit, t: int, layer: str, colour: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Design, point 2, word for word with dense maps: c' = ``colour`` [H, W, 3] and k = ``kept`` [H, W], one layer."""
    source = fit.clip.frames[t] / np.float32(255)
    residual = source - fit.reconstruct(t)
    weight = fit.coordinates(t, layer)[1][..., None]
    points = np.stack(np.meshgrid(np.arange(fit.size[1]), np.arange(fit.size[0])), -1).reshape(-1, 2).astype(np.float32)
    surface = fit.look(t, layer, points).reshape(*fit.size, 3)
    return source + weight * (fit.lighting(t, layer) * colour - surface - (1 - kept[..., None]) * residual)


@pytest.mark.parametrize("soft", [True, False])
def test_an_emblem_lands_where_truth_says(scene: Scene, fit: Fit, soft: bool) -> None:
    for layer in scene.layers:
        emblem = scene.emblem(layer, soft=soft)
        true, video = scene.true_edit({layer: emblem}), canon.render(fit, edit(layer, Over(emblem)))
        scores = []
        for t in range(len(fit)):
            area, out, source = true.area(t) > 0, video[t], fit.clip.frames[t]
            assert not (out != source).any(axis=-1)[~area].any(), "bit-identical where nothing is painted"
            scores.append(psnr(out, true[t], area))
            assert psnr(source, true[t], area) < scores[-1] - 10, "the emblem is to be seen"
        # One sample a pixel against the area average is what is left; sharp edges show it most.
        assert min(scores) > (37 if soft else 27) and np.median(scores) > (44 if soft else 30)


def test_the_formula_of_the_design(scene: Scene, fit: Fit) -> None:
    for layer, alpha in (("foreground", 0.4), ("background", 0.7), ("occluder", 1.0)):
        video = canon.render(fit, edit(layer, paint(fit, layer, alpha=alpha)))
        for t in (0, 5):
            points = np.stack(np.meshgrid(np.arange(fit.size[1]), np.arange(fit.size[0])), -1).astype(np.float32)
            surface = fit.look(t, layer, points.reshape(-1, 2)).reshape(*fit.size, 3) / fit.lighting(t, layer)
            wanted = plain_render(fit, t, layer, (1 - alpha) * surface + alpha * RED, np.full(fit.size, 1 - alpha))
            assert np.abs(video[t].astype(int) - to_uint8(wanted)).max() <= 1


def test_an_edit_of_nothing_is_the_source(fit: Fit) -> None:
    clear, also = paint(fit, "foreground", alpha=0.0), paint(fit, "background", alpha=0.0)
    for nothing in ([], Edit(), edit("foreground", clear), edit("background", Delta(), also, Delta(hue=360))):
        video = canon.render(fit, nothing)
        assert len(video) == len(fit)
        assert all(np.array_equal(out, source) for out, source in zip(video, fit.clip.frames, strict=True))


def test_opaque_paint_lets_nothing_of_the_source_through(fit: Fit) -> None:
    rng = np.random.default_rng(0)
    noisy = with_frames(fit, rng.integers(0, 256, fit.clip.frames.shape, np.uint8))
    for layer, scale in (("foreground", 1.0), ("background", 1.0), ("foreground", 2.0), ("occluder", 0.5)):
        change = edit(layer, paint(fit, layer, scale=scale))
        video, other = canon.render(fit, change), canon.render(noisy, change)
        for t in (0, 3, 7):
            inside = fit.coordinates(t, layer)[1] == 1
            assert inside.sum() > 300
            assert np.array_equal(video[t][inside], other[t][inside])
            lit = to_uint8(fit.lighting(t, layer) * RED)
            assert np.abs(video[t][inside].astype(int) - lit[inside]).max() <= 1, "out = L c'"
            assert not np.array_equal(video[t], other[t]), "elsewhere the source is the source"


def test_everything_painted_hides_everything(fit: Fit) -> None:
    change = Edit([Step(layer, paint(fit, layer)) for layer in fit.layers])
    noise = np.random.default_rng(0).integers(0, 256, fit.clip.frames.shape, np.uint8)
    video, other = canon.render(fit, change), canon.render(with_frames(fit, noise), change)
    for t in (1, 6):
        difference = np.abs(video[t].astype(int) - other[t])
        assert difference.max() <= 1, "at soft edges the layers' shares of the paint add up to all of it"


def test_edits_at_any_resolution_look_the_same(scene: Scene, fit: Fit) -> None:
    emblem = scene.emblem("foreground", soft=True)
    height, width = emblem.shape[:2]
    premultiplied = emblem.copy()
    premultiplied[..., :3] *= emblem[..., 3:]
    true = scene.true_edit({"foreground": emblem})
    same = canon.render(fit, edit("foreground", Over(emblem)))
    for scale, least in ((2, 38), (4, 36), (0.5, 31)):
        size = (round(width * scale), round(height * scale))
        image = cv2.resize(premultiplied, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        image = np.clip(image, 0, 1)
        image[..., :3] /= np.maximum(image[..., 3:], 1e-6)
        video = canon.render(fit, edit("foreground", Over(image)))
        for t in (2, 6):
            area = true.area(t) > 0
            assert psnr(video[t], true[t], area) > least
            assert psnr(video[t], same[t], area) > least
            far = cv2.dilate(area.astype(np.uint8), np.ones((9, 9))) == 0
            assert np.array_equal(video[t][far], fit.clip.frames[t][far])


def test_fine_paint_is_averaged_and_does_not_flicker(fit: Fit) -> None:
    height, width = (4 * side for side in fit.layer("background").canvas_size)
    checks = (np.indices((height, width)).sum(axis=0) % 2).astype(np.float32)
    image = np.dstack([checks, checks, checks, np.ones_like(checks)])
    video = canon.render(fit, edit("background", Over(image)), lit=False)
    for t in (0, 7):
        inside = fit.coordinates(t, "background")[1] == 1
        assert np.abs(video[t][inside] - 127.5).max() <= 2, (
            "a texel's checks are far finer than a pixel: their mean is grey"
        )


def test_light_falls_on_the_edit_unless_told_otherwise(fit: Fit) -> None:
    change = edit("background", paint(fit, "background"))
    inside = fit.coordinates(4, "background")[1] == 1
    assert np.ptp(canon.render(fit, change)[4][inside][:, 0].astype(int)) > 20
    assert np.ptp(canon.render(fit, change, lit=False)[4][inside].astype(int), axis=0).max() == 0


def test_a_grade_keeps_every_detail_of_the_source(fit: Fit) -> None:
    """Noise that no canvas explains is added to the source: a delta carries it over as it is, paint does not."""
    noise = np.random.default_rng(0).integers(-20, 21, fit.clip.frames.shape)
    middle = np.clip(fit.clip.frames.astype(int), 60, 160)
    calm, rough = with_frames(fit, middle.astype(np.uint8)), with_frames(fit, (middle + noise).astype(np.uint8))
    change = edit("foreground", Delta(tint=(1.1, 0.9, 1.0), contrast=0.95))
    for t in (0, 7):
        a, b = (canon.render(f, change)[t].astype(int) for f in (calm, rough))
        free = (a > 2) & (a < 232) & (b > 2) & (b < 253)
        assert np.abs((b - a) - noise[t])[free].max() <= 1
        inside = fit.coordinates(t, "foreground")[1] == 1
        assert (a != calm.clip.frames[t])[inside].mean() > 0.5
        outside = fit.coordinates(t, "foreground")[1] == 0
        assert np.array_equal(b[outside], rough.clip.frames[t][outside])


def test_a_grade_of_the_canvas_is_a_grade_of_the_frame(scene: Scene, fit: Fit) -> None:
    flat = true_fit(small_scene("pan", noise=0.0))
    graded = canon.render(flat, edit("background", Delta(tint=(0.5, 1.0, 0.8))))
    inside = flat.coordinates(4, "background")[1] == 1
    wanted = flat.clip.frames[4] * np.array([0.5, 1.0, 0.8])
    assert psnr(graded[4][inside] / 255, wanted[inside] / 255) > 45


def test_a_mask_limits_a_grade(fit: Fit) -> None:
    mask = np.zeros(fit.layer("background").canvas_size, np.float32)
    mask[:, : mask.shape[1] // 2] = 1
    video = canon.render(fit, edit("background", Delta(exposure=-1, mask=mask)))
    uv, weight = fit.coordinates(3, "background")
    changed = (video[3] != fit.clip.frames[3]).any(axis=-1)
    left, right = uv[..., 0] < mask.shape[1] // 2 - 3, uv[..., 0] > mask.shape[1] // 2 + 3
    assert changed[left & (weight == 1)].mean() > 0.99 and not changed[right].any()


def test_removal_shows_the_true_background(scene: Scene, fit: Fit) -> None:
    video = canon.render(fit, edit("foreground", Remove(0)))
    for t in range(len(fit)):
        share = scene.shares(t)
        # What a camera would have seen: the occluder over the whole background.
        front = share["occluder"]
        truth = np.zeros((*fit.size, 3), np.float32)
        uv, _ = scene.coordinates(t, "background")
        texture = np.ascontiguousarray(scene.textures["background"][..., :3])
        truth = cv2.remap(texture, uv, None, cv2.INTER_LINEAR) * scene.lighting(t, "background")
        occluder = np.zeros((*fit.size, 3), np.float32)
        occluder[front.box] = front.colour * scene._light(t, "occluder", front.box)
        truth = truth * (1 - scene.coordinates(t, "occluder")[1][..., None]) + occluder
        gone = fit.coordinates(t, "foreground")[1] > 0
        assert psnr(video[t], truth, gone) > 33
        assert psnr(fit.clip.frames[t], truth, gone) < 20
        assert np.array_equal(video[t][~gone], fit.clip.frames[t][~gone])


def test_a_grown_removal_takes_the_rim_along(fit: Fit) -> None:
    """A bright fringe that the opacity does not account for, as in a real fit, goes with a grown removal only."""
    frames = fit.clip.frames.copy()
    rims = []
    for t in range(len(fit)):
        solid = (fit.weights(t)[1] > 0).astype(np.uint8)
        rim = (cv2.dilate(solid, np.ones((3, 3))) > 0) & (solid == 0) & (fit.weights(t)[0] == 0)
        frames[t][rim] = 255
        rims.append(rim)
    fringed = with_frames(fit, frames)
    narrow, wide = (canon.render(fringed, edit("foreground", Remove(grow))) for grow in (0, 3))
    clean = fit.reconstruct(0)
    for t in (0, 6):
        assert (narrow[t][rims[t]] == 255).all()
        assert (wide[t][rims[t]] < 250).any(axis=-1).mean() > 0.99
    assert psnr(wide[0][rims[0]] / 255, clean[rims[0]]) > 33
    far = cv2.dilate((fit.weights(0)[1] > 0).astype(np.uint8), np.ones((9, 9))) == 0
    assert np.array_equal(wide[0][far], frames[0][far])


def test_edits_behind_a_removed_layer_come_to_light(fit: Fit) -> None:
    stack = [edit("foreground", Remove(0)), edit("background", paint(fit, "background"))]
    both = canon.render(fit, stack)
    for t in (0, 5):
        clear = fit.weights(t)[0] == 0
        lit = to_uint8(fit.lighting(t, "background") * RED)
        assert np.abs(both[t][clear].astype(int) - lit[clear]).max() <= 1
    # Whatever was painted on the removed layer goes with it.
    painted = [edit("foreground", paint(fit, "foreground", RED[::-1])), *stack]
    assert np.array_equal(canon.render(fit, painted)[3], both[3])


def test_later_edits_lie_over_earlier_ones(scene: Scene, fit: Fit) -> None:
    blue = np.float32([0.1, 0.2, 0.9])
    below, above = (
        edit("background", paint(fit, "background")),
        edit("background", paint(fit, "background", blue, 0.25)),
    )
    inside = fit.coordinates(2, "background")[1] == 1
    light = fit.lighting(2, "background")
    for stack, colour in (([below, above], 0.75 * RED + 0.25 * blue), ([above, below], RED)):
        out = canon.render(fit, stack)[2]
        assert np.abs(out[inside].astype(int) - to_uint8(light * colour)[inside]).max() <= 1
    graded = canon.render(fit, [below, edit("background", Delta(tint=(0.5, 1, 1)))])[2]
    wanted = to_uint8(light * RED * [0.5, 1, 1])
    assert np.abs(graded[inside].astype(int) - wanted[inside]).max() <= 1, "a grade acts on the paint below it"
    joined = Edit([*below.steps, *above.steps])
    assert np.array_equal(canon.render(fit, joined)[2], canon.render(fit, [below, above])[2])
    fine = edit("background", paint(fit, "background", blue, 0.25, scale=2.0))
    apart = np.abs(canon.render(fit, [below, fine])[2].astype(int) - canon.render(fit, [below, above])[2])
    assert apart[inside].max() <= 1, "resolutions mix"


def test_only_what_is_touched_is_kept_and_looked_at(scene: Scene, fit: Fit) -> None:
    emblem = scene.emblem("background", soft=True)
    composed = compose(fit, [edit("background", Over(emblem))])["background"]
    assert composed.levels[0].shape[1] < 0.8 * emblem.shape[1], "an emblem's canvas is cropped"
    video = canon.render(fit, edit("background", Over(emblem)))
    for t in range(len(fit)):
        (view,) = fit.views(t, "background")
        rows, columns = composed.reach(view, fit.stride, fit.size) or (slice(0, 0), slice(0, 0))
        changed = np.argwhere((video[t] != fit.clip.frames[t]).any(axis=-1))
        assert (changed >= [rows.start, columns.start]).all() and (changed < [rows.stop, columns.stop]).all()
        assert (rows.stop - rows.start) * (columns.stop - columns.start) < 0.5 * fit.size[0] * fit.size[1]


def test_paint_reaches_the_rim_of_the_canvas_and_beyond(fit: Fit) -> None:
    """Coordinates off the canvas show its last texels; paint on those is shown there too, or the source would leak."""
    shifted = list(true_fit(small_scene("pan", frames=2)).baked)
    base = true_fit(small_scene("pan", frames=2))
    shifted[-1].grid[...] -= 60
    off = Fit(base.clip, "test", {}, shifted, STRIDE, LIGHT_STRIDE)
    video = canon.render(off, edit("background", paint(off, "background")))
    inside = off.coordinates(0, "background")[1] == 1
    assert np.abs(video[0][inside] - 255 * RED).max() <= 1


def test_random_access_iteration_and_threads_agree(scene: Scene, fit: Fit) -> None:
    video = canon.render(fit, edit("foreground", Over(scene.emblem("foreground")), Delta(hue=20)))
    listed = list(video)
    assert len(listed) == 8 and np.array_equal(listed[-1], video[-1])
    assert all(np.array_equal(frame, video[t]) for t, frame in enumerate(listed))
    with pytest.raises(IndexError):
        video[8]


def test_a_loaded_fit_and_edit_render_the_same(scene: Scene, fit: Fit, tmp_path: Path) -> None:
    change = edit("foreground", Over(scene.emblem("foreground")), Delta(exposure=0.3))
    fit.save(tmp_path / "fit")
    change.save(tmp_path / "edit")
    loaded = canon.render(canon.load(tmp_path / "fit"), canon.load_edit(tmp_path / "edit"))
    video = canon.render(fit, change)
    assert all(np.array_equal(a, b) for a, b in zip(loaded, video, strict=True))


def test_saving_video(scene: Scene, fit: Fit, tmp_path: Path) -> None:
    video = canon.render(fit, edit("foreground", Over(scene.emblem("foreground"))))
    assert video.save(tmp_path / "out.mp4") == 8
    info = probe(tmp_path / "out.mp4")
    assert info.size == (110, 194) and info.fps == 24, "odd sizes are made even"
    decoded = next(iter(read_frames(tmp_path / "out.mp4"))).rgb[:109, :193]
    assert psnr(decoded, video[0]) > 30
    video.save(f"{tmp_path}/frames/")
    assert np.array_equal(read_image(tmp_path / "frames" / "00003.png"), video[3])
    with pytest.raises(InputError, match="xyz"):
        video.save(tmp_path / "out.xyz")


def test_cutting_out_a_layer(fit: Fit, tmp_path: Path) -> None:
    video = canon.render(fit, edit("foreground", paint(fit, "foreground")), lit=False)
    cut = video.rgba(3, "foreground")
    weight = fit.coordinates(3, "foreground")[1]
    assert np.array_equal(cut[..., 3], to_uint8(weight)) and np.array_equal(video.alpha(3, "foreground"), cut[..., 3])
    edge = (weight > 0.02) & (weight < 0.98)
    assert edge.sum() > 50 and np.abs(cut[edge][:, :3] - 255 * RED).max() <= 1, "no background in the colour of the rim"
    video.save(f"{tmp_path}/cut/", cutout="foreground")
    assert np.array_equal(read_image(tmp_path / "cut" / "00003.png"), cut)
    video.save(tmp_path / "cut.mov", cutout="foreground")
    assert probe(tmp_path / "cut.mov").size == fit.size
    with pytest.raises(InputError, match="opacity"):
        video.save(tmp_path / "cut.mp4", cutout="foreground")


def test_edits_that_do_not_fit_are_refused(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="no layer 'sky'"):
        canon.render(fit, edit("sky", Remove()))
    with pytest.raises(InputError, match="nothing lies behind"):
        canon.render(fit, edit("background", Remove()))
    with pytest.raises(InputError, match="is 7x7 and its canvas"):
        canon.render(fit, edit("background", Over(np.ones((7, 7, 4), np.float32))))
    with pytest.raises(InputError, match="is 7x7 and its canvas"):
        canon.render(fit, edit("background", Delta(exposure=1, mask=np.ones((7, 7)))))
    canon.render(fit, Edit([], fit="another"))
    assert "made on another fit" in caplog.text


def test_long_edits_stay_on_disk(fit: Fit, tmp_path: Path) -> None:
    """A saved fit is rendered from its mapping; deleting the folder afterwards harms nothing that is open."""
    fit.save(tmp_path / "fit")
    loaded = canon.load(tmp_path / "fit")
    video = canon.render(loaded, edit("foreground", paint(fit, "foreground")))
    before = video[2]
    shutil.rmtree(tmp_path / "fit")
    assert np.array_equal(video[2], before)
