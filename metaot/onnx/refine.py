"""Refine a prediction in numpy: Sinkhorn, then Newton on the atoms with mass; `metaot.single` does the work."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from metaot import single
from metaot.onnx.costs import Costs
from metaot.single import Refined
from metaot.single.choose import PATIENCE
from metaot.single.plan import distance

Array = np.ndarray


@final
@dataclass(frozen=True)
class Limits:
    """When to stop."""

    tol: float
    max_steps: int

    def after(self, steps: int) -> "Limits":
        """Return what is left."""
        return Limits(self.tol, self.max_steps - steps)


@final
@dataclass(frozen=True)
class Instance:
    """One problem: costs, float64 weights, and a temperature in the units of the costs."""

    costs: Costs
    a: Array
    b: Array
    eps: float


@np.errstate(all="ignore")
def refine(problem: Instance, f: Array, limits: Limits) -> Refined:
    """Refine f, in the units of the cost, until the L1 error is at most `limits.tol`.

    Masses are made equal, to the last digit. A start that zeros are better than is replaced.
    """
    a, b = problem.a / problem.a.sum(), problem.b / problem.b.sum()
    costs, eps, f = problem.costs, problem.eps, f / problem.eps
    problem = Instance(costs, a, b, eps)
    if not costs.sizes or costs.highest > single.LARGEST * eps:
        return _on_support(problem, f, limits)
    kernel = single.AxesKernel([C / eps for C in costs.matrices])
    steps = min(PATIENCE, limits.max_steps)
    found = single.sinkhorn_on_axes(single.AxesProblem(kernel, a, b), f, tol=limits.tol, max_steps=steps)
    if not found.error > limits.tol or found.steps == limits.max_steps:
        return Refined(found.f * eps, found.g * eps, found.error, found.steps)
    more = _on_support(problem, found.f, limits.after(found.steps))
    return replace(more, steps=more.steps + found.steps)


def _on_support(whole: Instance, f: Array, limits: Limits) -> Refined:
    """Refine on the atoms with mass; the smaller side is the unknown of Newton."""
    costs, eps = whole.costs, whole.eps
    rows, columns = whole.a.nonzero()[0], whole.b.nonzero()[0]
    problem = single.DenseProblem(costs.block(rows, columns) / eps, whole.a[rows], whole.b[columns])
    f = f[rows]
    if len(rows) <= len(columns):
        found, _ = single.refine(problem, f, tol=limits.tol, max_steps=limits.max_steps)
        f = found.f
    else:
        start = problem.best_g(f - f @ problem.a)
        found, _ = single.refine(problem.T, start, tol=limits.tol, max_steps=limits.max_steps)
        f = problem.best_f(found.f)
    g = _log_sums(lambda j: costs.block(rows, j), f + np.log(problem.a), eps, len(whole.b))
    best = _log_sums(lambda i: costs.block(i, columns).T, g[columns] + np.log(problem.b), eps, len(whole.a))
    error = distance(problem.a * np.exp(f - best[rows]), problem.a)
    best[rows] = f
    return Refined(best * eps, g * eps, error, found.steps)


_BLOCK = 2**22
"""Entries of a matrix that are made at once."""


def _log_sums(block: Callable[[Array], Array], h: Array, eps: float, count: int) -> Array:
    """Return -log sum_i exp(h_i - C_ij/eps) for all atoms j; `block` gives these columns of C."""
    step = max(1, _BLOCK // len(h))
    parts = []
    for k in range(0, count, step):
        z = h[:, None] - block(np.arange(k, min(k + step, count))) / eps
        top = z.max(0)
        parts.append(-top - np.log(np.exp(z - top).sum(0)))
    return np.concatenate(parts)
