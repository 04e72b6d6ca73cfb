"""The folders of published projects: frames, masks and flow as their scripts leave them, edits of their canonicals."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from truth import small_scene, true_fit

import canon
from canon.clip import Clip
from canon.representations.motion.flow import compute_flow
from canon.representations.motion.imported import imported_flow
from canon.scenes import Scene
from canon.storage import to_uint8, write_image

SIZE, COUNT = (72, 126), 4


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene("occlusion", width=SIZE[1], height=SIZE[0], frames=COUNT)


def write_frames(folder: Path, scene: Scene, suffix: str = "png") -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(scene.frames):
        assert cv2.imwrite(str(folder / f"{t:05d}.{suffix}"), frame[..., ::-1])


def write_masks(folder: Path, masks: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for t, mask in enumerate(masks):
        write_image(folder / f"{t:05d}.png", mask)


def true_flow(scene: Scene, t: int, s: int) -> np.ndarray:
    """Of the background, [H, W, 2]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    here = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64)
    there = scene.to_frame(s, "background", scene.to_texture(t, "background", here))
    return (there - here).reshape(*SIZE, 2).astype(np.float32)


@pytest.mark.parametrize("outer", [False, True], ids=["the frames", "the sequence"])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_codef_sequences(scene: Scene, groups: int, outer: bool, tmp_path: Path) -> None:
    sequence = tmp_path / "smoke"
    write_frames(sequence / "smoke", scene)
    names = ["occluder", "foreground", "background"]
    chosen = {1: ["foreground"], 2: ["foreground", "background"], 3: names}[groups]
    for k, name in enumerate(chosen):
        if name == "background":
            masks = [255 - scene.masks(t, "foreground") for t in range(COUNT)]
        else:
            masks = [scene.masks(t, name) for t in range(COUNT)]
        write_masks(sequence / f"smoke_masks_{k}", masks)
    clip = Clip.load(sequence if outer else sequence / "smoke")
    assert len(clip) == COUNT
    assert list(clip.masks) == {1: ["foreground"], 2: ["foreground"], 3: ["group-0", "group-1"]}[groups]
    last = list(clip.masks.values())[-1].get(2)
    assert last is not None and np.array_equal(last, scene.masks(2, "foreground"))


def test_ordinary_folders_are_not_taken_for_theirs(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_frames(tmp_path / "walk" / "frames", scene)
    write_masks(tmp_path / "walk" / "masks", [scene.masks(t, "foreground") for t in range(COUNT)])
    (tmp_path / "walk" / "walk").mkdir()
    write_image(tmp_path / "walk" / "walk" / "thumbnail.png", scene.frames[0])
    clip = Clip.load(tmp_path / "walk")
    assert len(clip) == COUNT and list(clip.masks) == ["foreground"]
    write_frames(tmp_path / "bear", scene)
    write_masks(tmp_path / "bear_masks", [np.full((8, 8), 255, np.uint8)] * 2)  # of something else
    assert not Clip.load(tmp_path / "bear").masks and "left out" in caplog.text


def test_layered_neural_atlases_data(scene: Scene, tmp_path: Path) -> None:
    write_frames(tmp_path / "data" / "swan", scene, "jpg")
    write_masks(tmp_path / "data" / "swan_maskrcnn", [scene.masks(t, "foreground") for t in range(COUNT)])
    clip = Clip.load(tmp_path / "data" / "swan")
    assert list(clip.masks) == ["foreground"] and clip.masks["foreground"].complete(COUNT)


@pytest.mark.parametrize("kind", ["codef", "atlas"])
def test_their_flow_is_read_as_it_is_meant(scene: Scene, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    folder.mkdir()
    for t in range(COUNT - 1):
        if kind == "codef":
            padded = np.pad(true_flow(scene, t, t + 1), [(0, 0), (1, 1), (0, 0)], mode="edge")  # 126 -> 128 wide
            np.save(folder / f"{t:06d}.npy", padded.transpose(2, 0, 1)[None])
        else:
            for a, b in ((t, t + 1), (t + 1, t)):
                half = cv2.resize(true_flow(scene, a, b), (SIZE[1] // 2, SIZE[0] // 2), interpolation=cv2.INTER_AREA)
                np.save(folder / f"{a:05d}.jpg_{b:05d}.jpg.npy", half / 2)
    between = imported_flow(folder, COUNT, SIZE)
    for t in range(COUNT - 1):
        found = between(t, t + 1)
        assert found is not None and np.abs(found - true_flow(scene, t, t + 1))[2:-2, 2:-2].max() < 0.05
    assert (between(2, 1) is None) == (kind == "codef")
    flow = compute_flow(scene.frames, tmp_path, between)
    assert np.abs(flow.between(1, 2) - true_flow(scene, 1, 2)[::2, ::2])[2:-2, 2:-2].mean() < 0.05
    fit = canon.fit(scene.clip(), "atlas", preset="fast", flow=folder, device="cpu")
    assert np.isfinite(fit.reconstruct(0)).all()


def test_flow_behind_a_mask_is_found_anew(scene: Scene, tmp_path: Path) -> None:
    theirs = true_flow(scene, 0, 1) + np.float32(0.25)
    theirs[:, : SIZE[1] // 2] = 10_000
    np.save(tmp_path / "000000.npy", theirs.transpose(2, 0, 1)[None])
    flow = compute_flow(scene.frames[:2], tmp_path, imported_flow(tmp_path, 2, SIZE)).between(0, 1)
    assert np.abs(flow).max() < 50
    assert np.abs(flow - theirs[::2, ::2])[:, SIZE[1] // 4 + 2 :].max() < 0.1


def test_flow_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(canon.InputError, match="holds no optical flow"):
        imported_flow(tmp_path / "nowhere", 3, SIZE)
    np.save(tmp_path / "000000.npy", np.zeros((1, 2, *SIZE), np.float32))
    with pytest.raises(canon.InputError, match="no flow from frame 1"):
        imported_flow(tmp_path, 3, SIZE)
    np.save(tmp_path / "000001.npy", np.zeros((1, 2, *SIZE), np.float32))
    for values in (np.zeros((3, 4), np.float32), np.zeros((*SIZE, 2), np.int32), np.array([{"a": 1}], dtype=object)):
        np.save(tmp_path / "000000.npy", values, allow_pickle=True)
        with pytest.raises(canon.InputError, match="000000"):
            imported_flow(tmp_path, 3, SIZE)
    (tmp_path / "000000.npy").write_bytes(b"nothing")
    with pytest.raises(canon.InputError, match="damaged"):
        imported_flow(tmp_path, 3, SIZE)


def test_an_edit_of_another_projects_canonical_is_carried_over(tmp_path: Path) -> None:
    """Theirs is smaller, turned and cropped; the badge is to land where the same paint on ours would be."""
    scene = small_scene("pan")
    fit = true_fit(scene)
    ours, overlay = to_uint8(fit.canonical("background").rgba[..., :3]), scene.emblem("background")
    height, width = ours.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 4.0, 0.8)
    alpha = overlay[..., 3:]
    edited = to_uint8(ours / np.float32(255) * (1 - alpha) + overlay[..., :3] * alpha)
    for name, picture in (("theirs", ours), ("edited", edited)):
        write_image(tmp_path / f"{name}.png", cv2.warpAffine(picture, turn, (width - 20, height - 10)))
    edit = canon.edit(
        fit, "paint", layer="background", image=tmp_path / "edited.png", reference=tmp_path / "theirs.png"
    )
    (step,) = edit.steps
    paint = step.operation.rgba
    solid = alpha[..., 0] > 0.9
    assert (paint[..., 3] > 0.5)[solid].mean() > 0.97 and (paint[..., 3] > 0.5)[alpha[..., 0] == 0].mean() < 0.02
    inside = cv2.erode(solid.astype(np.uint8), np.ones((5, 5))) > 0
    assert np.abs(paint[..., :3] - overlay[..., :3])[inside].mean() < 0.05


def test_a_reference_of_something_else_is_refused() -> None:
    fit = true_fit(small_scene("pan"))
    noise = np.random.default_rng(0).integers(0, 256, (100, 160, 3), np.uint8)
    with pytest.raises(canon.InputError, match="nothing matches"):
        canon.edit(fit, "paint", layer="background", image=255 - noise, reference=noise)
    with pytest.raises(canon.InputError, match="of one size"):
        canon.edit(fit, "paint", layer="background", image=noise[1:], reference=noise)
