"""Experiments: what their YAML means, what is refused and where, what is run, and what is never run again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from truth import small_scene

import canon
from canon.cli import main
from canon.errors import InputError
from canon.experiments import tasks as task_module
from canon.experiments.choices import Experiment
from canon.experiments.contracts import Outcome, Task
from canon.experiments.inprocess import InProcessEngine
from canon.experiments.loading import read_experiment
from canon.experiments.places import Problems, SpecError
from canon.experiments.planning import Plan, make_plan
from canon.experiments.running import Callback, driver_lock, load_experiment, make_engine, open_store
from canon.experiments.store import DONE, FAILED, Store
from canon.project import Project
from canon.storage import write_image

FAST = {"representation": "atlas", "preset": "fast"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tiny clips with masks, and an image."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seed in (("one", 1), ("two", 2)):
        scene = small_scene(width=48, height=32, frames=6, seed=seed)
        for t in range(len(scene)):
            write_image(folder / name / "frames" / f"{t:05d}.png", scene.frame(t))
            front = scene.masks(t, scene.layers[0]) if len(scene.layers) > 1 else np.zeros((32, 48))
            write_image(folder / name / "masks" / f"{t:05d}.png", (np.asarray(front) * 255).astype(np.uint8))
    write_image(folder / "sticker.png", np.full((32, 48, 4), 200, np.uint8))
    return folder


def written(folder: Path, value: Mapping[str, Any] | str, name: str = "e.yaml") -> Path:
    text = value if isinstance(value, str) else yaml.safe_dump(dict(value), sort_keys=False)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def checked(value: Mapping[str, Any]) -> Experiment:
    return load_experiment(value).experiment


def plan_of(value: Mapping[str, Any], out: Path) -> Plan:
    experiment = checked(value)
    return make_plan(experiment, Store.open(out))


def names(experiment: Experiment) -> list[str]:
    """``CLIP/REPRESENTATION/EDITOR/SEED`` of all cells."""
    found = []
    for cell in experiment.cells:
        edit = [] if cell.edit is None else [cell.edit.name, "-" if cell.edit.seed is None else str(cell.edit.seed)]
        found.append("/".join([cell.clip.name, cell.fit.name, *edit]))
    return found


class Counting(Callback):
    """Labels of the tasks that were begun, and outcomes."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.outcomes: dict[str, Outcome] = {}

    def begun(self, task: Task, worker: str) -> None:
        self.labels.append(task.label)

    def ended(self, task: Task, outcome: Outcome) -> None:
        self.outcomes[task.label] = outcome


def basic(clips: Path, **more: Any) -> dict[str, Any]:
    return {"name": "basic", "clips": [str(clips / "one")], "representations": [FAST], **more}


# --- reading ---


def lines_of(error: SpecError) -> list[str]:
    return [re.sub(r"^.*?([\w.-]+:\d+: )", r"\1", sentence) for sentence in error.sentences]


BAD = [
    ("clips: [a\n", ["e.yaml:2: This is not YAML"]),
    (
        "clips: [ONE]\nrepresentations: [atlas]\nname: !!python/object:os.system x\n",
        ["e.yaml:3: 'x' cannot be read as tag:yaml.org"],
    ),
    ("x-a: &a [*a]\nclips: [ONE]\nrepresentations: [atlas]\n", ["e.yaml:1: The value refers to itself"]),
    ("", ["e.yaml:1: The file is empty"]),
    ("- 1\n", ["e.yaml:1: An experiment is a mapping"]),
    ("name: x\nname: y\nclips: [ONE]\nrepresentations: [atlas]\n", ["e.yaml:2: 'name' is given twice"]),
    ("clips: [ONE]\n", ["There are no representations"]),
    ("clips: [ONE]\nrepresentations: [atlas]\neditor: [grade]\n", ["e.yaml:3: .*no key 'editor'.*'editors'"]),
    (
        "clips:\n- ONE\n- nowhere.mp4\nrepresentations:\n- atlass\n- {representation: codef, presett: fast}\n",
        ["e.yaml:3: '.*nowhere.mp4' does not exist", "e.yaml:5: .*'atlas'", "e.yaml:6: .*'presett'.*'preset'"],
    ),
    (
        "clips: [ONE]\nrepresentations:\n- representation: atlas\n  preset: faster\n  steps: 2.5\n  flow: nothere\n",
        ["e.yaml:5: The option 'steps' takes a whole number, not 2.5", "e.yaml:6: The file 'nothere'"],
    ),
    ("clips: [ONE]\nrepresentations:\n- representation: atlas\n  preset: faster\n", ["e.yaml:3: The preset 'faster'"]),
    (
        "clips: [ONE]\nrepresentations: [dynamic-nerf]\n",
        [r"e.yaml:2: 'dynamic-nerf' works in three dimensions and needs cameras, and the clip 'one' \(.*e.yaml:1\)"],
    ),
    (
        "clips:\n- path: [ONE, TWO]\n  name: both\nrepresentations: [atlas]\n",
        ["e.yaml:4: The clip 'both' has 2 views, and 'atlas' cannot"],
    ),
    (
        "clips: [ONE]\nrepresentations: [atlas]\neditors:\n- {editor: grade, hue: red}\n- editor: restyle\n"
        "  seeds: [0, -1]\n- {editor: grade, seeds: [1]}\n- {editor: paint}\n- {editor: paint, image: no.png}\n",
        [
            "e.yaml:4: The option 'hue' takes a number, not 'red'",
            "e.yaml:5: A prompt is needed: say with 'prompt' what",
            "e.yaml:6: seeds takes different whole numbers from 0",
            "e.yaml:7: The editor 'grade' leaves nothing to chance",
            r"e.yaml:8: The item 'paint' \(paint\) needs the option 'image'",
            "e.yaml:9: The file 'no.png' of the option 'image' does not exist",
        ],
    ),
    (
        "clips: [ONE]\nrepresentations: [atlas]\neditors:\n- {name: a, editor: grade}\n- {name: A, editor: grade}\n"
        "- {name: ../x, editor: grade}\n- {name: s, stack: [a, b]}\n",
        [
            "e.yaml:5: The name 'A' is taken by the one in line 4",
            "e.yaml:6: The name '../x'",
            "e.yaml:7: .*'b' to stack",
        ],
    ),
    (
        "clips: [ONE]\nrepresentations: [atlas]\neditors:\n- {editor: grade, sweep: {hues: [1]}}\n"
        "- {editor: remove, sweep: {grow: 3}}\nsweep: {nobody.hue: [1]}\n",
        ["e.yaml:4: .*no option 'hues'.*'hue'", "e.yaml:5: The sweep of 'grow' takes a list", "e.yaml:6: .*of no item"],
    ),
    (
        "clips: [ONE]\nrepresentations: [atlas]\noverrides:\n- {where: {clip: onne}, skip: true}\n"
        "- {where: {representation: atlas}}\n- {where: {clip: one}, set: {max_frame: 3}}\n",
        ["e.yaml:4: 'onne' matches no clip.*'one'", "e.yaml:5: .*changes nothing", "e.yaml:6: .*'max_frames'"],
    ),
    (
        "clips: [ONE]\nrepresentations: [atlas]\nmetrics: {only: [psrn], framwise: true}\nrender: {format: avi}\n"
        "resources: {fit: {cpus: 0}}\neditors: [grade]\nlog: paper\n",
        [
            "e.yaml:3: There is no figure 'psrn'.*'psnr'",
            "e.yaml:3: .*'framwise'.*'framewise'",
            "e.yaml:4: The option 'format' takes one of mp4",
            "e.yaml:5: Resources are at least one cpu",
            "e.yaml:7: There is no tracker 'paper'",
        ],
    ),
    (
        "max_tasks: 10\nclips: [ONE]\nrepresentations: [atlas]\neditors:\n"
        "- {editor: grade, sweep: {hue: [1, 2, 3, 4, 5], contrast: [1, 2, 3]}}\n",
        ["e.yaml:5: The sweeps of 'grade' have 15 points, more than max_tasks"],
    ),
    (
        "max_tasks: 10\nclips: [ONE]\nrepresentations: [atlas]\neditors: [grade, remove, grade]\n",
        [r"e.yaml:1: The experiment has up to 12 tasks \(1 clip x 1 representation x 3 edits\), and max_tasks is 10"],
    ),
    ("clips: [ONE]\nrepresentations: [{representation: atlas, template: t}]\n", ["e.yaml:2: There is no template 't'"]),
    (
        "clips:\n- {path: ONE, masks: gone, max_frames: -3}\n- {path: ONE, name: b, fps: 0}\nrepresentations: [atlas]\n"
        "device: tpu\nrender: {format: avi}\neditors:\n- {name: r, editor: restyle}\n- {name: [x], editor: grade}\n"
        "overrides:\n- {where: {clip: b}, set: {size: 8}}\ntemplates: [a]\nseeds: none\n",
        [
            "e.yaml:2: The file 'gone'",
            "e.yaml:2: max_frames is -3; give at least 1",
            "e.yaml:3: fps is 0; give more than 0",
            "e.yaml:5: There is no device 'tpu'",
            "e.yaml:6: The option 'format' takes one of mp4",
            "e.yaml:8: A prompt is needed",
            r"e.yaml:9: The name '\['x'\]' cannot be",
            "e.yaml:12: templates takes a mapping",
            "e.yaml:13: seeds takes different whole numbers from 0, not 'none'",
        ],
    ),
    (
        "clips: [ONE]\nrepresentations: [{representation: atlas, device: 'cuda:x'}]\neditors:\n"
        "- {editor: grade, hue: .nan}\n- {editor: [grade]}\n- {editor: grade, hue: 3, sweep: {hue: [1, 2]}}\n"
        "- {name: t, editor: grade, sweep: {hue: [1, 2, 1]}}\n- {name: s, stack: [t]}\n- {name: u, stack: [s]}\n"
        "- {editor: restyle, prompt: x, sweep: {steps: [1, 2, 3], strength: [0.1, 0.2]}}\n",
        [
            "e.yaml:2: There is no device 'cuda:x'",
            "e.yaml:4: '.nan' is neither",
            "e.yaml:5: editor takes the name of one editor, not a list",
            "e.yaml:6: The option 'hue' is both given and swept",
            "e.yaml:7: The sweep of 'hue' has 1 twice",
            "e.yaml:9: 's' is a stack, and stacks cannot be stacked",
            "e.yaml:10: 1 steps at strength 0.1 are none; give more steps. The same holds for 5 more variants of it",
        ],
    ),
    ("clips: []\nrepresentations: [atlas]\n", ["e.yaml:1: There are no clips"]),
    (
        "clips: [ONE]\nrepresentations: [atlas]\neditors:\n- {name: s, stack: [gone]}\n",
        ["e.yaml:4: There is no editor item 'gone' to stack; there are no items with an editor"],
    ),
    ("include: [gone.yaml]\nclips: [ONE]\n", ["e.yaml:1: The file '.*gone.yaml' does not exist"]),
]


@pytest.mark.parametrize(("text", "wanted"), BAD, ids=range(len(BAD)))
def test_everything_that_is_wrong_is_told_at_once_with_its_line(
    text: str, wanted: Sequence[str], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text.replace("ONE", str(clips / "one")).replace("TWO", str(clips / "two")))
    assert main(["run", str(path)]) == 2
    told = capsys.readouterr().err.splitlines()
    for sentence in wanted:
        assert any(re.search(f"^{re.escape(str(tmp_path))}/{sentence}", line) or (
            ":" not in sentence[:8] and sentence in line) for line in told), (sentence, told)  # fmt: skip
    assert len(told) == len(wanted), told
    assert not (tmp_path / "runs").exists()


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    begin = time.perf_counter()
    with pytest.raises(SpecError, match="stand for more than 200000 values"):
        load_experiment(written(tmp_path, "\n".join(lines)))
    assert time.perf_counter() - begin < 5
    with pytest.raises(SpecError, match="nested too deeply"):
        load_experiment(written(tmp_path, "clips: " + "[" * 20_000))


def test_a_cycle_of_includes_is_named(tmp_path: Path) -> None:
    written(tmp_path, "include: b.yaml\n", "a.yaml")
    written(tmp_path, "name: x\ninclude: [c.yaml]\n", "b.yaml")
    written(tmp_path, "include: [a.yaml]\n", "c.yaml")
    with pytest.raises(SpecError) as raised:
        load_experiment(tmp_path / "a.yaml")
    (sentence,) = raised.value.sentences
    assert sentence.startswith(f"{tmp_path}/c.yaml:1: ")
    assert "'a.yaml' includes 'b.yaml' includes 'c.yaml' includes 'a.yaml'" in sentence


def test_includes_lie_below_and_paths_start_from_their_own_file(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "one").symlink_to(clips / "one")
    common = "clips: [one]\nseeds: [5]\nmetrics: {framewise: true}\neditors:\n- {name: g, editor: grade, hue: 1}\n"
    written(tmp_path, common, "shared/common.yaml")
    above = {
        "include": "shared/common.yaml",
        "clips": [{"path": str(clips / "two")}],
        "representations": {"quick": "atlas"},
        "editors": [{"name": "g", "contrast": 2.0}, "remove"],
        "metrics": {"source_prompt": "x"},
    }
    found = load_experiment(written(tmp_path, above)).experiment
    assert names(found) == [
        *("one/quick", "one/quick/g/-", "one/quick/remove/-"),
        *("two/quick", "two/quick/g/-", "two/quick/remove/-"),
    ]
    edit = found.cells[1].edit
    assert edit is not None and edit.metrics is not None
    assert edit.tools[0].options == {"hue": 1.0, "contrast": 2.0}
    assert edit.metrics.framewise and edit.metrics.source_prompt == "x"
    # Twice by two ways is once.
    written(tmp_path, "include: shared/common.yaml\n", "other.yaml")
    again = written(tmp_path, {**above, "include": ["other.yaml", "shared/common.yaml"]}, "f.yaml")
    assert names(load_experiment(again).experiment) == names(found)


def test_merges_templates_and_settings(clips: Path, tmp_path: Path) -> None:
    text = f"""
x-base: &base {{editor: grade, hue: 30}}
clips: [{clips / "one"}]
templates:
  soft: {{contrast: 0.5}}
  red: {{template: soft, hue: 1e-3}}
representations: [{{representation: atlas, preset: fast}}]
editors:
- {{<<: *base, name: a}}
- {{<<: *base, name: b, hue: 60}}
- {{editor: grade, name: c, template: red, saturation: 0}}
"""
    path = written(tmp_path, text)
    settings = ["editors.b.hue=90", "representations.atlas.seed=3", "name=other", "editors.c.tint=[1, 0.5, 1]"]
    found = load_experiment(path, settings).experiment
    options = {cell.edit.name: cell.edit.tools[0].options for cell in found.cells if cell.edit is not None}
    assert options == {
        "a": {"hue": 30.0},
        "b": {"hue": 90.0},
        "c": {"contrast": 0.5, "hue": 1e-3, "saturation": 0.0, "tint": [1.0, 0.5, 1.0]},
    }
    assert found.name == "other" and found.cells[0].fit.seed == 3
    for wrong, said in (
        ("editors.z.hue=1", "no item called 'z'"),
        ("only=[", r"^--set only=\[: This is not"),
        ("hue", "KEY=VALUE"),
        ("editors.a.hue=x", "number"),
    ):
        with pytest.raises(SpecError, match=said):
            load_experiment(path, [wrong])


def test_sweeps_seeds_stacks_and_overrides_make_the_cells(clips: Path) -> None:
    found = checked(
        {
            "clips": [{"path": str(clips / "*"), "exclude": "sticker*"}],
            "representations": [{**FAST, "name": "quick"}, {"representation": "codef", "where": {"clip": "one"}}],
            "editors": [
                {"name": "g", "editor": "grade", "sweep": {"hue": [30, 60]}},
                {"name": "gold", "editor": "restyle", "prompt": "gold"},
                {"name": "fixed", "editor": "restyle", "prompt": "gold", "seed": 7},
                {"name": "all", "stack": ["g", "gold"], "where": {"representation": "quick"}},
            ],
            "seeds": [0, 1],
            "sweep": {"gold.strength": [0.3]},
            "overrides": [
                {"where": {"clip": "two", "editor": "g-hue-60"}, "skip": True},
                {"where": {"clip": "two", "editor": "gold"}, "set": {"prompt": "silver"}},
                {"where": {"clip": "two"}, "set": {"max_frames": 3}},
                {"where": {"clip": "one", "representation": "co*"}, "set": {"preset": "fast"}},
            ],
        }
    )
    edits = ["g-hue-30/-", "g-hue-60/-", "gold-strength-0.3/0", "gold-strength-0.3/1", "fixed/7"]
    stacks = [f"all-hue-{hue}-strength-0.3/{seed}" for hue in (30, 60) for seed in (0, 1)]
    two = [name for name in [*edits, *stacks] if "60" not in name]
    assert names(found) == [
        *["one/quick", *(f"one/quick/{name}" for name in [*edits, *stacks])],
        *["one/codef", *(f"one/codef/{name}" for name in edits)],
        *["two/quick", *(f"two/quick/{name}" for name in two)],
    ]
    by_name = dict(zip(names(found), found.cells, strict=True))
    assert by_name["two/quick"].clip.frames == 3 and by_name["one/quick"].clip.frames == 6
    assert by_name["one/codef"].fit.config["preset"] == "fast"
    gold = [by_name[f"{clip}/quick/gold-strength-0.3/1"].edit for clip in ("one", "two")]
    assert [edit.tools[0].options["prompt"] for edit in gold if edit] == ["gold", "silver"]
    stack = by_name["two/quick/all-hue-30-strength-0.3/1"].edit
    assert stack is not None and stack.swept == ("hue", "strength")
    assert [tool.options.get("prompt") for tool in stack.tools] == [None, "silver"]


def test_words_are_no_files_and_files_are_found_beside_the_yaml(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "foreground").mkdir()
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    value = {
        "clips": [str(clips / "one")],
        "representations": ["atlas"],
        "editors": [
            {"editor": "paint", "image": "a.png", "layer": "foreground"},
            {"editor": "videdit", "regions": ["a.png=a bear"], "prompt": "a.png"},
        ],
    }
    found = load_experiment(written(tmp_path, value)).experiment
    paint, videdit = (cell.edit.tools[0].options for cell in found.cells if cell.edit is not None)
    assert paint == {"image": str(tmp_path / "a.png"), "layer": "foreground"}
    assert videdit == {"regions": [f"{tmp_path}/a.png=a bear"], "prompt": "a.png"}


# --- planning ---


def key(plan: Plan, label: str) -> str:
    (found,) = [task.key for task in plan.tasks if task.label == label]
    return found


def test_keys_are_of_what_results_depend_on(clips: Path, tmp_path: Path) -> None:
    image = tmp_path / "art.png"
    write_image(image, np.zeros((8, 12, 3), np.uint8))

    def value(**grade: Any) -> dict[str, Any]:
        paint = {"editor": "paint", "image": str(image)}
        return basic(clips, editors=[{"name": "g", "editor": "grade", **grade}, paint])

    labels = (
        "clip one",
        "fit one / atlas",
        "edit one / atlas / g",
        "render one / atlas / g",
        "measure one / atlas / g",
    )
    art = "edit one / atlas / paint"
    first = plan_of(value(hue=30), tmp_path / "out")
    before = {label: key(first, label) for label in (*labels, art)}
    first.keep(Store.open(tmp_path / "out"))  # with digests, which only hold for files that have not changed since

    def changed(other: Mapping[str, Any]) -> set[str]:
        plan = plan_of(other, tmp_path / "out")
        return {label for label, was in before.items() if key(plan, label) != was}

    assert changed(value(hue=30)) == set()
    assert changed(value(hue=30, contrast=1.0)) == set(), "the default, written out"
    assert changed({**value(hue=30), "resources": {"fit": {"cpus": 1}}, "out": "elsewhere"}) == set()
    assert changed(value(hue=31)) == {*labels[2:]}
    assert changed({**value(hue=30), "metrics": {"colour": "red"}}) == {labels[4]}
    assert changed({**value(hue=30), "render": {"lit": False}}) == {labels[3]}
    assert changed({**value(hue=30), "representations": [{**FAST, "seed": 1}]}) == {*labels[1:], art}
    assert changed({**value(hue=30), "clips": [{"path": str(clips / "one"), "max_frames": 4}]}) == {*labels, art}
    write_image(image, np.ones((8, 12, 3), np.uint8))
    assert changed(value(hue=30)) == {art}
    # The same files elsewhere are the same clip.
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "one").symlink_to(clips / "one")
    assert changed({**value(hue=30), "clips": [str(tmp_path / "moved" / "one")]}) == {art}


def test_equal_work_is_one_task(clips: Path, tmp_path: Path) -> None:
    same = {"editor": "grade", "hue": 30}
    value = basic(clips, editors=[{"name": "a", **same}, {"name": "b", **same}, {"name": "c", "stack": ["a", "b"]}])
    value["clips"] = [{"path": str(clips / "one"), "name": name} for name in ("x", "y")]
    value["seeds"] = [0, 1, 2]
    plan = plan_of(value, tmp_path / "out")
    kinds = Counter(task.kind for task in plan.tasks)
    # One fit, one edit; it is rendered and measured alone and twice over itself; the fit is measured.
    assert kinds == {"clip": 1, "fit": 1, "edit": 1, "render": 2, "measure": 3}
    assert len(plan.cells) == 8
    order = [task.key for task in plan.tasks]
    assert all(order.index(need) < order.index(task.key) for task in plan.tasks for need in task.needs)
    assert all(json.loads(json.dumps(task.arguments)) == task.arguments for task in plan.tasks)


def test_a_dry_run_starts_and_writes_nothing(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "execute", lambda *_: pytest.fail("a task was run"))
    path = written(tmp_path, basic(clips, editors=["grade"]))
    assert main(["run", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "fit one / atlas" in told and "render one / atlas / grade" in told
    assert "1 clip (1 to run), 1 fit (1 to run), 1 edit (1 to run), 1 render (1 to run), 2 measures (2 to run)" in told
    assert "2 rows of results; 6 tasks to run" in told and "plain guesses" in told
    path = written(tmp_path, basic(clips, editors=[{"editor": "restyle", "prompt": "x", "seeds": [0, 1]}, "grade"]))
    for only in ("restyle-s1", "one/atlas/restyle-s1", "*/*/restyle/s1"):
        assert main(["run", str(path), "--dry-run", "--only", only]) == 0
        told = capsys.readouterr().out
        assert "edit one / atlas / restyle-s1" in told and "restyle-s0" not in told and "grade" not in told
        assert "1 clip (1 to run), 1 fit (1 to run), 1 edit (1 to run)" in told and "6 tasks left out" in told
    assert [entry.name for entry in tmp_path.iterdir()] == ["e.yaml"]


def test_an_out_that_is_not_ours_is_refused(clips: Path, tmp_path: Path) -> None:
    experiment = checked(basic(clips))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(SpecError, match=r"holds 'thesis\.tex' and no experiment"):
        open_store(experiment, tmp_path / "full")
    with pytest.raises(SpecError, match="is a file"):
        open_store(experiment, tmp_path / "full" / "thesis.tex")
    store = open_store(experiment, tmp_path / "out")
    with driver_lock(store), pytest.raises(InputError, match="Another canon run is at work"):
        canon.run(basic(clips), out=tmp_path / "out")
    written(tmp_path, {"format": "canon-experiment", "version": 1, "name": "other"}, "out/experiment.yaml")
    with pytest.raises(SpecError, match="holds the experiment 'other', not 'basic'"):
        open_store(experiment, tmp_path / "out")


# --- running ---


@pytest.fixture(scope="module")
def small(clips: Path) -> dict[str, Any]:
    """Two edits on one fit, and one that cannot be made."""
    return basic(
        clips,
        editors=[
            {"name": "g", "editor": "grade", "sweep": {"hue": [30, 60]}, "layer": "foreground"},
            {"name": "bad", "editor": "grade", "layer": "moon", "hue": 1},
            {"name": "pile", "stack": ["g", "bad"]},
        ],
        sweep={},
    )


@pytest.fixture(scope="module")
def done(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Counting]:
    """That experiment, run."""
    out, counting = tmp_path_factory.mktemp("run") / "out", Counting()
    return out, canon.run(small, out=out, report=False, callbacks=[counting]), counting


def test_rows_say_what_came_of_it_and_failures_are_rows(done: tuple[Path, Any, Counting]) -> None:
    out, results, counting = done
    rows = {(row["editor"], row["seed"]): row for row in results.rows}
    assert list(rows) == [(name, None) for name in
                          (None, "g-hue-30", "g-hue-60", "bad", "pile-hue-30", "pile-hue-60")]  # fmt: skip
    alone, edit, bad, pile = (rows[name, None] for name in (None, "g-hue-30", "bad", "pile-hue-30"))
    assert alone["status"] == "ok" and alone["psnr"] > 20 and alone["frames"] == 6 and alone["height"] == 32
    assert edit["status"] == "ok" and edit["editor.hue"] == 30 and edit["swept"] == ["editor.hue"]
    assert edit["psnr"] == alone["psnr"] and edit["changed_outside"] == 0 and 0 < edit["edited_share"] < 1
    assert edit["seconds_edit"] > 0 and edit["peak_mib_fit"] > 50
    assert bad["status"] == "failed" and "moon" in bad["error"] and bad["render"] is None and bad["edits"] == []
    assert pile["status"] == "skipped" and "moon" in pile["error"] and "seconds_edit" not in pile
    store = results.store
    for name in (edit["project"], edit["fit"], *edit["edits"], edit["render"], *edit["canonical"]):
        assert store.fetch(name).exists(), name
    project = Project.open(out / edit["project"])
    assert project.fits == ["atlas"] and len(project.edits) == 2
    # What is there is what the Python interface gives.
    fit = project.fit("atlas")
    mine = canon.render(fit, canon.edit(fit, "grade", layer="foreground", hue=30))
    theirs = canon.render(fit, project.edit(Path(edit["edits"][0]).name))
    assert np.array_equal(mine[3], theirs[3])
    assert edit["psnr"] == pytest.approx(canon.evaluate(fit)["psnr"])
    assert edit["warp_error_inside"] == pytest.approx(canon.evaluate(fit, mine.edits)["warp_error_inside"])
    record = store.record(edit["key_edit"])
    assert record["arguments"]["options"]["hue"] == 30 and record["kind"] == "edit"
    assert store.record(bad["key_edit"], FAILED)["fault"] is False
    assert (out / "results.csv").read_text().count("\n") == 7
    assert results.provenance["spec"]["editors"][0]["name"] == "g"
    assert any(path.endswith("one") for path in results.provenance["inputs"])
    assert counting.outcomes["edit one / atlas / bad"].error == bad["error"]
    assert "render one / atlas / bad" not in counting.labels


def test_what_is_done_is_not_done_again(done: tuple[Path, Any, Counting], small: dict[str, Any]) -> None:
    out, first, _ = done
    again = Counting()
    results = canon.run(small, out=out, report=False, callbacks=[again])
    assert again.labels == ["edit one / atlas / bad"], "only what failed"
    assert results.rows == first.rows
    # A figure of another kind, another edit: only that is run; --only leaves the rest out.
    changed = {**small, "editors": [*small["editors"][:1], {"name": "new", "editor": "grade", "contrast": 2}]}
    again = Counting()
    results = canon.run(changed, out=out, report=False, only="*/*/new", callbacks=[again])
    assert again.labels == [f"{what} one / atlas / new" for what in ("edit", "render", "measure")]
    assert [row["status"] for row in results.rows] == ["ok"] * 4
    with pytest.raises(InputError, match="--only 'x' matches nothing; there are one/atlas"):
        canon.run(small, out=out, only="x")
    # An edit of another hue gets another folder: the first one stays, and is found when it is asked for again.
    other = {**small, "editors": [{"name": "g-hue-30", "editor": "grade", "hue": 99, "layer": "foreground"}]}
    results = canon.run(other, out=out, report=False)
    assert results.rows[1]["edits"] == ["projects/one/edits/g-hue-30-atlas-2"]
    again = Counting()
    assert canon.run(small, out=out, report=False, callbacks=[again]).rows == first.rows
    assert again.labels == ["edit one / atlas / bad"]


def test_outputs_that_are_gone_are_made_again(done: tuple[Path, Any, Counting], small: dict[str, Any]) -> None:
    out, first, _ = done
    row = first.rows[2]
    kept = (out / row["render"]).read_bytes()
    (out / row["render"]).unlink()
    (out / DONE / f"{first.rows[1]['key_measure']}.json").write_text("{broken")
    again = Counting()
    canon.run(small, out=out, report=False, callbacks=[again])
    assert set(again.labels) == {
        *("render one / atlas / g-hue-60", "measure one / atlas / g-hue-30", "edit one / atlas / bad")
    }
    assert (out / row["render"]).read_bytes() == kept


def test_the_estimate_is_of_earlier_runs(
    done: tuple[Path, Any, Counting], small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, _ = done
    more = {**small, "editors": [*small["editors"], {"name": "n", "editor": "grade", "hue": 5}]}
    path = written(tmp_path, more)
    assert main(["run", str(path), "--dry-run", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "earlier runs" in told and "~" in told
    assert "1 fit (0 to run)" in told


def test_a_crash_of_an_editor_is_a_fault_and_the_rest_goes_on(
    clips: Path,
    done: tuple[Path, Any, Counting],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _, _ = done  # with the fit
    whole = task_module._edit

    def breaks(asked: Mapping[str, Any], *rest: Any) -> Any:
        if asked["editor"] == "remove":
            raise ZeroDivisionError("by zero") if asked["options"].get("grow") else MemoryError
        return whole(asked, *rest)

    monkeypatch.setitem(task_module._KINDS, "edit", breaks)
    editors = [{"name": "r", "editor": "remove", "grow": 3}, {"name": "m", "editor": "remove", "grow": 0}, "grade"]
    editors += [{"name": name, "editor": "grade", "layer": "moon"} for name in ("x", "y")]
    path = written(tmp_path, {**basic(clips), "editors": editors, "metrics": False, "render": False})
    command = ["run", str(path), "--no-report", "--out", str(out)]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "FAILED: This is a fault in canon (ZeroDivisionError: by zero)." in told.err
    assert "2 ok, 4 failed of 6 rows" in told.out
    assert re.search(r"failed   one/atlas/x and 1 more: .*moon", told.out)
    assert "failed   one/atlas/m: Not enough memory for 'edit one / atlas / m'" in told.out
    (faulty,) = [r for r in Store.open(out).records(FAILED).values() if r["fault"]]
    assert "in breaks" in faulty["trace"] and faulty["label"] == "edit one / atlas / r"
    monkeypatch.undo()
    assert main(command) == 2


def test_attempts_that_only_the_driver_knows_of_are_noted(
    clips: Path, done: tuple[Path, Any, Counting], small: dict[str, Any]
) -> None:
    class Twice(InProcessEngine):
        """As if every task had been begun twice, and one worker had died for good."""

        def run(self, tasks: Sequence[Task], store: Store, begun: Any, ended: Any) -> None:
            def told(task: Task, outcome: Outcome) -> None:
                if task.kind == "measure":
                    store.remove_record(task.key)
                    outcome = Outcome(task.key, "The process that ran it died.", fault=True)
                ended(task, replace(outcome, attempts=2))

            super().run(tasks, store, begun, told)

    out, _, _ = done
    value = {**small, "editors": [{"name": "twice", "editor": "grade", "hue": 7}]}
    alone, edit = canon.run(value, out=out, engine=Twice(), report=False).rows
    assert alone["attempts"] == 1 and edit["attempts"] == 2 and edit["status"] == "failed"
    store = Store.open(out)
    assert store.record(edit["key_edit"])["attempts"] == 2  # type: ignore[index]
    died = store.record(edit["key_measure"], FAILED)
    assert died is not None and died["attempts"] == 2 and died["label"] == "measure one / atlas / twice"
    # It is there for whoever comes later, too.
    later = canon.run(value, out=out, report=False).rows[1]
    assert later["status"] == "ok" and later["attempts"] == 2


def test_a_report_that_says_the_same_is_not_written_again(
    done: tuple[Path, Any, Counting], small: dict[str, Any]
) -> None:
    out, _, _ = done
    value = {**small, "editors": small["editors"][:1]}
    report = out / "report.html"

    def written_at(**more: Any) -> int:
        canon.run({**value, **more}, out=out)
        return report.stat().st_mtime_ns

    first = written_at()
    assert written_at() == first
    second = written_at(description="of two hues")
    assert second != first and written_at(description="of two hues") == second
    report.unlink()
    assert written_at(description="of two hues") != second


def test_fits_of_one_project_stand_beside_each_other_but_not_beside_canon_fit(clips: Path, tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    fitting = "Another canon is fitting"
    with project.share("a"), project.share("b"), pytest.raises(InputError, match=fitting), project.lock():
        pass
    with project.lock(), pytest.raises(InputError, match=fitting), project.share("a"):
        pass
    with project.lock():
        pass


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_does_nothing_twice(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    editors = [{"name": "g", "editor": "grade", "sweep": {"hue": list(range(6))}}]
    value = basic(clips, editors=editors)
    path, out = written(tmp_path, value), tmp_path / "runs" / "basic"
    counts = {"clip": 1, "fit": 1, "edit": 6, "render": 6, "measure": 7}
    chance, total = random.Random(), sum(counts.values())
    killed = chance.randrange(total // 2)
    stopped = chance.randrange(killed, total - 2)
    print(f"killed after {killed} tasks, stopped after {stopped}")

    # A process that is killed, at the first with luck amidst the fit.
    code = "import sys; from canon.cli import main; main(['run', sys.argv[1], '--no-report'])"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL) as driver:
        while len(list(out.glob("done/[!.]*.json"))) < killed or not out.exists():
            assert driver.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        driver.kill()
    store = Store.open(out)
    first = store.records()
    assert killed <= len(first) < total

    # This process, sent SIGTERM within a task.
    whole, ran = task_module._prepare, list[int]()

    def prepare(cpus: int) -> None:
        ran.append(cpus)
        if len(first) + len(ran) > max(stopped, len(first)):
            os.kill(os.getpid(), signal.SIGTERM)
        whole(cpus)

    with monkeypatch.context() as patch:
        patch.setattr(task_module, "_prepare", prepare)
        assert main(["run", str(path), "--no-report"]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    second = store.records()
    assert len(second) == max(stopped, len(first)), "the task that was stopped is not done"

    again = Counting()
    results = canon.run(path, report=False, callbacks=[again])
    assert [row["status"] for row in results.rows] == ["ok"] * 7
    records = store.records()
    # What was noted stays as it was noted, whoever came after it.
    assert all(records[key] == found for noted in (first, second) for key, found in noted.items())
    assert sorted(again.labels) == sorted(found["label"] for key, found in records.items() if key not in second)
    assert Counter(found["kind"] for found in records.values()) == counts
    assert not list(out.glob("failed/*.json"))
    project = Project.open(out / "projects/one")
    assert len(project.edits) == 6 and project.fits == ["atlas"]


@pytest.mark.slow
def test_a_thousand_edits_take_less_than_a_minute(clips: Path, done: tuple[Path, Any, Counting]) -> None:
    out, _, _ = done  # with the fit
    value = basic(clips, metrics=False, render=False)
    value["editors"] = [{"name": "g", "editor": "grade", "sweep": {"hue": [k / 10 for k in range(1000)]}}]
    begin = time.perf_counter()
    results = canon.run(value, out=out, report=False)
    seconds = time.perf_counter() - begin
    assert Counter(row["status"] for row in results.rows) == {"ok": 1001}
    assert seconds < 60, f"{seconds:.1f} s"
    begin = time.perf_counter()
    plan = plan_of(value, out)
    assert not plan.left and time.perf_counter() - begin < 5


def test_help_needs_no_torch() -> None:
    code = "import sys; from canon.cli import main; main(['run', '--help']); sys.exit('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0 and "--dry-run" in told.stdout


def test_engines_are_chosen_by_name(clips: Path, tmp_path: Path) -> None:
    assert isinstance(make_engine("in-process"), InProcessEngine)
    for options, said in (
        ({"engine": "steam"}, "no engine 'steam'"),
        ({"workers": 3}, "goes with ray or slurm"),
        ({"address": "host:1"}, "that of a Ray cluster|goes with ray"),
    ):
        with pytest.raises(InputError, match=said):
            canon.run(basic(clips), out=tmp_path / "out", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not of the type int"):
        canon.run(5)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_problems_without_a_file_are_called_by_their_keys() -> None:
    with pytest.raises(SpecError) as raised:
        load_experiment({"clips": ["nowhere.mp4"], "representations": [{"representation": "atlas", "steps": "x"}]})
    places = {sentence.split(":")[0] for sentence in raised.value.sentences}
    assert places == {"experiment.clips[0]", "experiment.representations[0].steps"}
    problems = Problems()
    with pytest.raises(SpecError, match="does not exist"):
        read_experiment("nothere.yaml", problems)
