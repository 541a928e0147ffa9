"""GeomLoss: annealed, symmetrised Sinkhorn. It has no tolerance, so its settings are swept."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from geomloss import ot, sinkhorn_divergence

from benchmarks.discrete.check import plan_error, potentials_error
from benchmarks.discrete.methods.base import PEER, Method
from benchmarks.discrete.methods.ours import ModelStart, log_scalings
from benchmarks.discrete.problems import Family, Instance


@final
@dataclass(frozen=True)
class GeomDense(Method):
    """`geomloss.ot.solve` on the support, with more and more iterations (`tol` is accepted there, not used)."""

    def suits(self, family: Family) -> bool:
        return family.size == 1 and family.entries <= 2e6

    def settings(self, target: float) -> list[int]:
        return [round(5 * 2 ** (k / 2)) for k in range(20)]

    def prepare(self, instance: Instance) -> tuple[Any, ...]:
        return (*(torch.from_numpy(z) for z in (instance.cost, instance.a, instance.b)), instance.eps)

    def solve(self, inputs: tuple[Any, ...], setting: int) -> Any:
        cost, a, b, eps = inputs
        return ot.solve(cost, reg=eps, a=a, b=b, max_iter=int(setting)).plan

    def error(self, instance: Instance, output: Any) -> float:
        return plan_error(instance, output.numpy())


@final
@dataclass(frozen=True)
class GeomImages(Method):
    """Its multiscale solver for images of 2^k pixels, with more and more temperatures (`scaling` towards one).

    Its pixels are 1/N apart and its cost is |x - y|^2 / 2; ours are 1/(N - 1) apart.
    """

    def suits(self, family: Family) -> bool:
        return family.size == 1 and family.images and family.atoms in {64**2, 128**2}

    def settings(self, target: float) -> list[float]:
        return [1 - 0.5 / 2**k for k in range(10)]

    def prepare(self, instance: Instance) -> tuple[torch.Tensor, torch.Tensor, float]:
        problem = instance.problem
        side = problem.geometry.sizes[0]
        a, b = (w.reshape(1, 1, side, side) for w in (problem.a, problem.b))
        return a, b, instance.eps / self._unit(instance)

    @staticmethod
    def _unit(instance: Instance) -> float:
        side = instance.problem.geometry.sizes[0]
        return 2 * side**2 / (side - 1) ** 2

    def solve(self, inputs: tuple[torch.Tensor, torch.Tensor, float], setting: float) -> Any:
        a, b, eps = inputs
        return sinkhorn_divergence(a, b, p=2, blur=eps**0.5, scaling=setting, debias=False, potentials=True)

    def error(self, instance: Instance, output: Any) -> float:
        f, g = (np.asarray(z).reshape(-1) * self._unit(instance) for z in output)
        return potentials_error(instance, *log_scalings(instance.problem, f, g))


def methods(start: ModelStart) -> list[Method]:
    return [
        GeomDense("GeomLoss", "GeomLoss", PEER),
        GeomImages("GeomLoss, multiscale images", "GeomLoss", PEER),
    ]
