"""Nerfstudio beside ours: its field in the place of ours, its rays, its contraction, and our method among its own."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from truth import turned

from canon.camera_files import read_cameras
from canon.coordinates import pixel_grid
from canon.errors import InputError
from canon.representations.dynamic_nerf.fields import Frame, SceneField
from canon.representations.dynamic_nerf.nerfstudio_fields import NerfactoBackground, nerfacto_background
from canon.representations.dynamic_nerf.rays import Rays, RaySource
from canon.representations.dynamic_nerf.sizes import SIZES
from canon.representations.dynamic_nerf.space import contract
from canon.representations.dynamic_nerf.world import World

SMALL = replace(SIZES["fast"], levels=5, log2_size=12, finest=64, width=16, coarse=12, fine=8)
FRAME = Frame((0.3, -0.2, 0.5), 0.4)


def nerfstudio(module: str = "fields.nerfacto_field") -> Any:
    """A module of nerfstudio; the test is skipped where it cannot be imported."""
    try:
        return importlib.import_module(f"nerfstudio.{module}")
    except ImportError as error:
        pytest.skip(f"nerfstudio.{module} cannot be imported here: {error}")


def ball(points: torch.Tensor) -> torch.Tensor:
    """Colours of directions: a world that is infinitely far away."""
    return 0.5 + 0.4 * torch.sin(3 * points + torch.tensor([0.0, 1.0, 2.0]))


def test_without_nerfstudio_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nerfstudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nerfstudio", None)
    with pytest.raises(
        InputError, match=r"needs nerfstudio.*pip install nerfstudio, or take the background 'hashgrid'"
    ):
        nerfacto_background(SMALL, FRAME, 0)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (1, 1, 2)])
def test_nerfactos_field_answers_as_ours_does(shape: tuple[int, ...]) -> None:
    nerfstudio()
    field, ours = nerfacto_background(SMALL, FRAME, 0), SceneField(SMALL, FRAME, "torch", 0, view_dependent=True)
    generator = torch.Generator().manual_seed(1)
    points = 4 * torch.randn((*shape, 3), generator=generator)
    directions = F.normalize(torch.randn((*shape, 3), generator=generator), dim=-1)
    for one in (field, ours):
        density, colour = one(points, directions)
        assert density.shape == shape and colour.shape == (*shape, 3)
        assert (
            float(density.detach().min()) >= 0
            and 0 <= float(colour.detach().min()) <= float(colour.detach().max()) <= 1
        )
        assert torch.allclose(one.density(points), density)
        assert one.proposal.density(points).shape == shape and float(one.proposal.density(points).detach().min()) >= 0
        assert one.frame == FRAME and one.view_dependent
        (density.sum() + colour.sum() + one.proposal.density(points).sum()).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in one.parameters() if p.numel())
    # A density is per metre: of a world that is twice as large it is half, at the same place of the frame.
    larger = nerfacto_background(SMALL, Frame(FRAME.centre, FRAME.scale / 2), 0)
    middle = torch.tensor(FRAME.centre)
    assert torch.allclose(larger.density(middle + 2 * (points - middle)), field.density(points) / 2, rtol=1e-4)


def test_a_seed_tells_the_first_values_and_nothing_else() -> None:
    nerfstudio()
    torch.manual_seed(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    one = nerfacto_background(SMALL, FRAME, 3)
    assert torch.equal(torch.rand(3), first)
    same, other = nerfacto_background(SMALL, FRAME, 3), nerfacto_background(SMALL, FRAME, 4)
    values = [dict(field.state_dict()) for field in (one, same, other)]
    assert all(torch.equal(values[0][key], values[1][key]) for key in values[0])
    assert not all(torch.equal(values[0][key], values[2][key]) for key in values[0])
    other.load_state_dict(values[0])
    points = torch.linspace(-2, 2, 9)[:, None].expand(9, 3)
    assert torch.equal(other.density(points), one.density(points))


@pytest.mark.slow
def test_nerfactos_field_learns_a_small_world() -> None:
    """A world of colours that are far away, seen from places around the origin."""
    nerfstudio()
    frame = Frame((0.0, 0.0, 0.0), 1.0)
    world = World(SMALL, nerfacto_background(SMALL, frame, 0), None, None)  # type: ignore[arg-type]
    assert isinstance(world.background, NerfactoBackground)
    optimiser = torch.optim.Adam(world.parameters(), lr=1e-2, eps=1e-15)
    generator = torch.Generator().manual_seed(0)

    def batch(count: int) -> Rays:
        origins = 0.3 * torch.randn((count, 3), generator=generator)
        return Rays(origins, F.normalize(torch.randn((count, 3), generator=generator), dim=-1))

    held = batch(400)
    errors = []
    for step in range(150):
        if step in (0, 149):
            with torch.no_grad():
                errors.append(float(F.mse_loss(world(held, None).rgb, ball(held.directions))))
        rays = batch(256)
        seen = world(rays, None, generator, trust=min(step / 40, 1.0))
        loss = F.mse_loss(seen.rgb, ball(rays.directions)) + seen.loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert -10 * np.log10(errors[1]) > 22 and errors[1] < errors[0] / 8


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=st.floats(-1e4, 1e4, width=32)))
def test_space_is_contracted_as_nerfstudio_does(points: np.ndarray) -> None:
    theirs = nerfstudio("field_components.spatial_distortions").SceneContraction(order=float("inf"))
    own = torch.from_numpy(points)
    assert torch.allclose(theirs(own), contract(own), atol=1e-6)


LENSES: dict[str, dict[str, Any]] = {
    "none": {},
    "radial": {"k1": 0.08, "k2": -0.02},
    "tangential": {"k1": -0.06, "k2": 0.01, "p1": 0.004, "p2": -0.003},
    "fisheye": {"camera_model": "OPENCV_FISHEYE", "k1": 0.03, "k2": -0.01, "k3": 0.002, "k4": -0.001},
}


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("size", [(19, 31), (40, 23)])
def test_rays_of_a_transforms_json_are_nerfstudios(tmp_path: Path, lens: str, size: tuple[int, int]) -> None:
    """Both read the same numbers; the axes, the pixels' centres and the lens must then be understood alike."""
    cameras = nerfstudio("cameras.cameras")
    utils = nerfstudio("cameras.camera_utils")
    (height, width), rng = size, np.random.default_rng(4)
    own = {"fl_x": 31.0, "fl_y": 29.5, "cx": width / 2 + 1.3, "cy": height / 2 - 0.8, "w": width, "h": height}
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, :3] = [turned(tuple(rng.uniform(-2, 2, 3))) for _ in range(3)]
    poses[:, :3, 3] = rng.normal(size=(3, 3))
    frames = [{"file_path": f"{t}.png", "transform_matrix": pose.tolist()} for t, pose in enumerate(poses)]
    (tmp_path / "transforms.json").write_text(json.dumps({**own, **LENSES[lens], "frames": frames}))
    ours = RaySource([view.camera for view in read_cameras(tmp_path)], torch.device("cpu"))
    read = json.loads((tmp_path / "transforms.json").read_text())
    coefficients = [float(read.get(name, 0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2")]
    kind = cameras.CAMERA_MODEL_TO_TYPE[read.get("camera_model", "OPENCV")]
    theirs = cameras.Cameras(
        torch.tensor([frame["transform_matrix"] for frame in read["frames"]])[:, :3],
        *(read[name] for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")),
        distortion_params=utils.get_distortion_params(*coefficients),
        camera_type=kind,
    )
    for t in range(3):
        bundle = theirs.generate_rays(camera_indices=t)
        rays = ours(torch.full((height * width,), t), torch.arange(height * width))
        assert torch.allclose(bundle.origins.reshape(-1, 3), rays.origins, atol=1e-6)
        assert torch.allclose(bundle.directions.reshape(-1, 3), rays.directions, atol=2e-5)
    # Whole pixels of ours are halves of theirs.
    coordinates = theirs.get_image_coords()
    assert torch.equal(coordinates.flip(-1) - 0.5, pixel_grid(size).reshape(height, width, 2))


def entry_point() -> importlib.metadata.EntryPoint:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    group = "nerfstudio.method_configs"
    ((name, value),) = settings["entry-points"][group].items()
    return importlib.metadata.EntryPoint(name, value, group)


@pytest.mark.slow
def test_our_method_learns_on_nerfstudios_rays() -> None:
    """As its pipeline does: rays of its cameras, losses and parameter groups as our model gives them."""
    nerfstudio("models.base_model")
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.data.scene_box import SceneBox
    from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation

    module = importlib.import_module(entry_point().module)
    config = module.CanonModelConfig(preset="fast", backend="torch", steps=120)
    box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    model = config.setup(scene_box=box, num_train_data=4)
    rng = np.random.default_rng(0)
    poses = np.stack([np.c_[turned(tuple(rng.uniform(-0.5, 0.5, 3))), rng.normal(size=3) / 5] for _ in range(4)])
    cameras = Cameras(torch.from_numpy(poses).float(), 24.0, 24.0, 13.5, 10.5, 27, 21)
    groups = model.get_param_groups()
    own = [id(p) for group in groups.values() for p in group]
    assert len(set(own)) == len(own) and set(own) == {id(p) for p in model.world.parameters()}
    optimiser = torch.optim.Adam([{"params": p, "lr": module._RATES[name]} for name, p in groups.items()], eps=1e-12)
    (callback,) = model.get_training_callbacks(TrainingCallbackAttributes(None, None, None, None))
    generator = torch.Generator().manual_seed(0)

    def picture() -> float:
        model.eval()
        outputs = model.get_outputs_for_camera(cameras[1:2])
        truth = ball(cameras[1:2].generate_rays(camera_indices=0, keep_shape=True).directions)
        metrics, images = model.get_image_metrics_and_images(outputs, {"image": truth})
        assert images["img"].shape == (21, 54, 3) and float(images["depth"].max()) <= 1
        assert outputs["rgb"].shape == (21, 27, 3) and outputs["depth"].shape == (21, 27, 1)
        model.train()
        return float(metrics["psnr"])

    before = picture()
    for step in range(120):
        callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        number = torch.randint(4, (256, 1), generator=generator)
        pixels = torch.rand((256, 2), generator=generator) * torch.tensor([20.0, 26.0])
        bundle = cameras.generate_rays(camera_indices=number, coords=pixels + 0.5)
        outputs, batch = model(bundle), {"image": ball(bundle.directions)}
        loss = sum(model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch)).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert model.trust == 1 and picture() > max(25, before + 8)


def test_nerfstudio_finds_our_method() -> None:
    registry = nerfstudio("plugins.registry")
    point = entry_point()
    method = point.load()
    assert method.config.method_name == point.name == "canon-dynamic-nerf" and method.description
    model = method.config.pipeline.model.setup(scene_box=None, num_train_data=1)
    assert set(model.get_param_groups()) == set(method.config.optimizers)
    installed = importlib.metadata.entry_points(group=point.group)
    if point.name not in installed.names:
        pytest.skip("this installation of canon is older than its entry point; install it again")
    methods, descriptions = registry.discover_methods()
    assert point.name in methods and point.name in descriptions
