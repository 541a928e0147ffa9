"""Bounds of the cost without entropy: true for any potentials, and close at a solution with a small eps."""

import pytest
import torch
from hypothesis import strategies as st
from strategies import (
    SPACES,
    assert_close,
    every_space,
    given_problems,
    matrix,
    random_problem,
    temperatures,
    weights,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metaot.geometry import Dense, Grid, Points, base, points
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Bounds, solve, transport_bounds


def some_potentials(problem: Problem, size: float) -> DualPotentials:
    return DualPotentials(size * torch.randn_like(problem.a), size * torch.randn_like(problem.b))


def conditional_entropy(P: Tensor) -> Tensor:
    """Return H(P|b), the entropy of the columns of a plan, weighted with their mass."""
    shares = P / P.sum(-2, keepdim=True).clamp_min(1e-300)
    return -torch.where(P > 0, P * shares.clamp_min(1e-300).log(), 0.0).sum((-2, -1))


def exact_costs(problem: Problem) -> Tensor:
    """Return the costs that POT's linear programme finds, one instance at a time."""
    ot = pytest.importorskip("ot")
    flat = problem.flat()
    C = matrix(flat.geometry).double().expand(len(flat.a), *flat.geometry.shape).numpy()
    a, b = ((w.double() / w.double().sum(-1, keepdim=True)).numpy() for w in (flat.a, flat.b))
    costs = [ot.emd2(a[k], b[k], C[k].copy()) for k in range(len(a))]
    return torch.tensor(costs).reshape(problem.batch_shape)


def assert_between(bounds: Bounds, cost: Tensor, rounding: float = 1e-12) -> None:
    assert bounds.lower.dtype == bounds.upper.dtype == torch.float64
    assert bounds.lower.shape == bounds.upper.shape == cost.shape
    assert (bounds.lower <= cost + rounding).all()
    assert (bounds.upper >= cost - rounding).all()


@pytest.mark.parity
@every_space
def test_the_exact_cost_is_between_the_bounds(space):
    problem = random_problem(space, (3,), temperatures((3,), 1.0, 0.1))
    exact = exact_costs(problem)
    for max_steps in (1, 1000):
        solution = solve(problem, max_steps=max_steps)
        assert_between(solution.bounds(), exact)


@pytest.mark.parity
@given_problems(lowest_eps=1e-3, size=st.floats(0, 100), t=st.floats(-1e6, 1e6))
def test_the_bounds_are_true_whatever_the_potentials_are(problem, size, t):
    potentials = some_potentials(problem, size)
    shifted = DualPotentials(potentials.f + t, potentials.g - t)
    unbalanced = DualPotentials(potentials.f + t, potentials.g + t)
    exact, rounding = exact_costs(problem), 1e-13 + 1e-14 * max(1.0, size) / problem.eps
    bounds, C = transport_bounds(problem, potentials), matrix(problem.geometry)
    assert_between(bounds, exact, rounding)
    assert (bounds.upper <= C.amax((-2, -1)) + 1e-12).all()
    assert_close(bounds.gap, bounds.upper - bounds.lower, 0)
    assert_between(transport_bounds(problem, shifted), exact, rounding + 1e-14 * abs(t) / problem.eps)
    assert_between(transport_bounds(problem, unbalanced), exact, rounding + 1e-14 * abs(t) / problem.eps)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["dense, one each", "points, sphere", "points, callable", "grid"])
def test_bounds_of_single_precision_are_of_double(name):
    """The exact cost of the weights and the cost matrix that float32 holds, of masses made one."""
    double = random_problem(SPACES[name], (3,), 0.2)
    like = torch.empty(0, dtype=torch.float32)
    problem = Problem(double.a.float(), double.b.float(), double.geometry.to(like), 0.05)
    solution = solve(problem, tol=1e-3)
    exact = exact_costs(Problem.trusted(problem.a, problem.b, problem.geometry.to(double.a), problem.eps))
    assert_between(solution.bounds(), exact)


@given_problems(lowest_eps=2e-2, examples=15)
def test_the_gap_of_a_solution_is_at_most_eps_times_an_entropy(problem):
    """In nats, of the plan given its marginal on one side: at most the logarithm of the atoms on the other."""
    solution = solve(problem, tol=1e-10)
    P, gap = solution.plan(), solution.bounds().gap
    entropy = torch.minimum(conditional_entropy(P), conditional_entropy(P.mT))
    assert (gap <= problem.eps * entropy + 1e-8).all()
    atoms = torch.minimum((problem.a > 0).sum(-1), (problem.b > 0).sum(-1))
    assert (entropy <= atoms.log() + 1e-12).all()


@every_space
def test_without_a_choice_both_bounds_are_the_cost(space):
    """All mass on one atom of either side: one plan, however bad the potentials."""
    geometry = space(())
    (n, m), C = geometry.shape, matrix(geometry)
    a, b = (torch.nn.functional.one_hot(torch.arange(3), size).double() for size in (n, m))
    problem = Problem(a, b[[1, 2, 0]], geometry if not geometry.batch_shape else Dense(C), 0.1)
    bounds = transport_bounds(problem, some_potentials(problem, 3.0))
    expected = C[[0, 1, 2], [1, 2, 0]]
    assert_close(bounds.lower, expected, 1e-12)
    assert_close(bounds.upper, expected, 1e-12)


def test_costs_below_zero():
    C = torch.randn(5, 5)
    problem = Problem(weights(5), weights(5), Dense(C), 0.05)
    moved = Problem(problem.a, problem.b, Dense(C + 7), 0.05)
    potentials = some_potentials(problem, 1.0)
    bounds = transport_bounds(problem, potentials)
    others = transport_bounds(moved, DualPotentials(potentials.f + 3, potentials.g + 4))
    assert bounds.lower <= bounds.upper
    assert_close(others.lower, bounds.lower + 7, 1e-12)
    assert_close(others.upper, bounds.upper + 7, 1e-12)


@every_space
def test_atoms_without_mass_have_no_say_and_source_and_target_are_alike(space):
    problem = random_problem(space, (3,), 0.1)
    potentials = some_potentials(problem, 0.3)
    bounds = transport_bounds(problem, potentials)
    C, pad = matrix(problem.geometry), torch.nn.functional.pad
    padded = Problem(pad(problem.a, (0, 1)), pad(problem.b, (0, 2)), Dense(pad(C, (0, 2, 0, 1), value=-9.0)), 0.1)
    garbage = DualPotentials(pad(potentials.f, (0, 1), value=1e3), pad(potentials.g, (0, 2), value=-1e3))
    for other in (transport_bounds(padded, garbage), transport_bounds(padded.T, garbage.T)):
        assert_close(other.lower, bounds.lower)
    assert_close(transport_bounds(padded, garbage).upper, bounds.upper)


def test_an_instance_that_is_not_finite_harms_no_other():
    problem = random_problem(SPACES["grid"], (3,), 0.1)
    potentials = some_potentials(problem, 0.3)
    bounds = transport_bounds(problem, potentials)
    potentials.f[1, problem.a[1].argmax()] = torch.nan
    others = transport_bounds(problem, potentials)
    for mine, theirs in ((bounds.lower, others.lower), (bounds.upper, others.upper)):
        assert_close(theirs[[0, 2]], mine[[0, 2]])
    assert others.upper[1].isnan()
    assert not others.lower[1] > bounds.upper[1], "NaN, or still true"


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else (result,):
            if isinstance(part, Tensor) and part.untyped_storage().nbytes() > 0:
                self.numel = max(self.numel, part.untyped_storage().nbytes() // part.element_size())
        return result


def test_large_grids_and_clouds_need_no_matrix(monkeypatch):
    monkeypatch.setattr(base, "BLOCK", 2**14)
    monkeypatch.setattr(points, "_KEEP", 0)
    for geometry, most in ((Grid(96, 96), 2**21), (Points(torch.rand(1000, 2), torch.rand(900, 2)), 2**14)):
        n, m = geometry.shape
        solution = solve(Problem(weights(n), weights(m), geometry, 1e-1), max_steps=2)
        with Largest() as largest:
            bounds = solution.bounds()
        assert largest.numel <= most
        assert bounds.lower < bounds.upper < 2
