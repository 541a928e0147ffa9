"""How close predicted maps are to known ones: python -m benchmarks.planted [--runs DIR] [--dims 2 3 8].

For each dimension the recipe `planted` is trained (by the command that stands in the results), unless
DIR/planted-D is there. On test pairs of random measures with a known map: L2-UVP, on samples that no method has
seen, of the prediction, after a second of fine-tuning, of W2GN from scratch after the same second and after sixty,
and of the linear map. One thread, seconds of processor time. Results go to benchmarks/results/planted.json;
dimensions that are not named keep those that they had.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import torch

from benchmarks.tables.maps import planted
from metaot.amortize.maps import BuresStart
from metaot.brenier import BrenierPair, SampleProblem
from metaot.checkpoint import load, read_card, write_atomically
from metaot.cli import main
from metaot.data import Planted
from metaot.evaluation.maps import unexplained
from metaot.solvers import W2GN, GaussNewton, MapSolver, solve

RESULTS = Path(__file__).parent / "results" / "planted.json"
STEPS, SEED = 5000, 20261122
PAIRS, SAMPLES, FRESH = 12, 2000, 2000
Timed = tuple[BrenierPair, float]
LONG = 2
"""Pairs for which W2GN runs for a minute each."""
RATE = 0.1
"""Of W2GN: the best of 0.01, 0.03 and 0.1 on validation pairs, after 1 and 6 seconds."""


def trained(dim: int, runs: Path) -> Path:
    """Return the folder of a model, trained if it is not there."""
    folder = runs / f"planted-{dim}"
    if not (folder / "model.json").exists():
        settings = ["--set", f"steps={STEPS}", "--set", f"data.dim={dim}", "--set", "validate_every=1000"]
        if main(["train", "planted", *settings, "--out", str(folder)]):
            raise SystemExit(2)
    return folder


def measure(folder: Path, dim: int) -> dict[str, Any]:
    """Return what a table needs of one dimension."""
    card, model = read_card(folder), load(folder)
    drawn, truth = Planted(PAIRS, SAMPLES + FRESH, dim).split("test").with_map(torch.Generator().manual_seed(SEED))
    seen = SampleProblem(drawn.x[:, :SAMPLES], drawn.y[:, :SAMPLES])
    model_map, icnn = model.predict, model.model.icnn

    def w2gn(steps: int) -> MapSolver:
        return W2GN(steps=steps, icnn=icnn, learning_rate=RATE)

    ways: dict[str, tuple[int, Callable[[SampleProblem], Timed]]] = {
        "linear (Bures)": (PAIRS, lambda one: timed(lambda: BuresStart().predict(one))),
        "prediction": (PAIRS, lambda one: timed(lambda: model_map(one))),
        "prediction, then GaussNewton for 1 s": (PAIRS, lambda one: run(1, one, model_map(one), GaussNewton)),
        "W2GN from scratch for 1 s": (PAIRS, lambda one: run(1, one, None, w2gn)),
        "W2GN from scratch for 60 s": (LONG, lambda one: run(60, one, None, w2gn)),
    }
    rows = {}
    for name, (pairs, way) in ways.items():
        pushed = [way(seen[k]) for k in range(pairs)]
        errors = [float(unexplained(drawn.x[k, SAMPLES:], pair, truth[k])) for k, (pair, _) in enumerate(pushed)]
        rows[name] = described(errors, [seconds for _, seconds in pushed])
        print(dim, name, rows[name]["L2-UVP, mean"], rows[name]["seconds, median"], flush=True)
    return {
        "command": card["command"],
        "training_seconds": card["training_seconds"],
        "parameters": card["parameters"],
        "ways": rows,
    }


def run(
    seconds: float, one: SampleProblem, start: BrenierPair | None, solver: Callable[[int], MapSolver]
) -> Timed:
    """Run as many steps as take about so long: a few are timed first, on the same problem."""
    few, more = (timed(lambda n=n: solve(one, init=start, solver=solver(n), tol=1e-9))[1] for n in (1, 4))
    a_step = max((more - few) / 3, 1e-4)
    steps = max(1, math.floor((seconds - max(few - a_step, 0)) / a_step))
    return timed(lambda: solve(one, init=start, solver=solver(steps), tol=1e-9, max_steps=steps).pair)


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what an action returns, and its seconds of processor time."""
    begun = process_time()
    result = action()
    return result, process_time() - begun


def described(errors: list[float], seconds: list[float]) -> dict[str, Any]:
    """Return the figures of one way."""
    values, times = torch.tensor(errors), torch.tensor(seconds)
    return {
        "pairs": len(errors),
        "L2-UVP, mean": round(float(values.mean()), 3),
        "L2-UVP, worst": round(float(values.max()), 3),
        "seconds, median": round(float(times.median()), 4),
        "L2-UVP": [round(e, 4) for e in errors],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 3, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"samples": SAMPLES, "fresh": FRESH, "seed": SEED, "threads": 1, "torch": torch.__version__}
    kept = json.loads(RESULTS.read_text())["dimensions"] if RESULTS.exists() else {}
    results: dict[str, Any] = {**settings, "dimensions": kept}
    for dim in options.dims:
        results["dimensions"][str(dim)] = measure(trained(dim, options.runs), dim)
    content = json.dumps(results, indent=1) + "\n"
    write_atomically(RESULTS, lambda partial: partial.write_text(content))
    print(planted().markdown())
