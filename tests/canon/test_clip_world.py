"""Cameras, poses and views of a clip: what belongs to which frame, what comes back from disk, and every bad input."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from truth import turned

import canon
from canon.camera_files import read_cameras, write_cameras
from canon.cameras import Camera, look_at, pinhole
from canon.clip import Clip
from canon.clip_world import view_names
from canon.errors import InputError
from canon.folders import array_digest
from canon.project import Project
from canon.skeletons import Motion, Skeleton, axis_rotation
from canon.storage import content_hash, write_arrays, write_image
from canon.video import write_video

H, W, N = 25, 38, 4
SIZE = (H, W)
CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def camera(k: float, size: tuple[int, int] = SIZE, lens: tuple[float, ...] = (0.02, -0.01, 1e-3, 0)) -> Camera:
    """One of many around the origin."""
    place = np.array([2 * np.sin(k), 0.3 * k, 2 * np.cos(k)])
    return look_at(size, pinhole((30 + k, 31), ((size[1] - 1) / 2, 11.5)), place, np.zeros(3), lens)


def motion(count: int, fps: float = 30) -> Motion:
    skeleton = Skeleton(("pelvis", "knee"), (-1, 0), np.array([[0, 0, 0], [0.1, -0.4, 0.02]], np.float32))
    turns = axis_rotation(1, np.linspace(0, 1, count * 2)).reshape(count, 2, 3, 3).astype(np.float32)
    return Motion(skeleton, turns, np.arange(count * 3, dtype=np.float32).reshape(count, 3) / 7, fps)


def same(a: Camera, b: Camera) -> bool:
    """To the last bit."""
    numbers = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("intrinsics", "rotation", "translation"))
    return numbers and (a.size, a.distortion, a.fisheye) == (b.size, b.distortion, b.fisheye)


def all_same(found: list[Camera] | None, wanted: list[Camera]) -> bool:
    return found is not None and all(same(a, b) for a, b in zip(found, wanted, strict=True))


def same_motion(a: Motion | None, b: Motion) -> bool:
    assert a is not None
    bones = (a.skeleton.names, a.skeleton.parents) == (b.skeleton.names, b.skeleton.parents)
    arrays = ((a.rotations, b.rotations), (a.root, b.root), (a.skeleton.offsets, b.skeleton.offsets))
    return bones and a.fps == b.fps and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in arrays)


def write_frames(folder: Path, seed: int = 0, count: int = N, size: tuple[int, int] = SIZE) -> Path:
    for t in range(count):
        write_image(folder / f"{t:05d}.png", picture(100 * seed + t, size))
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "frames")


@pytest.fixture
def rig(tmp_path: Path) -> list[Path]:
    """Three views, called by the folders that they lie in."""
    return [write_frames(tmp_path / f"cam{k}" / "frames", k) for k in (1, 2, 3)]


def transforms(folder: Path, names: list[str], cameras: list[Camera], **more: Any) -> Path:
    entries = [
        {"file_path": name, "transform_matrix": one.to_opengl().tolist(), "fl_x": one.intrinsics[0, 0],
         "fl_y": one.intrinsics[1, 1], "cx": one.intrinsics[0, 2] + 0.5, "cy": one.intrinsics[1, 2] + 0.5}
        for name, one in zip(names, cameras, strict=True)
    ]  # fmt: skip
    path = folder / "transforms.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"w": W, "h": H, "frames": entries, **more}))
    return path


def close(found: Camera, wanted: Camera) -> bool:
    """Both see the same points at the same pixels."""
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (9, 3))
    return found.size == wanted.size and np.allclose(found.project(points)[0], wanted.project(points)[0], atol=1e-8)


class TestOneView:
    def test_none_unless_given(self, frames):
        clip = Clip.load(frames)
        assert (clip.cameras, clip.poses, len(clip.views)) == (None, None, 1)
        assert clip.moments.dtype == np.int64 and clip.moments.tolist() == [0, 1, 2, 3]

    def test_one_camera_counts_for_all_frames(self, frames, tmp_path):
        one = camera(0.4)
        write_cameras(tmp_path / "cameras.json", {"cam7": one})
        for given_so in (one, [one], {"view": one}, {"frames": [one]}, tmp_path / "cameras.json", str(tmp_path)):
            assert all_same(Clip.load(frames, cameras=given_so).cameras, [one] * N)

    def test_one_for_each_frame(self, frames, tmp_path):
        several = [camera(k) for k in range(N)]
        write_cameras(tmp_path / "cameras.json", {f"c{k}": one for k, one in enumerate(several)})
        for given_so in (several, {"view": several}, tmp_path / "cameras.json"):
            assert all_same(Clip.load(frames, cameras=given_so).cameras, several)

    def test_frames_find_theirs_by_the_names_of_images(self, frames, tmp_path):
        # In another order, of other files with the same names, and of more than there are.
        numbers = [3, 5, 1, 0, 2, 4]
        path = transforms(tmp_path / "b", [f"jpgs/{k:05d}.jpg" for k in numbers], [camera(k, lens=()) for k in numbers])
        found = Clip.load(frames, cameras=path).cameras
        assert found is not None and all(close(found[t], camera(t, lens=())) for t in range(N))

    def test_images_of_the_same_name_are_told_apart_by_their_folder(self, rig, tmp_path):
        names = [f"cam{k}/frames/{t:05d}.png" for k in (2, 1, 3) for t in range(N)]
        path = transforms(tmp_path, names, [camera(k, lens=()) for k in range(3 * N)])
        found = Clip.load(rig[0], cameras=path).cameras
        assert found is not None and all(close(found[t], camera(N + t, lens=())) for t in range(N))

    def test_a_view_of_a_rig_finds_its_own(self, rig, tmp_path):
        write_cameras(tmp_path / "cameras.json", {f"cam{k}": camera(k) for k in (1, 2, 3)})
        assert all_same(Clip.load(rig[1], cameras=tmp_path).cameras, [camera(2)] * N)

    @pytest.mark.parametrize("size", [11, (13, 57)])
    def test_cameras_are_resized_with_the_frames(self, frames, size):
        clip = Clip.load(frames, cameras=camera(1), size=size)
        assert clip.cameras is not None and clip.cameras[2].size == clip.size
        points = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3))
        scale = np.array([clip.size[1] / W, clip.size[0] / H])
        expected = (camera(1).project(points)[0] + 0.5) * scale - 0.5
        assert np.allclose(clip.cameras[2].project(points)[0], expected)

    def test_cameras_of_pictures_of_another_size(self, frames):
        assert all_same(Clip.load(frames, cameras=camera(1, (50, 76))).cameras, [camera(1, (50, 76)).resized(SIZE)] * N)
        with pytest.raises(InputError, match=r"pictures of 38x38, .* frames of 38x25"):
            Clip.load(frames, cameras=camera(1, (W, W)))

    def test_poses_belong_to_frames_whatever_their_rate(self, frames):
        clip = Clip.load(frames, poses=motion(N, fps=120), fps=25)
        assert same_motion(clip.poses, motion(N, fps=120)) and clip.fps == 25

    def test_what_max_frames_leaves_out_is_cut(self, frames):
        clip = Clip.load(frames, cameras=[camera(k) for k in range(N)], poses=motion(N), max_frames=3)
        assert all_same(clip.cameras, [camera(k) for k in range(3)])
        assert clip.poses is not None and np.array_equal(clip.poses.root, motion(N).root[:3]) and len(clip.poses) == 3
        # Nothing is left out here, so that one too many is one too many.
        with pytest.raises(InputError, match="5 poses for 4 frames"):
            Clip.load(frames, poses=motion(5), max_frames=9)


class TestViews:
    def test_frames_lie_view_after_view(self, rig):
        clip = Clip.load(rig, cameras=[camera(k) for k in (1, 2, 3)], poses=motion(N))
        assert clip.views == ("cam1", "cam2", "cam3") and len(clip) == 3 * N
        assert clip.moments.tolist() == [*range(N)] * 3
        assert np.array_equal(clip.frames[2 * N + 1], picture(301))
        assert all_same(clip.cameras, [camera(k) for k in (1, 2, 3) for _ in range(N)])
        assert same_motion(clip.poses, motion(N)) and not clip.variable_rate
        assert clip.timestamps == pytest.approx(np.arange(3 * N) / 24)

    def test_cameras_find_their_views_by_name(self, rig, tmp_path):
        write_cameras(tmp_path / "cameras.json", {f"cam{k}": camera(k) for k in (4, 3, 2, 1)})
        wanted = [camera(k) for k in (2, 3, 1) for _ in range(N)]
        turned_round = [rig[1], rig[2], rig[0]]
        assert all_same(Clip.load(turned_round, cameras=tmp_path).cameras, wanted)
        by_name = {"cam1": camera(1), "cam3": [camera(3)] * N, "cam2": camera(2)}
        assert all_same(Clip.load(turned_round, cameras=by_name).cameras, wanted)

    def test_or_in_order(self, rig, tmp_path):
        write_cameras(tmp_path / "cameras.json", {f"c{k}": camera(k) for k in (1, 2, 3)})
        wanted = [camera(k) for k in (1, 2, 3) for _ in range(N)]
        assert all_same(Clip.load(rig, cameras=tmp_path).cameras, wanted)
        moving = [camera(k / 9) for k in range(3 * N)]
        assert all_same(Clip.load(rig, cameras=moving).cameras, moving)
        cut = [moving[k * N + t] for k in range(3) for t in range(2)]
        clip = Clip.load(rig, cameras=moving, poses=motion(N), max_frames=2)
        assert all_same(clip.cameras, cut) and len(clip) == 6 and len(clip.poses or ()) == 2

    def test_or_by_the_images_that_a_file_names(self, rig, tmp_path):
        names = [f"cam{k}/frames/{t:05d}.png" for t in range(N) for k in (1, 2, 3)]
        path = transforms(tmp_path, names, [camera(k, lens=()) for k in range(3 * N)])
        found = Clip.load(rig, cameras=path).cameras
        assert found is not None
        assert all(close(found[k * N + t], camera(3 * t + k, lens=())) for k in range(3) for t in range(N))

    def test_masks_of_each_view(self, rig, tmp_path):
        def mask(seed: int) -> np.ndarray:
            return picture(seed)[..., 0]

        for name, times in (("a/dog", (0, 2)), ("a/wolf", (1,)), ("c/ape", (3,)), ("c/dog", (0, 1, 2, 3))):
            for t in times:
                write_image(tmp_path / name / f"{t:05d}.png", mask(7 + t))
        clip = Clip.load(rig, masks=[tmp_path / "a", None, tmp_path / "c"])
        assert {name: layer.indices for name, layer in clip.masks.items()} == {
            "ape": (11,),
            "dog": (0, 2, 8, 9, 10, 11),
            "wolf": (1,),
        }
        found = clip.masks["dog"].get(10)
        assert found is not None and np.array_equal(found, mask(9))
        assert not [path for path in Path(str(clip.frames.filename)).parent.iterdir() if path.name.startswith(".")]  # type: ignore[attr-defined]

    def test_videos(self, tmp_path):
        for k, count in ((1, 5), (2, 4)):
            write_video(tmp_path / f"cam{k}.mp4", np.full((count, 32, 48, 3), 90 * k, np.uint8), 25)
        videos = [tmp_path / "cam1.mp4", tmp_path / "cam2.mp4"]
        clip = Clip.load(videos, cameras=[camera(k, (32, 48)) for k in range(8)], poses=motion(5), max_frames=3)
        assert clip.views == ("cam1", "cam2") and (len(clip), clip.fps, clip.audio_path) == (6, 25, None)
        assert np.abs(clip.frames[:, 16, 24].astype(int) - np.array([90, 90, 90, 180, 180, 180])[:, None]).max() < 4
        assert all_same(clip.cameras, [camera(k, (32, 48)) for k in (0, 1, 2, 4, 5, 6)])
        with pytest.raises(InputError, match="'cam2' has 4 frames and 'cam1' has 5"):
            Clip.load(videos)

    def test_names(self, tmp_path):
        assert view_names(["a/cam1/frames", "a/cam2/frames"]) == ("cam1", "cam2")
        assert view_names(["a/1/left.mp4", "a/1/right.mp4"]) == ("left.mp4", "right.mp4"), "of files that are not there"
        (tmp_path / "left.mp4").touch()
        (tmp_path / "right.mp4").touch()
        assert view_names([tmp_path / "left.mp4", str(tmp_path / "right.mp4")]) == ("left", "right")
        assert view_names(["a/1/*.png", "a/2/*.png"]) == ("1", "2")
        mixed = view_names(["a/x", "a/y", "b/x"])
        assert len(set(mixed)) == 3 and mixed[0].endswith("a-x")
        with pytest.raises(InputError, match="'a/x' is given twice"):
            view_names(["a/x", "a/y", "a/x"])


class TestLayouts:
    def test_a_folder_or_a_file_of_nerfstudio(self, tmp_path):
        numbers = [10, 2, 1, 33]
        for k in (*numbers, 5):
            write_image(tmp_path / "images" / f"f{k}.png", picture(k))
        transforms(tmp_path, [f"./images/f{k}.png" for k in numbers], [camera(k, lens=()) for k in numbers])
        for source in (tmp_path, tmp_path / "transforms.json"):
            clip = Clip.load(source)
            assert np.array_equal(clip.frames, np.stack([picture(k) for k in sorted(numbers)]))
            assert clip.cameras is not None
            found = zip(clip.cameras, sorted(numbers), strict=True)
            assert all(close(one, camera(k, lens=())) for one, k in found)
        # Given ones come first.
        assert all_same(Clip.load(tmp_path, cameras=camera(9)).cameras, [camera(9)] * 4)

    def test_images_without_numbers_stay_in_order(self, tmp_path):
        for k, name in enumerate("cab"):
            write_image(tmp_path / f"{name}.png", picture(k))
        path = transforms(tmp_path, ["c.png", "a.png", "b.png"], [camera(k) for k in range(3)])
        assert np.array_equal(Clip.load(path).frames, np.stack([picture(k) for k in range(3)]))

    def test_pictures_that_are_not_there_are_told(self, tmp_path, caplog):
        for k in (0, 2):
            write_image(tmp_path / f"{k}.png", picture(k))
        transforms(tmp_path, ["0.png", "1.png", "2.png"], [camera(k, lens=()) for k in range(3)])
        clip = Clip.load(tmp_path)
        assert clip.cameras is not None and close(clip.cameras[1], camera(2, lens=()))
        assert "1 of 3 pictures" in caplog.text and "'1.png'" in caplog.text

    def test_human_nerf(self, tmp_path):
        content = {}
        for k in range(N):
            write_image(tmp_path / "images" / f"frame_{k:06d}.png", picture(k))
            write_image(tmp_path / "masks" / f"frame_{k:06d}.png", picture(50 + k)[..., 0])
            one = camera(k)
            pose = np.vstack([np.column_stack([one.rotation, one.translation]), [0, 0, 0, 1]])
            turn = [0.0, 0.1 * k, 0.0]
            content[f"frame_{k:06d}"] = {
                "poses": turn + [0.0] * 69,
                "betas": [0.0] * 10,
                "cam_intrinsics": one.intrinsics.tolist(),
                "cam_extrinsics": pose.tolist(),
            }
        (tmp_path / "metadata.json").write_text(json.dumps(content))
        pytest.importorskip("canon.poses")
        clip = Clip.load(tmp_path)
        assert clip.cameras is not None and all(close(one, camera(k, lens=())) for k, one in enumerate(clip.cameras))
        assert np.array_equal(clip.masks["foreground"].values, np.stack([picture(50 + k)[..., 0] for k in range(N)]))
        assert clip.poses is not None and len(clip.poses) == N
        angles = np.arctan2(clip.poses.rotations[:, 0, 0, 2], clip.poses.rotations[:, 0, 0, 0])
        assert angles == pytest.approx(0.1 * np.arange(N), abs=1e-5)

    def test_a_metadata_of_something_else_means_nothing(self, tmp_path):
        write_frames(tmp_path / "images")
        (tmp_path / "metadata.json").write_text('{"title": "my holiday"}')
        assert Clip.load(tmp_path).cameras is None

    def test_neuman_whose_masks_are_white_off_the_person(self, tmp_path, caplog):
        caplog.set_level(logging.INFO, "canon")
        write_frames(tmp_path / "images", count=N + 1)
        person = np.zeros((N + 1, H, W), np.uint8)
        person[:, 5:20, 7:19] = 255
        lines = []
        for k in range(N + 1):
            write_image(tmp_path / "segmentations" / f"{k:05d}.png", 255 - person[k])
            lines += [f"{k + 1} 1 0 0 0 {k / 10} 0 2 1 {k:05d}.png", ""]
        sparse = tmp_path / "sparse"
        sparse.mkdir()
        (sparse / "cameras.txt").write_text(f"1 PINHOLE {W} {H} 30 31 19 12.5\n")
        (sparse / "images.txt").write_text("\n".join(lines[:-2]) + "\n")  # the last one has no camera
        pytest.importorskip("canon.poses")
        clip = Clip.load(tmp_path)
        assert len(clip) == N and np.array_equal(clip.masks["foreground"].values, person[:N])
        assert clip.cameras is not None
        for k, one in enumerate(clip.cameras):
            assert np.allclose(one.intrinsics, pinhole((30, 31), (18.5, 12.0)))
            assert np.allclose(one.translation, [k / 10, 0, 2])
        assert "took the masks" in caplog.text and "1 pictures" in caplog.text
        assert clip.poses is None and "poses found beside the frames are left out" in caplog.text
        # Masks that are given are meant as they are.
        given_so = Clip.load(tmp_path, masks=tmp_path / "segmentations")
        assert np.array_equal(given_so.masks["foreground"].values, 255 - person[:N])

    @pytest.mark.skipif(not CLIPS.exists(), reason="the shared clips are not here")
    def test_real_ones(self):
        fox = Clip.load(CLIPS / "static_fox", size=240)
        assert len(fox) == 50 and fox.cameras is not None and {one.size for one in fox.cameras} == {(240, 135)}
        person = CLIPS / "human_pose2sim"
        views = [person / name / "frames" for name in ("cam03", "cam01")]
        masks = [path.parent / "masks_derived" for path in views]
        clip = Clip.load(views, masks, cameras=person / "cameras.json", size=241)
        assert len(clip) == 80 and clip.views == ("cam03", "cam01") and clip.cameras is not None
        joints = np.load(person / "joints.npz", allow_pickle=False)["joints3d"]
        layer, on_person = clip.masks["foreground"], []
        for t, moment in enumerate(clip.moments):
            pixels = np.round(clip.cameras[t].project(joints[moment])[0]).astype(int)
            seen = ((pixels >= 0) & (pixels < clip.size[::-1])).all(axis=1)
            mask = layer.get(t)
            assert mask is not None
            on_person.append((mask[pixels[seen, 1], pixels[seen, 0]] > 127).mean())
        assert np.mean(on_person) > 0.85, "the joints are seen where the person is"


def bad_transforms(tmp_path: Path, **change: Any) -> Path:
    write_frames(tmp_path / "t" / "images")
    names = [f"images/{t:05d}.png" for t in range(N)]
    path = transforms(tmp_path / "t", names, [camera(t, lens=()) for t in range(N)])
    content = json.loads(path.read_text())
    content["frames"][1] |= change
    path.write_text(json.dumps(content))
    return path.parent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": [camera(0)] * 3}, "3 cameras for 4 frames: frame 3 is the first of 1 without one"),
        ({"cameras": [camera(0)] * 5}, "5 cameras for 4 frames; give"),
        ({"cameras": []}, "0 cameras for 4 frames"),
        ({"cameras": {"view": camera(0), "cam9": camera(1)}}, "camera 'cam9' belongs to no view"),
        ({"cameras": 5}, "int is no camera"),
        ({"cameras": [camera(0), 5]}, "int is no camera"),
        ({"poses": [1, 2]}, "list holds no poses"),
        ({"poses": motion(3)}, "3 poses for 4 frames"),
        ({"poses": motion(5)}, "5 poses for 4 frames"),
    ],
)
def test_bad_ones_of_one_view(options: dict[str, Any], message: str, frames: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Clip.load(frames, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fl_x": 0}, "focal lengths must be larger than 0"),
        ({"fl_x": float("nan")}, "intrinsics must be 3x3 finite"),
        ({"transform_matrix": [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "rotation must be one"),
        ({"file_path": "../../secret.png"}, "not allowed"),
        ({"file_path": "/etc/passwd"}, "not allowed"),
        ({"file_path": "images/00002.png"}, "names '00002.png' twice"),
    ],
)
def test_bad_transforms(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Clip.load(bad_transforms(tmp_path, **change))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_frames_without_a_camera_are_told(frames: Path, tmp_path: Path) -> None:
    path = transforms(tmp_path / "b", ["00000.png", "00003.png", "x.png"], [camera(k) for k in range(3)])
    with pytest.raises(InputError, match=r"2 of 4 frames have no camera, '00001\.png' first of all"):
        Clip.load(frames, cameras=path)


def test_pickles_are_refused(frames: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    for name in ("cameras.pkl", "cameras.json"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match="cannot be read"):
            Clip.load(frames, cameras=tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_poses_that_are_not_finite_or_of_other_shapes(frames: Path) -> None:
    broken = motion(N)
    broken.root[2, 1] = np.nan
    with pytest.raises(InputError, match="pose of frame 2 is not of finite"):
        Clip.load(frames, poses=broken)
    odd = Motion(broken.skeleton, motion(N).rotations[:, :1], motion(N).root, 30)
    with pytest.raises(InputError, match=r"rotations \[T, 2, 3, 3\]"):
        Clip.load(frames, poses=odd)


def test_bad_views(rig: list[Path], tmp_path: Path) -> None:
    def told(message: str, source: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message) as caught:
            Clip.load(source, **options)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")

    told("nothing to load", [])
    told("given twice", [rig[0], rig[0]])
    told("masks for 1 views and 3 views", rig, masks=tmp_path)
    told("1 cameras for 3 views of 4 frames", rig, cameras=camera(0))
    told("2 cameras for 3 views", rig, cameras=[camera(0), camera(1)])
    told("1 of 3 views have no camera, 'cam2' first", rig, cameras={"cam1": camera(0), "cam3": camera(0)})
    told("camera 'cam4' belongs to no view; .*cam1, cam2, cam3", rig, cameras={"cam4": camera(0)})
    write_cameras(tmp_path / "cameras.json", {"cam1": camera(1), "cam2": camera(2), "left": camera(3)})
    told("view 'cam3' has no camera of its name; there are cameras for cam1, cam2, left", rig, cameras=tmp_path)
    told("5 poses for 4 frames", rig, poses=motion(5))
    shorter = write_frames(tmp_path / "cam4" / "frames", 4, N - 1)
    told("'cam4' has 3 frames and 'cam1' has 4", [*rig, shorter])
    assert len(Clip.load([*rig, shorter], max_frames=3)) == 12
    other = write_frames(tmp_path / "cam5" / "frames", 5, N, (W, H))
    told("'cam5' is 25x38 and 'cam1' is 38x25", [*rig, other])
    assert Clip.load([*rig, other], size=(20, 20)).frames.shape == (4 * N, 20, 20, 3)


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: abs(x) > 1e-12)


class TestOnDisk:
    @settings(max_examples=40, deadline=None)
    @given(
        numbers=st.lists(NUMBERS, min_size=7, max_size=7),
        turn=st.tuples(*[st.floats(-3, 3)] * 3),
        size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
        lens=st.sampled_from([0, 4, 5, 8, -4]),
    )
    def test_cameras_come_back_to_the_last_bit(self, numbers, turn, size, lens, tmp_path_factory):
        matrix = pinhole((abs(numbers[0]), abs(numbers[1])), numbers[2:4])
        coefficients = tuple(value / 3e7 for value in (*numbers, numbers[0]))[: abs(lens)]
        one = Camera(size, matrix, turned(turn), np.array(numbers[4:]), coefficients, fisheye=lens < 0)
        path = tmp_path_factory.mktemp("cameras") / "cameras.json"
        write_cameras(path, {"a": one, "ü b": one})
        found = read_cameras(path)
        assert [view.name for view in found] == ["a", "ü b"] and all(same(view.camera, one) for view in found)

    @pytest.mark.parametrize("moving", [False, True])
    @pytest.mark.parametrize("views", [("view",), ("left", "right")])
    def test_everything_comes_back(self, moving, views, tmp_path):
        count = N * len(views)
        cameras = [camera(k if moving else k // N) for k in range(count)]
        clip = Clip.from_frames([picture(k) for k in range(count)], cameras=cameras, poses=motion(N), views=views)
        clip.save(tmp_path / "clip")
        back = Clip.open(tmp_path / "clip")
        assert all_same(back.cameras, cameras) and same_motion(back.poses, motion(N)) and back.views == views
        assert back.content_hash == clip.content_hash
        back.known_hash = None
        assert back.content_hash == clip.content_hash, "from what lies on the disk"
        record = yaml.safe_load((tmp_path / "clip" / "clip.yaml").read_text())
        assert (record["cameras"], record["poses"]) == ("cameras.json", "poses.safetensors")
        # What canon wrote can be given as cameras, and saved again without a trace of what is gone.
        assert all_same(
            Clip.from_frames(clip.frames, cameras=tmp_path / "clip" / "cameras.json", views=views).cameras, cameras
        )
        Clip.from_frames(clip.frames).save(tmp_path / "clip")
        assert not (tmp_path / "clip" / "cameras.json").exists() and Clip.open(tmp_path / "clip").cameras is None

    def test_a_saved_clip_takes_others(self, frames, tmp_path):
        Clip.load(frames, cameras=camera(1), poses=motion(N)).save(tmp_path / "clip")
        clip = Clip.load(tmp_path / "clip", cameras=camera(2))
        assert all_same(clip.cameras, [camera(2)] * N) and same_motion(clip.poses, motion(N))
        assert clip.content_hash == Clip.load(frames, cameras=camera(2), poses=motion(N)).content_hash

    def test_hashes(self, frames, tmp_path):
        plain = Clip.load(frames)
        digest = content_hash([N, H, W, 3], array_digest(plain.frames), [])
        assert plain.content_hash == digest, "as before there were cameras"
        assert "cameras" not in {path.stem for path in tmp_path.iterdir()}
        nudged = camera(1)
        nudged.translation[0] = np.nextafter(nudged.translation[0], 9)
        moved = motion(N)
        moved.root[-1, -1] += 1
        clips = [
            plain,
            *(Clip.load(frames, cameras=one) for one in (camera(1), nudged, [camera(1)] * 3 + [camera(2)])),
            *(Clip.load(frames, poses=one) for one in (motion(N), moved, motion(N, 60))),
            Clip.load(frames, cameras=camera(1), poses=motion(N)),
            Clip.from_frames(plain.frames, views=("a", "b")),
            Clip.from_frames(plain.frames, views=("a", "c")),
        ]
        assert len({clip.content_hash for clip in clips}) == len(clips)
        assert clips[1].content_hash == Clip.load(frames, cameras=[camera(1)] * N).content_hash
        plain.save(tmp_path / "clip")
        assert {"views", "cameras", "poses"}.isdisjoint(yaml.safe_load((tmp_path / "clip" / "clip.yaml").read_text()))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda folder, record: record.update(cameras="../cameras.json"),
            lambda folder, record: record.update(cameras="gone.json"),
            lambda folder, record: record.update(poses="/etc/passwd"),
            lambda folder, record: record.update(views=["a", "a"]),
            lambda folder, record: record.update(views=["a", "b", "c"]),
            lambda folder, record: record.update(views=5),
            lambda folder, record: (folder / "cameras.json").write_text("{}"),
            lambda folder, record: write_cameras(folder / "cameras.json", {str(k): camera(k) for k in range(3)}),
            lambda folder, record: (folder / "poses.safetensors").write_bytes(pickle.dumps([1])),
            lambda folder, record: write_arrays(folder / "poses.safetensors", {"fps": np.zeros(0)}),
            lambda folder, record: write_arrays(
                folder / "poses.safetensors",
                {"rotations": motion(3).rotations, "root": motion(3).root, "offsets": np.zeros((1, 3)),
                 "parents": np.array([-1]), "names": np.frombuffer(b'["a"]', np.uint8), "fps": np.ones(1)},
            ),
        ],
    )  # fmt: skip
    def test_damage_is_told(self, spoil, frames, tmp_path):
        folder = tmp_path / "clip"
        Clip.load(frames, cameras=[camera(k) for k in range(N)], poses=motion(N)).save(folder)
        record = yaml.safe_load((folder / "clip.yaml").read_text())
        spoil(folder, record)
        (folder / "clip.yaml").write_text(yaml.safe_dump(record))
        with pytest.raises(InputError) as caught:
            Clip.open(folder)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_part_carries_its_own(frames: Path, rig: list[Path]) -> None:
    clip = Clip.load(frames, cameras=[camera(k) for k in range(N)], poses=motion(N)).part(1, 2)
    assert all_same(clip.cameras, [camera(1), camera(2)])
    assert clip.poses is not None and np.array_equal(clip.poses.rotations, motion(N).rotations[1:3])
    assert len(clip.poses) == 2 and clip.moments.tolist() == [0, 1]
    with pytest.raises(InputError, match="3 views cannot be cut"):
        Clip.load(rig).part(0, 1)


def test_views_of_frames_made_here() -> None:
    pictures = [picture(k) for k in range(5)]
    for views in (("a", "b"), ("a", "a"), ()):
        with pytest.raises(InputError, match="5 frames cannot be those of the views"):
            Clip.from_frames(pictures, views=views)


def test_a_project_keeps_its_frames_and_takes_other_cameras(frames: Path, tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    project.adopt(Clip.load(frames))
    clip = project.adopt(Clip.load(frames, cameras=camera(1), poses=motion(N)))
    assert all_same(clip.cameras, [camera(1)] * N) and same_motion(clip.poses, motion(N))
    assert str(clip.frames.filename) == str(project.clip_folder / "frames.npy")  # type: ignore[attr-defined]
    assert Clip.open(project.clip_folder).cameras is None
    # The first clip of a project keeps its cameras there.
    other = Project.create(tmp_path / "other")
    first = other.adopt(Clip.load(frames, cameras=camera(1)))
    assert all_same(first.cameras, [camera(1)] * N)
    assert all_same(other.adopt(Clip.load(frames, cameras=camera(1))).cameras, [camera(1)] * N)
    assert all_same(Clip.open(other.clip_folder).cameras, [camera(1)] * N)


@pytest.mark.parametrize("representation", ["atlas", "codef"])
def test_several_views_are_not_for_two_dimensions(representation: str, rig: list[Path]) -> None:
    with pytest.raises(InputError, match=r"3 views, .*several views; use dynamic-nerf"):
        canon.fit(Clip.load(rig), representation)
