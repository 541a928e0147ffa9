"""Sums over the atoms of a grid, axis by axis, as matrix products that are exact to rounding in float64.

Where the whole cost is less than about 1300 eps, exp(-C/eps) and sums with it fit into float64: a sum takes one
power and one logarithm for each atom, and a matrix product for each axis. Otherwise see `separable_axis`.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.separable_axis import EMPTY, LOWEST, AxisKernel, AxisWeights, without_zeros

_BLOCK = 2**18
"""Entries of a block of (rows, lines, points), 2 MiB in float64: it stays in the cache."""
_HIGHEST_COST = 1860.0
"""Bound of the exponents of plain sums: with 2^(z - top) scaled up to 2^910, the sums are above 2^-950."""
_HIGHEST_AXIS_COST = 995.0
"""Bound of the exponents along one axis: the entries of its kernel are normal numbers."""


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


def grid_hardmin(
    z: Float[Tensor, "batch *sizes"], costs: tuple[Float[Tensor, "_ _"], ...]
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\min_j \sum_k c^k_{ij} - z_j$ over all atoms j of a grid: a min-plus product with each axis."""
    least = -z
    for axis, cost in enumerate(costs, 1):
        lines = least.movedim(axis, -1)
        rows = _min_plus(cost, lines.reshape(-1, cost.shape[1]))
        least = rows.reshape(len(cost), *lines.shape[:-1]).movedim(0, axis)
    return least


def _min_plus(cost: Float[Tensor, "n m"], lines: Float[Tensor, "lines m"]) -> Float[Tensor, "n lines"]:
    r"""Return $\min_j c_{ij} + x_j$ for each line x."""
    count, m = lines.shape
    together = max(1, _BLOCK // max(1, count * m))
    parts = lines.split(max(1, _BLOCK // (m * together)))
    blocks = [[(rows[:, None] + x).amin(-1) for x in parts] for rows in cost.split(together)]
    return torch.cat([torch.cat(block, 1) for block in blocks])


def grid_times_cost(
    v: Float[Tensor, "batch *sizes"], costs: tuple[Float[Tensor, "_ _"], ...]
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\sum_j (\sum_k c^k_{ij}) v_j$: of each axis, the cost times the marginal of v."""
    total = torch.zeros_like(v)
    for axis, cost in enumerate(costs, 1):
        marginal = v
        for other in range(1, v.ndim):
            if other != axis:
                marginal = marginal.sum(other, keepdim=True)
        total = total + (marginal.movedim(axis, -1) @ cost.mT).movedim(-1, axis)
    return total


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
        self.lift = max(0.0, sum(ranges) + LOWEST)
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
            return self._log_sum(h / self.unit).mul_(-self.unit)
        powers, top = self.powers(h)
        if self.offset:
            top -= self.offset
        return contract(powers, self.kernels).log2_().mul_(-self.unit).sub_(top)

    def powers(self, h: Float[Tensor, "batch n"]) -> tuple[Tensor, Float[Tensor, "batch 1"]]:
        """Return exp((h - top)/eps) and top, chosen so that no plain sum overflows or loses digits."""
        top = h.amax(-1, keepdim=True).clamp_min_(EMPTY)
        if self.lift:
            top -= self.lift * self.unit
        return (h - top).div_(self.unit).exp2_(), top

    def _log_sum(self, z: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        rows = self.lines(z)
        for axis in reversed(self.axes):
            rows = rows.reshape(len(rows), -1, axis.column_part.shape[-1])
            parts = [AxisWeights(rows, part).log_sum for part in axis.parts(rows.numel())]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self.unlined(rows, z)

    def mean(self, h: Float[Tensor, "batch n"], values: list[Float[Tensor, "batch n"]]) -> list[Tensor]:
        """Return the mean of each of the values under the weights of h."""
        if self.is_plain:
            powers, _ = self.powers(h)
            sums = without_zeros(contract(powers, self.kernels))
            return [contract(powers * v, self.kernels).div_(sums) for v in values]
        means = [self.lines(v) for v in values]
        for weights in self._axis_weights(h / self.unit):
            means = [weights.mean(v) for v in means]
        return [self.unlined(v, h) for v in means]

    def mean_cost(self, h: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return the mean of the cost under the weights of h."""
        if self.is_plain:
            (powers, _), K = self.powers(h), self.kernels
            sums = torch.zeros_like(powers)
            for k, cost in enumerate(self._costs):
                sums += contract(powers, (*K[:k], K[k] * cost, *K[k + 1 :]))
            return sums.div_(without_zeros(contract(powers, K)))
        total = self.lines(torch.zeros_like(h))
        for weights in self._axis_weights(h / self.unit):
            total = weights.mean(total) + weights.mean_cost
        return self.unlined(total, h)

    def _axis_weights(self, z: Float[Tensor, "batch n"]) -> Iterator[AxisWeights]:
        """Yield the weights along each axis, the last one first, after the sums over the axes before."""
        rows = self.lines(z)
        for axis in reversed(self.axes):
            weights = AxisWeights(rows.reshape(len(rows), -1, axis.column_part.shape[-1]), axis)
            yield weights
            rows = weights.log_sum

    def lines(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "groups lines n"]:
        """Group the instances by their eps."""
        return x.reshape(len(self._units), -1, x.shape[-1])

    def unlined(self, rows: Tensor, like: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Undo `lines`, with all axes before the instances."""
        n = math.prod(len(cost) for cost in self._costs)
        return rows.reshape(len(rows), n, -1).mT.reshape(len(like), n)
