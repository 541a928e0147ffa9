"""Accelerated Sinkhorn in the scaling domain, as `metaot.solvers.sinkhorn`, for one problem."""

import math

import numpy as np

from metaot.single.anderson import FARTHEST, Anderson, bounded
from metaot.single.pace import Pace
from metaot.single.plan import Array, DenseProblem, Refinement, distance

_HIGHEST = 2.0
"""The L1 error of plain steps is never above it."""


def sinkhorn(
    problem: DenseProblem,
    f: Array,
    *,
    tol: float,
    max_steps: int,
    plan: tuple[Array, Array] | None = None,
    accelerated: bool = True,
    most_ahead: float = math.inf,
) -> Refinement:
    """Step from f until the error is at most `tol`; stop early when more than `most_ahead` steps are in sight.

    `plan` is that of f, where it is known. The error is that of the source's marginal; the target's is exact.
    """
    a, b, steps = problem.a, problem.b, 0
    path, pace, ahead = Anderson(a) if accelerated else None, Pace(), None
    with np.errstate(all="ignore"):
        while True:
            K, g = plan or problem.best_plan(f)
            x, u, rows = f, np.ones_like(a), K.sum(1)
            far = bool((rows * math.exp(FARTHEST) < a).any())
            while True:
                marginal = u * rows
                error = distance(marginal, a)
                due = pace.shown(steps, error)
                hopeless = (due and pace.ahead(error, tol) > most_ahead) or (steps == 0 and math.isnan(error))
                if error <= tol or steps >= max_steps or hopeless:
                    return Refinement(x, error, steps)
                steps += 1
                if far:
                    x = problem.best_f(g) if path is None or x is not ahead else path.back()
                    break
                residual = np.log(a / marginal)
                x = x + bounded(residual) if path is None else path.next(x, residual, error)
                if (due or not error <= _HIGHEST) and not np.ptp(x - f) <= FARTHEST:
                    ahead = x
                    break
                u = np.exp(x - f)
                rows = K.dot(b / u.dot(K))
            f, plan = x, None
