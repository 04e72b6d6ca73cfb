"""Exports, read back by other means than ours: OpenEXR and OpenCV, csv and json, and a small parser of curves."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from truth import read_exr, rebuilt_from_stmaps, small_scene, true_fit

from canon.cli import BAD_INPUT, DONE, main
from canon.errors import InputError
from canon.exports.labels import labels_from_canvas, propagate_labels
from canon.exports.stabilise import stabilised
from canon.exports.stmap import CONVENTIONS, export_stmaps
from canon.exports.tracks import Tracks, export_tracks, follow, lattice_points, read_points
from canon.fits import Fit
from canon.project import Project
from canon.scenes import Scene
from canon.video import read_frames


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("occlusion", lighting=0.25, frames=5)


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


def parts(scene: Scene, t: int, layer: str) -> np.ndarray:
    """True labels 1..4 of a layer in frame t, by quarters of its texture; uint8 [H, W]."""
    y, x = np.mgrid[: scene.size[0], : scene.size[1]]
    texture = scene.to_texture(t, layer, np.stack([x, y], axis=-1).astype(np.float64))
    height, width = scene.textures[layer].shape[:2]
    return (1 + (texture[..., 0] > width / 2) + 2 * (texture[..., 1] > height / 2)).astype(np.uint8)


def test_a_layer_corresponds_across_frames(scene: Scene, fit: Fit) -> None:
    y, x = np.mgrid[: fit.size[0], : fit.size[1]]
    pixels = np.stack([x, y], axis=-1).astype(np.float64)
    for layer in fit.layers:
        seen = fit.coordinates(4, layer)[1] > 0.9
        positions, sure = fit.correspondence(4, 1, layer)
        true = scene.to_frame(1, layer, scene.to_texture(4, layer, pixels).reshape(-1, 2)).reshape(positions.shape)
        chosen = seen & sure
        assert chosen.sum() > 100 and np.linalg.norm(positions - true, axis=-1)[chosen].max() < 0.3
    same, sure = fit.correspondence(2, 2, "background")
    assert np.abs(same - pixels).max() < 0.05 and sure.all()


def test_labels_of_a_frame_go_where_the_truth_has_them(scene: Scene, fit: Fit) -> None:
    owners = [np.argmax(fit.weights(t), axis=0) for t in range(len(fit))]

    def true(t: int) -> np.ndarray:
        quarters = [parts(scene, t, layer) + 10 * k for k, layer in enumerate(fit.layers)]
        return np.choose(owners[t], quarters).astype(np.uint8)

    for extend in (False, True):
        found = list(propagate_labels(fit, true(1), 1, extend))
        assert np.array_equal(found[1], true(1))
        for t in (0, 4):
            known = found[t] > 0
            assert (known.all() if extend else 0.7 < known.mean() < 1) and (found[t] == true(t))[known].mean() > 0.98
    with pytest.raises(InputError, match="own size"):
        next(iter(propagate_labels(fit, true(1)[1:], 1)))


def test_labels_of_a_canvas_lie_on_their_layer(scene: Scene, fit: Fit) -> None:
    height, width = fit.layer("foreground").canvas_size
    y, x = np.mgrid[: height // 2, : width // 2]
    labels = (1 + (x > (width // 2 - 1) / 2) + 2 * (y > (height // 2 - 1) / 2)).astype(np.uint8)
    for t, found in enumerate(labels_from_canvas(fit, labels, "foreground")):
        shown = fit.coordinates(t, "foreground")[1] > 0.5
        assert not found[~shown].any() and (found == parts(scene, t, "foreground"))[shown].mean() > 0.97
    with pytest.raises(InputError, match="aspect"):
        labels_from_canvas(fit, labels[:, :20], "foreground")


def test_label_files_keep_their_palette(folder: Path, fit: Fit, scene: Scene, tmp_path: Path) -> None:
    image = Image.fromarray(parts(scene, 0, "background"))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "labels.png")
    out = tmp_path / "out"
    command = ["export", str(folder), "labels", "--labels", str(tmp_path / "labels.png"), "--out", str(out)]
    assert main(command) == DONE and main(command) == DONE, "an export may be repeated"
    with Image.open(out / "00003.png") as found:
        assert found.mode == "P" and (found.getpalette() or [])[3:6] == [255, 0, 0] and found.size == fit.size[::-1]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "00000.png").write_text("somebody's frame")
    assert main([*command[:-1], str(tmp_path / "own")]) == BAD_INPUT
    assert (tmp_path / "own" / "00000.png").read_text() == "somebody's frame"
    (tmp_path / "text.png").write_text("no image")
    assert main([*command[:4], str(tmp_path / "text.png")]) == BAD_INPUT
    assert main(command[:3]) == BAD_INPUT


def test_a_layer_held_still_stays_where_it_was(folder: Path, fit: Fit, tmp_path: Path) -> None:
    frames = np.asarray(fit.clip.frames).astype(np.float32)
    still = [frame.astype(np.float32) for frame in stabilised(fit, "background", 2, "black")]
    assert np.array_equal(still[2], frames[2])
    for t in (0, 4):
        positions, sure = fit.correspondence(2, t, "background")
        alone = cv2.remap(fit.weights(t)[-1], positions, None, cv2.INTER_LINEAR) > 0.99
        chosen = sure & alone & (fit.weights(2)[-1] > 0.99)
        light = fit.lighting(2, "background") / fit.lighting(t, "background")  # still changes, but slowly
        before, after = (np.abs(picture - frames[2])[chosen].mean() for picture in (frames[t], still[t] * light))
        assert chosen.mean() > 0.4 and after < 0.35 * before
        assert not still[t][~sure].any()
    filled = list(stabilised(fit, "background", 2, "canvas"))
    assert filled[0].any(axis=-1).mean() > 0.99
    out = tmp_path / "still.mp4"
    assert main(["stabilise", str(folder), "--layer", "foreground", "--frame", "1", "--out", str(out)]) == DONE
    assert len(list(read_frames(out))) == len(fit)
    for options in (["--fill", "white"], ["--frame", "99"], ["--layer", "sky"]):
        assert main(["stabilise", str(folder), *options]) == BAD_INPUT
