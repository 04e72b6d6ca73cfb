"""Logs of fits, read back by the readers of those who define the formats."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from truth import small_scene, true_fit

import canon
from canon import trackers
from canon.cli import main
from canon.errors import InputError
from canon.fits import Fit
from canon.fitting import fit as fit_clip
from canon.project_fit import FitRequest, fit_into
from canon.storage import to_uint8, write_image


@pytest.fixture(scope="module")
def fit() -> Fit:
    found = true_fit(small_scene(width=65, height=49, frames=3))
    found.config.update({"preset": "fast", "raft": None, "tint": [1.0, 0.5]})
    found.stats.update({"seconds_total": 12.5, "peak_mib": 300.0})
    return found


def events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in events(folder).Scalars(name)]


def note(log: trackers.Tracker, *shares: float) -> None:
    for share in shares:
        log("refine", share, {"psnr": 20 + 10 * share, "loss": float("nan")})


def test_curves_stand_at_the_share_that_is_done(tmp_path: Path) -> None:
    with trackers.tensorboard(tmp_path) as log:
        log("flow", 0.0, {})
        note(log, 0.25, 0.250001, 0.5)
        log("bake", 0.9, {"psnr": 31.0})
    assert scalars(tmp_path, "refine/psnr") == [(2500, 22.5), (5000, 25.0)]
    assert scalars(tmp_path, "bake/psnr") == [(9000, 31.0)]
    assert sorted(events(tmp_path).Tags()["scalars"]) == ["bake/psnr", "refine/psnr"]


def test_a_fit_that_goes_on_goes_on_in_its_log(tmp_path: Path) -> None:
    for shares in ((0.1, 0.3, 0.5), (0.3, 0.6)):  # the second begins from a checkpoint
        with trackers.tensorboard(tmp_path) as log:
            note(log, *shares)
    assert [step for step, _ in scalars(tmp_path, "refine/psnr")] == [1000, 3000, 6000]


def test_what_came_of_it_is_noted(fit: Fit, tmp_path: Path) -> None:
    with trackers.tensorboard(tmp_path) as log:
        log.finished(fit)
    found = events(tmp_path)
    truth = canon.evaluate(fit)
    for name in ("psnr", "ssim", "psnr_min", "seconds", "peak_mib"):
        assert scalars(tmp_path, f"final/{name}") == [(trackers.STEPS, truth[name])]
    for layer in fit.layers:
        (image,) = found.Images(f"canonical/{layer}")
        shown = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        assert np.array_equal(shown, to_uint8(fit.canvas(layer).rgba))
    (session,) = (text for text in _hparams(found) if "session_start_info" in text)
    assert "preset" in session and "fast" in session and "raft" not in session


def _hparams(found: Any) -> list[str]:
    from tensorboard.plugins.hparams import plugin_data_pb2

    contents = found.summary_metadata.values()
    data = [meta.plugin_data for meta in contents if meta.plugin_data.plugin_name == "hparams"]
    return [str(plugin_data_pb2.HParamsPluginData.FromString(one.content)) for one in data]


def test_a_log_that_fails_does_not_cost_the_fit(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    class Full(trackers.TensorBoard):
        def __init__(self) -> None:
            trackers.Tracker.__init__(self)
            self.asked = 0
            self._writer = None

        def figures(self, values: Mapping[str, float], step: int) -> None:
            self.asked += 1
            raise OSError("No space left on device")

    with Full() as log:
        note(log, 0.1, 0.2)
        log.finished(fit)
    assert log.asked == 1 and "No space left on device" in caplog.text and len(caplog.records) == 1


def test_told_tells_all_in_order(tmp_path: Path) -> None:
    said: list[Any] = []
    progress = trackers.told(lambda *args: said.append(("progress", *args)), [])
    progress("flow", 0.5, {"psnr": 1.0})
    with trackers.tensorboard(tmp_path) as log:
        trackers.told(lambda *args: said.append(args), [log])("refine", 0.5, {"psnr": 2.0})
    assert said == [("progress", "flow", 0.5, {"psnr": 1.0}), ("refine", 0.5, {"psnr": 2.0})]
    assert scalars(tmp_path, "refine/psnr") == [(5000, 2.0)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    scene = small_scene(width=65, height=49, frames=4)
    for t in range(4):
        write_image(folder / f"{t:05d}.png", scene.frame(t))
    return folder


@pytest.mark.slow
def test_canon_fit_logs_into_the_project(frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "p"
    wanted = ["fit", str(frames), "--project", str(project), "--preset", "fast", "--log", "tensorboard"]
    assert main(wanted) == 0
    assert f"tensorboard --logdir {project}/logs" in capsys.readouterr().out
    names = events(project / "logs" / "atlas").Tags()
    assert "refine/psnr" in names["scalars"] and "final/psnr" in names["scalars"]
    assert names["images"] == [f"canonical/{layer}" for layer in canon.load(project / "fits" / "atlas").layers]
    files = sorted((project / "logs" / "atlas").iterdir())
    assert main(wanted) == 0  # it is there already, so there is nothing to log
    assert sorted((project / "logs" / "atlas").iterdir()) == files


@pytest.mark.slow
def test_callbacks_of_fit(frames: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with trackers.tensorboard(tmp_path) as log:
        clip = canon.Clip.load(frames)
        found = fit_clip(clip, preset="fast", progress=lambda stage, *_: said.append(stage), callbacks=[log])
    assert {"flow", "refine", "bake"} <= set(said)
    final = scalars(tmp_path, "final/seconds")
    assert final == [(trackers.STEPS, found.stats["seconds_total"])]


def test_what_cannot_be_used_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tracker 'tensorbord'; choose one of tensorboard, wandb, mlflow"):
        fit_into(tmp_path / "p", FitRequest("nothing.mp4", log="tensorbord"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        trackers.tensorboard(tmp_path / "file" / "logs")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_one_sentence(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"Logging to {kind} needs a package that is not installed; pip install '"):
        trackers.tracker(kind, tmp_path, "atlas")


def test_weights_and_biases_offline(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with trackers.tracker("wandb", tmp_path, "atlas") as log:
        note(log, 0.1, 0.2)
        log.finished(fit)
        run = log._run  # type: ignore[attr-defined]
        assert run.summary["refine/psnr"] == 22.0 and run.config["preset"] == "fast"
    assert not log._failed and list((tmp_path / "logs").glob("wandb/offline-run-*/files/media/images/canonical/*.png"))


def test_mlflow_in_a_folder(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with trackers.tracker("mlflow", tmp_path, "atlas") as log:
        note(log, 0.1, 0.2)
        log.finished(fit)
    there = client(f"sqlite:///{tmp_path}/logs/mlflow/mlflow.db")
    (run,) = there.search_runs([there.get_experiment_by_name("canon").experiment_id])
    assert (run.info.run_name, run.info.status) == ("atlas", "FINISHED")
    assert [m.value for m in there.get_metric_history(run.info.run_id, "refine/psnr")] == [21.0, 22.0]
    assert run.data.params["preset"] == "fast"
