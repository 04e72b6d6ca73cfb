"""The costly tasks of an experiment as Slurm jobs, through submitit; the others on the machine that drives it."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.experiments.contracts import KINDS, Begun, Ended, Outcome, Resources, Task
from canon.experiments.frontier import Frontier
from canon.experiments.store import Store
from canon.experiments.worker import (
    EXECUTE,
    described,
    find_function,
    outcome_from_json,
    refuse_private,
    run_task,
    task_to_json,
)
from canon.runtime import cores
from canon.storage import write_bytes

_STATE_SECONDS = 15.0  # between questions to Slurm; outcomes are seen as soon as their files are there


class SlurmEngine:
    """Submits fits (and the decoding of clips) as arrays of Slurm jobs, each once what it needs is done.

    Slurm's own ``SBATCH_PARTITION``, ``SBATCH_ACCOUNT``, ``SBATCH_TIMELIMIT``, ... in the environment are respected.

    Args:
        folder: for descriptions, outcomes and logs of jobs, on a disk that all machines see; None = ``jobs/`` in the
            store.
        cluster: None = Slurm; ``local`` = processes of this machine, and ``debug`` = one after another, for trying.
        partition: Slurm's partition.
        time: limit of a job in minutes. A fit that meets it is submitted again and goes on where it was.
        workers: how many jobs run at once at most.
        kinds: kinds of tasks that become jobs (:data:`canon.experiments.contracts.KINDS`); others run here, in turn.
        retries: how often a task is submitted again after a fault or when its job vanished.
        execute: ``module:function`` that runs a task.
        options: more of submitit's parameters, such as ``slurm_account``.

    Raises:
        InputError: submitit is not installed, there is no Slurm here, or a kind is unknown.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        cluster: str | None = None,
        partition: str | None = None,
        time: int = 24 * 60,
        workers: int | None = None,
        kinds: Sequence[str] = ("clip", "fit"),
        retries: int = 2,
        execute: str = EXECUTE,
        **options: Any,
    ) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise InputError("The engine 'slurm' needs submitit; install it with: pip install 'canon-video[slurm]'.")
        if cluster not in (None, "slurm", "local", "debug"):
            raise InputError(f"There is no cluster '{cluster}'; choose slurm, local or debug.")
        if cluster in (None, "slurm") and (shutil.which("sbatch") is None or shutil.which("srun") is None):
            raise InputError("There is no Slurm on this machine (no sbatch); run this where jobs can be submitted.")
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise InputError(f"There are no tasks of kind '{unknown[0]}'; choose of {', '.join(KINDS)}.")
        if workers is not None and workers < 1:
            raise InputError(f"{workers} workers cannot run anything; give 1 or more.")
        self.folder = Path(folder) if folder is not None else None
        self.cluster = cluster or "slurm"
        self.partition = partition
        self.time = time
        self.workers = workers
        self.kinds = frozenset(kinds)
        self.retries = retries
        self.execute = execute
        self.options = options

    def run(self, tasks: Sequence[Task], store: Store, begun: Begun, ended: Ended) -> None:
        """See :class:`canon.experiments.contracts.Engine`.

        Raises:
            InputError: Slurm refuses the jobs, or the store is in this process's memory.
        """
        refuse_private(store, "Slurm")
        run = _Run(self, tasks, store, begun, ended)
        try:
            run.go()
        finally:
            run.cancel()


@dataclass(eq=False)
class _Job:
    """A task that was submitted."""

    task: Task
    attempt: int
    outcome: Path
    handle: Any

    @property
    def log(self) -> Path:
        return Path(self.handle.paths.stderr)


class _Run:
    """One run of the driver."""

    def __init__(
        self,
        engine: SlurmEngine,
        tasks: Sequence[Task],
        store: Store,
        begun: Begun,
        ended: Ended,
    ) -> None:
        self._engine = engine
        self._store = store
        self._folder = (engine.folder or store.local / "jobs").resolve()
        self._begun, self._ended = begun, ended
        self._frontier = Frontier(tasks)
        self._execute = find_function(engine.execute)
        self._waiting: deque[tuple[Task, int]] = deque()  # to be submitted, with the number of the attempt
        self._here: deque[Task] = deque()
        self._jobs: list[_Job] = []
        self._missing: list[_Job] = []
        self._asked = time.monotonic()

    def go(self) -> None:
        """Run all to their ends."""
        while self._frontier.unfinished:
            for task in self._frontier.take_ready():
                if task.kind in self._engine.kinds:
                    self._waiting.append((task, 1))
                else:
                    self._here.append(task)
            self._submit()
            collected = self._collect()
            if self._here:
                self._run_here(self._here.popleft())
            elif not collected:
                time.sleep(0.2 if self._engine.cluster != "slurm" else 2.0)

    def cancel(self) -> None:
        """Cancel what is submitted."""
        for job in self._jobs:
            with contextlib.suppress(Exception):
                job.handle.cancel(check=False)

    def _run_here(self, task: Task) -> None:
        self._begun(task, "here")
        for attempt in range(1, self._engine.retries + 2):
            outcome = replace(run_task(task, self._store, self._execute), attempts=attempt)
            if not outcome.fault:
                break
        self._end(task, outcome)

    def _end(self, task: Task, outcome: Outcome) -> None:
        for each, came in self._frontier.end(task, outcome):
            self._ended(each, came)

    # --- jobs ---

    def _submit(self) -> None:
        """Submit what is ready, tasks of the same resources as one array."""
        room = self._room()
        alike: dict[Resources, list[tuple[Task, int]]] = defaultdict(list)
        while self._waiting and room > 0:
            task, attempt = self._waiting.popleft()
            alike[task.resources].append((task, attempt))
            room -= 1
        for resources, tasks in alike.items():
            self._submit_array(resources, tasks)

    def _room(self) -> int:
        if self._engine.cluster == "slurm":  # has a queue of its own, and limits how many of an array run
            return len(self._waiting)
        most = max((task.resources.cpus for task, _ in self._waiting), default=1)
        return (self._engine.workers or max(cores() // most, 1)) - len(self._jobs)

    def _submit_array(self, resources: Resources, tasks: Sequence[tuple[Task, int]]) -> None:
        import submitit

        executor = self._executor(resources)
        prepared = [self._prepared(task, attempt) for task, attempt in tasks]
        try:
            with executor.batch():
                handles = [
                    executor.submit(submitit.helpers.CommandFunction(command, verbose=False)) for command, _ in prepared
                ]
        except submitit.core.utils.FailedJobError as error:
            raise InputError(f"Slurm refused the jobs ({described(error)}).") from error
        for (task, attempt), (_, outcome), handle in zip(tasks, prepared, handles, strict=True):
            self._jobs.append(_Job(task, attempt, outcome, handle))
            self._begun(task, f"job {handle.job_id}")

    def _executor(self, resources: Resources) -> Any:
        import submitit

        engine = self._engine
        executor = submitit.AutoExecutor(folder=self._folder / "logs", cluster=engine.cluster)
        executor.update_parameters(
            name="canon",
            timeout_min=engine.time,
            cpus_per_task=resources.cpus,
            gpus_per_node=math.ceil(resources.gpus) or None,
            mem_gb=resources.memory_mib / 1024 if resources.memory_mib else None,
            slurm_partition=engine.partition,
            slurm_array_parallelism=engine.workers or 256,
            **engine.options,
        )
        return executor

    def _prepared(self, task: Task, attempt: int) -> tuple[list[str], Path]:
        """The command of a job and the file that it leaves its outcome in."""
        described, outcome = (self._folder / f"{task.key}-{attempt}{end}" for end in (".task.json", ".outcome.json"))
        outcome.unlink(missing_ok=True)
        write_bytes(described, task_to_json(task).encode())
        command = [sys.executable, "-m", "canon.experiments.worker", str(described), self._store.url, str(outcome)]
        return [*command, "--execute", self._engine.execute], outcome

    def _collect(self) -> bool:
        """Take note of jobs that have ended; whether there were any."""
        gone = self._vanished() if self._engine.cluster == "slurm" else ()
        ended = [job for job in self._jobs if job.outcome.exists() or job in gone or self._is_over(job)]
        for job in ended:
            self._jobs.remove(job)
            self._take(job)
        return bool(ended)

    def _is_over(self, job: _Job) -> bool:
        if self._engine.cluster == "slurm":
            return job.handle.paths.result_pickle.exists()  # what submitit leaves at the end; not read
        return job.handle.done()

    def _vanished(self) -> list[_Job]:
        """Jobs that Slurm's queue has not had twice in a row: cancelled, out of time, their machine gone.

        Its accounting would know more, but many clusters have none.
        """
        if not self._jobs or time.monotonic() - self._asked < _STATE_SECONDS:
            return []
        self._asked = time.monotonic()
        command = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # asked again later
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            queue = set(answer.stdout.split())
            missing = [job for job in self._jobs if job.handle.job_id not in queue]
            gone = [job for job in missing if job in self._missing]
            self._missing = missing
            return gone
        return []

    def _take(self, job: _Job) -> None:
        try:
            outcome = outcome_from_json(job.outcome.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError):
            said = _last_line(job.log)
            error = f"Its job {job.handle.job_id} ended before it was done{said}; see '{job.log}'."
            outcome = Outcome(job.task.key, error, fault=True, worker=f"job {job.handle.job_id}")
        outcome = replace(outcome, attempts=job.attempt)
        if outcome.fault and job.attempt <= self._engine.retries:
            self._waiting.append((job.task, job.attempt + 1))
            return
        self._end(job.task, outcome)


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" ({described(lines[-1])})" if lines else ""
