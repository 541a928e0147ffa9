"""The distance between sets of samples without a model, by which continuous models are measured."""

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import SampleProblem
from metaot.geometry import Points
from metaot.problem import Problem
from metaot.solvers import solve

_RELATIVE_EPS = 2e-3
"""The entropy at which bounds are taken, as a share of the mean cost: they are then close."""


@torch.no_grad()
def half_squared_distance(problem: SampleProblem) -> Float[Tensor, "*batch"]:
    """Return W_2^2 / 2 between the samples, each of equal weight: a lower bound, right to one percent.

    From entropic transport at a low temperature, whose potentials are made feasible (see `Solution.bounds`),
    instance by instance.
    """
    flat = problem.flat().to(problem.x.double())
    found = [_of_one(x, y) for x, y in zip(flat.x, flat.y, strict=True)]
    return torch.stack(found).reshape(problem.batch_shape).to(problem.x)


def _of_one(x: Tensor, y: Tensor) -> Tensor:
    a, b = (torch.full_like(z[:, 0], 1 / len(z)) for z in (x, y))
    points = Points(x, y)
    mean = (x.square().sum(-1).mean() + y.square().sum(-1).mean() - 2 * x.mean(0) @ y.mean(0)).item()
    discrete = Problem(a, b, points, max(_RELATIVE_EPS * mean, 1e-9))
    return 0.5 * solve(discrete, tol=1e-4).bounds().lower
