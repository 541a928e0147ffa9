"""Sinkhorn's algorithm: each step is two exact maximisations of the dual."""

import torch
from hypothesis import strategies as st
from strategies import assert_close, every_dtype, given_problems, on_mass, weights

from metaot.geometry import Dense, Grid
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, c_transform, target_marginal
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, Status, solve
from metaot.solvers.sinkhorn import SinkhornState

SINKHORN = Sinkhorn(accelerated=False)


def value(problem: Problem, state: SinkhornState) -> DualPotentials:
    return on_mass(problem, SINKHORN.value(problem, state, slice(None)))


@given_problems()
def test_a_step_is_the_best_f_for_g_and_then_the_best_g_for_f(problem):
    problem = problem.flat()
    state = SINKHORN.init(problem, None)
    after = value(problem, SINKHORN.step(problem, state))
    f = c_transform(problem.T, value(problem, state).g)
    best = on_mass(problem, DualPotentials(f, c_transform(problem, f)))
    assert_close(after.f, best.f)
    assert_close(after.g, best.g)


@given_problems(size=st.floats(0, 10))
def test_every_step_raises_the_dual_value_and_keeps_the_target_marginal(problem, size):
    problem = problem.flat()
    state = SINKHORN.init(problem, DualPotentials(size * torch.randn_like(problem.a), problem.b))
    for _ in range(5):
        before, state = dual_value(problem, value(problem, state)), SINKHORN.step(problem, state)
        assert (dual_value(problem, value(problem, state)) >= before - 1e-12).all()
        assert_close(target_marginal(problem, value(problem, state)), problem.b)


@given_problems(t=st.floats(-1e6, 1e6))
def test_a_constant_of_the_start_means_nothing(problem, t):
    f = 0.1 * torch.randn_like(problem.a)
    one, other = (
        solve(problem, solver=SINKHORN, init=DualPotentials(start, problem.b), max_steps=2) for start in (f, f + t)
    )
    assert torch.equal(one.steps, other.steps)
    assert_close(
        other.potentials.f - other.potentials.f[..., :1], one.potentials.f - one.potentials.f[..., :1], 1e-8
    )


def test_a_cost_that_is_a_sum_is_solved_by_one_step():
    """Then the plan is a b^T, and the potentials are the two summands."""
    u, v = torch.rand(4), torch.rand(3)
    problem = Problem(weights(4), weights(3), Dense(u[:, None] + v), 0.1)
    solution = solve(problem, solver=SINKHORN, tol=1e-12)
    assert solution.steps <= 1
    assert_close(solution.plan(), problem.a[:, None] * problem.b)
    assert_close(solution.potentials.f - u, (solution.potentials.f - u).mean())
    assert_close(solution.value, problem.a @ u + problem.b @ v)


@every_dtype
def test_atoms_without_mass_far_from_the_others(dtype):
    """exp((f - f_best)/eps) overflows on them."""
    x = torch.linspace(0, 1, 20)
    a = torch.nn.functional.one_hot(torch.tensor([0, 1]), 20).sum(0).to(dtype) / 2
    for geometry in (Grid(x), Dense((x[:, None] - x).square())):
        solution = solve(Problem(a, a.flip(0), geometry, 1e-3), tol=1e-4)
        assert solution.status is Status.CONVERGED
        assert_close(solution.cost(), (18 / 19) ** 2, 1e-3)
