"""What is learned of problems whose costs change: a network that reads them."""

from typing import final

import torch
from torch import Tensor

from metaot.amortize import StagedPredictor
from metaot.amortize.costs import CostPotential, encode
from metaot.models import single
from metaot.models.costs import CostNetwork
from metaot.objectives.dual import semidual_loss
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve
from metaot.training.tasks import TARGET, DiscreteTask, worth

_DRAWN = 8
"""Batches that tell, before training, how much costs differ."""


@final
class CostTask(DiscreteTask):
    """Potentials of problems each of which may have costs of its own."""

    def new_model(self) -> CostNetwork:
        model: CostNetwork = single(CostNetwork(**self.recipe.model_settings))
        model.spreads.copy_(torch.tensor([torch.inf, 0.0]))
        for problem in (self.validation, *(self.drawn(self.recipe.steps + k) for k in range(_DRAWN))):
            model.widen(encode(problem.flat(), model).spread)
        return model

    def predictor(self, model: CostNetwork) -> CostPotential:
        return CostPotential(model)

    def loss(self, predictor: CostPotential, problem: Problem) -> Tensor:
        (f,) = predictor.stages(problem)
        C, eps = problem.geometry.cost_rows(slice(None)), torch.as_tensor(problem.eps).expand(len(f))
        return semidual_loss(f, problem.a, problem.b, C, eps).mean()

    @torch.no_grad()
    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], dict[str, Tensor]]:
        guess = predictor.predict(self.validation)
        steps = solve(self.validation, init=guess, solver=Sinkhorn(), tol=TARGET).steps
        return {"steps": steps.double().mean().item(), **worth(self.exact, guess)}, {}
