"""The command line on fits in three dimensions: what it writes, and every way to give it something bad."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from motions import write_bvh
from scipy.spatial.transform import Rotation
from truth import read_exr

from canon.camera_files import read_cameras, write_cameras
from canon.camera_paths import orbit, read_path, write_path
from canon.cli import BAD_INPUT, COMMANDS, DONE, main
from canon.poses import read_poses, save_poses
from canon.project import Project
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.spatial import spatial
from canon.storage import open_arrays, read_image, write_arrays, write_image
from canon.video import read_frames

FRAMES, SIZE = 3, (48, 40)
QUICK = ["--preset", "fast", "--scene-steps", "5", "--human-steps", "3", "--joint-steps", "2"]
KIND = ["--representation", "dynamic-nerf", *QUICK]


@pytest.fixture(scope="module")
def scene() -> HumanScene:
    return HumanScene(HumanSceneConfig(width=SIZE[1], height=SIZE[0], frames=FRAMES))


@pytest.fixture(scope="module")
def source(scene: HumanScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with frames/, masks/, cameras.json and poses.npz; read only."""
    folder = tmp_path_factory.mktemp("person")
    scene.save(folder)
    return folder


def fit_command(source: Path, project: Path, **changed: Path | str | None) -> list[str]:
    """A complete ``canon fit``, in which options are changed, or left out if None."""
    given = {name: source / file for name, file in (("masks", "masks"), ("cameras", "cameras.json"))}
    options: dict[str, Any] = {**given, "poses": source / "poses.npz", **changed}
    said = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return ["fit", str(source / "frames"), "--project", str(project), *KIND, *said]


@pytest.fixture(scope="module")
def project(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a fit of the person, in which tests write under names of their own."""
    folder = tmp_path_factory.mktemp("fitted") / "person"
    assert main(fit_command(source, folder)) == DONE
    return folder


@pytest.fixture(scope="module")
def room(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a fit of the background alone."""
    folder = tmp_path_factory.mktemp("fitted") / "room"
    assert main(fit_command(source, folder, poses=None, masks=None)) == DONE
    return folder


@pytest.fixture(scope="module")
def flat(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a fit of two dimensions."""
    folder = tmp_path_factory.mktemp("fitted") / "flat"
    command = ["fit", str(source / "frames"), "--project", str(folder), "--preset", "fast", "--no-search"]
    assert main(command) == DONE
    return folder


Complains = Callable[[list[str]], str]


@pytest.fixture
def complains(capsys: pytest.CaptureFixture[str]) -> Complains:
    """Runs a command that has to end with code 2 and one sentence on stderr, which is returned."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == BAD_INPUT
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if not re.match(r"\s*\d+\.\d s  \w+$|note: ", line)]
        assert len(lines) == 1 and lines[0].startswith("canon: "), err
        assert lines[0].endswith((".", "?")) and "Traceback" not in err and len(lines[0]) < 500
        return lines[0]

    return run


# --- what works ---


def test_a_second_fit_is_found(source: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "fits" / "dynamic-nerf" / "maps.safetensors").stat().st_mtime_ns
    assert main(fit_command(source, project)) == DONE
    assert "already fitted" in capsys.readouterr().out
    assert Project.open(project).fits == ["dynamic-nerf"]
    assert (project / "fits" / "dynamic-nerf" / "maps.safetensors").stat().st_mtime_ns == before


def test_what_is_printed_after_a_fit_is_there(room: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit_command(source, room, poses=None, masks=None)) == DONE
    said = capsys.readouterr().out
    places = [Path(part.strip(",")) for line in said.splitlines() if line.startswith(("  images", "  masks"))
              for part in line.split()[1:]]  # fmt: skip
    assert places and all(place.exists() for place in places)


def overlap(shown: np.ndarray, true: np.ndarray) -> float:
    """Of the opaque parts of two mattes: what both have of what one has."""
    return float(((shown > 0.5) & (true > 0.5)).sum() / ((shown > 0.5) | (true > 0.5)).sum())


def test_an_orbit_goes_around_the_person(project: Path, scene: HumanScene, tmp_path: Path) -> None:
    """The very few steps of these fits leave the person with the shape of the body that they begin with."""
    out = tmp_path / "around"
    command = ["render", str(project), "--camera", "orbit", "--frames", "4", "--only", "human", "--out", f"{out}/"]
    assert main(command) == DONE
    fit = spatial(Project.open(project).fit())
    shown = [read_image(path)[..., 3] / 255 for path in sorted(out.glob("*.png"))]
    assert len(shown) == 4
    for k, camera in enumerate(orbit(fit.cameras, fit.centre, 4)):
        assert overlap(shown[k], scene.view(camera, scene.pose(k % FRAMES)).mask) > 0.6


def test_an_orbit_is_a_video(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(project), "--camera", "orbit", "--frames", "3"]) == DONE
    path = Path(capsys.readouterr().out.strip())
    assert path == project / "renders" / "orbit.mp4"
    assert [frame.rgb.shape for frame in read_frames(path)] == [(*SIZE, 3)] * 3


def test_original_is_what_the_fit_sees(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "own"
    assert main(["render", str(project), "--camera", "original", "--frames", "4", "--out", f"{out}/"]) == DONE
    fit = spatial(Project.open(project).fit())
    first, again = (read_image(out / f"{k:05d}.png").astype(int) for k in (0, FRAMES))
    assert np.array_equal(first, again), "after the last moment comes the first one"
    assert np.abs(first - 255 * fit.view(0, fit.cameras[0])).max() <= 1


def test_pictures_are_as_high_as_asked_and_as_wide_as_the_camera(
    project: Path, scene: HumanScene, tmp_path: Path
) -> None:
    camera = replace(scene.orbiting(30), size=(48, 96))
    write_cameras(tmp_path / "wide.json", {"a": camera, "b": camera})
    write_path(tmp_path / "way.json", [scene.orbiting(20), scene.orbiting(60)])
    for name, size in (("wide.json", (30, 60)), ("way.json", (30, 25))):
        out = tmp_path / Path(name).stem
        command = ["render", str(project), "--camera", str(tmp_path / name), "--height", "30", "--out", f"{out}/"]
        assert main(command) == DONE
        assert [read_image(path).shape[:2] for path in sorted(out.glob("*.png"))] == [size, size]


def test_a_path_of_another_aspect_keeps_what_is_from_top_to_bottom(scene: HumanScene, tmp_path: Path) -> None:
    wide = HumanScene(replace(scene.config, width=2 * SIZE[0])).orbiting(20)
    write_path(tmp_path / "wide.json", [wide])
    (narrow,) = read_path(tmp_path / "wide.json", (30, 25))
    seen = np.array([[3.0, -0.5], [47.5, 47.5], [60, 11], [91, 30]])
    places = wide.position + 3 * wide.directions(seen)
    found, _ = narrow.project(places)
    scale = 30 / SIZE[0]
    assert found[:, 1] == pytest.approx((seen[:, 1] + 0.5) * scale - 0.5, abs=1e-6)
    assert found[:, 0] - 12 == pytest.approx((seen[:, 0] - 47.5) * scale, abs=1e-6)


def test_the_person_moves_as_a_bvh_says(project: Path, scene: HumanScene, tmp_path: Path) -> None:
    waving = HumanScene(replace(scene.config, motion="wave", frames=5))
    write_bvh(waving.motion(), tmp_path / "wave.bvh")
    out = tmp_path / "waves"
    command = ["render", str(project), "--pose", str(tmp_path / "wave.bvh"), "--only", "human", "--out", f"{out}/"]
    assert main(command) == DONE
    shown = [read_image(path)[..., 3] / 255 for path in sorted(out.glob("*.png"))]
    assert len(shown) == 5, "as many frames as the motion has"
    cameras = spatial(Project.open(project).fit()).cameras
    for t in (0, 4):
        camera = cameras[t % FRAMES]
        as_waving, as_filmed = (
            overlap(shown[t], one.view(camera, one.pose(t % len(one))).mask) for one in (waving, scene)
        )
        assert as_waving > 0.6 and as_waving > as_filmed + 0.05


def test_one_layer_alone_has_opacity(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "alone"
    assert main(["render", str(project), "--only", "human", "--out", f"{out}/"]) == DONE
    fit = Project.open(project).fit()
    paths = sorted(out.glob("*.png"))
    assert len(paths) == FRAMES
    for t, path in enumerate(paths):
        image = read_image(path)
        assert image.shape == (*SIZE, 4)
        assert np.abs(image[..., 3] - 255 * fit.weights(t)[0]).max() <= 1
    behind = tmp_path / "behind"
    assert main(["render", str(project), "--only", "background", "--out", f"{behind}/"]) == DONE
    assert read_image(behind / "00000.png").shape == (*SIZE, 3)


def test_canonical_images_come_with_turntables(project: Path, tmp_path: Path) -> None:
    assert main(["canonical", str(project), "--layer", "background", "--out", str(tmp_path)]) == DONE
    assert read_image(tmp_path / "background.png").ndim == 3
    assert len(list(read_frames(tmp_path / "background-turntable.mp4"))) == 36
    names = [path.name for path in sorted((tmp_path / "background-turntable").iterdir())]
    assert names == [f"{angle:03d}.png" for angle in range(0, 360, 40)]
    # The person's has pictures of 256 pixels, which cost a minute together.
    human, _ = spatial(Project.open(project).fit()).turntables()
    assert (human.name, human.count, next(human.frames).shape) == ("human", 36, (256, 256, 3))
    assert main(["canonical", str(project), "--layer", "human", "--no-turntable", "--out", str(tmp_path / "p")]) == DONE
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["human.png"]


def test_exports_hold_what_the_fit_says(project: Path, tmp_path: Path) -> None:
    fit = spatial(Project.open(project).fit())
    for kind in ("mesh", "depth", "opacity"):
        assert main(["export", str(project), kind]) == DONE
    exports = project / "exports"
    depth = read_exr(exports / "dynamic-nerf-depth" / f"{FRAMES - 1:05d}.exr")["Z"]
    assert np.array_equal(depth, fit.distance(FRAMES - 1).astype(np.float32)) and (depth > 0).all()
    matte = read_image(exports / "dynamic-nerf-human-opacity" / "00000.png")
    assert np.abs(matte[..., 0] - 255 * fit.weights(0)[0]).max() <= 1
    solid, coloured = (trimesh.load_mesh(exports / f"dynamic-nerf.{end}") for end in ("glb", "ply"))
    assert len(solid.faces) == len(coloured.faces) > 100
    assert np.allclose(solid.bounds, coloured.bounds, atol=1e-5)
    assert 1.2 < np.ptp(solid.bounds[:, 1]) < 2.2, "about as tall as a person"


def test_opacity_is_exported_of_flat_fits_too(flat: Path, tmp_path: Path) -> None:
    assert main(["export", str(flat), "opacity", "--out", str(tmp_path / "matte")]) == DONE
    assert (read_image(tmp_path / "matte" / "00000.png") == 255).all()


def test_help_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {
        "fit": ("--cameras", "--poses", "--body", "--scene-steps", "solve", "joints.npz", "a mean over all"),
        "render": ("--camera", "--pose", "--only", "--frames", "--height", "orbit", ".bvh", "several views"),
        "canonical": ("--turntable",),
        "export": ("mesh", "depth", "opacity", ".glb", ".ply"),
    }
    for command, words in wanted.items():
        assert command in COMMANDS
        extra = ["--representation", "dynamic-nerf"] if command == "fit" else []
        assert main([command, *extra, "--help"]) == DONE
        said = " ".join(re.sub("│", " ", capsys.readouterr().out).split())
        assert [word for word in words if word not in said] == []


# --- bad input: one sentence, exit code 2, and nothing is fitted ---


class _Malicious:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.path),)


def test_bad_cameras(source: Path, tmp_path: Path, complains: Complains) -> None:
    new = tmp_path / "new"

    def refused(path: Path | str | None) -> str:
        said = complains(fit_command(source, new, cameras=path))
        assert not (new / "fits").exists() or not any((new / "fits").iterdir())
        return said

    content = json.loads((source / "cameras.json").read_text())
    few = {**content, "cameras": dict(list(content["cameras"].items())[:2])}
    (tmp_path / "few.json").write_text(json.dumps(few))
    said = refused(tmp_path / "few.json")
    assert "2 cameras for 3 frames" in said and "frame 2" in said
    for bad, why in ((0.0, "larger than 0"), (float("nan"), "finite")):
        broken = json.loads(json.dumps(content))
        broken["cameras"]["00001"]["K"][0][0] = bad
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        assert why in refused(tmp_path / "broken.json")
    square = {**content["cameras"]["00000"], "width": 48}
    (tmp_path / "square.json").write_text(json.dumps({"cameras": {"a": square}}))
    assert "another shape" in refused(tmp_path / "square.json")
    assert "needs a camera for every frame" in refused(None)
    assert "no cameras in" in refused(tmp_path / "nowhere.json")
    (tmp_path / "text.json").write_text("hello")
    assert "text.json" in refused(tmp_path / "text.json")


def test_cameras_that_name_files_outside_their_folder(source: Path, tmp_path: Path, complains: Complains) -> None:
    folder = tmp_path / "shot"
    shutil.copytree(source / "frames", tmp_path / "secret")
    folder.mkdir()
    frame = {"file_path": "../secret/00000.png", "transform_matrix": np.eye(4).tolist()}
    content = {"w": SIZE[1], "h": SIZE[0], "fl_x": 50.0, "frames": [frame]}
    (folder / "transforms.json").write_text(json.dumps(content))
    command = ["fit", str(folder), "--project", str(tmp_path / "p"), *KIND]
    assert "../secret/00000.png" in complains(command)
    assert "../secret/00000.png" in complains(fit_command(source, tmp_path / "p", cameras=folder / "transforms.json"))


def test_bad_poses(source: Path, scene: HumanScene, tmp_path: Path, complains: Complains) -> None:
    import pickle

    new, motion = tmp_path / "new", scene.motion()

    def refused(path: Path) -> str:
        return complains(fit_command(source, new, poses=path))

    longer = HumanScene(replace(scene.config, frames=5)).motion()
    save_poses(longer, tmp_path / "longer.npz")
    assert "5 poses for 3 frames" in refused(tmp_path / "longer.npz")
    joints = np.full((FRAMES, 24, 3), np.nan)
    np.savez(tmp_path / "unseen.npz", joints3d=joints, joint_names=np.array(motion.skeleton.names))
    assert "0 of the joints are ever seen" in refused(tmp_path / "unseen.npz")
    rotations = motion.rotations.copy()
    rotations[1, 3] = np.nan
    np.savez(tmp_path / "nan.npz", rotations=rotations, root=motion.root)
    assert "not finite" in refused(tmp_path / "nan.npz")
    for name in ("wham_output.pkl", "tracks.joblib"):
        (tmp_path / name).write_bytes(pickle.dumps(_Malicious(tmp_path / "pwned")))
        assert "posix.mkdir" in refused(tmp_path / name)
    np.savez(tmp_path / "object.npz", poses=np.array([_Malicious(tmp_path / "pwned")], object))
    assert "nothing of it was run" in refused(tmp_path / "object.npz")
    assert not (tmp_path / "pwned").exists()
    away = replace(motion, root=motion.root + np.array([0, 0, 500], np.float32))
    save_poses(away, tmp_path / "away.npz")
    assert "must be of one world" in refused(tmp_path / "away.npz")
    assert ".doc" in refused(tmp_path / "poses.doc")
    assert "does not exist" in refused(tmp_path / "none.npz")


def test_bad_masks_and_options(source: Path, tmp_path: Path, complains: Complains) -> None:
    new = tmp_path / "new"
    for t in range(FRAMES):
        write_image(tmp_path / "black" / f"{t:05d}.png", np.zeros(SIZE, np.uint8))
    assert "are black" in complains(fit_command(source, new, masks=tmp_path / "black"))
    command = fit_command(source, new)
    assert "no body 'doll'" in complains([*command, "--body", "doll"])
    assert "doll.glb" in complains([*command, "--body", str(tmp_path / "doll.glb")])
    assert "moment 7" in complains([*command, "--states", "7"])
    assert "'sky' is not known" in complains([*command, "--background", "sky"])
    assert "-1 steps" in complains([*command, "--scene-steps", "-1"])


def test_several_views_need_three_dimensions(source: Path, tmp_path: Path, complains: Complains) -> None:
    shutil.copytree(source / "frames", tmp_path / "cam02")
    views = [str(source / "frames"), str(tmp_path / "cam02")]
    said = complains(["fit", *views, "--project", str(tmp_path / "p")])
    assert "2 views" in said and "dynamic-nerf" in said
    assert not (tmp_path / "p").exists()


def test_bad_views_from_elsewhere(project: Path, source: Path, tmp_path: Path, complains: Complains) -> None:
    render = ["render", str(project), "--out", str(tmp_path / "x.mp4")]
    assert "'nowhere.json'" in complains([*render, "--camera", "nowhere.json"])
    assert "poses.npz" in complains([*render, "--camera", str(source / "poses.npz")])
    for frames in ("0", "-3", "100000000"):
        assert f"cannot be {frames} frames" in complains([*render, "--camera", "orbit", f"--frames={frames}"])
    assert "out of range" in complains([*render, "--camera", "orbit", "--height", "5000000"])
    assert "--edit" in complains([*render, "--height", "40"])
    alone = [*render, "--only", "human"]
    assert "go with --camera or --pose" in complains([*alone, "--height", "40"])
    assert "go with --camera or --pose" in complains([*alone, "--frames", "2"])
    assert "no layer 'sky'" in complains([*render, "--only", "sky"])
    assert "scale 1" in complains([*alone, "--scale", "2"])
    views = read_cameras(source / "cameras.json")
    both = {"a": views[0].camera, "b": views[1].camera.resized((24, 20))}
    write_cameras(tmp_path / "both.json", both)
    assert "several sizes" in complains([*render, "--camera", str(tmp_path / "both.json")])
    (tmp_path / "empty.json").write_text('{"cameras": {}}')
    assert "no cameras" in complains([*render, "--camera", str(tmp_path / "empty.json")])
    for name, text in (("way.json", '{"camera_path": []}'), ("wide.json", '{"camera_path": [{"fov": 200}]}')):
        (tmp_path / name).write_text(text)
        assert name in complains([*render, "--camera", str(tmp_path / name)])
    (tmp_path / "broken.bvh").write_text("HIERARCHY\nROOT Hips\n{")
    assert "broken.bvh" in complains([*render, "--pose", str(tmp_path / "broken.bvh")])
    assert not (tmp_path / "x.mp4").exists()


def test_fits_without_a_person_or_a_third_dimension(
    room: Path, flat: Path, source: Path, tmp_path: Path, complains: Complains
) -> None:
    assert "no person" in complains(["render", str(room), "--pose", str(source / "poses.npz")])
    assert "no person" in complains(["export", str(room), "mesh"])
    assert "no layer 'human'" in complains(["render", str(room), "--only", "human"])
    for more in (["render", str(flat), "--camera", "orbit"], ["export", str(flat), "mesh"]):
        assert "no third dimension" in complains(more)
    assert "no third dimension" in complains(["render", str(flat), "--pose", str(source / "poses.npz")])
    assert "no third dimension" in complains(["export", str(flat), "depth", "--out", str(tmp_path / "d")])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["depth", "atlas.uv", "world.human.codes", "world.background.grid.table"])
def test_a_fit_that_lost_an_array(name: str, project: Path, tmp_path: Path, complains: Complains) -> None:
    shutil.copytree(project, tmp_path / "p")
    file = tmp_path / "p" / "fits" / "dynamic-nerf" / "attached.safetensors"
    arrays = {key: np.array(array) for key, array in open_arrays(file).items()}
    write_arrays(file, {key: array for key, array in arrays.items() if key != name})
    for more in (["render", "--camera", "orbit"], ["render", "--only", "human"], ["export", "mesh"], ["eval"]):
        said = complains([more[0], str(tmp_path / "p"), *more[1:]])
        assert f"{tmp_path}/p/fits/dynamic-nerf' is damaged: '{name}' should be " in said and "fit again" in said


def test_bad_exports(project: Path, tmp_path: Path, complains: Complains) -> None:
    export = ["export", str(project)]
    assert "give a .glb or a .ply" in complains([*export, "mesh", "--out", str(tmp_path / "x.obj")])
    assert "is no folder" in complains([*export, "depth", "--out", str(tmp_path / "x.exr")])
    assert "no layer 'sky'" in complains([*export, "opacity", "--layer", "sky"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").write_bytes(b"dear")
    assert main([*export, "depth", "--out", str(tmp_path / "mine")]) == DONE
    assert (tmp_path / "mine" / "holiday.jpg").read_bytes() == b"dear"
    assert not (tmp_path / "x.obj").exists()


def test_the_motion_that_was_given_is_the_one_in_the_clip(project: Path, source: Path) -> None:
    kept = spatial(Project.open(project).fit()).clip.poses
    assert kept is not None
    given = read_poses(source / "poses.npz")
    assert np.array_equal(kept.rotations, given.rotations) and np.array_equal(kept.root, given.root)


# --- the page in docs/ ---


def examples() -> list[str]:
    """The pieces of Python on the page, in order."""
    page = (Path(__file__).parents[2] / "docs" / "dynamic-nerf.md").read_text()
    return [textwrap.dedent(part) for part in re.findall(r"^ *```python\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)]


def test_the_page_brings_poses_of_an_estimator_to_the_world_of_the_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A world of which a person is 3.4 units tall, and an estimator that takes everybody to be of 1.7 metres."""
    import pickle

    scene = HumanScene(HumanSceneConfig(frames=7, body_height=3.4, distance=6, orbit=50, motion="wave"))
    motion, cameras = scene.motion(), [scene.camera(t) for t in range(len(scene))]
    write_cameras(tmp_path / "walk" / "clip" / "cameras.json", {f"{t:05d}": one for t, one in enumerate(cameras)})
    turns = np.stack([camera.rotation for camera in cameras])
    rotations = motion.rotations.astype(np.float64)
    rotations[:, 0] = turns @ rotations[:, 0]
    shifts = np.stack([camera.translation for camera in cameras])
    pelvis = (np.einsum("tij,tj->ti", turns, motion.root) + shifts) / 2
    np.savez(tmp_path / "none.npz", rotations=rotations, root=np.zeros((len(scene), 3)))
    beneath = read_poses(tmp_path / "none.npz").root  # SMPL's translation is not of the pelvis
    np.savez(tmp_path / "zero.npz", rotations=rotations, trans=np.zeros((len(scene), 3)))
    beneath = read_poses(tmp_path / "zero.npz").root - beneath
    pose = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(-1, 72)
    own = {"pose": pose, "trans": pelvis - beneath}
    (tmp_path / "wham_output.pkl").write_bytes(pickle.dumps({0: own}))
    monkeypatch.chdir(tmp_path)
    exec(examples()[0], {})
    assert np.abs(read_poses("poses.npz").joints - motion.joints).max() < 1e-3


def test_the_python_of_the_page_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project, tmp_path / "walk")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(examples()[1], found)
    assert np.allclose(found["rays"].rgb.detach().numpy(), found["picture"], atol=1e-5)
    assert found["places"].shape == (*SIZE, 3) and found["density"] >= 0 and found["colour"].requires_grad
    assert len(list(read_frames(tmp_path / "around.mp4"))) == 12
