"""How often canon-mini draws what a prompt says: colours by the share of pixels, patterns and shapes by a classifier.

    python benchmarks/prompts.py --model FOLDER [--sheet SHEET.png]
    python benchmarks/prompts.py --drawn [--model FOLDER]

The prompts come from the grammar of the training, with seeds of their own; there are only so many ways to ask for a
material, so the training may have met the same words. ``--drawn`` judges procedural drawings of the same prompts in
place of generated pictures, the most that can be reached; with a model, they go through its autoencoder and back. The
classifier is trained on the first run (some minutes) and kept in --cache. Every row of benchmarks/results/prompts.json
also says how often the judges themselves are right.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from fit import machine
from named_colours import colours_right, name_pixels, with_one_changed
from pattern_classifier import Classifier, Seen, held_out, load_or_train, recognise, soften, truth

from canon.editors.diffusion.mini.pictures import draw
from canon.editors.diffusion.mini.training import to_latent_range
from canon.editors.diffusion.mini.vocabulary import PATTERNS, Picture, random_picture
from canon.editors.diffusion.models import fingerprint
from canon.runtime import cores, tune_allocator
from canon.storage import to_uint8, write_image, write_json

PROMPTS, DRAWINGS, CALIBRATION = 8_000_000, 8_000_001, 8_000_002
"""First numbers of the seeds. Training of canon-mini and of the classifier have others there."""
CALIBRATED = 500
"""Drawings on which the rule for colours is tried."""
COLUMNS, ROWS, ENLARGED, TEXT = 8, 6, 2, 52
"""Of the sample sheet: pictures across and down, times they are enlarged, and pixels below each."""


def prompts(count: int, seed: int) -> list[Picture]:
    """Pictures to ask for, as random as those of the training, no caption twice."""
    rng = np.random.default_rng([PROMPTS, seed])
    found: dict[str, Picture] = {}
    while len(found) < count:
        picture = random_picture(rng)
        found.setdefault(picture.caption, picture)
    return list(found.values())


def generated(options: argparse.Namespace, asked: list[Picture]) -> np.ndarray:
    """Pictures by the model, float32 [N, size, size, 3] in 0..1; each has a seed of its own, whatever the batch."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(options.model, local_files_only=True, use_safetensors=True)
    pipeline = pipeline.to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    found = []
    for first in range(0, len(asked), options.batch):
        captions = [picture.caption for picture in asked[first : first + options.batch]]
        seeds = [options.seed * 1_000_000 + first + k for k in range(len(captions))]
        images = pipeline(
            captions,
            height=options.size,
            width=options.size,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        found.append(np.asarray(images, np.float32))
        print(f"{first + len(captions)} of {len(asked)} pictures", flush=True)
    return np.concatenate(found)


def drawn(asked: list[Picture], size: int, *seed: int) -> np.ndarray:
    """Procedural drawings, float32 [N, size, size, 3] in 0..1."""
    return np.stack([draw(picture, size, np.random.default_rng([*seed, k])) for k, picture in enumerate(asked)])


def autoencoded(options: argparse.Namespace, images: np.ndarray) -> np.ndarray:
    """Pictures through the autoencoder and back, float32 [N, h, w, 3] in 0..1."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(
        options.model, subfolder="vae", local_files_only=True, use_safetensors=True
    )
    vae = vae.eval().to(options.device)
    found = []
    with torch.inference_mode():
        for part in to_latent_range(images, torch.device(options.device)).split(options.batch):
            found.append(vae.decode(vae.encode(part).latent_dist.mean).sample.cpu())
    return np.asarray((torch.cat(found) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())


def share(right: list[bool]) -> float | None:
    """How many of some answers are right, or None of none."""
    return round(float(np.mean(right)), 4) if right else None


def judge_patterns(asked: list[Picture], seen: list[Seen]) -> dict[str, Any]:
    """Shares of right patterns and shapes; for every pattern of a surface, right/asked."""
    pairs = [(truth(picture), found) for picture, found in zip(asked, seen, strict=True)]
    surfaces = [(wanted, found) for wanted, found in pairs if wanted.shape == "none"]
    objects = [(wanted, found) for wanted, found in pairs if wanted.shape != "none"]
    wanted_counts = Counter(wanted.look for wanted, _ in surfaces)
    right_counts = Counter(wanted.look for wanted, found in surfaces if wanted.look == found.look)
    mistakes = Counter(f"{wanted.look} as {found.look}" for wanted, found in surfaces if wanted.look != found.look)
    return {
        "surfaces": len(surfaces),
        "pattern_right": share([wanted.look == found.look for wanted, found in surfaces]),
        "objects": len(objects),
        "object_pattern_right": share([wanted.look == found.look for wanted, found in objects]),
        "ground_right": share([wanted.ground == found.ground for wanted, found in objects]),
        "shape_right": share([wanted.shape == found.shape for wanted, found in objects]),
        "surface_taken_for_object": share([found.shape != "none" for _, found in surfaces]),
        "per_pattern": {name: f"{right_counts[name]}/{wanted_counts[name]}" for name in PATTERNS},
        "mistakes": dict(mistakes.most_common(8)),
    }


def judge_colours(asked: list[Picture], images: np.ndarray, seed: int) -> tuple[list[bool], dict[str, Any]]:
    """Which pictures have their colours; and shares, also for captions that the pictures were not made for."""
    rng = np.random.default_rng([CALIBRATION, seed])
    named = [name_pixels(image) for image in images]
    right = [colours_right(picture, names) for picture, names in zip(asked, named, strict=True)]
    shuffled = [asked[k] for k in rng.permutation(len(asked))]
    changed = [(with_one_changed(picture, rng), names) for picture, names in zip(asked, named, strict=True)]
    pairs = list(zip(asked, right, strict=True))
    return right, {
        "colour_right": share(right),
        "colour_right_surfaces": share([found for picture, found in pairs if picture.shape is None]),
        "colour_right_objects": share([found for picture, found in pairs if picture.shape is not None]),
        "colour_right_shuffled": share([colours_right(*pair) for pair in zip(shuffled, named, strict=True)]),
        "colour_right_one_changed": share([colours_right(picture, names) for picture, names in changed if picture]),
    }


def judge_judges(classifier: Classifier) -> dict[str, Any]:
    """How often the classifier and the rule for colours are right on drawings, clean and softened."""
    pictures, images = held_out()
    seen = {name: recognise(classifier, each) for name, each in (("clean", images), ("softened", soften(images)))}
    calibration = prompts(CALIBRATED, CALIBRATION)
    drawings = drawn(calibration, 64, CALIBRATION)
    return {
        "classifier": {name: judge_patterns(pictures, each) for name, each in seen.items()},
        "colour_rule": {
            name: judge_colours(calibration, each, 0)[1]
            for name, each in (("clean", drawings), ("softened", soften(drawings)))
        },
    }


def sheet(path: Path, asked: list[Picture], images: np.ndarray, seen: list[Seen], right: list[bool]) -> None:
    """The first pictures with their captions below, in red with what is wrong where a judge says so."""
    side = ENLARGED * 64
    page = np.full((ROWS * (side + TEXT), COLUMNS * (side + 8), 3), 255, np.uint8)
    for k in range(min(ROWS * COLUMNS, len(asked))):
        top, left = k // COLUMNS * (side + TEXT), k % COLUMNS * (side + 8) + 4
        image = cv2.resize(to_uint8(images[k]), (side, side), interpolation=cv2.INTER_NEAREST)
        page[top : top + side, left : left + side] = image
        wanted = truth(asked[k])
        wrong = [] if right[k] else ["colours"]
        wrong += [found for found, want in zip(seen[k], wanted, strict=True) if found != want]
        lines = textwrap.wrap(asked[k].caption, 24)[:3]
        for row, line in enumerate([*lines, f"({', '.join(wrong)})"] if wrong else lines):
            at, colour = (left, top + side + 10 + 11 * row), (190, 20, 20) if wrong else (20, 20, 20)
            cv2.putText(page, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.3, colour, 1, cv2.LINE_AA)
    write_image(path, page, compression=9)


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Put a row where the one of the same pictures and settings was."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    same = ("pictures", "model_hash", "count", "steps", "guidance", "size", "seed")
    rows = [old for old in rows if any(old.get(key) != row.get(key) for key in same)] + [row]
    write_json(path, {"rows": rows})


def show(row: dict[str, Any]) -> None:
    """Print what matters of a row."""
    rule, classifier = row["colour_rule"], row["classifier"]
    print(f"colours right {row['colour_right']}, with the captions shuffled {row['colour_right_shuffled']}")
    print(
        f"pattern right {row['pattern_right']} of {row['surfaces']} surfaces; of {row['objects']} objects"
        f" shape {row['shape_right']}, pattern {row['object_pattern_right']}, ground {row['ground_right']}"
    )
    print("per pattern:", ", ".join(f"{name} {of}" for name, of in row["per_pattern"].items()))
    print("mistakes:", row["mistakes"])
    for name in ("clean", "softened"):
        print(
            f"judges on {name} drawings: colours {rule[name]['colour_right']}"
            f" (shuffled {rule[name]['colour_right_shuffled']}, one changed {rule[name]['colour_right_one_changed']}),"
            f" pattern {classifier[name]['pattern_right']}, shape {classifier[name]['shape_right']}"
        )
    print(f"{row['seconds_per_picture']} s a picture")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a Stable Diffusion model")
    parser.add_argument("--drawn", action="store_true", help="judge drawings in place of generated pictures")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--size", type=int, default=64, help="pixels along a side of the pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts and of the pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "canon-benchmarks")
    parser.add_argument("--sheet", type=Path, help="PNG of the first pictures with their captions")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not (options.model or options.drawn):
        parser.error("nothing to judge; give --model FOLDER, --drawn or both")
    torch.set_num_threads(cores())
    tune_allocator()
    classifier = load_or_train(options.cache)
    asked = prompts(options.count, options.seed)
    begin = time.perf_counter()
    if options.drawn:
        images = drawn(asked, options.size, DRAWINGS, options.seed)
        images = autoencoded(options, images) if options.model else images
    else:
        images = generated(options, asked)
    seconds = time.perf_counter() - begin
    seen = recognise(classifier, images)
    right, colours = judge_colours(asked, images, options.seed)
    settings = {} if options.drawn else {"steps": options.steps, "guidance": options.guidance}
    row = {
        **machine(),
        "pictures": "generated" if not options.drawn else "autoencoded" if options.model else "drawn",
        "model_hash": fingerprint(str(options.model)) if options.model else None,
        "device": options.device,
        "count": len(asked),
        "size": options.size,
        "seed": options.seed,
        **settings,
        **colours,
        **judge_patterns(asked, seen),
        "seconds_per_picture": round(seconds / len(asked), 4),
        **judge_judges(classifier),
    }
    write_row(options.out / "prompts.json", row)
    if options.sheet:
        sheet(options.sheet, asked, images, seen, right)
    show(row)


if __name__ == "__main__":
    main()
