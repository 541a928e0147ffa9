"""Problems with few sources and many targets: trained on groups of targets, far cheaper and as good."""

from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from metaot.amortize import AmortizedPotential
from metaot.data import middle
from metaot.geometry.groups import Groups, totals
from metaot.models import PotentialModel, single
from metaot.objectives import dual_value
from metaot.objectives.semidual import semidual_loss
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import solve
from metaot.training.discrete import problem_set
from metaot.training.recipe import Recipe
from metaot.training.task import Task

_GROUPS = 512
_SEED = 2**31 - 1
_TARGET = 1e-3
"""The marginal error that steps after the prediction are counted to."""


@final
class GroupedTask(Task[Problem, AmortizedPotential]):
    """A `DiscreteTask` whose loss is that of the groups; measured are predictions for the whole problems."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.problems = problem_set(recipe, "train", data_dir)
        self.groups = Groups.of(self.problems.geometry, _GROUPS)
        self.costs = self.groups.costs.float()
        held_out = problem_set(recipe, "validation", data_dir)
        eps = recipe.validation_eps or middle(self.problems.eps)
        generator = torch.Generator().manual_seed(_SEED)
        drawn = held_out.sample(generator)[: recipe.validation_batch]
        like = torch.zeros((), dtype=torch.float64, device=device)
        self.validation = Problem(drawn.a, drawn.b, self.problems.geometry, eps).to(like)
        self.geometry = self.validation.geometry
        self.exact = solve(self.validation, tol=1e-6)

    def new_model(self) -> PotentialModel:
        recipe, problems = self.recipe, self.problems
        model = single(recipe.model.for_geometry(problems.geometry, problems.eps, **recipe.model_settings))
        samples = [self.problem(recipe.steps + k) for k in range(8)]
        model.standardise(torch.cat([p.a for p in samples]).float(), torch.cat([p.b for p in samples]).float())
        return model

    def predictor(self, model: nn.Module) -> AmortizedPotential:
        assert isinstance(model, PotentialModel)
        return AmortizedPotential(model, self.geometry, self.problems.eps)

    def problem(self, step: int) -> Problem:
        return self.problems.sample(torch.Generator().manual_seed(self.recipe.seed * 2**40 + step))

    def loss(self, predictor: AmortizedPotential, problem: Problem) -> Tensor:
        like = torch.zeros((), dtype=torch.float32, device=self.device)
        a, eps = problem.a.to(like), torch.as_tensor(problem.eps).to(like).expand(len(problem.a))
        f = next(predictor.model.stages(problem.to(like, self.geometry), predictor.model))
        grouped = totals(problem.b, self.groups.index, self.costs.shape[1])
        return semidual_loss(f, a, grouped, self.costs, eps).mean()

    @torch.no_grad()
    def measure(self, predictor: AmortizedPotential) -> tuple[dict[str, float], dict[str, Tensor]]:
        problem = self.validation
        stages = [DualPotentials.from_f(problem, f) for f in predictor.stages(problem)]
        steps = solve(problem, init=stages[-1], tol=_TARGET).steps.double()
        gaps = [(self.exact.value - dual_value(problem, guess)) / self.exact.value.abs() for guess in stages]
        figures = {
            "relative_dual_gap": gaps[-1].mean().item(),
            "relative_dual_gap_of_the_network": gaps[0].mean().item(),
            "marginal_error": marginal_error(problem, stages[-1]).mean().item(),
            "marginal_error_of_the_network": marginal_error(problem, stages[0]).mean().item(),
            "steps": steps.mean().item(),
        }
        return figures, {}
