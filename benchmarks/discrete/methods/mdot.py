"""MDOT-TNT: mirror descent with truncated Newton projections, on the support."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from mdot_tnt.mdot import mdot

from benchmarks.discrete.check import potentials_error
from benchmarks.discrete.methods.base import PEER, Method, tolerances
from benchmarks.discrete.methods.ours import ModelStart
from benchmarks.discrete.problems import Family, Instance


@final
@dataclass(frozen=True)
class Mdot(Method):
    """`mdot` under `solve_OT`, which ties the accuracy H / gamma^p to the temperature: p is set for a tolerance.

    The cost is scaled to [0, 1] as its authors recommend, so gamma = max C / eps. It smooths the marginals
    with a small part of the uniform ones: a part of its error.
    """

    def suits(self, family: Family) -> bool:
        return family.size == 1 and family.entries <= 2e7

    def settings(self, target: float) -> list[float]:
        return tolerances(target)

    def prepare(self, instance: Instance) -> tuple[Any, ...]:
        top = float(instance.cost.max())
        a, b, cost = (torch.from_numpy(z) for z in (instance.a, instance.b, instance.cost / top))
        entropy = min(float(-(w * w.log()).sum()) for w in (a, b))
        return a, b, cost, top / instance.eps, entropy

    def solve(self, inputs: tuple[Any, ...], setting: float) -> Any:
        a, b, cost, gamma, entropy = inputs
        return mdot(a, b, cost, gamma, p=math.log(entropy / setting) / math.log(gamma))

    def error(self, instance: Instance, output: Any) -> float:
        log_u, log_v = (np.asarray(z) for z in output[:2])
        return potentials_error(instance, log_u, log_v)


def methods(start: ModelStart) -> list[Method]:
    return [Mdot("MDOT-TNT", "MDOT-TNT", PEER)]
