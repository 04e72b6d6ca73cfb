"""Score distillation on the canvas of a real clip: seconds, how near to the prompt, and what else changed, per variant.

    python benchmarks/distill.py --clip DIR [--variants sds dds ...] [--sheets FOLDER]

The clip (frames/ and masks/) is fitted once (fast), and its first layer gets the prompt. A variant's row has

- ``palette_distance`` of the frames: mean CIEDE2000 between a pixel of the layer and the nearest colour of the prompt;
- ``pattern``: share of tiles of the canvas, at the size at which it is worked on, that the classifier of ``prompts.py``
  takes for the prompt's pattern (it is trained on the first run, some minutes);
- ``changed``: share of the layer's pixels that differ from the source by more than 10 (CIEDE2000);
- ``changed_beside``: the same of the pixels that do not have the layer's most frequent colour (the largest of four
  clusters of its canvas): of a car, windows and tyres.

The row ``source`` has the same figures of the source.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
from edits import keep, load
from fit import machine
from pattern_classifier import Classifier, load_or_train, recognise
from skimage.color import deltaE_ciede2000, rgb2lab

import canon
from canon.contact_sheet import edits_sheet
from canon.editors.diffusion.canvases import working_size
from canon.editors.diffusion.mini.vocabulary import COLOURS, PATTERNS
from canon.edits import Edit, Over, resize_to
from canon.storage import write_image

SOURCE = "grey"
VARIANTS: dict[str, dict[str, Any]] = {
    "sds": {"method": "sds"},
    "sds-latent": {"method": "sds", "space": "latent"},
    "sds-layer": {"method": "sds", "edit_layer": True},
    "csd": {"method": "csd"},
    "dds": {"method": "dds", "source_prompt": SOURCE},
    "pds": {"method": "pds", "source_prompt": SOURCE},
    "csd-edit": {"method": "csd-edit", "source_prompt": SOURCE},
    "text2live": {"editor": "text2live"},
}
CANVAS, TILE, STEP = 256, 64, 16
"""Pixels along a side of the canvas, as a square, where tiles of so many are judged, and their distance."""
VISIBLE = 10.0
"""CIEDE2000 from which a pixel counts as changed."""
TIMES = 5


def figures(fit: canon.Fit, edit: Edit, layer: str, prompt: str, judge: Classifier) -> dict[str, float]:
    """What can be said of the frames and the canvas of an edit; see the top of this file."""
    words = prompt.replace(",", " ").split()
    wanted = rgb2lab(np.array([COLOURS[word] for word in words if word in COLOURS]) / 255)
    pattern = next((word for word in words if word in PATTERNS), "plain")
    middles = clusters(fit, layer)
    video, k = canon.render(fit, edit), fit.layers.index(layer)
    palette, changed, beside = [], [], []
    for t in np.linspace(0, len(fit) - 1, TIMES).astype(int):
        solid = fit.weights(t)[k] > 0.9
        before, after = (rgb2lab(np.asarray(frame[t])[solid] / 255) for frame in (fit.clip.frames, video))
        palette.append(np.min([deltaE_ciede2000(after, colour[None]) for colour in wanted], axis=0))
        changed.append(deltaE_ciede2000(before, after) > VISIBLE)
        own = np.argmin(np.linalg.norm(before[:, None] - middles[None], axis=-1), axis=1)
        beside.append(own != 0)
    different, other = np.concatenate(changed), np.concatenate(beside)
    return {
        "palette_distance": round(float(np.concatenate(palette).mean()), 2),
        "pattern": round(share_of_tiles(fit, edit, layer, pattern, judge), 3),
        "changed": round(float(different.mean()), 3),
        "changed_beside": round(float(different[other].mean()), 3),
        "beside": round(float(other.mean()), 3),
    }


def clusters(fit: canon.Fit, layer: str) -> np.ndarray:
    """Four colours of a layer's canvas in Lab [4, 3], the most frequent first."""
    canvas = fit.canonical(layer)
    pixels = rgb2lab(canvas.rgba[canvas.coverage > 0][:, :3]).astype(np.float32)
    cv2.setRNGSeed(0)
    ends = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.1)
    _, label, middles = cv2.kmeans(pixels, 4, None, ends, 4, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return np.asarray(middles)[np.argsort(-np.bincount(label.ravel(), minlength=4))]


def share_of_tiles(fit: canon.Fit, edit: Edit, layer: str, pattern: str, judge: Classifier) -> float:
    """Share of the tiles of a canvas with its paint that show a pattern."""
    canvas = fit.canonical(layer)
    rgb = canvas.rgba[..., :3].copy()
    for operation in edit.operations(layer):
        assert isinstance(operation, Over)
        paint = resize_to(operation.rgba, canvas.size)
        rgb += paint[..., 3:] * (np.clip(paint[..., :3], 0, 1) - rgb)
    rows, columns = np.nonzero(canvas.coverage > 0)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    size = working_size(rgb[box].shape[:2], CANVAS, 4)
    picture = cv2.resize(rgb[box], size[::-1], interpolation=cv2.INTER_AREA)
    known = cv2.resize(canvas.coverage[box], size[::-1], interpolation=cv2.INTER_AREA) > 0.5
    tiles = [
        picture[y : y + TILE, x : x + TILE]
        for y in range(0, size[0] - TILE + 1, STEP)
        for x in range(0, size[1] - TILE + 1, STEP)
        if known[y : y + TILE, x : x + TILE].mean() > 0.95
    ]
    return float(np.mean([seen.look == pattern for seen in recognise(judge, np.stack(tiles))]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--prompt", default="red stripes on white")
    parser.add_argument("--model", default="canon-mini")
    parser.add_argument("--frames", type=int, default=None)
    parser.add_argument("--options", default="{}", help="options of the editor as JSON, for all variants")
    parser.add_argument("--fit", type=Path, help="folder of a fit, in place of a new one")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "canon-benchmarks")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    fit = canon.load(options.fit) if options.fit else load(options.clip, options.frames)
    layer, judge = fit.layers[0], load_or_train(options.cache)
    common = {"clip": options.clip.name, "prompt": options.prompt, "frames": len(fit), **machine()}
    found = figures(fit, Edit([], fit.id), layer, options.prompt, judge)
    keep({**common, "variant": "source", **found}, options.out / "distill.json", "variant")
    made = {}
    for name in options.variants:
        own = {**VARIANTS[name], **json.loads(options.options)}
        editor = own.pop("editor", "distill")
        begin, spent = time.perf_counter(), time.process_time()
        edit = canon.edit(fit, editor, layer=layer, prompt=options.prompt, model=options.model, **own)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - spent
        row = {**common, "variant": name, "steps": edit.steps[0].provenance.options["steps"]}
        row |= {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
        row |= figures(fit, edit, layer, options.prompt, judge)
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        keep(row, options.out / "distill.json", "variant")
        made[name] = edit
        if options.sheets:
            write_image(options.sheets / f"{options.clip.name}-distill.png", edits_sheet(fit, made, 3))


if __name__ == "__main__":
    main()
