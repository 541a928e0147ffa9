"""The dual objective, a lower bound whose gradient is the error of the marginals."""

import pytest
import torch
from hypothesis import strategies as st
from strategies import SPACES, assert_close, given_problems, matrix, random_problem, some_potentials
from torch import Tensor

from metaot.geometry import Dense, Grid
from metaot.objectives.dual import dual_loss, dual_value, scaled_dual_loss, semidual_loss
from metaot.potentials import (
    DualPotentials,
    marginal_error,
    plan,
    source_marginal,
    target_marginal,
    transport_cost,
)
from metaot.problem import Problem
from metaot.solvers import solve


def primal_value(problem: Problem, P: Tensor) -> Tensor:
    """Return <C, P> + eps KL(P | a b^T)."""
    product = problem.a[..., :, None] * problem.b[..., None, :]
    entropy = torch.where(P > 0, P * (P / product).log(), 0.0).sum((-2, -1))
    return (matrix(problem.geometry) * P).sum((-2, -1)) + problem.eps * entropy


@given_problems()
def test_it_is_its_formula(problem):
    potentials = some_potentials(problem)
    mass = plan(problem, potentials).sum((-2, -1))
    linear = (potentials.f * problem.a).sum(-1) + (potentials.g * problem.b).sum(-1)
    assert_close(dual_value(problem, potentials), linear - problem.eps * (mass - 1), rtol=1e-10)


@given_problems(lowest_eps=0.1, size=st.floats(0, 2))
def test_weak_and_strong_duality(problem, size):
    """No dual value is above the primal value of a feasible plan: of the product, or of the solution."""
    value = dual_value(problem, some_potentials(problem, size))
    product = problem.a[..., :, None] * problem.b[..., None, :]
    assert (value <= primal_value(problem, product) + 1e-10).all()
    solution = solve(problem, tol=1e-10, max_steps=2000)
    assert (value <= solution.value + 1e-8).all()
    assert_close(solution.value, primal_value(problem, solution.plan()), 1e-7)


@given_problems(t=st.floats(-5, 5))
def test_a_constant_moves_from_f_to_g_and_source_to_target(problem, t):
    potentials = some_potentials(problem)
    value = dual_value(problem, potentials)
    shifted = DualPotentials(potentials.f + t, potentials.g - t)
    assert_close(dual_value(problem, shifted), value, 1e-9, rtol=1e-9)
    assert_close(dual_value(problem.T, potentials.T), value, 1e-9, rtol=1e-9)


@given_problems(s=st.floats(0.01, 100))
def test_it_has_the_units_of_the_cost(problem, s):
    scaled = Problem(problem.a, problem.b, Dense(s * matrix(problem.geometry)), s * problem.eps)
    potentials = some_potentials(problem)
    times_s = DualPotentials(s * potentials.f, s * potentials.g)
    assert_close(dual_value(scaled, times_s), s * dual_value(problem, potentials), rtol=1e-9)


@given_problems()
def test_the_loss_is_minus_the_value_of_completed_potentials(problem):
    """Its gradient is the error of the source marginal."""
    f = some_potentials(problem).f.requires_grad_()
    potentials, loss = DualPotentials.from_f(problem, f), dual_loss(problem, f)
    assert_close(loss, -dual_value(problem, potentials))
    assert_close(scaled_dual_loss(problem, f) * problem.eps, loss)
    (slope,) = torch.autograd.grad(loss.sum(), f)
    assert_close(slope, source_marginal(problem, potentials) - problem.a)


@given_problems(lowest_eps=0.1)
def test_the_gap_bounds_the_error(problem):
    """Pinsker: the gap in units of eps is KL(P* | P), at least half the square of the L1 error."""
    potentials = DualPotentials.from_f(problem, some_potentials(problem).f)
    optimum = solve(problem, init=potentials, tol=1e-10).value
    gap = scaled_dual_loss(problem, potentials.f) + optimum / problem.eps
    assert (marginal_error(problem, potentials) <= (2 * gap + 1e-8).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loss_on_a_grid_is_that_of_the_geometry_at_every_temperature(dtype, generator):
    """Also where numbers leave floating point: between corners, in two of the problems."""
    a, b = torch.rand(2, 6, 48, dtype=torch.float64, generator=generator).pow(3)
    a[:2], b[:2] = torch.eye(48)[0], torch.eye(48)[-1]
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    eps = torch.tensor([4e-4, 1e-1, 1e-3, 3e-3, 1e-2, 1e-1], dtype=torch.float64)
    problem = Problem(a, b, Grid(8, 6), eps)
    f = (0.1 * torch.randn(6, 48, dtype=dtype, generator=generator)).requires_grad_()
    potentials = DualPotentials.from_f(problem, f.detach().double())
    assert_close(dual_loss(problem, f), -dual_value(problem, potentials), 1e-12)
    (slope,) = torch.autograd.grad(dual_loss(problem, f).sum(), f)
    assert_close(slope, (source_marginal(problem, potentials) - a).to(dtype), 1e-12)
    (weighted,) = torch.autograd.grad((dual_loss(problem, f) * torch.arange(6)).sum(), f)
    assert_close(weighted, slope * torch.arange(6)[:, None])


@given_problems()
def test_the_gradient_of_the_value_is_the_error_of_both_marginals(problem):
    """In the weights: potentials less what a unit of weight moves; also where weights are zero."""
    potentials = some_potentials(problem)
    parts = [part.clone().requires_grad_() for part in (potentials.f, potentials.g, problem.a, problem.b)]
    f, g, a, b = parts
    value = dual_value(Problem.trusted(a, b, problem.geometry, problem.eps), DualPotentials(f, g))
    in_f, in_g, in_a, in_b = torch.autograd.grad(value.sum(), parts)
    assert_close(in_f, problem.a - source_marginal(problem, potentials), rtol=1e-9)
    assert_close(in_g, problem.b - target_marginal(problem, potentials), rtol=1e-9)
    exponent = potentials.f[..., :, None] + potentials.g[..., None, :] - matrix(problem.geometry)
    density = (exponent / problem.eps).exp()
    moved = (density @ problem.b[..., None]).squeeze(-1), (problem.a[..., None, :] @ density).squeeze(-2)
    assert_close(in_a, potentials.f - problem.eps * moved[0], rtol=1e-8)
    assert_close(in_b, potentials.g - problem.eps * moved[1], rtol=1e-8)


@pytest.mark.parametrize("name", ["dense", "points", "grid"])
def test_values_and_derivatives_are_finite_however_large_potentials_are_without_mass(name):
    problem = random_problem(SPACES[name], (), 1e-3)
    a, b = (weights.clone().requires_grad_() for weights in (problem.a, problem.b))
    f, g = (torch.where(weights > 0, 0.0, 5.0).requires_grad_() for weights in (problem.a, problem.b))
    problem = Problem(a, b, problem.geometry, 1e-3)
    value = dual_value(problem, DualPotentials(f, g))
    assert_close(value.detach(), dual_value(problem, DualPotentials(0 * f, 0 * g)).detach())
    slopes = torch.autograd.grad(value, (f, g, a, b))
    assert all(slope.isfinite().all() for slope in slopes)
    for slope, weights in zip(slopes, (a, b), strict=False):
        assert_close(slope[weights == 0], 0.0, 0)


def test_at_the_solution_the_derivatives_in_the_weights_are_the_potentials():
    """Up to a constant: the envelope theorem."""
    problem = random_problem(SPACES["grid"], (), 0.1)
    solution = solve(problem, tol=1e-12)
    a = problem.a.clone().requires_grad_()
    moved = Problem.trusted(a, problem.b, problem.geometry, problem.eps)
    (slope,) = torch.autograd.grad(dual_value(moved, solution.potentials), a)
    difference = slope - solution.potentials.f
    assert_close(difference, difference.mean(), 1e-9)
    assert_close(transport_cost(problem, solution.potentials), solution.cost(), 0)


@pytest.mark.parametrize("eps", [1e-3, 3e-2, 1.0])
def test_the_semidual_loss_is_the_dual_objective_with_its_gradient(eps, generator):
    C = torch.rand(6, 40, generator=generator)
    a, b = torch.rand(5, 6, generator=generator), torch.rand(5, 40, generator=generator)
    a[:, 2] = 0
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    f = (0.1 * torch.randn(5, 6, generator=generator)).requires_grad_()
    problem = Problem(a, b, Dense(C), eps)
    exact = scaled_dual_loss(problem, f)
    (expected,) = torch.autograd.grad(exact.sum(), f)
    fast = semidual_loss(f, a, b, C, torch.full((5,), eps))
    (gradient,) = torch.autograd.grad(fast.sum(), f)
    assert torch.allclose(fast, exact, rtol=1e-4)
    assert torch.allclose(gradient * eps, expected * eps, atol=1e-4)
    assert (gradient[:, 2] == 0).all()
