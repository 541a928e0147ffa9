"""Many processes: python -m benchmarks.scale many.

`examples/serving/ray_batch.py` on one, two and four workers: pairs of MNIST test digits that are predicted for by
the universal model and solved, and pairs of clouds that are solved. Throughput while all work, and the time until
the workers begin. `torchrun` with one and two processes: steps of small recipes, the same batch divided, and the
largest difference of their losses. It needs the extra ray; one machine, whose cores are counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metaot

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "scale-many.json"
WORKERS = (1, 2, 4)
BLOCKS, SEED = 16, 20261130
CASES: dict[str, tuple[list[str], int]] = {
    "predict, digits, universal model": (["predict", "universal"], 2048),
    "solve to 1e-3, digits": (["solve"], 8192),
    "solve to 1e-3, clouds of 100 points": (["solve", "--measures", "clouds.npz", "--eps", "0.02"], 4096),
}
STEPS = 40
RECIPES = {"shapes": ("data.batch=128",), "palettes": ("data.batch=16", "data.samples=256")}

TRAIN = """
import json, os, sys, time
from pathlib import Path
from metaot.recipes import RECIPES
from metaot.training import loop, override, train

loop.write_network = lambda folder, data_dir: None
name, folder, steps, *settings = sys.argv[1:]
update, made = loop._update, []

def timed(*given):
    figures = update(*given)
    made.append((time.perf_counter(), figures["loss"]))
    return figures

loop._update = timed
recipe = override(RECIPES[name](), [f"steps={steps}", "validation_batch=2", *settings])
train(recipe, Path(folder), progress=False, overwrite=True)
if os.environ.get("RANK", "0") == "0":
    times, losses = zip(*made)
    half = len(times) // 2
    seconds = (times[-1] - times[half]) / (len(times) - 1 - half)
    print(json.dumps({"ms_per_step": round(1e3 * seconds, 2), "batch": recipe.data.batch, "losses": losses}))
"""


def ran(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout


def workers(folder: Path) -> list[dict[str, Any]]:
    """Return the throughput of each case and number of workers."""
    generator = np.random.default_rng(SEED)
    np.savez(folder / "clouds.npz", clouds=generator.random((1000, 100, 2)))
    script = str(ROOT / "examples" / "serving" / "ray_batch.py")
    rows = []
    for name, (arguments, count) in CASES.items():
        for number in WORKERS:
            settings = ["--count", str(count), "--block", str(count // BLOCKS), "--batch", "128"]
            place = ["--workers", str(number), "--out", f"{len(rows)}"]
            report = json.loads(ran([sys.executable, script, *arguments, *settings, *place], folder))
            rows.append({"case": name, **report})
            print(rows[-1], flush=True)
    return rows


def training(folder: Path) -> list[dict[str, Any]]:
    """Return milliseconds of a step with one and two processes, and how far their losses differ."""
    (folder / "train.py").write_text(TRAIN)
    rows = []
    for name, settings in RECIPES.items():
        arguments = ["train.py", name, name, str(STEPS), *settings]
        launch = {1: [sys.executable], 2: [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]}
        found = {count: json.loads(ran([*start, *arguments], folder)) for count, start in launch.items()}
        one, two = (np.array(each.pop("losses")) for each in found.values())
        row = {"recipe": name, "batch": found[1]["batch"], "difference": float(np.abs(two / one - 1).max())}
        rows.append({**row, "ms_per_step": {str(count): each["ms_per_step"] for count, each in found.items()}})
        print(rows[-1], flush=True)
    return rows


def main(options: list[str] | None = None) -> None:
    with tempfile.TemporaryDirectory() as place:
        content = {
            "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
            "torch": torch.__version__, "metaot": metaot.__version__, "seed": SEED,
            "training": training(Path(place)), "workers": workers(Path(place)),
        }  # fmt: skip
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
