"""Many problems with the same kernel, of which potentials and scalings are known where there is mass."""

from typing import final

import numpy as np

from metaot.single.axes_kernel import AxesKernel
from metaot.single.plan import Array
from metaot.single.together.sides import Side


@final
class Batch:
    """The kernel of a grid, and the sources and targets of many problems."""

    def __init__(self, K: AxesKernel, source: Side, target: Side) -> None:
        self.K, self.source, self.target = K, source, target
        self._inner = K.part(source.box.slices, target.box.slices)

    @classmethod
    def of(cls, K: AxesKernel, a: Array, b: Array) -> "Batch":
        """Take weights on the whole grid, a row for each problem."""
        return cls(K, *(Side.of(weights, K.sizes) for weights in (a, b)))

    def __len__(self) -> int:
        return len(self.source.weights)

    def part(self, which: Array) -> "Batch":
        return Batch(self.K, self.source.part(which), self.target.part(which))

    def columns(self, u: Array) -> Array:
        """Return K^T (a u)."""
        return self.target.product(self._inner.transposed_times_each(self.source.weighted(u)))

    def rows(self, v: Array) -> Array:
        """Return K (b v)."""
        return self.source.product(self._inner.times_each(self.target.weighted(v)))

    def all_columns(self, u: Array) -> Array:
        """Return K^T (a u) on the whole grid, a row for each problem."""
        K = self.K.part(self.source.box.slices, self._everywhere)
        return self._as_rows(K.transposed_times_each(self.source.weighted(u)))

    def all_rows(self, v: Array) -> Array:
        """Return K (b v) on the whole grid, a row for each problem."""
        K = self.K.part(self._everywhere, self.target.box.slices)
        return self._as_rows(K.times_each(self.target.weighted(v)))

    @property
    def _everywhere(self) -> list[slice]:
        return [slice(None)] * len(self.K.sizes)

    def _as_rows(self, across: Array) -> Array:
        parted = across.reshape(self.K.sizes[0], len(self), -1)
        return parted.transpose(1, 0, 2).reshape(len(self), -1)

    def best_g(self, f: Array) -> Array:
        return self.K.offset - np.log(self.columns(np.exp(f)))

    def best_f(self, g: Array) -> Array:
        return -np.log(self.rows(np.exp(g - self.K.offset)))

    def value(self, f: Array, g: Array) -> Array:
        """Return the dual values."""
        return self.source.total(f) + self.target.total(g)

    def error(self, marginal: Array) -> Array:
        """Return the L1 errors of marginals that are given relative to the weights."""
        return self.source.total(np.abs(marginal - 1))
