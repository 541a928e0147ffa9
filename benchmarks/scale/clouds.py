"""Large clouds, coarse to fine: python -m benchmarks.scale clouds.

Points drawn evenly against a mixture of eight Gaussians, |x - y|^2, on two threads; eps is a thousandth of the
mean cost, for a million points (3 spacings)^2, that is 9/n. Of ten thousand points also accelerated Sinkhorn steps
between the clouds themselves from zeros, which is what `solve` made before. And what the solution is asked for
afterwards, once each: the seconds of each answer, and how far apart the bounds of the cost are.
"""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import metaot
from metaot import Points, Problem, Sinkhorn, Solution, Solver

RESULTS = Path(__file__).parents[1] / "results" / "scale-clouds.json"
SEED, EPS = 20261130, 1e-3
MILLION = 1_000_000
CASES = [(10_000, 2, 1e-3), *((100_000, d, tol) for d in (2, 3) for tol in (1e-2, 1e-3)), (MILLION, 2, 1e-2)]
COMPARED = 10_000
"""The most points of which the direct way is measured."""

PUSHED = 10_000
"""Points that the map sends."""


def clouds(n: int, d: int) -> Problem:
    generator = torch.Generator().manual_seed(SEED)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    x, centres = torch.rand(n, d, **options), 0.1 + 0.8 * torch.rand(8, d, **options)
    y = centres[torch.randint(8, (n,), generator=generator)] + 0.06 * torch.randn(n, d, **options)
    mean = float((x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum())
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    return Problem(weights, weights, Points(x, y), EPS * mean if n < MILLION else 9 / n)


def timed(problem: Problem, tol: float, solver: Solver | None) -> tuple[Solution, dict[str, Any]]:
    begin = perf_counter()
    solution = metaot.solve(problem, solver=solver, tol=tol)
    seconds = perf_counter() - begin
    return solution, {"seconds": round(seconds, 2), "steps": int(solution.steps), "error": float(solution.error)}


def answers(solution: Solution, dim: int) -> dict[str, float]:
    """Return the seconds of what a solution is asked for, and the gap between the bounds over the cost."""
    points = torch.rand(PUSHED, dim, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    asked: dict[str, Callable[[], Any]] = {
        "value": lambda: solution.value,
        "cost": solution.cost,
        "bounds": solution.bounds,
        "transport": solution.transport,
        "push": lambda: solution.map().push(points),
    }
    seconds, found = {}, {}
    for name, ask in asked.items():
        begin = perf_counter()
        found[name] = ask()
        seconds[name] = round(perf_counter() - begin, 2)
    return {**seconds, "gap": float(found["bounds"].gap / found["cost"])}


def peak() -> int:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    torch.set_num_threads(2)
    metaot.solve(clouds(3000, 2), tol=1e-2)
    rows, before = [], peak()
    for n, d, tol in CASES:
        problem = clouds(n, d)
        solution, now = timed(problem, tol, None)
        row = {"points": n, "dim": d, "tol": tol, "eps": float(problem.eps), "now": now}
        row["peak MiB"] = peak()
        row["answers"] = answers(solution, d)
        if n <= COMPARED:
            row["before"] = timed(problem, tol, Sinkhorn())[1]
        rows.append(row)
        print(row, flush=True)
    RESULTS.write_text(
        json.dumps({"torch": torch.__version__, "seed": SEED, "MiB before": before, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
