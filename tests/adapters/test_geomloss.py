"""Solutions as GeomLoss returns them."""

import pytest
import torch
from strategies import SPACES, assert_close, every_batch, random_problem

pytest.importorskip("geomloss")
from geomloss import ot

from metaot.adapters import geomloss
from metaot.problem import Problem
from metaot.solvers import solve

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", ["dense", "points", "grid"])
def test_geomloss_comes_to_the_same_result_in_the_end(name):
    problem = random_problem(SPACES[name], eps=0.5)
    C = problem.geometry.cost_rows(slice(None))
    theirs = ot.solve(C, reg=0.5, a=problem.a, b=problem.b, max_iter=500)
    ours = geomloss.solve(problem)
    assert_close(ours.plan, theirs.plan, 1e-4)
    assert_close(ours.value, theirs.value, 1e-4)


@every_batch
def test_a_result_has_the_plan_and_the_value_of_the_solution(batch):
    problem = random_problem(SPACES["dense, one each"], batch)
    solution = solve(problem, tol=1e-9)
    result = geomloss.result(solution)
    assert_close(result.plan.reshape(solution.plan().shape), solution.plan(), 1e-12)
    assert_close(torch.as_tensor(result.value).reshape(batch), solution.value, 1e-8)


def test_a_prediction_is_taken(model, images):
    result = geomloss.solve(images, init=model, tol=1e-3)
    assert_close(result.plan.sum(-1), images.a, 1e-3)


def test_several_temperatures_are_refused():
    base = random_problem(batch=(2,))
    problem = Problem(base.a, base.b, base.geometry, torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match="one eps for a batch"):
        geomloss.solve(problem)
