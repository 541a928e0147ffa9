"""Sinkhorn on a grid with its Gibbs kernel as it is: a small matrix product for each axis.

Nothing is absorbed, and atoms without mass need no care: scalings u = e^f and v = e^g are functions on the grid.
"""

import math
from collections.abc import Sequence
from typing import final

import numpy as np

from metaot.single.anderson import Anderson, bounded
from metaot.single.axes_kernel import FITS, AxesKernel
from metaot.single.box import Box
from metaot.single.pace import Pace
from metaot.single.plan import Alternating, Array, Refined
from metaot.single.start import GOOD, is_better


@final
class _Side:
    """The atoms with mass of the source or of the target, where all is done but the products."""

    def __init__(self, weights: Array, sizes: Sequence[int]) -> None:
        self.box = Box(weights != 0, sizes)
        self.atoms = self.box.atoms
        self.weights = weights[self.atoms]
        self.size = len(weights)
        self._given = np.zeros(math.prod(self.box.sizes))

    @property
    def fills(self) -> bool:
        """Whether the box is the whole grid."""
        return len(self._given) == self.size

    def weighted(self, u: Array) -> Array:
        """Return the weights times u in the box; good until the next call."""
        self._given[self.box.places] = self.weights * u
        return self._given

    def log_weighted(self, f: Array) -> Array:
        """Return f plus the logarithms of the weights on the whole grid."""
        h = np.full(self.size, -math.inf)
        h[self.atoms] = f + np.log(self.weights)
        return h

    def error(self, marginal: Array) -> float:
        """Return the L1 error of a marginal that is given relative to the weights."""
        return float(np.abs(marginal - 1).dot(self.weights))


@final
class AxesProblem(Alternating):
    """A kernel on a grid, and weights, of which some may be zero; potentials are in units of eps.

    Of them and of scalings there are only the values on the atoms with mass.
    """

    def __init__(self, K: AxesKernel, a: Array, b: Array) -> None:
        self.K, self.source, self.target = K, _Side(a, K.sizes), _Side(b, K.sizes)
        self.a, self.b = self.source.weights, self.target.weights
        fill = self.source.fills and self.target.fills
        self._inner = K if fill else K.part(self.source.box.slices, self.target.box.slices)

    def columns(self, u: Array) -> Array:
        """Return K^T (a u) in the box of the target."""
        return self._inner.transposed_times(self.source.weighted(u))

    def rows(self, v: Array) -> Array:
        """Return K (b v) in the box of the source."""
        return self._inner.times(self.target.weighted(v))

    def all_columns(self, u: Array) -> Array:
        """Return K^T (a u) on the whole grid."""
        return self.K.part(self.source.box.slices, self._everywhere).transposed_times(self.source.weighted(u))

    def all_rows(self, v: Array) -> Array:
        """Return K (b v) on the whole grid."""
        return self.K.part(self._everywhere, self.target.box.slices).times(self.target.weighted(v))

    @property
    def _everywhere(self) -> list[slice]:
        return [slice(None)] * len(self.K.sizes)

    def best_g(self, f: Array) -> Array:
        return self.K.offset - np.log(self.columns(np.exp(f))[self.target.box.places])

    def best_f(self, g: Array) -> Array:
        return -np.log(self.rows(np.exp(g - self.K.offset))[self.source.box.places])


@final
class _Scalings:
    """Scalings of which v is the best for u, and the products with both, on atoms with mass and in boxes."""

    def __init__(self, problem: AxesProblem, u: Array) -> None:
        self.u, self._box_columns = u, problem.columns(u)
        self.columns = self._box_columns[problem.target.box.places]
        self.v = 1 / self.columns
        self._box_rows = problem.rows(self.v)
        self.rows = self._box_rows[problem.source.box.places]
        self.marginal = u * self.rows
        self.error = problem.source.error(self.marginal)

    def are_right(self, K: AxesKernel) -> bool:
        """Tell whether all products on atoms with mass are right to rounding."""
        return bool(K.right(self.columns, self.u) and K.right(self.rows, self.v))

    def value(self, problem: AxesProblem) -> float:
        """Return the dual value."""
        return float(problem.a @ np.log(self.u) - problem.b @ np.log(self.columns)) + problem.K.offset

    def refined(self, problem: AxesProblem, steps: int) -> Refined:
        """Return the potentials on all atoms."""
        K, source, target = problem.K, problem.source, problem.target
        columns = self._box_columns if target.fills else problem.all_columns(self.u)
        rows = self._box_rows if source.fills else problem.all_rows(self.v)
        f_known = np.log(self.u)
        if K.fits or K.right(columns, self.u):
            g = K.offset - np.log(columns)
        else:
            g = K.transposed_softmin(source.log_weighted(f_known))
        rows_right = K.fits or K.right(rows, self.v)
        f = -np.log(rows) if rows_right else K.softmin(target.log_weighted(g[target.atoms]))
        known = self.u > 0  # tiny mass may be so far off that u is zero; there f is the best for g
        f[source.atoms[known]] = f_known[known]
        return Refined(f, g, self.error, steps)


def continued_in_logs(K: AxesKernel, a: Array, b: Array, f: Array) -> tuple[Array, Array]:
    """Return f, known on the atoms with mass, and the best g for it on all atoms, in the log domain."""
    source, target = _Side(a, K.sizes), _Side(b, K.sizes)
    g = K.transposed_softmin(source.log_weighted(f[source.atoms]))
    best = K.softmin(target.log_weighted(g[target.atoms]))
    best[source.atoms] = f[source.atoms]
    return best, g


def sinkhorn_on_axes(
    problem: AxesProblem,
    f: Array | None,
    *,
    tol: float,
    max_steps: int,
    accelerated: bool = True,
    most_ahead: float = math.inf,
) -> Refined | None:
    """Step from f, or from zeros where these are the better start, until the error is at most `tol`.

    `f` is on the whole grid. It stops early when more than `most_ahead` steps are in sight. None if the numbers
    leave floating point on the way.
    """
    with np.errstate(all="ignore"):
        now, steps, K = _start(problem, f), 0, problem.K
        x, path, pace = np.log(now.u), Anderson(problem.a) if accelerated else None, Pace()
        if not (K.fits or now.are_right(K)):
            return None
        if math.isnan(now.error):
            return now.refined(problem, 0)
        while not now.error <= tol and steps < max_steps:
            due = pace.shown(steps, now.error)
            if ((due and not K.fits) or math.isnan(now.error)) and not now.are_right(K):
                return None
            if due and pace.ahead(now.error, tol) > most_ahead:
                break
            residual = np.log(now.marginal)
            np.negative(residual, residual)
            x = x + bounded(residual) if path is None else path.next(x, residual, now.error)
            now = _Scalings(problem, np.exp(x))
            steps += 1
        return now.refined(problem, steps) if now.are_right(K) else None


@np.errstate(all="ignore")
def step_on_axes(K: AxesKernel, a: Array, b: Array, f: Array) -> tuple[Array, Array] | None:
    """Return the f that one Sinkhorn step leads to, on the whole grid, and a less the marginal of the plan of f.

    None if the numbers leave floating point.
    """
    top = float(f.max())
    u = np.exp(f - top)
    u *= a
    columns = K.transposed_times(u)
    v = np.divide(b, columns, where=b > 0, out=np.zeros_like(b))
    rows = K.times(v)
    if not (K.fits or (K.right(columns[b > 0], u) and K.right(rows, v))):
        return None
    u *= rows
    return top - np.log(rows), a - u


def _start(problem: AxesProblem, f: Array | None) -> _Scalings:
    """Return the scalings of the guess, or those of zeros where these are the better start."""
    f = None if f is None else f[problem.source.atoms]
    guess = None if f is None else _guess(problem, f)
    if f is not None and guess is not None:
        if not (problem.K.fits or guess.are_right(problem.K)):
            better = is_better_in_logs(problem, f)
        else:
            value = guess.value(problem) if guess.error > GOOD else 0.0
            better = is_better(problem, value, guess.error)
        if better:
            return guess
    return _Scalings(problem, np.ones_like(problem.a))


def is_better_in_logs(problem: AxesProblem, f: Array) -> bool:
    """Tell whether a potential, whose scalings leave floating point, is a better start than zeros."""
    K, source, target = problem.K, problem.source, problem.target
    f = f - f @ problem.a
    g = K.transposed_softmin(source.log_weighted(f))[target.atoms]
    best = K.softmin(target.log_weighted(g))[source.atoms]
    return is_better(problem, float(f @ problem.a + g @ problem.b), source.error(np.exp(f - best)))


def _guess(problem: AxesProblem, f: Array) -> _Scalings | None:
    """Return the scalings of a potential, unless it varies by more than any that is the best for another."""
    if not np.ptp(f) <= max(problem.K.range, FITS):
        return None
    return _Scalings(problem, np.exp(f - f @ problem.a))
