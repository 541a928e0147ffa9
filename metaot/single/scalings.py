"""Over-relaxed Sinkhorn steps in the scaling domain, with as few calls as there can be.

A call of numpy on a hundred numbers takes as long as one on ten: both scalings, and both marginals, lie side by
side in one array, and nothing is allocated in a step.
"""

from collections.abc import Callable
from typing import final

import numpy as np

from metaot.single.plan import Array

Product = Callable[[Array, Array], object]
"""Writes the product of a kernel with its first argument into its second one."""


@final
class Scalings:
    """Scalings u and v of a kernel; u K v and v K^T u are marginals, which are to be the weights a and b."""

    def __init__(self, a: Array, b: Array, rows: Product, columns: Product) -> None:
        k = len(a)
        self._weights = np.concatenate((a, b))
        self._both = np.ones_like(self._weights)
        self._products, self._marginals, self._missing = (np.empty_like(self._both) for _ in range(3))
        self._a, self._b, self.u, self.v = self._weights[:k], self._weights[k:], self._both[:k], self._both[k:]
        self.rows, self.columns = self._products[:k], self._products[k:]
        self._row_sums, self._column_sums = self._marginals[:k], self._marginals[k:]
        self._times, self._transposed_times = rows, columns

    def error(self) -> float:
        """Return the L1 error of both marginals."""
        np.multiply(self._both, self._products, self._marginals)
        missing = np.subtract(self._marginals, self._weights, self._missing)
        return float(_sum(np.abs(missing, missing)))

    def step(self, omega: float) -> None:
        """Update u and then v, beyond where marginals are right if omega > 1; `error` comes before each step."""
        u, v = self.u, self.v
        if omega == 1:
            np.divide(self._a, self.rows, u)
            self._transposed_times(u, self.columns)
            np.divide(self._b, self.columns, v)
        else:
            growth = np.divide(self._a, self._row_sums, self._row_sums)
            growth **= omega
            u *= growth
            self._transposed_times(u, self.columns)
            growth = np.multiply(v, self.columns, self._column_sums)
            np.divide(self._b, growth, growth)
            growth **= omega
            v *= growth
        self._times(v, self.rows)


_sum = np.add.reduce
