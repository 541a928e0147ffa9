"""Blobs on a small grid, a predictor that solves them roughly, and its report."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from metaot import Dense, DualPotentials, Geometry, Grid, Problem, Sinkhorn, solve
from metaot.amortize import Predictor
from metaot.data.base import ProblemSet
from metaot.evaluation import Report, evaluate

PLAIN = Sinkhorn(accelerated=False)


@dataclass(frozen=True)
class Blobs(ProblemSet):
    """Two blobs on the 8 x 8 grid, with atoms without mass."""

    batch: int = 1
    eps: tuple[float, float] = (1e-2, 1e-1)
    dense: bool = False

    @property
    def geometry(self) -> Geometry:
        grid = Grid(8, 8)
        return Dense(grid.cost_rows(slice(None))) if self.dense else grid

    def weights(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rand = partial(torch.rand, generator=generator, dtype=torch.float64)
        centres, widths = rand(2, self.batch, 2, 1, 2), 0.1 + 0.1 * rand(2, self.batch, 2, 1)
        distances = (Grid(8, 8).points[0] - centres).square().sum(-1)
        blobs = ((-distances / (2 * widths**2)).exp().sum(2) - 0.05).clamp_min(0)
        a, b = blobs / blobs.sum(-1, keepdim=True)
        return a, b


@dataclass(frozen=True)
class ScaledBlobs(ProblemSet):
    """The same, each problem with its own matrix: a multiple of the grid's, and eps in the same proportion."""

    batch: int = 1
    eps: tuple[float, float] = (1e-2, 1e-1)

    @property
    def geometry(self) -> None:
        return None

    def weights(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return Blobs(self.batch).weights(generator)

    def sample(self, generator: torch.Generator) -> Problem:
        problem = Blobs(self.batch, self.eps, dense=True).sample(generator)
        scale = 2.0 ** torch.arange(self.batch, dtype=torch.float64)
        C = scale[:, None, None] * problem.geometry.cost_rows(slice(None))
        return Problem(problem.a, problem.b, Dense(C), scale * problem.eps)


class Rough(Predictor):
    """What a few plain steps from zeros give."""

    def predict(self, problem: Problem) -> DualPotentials:
        solution = solve(problem, solver=PLAIN, tol=1e-12, max_steps=4)
        return DualPotentials.from_f(problem, solution.potentials.f)


class Exact(Predictor):
    def predict(self, problem: Problem) -> DualPotentials:
        return solve(problem, tol=1e-11).potentials


def quick(predictor: Predictor | None = None, *, dense: bool = False, **settings: Any) -> Report:
    """Run the protocol with few problems and little timing."""
    defaults = {"eps": (1e-1,), "instances": 6, "seconds": 0.0, "tolerances": (1e-2, 1e-3)}
    return evaluate(predictor or Rough(), Blobs(dense=dense), **{**defaults, **settings})


@cache
def report() -> Report:
    return quick(eps=(1e-1, 5e-2))


def drawn(report: Report, eps: float) -> Problem:
    """Return the problems of a report."""
    return Blobs(report.instances, (eps, eps)).sample(torch.Generator().manual_seed(report.seed))
