"""Poses of people as files hold them: our own plain .npz, and what estimators and data sets write.

Everything ends in a :class:`canon.skeletons.Motion` of 24 joints in SMPL's order. SMPL's own model, which is licensed,
is not needed: its poses are put on the built-in body's bones unless a file brings bones of its own.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from canon.bodies import capsule_body
from canon.bvh import read_bvh
from canon.errors import InputError
from canon.pose_pickles import read_npz, read_pickle
from canon.pose_refining import nearest_rotation
from canon.pose_solving import solve_joints
from canon.retargeting import resample, retarget
from canon.skeletons import Motion, Skeleton
from canon.storage import write_bytes

_FPS = 30.0
"""Of what says nothing about time."""
_PELVIS = np.array([-0.0018, -0.2233, 0.0282])
"""Where SMPL's pelvis is, in metres, when its translation is 0 (the neutral shape): its origin is in the chest."""
_FOLDER = ("poses.npz", "joints.npz", "metadata.json", "wham_output.pkl", "video_results.npz")
_NEUMAN = ("smpl_output_optimized.pkl", "smpl_output_romp.pkl", "smpl_output_vibe.pkl")
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True, eq=False)
class _Person:
    """One person of a file.

    Attributes:
        frames: numbers of the frames that they were seen in, rising.
        rotations: float64 [N, 24, 3, 3].
        root: float64 [N, 3], where the pelvis is.
    """

    frames: np.ndarray
    rotations: np.ndarray
    root: np.ndarray


def read_poses(path: str | Path, person: int | None = None, fps: float | None = None) -> Motion:
    """The motion of a person, from their first frame to their last.

    Args:
        path: ``poses.npz`` (see :func:`save_poses`; also with ``poses`` as axis-angle [T, 72] and SMPL's ``trans``),
            ``joints.npz`` (``joints3d`` [T, K, 3] and ``joint_names``), a ``.bvh``, ``metadata.json`` of HumanNeRF,
            the tracks of 4D-Humans (``.pkl``), ``wham_output.pkl``, an ``.npz`` of ROMP, or a folder that holds one of
            these or NeuMan's ``smpl_output_*.pkl`` and ``alignments.npy``. What estimators write is in the axes of
            their camera.
        person: the identity that an estimator gave; otherwise who is seen in most frames.
        fps: frames per second. A file that says its own is resampled; others are taken to have as many (30 otherwise).

    Raises:
        InputError: nothing of these is there, or it cannot be read, is damaged, wants to load what is no data, has no
            such person, or the person is missing in frames in between.
    """
    place = _find(Path(path))
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise InputError(f"Frames per second must be above 0, not {fps:g}.")
    try:
        found = _read(place, person, fps or _FPS)
    except InputError as error:
        raise InputError(f"The poses of '{place}' cannot be used: {error}") from error
    except (OSError, RecursionError, *_WRONG) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise InputError(f"The poses of '{place}' cannot be read: {what}.") from error
    return found if fps is None else resample(found, fps)


def save_poses(motion: Motion, path: str | Path) -> None:
    """Write a motion as a plain ``poses.npz``: rotations, root, offsets and fps.

    Raises:
        InputError: it is not of 24 joints in SMPL's order, or the file cannot be written.
    """
    if motion.skeleton.parents != capsule_body().skeleton.parents:
        raise InputError(
            f"Poses are saved of 24 joints in SMPL's order, and this motion has {len(motion.skeleton)} in another; "
            "retarget it first."
        )
    content = BytesIO()
    parts = {"rotations": motion.rotations, "root": motion.root, "offsets": motion.skeleton.offsets}
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in {**parts, "fps": np.float64(motion.fps)}.items():
            # Always of the same date, so that the same motion is the same file.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as handle:
                np.lib.format.write_array(handle, np.asarray(array), allow_pickle=False)
    write_bytes(Path(path), content.getvalue())


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / "alignments.npy").is_file():
        return path
    for name in _FOLDER:
        if (path / name).is_file():
            return path / name
    raise InputError(f"There are no poses in '{path}'; give one of {', '.join(_FOLDER)}, or a .bvh or .pkl file.")


def _read(path: Path, person: int | None, fps: float) -> Motion:
    ending = path.suffix.lower()
    if path.is_dir():
        return _neuman(path, person, fps)
    if ending == ".bvh":
        return retarget(read_bvh(path), capsule_body().skeleton)
    if ending == ".json":
        return _human_nerf(json.loads(path.read_text()), fps)
    if ending == ".npz":
        return _npz(read_npz(path), person, fps)
    if ending in (".pkl", ".pickle", ".joblib", ".pth"):
        return _chosen(_estimated(read_pickle(path)), person, fps)
    raise InputError(f"poses are in .npz, .bvh, .json or .pkl files, not in '{ending}'.")


def _npz(content: Mapping[str, Any], person: int | None, fps: float) -> Motion:
    if "results" in content:
        return _chosen(_romp(content), person, fps)
    rate = next(
        (float(content[name]) for name in ("fps", "mocap_framerate", "mocap_frame_rate") if name in content), fps
    )
    if not (np.isfinite(rate) and rate > 0):
        raise InputError(f"its frames per second must be above 0, not {rate:g}.")
    if "joints3d" in content:
        return solve_joints(content["joints3d"], [str(name) for name in content["joint_names"]], rate)
    rotations = _rotations(content["rotations"] if "rotations" in content else content["poses"])
    body = capsule_body()
    skeleton, pelvis = body.skeleton, _PELVIS
    if "offsets" in content:
        skeleton = Skeleton(skeleton.names, skeleton.parents, _numbers(content["offsets"], (24, 3), "offsets"))
    elif "rest_joints" in content:
        rest = _numbers(content["rest_joints"], (24, 3), "rest_joints")
        offsets = rest - np.concatenate([rest[:1], rest[list(skeleton.parents[1:])]])
        skeleton, pelvis = Skeleton(skeleton.names, skeleton.parents, offsets), rest[0]
    if "root" in content:
        root = _numbers(content["root"], (len(rotations), 3), "root")
    else:
        name = "transl" if "transl" in content else "trans"
        root = _numbers(content[name], (len(rotations), 3), name) + pelvis
    return _motion(rotations, root, rate, skeleton)


def _human_nerf(content: Any, fps: float) -> Motion:
    if not isinstance(content, dict) or not content or not all(isinstance(own, dict) for own in content.values()):
        raise InputError("it is no metadata.json of HumanNeRF, which has poses for every picture.")
    poses = np.array([content[name]["poses"] for name in sorted(content)], np.float64)
    return _motion(_rotations(poses), np.tile(_PELVIS, (len(poses), 1)), fps)


def _neuman(folder: Path, person: int | None, fps: float) -> Motion:
    """NeuMan: poses of ROMP, and for every picture what takes them to the world of its COLMAP model."""
    name = next((one for one in _NEUMAN if (folder / one).is_file()), None)
    if name is None:
        raise InputError(f"beside its alignments.npy there is none of {', '.join(_NEUMAN)}.")
    people = _mapping(read_pickle(folder / name))
    known = {key: _Person(np.arange(len(own["pose"])), _rotations(own["pose"]), np.zeros((len(own["pose"]), 3)))
             for key, own in people.items()}  # fmt: skip
    own = known[_identity(known, person)]
    matrices = _mapping(read_npz(folder / "alignments.npy")[""][()])
    names = sorted(matrices)
    number = [int(Path(str(one)).stem) for one in names]
    if not number or min(number) < 0 or max(number) >= len(own.rotations):
        raise InputError(f"it has {len(own.rotations)} poses, but alignments for other pictures.")
    align = _numbers(np.stack([matrices[one] for one in names]), (len(names), 4, 3), "alignments").swapaxes(1, 2)
    size = np.cbrt(np.linalg.det(align[:, :, :3]))
    if not (size > 0).all():
        raise InputError("an alignment is no rotation with a size.")
    turn = nearest_rotation(align[:, :, :3])
    rotations = own.rotations[number]
    rotations[:, 0] = turn @ rotations[:, 0]
    root = align[:, :, :3] @ _PELVIS + align[:, :, 3]
    # One size for all frames, where every one had its own: seen from the camera nothing moves.
    eyes, whole = _eyes(folder, names), float(np.median(size))
    if eyes is not None:
        root = eyes + (root - eyes) * (whole / size)[:, None]
    skeleton = capsule_body().skeleton
    return _motion(rotations, root, fps, Skeleton(skeleton.names, skeleton.parents, skeleton.offsets * whole))


def _eyes(folder: Path, names: list[Any]) -> np.ndarray | None:
    """Where the cameras of pictures are, if the folder's COLMAP model tells it."""
    from canon.camera_files import read_cameras

    try:
        views = {view.name: view.camera.position for view in read_cameras(folder)}
    except InputError:
        return None
    return np.stack([views[str(name)] for name in names]) if all(str(name) in views for name in names) else None


def _estimated(content: Any) -> dict[Any, _Person]:
    """People by their identity, as WHAM or 4D-Humans write them."""
    entries = _mapping(content)
    if all(isinstance(own, dict) and "pose" in own and "trans" in own for own in entries.values()):
        return {
            key: _person(own.get("frame_ids", range(len(own["pose"]))), own["pose"], own["trans"])
            for key, own in entries.items()
        }
    if all(isinstance(own, dict) and "smpl" in own and "tid" in own for own in entries.values()):
        return _tracks(list(entries.values()))
    raise InputError("it is neither what WHAM nor what 4D-Humans writes; convert it to a plain poses.npz.")


def _tracks(frames: list[dict[str, Any]]) -> dict[Any, _Person]:
    """4D-Humans (PHALP): for every frame lists over the tracks, of which some are only continued, not seen."""
    seen: dict[Any, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for number, frame in enumerate(frames):
        late = frame.get("tracked_time") or [0] * len(frame["tid"])
        for track, smpl, camera, since in zip(frame["tid"], frame["smpl"], frame["camera"], late, strict=True):
            if int(since) == 0:
                parts = [
                    np.asarray(smpl[name], np.float64).reshape(-1, 3, 3) for name in ("global_orient", "body_pose")
                ]
                place = int(frame.get("time", number))
                seen.setdefault(int(track), {})[place] = np.concatenate(parts), np.asarray(camera, np.float64)
    return {
        track: _person(
            sorted(own), np.stack([own[t][0] for t in sorted(own)]), np.stack([own[t][1] for t in sorted(own)])
        )
        for track, own in seen.items()
    }


def _romp(content: Mapping[str, Any]) -> dict[Any, _Person]:
    """ROMP: a frame's people, or all frames of a video with the people that were tracked."""
    tracked = content["sequence_results"][()] if "sequence_results" in content else {}
    if isinstance(tracked, dict) and tracked:
        return {
            int(track): _person(own["frame_id"], np.stack(own["smpl_thetas"]), np.stack(own["cam_trans"]))
            for track, own in tracked.items()
        }
    results = _mapping(content["results"][()])
    if "cam_trans" in results:
        poses, places = np.asarray(results["smpl_thetas"]), np.asarray(results["cam_trans"])
        return {k: _person([0], poses[k : k + 1], places[k : k + 1]) for k in range(len(poses))}
    frames = {t: results[name] for t, name in enumerate(sorted(results)) if results[name] is not None}
    if any(len(frame["smpl_thetas"]) > 1 for frame in frames.values()):
        raise InputError("several people are in it who were not tracked; run ROMP with -t, or with --show_largest.")
    kept = {t: frame for t, frame in frames.items() if len(frame["smpl_thetas"])}
    if not kept:
        return {}
    poses, places = (
        np.concatenate([np.asarray(one[key]) for one in kept.values()]) for key in ("smpl_thetas", "cam_trans")
    )
    return {0: _person(list(kept), poses, places)}


def _person(frames: Any, poses: Any, translation: Any) -> _Person:
    rotations = _rotations(poses)
    number = np.asarray(frames, np.int64).reshape(-1)
    place = _numbers(translation, (len(rotations), 3), "translation")
    if len(number) != len(rotations) or (np.diff(number) <= 0).any():
        raise InputError(f"it has {len(rotations)} poses for {len(number)} frames, or frames that are not in order.")
    return _Person(number, rotations, place + _PELVIS)


def _chosen(people: Mapping[Any, _Person], person: int | None, fps: float) -> Motion:
    own = people[_identity(people, person)]
    gaps = np.setdiff1d(np.arange(own.frames[0], own.frames[-1] + 1), own.frames)
    if len(gaps):
        listed = ", ".join(map(str, gaps[:8])) + (f" and {len(gaps) - 8} more" if len(gaps) > 8 else "")
        raise InputError(f"the person is missing in frames {listed}; cut the video there, or choose another person.")
    return _motion(own.rotations, own.root, fps)


def _identity(people: Mapping[Any, _Person], person: int | None) -> Any:
    if not people:
        raise InputError("nobody was found in it.")
    if person is None:
        return max(people, key=lambda key: len(people[key].frames))
    if person not in people:
        raise InputError(f"there is no person {person} in it; there are {', '.join(map(str, people))}.")
    return person


def _mapping(content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict) or not content:
        raise InputError("it holds no people by name.")
    return content


def _rotations(values: Any) -> np.ndarray:
    """Rotations float64 [T, 24, 3, 3] of these, or of axes by angles [T, 72] or [T, 24, 3].

    Of SMPL-H's [T, 156] and SMPL-X's [T, 165] the body is taken, with open hands.
    """
    poses = np.asarray(values, np.float64)
    if not np.isfinite(poses).all() or not poses.size:
        raise InputError("its rotations are not finite numbers, or there are none.")
    if poses.shape[1:] == (24, 3, 3):
        off = np.abs(poses @ poses.swapaxes(-1, -2) - np.eye(3)).max(axis=(1, 2, 3))
        if off.max() > 1e-3 or (np.linalg.det(poses) < 0).any():
            raise InputError(f"its rotations are none in frame {int(off.argmax())}: not orthonormal, or reflections.")
        return poses
    if poses.shape[1:] in ((156,), (165,)):
        poses = np.concatenate([poses[:, :66], np.zeros((len(poses), 6))], axis=1)
    if poses.shape[1:] not in ((72,), (24, 3)):
        raise InputError(f"its poses are {list(poses.shape)} numbers instead of [T, 72], [T, 24, 3] or [T, 24, 3, 3].")
    return Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(-1, 24, 3, 3)


def _numbers(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if found.shape != shape:
        raise InputError(f"its '{name}' are {list(found.shape)} numbers instead of {list(shape)}.")
    if not np.isfinite(found).all():
        raise InputError(f"its '{name}' are not finite numbers.")
    return found


def _motion(rotations: np.ndarray, root: np.ndarray, fps: float, skeleton: Skeleton | None = None) -> Motion:
    own = capsule_body().skeleton if skeleton is None else skeleton
    return Motion(own, rotations.astype(np.float32), root.astype(np.float32), fps)
