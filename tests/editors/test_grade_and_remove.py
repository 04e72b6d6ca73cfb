"""Grading and removing a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import EditorContract, fit  # noqa: F401

import canon
from canon.edits import Delta, Remove
from canon.errors import InputError
from canon.fits import Fit
from canon.storage import write_image


class TestGradeContract(EditorContract):
    name = "grade"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {"exposure": 0.7, "hue": 40.0, "tint": (1.0, 0.8, 1.0)}


class TestRemoveContract(EditorContract):
    name = "remove"

    def options(self, fit: Fit, folder: Path) -> dict[str, Any]:  # noqa: F811
        return {"grow": 2}


def test_without_options_a_grade_is_nothing_and_takes_the_front(fit: Fit) -> None:  # noqa: F811
    edit = canon.edit(fit, "grade")
    assert edit.layers == [fit.layers[0]]
    assert np.array_equal(canon.render(fit, edit)[1], fit.clip.frames[1])


def test_one_stop_doubles_the_light_of_the_layer(fit: Fit) -> None:  # noqa: F811
    darker = canon.render(fit, canon.edit(fit, "grade", layer="background", exposure=-1.0))
    inside = fit.coordinates(1, "background")[1] == 1
    linear = [np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) for x in
              (frame[inside] / 255 for frame in (darker[1], fit.clip.frames[1]))]  # fmt: skip
    assert np.median(linear[0] / np.maximum(linear[1], 1e-3)) == pytest.approx(0.5, abs=0.03)


def test_a_mask_file_limits_the_grade(fit: Fit, tmp_path: Path) -> None:  # noqa: F811
    height, width = fit.layer("background").canvas_size
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 255
    write_image(tmp_path / "mask.png", mask)
    edit = canon.edit(fit, "grade", layer="background", exposure=1.0, mask=str(tmp_path / "mask.png"))
    operation = edit.operations("background")[0]
    assert isinstance(operation, Delta) and np.array_equal(operation.mask, mask / np.float32(255))  # type: ignore[arg-type]
    assert list(edit.steps[0].provenance.files) == [str(tmp_path / "mask.png")]
    clear = np.dstack([np.full((height, width, 3), 255, np.uint8), mask])
    write_image(tmp_path / "clear.png", clear)
    other = canon.edit(fit, "grade", layer="background", exposure=1.0, mask=str(tmp_path / "clear.png"))
    assert np.array_equal(canon.render(fit, edit)[0], canon.render(fit, other)[0])
    write_image(tmp_path / "mask.png", np.zeros((30, 30), np.uint8))
    with pytest.raises(InputError, match="is 30x30 and the canvas"):
        canon.edit(fit, "grade", layer="background", mask=str(tmp_path / "mask.png"))


def test_removing(fit: Fit) -> None:  # noqa: F811
    (operation,) = canon.edit(fit, "remove").operations("occluder")
    assert isinstance(operation, Remove) and operation.grow == 2
    with pytest.raises(InputError, match="nothing lies behind"):
        canon.edit(fit, "remove", layer="background")
    for grow in (-1, 9999):
        with pytest.raises(InputError, match="grown"):
            canon.edit(fit, "remove", layer="foreground", grow=grow)
    for stops in (float("inf"), 17.0):
        with pytest.raises(InputError, match=r"finite|at most 16"):
            canon.edit(fit, "grade", exposure=stops)
    with pytest.raises(InputError, match="at least 0"):
        canon.edit(fit, "grade", saturation=-1.0)


def test_both_moving_layers_can_go(fit: Fit) -> None:  # noqa: F811
    empty = canon.render(fit, canon.edit(fit, "remove", layers={"occluder": {}, "foreground": {"grow": 3}}))
    for t in (0, 3):
        covered = fit.weights(t)[2] < 1
        points = np.argwhere(covered)[:, ::-1].astype(np.float32)
        plain = fit.look(t, "background", points)
        assert np.abs(empty[t][covered] / 255 - plain).max() < 2 / 255
