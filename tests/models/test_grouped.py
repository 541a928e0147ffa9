"""A network that reads groups of customers, and Newton steps between suppliers and groups."""

import pytest
import torch

from metaot import core
from metaot.amortize import AmortizedPotential
from metaot.data import Sphere
from metaot.geometry import Dense, Points
from metaot.models import GroupedPotential
from metaot.models import single as in_single
from metaot.models.grouped import grouped, totals
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import solve

PROBLEMS = Sphere(batch=6, suppliers=20, customers=1000, world="synthetic", eps=(3e-3, 3e-3)).split("test")


def predictor(passes: int = 20) -> AmortizedPotential:
    torch.default_generator.manual_seed(0)
    settings = {"groups": 64, "fine": 256, "width": 32, "hidden": 32, "depth": 2, "demand": 8, "passes": passes}
    model = in_single(GroupedPotential.for_geometry(PROBLEMS.geometry, (3e-3, 3e-3), **settings))
    sample = PROBLEMS.sample(torch.Generator().manual_seed(1))
    model.standardise(sample.a.float(), sample.b.float())
    return AmortizedPotential(model.eval().requires_grad_(False), PROBLEMS.geometry, (3e-3, 3e-3))


@pytest.fixture
def problem(generator: torch.Generator) -> Problem:
    return PROBLEMS.sample(generator)


def test_newton_between_suppliers_and_groups_mends_even_an_untrained_network(problem):
    first, last = (marginal_error(problem, DualPotentials.from_f(problem, f)) for f in predictor().stages(problem))
    assert (last < 0.3).all()
    assert (last < 0.5 * first).all()
    cold = solve(problem, tol=1e-6).steps.double().mean()
    assert solve(problem, init=predictor(), tol=1e-6).steps.double().mean() < 0.7 * cold


def test_one_problem_is_predicted_as_in_a_batch(problem):
    for passes in (0, 20):
        model = predictor(passes)
        together = model.predict(problem)
        for k in range(6):
            single = model.predict(problem[k])
            if passes == 0:  # Newton's steps stop where either is near enough
                assert (single.f - together.f[k]).abs().max() < 1e-4 * together.f[k].abs().max()
            assert marginal_error(problem[k], single) < marginal_error(problem, together)[k] + 5e-3


def test_suppliers_without_anything_get_the_best_potential_and_nothing_is_nan(problem):
    guess = predictor().predict(problem)
    assert guess.f.isfinite().all()
    best = DualPotentials.from_f(problem.T, guess.g).g
    idle = problem.a == 0
    assert (guess.f - best)[idle].abs().max() < 0.05


def test_customers_without_demand_are_normal(problem):
    b = problem.b.clone()
    b[:, 100:] = 0
    sparse = Problem(problem.a, b / b.sum(-1, keepdim=True), problem.geometry, 3e-3)
    assert predictor().predict(sparse).f.isfinite().all()
    assert solve(sparse, init=predictor(), tol=1e-8).converged.all()


def test_training_looks_at_the_network_alone(problem):
    whole = predictor()
    assert len(whole.stages(problem)) == 2
    whole.model.train()
    assert len(whole.stages(problem)) == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_predictions_solve_the_problem_of_groups_on_every_back_end(problem, compiled, monkeypatch):
    monkeypatch.setattr(core, "COMPILED", compiled and core.COMPILED)
    whole = predictor()
    groups = whole.model.smaller(problem)
    guess = DualPotentials.from_f(groups, whole.predict(problem).f)
    assert (marginal_error(groups, guess) <= 1.01e-3).all()


def test_targets_whose_costs_differ_by_a_constant_are_put_together(generator):
    kinds = torch.rand(6, 5, generator=generator)
    C = kinds[:, torch.arange(60) % 5] + torch.rand(60, generator=generator)
    index, _ = grouped(Dense(C), 5)
    assert len(index.unique()) <= 5
    for kind in range(5):
        assert len(index[kind::5].unique()) == 1


def test_the_costs_of_a_group_are_the_mean_of_its_members():
    points = Points(torch.rand(7, 2), torch.rand(90, 2))
    index, costs = grouped(points, 9)
    for group in index.unique():
        assert torch.allclose(costs[:, group], points.cost_rows(slice(None))[:, index == group].mean(1))
    b = torch.rand(3, 90)
    assert torch.allclose(totals(b, index, 9).sum(-1), b.sum(-1))


def test_few_targets_are_groups_of_their_own_and_a_batch_has_none():
    C = torch.rand(4, 8)
    assert torch.equal(grouped(Dense(C), 100)[1], C)
    with pytest.raises(ValueError, match=r"one geometry, got a batch \(2,\)"):
        grouped(Dense(torch.rand(2, 4, 8)), 3)
