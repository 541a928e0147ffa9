"""RegOT: C++ solvers of first and second order, on the support."""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import regot

from benchmarks.discrete.check import plan_error
from benchmarks.discrete.methods.base import PEER, PEER_FROM_MODEL, Method, tolerances
from benchmarks.discrete.methods.ours import ModelStart, log_scalings
from benchmarks.discrete.problems import Family, Instance


@final
@dataclass(frozen=True)
class Regot(Method):
    """Its tolerance is the L2 norm of the dual gradient; a start is (f, g) with g zero at its last atom."""

    solver: str = field(kw_only=True)
    iterations: int = field(kw_only=True)
    start: ModelStart | None = field(kw_only=True, default=None)

    def suits(self, family: Family) -> bool:
        fits = self.start is None or self.start.fits(family)
        return fits and family.size == 1 and family.entries <= 2e6

    def settings(self, target: float) -> list[float]:
        return tolerances(target)

    def prepare(self, instance: Instance) -> tuple[Instance, np.ndarray]:
        _ = instance.a, instance.b
        return instance, np.asfortranarray(instance.cost)

    def solve(self, inputs: tuple[Instance, np.ndarray], setting: float) -> Any:
        instance, cost = inputs
        iterations = max(50, int(self.iterations * min(1, 1e5 / cost.size)))
        run = getattr(regot, f"sinkhorn_{self.solver}")
        start = self._warm(instance)
        return run(cost, instance.a, instance.b, instance.eps, tol=setting, max_iter=iterations, **start)

    def _warm(self, instance: Instance) -> dict[str, np.ndarray]:
        if self.start is None:
            return {}
        guess = self.start.predict(instance.problem)
        log_u, log_v = log_scalings(instance.problem, guess.f.numpy(), guess.g.numpy())
        f, g = instance.eps * log_u[instance.rows], instance.eps * log_v[instance.columns]
        return {"x0": np.concatenate([f + g[-1], g[:-1] - g[-1]])}

    def error(self, instance: Instance, output: Any) -> float:
        return plan_error(instance, output.plan)

    def steps(self, output: Any) -> int:
        return output.niter


def methods(start: ModelStart) -> list[Method]:
    solvers = {"BCD": ("bcd", 10_000), "L-BFGS": ("lbfgs_dual", 2000), "Newton": ("newton", 200)}
    solvers |= {"SSNS": ("ssns", 500), "SPLR": ("splr", 2000)}
    peers = [
        Regot(f"RegOT {name}", "RegOT", PEER, solver=solver, iterations=iterations)
        for name, (solver, iterations) in solvers.items()
    ]
    warm = Regot("RegOT SSNS from our model", "RegOT", PEER_FROM_MODEL, solver="ssns", iterations=500, start=start)
    return [*peers, warm]
