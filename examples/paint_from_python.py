"""Paint on a canonical image from Python: a disc on the subject of a synthetic clip, carried to every frame."""

import cv2
import numpy as np

import canon
from canon.scenes import make

OUT = "paint-from-python"


def main() -> None:
    """Fit a small clip, paint on its foreground, and write the canonical image and the video."""
    folder = make("demo", width=256, height=144, frames=12).save(f"{OUT}/source")
    clip = canon.Clip.load(folder)
    fit = canon.fit(clip, "atlas", preset="fast")

    canvas = fit.canonical("foreground")
    canvas.save(f"{OUT}/foreground.png")

    # An overlay is paint on transparency, of the canvas's size (or any other of its aspect).
    height, width = canvas.size
    alpha = np.zeros((height, width), np.uint8)
    middle = np.argwhere(canvas.coverage == 1).mean(axis=0)[::-1].astype(int)
    cv2.circle(alpha, (int(middle[0]), int(middle[1])), height // 8, 255, -1, cv2.LINE_AA)
    red = np.broadcast_to(np.array([220, 30, 40], np.uint8), (height, width, 3))
    edit = canon.edit(fit, "paint", layer="foreground", image=np.dstack([red, alpha]), overlay=True)

    canon.render(fit, edit).save(f"{OUT}/painted.mp4")
    figures = canon.evaluate(fit, edit)
    print(
        f"reconstruction {figures['psnr']:.1f} dB; changed outside the paint: {figures['changed_outside']:.0f} levels"
    )
    print(f"look at {OUT}/foreground.png and {OUT}/painted.mp4")


if __name__ == "__main__":
    main()
