"""Stores near and far, tasks as text and in order, and the engine that runs them as jobs of Slurm."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from trivial_tasks import HELPERS, TRIVIAL, executions, run, task

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Resources, Task
from canon.experiments.frontier import Frontier
from canon.experiments.mirror import Mirror
from canon.experiments.slurm_engine import SlurmEngine
from canon.experiments.store import FAILED, Store
from canon.experiments.worker import outcome_from_json, outcome_to_json, task_from_json, task_to_json

# --- stores ---


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = secrets.token_hex(4)
    return f"file://{tmp_path}/remote-{name}" if request.param == "file" else f"memory://{name}/experiment"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def transfers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What mirrors bring and send from now on."""
    seen: list[tuple[str, str]] = []
    for way, method in (("down", "_download"), ("up", "_upload")):
        plain = getattr(Mirror, method)

        def noted(self: Mirror, *given: Any, way: str = way, plain: Any = plain) -> Any:
            seen.append((way, given[-1]))
            return plain(self, *given)

        monkeypatch.setattr(Mirror, method, noted)
    return seen


def test_remote_store_brings_what_another_machine_published(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Store.open(url, tmp_path / "one"), Store.open(url + "/", tmp_path / "other")
    assert one.url == other.url == url and one.local != other.local and one.remote
    for name in ("fit.yaml", "canonical/a.png", "masks/front/00000.png"):
        write(one.path(f"projects/p/fits/atlas/{name}"), name)
    write(one.path("projects/p/fits/atlas/.partial-x/fit.yaml"), "half")
    write(one.path("projects/p/fits/atlas-2/fit.yaml"), "another")
    one.publish("projects/p/fits/atlas")
    got = other.fetch("projects/p/fits/atlas")
    assert contents(got) == {name: name for name in ("fit.yaml", "canonical/a.png", "masks/front/00000.png")}
    assert not other.path("projects/p/fits/atlas-2").exists()

    seen = transfers(monkeypatch)
    other.fetch("projects/p/fits/atlas")
    one.publish("projects/p/fits/atlas")
    assert seen == []  # nothing changed, nothing travels
    write(one.path("projects/p/fits/atlas/canonical/a.png"), "painted")
    one.path("projects/p/fits/atlas/masks/front/00000.png").unlink()
    one.publish("projects/p/fits/atlas")
    write(got / "note.txt", "of this machine")
    other.fetch("projects/p/fits/atlas")
    changed = "projects/p/fits/atlas/canonical/a.png"
    assert seen == [("up", changed), ("down", changed)]
    assert contents(got) == {"fit.yaml": "fit.yaml", "canonical/a.png": "painted", "note.txt": "of this machine"}
    got.joinpath("fit.yaml").unlink()
    assert other.fetch("projects/p/fits/atlas/fit.yaml").read_text() == "fit.yaml"  # a single file, lost here


def test_remote_records_cost_one_listing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Store.open(url, tmp_path / "one"), Store.open(url, tmp_path / "other")
    assert one.records() == {} and one.record("a") is None
    for index in range(20):
        one.write_record(f"k{index}", {"n": index})
    one.write_record("bad", {"error": "no"}, FAILED)
    assert other.record("k7") == {"n": 7}
    assert other.records() == {f"k{index}": {"n": index} for index in range(20)}
    assert other.records(FAILED) == {"bad": {"error": "no"}}
    seen = transfers(monkeypatch)
    listings: list[str] = []
    listing = Mirror._listing
    monkeypatch.setattr(Mirror, "_listing", lambda self, name: (listings.append(name), listing(self, name))[1])
    one.write_record("bad", {"n": 20})
    assert other.records()["bad"] == {"n": 20} and other.records(FAILED) == {}
    assert listings == ["done", "failed"] and [way for way, _ in seen] == ["up", "down"]


def test_local_records_skip_damaged_ones(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    assert store.records() == {}
    store.write_record("a", {"n": 1})
    write(store.path("done/b.json"), '{"n": ')
    write(store.path("done/.partial-1.json"), "{}")
    assert store.records() == {"a": {"n": 1}} and store.record("b") is None
    store.write_record("a", {"error": "x"}, FAILED)
    store.write_record("a", {"n": 2})
    assert store.records(FAILED) == {} and store.record("a") == {"n": 2}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_names_stay_in_the_store(url: str, tmp_path: Path, name: str) -> None:
    for store in (Store.open(tmp_path / "near"), Store.open(url, tmp_path / "scratch")):
        for use in (store.path, store.fetch, store.publish):
            with pytest.raises(InputError, match="not allowed"):
                use(name)
    with pytest.raises(InputError, match="no key"):
        store.write_record("../x", {})


def test_what_was_not_made_cannot_be_published(url: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Store.open(url, tmp_path / "scratch").publish("nothing")


def test_a_failed_transfer_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    url = f"file://{tmp_path}/remote"
    one = Store.open(url, tmp_path / "one")
    write(one.path("a/x.txt"), "whole")

    def torn(self: Any, source: str, target: str, **options: Any) -> None:
        Path(target).write_text("wh")
        raise OSError("the line was cut")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", torn)
        with pytest.raises(InputError, match=r"cannot be reached .*line was cut"):
            one.publish("a")
    other = Store.open(url, tmp_path / "other")
    assert contents(other.fetch("a")) == {}
    one.publish("a")
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "get_file", torn)
        with pytest.raises(InputError, match="cannot be reached"):
            other.fetch("a")
    assert contents(other.path("a")) == {}
    assert contents(other.fetch("a")) == {"x.txt": "whole"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense://bucket/x", "no address of a store"),
        ("gopher3://x", "no address of a store"),
        ("file:///proc/canon-store", "cannot be reached"),
    ],
)
def test_a_store_out_of_reach_is_one_sentence(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Store.open(url, tmp_path / "scratch").write_record("a", {"n": 1})
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_whose_package_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match="s3fs"):
        Store.open("s3://bucket/x", tmp_path)


def test_many_threads_fetch_the_same(url: str, tmp_path: Path) -> None:
    one = Store.open(url, tmp_path / "one")
    big = "x" * 300_000
    for index in range(6):
        write(one.path(f"a/{index}.txt"), big)
    one.publish("a")
    faults: list[BaseException] = []

    def fetch() -> None:
        try:
            folder = Store.open(url, tmp_path / "other").fetch("a")
            assert contents(folder) == {f"{index}.txt": big for index in range(6)}
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_default_scratch_folders_differ_by_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANON_SCRATCH", str(tmp_path))
    one, other = Store.open("memory://x/one"), Store.open("memory://x/other")
    assert one.local != other.local and one.local.is_relative_to(tmp_path)
    assert Store.open("memory://x/one").local == one.local


# --- tasks as text, and their order ---


def test_tasks_and_outcomes_survive_as_text() -> None:
    one = Task("k", "fit", "fit ü", {"a": [1, 2.5, None, "x"]}, ("n",), Resources(3, 0.5, 7), 1.5, "sd")
    assert task_from_json(task_to_json(one)) == one
    outcome = Outcome("k", "bad", {"psnr": 31.25, "notes": "x"}, ("a/b",), 1.5, 20.0, 3, "m:1", True, "Trace\nback")
    assert outcome_from_json(outcome_to_json(outcome)) == outcome


def test_frontier_gives_tasks_after_what_they_need() -> None:
    a, b, c, d = task("a"), task("b", "a", "gone"), task("c", "a", "b"), task("d")
    frontier = Frontier([a, b, c, d])
    assert frontier.take_ready() == [a, d] and frontier.take_ready() == []
    assert frontier.end(a, Outcome("a")) == [(a, Outcome("a"))]
    assert frontier.take_ready() == [b]
    ended = frontier.end(b, Outcome("b", "bad"))
    assert [(each.key, came.ok) for each, came in ended] == [("b", False), ("c", False)]
    assert "'task b' failed" in str(ended[1][1].error)
    assert frontier.unfinished
    frontier.end(d, Outcome("d"))
    assert not frontier.unfinished and frontier.take_ready() == []


def test_frontier_ends_each_dependent_once() -> None:
    a, b, c, d = task("a"), task("b", "a"), task("c", "a"), task("d", "b", "c")
    frontier = Frontier([a, b, c, d])
    frontier.take_ready()
    assert sorted(each.key for each, _ in frontier.end(a, Outcome("a", "bad"))) == ["a", "b", "c", "d"]
    assert not frontier.unfinished


# --- jobs ---


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One whose jobs find the trivial tasks."""
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    return Store.open(tmp_path / "store")


def test_no_slurm_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="no Slurm on this machine"):
        SlurmEngine()
    with pytest.raises(InputError, match="no cluster 'kubernetes'"):
        SlurmEngine(cluster="kubernetes")
    with pytest.raises(InputError, match="no tasks of kind 'fits'"):
        SlurmEngine(cluster="local", kinds=("fits",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"canon-video\[slurm\]"):
        SlurmEngine(cluster="local")


@pytest.mark.slow
def test_jobs_run_what_is_costly_and_the_rest_runs_here(store: Store) -> None:
    tasks = [
        task("fit", kind="fit", die=1),
        task("bad", kind="fit", bad="No such clip."),
        task("edit", "fit", fault=1),
        task("edit-bad", "bad"),
        task("refit", "edit", kind="fit"),
    ]
    ended = run(SlurmEngine(cluster="local", workers=2, execute=TRIVIAL), tasks, store)
    assert {key: outcome.attempts for key, outcome in ended.items() if outcome.ok} == {"fit": 2, "edit": 2, "refit": 1}
    assert ended["bad"].error == "No such clip." and not ended["edit-bad"].ok
    processes = {key: worker for key, worker, _ in executions(store)}
    assert processes["edit"] == str(os.getpid()) and str(os.getpid()) not in (processes["fit"], processes["refit"])


@pytest.mark.slow
def test_jobs_that_vanish_are_told_with_their_logs(store: Store) -> None:
    ended = run(SlurmEngine(cluster="local", retries=0, execute=TRIVIAL), [task("a", kind="fit", die=9)], store)
    assert "ended before it was done" in str(ended["a"].error) and ended["a"].fault
    log = Path(str(ended["a"].error).split("'")[-2])
    assert log.is_file()


@pytest.mark.slow
def test_interrupted_jobs_are_cancelled(store: Store) -> None:
    engine = SlurmEngine(cluster="local", workers=1, execute=TRIVIAL)
    with pytest.raises(KeyboardInterrupt):
        engine.run([task("long", kind="fit", sleep=50)], store, _interrupt_when(store.path("log.txt")), lambda *_: None)
    pid = int(executions(store)[0][1])
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "canon.experiments.worker" in Path(f"/proc/{pid}/cmdline").read_text():
        assert time.monotonic() < until, "the job goes on"
        time.sleep(0.1)


def _interrupt_when(path: Path) -> Any:
    """Press Ctrl-C when a file appears."""

    def press() -> None:
        while not path.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def begun(task: Task, worker: str) -> None:
        threading.Thread(target=press, daemon=True).start()

    return begun
