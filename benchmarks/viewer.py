"""The viewer in headless Chromium: milliseconds from a stroke, or a move of the scrubber, to the new preview.

    python benchmarks/viewer.py [--project DIR] [--layer L] [--strokes 20] [--json FILE]

Without a project: 70 frames of 854x480 in two layers, whose fit nobody had to solve.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import numpy as np
from fit import machine
from playwright.sync_api import sync_playwright
from viewing import Browser, long_project, open_tab, painter_ready, responsiveness, serving

from canon.project import Project


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path)
    parser.add_argument("--layer")
    parser.add_argument("--strokes", type=int, default=20)
    parser.add_argument("--json", type=Path)
    own = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Project.open(own.project) if own.project else long_project(Path(folder) / "long")
        figures = measured(project, own.layer, own.strokes)
    found = {**machine(), **figures}
    print(json.dumps(found, indent=1))
    if own.json:
        own.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(project: Project, layer: str | None, strokes: int) -> dict[str, Any]:
    """Figures of one project; what is painted is not saved."""
    fit = project.fit()
    with sync_playwright() as playwright, serving(project.folder) as (url, pid):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        web = Browser(browser, url)
        page = web.page()
        painter_ready(page)
        name = layer or fit.layers[0]
        page.evaluate(
            "(to) => document.querySelector('canon-painter').open(to)", {"fit": project.fit_name(), "layer": name}
        )
        page.wait_for_timeout(2000)
        height, width = fit.canonical(name).size
        scrubbed, painted = responsiveness(page, strokes, (width / 3, height / 3))
        open_tab(page, "Look")
        page.wait_for_function("document.querySelector('canon-inspector')?.timeline?.count > 1")
        played = page.evaluate("""async () => {
            const inspector = document.querySelector('canon-inspector');
            inspector.play();
            const begin = performance.now();
            await new Promise((done) => setTimeout(done, 5000));
            const shown = inspector.timeline.shown;
            inspector.pause();
            return shown / ((performance.now() - begin) / 1000);
        }""")
        memory = int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
        complaints = web.done()
        browser.close()
    return {
        "frames": len(fit),
        "size": list(fit.size),
        "layer": name,
        "canvas": [height, width],
        "load": os.getloadavg()[0],
        "scrub_ms": quantiles(scrubbed),
        "stroke_ms": quantiles(painted),
        "played_fps": round(played, 1),
        "peak_mib": round(memory),
        "complaints": complaints,
    }


def quantiles(values: list[float]) -> dict[str, int]:
    """Median, 95th percentile and largest."""
    return {
        "median": round(float(np.median(values))),
        "p95": round(float(np.percentile(values, 95))),
        "largest": round(max(values)),
        "count": len(values),
    }


if __name__ == "__main__":
    main()
