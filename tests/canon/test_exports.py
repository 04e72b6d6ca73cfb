"""Exports, read back by other means than ours: OpenEXR and OpenCV, csv and json, and a small parser of curves."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from truth import read_exr, rebuilt_from_stmaps, small_scene, true_fit

from canon.cli import BAD_INPUT, DONE, main
from canon.errors import InputError
from canon.exports.stmap import CONVENTIONS, export_stmaps
from canon.exports.tracks import Tracks, export_tracks, follow, lattice_points, read_points
from canon.fits import Fit
from canon.project import Project
from canon.scenes import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("occlusion", lighting=0.25, frames=5)


@pytest.fixture(scope="module")
def fit(scene: Scene) -> Fit:
    return true_fit(scene)


@pytest.fixture(scope="module")
def folder(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the fit in it; not to be changed."""
    path = tmp_path_factory.mktemp("project") / "p"
    project = Project.create(path)
    project.adopt(fit.clip)
    fit.save(project.fit_folder("atlas"))
    return path


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_another_sampler_rebuilds_our_render(fit: Fit, tmp_path: Path, convention: str) -> None:
    target = tmp_path / "out"
    written = export_stmaps(fit, target, convention)
    assert written[0] == target and all(path.exists() for path in written)
    for t in (0, len(fit) - 1):
        off = np.abs(rebuilt_from_stmaps(target, t) - fit.reconstruct(t)).max(axis=-1)
        for name in fit.layers:
            assert (off[fit.coordinates(t, name)[1] > 0] <= 1 / 255).mean() >= 0.99, name
    st = read_exr(target / "foreground" / "stmap.00001.exr")
    weight = fit.coordinates(1, "foreground")[1]
    assert st["R"].dtype == np.float32 and np.isfinite(st["R"]).all()
    if convention == "blender":
        assert (st["B"] == 1).all() and (st["A"] == 1).all()
    else:
        np.testing.assert_allclose(st["A"], weight)
    assert ("U" in st) == (convention == "fusion")


@pytest.mark.parametrize("finer", [2, 5])
def test_plates_finer_than_the_frames_come_with_their_halves(scene: Scene, tmp_path: Path, finer: int) -> None:
    fine = true_fit(scene, canvas_scale=finer)
    export_stmaps(fine, tmp_path / "out", "nuke", ["background"])
    (layer,) = json.loads((tmp_path / "out" / "stmaps.json").read_text())["layers"]
    assert len(layer["plates"]) == {2: 2, 5: 3}[finer]
    assert np.sum(layer["weights"], axis=0) == pytest.approx(np.ones(len(fine)))
    assert [side % 2 ** (len(layer["plates"]) - 1) for side in layer["size"]] == [0, 0]
    background = np.where(fine.coordinates(3, "background")[1] == 1)
    off = np.abs(rebuilt_from_stmaps(tmp_path / "out", 3) - fine.reconstruct(3)).max(axis=-1)[background]
    assert (off <= 1 / 255).mean() >= 0.99
    text = (tmp_path / "out" / "comp.nk").read_text()
    assert text.count("STMap {") == text.count("Multiply {") == len(layer["plates"])


def test_the_canvas_seen_straight_is_the_identity_map() -> None:
    from canon.exports.stmap import stmap

    y, x = np.mgrid[:7, :11].astype(np.float32)
    st = stmap(np.stack([x, y], -1), (7, 11))
    assert st[0, 0].tolist() == pytest.approx([0.5 / 11, 1 - 0.5 / 7])
    assert st[6, 10].tolist() == pytest.approx([10.5 / 11, 0.5 / 7])


def test_scripts_name_what_is_there(fit: Fit, tmp_path: Path) -> None:
    (_, nuke) = export_stmaps(fit, tmp_path / "n", "nuke", ["foreground", "background"])
    text = nuke.read_text()
    files = re.findall(r"root.name\]\]/([^\"]+)", text)
    assert len(files) == 8 and text.count("{") == text.count("}")
    assert all((tmp_path / "n" / (name % 0 if "%" in name else name)).exists() for name in files)
    assert text.count("STMap {") == 2 and text.count("operation plus") == 1
    (_, blender) = export_stmaps(fit, tmp_path / "b", "blender")
    compile(blender.read_text(), str(blender), "exec")


def test_an_export_replaces_its_own_and_nothing_else(fit: Fit, tmp_path: Path) -> None:
    export_stmaps(fit, tmp_path / "out", "nuke")
    (tmp_path / "out" / "mine.txt").write_text("keep")
    export_stmaps(fit, tmp_path / "out", "fusion", ["background"])
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["background", "mine.txt", "stmaps.json"]
    (tmp_path / "other" / "background").mkdir(parents=True)
    with pytest.raises(InputError, match="did not write"):
        export_stmaps(fit, tmp_path / "other")
    with pytest.raises(InputError, match="not known"):
        export_stmaps(fit, tmp_path / "x", "shake")


@pytest.fixture(scope="module")
def tracks(fit: Fit) -> Tracks:
    points = np.concatenate([lattice_points(fit, name, 2, 16) for name in fit.layers])
    return follow(fit, points, 2)


def test_tracks_are_true_and_survive_json_and_csv(scene: Scene, fit: Fit, tracks: Tracks, tmp_path: Path) -> None:
    assert set(tracks.layers) == set(fit.layers)
    for layer in fit.layers:
        chosen = [k for k, name in enumerate(tracks.layers) if name == layer]
        start = tracks.positions[2, chosen].astype(np.float64)
        texture = scene.to_texture(2, layer, start)
        true = scene.to_frame(4, layer, texture)
        inside = tracks.visible[4, chosen]
        assert inside.any() and np.abs(tracks.positions[4, chosen] - true)[inside].max() < 0.3
    export_tracks(tracks, tmp_path / "t.json", "json")
    export_tracks(tracks, tmp_path / "t.csv", "csv")
    found = json.loads((tmp_path / "t.json").read_text())
    assert (found["height"], found["width"]) == fit.size and found["frame"] == 2
    positions = np.array([row["positions"] for row in found["tracks"]]).transpose(1, 0, 2)
    np.testing.assert_allclose(positions, tracks.positions, atol=1e-4)
    assert np.array_equal(np.array([row["visible"] for row in found["tracks"]]).T, tracks.visible)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    count = tracks.positions.shape[1]
    assert len(rows) == tracks.visible.size
    assert (int(rows[count + 1]["frame"]), int(rows[count + 1]["track"])) == (1, 1)
    assert float(rows[count + 1]["x"]) == pytest.approx(tracks.positions[1, 1, 0], abs=1e-4)


def test_compositors_get_keys_where_a_point_is_seen(fit: Fit, tracks: Tracks, tmp_path: Path) -> None:
    export_tracks(tracks, tmp_path / "t.nk", "nuke")
    text = (tmp_path / "t.nk").read_text()
    curves = re.findall(r"track\d \{\{curve ([^}]*)\} \{curve ([^}]*)\}\}", text)
    assert len(curves) == tracks.positions.shape[1] and text.count("{") == text.count("}")
    for k, pair in enumerate(curves):
        x, y = ({int(t): float(v) for t, v in re.findall(r"x(\d+) (\S+)", curve)} for curve in pair)
        assert list(x) == np.flatnonzero(tracks.visible[:, k]).tolist()
        assert x[2] - 0.5 == pytest.approx(tracks.positions[2, k, 0], abs=1e-3)
        assert fit.size[0] - y[2] - 0.5 == pytest.approx(tracks.positions[2, k, 1], abs=1e-3)
    export_tracks(tracks, tmp_path / "t.txt", "ae")
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert lines[0] == "Adobe After Effects 8.0 Keyframe Data" and lines[-1] == "End of Keyframe Data"
    assert f"\tSource Width\t{fit.size[1]}" in lines
    keys = [line for line in lines if re.fullmatch(r"\t\d+\t[-.\d]+\t[-.\d]+", line)]
    assert len(keys) == tracks.visible.sum()


def test_points_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("x,y\n3,4\n# a remark\n5.5 6\n")
    assert read_points(path, (20, 30)).tolist() == [[3, 4], [5.5, 6]]
    for text, message in (
        ("", "1 to"),
        ("a,b\n", "no point"),
        ("1,2,3\n", "one 'x,y'"),
        ("40,2\n", "outside the 30x20"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_points(path, (20, 30))
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path / "none.csv", (20, 30))


def test_the_command(folder: Path, fit: Fit, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", str(folder), "stmap", "--convention", "blender", "--layer", "foreground"]) == DONE
    assert (folder / "exports" / "atlas-blender" / "foreground" / "stmap.00004.exr").exists()
    assert main(["export", str(folder), "tracks", "--format", "ae", "--spacing", "24"]) == DONE
    assert (folder / "exports" / "atlas-tracks.txt").exists()
    points = tmp_path / "points.txt"
    points.write_text("60 50\n")
    out = tmp_path / "one.csv"
    assert (
        main(["export", str(folder), "tracks", "--format", "csv", "--points", str(points), "--out", str(out)]) == DONE
    )
    assert len(out.read_text().splitlines()) == 1 + len(fit)
    assert main(["export", str(folder), "cutout", "--out", str(tmp_path / "cut") + "/"]) == DONE
    cut = cv2.imread(str(tmp_path / "cut" / "00002.png"), cv2.IMREAD_UNCHANGED)
    assert cut.shape == (*fit.size, 4)
    assert np.abs(cut[..., 3] / 255 - fit.weights(2)[0]).max() < 0.01
    capsys.readouterr()
    for arguments, message in (
        (["stmap", "--edit", "none"], "no edit"),
        (["tracks", "--frame", "9"], "Frame 9 does not exist"),
        (["tracks", "--format", "xml"], "format 'xml' is not known"),
        (["tracks", "--spacing", "0"], "at least 1"),
        (["stmap", "--convention", "shake"], "convention 'shake' is not known"),
        (["video"], "video"),
        (["cutout", "--layer", "sky"], "sky"),
    ):
        assert main(["export", str(folder), *arguments]) == BAD_INPUT
        said = capsys.readouterr().err.strip()
        assert message in said and "\n" not in said
