"""Whether to set out from a guess or from zeros."""

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
    return (f, (K, g)) if is_better(problem, value, error) else (zeros, problem.best_plan(zeros))


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
