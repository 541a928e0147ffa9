"""OTT-JAX, compiled: Sinkhorn in the log domain and on the kernel; images on its separable `Grid`.

Small ones once more with the matrix of all pairs of pixels, which is how the published Meta OT calls it.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import geometry, grid
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from benchmarks.discrete.check import potentials_error
from benchmarks.discrete.methods.base import PEER, PEER_FROM_MODEL, Method
from benchmarks.discrete.methods.ours import ModelStart, log_scalings
from benchmarks.discrete.problems import Family, Instance

jax.config.update("jax_enable_x64", True)
SECONDS = 10
"""About how long a compiled loop may run: it cannot be interrupted."""


@final
@dataclass(frozen=True)
class Ott(Method):
    """Its threshold is the L1 error of one marginal, the other one being exact; tested every 10 iterations."""

    log_domain: bool = field(kw_only=True)
    start: ModelStart | None = field(kw_only=True, default=None)
    dense: bool = field(kw_only=True, default=False)
    compiled = True

    def suits(self, family: Family) -> bool:
        fits = self.start is None or self.start.fits(family)
        if self.dense and not (family.grid and family.name.startswith("mnist")):
            return False
        return fits and family.size == 1 and (family.grid or family.entries <= 2e7)

    def settings(self, target: float) -> list[float]:
        return [target, target / 2]

    def prepare(self, instance: Instance) -> tuple[Instance, Any, int]:
        problem = instance.problem
        a, b = (jnp.asarray(np.maximum(w.numpy(), 1e-300)) for w in (problem.a, problem.b))
        sizes = () if self.dense else getattr(problem.geometry, "sizes", ())
        matrix = None if sizes else jnp.asarray(self._all_costs(instance) if self.dense else instance.cost)
        entries = len(a) * sum(sizes) if sizes else matrix.size
        seconds = entries * (5e-9 if self.log_domain else 1e-9)
        return instance, (a, b, matrix, sizes), max(100, min(100_000, int(SECONDS / seconds)))

    def _all_costs(self, instance: Instance) -> np.ndarray:
        x, y = (points.numpy() for points in instance.problem.geometry.points)
        return ((x[:, None] - y) ** 2).sum(-1)

    def solve(self, inputs: tuple[Instance, Any, int], setting: float) -> Any:
        instance, (a, b, matrix, sizes), most = inputs
        run = partial(_run, a, b, matrix, instance.eps)
        return jax.block_until_ready(
            run(self._warm(instance), sizes=sizes, tol=setting, most=most, log_domain=self.log_domain)
        )

    def _warm(self, instance: Instance) -> tuple[np.ndarray, np.ndarray] | None:
        if self.start is None:
            return None
        guess = self.start.predict(instance.problem)
        log_u, log_v = log_scalings(instance.problem, guess.f.numpy(), guess.g.numpy())
        if self.log_domain:
            return instance.eps * log_u, instance.eps * log_v
        return np.exp(log_u), np.exp(log_v)

    def error(self, instance: Instance, output: Any) -> float:
        f, g = (np.asarray(z) / instance.eps for z in output[:2])
        return potentials_error(instance, f, g)

    def steps(self, output: Any) -> int:
        return int(output[2])


@partial(jax.jit, static_argnames=("sizes", "tol", "most", "log_domain"))
def _run(a, b, matrix, eps, init, *, sizes, tol, most, log_domain):
    if sizes:
        axes = [jnp.linspace(0, 1, size) for size in sizes]
        space = grid.Grid(x=axes, grid_size=sizes, epsilon=eps)
    else:
        space = geometry.Geometry(cost_matrix=matrix, epsilon=eps)
    solver = sinkhorn.Sinkhorn(threshold=tol, lse_mode=log_domain, max_iterations=most)
    start = {} if init is None else {"init": init}
    out = solver(linear_problem.LinearProblem(space, a, b), **start)
    return out.f, out.g, out.n_iters


def methods(start: ModelStart) -> list[Method]:
    log, kernel = {"log_domain": True}, {"log_domain": False}
    return [
        Ott("OTT log domain", "OTT", PEER, **log),
        Ott("OTT log domain, all pairs of pixels", "OTT", PEER, **log, dense=True),
        Ott("OTT scaling", "OTT", PEER, **kernel),
        Ott("OTT log domain from our model", "OTT", PEER_FROM_MODEL, **log, start=start),
        Ott("OTT scaling from our model", "OTT", PEER_FROM_MODEL, **kernel, start=start),
    ]
