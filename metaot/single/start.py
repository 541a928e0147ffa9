"""Whether to set out from a guess or from zeros."""

import numpy as np

from metaot.single.plan import Array, best_plan, c_transform, distance

GOOD = 0.01
"""L1 error of a start up to which it is taken without comparison."""

DOUBTFUL = 0.1
"""L1 error of a start above which it must beat two steps from zeros by dual value, and halve the error of one."""


def better_start(C: Array, a: Array, b: Array, f: Array | None) -> Array:
    """Return the guess, or zeros where there is none, or where zeros are the better start."""
    zeros = np.zeros_like(a)
    if f is None or not np.isfinite(f).all():
        return zeros
    f = f - f @ a
    K, g = best_plan(C, a, b, f)
    error, value = distance(K.sum(1), a), f @ a + g @ b
    if error <= GOOD:
        return f
    g = c_transform(C, a, zeros)
    if not value >= g @ b:
        return zeros
    return f if error <= DOUBTFUL or _beats_steps(C, a, b, g, value, error) else zeros


def _beats_steps(C: Array, a: Array, b: Array, g: Array, value: float, error: float) -> bool:
    """Tell whether a start is clearly better than what two steps from zeros lead to; g is the best for zeros."""
    first = c_transform(C.T, b, g)
    g = c_transform(C, a, first)
    second = c_transform(C.T, b, g)
    rival = distance(a * np.exp(first - second), a)
    return bool(value >= second @ a + g @ b) and error <= 0.5 * rival
