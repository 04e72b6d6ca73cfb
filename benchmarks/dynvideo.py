"""DynVideo-E's editing stage on the synthetic person: a reference of another shirt, and what each of its terms is for.

    python benchmarks/dynvideo.py [--fit FOLDER] [--preset fast] [--sheets FOLDER] [--only NAME ...]

The person of 96x96 pixels and 40 frames walks before a moving camera; the reference is frame 20 with a shirt of green
stripes on light yellow instead of red on cream. As the truth is known from everywhere, so are these figures:

- ``reference_psnr``: of frame 20 where the person is, in dB; ``reference_psnr_frame``: of the whole frame;
- ``views_psnr``: of the person in 8 other views and poses, all around, against the true person in that shirt;
- ``palette_distance``: mean CIEDE2000 between pixels of the shirt in those views and the nearest of the reference's two
  colours; ``palette_distance_back`` of the three views from behind, which the reference does not show;
- ``least_iou``: of the person's silhouette in those views before and after the edit;
- ``outside``: pixels changed where the person's opacity is 0 before and after, over all frames.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from fit import machine
from skimage.color import deltaE_ciede2000, rgb2lab

import canon
from canon.edits import Edit
from canon.metrics import psnr
from canon.rendering import Video
from canon.representations.dynamic_nerf.fit import NerfFit
from canon.scenes.human import HumanScene, HumanSceneConfig
from canon.skeletons import Motion
from canon.storage import to_uint8, write_image, write_json

AT = 20
SHIRT = ((0.1, 0.45, 0.15), (0.85, 0.9, 0.5))
TORSO = (0, 3, 6, 9, 13, 14)
ANGLES = (0, 45, 90, 135, 180, 225, 270, 315)
MOMENTS = (20, 3, 8, 13, 18, 23, 28, 33)
BEHIND = (3, 4, 5)
PROMPT = "green stripes on yellow"
ROWS: dict[str, dict[str, Any]] = {
    "full": {},
    "without 2-D distillation": {"distil": 0.0},
    "without reconstruction": {"reconstruct": 0.0},
    "without close-ups": {"close_ups": 0.0},
    "without personalising": {"personalise": 0},
    "with random poses alone": {"poses": (0.0, 0.0, 1.0)},
    "with shape": {"shape": 0.2},
    "distillation alone": {"reference": "", "personalise": 0},
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, help="a fit of the scene that was saved; none = it is fitted first")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--device")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--parts", nargs="*", default=["torso"])
    parser.add_argument("--sheets", type=Path, help="folder for pictures to look at")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    scene = HumanScene(HumanSceneConfig())
    dressed = HumanScene(replace(scene.config, shirt=SHIRT))
    fit = canon.load(options.fit) if options.fit else canon.fit(scene.clip(), "dynamic-nerf", preset=options.preset)
    assert isinstance(fit, NerfFit)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "dynvideo.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    views = Elsewhere(fit, scene, dressed)
    with TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.png"
        write_image(reference, to_uint8(dressed.frame(AT).rgb))
        record["rows"]["unedited"] = views.figures(Edit([], fit.id))
        for name in options.only:
            asked = {"prompt": PROMPT, "reference": str(reference), "frame": AT, "parts": tuple(options.parts)}
            asked |= {"steps": options.steps, "device": options.device, **ROWS[name]}
            start, cpu = time.perf_counter(), time.process_time()
            edit = canon.edit(fit, "dynvideo-e", **asked)
            row = {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
            row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            row |= views.figures(edit)
            print(name, json.dumps(row), flush=True)
            record["rows"][name] = row
            write_json(path, {**machine(), "steps": options.steps, "parts": options.parts, **record})
            if options.sheets:
                options.sheets.mkdir(parents=True, exist_ok=True)
                write_image(options.sheets / f"dynvideo-{name.replace(' ', '-')}.png", views.sheet(edit))


class Elsewhere:
    """Frame 20, and eight other views and poses, with what is true there."""

    def __init__(self, fit: NerfFit, scene: HumanScene, dressed: HumanScene) -> None:
        self.fit, self.dressed = fit, dressed
        cameras, poses = [scene.orbiting(angle) for angle in ANGLES], [scene.pose(t) for t in MOMENTS]
        rotations, root = (np.stack(part) for part in zip(*poses, strict=True))
        motion = Motion(scene.body.skeleton, rotations, root, 24.0)
        self.views = fit.from_elsewhere(cameras, motion, [AT] * len(cameras))
        self.true = [dressed.view(camera, pose) for camera, pose in zip(cameras, poses, strict=True)]

    def figures(self, edit: Edit) -> dict[str, float]:
        """See above."""
        video, around, true = canon.render(self.fit, edit), canon.render(self.views, edit), self.dressed.frame(AT)
        outside = sum(self._outside(video, t) for t in range(len(self.fit)))
        wanted = rgb2lab(np.array(SHIRT))
        shirt, agree, errors = [], [], []
        for k, view in enumerate(self.true):
            image, person = around[k] / 255, view.mask > 0.5
            errors.append(psnr(image, view.rgb, person))
            lab = rgb2lab(image[np.isin(view.joint, TORSO)])
            shirt.append(np.min([deltaE_ciede2000(lab, colour[None]) for colour in wanted], axis=0))
            before, after = (own.weights(k)[0] > 0.5 for own in (self.views, around.shown))
            agree.append((before & after).sum() / (before | after).sum())
        person = true.mask > 0.5
        return {
            "reference_psnr": round(psnr(video[AT] / 255, true.rgb, person), 2),
            "reference_psnr_frame": round(psnr(video[AT] / 255, true.rgb), 2),
            "views_psnr": round(float(np.mean(errors)), 2),
            "palette_distance": round(float(np.concatenate(shirt).mean()), 2),
            "palette_distance_back": round(float(np.concatenate([shirt[k] for k in BEHIND]).mean()), 2),
            "least_iou": round(float(min(agree)), 3),
            "outside": outside,
        }

    def _outside(self, video: Video, t: int) -> int:
        """Pixels of a frame that are changed where nobody is, neither before nor after."""
        nobody = (self.fit.weights(t)[0] == 0) & (video.shown.weights(t)[0] == 0)
        return int((video[t] != self.fit.clip.frames[t]).any(axis=-1)[nobody].sum())

    def sheet(self, edit: Edit) -> np.ndarray:
        """Frames, the other views before and after, and as they truly are, twice as large."""
        video, around = canon.render(self.fit, edit), canon.render(self.views, edit)
        rows = [
            [
                self.fit.clip.frames[AT],
                video[AT],
                to_uint8(self.dressed.frame(AT).rgb),
                *(video[t] for t in range(0, 40, 8)),
            ],
            list(self.views.clip.frames),
            [around[k] for k in range(len(around))],
            [to_uint8(view.rgb) for view in self.true],
        ]
        sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
        return sheet.repeat(2, axis=0).repeat(2, axis=1)


if __name__ == "__main__":
    main()
