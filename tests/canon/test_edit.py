"""Edits as data: colour functions with known values, files, provenance, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import canon
from canon import colour, edit_folder, registry
from canon.edits import Delta, Edit, Over, Provenance, Remove, Step, fits_canvas, resize_to
from canon.errors import InputError
from canon.storage import write_image

GREY, RED = np.full((2, 3, 3), 0.5, np.float32), np.tile(np.float32([1, 0, 0]), (2, 3, 1))


def test_defaults_change_nothing_to_the_bit() -> None:
    image = np.random.default_rng(0).random((5, 6, 3), np.float32) * 1.5
    assert Delta().apply(image) is image
    assert Delta(hue=360).apply(image) is image


def test_known_colours() -> None:
    assert np.allclose(colour.to_linear(np.float32([0, 0.5, 1])), [0, 0.21404114, 1], atol=1e-6)
    ramp = np.linspace(0, 1.5, 40, dtype=np.float32)
    assert np.allclose(colour.from_linear(colour.to_linear(ramp)), ramp, atol=1e-6)
    # One stop up is twice the light: 0.2140 -> 0.4281 -> sRGB 0.6858.
    assert np.allclose(Delta(exposure=1).apply(GREY), 0.68584, atol=1e-4)
    assert np.allclose(Delta(exposure=-1).apply(Delta(exposure=1).apply(GREY)), GREY, atol=1e-5)
    assert np.allclose(Delta(contrast=2).apply(GREY + 0.1), 0.7, atol=1e-6)
    assert np.allclose(Delta(saturation=0).apply(RED), 0.2126, atol=1e-6)
    assert np.allclose(Delta(hue=120).apply(GREY), GREY, atol=1e-6), "grey has no hue"
    turned = Delta(hue=120).apply(RED)
    assert turned[0, 0].argmax() == 1 and np.allclose(turned @ colour._LUMA, 0.2126, atol=1e-5)
    assert np.allclose(Delta(hue=-120).apply(turned), RED, atol=1e-5)
    warm = Delta(temperature=0.5).apply(GREY)[0, 0]
    assert warm[0] > 0.5 and warm[1] == pytest.approx(0.5, abs=1e-6) and warm[2] < 0.5
    assert np.allclose(Delta(tint=(0.5, 1, 2)).apply(GREY), [0.25, 0.5, 1])


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Delta(exposure=float("nan")),
        lambda: Delta(contrast=-1),
        lambda: Delta(tint=(1, -1, 1)),
        lambda: Delta(mask=np.zeros((2, 2, 3))),
        lambda: Over(np.zeros((4, 4, 3), np.float32)),
        lambda: Over(np.full((4, 4, 4), np.inf, np.float32)),
        lambda: Over(np.zeros((0, 4, 4), np.float32)),
        lambda: Remove(-1),
    ],
)
def test_bad_operations_are_refused(bad: object) -> None:
    with pytest.raises(InputError):
        bad()  # type: ignore[operator]


def test_paint_keeps_sixteen_bits_and_eight_exactly() -> None:
    levels = np.arange(256, dtype=np.float32).reshape(8, 8, 4) / np.float32(255)
    levels[..., 3] = 1
    assert np.array_equal(Over(levels).rgba, levels)
    bright = np.random.default_rng(0).random((5, 5, 4)).astype(np.float32) * [3, 3, 3, 1]
    paint = Over(bright)
    assert paint.scale == 4 and np.abs(paint.rgba - bright).max() <= 4 * 0.5 / 65535 + 1e-6
    assert np.array_equal(Over(paint.rgba).rgba, paint.rgba)
    assert not Over(np.float32([[[1, 1, 1, 0]]])).rgba.any(), "colours that cannot be seen are not kept"


def some_edit() -> Edit:
    rng = np.random.default_rng(0)
    source = Provenance("paint", {"image": "a.png", "size": [1, 2]}, {"a.png": "12"}, "2026-01-01T00:00:00+00:00", "1")
    return Edit(
        [
            Step("foreground", Over(rng.random((6, 9, 4)).astype(np.float32) * [2, 2, 2, 1]), source),
            Step("back ground", Delta(exposure=0.3, tint=(1, 0.5, 1), mask=rng.random((3, 4)))),
            Step("foreground", Delta(hue=33.3)),
            Step("foreground", Remove(3)),
        ],
        fit="abc",
    )


def test_saved_and_loaded_is_the_same_to_the_bit(tmp_path: Path) -> None:
    edit = some_edit()
    edit.save(tmp_path / "e")
    loaded = canon.load_edit(tmp_path / "e")
    assert loaded.layers == ["foreground", "back ground"] and loaded.fit == "abc"
    assert len(loaded.operations("foreground")) == 3
    for step, other in zip(edit.steps, loaded.steps, strict=True):
        a, b = step.operation, other.operation
        assert step.layer == other.layer and step.provenance == other.provenance and type(a) is type(b)
        if isinstance(a, Over) and isinstance(b, Over):
            assert np.array_equal(a.rgba, b.rgba)
        if isinstance(a, Delta) and isinstance(b, Delta):
            assert a.parameters == b.parameters
            assert (a.mask is None) == (b.mask is None) and (a.mask is None or np.array_equal(a.mask, b.mask))
        if isinstance(a, Remove) and isinstance(b, Remove):
            assert a.grow == b.grow
    Edit().save(tmp_path / "empty")
    assert canon.load_edit(tmp_path / "empty").steps == []


def test_a_later_edit_replaces_an_earlier_one_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_edit().save(tmp_path / "e")
    (tmp_path / "e" / "sketch.png").write_bytes(b"mine")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space"):
        patch.setattr(edit_folder, "write_yaml", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        Edit().save(tmp_path / "e")
    assert len(canon.load_edit(tmp_path / "e").steps) == 4
    Edit([Step("x", Remove())]).save(tmp_path / "e")
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["edit.yaml", "sketch.png"]
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "edit.yaml").write_text("a: 1")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "00-foreground.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="00-foreground"):
        some_edit().save(tmp_path / "g")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="x"), "does not describe an edit"),
        (lambda r: r.update(version=2), "version 2"),
        (lambda r: r.pop("steps"), "damaged"),
        (lambda r: r.update(steps=[3]), "damaged"),
        (lambda r: r["steps"][0].update(kind="explode"), "explode"),
        (lambda r: r["steps"][0].update(image="../../secret.png"), "not allowed"),
        (lambda r: r["steps"][0].update(image="none.png"), "does not exist"),
        (lambda r: r["steps"][0].update(image="eight.png"), "not the image that canon wrote"),
        (lambda r: r["steps"][0].update(scale="big"), "damaged"),
        (lambda r: r["steps"][1].update(exposure=float("nan")), "finite"),
        (lambda r: r["steps"][3].update(grow=-4), "grown"),
        (lambda r: r["steps"][3].update(provenance={"who": 1}), "damaged"),
    ],
)
def test_damaged_edits_are_refused(tmp_path: Path, change: object, message: str) -> None:
    some_edit().save(tmp_path / "e")
    write_image(tmp_path / "e" / "eight.png", np.zeros((3, 3, 4), np.uint8))
    write_image(tmp_path / "secret.png", np.zeros((3, 3, 4), np.uint16))
    record = yaml.safe_load((tmp_path / "e" / "edit.yaml").read_text())
    change(record)  # type: ignore[operator]
    (tmp_path / "e" / "edit.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(InputError, match=message):
        canon.load_edit(tmp_path / "e")


def test_aspects() -> None:
    assert (
        fits_canvas((109, 193), (109, 193))
        and fits_canvas((218, 386), (109, 193))
        and fits_canvas((55, 97), (109, 193))
    )
    assert fits_canvas((1090, 1929), (109, 193))
    assert not fits_canvas((193, 109), (109, 193)) and not fits_canvas((109, 200), (109, 193))


def test_resizing_keeps_opaque_opaque_and_nothing_nothing() -> None:
    mask = np.zeros((40, 60), np.float32)
    mask[10:30, 10:50] = 1
    for size in ((20, 30), (80, 120), (55, 83)):
        found = resize_to(mask, size)
        assert found.min() == 0 and found.max() == 1 and found.mean() == pytest.approx(mask.mean(), rel=0.02)


def test_registry_names_what_there_is() -> None:
    assert {"paint", "remove", "grade"} <= set(registry.names(registry.EDITORS))
    with pytest.raises(InputError, match=r"no editor called 'pait'.*grade.*paint.*remove"):
        registry.editor("pait")
    with pytest.raises(InputError, match=r"no representation called 'x'.*atlas"):
        registry.representation("x")


def test_importing_canon_is_light_and_its_names_are_functions() -> None:
    code = (
        "import sys, canon; heavy = {'torch', 'cv2', 'numpy'} & set(sys.modules);"
        "import canon.fits, canon.edits, canon.rendering, canon.editing;"
        "print(sorted(heavy), all(callable(getattr(canon, n)) for n in canon.__all__), hasattr(canon, 'nothing'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[] True False"
    modules = {path.stem for path in Path(canon.__file__).parent.iterdir()}
    assert not modules & set(canon._PLACES), "a module of that name would hide the function once it is imported"
