"""Measures against values worked out by hand, and what evaluate() says of a fit whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from truth import small_scene, true_fit

import canon
from canon import metrics
from canon.fits import Fit
from canon.rendering import Video
from canon.scenes import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("lighting", frames=5)


def texture(height: int = 90, width: int = 121) -> np.ndarray:
    """A picture with detail everywhere, float32 [H, W, 3]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 3 + k) * np.cos(y / (4 + k)) + np.sin((x + 2 * y) / 9) for k in range(3)]
    return np.float32(0.5) + np.float32(0.22) * np.stack(waves, axis=-1)


def test_psnr() -> None:
    a = np.full((6, 9, 3), 0.4, np.float32)
    b = a + np.float32(0.1)
    assert metrics.psnr(a, b) == pytest.approx(20, abs=1e-4)
    assert metrics.psnr(a, a) == float("inf")
    where = np.zeros((6, 9), bool)
    where[2, 3] = True
    b[2, 3] = 0.4 + 0.01
    assert metrics.psnr(a, b, where) == pytest.approx(40, abs=1e-3)
    black, one = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)
    assert metrics.psnr(black, one) == pytest.approx(20 * np.log10(255), abs=1e-4)


def test_ssim() -> None:
    a, b = np.full((20, 31, 3), 0.4, np.float32), np.full((20, 31, 3), 0.7, np.float32)
    # Flat images differ in luminance alone: (2 m n + C1) / (m^2 + n^2 + C1), C1 = 0.01^2.
    assert metrics.ssim(a, b) == pytest.approx((2 * 0.28 + 1e-4) / (0.16 + 0.49 + 1e-4), abs=1e-5)
    image = texture()
    assert metrics.ssim(image, image) == pytest.approx(1, abs=1e-6)
    assert metrics.ssim(image, 1 - image) < 0
    assert metrics.ssim(image[:5, :40], image[:5, :40]) == pytest.approx(1, abs=1e-6)
    assert np.isnan(metrics.ssim(image[:1], image[:1]))


def test_mask_iou() -> None:
    a, b = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    assert metrics.mask_iou(a, b) == 1
    a[:, :3], b[:, 1:5] = True, True
    assert metrics.mask_iou(a, b) == pytest.approx(8 / 20)


def test_warp_error_is_zero_along_the_motion() -> None:
    image = texture()
    frame, following = image[:, 3:], image[:, :-3]  # what is at x moves to x + 3
    flow = np.zeros((*frame.shape[:2], 2), np.float32)
    flow[..., 0] = 3
    inside = np.zeros(frame.shape[:2], bool)
    inside[:, :-3] = True
    assert metrics.warp_error(frame, following, flow, inside) < 1e-12
    still = metrics.warp_error(frame, following, 0 * flow, inside)
    assert still == pytest.approx(float(((frame - following)[inside] ** 2).mean()), rel=1e-5)
    assert np.isnan(metrics.warp_error(frame, following, flow, np.zeros_like(inside)))


def test_source_flow_follows_a_shift_and_knows_what_is_hidden() -> None:
    image = np.clip(texture(90, 160) * 255, 0, 255).astype(np.uint8)
    a, b = image[:, 3:], image[:, :-3].copy()
    flow, valid = metrics.source_flow(a, b)
    assert np.abs(np.median(flow[10:-10, 10:-10], axis=(0, 1)) - [3, 0]).max() < 0.2
    assert valid[10:-10, 10:-10].mean() > 0.9 and valid[:, -2:].mean() < 0.5
    flow, valid = metrics.source_flow(a[:12, :12], b[:12, :12])
    assert not flow.any() and valid.all()


def test_track_errors_by_hand() -> None:
    truth = np.zeros((2, 4, 2))
    seen = np.ones((2, 4), bool)
    perfect = metrics.track_errors(truth, seen, truth, seen)
    assert (perfect["median"], perfect["p90"]) == (0, 0)
    assert perfect["delta"] == perfect["average_jaccard"] == perfect["occlusion_accuracy"] == 1
    off = metrics.track_errors(truth + np.array([3.0, 0.0]), seen, truth, seen)
    # 3 px is within 4, 8 and 16, not within 1 and 2.
    assert off["median"] == 3 and off["delta"] == pytest.approx(0.6) and off["average_jaccard"] == pytest.approx(0.6)
    # Of eight points one is really hidden and called visible, one really visible and called hidden.
    said, real = seen.copy(), seen.copy()
    real[0, 0], said[1, 1] = False, False
    mixed = metrics.track_errors(truth, said, truth, real)
    assert mixed["occlusion_accuracy"] == pytest.approx(6 / 8)
    assert mixed["average_jaccard"] == pytest.approx(6 / (7 + 1))
    assert np.isnan(metrics.track_errors(truth, seen, truth, ~seen)["median"])


def test_frame_consistency() -> None:
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    # Neighbours: 1 and 0. Of the three pairs one is alike.
    assert metrics.frame_consistency(vectors) == pytest.approx(0.5)
    assert metrics.frame_consistency(vectors, all_pairs=True) == pytest.approx(1 / 3)
    for all_pairs in (True, False):
        assert metrics.frame_consistency(np.tile([[3.0, 4.0]], (5, 1)), all_pairs) == pytest.approx(1)
        assert np.isnan(metrics.frame_consistency(vectors[:1], all_pairs))


def test_likeness_of_images_and_texts() -> None:
    assert metrics.text_similarity(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([5.0, 0.0])) == pytest.approx(0.5)
    source, edited = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 7.0], [1.0, 0.0]])
    before, after = np.array([3.0, 0.0]), np.array([0.0, 0.1])
    # Both turn from x to y; the second frame, which does not change, has no direction.
    assert metrics.directional_similarity(source, edited, before, after) == pytest.approx(1)
    assert metrics.directional_similarity(source, edited, after, before) == pytest.approx(-1)
    assert np.isnan(metrics.directional_similarity(source, source, before, after))
    assert np.isnan(metrics.directional_similarity(source, edited, before, before))


def test_evaluate_of_a_true_fit(fit: Fit) -> None:
    found = canon.evaluate(fit)
    assert found["psnr"] > 36 and found["ssim"] > 0.97 and found["psnr_min"] <= found["psnr"]
    assert found["psnr_unlit"] < found["psnr"] - 5, "the light of this scene changes by a quarter"
    assert found["tracks_fb"] < 0.05
    assert "warp_error" not in found and "lpips" in str(found["notes"])
    assert json.loads(json.dumps(found)) == found


def test_evaluate_of_an_edit(fit: Fit) -> None:
    rgba = fit.canonical("foreground").rgba.copy()
    middle = [n // 2 for n in rgba.shape[:2]]
    rgba[middle[0] - 9 : middle[0] + 9, middle[1] - 9 : middle[1] + 9, :3] = [0.1, 0.9, 0.2]
    edits = [
        canon.edit(fit, "paint", layer="foreground", image=rgba),
        canon.edit(fit, "grade", layer="foreground", hue=60.0),
    ]
    for edit in (edits[0], edits, canon.edit(fit, "remove", layer="foreground")):
        found = canon.evaluate(fit, edit)
        assert found["changed_outside"] == found["changed_outside_mean"] == 0
        assert 0.002 < found["edited_share"] < 0.6
        assert 0 < found["warp_error_source"] < 0.01
    assert found["edited_share"] > 0.05
    sticks, slides = Video(fit, [edits[0]]), Sliding(fit, [edits[0]])
    assert metrics.flicker(slides)["warp_error_inside"] > 3 * metrics.flicker(sticks)["warp_error_inside"]


class Sliding(Video):
    """The paint stays where it is in frame 0, whatever moves beneath it."""

    def __getitem__(self, t: int) -> np.ndarray:
        first, frame = super().__getitem__(0), np.array(self.fit.clip.frames[t])
        changed = (first != self.fit.clip.frames[0]).any(axis=-1)
        frame[changed] = first[changed]
        return frame


class Leaky(Video):
    """Changes one pixel far from the edit, and flickers in it."""

    def __getitem__(self, t: int) -> np.ndarray:
        frame = super().__getitem__(t)
        changed = (frame != self.fit.clip.frames[t]).any(axis=-1)
        frame[changed] = frame[changed] // 2 if t % 2 else frame[changed]
        frame[0, 0] = 255 - frame[0, 0]
        return frame


def test_leaks_and_flicker_are_seen(fit: Fit) -> None:
    edit = canon.edit(fit, "grade", layer="foreground", exposure=0.3)
    good, bad = canon.render(fit, edit), Leaky(fit, [edit])
    assert metrics.leaks(good)["changed_outside"] == 0
    corner = int(np.abs(255 - 2 * fit.clip.frames[:, 0, 0].astype(int)).max())
    assert metrics.leaks(bad)["changed_outside"] == corner
    assert metrics.flicker(bad)["warp_error_inside"] > 5 * metrics.flicker(good)["warp_error_inside"]


def test_one_frame_has_no_motion_to_judge(scene: Scene) -> None:
    fit = true_fit(small_scene("pan", frames=1))
    found = canon.evaluate(fit, canon.edit(fit, "grade", layer="background", hue=30.0))
    assert "warp_error" not in found and "tracks_fb" not in found and found["changed_outside"] == 0
