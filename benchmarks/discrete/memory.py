"""Solve one pair in its own process, and print its time and memory: python -m benchmarks.discrete.memory FILE.

FILE holds the two weights (numpy, 2 n); only what `solve` needs is imported, so that the peak is its own.
"""

import json
import math
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import metaot


def solve_alone(weights: np.ndarray, eps: float, tol: float) -> dict[str, Any]:
    """Return seconds, steps, and the peak of resident memory above what was held before, in MiB."""
    a, b = torch.from_numpy(weights)
    side = math.isqrt(len(a))
    tiny = torch.full((4,), 0.25, dtype=torch.float64)
    metaot.solve(metaot.Problem(tiny, tiny, metaot.Grid(2, 2), 0.1))  # what is imported late is imported now
    problem = metaot.Problem(a, b, metaot.Grid(side, side), eps)
    before = _peak()
    begin = perf_counter()
    solution = metaot.solve(problem, tol=tol, max_steps=100_000)
    return {
        "side": side,
        "eps": eps,
        "tol": tol,
        "seconds": round(perf_counter() - begin, 3),
        "mib_above_start": round((_peak() - before) / 1024, 1),
        "steps": int(solution.steps),
        "error": float(f"{float(solution.error):.2e}"),
        "converged": bool(solution.converged),
    }


def _peak() -> int:
    """Return the peak of resident memory so far, in KiB.

    Not ru_maxrss where there is a choice: Linux starts it from the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    file, eps, tol, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    print(json.dumps(solve_alone(np.load(file), float(eps), float(tol))))
