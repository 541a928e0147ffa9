"""How good a prediction is, on problems that stay the same and whose exact duals were computed once."""

from dataclasses import dataclass
from typing import final

import torch

from metaot.amortize import StagedPredictor
from metaot.data import ProblemSet
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

_SEED = 2**31 - 1
TARGET, PLAIN = 1e-3, Sinkhorn(accelerated=False)
"""The marginal error to which steps after a prediction are counted, and what makes them."""


@final
@dataclass(frozen=True)
class Validation:
    """A fixed batch of problems with their solutions, and the steps of plain Sinkhorn if counted."""

    problem: Problem
    exact: DualPotentials
    exact_value: torch.Tensor
    cold_steps: torch.Tensor | None

    @classmethod
    def of(cls, problems: ProblemSet, like: torch.Tensor, *, counts_cold: bool) -> "Validation":
        """Draw a batch of problems and solve them."""
        problem = problems.sample(torch.Generator().manual_seed(_SEED)).to(like)
        solution = solve(problem, tol=1e-6, max_steps=5000)
        cold = solve(problem, solver=PLAIN, tol=TARGET).steps.double() if counts_cold else None
        return cls(problem, solution.potentials, solution.value, cold)

    @torch.no_grad()
    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], DualPotentials]:
        """Return the mean dual gap, L1 marginal error and saved steps of a predictor, and its prediction."""
        guess = predictor.predict(self.problem)
        gap = self.exact_value - dual_value(self.problem, guess)
        steps = solve(self.problem, init=guess, solver=PLAIN, tol=TARGET).steps.double()
        figures = {
            "dual_gap": gap.mean().item(),
            "marginal_error": marginal_error(self.problem, guess).mean().item(),
            "steps": steps.mean().item(),
        }
        if self.cold_steps is not None:
            figures["steps_saved"] = (self.cold_steps - steps).mean().item()
        return figures, guess
