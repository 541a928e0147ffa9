"""The softmin on a grid with a cost that is a sum over axes, axis by axis, as `metaot.geometry.separable`."""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np

from metaot.single.plan import Array

# Exponents of float64 reach from -1022 to 1023. A part of a sum that is lost is below 2^-1022.
LOWEST = -950.0
"""A sum above this power of two has all its digits: for 1e5 terms, and values between 1e-6 and 1."""
EMPTY = -1e300
"""Stands for the maximum of a row without mass: far below every other, and finite."""
HIGHEST_REST = 724.0
"""Bound of the exponents of R in a block; 722 is that of the unit interval as one block at eps = 1e-3."""
HIGHEST_COST = 1860.0
"""Bound of the exponents of plain sums: with 2^(z - top) scaled up to 2^910, the sums are above 2^-950."""
HIGHEST_AXIS_COST = 995.0
"""Bound of the exponents along one axis: the entries of its kernel are normal numbers."""


class Axis(NamedTuple):
    """The kernel exp2(-c/unit) of one axis in blocks of rows, of which the last may be filled up."""

    kernel: Array
    near: Array
    far: Array
    lift: float
    rows: int


@final
class GridSoftmin:
    r"""$-\epsilon \log \sum_j \exp((h_j - C_{ij})/\epsilon)$ for one h on a grid, at one eps."""

    def __init__(self, costs: Sequence[Array], eps: float) -> None:
        self.unit = eps * math.log(2)
        """What one power of two costs."""
        ranges = [float(np.ptp(cost)) / self.unit for cost in costs]
        self.is_plain = sum(ranges) <= HIGHEST_COST and max(ranges) <= HIGHEST_AXIS_COST
        self._axes: list[Axis] = []
        self._kernels: list[Array] = []
        if self.is_plain:
            self._offset = sum(float(cost.min()) for cost in costs)
            self._lift = max(0.0, sum(ranges) + LOWEST)
            self._kernels = [np.exp2((cost.min() - cost) / self.unit) for cost in reversed(costs)]
        else:
            self._axes = [in_blocks(cost, self.unit) for cost in reversed(costs)]

    def __call__(self, h: Array) -> Array:
        with np.errstate(all="ignore"):
            return self._plain(h) if self.is_plain else self._in_blocks(h)

    def _plain(self, h: Array) -> Array:
        top = max(float(h.max()), EMPTY) - self._lift * self.unit
        x = h - top
        x *= 1 / self.unit
        np.exp2(x, x)
        for K in self._kernels:
            x = K.dot(x.reshape(-1, K.shape[-1]).T)
        x = np.log2(x).reshape(-1)
        x *= -self.unit
        x -= top - self._offset
        return x

    def _in_blocks(self, h: Array) -> Array:
        z = h * (1 / self.unit)
        for kernel, near, far, lift, rows in self._axes:
            exponents = z.reshape(1, -1, kernel.shape[-1]) - near
            top = exponents.max(-1, keepdims=True)
            np.maximum(top, EMPTY, out=top)
            top -= lift
            exponents -= top
            sums = kernel @ np.exp2(exponents, exponents).transpose(0, 2, 1)
            logs = np.log2(sums, sums)
            logs += top.transpose(0, 2, 1)
            logs -= far
            z = logs.reshape(-1, logs.shape[-1])[:rows]
        z = z.reshape(-1)
        z *= -self.unit
        return z


def in_blocks(cost: Array, unit: float) -> Axis:
    """Choose as few blocks as the unit allows; see `metaot.geometry.separable_axis`."""
    rows, blocks = len(cost), 1
    while True:
        size = -(-rows // blocks)
        near, far, rest = _split(cost, size)
        worst = float(np.abs(rest).max()) / unit
        if worst <= HIGHEST_REST or size == 1:
            break
        blocks = min(rows, max(-(-rows // (size - 1)), int(blocks * worst / HIGHEST_REST)))
    lift = max(0.0, 2 * worst + LOWEST)
    drop = min(lift, 1010 - worst)
    return Axis(np.exp2(rest / -unit - drop), near / unit, far / unit - drop, lift, rows)


def _split(cost: Array, size: int) -> tuple[Array, Array, Array]:
    """Return what the cost in blocks of so many rows is the sum of: near, far and the rest."""
    rows = np.minimum(np.arange(-(-len(cost) // size) * size), len(cost) - 1)
    costs = cost[rows].reshape(-1, size, cost.shape[-1])
    far = _midrange(costs - costs[:, size // 2, None], -1)
    near = _midrange(costs - far, -2)
    return near, far, costs - far - near


def _midrange(x: Array, axis: int) -> Array:
    return (x.min(axis, keepdims=True) + x.max(axis, keepdims=True)) / 2
