"""Arrays on disk: against the safetensors library both ways, mapped and streamed, and every damage refused."""

from __future__ import annotations

import json
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canon.errors import InputError
from canon.storage import open_arrays, to_plain, write_arrays


def some_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "bytes": rng.integers(0, 256, (3, 5, 7), np.uint8),  # an odd length before wider types
        "fore/grid": rng.standard_normal((2, 4, 3)).astype(np.float32),
        "flags": rng.random(11) > 0.5,
        "wide": rng.standard_normal(5),
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "whole": rng.integers(-9, 9, (4,), np.int64),
        "nothing": np.zeros((0, 4), np.float32),
        "one": np.array(3.5, np.float32),
    }


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    arrays = some_arrays()
    write_arrays(tmp_path / "a.safetensors", arrays, {"made": "here"})
    found = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    with safetensors.safe_open(tmp_path / "a.safetensors", "numpy") as handle:
        assert handle.metadata() == {"made": "here"}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    arrays = some_arrays()
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors", {"x": "y"})
    found = open_arrays(tmp_path / "a.safetensors")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
        assert not found[name].flags.writeable


def test_non_contiguous_arrays_are_written_in_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    write_arrays(tmp_path / "a.safetensors", {"turned": array.T, "part": array[::2, 1:]})
    found = open_arrays(tmp_path / "a.safetensors")
    assert np.array_equal(found["turned"], array.T) and np.array_equal(found["part"], array[::2, 1:])


def test_large_arrays_stream_from_disk_to_disk(tmp_path: Path) -> None:
    big = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.uint8, shape=(1 << 9, 1 << 20))
    big[3, :5], big[-1, -1] = 7, 9  # 512 MiB, sparse on disk
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + (128 << 20), limits[1]))
    try:
        write_arrays(tmp_path / "a.safetensors", {"big": big})
        found = open_arrays(tmp_path / "a.safetensors")["big"]
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    assert found.shape == big.shape and found[3, 4] == 7 and found[-1, -1] == 9 and found[100].sum() == 0


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"a": np.ones(3)})
    with pytest.raises(ValueError, match="complex"):
        write_arrays(path, {"a": np.ones(3, np.complex64)})
    assert np.array_equal(open_arrays(path)["a"], np.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 3},
        {"a": entry(dtype="F31")},
        {"a": entry(dtype=["F32"])},
        {"a": entry(shape=(3,))},
        {"a": entry(shape=(-2,))},
        {"a": entry(shape="2")},
        {"a": entry(shape=(2.0,))},
        {"a": entry(shape=(True, 2))},
        {"a": entry(offsets=(4, 12))},
        {"a": entry(offsets=(0, 16), shape=(4,))},
        {"a": entry(offsets=(0, 4), shape=(1,))},
        {"a": entry(), "b": entry()},
        {"a": {**entry(), "more": 1}},
        {},
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: object) -> None:
    assert open_arrays(write_raw(tmp_path / "good", {"a": entry()}, bytes(8)))["a"].tolist() == [0, 0]
    with pytest.raises(InputError, match="damaged"):
        open_arrays(write_raw(tmp_path / "bad", header, bytes(8)))


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 64, b"\x05" + bytes(7) + b"{nope", b"PK\x03\x04" * 9])
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        open_arrays(tmp_path / "a")
    with pytest.raises(InputError, match="missing"):
        open_arrays(tmp_path / "none")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4))
def test_damage_is_refused_or_harmless(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    path = tmp_path / "a"
    write_arrays(path, {"a": np.arange(6.0), "b": np.arange(5, dtype=np.uint8)})
    data = bytearray(path.read_bytes())
    for place, change in flips:
        data[place % len(data)] ^= change
    cut = min(cut, len(data))
    path.write_bytes(data[: len(data) - cut])
    try:
        found = open_arrays(path)
    except InputError:
        return
    assert sum(array.nbytes for array in found.values()) <= len(data), "nothing beyond the file is looked at"
    for array in found.values():
        array.tobytes()  # a mapping beyond the end of the file would end the process here
    assert cut == 0 or flips, "a file that was cut short is never taken for whole"


def test_to_plain_gives_what_yaml_holds() -> None:
    @dataclass
    class Options:
        path: Path
        size: tuple[int, int]
        image: object

    plain = to_plain({"o": Options(Path("a/b"), (1, 2), np.zeros((2, 3), np.uint8)), 3: np.float32(0.5), "n": None})
    assert plain == {"o": {"path": "a/b", "size": [1, 2], "image": "array of uint8 [2, 3]"}, "3": 0.5, "n": None}
    assert type(plain["3"]) is float
