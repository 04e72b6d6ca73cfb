"""Scripts that wire exported ST-maps up: a Nuke script, and Python for Blender's compositor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canon.coordinates import Size


@dataclass(frozen=True)
class Sequences:
    """What an export holds: layers front to back, their plates' sizes, and the frames' size, number and rate."""

    layers: Sequence[str]
    canvases: Sequence[Size]
    size: Size
    count: int
    fps: float


def nuke_script(about: Sequences) -> str:
    """A .nk that reads the export beside it and adds up its layers: plate, STMap, times light, times matte."""
    height, width = about.size
    lines = [
        "Root {",
        " inputs 0",
        f" first_frame 0\n last_frame {about.count - 1}\n fps {about.fps:g}",
        f' format "{width} {height} 0 0 {width} {height} 1 canon"',
        "}",
    ]

    def read(layer: str, file: str, name: str, last: int) -> None:
        lines.append(
            f'Read {{\n inputs 0\n file "\\[file dirname \\[value root.name]]/{layer}/{file}"\n'
            f" first 0\n last {last}\n origfirst 0\n origlast {last}\n raw true\n on_error hold\n name {name}\n}}"
        )

    for k, layer in enumerate(about.layers):
        last = about.count - 1
        # The node that was made last becomes input 0.
        read(layer, "matte.%05d.exr", f"Matte{k}", last)
        read(layer, "light.%05d.exr", f"Light{k}", last)
        read(layer, "stmap.%05d.exr", f"Map{k}", last)
        read(layer, "canonical.exr", f"Plate{k}", 0)
        lines.append(f"STMap {{\n inputs 2\n channels rgba\n uv rgba\n filter Triangle\n name Look{k}\n}}")
        lines.append(f"Merge2 {{\n inputs 2\n operation multiply\n output rgb\n name Lit{k}\n}}")
        lines.append(f"Merge2 {{\n inputs 2\n operation multiply\n name Shown{k}\n}}")
        if k:
            lines.append(f"Merge2 {{\n inputs 2\n operation plus\n name Sum{k}\n}}")
    lines.append("Viewer {\n name Viewer1\n}")
    return "\n".join(lines) + "\n"


def blender_script(about: Sequences) -> str:
    """Python for Blender 3 and 4 (Scripting workspace, or blender -P FILE) that builds the same in the compositor."""
    height, width = about.size
    return f'''"""Builds the compositor's node tree for the layers beside this file. Blender 3.0 to 4.x."""

import os

import bpy

HERE = os.path.dirname(os.path.realpath(bpy.data.filepath if not globals().get("__file__") else __file__))
LAYERS = {list(about.layers)!r}
COUNT = {about.count}

scene = bpy.context.scene
scene.render.resolution_x, scene.render.resolution_y = {width}, {height}
scene.render.resolution_percentage = 100
scene.render.fps, scene.render.fps_base = {round(about.fps * 1000)}, 1000
scene.frame_start, scene.frame_end = 0, COUNT - 1
scene.view_settings.view_transform = "Raw"
scene.use_nodes = True
tree = scene.node_tree
tree.nodes.clear()


def image(layer, name, frames):
    node = tree.nodes.new("CompositorNodeImage")
    node.image = bpy.data.images.load(os.path.join(HERE, layer, name), check_existing=False)
    node.image.colorspace_settings.name = "Non-Color"
    if frames:
        node.image.source = "SEQUENCE"
        node.frame_duration, node.frame_start, node.frame_offset = COUNT, 0, -1
    return node.outputs["Image"]


def mix(kind, a, b):
    node = tree.nodes.new("CompositorNodeMixRGB")
    node.blend_type = kind
    tree.links.new(a, node.inputs[1])
    tree.links.new(b, node.inputs[2])
    return node.outputs["Image"]


total = None
for layer in LAYERS:
    look = tree.nodes.new("CompositorNodeMapUV")
    tree.links.new(image(layer, "canonical.exr", False), look.inputs["Image"])
    tree.links.new(image(layer, "stmap.00000.exr", True), look.inputs["UV"])
    lit = mix("MULTIPLY", look.outputs["Image"], image(layer, "light.00000.exr", True))
    shown = mix("MULTIPLY", lit, image(layer, "matte.00000.exr", True))
    total = shown if total is None else mix("ADD", total, shown)
tree.links.new(total, tree.nodes.new("CompositorNodeComposite").inputs["Image"])
'''
