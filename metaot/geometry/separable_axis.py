"""The Gibbs kernel of one axis of a grid in blocks of rows, so that float64 is enough for every eps.

A sum of positive products loses digits only where its large terms underflow. So the cost of an axis is made small
first. In a block B of rows i,

    c_ij = r_i + s_j + R_ij,

where R is the small part in which the rows differ: |R| <= |B| |axis| / 2 for the squared distance. s is subtracted
from z before its maximum is taken, r after the logarithm, and only exp(-R/eps) is a matrix. The number of blocks
grows as 1/eps, until each is one row and R is zero: an ordinary logsumexp. Sums are exact to rounding for every z,
without tests while summing.

Exponents are powers of two, because torch's exp is slower than its exp2, most of all where results underflow.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

# Exponents of float64 reach from -1022 to 1023. A part of a sum that is lost is below 2^-1022.
LOWEST = -950.0
"""A sum above this power of two has all its digits: for 1e5 terms, and values between 1e-6 and 1."""
EMPTY = -1e300
"""The maximum of a row without mass: far below all others, and finite."""
_HIGHEST_REST = 724.0
"""Bound of the exponents of R in a block; the unit interval as one block at eps = 1e-3 has 722."""
_CHUNK = 2**20
"""Powers that are made at once: 8 MiB."""


@final
@dataclass(frozen=True)
class AxisKernel:
    """The kernel exp2(-c/unit) of one axis, in blocks of rows; the instances of a group share one unit.

    The first dimension, `pieces`, is blocks x groups: batched products of three dimensions are the fastest.
    """

    shape: tuple[int, int, int]
    lift: float
    kernel: Float[Tensor, "pieces block_rows m"]
    column_part: Float[Tensor, "pieces 1 m"]
    row_part: Float[Tensor, "pieces block_rows 1"]
    costs: Float[Tensor, "pieces block_rows m"]

    @classmethod
    def of(cls, cost: Float[Tensor, "n m"], unit: Float[Tensor, "groups"]) -> "AxisKernel":
        """Divide the rows into as few blocks as the units allow."""
        lowest, rows, blocks = float(unit.amin()), len(cost), 1
        while True:
            size = -(-rows // blocks)
            costs, column_part, row_part, rest = _split(cost, size)
            worst = float(rest.abs().amax()) / lowest
            if worst <= _HIGHEST_REST or size == 1:
                break
            blocks = min(rows, max(-(-rows // (size - 1)), int(blocks * worst / _HIGHEST_REST)))
        # Exponents of sums are between lift - drop - worst and lift - drop + worst, exponents of lost terms below
        # worst - drop - 1022, and exponents of the kernel above -drop - worst.
        lift = max(0.0, 2 * worst + LOWEST)
        drop = min(lift, 1010 - worst)
        scale, costs = unit[:, None, None], costs.expand(-1, len(unit), -1, -1)
        pieces = ((-rest / scale - drop).exp2(), column_part / scale, row_part / scale - drop, costs)
        return cls((len(costs), len(unit), rows), lift, *(piece.flatten(0, 1) for piece in pieces))

    def parts(self, size: int) -> "list[AxisKernel]":
        """Return parts of a few blocks each, so that `size` numbers for each block fit into memory."""
        blocks = self.shape[0]
        step = max(1, _CHUNK // max(1, size))
        if step >= blocks:
            return [self]
        return [self._part(k, min(k + step, blocks)) for k in range(0, blocks, step)]

    def _part(self, first: int, last: int) -> "AxisKernel":
        _, groups, rows = self.shape
        size = self.kernel.shape[1]
        tensors = (self.kernel, self.column_part, self.row_part, self.costs)
        pieces = (t[first * groups : last * groups] for t in tensors)
        return AxisKernel((last - first, groups, min(rows, last * size) - first * size), self.lift, *pieces)

    def repeated(self, x: Float[Tensor, "groups lines m"]) -> Float[Tensor, "_ lines m"]:
        """Repeat x for each block, where broadcasting does not."""
        return x if 1 in self.shape[:2] else x.repeat(self.shape[0], 1, 1)

    def join(self, x: Float[Tensor, "pieces block_rows lines"]) -> Float[Tensor, "groups rows lines"]:
        """Join the blocks of x."""
        blocks, groups, rows = self.shape
        if blocks > 1:
            x = x.unflatten(0, (blocks, groups)).transpose(0, 1).flatten(1, 2)
        return x if x.shape[1] == rows else x[:, :rows]


def _split(cost: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cost in blocks of `size` rows, and its parts: of columns, of rows and the rest."""
    rows = torch.arange(-(-len(cost) // size) * size, device=cost.device).clamp_max(len(cost) - 1)
    costs = cost[rows].reshape(-1, 1, size, cost.shape[-1])
    row_part = _midrange(costs - costs[:, :, size // 2, None], -1)
    column_part = _midrange(costs - row_part, -2)
    return costs, column_part, row_part, costs - row_part - column_part


def _midrange(x: Tensor, dim: int) -> Tensor:
    low, high = x.aminmax(dim=dim, keepdim=True)
    return (low + high) / 2


@final
class AxisWeights:
    """Weights w_ij = exp2(z_j - c_ij/unit), normalised over j, along the last axis of z.

    The results have the rows i before the lines: the next axis is then the last one.
    """

    def __init__(self, z: Float[Tensor, "groups lines m"], axis: AxisKernel) -> None:
        self._axis, self._shape = axis, z.shape
        exponents = axis.repeated(z) - axis.column_part
        # One number for each line; for a line without mass any number will do, because its sums are zero.
        self._top = exponents.amax(-1, keepdim=True).clamp_min_(EMPTY)
        if axis.lift:
            self._top -= axis.lift
        self.scalings = exponents.sub_(self._top).exp2_()
        self._sums = torch.bmm(axis.kernel, self.scalings.mT)

    @cached_property
    def log_sum(self) -> Float[Tensor, "groups n lines"]:
        """The binary logarithm of the sum over j, before normalisation; -inf for lines without mass."""
        return self._axis.join(self._sums.log2().add_(self._top.mT).sub_(self._axis.row_part))

    def mean(self, v: Float[Tensor, "groups ..."]) -> Float[Tensor, "groups n lines"]:
        """Return the mean of v over j; zero for lines without mass."""
        scaled = self.scalings * self._axis.repeated(v.reshape(self._shape))
        return self._axis.join(torch.bmm(self._axis.kernel, scaled.mT) * self._inverse)

    @cached_property
    def mean_cost(self) -> Float[Tensor, "groups n lines"]:
        """The mean over j of the cost along this axis; zero for lines without mass."""
        kernel = self._axis.kernel * self._axis.costs
        return self._axis.join(torch.bmm(kernel, self.scalings.mT) * self._inverse)

    @cached_property
    def _inverse(self) -> Float[Tensor, "pieces block_rows lines"]:
        """The factor that makes a mean of a sum."""
        return without_zeros(self._sums).reciprocal_()


def without_zeros(sums: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return sums to divide by, so that means are zero where there is no mass."""
    return torch.where(sums == 0, torch.inf, sums)
