"""Flow, camera motion and masks against known motion and the scenes' truth."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import canon
from canon.clip import Clip
from canon.coordinates import pixel_grid
from canon.errors import InputError
from canon.representations.motion.flow import Flow, compute_flow, global_shift, load_flow
from canon.representations.motion.homography import CameraMotion, Link, bundle_adjust, estimate_camera, transform
from canon.representations.motion.masks import LayerMasks, MaskPrompt, check_prompt, resolve_masks
from canon.representations.motion.propagation import mask_from_box, mask_from_scribble
from canon.representations.motion.raft import load_raft
from canon.representations.motion.segmentation import unexplained
from canon.scenes import Scene, make
from canon.scenes.textures import photograph
from canon.storage import write_image

SIZE = (144, 256)
PROMPT = MaskPrompt()


def seen_through(image: np.ndarray, to_image: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 frames [T, H, W, 3] of a flat picture, for cameras [T, 3, 3] that take frame pixels to its pixels."""
    at = pixel_grid(size).numpy().astype(np.float64)
    maps = [transform(matrix, at).astype(np.float32) for matrix in to_image]
    return np.stack([cv2.remap(image, m[..., 0], m[..., 1], cv2.INTER_CUBIC) for m in maps])


def camera(x: float, y: float, angle: float = 0.0, zoom: float = 1.0, tilt: float = 0.0) -> np.ndarray:
    """A camera whose frame's centre looks at (x, y) of the picture."""
    middle = np.array([[1, 0, -(SIZE[1] - 1) / 2], [0, 1, -(SIZE[0] - 1) / 2], [0, 0, 1.0]])
    c, s = zoom * np.cos(np.radians(angle)), zoom * np.sin(np.radians(angle))
    return np.array([[c, -s, x], [s, c, y], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 1, 0], [tilt, 0, 1]]) @ middle


def corner_error(found: np.ndarray, wanted: np.ndarray, size: tuple[int, int] = SIZE) -> float:
    """Largest distance (px) between two homographies of frames [T, 3, 3] at the frames' corners."""
    corners = np.array(list(itertools.product((0.0, size[1] - 1.0), (0.0, size[0] - 1.0))))
    pairs = zip(found, wanted, strict=True)
    return max(float(np.linalg.norm(transform(a, corners) - transform(b, corners), axis=-1).max()) for a, b in pairs)


def to_reference(cameras: np.ndarray, reference: int) -> np.ndarray:
    return np.stack([np.linalg.inv(cameras[reference]) @ matrix for matrix in cameras])


@pytest.fixture(scope="module")
def wall() -> np.ndarray:
    """A photograph of gravel, uint8 [512, 512, 3]."""
    return (photograph("gravel") * 255 + 0.5).astype(np.uint8)


# --- flow ---


@pytest.mark.parametrize("shift", [(3.0, -1.5), (26.0, 0.0)])
def test_flow_of_a_known_shift(wall: np.ndarray, shift: tuple[float, float], tmp_path: Path) -> None:
    frames = seen_through(wall, np.stack([camera(200 - k * shift[0], 250 - k * shift[1]) for k in range(3)]))
    frames = frames[:, :-1, :-1]  # odd sizes
    flow = compute_flow(frames, tmp_path)
    assert flow.forward.shape == (2, 72, 128, 2)
    for t, s, sign in ((0, 1, 1), (1, 0, -1), (1, 2, 1)):
        found, sure = flow.between(t, s), flow.confidence(t, s)
        inner = found[20:-20, 20:-20] if abs(shift[0]) < 10 else found[10:-10, 20:-20]
        assert np.median(np.linalg.norm(inner - sign * np.array(shift), axis=-1)) < 0.15
        assert sure.dtype == np.float32 and np.median(sure[20:-20, 20:-20]) > 0.9
    assert np.array_equal(load_flow(tmp_path).backward, flow.backward)
    found = global_shift(*(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames[:2]))
    assert np.abs(found - shift).max() < 0.5


def test_hidden_places_are_not_trusted() -> None:
    there, back = np.zeros((1, 20, 30, 2), np.float16), np.zeros((1, 20, 30, 2), np.float16)
    there[..., 0], back[..., 0] = 4.0, -4.0
    back[0, :, 10:15] = 0.0
    flow = Flow(there, back)
    sure = flow.confidence(0, 1)
    assert (sure[:, 9:12] < 1e-3).all() and (sure[:, :7] > 0.999).all() and (sure[:, 14:] > 0.999).all()
    assert (flow.confidence(1, 0)[:, 10:15] < 1e-3).all()


# --- camera ---


@pytest.fixture(scope="module")
def filmed(wall: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Homographies that were found of 30 frames, and the true ones."""
    count = 30
    cameras = np.stack(
        [camera(165 + 6 * t, 230 + 12 * np.sin(t / 5), 0.15 * t, 1 + 0.004 * t, 1e-5 * t) for t in range(count)]
    )
    frames = seen_through(wall, cameras)
    flow = compute_flow(frames, tmp_path_factory.mktemp("flow"))
    weight = np.full((count, *flow.forward.shape[1:3]), 255, np.uint8)
    found = estimate_camera(frames, flow, weight, seed=0)
    assert found.reference == 15 and found.inliers.min() > 0.8
    return found.to_reference, to_reference(cameras, 15)


def test_a_known_camera_is_found(filmed: tuple[np.ndarray, np.ndarray]) -> None:
    found, truth = filmed
    middle = np.array([[(SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2]])
    steps = [np.stack([np.linalg.inv(m[t + 1]) @ m[t] for t in range(29)]) for m in filmed]
    assert corner_error(steps[0], steps[1]) < 1.0, "from frame to frame"
    assert (
        max(np.linalg.norm(transform(a, middle) - transform(b, middle)) for a, b in zip(found, truth, strict=True)) < 1
    )
    assert corner_error(found, truth) < 3


@pytest.mark.xfail(strict=True, reason="2.3 px at the corners after 15 frames: a small bias of the flow adds up")
def test_a_known_camera_is_found_without_drift(filmed: tuple[np.ndarray, np.ndarray]) -> None:
    assert corner_error(*filmed) < 0.1


def test_what_the_weight_leaves_out_does_not_pull(wall: np.ndarray, tmp_path: Path) -> None:
    count = 6
    cameras = np.stack([camera(200 + 3.0 * t, 250) for t in range(count)])
    frames = seen_through(wall, cameras)
    other = seen_through(wall[::-1].copy(), np.stack([camera(200 - 4.0 * t, 250 + t) for t in range(count)]))
    frames[:, :, 80:250] = other[:, :, 80:250]  # two thirds of the frame move otherwise
    flow = compute_flow(frames, tmp_path)
    weight = np.full((count, *flow.forward.shape[1:3]), 255, np.uint8)
    truth = to_reference(cameras, 3)
    assert corner_error(estimate_camera(frames, flow, weight).to_reference, truth) > 5
    weight[:, :, 34:] = 0
    found = estimate_camera(frames, flow, weight).to_reference
    seen = np.array([[2.0, 2.0], [60.0, 2.0], [2.0, 140.0], [60.0, 140.0]])
    errors = [
        np.linalg.norm(transform(a, seen) - transform(b, seen), axis=-1) for a, b in zip(found, truth, strict=True)
    ]
    assert np.max(errors) < 1.0


@pytest.mark.parametrize(("wrong", "allowed"), [(0, 1e-4), (6, 0.5)])
def test_bundle_adjustment_removes_a_planted_drift(wrong: int, allowed: float) -> None:
    count, reference = 12, 6
    cameras = np.stack([camera(200 + 5 * t, 250 + t, 0.3 * t, 1 + 0.01 * t) for t in range(count)])
    truth = to_reference(cameras, reference)
    truth /= truth[:, 2:, 2:]
    rng = np.random.default_rng(0)
    links = []
    for t, s in itertools.combinations(range(count), 2):
        if s - t in (1, 4):
            p = rng.uniform(0, SIZE[::-1], (60, 2))
            q = transform(np.linalg.inv(truth[s]) @ truth[t], p)
            q[:wrong] += rng.uniform(-40, 40, (wrong, 2))
            links.append(Link(t, s, p, q))
    drift = np.stack([np.array([[1 + 0.002 * k, 0, 1.5 * k], [0, 1, -0.8 * k], [0, 0, 1.0]]) for k in range(-6, 6)])
    start = drift @ truth
    assert corner_error(start, truth) > 8
    found = bundle_adjust(start, links, reference, SIZE, steps=12)
    assert np.allclose(found[reference], start[reference]), "the reference stays"
    assert corner_error(found, truth) < allowed


# --- masks ---


def resolved(scene: Scene, folder: Path, prompt: MaskPrompt = PROMPT, frames: tuple[int, ...] = ()) -> list[LayerMasks]:
    """Masks of a scene's clip that brings those of ``frames`` only."""
    masks = {name: {t: scene.masks(t, name) for t in frames} for name in scene.layers[:-1]} if frames else None
    clip = Clip.from_frames(scene.frames, masks=masks)
    folder.mkdir(exist_ok=True)
    return resolve_masks(clip, compute_flow(clip.frames, folder), prompt, folder, seed=0)


def overlap(found: np.ndarray, scene: Scene, layer: str = "foreground") -> np.ndarray:
    """Intersection over union of every frame."""
    pairs = [(found[t] > 127, scene.masks(t, layer) > 127) for t in range(len(scene))]
    return np.array([(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs])


LOSES = pytest.mark.xfail(reason="0.88 to 0.90: at 256x144 the carried mask loses a little of its rim")


@pytest.mark.parametrize(
    "name", [pytest.param("pan", marks=LOSES), "fast-pan", pytest.param("bend", marks=LOSES), "lighting"]
)
def test_the_mask_of_one_frame_goes_through_the_clip(name: str, tmp_path: Path) -> None:
    scene = make(name, width=SIZE[1], height=SIZE[0], frames=10)
    (found,) = resolved(scene, tmp_path, frames=(0,))
    assert found.name == "foreground" and "propagated from the mask of frame 0" in found.origin
    assert found.values.shape == (10, *SIZE) and found.values.dtype == np.uint8
    assert overlap(found.values, scene).mean() >= 0.9


def test_masks_of_all_frames_are_taken_as_they_are(tmp_path: Path) -> None:
    scene = make("occlusion", width=SIZE[1], height=SIZE[0], frames=4)
    found = resolved(scene, tmp_path, frames=(0, 1, 2, 3))
    assert [layer.name for layer in found] == ["occluder", "foreground"]
    for layer in found:
        assert all(np.array_equal(layer.values[t], scene.masks(t, layer.name)) for t in range(4))


def test_two_known_masks_hold_from_both_sides(tmp_path: Path) -> None:
    scene = make("pan", width=SIZE[1], height=SIZE[0], frames=8)
    (found,) = resolved(scene, tmp_path, frames=(1, 6))
    assert overlap(found.values, scene).min() >= 0.8 and overlap(found.values, scene).mean() >= 0.9
    for t in (1, 6):
        assert np.array_equal(found.values[t], scene.masks(t, "foreground")), "what was given is kept"


def test_a_box_finds_the_object(tmp_path: Path) -> None:
    scene = make("pan", width=SIZE[1], height=SIZE[0], frames=6)
    rows, columns = np.nonzero(scene.masks(2, "foreground") > 127)
    x, y = int(columns.min()) - 4, int(rows.min()) - 4
    box = (x, y, int(columns.max()) + 5 - x, int(rows.max()) + 5 - y)
    (found,) = resolved(scene, tmp_path, MaskPrompt(frame=2, box=box))
    assert "the box" in found.origin
    assert not found.values[2][:, : x - 2].any() and not found.values[2][:, x + box[2] + 2 :].any()
    assert overlap(found.values, scene)[2] > 0.4, "a textured scene is hard for GrabCut; the box alone would have 0.45"


def test_a_box_finds_an_object_of_another_colour() -> None:
    image = np.full((*SIZE, 3), (40, 120, 60), np.uint8)
    truth = np.zeros(SIZE, np.uint8)
    cv2.circle(truth, (130, 70), 40, 1, -1)
    image[truth > 0] = (200, 60, 50)
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    found = mask_from_box(image, (80, 20, 100, 100)) > 127
    assert (found & (truth > 0)).sum() / (found | (truth > 0)).sum() > 0.97


def test_a_scribble_finds_the_object(tmp_path: Path) -> None:
    scene = make("pan", width=SIZE[1], height=SIZE[0], frames=5)
    truth = (scene.masks(1, "foreground") > 127).astype(np.uint8)
    marks = np.full(SIZE, 128, np.uint8)
    marks[cv2.erode(truth, np.ones((13, 13), np.uint8)) > 0] = 255
    marks[cv2.dilate(truth, np.ones((15, 15), np.uint8)) == 0] = 0
    write_image(tmp_path / "scribble.png", marks)
    (found,) = resolved(scene, tmp_path / "work", MaskPrompt(frame=1, scribble=tmp_path / "scribble.png"))
    assert overlap(found.values, scene).mean() > 0.85
    image = scene.frame(1)
    alone = mask_from_scribble(image, np.where(marks == 0, 128, marks).astype(np.uint8))
    assert alone[marks == 255].all() and not alone[[0, -1]].any(), "without any black, the rim is background"


def test_raft_needs_its_weights_and_torchvision(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no RAFT weights at"):
        load_raft(tmp_path / "none.pth", torch.device("cpu"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(InputError, match=r"torchvision|does not hold the weights"):
        load_raft(tmp_path / "text.pth", torch.device("cpu"))


def test_raft_gives_flow_of_the_frames_own_size(tmp_path: Path) -> None:
    try:
        from torchvision.models.optical_flow import raft_small
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision is not usable here: {error}")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = raft_small(weights=None, progress=False).state_dict()
    save_file(state, tmp_path / "raft.safetensors")
    torch.save(state, tmp_path / "raft.pth")
    frames = np.random.default_rng(0).integers(0, 255, (3, 101, 147, 3), np.uint8)
    flows = [load_raft(tmp_path / f"raft.{end}", torch.device("cpu"))(*frames[:2]) for end in ("safetensors", "pth")]
    assert flows[0].shape == (101, 147, 2) and np.isfinite(flows[0]).all() and np.array_equal(*flows)
    weights = tmp_path / "raft.safetensors"
    clip, work = Clip.from_frames(frames), tmp_path / "work"
    for raft in (None, weights):
        fit = canon.fit(clip, preset="fast", search=False, raft=raft, workspace=work, device="cpu")
        assert fit.layers == ["background"]
    for stage in ("flow", "masks", "camera", "solve"):
        assert len(list(work.glob(f"{stage}-*"))) == 2, "nothing of the one is taken up for the other"


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    scene = make("pan", width=SIZE[1], height=SIZE[0], frames=3)
    image = scene.frame(0)
    with pytest.raises(InputError, match=r"box \(300, 10, 20, 20\) has no area inside the 256x144 frame"):
        mask_from_box(image, (300, 10, 20, 20))
    with pytest.raises(InputError, match="no area"):
        mask_from_box(image, (10, 10, 0, 40))
    write_image(tmp_path / "small.png", np.zeros((10, 20), np.uint8))
    write_image(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))
    for prompt, message in (
        (MaskPrompt(box=(300, 10, 20, 20)), "no area inside the 256x144 frame"),
        (MaskPrompt(scribble=tmp_path / "small.png"), "20x10 pixels, but the frame has 256x144"),
        (MaskPrompt(scribble=tmp_path / "empty.png"), "marks no object"),
        (MaskPrompt(frame=7, box=(10, 10, 50, 50)), "Frame 7 does not exist: the clip has frames 0 to 2"),
    ):
        with pytest.raises(InputError, match=message):
            check_prompt(scene.clip(), prompt)


@pytest.mark.parametrize("name", ["pan", "bend"])
def test_without_masks_what_moves_is_found(name: str, tmp_path: Path) -> None:
    scene = make(name, width=SIZE[1], height=SIZE[0], frames=12, sway_period=30.0)
    (found,) = resolved(scene, tmp_path)
    assert "found by its motion" in found.origin
    assert overlap(found.values, scene).mean() > 0.7
    assert resolved(scene, tmp_path / "off", MaskPrompt(search=False)) == []


def test_a_leg_that_stands_still_is_missed_at_a_price(wall: np.ndarray) -> None:
    """Masks without it leave a ghost in the background's picture; masks that spill pay for their size."""
    count, half = 16, (SIZE[0] // 2, SIZE[1] // 2)
    frames = np.stack([wall[: SIZE[0], : SIZE[1]]] * count)
    whole, torso = np.zeros((count, *half), np.uint8), np.zeros((count, *half), np.uint8)
    for t in range(count):
        body, leg = 40 + 6 * t, 60 if t < 10 else 40 + 6 * t
        for x, rows in ((body, slice(30, 70)), (leg, slice(70, 110))):
            frames[t, rows, x : x + 40] = 255 - wall[rows, 300:340]
            whole[t, rows.start // 2 : rows.stop // 2, x // 2 : x // 2 + 20] = 255
        torso[t, 15:35] = whole[t, 15:35]
    still = CameraMotion(np.tile(np.eye(3), (count, 1, 1)), 0, np.ones(count))
    spilled = np.stack([cv2.dilate(mask, np.ones((25, 25), np.uint8)) for mask in whole])
    right, missed, spilt = (unexplained(frames, still, masks) for masks in (whole, torso, spilled))
    assert right < 0.8 * min(missed, spilt)


@pytest.mark.parametrize("moves", [False, True])
def test_a_clip_in_which_nothing_moves_on_its_own_is_one_layer(wall: np.ndarray, moves: bool, tmp_path: Path) -> None:
    frames = seen_through(wall, np.stack([camera(200 + (2.5 * t if moves else 0), 250) for t in range(6)]))
    noise = np.random.default_rng(0).normal(0, 1.5, frames.shape)
    clip = Clip.from_frames(np.clip(frames + noise, 0, 255).astype(np.uint8))
    assert resolve_masks(clip, compute_flow(clip.frames, tmp_path), PROMPT, tmp_path, seed=0) == []


def test_one_frame_has_nothing_to_search(tmp_path: Path) -> None:
    scene = make("pan", width=SIZE[1], height=SIZE[0], frames=1)
    assert resolved(scene, tmp_path) == []
    (found,) = resolved(scene, tmp_path / "box", MaskPrompt(box=(40, 20, 180, 110)))
    assert found.values.shape == (1, *SIZE) and found.values.any()


def rotation(degrees: float, zoom: float = 1.0) -> np.ndarray:
    """The homography from a frame of a camera (53 degrees wide) that is turned to the side, to one that is not."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    lens, wide = (np.array([[f, 0, 127.5], [0, f, 71.5], [0, 0, 1]]) for f in (256.0, 256.0 * zoom))
    return lens @ turn @ np.linalg.inv(wide)


def test_a_camera_looks_in_as_many_directions_as_it_must() -> None:
    def directions(matrices: list[np.ndarray]) -> list[tuple[range, int]]:
        return CameraMotion(np.stack(matrices), len(matrices) // 2, np.ones(len(matrices))).directions(SIZE)

    assert directions([rotation(a) for a in np.linspace(-30, 30, 31)]) == [(range(31), 15)]
    assert directions([rotation(0, zoom) for zoom in np.linspace(0.2, 5, 31)]) == [(range(31), 15)]
    two = directions([rotation(a) for a in np.linspace(-60, 60, 31)])
    assert [len(times) for times, _ in two] in ([15, 16], [16, 15], [14, 17], [17, 14])
    assert all(times.start + 4 < reference < times.stop - 4 for times, reference in two)
    around = directions([rotation(a) for a in np.linspace(0, 340, 69)])
    assert 5 <= len(around) <= 8 and [times.start for times, _ in around[1:]] == [
        times.stop for times, _ in around[:-1]
    ]
