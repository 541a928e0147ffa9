"""Unbalanced transport: steps over the balanced problem's, and time beside POT, OTT and GeomLoss.

Steps to 1e-6 of accelerated Sinkhorn for drawn 64 x 64 images, the second with 0.6 of its mass, for prices in
units of the mean cost. Times to 1e-6 of one problem, in float64 on one thread: what other libraries return is
measured by metaot's error. They make about as few iterations as reach 1e-6 of it; nothing is counted for finding
their number, for compiling, or for the matrix of costs. What is not there within `BUDGET` seconds is stopped.

Of partial transport with entropy POT solves the problem with a given mass: it is told that of the solution, and
its gap must be at most 1e-6 of the price of the mass that is sent. Results go to
benchmarks/results/losses-unbalanced.json.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import ot
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

import metaot
from metaot.data import Drawings
from metaot.potentials import DualPotentials, c_transform, marginal_error

RESULTS = Path(__file__).parent.parent / "results" / "losses-unbalanced.json"
PRICES, EPS, TOL = (0.01, 0.1, 1.0, 10.0, 100.0), (1e-2, 1e-3), 1e-6
BUDGET = 8.0
"""Seconds after which the search for the settings of another library ends."""
METHODS = {
    "Sinkhorn": "sinkhorn",
    "stabilized": "sinkhorn_stabilized",
    "translation invariant": "sinkhorn_translation_invariant",
}
Peer = float | str
"""A time in seconds, or why there is none."""


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
    """Return the least time of calls after a first one: what else the machine does adds to all others."""
    call()
    spent: list[float] = []
    while sum(spent) < seconds and len(spent) < 50:
        begin = perf_counter()
        call()
        spent.append(perf_counter() - begin)
    return min(spent)


def problems() -> Iterator[tuple[str, metaot.Problem]]:
    """Return balanced problems with mass everywhere, as POT needs it."""
    for side in (28, 64):
        a, b = (weights[2] + 1e-7 for weights in images(side, 8))
        yield f"{side} x {side}", metaot.Problem(a / a.sum(), b / b.sum(), metaot.Grid(side, side), EPS[0])
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(500, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    w = torch.full((500,), 1 / 500, dtype=torch.float64)
    yield "clouds of 500", metaot.Problem(w, w, metaot.Points(x, y), EPS[0])


def error(problem: metaot.Problem, f: Any) -> float:
    """Return metaot's error of a potential and the best one for it."""
    f = torch.as_tensor(np.array(f), dtype=torch.float64)
    found = float(marginal_error(problem, DualPotentials(f, c_transform(problem, f))))
    return found if found == found else float("inf")  # noqa: PLR0124


def matrix(problem: metaot.Problem) -> Tensor:
    return problem.geometry.cost_rows(slice(None))


def pot(problem: metaot.Problem, method: str) -> Peer:
    """Return POT's time with about as few iterations as reach the tolerance, found from warm starts."""
    rho = float(problem.marginals.source.rho)  # type: ignore[arg-type]
    a, b, C = (z.numpy() for z in (problem.a, problem.b, matrix(problem)))

    def run(count: int, start: Any = None) -> Any:
        return ot.unbalanced.sinkhorn_unbalanced(
            a, b, C, problem.eps, rho, method=method, reg_type="kl", numItermax=count, stopThr=0.0, log=True,
            warmstart=start,
        )[1]  # fmt: skip

    begin, count, more, start = perf_counter(), 0, 5, None
    least = float("inf")
    while perf_counter() - begin < BUDGET:
        found = run(more, start)
        start, count = (found["logu"], found["logv"]), count + more
        least = min(least, error(problem, found["logu"] * problem.eps))
        if least <= TOL:
            return timed(partial(run, count), 1.0)
        if least == float("inf"):
            return "underflow"
        more = max(1, count // 4)
    return f"error {least:.0e}"


def ott(problem: metaot.Problem) -> Peer:
    """Return OTT's time with the faster of logarithms and scalings to the tolerance; along axes on grids.

    Its problem has the entropy of the plan in place of that relative to a b^T: here that is a change of the cost.
    """
    import jax  # noqa: PLC0415, where it is installed
    import jax.numpy as jnp  # noqa: PLC0415
    from ott.geometry import grid, pointcloud  # noqa: PLC0415
    from ott.problems.linear import linear_problem  # noqa: PLC0415
    from ott.solvers.linear import sinkhorn  # noqa: PLC0415

    jax.config.update("jax_enable_x64", True)
    eps, a, b = problem.eps, problem.a, problem.b
    reference = eps * (a.log()[:, None] + b.log())
    itself = metaot.Problem(a, b, metaot.Dense(matrix(problem) + reference), eps, problem.marginals)
    x, y = (jnp.asarray(points.numpy()) for points in problem.geometry.points)
    if problem.has_axes:
        space: Any = grid.Grid(x=[jnp.unique(x[:, k]) for k in range(2)], epsilon=eps)
    else:
        space = pointcloud.PointCloud(x, y, epsilon=eps)
    tau = float(problem.marginals.source.rho / (problem.marginals.source.rho + eps))
    task = linear_problem.LinearProblem(
        space, jnp.asarray(a.numpy()), jnp.asarray(b.numpy()), tau_a=tau, tau_b=tau
    )
    fastest, least = float("inf"), float("inf")
    for logarithms in (True, False):

        @jax.jit
        def run(task: Any, threshold: float, logarithms: bool = logarithms) -> Any:
            solver = sinkhorn.Sinkhorn(
                lse_mode=logarithms, recenter_potentials=True, threshold=threshold, max_iterations=2000
            )
            return solver(task).f

        run(task, 1e9)
        begin = perf_counter()
        for threshold in (1e-5, 1e-6, 3e-7, 1e-7, 1e-8):
            found = error(itself, run(task, threshold))
            least = min(least, found)
            if found <= TOL:
                again = partial(lambda run, threshold: jax.block_until_ready(run(task, threshold)), run, threshold)
                fastest = min(fastest, timed(again))
            if found <= TOL or found == float("inf") or perf_counter() - begin > BUDGET:
                break
    return fastest if fastest < float("inf") else f"error {least:.0e}"


def geomloss(problem: metaot.Problem) -> Peer:
    """Return GeomLoss' time with as few steps as reach the tolerance: its temperature falls over all of them."""
    from geomloss import ot as solvers  # noqa: PLC0415, where it is installed

    rho = float(problem.marginals.source.rho)  # type: ignore[arg-type]
    begin, count, least = perf_counter(), 25, float("inf")
    while perf_counter() - begin < BUDGET:
        run = partial(
            solvers.solve,
            matrix(problem),
            reg=problem.eps,
            a=problem.a,
            b=problem.b,
            unbalanced=rho,
            max_iter=count,
        )
        least = min(least, error(problem, run().potential_a))
        if least <= TOL:
            return timed(run, 1.0)
        count *= 2
    return f"error {least:.0e}"


def partial_transport(problem: metaot.Problem) -> Peer:
    """Return POT's time for the plan of the same mass: one whose gap is at most TOL times rho and the mass."""
    exact, C = metaot.solve(problem, tol=1e-10), matrix(problem)
    rho, masses = float(problem.marginals.source.rho), (exact.mass(), problem.a.sum(), problem.b.sum())  # type: ignore[arg-type]
    mass = (1 - 1e-12) * float(min(masses))
    reference = problem.a[:, None] * problem.b
    shifted = (C - problem.eps * reference.log()).numpy()
    begin, count, least = perf_counter(), 10, float("inf")
    while perf_counter() - begin < BUDGET:
        run = partial(
            ot.partial.entropic_partial_wasserstein, problem.a.numpy(), problem.b.numpy(), shifted, problem.eps,
            m=mass, numItermax=count, stopThr=0.0,
        )  # fmt: skip
        P = torch.from_numpy(run())
        value = (C * P).sum() + problem.eps * (torch.xlogy(P, P / reference) - P + reference).sum()
        value += rho * ((P.sum(1) - problem.a).abs().sum() + (P.sum(0) - problem.b).abs().sum())
        gap = float(value - exact.value) / (rho * mass)
        if not gap < float("inf"):
            return "underflow"
        least = min(least, gap)
        if least <= TOL:
            return timed(run, 1.0)
        count = int(1.5 * count)
    return f"gap {least:.0e}"


def peers(problem: metaot.Problem) -> dict[str, Callable[[metaot.Problem], Peer]]:
    if isinstance(problem.marginals.source, metaot.TV):
        return {"POT partial": partial_transport}
    return {f"POT {name}": partial(pot, method=method) for name, method in METHODS.items()} | {
        "OTT": ott, "GeomLoss": geomloss,
    }  # fmt: skip


def times() -> list[dict[str, Any]]:
    """Return milliseconds of metaot and of other libraries, or how far these came."""
    rows = []
    for name, balanced in problems():
        for kind, price, eps in product((metaot.KL, metaot.TV), (0.1, 1.0, 10.0), EPS):
            if kind is metaot.TV and price != 1.0:
                continue
            rho = price * mean_cost(balanced)
            problem = metaot.Problem(balanced.a, 0.6 * balanced.b, balanced.geometry, eps, kind(rho))
            row: dict[str, Any] = {"problem": name, "kind": kind.__name__, "price": price, "eps": eps}
            solution = metaot.solve(problem, tol=TOL)
            row["gap"] = float(solution.gap() / (rho * solution.mass()))
            row["metaot"] = 1e3 * timed(lambda problem=problem: metaot.solve(problem, tol=TOL))
            for other, run in peers(problem).items():
                if other == "POT stabilized" and row["POT Sinkhorn"] != "underflow":
                    continue
                try:
                    found = run(problem)
                except ImportError:
                    found = "not installed"
                row[other] = 1e3 * found if isinstance(found, float) else found
            known = [row[other] for other in peers(problem) if isinstance(row.get(other), float)]
            row["over the best"] = row["metaot"] / min([*known, 1e3 * BUDGET])
            row["some reached"] = bool(known)
            print(*row.values(), sep=" | ", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        tables = {"budget": BUDGET, "times": times(), "steps": steps()}
    RESULTS.write_text(json.dumps(tables, indent=1) + "\n")
    steps_floor = max(row["ratio of means"] for row in tables["steps"])
    known = [row["over the best"] for row in tables["times"]]
    print(f"steps over the balanced problem's: at most {steps_floor:.2f}, floor 1.2")
    print(f"time over the best of the others, or over {BUDGET:.0f} s: at most {max(known):.3f}, floor 0.2")
    for name in ("steps", "times"):
        print(name, *tables[name][0], sep=" | ")
        for row in tables[name]:
            print(*(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()), sep=" | ")
