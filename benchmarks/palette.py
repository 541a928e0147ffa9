"""The README's numbers of colour transfer: python -m benchmarks.palette [--data-dir DIR].

The shipped checkpoint on 50 pairs of held-out paintings, by `metaot evaluate`: table 2 of Meta OT with exact
conjugates. Beside it the discrete way: entropic transport between as many samples by `solve`, and its map for
pixels that it has not seen. Results go to benchmarks/results/palette.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

import metaot
from metaot.brenier import SampleProblem
from metaot.checkpoint import write_atomically
from metaot.cli import main
from metaot.data import Paintings
from metaot.geometry import Points
from metaot.objectives import brenier_loss
from metaot.potentials import DualPotentials, barycentric_map
from metaot.problem import Problem
from metaot.solvers import W2GN, solve

RESULTS = Path(__file__).parent / "results" / "palette"
CHECKPOINT = "checkpoints/palette"
COMMON = ["evaluate", CHECKPOINT, "--seed", "20261122", "--threads", "1", "--record", "--out", str(RESULTS)]
MEASURE = ["--instances", "50", "--samples", "1000", "--steps", "2000"]
PAIRS, SAMPLES, FRESH = 20, 2000, 2000
BUDGETS = {"5 ms": 0.005, "50 ms": 0.05, "500 ms": 0.5}


def compare() -> dict[str, dict[str, float]]:
    """Return, for each way and budget, the mean sliced distance of pushed unseen pixels to unseen target pixels.

    As a share of the distance before. For each budget, of a ladder of settings the most expensive one that stays
    within it on the pair counts: W2GN steps after the prediction; samples and steps of Sinkhorn.
    """
    torch.set_num_threads(1)
    data = replace(Paintings().split("test"), batch=PAIRS, samples=SAMPLES + FRESH)
    drawn = data.sample(torch.Generator().manual_seed(20261122))
    model, found = metaot.load(CHECKPOINT), {}
    for name, ladder in (("model", [0, 50, 100]), ("discrete", [100, 200, 500, 1000, 2000])):
        for k in range(PAIRS):
            seen = SampleProblem(drawn.x[k, :SAMPLES], drawn.y[k, :SAMPLES])
            fresh, wanted = drawn.x[k, SAMPLES:], drawn.y[k, SAMPLES:]
            before = sliced(fresh, wanted)
            for rung in ladder:
                begun = perf_counter()
                push = tuned(model, seen, rung) if name == "model" else entropic(seen, rung)
                seconds = perf_counter() - begun
                share = sliced(push(fresh), wanted) / before
                for budget, limit in BUDGETS.items():
                    if seconds <= limit:
                        found.setdefault((name, budget), {})[k] = share
                if seconds > max(BUDGETS.values()):
                    break
    rows: dict[str, dict[str, float]] = {"model": {}, "discrete": {}}
    for (name, budget), shares in found.items():
        rows[name][budget] = sum(shares.values()) / len(shares)
        rows[name][f"{budget}, pairs"] = len(shares)
    return rows


def tuned(model, seen: SampleProblem, steps: int):
    small = SampleProblem(seen.x[:512], seen.y[:512])
    pair = model.predict(small)
    if steps:
        pair = solve(seen, init=pair, solver=W2GN(steps, 0.1, objective=brenier_loss), tol=1e-9).pair
    return pair.push


def entropic(seen: SampleProblem, samples: int):
    x, y = seen.x[:samples].double(), seen.y[:samples].double()
    weights = torch.full((samples,), 1 / samples, dtype=torch.float64)
    eps = 0.01 * float(y.var(0).sum() + x.var(0).sum())
    potentials = solve(Problem(weights, weights, Points(x, y), eps), tol=1e-2).potentials

    def push(fresh: Tensor) -> Tensor:
        there = Points(fresh.double(), y)
        even = torch.full((len(fresh),), 1 / len(fresh), dtype=torch.float64)
        unseen = Problem(even, weights, there, eps)
        return barycentric_map(unseen, DualPotentials(even, potentials.g), y).to(fresh)

    return push


def sliced(x: Tensor, y: Tensor) -> float:
    slices = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(0.005, 0.995, 200)
    gaps = [(z @ (slices / slices.norm(dim=0))).quantile(levels, dim=0) for z in (x, y)]
    return float((gaps[0] - gaps[1]).square().mean().sqrt())


if __name__ == "__main__":
    failed = main([*COMMON, *MEASURE, *sys.argv[1:]])
    if failed:
        sys.exit(failed)
    rows = compare()
    print(json.dumps(rows, indent=2))
    write_atomically(
        RESULTS / "discrete.json", lambda partial: partial.write_text(json.dumps(rows, indent=2) + "\n")
    )
