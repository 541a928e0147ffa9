"""What follows from potentials, against the plan P_ij = a_i b_j exp((f_i + g_j - C_ij)/eps) itself."""

import pytest
import torch
from strategies import (
    assert_close,
    both_back_ends,
    every_batch,
    every_space,
    given_problems,
    matrix,
    random_problem,
    some_potentials,
    temperatures,
)
from torch import Tensor

from metaot.potentials import (
    DualPotentials,
    barycentric_map,
    c_transform,
    exact_marginal_error,
    marginal_error,
    plan,
    sinkhorn_step,
    source_marginal,
    target_marginal,
    transport_cost,
)
from metaot.problem import Problem
from metaot.solvers import solve


def plan_by_definition(problem: Problem, potentials: DualPotentials) -> Tensor:
    eps = torch.as_tensor(problem.eps)[..., None, None]
    exponent = potentials.f[..., :, None] + potentials.g[..., None, :] - matrix(problem.geometry)
    return problem.a[..., :, None] * problem.b[..., None, :] * (exponent / eps).exp()


@every_space
@every_batch
@pytest.mark.parametrize("eps", [0.1, "one each"])
def test_everything_is_what_it_is_of_the_plan(space, batch, eps):
    problem = random_problem(space, batch, temperatures(batch, 1.0, 0.05) if eps == "one each" else eps)
    potentials = some_potentials(problem)
    P = plan_by_definition(problem, potentials)
    source, target = P.sum(-1), P.sum(-2)
    assert_close(plan(problem, potentials), P, rtol=1e-10)
    assert_close(source_marginal(problem, potentials), source, rtol=1e-10)
    assert_close(target_marginal(problem, potentials), target, rtol=1e-10)
    assert_close(transport_cost(problem, potentials), (P * matrix(problem.geometry)).sum((-2, -1)), rtol=1e-10)
    error = (source - problem.a).abs().sum(-1) + (target - problem.b).abs().sum(-1)
    assert_close(marginal_error(problem, potentials), error, rtol=1e-10)

    values = torch.rand(*problem.b.shape, 2)
    mean = barycentric_map(problem, potentials, values)
    assert_close(mean * source[..., None], P @ values, rtol=1e-10)
    assert mean.isfinite().all(), "defined on atoms without mass too"


@every_space
def test_the_exact_error_of_single_precision_is_that_of_the_plan_in_double(space):
    """Of potentials that solve the problem as well as float32 knows it."""
    problem = random_problem(space, (3,), 0.02)
    like = torch.empty(0, dtype=torch.float32)
    single = Problem(problem.a.float(), problem.b.float(), problem.geometry.to(like), 0.02)
    potentials = solve(single, tol=1e-5).potentials
    exact = single.normalised()
    P = plan_by_definition(exact, DualPotentials(potentials.f.double(), potentials.g.double()))
    error = (P.sum(-1) - exact.a).abs().sum(-1) + (P.sum(-2) - exact.b).abs().sum(-1)
    measured = exact_marginal_error(single, potentials)
    assert measured.dtype == torch.float64
    assert_close(measured, error, 1e-12)
    assert (error > 1e-8).all()


@every_space
@both_back_ends
@pytest.mark.parametrize("highest", [1.0, 1e-3])
def test_a_sinkhorn_step_and_what_it_shows(space, highest):
    problem = random_problem(space, (3,), temperatures((3,), highest, 0.1 * highest))
    f = some_potentials(problem).f
    following, missing, value = sinkhorn_step(problem, f)
    potentials = DualPotentials.from_f(problem, f)
    assert_close(following, c_transform(problem.T, potentials.g))
    assert_close(missing, problem.a - source_marginal(problem, potentials))
    assert_close(value, (f * problem.a).sum(-1) + (potentials.g * problem.b).sum(-1))


@given_problems()
def test_the_c_transform_makes_the_target_marginal_exact(problem):
    potentials = DualPotentials.from_f(problem, some_potentials(problem).f)
    assert_close(target_marginal(problem, potentials), problem.b)
    assert_close(plan(problem, potentials).sum(-2), problem.b)
    assert_close(plan(problem, potentials).sum((-2, -1)), 1.0)
    assert potentials.g.isfinite().all(), "functions on the whole space, also where b is zero"


@given_problems()
def test_atoms_without_mass_change_nothing(problem):
    """What is there of f on an atom without mass does not matter either, as long as it is finite."""
    potentials = some_potentials(problem)
    f = torch.where(problem.a > 0, potentials.f, 1e6 * torch.randn_like(problem.a))
    assert_close(c_transform(problem, f), c_transform(problem, potentials.f), 0)
    elsewhere = DualPotentials(f, potentials.g)
    assert_close(source_marginal(problem, elsewhere), source_marginal(problem, potentials), 0)
    assert_close(transport_cost(problem, elsewhere), transport_cost(problem, potentials), 0)


@every_space
@every_batch
def test_the_derivatives_of_the_c_transform(space, batch):
    """Minus the plan's masses and densities, for gradients of both signs; also in weights that are zero."""
    problem = random_problem(space, batch, temperatures(batch, 1.0, 0.05))
    f, v = 0.1 * torch.randn_like(problem.a), torch.randn_like(problem.b)
    parts = f.clone().requires_grad_(), problem.a.clone().requires_grad_()
    g = c_transform(Problem.trusted(parts[1], problem.b, problem.geometry, problem.eps), parts[0])
    in_f, in_a = torch.autograd.grad(g, parts, v)
    eps = problem.eps[..., None]
    exponent = f[..., :, None] + g.detach()[..., None, :] - matrix(problem.geometry)
    sums = ((exponent / eps[..., None]).exp() @ v[..., None]).squeeze(-1)
    assert_close(in_f, -problem.a * sums, rtol=1e-9)
    assert_close(in_a, -eps * sums, rtol=1e-9)
