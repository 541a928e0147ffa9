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
    quick = _on_axes(problem, f) if problem.a.is_cpu and isinstance(problem.eps, float) else None
    return _anywhere(problem, f) if quick is None else quick


@final
class StepAlone:
    """The same of one problem on a CPU, a batch of one with one eps, for vectors of numpy's."""

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.eps, float)
        self._problem, self._eps = problem, problem.eps
        self._K = problem.geometry.axis_kernels(problem.eps, single.LARGEST)
        self._weights = problem.a.detach().double().numpy(), problem.b.detach().double().numpy()

    def __call__(self, f: Array) -> tuple[Array, Array]:
        found = None if self._K is None else _steps(self._K, *self._weights, f[None], self._eps)
        if found is None:
            following, missing = _anywhere(self._problem, torch.from_numpy(f)[None])
            return following.numpy()[0], missing.numpy()[0]
        return found[0][0], found[1][0]


def _anywhere(problem: Problem, f: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
    f = f.to(problem.a)
    following = c_transform(problem.T, c_transform(problem, f))
    excess = ((f - following) / expand_eps(problem.eps, f)).clamp_max(600)
    return following.float(), (problem.a - problem.a * excess.exp()).float()


def _on_axes(problem: Problem, f: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor] | None:
    """Return the same from products along the axes of a grid; None without axes, and where these are not right."""
    assert isinstance(problem.eps, float)
    K = problem.geometry.axis_kernels(problem.eps, single.LARGEST)
    if K is None:
        return None
    a, b, start = (values.detach().numpy() for values in (problem.a.double(), problem.b.double(), f))
    found = _steps(K, a, b, start, problem.eps)
    return None if found is None else (torch.from_numpy(found[0]), torch.from_numpy(found[1]))


def _steps(K: single.AxesKernel, a: Array, b: Array, f: Array, eps: float) -> tuple[Array, Array] | None:
    """Return the same of rows in numpy; None where products are not right."""
    found = single.step_on_grid_each(K, a, b, f.astype(np.float64) / eps, threads=torch.get_num_threads())
    return None if found is None else ((found[0] * eps).astype(np.float32), found[1].astype(np.float32))
