"""OTT-JAX (ott-jax.readthedocs.io), its Sinkhorn algorithm started from potentials.

JAX compiles for each size, so all atoms are kept. Atoms without mass get the smallest positive weight, because
OTT's grids return NaN for zeros. A `Grid` with the cost "sqeuclidean" becomes OTT's separable grid, any other
geometry its cost matrix. To call OTT yourself:

    out = Sinkhorn()(ott.linear_problem(problem), init=ott.init(problem, model))

The precision is that of JAX: float32, unless `jax.config.update("jax_enable_x64", True)`.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaot.adapters.support import Array, Init, library, one, solved, without_mass_completed
from metaot.geometry import Grid
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers.solution import Solution


def linear_problem(problem: Problem) -> Any:
    """Return one problem as OTT's `LinearProblem`."""
    single, _ = one(problem)
    linear = library("ott.problems.linear.linear_problem", "peers")
    a, b = (_array(_positive(weights)) for weights in (single.a, single.b))
    return linear.LinearProblem(_geometry(single), a, b)


def init(problem: Problem, init: Init) -> tuple[Any, Any]:
    """Return the argument `init` of OTT's `Sinkhorn` in `lse_mode`, its default, for one problem.

    These are f + eps log a and g + eps log b; OTT uses the first.
    """
    return _absorbed(*one(problem, init))


def sinkhorn(
    problem: Problem, *, init: Init | None = None, tol: float = 1e-6, max_steps: int = 10_000, **options: Any
) -> Solution:
    """Solve problems by OTT's `Sinkhorn`, one after the other, compiled.

    `tol` is the L1 error of one marginal, the other being exact; OTT tests it every 10 iterations, unless
    `inner_iterations` says otherwise. In float32 a tol below about 1e-5 is out of reach. `options` are settings of
    OTT's `Sinkhorn`, hashable.
    """
    if not options.setdefault("lse_mode", True):
        raise ValueError("starts are potentials: lse_mode must be true; for scalings, call OTT with exp(init/eps)")
    compiled = _compiled(tuple(sorted({"threshold": tol, "max_iterations": max_steps, **options}.items())))

    def run(single: Problem, guess: DualPotentials | None) -> tuple[DualPotentials, float, int]:
        start = None if guess is None else _absorbed(single, guess)
        *found, steps = compiled(linear_problem(single), start)
        pairs = zip(found, _logarithms(single), strict=True)
        f, g = (torch.from_numpy(np.asarray(F, np.float64) - log).to(single.a) for F, log in pairs)
        potentials = without_mass_completed(single, f, g)
        return potentials, float(marginal_error(single, potentials)), int(steps)

    return solved(problem, init, run, tol=tol, max_steps=max_steps, solver="OTT Sinkhorn")


@lru_cache(maxsize=32)
def _compiled(settings: tuple[tuple[str, Any], ...]) -> Any:
    """Return OTT's solver with these settings as a compiled function of a problem and a start."""
    jax, module = library("jax", "peers"), library("ott.solvers.linear.sinkhorn", "peers")
    solver = module.Sinkhorn(**dict(settings))

    def run(linear: Any, start: Any) -> tuple[Any, Any, Any]:
        out = solver(linear, init=start)
        return out.f, out.g, out.n_iters

    return jax.jit(run)


def _geometry(problem: Problem) -> Any:
    geometry, eps = problem.geometry, float(problem.eps)
    if isinstance(geometry, Grid) and geometry.cost_name == "sqeuclidean":
        axes = [_array(axis.numpy(force=True)) for axis in geometry.axes]
        return library("ott.geometry.grid", "peers").Grid(x=axes, epsilon=eps)
    C = geometry.cost_rows(slice(None)).numpy(force=True)
    return library("ott.geometry.geometry", "peers").Geometry(cost_matrix=_array(C), epsilon=eps)


def _positive(weights: Tensor) -> Array:
    """Return the weights, with the smallest number of JAX's precision instead of zeros."""
    jax, numpy = library("jax", "peers"), library("jax.numpy", "peers")
    tiny = float(numpy.finfo(numpy.float64 if jax.config.jax_enable_x64 else numpy.float32).tiny)
    return np.maximum(weights.numpy(force=True), tiny)


def _logarithms(problem: Problem) -> tuple[Array, Array]:
    """Return eps log a and eps log b, by which OTT's potentials differ from metaot's."""
    eps = float(problem.eps)
    return eps * np.log(_positive(problem.a)), eps * np.log(_positive(problem.b))


def _absorbed(problem: Problem, potentials: DualPotentials) -> tuple[Any, Any]:
    log_a, log_b = _logarithms(problem)
    return _array(potentials.f.numpy(force=True) + log_a), _array(potentials.g.numpy(force=True) + log_b)


def _array(values: Array) -> Any:
    return library("jax.numpy", "peers").asarray(values)
