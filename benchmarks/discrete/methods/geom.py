"""GeomLoss: annealed, symmetrised Sinkhorn. It has no tolerance, so its settings are swept.

Its multiscale solver for images wants a blur below the width of a pixel, and KeOps: large images are left out.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from geomloss import ot

from benchmarks.discrete.check import plan_error
from benchmarks.discrete.methods.base import PEER, Method
from benchmarks.discrete.methods.ours import ModelStart
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


def methods(start: ModelStart) -> list[Method]:
    return [GeomDense("GeomLoss", "GeomLoss", PEER)]
