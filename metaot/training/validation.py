"""How good a prediction is, on problems that stay the same and whose exact duals were computed once."""

from dataclasses import dataclass, replace
from typing import final

import torch

from metaot.amortize import StagedPredictor
from metaot.data import ProblemSet
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

_SEED = 2**31 - 1
_TARGET = 1e-3
"""The marginal error that the saved Sinkhorn steps are counted to."""


@final
@dataclass(frozen=True)
class Validation:
    """A fixed batch of problems with their solutions and what a cold start costs."""

    problem: Problem
    exact: DualPotentials
    exact_value: torch.Tensor
    cold_steps: torch.Tensor

    @classmethod
    def of(cls, problems: ProblemSet, batch: int, eps: float, like: torch.Tensor) -> "Validation":
        """Draw the problems and solve them."""
        generator = torch.Generator().manual_seed(_SEED)
        problem = replace(problems, batch=batch, eps=(eps, eps)).sample(generator).to(like)
        solution = solve(problem, tol=1e-6, max_steps=5000)
        cold = solve(problem, solver=Sinkhorn(accelerated=False), tol=_TARGET)
        return cls(problem, solution.potentials, solution.value, cold.steps.double())

    @torch.no_grad()
    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], DualPotentials]:
        """Return the mean dual gap, L1 marginal error and saved steps of a predictor, and its prediction."""
        guess = predictor.predict(self.problem)
        gap = self.exact_value - dual_value(self.problem, guess)
        steps = solve(self.problem, init=guess, solver=Sinkhorn(accelerated=False), tol=_TARGET).steps.double()
        figures = {
            "dual_gap": gap.mean().item(),
            "marginal_error": marginal_error(self.problem, guess).mean().item(),
            "steps": steps.mean().item(),
            "steps_saved": (self.cold_steps - steps).mean().item(),
        }
        return figures, guess
