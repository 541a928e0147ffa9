"""The sphere checkpoint: a prediction within the floors of its README section, on its own places."""

from pathlib import Path

import pytest
import torch

import metaot
from metaot.data import Deliveries
from metaot.objectives import dual_value
from metaot.potentials import marginal_error

MODEL = metaot.load(Path(__file__).parents[1] / "checkpoints" / "sphere")


def problems(count: int, *, patterns: bool = False) -> metaot.Problem:
    drawn = Deliveries.on(MODEL.geometry, count, MODEL.eps, patterns=patterns)
    return drawn.sample(torch.Generator().manual_seed(11))


def test_the_prediction_alone_is_good() -> None:
    problem = problems(8)
    guess, exact = MODEL.predict(problem), metaot.solve(problem, tol=1e-7).value
    assert marginal_error(problem, guess).mean() < 0.05
    assert ((exact - dual_value(problem, guess)) / exact).mean() < 1e-3


@pytest.mark.parametrize(("tol", "floor"), [(1e-3, 6.0), (1e-9, 9.0)])
def test_few_newton_steps_are_left(tol: float, floor: float) -> None:
    solution = metaot.solve(problems(8), init=MODEL, tol=tol)
    assert solution.converged.all()
    assert solution.steps.double().mean() <= floor
    assert [type(solver).__name__ for solver in solution.solvers] == ["Newton"]


@pytest.mark.parametrize("patterns", [False, True])
def test_no_problem_is_slower_than_cold_also_where_demand_was_never_seen(patterns: bool) -> None:
    problem = problems(9, patterns=patterns)
    cold, warm = (metaot.solve(problem, init=init, tol=1e-6) for init in (None, MODEL))
    assert (warm.steps <= cold.steps + 1).all()
    assert warm.steps.sum() < 0.7 * cold.steps.sum()


def test_the_planner_gets_a_certificate() -> None:
    problem = problems(1)[0]
    solution = metaot.solve(problem, init=MODEL, tol=1e-9)
    assert marginal_error(problem, solution.potentials) <= 2e-9
    bounds = solution.bounds()
    assert bounds.lower <= solution.cost() + 1e-12
    assert bounds.gap <= 1e-3


def test_tiny_weights_are_as_good_as_none() -> None:
    """Suppliers with 1e-12 instead of nothing: the same prediction, which saves steps."""
    empty = problems(6)
    tiny = torch.where(empty.a == 0, 1e-12, empty.a)
    problem = metaot.Problem(tiny / tiny.sum(-1, keepdim=True), empty.b, empty.geometry, empty.eps)
    assert (problem.a < 1e-9).any()
    on_mass = empty.a > 0
    expected, found = MODEL.predict(empty).f, MODEL.predict(problem).f
    torch.testing.assert_close(found[on_mass], expected[on_mass], atol=1e-6, rtol=0)
    cold, warm = (metaot.solve(problem, init=init, tol=1e-6).steps for init in (None, MODEL))
    assert (warm <= cold + 3).all()
    assert warm.sum() < 0.9 * cold.sum()
