"""The Gibbs kernel of a grid as it is: a small matrix for each axis.

Where the whole kernel does not fit into floating point, most products with it still do, since what counts for a
sum is near; whether all has gone well is seen in the sums.
"""

import math
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np

from metaot.single.plan import Array
from metaot.single.softmin import GridSoftmin

LARGEST = 1e4
"""Costs, in units of eps, up to which products with the kernel are worth trying."""

_LIFT = 300.0
"""Exponent by which the entries of others are raised: below one there is as much room as above."""

FITS = 300.0
"""Costs, in units of eps, up to which all that is multiplied fits into float64."""

_TINY = float(np.finfo(np.float64).tiny)


@final
class Flat(NamedTuple):
    """Kernels as compiled code reads them: a row for each, of matrices of all axes and of numbers."""

    matrices: Array
    transposed: Array
    sizes: Array
    numbers: Array
    """The offset, the widest range of a start, what is lost in sums, and whether all fits."""


@final
class AxesKernel:
    """The matrix exp(-C) as the Kronecker product of one matrix for each axis, of which C is the sum of costs.

    Products are those with exp(`offset` - C), where the offset is the lowest cost or some more.
    """

    def __init__(self, costs: Sequence[Array]) -> None:
        self._costs = costs
        self.range = sum(float(np.ptp(cost)) for cost in costs)
        """From the lowest cost to the highest."""
        self.fits = self.range <= FITS
        """Whether all products are right, unless scalings have run away."""
        lift = 0.0 if self.fits else _LIFT
        self.offset = lift + sum(float(cost.min()) for cost in costs)
        kernels = [_powers(lift / len(costs) + cost.min() - cost) for cost in reversed(costs)]
        self._forward = tuple(kernels)
        self._backward = tuple(np.ascontiguousarray(K.T) for K in kernels)
        self.sizes = tuple(len(cost) for cost in costs)
        """The points along each axis."""
        self.lost = 4 * math.prod(self.sizes) * _TINY * math.exp(lift - lift / len(costs))
        """What numbers below the smallest one can have added to a sum, or taken from it."""

    def times(self, v: Array) -> Array:
        """Return K v."""
        return _contracted(self._forward, self._backward, v)

    def transposed_times(self, u: Array) -> Array:
        """Return K^T u."""
        return _contracted(self._backward, self._forward, u)

    def part(self, rows: Sequence[slice], columns: Sequence[slice]) -> "AxesKernel":
        """Return the kernel between boxes, given by a slice for each axis."""
        part = copy(self)
        boxes = list(zip(reversed(rows), reversed(columns), strict=True))
        part._forward = tuple(K[i, j] for K, (i, j) in zip(self._forward, boxes, strict=True))
        part._backward = tuple(K[j, i] for K, (i, j) in zip(self._backward, boxes, strict=True))
        return part

    def right(self, sums: Array, factors: Array) -> Any:
        """Tell whether sums, and factors, of a product are right to rounding; along the last dimension.

        They are when all are far above what entries and products below the smallest number can have added, after
        the other axes have multiplied it, and none is above the largest.
        """
        least = 1e18 * self.lost * np.maximum(1.0, factors.max(-1))
        return (sums.min(-1) > least) & (sums.max(-1) < math.inf)

    @cached_property
    def flat(self) -> Flat:
        """Return the same for compiled code."""
        forward, backward = (
            np.concatenate([K.reshape(-1) for K in reversed(side)])[None]
            for side in (self._forward, self._backward)
        )
        numbers = np.array([[self.offset, max(self.range, FITS), self.lost, self.fits]])
        return Flat(forward, backward, np.array(self.sizes, dtype=np.int64), numbers)

    @cached_property
    def softmin(self) -> GridSoftmin:
        """The softmin over the targets, in the log domain."""
        return GridSoftmin(self._costs, 1.0)

    @cached_property
    def transposed_softmin(self) -> GridSoftmin:
        """The softmin over the sources."""
        return GridSoftmin([cost.T for cost in self._costs], 1.0)


@final
class AxesKernels:
    """An `AxesKernel` for each of many temperatures; costs are in the units of these."""

    def __init__(self, costs: Sequence[Array], eps: Array) -> None:
        self._costs, self._eps = costs, eps
        self.sizes = tuple(len(cost) for cost in costs)

    def __getitem__(self, k: int) -> AxesKernel:
        return AxesKernel([cost / self._eps[k] for cost in self._costs])

    @cached_property
    def flat(self) -> Flat:
        """Return all of them for compiled code."""
        eps, axes = self._eps[:, None, None], len(self._costs)
        range_ = sum(float(np.ptp(cost)) for cost in self._costs) / self._eps
        fits = range_ <= FITS
        lift = np.where(fits, 0.0, _LIFT)
        lowest = [float(cost.min()) for cost in self._costs]
        kernels = [
            _powers(lift[:, None, None] / axes + (low - cost) / eps)
            for cost, low in zip(self._costs, lowest, strict=True)
        ]
        forward, backward = (
            np.concatenate([K.reshape(len(eps), -1) for K in side], 1)
            for side in (kernels, [K.transpose(0, 2, 1) for K in kernels])
        )
        lost = 4 * math.prod(self.sizes) * _TINY * np.exp(lift - lift / axes)
        numbers = np.stack([lift + sum(lowest) / self._eps, np.maximum(range_, FITS), lost, fits], 1)
        return Flat(forward, backward, np.array(self.sizes, dtype=np.int64), numbers)


def _powers(exponents: Array) -> Array:
    """Return the exponential, without the numbers of few digits below the smallest one, which are slow."""
    powers = np.exp(exponents)
    powers[powers < _TINY] = 0
    return powers


def _contracted(kernels: Sequence[Array], transposed: Sequence[Array], v: Array) -> Array:
    """Multiply along the last axis, which becomes the first, until all have had their turn."""
    if len(kernels) == 2:
        return kernels[1].dot(v.reshape(-1, kernels[0].shape[1])).dot(transposed[0]).reshape(-1)
    for K in kernels:
        v = K.dot(v.reshape(-1, K.shape[1]).T)
    return v.reshape(-1)
