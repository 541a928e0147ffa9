"""What a planner reads off a solution adds up."""

import pytest
import torch

from metaot.data import Sphere
from metaot.geometry.costs import KILOMETRES
from metaot.problem import Problem
from metaot.solvers import solve
from metaot.tools import kilometres, marginal_prices, ot_value, shipments

PROBLEMS = Sphere(batch=1, suppliers=20, customers=900, world="synthetic", eps=(3e-3, 3e-3)).split("test")
PROBLEM = PROBLEMS.sample(torch.Generator().manual_seed(0))[0]
SOLUTION = solve(PROBLEM, tol=1e-9)


def test_shipments_are_the_large_entries_of_the_plan_the_largest_first() -> None:
    P = SOLUTION.plan()
    sent = shipments(SOLUTION, least=1e-5)
    assert len(sent) == int((P >= 1e-5).sum())
    assert torch.allclose(sent.quantity, P[sent.supplier, sent.customer])
    assert (sent.quantity.diff() <= 0).all()
    assert sent.quantity.sum() == pytest.approx(1, abs=5e-3)


def test_shipments_add_up_to_supply_demand_and_cost() -> None:
    sent = shipments(SOLUTION, least=1e-15)
    supply = torch.zeros_like(PROBLEM.a).index_add_(0, sent.supplier, sent.quantity)
    demand = torch.zeros_like(PROBLEM.b).index_add_(0, sent.customer, sent.quantity)
    assert (supply - PROBLEM.a).abs().sum() < 1e-8
    assert (demand - PROBLEM.b).abs().sum() < 1e-8
    assert (sent.quantity * sent.cost).sum() == pytest.approx(SOLUTION.cost().item(), rel=1e-8)
    assert (sent.quantity * sent.kilometres).sum() == pytest.approx(kilometres(SOLUTION.cost()).item(), rel=1e-8)
    assert kilometres(torch.tensor(1.0)).item() == pytest.approx(KILOMETRES)


def test_a_batch_and_a_threshold_of_zero_are_refused() -> None:
    batch = solve(PROBLEMS.sample(torch.Generator().manual_seed(0)), tol=1e-3)
    with pytest.raises(ValueError, match=r"got a batch \(1,\)"):
        shipments(batch)
    with pytest.raises(ValueError, match="least must be positive, got 0"):
        shipments(SOLUTION, least=0.0)


def test_a_marginal_price_is_what_one_more_unit_changes() -> None:
    prices = marginal_prices(SOLUTION)
    a = PROBLEM.a.clone().requires_grad_()
    ot_value(Problem(a, PROBLEM.b, PROBLEM.geometry, PROBLEM.eps)).backward()
    assert a.grad is not None
    assert torch.allclose(prices, a.grad, atol=1e-6)
