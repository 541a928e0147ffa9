"""Compiled code as the back end: float64 on a CPU, without torch."""

from typing import final

import numpy as np

from metaot.core.costs import Costs
from metaot.core.method import SMALLEST_WEIGHT, BackEnd, Index, Result
from metaot.core.steps import newton, sinkhorn

Array = np.ndarray


@final
class Compiled(BackEnd):
    """Problems as arrays, one after another on each thread: weights batch n and batch m, eps batch."""

    def __init__(self, costs: Costs, a: Array, b: Array, eps: Array, *, threads: int = 1) -> None:
        self._costs, self._a, self._b, self._eps, self._threads = costs, a, b, eps, threads
        sizes = zip(_support_sizes(a), _support_sizes(b), strict=True)
        self.sizes = [(n, m) if n <= m else (m, n) for n, m in sizes]
        self.axis_points, self.lowest_eps = costs.axis_points, min(eps.tolist())

    @property
    def cost_range(self) -> float:
        return self._costs.range

    def sinkhorn(
        self,
        index: Index,
        f: Array | None,
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
        on_support: bool = False,
    ) -> Result:
        problems = self._problems(index, 1.0)
        limits = {"tol": tol, "max_steps": max_steps, "accelerated": accelerated}
        return sinkhorn(*problems, f, **limits, by_axes=not on_support, threads=self._threads)

    def newton(self, index: Index, f: Array | None, *, tol: float, max_steps: int, warmer: float = 1.0) -> Result:
        problems = self._problems(index, warmer)
        return newton(*problems, f, tol=tol, max_steps=max_steps, threads=self._threads)

    def no_result(self) -> Result:
        error = np.full(len(self._a), np.inf)
        return Result(
            np.zeros(self._a.shape), np.zeros(self._b.shape), error, np.zeros(len(error), dtype=np.int64)
        )

    def numbers(self, values: Array) -> Array:
        return values

    def _problems(self, index: Index, warmer: float) -> tuple[Costs, Array, Array, Array]:
        if isinstance(index, slice):
            return self._costs, self._a, self._b, self._eps * warmer
        return self._costs[index], self._a[index], self._b[index], self._eps[index] * warmer


def _support_sizes(weights: Array) -> list[int]:
    """Count the atoms with mass that counts."""
    return [int(np.count_nonzero(row)) for row in weights >= SMALLEST_WEIGHT]
