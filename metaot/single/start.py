"""Whether to set out from a guess or from zeros."""

import math
from typing import final

import numpy as np

from metaot.single.plan import Alternating, Array, DenseProblem, distance

GOOD = 0.01
"""L1 error of a start up to which it is taken without comparison."""

HUGE = 1e8
"""Potentials beyond this many eps leave too few digits for the cost."""

DOUBTFUL = 0.1
"""L1 error of a start above which it must beat two steps from zeros by dual value, and halve the error of one."""


def better_start(problem: DenseProblem, f: Array | None) -> tuple[Array, tuple[Array, Array]]:
    """Return the guess, or zeros where there is none, or where zeros are the better start; and the best plan."""
    zeros = np.zeros_like(problem.a)
    f = zeros if f is None else f - f @ problem.a
    if not np.abs(f).max() <= HUGE:
        f = zeros
    if f is zeros:
        return zeros, problem.best_plan(zeros)
    K, g = problem.best_plan(f)
    error, value = distance(K.sum(1), problem.a), float(f @ problem.a + g @ problem.b)
    if is_better(Absorbed(problem, f, K, g), value, error):
        return f, (K, g)
    return zeros, problem.best_plan(zeros)


@final
class Absorbed(Alternating):
    """A problem that is asked by products with the plan K of potentials f and g, without exponentials of its size.

    Where entries of K that have become zero may count, the problem itself is asked.
    """

    def __init__(self, problem: DenseProblem, f: Array, K: Array, g: Array) -> None:
        self.problem, self.a, self.b = problem, problem.a, problem.b
        self._f, self._g, self._K = f, g, K

    def best_g(self, f: Array) -> Array:
        u = np.exp(f - self._f)
        columns = u.dot(self._K)
        return self._g + np.log(self.b / columns) if _whole(columns, u) else self.problem.best_g(f)

    def best_f(self, g: Array) -> Array:
        v = np.exp(g - self._g)
        rows = self._K.dot(v)
        return self._f + np.log(self.a / rows) if _whole(rows, v) else self.problem.best_f(g)


def _whole(sums: Array, scaling: Array) -> bool:
    """Tell whether all sums are far above what entries below the smallest number could have added."""
    lost = len(scaling) * float(scaling.max()) * _TINY
    return 1e18 * lost < float(sums.min()) and float(sums.max()) < math.inf


_TINY = float(np.finfo(np.float64).tiny)


def is_better(problem: Alternating, value: float, error: float) -> bool:
    """Tell whether a start with this dual value and error is better than zeros.

    A good one is; others must have a higher dual value than zeros, and doubtful ones must be clearly better
    than what the first steps from zeros lead to.
    """
    if error <= GOOD:
        return True
    a, b = problem.a, problem.b
    g = problem.best_g(np.zeros_like(a))
    if not value >= g @ b:
        return False
    if error <= DOUBTFUL:
        return True
    first = problem.best_f(g)
    g = problem.best_g(first)
    second = problem.best_f(g)
    rival = distance(a * np.exp(first - second), a)
    return bool(value >= second @ a + g @ b) and error <= 0.5 * rival
