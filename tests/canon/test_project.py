"""The project folder: what is ours and what is not, names, one clip and many fits, masks to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from truth import small_scene, true_fit

import canon
from canon.clip import Clip
from canon.errors import InputError
from canon.fits import Fit
from canon.project import PROJECT_FILE, Project
from canon.project_fit import OVERVIEW, save_masks
from canon.storage import read_image, to_uint8, write_image


@pytest.fixture(scope="module")
def truth() -> Fit:
    return true_fit(small_scene("occlusion", frames=3))


@pytest.fixture
def project(tmp_path: Path, truth: Fit) -> Project:
    made = Project.create(tmp_path / "project")
    made.adopt(truth.clip)
    truth.save(made.fit_folder("truth"))
    return made


def test_create_and_open(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "new" / "deep"):
        assert Project.create(folder).folder == folder
        assert Project.open(folder).fits == Project.create(folder).edits == []
    with pytest.raises(InputError, match="no fit yet; make one with 'canon fit"):
        Project.open(empty).fit()


def test_what_is_not_ours_stays_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(InputError, match="not empty and not a canon project"):
        Project.create(folder)
    with pytest.raises(InputError, match="not a canon project"):
        Project.open(folder)
    with pytest.raises(InputError, match="does not exist"):
        Project.open(tmp_path / "nowhere")
    for opened in (Project.open, Project.create):
        with pytest.raises(InputError, match="is a file"):
            opened(folder / "holiday.jpg")
    assert [path.name for path in folder.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    "text", ["format: other\nversion: 1\n", "[1, 2", "- a\n", "format: canon-project\nversion: 9\n"]
)
def test_a_damaged_or_foreign_marker(tmp_path: Path, text: str) -> None:
    (tmp_path / PROJECT_FILE).write_text(text)
    for opened in (Project.open, Project.create):
        with pytest.raises(InputError, match=r"project|mapping|Cannot read"):
            opened(tmp_path)
    assert (tmp_path / PROJECT_FILE).read_text() == text


@pytest.mark.parametrize("name", ["", "..", "../up", "/etc", "a/b", ".hidden", "-x", "a\nb"])
def test_names_stay_inside(project: Project, name: str) -> None:
    for folder in (project.fit_folder, project.edit_folder):
        with pytest.raises(InputError, match="cannot be a folder's"):
            folder(name)


def test_names_do_not_follow_links_out(project: Project, tmp_path: Path) -> None:
    (project.folder / "fits" / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match="not allowed"):
        project.fit_folder("out")


def test_the_fit_made_last_is_the_default(project: Project, truth: Fit) -> None:
    truth.save(project.fit_folder("a-second"))
    assert project.fits == ["truth", "a-second"] and project.fit_name() == "a-second"
    assert project.fit("truth").id == truth.id
    with pytest.raises(InputError, match="no fit called 'third'; it has truth, a-second"):
        project.fit("third")


def test_edits_find_their_fit(project: Project, truth: Fit) -> None:
    other = Fit(truth.clip, "other", {}, truth.baked, truth.stride, truth.light_stride)
    other.save(project.fit_folder("other"))
    mine, theirs = (canon.edit(fit, "grade", layer="background", hue=40.0) for fit in (truth, other))
    assert project.fit_of([mine]) == "truth" and project.fit_of([theirs]) == "other"
    assert project.fit_of([mine], "other") == "other"
    with pytest.raises(InputError, match="different fits"):
        project.fit_of([mine, theirs])
    mine.fit = "0123"
    with pytest.raises(InputError, match="replaced or removed"):
        project.fit_of([mine])


def test_one_clip_but_other_masks_are_welcome(project: Project, truth: Fit) -> None:
    frames = np.array(truth.clip.frames)
    again = project.adopt(Clip.from_frames(frames, truth.clip.fps))
    assert again.content_hash == truth.clip.content_hash
    mask = np.zeros(frames.shape[:3], np.uint8)
    mask[:, 20:60, 20:60] = 255
    masked = project.adopt(Clip.from_frames(frames, truth.clip.fps, {"foreground": mask}))
    assert np.array_equal(masked.masks["foreground"].values, mask)
    # The frames on disk are the project's own, so a fit of them costs no second copy.
    assert str(masked.frames.filename) == str(project.clip_folder / "frames.npy")  # type: ignore[attr-defined]
    for other in (frames[:2], 255 - frames):
        with pytest.raises(InputError, match=r"another clip .*3 frames of 193x109"):
            project.adopt(Clip.from_frames(other))
    assert Clip.open(project.clip_folder).content_hash == truth.clip.content_hash


def test_one_fitting_at_a_time_and_leftovers_go(project: Project) -> None:
    left = project.folder / "fits" / ".partial-xyz"
    left.mkdir()
    with project.lock():
        assert not left.exists()
        code = (
            "import sys; from canon.project import Project\n"
            "from canon.errors import InputError\n"
            "try:\n    Project(sys.argv[1]).lock().__enter__()\n"
            "except InputError as error:\n    print(error)"
        )
        told = subprocess.run([sys.executable, "-c", code, str(project.folder)], capture_output=True, text=True)
        assert told.stdout.startswith("Another canon is fitting")
    with project.lock():
        pass


def test_masks_can_be_looked_at_given_again_and_are_not_lost(project: Project, truth: Fit) -> None:
    folder = project.fit_folder("truth")
    save_masks(truth, folder)
    assert read_image(folder / OVERVIEW).shape[2] == 3
    png = read_image(folder / "masks" / "foreground" / "00002.png")[..., 0]
    assert np.array_equal(png, to_uint8(truth.coordinates(2, "foreground")[1]))
    # As they lie there, --masks takes them.
    frames = folder.parent / "frames"
    for t in range(3):
        write_image(frames / f"{t:05d}.png", truth.clip.frames[t])
    clip = Clip.load(frames, masks=folder / "masks")
    assert set(clip.masks) == {"occluder", "foreground"}
    save_masks(truth, folder)
    assert not (folder / "masks-kept1").exists(), "nobody changed them"
    write_image(folder / "masks" / "foreground" / "00002.png", 255 - png)
    save_masks(truth, folder)
    assert np.array_equal(read_image(folder / "masks-kept1" / "foreground" / "00002.png")[..., 0], 255 - png)
    assert np.array_equal(read_image(folder / "masks" / "foreground" / "00002.png")[..., 0], png)
