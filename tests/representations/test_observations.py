"""What a training looks at, kept small: pixels as runs, rays of many lenses, the background behind the person."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from canon.boxes import Box
from canon.cameras import Camera
from canon.clip import Clip
from canon.representations.dynamic_nerf import DynamicNerfConfig, make_world, scene_frame
from canon.representations.dynamic_nerf.backdrop import Backdrop
from canon.representations.dynamic_nerf.observations import Observations, Pixels
from canon.representations.dynamic_nerf.rays import RaySource
from canon.representations.dynamic_nerf.sizes import SIZES
from canon.scenes.human import HumanScene, HumanSceneConfig

CPU = torch.device("cpu")


@given(hnp.arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7))))
def test_runs_of_pixels_are_those_of_the_masks(masks: np.ndarray) -> None:
    pixels = Pixels()
    for mask in masks:
        pixels.add(mask)
    truth = np.flatnonzero(masks)
    assert len(pixels) == len(truth)
    assert np.array_equal(pixels[np.arange(len(truth))], truth)


def test_runs_stay_small_where_masks_are_large() -> None:
    pixels = Pixels()
    for _ in range(3):
        pixels.add(np.ones((200, 301), bool))
    begins, before = pixels._runs
    assert len(pixels) == 3 * 200 * 301
    assert len(begins) == 3 and len(before) == 4


def test_every_frame_may_have_a_lens_of_its_own() -> None:
    camera = HumanScene(HumanSceneConfig(width=41, height=30)).camera(0)
    fisheye = replace(camera, distortion=(0.05, -0.01, 0.0, 0.0), fisheye=True)
    bent = replace(camera, distortion=(-0.2, 0.05, 0.001, -0.002))
    lenses = [camera, _zoomed(camera, 1.3), bent, _zoomed(bent, 1.7), fisheye, bent]
    source = RaySource(lenses, CPU)
    rng = np.random.default_rng(0)
    frames, pixels = rng.integers(0, len(lenses), (4, 50)), rng.integers(0, 41 * 30, (4, 50))
    rays = source(torch.from_numpy(frames), torch.from_numpy(pixels))
    for t, lens in enumerate(lenses):
        own = frames == t
        truth = lens.directions(np.stack([pixels[own] % 41, pixels[own] // 41], axis=-1))
        assert rays.directions[torch.from_numpy(own)].numpy() == pytest.approx(truth, abs=1e-6)


def _zoomed(camera: Camera, by: float) -> Camera:
    return replace(camera, intrinsics=camera.intrinsics * np.array([by, by, 1.0])[:, None])


def test_the_background_that_is_kept_is_the_one_that_is_rendered() -> None:
    scene = HumanScene(HumanSceneConfig(width=25, height=30, frames=4))
    cameras = [scene.camera(0), scene.camera(1), scene.camera(0), scene.camera(3)]
    clip = Clip.from_frames(np.zeros((4, 30, 25, 3), np.uint8), cameras=cameras)
    world = make_world(SIZES["fast"], scene_frame(clip), None, None, DynamicNerfConfig(), 1, 0)
    seen = Observations(clip, cameras, CPU)
    boxes: list[Box | None] = [
        (slice(13, 20), slice(8, 14)),
        (slice(12, 17), slice(0, 7)),
        (slice(14, 30), slice(6, 12)),
        None,
    ]
    kept, rendered = (Backdrop(world, seen, lambda t: boxes[t], rays) for rays in (10_000, 10))
    patch = world.sizes.patch
    frames, rows, columns = [], [], []
    for t in (0, 1, 2):
        own = boxes[t]
        assert own is not None
        down = np.arange(max(own[0].start - patch, 0), min(own[0].stop + patch, 30))
        right = np.arange(max(own[1].start - patch, 0), min(own[1].stop + patch, 25))
        every = np.stack(np.meshgrid(down, right, indexing="ij"), axis=-1).reshape(-1, 2)
        frames.append(np.full(len(every), t))
        rows.append(every[:, 0])
        columns.append(every[:, 1])
    batch = seen.take(np.concatenate(frames), np.concatenate(rows) * 25 + np.concatenate(columns))
    found = []
    for backdrop in (kept, rendered):
        backdrop.prepare()
        found.append(backdrop(batch).numpy())
    assert kept._kept is not None and rendered._kept is None
    assert found[0].std() > 0.001
    assert found[0] == pytest.approx(found[1], abs=0.51 / 255)
