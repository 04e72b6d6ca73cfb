"""What a fit is for: points stick, and an edit lands where the truth says, on scenes of every kind at a small size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from truth import psnr, true_fit

import canon
from canon.coordinates import grid_nodes, pixel_grid
from canon.edits import Edit, Over, Step
from canon.fits import Fit
from canon.grids import invert_grid
from canon.scenes import Scene, make
from canon.scenes.sampling import sample_points

pytestmark = pytest.mark.slow

SIZE, COUNT = (144, 256), 12
SCENES = {
    "pan": {},
    "fast-pan": {},
    "bend": {},
    "lighting": {"lighting": 0.25},
    "occlusion": {"occluder_period": 40.0},  # so that the occluder crosses the foreground within the clip
}


@dataclass
class Case:
    """A scene, its fit, and the fit that a perfect solver would give."""

    scene: Scene
    fit: Fit
    true: Fit
    names: dict[str, str]
    """The scene's layer -> the fit's."""


@pytest.fixture(scope="module", params=SCENES)
def case(request: pytest.FixtureRequest) -> Case:
    scene = make(request.param, width=SIZE[1], height=SIZE[0], frames=COUNT, **SCENES[request.param])
    fit = canon.fit(scene.clip(), "atlas", preset="balanced", device="cpu")
    return Case(scene, fit, true_fit(scene), dict(zip(scene.layers, fit.layers, strict=True)))


def test_tracks_stick(case: Case) -> None:
    for layer, name in case.names.items():
        errors = []
        for frame in (0, COUNT // 2, COUNT - 1):
            true, seen = case.scene.tracks(layer, 150, frame=frame)
            found, _ = case.fit.track(true[frame], frame=frame, layer=name)
            seen[frame] = False  # there the error is zero by definition
            errors.append(np.linalg.norm(found - true, axis=-1)[seen])
        error = np.concatenate(errors)
        assert len(error) > 500
        assert np.median(error) <= 0.5, f"{layer}: median {np.median(error):.2f} px"
        assert np.quantile(error, 0.9) <= 2.0, f"{layer}: 90th percentile {np.quantile(error, 0.9):.2f} px"


def transfer(scene: Scene, fit: Fit, layer: str, name: str, overlay: np.ndarray, frame: int, scale: int) -> np.ndarray:
    """An overlay of the true texture, painted on a fit's canvas at ``scale`` times its size as seen in one frame.

    How bright a canvas is, and how bright its light, is a matter of taste: the paint is to look right in that frame.
    """
    height, width = fit.layer(name).canvas_size
    texels = (pixel_grid((height * scale, width * scale)) + 0.5) / scale - 0.5
    grid = torch.from_numpy(np.array(fit.layer(name).grid[frame]))
    # First guess: the nearest affine map.
    nodes = grid_nodes(fit.size, fit.stride).reshape(-1, 2)
    affine = np.linalg.lstsq(
        np.column_stack([grid.reshape(-1, 2).numpy(), np.ones(len(nodes))]), nodes.numpy(), rcond=None
    )[0].astype(np.float32)
    flat = texels.reshape(-1, 2)
    pixels, error = invert_grid(
        grid, fit.stride, flat, flat @ torch.from_numpy(affine[:2]) + torch.from_numpy(affine[2]), 12
    )
    inside = (pixels >= 0).all(-1) & (pixels[:, 0] <= fit.size[1] - 1) & (pixels[:, 1] <= fit.size[0] - 1)
    known = (inside & (error < 0.1)).numpy()
    uv = scene.to_texture(frame, layer, pixels.numpy().astype(np.float64))
    premultiplied = np.dstack([overlay[..., :3] * overlay[..., 3:], overlay[..., 3:]])
    found = sample_points(np.ascontiguousarray(premultiplied), uv, outside=0.0) * known[:, None]
    found[:, :3] /= np.maximum(found[:, 3:], 1e-6)
    gain = scene.lighting(frame, layer) / fit.lighting(frame, name)
    found[:, :3] *= sample_points(gain, np.clip(pixels.numpy(), 0, np.array(fit.size[::-1]) - 1))
    return found.reshape(height * scale, width * scale, 4).astype(np.float32)


@pytest.mark.parametrize("soft", [True, False], ids=["soft", "sharp"])
def test_edits_come_near_the_ceiling(case: Case, soft: bool) -> None:
    for layer, name in case.names.items():
        emblem = case.scene.emblem(layer, soft=soft)
        truth = case.scene.true_edit({layer: emblem})
        areas = [truth.area(t) > 0 for t in range(COUNT)]
        frame = int(np.argmax([area.sum() for area in areas]))
        scores = []
        for fit, own in ((case.true, layer), (case.fit, name)):
            paint = Over(transfer(case.scene, fit, layer, own, emblem, frame, 2))
            video = canon.render(fit, Edit([Step(own, paint)]))
            pairs = [(video[t][area], truth[t][area]) for t, area in enumerate(areas)]
            scores.append(psnr(*(np.concatenate(side) for side in zip(*pairs, strict=True))))
        plain = [(case.fit.clip.frames[t][area], truth[t][area]) for t, area in enumerate(areas)]
        nothing = psnr(*(np.concatenate(side) for side in zip(*plain, strict=True)))
        print(
            f"{layer} {'soft' if soft else 'sharp'}: {scores[1]:.2f} dB, ceiling {scores[0]:.2f}, source {nothing:.2f}"
        )
        assert scores[0] > nothing + 6, "the emblem is to be seen"
        assert scores[1] > scores[0] - 3, f"{layer}: {scores[1]:.1f} dB, ceiling {scores[0]:.1f} dB"
