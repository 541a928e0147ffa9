"""Problems as arrays for the compiled core: what is packed, and what comes back."""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

try:
    from metaot.core import _core
except ImportError:  # installed where there was no compiler
    _core = None

Array = np.ndarray

COMPILED = _core is not None
"""Whether there is compiled code."""

POINT_COSTS = ("sqeuclidean", "euclidean", "sphere")
"""The costs between points that the core knows by name."""

_AXES, _MATRIX, _CLOUDS = range(3)
_BY_AXES, _BY_MATRIX, _NEWTON, _STEP, _TRANSFORM = range(5)

_WORTH_A_THREAD = 2**14
"""Atoms of all problems of a thread, from which on it is worth waking."""


@final
@dataclass(frozen=True)
class Costs:
    """Costs between n source and m target atoms; batched where there is a matrix or a pair of clouds for each problem.

    Make it by `on_axes`, `of_matrix` or `between_points`.
    """

    kind: int
    point_cost: int
    arrays: tuple[Array, ...]

    @classmethod
    def on_axes(cls, costs: tuple[Array, ...]) -> "Costs":
        """Return costs that are the sum of one matrix for each axis of a grid; one axis alone is a matrix."""
        arrays = tuple(map(_contiguous, costs))
        return cls(_AXES if len(arrays) > 1 else _MATRIX, 0, arrays)

    @classmethod
    def of_matrix(cls, C: Array) -> "Costs":
        """Return the costs of a matrix, n m or batch n m."""
        return cls(_MATRIX, 0, (_contiguous(C),))

    @classmethod
    def between_points(cls, x: Array, y: Array, cost: str) -> "Costs":
        """Return the costs between points, (batch) n d and (batch) m d, by their name in `POINT_COSTS`."""
        return cls(_CLOUDS, POINT_COSTS.index(cost), (_contiguous(x), _contiguous(y)))

    @property
    def has_axes(self) -> bool:
        """Whether the atoms are those of a grid with several axes."""
        return self.kind == _AXES

    def __getitem__(self, index: Array) -> "Costs":
        """Return those of some problems."""
        if self.kind == _AXES or all(array.ndim == 2 for array in self.arrays):
            return self
        return Costs(self.kind, self.point_cost, tuple(_contiguous(array[index]) for array in self.arrays))


@final
class Result(NamedTuple):
    """Potentials on all atoms, the L1 marginal error and the steps, a row for each problem.

    Where numbers have left floating point, because no plan is finite, potentials are zero and the error infinite.
    """

    f: Array
    g: Array
    error: Array
    steps: Array


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

    Weights are batch n and batch m, `eps` is batch; potentials are in the units of the cost. With `by_axes`, products
    are made axis by axis on a grid; without, with a matrix between the atoms with mass.
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


def _solve_each(
    method: int,
    costs: Costs,
    problems: tuple[Array, Array, Array, Array | None],
    limits: tuple[float, int, bool],
    threads: int,
) -> Result:
    if _core is None:
        raise RuntimeError("the compiled core is not there: install metaot where there is a C compiler")
    a, b, eps, start = (None if array is None else _contiguous(array) for array in problems)
    assert a is not None
    assert b is not None
    second = a if method == _STEP else b
    found = Result(np.empty(a.shape), np.empty(second.shape), np.empty(len(a)), np.empty(len(a), dtype=np.int64))
    useful = threads if len(a) == 1 else max(1, min(threads, len(a), (a.size + b.size) // _WORTH_A_THREAD))
    packed = costs.kind, costs.point_cost, costs.arrays
    _core.solve_each(method, packed, (a, b, eps, start), tuple(found), limits, useful)
    return found


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float64)
