"""Distance matrices of 1000 MNIST digits and of 500 images: python -m benchmarks.losses pairwise [--quick].

All pairs are solved to an L1 marginal error of 1e-3: from zeros (cold), from what the first rows taught (learned),
and from a model. Beside the time there is the error of some entries, against solves to 1e-9. `--quick` makes small
parts of the matrices and writes nothing. Results go to benchmarks/results/losses-pairwise.json.
"""

import json
import os
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

import metaot
from metaot.data.images import ImageArchives, as_weights
from metaot.losses import pairwise, sinkhorn_divergence

OUT = Path(__file__).parents[1] / "results" / "losses-pairwise.json"
TOL, SOME = 1e-3, 50
"""The L1 error of each problem, and the entries that are solved again."""

DIGITS, MIXED = ("mnist",), ("mnist", "quickdraw", "fashion")
TASKS = (
    ("1000 digits", DIGITS, 1000, 28, 1e-2, "learned", 1.0, 60),
    ("1000 digits", DIGITS, 1000, 28, 1e-3, "learned", 1.0, 60),
    ("500 digits", DIGITS, 500, 64, 1e-3, "universal", 1.0, 120),
    ("1000 digits", DIGITS, 1000, 28, 1e-2, "cold", 0.3, None),
    ("1000 digits", DIGITS, 1000, 28, 1e-2, "mnist", 0.2, None),
    ("1000 digits", DIGITS, 1000, 28, 1e-3, "cold", 0.2, None),
    ("1000 digits", DIGITS, 1000, 28, 1e-3, "universal", 0.2, None),
    ("500 digits", DIGITS, 500, 64, 1e-3, "cold", 0.2, None),
    ("500 digits", DIGITS, 500, 64, 1e-3, "learned", 0.4, None),
    ("500 digits, doodles and clothes", MIXED, 500, 64, 1e-3, "universal", 0.2, None),
    ("500 digits, doodles and clothes", MIXED, 500, 64, 1e-3, "cold", 0.2, None),
)
"""Name, image sets, measures, points of an axis, eps, start, the part of the measures that is solved, and a floor
in seconds. A part p has p^2 of the pairs, and what the first rows teach costs more there."""


def measures(sets: tuple[str, ...], count: int, side: int) -> Tensor:
    """Return weights of test images of several sets, in turn, at this size."""
    pools = [as_weights(ImageArchives(name, side).split("test").images.double()) for name in sets]
    return torch.stack([pools[k % len(pools)][k // len(pools)] for k in range(count)])


def run(weights: Tensor, side: int, eps: float, start: str) -> dict[str, Any]:
    grid, count = metaot.Grid(side, side), len(weights)
    init = None if start in ("cold", "learned") else start
    how: dict[str, Any] = {"init": init, "tol": TOL, "progress": False}
    how["landmarks"] = 0 if start == "cold" else None
    pairwise(weights[:20], grid, eps, **how)
    begin, processor = perf_counter(), process_time()
    D = pairwise(weights, grid, eps, **how)
    seconds, processor = perf_counter() - begin, process_time() - processor
    i, j = torch.randint(0, count, (2, SOME), generator=torch.Generator().manual_seed(0))
    i, j = i[i != j], j[i != j]
    exact = sinkhorn_divergence(metaot.Problem(weights[i], weights[j], grid, eps), tol=1e-9)
    pairs = count * (count - 1) // 2
    return {
        "measures": count,
        "pairs": pairs,
        "seconds": round(seconds, 2),
        "processor_microseconds_a_pair": round(1e6 * processor / pairs, 1),
        "error": float((D[i, j] - exact).abs().max() / exact.mean()),
    }


def main() -> None:
    quick, rows = "--quick" in sys.argv, []
    print(
        "| measures | eps | start | solved | s | s for all | floor | processor us a pair | error over the mean |"
    )
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|")
    for name, sets, count, side, eps, start, part, floor in TASKS:
        solved = int(count * (min(part, 0.1) if quick else part))
        row = {"task": name, "side": side, "eps": eps, "start": start, "floor": floor}
        row |= run(measures(sets, solved, side), side, eps, start)
        row["seconds_for_all"] = round(row["seconds"] * count * (count - 1) / 2 / row["pairs"], 1)
        rows.append(row)
        print(
            f"| {name}, {side} x {side} | {eps:g} | {start} | {solved} | {row['seconds']:.1f} "
            f"| {row['seconds_for_all']:.1f} | {f'<= {floor}' if floor else ''} "
            f"| {row['processor_microseconds_a_pair']:.0f} | {row['error']:.0e} |",
            flush=True,
        )
        results = {"tol": TOL, "threads": torch.get_num_threads(), "quick": quick, "load": os.getloadavg()[0]}
        if not quick:
            OUT.write_text(json.dumps(results | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
