"""The command line as a new user meets it: the whole path, what it prints, and every way to give it something bad."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from tiny_models import clip as tiny_clip

import canon
from canon.camera_files import write_cameras
from canon.cameras import Camera, pinhole
from canon.cli import BAD_INPUT, COMMANDS, DONE, FAULT, INTERRUPTED, main
from canon.clip import Clip
from canon.project import Project
from canon.scenes import make
from canon.storage import read_image, write_image
from canon.video import read_frames, write_video

FRAMES = 6
SIZE = (54, 96)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with frames/ and masks/; read only."""
    return make("demo", width=SIZE[1], height=SIZE[0], frames=FRAMES).save(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def video(source: Path) -> Path:
    """The same frames as an mp4."""
    path = source.parent / "clip" / "clip.mp4"
    write_video(path, (read_image(frame) for frame in sorted((source / "frames").iterdir())), 24)
    return path


@pytest.fixture(scope="session")
def fitted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one fit; read only, see ``project``."""
    folder = tmp_path_factory.mktemp("projects") / "fitted"
    assert main(["fit", str(source), "--project", str(folder), "--preset", "fast"]) == DONE
    return folder


@pytest.fixture
def project(fitted: Path, tmp_path: Path) -> Path:
    """A copy of a project with one fit."""
    return Path(shutil.copytree(fitted, tmp_path / "project"))


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file; scratch space is left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {str(path.relative_to(folder)): path for path in files}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in names.items() if not n.startswith(".work/")}


def complains(capsys: pytest.CaptureFixture[str], arguments: list[str], *, after_work: bool = False) -> str:
    """Run a command that has to end with code 2 and one sentence on stderr, which is returned."""
    capsys.readouterr()
    assert main(arguments) == BAD_INPUT
    said = capsys.readouterr()
    return one_sentence(said.err, after_work)


def one_sentence(err: str, after_work: bool = False) -> str:
    """The only line of stderr that is not progress or a note."""
    lines = err.splitlines()
    if after_work:
        lines = [line for line in lines if not re.match(r"\s*\d+\.\d s  \w+$|note: ", line)]
    assert len(lines) == 1 and lines[0].startswith("canon: "), err
    assert lines[0].endswith((".", "?")) and "Traceback" not in err and len(lines[0]) < 400
    return lines[0]


def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "canon.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


# --- the whole path ---


def test_a_new_users_path(
    source: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(video), "--project", "p", "--masks", str(source / "masks"), "--preset", "fast"]) == DONE
    told = capsys.readouterr().out
    assert "fitted: p/fits/atlas" in told and "canvases   foreground" in told
    first = tree(Path("p"))
    assert {"project.yaml", "clip/clip.yaml", "fits/atlas/fit.yaml", "fits/atlas/masks-overview.png"} <= set(first)
    assert f"fits/atlas/masks/foreground/{FRAMES - 1:05d}.png" in first
    assert not (tmp_path / "p" / ".work" / "fit-atlas").exists(), "scratch space is given back"

    # The commands that it proposes work as they are printed, once the image was painted on.
    canonical, edit, render = [line.split("#")[0].split() for line in told.split("next:\n")[1].splitlines()]
    assert main(canonical[1:]) == DONE
    painting = Path(edit[edit.index("--image") + 1])
    image = read_image(painting)
    middle = [n // 2 for n in image.shape[:2]]
    image[middle[0] - 8 : middle[0] + 8, middle[1] - 8 : middle[1] + 8] = [255, 0, 255, 255]
    write_image(painting, image)
    assert main(edit[1:]) == DONE and main(render[1:]) == DONE
    shown = [frame.rgb for frame in read_frames(Path("p/renders/painted.mp4"))]
    source_frames = np.asarray(Clip.open("p/clip").frames)
    assert len(shown) == FRAMES
    for frame, before in zip(shown, source_frames, strict=True):
        pink = (frame[..., 0] > 200) & (frame[..., 1] < 90) & (frame[..., 2] > 200)
        assert 20 < int(pink.sum()) < 300
        assert (
            np.abs(frame.astype(int) - before)[~cv2.dilate(pink.astype(np.uint8), np.ones((9, 9))).astype(bool)].mean()
            < 4
        )
    # A second export leaves the painting alone.
    assert main(canonical[1:]) == DONE
    assert np.array_equal(read_image(painting), image) and painting.with_name("foreground-2.png").exists()
    # Nothing of this changed the fit.
    assert {k: v for k, v in tree(Path("p")).items() if k in first} == first


def test_eval_prints_one_json_object(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", str(project), "--editor", "grade", "--name", "warm", "--hue", "40"]) == DONE
    assert main(["edit", str(project), "--editor", "remove", "--name", "gone", "--layer", "foreground"]) == DONE
    capsys.readouterr()
    assert main(["eval", str(project), "--json"]) == DONE
    figures = json.loads(capsys.readouterr().out)
    assert (
        figures["psnr"] > 28 and figures["iou_foreground"] > 0.9 and figures["seconds"] > 0 and figures["peak_mib"] > 50
    )
    assert main(["eval", str(project), "--edit", "warm", "--edit", "gone", "--json"]) == DONE
    figures = json.loads(capsys.readouterr().out)
    assert figures["changed_outside"] == 0 and figures["edited_share"] > 0.05 and figures["edits"] == ["warm", "gone"]
    assert figures["warp_error_source"] > 0
    assert main(["eval", str(project)]) == DONE
    assert "psnr_unlit" in capsys.readouterr().out


def test_eval_of_an_edit_takes_a_colour_and_a_model(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(project)
    assert main(["edit", place, "--editor", "grade", "--name", "dark", "--exposure", "-16"]) == DONE
    capsys.readouterr()
    model = tiny_clip(tmp_path / "clip")
    assert main(["eval", place, "--edit", "dark", "--colour", "black", "--clip-model", str(model), "--json"]) == DONE
    figures = json.loads(capsys.readouterr().out)
    assert figures["palette_colour"] == "black" and figures["palette_distance"] < figures["palette_distance_source"]
    assert -1 <= figures["frame_consistency_pairs"] <= 1 and "no prompt" in figures["notes"]
    assert {"warp_error_excess_inside", "frame_consistency_consecutive"} <= set(figures)

    edited = ["eval", place, "--edit", "dark"]
    assert "no colour called 'blakc'" in complains(capsys, [*edited, "--colour", "blakc"])
    assert "nowhere' cannot be loaded" in complains(capsys, [*edited, "--clip-model", str(tmp_path / "nowhere")])
    assert "'grade' has no frame-by-frame baseline" in complains(capsys, [*edited, "--framewise"])
    assert "for measuring an edit" in complains(capsys, ["eval", place, "--framewise"])


def test_a_painted_frame_and_a_stack_as_images(project: Path, tmp_path: Path) -> None:
    frame = np.array(Clip.open(project / "clip").frames[2])
    weight = canon.load(project / "fits" / "atlas").coordinates(2, "foreground")[1]
    y, x = np.argwhere(cv2.erode((weight > 0.99).astype(np.uint8), np.ones((9, 9))) > 0)[0]
    frame[y - 3 : y + 4, x - 3 : x + 4] = [0, 255, 0]
    write_image(tmp_path / "f2.png", frame)
    place = str(project)
    paint = ["edit", place, "--editor", "paint", "--name", "dot", "--frame", "2", "--image", str(tmp_path / "f2.png")]
    assert main(paint) == DONE
    assert (
        main(["edit", place, "--editor", "grade", "--name", "grey", "--layer", "background", "--saturation", "0"])
        == DONE
    )
    out = tmp_path / "frames"
    assert main(["render", place, "--edit", "dot", "--edit", "grey", "--out", f"{out}/"]) == DONE
    shown = read_image(out / "00002.png")
    assert np.abs(shown[y - 1 : y + 2, x - 1 : x + 2].astype(int) - [0, 255, 0]).max() < 25
    behind = shown[canon.load(project / "fits" / "atlas").coordinates(2, "background")[1] == 1]
    # Grey keeps the source's residual, whose colour noise is all that is left.
    assert np.ptp(behind.astype(int), axis=1).mean() < 8


def test_a_drag_and_a_reshape_by_options_and_files(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, fit = str(project), canon.load(project / "fits" / "atlas")
    weight = fit.coordinates(2, "foreground")[1]
    depth = cv2.distanceTransform((weight > 0.95).astype(np.uint8), cv2.DIST_L2, 5)
    y, x = (int(v) for v in np.unravel_index(int(depth.argmax()), depth.shape))
    drag = ["edit", place, "--editor", "drag", "--frame", "2", "--name", "pull", "--move"]
    assert main([*drag, str(x), str(y), str(x + 6), str(y)]) == DONE
    frame = np.array(fit.clip.frames[2])
    frame[weight > 0.5] = [200, 30, 180]
    write_image(tmp_path / "f2.png", frame)
    shape = ["edit", place, "--editor", "reshape", "--name", "pink", "--frame", "2", "--image"]
    assert main([*shape, str(tmp_path / "f2.png")]) == DONE
    out = tmp_path / "frames"
    assert main(["render", place, "--edit", "pull", "--edit", "pink", "--out", f"{out}/"]) == DONE
    assert np.abs(read_image(out / "00002.png")[y, x + 3].astype(int) - [200, 30, 180]).max() < 40
    assert "X Y TO_X TO_Y" in complains(capsys, [*drag, "1", "2", "3"])
    assert "does not lie on" in complains(capsys, [*drag, "0", "0", "3", "3", "--layer", "foreground"])
    assert "none.png" in complains(capsys, [*shape, str(tmp_path / "none.png")])


def test_the_same_again_is_found_and_other_options_get_a_new_name(
    source: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(project)
    again = ["fit", str(source), "--project", str(project), "--preset", "fast"]
    assert main(again) == DONE
    assert "already fitted" in capsys.readouterr().out and tree(project) == before
    other = [*again, "--stride", "16"]
    assert "made with other options" in complains(capsys, [*other, "--name", "atlas"])
    assert main(other) == DONE
    assert Project.open(project).fits == ["atlas", "atlas-2"]
    assert {k: v for k, v in tree(project).items() if k in before} == before
    assert main([*other, "--name", "atlas", "--refit"]) == DONE
    assert canon.load(project / "fits" / "atlas").stride == 16
    assert "another clip" in complains(capsys, [*again, "--max-frames", "3"], after_work=True)
    # Other masks of the same video are not another clip.
    assert main([*again, "--masks", str(sorted((source / "masks").iterdir())[0])]) == DONE
    assert Project.open(project).fits[-1] == "atlas-3"
    assert "propagated" in capsys.readouterr().out


def camera() -> Camera:
    return Camera(SIZE, pinhole((90, 90), (47.5, 26.5)), np.eye(3), np.array([0.0, 0.0, 2.0]))


def test_cameras_can_come_later_and_masks_before_the_video(
    source: Path, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cameras(tmp_path / "cameras.json", {"one": camera()})
    before = tree(project)
    arguments = ["fit", "--project", str(project), "--preset", "fast", "--cameras", str(tmp_path / "cameras.json")]
    arguments += ["--masks", str(source / "masks"), str(source / "frames")]
    assert main(arguments) == DONE
    assert "fitted: " in capsys.readouterr().out
    assert {name: digest for name, digest in tree(project).items() if name in before} == before
    fit = Project(project).fit("atlas-2")
    assert fit.clip.cameras is not None and len(fit.clip.cameras) == FRAMES
    assert np.array_equal(fit.clip.cameras[-1].intrinsics, camera().intrinsics)
    assert main(arguments) == DONE and "already fitted" in capsys.readouterr().out


def test_a_single_image_and_a_single_frame(source: Path, tmp_path: Path) -> None:
    image = str(source / "frames" / "00000.png")
    assert main(["fit", image, "--project", str(tmp_path / "one"), "--preset", "fast"]) == DONE
    fit = canon.load(tmp_path / "one" / "fits" / "atlas")
    assert len(fit) == 1 and float(canon.evaluate(fit)["psnr"]) > 35
    assert main(["edit", str(tmp_path / "one"), "--editor", "grade", "--name", "g", "--hue", "90"]) == DONE
    assert main(["render", str(tmp_path / "one"), "--edit", "g"]) == DONE


def test_a_video_cut_short_carries_on(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * 0.96)])
    assert main(["fit", str(tmp_path / "cut.mp4"), "--project", str(tmp_path / "p"), "--preset", "fast"]) == DONE
    assert "note:" in (err := capsys.readouterr().err) and "cut short" in err


# --- help ---


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == DONE
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)
    assert main(["--version"]) == DONE
    assert re.fullmatch(r"canon \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)
    for command in COMMANDS:
        assert main([command, "--help"]) == DONE
        assert f"usage: canon {command}" in capsys.readouterr().out
    assert main(["edit", "--editor", "paint", "--help"]) == DONE
    assert "--overlay" in capsys.readouterr().out
    assert main(["fit", "--help"]) == DONE
    assert "--canvas-scale" in capsys.readouterr().out, "options of the representation are the command's"
    assert main(["edit", "--list"]) == DONE
    listed = re.findall(r"^(\w+)", capsys.readouterr().out, re.M)
    assert listed == sorted(listed) and {"grade", "paint", "remove", "restyle", "stablevideo", "videdit"} <= set(listed)


def test_help_is_quick_and_light() -> None:
    heavy = "{'torch', 'cv2', 'tyro', 'rich', 'numpy'}"
    code = f"import sys, canon.cli; canon.cli.main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    begin = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begin < 3
    assert all(name in told.stdout for name in COMMANDS) and told.stdout.endswith("[]\n")


# --- bad input: one sentence, code 2, nothing lost ---

BAD_FITS: dict[str, tuple[Callable[[Path, Path, Path], list[str]], str]] = {}


def bad_fit(pattern: str) -> Callable[[Callable[[Path, Path, Path], list[str]]], None]:
    """Register a maker of the arguments after ``fit``: given an empty folder, the source folder and the video."""

    def keep(maker: Callable[[Path, Path, Path], list[str]]) -> None:
        BAD_FITS[maker.__name__] = (maker, pattern)

    return keep


@bad_fit("does not exist")
def missing_file(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(tmp / "missing.mp4")]


@bad_fit("empty .0 bytes.")
def empty_video(tmp: Path, source: Path, video: Path) -> list[str]:
    (tmp / "empty.mp4").touch()
    return [str(tmp / "empty.mp4")]


@bad_fit("cannot be read as a video|cut short|no video")
def video_cut_to_its_header(tmp: Path, source: Path, video: Path) -> list[str]:
    (tmp / "cut.mp4").write_bytes(video.read_bytes()[:300])
    return [str(tmp / "cut.mp4")]


@bad_fit("cannot be read as a video|no video")
def not_a_video(tmp: Path, source: Path, video: Path) -> list[str]:
    (tmp / "letter.mp4").write_text("Dear all,\n" * 99)
    return [str(tmp / "letter.mp4")]


@bad_fit("holds no images")
def zero_frames(tmp: Path, source: Path, video: Path) -> list[str]:
    (tmp / "frames").mkdir()
    return [str(tmp / "frames")]


@bad_fit("max_frames is 0")
def zero_frames_asked_for(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--max-frames", "0"]


@bad_fit("do not exist")
def missing_masks(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--masks", str(tmp / "masks")]


def masks(tmp: Path, count: int, size: tuple[int, int], value: int) -> str:
    for t in range(count):
        write_image(tmp / "masks" / f"{t:05d}.png", np.full(size, value, np.uint8))
    return str(tmp / "masks")


@bad_fit("is 30x20 and the frames are 96x54")
def masks_of_another_size(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(source / "frames"), "--masks", masks(tmp, FRAMES, (20, 30), 255)]


@bad_fit(f"{FRAMES + 2} masks for a clip of {FRAMES} frames")
def too_many_masks(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(source / "frames"), "--masks", masks(tmp, FRAMES + 2, SIZE, 255)]


@bad_fit("are black")
def black_masks(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(source / "frames"), "--masks", masks(tmp, FRAMES, SIZE, 0)]


@bad_fit("not damaged|damaged")
def a_damaged_mask(tmp: Path, source: Path, video: Path) -> list[str]:
    folder = Path(masks(tmp, FRAMES, SIZE, 255))
    (folder / "00002.png").write_bytes((folder / "00002.png").read_bytes()[:60])
    return [str(source / "frames"), "--masks", str(folder)]


@bad_fit("needs VIDEO")
def no_video(tmp: Path, source: Path, video: Path) -> list[str]:
    return ["--masks", str(source / "masks")]


@bad_fit("no cameras in")
def missing_cameras(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--cameras", str(tmp / "missing.json")]


@bad_fit(f"2 cameras for {FRAMES} frames: frame 2 is the first of {FRAMES - 2} without one")
def too_few_cameras(tmp: Path, source: Path, video: Path) -> list[str]:
    write_cameras(tmp / "cameras.json", {name: camera() for name in "ab"})
    return [str(video), "--cameras", str(tmp / "cameras.json")]


@bad_fit("2 views, .*several views; use dynamic-nerf")
def several_videos(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(source), str(video)]


@bad_fit("no representation called 'nerfs'")
def an_unknown_representation(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--representation", "nerfs"]


@bad_fit("preset 'slow' is not known; choose one of fast")
def an_unknown_preset(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--preset", "slow"]


@bad_fit("does not know --strid, 4; did you mean --stride")
def an_unknown_option(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--strid", "4"]


@bad_fit("stride.*'four'")
def a_word_for_a_number(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--stride", "four"]


@bad_fit("device 'tpu' cannot be used")
def an_unknown_device(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(source), "--device", "tpu"]


@bad_fit("seed -1 is out of range")
def a_negative_seed(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(source), "--seed", "-1"]


@bad_fit("--box takes 4 values, not 3")
def a_box_of_three_numbers(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--box", "1", "2", "3"]


@bad_fit("cannot be a folder's")
def a_name_that_climbs_out(tmp: Path, source: Path, video: Path) -> list[str]:
    return [str(video), "--name", "../../up"]


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_input_to_fit(
    case: str, source: Path, video: Path, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker, pattern = BAD_FITS[case]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    arguments = maker(inputs, source, video)
    before = tree(project), tree(inputs), tree(source)
    for folder in (tmp_path / "new", project):
        assert re.search(pattern, complains(capsys, ["fit", *arguments, "--project", str(folder)]))
    assert not (tmp_path / "new" / "fits").exists() or not any((tmp_path / "new" / "fits").iterdir())
    assert (tree(project), tree(inputs), tree(source)) == before
    assert not list(project.rglob(".partial-*"))


def test_bad_places_for_a_project(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"dear")
    before = tree(tmp_path)
    fit = ["fit", str(source), "--preset", "fast", "--project"]
    assert "not a canon project" in complains(capsys, [*fit, str(foreign)])
    assert "is a file" in complains(capsys, [*fit, str(foreign / "holiday.jpg")])
    assert "Cannot write" in complains(capsys, [*fit, str(foreign / "holiday.jpg" / "inside")])
    for command in (["canonical"], ["render", "--edit", "a"], ["eval"], ["edit", "--editor", "remove", "--name", "n"]):
        assert "project" in complains(capsys, [command[0], str(foreign), *command[1:]])
        assert "does not exist" in complains(capsys, [command[0], str(tmp_path / "none"), *command[1:]])
    assert "not a canon project" in complains(capsys, ["demo", "--out", str(foreign)])
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert "Cannot write" in complains(capsys, ["fit", str(source), "--project", str(locked / "p")])


def test_bad_edits(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "wide.png", np.zeros((20, 90, 4), np.uint8))
    (tmp_path / "text.png").write_text("hello")
    before = tree(project)
    edit = ["edit", str(project), "--name", "n", "--editor"]
    assert "keep the aspect ratio" in complains(capsys, [*edit, "paint", "--image", str(tmp_path / "wide.png")])
    assert "at its own size" in complains(
        capsys, [*edit, "paint", "--frame", "1", "--image", str(tmp_path / "wide.png")]
    )
    assert "frames 0 to 5" in complains(capsys, [*edit, "paint", "--frame", "9", "--image", str(tmp_path / "wide.png")])
    assert "does not exist" in complains(capsys, [*edit, "paint", "--image", str(tmp_path / "none.png")])
    assert "text.png" in complains(capsys, [*edit, "paint", "--image", str(tmp_path / "text.png")])
    assert "needs --image FILE" in complains(capsys, [*edit, "paint"])
    assert "no layer 'sky'" in complains(capsys, [*edit, "remove", "--layer", "sky"])
    assert "nothing lies behind" in complains(capsys, [*edit, "remove", "--layer", "background"])
    assert "no editor called 'gild'" in complains(capsys, [*edit, "gild"])
    assert "needs --editor; choose one of controlnet, d" in complains(capsys, ["edit", str(project), "--name", "n"])
    assert "no fit called 'x'" in complains(capsys, [*edit, "remove", "--fit", "x"])
    assert "no edit called 'z'" in complains(capsys, ["render", str(project), "--edit", "z"])
    assert "needs --edit" in complains(capsys, ["render", str(project)])
    assert "use .png or .exr" in complains(capsys, ["canonical", str(project), "--out", str(tmp_path / "x.jpg")])
    nowhere = ["canonical", str(project), "--out", "/proc/nowhere/x.png", "--layer", "background"]
    assert "Cannot write '/proc" in complains(capsys, nowhere)
    unmade = tmp_path / "unmade"
    assert "preset 'x' is not known" in complains(capsys, ["demo", "--preset", "x", "--out", str(unmade)])
    assert not unmade.exists()
    assert "no command 'rendr'; did you mean 'render'" in complains(capsys, ["rendr"])
    assert tree(project) == before


def test_bad_places_for_a_video(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", str(project), "--editor", "grade", "--name", "g", "--hue", "9"]) == DONE
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    render = ["render", str(project), "--edit", "g", "--out"]
    for out in ("file/x.mp4", "file/", "x.doc"):
        complains(capsys, [*render, str(tmp_path / out) + ("/" if out.endswith("/") else "")], after_work=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["project.yaml", "clip/clip.yaml", "fits/atlas/fit.yaml", "fits/atlas/maps.safetensors"]
)
def test_a_damaged_project(name: str, source: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (project / name).read_bytes()
    for broken in (b"", data[: len(data) // 2], b"\x80\xff" + data[::-1]):
        (project / name).write_bytes(broken)
        before = tree(project)
        complains(capsys, ["canonical", str(project)])
        complains(capsys, ["eval", str(project), "--json"])
        assert tree(project) == before
    (project / name).unlink()
    complains(capsys, ["canonical", str(project)])


def test_a_fault_of_ours_is_code_1(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(Project, "fit", broken)
    assert main(["canonical", str(project)]) == FAULT
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "fault in canon (ZeroDivisionError" in said and "--debug" in said
    with pytest.raises(ZeroDivisionError):
        main(["canonical", str(project), "--debug"])


# --- full disk, Ctrl-C, kill -9 ---


@pytest.mark.slow
@pytest.mark.parametrize("limit", [40_000, 120_000])
def test_a_full_disk(limit: int, source: Path, project: Path, tmp_path: Path) -> None:
    # Files may not grow beyond the limit: first the frames do not fit, then the maps of the fit.
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    before = tree(project)
    for folder in (tmp_path / "new", project):
        told = run(["fit", str(source), "--project", str(folder), "--preset", "fast", "--refit"], preexec_fn=full)
        assert told.returncode == BAD_INPUT, told.stderr
        assert "No space is left" in one_sentence(told.stderr, after_work=True)
    assert tree(project) == before and not list(tmp_path.rglob(".partial-*"))
    assert main(["fit", str(source), "--project", str(tmp_path / "new"), "--preset", "fast"]) == DONE


def start_fit(source: Path, folder: Path, steps: int) -> subprocess.Popen[str]:
    """A fit in a process of its own, returned when so many steps of the refinement are saved."""
    command = [sys.executable, "-m", "canon.cli", "fit", str(source), "--project", str(folder), "--preset", "balanced"]

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs the tests in the background has it ignored

    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for state in (folder / ".work").glob("*/solve-*/state.safetensors"):
            with safe_open(state, framework="numpy") as file:
                if int(file.metadata()["done"]) >= steps:
                    return process
        time.sleep(0.01)
    raise AssertionError(f"the fit ended before it could be interrupted: {process.communicate()}")


def count_steps(source: Path, folder: Path) -> int:
    """Fit in a process of its own; the number of steps of the refinement that were not done yet."""
    code = (
        "import sys; from canon.project_fit import FitRequest, fit_into\n"
        "told = []; request = FitRequest(sys.argv[1], options={'preset': 'balanced', 'solver': 'default'})\n"
        "fit_into(sys.argv[2], request, lambda stage, done, figures: told.append(figures))\n"
        "print(sum('psnr' in figures for figures in told))"
    )
    command = [sys.executable, "-c", code, str(source), str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


@pytest.fixture(scope="session")
def uninterrupted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A project fitted in one go, in a process of its own as the interrupted ones are, and its number of steps."""
    folder = tmp_path_factory.mktemp("whole") / "project"
    return folder, count_steps(source, folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_goes_on_and_ends_the_same(
    number: signal.Signals, source: Path, uninterrupted: tuple[Path, int], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    process = start_fit(source, folder, 4)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == INTERRUPTED
        assert "run the same command again" in one_sentence(err, after_work=True)
    assert Project.open(folder).fits == []
    whole, steps = uninterrupted
    assert count_steps(source, folder) <= steps - 4, "what was done is not done again"
    maps = "fits/atlas/maps.safetensors"
    assert (folder / maps).read_bytes() == (whole / maps).read_bytes()
    assert not list(folder.rglob(".partial-*")) and not list((folder / ".work").glob("fit-*"))
    assert set(tree(folder)) == set(tree(whole))


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from canon.demo import run_demo

    demo = run_demo(tmp_path / "d", "atlas", lambda *_: None, lambda _: None, "fast", width=160, height=90, frames=8)
    assert read_image(demo.sheet).shape[1] > 700
    assert [path.name for path in demo.renders] == ["emblem.mp4", "emblem+dusk.mp4", "gone.mp4"]
    assert all(len(list(read_frames(path))) == 8 for path in demo.renders)
    figures = demo.figures
    assert figures["sticking error, foreground, median (px)"] < 0.5
    assert figures["painted area against the true edit (dB)"] > 30
    assert figures["largest change outside the edit (levels)"] == 0
    assert main(["eval", str(tmp_path / "d"), "--edit", "emblem", "--json"]) == DONE
