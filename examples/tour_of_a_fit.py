"""A tour of a fit: canvases, coordinates, light, tracks, and what an edit does to a frame.

Every ``# %%`` begins a cell for editors that run cells (VS Code, PyCharm, Spyder, Jupyter with jupytext). Run as a
whole, it leaves its pictures in ``tour/``.
"""

# %% A clip, and a fit of it. Any video does: canon.Clip.load("walk.mp4", max_frames=30, size=240)
from pathlib import Path

import cv2
import numpy as np

import canon
from canon.scenes import make
from canon.storage import to_uint8, write_image

WIDTH, HEIGHT, FRAMES = 256, 144, 16
OUT = Path("tour")

clip = canon.Clip.load(make("demo", width=WIDTH, height=HEIGHT, frames=FRAMES, lighting=0.3).save(OUT / "source"))
fit = canon.fit(clip, "atlas", preset="fast")
print(f"{len(fit)} frames of {fit.size[1]}x{fit.size[0]}; layers, front to back: {', '.join(fit.layers)}")
foreground, background = fit.layers

# %% Canonical images: all that is known of a layer on one picture, and how well it is known.
for layer in fit.layers:
    canvas = fit.canonical(layer)  # .rgba float32 [Hc, Wc, 4], .coverage float32 [Hc, Wc]
    seen, filled = (canvas.coverage == 1).mean(), (canvas.coverage == 0.5).mean()
    print(f"{layer}: canvas {canvas.size[1]}x{canvas.size[0]}, {seen:.0%} seen, {filled:.0%} filled in")
    canvas.save(OUT / f"{layer}.png")

# %% Coordinates: where on its canvas each pixel of a frame lies, and how much of the pixel is the layer's.
t = len(fit) // 2
uv, weight = fit.coordinates(t, foreground)  # float32 [H, W, 2] in texels (x, y); float32 [H, W]
y, x = np.argwhere(weight > 0.99).mean(axis=0).round().astype(int)
print(f"pixel ({x}, {y}) of frame {t} lies at ({uv[y, x, 0]:.1f}, {uv[y, x, 1]:.1f}) on '{foreground}'")


def checkered(t: int, side: int = 16) -> np.ndarray:
    """Frame ``t`` with a checkerboard on every canvas: what sticks to it is what an edit sticks to."""
    picture = np.zeros((*fit.size, 3), np.float32)
    for layer, colours in zip(
        fit.layers, ([(0.8, 0.3, 0.1), (1.0, 0.8, 0.4)], [(0.2, 0.3, 0.4), (0.6, 0.7, 0.8)]), strict=True
    ):
        uv, weight = fit.coordinates(t, layer)
        odd = (np.floor(uv / side).sum(axis=-1) % 2).astype(int)
        picture += weight[..., None] * np.array(colours)[odd]
    return to_uint8(picture)


shown = [0, t, len(fit) - 1]
write_image(OUT / "checkerboards.png", np.hstack([checkered(k) for k in shown]))

# %% Light, the reconstruction, and what it misses.
light = fit.lighting(t, background)  # float32 [H, W, 3], a factor
made = fit.reconstruct(t)  # float32 [H, W, 3]
source = np.asarray(clip.frames[t]) / 255
print(
    f"frame {t}: light {light.min():.2f} to {light.max():.2f}, {-10 * np.log10(((source - made) ** 2).mean()):.1f} dB"
)
residual = 0.5 + 4 * (source - made)
write_image(OUT / "reconstruction.png", to_uint8(np.clip(np.hstack([source, made, residual]), 0, 1)))

# %% Tracks: points of one frame in all others, by way of the canvas.
points = np.array([[x, y], [x + 12, y], [x, y + 12]], np.float32)
positions, visible = fit.track(points, frame=t)  # float32 [T, N, 2], bool [T, N]
pictures = []
for k in shown:
    picture = np.array(clip.frames[k])
    for point, there in zip(positions[k].round().astype(int), visible[k], strict=True):
        cv2.circle(picture, point.tolist(), 3, (40, 230, 90) if there else (230, 60, 60), -1, cv2.LINE_AA)
    pictures.append(picture)
write_image(OUT / "tracks.png", np.hstack(pictures))
print(f"the points are seen in {visible.mean():.0%} of all frames")

# %% An edit from numpy: paint with opacity, of the canvas's size or any other of its aspect.
height, width = fit.canonical(foreground).size
paint = np.zeros((height, width, 4), np.float32)
middle = uv[y, x].round().astype(int).tolist()
cv2.circle(paint, middle, height // 7, (0.9, 0.15, 0.1, 1.0), -1, cv2.LINE_AA)
cv2.circle(paint, middle, height // 12, (1.0, 0.95, 0.8, 1.0), -1, cv2.LINE_AA)
disc = canon.edit(fit, "paint", layer=foreground, image=paint, overlay=True)
dusk = canon.edit(fit, "grade", layer=background, exposure=-0.8, temperature=-0.5)
video = canon.render(fit, [dusk, disc])  # frames are made when they are asked for
write_image(OUT / "edited.png", np.hstack([video[k] for k in shown]))
video.save(OUT / "edited.mp4")

# %% Nothing else changed; and how much the edit flickers, beside the clip itself.
figures = canon.evaluate(fit, disc)
untouched = figures["changed_outside"]
print(f"largest change where no paint is: {untouched:.0f} of 255")
print(f"flicker of the edit {figures['warp_error_inside']:.2g}, of the clip {figures['warp_error_source_inside']:.2g}")
print(f"look at {OUT}/")
