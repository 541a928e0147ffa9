"""Sinkhorn's algorithm: each step is two exact maximisations of the dual."""

import torch
from hypothesis import strategies as st
from strategies import assert_close, every_dtype, given_problems, on_mass

from metaot.geometry import Dense, Grid
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, Status, solve
from metaot.solvers.sinkhorn import SinkhornState

SINKHORN = Sinkhorn(accelerated=False)


def value(problem: Problem, state: SinkhornState) -> DualPotentials:
    return on_mass(problem, SINKHORN.value(problem, state, slice(None)))


@given_problems(size=st.floats(0, 10))
def test_a_step_is_the_best_f_for_g_and_then_the_best_g_for_f(problem, size):
    problem = problem.flat()
    state = SINKHORN.init(problem, DualPotentials(size * torch.randn_like(problem.a), problem.b))
    for _ in range(3):
        f, state = c_transform(problem.T, value(problem, state).g), SINKHORN.step(problem, state)
        best, after = on_mass(problem, DualPotentials.from_f(problem, f)), value(problem, state)
        assert_close(after.f, best.f)
        assert_close(after.g, best.g)


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


@every_dtype
def test_atoms_without_mass_far_from_the_others(dtype):
    """exp((f - f_best)/eps) overflows on them."""
    x = torch.linspace(0, 1, 20)
    a = torch.nn.functional.one_hot(torch.tensor([0, 1]), 20).sum(0).to(dtype) / 2
    for geometry in (Grid(x), Dense((x[:, None] - x).square())):
        solution = solve(Problem(a, a.flip(0), geometry, 1e-3), tol=1e-4)
        assert solution.status is Status.CONVERGED
        assert_close(solution.cost(), (18 / 19) ** 2, 1e-3)
