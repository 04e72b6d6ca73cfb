"""What an experiment costs beside its work: seconds for tasks that do nothing, and for grades of a tiny clip.

    python benchmarks/experiments.py [--tasks 1000] [--engines in-process ray] [--json FILE]

Trivial tasks, on Ray, stand apart ("flat"), each need the one before ("chain"), or all need the first and are needed by
the last ("fan"). Grades are a whole ``canon.run``: a sweep over exposure on one fit of a synthetic clip, with the fit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from fit import machine

import canon
from canon.experiments.contracts import Resources, Task
from canon.experiments.store import Store
from canon.scenes import make
from canon.storage import write_image

HELPERS = sys.path[0]
SHAPES: dict[str, Callable[[int, int], tuple[str, ...]]] = {
    "flat": lambda k, count: (),
    "chain": lambda k, count: (f"k{k - 1}",) if k else (),
    "fan": lambda k, count: () if k == 0 else tuple(f"k{n}" for n in range(k)) if k == count - 1 else ("k0",),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--engines", nargs="+", default=["in-process", "ray"])
    parser.add_argument("--json", type=Path)
    own = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([HELPERS, os.environ.get("PYTHONPATH", "")])  # for Ray's workers
    found: dict[str, Any] = {**machine(), "tasks": own.tasks, "seconds": {}}
    for name in own.engines:
        if name == "ray":
            found["seconds"] |= {f"ray {shape}": trivial(shape, own.tasks) for shape in SHAPES}
        found["seconds"][f"{name} grades"] = grades(name, own.tasks)
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found, indent=1))
    if own.json:
        own.json.write_text(json.dumps(found, indent=1) + "\n")


def trivial(shape: str, count: int) -> float:
    """Seconds on Ray for tasks that do nothing, with the start of the workers."""
    from canon.experiments.ray_engine import RayEngine

    needs = SHAPES[shape]
    tasks = [Task(f"k{k}", "edit", f"k{k}", {}, needs(k, count), Resources(cpus=1)) for k in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        engine = RayEngine(execute="trivial_tasks:execute_at_once")
        engine.run(tasks, Store.open(folder), lambda *_: None, lambda *_: None)
        return round(time.perf_counter() - begin, 1)


def grades(name: str, count: int) -> float:
    """Seconds of an experiment of so many grades."""
    scene = make("pan", width=48, height=32, frames=6)
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "clip"
        for t, frame in enumerate(scene.clip().frames):
            write_image(frames / f"{t:05d}.png", frame)
        spec = {
            "name": "grades",
            "clips": [{"path": str(frames), "name": "clip"}],
            "representations": [{"kind": "atlas", "preset": "fast"}],
            "editors": [{"name": "g", "editor": "grade", "sweep": {"exposure": [k / count for k in range(count)]}}],
            "metrics": False,
            "render": False,
        }
        begin = time.perf_counter()
        canon.run(spec, out=Path(folder) / "out", engine=name, report=False)
        return round(time.perf_counter() - begin, 1)


if __name__ == "__main__":
    main()
