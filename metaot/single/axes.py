"""Sinkhorn on a grid whose Gibbs kernel fits into floating point: a small matrix product for each axis.

Nothing is absorbed, and atoms without mass need no care: scalings u = e^f and v = e^g are functions on the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from metaot.single.plan import Alternating, Array, distance
from metaot.single.relaxation import Relaxation, expected_factor
from metaot.single.spread import spread
from metaot.single.start import GOOD, is_better

LARGEST = 300.0
"""Costs and ranges of potentials, in units of eps, up to which all that is multiplied fits into float64."""


@final
@dataclass(frozen=True)
class GridRefinement:
    """Potentials on all atoms, of which g is the best for f; the L1 error, and the steps."""

    f: Array
    g: Array
    error: float
    steps: int


@final
class AxesKernel:
    """The matrix exp(-C) as the Kronecker product of one matrix for each axis, of which C is the sum of costs."""

    def __init__(self, costs: Sequence[Array]) -> None:
        self.costs = costs
        kernels = [np.exp(-cost) for cost in costs]
        self._forward = tuple(reversed(kernels))
        self._backward = tuple(K.T for K in self._forward)

    def times(self, v: Array) -> Array:
        """Return K v."""
        return _contracted(self._forward, v)

    def transposed_times(self, u: Array) -> Array:
        """Return K^T u."""
        return _contracted(self._backward, u)

    def spread(self, a: Array, b: Array) -> float:
        """Return that of the cost along one axis, the largest."""
        a, b = (weights.reshape([len(cost) for cost in self.costs]) for weights in (a, b))
        return max(spread(cost, _marginal(a, k), _marginal(b, k)) for k, cost in enumerate(self.costs))


def _marginal(weights: Array, axis: int) -> Array:
    return weights.sum(tuple(other for other in range(weights.ndim) if other != axis))


def _contracted(kernels: Sequence[Array], v: Array) -> Array:
    """Multiply along the last axis, which becomes the first, until all have had their turn."""
    for K in kernels:
        v = K @ v.reshape(-1, len(K)).T
    return v.reshape(-1)


@final
@dataclass(frozen=True)
class AxesProblem(Alternating):
    """A kernel on a grid, and weights, of which some may be zero; potentials are in units of eps."""

    K: AxesKernel
    a: Array
    b: Array

    def best_g(self, f: Array) -> Array:
        return -np.log(self.K.transposed_times(self.a * np.exp(f)))

    def best_f(self, g: Array) -> Array:
        return -np.log(self.K.times(self.b * np.exp(g)))


def sinkhorn_on_axes(
    problem: AxesProblem, f: Array | None, *, tol: float, max_steps: int, relaxed: bool = True
) -> GridRefinement:
    """Step from f, or from zeros where these are the better start, until the error is at most `tol`."""
    K, a, b, steps = problem.K, problem.a, problem.b, 0
    relaxation = Relaxation(relaxed, lambda: expected_factor(K.spread(a, b)))
    with np.errstate(all="ignore"):
        u = _start(problem, f)
        columns = K.transposed_times(a * u)
        v = 1 / columns
        rows = K.times(b * v)
        while True:
            error = distance(a * (u * rows), a)
            if relaxation.omega > 1:
                error += distance(b * (v * columns), b)
            if not error > tol or steps >= max_steps:
                return _everywhere(problem, u, steps)
            relaxation.shown(steps, error)
            u = _updated(u, rows, relaxation.omega)
            columns = K.transposed_times(a * u)
            v = _updated(v, columns, relaxation.omega)
            rows = K.times(b * v)
            steps += 1


def _updated(u: Array, products: Array, omega: float) -> Array:
    """Return the scaling with which the marginal is right; over-relaxed, beyond it."""
    return 1 / products if omega == 1 else u * (u * products) ** -omega


def _everywhere(problem: AxesProblem, u: Array, steps: int) -> GridRefinement:
    """Return the potentials of u, the best ones for it elsewhere, and their own error."""
    K, a = problem.K, problem.a
    columns = K.transposed_times(a * u)
    rows = K.times(problem.b / columns)
    error = distance(a * (u * rows), a)
    return GridRefinement(np.log(np.where(a > 0, u, 1 / rows)), -np.log(columns), error, steps)


def _start(problem: AxesProblem, f: Array | None) -> Array:
    """Return the scaling of the guess, or that of zeros where these are the better start."""
    K, a, b = problem.K, problem.a, problem.b
    zeros = np.ones_like(a)
    if f is None:
        return zeros
    f = f - f @ a
    mine = f[a > 0]
    if not np.ptp(mine) <= LARGEST:
        return zeros
    u = np.exp(np.clip(f, mine.min(), mine.max()))
    columns = K.transposed_times(a * u)
    error = distance(a * (u * K.times(b / columns)), a)
    value = float(a @ np.log(u) - b @ np.log(columns)) if error > GOOD else 0.0
    return u if is_better(problem, value, error) else zeros
