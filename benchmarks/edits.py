"""Text-driven edits of real clips: seconds, what changed, and how steady it is beside the same edit frame by frame.

    python benchmarks/edits.py --clips DIR [--names blackswan car-shadow] [--editors restyle ...] [--framewise 12]

    python benchmarks/edits.py --canvas 4000        # memory of repainting one canvas of that width

Every clip is fitted once (fast). ``--framewise N`` measures the baseline on the first N frames, by a fit of their own.
Contact sheets of what was made go beside the rows when --sheets names a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
from fit import machine

import canon
from canon.contact_sheet import edits_sheet
from canon.storage import write_image

EDITORS: dict[str, dict[str, Any]] = {
    "restyle": {"prompt": "gold"},
    "controlnet": {"prompt": "gold"},
    "instruct": {"prompt": "turn it into gold"},
    "invert": {"prompt": "gold"},
    "stablevideo": {"prompt": "gold"},
    "videdit": {"prompt": "gold"},
}
FIGURES = (
    "warp_error_inside",
    "warp_error_source_inside",
    "warp_error_excess_inside",
    "palette_distance",
    "palette_distance_source",
    "changed_outside",
    "framewise_warp_error_excess_inside",
    "consistency_gain",
)


def load(folder: Path, frames: int) -> canon.Fit:
    """A fast fit of a clip in the DAVIS manner, with masks where it has them."""
    masks = folder / "masks"
    clip = canon.Clip.load(folder / "frames", masks=masks if masks.exists() else None, max_frames=frames)
    return canon.fit(clip, "atlas", preset="fast")


def large(width: int, model: str) -> dict[str, Any]:
    """Seconds and memory of repainting a canvas ``width`` texels wide, of 16 to 9."""
    from canon.editors.diffusion.canvases import painted
    from canon.editors.diffusion.painters import RestylePainter
    from canon.editors.diffusion.restyle import RestyleConfig

    image = cv2.resize(np.random.default_rng(0).random((9, 16, 3), np.float32), (width, width * 9 // 16))
    painter = RestylePainter(RestyleConfig(prompt="gold", model=model))
    begin = time.perf_counter()
    made = painted(image, np.ones(image.shape[:2], np.float32), painter)
    assert made.shape == image.shape
    seconds = round(time.perf_counter() - begin, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"clip": f"canvas {width}x{width * 9 // 16}", "editor": "restyle", "edit_seconds": seconds, "peak_mib": peak}


def keep(row: dict[str, Any], path: Path, name: str = "editor") -> None:
    """Put a row in the place of the one of the same clip and ``name``."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = [old for old in rows if (old["clip"], old[name]) != (row["clip"], row[name])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*rows, row], indent=1) + "\n")
    print(json.dumps(row), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--canvas", type=int)
    parser.add_argument("--names", nargs="*", default=["blackswan", "car-shadow"])
    parser.add_argument("--editors", nargs="*", default=list(EDITORS), choices=list(EDITORS))
    parser.add_argument("--model", default="canon-mini")
    parser.add_argument("--layer", default="foreground")
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--framewise", type=int, default=0)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.canvas:
        keep({**large(options.canvas, options.model), **machine()}, options.out / "edits.json")
    for name in options.names if options.clips else ():
        fit = load(options.clips / name, options.frames)
        short = load(options.clips / name, options.framewise) if options.framewise else None
        for editor in options.editors:
            asked = {**EDITORS[editor], "layer": options.layer, "model": options.model}
            begin = time.perf_counter()
            edit = canon.edit(fit, editor, **asked)
            made = time.perf_counter()
            for _ in canon.render(fit, edit):
                pass
            end = time.perf_counter()
            found = canon.evaluate(fit, edit, colour="gold")
            if short is not None:
                found |= canon.evaluate(short, canon.edit(short, editor, **asked), colour="gold", framewise=True)
            row = {
                "clip": name,
                "editor": editor,
                "prompt": asked["prompt"],
                "frames": len(fit),
                "framewise_frames": options.framewise,
                "edit_seconds": round(made - begin, 1),
                "render_seconds": round(end - made, 1),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                **{key: round(float(found[key]), 6) for key in FIGURES if key in found},
                **machine(),
            }
            keep(row, options.out / "edits.json")
            if options.sheets:
                write_image(options.sheets / f"{name}-{editor}.png", edits_sheet(fit, {editor: edit}))


if __name__ == "__main__":
    main()
