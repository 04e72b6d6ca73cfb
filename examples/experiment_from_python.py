"""An experiment from Python: prompts by strengths and seeds, and its figures as a pandas DataFrame.

Every ``# %%`` begins a cell. It needs the extras [experiments] and [diffusion]. What was done once is found again:
change a prompt, and only that is new.
"""

# %% The same as a YAML file holds, as a mapping.
from pathlib import Path

import canon
from canon.scenes import make

WIDTH, HEIGHT, FRAMES, STEPS = 192, 108, 8, 10
PROMPTS, STRENGTHS, SEEDS = ["gold", "red stripes on white"], [0.6, 0.9], [0, 1]
OUT = Path("prompts")

clip = make("demo", width=WIDTH, height=HEIGHT, frames=FRAMES).save(OUT / "source")
experiment = {
    "name": "prompts",
    "clips": [{"name": "cat", "path": str(clip)}],
    "representations": [{"name": "atlas", "representation": "atlas", "preset": "fast"}],
    "editors": [
        {
            "name": "look",
            "editor": "restyle",
            "layer": "foreground",
            "steps": STEPS,
            "sweep": {"prompt": PROMPTS, "strength": STRENGTHS},
        },
        {"name": "gone", "editor": "remove", "layer": "foreground"},
    ],
    "seeds": SEEDS,
}

# %% Run it. engine="ray" does the same on all cores, or on a cluster.
results = canon.run(experiment, out=OUT / "run")
print(results)

# %% One row for each clip x representation x editor x seed; the fit alone is a row, too.
frame = results.frame
edits = frame[frame["tool"] == "restyle"]
columns = ["prompt", "editor.strength", "seed", "palette_distance", "warp_error_excess_inside", "seconds_edit"]
print(edits[columns].to_string(index=False))

# %% Which strength comes nearer to the colour that was asked for, and what does it cost in steadiness?
print(edits.groupby("editor.strength", observed=True)[["palette_distance", "warp_error_excess_inside"]].mean())

# %% The best, what failed, and the report, in which all videos play in step.
best = results.best("palette_distance")[0]
print(f"nearest to its colour: {best['prompt']}, seed {best['seed']}: {best['palette_distance']:.1f}")
print(f"{len(results.failures())} of {len(results)} rows failed")
print(f"look at {OUT}/run/report.html; in the browser: canon view {OUT}/run/projects/cat")
