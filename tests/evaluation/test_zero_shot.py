"""What is measured of a universal model on images that it never saw."""

import torch
from blobs import Exact
from strategies import matrix

from metaot import DualPotentials, Grid, Problem, solve
from metaot.evaluation.zero_shot import table, zero_shot
from metaot.potentials import c_transform, plan


def images() -> Problem:
    a, b = torch.rand(2, 5, 49).pow(4)
    return Problem(a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True), Grid(7, 7), 3e-2)


def test_the_solution_has_no_error_and_needs_no_step() -> None:
    result = zero_shot({"exact": Exact()}, images(), data="noise", newton=2)
    exact, zeros = result.starts["exact"], result.starts["zeros"]
    assert exact["cost error"].max() < 1e-6
    assert all(exact[name].max() == 0 for name in exact if name.startswith(("steps", "Newton")))
    assert len(exact["Newton steps to 1e-06"]) == 2
    assert zeros["steps to 1% of the cost"].min() > 0
    assert (zeros["steps to 0.001"] >= zeros["steps to 0.01"]).all()
    assert (zeros["cost error after a step"] < zeros["cost error"]).all()
    text = table([result])
    assert all(words in text for words in ("noise 7 x 7", "zeros", "Gaussian", "exact", "cost error after a step"))
    assert len(result.to_json()["starts"]["exact"]["L1 error"]) == 5


def test_steps_to_the_cost_are_the_first_ones_below_a_percent() -> None:
    problem = images()
    steps = zero_shot({}, problem, data="noise", newton=0).starts["zeros"]["steps to 1% of the cost"]
    C, best = matrix(problem.geometry), solve(problem, tol=1e-10).cost()
    for k, count in enumerate(steps.int().tolist()):
        one, errors = problem[k], []
        potentials = DualPotentials.from_f(one, torch.zeros_like(one.a))
        for _ in range(count + 1):
            errors.append(abs(float((plan(one, potentials) * C).sum() / best[k] - 1)))
            potentials = DualPotentials.from_f(one, c_transform(one.T, potentials.g))
        assert errors[-1] <= 0.01 < min(errors[:-1])
