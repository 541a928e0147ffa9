"""The affinity of 1158 couples (Dupuy and Galichon, JPE 2014), beside the one that they published.

Traits are standardised; eps is one, as is their scale of tastes. Times are medians on all threads that torch has,
and follow an untimed fit. Steps of Sinkhorn: those of a fit, over those of `solve` from zeros for the same costs,
first to the same tolerances, and then to the one that a gradient needs which is not corrected by derivatives.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from metaot import solve
from metaot.folders import find_data
from metaot.inverse import L1, CostEstimate, Nuclear, cost_path, learn_cost
from metaot.inverse.fenchel_young import Point

OUT = Path("benchmarks/results/inverse-couples.json")
EPS, TOL, ROUNDS, DRAWS, SEED = 1.0, 1e-8, 5, 200, 20261130
LAMS = tuple(0.3 * (0.01 / 0.3) ** (k / 9) for k in range(10))
"""Penalties from those that leave one parameter to those that leave nearly all."""
ROUNDED = 0.00501
"""Published entries have two digits."""
SECONDS, PATH, WARM = 1.0, 3.0, 0.2

TRAITS = ("education", "height", "BMI", "health", "conscientiousness", "extraversion", "agreeableness")
TRAITS += ("emotional stability", "autonomy", "attitude to risk")


def read(name: str) -> np.ndarray:
    """Return the numbers of a table, without its first row, and without columns and rows that hold none."""
    path = find_data("matching", otherwise="leave this benchmark out") / name
    rows = [row for row in csv.reader(path.open()) if any(row)][1:]
    return np.array([[float(entry) for entry in row if not entry[:1].isalpha()] for row in rows])


def couples() -> tuple[Tensor, Tensor]:
    """Return the standardised traits of both sides."""
    found = (torch.from_numpy(read(f"personality_{side}.csv")) for side in ("men", "women"))
    x, y = ((z - z.mean(0)) / z.std(0, correction=0) for z in found)
    return x, y


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a call returns, and the median of its seconds, on the clock and of the processors."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        start, busy = perf_counter(), process_time()
        found = call()
        seconds.append((perf_counter() - start, process_time() - busy))
    return found, median(wall for wall, _ in seconds), median(busy for _, busy in seconds)


def inner_steps(call: Callable[[], Any]) -> dict[str, int]:
    """Return Sinkhorn's steps of a call, and those from zeros at the same costs, to the two tolerances."""
    asked: dict[int, tuple[Point, float]] = {}
    steps, settled = 0, Point.settled

    def counted(point: Point, tol: float) -> Point:
        nonlocal steps
        found = settled(point, tol)
        steps += found.steps - point.steps
        asked[id(point.theta)] = (point, min(tol, asked.get(id(point.theta), (point, tol))[1]))
        return found

    with patch.object(Point, "settled", counted):
        call()
    cold = [solve(point.problem, tol=tol).steps for point, tol in asked.values()]
    exact = [solve(point.problem, tol=0.01 * TOL).steps for point, _ in asked.values()]
    return {"warm": steps, "cold": int(sum(cold)), "cold, exact": int(sum(exact)), "problems": len(asked)}


def table(found: CostEstimate, published: np.ndarray) -> list[dict[str, Any]]:
    """Return the diagonal of the affinity beside the published one, with errors of three kinds."""
    drawn = found.bootstrap(DRAWS, generator=torch.Generator().manual_seed(SEED)).std(0)
    kinds = {"error": found.standard_errors, "robust": found.robust_standard_errors, "bootstrap": drawn}
    rows = []
    for k, trait in enumerate(TRAITS):
        errors = {kind: round(float(values[k, k]), 4) for kind, values in kinds.items()}
        rows.append(
            {
                "trait": trait,
                "affinity": round(float(-found.theta[k, k]), 4),
                "published": published[k, k],
                **errors,
            }
        )
    return rows


def main() -> None:
    """Measure, print and write."""
    x, y = couples()
    published = read("personality_affinity_published.csv")[:10]
    found, seconds, busy = timed(lambda: learn_cost(x, y, eps=EPS, tol=TOL))
    off = np.abs(-found.theta.numpy() - published)
    rows = table(found, published)
    paths = {}
    for kind in (L1, Nuclear):
        one, wall, work = timed(lambda: learn_cost(x, y, eps=EPS, tol=TOL, penalty=kind(LAMS[-1])))  # noqa: B023
        many, walls, works = timed(lambda: cost_path(x, y, [kind(lam) for lam in LAMS], eps=EPS, tol=TOL))  # noqa: B023
        paths[kind.__name__] = {
            "seconds": walls,
            "over one fit": walls / wall,
            "processor over one fit": works / work,
            "converged": all(each.converged for each in (*many, one)),
            "steps": [each.steps for each in many],
            "certificates": [round(each.certificate.largest, 3) for each in many],
            "inner": inner_steps(lambda: cost_path(x, y, [kind(lam) for lam in LAMS], eps=EPS, tol=TOL)),  # noqa: B023
        }
    ranks = [found.rank_test(rank) for rank in range(10)]
    results = {
        "couples": len(x),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "processor seconds": busy,
        "optimality": found.error,
        "converged": found.converged,
        "steps": found.steps,
        "inner": inner_steps(lambda: learn_cost(x, y, eps=EPS, tol=TOL)),
        "diagonal": rows,
        "entries that differ by more than rounding": int((off > ROUNDED).sum()),
        "largest difference": float(off.max()),
        "largest difference in errors": float((off / found.standard_errors.numpy()).max()),
        "saliency shares": [round(share, 4) for share in found.saliency.shares.tolist()],
        "ranks": [{"rank": one.rank, "statistic": one.statistic, "p": one.p_value} for one in ranks],
        "paths": paths,
        "floors": {"seconds": SECONDS, "path over one fit": PATH, "warm over cold": WARM},
    }
    OUT.write_text(json.dumps(results, indent=1) + "\n")
    for row in rows:
        print(
            "{trait:20} {affinity:7.3f} {published:7.2f} {error:6.3f} {robust:6.3f} {bootstrap:6.3f}".format(**row)
        )
    print({key: value for key, value in results.items() if key not in ("diagonal", "ranks")})


if __name__ == "__main__":
    main()
