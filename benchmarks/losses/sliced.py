"""Sliced distances beside POT: python -m benchmarks.losses sliced.

Two clouds of 10000 points of equal weight, the same 200 directions for all, p = 2, float64 and float32: the
value, and the value with its derivative in one cloud; beside the projections and two sorts alone, which no method
avoids: numpy's product and numpy's sort, the fastest ones at hand, the rows divided among as many threads of
Python. Medians of rounds in which the methods take turns; a pause before each lets the threads of the last one
fall asleep. With one thread and with two, each in a process of its own.
Results go to benchmarks/results/losses-sliced.json.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ot
import torch
from torch import Tensor
from torch.nn.functional import normalize

from metaot.losses import sliced_wasserstein

RESULTS = Path(__file__).parents[1] / "results" / "losses-sliced.json"
COUNT, DIRECTIONS, ROUNDS, ROUNDS_OF_PEERS = 10_000, 200, 15, 1
THREADS = (1, 2)
PAUSE = 0.02
SORTS = "two sorts and the projections, numpy"


def with_gradient(loss: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def methods(x: Tensor, y: Tensor, theta: Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by its name; arrays of numpy and tensors have the same numbers."""
    arrays = x.numpy(), y.numpy()
    columns = np.ascontiguousarray(theta.numpy().T)
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)

    def sorts() -> None:
        for cloud in arrays:
            parts = np.array_split(theta.numpy() @ cloud.T, threads)
            if threads == 1:
                parts[0].sort(-1)
            else:
                list(pool.map(lambda part: part.sort(-1), parts))

    def of_pot(cloud: Any, other: Any, projections: Any) -> Any:
        return ot.sliced_wasserstein_distance(cloud, other, projections=projections)

    return {
        "metaot": lambda: sliced_wasserstein(x, y, directions=theta),
        "metaot, gradient": lambda: with_gradient(lambda leaf: sliced_wasserstein(leaf, y, directions=theta), x),
        SORTS: sorts,
        "POT, numpy": lambda: of_pot(*arrays, columns),
        "POT, torch": lambda: of_pot(x, y, theta.mT),
        "POT, torch, gradient": lambda: with_gradient(lambda leaf: of_pot(leaf, y, theta.mT), x),
    }


def measured(d: int, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, COUNT, d, generator=generator, dtype=torch.float64).to(dtype)
    y = y * 1.2 + 0.1
    theta = normalize(torch.randn(DIRECTIONS, d, generator=generator, dtype=torch.float64), dim=-1).to(dtype)
    runs = methods(x, y, theta)
    times: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for name in ("metaot", "metaot, gradient", SORTS):
        runs[name]()
    for round_ in range(ROUNDS):
        for name, run in runs.items():
            if "POT" in name and round_ >= ROUNDS_OF_PEERS:
                continue
            time.sleep(PAUSE)
            begin = time.perf_counter()
            results[name] = run()
            times[name].append(1e3 * (time.perf_counter() - begin))
    require_same(results, dtype)
    ms = {name: median(each) for name, each in times.items()}
    return {
        "threads": torch.get_num_threads(),
        "d": d,
        "dtype": str(dtype).removeprefix("torch."),
        "ms": {name: round(value, 1) for name, value in ms.items()},
        "value_over_sorts": ratio(ms, "metaot", SORTS),
        "gradient_over_sorts": ratio(ms, "metaot, gradient", SORTS),
        "value_over_pot_numpy": ratio(ms, "metaot", "POT, numpy"),
        "value_over_pot_torch": ratio(ms, "metaot", "POT, torch"),
        "gradient_over_pot_torch": ratio(ms, "metaot, gradient", "POT, torch, gradient"),
    }


def require_same(results: dict[str, Any], dtype: torch.dtype) -> None:
    """Raise unless both libraries have the same values and gradients."""
    own, others = (float(results[name]) for name in ("metaot", "POT, numpy"))
    # in float32 POT adds its weights up with an error in the fifth digit
    assert abs(own / others - 1) < (1e-12 if dtype == torch.float64 else 1e-3), (own, others)
    own, others = results["metaot, gradient"], results["POT, torch, gradient"]
    assert (own - others).abs().max() < 1e-3 * own.abs().max(), (own - others).abs().max()


def ratio(ms: dict[str, float], own: str, other: str) -> float:
    return round(ms[own] / ms[other], 3)


def main() -> None:
    rows: list[dict[str, Any]] = []
    for threads in THREADS:
        count = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        command = [sys.executable, "-m", "benchmarks.losses.sliced", "rows"]
        run = subprocess.run(command, env=os.environ | count, check=True, capture_output=True, text=True)
        rows += [json.loads(line) for line in run.stdout.splitlines()]
        write(rows)
    print(table(rows))


def print_rows() -> None:
    """Measure with the threads that this process has."""
    for dtype in (torch.float64, torch.float32):
        for d in (3, 64):
            print(json.dumps(measured(d, dtype)), flush=True)


def write(rows: list[dict[str, Any]]) -> None:
    report = {
        "points": COUNT,
        "directions": DIRECTIONS,
        "versions": {"POT": ot.__version__, "numpy": np.__version__, "torch": torch.__version__},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the ratios as Markdown."""
    names = ("value_over_sorts", "gradient_over_sorts", "value_over_pot_numpy", "value_over_pot_torch")
    names += ("gradient_over_pot_torch",)
    lines = [
        "| threads | d | dtype | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|--:|--:|---|" + "--:|" * len(names),
    ]
    lines += [
        f"| {row['threads']} | {row['d']} | {row['dtype']} | "
        + " | ".join(f"{row[name]:.3g}x" for name in names)
        + " |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print_rows() if sys.argv[1:] == ["rows"] else main()
