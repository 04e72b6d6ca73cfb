"""Fits logged while they are made: to TensorBoard, and to Weights & Biases or MLflow where those are installed.

A tracker is a context manager that :func:`canon.fit` takes among its ``callbacks``::

    with canon.trackers.tensorboard("logs/atlas") as log:
        canon.fit(clip, callbacks=[log])

Figures are called ``STAGE/NAME``, such as ``refine/psnr``, and stand at a step: the share of all the work that is done,
counted to :data:`STEPS`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from canon.errors import InputError
from canon.storage import explain_os_error, to_plain
from canon.thumbnails import thumbnail

if TYPE_CHECKING:
    from canon.fits import Fit
    from canon.registry import Progress

log = logging.getLogger("canon")

STEPS = 10_000
"""The step at which a fit is done."""
LOGS = "logs"
"""Folder of a project in which the logs of its fits lie, each in one of the fit's name."""
CANVAS_SIDE = 1024
"""Canvases are logged with no side longer than this, in texels."""
_PACKAGES = {
    "tensorboard": ("tensorboard", "canon-video[experiments]"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}


class Tracker(ABC):
    """Is told what happens while a fit is made, and writes it down somewhere.

    A tracker that fails is left out from then on, with a warning: a log is not worth a fit.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guarded():
            self.close(failed=error is not None)

    def __call__(self, stage: str, done: float, figures: Mapping[str, float]) -> None:
        """Note figures of a stage; see :data:`canon.registry.Progress`. At most one of a name for each step."""
        step = round(min(max(done, 0.0), 1.0) * STEPS)
        new = {f"{stage}/{name}": float(value) for name, value in figures.items() if math.isfinite(value)}
        new = {name: value for name, value in new.items() if self._last.get(name) != step}
        if new and not self._failed:
            self._last.update(dict.fromkeys(new, step))
            with self._guarded():
                self.figures(new, step)

    def finished(self, fit: Fit) -> None:
        """Note what the fit was made with, what came of it, and its canonical images."""
        if self._failed:
            return
        with self._guarded():
            settings = {"representation": fit.representation, **_flat(fit.config)}
            self.summary(settings, _outcome(fit))
            for layer in fit.layers:
                self.image(f"canonical/{layer}", thumbnail(fit.canvas(layer).rgba, CANVAS_SIDE))

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed = True
            log.warning("%s failed (%s: %s) and is left out from here on", type(self).__name__, *_said(error))

    @abstractmethod
    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Note finite figures at a step, 0 to :data:`STEPS`."""

    @abstractmethod
    def image(self, name: str, pixels: np.ndarray) -> None:
        """Note an image, uint8 [H, W, 4], straight alpha."""

    @abstractmethod
    def summary(self, settings: Mapping[str, bool | int | float | str], figures: Mapping[str, float]) -> None:
        """Note what the fit was made with, and the figures that it ends with."""

    @abstractmethod
    def close(self, failed: bool = False) -> None:
        """Write all that is not written yet; ``failed`` if the fit was not finished."""


class TensorBoard(Tracker):
    """Event files in a folder; ``tensorboard --logdir`` shows them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from torch.utils.tensorboard import SummaryWriter

        self._kind, self._folder = SummaryWriter, Path(folder)
        self._writer: Any = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self._folder) from error

    def _open(self, step: int) -> Any:
        if self._writer is None:
            # An interrupted fit is gone on with, from its last checkpoint: what was noted beyond that is outdated, and
            # all of it if the fit begins anew.
            self._writer = self._kind(str(self._folder), purge_step=step, flush_secs=10)
        return self._writer

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.figures`."""
        for name, value in values.items():
            self._open(step).add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray) -> None:
        """See :meth:`Tracker.image`."""
        self._open(STEPS).add_image(name, pixels, STEPS, dataformats="HWC")

    def summary(self, settings: Mapping[str, bool | int | float | str], figures: Mapping[str, float]) -> None:
        """See :meth:`Tracker.summary`; the settings are "hparams"."""
        from torch.utils.tensorboard.summary import hparams

        final = {f"final/{name}": value for name, value in figures.items()}
        writer = self._open(STEPS)
        # Not writer.add_hparams: that puts them into a run of their own.
        for part in hparams(dict(settings), final):
            writer.file_writer.add_summary(part, STEPS)
        self.figures(final, STEPS)

    def close(self, failed: bool = False) -> None:
        """See :meth:`Tracker.close`."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases; its own settings (``WANDB_MODE=offline``, ``WANDB_PROJECT``) hold."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        import wandb

        Path(folder).mkdir(parents=True, exist_ok=True)
        project = os.environ.get("WANDB_PROJECT", "canon")
        quiet = wandb.Settings(silent=True)
        self._wandb, self._run = wandb, wandb.init(project=project, name=name, dir=str(folder), settings=quiet)

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.figures`."""
        self._run.log(dict(values), step=step)

    def image(self, name: str, pixels: np.ndarray) -> None:
        """See :meth:`Tracker.image`."""
        self._run.log({name: self._wandb.Image(pixels)}, step=STEPS)

    def summary(self, settings: Mapping[str, bool | int | float | str], figures: Mapping[str, float]) -> None:
        """See :meth:`Tracker.summary`."""
        self._run.config.update(dict(settings))
        self._run.summary.update({f"final/{name}": value for name, value in figures.items()})

    def close(self, failed: bool = False) -> None:
        """See :meth:`Tracker.close`."""
        self._run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says, else in a folder, and in no way the process's active run."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        from mlflow.tracking import MlflowClient

        place, kept = os.environ.get("MLFLOW_TRACKING_URI"), None
        if place is None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            place = f"sqlite:///{Path(folder).resolve() / 'mlflow.db'}"
            kept = (Path(folder).resolve() / "artifacts").as_uri()
        self._client = MlflowClient(place)
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "canon")
        found = self._client.get_experiment_by_name(title)
        number = found.experiment_id if found else self._client.create_experiment(title, artifact_location=kept)
        self._run = self._client.create_run(number, run_name=name).info.run_id

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """See :meth:`Tracker.figures`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def image(self, name: str, pixels: np.ndarray) -> None:
        """See :meth:`Tracker.image`."""
        self._client.log_image(self._run, pixels, artifact_file=f"{name}.png")

    def summary(self, settings: Mapping[str, bool | int | float | str], figures: Mapping[str, float]) -> None:
        """See :meth:`Tracker.summary`."""
        for name, value in settings.items():
            self._client.log_param(self._run, name, value)
        self.figures({f"final/{name}": value for name, value in figures.items()}, STEPS)

    def close(self, failed: bool = False) -> None:
        """See :meth:`Tracker.close`."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


NAMES = tuple(_PACKAGES)
"""What :func:`tracker` knows."""


def check(name: str) -> None:
    """Refuse a tracker that cannot be used, before anything else is done.

    Raises:
        InputError: it is unknown, or its package is not installed.
    """
    if name not in _PACKAGES:
        raise InputError(f"There is no tracker '{name}'; choose one of {', '.join(NAMES)}.")
    package, install = _PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"Logging to {name} needs a package that is not installed; pip install '{install}'.")


def tensorboard(folder: str | Path) -> Tracker:
    """Scalars of every stage, then the canonical images, the options and the final figures, as event files.

    An earlier log in the folder is gone on with where the fit is, else hidden.

    Raises:
        InputError: TensorBoard is not installed, or the folder cannot be written.
    """
    check("tensorboard")
    return TensorBoard(Path(folder))


def wandb(folder: str | Path, name: str) -> Tracker:
    """The same as a run of that name of Weights & Biases, whose files lie in the folder.

    Raises:
        InputError: wandb is not installed, or nobody is logged in, or it cannot be reached.
    """
    check("wandb")
    return _begun(lambda: WeightsAndBiases(Path(folder), name), "wandb", "log in, or set WANDB_MODE=offline")


def mlflow(folder: str | Path, name: str) -> Tracker:
    """The same as a run of that name of MLflow, in the folder unless ``MLFLOW_TRACKING_URI`` is set.

    Raises:
        InputError: mlflow is not installed, or its server cannot be reached.
    """
    check("mlflow")
    return _begun(lambda: MLflow(Path(folder), name), "mlflow", "check MLFLOW_TRACKING_URI")


def tracker(kind: str, project: str | Path, fit: str) -> Tracker:
    """A tracker for a fit of a project: ``PROJECT/logs/FIT/`` for TensorBoard, ``PROJECT/logs/`` for the others.

    Args:
        kind: one of :data:`NAMES`.
        fit: the fit's name, which is the run's.

    Raises:
        InputError: see :func:`tensorboard`, :func:`wandb`, :func:`mlflow`.
    """
    check(kind)
    logs = Path(project) / LOGS
    if kind == "tensorboard":
        return tensorboard(logs / fit)
    return wandb(logs, fit) if kind == "wandb" else mlflow(logs / "mlflow", fit)


@contextlib.contextmanager
def logged(kind: str | None, project: str | Path, fit: str) -> Iterator[tuple[Tracker, ...]]:
    """The ``callbacks`` of :func:`canon.fit` for a fit of a project: the :func:`tracker` asked for, or none."""
    if kind is None:
        yield ()
        return
    with tracker(kind, project, fit) as one:
        yield (one,)


def told(progress: Progress, callbacks: Sequence[Tracker]) -> Progress:
    """One progress that tells the given one, and trackers."""

    def tell(stage: str, done: float, figures: Mapping[str, float]) -> None:
        progress(stage, done, figures)
        for callback in callbacks:
            callback(stage, done, figures)

    return tell if callbacks else progress


def _begun(make: Callable[[], Tracker], name: str, remedy: str) -> Tracker:
    try:
        return make()
    except InputError:
        raise
    except Exception as error:
        kind, text = _said(error)
        raise InputError(f"{name} cannot be used ({kind}: {text}); {remedy}.") from error


def _said(error: Exception) -> tuple[str, str]:
    return type(error).__name__, " ".join(str(error).split())[:200]


def _flat(config: Any) -> dict[str, bool | int | float | str]:
    """Options as the plain values that trackers take; what is left open is not there."""
    plain = to_plain(config)
    plain = plain if isinstance(plain, Mapping) else {}
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in plain.items()
        if value is not None
    }


def _outcome(fit: Fit) -> dict[str, float]:
    """PSNR and SSIM of the reconstruction, seconds by stage, memory."""
    from canon.metrics import reconstruction

    stages = fit.stats.get("seconds")
    found = {f"seconds_{name}": float(value) for name, value in dict(stages or {}).items()}
    named = {"seconds_total": "seconds", "peak_mib": "peak_mib"}
    found |= {ours: float(fit.stats[theirs]) for theirs, ours in named.items() if theirs in fit.stats}
    return {name: value for name, value in {**reconstruction(fit), **found}.items() if math.isfinite(value)}
