"""Stack edits: darken the background and take the subject away; each is kept on disk and can be used again."""

import canon
from canon.scenes import make

OUT = "grade-and-remove"


def main() -> None:
    """Fit a small clip once, make two edits of it, and render them alone and together."""
    folder = make("demo", width=256, height=144, frames=12).save(f"{OUT}/source")
    fit = canon.fit(canon.Clip.load(folder), "atlas", preset="fast")
    fit.save(f"{OUT}/fit")

    dusk = canon.edit(fit, "grade", layer="background", exposure=-0.8, temperature=-0.5)
    gone = canon.edit(fit, "remove", layer="foreground")
    dusk.save(f"{OUT}/dusk")
    gone.save(f"{OUT}/gone")

    # From here on nothing is solved: this could be another program, on another day.
    fit = canon.load(f"{OUT}/fit")
    dusk, gone = canon.load_edit(f"{OUT}/dusk"), canon.load_edit(f"{OUT}/gone")
    for name, stack in {"dusk": [dusk], "gone": [gone], "both": [dusk, gone]}.items():
        canon.render(fit, stack).save(f"{OUT}/{name}.mp4")
    print(f"look at {OUT}/dusk.mp4, {OUT}/gone.mp4 and {OUT}/both.mp4")


if __name__ == "__main__":
    main()
