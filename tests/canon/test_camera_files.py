"""Cameras as other programs write them: the same come out of every layout; what is damaged or unsafe is told."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from truth import turned

from canon.camera_files import read_cameras
from canon.cameras import Camera, pinhole
from canon.errors import InputError
from canon.storage import write_image

SIZE = (30, 52)
LENS = (0.05, -0.03, 1e-3, -2e-3)
FOX = Path(__file__).parents[2].parent / "shared" / "clips" / "static_fox"
PERSON = FOX.parent / "human_pose2sim"


def three(lens: tuple[float, ...] = LENS, fisheye: bool = False) -> list[Camera]:
    shifts = ([0.1, -0.2, 2.0], [0.4, 0.0, 2.5], [-0.3, 0.3, 1.5])
    turns = ((0.2, 0.4, -0.3), (1.2, -0.8, 0.1), (-0.4, 2.2, 0.6))
    matrix = pinhole((41, 43), (25.25, 15.5))
    return [
        Camera(SIZE, matrix, turned(turn), np.array(shift), lens, fisheye=fisheye)
        for turn, shift in zip(turns, shifts, strict=True)
    ]


def same(found: Camera, wanted: Camera) -> bool:
    numbers = ("intrinsics", "rotation", "translation")
    close = all(np.allclose(getattr(found, name), getattr(wanted, name), atol=1e-9) for name in numbers)
    lens = np.allclose(found.distortion or [0.0] * 4, wanted.distortion or [0.0] * 4)
    return close and lens and found.size == wanted.size and found.fisheye == wanted.fisheye


def nerfstudio(cameras: list[Camera], folder: Path, **more: Any) -> Path:
    """What nerfstudio writes of them, pixels counted from the corner."""
    (folder / "images").mkdir(exist_ok=True)
    frames = []
    for k, one in enumerate(cameras):
        write_image(folder / "images" / f"{k}.png", np.zeros((*SIZE, 3), np.uint8))
        frames.append({"file_path": f"./images/{k}.png", "transform_matrix": one.to_opengl().tolist()})
    lens = dict(zip(("k1", "k2", "p1", "p2"), cameras[0].distortion, strict=False))
    own = {"fl_x": 41, "fl_y": 43, "cx": 25.75, "cy": 16.0, **lens, "frames": frames, **more}
    (folder / "transforms.json").write_text(json.dumps(own))
    return folder


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation, by its eigenvector: another way than the reader goes back."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    values, vectors = np.linalg.eigh(k / 3)
    return np.asarray(vectors[:, values.argmax()])


def colmap(cameras: list[Camera], folder: Path, binary: bool, model: tuple[int, str], params: list[float]) -> Path:
    """A COLMAP model of them, as its documentation says."""
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    poses = [(quaternion(one.rotation), one.translation) for one in cameras]
    if binary:
        head = struct.pack("<QiiQQ", 1, 7, model[0], SIZE[1], SIZE[0])
        (place / "cameras.bin").write_bytes(head + struct.pack(f"<{len(params)}d", *params))
        body = struct.pack("<Q", len(poses))
        for k, (turn, shift) in reversed(list(enumerate(poses))):
            body += struct.pack("<i7di", k + 1, *turn, *shift, 7) + f"{k}.png".encode() + b"\0"
            body += struct.pack("<Q", k) + struct.pack("<ddq", 1.0, 2.0, -1) * k
        (place / "images.bin").write_bytes(body)
        return folder
    values = " ".join(map(repr, params))
    (place / "cameras.txt").write_text(f"# one camera\n7 {model[1]} {SIZE[1]} {SIZE[0]} {values}\n")
    lines = ["# two lines each"]
    for k, (turn, shift) in enumerate(poses):
        lines += [" ".join(map(str, [k + 1, *map(float, (*turn, *shift)), 7, f"{k}.png"])), "1.0 2.0 -1" if k else ""]
    (place / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(("lens", "fisheye"), [((), False), (LENS, False), ((0.05, -0.03, 0.01, 0.002), True)])
def test_nerfstudio(lens: tuple[float, ...], fisheye: bool, tmp_path: Path) -> None:
    wanted = three(lens, fisheye)
    more = (
        {"camera_model": "OPENCV_FISHEYE", **dict(zip(("k1", "k2", "k3", "k4"), lens, strict=False))} if fisheye else {}
    )
    found = read_cameras(nerfstudio(wanted, tmp_path, **more))
    assert [one.name for one in found] == ["0.png", "1.png", "2.png"]
    assert all(same(view.camera, camera) for view, camera in zip(found, wanted, strict=True))
    assert all(view.image is not None and view.image.is_file() for view in found)


def test_a_field_of_view_in_the_place_of_a_focal_length(tmp_path: Path) -> None:
    folder = nerfstudio(three(()), tmp_path)
    content = json.loads((folder / "transforms.json").read_text())
    content = {"camera_angle_x": 2 * np.arctan(52 / 2 / 41), "frames": content["frames"]}
    (folder / "transforms.json").write_text(json.dumps(content))
    camera = read_cameras(folder / "transforms.json")[0].camera
    assert np.allclose(camera.intrinsics, pinhole((41, 41), (25.5, 14.5)))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("model", "params", "lens", "fisheye"),
    [
        ((1, "PINHOLE"), [41, 43, 25.75, 16.0], (), False),
        ((4, "OPENCV"), [41, 43, 25.75, 16.0, *LENS], LENS, False),
        (
            (6, "FULL_OPENCV"),
            [41, 43, 25.75, 16.0, *LENS, 0.01, 0.02, 0.03, 0.04],
            (*LENS, 0.01, 0.02, 0.03, 0.04),
            False,
        ),
        ((5, "OPENCV_FISHEYE"), [41, 43, 25.75, 16.0, *LENS], LENS, True),
    ],
)
def test_colmap(
    binary: bool, model: tuple[int, str], params: list[float], lens: tuple[float, ...], fisheye: bool, tmp_path: Path
) -> None:
    wanted = three(lens, fisheye)
    found = read_cameras(colmap(wanted, tmp_path, binary, model, params))
    assert [one.name for one in found] == ["0.png", "1.png", "2.png"]
    assert all(same(view.camera, camera) for view, camera in zip(found, wanted, strict=True))


def test_one_coefficient_of_colmap(tmp_path: Path) -> None:
    found = read_cameras(colmap(three(), tmp_path, True, (2, "SIMPLE_RADIAL"), [41, 25.75, 16.0, 0.1]))[0].camera
    assert found.distortion == (0.1, 0, 0, 0) and np.allclose(found.intrinsics, pinhole((41, 41), (25.25, 15.5)))


def test_plain_and_human_nerf(tmp_path: Path) -> None:
    wanted = three()
    plain = {
        f"cam{k}": {"width": 52, "height": 30, "K": one.intrinsics.tolist(), "R": one.rotation.tolist(),
                    "t": one.translation.tolist(), "distortion": LENS}
        for k, one in enumerate(wanted)
    }  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": plain}))
    found = read_cameras(tmp_path)
    assert all(same(view.camera, camera) for view, camera in zip(found, wanted, strict=True))
    layout = tmp_path / "wild"
    (layout / "images").mkdir(parents=True)
    content = {}
    for k, one in enumerate(wanted):
        write_image(layout / "images" / f"{k}.png", np.zeros((*SIZE, 3), np.uint8))
        pose = np.vstack([np.column_stack([one.rotation, one.translation]), [0, 0, 0, 1]])
        content[str(k)] = {"cam_intrinsics": one.intrinsics.tolist(), "cam_extrinsics": pose.tolist(), "poses": []}
    (layout / "metadata.json").write_text(json.dumps(content))
    found = read_cameras(layout)
    assert all(same(view.camera, camera) for view, camera in zip(found, three(()), strict=True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR is none of"),
        ({"fl_x": float("nan")}, "3x3 finite numbers"),
        ({"fl_x": 0}, "focal lengths"),
        ({"k4": 0.1}, "undistort"),
        ({"frames": [{"file_path": "../secret.png", "transform_matrix": np.eye(4).tolist()}]}, "is not allowed"),
        ({"frames": [{"file_path": "/etc/passwd", "transform_matrix": np.eye(4).tolist()}]}, "is not allowed"),
        ({"frames": [{"file_path": "none.png", "transform_matrix": np.eye(4).tolist()}]}, "tell its size"),
        ({"frames": [{"file_path": "images/0.png"}]}, "'transform_matrix' is missing"),
        ({"frames": [{"file_path": "images/0.png", "transform_matrix": [[1, 2], [3, 4]]}]}, "3x4 or 4x4"),
        ({"frames": 5}, "neither a transforms.json"),
    ],
)
def test_bad_files_are_told(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        read_cameras(nerfstudio(three(), tmp_path, **change))


def test_damaged_and_missing_ones_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cameras in"):
        read_cameras(tmp_path)
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_cameras(tmp_path)
    folder = colmap(three(), tmp_path / "model", True, (1, "PINHOLE"), [41, 43, 25.75, 16.0])
    images = folder / "sparse" / "0" / "images.bin"
    images.write_bytes(images.read_bytes()[:-50])
    with pytest.raises(InputError, match="cannot be read"):
        read_cameras(folder)
    other = colmap(three(), tmp_path / "other", True, (10, "THIN_PRISM_FISHEYE"), [1.0] * 12)
    with pytest.raises(InputError, match="THIN_PRISM_FISHEYE is none of"):
        read_cameras(other)


@pytest.mark.skipif(not FOX.exists(), reason="the shared clips are not here")
def test_real_ones() -> None:
    fox = read_cameras(FOX)
    assert len(fox) == 50 and all(view.image is not None and view.camera.size == (960, 540) for view in fox)
    # All look at about the same place: the rays through their middles meet.
    places = np.stack([view.camera.position for view in fox])
    ways = np.stack([view.camera.directions(np.array([269.5, 479.5])) for view in fox])
    across = np.eye(3) - ways[:, :, None] * ways[:, None]
    meeting = np.linalg.solve(across.sum(axis=0), (across @ places[..., None]).sum(axis=0))[:, 0]
    apart = np.linalg.norm((across @ (meeting - places)[..., None])[..., 0], axis=1)
    assert np.median(apart) < 0.15 * np.median(np.linalg.norm(places - meeting, axis=1))
    # Joints that were found in three dimensions are seen where a detector saw them.
    joints = np.load(PERSON / "joints.npz", allow_pickle=False)
    names, detected = list(joints["joint_names"]), list(joints["body25b_names"])
    both = [name for name in names if name in detected]
    assert len(both) > 8
    for view in read_cameras(PERSON):
        pixels, depth = view.camera.project(joints["joints3d"][:, [names.index(name) for name in both]])
        seen = joints[f"kp2d_{view.name}"][:, [detected.index(name) for name in both]]
        apart = np.linalg.norm(pixels - seen[..., :2], axis=-1)[seen[..., 2] > 0.3]
        assert (depth > 0).all() and np.median(apart) < 8
