"""Sums over the atoms of a grid, axis by axis, as matrix products that are exact to rounding in float64.

A sum of positive products loses digits only where the terms that matter underflow. Where the whole cost is a
few hundred eps, the sum of exp(z_j - top) under the Gibbs kernels of the axes cannot: one exponential and one
logarithm an atom. For smaller eps, a cost is first made small: in a block of rows i,

    c_ij = far_i + near_j + R_ij,

where R is the small part that makes the rows differ: |R| <= |B| |axis| / 2 for the squared distance. `near` is
added to z before its maximum is taken and `far` after the logarithm, so that only R has to fit into a matrix
of float64. The number of blocks grows as 1/eps, until each has one row and R is zero: an ordinary logsumexp.
No potentials are too strange for this, and nothing is tested while summing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

# All exponents are of two: torch's exp takes twice as long as its exp2, and ten times where results underflow.
# Those of float64 reach from -1022 to 1023. A part of a sum that is lost is below 2^-1022, so that a sum above
# 2^-950 has all its digits, for 1e5 terms and values between 1e-6 and 1.
_LOWEST = -950.0
_HIGHEST_COST = 1860.0
"""Bound of the exponents of plain sums: with 2^(z - top) scaled up to 2^910, the sums are above 2^-950."""
_HIGHEST_AXIS_COST = 995.0
"""Bound of the exponents along one axis: the entries of its kernel are normal numbers."""
_HIGHEST_REST = 724.0
"""Bound of the exponents of R in a block; 722 is that of the unit interval as one block at eps = 1e-3."""
_EMPTY = -1e300
"""Stands for the maximum of a row without mass: far below every other, and finite."""
_CHUNK = 2**22
"""Exponentials that are made at once: 32 MiB."""

Key = float | Tensor
Value = TypeVar("Value")


def contract(x: Float[Tensor, "batch n"], kernels: tuple[Tensor, ...]) -> Float[Tensor, "batch n"]:
    """Multiply with the kernels of all axes: each n m, or batch n m with one for each instance.

    The last axis becomes the first one by each product, so that nothing is copied between them.
    """
    batch, n = x.shape
    for K in reversed(kernels):
        lines = (-1, K.shape[-1]) if K.ndim == 2 else (batch, -1, K.shape[-1])
        x = K @ x.reshape(lines).mT
    return x.reshape(n, batch).mT if kernels[0].ndim == 2 else x.reshape(batch, n)


@final
@dataclass(frozen=True)
class AxisKernel:
    """The kernel exp2(-c/unit) of one axis, in blocks of rows; a group is what has one unit.

    The first dimension, `pieces`, is blocks x groups: batched products of three dimensions cost the least.
    """

    shape: tuple[int, int, int]
    kernel: Float[Tensor, "pieces block_rows m"]
    near: Float[Tensor, "pieces 1 m"]
    far: Float[Tensor, "pieces block_rows 1"]
    costs: Float[Tensor, "pieces block_rows m"]
    lift: float

    @classmethod
    def of(cls, cost: Float[Tensor, "n m"], unit: Float[Tensor, "groups"]) -> "AxisKernel":
        """Choose as few blocks as the units allow."""
        lowest, rows, blocks = float(unit.amin()), len(cost), 1
        while True:
            size = -(-rows // blocks)
            costs, near, far, rest = _split(cost, size)
            worst = float(rest.abs().amax()) / lowest
            if worst <= _HIGHEST_REST or size == 1:
                break
            blocks = min(rows, max(-(-rows // (size - 1)), int(blocks * worst / _HIGHEST_REST)))
        # Exponents of sums are between lift - drop - worst and lift - drop + worst, those of lost terms below
        # worst - drop - 1022, and those of the kernel above -drop - worst.
        lift = max(0.0, 2 * worst + _LOWEST)
        drop = min(lift, 1010 - worst)
        scale, costs = unit[:, None, None], costs.expand(-1, len(unit), -1, -1)
        pieces = ((-rest / scale - drop).exp2(), near / scale, far / scale - drop, costs)
        return cls((len(costs), len(unit), rows), *(piece.flatten(0, 1) for piece in pieces), lift)

    def parts(self, size: int) -> "list[AxisKernel]":
        """Return it in parts of a few blocks, so that so many numbers a block are not too many at once."""
        blocks, groups, rows = self.shape
        step = max(1, _CHUNK // max(1, size))
        if step >= blocks:
            return [self]
        return [self._part(k, min(k + step, blocks)) for k in range(0, blocks, step)]

    def _part(self, first: int, last: int) -> "AxisKernel":
        _, groups, rows = self.shape
        size = self.kernel.shape[1]
        tensors = (self.kernel, self.near, self.far, self.costs)
        pieces = (t[first * groups : last * groups] for t in tensors)
        return AxisKernel((last - first, groups, min(rows, last * size) - first * size), *pieces, self.lift)

    def spread(self, x: Float[Tensor, "groups lines m"]) -> Float[Tensor, "_ lines m"]:
        """Repeat it for each block, where broadcasting does not."""
        return x if 1 in self.shape[:2] else x.repeat(self.shape[0], 1, 1)

    def join(self, x: Float[Tensor, "pieces block_rows lines"]) -> Float[Tensor, "groups rows lines"]:
        """Join the blocks."""
        blocks, groups, rows = self.shape
        if blocks > 1:
            x = x.unflatten(0, (blocks, groups)).transpose(0, 1).flatten(1, 2)
        return x if x.shape[1] == rows else x[:, :rows]


def _split(cost: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cost in blocks of so many rows, and its parts: near, far and the rest."""
    rows = torch.arange(-(-len(cost) // size) * size, device=cost.device).clamp_max(len(cost) - 1)
    costs = cost[rows].reshape(-1, 1, size, cost.shape[-1])
    far = _midrange(costs - costs[:, :, size // 2, None], -1)
    near = _midrange(costs - far, -2)
    return costs, near, far, costs - far - near


def _midrange(x: Tensor, dim: int) -> Tensor:
    low, high = x.aminmax(dim=dim, keepdim=True)
    return (low + high) / 2


@final
class AxisWeights:
    """Weights w_ij = exp2(z_j - c_ij/unit), normalised over j, along the last axis of z.

    The results have the rows i before the lines: the next axis is then the last one.
    """

    def __init__(self, z: Float[Tensor, "groups lines m"], axis: AxisKernel) -> None:
        self._axis = axis
        exponents = axis.spread(z) - axis.near
        # One number for each line; the maximum of a line without mass is any, its sums are zero.
        self._top = exponents.amax(-1, keepdim=True).clamp_min_(_EMPTY)
        if axis.lift:
            self._top -= axis.lift
        self.scalings = exponents.sub_(self._top).exp2_()
        self._sums = torch.bmm(axis.kernel, self.scalings.mT)

    @cached_property
    def log_sum(self) -> Float[Tensor, "groups n lines"]:
        """The binary logarithm of the sum over j, before normalisation; -inf for lines without mass."""
        return self._axis.join(self._sums.log2().add_(self._top.mT).sub_(self._axis.far))

    def mean(self, v: Float[Tensor, "groups lines m"]) -> Float[Tensor, "groups n lines"]:
        """Return the mean of v over j; zero for lines without mass."""
        scaled = self.scalings * self._axis.spread(v)
        return self._axis.join(torch.bmm(self._axis.kernel, scaled.mT) * self.inverse)

    @cached_property
    def mean_cost(self) -> Float[Tensor, "groups n lines"]:
        """The mean over j of the cost along this axis; zero for lines without mass."""
        kernel = self._axis.kernel * self._axis.costs
        return self._axis.join(torch.bmm(kernel, self.scalings.mT) * self.inverse)

    @cached_property
    def inverse(self) -> Float[Tensor, "pieces block_rows lines"]:
        """What a sum is multiplied with to be a mean."""
        return torch.where(self._sums > 0, self._sums, torch.inf).reciprocal_()


@final
class Separable:
    """The Gibbs kernel of a grid at one eps, or at one for each of a batch: a factor for each axis."""

    def __init__(self, costs: tuple[Tensor, ...], eps: float | Float[Tensor, "batch"]) -> None:
        units = (eps if isinstance(eps, Tensor) else costs[0].new_tensor([eps])) * math.log(2)
        self._costs, self._units = costs, units
        self._lowest = [float(cost.amin()) for cost in costs]
        self.unit = units[:, None] if isinstance(eps, Tensor) else eps * math.log(2)
        """What one power of two costs: exp(-C/eps) = exp2(-C/unit)."""
        lowest = float(units.amin())
        ranges = [(float(cost.amax()) - low) / lowest for cost, low in zip(costs, self._lowest, strict=True)]
        self.is_plain = sum(ranges) <= _HIGHEST_COST and max(ranges) <= _HIGHEST_AXIS_COST
        """Whether plain products are exact: C/unit fits into the exponents of float64."""
        self.lift = max(0.0, sum(ranges) + _LOWEST)
        """Exponent by which plain sums are scaled up, so that none is too small."""
        self.offset = sum(self._lowest)
        """The lowest cost, of which the plain kernels know nothing."""

    @cached_property
    def kernels(self) -> tuple[Tensor, ...]:
        """The plain kernel of each axis, of the cost above its lowest."""
        unit = self.unit[:, None] if isinstance(self.unit, Tensor) else self.unit
        return tuple((-(c - low) / unit).exp2() for c, low in zip(self._costs, self._lowest, strict=True))

    @cached_property
    def axes(self) -> tuple[AxisKernel, ...]:
        """The kernel of each axis in blocks, whatever eps."""
        return tuple(AxisKernel.of(cost, self._units) for cost in self._costs)

    def softmin(self, h: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        r"""Return $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""
        if not self.is_plain:
            return self._log_sum(h / self.unit).mul_(-self.unit)
        top = h.amax(-1, keepdim=True).clamp_min_(_EMPTY)
        if self.lift:
            top -= self.lift * self.unit
        sums = contract((h - top).div_(self.unit).exp2_(), self.kernels)
        if self.offset:
            top -= self.offset
        return sums.log2_().mul_(-self.unit).sub_(top)

    def _log_sum(self, z: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        rows = self.lines(z)
        for axis in reversed(self.axes):
            rows = rows.reshape(len(rows), -1, axis.near.shape[-1])
            parts = [AxisWeights(rows, part).log_sum for part in axis.parts(rows.numel())]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self.unlined(rows, z)

    def mean(self, h: Float[Tensor, "batch n"], values: list[Float[Tensor, "batch n"]]) -> list[Tensor]:
        """Return the mean of each of the values under the weights of h."""
        rows, means = self.lines(h / self.unit), [self.lines(v) for v in values]
        for axis in reversed(self.axes):
            lines = (len(rows), -1, axis.near.shape[-1])
            weights = AxisWeights(rows.reshape(lines), axis)
            rows, means = weights.log_sum, [weights.mean(v.reshape(lines)) for v in means]
        return [self.unlined(v, h) for v in means]

    def mean_cost(self, h: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return the mean of the cost under the weights of h."""
        rows = self.lines(h / self.unit)
        total = torch.zeros_like(rows)
        for axis in reversed(self.axes):
            lines = (len(rows), -1, axis.near.shape[-1])
            weights = AxisWeights(rows.reshape(lines), axis)
            rows, total = weights.log_sum, weights.mean(total.reshape(lines)) + weights.mean_cost
        return self.unlined(total, h)

    def lines(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "groups lines n"]:
        """Bring the instances of one eps together."""
        return x.reshape(len(self._units), -1, x.shape[-1])

    def unlined(self, rows: Tensor, like: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Undo `lines`, with all axes before the instances."""
        return rows.reshape(len(rows), like.shape[-1], -1).mT.reshape(like.shape)


@final
class Recent(Generic[Value]):
    """A function of eps that keeps its last few answers; a tensor is known by its values."""

    def __init__(self, make: Callable[[Key], Value], keep: int) -> None:
        self._make, self._keep = make, keep
        self._answers: list[tuple[Key, Value]] = []

    def __call__(self, eps: Key) -> Value:
        for key, value in self._answers:
            if _same(key, eps):
                return value
        value = self._make(eps)
        key = eps.clone() if isinstance(eps, Tensor) else eps
        self._answers = [(key, value), *self._answers[: self._keep - 1]]
        return value


def _same(key: Key, eps: Key) -> bool:
    if isinstance(key, Tensor) or isinstance(eps, Tensor):
        return isinstance(key, Tensor) and isinstance(eps, Tensor) and torch.equal(key, eps)
    return key == eps
