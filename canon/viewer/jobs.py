"""Work that takes long: done in a process of its own that keeps its models loaded, one thing after another.

A job belongs to the project, not to the browser that asked for it: who comes back finds it, and what it made, in
``PROJECT/.work/jobs/ID``. The process gets and gives JSON; what it runs is found by name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.registry import Progress
from canon.storage import inside, write_json

log = logging.getLogger("canon")

WORK = "canon.viewer.work"
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
JOB_FILE = "job.json"
KEPT_DAYS = 7.0
"""How long what a job made waits to be fetched."""
_MOST_WAITING = 50
_POLL_SECONDS = 0.1
_DIED = (
    "The process that did the work was ended from outside, most often because the memory did not suffice; use smaller "
    "options, or fewer frames, and try again."
)


class Cancelled(Exception):
    """The work was called off."""


class WorkerFault(Exception):
    """The work failed by no fault of the user; the message is a sentence."""


class Worker:
    """A process that runs functions of a module by name; started when first used, and again after it was ended."""

    def __init__(self, module: str = WORK, output: Path | None = None) -> None:
        """Nothing is started yet.

        Args:
            module: where the functions are.
            output: file for what the process prints; None = nowhere.
        """
        self.module, self.output = module, output
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while there is one."""
        return None if self._process is None else self._process.pid

    def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        progress: Progress = lambda stage, done, figures: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:
        """What the function gives, as JSON brings it.

        Raises:
            InputError: the function did.
            WorkerFault: it failed otherwise, or the process was ended from outside.
            Cancelled: ``cancelled`` said so; the process is ended then.
        """
        try:
            pipe = self._started()
            pipe.send_bytes(json.dumps({"function": name, "arguments": dict(arguments)}).encode())
            while True:
                while not pipe.poll(_POLL_SECONDS):
                    if cancelled():
                        self.stop()
                        raise Cancelled
                said = json.loads(pipe.recv_bytes())
                if "progress" not in said:
                    break
                progress(*said["progress"])
        except (EOFError, OSError) as error:
            self.stop()
            raise WorkerFault(_DIED) from error
        if "error" in said:
            raise InputError(said["error"]) if said["expected"] else WorkerFault(said["error"])
        return said["result"]

    def _started(self) -> Connection:
        if self._pipe is not None and self._process is not None and self._process.poll() is None:
            return self._pipe
        self.stop()
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "canon.viewer.worker", str(theirs.fileno()), self.module]
        with contextlib.ExitStack() as stack:
            stack.callback(theirs.close)
            printed: Any = subprocess.DEVNULL
            if self.output is not None:
                self.output.parent.mkdir(parents=True, exist_ok=True)
                printed = stack.enter_context(self.output.open("wb"))
            # A session of its own, so that Ctrl-C in the terminal reaches the viewer, which then ends this one.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._pipe = ours
        return ours

    def stop(self) -> None:
        """End the process and what it started, whatever it is at."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if pipe is not None:
            pipe.close()


@dataclass
class Job:
    """One thing to do, how far it is, and what came of it."""

    id: str
    function: str
    title: str
    """What it is, for people."""
    arguments: dict[str, Any]
    state: str = QUEUED
    stage: str = ""
    done: float = 0.0
    """Share of the work, 0..1."""
    sentence: str = ""
    """Why it failed."""
    result: Any = None
    created: float = field(default_factory=time.time)
    """Seconds since 1970."""
    seconds: float = 0.0
    """How long it ran."""
    pid: int = field(default_factory=os.getpid)
    """The viewer that it was given to."""


class Jobs:
    """The jobs of a project; one runs at a time, the others wait. All methods may be called from any thread."""

    def __init__(self, folder: Path, worker: Worker | None = None) -> None:
        """Take up what an earlier viewer left; what is too old is deleted.

        Args:
            folder: ``PROJECT/.work/jobs``.
        """
        self.folder = Path(folder)
        self.worker = worker or Worker(output=self.folder / "worker.log")
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._take_up()
        self._runner = threading.Thread(target=self._run, name="canon-jobs", daemon=True)
        self._runner.start()

    def submit(self, function: str, title: str, arguments: Mapping[str, Any]) -> Job:
        """Have a function of the worker's module run; it gets ``out``, the job's folder, besides.

        Raises:
            InputError: too many wait already, or the folder cannot be written.
        """
        job = Job(secrets.token_hex(8), function, title, dict(arguments))
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                raise InputError(f"{_MOST_WAITING} jobs wait already; wait for some to end, or cancel some.")
            self._keep(job)
            self._jobs[job.id] = job
            self._waiting.append(job.id)
            self._changed.notify_all()
        return job

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: -job.created)

    def get(self, id: str) -> Job:
        """A job by its id.

        Raises:
            InputError: there is none (any more).
        """
        with self._changed:
            if id not in self._jobs:
                raise InputError("This job is not there any more; it was chosen from, thrown away or has expired.")
            return self._jobs[id]

    def folder_of(self, job: Job) -> Path:
        """Where what the job made waits."""
        return inside(self.folder, job.id)

    def cancel(self, id: str) -> None:
        """Call a job off that waits or runs; the process that runs it is ended. One that has ended stays as it is.

        Raises:
            InputError: there is no such job.
        """
        job = self.get(id)
        with self._changed:
            if job.state not in ENDED:
                self._end(job, CANCELLED)
            self._changed.notify_all()

    def discard(self, id: str) -> None:
        """Forget a job that has ended, and throw away what it made.

        Raises:
            InputError: there is no such job, or it has not ended.
        """
        job = self.get(id)
        with self._changed:
            if job.state not in ENDED:
                raise InputError("This job has not ended; cancel it first.")
            self._jobs.pop(id, None)
        shutil.rmtree(self.folder_of(job), ignore_errors=True)

    def close(self) -> None:
        """Call everything off and end the process."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if job.state not in ENDED:
                    self._end(job, CANCELLED)
            self._changed.notify_all()
        self._runner.join(timeout=10)
        self.worker.stop()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._jobs.get(self._waiting.popleft())
                if job is None or job.state != QUEUED:
                    continue
                job.state = RUNNING
                self._keep(job)
            begin = time.perf_counter()
            state, sentence, result = self._outcome(job)
            with self._changed:
                job.seconds = time.perf_counter() - begin
                if job.state == RUNNING:
                    job.sentence, job.result = sentence, result
                    self._end(job, state)

    def _outcome(self, job: Job) -> tuple[str, str, Any]:
        def progress(stage: str, done: float, figures: Mapping[str, float]) -> None:
            job.stage, job.done = stage, min(max(float(done), job.done), 1.0)

        arguments = {**job.arguments, "out": str(self.folder_of(job))}
        try:
            result = self.worker.call(job.function, arguments, progress, lambda: job.state == CANCELLED)
        except Cancelled:
            return CANCELLED, "", None
        except (InputError, WorkerFault) as error:
            return FAILED, str(error), None
        except Exception as error:
            log.exception("a job failed")
            return FAILED, f"This is a fault in canon ({type(error).__name__}: {error}); please report it.", None
        return DONE, "", result

    def _end(self, job: Job, state: str) -> None:
        job.state, job.done = state, 1.0 if state == DONE else job.done
        try:
            self._keep(job)
        except InputError as error:  # a full disk: what is known is still shown
            log.warning("%s", error)

    def _keep(self, job: Job) -> None:
        folder = self.folder_of(job)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / JOB_FILE, asdict(job))

    def _take_up(self) -> None:
        for path in sorted(self.folder.glob(f"*/{JOB_FILE}")):
            job = _read(path)
            if job is None or time.time() - job.created > KEPT_DAYS * 86400:
                shutil.rmtree(path.parent, ignore_errors=True)
            elif job.state in ENDED:
                self._jobs[job.id] = job
            elif not _alive(job.pid):
                job.sentence = "The viewer was stopped before this had ended; run it again."
                self._jobs[job.id] = job
                self._end(job, FAILED)


def _read(path: Path) -> Job | None:
    try:
        job = Job(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return job if job.id == path.parent.name else None


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
