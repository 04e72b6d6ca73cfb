"""Scripts that wire exported ST-maps up: a Nuke script, and Python for Blender's compositor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canon.coordinates import Size


@dataclass(frozen=True)
class ExportedLayer:
    """A layer of an export.

    Attributes:
        size: of the plate (height, width), which the ST-maps refer to.
        plates: file names, each half as large as the one before.
        weights: [plates][frames], how much each counts; they sum to 1 in every frame.
    """

    name: str
    size: Size
    plates: Sequence[str]
    weights: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Export:
    """What an export holds: layers front to back, and the frames' size (height, width), number and rate."""

    layers: Sequence[ExportedLayer]
    size: Size
    frames: int
    fps: float


def nuke_script(about: Export) -> str:
    """A .nk that reads the export beside it and adds up its layers: plate, STMap, times light, times matte."""
    height, width = about.size
    last = about.frames - 1
    lines = [
        "Root {",
        " inputs 0",
        f" first_frame 0\n last_frame {last}\n fps {about.fps:g}",
        f' format "{width} {height} 0 0 {width} {height} 1 canon"',
        "}",
    ]

    def read(layer: str, file: str, name: str, last: int) -> None:
        lines.append(
            f'Read {{\n inputs 0\n file "\\[file dirname \\[value root.name]]/{layer}/{file}"\n'
            f" first 0\n last {last}\n origfirst 0\n origlast {last}\n raw true\n on_error hold\n name {name}\n}}"
        )

    def merge(operation: str, name: str, output: str = "") -> None:
        lines.append(f"Merge2 {{\n inputs 2\n operation {operation}\n{output} name {name}\n}}")

    # The node that was made last becomes input 0 of the next.
    for k, layer in enumerate(about.layers):
        read(layer.name, "matte.%05d.exr", f"Matte{k}", last)
        read(layer.name, "light.%05d.exr", f"Light{k}", last)
        for p, (plate, weights) in enumerate(zip(layer.plates, layer.weights, strict=True)):
            own = f"{k}_{p}"
            read(layer.name, "stmap.%05d.exr", f"Map{own}", last)
            read(layer.name, plate, f"Plate{own}", 0)
            lines.append(f"STMap {{\n inputs 2\n channels rgba\n uv rgba\n filter Triangle\n name Look{own}\n}}")
            if len(layer.plates) > 1:
                curve = " ".join(f"{weight:g}" for weight in weights)
                lines.append(f"Multiply {{\n channels rgba\n value {{{{curve x0 {curve}}}}}\n name Share{own}\n}}")
            if p:
                merge("plus", f"Blend{own}")
        merge("multiply", f"Lit{k}", " output rgb\n")
        merge("multiply", f"Shown{k}")
        if k:
            merge("plus", f"Sum{k}")
    lines.append("Viewer {\n name Viewer1\n}")
    return "\n".join(lines) + "\n"


def blender_script(about: Export) -> str:
    """Python for Blender 3 and 4 (Scripting workspace, or blender -P FILE) that builds the same in the compositor."""
    height, width = about.size
    layers = [(layer.name, list(zip(layer.plates, layer.weights, strict=True))) for layer in about.layers]
    return f'''"""Builds the compositor's node tree for the layers beside this file. Blender 3.0 to 4.x."""

import os

import bpy

HERE = os.path.dirname(os.path.realpath(globals().get("__file__") or bpy.context.space_data.text.filepath))
# Front to back: name, and its plates with how much each counts in every frame.
LAYERS = {layers!r}
COUNT = {about.frames}

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


def share(weights):
    node = tree.nodes.new("CompositorNodeValue")
    for frame, weight in enumerate(weights):
        node.outputs[0].default_value = weight
        node.outputs[0].keyframe_insert("default_value", frame=frame)
    return node.outputs[0]


total = None
for layer, plates in LAYERS:
    found = None
    for plate, weights in plates:
        look = tree.nodes.new("CompositorNodeMapUV")
        tree.links.new(image(layer, plate, False), look.inputs["Image"])
        tree.links.new(image(layer, "stmap.00000.exr", True), look.inputs["UV"])
        part = look.outputs["Image"]
        if len(plates) > 1:
            part = mix("MULTIPLY", part, share(weights))
        found = part if found is None else mix("ADD", found, part)
    lit = mix("MULTIPLY", found, image(layer, "light.00000.exr", True))
    shown = mix("MULTIPLY", lit, image(layer, "matte.00000.exr", True))
    total = shown if total is None else mix("ADD", total, shown)
tree.links.new(total, tree.nodes.new("CompositorNodeComposite").inputs["Image"])
'''
