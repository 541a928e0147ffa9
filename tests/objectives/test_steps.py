"""Objectives that look at Sinkhorn steps: zero at the solution, positive elsewhere, with the right derivatives."""

import pytest
import torch

from metaot.geometry import Grid
from metaot.objectives import Objective, bootstrapped_loss, unrolled_loss
from metaot.problem import Problem
from metaot.solvers import solve


@pytest.fixture
def problem(generator: torch.Generator) -> Problem:
    a, b = torch.rand(2, 3, 12, generator=generator).pow(2)
    a[0, 3] = 0
    return Problem(a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True), Grid(4, 3), 0.05)


@pytest.mark.parametrize("objective", [bootstrapped_loss, unrolled_loss])
def test_it_is_zero_at_the_solution_only(objective: Objective, problem: Problem) -> None:
    exact = solve(problem, tol=1e-12).potentials.f
    assert objective(problem, exact).abs().max() < 1e-12
    assert objective(problem, exact + 1).abs().max() < 1e-12
    off = exact + 0.02 * torch.randn_like(exact)
    assert objective(problem, off).min() > 1e-8


def test_the_derivative_of_the_unrolled_loss_is_that_of_its_values(problem: Problem) -> None:
    f = (0.05 * torch.randn_like(problem.a)).requires_grad_()

    def value(f: torch.Tensor) -> torch.Tensor:
        return unrolled_loss(problem, f).sum()

    assert torch.autograd.gradcheck(value, f, atol=1e-6)


def test_the_target_of_the_bootstrapped_loss_is_a_constant(problem: Problem) -> None:
    f = (0.05 * torch.randn_like(problem.a)).requires_grad_()
    loss = bootstrapped_loss(problem, f).sum()
    (gradient,) = torch.autograd.grad(loss, f)
    assert (gradient * problem.a.ne(0)).abs().max() > 0
    torch.testing.assert_close(gradient.sum(1), torch.zeros(3), atol=1e-9, rtol=0)
