"""Forbidden pairs, infinite entries of C: finite answers where a plan avoids them, a clear end where none does."""

import pytest
import torch
from strategies import assert_close, every_dtype, every_solver

from metaot.geometry import Dense, Points
from metaot.potentials import DualPotentials, barycentric_map, c_transform, marginal_error, plan, transport_cost
from metaot.problem import Problem
from metaot.solvers import Solver, Status, solve, transport_bounds
from metaot.solvers.iterate import iterate
from metaot.tools import ot_value

INF = torch.inf
A, B = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
C = torch.tensor([[INF, 3.0], [1.0, 2.0]]).double()
P = torch.tensor([[0.0, 0.5], [0.25, 0.25]]).double()
"""The only plan."""
COST = 2.25
EPS = 0.3
VALUE = COST + EPS * float((P * (P / (A[:, None] * B)).clamp_min(1e-300).log()).sum())

SPACES = {
    "dense": Dense(C),
    "points": Points(
        torch.arange(2.0, dtype=torch.float64)[:, None],
        torch.arange(2.0, dtype=torch.float64)[:, None],
        lambda x, y: torch.where((x == 0) & (y.mT == 0), INF, 3 - 2 * x + x * y.mT),
    ),
}


@pytest.mark.parametrize("geometry", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@every_solver
def test_the_only_plan_is_found(geometry, dtype, solver):
    like = torch.empty(0, dtype=dtype)
    solution = solve(Problem(A.to(like), B.to(like), geometry.to(like), EPS), solver=solver, tol=1e-5)
    bounds = solution.bounds()
    assert solution.status == Status.CONVERGED
    assert_close(solution.plan(), P, 1e-5)
    assert_close(solution.cost(), COST, 1e-5)
    assert_close(solution.value, VALUE, 1e-5)
    assert_close(bounds.upper, COST, 1e-5)
    assert bounds.lower <= COST + 1e-12
    assert bounds.lower > 0


def test_derivatives_are_those_of_the_only_plan():
    """In C the plan, in eps the divergence; in the weights the potentials, where both masses are kept."""
    parts = [part.clone().requires_grad_() for part in (A, B, C, torch.tensor(EPS).double())]
    a, b, costs, eps = parts
    value = ot_value(Problem(a, b, Dense(costs), eps))
    in_a, in_b, in_C, in_eps = torch.autograd.grad(value, parts)
    assert_close(value.detach(), VALUE, 1e-9)
    assert_close(in_C, P, 1e-8)
    assert_close(in_eps, (VALUE - COST) / EPS, 1e-8)
    f = C[:, 1] + EPS * (P[:, 1] / (A * B[1])).log()
    assert_close(in_a[0] - in_a[1], f[0] - f[1], 1e-8)
    assert in_b.isfinite().all()


def sparse_problem(seed: int, *batch: int, eps: float = 0.1) -> Problem:
    """Random costs, and weights of a random plan on the allowed pairs; some atoms have no mass, and reach none."""
    torch.default_generator.manual_seed(seed)
    plan = torch.rand(*batch, 7, 9) * (torch.rand(*batch, 7, 9) < 0.5)
    plan[..., 0, :], plan[..., :, 1] = 0, 0
    plan = plan / plan.sum((-2, -1), keepdim=True)
    allowed = (plan > 0) | (torch.rand_like(plan) < 0.1)
    allowed[..., 0, :], allowed[..., :, 1] = False, False
    allowed[..., 0, 1] = True
    costs = torch.where(allowed, torch.rand_like(plan), INF)
    return Problem(plan.sum(-1), plan.sum(-2), Dense(costs), eps)


def solved(problem: Problem, solver: Solver) -> DualPotentials:
    return iterate(solver, problem, solver.init(problem, None), tol=1e-11, max_steps=20_000).value


@pytest.mark.parametrize("seed", range(3))
@every_solver
def test_forbidden_pairs_are_the_limit_of_high_costs(seed, solver):
    problem = sparse_problem(seed, 3)
    high = problem.geometry.C.nan_to_num(posinf=1e4)
    other = Problem(problem.a, problem.b, Dense(high), problem.eps)
    mine, theirs = solved(problem, solver), solved(other, solver)
    values = torch.rand(9, 2)
    assert mine.f.isfinite().all()
    assert mine.g.isfinite().all()
    assert_close(plan(problem, mine), plan(other, theirs), 1e-9)
    assert_close(transport_cost(problem, mine), transport_cost(other, theirs), 1e-9)
    assert_close(marginal_error(problem, mine), 0.0, 1e-10)
    mass = problem.a > 0
    averages = (barycentric_map(p, q, values)[mass] for p, q in ((problem, mine), (other, theirs)))
    assert_close(next(averages), next(averages), 1e-7)
    assert barycentric_map(problem, mine, values).isfinite().all()


@pytest.mark.parity
@pytest.mark.parametrize("max_steps", [0, 3, 1000])
def test_the_bounds_avoid_forbidden_pairs(max_steps):
    ot = pytest.importorskip("ot")
    problem = sparse_problem(1, 3, eps=0.02)
    bounds = transport_bounds(problem, solve(problem, max_steps=max_steps).potentials)
    arrays = (problem.a.numpy(), problem.b.numpy(), problem.geometry.C.nan_to_num(posinf=1e4).numpy())
    exact = torch.tensor([ot.emd2(a, b, costs) for a, b, costs in zip(*arrays, strict=True)])
    assert (bounds.lower <= exact + 1e-9).all()
    assert (bounds.upper >= exact - 1e-9).all()
    assert (bounds.upper <= exact + 0.05).all()


def test_the_derivative_of_the_c_transform_is_finite_on_atoms_that_reach_nothing():
    problem = sparse_problem(2)
    f = (0.1 * torch.randn(7)).requires_grad_()
    a = problem.a.clone().requires_grad_()
    g = c_transform(Problem(a, problem.b, problem.geometry, problem.eps), f)
    assert g.isfinite().all()
    assert g[1] == 0, "only a source atom without mass may go there"
    g.sum().backward()
    assert f.grad.isfinite().all()
    assert a.grad.isfinite().all()
    step = 1e-6 * torch.randn(7)
    ends = (c_transform(problem, f.detach() + t * step) for t in (1, -1))
    assert_close((f.grad * step).sum(), (next(ends) - next(ends)).sum() / 2, 1e-12)


ROW = torch.tensor([[INF, INF, 0.1], [0.2, 0.3, 0.1], [0.5, 0.1, 0.4]]).double()
HALL = torch.tensor([[0.1, INF, INF], [0.2, INF, INF], [0.5, 0.1, 0.4]]).double()
SIDES = {
    "a row reaches no mass": (ROW, [0.4, 0.3, 0.3], [0.5, 0.5, 0.0]),
    "two rows share a column": (HALL, [0.4, 0.4, 0.2], [0.4, 0.4, 0.2]),
}


@pytest.mark.parametrize("parts", SIDES.values(), ids=SIDES.keys())
@every_dtype
@every_solver
def test_without_a_plan_nothing_converges(parts, dtype, solver):
    costs, a, b = (torch.as_tensor(part).to(dtype) for part in parts)
    problem = Problem(a, b, Dense(costs), 0.1)
    solution = solve(problem, solver=solver, max_steps=100)
    assert not solution.converged
    assert solution.status in (Status.MAX_STEPS, Status.STALLED, Status.NONFINITE)
    assert transport_bounds(problem, DualPotentials(torch.zeros_like(a), torch.zeros_like(b))).upper == INF
