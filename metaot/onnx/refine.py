"""Refine a prediction in numpy: Sinkhorn, then Newton on the atoms with mass; `metaot.single` does the work."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from metaot import single
from metaot.onnx.costs import Costs
from metaot.single.plan import distance

Array = np.ndarray

PATIENCE = 300
"""Sinkhorn steps before Newton takes over."""

FACTORISED = 2048
"""Atoms with mass on the smaller side up to which Newton may take over."""

_HOPELESS = 60.0
"""Sinkhorn steps in sight that are worth the few of Newton."""


@final
@dataclass(frozen=True)
class Refined:
    """Potentials of one problem on all atoms, the L1 error of their plan, and the steps."""

    f: Array
    g: Array
    error: float
    steps: int


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
        f, steps = _by_turns(problem, f, limits)
    else:
        g, steps = _by_turns(problem.T, problem.best_g(f - f @ problem.a), limits)
        f = problem.best_f(g)
    g = _log_sums(lambda j: costs.block(rows, j), f + np.log(problem.a), eps, len(whole.b))
    best = _log_sums(lambda i: costs.block(i, columns).T, g[columns] + np.log(problem.b), eps, len(whole.a))
    error = distance(problem.a * np.exp(f - best[rows]), problem.a)
    best[rows] = f
    return Refined(best * eps, g * eps, error, steps)


def _by_turns(problem: single.DenseProblem, f: Array, limits: Limits) -> tuple[Array, int]:
    """Return f after Sinkhorn, and Newton where that is the shorter way; and the steps."""
    start, plan = single.better_start(problem, f)
    suited = len(problem.a) <= FACTORISED
    patience, ahead = (PATIENCE, _HOPELESS) if suited else (limits.max_steps, math.inf)
    steps = min(patience, limits.max_steps)
    found = single.sinkhorn(problem, start, tol=limits.tol, max_steps=steps, plan=plan, most_ahead=ahead)
    if not (suited and found.error > limits.tol and found.steps < limits.max_steps):
        return found.f, found.steps
    more = single.newton(problem, found.f, tol=limits.tol, max_steps=limits.max_steps - found.steps)
    return more.f, found.steps + more.steps


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
