"""Scalings of many problems, the products with them, and the point to set out from."""

from typing import final

import numpy as np

from metaot.single.axes import AxesProblem, is_better_in_logs
from metaot.single.axes_kernel import FITS
from metaot.single.plan import Array
from metaot.single.start import DOUBTFUL, GOOD
from metaot.single.together.batch import Batch


@final
class Scalings:
    """u = e^x and the best v for it, and the products with both."""

    def __init__(self, batch: Batch, x: Array) -> None:
        self.batch, self.x, self.u = batch, x, np.exp(x)
        self.columns = batch.columns(self.u)
        self.v = 1 / self.columns
        self.rows = batch.rows(self.v)
        self._marginal = self.u * self.rows
        self.error = batch.error(self._marginal)

    @property
    def residual(self) -> Array:
        """The logarithm of the weights over the marginal."""
        return -np.log(self._marginal)

    @property
    def value(self) -> Array:
        """The dual values."""
        return self.batch.value(self.x, self.batch.K.offset - np.log(self.columns))

    def are_right(self) -> Array:
        """Tell of which problems all products on atoms with mass are right to rounding."""
        K = self.batch.K
        return K.right(self.columns, self.u) & K.right(self.rows, self.v)

    def may_go_on(self) -> Array:
        """Tell of which problems they are right, as they are for each kernel that fits; good enough on the way."""
        return np.ones(len(self.batch), dtype=bool) if self.batch.K.fits else self.are_right()

    def potentials(self) -> tuple[Array, Array]:
        """Return f and g on all atoms, a row for each problem."""
        K, source, target = self.batch.K, self.batch.source, self.batch.target
        columns, rows = self.batch.all_columns(self.u), self.batch.all_rows(self.v)
        g, f = K.offset - np.log(columns), -np.log(rows)
        if not K.fits:  # far from all mass products may be lost
            for k in (~K.right(columns, self.u)).nonzero()[0].tolist():
                g[k] = K.transposed_softmin(source.log_weighted(self.x, k))
            for k in (~K.right(rows, self.v)).nonzero()[0].tolist():
                f[k] = K.softmin(target.log_weighted(K.offset + np.log(self.v), k))
        source.put(self.x, f)
        return f, g


def first_scalings(batch: Batch, f: Array | None) -> Scalings:
    """Return those of f, a row for each problem, or of zeros where these are the better start."""
    source = batch.source
    if f is None:
        return Scalings(batch, np.zeros_like(source.weights))
    x = source.take(f)
    possible = np.ptp(x, 1) <= max(batch.K.range, FITS)
    x = np.where(possible[:, None], x, 0.0)
    x = np.where(source.empty, 0.0, x - source.total(x)[:, None])
    guess = Scalings(batch, x)
    right = guess.may_go_on()
    worse = right & ~(guess.error <= GOOD)
    if worse.any():
        asked = batch if worse.all() else batch.part(worse)
        worse[worse] = _worse_than_zeros(asked, guess.value[worse], guess.error[worse])
    for k in (~right).nonzero()[0].tolist():
        problem = AxesProblem(batch.K, source.whole(k), batch.target.whole(k))
        worse[k] = not is_better_in_logs(problem, x[k, ~source.empty[k]])
    return Scalings(batch, np.where(worse[:, None], 0.0, x)) if worse.any() else guess


def _worse_than_zeros(batch: Batch, value: Array, error: Array) -> Array:
    """Tell which starts of such values and errors zeros are better than: the rule of `metaot.single.start`."""
    g = batch.best_g(np.zeros_like(batch.source.weights))
    worse = ~(value >= batch.target.total(g))
    doubtful = ~(error <= DOUBTFUL)
    if (doubtful & ~worse).any():
        first = batch.best_f(g)
        g = batch.best_g(first)
        second = batch.best_f(g)
        rival = batch.error(np.exp(first - second))
        worse |= doubtful & ~((value >= batch.value(second, g)) & (error <= 0.5 * rival))
    return worse
