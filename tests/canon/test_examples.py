"""What lies in ``examples/``: experiments are valid and ask for what they say, scripts run."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import canon
from canon.cli import DONE, main
from canon.experiments.running import load_experiment
from canon.storage import read_image

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPERIMENTS = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
SMALL = {"WIDTH": 96, "HEIGHT": 54, "FRAMES": 4, "STEPS": 2}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """What runs a script of the examples, made small, and returns the folder that it ran in."""

    def run(name: str) -> Path:
        text = (EXAMPLES / name).read_text()
        text = re.sub(r"^([A-Z, ]+) = ([\d, ]+)$", _small, text, flags=re.MULTILINE)
        text = re.sub(
            r"^PROMPTS, STRENGTHS, SEEDS = .*", 'PROMPTS, STRENGTHS, SEEDS = ["gold"], [0.9], [0]', text, flags=re.M
        )
        text = re.sub(r"width=\d+, height=\d+, frames=\d+", "width=96, height=54, frames=4", text)
        (tmp_path / name).write_text(text)
        runpy.run_path(str(tmp_path / name), run_name="__main__")
        return tmp_path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script"])
    return run


def _small(line: re.Match[str]) -> str:
    names = [name.strip() for name in line[1].split(",")]
    return f"{line[1]} = {', '.join(str(SMALL[name]) for name in names)}" if set(names) <= set(SMALL) else line[0]


@pytest.fixture
def clips(script: Callable[[str], Path]) -> Path:
    """The clips of ``make_clips.py``, small, with a copy of the experiments beside them."""
    folder = script("make_clips.py")
    for name in EXPERIMENTS:
        (folder / name).write_text((EXAMPLES / name).read_text())
    return folder


def test_there_are_three_experiments() -> None:
    assert EXPERIMENTS == ["compare_representations.yaml", "davis_benchmark.yaml", "prompt_sweep.yaml"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_valid_as_it_is(clips: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(clips.rglob("*"))
    assert main(["run", str(clips / name), "--dry-run"]) == DONE
    said = capsys.readouterr().out
    wanted = {"compare_representations.yaml": 20, "davis_benchmark.yaml": 18, "prompt_sweep.yaml": 77}
    assert f"{wanted[name]} rows of results" in said
    assert sorted(clips.rglob("*")) == before, "a dry run writes nothing"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_a_file_says_of_itself_can_be_typed(clips: Path, name: str) -> None:
    """The settings that its comments print."""
    settings = re.findall(r"--set '?([\w.]+)=[^\s']+", (EXAMPLES / name).read_text())
    assert settings
    for setting in settings:
        value = "clips/JPEGImages/480p/pan" if setting.endswith("path") else "canon-mini"
        load_experiment(clips / name, [f"{setting}={value}"])


def test_masks_of_the_layout_are_found(clips: Path) -> None:
    clip = canon.Clip.load(clips / "clips" / "JPEGImages" / "480p" / "bend")
    assert len(clip) == SMALL["FRAMES"] and list(clip.masks) == ["foreground"]


@pytest.mark.slow
def test_an_experiment_runs(clips: Path) -> None:
    only = ["--set", "clips.davis.size=54", "--only", "davis-bend/atlas/warm", "--no-report"]
    assert main(["run", str(clips / "davis_benchmark.yaml"), *only]) == DONE
    rows = (clips / "runs" / "davis_benchmark" / "results.csv").read_text().splitlines()
    assert any(row.startswith("davis_benchmark,davis-bend,atlas,warm,") and ",ok," in row for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("tour_of_a_fit.py", "tour/edited.png"),
        ("paint_from_python.py", "paint-from-python/foreground.png"),
        ("grade_and_remove.py", "grade-and-remove/gone.mp4"),
    ],
)
def test_a_script_runs(script: Callable[[str], Path], name: str, picture: str) -> None:
    path = script(name) / picture
    assert path.stat().st_size > 0
    if path.suffix == ".png":
        assert read_image(path).std() > 10


@pytest.mark.slow
def test_an_experiment_from_python(script: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("diffusers")
    folder = script("experiment_from_python.py")
    assert "0 of 3 rows failed" in capsys.readouterr().out
    assert (folder / "prompts" / "run" / "report.html").is_file()
