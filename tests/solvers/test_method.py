"""Which method solves which instance, when it hands over, and that budgets are kept, on both back ends."""

import pytest
import torch
from strategies import assert_close, both_back_ends, random_problem, weights
from torch import Tensor

from metaot import core
from metaot.core import method
from metaot.geometry import Dense, Grid, Points
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import Newton, Sinkhorn, in_torch, solve

pytestmark = both_back_ends


def full(*shape: int) -> Tensor:
    """Return random weights above zero."""
    w = torch.rand(shape)
    return w / w.sum(-1, keepdim=True)


def mixed(batch: int = 6) -> Problem:
    """Return instances from easy to hard."""
    geometry = Points(torch.rand(30, 2), torch.rand(30, 2))
    return Problem(full(batch, 30), full(batch, 30), geometry, torch.logspace(0, -3, batch))


def only(count: int, *shape: int) -> Tensor:
    """Return weights of which this many are not zero."""
    w = torch.zeros(shape)
    w[..., :count] = torch.rand(*shape[:-1], count) + 0.1
    return w / w.sum(-1, keepdim=True)


@pytest.mark.parametrize(("patience", "eps"), [(20, 1e-3), (300, 1e-4)])
@pytest.mark.parametrize("geometry", [Grid(60), Grid(6, 10)], ids=str)
def test_newton_takes_over_after_patience(monkeypatch: pytest.MonkeyPatch, geometry, patience, eps):
    if patience != 300:
        monkeypatch.setattr(method, "SINKHORN_FIRST", patience)
    problem = Problem(full(3, 60), full(3, 60), geometry, eps)
    solution = solve(problem, tol=1e-9)
    assert solution.solvers == (Sinkhorn(), Newton())
    assert (marginal_error(problem, solution.potentials) <= 1.1e-9).all()
    assert (solution.steps > patience).all()
    assert (solution.steps < patience + 70).all()


def test_a_method_that_was_asked_for_is_not_handed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(method, "SINKHORN_FIRST", 2)
    problem = Problem(full(3, 36), full(3, 36), Grid(6, 6), 1e-3)
    for solver in (Sinkhorn(), Sinkhorn(accelerated=False)):
        solution = solve(problem, solver=solver, tol=1e-12, max_steps=20)
        assert solution.solvers == (solver,)
        assert (solution.steps == 20).all()
    few = Problem(only(3, 36), full(36), Grid(6, 6), 1e-3)
    assert solve(few, solver=Sinkhorn()).solvers == (Sinkhorn(),)


@pytest.mark.parametrize(("count", "solvers"), [(16, (Newton(),)), (17, (Sinkhorn(),))])
@pytest.mark.parametrize("side", ["source", "target"])
def test_few_atoms_are_for_newton_at_once(count, solvers, side):
    """Atoms that weigh next to nothing are not counted."""
    a = only(count, 49) + 1e-25
    problem = Problem(a / a.sum(), full(49), Grid(7, 7), 0.1)
    assert solve(problem if side == "source" else problem.T).solvers == solvers


def test_each_instance_of_a_batch_takes_its_own_method(monkeypatch: pytest.MonkeyPatch):
    """Few atoms: Newton; an easy one: Sinkhorn; a hard one: Newton after Sinkhorn; the same as one by one."""
    monkeypatch.setattr(method, "SINKHORN_FIRST", 20)
    a = torch.stack([only(5, 40), full(40), full(40)])
    eps = torch.tensor([1e-3, 1.0, 1e-3])
    problem = Problem(a, full(3, 40), Points(torch.rand(40, 2), torch.rand(40, 2)), eps)
    solution = solve(problem, tol=1e-8)
    assert solution.converged.all()
    assert solution.steps[1] < 20 < solution.steps[2]
    assert solution.steps[0] < 20
    names = [(Newton(),), (Sinkhorn(),), (Sinkhorn(), Newton())]
    for k in range(3):
        single = solve(problem[k], tol=1e-8)
        assert single.solvers == names[k]
        assert (single.steps - solution.steps[k]).abs() <= 1 + single.steps / 5
        assert_close(solution.value[k], single.value, 1e-8)


@pytest.mark.parametrize(("bound", "least"), [("FACTORISED", 20), ("NEWTON_ENTRIES", 899)])
def test_large_supports_and_plans_stay_with_sinkhorn(monkeypatch: pytest.MonkeyPatch, bound, least):
    monkeypatch.setattr(method, bound, least)
    monkeypatch.setattr(method, "SINKHORN_FIRST", 10)
    solution = solve(mixed(), max_steps=40)
    assert solution.solvers == (Sinkhorn(),)
    assert solution.steps.max() == 40


@pytest.mark.parametrize(("patience", "max_steps"), [(7, 0), (7, 1), (7, 7), (7, 8), (7, 11), (1000, 11)])
def test_never_more_steps_than_allowed(monkeypatch: pytest.MonkeyPatch, patience: int, max_steps: int):
    monkeypatch.setattr(method, "SINKHORN_FIRST", patience)
    problem = Problem(full(3, 30), full(3, 30), Grid(30), torch.tensor([1e-3, 1e-3, 10.0]))
    for init in (None, DualPotentials(torch.rand(3, 30), torch.rand(3, 30))):
        solution = solve(problem, init=init, tol=1e-12, max_steps=max_steps)
        assert solution.steps[:2].tolist() == [max_steps, max_steps]
        assert solution.steps[2] <= max_steps


@pytest.mark.parametrize("max_steps", [5, 17])
def test_never_more_steps_on_the_way_down(monkeypatch: pytest.MonkeyPatch, max_steps: int):
    """Where Newton stalls, its steps at other temperatures are counted too."""
    monkeypatch.setattr(method, "SINKHORN_FIRST", 1)
    C = torch.tensor([[0.1, torch.inf, torch.inf], [0.2, torch.inf, torch.inf], [0.5, 0.1, 0.4]]).repeat(9, 9)
    weight = torch.tensor([0.4, 0.4, 0.2]).repeat(9) / 9
    for solver in (None, Newton()):
        solution = solve(Problem(weight, weight, Dense(C), 1e-3), solver=solver, max_steps=max_steps)
        assert not solution.converged
        assert solution.steps <= max_steps


def test_newton_that_stalls_follows_the_solution_down(monkeypatch: pytest.MonkeyPatch):
    """Its descent starts again from a temperature at which it is quick."""
    asked = []
    kind = core.Compiled if core.COMPILED else in_torch.InTorch
    newton = kind.newton

    def one_step(self, index, f, limits, *, warmer=1.0):
        asked.append(warmer)
        steps = 1 if len(asked) == 1 else limits.max_steps
        return newton(self, index, f, core.Limits(limits.tol, min(steps, limits.max_steps)), warmer=warmer)

    monkeypatch.setattr(kind, "newton", one_step)
    problem = Problem(full(30), full(30), Grid(30), 1e-3)
    solution = solve(problem, solver=Newton(), tol=1e-9)
    assert solution.converged
    assert asked[0] == asked[-1] == 1
    hot = asked[1:-1]
    assert len(hot) >= 2
    assert hot == sorted(hot, reverse=True)
    assert_close(torch.tensor(hot[:-1]) / torch.tensor(hot[1:]), 3.0)
    assert_close(hot[0] * torch.tensor(1e-3), 0.1, 1e-12)


def test_newton_at_a_warmer_temperature_solves_the_warmer_problem():
    problem = mixed()
    back_end = core.Compiled(*problem.arrays()) if core.COMPILED else in_torch.InTorch(problem)
    found = back_end.newton(core.EVERY, None, core.Limits(1e-9, 200), warmer=3.0)
    hot = Problem(problem.a, problem.b, problem.geometry, 3 * problem.eps)
    f, g = (torch.as_tensor(values) for values in (found.f, found.g))
    assert (marginal_error(hot, DualPotentials(f, g)) <= 1.1e-9).all()


def test_newton_takes_a_large_batch_in_parts(monkeypatch: pytest.MonkeyPatch):
    problem = mixed()
    whole = solve(problem, solver=Newton())
    monkeypatch.setattr(in_torch, "_BLOCK", 1)
    assert_close(solve(problem, solver=Newton()).value, whole.value, 1e-12)


def test_what_compiled_code_does_not_hold_is_for_torch(monkeypatch: pytest.MonkeyPatch):
    matrix, grid = random_problem(batch=(2,)), Problem(weights(2, 12), weights(2, 12), Grid(3, 4), 0.1)
    results = [solve(problem) for problem in (matrix, grid)]
    monkeypatch.setattr(method, "MOST_ENTRIES", 34)
    monkeypatch.setattr(method, "LARGEST_GRID", 11)
    monkeypatch.setattr(core.Compiled, "sinkhorn", None)
    monkeypatch.setattr(core.Compiled, "newton", None)
    for problem, result in zip((matrix, grid), results, strict=True):
        assert_close(solve(problem).value, result.value, 1e-7)
