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
    return _anywhere(problem, f) if kernels is None else _on_axes(problem, f, kernels)


@final
class StepAlone:
    """The same of one problem on a CPU, a batch of one with one eps, for vectors of numpy's."""

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.eps, float)
        self._problem, self._eps = problem, problem.eps
        self._kernel = problem.geometry.axis_kernels(problem.eps, single.LARGEST)
        self._weights = problem.a.detach().double().numpy(), problem.b.detach().double().numpy()

    def __call__(self, f: Array) -> tuple[Array, Array]:
        if self._kernel is not None:
            found = single.step_on_grid_each(self._kernel, *self._weights, f[None].astype(np.float64) / self._eps)
            if len(found.lost) == 0:
                return (found.f[0] * self._eps).astype(np.float32), found.missing[0].astype(np.float32)
        following, missing = _anywhere(self._problem, torch.from_numpy(f)[None])
        return following.numpy()[0], missing.numpy()[0]


def _anywhere(problem: Problem, f: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
    f = f.to(problem.a)
    following = c_transform(problem.T, c_transform(problem, f))
    excess = ((f - following) / expand_eps(problem.eps, f)).clamp_max(600)
    return following.float(), (problem.a - problem.a * excess.exp()).float()


def _on_axes(problem: Problem, f: Float[Tensor, "batch n"], kernels: single.Kernels) -> tuple[Tensor, Tensor]:
    """Return the same from products along the axes of a grid, except where these are not right."""
    eps = problem.eps.double().numpy()[:, None] if isinstance(problem.eps, Tensor) else problem.eps
    a, b, start = (values.detach().double().numpy() for values in (problem.a, problem.b, f))
    found = single.step_on_grid_each(kernels, a, b, start / eps, threads=torch.get_num_threads())
    following, missing = (torch.from_numpy(x.astype(np.float32)) for x in (found.f * eps, found.missing))
    if len(found.lost):
        lost = torch.from_numpy(found.lost)
        following[lost], missing[lost] = _anywhere(problem[lost], f[lost])
    return following, missing
