"""Clips: every kind of source and mask, saving and opening, and every bad input in one sentence."""

from __future__ import annotations

import gc
import logging
import os
import resource
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from canon.clip import Clip
from canon.errors import InputError
from canon.masks import LayerMask
from canon.storage import write_image
from canon.video import probe, write_video

H, W = 24, 36
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [0] * 756


def image(t: int, height: int = H, width: int = W) -> np.ndarray:
    return np.random.default_rng(t).integers(0, 256, (height, width, 3), np.uint8)


def mask(t: int, height: int = H, width: int = W) -> np.ndarray:
    """Soft, different in every frame, with true black and white."""
    result = np.random.default_rng(100 + t).integers(0, 256, (height, width), np.uint8)
    result[0], result[-1] = 0, 255
    return result


def write_all(folder: Path, make, names) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        write_image(folder / name, make(t))
    return folder


def numbered(count: int, first: int = 0, prefix: str = "") -> list[str]:
    return [f"{prefix}{t:05d}.png" for t in range(first, first + count)]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_all(tmp_path / "frames", image, numbered(5))


def assert_masks(layer: LayerMask, times, make=mask) -> None:
    assert layer.indices == tuple(times)
    for t in times:
        found = layer.get(t)
        assert found is not None and np.array_equal(found, make(t))


def stack(count: int) -> np.ndarray:
    return np.stack([image(t) for t in range(count)])


class TestSources:
    def test_a_folder_of_images_is_exact(self, frames):
        clip = Clip.load(frames)
        assert np.array_equal(clip.frames, stack(5)) and isinstance(clip.frames, np.memmap)
        assert (len(clip), clip.size, clip.fps, clip.masks, clip.audio_path) == (5, (H, W), 24, {}, None)
        assert clip.timestamps == pytest.approx(np.arange(5) / 24)

    def test_images_are_in_the_order_of_their_numbers(self, tmp_path):
        write_all(tmp_path / "a", image, [f"shot2_{t}.png" for t in range(12)])
        assert np.array_equal(Clip.load(tmp_path / "a", fps=12.5).frames, stack(12))
        assert Clip.load(tmp_path / "a", fps=12.5).fps == Fraction(25, 2)

    def test_a_glob(self, frames):
        write_image(frames / "cover.png", image(9, 5, 5))
        assert np.array_equal(Clip.load(f"{frames}/0*.png").frames, stack(5))

    def test_a_relative_glob(self, frames, monkeypatch):
        monkeypatch.chdir(frames.parent)
        assert np.array_equal(Clip.load("fr*/0000[0-2].png").frames, stack(3))

    def test_one_image(self, frames):
        assert np.array_equal(Clip.load(frames / "00003.png").frames[0], image(3))

    def test_other_pixel_kinds(self, tmp_path):
        write_image(tmp_path / "a" / "0.png", image(0)[..., 0])
        write_image(tmp_path / "a" / "1.png", np.dstack([image(1), mask(1)]))
        write_image(tmp_path / "a" / "2.png", image(2).astype(np.uint16) * 257)
        clip = Clip.load(tmp_path / "a")
        assert np.array_equal(clip.frames, [np.repeat(image(0)[..., :1], 3, axis=2), image(1), image(2)])

    def test_davis_finds_its_annotations(self, tmp_path):
        folder = write_all(tmp_path / "D" / "JPEGImages" / "480p" / "bear", image, numbered(3))
        write_all(tmp_path / "D" / "Annotations" / "480p" / "bear", mask, numbered(3))
        assert_masks(Clip.load(folder).masks["foreground"], range(3))

    def test_frames_and_masks_side_by_side(self, frames):
        write_all(frames.parent / "masks", mask, numbered(5))
        write_image(frames.parent / "thumbnail.png", image(9, 4, 4))
        clip = Clip.load(frames.parent)
        assert np.array_equal(clip.frames, stack(5))
        assert_masks(clip.masks["foreground"], range(5))

    @pytest.mark.parametrize("suffix", ["mp4", "mov", "webm", "gif", "avi", "mkv"])
    def test_video_files(self, tmp_path, suffix):
        flat = [np.full((H, W, 3), 40 + 20 * t, np.uint8) for t in range(4)]
        if suffix in ("avi", "mkv"):
            with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
                stream = container.add_stream("mpeg4", rate=25, options={"qscale": "1"}, bit_rate=5_000_000)
                stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
                for t, rgb in enumerate(flat):
                    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                    frame.pts, frame.time_base = t, Fraction(1, 25)
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        else:
            write_video(tmp_path / f"a.{suffix}", flat, 25)
        clip = Clip.load(tmp_path / f"a.{suffix}")
        assert (len(clip), clip.size, clip.fps, clip.variable_rate) == (4, (H, W), 25, False)
        assert np.abs(clip.frames.astype(int) - np.stack(flat)).max() <= 3

    def test_variable_rate_and_portrait(self, tmp_path):
        times = [0, 0.03, 0.1, 0.12, 0.2, 0.25]
        write_video(tmp_path / "a.mp4", [image(t, 36, 24) for t in range(6)], 24, timestamps=times)
        clip = Clip.load(tmp_path / "a.mp4")
        assert clip.size == (36, 24) and clip.variable_rate and clip.fps == 20
        assert clip.timestamps == pytest.approx(times, abs=1e-4)
        write_video(tmp_path / "b.mp4", clip.frames, clip.fps, timestamps=clip.timestamps)
        assert Clip.load(tmp_path / "b.mp4").timestamps == pytest.approx(times, abs=1e-4)

    def test_one_frame_of_video(self, tmp_path):
        write_video(tmp_path / "a.mp4", [image(0)], 30)
        clip = Clip.load(tmp_path / "a.mp4")
        assert (len(clip), clip.fps, clip.variable_rate) == (1, 30, False)

    @pytest.mark.parametrize("kind", ["folder", "video"])
    def test_long_clips_are_never_cut_silently(self, frames, caplog, kind):
        source = frames
        if kind == "video":
            source = frames.parent / "a.mp4"
            write_video(source, stack(5), 24)
        assert len(Clip.load(source, max_frames=3)) == 3
        assert "using the first 3 of 5 frames" in caplog.text
        caplog.clear()
        assert len(Clip.load(source, max_frames=5)) == 5
        assert not caplog.records

    @pytest.mark.parametrize("size", [12, (12, 18)])
    def test_resizing_averages_areas(self, frames, size):
        write_all(frames.parent / "masks", mask, numbered(5))
        clip = Clip.load(frames, masks=frames.parent / "masks", size=size)
        blocks = image(2).reshape(12, 2, 18, 2, 3).mean(axis=(1, 3))
        assert clip.size == (12, 18) and np.abs(clip.frames[2] - blocks).max() <= 0.51
        shrunk = clip.masks["foreground"].get(2)
        assert shrunk is not None and np.abs(shrunk - mask(2).reshape(12, 2, 18, 2).mean(axis=(1, 3))).max() <= 0.51


class TestMasks:
    def test_named_layers_front_to_back(self, frames):
        for name in ("10-wall", "2-dog", "background"):
            write_all(frames.parent / "masks" / name, mask, numbered(5))
        clip = Clip.load(frames, masks=frames.parent / "masks")
        assert list(clip.masks) == ["2-dog", "10-wall"]

    @pytest.mark.parametrize("names", [["00001.png", "00003.png"], ["m1.png", "m3.png"]])
    def test_masks_for_some_frames(self, frames, names):
        folder = frames.parent / "masks"
        for t, name in zip((1, 3), names, strict=True):
            write_image(folder / name, mask(t))
        layer = Clip.load(frames, masks=folder).masks["foreground"]
        assert_masks(layer, [1, 3])
        assert layer.get(0) is layer.get(2) is layer.get(4) is None
        assert not layer.complete(5)

    def test_one_file_is_the_mask_of_the_first_frame(self, frames):
        write_image(frames.parent / "m_0077.png", mask(0))
        assert_masks(Clip.load(frames, masks=frames.parent / "m_0077.png").masks["foreground"], [0])

    @pytest.mark.parametrize(
        ("names", "indices"),
        [
            (numbered(5, first=1), range(5)),
            ([f"{c}.png" for c in "abcde"], range(5)),
            (["mask_00002.png", "mask_00004.png"], [2, 4]),
        ],
    )
    def test_masks_of_a_video_go_by_number_or_order(self, tmp_path, names, indices):
        write_video(tmp_path / "a.mp4", stack(5), 24)
        folder = tmp_path / "masks"
        for t, name in zip(indices, names, strict=True):
            write_image(folder / name, mask(t))
        assert_masks(Clip.load(tmp_path / "a.mp4", masks=folder).masks["foreground"], indices)

    @pytest.mark.parametrize("kind", ["folder", "video"])
    @pytest.mark.parametrize("count", [3, 5])
    def test_masks_with_max_frames(self, frames, kind, count):
        source = frames
        if kind == "video":
            source = frames.parent / "a.mp4"
            write_video(source, stack(5), 24)
        folder = write_all(frames.parent / "masks", mask, numbered(count))
        assert_masks(Clip.load(source, masks=folder, max_frames=3).masks["foreground"], range(3))

    def test_palette_images_hold_objects(self, frames):
        folder = frames.parent / "masks"
        folder.mkdir()
        truth = [np.random.default_rng(t).integers(0, 4, (H, W)).astype(np.uint8) for t in range(5)]
        truth[0][:2] = 255  # void
        truth[3][truth[3] == 2] = 0  # an object that is away for a while
        for t, indices in enumerate(truth):
            picture = Image.fromarray(indices)
            picture.putpalette(PALETTE)
            picture.save(folder / f"{t:05d}.png")
        clip = Clip.load(frames, masks=folder)
        assert list(clip.masks) == ["object-1", "object-2", "object-3"]
        for k in (1, 2, 3):
            assert_masks(clip.masks[f"object-{k}"], range(5), lambda t, k=k: (truth[t] == k) * np.uint8(255))

    def test_one_palette_object_is_the_foreground(self, frames):
        folder = frames.parent / "masks"
        folder.mkdir()
        for t in range(5):
            picture = Image.fromarray((mask(t) > 128).astype(np.uint8))
            picture.putpalette(PALETTE)
            picture.save(folder / f"{t:05d}.png")
        layer = Clip.load(frames, masks=folder).masks["foreground"]
        assert_masks(layer, range(5), lambda t: (mask(t) > 128) * np.uint8(255))

    @pytest.mark.parametrize("kind", ["zero-one", "bilevel", "grey palette", "alpha", "rgb", "opaque rgba", "16 bit"])
    def test_pixel_kinds(self, frames, kind):
        folder = frames.parent / "masks"
        folder.mkdir()
        binary = kind in ("zero-one", "bilevel", "grey palette")
        for t in range(5):
            m, path = mask(t), folder / f"{t:05d}.png"
            grey = np.repeat(m[..., None], 3, axis=2)
            picture = {
                "zero-one": lambda m=m: Image.fromarray((m > 128).astype(np.uint8)),
                "bilevel": lambda m=m: Image.fromarray(m > 128),
                "grey palette": lambda m=m: Image.fromarray(np.uint8(255) * (m > 128)).convert("P"),
                "alpha": lambda m=m: Image.fromarray(np.dstack([image(1), m])),
                "rgb": lambda grey=grey: Image.fromarray(grey),
                "opaque rgba": lambda grey=grey: Image.fromarray(np.dstack([grey, np.full((H, W), 255, np.uint8)])),
                "16 bit": lambda m=m: Image.fromarray(m.astype(np.uint16) * 257),
            }[kind]()
            picture.save(path)
        layer = Clip.load(frames, masks=folder).masks["foreground"]
        assert_masks(layer, range(5), lambda t: (mask(t) > 128) * np.uint8(255) if binary else mask(t))

    def test_masks_of_the_target_size_fit_too(self, frames):
        folder = write_all(frames.parent / "masks", lambda t: mask(t, 12, 18), numbered(5))
        clip = Clip.load(frames, masks=folder, size=12)
        assert_masks(clip.masks["foreground"], range(5), lambda t: mask(t, 12, 18))


class TestFromFrames:
    def test_arrays_and_mappings(self):
        soft = np.stack([mask(t) for t in range(4)])
        clip = Clip.from_frames(iter(stack(4)), 30, {"a": soft, "b": {2: soft[2] > 128}, "c": {1: soft[1] / 255}})
        assert np.array_equal(clip.frames, stack(4)) and list(clip.masks) == ["a", "b", "c"]
        assert_masks(clip.masks["a"], range(4))
        assert_masks(clip.masks["b"], [2], lambda t: (soft[t] > 128) * np.uint8(255))
        assert_masks(clip.masks["c"], [1])

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.data())
    def test_any_clip_survives_saving(self, tmp_path_factory, count, height, width, data):
        known = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
        masks = {"front": {t: mask(t, height, width) for t in known}}
        clip = Clip.from_frames([image(t, height, width) for t in range(count)], Fraction(24000, 1001), masks)
        folder = tmp_path_factory.mktemp("saved") / "clip"
        clip.save(folder)
        again = Clip.open(folder)
        assert np.array_equal(again.frames, clip.frames) and again.frames.dtype == np.uint8
        assert again.masks["front"].indices == tuple(sorted(known))
        assert np.array_equal(again.masks["front"].values, clip.masks["front"].values)
        assert (again.fps, again.content_hash) == (clip.fps, clip.content_hash)
        assert np.array_equal(again.timestamps, clip.timestamps)

    @pytest.mark.parametrize(
        ("frames", "masks", "message"),
        [
            ([], None, "no frames"),
            ([image(0), image(1, 5, 5)], None, "Frame 1"),
            ([image(0) / 255], None, "float64"),
            ([image(0)], {"a": {1: mask(0)}}, "layer 'a'"),
            ([image(0)], {"a": {0: mask(0, 5, 5)}}, "frame 0 of 'a'"),
            ([image(0)], {"../a": {0: mask(0)}}, r"\.\./a"),
        ],
    )
    def test_bad_arrays(self, frames, masks, message):
        with pytest.raises(InputError, match=message):
            Clip.from_frames(frames, masks=masks)


class TestSaving:
    def test_everything_survives(self, tmp_path):
        write_video(tmp_path / "v.mp4", stack(6), 24, timestamps=[0, 0.03, 0.1, 0.12, 0.2, 0.25], color_range="full")
        write_all(tmp_path / "masks", mask, ["00002.png", "00004.png"])
        clip = Clip.load(tmp_path / "v.mp4", masks=tmp_path / "masks")
        clip.save(tmp_path / "p" / "clip")
        again = Clip.load(tmp_path / "p" / "clip")
        assert np.array_equal(again.frames, clip.frames)
        assert again.timestamps == pytest.approx(clip.timestamps, abs=1e-6)
        for name in ("fps", "size", "source", "color_range", "content_hash", "variable_rate", "audio_path"):
            assert getattr(again, name) == getattr(clip, name)
        assert again.color_range == "full" and again.variable_rate
        names = sorted(p.name for p in (tmp_path / "p" / "clip").iterdir())
        assert names == ["clip.yaml", "frames.npy", "masks", "preview.jpg"]

    def test_the_hash_depends_on_frames_and_masks_alone(self, frames, tmp_path):
        write_all(tmp_path / "masks", mask, numbered(5))
        write_all(tmp_path / "some", mask, numbered(4))
        hashes = [
            Clip.load(frames).content_hash,
            Clip.load(frames, max_frames=4).content_hash,
            Clip.load(frames, masks=tmp_path / "masks").content_hash,
            Clip.load(frames, masks=tmp_path / "some").content_hash,
        ]
        assert len(set(hashes)) == 4
        assert Clip.load(f"{frames}/*.png", cache=tmp_path / "cache").content_hash == hashes[0]
        clip = Clip.load(frames, masks=tmp_path / "masks")
        by_hand = Clip(clip.frames, clip.fps, clip.timestamps, masks=clip.masks)
        assert by_hand.content_hash == hashes[2]

    def test_sound_goes_into_the_folder(self, tmp_path):
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
            tone = container.add_stream("aac", rate=48000, layout="mono")
            for t in range(25):
                frame = av.VideoFrame.from_ndarray(image(t), format="rgb24")
                frame.pts, frame.time_base = t, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            wave = np.sin(np.arange(48000) / 20).astype(np.float32)[None]
            audio = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
            audio.sample_rate, audio.pts = 48000, 0
            container.mux(tone.encode(audio))
            container.mux(tone.encode(None))
        clip = Clip.load(tmp_path / "v.mp4", max_frames=10)
        assert clip.audio_path == tmp_path / "v.mp4"
        clip.save(tmp_path / "clip")
        (tmp_path / "v.mp4").unlink()
        again = Clip.open(tmp_path / "clip")
        assert again.audio_path == tmp_path / "clip" / "audio.mka"
        write_video(tmp_path / "out.mp4", again.frames, again.fps, audio_from=again.audio_path)
        assert probe(tmp_path / "out.mp4").has_audio
        with av.open(str(tmp_path / "out.mp4")) as container:
            seconds = sum(f.samples for f in container.decode(audio=0)) / 48000
        assert seconds == pytest.approx(0.4, abs=0.07)

    def test_the_preview_shows_frames_and_masks(self, tmp_path):
        grey = [np.full((H, W, 3), 100, np.uint8)] * 3
        left = np.zeros((H, W), np.uint8)
        left[:, : W // 2] = 255
        Clip.from_frames(grey, masks={"a": {0: left}}).save(tmp_path / "clip")
        sheet = cv2.imread(str(tmp_path / "clip" / "preview.jpg"), cv2.IMREAD_COLOR_RGB).astype(int)
        assert sheet.shape == (H, 3 * W, 3)
        assert np.abs(sheet[4:-4, 4 : W // 2 - 4].mean(axis=(0, 1)) - (167.5, 82, 76)).max() < 6
        assert np.abs(sheet[4:-4, W // 2 + 6 :] - 100).max() < 12

    def test_saving_again_keeps_what_is_not_canons(self, frames, tmp_path):
        clip = Clip.load(frames, cache=tmp_path / "clip")
        assert isinstance(clip.frames, np.memmap)
        clip.save(tmp_path / "clip")
        (tmp_path / "clip" / "notes.txt").write_text("mine")
        Clip.load(frames, max_frames=2).save(tmp_path / "clip")
        assert len(Clip.open(tmp_path / "clip")) == 2
        assert (tmp_path / "clip" / "notes.txt").read_text() == "mine"
        assert np.array_equal(clip.frames, stack(5))

    def test_a_foreign_folder_is_left_alone(self, frames, tmp_path):
        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "frames.npy").write_bytes(b"mine")
        with pytest.raises(InputError, match=r"already holds 'frames\.npy'"):
            Clip.load(frames).save(tmp_path / "clip")
        assert (tmp_path / "clip" / "frames.npy").read_bytes() == b"mine"

    def test_a_failed_save_leaves_the_earlier_clip(self, frames, tmp_path, monkeypatch):
        Clip.load(frames).save(tmp_path / "clip")
        before = Clip.open(tmp_path / "clip").content_hash
        monkeypatch.setattr(Clip, "_preview", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Clip.load(frames, max_frames=2).save(tmp_path / "clip")
        assert Clip.open(tmp_path / "clip").content_hash == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["clip", "frames"]

    @pytest.mark.parametrize("damage", ["yaml", "field", "frames", "truncated", "masks", "shape", "missing", "climb"])
    def test_damaged_folders(self, frames, tmp_path, damage):
        folder = tmp_path / "clip"
        write_all(tmp_path / "masks", mask, numbered(5))
        Clip.load(frames, masks=tmp_path / "masks").save(folder)
        text = (folder / "clip.yaml").read_text()
        array = (folder / "frames.npy").read_bytes()
        for name in ("clip.yaml", "frames.npy"):
            (folder / name).unlink()
            (folder / name).write_bytes(text.encode() if name == "clip.yaml" else array)
        if damage == "yaml":
            (folder / "clip.yaml").write_text("][")
        elif damage == "field":
            (folder / "clip.yaml").write_text(text.replace("24/1", "24/0"))
        elif damage == "frames":
            (folder / "frames.npy").write_bytes(b"something else")
        elif damage == "truncated":
            (folder / "frames.npy").write_bytes(array[:-100])
        elif damage == "masks":
            (folder / "masks" / "foreground.npy").unlink()
        elif damage == "shape":
            (folder / "clip.yaml").write_text(text.replace("frames: 5", "frames: 4"))
        elif damage == "climb":
            (folder / "clip.yaml").write_text(text.replace("name: foreground", "name: ../../frames/x"))
        elif damage == "missing":
            folder = tmp_path / "nowhere"
        with pytest.raises(InputError) as caught:
            Clip.open(folder)
        assert "\n" not in str(caught.value)


class TestStorage:
    def test_a_temporary_cache_goes_with_the_clip(self, frames):
        clip = Clip.load(frames)
        folder = Path(str(clip.frames.filename)).parent
        assert folder.is_dir()
        kept = clip.frames
        del clip
        gc.collect()
        assert not folder.exists()
        assert np.array_equal(kept, stack(5))

    def test_a_failed_load_leaves_nothing(self, frames, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()
        write_image(frames / "00004.png", image(4, 5, 5))
        with pytest.raises(InputError):
            Clip.load(frames)
        with pytest.raises(InputError):
            Clip.load(frames, cache=tmp_path / "cache")
        assert list((tmp_path / "tmp").iterdir()) == [] == list((tmp_path / "cache").iterdir())

    def test_a_full_disk_is_said(self, frames, tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        try:
            with pytest.raises(InputError, match="No space is left"):
                Clip.load(frames, cache=tmp_path / "cache")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list((tmp_path / "cache").iterdir()) == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_an_unwritable_folder_is_said(self, frames, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(InputError, match="Cannot write"):
            Clip.load(frames, cache=tmp_path / "locked" / "cache")

    def test_the_file_is_plain_numpy(self, frames, tmp_path):
        Clip.load(frames, cache=tmp_path)
        assert np.array_equal(np.load(tmp_path / "frames.npy"), stack(5))
        assert (tmp_path / "frames.npy").stat().st_size == 128 + stack(5).nbytes


def spoil_masks(folder: Path, kind: str) -> None:
    folder.mkdir()
    if kind == "size":
        write_all(folder, lambda t: mask(t, 5, 7), numbered(5))
    elif kind == "many":
        write_all(folder, mask, numbered(6))
    elif kind == "stems":
        write_all(folder, mask, ["a.png", "b.png"])
    elif kind == "beyond":
        write_all(folder, mask, ["00007.png"])
    elif kind == "black":
        write_all(folder, lambda t: np.zeros((H, W), np.uint8), numbered(5))
    elif kind == "black layer":
        write_all(folder / "dog", lambda t: np.zeros((H, W), np.uint8), numbered(5))
    elif kind == "damaged":
        write_all(folder, mask, numbered(5))
        (folder / "00002.png").write_bytes((folder / "00002.png").read_bytes()[:60])
    elif kind == "text":
        (folder / "00000.png").write_text("not a picture")
    elif kind == "mixed":
        write_all(folder, mask, numbered(5))
        write_all(folder / "dog", mask, numbered(5))
    elif kind == "missing":
        folder.rmdir()


@pytest.mark.parametrize("source", ["folder", "video"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", "is 7x5 and the frames are 36x24"),
        ("many", "holds 6 masks for a clip of 5 frames"),
        ("stems", "fits no frame"),
        ("beyond", "fits no frame"),
        ("black", "masks of layer 'foreground' are black"),
        ("black layer", "masks of layer 'dog' are black"),
        ("damaged", "damaged"),
        ("text", "not an image"),
        ("mixed", "keep one kind"),
        ("empty", "holds no masks"),
        ("missing", "do not exist"),
    ],
)
def test_bad_masks(frames, source, kind, message):
    spoil_masks(frames.parent / "masks", kind)
    path = frames
    if source == "video":
        path = frames.parent / "a.mp4"
        write_video(path, stack(5), 24)
    with pytest.raises(InputError, match=message) as caught:
        Clip.load(path, masks=frames.parent / "masks")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def spoil_source(tmp_path: Path, kind: str) -> Path | str:
    path = tmp_path / "a"
    if kind == "glob":
        return f"{tmp_path}/*.png"
    if kind == "text":
        (tmp_path / "a.mp4").write_text("hello " * 100)
        return tmp_path / "a.mp4"
    if kind == "unknown":
        (tmp_path / "a.doc").write_bytes(bytes(1000))
        return tmp_path / "a.doc"
    if kind in ("folder", "sizes", "damaged", "twins"):
        write_all(path, image, [] if kind == "folder" else numbered(3))
    if kind == "sizes":
        write_image(path / "00001.png", image(1, 8, 10))
    elif kind == "damaged":
        (path / "00001.png").write_bytes((path / "00001.png").read_bytes()[:50])
    elif kind == "twins":
        write_image(path / "00001.jpg", image(1))
    elif kind == "bomb":
        path.mkdir()
        write_image(path / "0.png", image(0))
        header = bytearray((path / "0.png").read_bytes())
        header[16:24] = (60000).to_bytes(4, "big") * 2
        (path / "0.png").write_bytes(bytes(header))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("glob", "No image matches"),
        ("folder", "holds no images"),
        ("sizes", r"00001\.png' is 10x8 and '00000\.png' is 36x24"),
        ("damaged", r"00001\.png"),
        ("twins", "keep one of them"),
        ("text", "cannot be read as a video"),
        ("unknown", "cannot be read as a video"),
        ("bomb", r"0\.png"),
    ],
)
def test_bad_sources(tmp_path, kind, message):
    with pytest.raises(InputError, match=message) as caught:
        Clip.load(spoil_source(tmp_path, kind))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "options", [{"max_frames": 0}, {"size": 0}, {"size": (4, -1)}, {"size": (1, 2, 3)}, {"size": "854x480"}]
)
def test_bad_options(frames, options):
    with pytest.raises(InputError):
        Clip.load(frames, **options)


def test_a_truncated_video_is_said_and_used(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "canon")
    write_video(tmp_path / "a.mp4", stack(20), 24)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    clip = Clip.load(tmp_path / "a.mp4")
    assert 0 < len(clip) < 20
    assert "cut short" in caplog.text
