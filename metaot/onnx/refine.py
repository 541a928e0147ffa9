"""Refine a prediction in numpy: Sinkhorn, then Newton on the atoms with mass; `metaot.single` does the work."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, final

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
class Rows(NamedTuple):
    """Potentials of many problems, a row for each, their L1 errors and their steps."""

    f: Array
    g: Array
    error: Array
    steps: Array


@final
@dataclass(frozen=True)
class Instance:
    """One problem: costs, float64 weights, and a temperature in the units of the costs."""

    costs: Costs
    a: Array
    b: Array
    eps: float


def refine_rows(costs: Costs, weights: tuple[Array, Array], eps: Array, f: Array, limits: Limits) -> Rows:
    """Refine the rows of f for those of both weights; eps is one number or one for each.

    On a grid at one temperature without a call for each, as far as that leads; the others one by one.
    """
    a, b = weights
    found, left = Rows(f, np.empty_like(b), np.zeros(len(a)), np.zeros(len(a), dtype=np.int64)), np.arange(len(a))
    kernel = costs.axis_kernels(float(eps[0])) if len(a) > 1 and len(eps) == 1 else None
    if kernel is not None:
        a, b = (w / w.sum(-1, keepdims=True) for w in (a, b))
        steps = min(PATIENCE, limits.max_steps)
        each = single.sinkhorn_on_grid_each(kernel, a, b, f / eps, tol=limits.tol, max_steps=steps)
        found, left = (
            Rows(each.f * eps, each.g * eps, each.error, each.steps),
            (~(each.error <= limits.tol)).nonzero()[0],
        )
    for k in left.tolist():
        problem = Instance(costs, a[k], b[k], float(eps[k if len(eps) > 1 else 0]))
        more = refine(problem, found.f[k], limits.after(int(found.steps[k])))
        found.f[k], found.g[k], found.error[k] = more.f, more.g, more.error
        found.steps[k] += more.steps
    return found


@np.errstate(all="ignore")
def refine(problem: Instance, f: Array, limits: Limits) -> Refined:
    """Refine f, in the units of the cost, until the L1 error is at most `limits.tol`.

    Masses are made equal, to the last digit. A start that zeros are better than is replaced.
    """
    a, b = problem.a / problem.a.sum(), problem.b / problem.b.sum()
    costs, eps, f = problem.costs, problem.eps, f / problem.eps
    problem = Instance(costs, a, b, eps)
    kernel = costs.axis_kernels(eps)
    if kernel is None:
        return _on_support(problem, f, limits)
    steps = min(PATIENCE, limits.max_steps)
    found = single.sinkhorn_on_grid(kernel, a, b, f, tol=limits.tol, max_steps=steps)
    if found is None:
        return _on_support(problem, f, limits)
    if not found.error > limits.tol or found.steps == limits.max_steps:
        return Refined(found.f * eps, found.g * eps, found.error, found.steps)
    more = _on_support(problem, found.f, limits.after(found.steps))
    return replace(more, steps=more.steps + found.steps)


def _on_support(whole: Instance, f: Array, limits: Limits) -> Refined:
    """Refine on the atoms with mass."""
    costs, eps = whole.costs, whole.eps
    rows, columns = whole.a.nonzero()[0], whole.b.nonzero()[0]
    C = costs.block(rows, columns)
    C /= eps
    problem = single.DenseProblem(C, whole.a[rows], whole.b[columns])
    found, _ = single.refine(problem, f[rows], tol=limits.tol, max_steps=limits.max_steps)
    f = found.f
    g = _best(costs, rows, f * eps + np.log(problem.a) * eps, eps, len(whole.b), transposed=True)
    best = _best(costs, columns, g[columns] + np.log(problem.b) * eps, eps, len(whole.a), transposed=False)
    error = distance(problem.a * np.exp(f - best[rows] / eps), problem.a)
    best[rows] = f * eps
    return Refined(best, g, error, found.steps)


def _best(costs: Costs, atoms: Array, h: Array, eps: float, count: int, *, transposed: bool) -> Array:
    """Return the softmin of h, which is known on these atoms, on all atoms of the other side."""
    softmin = costs.softmin(eps, transposed=transposed)
    if softmin is None:
        block = (lambda j: costs.block(atoms, j)) if transposed else (lambda i: costs.block(i, atoms).T)
        return _log_sums(block, h / eps, eps, count) * eps
    everywhere = np.full(count, -np.inf)
    everywhere[atoms] = h
    return softmin(everywhere)


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
