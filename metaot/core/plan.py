"""Sums over plans of arrays, without torch: the mass and <C, P>, axis by axis, and the dual value.

The core's version of what `metaot.potentials.transport_cost` and `metaot.objectives.dual_value` do on tensors, for
solutions of an `OnnxModel` in processes without torch; a test compares them. It is numpy and not C, because no
step needs it: it is made once a solution, and only when it is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

Array = np.ndarray

_BLOCK = 2**18
"""Entries of a block of (lines, rows, columns), 2 MiB."""


@final
@dataclass(frozen=True)
class Plans:
    """Plans P = a b exp((f + g - C)/eps), a row for each problem; C is the sum of one cost for each axis.

    Or there is one cost matrix for each problem, batch n m.
    """

    costs: tuple[Array, ...]
    a: Array
    b: Array
    eps: Array
    f: Array
    g: Array

    @cached_property
    def _sums(self) -> tuple[Array, Array]:
        """The mass and <C, P> of each problem."""
        found = np.array([self._sums_of(k) for k in range(len(self.a))]).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def _sums_of(self, k: int) -> tuple[float, float]:
        """Return the mass and the cost of one plan, in the log domain, as `metaot.geometry` does on tensors."""
        a, eps = self.a[k], self.eps[k]
        costs = [cost[k] if cost.ndim == 3 else cost for cost in self.costs]
        with np.errstate(divide="ignore"):
            z = (self.g[k] / eps + np.log(self.b[k])).reshape([cost.shape[1] for cost in costs])
        total = np.zeros(z.shape)
        for cost in reversed(costs):
            lines = z.reshape(-1, cost.shape[1]), total.reshape(-1, cost.shape[1])
            parts = [np.concatenate(part) for part in zip(*_along_an_axis(cost, eps, *lines), strict=True)]
            z, total = (np.moveaxis(part.reshape(*z.shape[:-1], len(cost)), -1, 0) for part in parts)
        support = a > 0
        sums = a[support] * np.exp(self.f[k][support] / eps + z.reshape(-1)[support])
        return float(sums.sum()), float(sums @ total.reshape(-1)[support])

    @property
    def cost(self) -> Array:
        """<C, P> of each problem."""
        return self._sums[1]

    @property
    def value(self) -> Array:
        """The dual value <f, a> + <g, b> - eps (sum P - 1) of each problem."""
        linear = (self.f * self.a).sum(-1) + (self.g * self.b).sum(-1)
        return linear - self.eps * (self._sums[0] - 1)


def _along_an_axis(cost: Array, eps: float, z: Array, total: Array) -> Iterator[tuple[Array, Array]]:
    """Yield log sum_j exp(z_j - c_ij/eps), and the mean of total_j + c_ij under these, for lines in blocks."""
    allowed = np.where(np.isinf(cost), 0.0, cost)
    step = max(1, _BLOCK // cost.size)
    for k in range(0, len(z), step):
        exponents = z[k : k + step, None, :] - cost / eps
        top = exponents.max(-1, keepdims=True)
        top[np.isneginf(top)] = 0.0
        weights = np.exp(exponents - top)
        sums = weights.sum(-1)
        weights *= total[k : k + step, None, :] + allowed
        with np.errstate(divide="ignore"):
            yield np.log(sums) + top[..., 0], weights.sum(-1) / np.where(sums == 0, 1.0, sums)
