"""What carries out Sinkhorn's and Newton's steps: compiled code on arrays, or torch on any device; the same steps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.potentials import DualPotentials
from metaot.problem import Problem


@final
@dataclass(frozen=True)
class Refined:
    """Potentials of a flat batch on all atoms, and for each instance its error and its steps."""

    potentials: DualPotentials
    error: Float[Tensor, "batch"]
    steps: Int[Tensor, "batch"]

    def part(self, index: Tensor) -> "Refined":
        """Return what became of some instances."""
        return Refined(self.potentials[index], self.error[index], self.steps[index])

    @property
    def T(self) -> "Refined":
        """The same for the problems with source and target exchanged."""
        return Refined(self.potentials.T, self.error, self.steps)

    def update(self, index: Tensor | slice, later: "Refined") -> None:
        """Replace some instances by what became of them later, and add the steps."""
        self.potentials.f[index], self.potentials.g[index] = later.potentials.f, later.potentials.g
        self.error[index] = later.error
        self.steps[index] += later.steps


class BackEnd(ABC):
    """Both methods on a flat batch of problems, from potentials f on all atoms, or from zeros where these are better.

    An instance stops when its error is at most `tol`, or after `max_steps` steps.
    """

    @abstractmethod
    def sinkhorn(
        self,
        problem: Problem,
        f: Float[Tensor, "batch n"] | None,
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
        on_support: bool = False,
    ) -> Refined:
        """Refine f by Sinkhorn steps: with a matrix between the atoms with mass if `on_support`."""

    @abstractmethod
    def newton(
        self, problem: Problem, f: Float[Tensor, "batch n"] | None, *, tol: float, max_steps: int
    ) -> Refined:
        """Refine f by Newton steps; an instance stops too when its error no longer falls."""


def no_result(problem: Problem) -> Refined:
    """Return room for results: of no steps, with an infinite error."""
    potentials = DualPotentials(torch.zeros_like(problem.a), torch.zeros_like(problem.b))
    error = problem.a.new_full((len(problem.a),), torch.inf)
    return Refined(potentials, error, torch.zeros_like(error, dtype=torch.int64))
