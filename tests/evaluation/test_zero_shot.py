"""What is measured of a universal model on images that it never saw."""

import pytest
import torch

from metaot import DualPotentials, Grid, Problem, solve
from metaot.amortize import Predictor
from metaot.evaluation.zero_shot import table, zero_shot


class Exact(Predictor):
    def predict(self, problem: Problem) -> DualPotentials:
        return solve(problem, tol=1e-10).potentials


@pytest.fixture
def problem(generator: torch.Generator) -> Problem:
    a, b = torch.rand(2, 5, 49, generator=generator).pow(4)
    return Problem(a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True), Grid(7, 7), 1e-2)


def test_the_solution_has_no_error_and_needs_no_step(problem: Problem) -> None:
    result = zero_shot({"exact": Exact()}, problem, data="noise", newton=2)
    exact, zeros = result.starts["exact"], result.starts["zeros"]
    assert exact["cost error"].max() < 1e-6
    assert all(exact[name].max() == 0 for name in exact if name.startswith(("steps", "Newton")))
    assert len(exact["Newton steps to 1e-06"]) == 2
    assert zeros["steps to 1% of the cost"].min() > 0
    assert (zeros["steps to 0.001"] >= zeros["steps to 0.01"]).all()
    assert (zeros["cost error after a step"] < zeros["cost error"]).all()


def test_steps_to_the_cost_are_the_first_ones_below_a_percent(problem: Problem) -> None:
    steps = zero_shot({}, problem, data="noise", newton=1).starts["zeros"]["steps to 1% of the cost"]
    reference = solve(problem, tol=1e-10).cost()
    for k, count in enumerate(steps.int().tolist()):
        f = torch.zeros_like(problem.a[k])
        errors = []
        for _ in range(count + 1):
            potentials = DualPotentials.from_f(problem[k], f)
            errors.append(float((solve_cost(problem[k], potentials) - reference[k]).abs() / reference[k]))
            f = DualPotentials.from_f(problem[k].T, potentials.g).g
        assert errors[-1] <= 0.01 < min(errors[:-1])


def solve_cost(problem: Problem, potentials: DualPotentials) -> torch.Tensor:
    plan = (
        problem.a[:, None]
        * problem.b
        * torch.exp((potentials.f[:, None] + potentials.g - problem.geometry.cost_rows(slice(None))) / problem.eps)
    )
    return (plan * problem.geometry.cost_rows(slice(None))).sum()


def test_the_table_names_images_and_starts(problem: Problem) -> None:
    result = zero_shot({"model": Exact()}, problem, data="noise", newton=1)
    text = table([result])
    assert all(words in text for words in ("noise 7 x 7", "zeros", "Gaussian", "model", "cost error after a step"))
    content = result.to_json()
    assert len(content["starts"]["model"]["L1 error"]) == 5
