"""What `solve` does by itself: Sinkhorn as long as that is quick, Newton for what is left."""

import pytest
import torch
from strategies import assert_close

from metaot.geometry import Grid, Points
from metaot.potentials import marginal_error
from metaot.problem import Problem
from metaot.solvers import Newton, Sinkhorn, choose, solve


def mixed(batch: int = 6) -> Problem:
    """Instances from easy to hard."""
    a, b = torch.rand(2, batch, 30)
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    return Problem(a, b, Points(torch.rand(30, 2), torch.rand(30, 2)), torch.logspace(0, -3, batch))


def test_easy_instances_are_sinkhorns_alone():
    problem = mixed()[:1]
    solution, sinkhorn = solve(problem), solve(problem, solver=Sinkhorn())
    assert solution.solvers == (Sinkhorn(),)
    assert torch.equal(solution.steps, sinkhorn.steps)
    assert torch.equal(solution.potentials.f, sinkhorn.potentials.f)


def test_hard_instances_go_on_with_newton_and_all_converge():
    problem = mixed()
    solution = solve(problem, tol=1e-9)
    assert solution.solvers == (Sinkhorn(), Newton())
    assert solution.converged.all()
    assert (marginal_error(problem, solution.potentials) <= 1.1e-9).all()
    assert solution.steps.max() < choose.PATIENCE + 50
    alone = [solve(problem[k : k + 1], tol=1e-9) for k in range(6)]
    assert_close(solution.value, torch.cat([one.value for one in alone]), 1e-9)
    steps = torch.cat([one.steps for one in alone])
    assert ((solution.steps - steps).abs() <= 1 + steps / 10).all()


def test_large_supports_stay_with_sinkhorn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "FACTORISED", 10)
    problem = mixed()
    solution = solve(problem, max_steps=300)
    assert solution.solvers == (Sinkhorn(),)
    assert solution.steps.max() == 300


def test_mixed_supports_take_their_own_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "FACTORISED", 10)
    problem = mixed(2)
    few = torch.where(torch.arange(30) < 8, problem.a[1], 0.0)
    problem = Problem(torch.stack([few / few.sum(), problem.a[1]]), problem.b, problem.geometry, 1e-3)
    solution = solve(problem, max_steps=250)
    assert solution.converged.tolist() == [True, False]
    assert solution.steps[0] < 200
    assert solution.steps[1] == 250


def test_newton_takes_a_large_batch_in_parts(monkeypatch: pytest.MonkeyPatch):
    problem = mixed()
    whole = solve(problem)
    monkeypatch.setattr(choose, "_BLOCK", 1)
    assert_close(solve(problem).value, whole.value, 1e-12)


@pytest.mark.parametrize("max_steps", [0, 7, choose.PATIENCE, choose.PATIENCE + 1])
def test_never_more_steps_than_allowed(max_steps: int):
    a, b = torch.rand(2, 3, 20)
    problem = Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Grid(20), 1e-3)
    solution = solve(problem, tol=1e-12, max_steps=max_steps)
    assert (solution.steps == max_steps).all()
