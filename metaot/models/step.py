"""The Sinkhorn step inside a prediction: compiled code on the axes of a grid on a CPU, torch elsewhere."""

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from metaot import single
from metaot.geometry.base import expand_eps
from metaot.potentials import c_transform
from metaot.problem import Problem

Array = np.ndarray


@final
class SinkhornStep:
    """Sinkhorn steps of a flat batch of problems; potentials are tensors or arrays, batch n."""

    def __init__(self, problem: Problem) -> None:
        eps = problem.eps.detach() if isinstance(problem.eps, Tensor) else problem.eps
        problem = Problem.trusted(problem.a.detach(), problem.b.detach(), problem.geometry, eps)
        self._problem = problem
        self._kernels = problem.geometry.axis_kernels(problem.eps, single.LARGEST) if problem.a.is_cpu else None
        if self._kernels is not None:
            self._a, self._b = (weights.double().numpy() for weights in (problem.a, problem.b))
            self._eps = eps.double().numpy()[:, None] if isinstance(eps, Tensor) else eps

    @torch.no_grad()
    def __call__(self, f: Any) -> tuple[Any, Any]:
        """Return the next f and the marginal a - P 1 that the plan of f misses."""
        if isinstance(f, Tensor):
            if self._kernels is None:
                return _by_transforms(self._problem, f)
            following, missing = self(f.detach().double().numpy())
            return torch.from_numpy(following), torch.from_numpy(missing)
        if self._kernels is None:
            return _as_arrays(_by_transforms(self._problem, torch.from_numpy(f)))
        threads = torch.get_num_threads()
        found = single.step_on_grid_each(self._kernels, self._a, self._b, f / self._eps, threads=threads)
        lost = found.lost
        found.f[lost] = 0
        following = found.f * self._eps
        if len(lost):  # their numbers leave floating point
            part = _by_transforms(self._problem[torch.from_numpy(lost)], torch.from_numpy(f[lost]))
            following[lost], found.missing[lost] = _as_arrays(part)
        return following, found.missing


def _as_arrays(tensors: tuple[Tensor, Tensor]) -> tuple[Array, Array]:
    f, missing = (tensor.double().numpy() for tensor in tensors)
    return f, missing


def _by_transforms(problem: Problem, f: Tensor) -> tuple[Tensor, Tensor]:
    f = f.to(problem.a)
    following = c_transform(problem.T, c_transform(problem, f))
    excess = ((f - following) / expand_eps(problem.eps, f)).clamp_max(600)
    return following, problem.a - problem.a * excess.exp()
