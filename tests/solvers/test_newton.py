"""Newton's method on the semi-dual: it rises from anywhere, and converges quadratically in the end."""

import pytest
import torch
from hypothesis import strategies as st
from strategies import SPACES, assert_close, both_back_ends, given_problems, random_problem, weights

from metaot import core
from metaot.core import method
from metaot.geometry import Dense, Grid, Points
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import Newton, Status, in_torch, newton, solve

NEWTON = Newton()


def wide(eps: float, batch: int = 4, n: int = 9, m: int = 23) -> Problem:
    """Problems on the square, with more atoms on the target."""
    return Problem(weights(batch, n), weights(batch, m), Points(torch.rand(n, 2), torch.rand(m, 2)), eps)


def clusters(count: int, gap: float, eps: float) -> Problem:
    """Groups of atoms far from each other, that hold the same mass on both sides."""
    centre = gap * torch.arange(float(count)).repeat_interleave(4)[:, None]
    x, y = (centre + torch.rand(4 * count, 2) for _ in range(2))
    a, b = (w.reshape(count, 4) for w in (torch.rand(4 * count), torch.rand(4 * count)))
    a, b = ((w / w.sum(-1, keepdim=True)).flatten() / count for w in (a, b))
    return Problem(a, b, Points(x, y), eps)


@pytest.mark.parametrize("name", ["dense", "dense, one each", "grid", "points, callable"])
@pytest.mark.parametrize("seed", range(4))
def test_convergence_is_quadratic_near_the_solution(name, seed):
    """The error squares itself: e' <= K e^2, down to rounding, where a step changes nothing."""
    problem = random_problem(SPACES[name], (3,), 0.05, seed)
    exact = solve(problem, solver=NEWTON, tol=1e-13).potentials.f
    start = DualPotentials(exact + 1e-3 * problem.eps * torch.randn_like(exact), problem.b)
    state = NEWTON.init(problem, start)
    for _ in range(3):
        before, state = NEWTON.error(problem, state), NEWTON.step(problem, state)
        assert (NEWTON.error(problem, state) <= 10 * before.square() + 1e-12).all()


@given_problems(lowest_eps=1e-3, examples=15, size=st.floats(0, 10))
def test_a_step_never_lowers_the_dual_value(problem, size):
    problem = problem.flat()
    state = NEWTON.init(problem, DualPotentials(size * torch.randn_like(problem.a), problem.b))
    for _ in range(5):
        before, state = NEWTON.value(problem, state, slice(None)), NEWTON.step(problem, state)
        value = dual_value(problem, NEWTON.value(problem, state, slice(None)))
        assert (value >= dual_value(problem, before) - 1e-12 * size - 1e-12).all()


@both_back_ends
@pytest.mark.parametrize("factorised", [True, False])
def test_the_smaller_side_is_the_unknown_whichever_it_is(monkeypatch: pytest.MonkeyPatch, factorised):
    if not factorised:
        for module in (method, newton, in_torch):
            monkeypatch.setattr(module, "FACTORISED", 5)
    problem = wide(0.1)
    one, other = solve(problem, solver=NEWTON), solve(problem.T, solver=NEWTON)
    assert torch.equal(one.steps, other.steps)
    assert_close(other.plan(), one.plan().mT, 1e-12)


@pytest.mark.parametrize("name", ["dense", "grid", "points, one each", "grid, callable"])
@pytest.mark.parametrize("eps", [1.0, 0.05, 0.01])
def test_conjugate_gradients_find_what_the_factor_finds(monkeypatch, name, eps):
    problem = random_problem(SPACES[name], (3,), eps)
    exact = solve(problem, solver=NEWTON, tol=1e-11)
    monkeypatch.setattr(core, "COMPILED", False)
    for module in (newton, in_torch):
        monkeypatch.setattr(module, "FACTORISED", 0)
    products = solve(problem, solver=NEWTON, tol=1e-11, max_steps=100)
    assert products.status is Status.CONVERGED
    assert_close(products.plan(), exact.plan(), 1e-9)
    assert (products.steps <= exact.steps + 5).all()


@both_back_ends
@pytest.mark.parametrize("eps", [1e-2, 1e-3, 3e-4])
@pytest.mark.parametrize("size", [0.0, 1.0, 100.0])
def test_small_eps_from_far_away(eps, size):
    problem = wide(eps, batch=8, n=30, m=40)
    start = DualPotentials(size * torch.randn_like(problem.a), problem.b)
    solution = solve(problem, solver=NEWTON, init=start, tol=1e-9, max_steps=100)
    assert solution.status is Status.CONVERGED
    assert (marginal_error(problem, solution.potentials) <= 1.1e-9).all()


@both_back_ends
@pytest.mark.parametrize("gap", [3.0, 30.0])
@pytest.mark.parametrize("eps", [0.1, 1e-2])
def test_plans_that_fall_apart(gap, eps):
    """The Hessian has a null vector for each group of atoms, up to exp(-gap^2/eps)."""
    problem = clusters(3, gap, eps)
    solution = solve(problem, solver=NEWTON, tol=1e-9, max_steps=50)
    assert solution.status is Status.CONVERGED
    parts = solution.plan().reshape(3, 4, 3, 4).sum((1, 3))
    assert_close(parts, torch.eye(3) / 3, 1e-8)


@pytest.mark.parametrize("exchanged", [False, True])
def test_potentials_along_axes_are_those_of_the_matrix_also_without_mass(exchanged):
    """Few atoms against many, where both sides have atoms without mass."""
    grid = Grid(9, 7)
    a, b = torch.zeros(2, 63, dtype=torch.float64)
    a[[3, 30, 52]] = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    b[::2] = 1 / 32
    a, b = (b, a) if exchanged else (a, b)
    eps = 1e-3
    along, dense = (
        solve(Problem(a, b, space, eps), solver=Newton(), tol=1e-12).potentials
        for space in (grid, Dense(grid.cost_rows(slice(None))))
    )
    shift = (along.f - dense.f)[a > 0].mean()
    assert_close(along.f - shift, dense.f, 1e-9)
    assert_close(along.g + shift, dense.g, 1e-9)
