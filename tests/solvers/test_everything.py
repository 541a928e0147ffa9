"""Whatever the problem and the start: `solve` converges and it is true, or it says that it did not; never NaN.

The error is recomputed here from the definition, on the whole plan in float64.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import matrix, on_sphere
from torch import Tensor

from metaot.geometry import Dense, Geometry, Grid, Points
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Solution, solve

GEOMETRIES: dict[str, Callable[[int, int], Geometry]] = {
    "dense": lambda n, m: Dense(torch.rand(n, m)),
    "line": lambda n, m: Grid(torch.rand(n).sort().values),
    "square": lambda n, m: Grid(math.isqrt(n), math.isqrt(n) + 1),
    "block": lambda n, m: Grid(*[1 + round(n ** (1 / 3))] * 3, cost="l1"),
    "plane": lambda n, m: Points(torch.rand(n, 2), torch.rand(m, 2)),
    "clusters": lambda n, m: Points(torch.rand(n, 3).round(), torch.rand(m, 3).round() + 1e-3 * torch.rand(m, 3)),
    "euclidean": lambda n, m: Points(torch.rand(n, 5), torch.rand(m, 5), "euclidean"),
    "sphere": lambda n, m: Points(on_sphere(n), on_sphere(m), "sphere"),
}

STARTS: dict[str, Callable[[Problem], Tensor]] = {
    "exact": lambda problem: solve(problem, tol=1e-10).potentials.f,
    "random": lambda problem: torch.randn_like(problem.a) * 10 ** (5 * torch.rand(()) - 3),
    "huge": lambda problem: 1e200 * torch.randn_like(problem.a),
    "nan": lambda problem: torch.full_like(problem.a, torch.nan),
}


def weights(count: int, present: float, power: float) -> Tensor:
    """Random weights over some orders of magnitude, of which a part is zero."""
    w = torch.rand(count) ** power * (torch.rand(count) < present)
    w[torch.randint(count, ())] += 0.1
    return w / w.sum()


def recomputed_error(problem: Problem, solution: Solution) -> float:
    """Return ||P 1 - a||_1 + ||P^T 1 - b||_1 from the definition of P."""
    f, g = solution.potentials.f, solution.potentials.g
    P = problem.a[:, None] * problem.b * ((f[:, None] + g - matrix(problem.geometry)) / problem.eps).exp()
    P = torch.where((problem.a[:, None] > 0) & (problem.b > 0), P, 0.0)
    return float((P.sum(1) - problem.a).abs().sum() + (P.sum(0) - problem.b).abs().sum())


def check(name: str, start: str, seed: int) -> bool:
    """Solve one random problem; tell whether it converged."""
    torch.manual_seed(seed)
    draw = torch.rand(6).tolist()
    sizes = [int(300 ** draw[k]) for k in (0, 1)]
    geometry = GEOMETRIES[name](*sizes)
    (n, m), eps, tol = geometry.shape, 10 ** (-4 * draw[2]), 10 ** (-2 - 7 * draw[3])
    problem = Problem(weights(n, draw[4], 4 * draw[5]), weights(m, draw[5], 4 * draw[4]), geometry, eps)
    init = None
    if start != "zeros":
        f = STARTS[start](problem)
        init = DualPotentials(f, torch.randn_like(problem.b))
    solution = solve(problem, init=init, tol=tol)
    assert solution.potentials.f.isfinite().all()
    assert solution.potentials.g.isfinite().all()
    assert solution.error.isfinite()
    error = recomputed_error(problem, solution)
    rounding = 1e-15 * 100 / eps
    if solution.converged:
        assert error <= tol * 1.001 + rounding
    else:
        assert solution.error > tol
    return bool(solution.converged)


problems = {
    "name": st.sampled_from(list(GEOMETRIES)),
    "start": st.sampled_from(["zeros", *STARTS]),
    "seed": st.integers(0, 2**32 - 1),
}


@settings(max_examples=150)
@given(**problems)
def test_what_solve_says_is_true(name: str, start: str, seed: int):
    check(name, start, seed)


def test_a_start_that_swallows_the_cost_does_not_pass_for_a_solution():
    """Two atoms and potentials of 1e200: in their digits there is no cost, and marginals seem to be right."""
    assert check("plane", "huge", 1948)


@pytest.mark.slow
def test_almost_all_converge():
    names, starts = list(GEOMETRIES), ["zeros", *STARTS]
    converged = [check(names[k % len(names)], starts[k % len(starts)], k) for k in range(2000)]
    assert sum(converged) >= 0.99 * len(converged)
