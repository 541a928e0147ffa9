"""Sinkhorn, and Newton where that is the shorter way; from the first step, between few rows and many columns."""

import math
from dataclasses import replace

from metaot.single.newton import newton
from metaot.single.plan import Array, DenseProblem, Refinement
from metaot.single.sharp import sharp_newton
from metaot.single.sinkhorn import sinkhorn
from metaot.single.spread import spread
from metaot.single.start import better_start

PATIENCE = 300
"""Sinkhorn steps before Newton takes over."""

FACTORISED = 1024
"""Most unknowns whose Hessian is factorised."""

_NEWTON_STEPS = 16.0
"""Steps of Newton that must be cheaper than what is ahead of Sinkhorn: three are needed, in colder caches."""


_LARGE, _LONG, _LOOKED_AT = 2**14, 8, 512
"""Entries, and columns for each row, from which on a choice of entries pays; columns that are looked at before."""

_SHARP = 30.0
"""A spread of the cost, in units of eps, from which on Sinkhorn takes hundreds of steps."""


def refine(problem: DenseProblem, f: Array | None, *, tol: float, max_steps: int) -> tuple[Refinement, bool]:
    """Step from f, or from zeros where these are the better start; tell whether Newton took part.

    The smaller side is the unknown of Newton.
    """
    if is_sharp(problem):
        return sharp_newton(problem, f, tol=tol, max_steps=max_steps), True
    start, plan = better_start(problem, f)
    suited = min(problem.C.shape) <= FACTORISED
    patience = min(PATIENCE, max_steps) if suited else max_steps
    ahead = newton_in_steps(*problem.C.shape)
    result = sinkhorn(problem, start, tol=tol, max_steps=patience, plan=plan, most_ahead=ahead)
    left = max_steps - result.steps
    if not (suited and result.error > tol and left > 0):
        return result, False
    more = _newton(problem, result.f, tol=tol, max_steps=left)
    return replace(more, steps=more.steps + result.steps), True


def _newton(problem: DenseProblem, f: Array, *, tol: float, max_steps: int) -> Refinement:
    if len(problem.a) <= len(problem.b):
        return newton(problem, f, tol=tol, max_steps=max_steps)
    found = newton(problem.T, problem.best_g(f), tol=tol, max_steps=max_steps)
    return replace(found, f=problem.best_f(found.f))


def is_sharp(problem: DenseProblem) -> bool:
    """Tell whether there are few rows and many columns, and Sinkhorn would take very long between them."""
    k, l = problem.C.shape
    if k > FACTORISED or k * l < _LARGE or l < _LONG * k:
        return False
    columns = slice(None, None, max(1, l // _LOOKED_AT))
    b = problem.b[columns]
    return spread(problem.C[:, columns], problem.a, b / b.sum()) > _SHARP


def newton_in_steps(rows: int, columns: int) -> float:
    """Return the Sinkhorn steps that take the time of the few Newton steps after which the problem is solved.

    Infinity, where Newton is no way. In microseconds, measured on one core of 2.6 GHz; only their ratio counts.
    """
    k, l = sorted((rows, columns))
    if k > FACTORISED:
        return math.inf
    sinkhorn = 22 + 3e-4 * k * l
    newton = 150 + 0.012 * k * l + 1e-4 * k * k * l
    return _NEWTON_STEPS * newton / sinkhorn
