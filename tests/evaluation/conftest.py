"""Blobs on a small grid, and a predictor that solves them roughly."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from metaot import Dense, DualPotentials, Geometry, Grid, Problem, Sinkhorn, solve
from metaot.amortize import Predictor
from metaot.data.base import ProblemSet
from metaot.evaluation import Report, evaluate


@dataclass(frozen=True)
class Blobs(ProblemSet):
    """Two blobs on the 8 x 8 grid, with atoms without mass."""

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


class Rough(Predictor):
    """What a few plain steps from zeros give."""

    def predict(self, problem: Problem) -> DualPotentials:
        solution = solve(problem, solver=Sinkhorn(accelerated=False), tol=1e-12, max_steps=4)
        return DualPotentials.from_f(problem, solution.potentials.f)


@pytest.fixture(scope="session")
def problems() -> ProblemSet:
    return Blobs(batch=1, eps=(1e-2, 1e-1))


@pytest.fixture(scope="session")
def dense_problems() -> ProblemSet:
    return Blobs(batch=1, eps=(1e-2, 1e-1), dense=True)


@pytest.fixture(scope="session")
def rough() -> Predictor:
    return Rough()


@pytest.fixture(scope="session")
def quick() -> Callable[..., Report]:
    """Run the protocol with few problems and little timing."""
    return partial(evaluate, instances=6, timed=1, seconds=0.0, tolerances=(1e-2, 1e-3))


@pytest.fixture(scope="session")
def report(problems: ProblemSet, rough: Predictor, quick: Callable[..., Report]) -> Report:
    return quick(rough, problems, eps=(1e-1, 5e-2))
