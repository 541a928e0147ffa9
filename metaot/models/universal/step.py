"""The Sinkhorn step inside the universal network: along the axes of a grid in numpy, elsewhere in torch."""

from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import single
from metaot.geometry.base import expand_eps
from metaot.models.alone import Array
from metaot.potentials import c_transform
from metaot.problem import Problem


def sinkhorn_step(
    problem: Problem, f: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Return the next f and the marginal a - P 1 that the plan of f misses, float32; of a flat batch."""
    kernels = problem.geometry.axis_kernels(problem.eps, single.LARGEST) if problem.a.is_cpu else None
    if kernels is None:
        return _anywhere(problem, f)
    step = GridStep(problem, kernels)
    following, missing = step(f.detach().double().numpy() / step.eps[:, None])
    following *= step.eps[:, None]
    return torch.from_numpy(following.astype(np.float32)), torch.from_numpy(missing.astype(np.float32))


@final
class GridStep:
    """The same of a flat batch on a CPU, from products along the axes of a grid, except where these are not right.

    Potentials are arrays of float64, in units of eps.
    """

    def __init__(self, problem: Problem, kernels: single.Kernels | None) -> None:
        self._problem, self.kernels = problem, kernels
        self.a, self.b = (weights.detach().double().numpy() for weights in (problem.a, problem.b))
        eps = problem.eps
        self.eps = eps.double().numpy() if isinstance(eps, Tensor) else np.full(len(self.a), eps)

    def __call__(self, f: Array) -> tuple[Array, Array]:
        """Return the next f, and a - P 1."""
        if self.kernels is None:
            return self._elsewhere(self._problem, f, self.eps)
        found = single.step_on_grid_each(self.kernels, self.a, self.b, f, threads=torch.get_num_threads())
        if len(found.lost):
            part = self._problem[torch.from_numpy(found.lost)]
            found.f[found.lost], found.missing[found.lost] = self._elsewhere(
                part, f[found.lost], self.eps[found.lost]
            )
        return found.f, found.missing

    def _elsewhere(self, problem: Problem, f: Array, eps: Array) -> tuple[Array, Array]:
        following, missing = (
            one.double().numpy() for one in _anywhere(problem, torch.from_numpy(f * eps[:, None]))
        )
        return np.ascontiguousarray(following / eps[:, None]), np.ascontiguousarray(missing)


def _anywhere(problem: Problem, f: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
    f = f.to(problem.a)
    following = c_transform(problem.T, c_transform(problem, f))
    excess = ((f - following) / expand_eps(problem.eps, f)).clamp_max(600)
    return following.float(), (problem.a - problem.a * excess.exp()).float()
