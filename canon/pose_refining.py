"""What solves poses from points: a start in closed form, and a fit of all frames at once.

The start walks down the skeleton and turns every joint so that what hangs on it lies where it was seen (Wahba's
problem, with the joint above as a weak witness, which keeps twists near the rest pose); upper arms and thighs then
turn about themselves so that elbows and knees bend the way they do. The fit moves all rotations, roots and bone
lengths together by L-BFGS; it is told apart by what it is fitted to: points in space or pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from canon.bodies import capsule_body
from canon.pose_landmarks import MIRROR, NAMES, Landmarks
from canon.skeletons import Skeleton

GROUPS = (
    ("hip",), ("knee",), ("ankle",), ("foot",), ("spine1", "spine2", "spine3"), ("neck",), ("collar",), ("head",),
    ("shoulder",), ("elbow",), ("wrist",), ("hand",),
)  # fmt: skip
"""Bones, by the joints that they lead to, whose lengths go together; left and right are the same."""
GROUP = np.array(
    [next((g for g, own in enumerate(GROUPS) if n.partition("_")[2] in own or n in own), -1) for n in NAMES]
)
PARENTS = capsule_body().skeleton.parents
_NUMBER = {name: k for k, name in enumerate(NAMES)}
_TORSO = np.array([k for k, name in enumerate(NAMES) if name.rpartition("_")[2] in (
    "hip", "spine1", "spine2", "spine3", "neck", "collar", "shoulder")])  # fmt: skip
_SHARED = {"spine1": ("spine2", 3), "spine2": ("spine3", 2), "neck": ("head", 2)}
"""Joints that turn by a share of what is above them bends by, as long as the next one was not seen itself."""
_BENDS = {"hip": ("knee", "ankle", -1.0), "shoulder": ("elbow", "wrist", 1.0)}
"""Joints above the hinges, what lies along them, and whether they bend to the front."""
_WITNESS = 0.02
"""Weight of the joint above, in squared lengths of what is seen."""
_BARE = 0.05
"""Metres of lever that even a joint has beyond which nothing was seen."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Bones and landmarks of one person.

    Attributes:
        offsets: float64 [24, 3], see :class:`canon.skeletons.Skeleton`.
        marks: float64 [L, 3], of the landmarks from their joints.
    """

    offsets: np.ndarray
    marks: np.ndarray


@dataclass(frozen=True, eq=False)
class Pose:
    """Rotations float64 [T, 24, 3, 3] of the joints, and where the pelvis is, float64 [T, 3]."""

    rotations: np.ndarray
    root: np.ndarray


@dataclass(frozen=True)
class Weights:
    """Of a fit: how far things may be from what is expected, as standard deviations.

    Attributes:
        turn: of joints from the start, in radians.
        pace: of the acceleration of joints, in metres per second squared.
        length: of bones, as a share.
        mark: of landmarks on the body, in metres.
    """

    turn: float = 1.0
    pace: float = 60.0
    length: float = 0.1
    mark: float = 0.03


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] of length 1, or of 0 where they were 0."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def nearest_rotation(matrices: np.ndarray) -> np.ndarray:
    """Of matrices [..., 3, 3], the rotations that are nearest to them."""
    left, _, right = np.linalg.svd(matrices)
    sign = np.ones(matrices.shape[:-1])
    sign[..., 2] = np.linalg.det(left @ right)
    return np.asarray(left * sign[..., None, :] @ right)


def first_shape(points: np.ndarray, seen: Landmarks) -> Shape:
    """Lengths of bones as medians over time, left and right alike; what was not seen follows the size of the rest.

    Args:
        points: float64 [T, L, 3], of the landmarks.
    """
    offsets = capsule_body().skeleton.offsets.astype(np.float64)
    rest = rest_places(offsets)
    at = seen.at_joints()
    ratio: dict[int, list[float]] = {}
    whole = [0.0, 0.0]

    def measure(group: int | None, first: np.ndarray, second: np.ndarray, wanted: float) -> None:
        found = float(np.median(np.linalg.norm(first - second, axis=-1)))
        whole[0], whole[1] = whole[0] + found, whole[1] + wanted
        if group is not None:
            ratio.setdefault(group, []).append(found / wanted)

    for joint, above in enumerate(PARENTS):
        if above >= 0 and joint in at and above in at:
            measure(
                int(GROUP[joint]), points[:, at[joint]], points[:, at[above]], float(np.linalg.norm(offsets[joint]))
            )
    for name, groups in (("hip", ("hip",)), ("shoulder", ("collar", "shoulder"))):
        pair = _NUMBER[f"left_{name}"], _NUMBER[f"right_{name}"]
        if all(joint in at for joint in pair):
            wanted = float(np.linalg.norm(rest[pair[0]] - rest[pair[1]]))
            for own in groups:
                group = next(g for g, names in enumerate(GROUPS) if own in names)
                if group not in ratio:
                    measure(group, points[:, at[pair[0]]], points[:, at[pair[1]]], wanted)
    low, high = (middle(points, seen, name) for name in ("hip", "shoulder"))
    if low is not None and high is not None:
        spine = next(g for g, names in enumerate(GROUPS) if "spine1" in names)
        wanted = float(rest[_NUMBER["left_shoulder"], 1] - rest[_NUMBER["left_hip"], 1])
        measure(spine if spine not in ratio else None, low, high, wanted)
    size = whole[0] / whole[1] if whole[1] else 1.0
    scale = np.array([np.median(ratio[g]) if g in ratio else size for g in range(len(GROUPS))])
    return Shape(offsets * np.append(scale, 1.0)[GROUP][:, None], seen.offset * size)


def rest_places(offsets: np.ndarray) -> np.ndarray:
    """Where joints are in the rest pose, float64 [24, 3]."""
    places = np.zeros((len(offsets), 3))
    for joint, above in enumerate(PARENTS[1:], 1):
        places[joint] = places[above] + offsets[joint]
    return places


def middle(points: np.ndarray, seen: Landmarks, name: str) -> np.ndarray | None:
    """Between the left and the right one of a landmark, [T, 3], if both were seen, or the middle itself."""
    left, right, mid = seen.find("left", name), seen.find("right", name), seen.find("", f"mid{name}")
    if left is not None and right is not None:
        return np.asarray((points[:, left] + points[:, right]) / 2)
    return None if mid is None else points[:, mid]


def first_pose(points: np.ndarray, seen: Landmarks, shape: Shape) -> Pose:
    """Poses in closed form, one frame at a time; joints below which nothing was seen keep their rest pose.

    Args:
        points: float64 [T, L, 3], of the landmarks.
    """
    count = len(points)
    rest = rest_places(shape.offsets)
    own = {joint: [k for k in range(len(seen.joint)) if seen.joint[k] == joint] for joint in range(len(NAMES))}
    below: dict[int, list[tuple[int, np.ndarray]]] = {}
    for joint in reversed(range(len(NAMES))):
        # What tells of a joint: landmarks that move with it, and of every branch the first that was seen.
        below[joint] = [(k, shape.marks[k]) for k in own[joint]]
        for child in (c for c, above in enumerate(PARENTS) if above == joint):
            here = [(k, place) for k, place in below[child] if not place.any()]
            below[joint] += [(k, place + shape.offsets[child]) for k, place in (here or below[child])]
    turns = np.zeros((count, len(NAMES), 3, 3))
    places = np.zeros((count, len(NAMES), 3))
    turns[:, 0] = _trunk(points, seen, rest, shape)
    held = [k for k, joint in enumerate(seen.joint) if NAMES[joint] in ("pelvis", "left_hip", "right_hip")]
    held = held or list(range(len(seen.joint)))
    local = rest[seen.joint[held]] + shape.marks[held]
    places[:, 0] = (points[:, held] - local @ turns[:, 0].swapaxes(1, 2)).mean(axis=1)
    at = seen.at_joints()
    for joint, above in enumerate(PARENTS[1:], 1):
        places[:, joint] = places[:, above] + turns[:, above] @ shape.offsets[joint]
        turns[:, joint] = turns[:, above]
        away = [(k, place) for k, place in below[joint] if place.any()]
        if away:
            turns[:, joint] = _wahba(points, away, places[:, joint], turns[:, above])
            following, share = _SHARED.get(NAMES[joint], ("", 1))
            if share > 1 and _NUMBER[following] not in at:
                turns[:, joint] = _part_way(turns[:, above], turns[:, joint], 1 / share)
        _bend(points, at, joint, turns)
    rotations = turns.copy()
    rotations[:, 1:] = turns[:, PARENTS[1:]].swapaxes(-1, -2) @ turns[:, 1:]
    return Pose(rotations, places[:, 0])


def _trunk(points: np.ndarray, seen: Landmarks, rest: np.ndarray, shape: Shape) -> np.ndarray:
    """Rotations of the pelvis [T, 3, 3]: left by hips or shoulders, up by both; else by all that was seen."""
    low, high = middle(points, seen, "hip"), middle(points, seen, "shoulder")
    pairs = [(seen.find("left", name), seen.find("right", name)) for name in ("hip", "shoulder")]
    across = next((points[:, a] - points[:, b] for a, b in pairs if a is not None and b is not None), None)
    if low is not None and high is not None and across is not None:
        x, up = unit(across), unit(high - low)
        left = unit(x - (x * up).sum(-1, keepdims=True) * up / 2)  # neither of the two is right, so they meet halfway
        y = unit(up - (up * left).sum(-1, keepdims=True) * left)
        return np.stack([left, y, np.cross(left, y)], axis=-1)
    local = rest[seen.joint] + shape.marks
    away = np.einsum("tki,kj->tij", points - points.mean(axis=1, keepdims=True), local - local.mean(axis=0))
    return nearest_rotation(away)


def _wahba(points: np.ndarray, away: list[tuple[int, np.ndarray]], place: np.ndarray, above: np.ndarray) -> np.ndarray:
    local = np.stack([one for _, one in away])
    seen = points[:, [k for k, _ in away]] - place[:, None]
    witness = _WITNESS * float((local**2).sum())
    return nearest_rotation(np.einsum("tki,kj->tij", seen, local) + witness * above)


def _part_way(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    way = Rotation.from_matrix(first.swapaxes(-1, -2) @ second).as_rotvec()
    return np.asarray(first @ Rotation.from_rotvec(share * way).as_matrix())


def _bend(points: np.ndarray, at: dict[int, int], joint: int, turns: np.ndarray) -> None:
    """Turn a joint about its bone until the hinge below bends to the front or the back, the more the more it bends."""
    from scipy.spatial.transform import Rotation

    side, _, name = NAMES[joint].partition("_")
    if name not in _BENDS:
        return
    hinge, end, forward = _BENDS[name]
    marks = [at.get(_NUMBER[f"{side}_{one}"]) for one in (name, hinge, end)]
    if None in marks:
        return
    start, knee, foot = (points[:, k] for k in marks if k is not None)
    along = unit(knee - start)
    bent = unit(foot - knee)
    bent = bent - (bent * along).sum(-1, keepdims=True) * along
    wanted = turns[:, joint, :, 2] * forward
    wanted = wanted - (wanted * along).sum(-1, keepdims=True) * along
    sine, cosine = (np.cross(wanted, bent) * along).sum(-1), (wanted * bent).sum(-1)
    angle = np.arctan2(sine, cosine)
    share = np.clip((np.linalg.norm(bent, axis=-1) - 0.15) / 0.35, 0, 1) * (1 + np.cos(angle)) / 2
    turns[:, joint] = Rotation.from_rotvec((share * angle)[:, None] * along).as_matrix() @ turns[:, joint]


Term = Callable[[Tensor, Tensor], Tensor]
"""Of landmarks float64 [T, L, 3] and rotations [T, 24, 3, 3], how badly they fit, summed over all."""


def refine(
    pose: Pose, shape: Shape, seen: Landmarks, term: Term, fps: float, weights: Weights, steps: int
) -> tuple[Pose, Shape]:
    """Fit all frames at once, with L-BFGS.

    Args:
        term: what is fitted to, in squared standard deviations.
        steps: of L-BFGS.
    """
    base, root, offsets, marks = (
        torch.from_numpy(np.ascontiguousarray(part)) for part in (pose.rotations, pose.root, shape.offsets, shape.marks)
    )
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    frames, pace = len(base), weights.pace / fps**2
    torso = torch.zeros(len(NAMES), 1, dtype=base.dtype)
    torso[_TORSO] = 1
    beside = (marks != 0).any(dim=1, keepdim=True)  # joints that were seen themselves are where they were seen
    # Everything is counted in steps that move what is seen about equally far; without, L-BFGS needs ten times longer.
    levers = _levers(pose, shape, seen)
    # Joints that nothing tells of stay as they were.
    turns = torch.from_numpy(np.where(levers > _BARE, 0.1 / levers, 0.0))[:, None]
    scales = (turns, 0.1 / len(seen.joint) ** 0.5, 0.2 / frames**0.5, 0.05 / frames**0.5, 0.05 / frames**0.5)
    parts = (base[..., 0], root, torch.zeros(len(GROUPS) + 1, dtype=base.dtype), marks, offsets)
    free = [torch.zeros_like(part).requires_grad_() for part in parts]

    def current() -> tuple[Tensor, ...]:
        turn, shift, stretch, moved, bent = (one * scale for one, scale in zip(free, scales, strict=True))
        longer = torch.cat([stretch[:-1], stretch.new_zeros(1)])
        bent, moved = _mirrored(bent, MIRROR) * torso, _mirrored(moved, seen.mirror) * beside
        bones = offsets * longer[GROUP].exp()[:, None] + bent
        off = (
            (longer / weights.length).square().sum()
            + (moved / weights.mark).square().sum()
            + (bent / (weights.mark / 2)).square().sum()
        )
        return base @ turned(turn), root + shift, bones, marks + moved, off + _turns(turn) / weights.turn**2

    def loss() -> Tensor:
        rotations, place, bones, own, prior = current()
        transforms = skeleton.transforms(rotations, place, bones)
        places, axes = transforms[..., :3, 3], transforms[..., :3, :3]
        found = (axes[:, seen.joint] @ own[..., None])[..., 0] + places[:, seen.joint]
        total = term(found, rotations) + prior
        if frames > 2:  # the axes stand for points 5 cm away, which also see twists
            for part, far in ((places, 1.0), (axes, 0.05)):
                total = total + (far * (part[2:] - 2 * part[1:-1] + part[:-2]) / pace).square().sum()
        return total

    _minimise(free, loss, steps)
    with torch.no_grad():
        rotations, place, bones, own, _ = current()
    return Pose(nearest_rotation(rotations.numpy()), place.numpy()), Shape(bones.numpy(), own.numpy())


def _turns(vectors: Tensor) -> Tensor:
    """Squared angles, which no longer grow where a joint has turned half around."""
    return (2 - 2 * torch.cos((vectors.square().sum(-1) + 1e-12).sqrt())).sum()


def _levers(pose: Pose, shape: Shape, seen: Landmarks) -> np.ndarray:
    """How far landmarks lie from the joints that move them, float64 [24]: roots of sums of squares."""
    skeleton = Skeleton(NAMES, PARENTS, shape.offsets.astype(np.float32))
    middle = slice(len(pose.root) // 2, len(pose.root) // 2 + 1)
    posed = skeleton.transforms(torch.from_numpy(pose.rotations[middle]), torch.from_numpy(pose.root[middle]))[
        0
    ].numpy()
    places = posed[:, :3, 3]
    marks = np.einsum("lij,lj->li", posed[seen.joint, :3, :3], shape.marks) + places[seen.joint]
    total = np.full(len(NAMES), _BARE**2)
    for mark, joint in zip(marks, seen.joint, strict=True):
        while joint >= 0:
            total[joint] += ((mark - places[joint]) ** 2).sum()
            joint = PARENTS[joint]
    return np.sqrt(total)


def _minimise(free: list[Tensor], loss: Callable[[], Tensor], steps: int) -> None:
    solver = torch.optim.LBFGS(
        free, max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-6, tolerance_change=1e-8
    )

    def closure() -> float:
        solver.zero_grad()
        found = loss()
        found.backward()
        return float(found.detach())

    solver.step(closure)


def _mirrored(vectors: Tensor, other: np.ndarray) -> Tensor:
    """The mean of vectors [N, 3] and of their mirror images on the other side of the body."""
    return (vectors + vectors[other] * vectors.new_tensor([-1.0, 1.0, 1.0])) / 2


def turned(vectors: Tensor) -> Tensor:
    """Rotations [..., 3, 3] about vectors [..., 3] by their lengths in radians (Rodrigues), differentiable."""
    square = vectors.square().sum(-1)[..., None, None]
    angle = (square + 1e-14).sqrt()
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    half = (angle / 2).sin() / angle
    return torch.eye(3, dtype=vectors.dtype) + angle.sin() / angle * cross + 2 * half.square() * cross @ cross
