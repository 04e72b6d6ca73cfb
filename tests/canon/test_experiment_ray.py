"""The engine that runs an experiment's tasks on Ray: order, retries, deaths, and the same results as in-process."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from trivial_tasks import HELPERS, TRIVIAL, executions, run, task

import canon
from canon.errors import InputError
from canon.experiments import ray_cluster
from canon.experiments.contracts import Resources, Task
from canon.experiments.ray_actor import TaskActor
from canon.experiments.ray_cluster import Size, fit_together, size_of
from canon.experiments.ray_engine import RayEngine
from canon.experiments.running import Callback
from canon.experiments.store import Store
from canon.scenes import make
from canon.storage import write_image
from canon.video import read_frames


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
    monkeypatch.setattr("canon.experiments.ray_actor._PROBE_SECONDS", 0.1)
    greeting = {"store": str(tmp_path), "execute": TRIVIAL, "probe": str(tmp_path / "probe"), "gpus": 1}
    assert "does not see the folder" in json.loads(TaskActor().greet(json.dumps(greeting)))["error"]
    (tmp_path / "probe").touch()
    assert json.loads(TaskActor().greet(json.dumps(greeting)))["name"].endswith(f":{os.getpid()}")


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
    monkeypatch.setattr("canon.experiments.ray_cluster.ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="did not answer within 2 seconds"):
            run(RayEngine(address, execute=TRIVIAL), [task("a")], Store.open(tmp_path))


# --- a cluster of our own; what is above needs to be connected to none ---


class Cluster:
    """A Ray cluster of two CPUs, of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address, self.folder = f"127.0.0.1:{port}", folder
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--port", str(port), "--node-ip-address", "127.0.0.1", "--num-cpus", "2", "--temp-dir", str(folder)]
        command += ["--include-dashboard=false", "--object-store-memory", "80000000"]
        with (folder / "start.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=cluster_environment(), start_new_session=True
            )

    def wait_until_started(self) -> None:
        until = time.monotonic() + 90
        while "Ray runtime started" not in (told := (self.folder / "start.log").read_text()):
            assert time.monotonic() < until and self._process.poll() is None, told
            time.sleep(0.1)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)

    def worker_pids(self) -> list[int]:
        """The processes that run tasks now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                ours = str(self.folder) in Path(f"/proc/{parent}/cmdline").read_text()
                if ours and (folder / "cmdline").read_text().startswith("ray::TaskActor"):
                    found.append(int(folder.name))
        return found

    def wait_until_idle(self, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while self.worker_pids():
            assert time.monotonic() < until, "workers of a driver that is gone go on"
            time.sleep(0.1)


def cluster_environment() -> dict[str, str]:
    return {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # on 127.0.0.1 alone
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Started once; this process stays connected to it, so that engines need not each ask whether it answers."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    folder = Path(tempfile.mkdtemp(prefix="cr-", dir="/tmp"))  # short: paths of sockets have at most 107 letters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(folder)
        try:
            cluster.wait_until_started()
            with ray_cluster.cluster(cluster.address, None, []):
                yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.mark.slow
def test_ray_runs_tasks_in_order_and_retries(cluster: Cluster, store: Store) -> None:
    tasks = [
        task("a", note="first"),
        task("killed", "a", die=1),
        task("faulty", "a", fault=1),
        task("hopeless", "a", fault=9),
        task("killer", "a", die=9),
        task("bad", "a", bad="The prompt is empty."),
        task("raised", "a", **{"raise": True}),
        task("after-bad", "bad"),
        task("after-after", "after-bad", "killed"),
        task("after-killer", "killer"),
        task("after-killed", "killed", "faulty", "done-before"),
    ]
    store.write_record("done-before", {})
    ended = run(RayEngine(cluster.address, retries=1, execute=TRIVIAL), tasks, store)
    assert {key for key, outcome in ended.items() if outcome.ok} == {"a", "killed", "faulty", "after-killed"}
    assert {key: outcome.attempts for key, outcome in ended.items()} == {
        **dict.fromkeys(("a", "bad", "raised", "after-bad", "after-after", "after-killer", "after-killed"), 1),
        **dict.fromkeys(("killed", "faulty", "hopeless", "killer"), 2),
    }
    assert ended["killed"].figures == {"ran": 2}
    assert ended["bad"].error == "The prompt is empty." and ended["raised"].error == "Raised bad input."
    assert ended["hopeless"].fault and not ended["bad"].fault and not ended["raised"].fault
    assert "died, the last of 2 times," in str(ended["killer"].error) and ended["killer"].fault
    assert ended["after-after"].error == "Not run, because 'task bad' failed."
    count = Counter(key for key, _, _ in executions(store))
    assert count["after-bad"] == count["after-after"] == count["after-killer"] == 0 and count["a"] == count["bad"] == 1
    assert not list(store.local.glob(".seen-*"))


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
def test_a_thousand_trivial_tasks_within_a_minute(cluster: Cluster, store: Store) -> None:
    """A third of them at once, a third one after another, and a third that all wait for one."""
    tasks = [task(f"flat{k}") for k in range(334)]
    tasks += [task(f"chain{k}", *([f"chain{k - 1}"] if k else [])) for k in range(333)]
    tasks += [task(f"fan{k}", *(["fan0"] if k else [])) for k in range(333)]
    begin = time.monotonic()
    ended = run(RayEngine(cluster.address, execute="trivial_tasks:execute_at_once"), tasks, store)
    seconds = time.monotonic() - begin
    print(f"1,000 tasks: {seconds:.1f} s")
    assert len(ended) == 1000 and all(outcome.ok for outcome in ended.values()) and seconds < 60


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
def test_ctrl_c_takes_the_workers_along(cluster: Cluster, store: Store) -> None:
    command = [sys.executable, "-c", DRIVER, cluster.address, store.url]
    with subprocess.Popen(
        command, env=cluster_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "begun\n"
        assert cluster.worker_pids()
        driver.send_signal(signal.SIGINT)
        driver.wait(20)
    cluster.wait_until_idle()
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
  - {editor: restyle, model: canon-mini, steps: 2, strength: 0.6, size: 32, refine: 0, prompt: a lawn}
seeds: [0, 1]
resources: {clip: {cpus: 1}, fit: {cpus: 1}, edit: {cpus: 1}, render: {cpus: 1}, measure: {cpus: 1}}
"""
FRAMES = 4
TASKS = 2 + 4 + 4 + 3 * 16  # clips, fits and their figures; edits (restyle has two seeds), renders and their figures


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    for name, preset in (("one", "pan"), ("two", "bend")):
        scene = make(preset, width=48, height=32, frames=FRAMES, seed=3, sway_period=24.0, bend_period=16.0)
        for t in range(FRAMES):
            write_image(folder / f"clips/{name}/{t:05d}.png", scene.frame(t))
    sticker = np.zeros((32, 48, 4), np.uint8)
    sticker[10:20, 16:30] = (255, 40, 0, 255)
    write_image(folder / "sticker.png", sticker)
    (folder / "engines.yaml").write_text(EXPERIMENT)
    return folder / "engines.yaml"


@pytest.fixture(scope="module")
def in_process(experiment: Path) -> Path:
    """The experiment, run by the engine that needs nothing."""
    out, threads = experiment.parent / "in-process", (torch.get_num_threads(), cv2.getNumThreads())
    results = canon.run(experiment, out=out, report=False)
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    assert Counter(row["status"] for row in results.rows) == {"ok": 4 + 16}
    return out


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """What a task found out, but for how long it took and what memory."""
    found = record["figures"]
    return {name: found[name] for name in found if not name.startswith("seconds") and name != "peak_mib"}


def frames(path: Path) -> np.ndarray:
    return np.stack([frame.rgb for frame in read_frames(path)])


def assert_same_results(one: Path, other: Path) -> None:
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


class Begun(Callback):
    """Keys of the tasks that were begun."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def begun(self, task: Task, worker: str) -> None:
        self.keys.append(task.key)


@pytest.mark.slow
def test_an_experiment_on_ray_survives_kills_with_the_same_results(
    cluster: Cluster, experiment: Path, in_process: Path, tmp_path: Path
) -> None:
    chance = random.Random()
    out, log = tmp_path / "ray", tmp_path / "driver.log"
    code = "import sys; from canon.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", str(experiment), "--out", str(out), "--no-report"]
    command += ["--engine", "ray", "--address", cluster.address]
    kill_worker, kill_driver = sorted(chance.sample(range(1, TASKS - 16), 2))
    print(f"a worker is killed after {kill_worker} tasks, the driver after {kill_driver}")
    with (
        log.open("w") as said,
        subprocess.Popen(command, env=cluster_environment(), stdout=said, stderr=said) as driver,
    ):
        for count in (kill_worker, kill_driver):
            while len(list(out.glob("done/[!.]*.json"))) < count:
                assert driver.poll() is None, log.read_text()
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.2))
            if count == kill_worker:
                os.kill(chance.choice(cluster.worker_pids()), signal.SIGKILL)
        driver.kill()
    cluster.wait_until_idle()
    before = done(out)
    assert kill_driver <= len(before) < TASKS
    assert "worker died" not in log.read_text()  # of Ray's own
    again = Begun()
    canon.run(experiment, out=out, engine=RayEngine(cluster.address), report=False, callbacks=[again])
    after = done(out)
    assert {key: after[key] for key in before} == before, "something complete was done again"
    assert sorted(again.keys) == sorted(after.keys() - before.keys())
    assert_same_results(in_process, out)


def done(out: Path) -> dict[str, tuple[int, str]]:
    """When each record of what is done was written, and what it says."""
    return {path.stem: (path.stat().st_mtime_ns, path.read_text()) for path in out.glob("done/[!.]*.json")}


@pytest.mark.slow
def test_machines_meet_in_a_remote_store(
    cluster: Cluster, experiment: Path, in_process: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANON_SCRATCH", str(tmp_path / "driver"))
    engine = RayEngine(cluster.address, workers=1, execute="trivial_tasks:execute_apart")
    url = f"file://{tmp_path}/remote"
    results = canon.run(experiment, out=url, engine=engine, only="one/codef/grade", report=False)
    (row,) = [row for row in results.rows if row["editor"] == "grade" and row["status"] == "ok"]
    render = Store.open(url, tmp_path / "another").fetch(row["render"])
    assert np.array_equal(frames(render), frames(in_process / row["render"]))
    assert {path.name for path in (tmp_path / "machines").iterdir()} == set(
        Store.open(url, tmp_path / "last").records()
    )
