"""Stores near and far, and the engines that run an experiment's tasks on Ray and as jobs."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from canon.errors import InputError
from canon.experiments.contracts import Outcome, Resources, Task
from canon.experiments.frontier import Frontier
from canon.experiments.mirror import Mirror
from canon.experiments.ray_cluster import Size, fit_together, size_of
from canon.experiments.ray_engine import RayEngine, _Actor
from canon.experiments.slurm_engine import SlurmEngine
from canon.experiments.store import FAILED, Store
from canon.experiments.worker import outcome_from_json, outcome_to_json, task_from_json, task_to_json

HELPERS = Path(__file__).parents[1] / "helpers"
TRIVIAL = "trivial_tasks:execute"


def task(key: str, *needs: str, cpus: int = 1, warm: str = "", kind: str = "edit", **arguments: Any) -> Task:
    return Task(key, kind, f"task {key}", arguments, needs, Resources(cpus), warm=warm)


def run(engine: Any, tasks: Sequence[Task], store: Store) -> dict[str, Outcome]:
    ended: dict[str, Outcome] = {}
    begun: list[str] = []

    def end(task: Task, outcome: Outcome) -> None:
        assert task.key == outcome.key and task.key not in ended
        assert threading.current_thread() is threading.main_thread()
        ended[task.key] = outcome

    engine.run(tasks, store, lambda task, worker: begun.append(task.key), end)
    assert set(ended) == {task.key for task in tasks}
    assert all(key in begun for key, outcome in ended.items() if outcome.ok)
    return ended


def executions(store: Store) -> list[list[str]]:
    """[key, process, note] of every execution of a trivial task, in order."""
    return [(line + " ").split(" ")[:3] for line in store.path("log.txt").read_text().splitlines()]


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


# --- Ray ---


def test_workers_fit_on_machines() -> None:
    nodes = [Size(4, 0.0, 1000), Size(8, 2.0, 4000)]
    assert fit_together([Size(4, 0, 0)] * 3, nodes) and not fit_together([Size(4, 0, 0)] * 4, nodes)
    assert not fit_together([Size(3, 0, 0)] * 4, nodes)  # 12 CPUs, but one on the small and two on the large machine
    assert fit_together([Size(1, 0.5, 0)] * 4, nodes) and not fit_together([Size(1, 0.5, 0)] * 5, nodes)
    assert fit_together([*[Size(4, 0, 0)] * 2, Size(4, 1, 0)], nodes)
    assert not fit_together([Size(1, 0, 3000)] * 2, nodes)


def test_what_a_worker_asks_for() -> None:
    nodes = [Size(1, 0.0, 1000), Size(2, 1.0, 1000)]
    assert size_of(Task("k", "edit", "x", {}, resources=Resources(8)), nodes) == Size(2, 0.0, 0)  # fewer cores: slower
    assert size_of(Task("k", "edit", "x", {}, resources=Resources(1, 0.5, 500)), nodes) == Size(1, 0.5, 500)
    for too_much in (Resources(1, 2.0), Resources(1, 0.0, 2000)):
        with pytest.raises(InputError, match="'x' asks for 1 CPU"):
            size_of(Task("k", "edit", "x", {}, resources=too_much), nodes)


def test_a_worker_that_does_not_see_the_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canon.experiments.ray_engine._PROBE_SECONDS", 0.1)
    greeting = {"store": str(tmp_path), "execute": TRIVIAL, "probe": str(tmp_path / "probe"), "gpus": 1}
    assert "does not see the folder" in json.loads(_Actor().greet(json.dumps(greeting)))["error"]
    (tmp_path / "probe").touch()
    assert json.loads(_Actor().greet(json.dumps(greeting)))["name"].endswith(f":{os.getpid()}")


def test_ray_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"canon-video\[ray\]"):
        RayEngine()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:99999"])
def test_no_cluster_at_the_address_is_one_sentence(tmp_path: Path, address: str) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match="Ray cluster"):
        run(RayEngine(address, execute=TRIVIAL), [task("a")], Store.open(tmp_path))
    assert time.monotonic() - begin < 10


@pytest.mark.slow
def test_something_else_at_the_address_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canon.experiments.ray_cluster.ANSWER_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="did not answer within 4 seconds"):
            run(RayEngine(address, execute=TRIVIAL), [task("a")], Store.open(tmp_path))


class Cluster:
    """A Ray cluster of two CPUs, of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.folder = folder
        self._processes = [self._start("--head", "--port", str(self.port), "--include-dashboard=false")]
        self._wait_for(1)

    def _start(self, *options: str, cpus: int = 2, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += ["--num-cpus", str(cpus), "--object-store-memory", "80000000", "--node-ip-address", "127.0.0.1"]
        command += [*options, *(["--temp-dir", str(self.folder)] if "--head" in options else [])]
        log = (self.folder / f"start-{secrets.token_hex(2)}.log").open("wb")
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**cluster_environment(), **environment}, start_new_session=True
        )

    def _wait_for(self, nodes: int) -> None:
        code = (
            f"import ray; ray.init({self.address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
        )
        until = time.monotonic() + 90
        while time.monotonic() < until:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, env=cluster_environment(), timeout=90
            )
            if done.stdout.strip().endswith(str(nodes).encode()):
                return
            time.sleep(0.5)
        logs = [path.read_text() for path in self.folder.glob("start-*.log")]
        raise AssertionError(f"the cluster did not start: {logs}")

    def stop(self) -> None:
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def cluster_environment() -> dict[str, str]:
    return {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # on 127.0.0.1 alone
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(HELPERS),
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))  # short: paths of sockets have at most 107 letters
    before = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("RAY_AUTH_MODE")
        if before is not None:
            os.environ["RAY_AUTH_MODE"] = before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.mark.slow
def test_ray_runs_tasks_in_order_and_retries(cluster: Cluster, store: Store) -> None:
    tasks = [
        task("a", note="first"),
        task("killed", "a", die=2),
        task("faulty", "a", fault=1),
        task("hopeless", "a", fault=9),
        task("bad", "a", bad="The prompt is empty."),
        task("raised", "a", **{"raise": True}),
        task("after-bad", "bad"),
        task("after-after", "after-bad", "killed"),
        task("after-killed", "killed", "faulty", "done-before"),
    ]
    store.write_record("done-before", {})
    ended = run(RayEngine(cluster.address, execute=TRIVIAL), tasks, store)
    assert {key for key, outcome in ended.items() if outcome.ok} == {"a", "killed", "faulty", "after-killed"}
    assert {key: outcome.attempts for key, outcome in ended.items()} == {
        **dict.fromkeys(("a", "bad", "raised", "after-bad", "after-after", "after-killed"), 1),
        "killed": 3,
        "faulty": 2,
        "hopeless": 3,
    }
    assert ended["killed"].figures == {"ran": 3}
    assert ended["bad"].error == "The prompt is empty." and ended["raised"].error == "Raised bad input."
    assert ended["hopeless"].fault and not ended["bad"].fault and not ended["raised"].fault
    assert ended["after-after"].error == "Not run, because 'task bad' failed."
    count = Counter(key for key, _, _ in executions(store))
    assert count["after-bad"] == count["after-after"] == 0 and count["a"] == count["bad"] == 1
    assert not list(store.local.glob(".seen-*"))


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_fails(cluster: Cluster, store: Store) -> None:
    tasks = [task("killer", die=9), task("after", "killer"), task("other")]
    ended = run(RayEngine(cluster.address, retries=1, execute=TRIVIAL), tasks, store)
    assert "died" in str(ended["killer"].error) and ended["killer"].attempts == 2 and ended["killer"].fault
    assert not ended["after"].ok and ended["other"].ok


@pytest.mark.slow
def test_ray_keeps_what_is_warm(cluster: Cluster, store: Store) -> None:
    tasks = [task(f"{model}{index}", warm=model, sleep=0.05) for index in range(8) for model in ("sd", "mini")]
    run(RayEngine(cluster.address, execute=TRIVIAL), tasks, store)
    switches = 0
    by_worker: dict[str, list[str]] = {}
    for key, worker, _ in executions(store):
        by_worker.setdefault(worker, []).append(key[:-1])
    for models in by_worker.values():
        switches += sum(a != b for a, b in itertools.pairwise(models))
    assert len(by_worker) == 2 and switches <= 2  # one by one they would switch at every task


@pytest.mark.slow
def test_idle_workers_give_way_to_other_sizes(cluster: Cluster, store: Store) -> None:
    tasks = [task(f"small{index}") for index in range(4)]
    tasks += [task("large", "small0", cpus=2), task("huge", "large", cpus=64), task("small", "huge")]
    assert all(outcome.ok for outcome in run(RayEngine(cluster.address, execute=TRIVIAL), tasks, store).values())


@pytest.mark.slow
def test_ray_refuses_what_cannot_be(cluster: Cluster, store: Store) -> None:
    engine = RayEngine(cluster.address, execute=TRIVIAL)
    with pytest.raises(InputError, match="1 GPUs"):
        run(engine, [task("a"), Task("b", "fit", "fit b", {}, resources=Resources(1, 1.0))], store)
    assert not store.path("log.txt").exists()
    with pytest.raises(InputError, match="memory"):
        run(engine, [task("a")], Store.open("memory://ray/x", store.local))
    with pytest.raises(InputError, match=r"No worker can be started .*no_such_module"):
        run(RayEngine(cluster.address, execute="no_such_module:execute"), [task("a")], store)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["flat", "chain", "fan"])
def test_a_thousand_trivial_tasks_within_a_minute(cluster: Cluster, store: Store, shape: str) -> None:
    needs = {"flat": lambda i: (), "chain": lambda i: (f"k{i - 1}",), "fan": lambda i: ("k0",)}[shape]
    tasks = [task(f"k{i}", *(needs(i) if i else ())) for i in range(1000)]
    begin = time.monotonic()
    ended = run(RayEngine(cluster.address, execute="trivial_tasks:execute_at_once"), tasks, store)
    seconds = time.monotonic() - begin
    print(f"1,000 tasks ({shape}): {seconds:.1f} s")
    assert all(outcome.ok for outcome in ended.values()) and seconds < 60


class Workers:
    """The processes of a cluster that run tasks now."""

    def __init__(self, cluster: Cluster) -> None:
        self._mark = str(cluster.folder)

    def pids(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                ours = self._mark in Path(f"/proc/{parent}/cmdline").read_text()
                if ours and (folder / "cmdline").read_text().startswith("ray::_Actor"):
                    found.append(int(folder.name))
            except (OSError, IndexError):
                continue
        return found

    def wait_until_none(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.pids():
            assert time.monotonic() < until, "workers of a driver that is gone go on"
            time.sleep(0.1)


DRIVER = """
import sys
from canon.experiments.contracts import Resources, Task
from canon.experiments.ray_engine import RayEngine
from canon.experiments.store import Store
tasks = [Task(f"k{i}", "edit", "x", {"sleep": 60}, resources=Resources(1)) for i in range(4)]
engine = RayEngine(sys.argv[1], execute="trivial_tasks:execute")
engine.run(tasks, Store.open(sys.argv[2]), lambda task, worker: print("begun", flush=True), lambda *_: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_takes_its_workers_along(cluster: Cluster, store: Store, number: int) -> None:
    command = [sys.executable, "-c", DRIVER, cluster.address, store.url]
    with subprocess.Popen(
        command, env=cluster_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "begun\n"
        assert Workers(cluster).pids()
        driver.send_signal(number)
        driver.wait(20)
    Workers(cluster).wait_until_none(20)
    assert len(executions(store)) <= 2 and store.records() == {}


# --- a real experiment ---


EXPERIMENT = """
name: engines
clips: [{path: clips/*}]
representations:
  - {name: atlas, representation: atlas, preset: fast}
  - {name: codef, representation: codef, preset: fast}
editors:
  - {editor: grade, hue: 120}
  - {name: sticker, editor: paint, image: sticker.png, frame: 2}
  - {editor: restyle, model: canon-mini, steps: 2, strength: 0.6, prompt: a lawn}
seeds: [0, 1]
resources: {clip: {cpus: 1}, fit: {cpus: 1}, edit: {cpus: 1}, render: {cpus: 1}, measure: {cpus: 1}}
"""
TASKS = 2 + 4 + 4 + 3 * 16  # clips, fits and their figures; edits (restyle has two seeds), renders and their figures


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    from canon.scenes import make
    from canon.storage import to_uint8, write_image

    folder = tmp_path_factory.mktemp("experiment")
    for name, preset in (("one", "pan"), ("two", "bend")):
        scene = make(preset, width=48, height=32, frames=6, seed=3, sway_period=24.0, bend_period=16.0)
        for t in range(6):
            frame = np.asarray(scene.frame(t))
            write_image(folder / f"clips/{name}/{t:05d}.png", frame if frame.dtype == np.uint8 else to_uint8(frame))
    sticker = np.zeros((32, 48, 4), np.uint8)
    sticker[10:20, 16:30] = (255, 40, 0, 255)
    write_image(folder / "sticker.png", sticker)
    (folder / "engines.yaml").write_text(EXPERIMENT)
    return folder / "engines.yaml"


@pytest.fixture(scope="module")
def in_process(experiment: Path) -> Path:
    """The experiment, run in a process of its own by the engine that needs nothing."""
    out = experiment.parent / "in-process"
    subprocess.run(canon_run(experiment, out), check=True, env=cluster_environment(), capture_output=True, timeout=500)
    return out


def canon_run(experiment: Path, out: Path, *options: str) -> list[str]:
    command = [sys.executable, "-c", "import sys; from canon.cli import main; sys.exit(main())", "run"]
    return [*command, str(experiment), "--out", str(out), "--no-report", *options]


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """What a task found out, but for how long it took and what memory."""
    found = record["figures"]
    return {name: found[name] for name in found if not name.startswith("seconds") and name != "peak_mib"}


def frames(path: Path) -> Any:
    import av
    import numpy as np

    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def assert_same_results(one: Path, other: Path) -> None:
    import numpy as np

    records, others = Store.open(one).records(), Store.open(other).records()
    assert records.keys() == others.keys() and len(records) == TASKS
    for key, record in records.items():
        assert figures(record) == figures(others[key]), record["label"]
    renders = sorted(path.relative_to(one) for path in one.rglob("*.mp4"))
    assert len(renders) == 16
    for render in renders:
        assert np.array_equal(frames(one / render), frames(other / render)), render
    images = sorted(path.relative_to(one) for path in one.glob("projects/*/fits/*/canonical/*.png"))
    assert len(images) >= 4
    for image in images:
        assert (one / image).read_bytes() == (other / image).read_bytes(), image


@pytest.mark.slow
def test_an_experiment_on_ray_survives_kills_with_the_same_results(
    cluster: Cluster, experiment: Path, in_process: Path, tmp_path: Path
) -> None:
    import random

    chance = random.Random()
    out = tmp_path / "ray"
    command = canon_run(experiment, out, "--engine", "ray", "--address", cluster.address)
    kill_worker, kill_driver = sorted(chance.sample(range(1, TASKS - 4), 2))
    print(f"a worker is killed after {kill_worker} tasks, the driver after {kill_driver}")
    log = (tmp_path / "first.log").open("w+")
    with subprocess.Popen(command, env=cluster_environment(), stdout=log, stderr=log) as driver:
        for count in (kill_worker, kill_driver):
            while len(done(out)) < count and driver.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.5))
            if driver.poll() is not None:
                break
            if count == kill_worker:
                os.kill(chance.choice(Workers(cluster).pids()), signal.SIGKILL)
            else:
                driver.kill()
    Workers(cluster).wait_until_none(20)
    before = done(out)
    assert len(before) >= kill_driver, (tmp_path / "first.log").read_text()
    again = subprocess.run(command, env=cluster_environment(), capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stderr
    assert "worker died" not in again.stdout + again.stderr + (tmp_path / "first.log").read_text()  # of Ray's own
    after = done(out)
    assert {key: after[key] for key in before} == before, "something complete was done again"
    assert_same_results(in_process, out)


def done(out: Path) -> dict[str, tuple[int, str]]:
    """When each record of what is done was written, and what it says."""
    found = [path for path in (out / "done").glob("*.json") if not path.name.startswith(".")]
    return {path.stem: (path.stat().st_mtime_ns, path.read_text()) for path in found}


@pytest.mark.slow
def test_machines_meet_in_a_remote_store(
    cluster: Cluster, experiment: Path, in_process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    import canon

    monkeypatch.setenv("CANON_SCRATCH", str(tmp_path / "driver"))
    engine = RayEngine(cluster.address, execute="trivial_tasks:execute_apart")
    url = f"file://{tmp_path}/remote"
    results = canon.run(experiment, out=url, engine=engine, only="one/codef/grade", report=False)
    (row,) = [row for row in results.rows if row["editor"] == "grade" and row["status"] == "ok"]
    render = Store.open(url, tmp_path / "another").fetch(row["render"])
    assert np.array_equal(frames(render), frames(in_process / row["render"]))
    assert {path.name for path in (tmp_path / "machines").iterdir()} == set(
        Store.open(url, tmp_path / "last").records()
    )


# --- jobs ---


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
def test_jobs_run_what_is_costly_and_the_rest_runs_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
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
def test_jobs_that_vanish_are_told_with_their_logs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    ended = run(SlurmEngine(cluster="local", retries=0, execute=TRIVIAL), [task("a", kind="fit", die=9)], store)
    assert "ended before it was done" in str(ended["a"].error) and ended["a"].fault
    log = Path(str(ended["a"].error).split("'")[-2])
    assert log.is_file()


@pytest.mark.slow
def test_interrupted_jobs_are_cancelled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
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
