"""``canon export DIR KIND``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from canon.cli.arguments import Directory, parse
from canon.errors import InputError

if TYPE_CHECKING:
    from canon.fits import Fit

DESCRIPTION = """Write what other programs need: stmap = ST-maps, mattes, light passes and canonical plates (EXR), and a
script that wires them up; tracks = points followed through the clip; labels = masks or part maps of one frame carried
to all; cutout = one layer with opacity; opacity = its mattes (PNG). Of a fit in three dimensions also: mesh = the
canonical surface of the person (.glb with texture and skeleton, and .ply); depth = distances (EXR)."""


@dataclass
class ExportArguments:
    """Options of the command."""

    project: Directory
    """Project folder."""
    kind: Annotated[Literal["stmap", "tracks", "labels", "cutout", "mesh", "depth", "opacity"], tyro.conf.Positional]
    """What to write."""
    fit: str | None = None
    """Name of the fit; the one made last without it."""
    layer: str | None = None
    """Only this layer; cutout and opacity take the front-most without it, and labels then lie on a frame."""
    out: str | None = None
    """Where to write; a name in exports/ in the project without it. cutout: .mov (ProRes 4444) or a folder of PNGs;
    mesh: .glb or .ply (both without it); depth, opacity: a folder."""
    convention: str = "nuke"
    """stmap: nuke, blender, fusion or flame."""
    format: str = "json"
    """tracks: json, csv, ae (After Effects) or nuke."""
    points: Path | None = None
    """tracks: text file with one x,y to a line, pixels of --frame; without it, points every --spacing pixels."""
    spacing: int = 32
    """tracks: pixels between the points."""
    frame: int = 0
    """tracks, labels: frame in which the points are chosen, or that was labelled."""
    labels: Path | None = None
    """labels: PNG of grey values, palette indices or colours, of --frame; with --layer, of that layer's canvas."""
    segment: int = 0
    """labels with --layer: which of the layer's canvases they are of, from 0, where it has several."""
    extend: bool = True
    """labels: what the labelled frame does not show takes the nearest label on the canvas; --no-extend leaves it 0.
    With --layer, what is not on the canvas is 0."""
    edit: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """cutout: name of an edit to show; repeat it to stack edits."""


def run(arguments: list[str]) -> int:
    """Write the export and print where it is."""
    (own,) = parse("export", DESCRIPTION, [ExportArguments], arguments)

    from canon.project import Project

    project = Project.open(own.project)
    edits = [project.edit(name) for name in own.edit]
    if edits and own.kind != "cutout":
        raise InputError("Only a cutout shows edits; leave out --edit.")
    fit_name = project.fit_of(edits, own.fit) if edits else project.fit_name(own.fit)
    fit, exports = project.fit(fit_name), project.folder / "exports"
    if own.kind == "stmap":
        from canon.exports.stmap import export_stmaps

        out = Path(own.out) if own.out else exports / f"{fit_name}-{own.convention}"
        for path in export_stmaps(fit, out, own.convention, [own.layer] if own.layer else []):
            print(path)
    elif own.kind == "tracks":
        print(_tracks(fit, own, exports, fit_name))
    elif own.kind == "labels":
        from canon.exports.labels import export_labels

        if own.labels is None:
            raise InputError("'canon export DIR labels' needs --labels with an image of one frame, or of a canvas.")
        target = own.out or str(exports / f"{fit_name}-labels")
        export_labels(fit, own.labels, target, own.frame, own.layer, own.extend, own.segment)
        print(target)
    elif own.kind in ("mesh", "depth", "opacity"):
        for path in _spatial(fit, own, exports, fit_name):
            print(path)
    else:
        from canon.rendering import render

        layer = fit.layer(own.layer or fit.layers[0]).name
        target = own.out or str(exports / f"{fit_name}-{'+'.join([layer, *own.edit])}.mov")
        render(fit, edits).save(target, cutout=layer)
        print(target)
    return 0


def _spatial(fit: Fit, own: ExportArguments, exports: Path, fit_name: str) -> list[Path]:
    from canon.exports.volumes import export_depth, export_meshes, export_opacity
    from canon.spatial import spatial

    layer = fit.layer(own.layer or fit.layers[0]).name
    if own.kind == "opacity":
        return [export_opacity(fit, Path(own.out or exports / f"{fit_name}-{layer}-opacity"), layer)]
    if own.kind == "depth":
        return [export_depth(spatial(fit), Path(own.out or exports / f"{fit_name}-depth"))]
    targets = [Path(own.out)] if own.out else [exports / f"{fit_name}.glb", exports / f"{fit_name}.ply"]
    return export_meshes(spatial(fit), targets)


def _tracks(fit: Fit, own: ExportArguments, exports: Path, fit_name: str) -> Path:
    import numpy as np

    from canon.exports.tracks import export_tracks, follow, lattice_points, read_points, suffix

    default = exports / f"{fit_name}-tracks{suffix(own.format)}"
    if own.spacing < 1:
        raise InputError(f"The spacing is {own.spacing} pixels; give at least 1.")
    if own.points is not None:
        points = read_points(own.points, fit.size)
    else:
        names = [own.layer] if own.layer else fit.layers
        points = np.concatenate([lattice_points(fit, name, own.frame, own.spacing) for name in names])
    path = Path(own.out) if own.out else default
    export_tracks(follow(fit, points, own.frame, own.layer), path, own.format)
    return path
