"""Problems with few sources and many targets: trained on groups of targets, far cheaper and as good."""

from pathlib import Path
from typing import final

import torch
from torch import Tensor

from metaot.amortize import StagedPredictor
from metaot.models.grouped import grouped, totals
from metaot.objectives.dual import dual_value, semidual_loss
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import solve
from metaot.training.discrete import DiscreteTask
from metaot.training.recipe import Recipe
from metaot.training.validation import TARGET

_GROUPS = 512


@final
class GroupedTask(DiscreteTask):
    """A `DiscreteTask` whose loss is that of the groups; measured are predictions for the whole problems."""

    counts_cold = False

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        super().__init__(recipe, data_dir, device)
        self.index, costs = grouped(self.problems.geometry, _GROUPS)
        self.costs = costs.float()

    def loss(self, predictor: StagedPredictor, problem: Problem) -> Tensor:
        single = problem.to(self.like.float(), self.geometry)
        f = next(predictor.model.stages(single, predictor.model))
        demand = totals(problem.b.cpu(), self.index, self.costs.shape[1])
        eps = torch.as_tensor(single.eps).to(single.a).expand(len(single.a))
        return semidual_loss(f, single.a, demand, self.costs, eps).mean()

    @torch.no_grad()
    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], dict[str, Tensor]]:
        problem, value = self.validation.problem, self.validation.exact_value
        guesses = [DualPotentials.from_f(problem, f) for f in predictor.stages(problem)]
        figures = {"steps": solve(problem, init=guesses[-1], tol=TARGET).steps.double().mean().item()}
        for guess, of in ((guesses[-1], ""), (guesses[0], "_of_the_network")):
            gap = (value - dual_value(problem, guess)) / value.abs()
            figures[f"relative_dual_gap{of}"] = gap.mean().item()
            figures[f"marginal_error{of}"] = marginal_error(problem, guess).mean().item()
        return figures, {}
