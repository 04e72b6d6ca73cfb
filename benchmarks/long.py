"""Time and memory of a fit against the number of frames, on the synthetic scene "long" (320x180).

    python benchmarks/long.py [--frames 125 250 500 1000] [--preset fast]

Memory is the peak of what the process itself holds (anonymous memory, sampled), and of all that is resident: that
includes pages of the frames, flow and masks mapped from disk, which the system takes back when it needs the room.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fit import machine

import canon
from canon.runtime import peak_memory_mib, tune_allocator
from canon.scenes import make


class AnonymousPeak(threading.Thread):
    """Peak of this process's anonymous memory in MiB, sampled every 50 ms (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self.start()

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.mib = max(self.mib, int(line.split()[1]) / 1024.0)
            time.sleep(0.05)


def single(frames: int, preset: str) -> dict[str, float]:
    """One fit in this process."""
    tune_allocator()
    clip = make("long", frames=frames).clip()
    before = peak_memory_mib()
    anonymous = AnonymousPeak()
    fit = canon.fit(clip, preset=preset)
    return {
        "frames": frames,
        "seconds": fit.stats["seconds_total"],
        "seconds_per_frame": round(fit.stats["seconds_total"] / frames, 4),
        "anonymous_mib": round(anonymous.mib, 1),
        "peak_mib": round(peak_memory_mib(), 1),
        "before_mib": round(before, 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="*", default=[125, 250, 500, 1000])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.single:
        print(json.dumps(single(options.frames[0], options.preset)))
        return
    rows = []
    for frames in options.frames:
        command = [sys.executable, __file__, "--single", "--frames", str(frames), "--preset", options.preset]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {**machine(), "preset": options.preset, "rows": rows}
    (options.out / f"long-{record['date']}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
