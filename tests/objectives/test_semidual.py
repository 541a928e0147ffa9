"""The fast dual objective is the dual objective, and so is its gradient."""

import pytest
import torch

from metaot.geometry import Dense
from metaot.objectives import scaled_dual_loss
from metaot.objectives.semidual import semidual_loss
from metaot.problem import Problem


@pytest.mark.parametrize("eps", [1e-3, 3e-2, 1.0])
def test_it_is_the_dual_objective_with_its_gradient(eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
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
