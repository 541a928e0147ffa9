"""Distance matrices: all divergences between MNIST digits, and between larger images, cold and from the model.

    python -m benchmarks.losses pairwise

Beside the time there is the error of some entries, against solves to 1e-9.
"""

import json
import os
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import metaot
from metaot.data.images import ImageArchives, as_weights
from metaot.losses import pairwise, sinkhorn_divergence

OUT = Path("benchmarks/results/losses-pairwise.json")
SOME = 50
"""Entries whose error is measured."""
TASKS = (
    ("1000 digits", 1000, 28, 1e-2, (None,)),
    ("1000 digits", 1000, 28, 1e-3, (None,)),
    ("1000 digits", 300, 28, 1e-2, (None, "mnist", "universal")),
    ("1000 digits", 300, 28, 1e-3, (None, "universal")),
    ("500 images", 500, 64, 1e-3, ("universal",)),
    ("500 images", 150, 64, 1e-3, (None, "universal")),
)
"""Name, measures, points of an axis, eps and starts; small ones compare the starts."""


def measures(count: int, side: int) -> Tensor:
    """Return weights of test images; larger ones are the digits, resized."""
    return as_weights(ImageArchives("mnist", side).split("test").images[:count].double())


def run(count: int, side: int, eps: float, init: str | None, tol: float) -> dict[str, Any]:
    weights, grid = measures(count, side), metaot.Grid(side, side)
    pairwise(weights[:20], grid, eps, init=init, tol=tol)
    start = perf_counter()
    D = pairwise(weights, grid, eps, init=init, tol=tol, progress=False)
    seconds = perf_counter() - start
    i, j = torch.randint(0, count, (2, SOME), generator=torch.Generator().manual_seed(0))
    exact = sinkhorn_divergence(metaot.Problem(weights[i], weights[j], grid, eps), tol=1e-9)
    error = ((D[i, j] - exact).abs() / exact.mean()).max()
    pairs = count * (count - 1) // 2
    return {"pairs": pairs, "seconds": seconds, "microseconds": 1e6 * seconds / pairs, "error": float(error)}


def main() -> None:
    rows = []
    for name, count, side, eps, starts in TASKS:
        for init in starts:
            for tol in (1e-2, 1e-3):
                row = {"task": name, "count": count, "side": side, "eps": eps, "init": init, "tol": tol}
                row |= run(count, side, eps, init, tol)
                rows.append(row)
                seconds = row["seconds"]
                print(
                    f"{count} of {side} x {side}, eps {eps:g}, {init or 'cold'}, tol {tol:g}: {seconds:.1f} s,"
                    f" {row['microseconds']:.0f} us a pair, error over the mean {row['error']:.0e}",
                    flush=True,
                )
    results = {"threads": torch.get_num_threads(), "load": os.getloadavg()[0], "rows": rows}
    OUT.write_text(json.dumps(results, indent=1) + "\n")
