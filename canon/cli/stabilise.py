"""``canon stabilise DIR``."""

from __future__ import annotations

from dataclasses import dataclass

from canon.cli.arguments import Directory, parse

DESCRIPTION = """Hold a layer still: every frame is warped so that the layer stays where one frame shows it. With the
background it takes the camera's motion out; with a subject it follows the subject."""


@dataclass
class StabiliseArguments:
    """Options of the command."""

    project: Directory
    """Project folder."""
    layer: str | None = None
    """Layer to hold still; the background (the last one) without it."""
    frame: int | None = None
    """Frame whose view is kept; the middle one without it, and in other shots of the clip."""
    fill: str = "canvas"
    """What lies outside of a frame: canvas (as the canonical image knows it) or black."""
    out: str | None = None
    """Video file or folder (with a trailing /) for PNGs; renders/LAYER-still.mp4 in the project without it."""
    fit: str | None = None
    """Name of the fit; the one made last without it."""


def run(arguments: list[str]) -> int:
    """Write the video and print where it is."""
    (own,) = parse("stabilise", DESCRIPTION, [StabiliseArguments], arguments)

    from canon.exports.stabilise import stabilised
    from canon.project import Project
    from canon.rendering import save_frames

    project = Project.open(own.project)
    fit = project.fit(project.fit_name(own.fit))
    layer = fit.layer(own.layer or fit.layers[-1]).name
    out = own.out or str(project.folder / "renders" / f"{layer}-still.mp4")
    save_frames(fit.clip, out, stabilised(fit, layer, own.frame, own.fill))
    print(out)
    return 0
