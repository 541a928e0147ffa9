"""A bijection between two large clouds: python -m benchmarks.scale pairs.

The clouds of benchmarks/scale/clouds.py in the plane, as many points as in HiRef (arXiv 2503.03025), |x - y|^2, on
two threads: `metaot.couple` by default and with eps=0, binary space partitions (BSP-OT, of POT) with 64 plans, and
random batches of 2048 points, each paired exactly by `metaot.couple`.
"""

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import ot
import torch
from ot.bsp import compute_bspot_bijection
from torch import Tensor

from benchmarks.scale.clouds import SEED, clouds
from metaot import couple

RESULTS = Path(__file__).parents[1] / "results" / "scale-pairs.json"
POINTS, PLANS, BATCH = 84_172, 64, 2048
WARM_UP, TRIES = 5000, 3


def ours(x: Tensor, y: Tensor, eps: float | None) -> dict[str, Any]:
    begin = perf_counter()
    found = couple(x, y, eps=eps)
    seconds = perf_counter() - begin
    return row("couple" if eps is None else f"couple, eps={eps:g}", seconds, x, y, found.j) | {
        "lower": float(found.lower)
    }


def partitions(x: Tensor, y: Tensor) -> dict[str, Any]:
    begin = perf_counter()
    found = compute_bspot_bijection(x.numpy(), y.numpy(), n_plans=PLANS)[1]
    seconds = perf_counter() - begin
    return row(f"BSP-OT, {PLANS} plans", seconds, x, y, torch.from_numpy(np.asarray(found, dtype=np.int64)))


def batches(x: Tensor, y: Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(SEED)
    begin = perf_counter()
    orders = [torch.randperm(len(x), generator=generator).split(BATCH) for _ in range(2)]
    columns = torch.empty(len(x), dtype=torch.int64)
    for rows, others in zip(*orders, strict=True):
        columns[rows] = others[couple(x[rows], y[others], eps=0).j]
    return row(f"batches of {BATCH}", perf_counter() - begin, x, y, columns)


def row(name: str, seconds: float, x: Tensor, y: Tensor, columns: Tensor) -> dict[str, Any]:
    assert columns.sort().values.equal(torch.arange(len(x)))
    cost = float((x - y[columns]).square().sum(1).mean())
    print(name, round(seconds, 2), cost, flush=True)
    return {"name": name, "seconds": round(seconds, 2), "cost": cost}


def main() -> None:
    torch.set_num_threads(2)
    small, large = (clouds(n, 2).geometry.points for n in (WARM_UP, POINTS))
    for method in (partitions, batches):
        method(*small)
    ours(*small, None)
    tries = [(ours(*large, None), partitions(*large)) for _ in range(TRIES)]
    quick, parts = (min(each, key=lambda found: found["seconds"]) for each in zip(*tries, strict=True))
    rows = [quick, ours(*large, 0.0), parts, batches(*large)]
    content = {"torch": torch.__version__, "pot": ot.__version__, "seed": SEED, "points": POINTS, "rows": rows}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
