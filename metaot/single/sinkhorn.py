"""Over-relaxed Sinkhorn in the scaling domain, as `metaot.solvers.sinkhorn`, for one problem."""

import math
from dataclasses import replace

import numpy as np

from metaot.single.plan import Array, DenseProblem, Refinement
from metaot.single.relaxation import Relaxation, expected_factor
from metaot.single.scalings import Scalings
from metaot.single.spread import spread

_REACH = 1e15
"""Marginals within this factor of the weights are near enough for scalings, and scalings are kept below it."""

_HIGHEST = 2.0
"""The L1 error is never above it without over-relaxation."""


def sinkhorn(
    problem: DenseProblem,
    f: Array,
    *,
    tol: float,
    max_steps: int,
    plan: tuple[Array, Array] | None = None,
    relaxed: bool = True,
    most_ahead: float = math.inf,
) -> Refinement:
    """Step from f until the error is at most `tol`; stop early when more than `most_ahead` steps are in sight.

    `plan` is that of f, where it is known. The error is that of the source's marginal, plus the target's where
    over-relaxation has left it.
    """
    a, b, steps = problem.a, problem.b, 0
    relaxation = Relaxation(relaxed, lambda: expected_factor(spread(problem.C, a, b)))
    with np.errstate(all="ignore"):
        while True:
            start = steps
            K, g = plan or problem.best_plan(f)
            scalings = Scalings(a, b, K.dot, K.T.dot)
            scalings.rows[:], scalings.columns[:] = K.sum(1), b
            far = bool((scalings.rows * _REACH < a).any())
            while True:
                error = scalings.error()
                due = relaxation.shown(steps, error)
                hopeless = due and relaxation.ahead(error, tol) > most_ahead
                if not error > tol or steps >= max_steps or hopeless:
                    if relaxed and math.isnan(error) and steps > start:  # it has left floating point
                        rest = sinkhorn(problem, f, tol=tol, max_steps=max_steps - start, relaxed=False)
                        return replace(rest, steps=rest.steps + start)
                    return Refinement(f + np.log(scalings.u), error, steps)
                if far or ((due or error > _HIGHEST) and scalings.u.max() * scalings.v.max() > _REACH):
                    break
                scalings.step(relaxation.omega)
                steps += 1
            f, plan = problem.best_f(g) if far else f + np.log(scalings.u), None
            steps += far
