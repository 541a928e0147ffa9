"""Unbalanced transport: steps over the balanced problem's, and time beside POT.

Steps to 1e-6 of accelerated Sinkhorn for drawn 64 x 64 images, the second with 0.6 of its mass, for prices in
units of the mean cost. Times to 1e-6 of one problem, one thread, with KL at the mean cost: POT makes about as few
iterations as reach the same error of metaot's definition, and nothing is counted for finding their number; its
matrix of costs is given. Results go to benchmarks/results/losses-unbalanced.json.
"""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import ot
import torch

import metaot
from metaot.data import Drawings
from metaot.potentials import DualPotentials, c_transform, marginal_error

RESULTS = Path(__file__).parent.parent / "results" / "losses-unbalanced.json"
PRICES, EPS, TOL = (0.01, 0.1, 1.0, 10.0, 100.0), (1e-2, 1e-3), 1e-6
METHODS = ("sinkhorn", "sinkhorn_translation_invariant")


def images(side: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = Drawings(batch=count, eps=(1e-2, 1e-2), sides=(side,)).split("test")
    problem = drawn.sample(torch.Generator().manual_seed(0))
    return problem.a.double(), problem.b.double()


def mean_cost(problem: metaot.Problem) -> float:
    return float((problem.geometry.times_cost(problem.b) * problem.a).sum(-1).mean())


def steps() -> list[dict[str, Any]]:
    """Return the mean steps, and the largest ratio to the same instance's balanced steps, from ten steps on."""
    rows, (a, b), grid = [], images(64, 8), metaot.Grid(64, 64)
    for eps in EPS:
        balanced = metaot.Problem(a, b, grid, eps)
        reference = metaot.solve(balanced, solver=metaot.Sinkhorn(), tol=TOL).steps
        for kind in (metaot.KL, metaot.TV):
            for price in PRICES:
                problem = metaot.Problem(a, 0.6 * b, grid, eps, kind(price * mean_cost(balanced)))
                found = metaot.solve(problem, solver=metaot.Sinkhorn(), tol=TOL, max_steps=2000)
                ratio = found.steps.double().mean() / reference.double().mean()
                largest = (found.steps / reference)[reference >= 10].max()
                row = {"eps": eps, "kind": kind.__name__, "price": price, "ratio of means": float(ratio)}
                rows.append(
                    {**row, "largest ratio": float(largest), "converged": float(found.converged.double().mean())}
                )
    return rows


def timed(call: Callable[[], Any], seconds: float = 1.0) -> float:
    """Return the median time of calls after a first one."""
    call()
    spent: list[float] = []
    while sum(spent) < seconds and len(spent) < 50:
        begin = perf_counter()
        call()
        spent.append(perf_counter() - begin)
    return median(spent)


def pot(problem: metaot.Problem, method: str) -> float | None:
    """Return POT's time with as few iterations as reach the tolerance; None if 5000 do not."""
    rho = float(problem.marginals.source.rho)  # type: ignore[arg-type]
    a, b, C = (z.numpy() for z in (problem.a, problem.b, problem.geometry.cost_rows(slice(None))))

    def run(count: int) -> Any:
        return ot.unbalanced.sinkhorn_unbalanced(
            a, b, C, problem.eps, rho, method=method, reg_type="kl", numItermax=count, stopThr=0.0, log=True
        )[1]

    count = 5
    while count < 5_000:
        f = torch.from_numpy(run(count)["logu"]) * problem.eps
        g = c_transform(problem, f)
        if float(marginal_error(problem, DualPotentials(f, g))) <= TOL:
            return timed(partial(run, count), 1.0)
        count = max(count + 1, int(1.25 * count))
    return None


def times() -> list[dict[str, Any]]:
    """Return milliseconds of metaot and of POT's methods."""
    generator, problems = torch.Generator().manual_seed(0), {}
    for side in (28, 64):
        a, b = images(side, 8)
        problems[f"{side} x {side}"] = (
            a[2] + 1e-7,
            b[2] + 1e-7,
            metaot.Grid(side, side),
        )  # POT needs mass everywhere
    x, y = (torch.rand(500, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    w = torch.full((500,), 1 / 500, dtype=torch.float64)
    problems["clouds of 500"] = w, w, metaot.Points(x, y)
    rows = []
    for name, (a, b, space) in problems.items():
        for eps in EPS if name != "64 x 64" else EPS[:1]:
            balanced = metaot.Problem(a / a.sum(), b / b.sum(), space, eps)
            problem = metaot.Problem(a, 0.6 * b, space, eps, metaot.KL(mean_cost(balanced)))
            row: dict[str, Any] = {"problem": name, "eps": eps}
            row["metaot"] = 1e3 * timed(lambda problem=problem: metaot.solve(problem, tol=TOL))
            for method in METHODS:
                found = pot(problem, method)
                row[f"POT {method}"] = None if found is None else 1e3 * found
            known = [row[f"POT {method}"] for method in METHODS if row[f"POT {method}"]]
            row["over the best"] = row["metaot"] / min(known) if known else None
            rows.append(row)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tables = {"steps": steps(), "times": times()}
    RESULTS.write_text(json.dumps(tables, indent=1) + "\n")
    steps_floor = max(row["ratio of means"] for row in tables["steps"])
    known = [row["over the best"] for row in tables["times"] if row["over the best"] is not None]
    print(f"steps over the balanced problem's: at most {steps_floor:.2f}, floor 1.2")
    print(f"time over POT's best method: at most {max(known):.3f}, floor 0.2 (OTT and GeomLoss are not measured)")
    for name, rows in tables.items():
        print(name, *rows[0], sep=" | ")
        for row in rows:
            print(*(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()), sep=" | ")
