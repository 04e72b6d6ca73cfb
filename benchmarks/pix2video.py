"""Pix2Video against plain frame-by-frame painting and against edits of the canonical image: warp errors and seconds.

    python benchmarks/pix2video.py --clips DIR [--names car-shadow blackswan] [--frames 12] [--sheets DIR]

Every clip is fitted once (fast). All are asked for the same with the same model, steps and size of its pictures, and
judged on the same pixels: those inside of the canonical edit. A row of benchmarks/results/pix2video.json is a clip.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from edits import keep
from fit import machine

import canon
from canon.colour import named_colour
from canon.contact_sheet import Sheet
from canon.edits import Edit
from canon.metrics import flicker, palette_distance
from canon.registry import editor, make_config
from canon.rendering import Video
from canon.storage import write_image
from canon.timing import spread


def load(folder: Path, frames: int, height: int) -> canon.Fit:
    """A fast fit of a clip in the DAVIS manner, with masks where it has them."""
    masks = folder / "masks"
    clip = canon.Clip.load(folder / "frames", masks=masks if masks.exists() else None, max_frames=frames, size=height)
    return canon.fit(clip, "atlas", preset="fast")


def whole(frames: Any) -> np.ndarray:
    """Frames that are made when asked for, uint8 [T, H, W, 3]."""
    return np.stack([frames[t] for t in range(len(frames))])


def variants(fit: canon.Fit, asked: dict[str, Any]) -> dict[str, Callable[[], np.ndarray]]:
    """What is compared, by name; each is made when called, in this order.

    The frames by ``restyle``; those by ``pix2video`` from inverted noise alone, with attention, with the pull but no
    further from the source than ``restyle`` goes, with the pull taken through the network, and as it is; and edits of
    the canvas: these last frames gathered, ``restyle``, and ``stablevideo`` without and with attention.
    """
    from canon.editors.diffusion.frames_in_turn import FramesInTurn, on_canvas
    from canon.editors.diffusion.pix2video import Pix2VideoConfig

    turns: dict[str, FramesInTurn] = {}

    def rendered(edit: Edit) -> np.ndarray:
        return whole(canon.render(fit, edit))

    def alone(name: str) -> np.ndarray:
        kind = editor(name)
        return whole(kind().framewise(fit, make_config(kind.Config, asked)))

    def in_turn(**more: Any) -> np.ndarray:
        turns["last"] = FramesInTurn(fit, Pix2VideoConfig(**asked, **more))
        return whole(turns["last"])

    return {
        "source": lambda: whole(fit.clip.frames),
        "framewise": lambda: alone("restyle"),
        "inverted": lambda: in_turn(attention="none", pull=0.0),
        "no pull": lambda: in_turn(pull=0.0),
        "less inverted": lambda: in_turn(ratio=0.75),
        "through the network": lambda: in_turn(through_network=True),
        "pix2video": in_turn,
        "gathered": lambda: rendered(on_canvas(turns["last"], Pix2VideoConfig(**asked))),
        "restyle": lambda: rendered(canon.edit(fit, "restyle", **asked)),
        "stablevideo": lambda: rendered(canon.edit(fit, "stablevideo", **asked)),
        "with attention": lambda: rendered(canon.edit(fit, "stablevideo", **asked, attention="both")),
    }


def judged(video: Video, frames: np.ndarray, colour: str) -> dict[str, float]:
    """Figures of frames on the pixels that an edit reaches."""
    found = flicker(video, frames)
    names = ("warp_error_inside", "warp_error_excess_inside")
    palette = palette_distance(video, frames, named_colour(colour))
    return {**{name: round(found[name], 6) for name in names}, "palette_distance": round(palette, 2)}


def compared(fit: canon.Fit, name: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A clip's row, and the frames that were made."""
    asked = {key: getattr(options, key) for key in ("prompt", "layer", "model", "steps", "size")}
    video = canon.render(fit, canon.edit(fit, "restyle", **asked))
    figures, made = {}, {}
    for what, make in variants(fit, asked).items():
        if options.only and what not in options.only:
            continue
        begin = time.perf_counter()
        made[what] = make()
        seconds = round(time.perf_counter() - begin, 1)
        figures[what] = {**judged(video, made[what], options.colour), "seconds": seconds}
        print(f"{name}, {what}: {json.dumps(figures[what])}", flush=True)
    common = {"clip": name, "frames": len(fit), "pictures": f"{fit.size[1]}x{fit.size[0]}", **asked}
    return {**common, "found": figures, **machine()}, made


def with_earlier(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """A row with what was found before of the same and not again."""
    rows = json.loads(path.read_text()) if path.exists() else []
    same = ("clip", "frames", "pictures", "prompt", "layer", "model", "steps", "size")
    before: dict[str, Any] = next((old["found"] for old in rows if all(old[key] == row[key] for key in same)), {})
    return {**row, "found": {**before, **row["found"]}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--names", nargs="*", default=["car-shadow"])
    parser.add_argument("--prompt", default="gold")
    parser.add_argument("--colour", default="gold")
    parser.add_argument("--layer", default="foreground")
    parser.add_argument("--model", default="canon-mini")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--height", type=int, default=240, help="of the clip")
    parser.add_argument("--size", type=int, default=192, help="of the model's pictures, as a square's side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="*", help="names of what is made; gathered needs pix2video")
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for name in options.names:
        fit = load(options.clips / name, options.frames, options.height)
        row, made = compared(fit, name, options)
        path = options.out / "pix2video.json"
        keep(with_earlier(row, path), path, "prompt")
        if options.sheets:
            times = spread(len(fit), 4)
            title, below = f"{name}: {options.prompt}", f"{len(fit)} frames of {fit.size[1]}x{fit.size[0]}"
            sheet = Sheet(title, below, [f"frame {t}" for t in times])
            sheet.rows += [(what, [frames[t] for t in times]) for what, frames in made.items()]
            write_image(options.sheets / f"{name}-pix2video.png", sheet.draw())


if __name__ == "__main__":
    main()
