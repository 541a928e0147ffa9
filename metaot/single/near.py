"""The few entries of a large plan that are not zero: those near the largest one of their column.

At a small eps, entry i of column j is exp(h_i - C_ij - max_k (h_k - C_kj)) of the largest one, with h = f + log
a and all in units of eps. What is more than `_MARGIN` below that is nothing in floating point, and stays so as
long as f moves little. Of 50 x 10000 entries some ten thousand are left, and all sums are of these alone.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from metaot.single.plan import Array, DenseProblem

_MARGIN = 38.0
"""Exponents this far below the largest one of a column add nothing to its sum in float64."""

_PAIRED, _FOLLOWED = 13.0, 6.0
"""Exponents this far below have no part in the Hessian; how far f may move before they are looked at anew."""

_CROWDED = 12
"""Entries of a mean column from which on products of whole rows are cheaper than those of pairs."""

_SMALL = 2**17
"""Entries of a matrix that is looked at as a whole."""

_TINY = np.finfo(np.float64).tiny


@final
@dataclass(frozen=True)
class NearPlan:
    """The plan of a potential f and the best g for it, on the entries of a `Near`."""

    f: Array
    values: Array
    totals: Array
    """The sums of the contested columns before they are divided by them."""
    source: Array
    """The sums of all rows."""


@final
class Near:
    """The entries that count while f moves away from a reference by no more than the `slack`, column by column.

    Columns in which one row alone counts are `settled`: all their mass is that row's, whatever f is. The others
    are contested.
    """

    def __init__(self, problem: DenseProblem, f: Array, slack: float) -> None:
        self.problem, self.reference, self.slack = problem, f, slack
        C, b, k = problem.C, problem.b, len(f)
        h = f + np.log(problem.a)
        self.top = top = highest(C, h)
        mask = _above(C, h, top - (_MARGIN + slack))
        count = mask.sum(0, dtype=np.int32)
        self.contested, self.settled = (count > 1).nonzero()[0], (count == 1).nonzero()[0]
        entries = np.ascontiguousarray(mask[:, self.contested].T).reshape(-1).nonzero()[0]
        self.columns, self.rows = np.divmod(entries, k)
        self.owner = mask[:, self.settled].argmax(0)
        self.owned = np.bincount(self.owner, b[self.settled], k)
        count = count[self.contested]
        self.starts, self.b = np.cumsum(count) - count, b[self.contested]
        self.base = np.log(problem.a)[self.rows] - C[self.rows, self.contested[self.columns]]
        self.base -= top[self.contested][self.columns]
        self._pairs: tuple[Array, Array, Array] | None = None
        self._paired_at = f

    @property
    def share(self) -> float:
        """How many of all entries are kept."""
        return len(self.rows) / self.problem.C.size

    def reaches(self, f: Array) -> bool:
        """Tell whether the entries suffice for a potential; only differences count."""
        change = f - self.reference
        return bool(change.max() - change.min() <= self.slack)

    def plan(self, f: Array) -> NearPlan:
        """Return the plan of f, which must be within reach."""
        values = f[self.rows]
        values += self.base
        values -= (f - self.reference).max()
        np.exp(values, out=values)
        totals = np.add.reduceat(values, self.starts) if len(values) else np.empty(0)
        values *= (self.b / totals)[self.columns]
        source = np.bincount(self.rows, values, len(f)) + self.owned
        return NearPlan(f, values, totals, source)

    def value(self, plan: NearPlan) -> float:
        """Return the dual value of a plan's f and the best g for it."""
        return float(plan.f @ self.problem.a + self.best_g(plan) @ self.problem.b)

    def gain(self, start: NearPlan, end: NearPlan) -> float:
        """Return how much the dual value rises from one plan to another, right to rounding of the gain itself."""
        change = end.f - start.f
        change -= (end.f - self.reference).max() - (start.f - self.reference).max()
        return float(change @ (self.problem.a - self.owned) - self.b @ np.log(end.totals / start.totals))

    def best_g(self, plan: NearPlan) -> Array:
        """Return the best g for the f of a plan, on all columns."""
        g = -self.top
        shift = plan.f - self.reference
        g[self.settled] -= shift[self.owner]
        g[self.contested] -= np.log(plan.totals) + shift.max()
        return g

    def hessian(self, plan: NearPlan) -> Array:
        """Return diag(P 1) - P diag(1/b) P^T; a settled column has no part in it."""
        k = len(plan.source)
        scaled = plan.values * (1 / np.sqrt(np.maximum(self.b, _TINY)))[self.columns]
        if len(scaled) == 0:
            H = np.zeros((k, k))
        elif len(scaled) > _CROWDED * len(self.b):
            half = np.zeros((k, len(self.b)))
            half[self.rows, self.columns] = scaled
            H = half @ half.T
        else:
            first, second, cells = self._paired(plan.f)
            H = np.bincount(cells, scaled[first] * scaled[second], k * k).reshape(k, k)
            H = H + H.T
            H.flat[:: k + 1] += np.bincount(self.rows, scaled * scaled, k)
        np.negative(H, out=H)
        H.flat[:: k + 1] += plan.source - self.owned
        return H

    def _paired(self, f: Array) -> tuple[Array, Array, Array]:
        """Return the pairs of entries of a column that are large near f, and their cells of the Hessian."""
        if self._pairs is None or np.ptp(f - self._paired_at) > _FOLLOWED:
            self._pairs, self._paired_at = self._new_pairs(f), f
        return self._pairs

    def _new_pairs(self, f: Array) -> tuple[Array, Array, Array]:
        exponents = self.base + f[self.rows]
        lowest = np.maximum.reduceat(exponents, self.starts) - (_PAIRED + _FOLLOWED)
        large = (exponents > lowest[self.columns]).nonzero()[0]
        rows, columns = self.rows[large], self.columns[large]
        first, second = [], []
        for distance in range(1, len(columns)):
            same = (columns[distance:] == columns[:-distance]).nonzero()[0]
            if len(same) == 0:
                break
            first.append(same)
            second.append(same + distance)
        if not first:
            empty = np.empty(0, dtype=np.int64)
            return empty, empty, empty
        i, j = np.concatenate(first), np.concatenate(second)
        return large[i], large[j], rows[i] * len(f) + rows[j]


def highest(C: Array, h: Array) -> Array:
    """Return max_i (h_i - C_ij) for each column; of large matrices row by row, in the cache."""
    if C.size <= _SMALL:
        return (h[:, None] - C).max(0)
    top, exponents = np.full(C.shape[1], -np.inf), np.empty(C.shape[1])
    for row, value in zip(C, h, strict=True):
        np.subtract(value, row, out=exponents)
        np.maximum(top, exponents, out=top)
    return top


def _above(C: Array, h: Array, lowest: Array) -> Array:
    """Return where h_i - C_ij is above the lowest value of its column."""
    if C.size <= _SMALL:
        return h[:, None] - C > lowest
    mask, exponents = np.empty(C.shape, dtype=bool), np.empty(C.shape[1])
    for row, value, out in zip(C, h, mask, strict=True):
        np.subtract(value, row, out=exponents)
        np.greater(exponents, lowest, out=out)
    return mask


def best_of_rows(C: Array, g: Array, b: Array, eps: float = 1.0) -> Array:
    """Return the best f for g, -eps log sum_j b_j exp(g_j - C_ij/eps), for each row of C; b is positive."""
    h, best = g + np.log(b), np.empty(len(C))
    exponents = np.empty(C.shape[1])
    for i, row in enumerate(C):
        np.multiply(row, -1 / eps, out=exponents)
        exponents += h
        top = exponents.max()
        large = exponents[exponents > top - _MARGIN]
        best[i] = -eps * (top + np.log(np.exp(large - top).sum()))
    return best
