"""Starts for problems whose costs change: the ratios are to the best one without learning."""

import torch

from metaot import Problem, Sinkhorn, solve
from metaot.amortize import Predictor
from metaot.data import Roads
from metaot.evaluation.costs import evaluate_costs
from metaot.objectives.dual import semidual_loss
from metaot.potentials import DualPotentials


class Solved(Predictor):
    """Knows the answer."""

    def predict(self, problem: Problem) -> DualPotentials:
        return solve(problem, solver=Sinkhorn(), tol=1e-9).potentials


def test_a_perfect_start_needs_no_steps_and_no_gap() -> None:
    source = Roads(suppliers=6, customers=30, nodes=120, networks=2)
    sets = source.split("test"), source.split("train")
    report = evaluate_costs(Solved(), *sets, data="roads", eps=0.05, instances=2, repeats=1)
    assert report.ratio("steps") == 0
    assert report.starts["model"].gap.abs().max() < 1e-8
    assert report.best("steps") != "model"
    assert report.starts[report.best("steps")].steps.mean() > 1
    assert "heaviest fifth" in report.table()


def test_each_problem_is_scored_by_its_own_cost() -> None:
    a, b, C = (torch.rand(2, *shape) for shape in ((5,), (7,), (5, 7)))
    a, b = (weights / weights.sum(-1, keepdim=True) for weights in (a, b))
    f, eps = torch.randn(2, 5), torch.tensor([0.3, 0.5])
    together = semidual_loss(f, a, b, C, eps)
    alone = [semidual_loss(f[k : k + 1], a[k : k + 1], b[k : k + 1], C[k], eps[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone))
