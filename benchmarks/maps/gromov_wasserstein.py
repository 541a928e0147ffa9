"""Gromov-Wasserstein beside POT: python -m benchmarks.maps gromov_wasserstein [--quick].

Clouds of n points in three dimensions with squared distances, of three kinds: two normal distributions, a cloud
and its bent, rotated, noisy and permuted copy, and two different curves. The value is the distortion without
entropy of a plan whose marginals are right: plans of entropic solvers are rounded to them.

POT's solvers are conditional gradient (symmetric, a relative tolerance of 1e-6), and up to n = 500 entropic
projected gradient and proximal point. The time is that of the fastest of these whose value is within 1.001 of the
least one; beside it there is conditional gradient alone. The distance matrices count on POT's side. Runs
alternate; times are the least of some, on one thread. Seeds begin at 1000: settings were chosen on smaller ones.

Steps: Sinkhorn steps of all linear problems at one start and the eps of the table, warm and from zeros.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import ot
import torch
from threadpoolctl import threadpool_limits

from metaot import Points
from metaot.maps import GromovWasserstein, gromov_wasserstein
from metaot.maps.descent import rounded
from metaot.maps.distortion import MatrixDistortion

RESULTS = Path(__file__).parents[1] / "results" / "maps-gromov_wasserstein.json"
KINDS = ("normal", "bent", "curves")
SEEDS = {100: 3, 500: 2, 2000: 1}
FIRST_SEED = 1000
RUNS = {100: 5, 500: 2, 2000: 1}
GRADIENT = "conditional gradient"
SAME, FLOOR, STEPS_FLOOR = 1.001, 0.3, 0.5
ENTROPIC = {100: (("PGD", 0.03), ("PPA", 0.1)), 500: (("PGD", 0.03),)}
"""Solvers and eps in units of the scale. They run once."""
STEPS_EPS = (0.1, 0.03, 0.01)


def clouds(kind: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two clouds in three dimensions."""
    random = np.random.default_rng(seed)
    if kind == "normal":
        return random.normal(size=(n, 3)) * [1, 0.7, 0.4], random.normal(size=(n, 3)) * [0.9, 0.6, 0.5]
    if kind == "bent":
        x = random.normal(size=(n, 3)) * [1, 0.5, 0.25]
        angle, radius = 0.5 * x[:, 0], 2 + x[:, 1]
        bent = np.stack([radius * np.sin(angle), radius * np.cos(angle) - 2, x[:, 2]], -1)
        rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
        return x, (bent @ rotation + 0.02 * random.normal(size=(n, 3)))[random.permutation(n)]
    s, t = random.uniform(0, 1, (2, n))
    spiral = np.stack([np.cos(6 * s) * (0.5 + s), np.sin(6 * s) * (0.5 + s), s], -1)
    wave = np.stack([2 * t, t**2, 0.3 * np.sin(9 * t)], -1)
    return spiral + 0.05 * random.normal(size=(n, 3)), wave + 0.05 * random.normal(size=(n, 3))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = perf_counter()
    found = run()
    return perf_counter() - begin, found


def value_of(x: np.ndarray, y: np.ndarray, plan: np.ndarray) -> float:
    """Return the distortion of a plan, rounded to equal weights; infinity where it is none."""
    P = torch.from_numpy(plan)
    if not bool(P.isfinite().all()) or abs(float(P.sum()) - 1) > 0.1:
        return float("inf")
    a, b = (torch.full((len(z),), 1 / len(z), dtype=P.dtype) for z in (x, y))
    D, E = (torch.from_numpy(ot.dist(z, z)) for z in (x, y))
    return float(MatrixDistortion.of(a, b, D, E).of_plans(rounded(P, a, b)[None]).value)


def conditional_gradient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    D, E = ot.dist(x, x), ot.dist(y, y)
    return ot.gromov.gromov_wasserstein(D, E, symmetric=True, tol_rel=1e-6, tol_abs=0.0)


def entropic(x: np.ndarray, y: np.ndarray, solver: str, eps: float) -> np.ndarray:
    D, E = ot.dist(x, x), ot.dist(y, y)
    eps *= float(Points(x).std_cost() * Points(y).std_cost())
    inner: dict[str, Any] = {"warmstart": True} if solver == "PGD" else {"numItermax": 1}
    return ot.gromov.entropic_gromov_wasserstein(
        D, E, epsilon=eps, solver=solver, symmetric=True, max_iter=200, tol=1e-6, **inner
    )


def compared(kind: str, n: int, seed: int) -> dict[str, Any]:
    """Return times and values of both sides for one case."""
    x, y = clouds(kind, n, seed)
    times: dict[str, float] = {}
    values: dict[str, float] = {}
    ours = theirs = float("inf")
    for _ in range(RUNS[n]):
        seconds, found = timed(lambda: gromov_wasserstein(x, y))
        ours = min(ours, seconds)
        seconds, plan = timed(lambda: conditional_gradient(x, y))
        theirs = min(theirs, seconds)
    times[GRADIENT], values[GRADIENT] = theirs, value_of(x, y, plan)
    for solver, eps in ENTROPIC.get(n, ()):
        name = f"{solver} {eps:g}"
        times[name], plan = timed(lambda solver=solver, eps=eps: entropic(x, y, solver, eps))
        values[name] = value_of(x, y, plan)
    least = min(values.values())
    best = min((name for name in values if values[name] <= SAME * least), key=times.__getitem__)
    return {
        "kind": kind,
        "n": n,
        "seed": seed,
        "seconds": ours,
        "value": float(found.value),
        "peer": best,
        "peer_seconds": times[best],
        "peer_value": least,
        "ratio": ours / times[best],
        "ratio_to_gradient": ours / times[GRADIENT],
        "value_ratio_to_gradient": float(found.value) / values[GRADIENT],
        "value_ratio": float(found.value) / least,
        "peers": {name: {"seconds": times[name], "value": values[name]} for name in times},
    }


def steps(kind: str, n: int, seed: int, eps: float) -> dict[str, Any]:
    """Return the Sinkhorn steps of one start, warm and with every linear problem from zeros."""
    x, y = clouds(kind, n, seed)
    unit = float(Points(x).std_cost() * Points(y).std_cost())
    descent = importlib.import_module("metaot.maps.descent")
    solve = descent.solve

    def run() -> GromovWasserstein:
        return gromov_wasserstein(x, y, eps=eps * unit, starts=1)

    warm = run()
    with patch.object(descent, "solve", lambda problem, init, tol: solve(problem, tol=tol)):
        cold = run()
    return {
        "kind": kind,
        "n": n,
        "eps": eps,
        "warm": warm.inner_steps,
        "cold": cold.inner_steps,
        "ratio": warm.inner_steps / cold.inner_steps,
    }


def main() -> None:
    quick = "--quick" in sys.argv
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    threadpool_limits(1)  # of numpy, in POT
    rows, counted = [], []
    gromov_wasserstein(*clouds("normal", 100, 9))  # the first call
    print("| clouds | n | seed | POT's fastest | its ms | ours | ratio | value | ratio to gradient | value |")
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|--:|")
    for n in (100,) if quick else SEEDS:
        for kind in KINDS:
            for seed in range(FIRST_SEED, FIRST_SEED + (1 if quick else SEEDS[n])):
                row = compared(kind, n, seed)
                rows.append(row)
                print(
                    f"| {kind} | {n} | {seed} | {row['peer']} | {1e3 * row['peer_seconds']:.1f} "
                    f"| {1e3 * row['seconds']:.1f} | {row['ratio']:.3f} | {row['value_ratio']:.4f} "
                    f"| {row['ratio_to_gradient']:.3f} | {row['value_ratio_to_gradient']:.4f} |",
                    flush=True,
                )
    print("\n| n | ratio, median | worst | to gradient, median | floor | values not worse than 1.001 |")
    print("|--:|--:|--:|--:|--:|--:|")
    for n in sorted({row["n"] for row in rows}):
        some = [row for row in rows if row["n"] == n]
        ratios = [row["ratio"] for row in some]
        fine = sum(row["value_ratio"] <= SAME for row in some)
        beside = median(row["ratio_to_gradient"] for row in some)
        line = f"| {n} | {median(ratios):.3f} | {max(ratios):.3f} | {beside:.3f} | <= {FLOOR}"
        print(f"{line} | {fine} of {len(some)} |")
    print("\n| clouds | n | eps | Sinkhorn steps, cold | warm | ratio | floor |\n|---|--:|--:|--:|--:|--:|--:|")
    for n in (100,) if quick else (100, 500):
        for kind in KINDS:
            for eps in STEPS_EPS:
                row = steps(kind, n, FIRST_SEED, eps)
                counted.append(row)
                print(
                    f"| {kind} | {n} | {eps:g} | {row['cold']} | {row['warm']} | {row['ratio']:.2f} "
                    f"| <= {STEPS_FLOOR} |",
                    flush=True,
                )
    if not quick:
        settings = {"threads": 1, "pot": ot.__version__, "same": SAME}
        RESULTS.write_text(json.dumps(settings | {"rows": rows, "steps": counted}, indent=1) + "\n")


if __name__ == "__main__":
    main()
