"""Steps on arrays by compiled code: what is packed, and what comes back."""

from typing import NamedTuple, final

import numpy as np

from metaot.core.costs import Costs
from metaot.core.method import Result

try:
    from metaot.core import _core
except ImportError:  # installed where there was no compiler
    _core = None

Array = np.ndarray

COMPILED = _core is not None
"""Whether there is compiled code."""

_BY_AXES, _BY_MATRIX, _NEWTON, _STEP, _TRANSFORM, _HARD_MINIMUM = range(6)

_WORTH_A_THREAD = 2**14
"""Atoms of all problems of a thread, from which on it is worth waking."""


def sinkhorn(
    costs: Costs,
    a: Array,
    b: Array,
    eps: Array,
    start: Array | None,
    *,
    tol: float,
    max_steps: int,
    accelerated: bool = True,
    by_axes: bool = True,
    threads: int = 1,
) -> Result:
    """Make Sinkhorn steps until the L1 error is at most `tol`, from f or from zeros where these are better.

    Weights are batch n and batch m, `eps` is batch; potentials are in the units of the cost. With `by_axes`,
    products are made axis by axis on a grid; without, with a matrix between the atoms with mass.
    """
    method = _BY_AXES if by_axes and costs.has_axes else _BY_MATRIX
    limits = (tol, max_steps, accelerated)
    return _solve_each(method, costs, (a, b, eps, start), limits, threads)


def newton(
    costs: Costs,
    a: Array,
    b: Array,
    eps: Array,
    start: Array | None,
    *,
    tol: float,
    max_steps: int,
    threads: int = 1,
) -> Result:
    """Make Newton steps in the potential of the side with fewer atoms with mass, as `sinkhorn`.

    It stops early where the error no longer falls.
    """
    return _solve_each(_NEWTON, costs, (a, b, eps, start), (tol, max_steps, True), threads)


@final
class Step(NamedTuple):
    """The f that one Sinkhorn step leads to; a - P 1 and the dual value of the f before it, with the best g."""

    f: Array
    missing: Array
    value: Array


def sinkhorn_step(costs: Costs, a: Array, b: Array, eps: Array, f: Array, *, threads: int = 1) -> Step:
    """Make one Sinkhorn step from f on the axes of a grid."""
    result = _solve_each(_STEP, costs, (a, b, eps, f), (0.0, 1, False), threads)
    return Step(result.f, result.g, result.error)


def best_potential(costs: Costs, a: Array, b: Array, eps: Array, f: Array, *, threads: int = 1) -> Array:
    """Return the best g for f on the axes of two grids: -eps log sum_i a_i exp((f_i - C_ij)/eps)."""
    return _solve_each(_TRANSFORM, costs, (a, b, eps, f), (0.0, 0, False), threads).g


def hard_minimum(costs: Costs, h: Array, *, threads: int = 1) -> Array:
    """Return min_j C_ij - h_j for the atoms of a grid, batch m -> batch n."""
    batch, (n, _) = len(h), costs.shape
    weights, eps = np.ones((batch, n)), np.ones(batch)
    return _solve_each(_HARD_MINIMUM, costs, (weights, h, eps, None), (0.0, 0, False), threads).f


def _solve_each(
    method: int,
    costs: Costs,
    problems: tuple[Array, Array, Array, Array | None],
    limits: tuple[float, int, bool],
    threads: int,
) -> Result:
    if _core is None:
        raise RuntimeError("the compiled core is not there: install metaot where there is a C compiler")
    a, b, eps = map(_contiguous, problems[:3])
    start = None if problems[3] is None else _contiguous(problems[3])
    second = a if method == _STEP else b
    found = Result(np.empty(a.shape), np.empty(second.shape), np.empty(len(a)), np.empty(len(a), dtype=np.int64))
    useful = threads if len(a) == 1 else max(1, min(threads, len(a), (a.size + b.size) // _WORTH_A_THREAD))
    packed = costs.kind, costs.point_cost, costs.arrays
    _core.solve_each(method, packed, (a, b, eps, start), tuple(found), limits, useful)
    return found


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float64)
