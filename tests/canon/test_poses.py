"""Poses in files: the same come out of every layout, nothing is run, and what is damaged is told in a sentence."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from canon.bodies import capsule_body
from canon.errors import InputError
from canon.pose_pickles import read_npz, read_pickle
from canon.poses import read_poses, save_poses
from canon.skeletons import Motion, Skeleton

BODY = capsule_body(1.83)
PELVIS = np.array([-0.0018, -0.2233, 0.0282])
# What joblib 1.6 itself wrote (compressed): WHAM's layout of person 0 in frames 4 to 6 and person 7 in frames 4 and 5,
# poses (k % 5) / 8, translations k / 2; PHALP's of track 5 in three frames, and of track 3, which frame 1 misses.
WHAM = (
    "c-rk%OHbS|5cWR8vb-rORYehSK!ro;rH3A>cB@{hMp_9j9D|d1vB7yLaa8RAX?uWfCEx1(Km4=pIGe!kCO1$|8EF#xvuD1E<@qvbj<#zkHM#5r"
    "oD)Z|z>k$&c1aH>T)4~;>aUWEcEY$|da0RVx9UtCndn9x$z~YDM9HnIz~;<8@e?oXTOo6<IiQ<eJ^dO*xPKnuFeDKKAOBK1a4}A7hvOL18flc0"
    "E#Jj@uVyu3ibJBzhWY&tW<lgau&jN9u`BwpLO1de?5_7ds6WHsX;}?f`=q+v?vF88`Y@4Dwp_xT2R|*(!=W0=ok^uBpM^QQ^gZGW%kB#jD{~{U"
    "*Tyq8IV$uSp#k_kIQmjy6;@%-gN@#0E7A}V2C<<l6QQ8%^ab4l9cbJs`jT$bSM&|t8`6E<r0x0sgj@sgd!4g`&^~wv`~rN?nc}dCz$F|@B^<_d"
    "{{L>H)4b+(FTx(Nm|Lv-Hm~}%th0}gN=SE$I{5Hit26r6%xH}4y^!<gXO@^P&Dfsfu4{cRoLQ~X%L;oEHhP;O^q_F#%9LPzT>8H*=)q&&!$RJ&"
    "?r+WJd%nIt%<DLwuj8Sc-%s_^e19g%$v-17(3="
)
PHALP = (
    "cwX(8%TL=t5QlBzKtoHRs?r{iDph^)v?#55ssxBzSIVK6o{+V6HjKfJEk9J{fJ7^`P-$;n-}z7JtRHC-0t7`lpm-0-?s{iu_A#G+_NkWqRF$-x"
    "h!sBD+R~5wLm}&0WV=idg=-;rk*v(O0_rlurxA$mP+p1brZ^C!O8KKGpw=;K8mTGvDU@rL*KT2*KWoRX-_Z@r3z+W4PGr*{pdFkkw5US^@mKI_"
    "ItKrnQO9SpXQuU0{5d}pU&RWkaP_ljG#Xznv7|pliG;bYVe~uVH;zGfq3b*7POf0#(D6*_7+zqrb|m=IBhPefQ%{{3zHJ>lOz<ZS+1!({d<&@W"
    "Ga1S1k939yVQg9s4MPD-e6HQhB9?)MKruj~k_xGuVcQFuXvo$5Ztzg&^VD&??}qDAU!3#h%x^k}K^^<B?P6Gl*@;*v$Wm<1TwW^5=}vYWMY-Be"
    "KIG4M&GeeM5HDl`US=V~Yj_Lq$nz{NScNrMhdOMW!=`kxD0i)=jN-2xbMtwW`!k*UldKncST$KhkrDklIR9&u{Oiy5>srZH{v@V+)<Oyg6d^a@"
    "urkEq<H3Bt*v)3T*h^0GIcbbEe_wzfDntd1C{XS8!rXzxFR3!9$(l+O1`n|Yi%{>uFYGf|#%{@>7X!iNq`X3;g*)>oS<T}HeMIWjx<1NWoz7e>"
    "&wc!JPu>)Hw><*ss%g%RMmI%CHVeMpg&pc>da2~a5KVcz&Mb3g{G6HQJ)9^n)(T!Q_#}l$zw{cWgtUxDyQqKU-ADcNs^Hn}#&fxXK)e6;g??gE"
    "KW+Eur<tyP%6bR&lX9JYf>J;AzW0`ly6HQ>G_&PCu6?3BEcFvIz2rs73%LWs?!o=L8x!TlSo%pp4K$8^%I)QMds$c<>;C}qpoK*"
)


def moved(frames: int = 5, seed: int = 0, fps: float = 24.0) -> Motion:
    """Any motion of bones of any lengths."""
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(rng.normal(size=(frames * 24, 3))).as_matrix().reshape(frames, 24, 3, 3)
    offsets = BODY.skeleton.offsets * rng.uniform(0.8, 1.2, (24, 1))
    skeleton = Skeleton(BODY.skeleton.names, BODY.skeleton.parents, offsets)
    return Motion(skeleton, turns.astype(np.float32), rng.normal(size=(frames, 3)).astype(np.float32), fps)


def vectors(motion: Motion) -> np.ndarray:
    return Rotation.from_matrix(motion.rotations.reshape(-1, 3, 3)).as_rotvec().reshape(len(motion), 72)


@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 7), seed=st.integers(0, 99), fps=st.floats(1, 240))
def test_what_is_saved_comes_back_exactly(
    frames: int, seed: int, fps: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    motion, path = moved(frames, seed, fps), tmp_path_factory.mktemp("a") / "poses.npz"
    save_poses(motion, path)
    found = read_poses(path)
    assert np.array_equal(found.rotations, motion.rotations) and np.array_equal(found.root, motion.root)
    assert np.array_equal(found.skeleton.offsets, motion.skeleton.offsets) and found.fps == fps
    first = path.read_bytes()
    save_poses(motion, path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("shape", [(5, 72), (5, 24, 3)])
def test_axes_by_angles_and_translations_of_smpl(shape: tuple[int, ...], tmp_path: Path) -> None:
    motion = moved()
    poses = vectors(motion).reshape(shape)
    np.savez(tmp_path / "a.npz", poses=poses, trans=motion.root, fps=12.5)
    found = read_poses(tmp_path / "a.npz")
    assert np.allclose(found.rotations, motion.rotations, atol=1e-6) and found.fps == 12.5
    assert np.allclose(found.root, motion.root + PELVIS, atol=1e-6)
    rest = BODY.rest.numpy() + np.float32([0.1, -0.2, 0.3])
    np.savez(tmp_path / "b.npz", poses=poses, transl=motion.root, rest_joints=rest)
    found = read_poses(tmp_path / "b.npz", fps=50)
    assert np.allclose(found.skeleton.offsets, BODY.skeleton.offsets, atol=1e-6) and found.fps == 50
    # SMPL's own forward kinematics begins where its rest pose is.
    assert np.allclose(found.joints[:, 0], motion.root + rest[0], atol=1e-6)


def test_an_amass_file_gives_its_body(tmp_path: Path) -> None:
    poses = np.concatenate([vectors(moved())[:, :66], np.ones((5, 90))], axis=1)
    np.savez(tmp_path / "a.npz", poses=poses, trans=np.zeros((5, 3)), mocap_framerate=120.0)
    found = read_poses(tmp_path / "a.npz")
    assert np.allclose(found.rotations[:, :22], moved().rotations[:, :22], atol=1e-6) and found.fps == 120
    assert np.allclose(found.rotations[:, 22:], np.eye(3))


def test_human_nerf_in_the_order_of_names(tmp_path: Path) -> None:
    poses = vectors(moved())
    content = {f"{t:06d}": {"poses": poses[t].tolist(), "betas": [0.0] * 10} for t in (3, 0, 4, 2, 1)}
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    found = read_poses(tmp_path)
    assert np.allclose(found.rotations, moved().rotations, atol=1e-6) and np.allclose(found.root, PELVIS)


def test_wham(tmp_path: Path) -> None:
    content = base64.b85decode(WHAM)
    wanted = (np.arange(3 * 72) % 5 * 0.125).reshape(3 * 24, 3)
    for name, data in (("a.pkl", content), ("b.pkl", zlib.decompress(content))):
        (tmp_path / name).write_bytes(data)
        found = read_poses(tmp_path / name, fps=25)
        turns = Rotation.from_rotvec(wanted).as_matrix().reshape(3, 24, 3, 3)
        assert np.allclose(found.rotations, turns, atol=1e-6) and found.fps == 25
        assert np.allclose(found.root, np.arange(9).reshape(3, 3) / 2 + PELVIS)
        assert len(read_poses(tmp_path / name, person=7)) == 2
        with pytest.raises(InputError, match="no person 1 in it; there are 0, 7"):
            read_poses(tmp_path / name, person=1)
    (tmp_path / "c.pkl").write_bytes(zlib.decompress(content)[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        read_poses(tmp_path / "c.pkl")


def test_the_tracks_of_4d_humans(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(base64.b85decode(PHALP))
    found = read_poses(tmp_path / "a.pkl")
    assert np.allclose(found.rotations, np.eye(3)) and found.rotations.shape == (3, 24, 3, 3)
    assert np.allclose(found.root, np.array([[5, 0, 20], [5, 1, 20], [5, 2, 20]]) + PELVIS)
    assert len(read_poses(tmp_path / "a.pkl", person=3)) == 1  # in frame 1 they were only continued


def romp(person: int, frame: int) -> dict[str, Any]:
    return {"smpl_thetas": vectors(moved())[frame], "cam_trans": np.array([person, frame, 3.0])}


def test_romp(tmp_path: Path) -> None:
    tracks = {
        np.int32(k): {"frame_id": list(at), **{name: [romp(k, t)[name] for t in at] for name in romp(0, 0)}}
        for k, at in ((1, (0, 1)), (2, (1, 2, 3)), (4, (0, 2, 4)))
    }
    frames = {f"{t:03d}.png": {k: v[None] for k, v in romp(9, t).items()} for t in range(4)}
    np.savez(tmp_path / "a.npz", results=np.array(frames), sequence_results=np.array(tracks))
    found = read_poses(tmp_path / "a.npz", person=2)
    assert np.allclose(found.rotations, moved().rotations[1:4], atol=1e-6)
    assert np.allclose(found.root, np.array([[2, t, 3] for t in (1, 2, 3)]) + PELVIS)
    with pytest.raises(InputError, match="missing in frames 1, 3"):
        read_poses(tmp_path / "a.npz", person=4)
    np.savez(tmp_path / "b.npz", results=np.array(frames), sequence_results=np.array({}))
    assert np.allclose(read_poses(tmp_path / "b.npz").root, np.array([[9, t, 3] for t in range(4)]) + PELVIS)
    np.savez(tmp_path / "c.npz", results=np.array(frames["002.png"]))
    assert np.allclose(read_poses(tmp_path / "c.npz").rotations, moved().rotations[2:3], atol=1e-6)
    frames["001.png"] = {k: np.stack([v, v]) for k, v in romp(9, 1).items()}
    np.savez(tmp_path / "d.npz", results=np.array(frames), sequence_results=np.array({}))
    with pytest.raises(InputError, match="not tracked"):
        read_poses(tmp_path / "d.npz")


def test_neuman_brings_people_into_the_world(tmp_path: Path) -> None:
    motion = moved()
    with (tmp_path / "smpl_output_romp.pkl").open("wb") as handle:
        pickle.dump({1: {"pose": vectors(motion).astype(np.float32), "betas": np.zeros((5, 10))}}, handle)
    turn = Rotation.from_euler("xyz", (0.3, -1.2, 2.0)).as_matrix()
    shift = np.arange(15).reshape(5, 3) / 4
    # Rows times the matrix: sizes, rotation and shift of each picture.
    aligned = {f"{t:05d}.png": np.concatenate([0.5 * turn.T, shift[t][None]]) for t in (4, 0, 1, 2, 3)}
    np.save(tmp_path / "alignments.npy", np.array(aligned))
    found = read_poses(tmp_path)
    assert np.allclose(found.rotations[:, 0], turn @ motion.rotations[:, 0], atol=1e-5)
    assert np.allclose(found.rotations[:, 1:], motion.rotations[:, 1:], atol=1e-5)
    assert np.allclose(found.root, 0.5 * PELVIS @ turn.T + shift, atol=1e-5)
    assert np.allclose(found.skeleton.offsets, capsule_body().skeleton.offsets / 2, atol=1e-6)


class Evil:
    """Would run a command as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_of_a_pickle_is_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    content = pickle.dumps({0: {"pose": Evil(mark), "trans": 0}}, protocol=protocol)
    (tmp_path / "a.pkl").write_bytes(content)
    (tmp_path / "b.pkl").write_bytes(zlib.compress(content))
    np.savez(tmp_path / "c.npz", results=np.array({"smpl_thetas": Evil(mark)}))
    for name in ("a.pkl", "b.pkl", "c.npz"):
        with pytest.raises(InputError, match=r"wants to load '\w+\.system'.*nothing of it was run"):
            read_poses(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    "line",
    [
        "cbuiltins\neval\n(S'1'\ntR.",
        "cnumpy\nload\n(S'x'\ntR.",
        "ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        "c__main__\nThing\n)\x81}b.",
        "cnumpy\nndarray\n((I99999999999\ntR.",
        "cnumpy\ndtype\n(S'O8'\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbcnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V8'\ntRS'x'\ntR.",
        "P1\n.",
        "(dp0\n}b.",
    ],
)
def test_other_tricks_of_pickles_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(line.encode())
    with pytest.raises(InputError):
        read_pickle(tmp_path / "a.pkl")


@settings(max_examples=40, deadline=None)
@given(
    array=st.one_of(
        arrays(np.float32, (2, 3)),
        arrays(np.int64, (0, 4)),
        arrays(np.bool_, ()),
        arrays("U3", 3),
        arrays(">f8", (3, 1, 2)),
    ),
    fortran=st.booleans(),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_arrays_come_out_of_pickles_as_they_were(
    array: np.ndarray, fortran: bool, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = np.array(array, order="F" if fortran else "C")
    path = tmp_path_factory.mktemp("a") / "a.pkl"
    path.write_bytes(pickle.dumps({"a": own, "b": [own, (own, None, 2.5, "x", b"y", {1})]}, protocol=protocol))
    found = read_pickle(path)
    for one in (found["a"], found["b"][0], found["b"][1][0]):
        assert one.shape == array.shape and np.array_equal(one, array, equal_nan=array.dtype.kind == "f")
    assert found["b"][1][1:] == (None, 2.5, "x", b"y", {1})


def damaged(name: str, folder: Path, **change: Any) -> Path:
    parts: dict[str, Any] = {"rotations": moved().rotations.copy(), "root": moved().root.copy(), "fps": 24.0}
    np.savez(folder / name, **{key: value for key, value in (parts | change).items() if value is not None})
    return folder / name


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rotations": np.ones((5, 24, 3, 3))}, "not orthonormal"),
        ({"rotations": -moved().rotations}, "reflections"),
        ({"rotations": np.full((5, 24, 3, 3), np.nan)}, "not finite"),
        ({"rotations": moved().rotations[:, :20]}, "instead of"),
        ({"rotations": None, "poses": np.zeros((5, 71))}, r"\[5, 71\] numbers instead of"),
        ({"rotations": None, "poses": np.zeros((0, 72))}, "there are none"),
        ({"rotations": None}, "'poses' is missing"),
        ({"root": moved().root[:4]}, r"'root' are \[4, 3\] numbers instead of \[5, 3\]"),
        ({"root": np.full((5, 3), np.inf)}, "'root' are not finite"),
        ({"root": None}, "'trans' is missing"),
        ({"offsets": np.zeros((23, 3))}, "'offsets' are"),
        ({"fps": 0.0}, "above 0, not 0"),
    ],
)
def test_what_is_wrong_is_told(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        read_poses(damaged("a.npz", tmp_path, **change))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_poses(tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path, "no poses in"),
        (tmp_path / "a.npz", "does not exist"),
        (tmp_path / "a.fbx", "not in"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_poses(path)
    (tmp_path / "b.npz").write_bytes(b"PK\x05\x06 no archive")
    (tmp_path / "c.json").write_text("[1, 2]")
    (tmp_path / "d.pkl").write_bytes(pickle.dumps([1, 2]))
    for name in ("b.npz", "c.json", "d.pkl"):
        with pytest.raises(InputError, match=name):
            read_poses(tmp_path / name)
    with pytest.raises(InputError, match="above 0"):
        read_poses(damaged("e.npz", tmp_path), fps=-1)
    short = Skeleton(("a", "b"), (-1, 0), np.ones((2, 3)))
    with pytest.raises(InputError, match="2 in another"):
        save_poses(
            Motion(short, np.tile(np.eye(3, dtype=np.float32), (1, 2, 1, 1)), np.zeros((1, 3), np.float32), 30), "x"
        )


def test_a_file_with_a_rate_is_resampled(tmp_path: Path) -> None:
    save_poses(moved(9, fps=24), tmp_path / "a.npz")
    found = read_poses(tmp_path / "a.npz", fps=12)
    assert len(found) == 5 and np.allclose(found.root, moved(9).root[::2], atol=1e-6)
    assert np.allclose(found.rotations, moved(9).rotations[::2], atol=1e-5)


def test_objects_of_npz_are_plain(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(4), y=np.array({"k": [1, np.float32(2)]}))
    found = read_npz(tmp_path / "a.npz")
    assert np.array_equal(found["x"], np.arange(4)) and found["y"][()] == {"k": [1, 2.0]}
