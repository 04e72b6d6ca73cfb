"""Work in a process of its own: results, refusals, progress, cancelling, a process that dies, a viewer that does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from canon.errors import InputError
from canon.viewer.jobs import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Cancelled, Job, Jobs, Worker, WorkerFault
from canon.viewer.work import FUNCTIONS

OWN = """
import os, time
from pathlib import Path
from canon.errors import InputError
from canon.progress import report

def add(a, b, out=""): return {"sum": a + b, "pid": os.getpid(), "out": out}
def refuse(out=""): raise InputError("The number is\\nwrong; give another.")
def fail(out=""): raise RuntimeError("broken inside")
def die(out=""): os.kill(os.getpid(), 9)
def wait(out="", seconds=60.0, mark=""):
    for k in range(1000):
        report("waiting", k / 1000)
        if mark: Path(mark).write_text(str(os.getpid()))
        time.sleep(seconds / 1000)
    return "waited"
def hang(mark, out=""):
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)
def steps(out=""):
    for k in range(5):
        report(f"step {k}", k / 5)
        time.sleep(0.15)

FUNCTIONS = {"add": add, "refuse": refuse, "fail": fail, "die": die, "wait": wait, "hang": hang, "steps": steps}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with work that is quick, slow, wrong and deadly."""
    (tmp_path / "own_work.py").write_text(OWN)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return "own_work"


@pytest.fixture
def worker(module: str, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(module, tmp_path / "worker.log")
    yield made
    made.stop()


@pytest.fixture
def jobs(worker: Worker, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "jobs", worker)
    yield made
    made.close()


def until(met: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_results_refusals_and_faults_come_from_one_warm_process(worker: Worker, tmp_path: Path) -> None:
    assert worker.pid is None  # started when it is first used
    first = worker.call("add", {"a": 2, "b": 3})
    assert first["sum"] == 5 and first["pid"] == worker.pid != os.getpid()
    with pytest.raises(InputError, match=r"^The number is wrong; give another\.$"):
        worker.call("refuse", {})
    with pytest.raises(WorkerFault, match=r"RuntimeError: broken inside"):
        worker.call("fail", {})
    assert "Traceback" in (tmp_path / "worker.log").read_text()
    with pytest.raises(InputError, match="no work called"):
        worker.call("__import__", {})
    assert worker.call("add", {"a": "x", "b": "y"}) == {"sum": "xy", "pid": first["pid"], "out": ""}


def test_progress_is_heard_in_order(worker: Worker) -> None:
    heard: list[tuple[str, float]] = []
    worker.call("steps", {}, lambda stage, done, figures: heard.append((stage, done)))
    assert len(heard) >= 3 and heard == sorted(heard, key=lambda one: one[1])
    assert heard[0] == ("step 0", 0.0)


def test_a_worker_that_dies_is_one_sentence_and_the_next_call_gets_a_fresh_one(worker: Worker) -> None:
    before = worker.call("add", {"a": 0, "b": 0})["pid"]
    with pytest.raises(WorkerFault, match="memory"):
        worker.call("die", {})
    after = worker.call("add", {"a": 1, "b": 1})
    assert after["sum"] == 2 and after["pid"] != before and not alive(before)


def test_cancelling_ends_the_process(worker: Worker, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    asked = threading.Event()
    threading.Thread(target=lambda: (until(mark.exists), asked.set())).start()
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        worker.call("wait", {"mark": str(mark)}, cancelled=asked.is_set)
    assert time.monotonic() - begin < 30 and not alive(int(mark.read_text()))


def test_jobs_run_one_after_another_and_their_results_wait(jobs: Jobs, tmp_path: Path) -> None:
    slow = jobs.submit("wait", "wait", {"mark": str(tmp_path / "mark")})
    next_one = jobs.submit("add", "add", {"a": 1, "b": 2})
    until((tmp_path / "mark").exists)
    assert (slow.state, next_one.state) == (RUNNING, QUEUED)
    until(lambda: slow.stage == "waiting")
    jobs.cancel(slow.id)
    until(lambda: next_one.state == DONE)
    assert slow.state == CANCELLED and next_one.result["sum"] == 3
    assert next_one.result["out"] == str(jobs.folder_of(next_one)) and next_one.done == 1.0
    assert [job.id for job in jobs.all()] == [next_one.id, slow.id]
    jobs.cancel(next_one.id)  # too late, and no harm
    assert next_one.state == DONE
    jobs.discard(slow.id)
    with pytest.raises(InputError, match="not there any more"):
        jobs.get(slow.id)
    assert not jobs.folder_of(slow).exists()


def test_a_job_that_waits_is_cancelled_without_a_trace_of_running(jobs: Jobs, tmp_path: Path) -> None:
    slow = jobs.submit("wait", "wait", {})
    never = jobs.submit("wait", "never", {"mark": str(tmp_path / "never")})
    with pytest.raises(InputError, match="cancel it first"):
        jobs.discard(never.id)
    jobs.cancel(never.id)
    jobs.cancel(slow.id)
    last = jobs.submit("add", "add", {"a": 1, "b": 1})
    until(lambda: last.state == DONE)
    assert never.state == CANCELLED and not (tmp_path / "never").exists()


def test_failures_are_sentences_and_the_queue_goes_on(jobs: Jobs) -> None:
    made = [jobs.submit(name, name, {}) for name in ("refuse", "die", "fail")]
    last = jobs.submit("add", "add", {"a": 1, "b": 1})
    until(lambda: last.state == DONE)
    assert [job.state for job in made] == [FAILED] * 3
    assert made[0].sentence == "The number is wrong; give another."
    assert "memory" in made[1].sentence and "RuntimeError" in made[2].sentence
    assert all("\n" not in job.sentence for job in made)


def test_a_later_viewer_finds_what_waits_and_what_was_cut_off(module: str, tmp_path: Path) -> None:
    first = Jobs(tmp_path / "jobs", Worker(module))
    done = first.submit("add", "add", {"a": 1, "b": 2})
    until(lambda: done.state == DONE)
    first.close()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for id, pid, age in (("cut", int(gone.stdout), 0), ("other", os.getppid(), 0), ("old", 1, 30 * 86400)):
        state = DONE if id == "old" else RUNNING
        record = vars(Job(id, "add", id, {}, state=state, pid=pid, created=time.time() - age))
        (tmp_path / "jobs" / id).mkdir()
        (tmp_path / "jobs" / id / "job.json").write_text(json.dumps(record))
    (tmp_path / "jobs" / "torn").mkdir()
    (tmp_path / "jobs" / "torn" / "job.json").write_text('{"id": "to')
    later = Jobs(tmp_path / "jobs", Worker(module))
    try:
        assert later.get(done.id).result["sum"] == 3
        assert later.get("cut").state == FAILED and "stopped" in later.get("cut").sentence
        # Another viewer's job that runs still is its own; what is old or torn is thrown away.
        assert {job.id for job in later.all()} == {done.id, "cut"}
        assert (tmp_path / "jobs" / "other").exists()
        assert not (tmp_path / "jobs" / "old").exists() and not (tmp_path / "jobs" / "torn").exists()
    finally:
        later.close()


def test_closing_ends_what_runs(module: str, tmp_path: Path) -> None:
    jobs = Jobs(tmp_path / "jobs", Worker(module))
    job = jobs.submit("wait", "wait", {"mark": str(tmp_path / "mark")})
    until((tmp_path / "mark").exists)
    begin = time.monotonic()
    jobs.close()
    assert time.monotonic() - begin < 5 and job.state == CANCELLED
    assert not alive(int((tmp_path / "mark").read_text()))


def test_a_viewer_that_is_killed_takes_its_worker_with_it(module: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"from canon.viewer.jobs import Worker\nWorker({module!r}).call('hang', {{'mark': {str(mark)!r}}})"
    viewer = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: mark.exists() and mark.read_text())
    pid = int(mark.read_text())
    viewer.send_signal(signal.SIGKILL)
    viewer.wait()
    until(lambda: not alive(pid), 10)


def test_what_can_be_asked_for_is_what_is_listed() -> None:
    assert set(FUNCTIONS) == {"edit", "render", "measure"}
