"""How far work is: shares of shares, silence, and every editor that takes time from 0 to 1."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from persons import rough_fit, small_person
from truth import small_scene, true_fit

import canon
from canon.cli import DONE, main
from canon.cli.console import WorkProgress
from canon.edits import Edit, Field, Over, Warp
from canon.errors import InputError
from canon.fits import Fit
from canon.progress import listening, part, parts, report, reporting, shares
from canon.project import Project
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.storage import to_uint8, write_image


class Heard:
    """Notes all that it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.done: list[float] = []
        self.figures: dict[str, float] = {}

    def __call__(self, stage: str, done: float, figures: Mapping[str, float]) -> None:
        if not self.stages or stage != self.stages[-1]:
            self.stages.append(stage)
        self.done.append(done)
        self.figures.update(figures)


# --- shares of shares ---


def test_reports_are_of_the_share_that_is_at_work() -> None:
    heard = Heard()
    with reporting(heard, every=0):
        assert listening()
        report("a", 0.5, {"loss": 2.0})
        with part(0.5, 1.0):
            report("b", 0.5)
            with part(0.5, 1.0):
                report("c", 0.5)
            report("b", 1.0)
        report("a", 2.0)
    assert heard.done == pytest.approx([0.5, 0.75, 0.875, 1, 1, 1])
    assert heard.stages == ["a", "b", "c", "b", "a"] and heard.figures == {"loss": 2.0}
    assert not listening()


def test_rounds_of_a_loop_have_shares() -> None:
    heard = Heard()
    with reporting(heard, every=0):
        first, second = shares(3, 1)
        with first:
            for _ in parts(range(3), "outer"):
                for _ in parts("ab", "inner", weights=(1, 3)):
                    report("within", 0.5)
        with second:
            assert list(parts(iter("xyz"), weights=[1, 1, 1])) == ["x", "y", "z"]
    assert heard.done[:5] == pytest.approx([0.25 / 8, 0.25 / 4, 0.25 * 5 / 8, 0.25, 0.25])
    assert heard.done == sorted(heard.done) and heard.done[-2:] == [1, 1]
    assert 0.75 in heard.done and heard.stages[:5] == ["within", "inner", "within", "inner", "outer"]


def test_a_loop_that_ends_early_and_a_share_of_nothing() -> None:
    heard = Heard()
    with reporting(heard, every=0):
        nothing, all_of_it = shares(0, 5)
        with nothing:
            report("nothing", 1.0)
        with all_of_it:
            for k in parts(range(10), "searching"):
                if k == 1:
                    break
            report("after", 0.5)
        assert list(parts([])) == [] and list(parts([], "empty")) == []
        with shares(0)[0]:
            report("no work", 1.0)
    assert heard.done == pytest.approx([0, 0.1, 0.5, 0.5, 1])


def test_nobody_is_sent_back() -> None:
    heard = Heard()
    with reporting(heard, every=0):
        for done in (0.5, 0.2, -1.0, 0.6):
            report("again", done)
    assert heard.done == [0.5, 0.5, 0.5, 0.6, 1.0]


def test_an_error_ends_no_work_and_leaves_nothing_behind() -> None:
    heard = Heard()
    kept = []
    with pytest.raises(InputError), reporting(heard, every=0):
        for _ in parts(range(4), "failing"):
            raise InputError("It failed.")
    assert heard.done == [] and not listening()
    # A loop that was left is tidied up later; by then it has no say.
    with reporting(heard, every=0):
        left = parts(range(4), "left")
        next(left)
        kept.append(left)
    with reporting(heard, every=0):
        kept.clear()
        report("own", 0.5)
    assert heard.done == [1.0, 0.5, 1.0]


def test_an_inner_listener_has_its_own_work_and_other_threads_have_none() -> None:
    outer, inner = Heard(), Heard()
    with reporting(outer, every=0), part(0, 0.5):
        with reporting(inner, every=0):
            report("inner", 0.5)
        report("outer", 1.0)
        thread = threading.Thread(target=report, args=("elsewhere", 1.0))
        thread.start()
        thread.join()
    assert inner.done == [0.5, 1.0] and outer.done == [0.5, 1.0] and outer.stages == ["outer"]


def test_listeners_are_not_called_too_often() -> None:
    heard = Heard()
    with reporting(heard, every=60):
        for k in range(1000):
            report("busy", k / 1000)
        report("another", 1.0)
    assert heard.done == [0.0, 1.0, 1.0] and heard.stages == ["busy", "another"]


def test_nothing_is_done_where_nobody_listens() -> None:
    items = [1, 2, 3]
    assert type(parts(items)) is type(iter(items)), "as fast as the loop alone"
    assert list(parts(torch.arange(3), "tensor")) == [0, 1, 2]
    report("nobody", 0.5)
    with part(0, 0.5), shares(1, 2)[1]:
        assert not listening()


# --- editors ---


@pytest.fixture(scope="module")
def fit() -> Fit:
    return true_fit(small_scene("occlusion", width=97, height=55, lighting=0.25, frames=4))


@pytest.fixture(scope="module")
def person() -> NerfFit:
    return rough_fit(small_person(frames=2, size=(40, 32), orbit=20.0))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models, and pictures."""
    folder = tmp_path_factory.mktemp("files")
    names = ("stable_diffusion", "controlnet", "flux")
    found = {name: str(getattr(tiny_models, name)(folder / name)) for name in names}
    rng = np.random.default_rng(0)
    write_image(folder / "style.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return {**found, "style": str(folder / "style.png"), "folder": str(folder)}


FAST: dict[str, Any] = {"prompt": "gold", "steps": 4, "guidance": 2.0, "size": 32, "refine": 0.5}
SLOW: dict[str, Any] = {"prompt": "gold", "steps": 6, "views": 1, "size": 32, "view": 32, "frames": 2}
CASES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "restyle": ("restyle", FAST, {"loading", "denoising"}),
    "a whole pipeline": ("restyle", {**FAST, "model": "flux"}, {"loading", "denoising"}),
    "invert": ("invert", {**FAST, "refine": 0.0}, {"loading", "inverting", "denoising"}),
    "stablevideo": (
        "stablevideo",
        {**FAST, "refine": 0.0, "controlnet": "controlnet", "keyframes": 3, "aggregation_steps": 4},
        {"denoising", "aggregating"},
    ),
    "pix2video": ("pix2video", {**FAST, "refine": 0.0}, {"inverting", "denoising", "gathering"}),
    "swap": (
        "swap",
        {**FAST, "refine": 0.0, "keyframes": 3, "concept_images": ("style",), "concept_steps": 5},
        {"learning the subject", "inverting", "denoising", "gathering"},
    ),
    "distill": ("distill", SLOW, {"loading", "optimising"}),
    "text2live": ("text2live", {**SLOW, "width": 4}, {"loading", "optimising"}),
    "stylize": (
        "stylize",
        {"image": "style", "steps": 6, "views": 1, "size": 64, "view": 32, "frames": 2},
        {"optimising"},
    ),
    "exemplar": ("exemplar", {"image": "style"}, {"matching patches"}),
}


def listened(fit: Fit, editor: str, **options: Any) -> tuple[Heard, Edit]:
    heard = Heard()
    with reporting(heard, every=0):
        edit = canon.edit(fit, editor, **options)
    return heard, edit


def assert_goes_from_0_to_1(heard: Heard, least: int) -> None:
    steps = np.array(heard.done)
    assert (np.diff(steps) >= 0).all() and steps[-1] == 1 and 0 <= steps[0] < 0.35
    assert len(np.unique(steps)) >= least
    assert np.diff(np.unique(steps)).max() < 0.5, "nothing is skipped over"


def arrays(edit: Edit) -> Iterator[np.ndarray]:
    for step in edit.steps:
        operation = step.operation
        if isinstance(operation, Over):
            yield operation.rgba
        elif isinstance(operation, Field):
            yield from operation.weights.values()
        elif isinstance(operation, Warp):
            yield operation.grid


@pytest.mark.parametrize("name", CASES)
def test_an_edit_goes_from_0_to_1(name: str, fit: Fit, files: dict[str, str]) -> None:
    editor, options, stages = CASES[name]
    named = {"model", "controlnet", "image", "concept_images"}
    own = {"model": "stable_diffusion"} if "prompt" in options else {}
    own = {
        key: (tuple(files[one] for one in value) if isinstance(value, tuple) else files[value])
        if key in named
        else value
        for key, value in {**own, **options}.items()
    }
    if editor == "swap":
        own["cache"] = files["folder"]
    heard, _ = listened(fit, editor, layer="foreground", **own)
    assert stages <= set(heard.stages)
    assert_goes_from_0_to_1(heard, 4)


def test_listening_changes_nothing(fit: Fit, files: dict[str, str]) -> None:
    for editor, options in (("restyle", {**FAST, "refine": 0.0}), ("distill", SLOW)):
        own = {**options, "model": files["stable_diffusion"], "layer": "foreground"}
        heard, edit = listened(fit, editor, **own)
        for a, b in zip(arrays(edit), arrays(canon.edit(fit, editor, **own)), strict=True):
            assert np.array_equal(a, b)
    assert "loss" in heard.figures


def test_several_layers_have_shares(fit: Fit, files: dict[str, str]) -> None:
    layers: dict[str, dict[str, Any]] = {"occluder": {}, "foreground": {}}
    heard, _ = listened(fit, "restyle", layers=layers, **{**FAST, "refine": 0.0, "model": files["stable_diffusion"]})
    assert heard.stages.count("loading") == 2
    assert_goes_from_0_to_1(heard, 7)
    assert 0.5 in heard.done


def test_shapes(fit: Fit) -> None:
    uv, weight = fit.coordinates(0, "foreground")
    y, x = np.argwhere(weight > 0.99)[len(np.argwhere(weight > 0.99)) // 2]
    move = (float(x), float(y), x + 3.0, y + 2.0)
    heard, _ = listened(fit, "drag", layer="foreground", move=move)
    assert "shaping" in heard.stages and heard.done == sorted(heard.done) and heard.done[-1] == 1
    assert uv.shape[-1] == 2


def test_a_person(person: NerfFit, tmp_path: Path) -> None:
    write_image(tmp_path / "reference.png", to_uint8(np.asarray(person.clip.frames[1]) / np.float32(255)))
    options: dict[str, Any] = {"reference": str(tmp_path / "reference.png"), "frame": 1, "steps": 5, "device": "cpu"}
    heard, _ = listened(person, "dynvideo-e", **options)
    assert "optimising" in heard.stages
    assert_goes_from_0_to_1(heard, 5)
    own = {**options, "prompt": "red person", "personalise": 4, "view": 16, "views": 1, "pool": 2}
    heard, _ = listened(person, "dynvideo-e", **own)
    assert heard.stages.index("learning the subject") < heard.stages.index("optimising")
    assert_goes_from_0_to_1(heard, 8)


def test_frames_of_a_field_that_are_edited_in_turn(person: NerfFit) -> None:
    options: dict[str, Any] = {"updates": 2, "update_every": 3, "steps": 3, "device": "cpu", "size": 32}
    heard, _ = listened(person, "instruct", prompt="turn it into blue", **options)
    assert {"loading", "optimising", "denoising"} <= set(heard.stages)
    assert_goes_from_0_to_1(heard, 6)


def test_editors_that_take_no_time_end_at_once(fit: Fit) -> None:
    heard, _ = listened(fit, "grade", layer="foreground", hue=90.0)
    assert heard.done == [1.0]


# --- videos, and the command line ---


def test_a_video_goes_frame_by_frame(fit: Fit, tmp_path: Path) -> None:
    heard = Heard()
    with reporting(heard, every=0):
        assert canon.render(fit, canon.edit(fit, "grade", hue=90.0)).save(tmp_path / "a.mp4") == len(fit)
    assert heard.stages == ["rendering"]
    assert heard.done == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_the_command_line_is_silent_where_nobody_looks(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str]
) -> None:
    project = Project.create(tmp_path / "p")
    fit.save(project.fit_folder("truth"))
    own = ["--model", files["stable_diffusion"], "--prompt", "gold", "--steps", "2", "--size", "32"]
    assert main(["edit", str(project.folder), "--editor", "restyle", "--name", "a", "--seed", "1", *own]) == DONE
    assert main(["render", str(project.folder), "--edit", "a"]) == DONE
    said = capsys.readouterr()
    assert "edit 'a' of" in said.out and [line for line in said.err.splitlines() if "encoding" not in line] == []


def test_the_bar_of_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkProgress("first", lines=True) as bar:
        for stage in ("a", "a", "b"):
            bar(stage, 0.5, {})
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["a", "b"]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with WorkProgress("first", lines=False) as bar, reporting(bar, every=0):
        report("halfway there", 0.5, {"loss": 0.25})
        bar._bar.refresh()
    said = capsys.readouterr().err
    assert "halfway there" in said and "50 %" in said and "loss 0.25" in said
