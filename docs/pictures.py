"""Makes the pictures of the documentation from synthetic scenes: ``python docs/pictures.py``, some minutes.

Every picture is a few tiles on a transparent ground, so that it suits a light page and a dark one.
"""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import canon
from canon.camera_paths import orbit
from canon.clip import Clip
from canon.coordinates import pixel_grid
from canon.edits import Edit, Over
from canon.fits import Fit
from canon.fitting import no_progress
from canon.project_fit import FitRequest, fit_into
from canon.sampling import remap
from canon.scenes import Scene, make
from canon.scenes.edits import draw_emblem
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.scenes.textures import photograph
from canon.spatial import spatial
from canon.storage import to_uint8

OUT = Path(__file__).parent / "pictures"
GAP, CORNER = 8, 6
"""Pixels between the tiles, and the radius of their corners."""


def main() -> None:
    """Make all pictures, or those whose names are given: flat, turning, space, viewer."""
    makers = {"flat": flat, "turning": turning, "space": space, "viewer": viewer}
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or makers:
        makers[name]()


def flat() -> None:
    """What a layered fit consists of, and what an edit does to it."""
    fit = canon.fit(scene().clip(), "atlas", preset="balanced", device="cpu")
    front, back = fit.layers
    times = [0, 12, 24, 35]
    frames = [np.array(fit.clip.frames[t]) for t in times]
    canvases = [to_uint8(fit.canonical(layer).rgba) for layer in fit.layers]
    save("idea", [frames], [trimmed(canvas) for canvas in canvases])

    t = 18
    frame, weight = np.array(fit.clip.frames[t]), fit.coordinates(t, front)[1]
    alone = np.dstack([frame, to_uint8(weight)])
    behind = to_uint8(fit.colour(t, back, fit.whole) * fit.lighting(t, back))
    save("layers", [[frame, grey(weight), alone, behind]])

    checked = [checkerboard(fit, t) for t in times[:3]]
    save("coordinates", [[*checked, positions(fit, t)]])

    lights = [light(fit, each) for each in (times[1], times[2])]
    save("lighting", [[frames[1], lights[0], frames[2], lights[1]]])

    made = fit.reconstruct(t)
    residual = np.clip(0.5 + 4 * (frame / 255 - made), 0, 1)
    save("residual", [[frame, to_uint8(made), to_uint8(residual)]])

    emblem = painted(fit, front)
    (paint,) = emblem.operations(front)
    assert isinstance(paint, Over)
    canvas = over(canvases[0], paint.rgba)
    video = canon.render(fit, emblem)
    save("edit", [[trimmed(canvas), *(video[t] for t in times[1:])]])

    stack = [canon.edit(fit, "grade", layer=back, exposure=-1, temperature=-0.5), emblem]
    gone = canon.edit(fit, "remove", layer=front)
    graded = canon.edit(fit, "grade", layer=front, hue=140)
    save("kinds", [[canon.render(fit, each)[t] for each in (emblem, graded, stack, gone)]])


def scene() -> Scene:
    """A cat before a motorcycle."""
    return make("demo", width=480, height=270, frames=36, lighting=0.5, lighting_period=30)


def turning() -> None:
    """A subject that turns, and the canvases that it needs."""
    clip = column(frames=30, size=(180, 240), degrees=150)
    fit = canon.fit(clip, "atlas", preset="fast", device="cpu")
    parts = fit.segments("foreground")
    times = [0, 10, 20, 29]
    canvases = [trimmed(to_uint8(fit.canonical("foreground", k).rgba)) for k in range(len(parts))]
    save("segments", [[np.array(clip.frames[t]) for t in times]], canvases)
    print(f"segments: {parts}")


def space() -> None:
    """A person in three dimensions."""
    person = HumanScene(HumanSceneConfig(width=180, height=216))
    fit = spatial(canon.fit(person.clip(), "dynamic-nerf", preset="fast", device="cpu"))
    t = len(fit) // 2
    stripes = canon.edit(fit, "grade", layer="human", hue=150, saturation=1.4)
    around = canon.render(fit.from_elsewhere(orbit(fit.cameras, fit.centre, 12, 300), frames=[t] * 12), stripes)
    waving = HumanScene(HumanSceneConfig(width=180, height=216, motion="wave")).motion()
    posed = canon.render(fit.from_elsewhere([fit.cameras[t]] * 12, waving), stripes)
    atlas = to_uint8(fit.canonical("human").rgba)
    side = around[0].shape[0]
    tiles = [np.array(fit.clip.frames[t]), shrunk(atlas, side), canon.render(fit, stripes)[t], around[4], posed[9]]
    save("space", [tiles])


def viewer() -> None:
    """The pages on which one looks and paints, in Chromium."""
    from playwright.sync_api import Page, sync_playwright

    def stroke(page: Page, places: Sequence[tuple[float, float]]) -> None:
        box = page.locator("canon-painter").bounding_box()
        assert box is not None
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
        page.mouse.move(*at[0])
        page.mouse.down()
        for place in at[1:]:
            page.mouse.move(*place, steps=12)
        page.mouse.up()

    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "demo"
        fit_into(project, FitRequest(scene().save(Path(folder) / "source"), options={"preset": "fast"}), no_progress)
        command = [sys.executable, "-m", "canon.cli", "view", str(project), "--no-browser"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1366, "height": 760})
            page.goto(address)
            page.get_by_role("tab", name="Paint").click()
            page.wait_for_timeout(6000)
            stroke(page, [(0.25, 0.72), (0.33, 0.8), (0.42, 0.72)])
            page.locator("canon-painter input[type=number]").last.fill("14")
            page.keyboard.press("Enter")
            page.wait_for_timeout(4000)
            shot(page.screenshot(), "viewer-paint")
            page.get_by_role("tab", name="Look").click()
            page.wait_for_timeout(6000)
            box = page.locator("canon-inspector").bounding_box()
            assert box is not None
            page.mouse.move(box["x"] + 0.24 * box["width"], box["y"] + 0.3 * box["height"])
            page.wait_for_timeout(2000)
            shot(page.screenshot(), "viewer-look")
            browser.close()
        server.send_signal(signal.SIGINT)
        server.wait()


def shot(picture: bytes, name: str) -> None:
    """Write a screenshot."""
    path = OUT / f"{name}.webp"
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, quality=80, method=6)
    print(f"{path}  {path.stat().st_size // 1024} KiB")


def column(frames: int, size: tuple[int, int], degrees: float) -> Clip:
    """A brick column that turns before a wall, with its masks."""
    height, width = size
    wall = photograph("gravel")[:height, :width] * np.float32(0.6)
    radius, middle, rows = 0.2 * width, width / 2, slice(height // 6, height - height // 6)
    x = (np.arange(width) - middle) / radius
    inside = np.abs(x) < 1
    round_off = (0.45 + 0.55 * np.sqrt(np.clip(1 - x**2, 0, 1)))[:, None].astype(np.float32)
    shown, masks = [], []
    for t in range(frames):
        angle = np.arccos(np.clip(x, -1, 1)) - np.radians(degrees * t / (frames - 1))
        at = np.array(pixel_grid(size).numpy(), np.float32)
        at[..., 0] = 250 + angle * radius
        mask = np.zeros(size, np.uint8)
        mask[rows] = inside * np.uint8(255)
        shown.append(to_uint8(np.where(mask[..., None] > 0, remap(photograph("bricks"), at) * round_off, wall)))
        masks.append(mask)
    return Clip.from_frames(np.stack(shown), masks={"foreground": np.stack(masks)})


def painted(fit: Fit, layer: str) -> Edit:
    """An emblem on the middle of what is known of a canvas."""
    canvas = fit.canonical(layer)
    rows, columns = np.nonzero(canvas.coverage == 1)
    centre = (float(np.median(columns)), float(np.median(rows)))
    emblem = draw_emblem(canvas.size, centre, 0.22 * canvas.size[0], soft=False)
    return canon.edit(fit, "paint", layer=layer, image=emblem, overlay=True)


def checkerboard(fit: Fit, t: int) -> np.ndarray:
    """A checkerboard on every canvas, in the light of frame ``t``; uint8 [H, W, 3]."""
    picture = np.zeros((*fit.size, 3), np.float32)
    for layer, dark, bright in zip(
        fit.layers, ((190, 70, 40), (40, 60, 90)), ((250, 190, 80), (150, 175, 205)), strict=False
    ):
        uv, weight = fit.coordinates(t, layer)
        odd = (np.floor(uv / 24).astype(int).sum(axis=-1) % 2).astype(bool)
        picture += weight[..., None] * np.where(odd[..., None], np.array(dark), np.array(bright)) / 255
    return to_uint8(picture)


def positions(fit: Fit, t: int) -> np.ndarray:
    """Where on its canvas each pixel of frame ``t`` lies: x as red, y as green; uint8 [H, W, 3]."""
    picture = np.zeros((*fit.size, 3), np.float32)
    for k, layer in enumerate(fit.layers):
        uv, weight = fit.coordinates(t, layer)
        height, width = fit.layer(layer).canvas_size
        seen = np.dstack([uv[..., 0] / width, uv[..., 1] / height, np.full(fit.size, 0.25 + 0.5 * k)])
        picture += weight[..., None] * seen
    return to_uint8(np.clip(picture, 0, 1))


def light(fit: Fit, t: int) -> np.ndarray:
    """The light of frame ``t``: mid-grey changes nothing, white is twice as bright; uint8 [H, W, 3]."""
    picture = sum(fit.coordinates(t, layer)[1][..., None] * fit.lighting(t, layer) for layer in fit.layers)
    return to_uint8(np.clip(picture / 2, 0, 1))


def grey(image: np.ndarray) -> np.ndarray:
    """[H, W] in 0..1 as uint8 [H, W, 3]."""
    return np.repeat(to_uint8(image)[..., None], 3, axis=-1)


def over(under: np.ndarray, paint: np.ndarray) -> np.ndarray:
    """Float paint RGBA on a uint8 RGBA canvas of the same size."""
    alpha = paint[..., 3:]
    found = under.copy()
    found[..., :3] = to_uint8(under[..., :3] / np.float32(255) * (1 - alpha) + np.clip(paint[..., :3], 0, 1) * alpha)
    return found


def trimmed(canvas: np.ndarray) -> np.ndarray:
    """A canvas, uint8 [H, W, 4], without the rows and columns at its sides where nothing is known."""
    x, y, width, height = cv2.boundingRect((canvas[..., 3] > 8).astype(np.uint8))
    return canvas[y : y + height, x : x + width]


def shrunk(image: np.ndarray, height: int) -> np.ndarray:
    """The same picture of another height."""
    width = max(round(image.shape[1] * height / image.shape[0]), 1)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def save(name: str, rows: Sequence[Sequence[np.ndarray]], last: Sequence[np.ndarray] = ()) -> None:
    """Write rows of tiles of one height each; ``last`` is a row that is scaled to the width of the first."""
    strips = [strip(row) for row in rows]
    if last:
        strips.append(fitted(last, strips[0].width))
    whole = Image.new("RGBA", (max(one.width for one in strips), sum(one.height + GAP for one in strips) - GAP))
    top = 0
    for one in strips:
        whole.paste(one, ((whole.width - one.width) // 2, top))
        top += one.height + GAP
    if whole.width > 1400:
        whole = whole.resize((1400, round(whole.height * 1400 / whole.width)), Image.Resampling.LANCZOS)
    path = OUT / f"{name}.webp"
    whole.save(path, quality=82, method=6)
    print(f"{path}  {whole.width}x{whole.height}  {path.stat().st_size // 1024} KiB")


def strip(tiles: Sequence[np.ndarray]) -> Image.Image:
    """Tiles beside each other, brought to the height of the first."""
    height = min(tile.shape[0] for tile in tiles)
    pictures = [rounded(tile if tile.shape[0] == height else shrunk(tile, height)) for tile in tiles]
    found = Image.new("RGBA", (sum(one.width + GAP for one in pictures) - GAP, pictures[0].height))
    left = 0
    for one in pictures:
        found.paste(one, (left, 0))
        left += one.width + GAP
    return found


def fitted(tiles: Sequence[np.ndarray], width: int) -> Image.Image:
    """Tiles beside each other, of the one height at which they fill a width, but none higher than 320."""
    shapes = sum(tile.shape[1] / tile.shape[0] for tile in tiles)
    height = min(round((width - GAP * (len(tiles) - 1)) / shapes), 320)
    return strip([shrunk(tile, height) for tile in tiles])


def rounded(tile: np.ndarray) -> Image.Image:
    """A tile [H, W, 3 or 4] with round corners."""
    alpha = tile[..., 3] if tile.shape[2] == 4 else np.full(tile.shape[:2], 255, np.uint8)
    height, width = alpha.shape
    corners = np.zeros_like(alpha)
    cv2.rectangle(corners, (CORNER, 0), (width - 1 - CORNER, height - 1), 255, -1)
    cv2.rectangle(corners, (0, CORNER), (width - 1, height - 1 - CORNER), 255, -1)
    for x in (CORNER, width - 1 - CORNER):
        for y in (CORNER, height - 1 - CORNER):
            cv2.circle(corners, (x, y), CORNER, 255, -1, cv2.LINE_AA)
    return Image.fromarray(np.dstack([tile[..., :3], np.minimum(alpha, corners)]))


if __name__ == "__main__":
    main()
