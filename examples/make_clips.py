"""Three small synthetic clips with masks, in DAVIS's layout, for the experiments beside this file.

``python examples/make_clips.py`` writes ``examples/clips/JPEGImages/480p/NAME/`` and ``.../Annotations/480p/NAME/``.
"""

from pathlib import Path

from canon.scenes import make
from canon.storage import write_image

OUT = Path(__file__).parent / "clips"
WIDTH, HEIGHT, FRAMES = 256, 144, 12


def main() -> None:
    """Write the clips."""
    for name in ("pan", "bend", "lighting"):
        scene = make(name, width=WIDTH, height=HEIGHT, frames=FRAMES)
        for t in range(len(scene)):
            write_image(OUT / "JPEGImages" / "480p" / name / f"{t:05d}.jpg", scene.frame(t))
            write_image(OUT / "Annotations" / "480p" / name / f"{t:05d}.png", scene.masks(t, "foreground"))
    print(f"clips are in {OUT}")


if __name__ == "__main__":
    main()
