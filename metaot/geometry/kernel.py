"""Gibbs kernels of potentials, prepared for many products; and those of grids, as a factor for each axis.

Sums over a grid are matrix products axis by axis, exact to rounding in float64. Where the whole cost is less
than about 1300 eps, exp(-C/eps) and sums with it fit into float64: a sum takes one power and one logarithm for
each atom, and a matrix product for each axis. Otherwise the rows i of an axis are divided into blocks B, in
which

    c_ij = r_i + s_j + R_ij,

where R is the small part in which the rows differ: |R| <= |B| |axis| / 2 for the squared distance. s is subtracted
from z before its maximum is taken, r after the logarithm, and only exp(-R/eps) is a matrix. The number of blocks
grows as 1/eps, until each is one row and R is zero: an ordinary logsumexp. Sums are exact to rounding for every z,
without tests while summing.

Exponents are powers of two, because torch's exp is slower than its exp2, most of all where results underflow.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 2**20
"""Powers that are made at once: 8 MiB."""

# Exponents of float64 reach from -1022 to 1023. A part of a sum that is lost is below 2^-1022.
_LOWEST = -950.0
"""A sum above this power of two has all its digits: for 1e5 terms, and values between 1e-6 and 1."""
_EMPTY = -1e300
"""The maximum of a row without mass: far below all others, and finite."""
_HIGHEST_COST = 1860.0
"""Bound of the exponents of plain sums: with 2^(z - top) scaled up to 2^910, the sums are above 2^-950."""
_HIGHEST_AXIS_COST = 995.0
"""Bound of the exponents along one axis: the entries of its kernel are normal numbers."""
_HIGHEST_REST = 724.0
"""Bound of the exponents of R in a block; the unit interval as one block at eps = 1e-3 has 722."""


class Kernel(ABC):
    """The matrix K_ij = exp((f_i + g_j - C_ij)/eps) of potentials f and g, with one batch dimension.

    f and g are close to a solution, so that K is nearly a plan and fits into floating point; entries that are too
    small for it are zero.
    """

    @abstractmethod
    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Return K v."""

    @property
    @abstractmethod
    def T(self) -> "Kernel":
        """The kernel with source and target exchanged."""

    @abstractmethod
    def __getitem__(self, index: Tensor) -> "Kernel":
        """Return the kernels of a part of the batch."""


@final
class MatrixKernel(Kernel):
    """A kernel that is its matrix."""

    def __init__(self, K: Float[Tensor, "batch n m"]) -> None:
        self.K = K

    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        if v.is_cuda or len(v) == 0:
            return (self.K @ v[:, :, None]).squeeze(-1)
        # On a CPU, batched products of a matrix and a vector are slower than one product after the other.
        return torch.stack([matrix @ vector for matrix, vector in zip(self.K.unbind(), v.unbind(), strict=True)])

    @property
    def T(self) -> "MatrixKernel":
        return MatrixKernel(self.K.mT)

    def __getitem__(self, index: Tensor) -> "MatrixKernel":
        return MatrixKernel(self.K[index])


def contract(x: Float[Tensor, "batch m"], kernels: tuple[Tensor, ...]) -> Float[Tensor, "batch n"]:
    """Multiply x with the kernels of all axes: each n m, or batch n m with one for each instance.

    Each product moves the last axis to the front, so that nothing is copied between products.
    """
    batch, n = len(x), math.prod(K.shape[-2] for K in kernels)
    if batch == 1 and len(kernels) == 2 and kernels[0].ndim == 2:
        K, L = kernels  # fewer calls for one image
        return (K @ x.reshape(K.shape[1], -1) @ L.mT).reshape(1, n)
    for K in reversed(kernels):
        lines = (-1, K.shape[-1]) if K.ndim == 2 else (batch, -1, K.shape[-1])
        x = K @ x.reshape(lines).mT
    return x.reshape(n, batch).mT if kernels[0].ndim == 2 else x.reshape(batch, n)


@final
@dataclass(frozen=True)
class AxisKernel:
    """The kernel exp2(-c/unit) of one axis, in blocks of rows; the instances of a group share one unit."""

    rows: int
    lift: float
    kernel: Float[Tensor, "groups blocks block_rows m"]
    column_part: Float[Tensor, "groups blocks 1 m"]
    row_part: Float[Tensor, "groups blocks block_rows 1"]
    costs: Float[Tensor, "1 blocks block_rows m"]

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
        lift = max(0.0, 2 * worst + _LOWEST)
        drop = min(lift, 1010 - worst)
        scale = unit[:, None, None, None]
        return cls(rows, lift, (-rest / scale - drop).exp2(), column_part / scale, row_part / scale - drop, costs)

    def parts(self, numbers: int) -> "list[AxisKernel]":
        """Return the kernels of a few blocks each, so that `numbers` for each block fit into memory."""
        size, step = self.kernel.shape[2], max(1, _CHUNK // max(1, numbers))
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return [
            replace(self, rows=self.rows - k * size, **{name: t[:, k : k + step] for name, t in tensors.items()})
            for k in range(0, self.kernel.shape[1], step)
        ]


def _split(cost: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cost in blocks of `size` rows, and its parts: of columns, of rows and the rest."""
    rows = torch.arange(-(-len(cost) // size) * size, device=cost.device).clamp_max(len(cost) - 1)
    costs = cost[rows].reshape(1, -1, size, cost.shape[-1])
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
        exponents = z[:, None] - axis.column_part
        # One number for each line; for a line without mass any number will do, because its sums are zero.
        self._top = exponents.amax(-1, keepdim=True).clamp_min_(_EMPTY)
        if axis.lift:
            self._top -= axis.lift
        self._scalings = exponents.sub_(self._top).exp2_()
        self._sums = axis.kernel @ self._scalings.mT

    @cached_property
    def log_sum(self) -> Float[Tensor, "groups n lines"]:
        """The binary logarithm of the sum over j, before normalisation; -inf for lines without mass."""
        return self._joined(self._sums.log2().add_(self._top.mT).sub_(self._axis.row_part))

    def mean(self, v: Float[Tensor, "groups ..."]) -> Float[Tensor, "groups n lines"]:
        """Return the mean of v over j; zero for lines without mass."""
        scaled = self._scalings * v.reshape(self._shape)[:, None]
        return self._joined((self._axis.kernel @ scaled.mT).mul_(self._inverse))

    @cached_property
    def expected_cost(self) -> Float[Tensor, "groups n lines"]:
        """The mean over j of the cost along this axis; zero for lines without mass."""
        kernel = self._axis.kernel * self._axis.costs
        return self._joined((kernel @ self._scalings.mT).mul_(self._inverse))

    @cached_property
    def _inverse(self) -> Float[Tensor, "groups blocks block_rows lines"]:
        return _without_zeros(self._sums).reciprocal_()

    def _joined(self, x: Float[Tensor, "groups blocks block_rows lines"]) -> Float[Tensor, "groups n lines"]:
        return x.flatten(1, 2)[:, : self._axis.rows]


@final
class Separable:
    """The Gibbs kernel of a grid at one eps, or at one eps for each instance, as a factor for each axis."""

    def __init__(self, costs: tuple[Tensor, ...], eps: float | tuple[float, ...]) -> None:
        units = costs[0].new_tensor(eps).reshape(-1) * math.log(2)
        self._costs, self._units = costs, units
        self._lowest = [float(cost.amin()) for cost in costs]
        self.unit = eps * math.log(2) if isinstance(eps, float) else units[:, None]
        """The cost of one power of two: exp(-C/eps) = exp2(-C/unit)."""
        lowest = float(units.amin())
        ranges = [(float(cost.amax()) - low) / lowest for cost, low in zip(costs, self._lowest, strict=True)]
        self.is_plain = sum(ranges) <= _HIGHEST_COST and max(ranges) <= _HIGHEST_AXIS_COST
        """Whether plain products are exact: C/unit fits into the exponents of float64."""
        self.lift = max(0.0, sum(ranges) + _LOWEST)
        """Exponent by which plain sums are scaled up, so that none underflows."""
        self.offset = sum(self._lowest)
        """The lowest cost, which the plain kernels leave out."""

    @cached_property
    def kernels(self) -> tuple[Tensor, ...]:
        """The plain kernel of each axis, of its cost minus the lowest one."""
        unit = self.unit[:, None] if isinstance(self.unit, Tensor) else self.unit
        return tuple((-(c - low) / unit).exp2() for c, low in zip(self._costs, self._lowest, strict=True))

    @cached_property
    def axes(self) -> tuple[AxisKernel, ...]:
        """The kernel of each axis in blocks, for every eps."""
        return tuple(AxisKernel.of(cost, self._units) for cost in self._costs)

    def softmin(self, h: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        r"""Return $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""
        if not self.is_plain:
            rows = self._lines(h / self.unit)
            for axis in reversed(self.axes):
                rows = rows.reshape(len(rows), -1, axis.kernel.shape[-1])
                rows = torch.cat([AxisWeights(rows, part).log_sum for part in axis.parts(rows.numel())], 1)
            return self._joined(rows, h).mul_(-self.unit)
        powers, top = self.powers(h)
        if self.offset:
            top -= self.offset
        return contract(powers, self.kernels).log2_().mul_(-self.unit).sub_(top)

    def powers(self, h: Float[Tensor, "batch n"]) -> tuple[Tensor, Float[Tensor, "batch 1"]]:
        """Return exp((h - top)/eps) and top, chosen so that no plain sum overflows or loses digits."""
        top = h.amax(-1, keepdim=True).clamp_min_(_EMPTY)
        if self.lift:
            top -= self.lift * self.unit
        return (h - top).div_(self.unit).exp2_(), top

    def mean(self, h: Float[Tensor, "batch n"], values: list[Float[Tensor, "batch n"]]) -> list[Tensor]:
        """Return the mean of each of the values under the weights of h."""
        if self.is_plain:
            powers, _ = self.powers(h)
            sums = _without_zeros(contract(powers, self.kernels))
            return [contract(powers * v, self.kernels).div_(sums) for v in values]
        means = [self._lines(v) for v in values]
        for weights in self._axis_weights(h / self.unit):
            means = [weights.mean(v) for v in means]
        return [self._joined(v, h) for v in means]

    def expected_cost(self, h: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return the mean of the cost under the weights of h."""
        if self.is_plain:
            (powers, _), K = self.powers(h), self.kernels
            sums = torch.zeros_like(powers)
            for k, cost in enumerate(self._costs):
                sums += contract(powers, (*K[:k], K[k] * cost, *K[k + 1 :]))
            return sums.div_(_without_zeros(contract(powers, K)))
        total = self._lines(torch.zeros_like(h))
        for weights in self._axis_weights(h / self.unit):
            total = weights.mean(total) + weights.expected_cost
        return self._joined(total, h)

    def _axis_weights(self, z: Float[Tensor, "batch n"]) -> Iterator[AxisWeights]:
        """Yield the weights along each axis, the last one first, after the sums over the axes before."""
        rows = self._lines(z)
        for axis in reversed(self.axes):
            weights = AxisWeights(rows.reshape(len(rows), -1, axis.kernel.shape[-1]), axis)
            yield weights
            rows = weights.log_sum

    def _lines(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "groups lines n"]:
        """Group the instances by their eps."""
        return x.reshape(len(self._units), -1, x.shape[-1])

    def _joined(self, rows: Tensor, like: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Undo `_lines`, with all axes before the instances."""
        n = math.prod(len(cost) for cost in self._costs)
        return rows.reshape(len(rows), n, -1).mT.reshape(len(like), n)


def _without_zeros(sums: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return sums to divide by, so that means are zero where there is no mass."""
    return torch.where(sums == 0, torch.inf, sums)
