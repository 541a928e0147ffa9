"""Sinkhorn on a grid whose Gibbs kernel fits into floating point: a small matrix product for each axis.

Nothing is absorbed, and atoms without mass need no care: scalings u = e^f and v = e^g are functions on the grid.
"""

import math
from collections.abc import Sequence
from typing import final

import numpy as np

from metaot.single.anderson import Anderson, bounded
from metaot.single.plan import Alternating, Array, Refined, distance
from metaot.single.start import GOOD, is_better

LARGEST = 300.0
"""Costs and ranges of potentials, in units of eps, up to which all that is multiplied fits into float64."""


@final
class AxesKernel:
    """The matrix exp(-C) as the Kronecker product of one matrix for each axis, of which C is the sum of costs."""

    def __init__(self, costs: Sequence[Array]) -> None:
        kernels = [np.exp(-cost) for cost in reversed(costs)]
        self._forward = tuple(kernels)
        self._backward = tuple(np.ascontiguousarray(K.T) for K in kernels)

    def times(self, v: Array) -> Array:
        """Return K v."""
        return _contracted(self._forward, self._backward, v)

    def transposed_times(self, u: Array) -> Array:
        """Return K^T u."""
        return _contracted(self._backward, self._forward, u)


def _contracted(kernels: Sequence[Array], transposed: Sequence[Array], v: Array) -> Array:
    """Multiply along the last axis, which becomes the first, until all have had their turn."""
    if len(kernels) == 2:
        return kernels[1].dot(v.reshape(-1, len(kernels[0]))).dot(transposed[0]).reshape(-1)
    for K in kernels:
        v = K.dot(v.reshape(-1, len(K)).T)
    return v.reshape(-1)


@final
class _Side:
    """The atoms with mass of the source or of the target, where all is done but the products."""

    def __init__(self, weights: Array) -> None:
        self.atoms = weights.nonzero()[0]
        self.weights = weights[self.atoms]
        self._room = np.zeros_like(weights)

    def weighted(self, u: Array) -> Array:
        """Return the weights times u on the whole grid; good until the next call."""
        self._room[self.atoms] = self.weights * u
        return self._room

    def error(self, marginal: Array) -> float:
        """Return the L1 error of a marginal that is given relative to the weights."""
        return distance(self.weights * marginal, self.weights)


@final
class AxesProblem(Alternating):
    """A kernel on a grid, and weights, of which some may be zero; potentials are in units of eps.

    Of them and of scalings there are only the values on the atoms with mass.
    """

    def __init__(self, K: AxesKernel, a: Array, b: Array) -> None:
        self.K, self.source, self.target = K, _Side(a), _Side(b)
        self.a, self.b = self.source.weights, self.target.weights

    def columns(self, u: Array) -> Array:
        """Return K^T (a u) on the whole grid."""
        return self.K.transposed_times(self.source.weighted(u))

    def rows(self, v: Array) -> Array:
        """Return K (b v) on the whole grid."""
        return self.K.times(self.target.weighted(v))

    def best_g(self, f: Array) -> Array:
        return -np.log(self.columns(np.exp(f))[self.target.atoms])

    def best_f(self, g: Array) -> Array:
        return -np.log(self.rows(np.exp(g))[self.source.atoms])


@final
class _Scalings:
    """Scalings of which v is the best for u, and the products with both, on the atoms with mass and everywhere."""

    def __init__(self, problem: AxesProblem, u: Array) -> None:
        self.u, self.all_columns = u, problem.columns(u)
        self.columns = self.all_columns[problem.target.atoms]
        self.v = 1 / self.columns
        self.all_rows = problem.rows(self.v)
        self.rows = self.all_rows[problem.source.atoms]
        self.error = problem.source.error(u * self.rows)

    def value(self, problem: AxesProblem) -> float:
        """Return the dual value."""
        return float(problem.a @ np.log(self.u) - problem.b @ np.log(self.columns))

    def refined(self, problem: AxesProblem, steps: int) -> Refined:
        """Return the potentials on all atoms."""
        f = -np.log(self.all_rows)
        f[problem.source.atoms] = np.log(self.u)
        return Refined(f, -np.log(self.all_columns), self.error, steps)


def sinkhorn_on_axes(
    problem: AxesProblem, f: Array | None, *, tol: float, max_steps: int, accelerated: bool = True
) -> Refined:
    """Step from f, or from zeros where these are the better start, until the error is at most `tol`.

    `f` is on the whole grid.
    """
    with np.errstate(all="ignore"):
        now, steps = _start(problem, f), 0
        x, path = np.log(now.u), Anderson(problem.a) if accelerated else None
        if math.isnan(now.error):
            return now.refined(problem, 0)
        while not now.error <= tol and steps < max_steps:
            residual = -np.log(now.u * now.rows)
            x = x + bounded(residual) if path is None else path.next(x, residual, now.error)
            now = _Scalings(problem, np.exp(x))
            steps += 1
        return now.refined(problem, steps)


def _start(problem: AxesProblem, f: Array | None) -> _Scalings:
    """Return the scalings of the guess, or those of zeros where these are the better start."""
    guess = None if f is None else _guess(problem, f[problem.source.atoms])
    if guess is not None:
        value = guess.value(problem) if guess.error > GOOD else 0.0
        if is_better(problem, value, guess.error):
            return guess
    return _Scalings(problem, np.ones_like(problem.a))


def _guess(problem: AxesProblem, f: Array) -> _Scalings | None:
    """Return the scalings of a potential, unless they leave floating point."""
    if not np.ptp(f) <= LARGEST:
        return None
    return _Scalings(problem, np.exp(f - f @ problem.a))
