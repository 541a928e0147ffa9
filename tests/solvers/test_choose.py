"""What `solve` does by itself: Sinkhorn as long as that is quick, Newton for what is left."""

from importlib import import_module

import pytest
import torch
from strategies import SOLVERS, assert_close, every_batch, every_space, random_problem

from metaot.geometry import Grid, Points
from metaot.potentials import marginal_error
from metaot.problem import Problem
from metaot.solvers import Newton, Sinkhorn, alone, axes, choose, solve

choose_alone = import_module("metaot.single.choose")


def mixed(batch: int = 6) -> Problem:
    """Instances from easy to hard."""
    a, b = torch.rand(2, batch, 30)
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    return Problem(a, b, Points(torch.rand(30, 2), torch.rand(30, 2)), torch.logspace(0, -3, batch))


@pytest.fixture
def in_numpy(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve one by one in numpy, or together in torch."""
    monkeypatch.setattr(choose, "in_numpy", lambda problem: request.param)


def test_easy_instances_are_sinkhorns_alone():
    problem = mixed()[:1]
    solution, sinkhorn = solve(problem), solve(problem, solver=Sinkhorn())
    assert solution.solvers == (Sinkhorn(),)
    assert torch.equal(solution.steps, sinkhorn.steps)
    assert torch.equal(solution.potentials.f, sinkhorn.potentials.f)


@pytest.mark.parametrize("in_numpy", [True, False], indirect=True)
def test_hard_instances_go_on_with_newton_and_all_converge(in_numpy):
    problem = mixed()
    solution = solve(problem, tol=1e-9)
    assert solution.solvers == (Sinkhorn(), Newton())
    assert solution.converged.all()
    assert (marginal_error(problem, solution.potentials) <= 1.1e-9).all()
    assert solution.steps.max() < alone.PATIENCE + 50
    single = [solve(problem[k : k + 1], tol=1e-9) for k in range(6)]
    assert_close(solution.value, torch.cat([one.value for one in single]), 1e-9)
    steps = torch.cat([one.steps for one in single])
    assert ((solution.steps - steps).abs() <= 1 + steps / 3).all()


def test_newton_takes_over_from_the_axes_of_a_grid(monkeypatch: pytest.MonkeyPatch):
    """After some patience all that are left go to Newton, not through as many steps once more."""
    a, b = torch.rand(2, 3, 60, generator=torch.Generator().manual_seed(0))
    problem = Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Grid(60), 1e-3)
    monkeypatch.setattr(choose, "PATIENCE", 20)
    solution = solve(problem, tol=1e-10)
    assert solution.solvers == (Sinkhorn(), Newton())
    assert (marginal_error(problem, solution.potentials) <= 1.1e-10).all()
    assert (solution.steps > 20).all()
    assert (solution.steps < 30).all()
    assert (solve(problem, solver=Sinkhorn(), tol=1e-10).steps > 40).all()


def test_a_method_that_was_asked_for_is_not_handed_over_on_a_grid(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "PATIENCE", 2)
    a, b = torch.rand(2, 3, 36, dtype=torch.float64)
    problem = Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Grid(6, 6), 1e-3)
    solution = solve(problem, solver=Sinkhorn(), tol=1e-12, max_steps=20)
    assert solution.solvers == (Sinkhorn(),)
    assert solution.steps.max() > 2


@every_space
@every_batch
@pytest.mark.parametrize("solver", [None, *SOLVERS.values()], ids=["chosen", *SOLVERS])
def test_one_by_one_or_together_is_the_same(monkeypatch: pytest.MonkeyPatch, space, batch, solver):
    problem = random_problem(space, batch, 0.02)
    one_by_one = solve(problem, solver=solver, tol=1e-9)
    monkeypatch.setattr(choose, "in_numpy", lambda problem: False)
    together = solve(problem, solver=solver, tol=1e-9)
    assert one_by_one.converged.all()
    assert together.converged.all()
    assert_close(together.plan(), one_by_one.plan(), 1e-7)
    assert_close(
        together.potentials.f - together.potentials.f[..., :1],
        one_by_one.potentials.f - one_by_one.potentials.f[..., :1],
        1e-6,
    )


@pytest.mark.parametrize("in_numpy", [False], indirect=True)
def test_large_supports_stay_with_sinkhorn(monkeypatch: pytest.MonkeyPatch, in_numpy):
    monkeypatch.setattr(choose, "FACTORISED", 10)
    solution = solve(mixed(), max_steps=100)
    assert solution.solvers == (Sinkhorn(),)
    assert solution.steps.max() == 100


@pytest.mark.parametrize("in_numpy", [True, False], indirect=True)
def test_mixed_supports_take_their_own_way(monkeypatch: pytest.MonkeyPatch, in_numpy):
    for module in (choose, choose_alone):
        monkeypatch.setattr(module, "FACTORISED", 10)
        monkeypatch.setattr(module, "PATIENCE", 20)
    problem = mixed(2)
    few = torch.where(torch.arange(30) < 8, problem.a[1], 0.0)
    problem = Problem(torch.stack([few / few.sum(), problem.a[1]]), problem.b, problem.geometry, 1e-3)
    solution = solve(problem, max_steps=45)
    assert solution.converged.tolist() == [True, False]
    assert solution.steps[0] < 45
    assert solution.steps[1] == 45


def test_newton_takes_a_large_batch_in_parts(monkeypatch: pytest.MonkeyPatch):
    problem = mixed()
    whole = solve(problem)
    monkeypatch.setattr(choose, "_BLOCK", 1)
    assert_close(solve(problem).value, whole.value, 1e-12)


@pytest.mark.parametrize("in_numpy", [True, False], indirect=True)
@pytest.mark.parametrize("max_steps", [0, 3, 7, 11])
def test_never_more_steps_than_allowed(monkeypatch: pytest.MonkeyPatch, in_numpy, max_steps: int):
    for module in (choose, choose_alone, alone):
        monkeypatch.setattr(module, "PATIENCE", 7)
    a, b = torch.rand(2, 3, 20)
    problem = Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Grid(20), 1e-3)
    solution = solve(problem, tol=1e-12, max_steps=max_steps)
    assert (solution.steps == max_steps).all()


@pytest.mark.parametrize("most", [2**24, 0], ids=["kernels of all", "one after another"])
def test_each_problem_of_a_grid_has_its_eps(monkeypatch: pytest.MonkeyPatch, most: int):
    """With the kernels of all in memory, or where there is no room for these."""
    monkeypatch.setattr(axes, "_MOST", most)
    a, b = torch.rand(2, 5, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).pow(3)
    eps = torch.tensor([1e-1, 1e-2, 3e-4, 3e-3, 1.0], dtype=torch.float64)
    problem = Problem(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), Grid(7, 8), eps)
    solution = solve(problem, tol=1e-9)
    assert solution.converged.all()
    assert (marginal_error(problem, solution.potentials) <= 1.1e-9).all()
    for k in range(5):
        alone = solve(Problem(problem.a[k], problem.b[k], problem.geometry, float(eps[k])), tol=1e-9)
        assert_close(solution.value[k], alone.value, 1e-9)
