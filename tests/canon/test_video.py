"""Reading and writing video: colours by the standards' own formulas, times, rotation, sound, atomicity, bad input."""

from __future__ import annotations

import logging
import os
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canon.errors import InputError
from canon.pixels import upright
from canon.storage import read_image
from canon.video import frame_rate, is_regular, probe, read_frames, video_writer, write_video

VFR = [0, 0.03, 0.1, 0.12, 0.2, 0.25, 0.4, 0.41, 0.5, 0.6]
KR_KB = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}
H273 = {"bt709": 1, "bt601": 6}


def smooth(t: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A gradient whose three channels differ, moving with t: chroma subsampling hardly touches it."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    return np.stack([20 + 200 * u + t, 30 + 180 * v + t, 220 - 90 * (u + v)], -1).round().astype(np.uint8)


def clip(count: int = 8, height: int = 64, width: int = 96) -> list[np.ndarray]:
    return [smooth(t, height, width) for t in range(count)]


def read(path: Path) -> np.ndarray:
    return np.stack([frame.rgb for frame in read_frames(path)]).astype(int)


def partials(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith((".partial", ".replaced"))]


def encode(path: Path, frames: list[np.ndarray], rotation: float | None = None, tone: str | None = None) -> None:
    """A plain H.264 file made by PyAV alone, with a 440 Hz tone of the same length where ``tone`` names its codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sound = container.add_stream(tone, rate=48000, layout="mono") if tone else None
        for t, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            samples = len(frames) * 48000 // 25
            wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(samples) / 48000)).astype(np.float32)
            audio = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
            audio.sample_rate, audio.pts, audio.time_base = 48000, 0, Fraction(1, 48000)
            container.mux(sound.encode(audio))
            container.mux(sound.encode(None))


def encode_patch(path: Path, rgb: tuple[int, int, int], matrix: str, full: bool, size=(64, 96), tagged=True) -> None:
    """A flat colour whose Y, Cb, Cr are computed here from ITU-R BT.601 / BT.709, not by swscale."""
    kr, kb = KR_KB[matrix]
    r, g, b = (value / 255 for value in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
    scale = (255, 0, 255) if full else (219, 16, 224)
    planes = [scale[0] * luma + scale[1], scale[2] * cb + 128, scale[2] * cr + 128]
    height, width = size
    sizes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
    data = np.concatenate([np.full(h * w, round(p), np.uint8) for p, (h, w) in zip(planes, sizes, strict=True)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p" if full else "yuv420p"
        if tagged:
            stream.codec_context.colorspace = H273[matrix]
            stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame.from_ndarray(data.reshape(height * 3 // 2, width), format="yuv420p")
        frame = frame.reformat(format="yuvj420p", src_color_range=2, dst_color_range=2) if full else frame
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("rgb", [(200, 30, 40), (30, 190, 60), (20, 50, 210), (128, 128, 128), (255, 255, 255)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_tagged_colours_are_read_by_the_standard(tmp_path, rgb, full, matrix):
    encode_patch(tmp_path / "a.mp4", rgb, matrix, full)
    assert np.abs(read(tmp_path / "a.mp4")[0] - rgb).max() <= 2
    assert probe(tmp_path / "a.mp4").color_range == ("full" if full else "limited")


@pytest.mark.parametrize(("size", "matrix"), [((480, 854), "bt601"), ((720, 1280), "bt709"), ((1280, 720), "bt709")])
def test_untagged_colours_follow_the_size(tmp_path, size, matrix):
    encode_patch(tmp_path / "a.mp4", (200, 30, 40), matrix, False, size, tagged=False)
    assert np.abs(read(tmp_path / "a.mp4")[0] - (200, 30, 40)).max() <= 2


@pytest.mark.parametrize("color_range", ["limited", "full"])
@pytest.mark.parametrize("size", [(64, 96), (720, 1280)])
def test_written_luma_is_that_of_the_standard(tmp_path, color_range, size):
    image = np.full((*size, 3), (200, 30, 40), np.uint8)
    write_video(tmp_path / "a.mp4", [image], 25, color_range=color_range)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    matrix = "bt709" if size[0] == 720 else "bt601"
    kr, kb = KR_KB[matrix]
    luma = (kr * 200 + (1 - kr - kb) * 30 + kb * 40) / 255
    stored = np.asarray(frame.to_ndarray())[: size[0]].mean()
    assert stored == pytest.approx(255 * luma if color_range == "full" else 219 * luma + 16, abs=1.0)
    assert (frame.colorspace, frame.color_range) == (H273[matrix], 2 if color_range == "full" else 1)


@pytest.mark.parametrize(
    ("name", "mean", "most"), [("a.mp4", 1.5, 10), ("a.webm", 1.5, 10), ("a.mov", 0.1, 1), ("a.gif", 5.0, 60)]
)
def test_a_gradient_survives(tmp_path, name, mean, most):
    frames = clip()
    rate = Fraction(25) if name == "a.gif" else Fraction(30000, 1001)
    assert write_video(tmp_path / name, iter(frames), rate) == 8
    error = np.abs(read(tmp_path / name) - np.stack(frames))
    assert error.mean() < mean and error.max() <= most
    # No cast: a wrong matrix or range shifts a whole channel.
    bias = (read(tmp_path / name) - np.stack(frames)).mean(axis=(0, 1, 2))
    assert np.abs(bias).max() < 1.0
    times = [frame.seconds for frame in read_frames(tmp_path / name)]
    assert frame_rate(times, probe(tmp_path / name).fps) == rate


def test_full_range_survives(tmp_path):
    frames = clip()
    write_video(tmp_path / "a.mp4", frames, 25, color_range="full")
    assert probe(tmp_path / "a.mp4").color_range == "full"
    assert np.abs(read(tmp_path / "a.mp4") - np.stack(frames)).mean() < 1.5


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.webm", "a.gif"])
def test_variable_rate_is_kept(tmp_path, name):
    write_video(tmp_path / name, clip(10), Fraction(50, 3), timestamps=VFR)
    times = [frame.seconds for frame in read_frames(tmp_path / name)]
    assert times == pytest.approx(VFR, abs=2e-3)
    assert not is_regular(times, frame_rate(times))


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_of_phone_videos(tmp_path, rotation):
    frames = clip(2)
    encode(tmp_path / "a.mp4", frames, rotation=rotation)
    truth = np.rot90(np.stack(frames), rotation // 90, axes=(1, 2))
    result = read(tmp_path / "a.mp4")
    assert result.shape == truth.shape == (2, *probe(tmp_path / "a.mp4").size, 3)
    assert np.abs(result - truth).mean() < 1.5


def test_upright_mirrors():
    image = np.arange(6).reshape(2, 3, 1)
    assert np.array_equal(upright(image, (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)), image[:, ::-1])
    assert np.array_equal(upright(image, (0, 65536, 0, 65536, 0, 0, 0, 0, 1 << 30)), image.swapaxes(0, 1))
    assert np.array_equal(upright(image, None), image)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), count=st.integers(1, 3))
def test_any_size_is_padded_never_resized(tmp_path_factory, height, width, count):
    path = tmp_path_factory.mktemp("odd") / "a.mp4"
    y, x = np.mgrid[0:height, 0:width]
    frames = [np.repeat((60 + 2 * x + y + 3 * t).astype(np.uint8)[..., None], 3, axis=2) for t in range(count)]
    write_video(path, frames, 25)
    result = read(path)
    assert result.shape == (count, height + height % 2, width + width % 2, 3)
    assert np.abs(result[:, :height, :width] - np.stack(frames)).max() <= 6


def test_equal_frames_give_equal_files(tmp_path):
    rng = np.random.default_rng(0)
    frames = [np.clip(frame + rng.normal(0, 12, frame.shape), 0, 255).astype(np.uint8) for frame in clip(12, 200, 356)]
    files = set()
    for k in range(5):
        dirty = [rng.integers(0, 255, 200_000 + 7000 * k, np.uint8) for _ in range(20)]
        del dirty  # what is left in memory must not matter
        write_video(tmp_path / "x.mp4", frames, 24)
        files.add((tmp_path / "x.mp4").read_bytes())
    assert len(files) == 1


def test_odd_sizes_are_said_and_kept_where_possible(tmp_path, caplog):
    caplog.set_level(logging.INFO, "canon")
    write_video(tmp_path / "a.mp4", clip(2, 63, 95), 25)
    assert "95x63 is odd" in caplog.text
    assert probe(tmp_path / "a.mp4").size == (64, 96)
    for name in ("a.mov", "a.gif"):
        write_video(tmp_path / name, clip(2, 63, 95), 25)
        assert probe(tmp_path / name).size == (63, 95)


def test_opacity_survives_in_prores(tmp_path):
    alpha = np.tile(np.arange(96, dtype=np.uint8) * 2, (64, 1))
    frames = [np.dstack([image, alpha]) for image in clip(2)]
    write_video(tmp_path / "a.mov", frames, 24)
    with av.open(str(tmp_path / "a.mov")) as container:
        result = next(container.decode(video=0)).to_ndarray(format="rgba").astype(int)
    assert np.abs(result - frames[0])[..., 3].max() <= 1
    assert np.abs(result - frames[0])[..., :3].max() <= 3


@pytest.mark.parametrize("channels", [3, 4])
def test_a_folder_is_lossless(tmp_path, channels):
    frames = [np.random.default_rng(t).integers(0, 256, (7, 9, channels), np.uint8) for t in range(3)]
    write_video(f"{tmp_path}/out.v1/", frames, 24)
    for t, image in enumerate(frames):
        assert np.array_equal(read_image(tmp_path / "out.v1" / f"{t:05d}.png"), image)


def test_a_rendered_folder_is_replaced_and_the_rest_of_it_kept(tmp_path):
    write_video(tmp_path / "out", clip(4), 24)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "00077.png").write_bytes(b"mine too")
    write_video(tmp_path / "out", clip(2), 24)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [".canon-frames", "00000.png", "00001.png", "00077.png", "notes.txt"]
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert not partials(tmp_path)


def test_frames_of_others_are_never_overwritten(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "00000.png").write_bytes(b"the only copy")
    with pytest.raises(InputError, match=r"already holds '00000\.png'"):
        write_video(tmp_path / "frames", clip(2), 24)
    assert (tmp_path / "frames" / "00000.png").read_bytes() == b"the only copy"
    assert not partials(tmp_path)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "folder"])
def test_a_failure_midway_leaves_what_was_there(tmp_path, name):
    write_video(tmp_path / name, clip(3), 24)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def failing():
        yield smooth(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / name, failing(), 24)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not partials(tmp_path)


def test_the_writer_takes_one_frame_at_a_time(tmp_path):
    with video_writer(tmp_path / "a.mp4", 24) as sink:
        for image in clip(3):
            sink.write(image)
        assert not (tmp_path / "a.mp4").exists()
    assert sink.count == 3 and len(read(tmp_path / "a.mp4")) == 3


def sound(path: Path) -> tuple[str, np.ndarray, float]:
    """Codec, samples and the time of the first one."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        name = container.streams.audio[0].codec_context.codec.canonical_name
    return name, np.concatenate([f.to_ndarray()[0] for f in frames]), float(frames[0].time)


@pytest.mark.parametrize(("name", "codec"), [("b.mp4", "aac"), ("b.mov", "aac"), ("b.webm", "opus")])
@pytest.mark.parametrize("tone", ["aac", "libopus"])
def test_sound_is_carried_over_and_cut_with_the_video(tmp_path, name, codec, tone):
    encode(tmp_path / "a.mkv", clip(30), tone=tone)
    assert probe(tmp_path / "a.mkv").has_audio
    write_video(tmp_path / name, clip(20), 25, audio_from=tmp_path / "a.mkv")
    found, samples, begin = sound(tmp_path / name)
    assert found == codec
    assert abs(begin) < 0.05
    assert len(samples) / 48000 == pytest.approx(0.8, abs=0.08)
    middle = samples[9600:28800].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 48000 / len(middle) == pytest.approx(440, abs=5)


def test_copied_sound_is_not_re_encoded(tmp_path):
    encode(tmp_path / "a.mp4", clip(30), tone="aac")
    write_video(tmp_path / "b.mp4", clip(30), 25, audio_from=tmp_path / "a.mp4")
    packets = []
    for name in ("a.mp4", "b.mp4"):
        with av.open(str(tmp_path / name)) as container:
            packets.append([bytes(p) for p in container.demux(audio=0) if p.size])
    assert packets[1] and packets[0][: len(packets[1])] == packets[1]
    assert len(packets[0]) - len(packets[1]) <= 2


def test_a_source_without_usable_sound_gives_a_silent_video(tmp_path, caplog):
    encode(tmp_path / "silent.mp4", clip(2))
    (tmp_path / "text.mp4").write_text("no media here\n" * 20)
    for source in ("silent.mp4", "text.mp4", "gone.mp4"):
        write_video(tmp_path / "b.mp4", clip(2), 25, audio_from=tmp_path / source)
        assert not probe(tmp_path / "b.mp4").has_audio
    assert "gone.mp4" in caplog.text and "text.mp4" in caplog.text


@pytest.mark.parametrize(("name", "said"), [("a.mp4", "frames of the 20"), ("a.webm", "frames could be read")])
def test_a_truncated_video_is_used_as_far_as_it_goes(tmp_path, caplog, name, said):
    noise = [np.random.default_rng(t).integers(0, 256, (64, 96, 3), np.uint8) for t in range(20)]
    write_video(tmp_path / name, noise, 25)  # an mp4 has its index in front, so the frames before the cut can be found
    assert len(read(tmp_path / name)) == 20 and not caplog.records
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    count = len(read(tmp_path / name))
    assert 0 < count < 20
    assert f"{count} {said}" in caplog.text


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "a.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is not a video\n" * 100)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n")
    elif kind == "header":
        write_video(path, clip(5), 25)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "playlist", "header", "sound"])
def test_bad_files_are_refused_in_one_sentence(tmp_path, kind):
    path = broken(tmp_path, kind)
    for use in (probe, lambda p: list(read_frames(p))):
        with pytest.raises(InputError, match=r"a\.mp4") as caught:
            use(path)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("a.xyz", clip(1), "use .mp4"),
        ("a.mp4", [], "no frame"),
        ("folder", [], "no frame"),
        ("a.mp4", [np.zeros((4, 4, 4), np.uint8)], "opacity"),
        ("a.mp4", [np.zeros((4, 4, 3), np.float32)], "uint8"),
        ("a.mp4", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "Frame 1"),
        ("file.txt/a.mp4", clip(1), "Cannot write"),
        ("file.txt/folder/", clip(1), "Cannot write"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path, name, frames, message):
    (tmp_path / "file.txt").write_text("a file, not a folder")
    with pytest.raises(InputError, match=message):
        write_video(f"{tmp_path}/{name}", frames, 24)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", ["a.mp4", "folder"])
def test_an_unwritable_folder_is_said(tmp_path, name):
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="Cannot write"):
        write_video(tmp_path / name, clip(1), 24)
    tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "folder"])
def test_a_full_disk_is_said(tmp_path, name):
    noise = [np.random.default_rng(t).integers(0, 256, (64, 96, 3), np.uint8) for t in range(20)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(InputError, match="No space is left"):
            write_video(tmp_path / name, noise, 24)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@given(st.integers(2, 200), st.sampled_from([Fraction(24000, 1001), Fraction(25), Fraction(60), Fraction(15)]))
def test_rates_survive_the_rounding_of_containers(count, rate):
    times = np.arange(count) / float(rate)
    assert frame_rate(np.round(times, 3), rate) == rate
    assert is_regular(np.round(times, 3), rate)
    assert float(frame_rate(times * 1.37, rate)) == pytest.approx(float(rate) / 1.37, rel=5e-3)
