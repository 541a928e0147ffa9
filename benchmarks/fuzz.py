"""Random problems of every kind: python -m benchmarks.fuzz [--problems N] [--seed S] [--torch] [--json FILE].

Each problem has its own seed, so that `--only K` solves the K-th again. Spaces: matrices (some with forbidden
pairs), clouds in up to twelve dimensions, grids with up to three axes. Weights: plain, sparse, few atoms, heavy
tails, tails below 1e-300. Batches hold problems of different sizes, padded with atoms without mass. eps from
3e-4 to 1, tolerances from 1e-9 to 1e-2, starts from none to huge, float64 and float32. The errors are computed
anew from the potentials, on the whole plan in the log domain. Results go to benchmarks/results/fuzz.json.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from metaot import Dense, DualPotentials, Geometry, Grid, Newton, Points, Problem, Sinkhorn, core, solve

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
Array = np.ndarray
Generator = np.random.Generator
INF = np.inf
SLOW = 5.0
"""Seconds of processor time that a solve of such small problems should not take."""


@dataclass(frozen=True)
class Space:
    """A geometry, its costs (batch n m), places of the atoms in [0, 1], and the plan whose pairs are allowed."""

    kind: str
    geometry: Geometry
    C: Array
    places: tuple[Array, Array]
    plan: Array | None = None


def count(generator: Generator, most: int = 120) -> int:
    """Return a number of atoms; small ones are as frequent as large ones."""
    return int(np.exp(generator.uniform(0, np.log(most + 1))))


def cloud(generator: Generator, batch: int) -> Space:
    """Return clouds, for each problem its own or one for all, on which atoms may coincide."""
    n, m, dim = count(generator), count(generator), int(generator.choice([1, 2, 3, 12]))
    cost = str(generator.choice(["sqeuclidean", "euclidean", "sphere", "callable"]))
    lead = (batch,) if batch > 1 and generator.random() < 0.5 else ()
    x, y = generator.random((*lead, n, dim)), generator.random((*lead, m, dim))
    if generator.random() < 0.2:
        x, y = x.round(1), y.round(1)
    if cost == "sphere":
        x, y = (z - 0.5 + 1e-3 for z in (x, y))
        x, y = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
    far, near = (((x[..., :, None, :] + sign * y[..., None, :, :]) ** 2).sum(-1) for sign in (1, -1))
    costs = {
        "sqeuclidean": near,
        "euclidean": np.sqrt(near),
        "sphere": 2 * np.arctan2(np.sqrt(near), np.sqrt(far)),
        "callable": np.abs(x[..., :, None, :] - y[..., None, :, :] ** 2).sum(-1),
    }
    given = cost if cost != "callable" else taxi
    places = tuple(z.reshape(-1, z.shape[-2], dim)[0, :, 0] for z in (x, y))
    return Space(f"points, {cost}", Points(torch.tensor(x), torch.tensor(y), given), costs[cost], places)


def taxi(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return a cost that is not symmetric."""
    return (x[..., :, None, :] - y[..., None, :, :].square()).abs().sum(-1)


def matrix(generator: Generator, batch: int) -> Space:
    """Return costs without a structure, sometimes below zero, sometimes with ties."""
    n, m = count(generator), count(generator)
    lead = (batch,) if batch > 1 and generator.random() < 0.5 else ()
    C = generator.random((*lead, n, m)) - (0.5 if generator.random() < 0.3 else 0)
    C = C.round(1) if generator.random() < 0.2 else C
    places = generator.random(n), generator.random(m)
    return Space("matrix", Dense(torch.tensor(C)), C, places)


def forbidden(generator: Generator, batch: int) -> Space:
    """Return costs that are infinite but where a plan has mass; weights are the marginals of that plan."""
    n, m = count(generator, 40), count(generator, 40)
    plan = generator.random((batch, n, m)) * (generator.random((batch, n, m)) < generator.uniform(0.1, 1))
    plan[:, generator.integers(n), generator.integers(m)] += 0.1
    C = np.where(plan > 0, generator.random((batch, n, m)), INF)
    plan /= plan.sum((1, 2), keepdims=True)
    return Space("forbidden pairs", Dense(torch.tensor(C)), C, (np.arange(n) / n, np.arange(m) / m), plan)


def grid(generator: Generator, batch: int) -> Space:
    """Return a grid with up to three axes."""
    axes = int(generator.integers(1, 4))
    sides = [int(generator.integers(1, {1: 200, 2: 16, 3: 6}[axes] + 1)) for _ in range(axes)]
    lines = [np.linspace(0, 1, side) if side > 1 else np.zeros(1) for side in sides]
    if generator.random() < 0.3:
        lines = [np.sort(generator.random(side)) for side in sides]
    cost = str(generator.choice(["sqeuclidean", "l1"]))
    points = np.stack([t.ravel() for t in np.meshgrid(*lines, indexing="ij")], 1)
    gaps = np.abs(points[:, None] - points)
    C = (gaps**2 if cost == "sqeuclidean" else gaps).sum(-1)
    place = points.mean(1)
    return Space(f"grid, {axes}-D", Grid(*map(torch.tensor, lines), cost=cost), C, (place, place))


def weights(generator: Generator, place: Array) -> Array:
    """Return weights of one measure."""
    n, kind = len(place), int(generator.integers(6))
    w = generator.random(n)
    if kind == 1:
        w *= generator.random(n) < generator.uniform(0.1, 1)
    elif kind == 2:
        w = np.exp(-((place - generator.random()) ** 2) / (2 * 10.0 ** generator.uniform(-6, 0)))
    elif kind == 3:
        w = np.exp(generator.normal(size=n) * generator.uniform(1, 10))
    elif kind == 4:
        w *= np.isin(np.arange(n), generator.integers(0, n, int(generator.integers(1, 8))))
    elif kind == 5:
        w = 10.0 ** generator.uniform(-320, 0, n)
    if not w.sum() > 0:
        w[generator.integers(n)] = 1.0
    return w / w.sum()


@dataclass(frozen=True)
class Case:
    """A problem, how it is to be solved, and its costs as an array of float64."""

    space: Space
    problem: Problem
    init: DualPotentials | None
    solver: Sinkhorn | Newton | None
    tol: float

    def __str__(self) -> str:
        p = self.problem
        sizes = f"{tuple(p.a.shape)} x {p.b.shape[-1]} {str(p.a.dtype).removeprefix('torch.')}"
        start = "cold" if self.init is None else "started"
        eps = p.eps if isinstance(p.eps, float) else float(p.eps.min())
        return f"{self.space.kind} {sizes}, eps {eps:.1e}, tol {self.tol:.0e}, {start}, {self.solver or 'chosen'}"


def case(seed: int, index: int) -> Case:
    """Draw the problem of an index."""
    generator = np.random.default_rng([seed, index])
    batch = 1 if generator.random() < 0.6 else int(generator.integers(2, 5))
    make = (cloud, cloud, matrix, grid, grid, forbidden)[int(generator.integers(6))]
    space = make(generator, batch)
    n, m = space.C.shape[-2:]
    if space.plan is None:
        sides = []
        for size, place in zip((n, m), space.places, strict=True):
            rows = np.zeros((batch, size))
            for row in rows:  # smaller problems are padded with atoms without mass
                used = size if generator.random() < 0.5 else int(generator.integers(1, size + 1))
                row[:used] = weights(generator, place[:used])
            sides.append(rows)
    else:
        sides = [space.plan.sum(2), space.plan.sum(1)]
    lowest = -3.5 if space.plan is None else -1.5
    eps = 10.0 ** generator.uniform(lowest, 0, batch)
    tol = 10.0 ** generator.uniform(-9, -2)
    problem = Problem(*map(torch.tensor, sides), space.geometry, torch.tensor(eps))
    highest = np.abs(space.C[np.isfinite(space.C)]).max()
    single = generator.random() < 0.2 and 3e-6 * highest / eps.min() < 1e-2
    if single:
        tol = max(tol, 3e-6 * max(1.0, highest / eps.min()))
        problem = problem.to(torch.empty(0, dtype=torch.float32))
    init = None
    if generator.random() < 0.6:
        f, g = (generator.normal(size=(batch, k)) * 10.0 ** generator.uniform(-3, 2) for k in (n, m))
        if generator.random() < 0.1:
            f[generator.integers(batch), generator.integers(n)] = generator.choice([np.nan, INF, -INF, 1e300])
        init = DualPotentials(torch.tensor(f), torch.tensor(g))
    solver = Newton() if generator.random() < 0.1 else None
    return Case(space, problem, init, solver, tol)


def true_errors(problem: Problem, C: Array, potentials: DualPotentials) -> Array:
    """Return the L1 errors of both marginals, from the whole plans; NaN where potentials are not finite."""
    a, b, f, g = (z.double().numpy() for z in (problem.a, problem.b, potentials.f, potentials.g))
    eps = problem.eps.double().numpy()[:, None, None]  # type: ignore[union-attr]
    mass = (a[:, :, None] > 0) & (b[:, None, :] > 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs = np.log(a)[:, :, None] + np.log(b)[:, None, :]
        P = np.exp(np.where(mass, logs + (f[:, :, None] + g[:, None, :] - C) / eps, -INF))
    return np.abs(P.sum(2) - a).sum(1) + np.abs(P.sum(1) - b).sum(1)


def check(drawn: Case) -> dict[str, Any]:
    """Solve a problem; return what is wrong with the solution."""
    problem = drawn.problem
    begun = process_time()
    solution = solve(problem, init=drawn.init, solver=drawn.solver, tol=drawn.tol)
    seconds = process_time() - begun
    single = problem.a.dtype == torch.float32
    C = problem.geometry.cost_rows(slice(None)).double().numpy() if single else drawn.space.C
    errors = true_errors(problem, C, solution.potentials)
    converged = solution.converged.numpy()
    highest = np.abs(drawn.space.C[np.isfinite(drawn.space.C)]).max()
    digits = 1e-7 if single else 1e-15
    rounding = 1e-11 + digits * max(1.0, highest) / problem.eps.double().numpy()  # type: ignore[union-attr]
    values = torch.cat([solution.value, solution.cost(), solution.potentials.f.flatten(), solution.error])
    finite = bool(values.isfinite().all()) and bool(solution.potentials.g.isfinite().all())
    return {
        "instances": len(errors),
        "false": int((converged & ~(errors <= 1.05 * drawn.tol + rounding)).sum()),
        "not finite": int(not finite),
        "unconverged": int((~converged).sum()),
        "slow": int(seconds > SLOW),
        "steps": int(solution.steps.max()),
        "seconds": seconds,
        "errors": [float(f"{error:.3g}") for error in errors],
        "said": [float(f"{error:.3g}") for error in solution.error.tolist()],
    }


FAULTS = ("false", "not finite", "unconverged", "slow")


def run(problems: int, seed: int, only: int | None = None) -> dict[str, Any]:
    """Solve all problems; print and return what went wrong."""
    totals, kinds, worst = Counter[str](), Counter[str](), []
    for index in range(problems) if only is None else [only]:
        drawn = case(seed, index)
        found = check(drawn)
        kinds[drawn.space.kind] += 1
        totals.update({name: found[name] for name in ("instances", *FAULTS)})
        totals["seconds"] += found["seconds"]
        if only is not None or any(found[name] for name in FAULTS):
            worst.append({"index": index, "problem": str(drawn), **found})
            print(f"{index}: {drawn}: {found}", flush=True)
    return {
        "problems": problems,
        "seed": seed,
        "back end": "compiled" if core.COMPILED else "torch",
        **{name: totals[name] for name in ("instances", *FAULTS)},
        "converged": 1 - totals["unconverged"] / totals["instances"],
        "seconds of solving": round(totals["seconds"], 1),
        "spaces": dict(sorted(kinds.items())),
        "faults": worst,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Random problems of every kind.")
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="solve one problem, and print what is found")
    parser.add_argument("--torch", action="store_true", help="as where there was no compiler")
    parser.add_argument("--json", type=Path, help=f"where results go, such as {RESULTS}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.torch:
        core.COMPILED = False
    results = run(options.problems, options.seed, options.only)
    print(json.dumps({key: value for key, value in results.items() if key != "faults"}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    healthy = not any(results[name] for name in ("false", "not finite", "slow")) and results["converged"] >= 0.9999
    raise SystemExit(0 if healthy else 1)


if __name__ == "__main__":
    main()
