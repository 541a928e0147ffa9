"""Agreement with POT and OTT, whose convention is P = exp((f + g - C)/eps), on the support of the weights."""

import pytest
import torch
from strategies import SPACES, assert_close, every_solver, matrix, random_problem

from metaot.geometry import Dense
from metaot.potentials import DualPotentials, plan
from metaot.problem import Problem
from metaot.solvers import solve

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
"""Warnings of a peer are not ours."""

every_space = pytest.mark.parametrize("name", SPACES)


def on_support(problem: Problem) -> Problem:
    """Leave out the atoms without mass, on which POT divides by zero."""
    rows, columns = problem.a > 0, problem.b > 0
    C = matrix(problem.geometry)[rows][:, columns]
    return Problem(problem.a[rows], problem.b[columns], Dense(C), problem.eps)


def arrays(problem: Problem) -> tuple:
    return problem.a.numpy(), problem.b.numpy(), matrix(problem.geometry).numpy()


@every_solver
@every_space
def test_pot_has_the_same_plan(solver, name):
    ot = pytest.importorskip("ot")
    problem = random_problem(SPACES[name], (), 0.05)
    small = on_support(problem)
    theirs = torch.from_numpy(ot.sinkhorn(*arrays(small), 0.05, stopThr=1e-12, numItermax=100_000))
    solution = solve(problem, solver=solver, tol=1e-10)
    assert_close(solution.plan()[problem.a > 0][:, problem.b > 0], theirs, 1e-8)
    assert_close(solution.cost(), (theirs * matrix(small.geometry)).sum(), 1e-8)


@every_solver
@pytest.mark.parametrize("name", ["dense", "points, sphere", "grid"])
def test_ott_has_the_same_plan_and_potentials(solver, name):
    pytest.importorskip("ott")
    from ott.geometry.geometry import Geometry  # noqa: PLC0415
    from ott.problems.linear.linear_problem import LinearProblem  # noqa: PLC0415
    from ott.solvers.linear.sinkhorn import Sinkhorn  # noqa: PLC0415

    problem = on_support(random_problem(SPACES[name], (), 0.1))
    a, b, C = arrays(problem)
    theirs = Sinkhorn(threshold=1e-6)(LinearProblem(Geometry(cost_matrix=C, epsilon=0.1), a, b))
    solution = solve(problem, solver=solver, tol=1e-8)
    assert_close(solution.plan(), torch.tensor(theirs.matrix.tolist()), 1e-5)
    f, g = (torch.tensor(potential.tolist()) for potential in (theirs.f, theirs.g))
    converted = DualPotentials(f - 0.1 * problem.a.log(), g - 0.1 * problem.b.log())
    assert_close(plan(problem, converted), solution.plan(), 1e-5)
