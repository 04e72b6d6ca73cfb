"""A subject that turns is split in time where its sides contradict each other; what is done to it stays on it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import canon
from canon.clip import Clip
from canon.coordinates import pixel_grid
from canon.fits import Fit
from canon.representations.solve.segments import _split
from canon.sampling import remap
from canon.scenes.textures import photograph

HEIGHT, WIDTH, COUNT = 118, 161, 24
LONG, SHORT = 48.0, 24.0  # half axes of the subject's ground plan
TOP, BOTTOM = 30, 90


@dataclasses.dataclass
class Turning:
    """An upright cylinder over an ellipse, seen from far away, which turns by so many degrees."""

    degrees: float

    def phase(self, t: int) -> tuple[float, float]:
        """Half width in frame t, and the angle on its surface that is at the right rim."""
        turn = np.radians(self.degrees * t / (COUNT - 1))
        across, deep = LONG * np.cos(turn), SHORT * np.sin(turn)
        return float(np.hypot(across, deep)), float(-np.arctan2(deep, across))

    def surface(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """The angle on the surface that each column shows [W], and whether it shows any [W]."""
        half, rim = self.phase(t)
        x = (np.arange(WIDTH) - WIDTH / 2) / half
        return rim + np.arccos(np.clip(x, -1, 1)), np.abs(x) < 1

    def columns(self, t: int, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where angles [N] on the surface are in frame t [N], and how much they face the camera, 1 to -1 [N]."""
        half, rim = self.phase(t)
        return WIDTH / 2 + half * np.cos(angles - rim), np.sin(angles - rim)

    def clip(self) -> Clip:
        wall = photograph("gravel")[:HEIGHT, :WIDTH] * np.float32(0.6)
        bark = photograph("bricks")
        frames, masks = [], []
        for t in range(COUNT):
            angle, inside = self.surface(t)
            u = np.broadcast_to(angle * 40 + 100, (HEIGHT, WIDTH))
            at = np.stack([u, pixel_grid((HEIGHT, WIDTH)).numpy()[..., 1]], axis=-1).astype(np.float32)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[TOP:BOTTOM] = inside * np.uint8(255)
            frames.append(np.where(mask[..., None] > 0, remap(bark, at), wall))
            masks.append(mask)
        video = (np.clip(np.stack(frames), 0, 1) * 255 + 0.5).astype(np.uint8)
        return Clip.from_frames(video, masks={"foreground": np.stack(masks)})


@pytest.fixture(scope="module", params=["atlas", "codef"])
def fit(request: pytest.FixtureRequest) -> Fit:
    return canon.fit(Turning(110).clip(), request.param, preset="fast", device="cpu")


def test_a_subject_that_turns_gets_canvases_that_overlap(fit: Fit) -> None:
    parts = fit.segments("foreground")
    assert len(parts) > 1 and fit.segments("background") == [(0, COUNT - 1)]
    assert parts[0][0] == 0 and parts[-1][1] == COUNT - 1
    assert all(a[1] - b[0] >= 3 for a, b in itertools.pairwise(parts))


def test_one_that_hardly_turns_gets_one() -> None:
    fit = canon.fit(Turning(25).clip(), "atlas", preset="fast", device="cpu")
    assert fit.segments("foreground") == [(0, COUNT - 1)]


def test_tracks_stay_on_what_turns(fit: Fit) -> None:
    middle = COUNT // 2
    angle, inside = Turning(110).surface(middle)
    x = np.nonzero(inside)[0]
    x = x[np.abs(x - WIDTH / 2) < 0.6 * np.ptp(x) / 2][::3]
    y = np.tile([TOP + 15, BOTTOM - 15], len(x))
    x = np.repeat(x, 2)
    found, _ = fit.track(np.stack([x, y], axis=-1), frame=middle, layer="foreground")
    errors = []
    for t in range(COUNT):
        true, facing = Turning(110).columns(t, angle[x])
        seen = facing > 0.4
        errors.append(np.hypot(found[t, :, 0] - true, found[t, :, 1] - y)[seen])
    assert np.median(np.concatenate(errors)) < 1 and np.quantile(np.concatenate(errors), 0.9) < 4


def test_paint_stays_on_what_turns(fit: Fit) -> None:
    middle, turning = COUNT // 2, Turning(110)
    angle, _ = turning.surface(middle)
    painted = np.asarray(fit.clip.frames[middle]).copy()
    columns = slice(WIDTH // 2 - 4, WIDTH // 2 + 5)
    painted[50:70, columns] = (255, 0, 255)
    video = canon.render(fit, canon.edit(fit, "paint", image=painted, frame=middle))
    edges = angle[[columns.stop - 1, columns.start]]
    overlaps = []
    for t in range(COUNT):
        here, inside = turning.surface(t)
        if turning.columns(t, edges)[1].min() < 0.5:
            continue
        true = np.zeros((HEIGHT, WIDTH), bool)
        true[50:70] = inside & (here >= edges[0]) & (here <= edges[1])
        changed = np.abs(video[t].astype(int) - fit.clip.frames[t]).max(axis=-1) > 70
        overlaps.append((changed & true).sum() / (changed | true).sum())
    assert len(overlaps) > COUNT / 2 and np.mean(overlaps) > 0.7


def panorama(degrees: float, count: int = 20, size: tuple[int, int] = (100, 160)) -> Clip:
    """What a camera (60 degrees wide) sees that turns on the spot, of photographs on a cylinder around it."""
    height, width = size
    wall = np.concatenate([photograph(name)[:300, :400] for name in ("bricks", "cat", "motorcycle", "coffee")], axis=1)
    focal = width / 2 / np.tan(np.radians(30))
    x, y = np.moveaxis(pixel_grid(size).numpy() - [(width - 1) / 2, (height - 1) / 2], -1, 0)
    frames = []
    for t in range(count):
        angle = np.arctan2(x, focal) + np.radians(degrees) * (t / (count - 1) - 0.5)
        at = np.stack([800 + angle * 450, 150 + y / np.hypot(x, focal) * 320], axis=-1)
        frames.append(remap(wall, at.astype(np.float32)))
    return Clip.from_frames((np.stack(frames) * 255 + 0.5).astype(np.uint8))


@pytest.mark.parametrize("representation", ["atlas", "codef"])
def test_a_camera_that_turns_far_gets_pictures_that_overlap(representation: str) -> None:
    clip = panorama(130)
    fit = canon.fit(clip, representation, preset="fast", device="cpu", search=False)
    parts = fit.segments("background")
    assert len(parts) == 2 and parts[0][1] - parts[1][0] >= 3
    assert max(fit.canonical("background", k).rgba.shape[1] for k in range(2)) < 4 * clip.size[1]
    assert canon.evaluate(fit)["psnr_min"] > 26
    painted = np.asarray(clip.frames[6]).copy()
    painted[40:60, 100:130] = (255, 0, 255)
    video = canon.render(fit, canon.edit(fit, "paint", image=painted, frame=6))
    # Half of the wall's height is half of a frame's, wherever the camera looks.
    for t in range(parts[1][0], 10):
        changed = np.abs(video[t].astype(int) - clip.frames[t]).max(axis=-1) > 70
        assert 300 < changed.sum() < 900


def test_one_picture_is_enough_for_less() -> None:
    fit = canon.fit(panorama(50), "atlas", preset="fast", device="cpu", search=False)
    assert fit.segments("background") == [(0, 19)]
    whole = canon.fit(panorama(90, 8), "atlas", preset="fast", device="cpu", search=False, split=False)
    assert whole.segments("background") == [(0, 7)]


def test_a_split_pays_its_price() -> None:
    """Two looks that deny each other wholly, and ones that do so too little, or for too short a time."""
    looks = np.zeros((30, 100), np.float32)
    looks[:15, :50] = looks[15:, 50:] = 1
    assert _split(looks, (1 - looks) / 50) == [range(15), range(15, 30)]
    assert _split(looks, (1 - looks) / 500) == [range(30)]
    looks[:] = 0
    looks[:29, :50] = looks[29:, 50:] = 1
    assert _split(looks, (1 - looks) / 50) == [range(30)]
    assert _split(looks[:1], (1 - looks[:1]) / 50) == [range(1)]
