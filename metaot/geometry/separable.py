"""Sums over the atoms of a grid, axis by axis, as matrix products that are exact to rounding in float64.

Where the whole cost is less than about 1300 eps, exp(-C/eps) and sums with it fit into float64: a sum takes one
power and one logarithm for each atom, and a matrix product for each axis. Otherwise see `separable_axis`.
"""

import math
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.separable_axis import EMPTY, LOWEST, AxisKernel, AxisWeights

_HIGHEST_COST = 1860.0
"""Bound of the exponents of plain sums: with 2^(z - top) scaled up to 2^910, the sums are above 2^-950."""
_HIGHEST_AXIS_COST = 995.0
"""Bound of the exponents along one axis: the entries of its kernel are normal numbers."""
_KEEP = 2**20
"""Entries of the costs of all axes, 8 MiB, up to which kernels at several eps are kept."""


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
class Separable:
    """The Gibbs kernel of a grid at one eps, or at one eps for each instance, as a factor for each axis."""

    def __init__(self, costs: tuple[Tensor, ...], eps: float | Float[Tensor, "batch"]) -> None:
        units = (eps if isinstance(eps, Tensor) else costs[0].new_tensor([eps])) * math.log(2)
        self._costs, self._units = costs, units
        self._lowest = [float(cost.amin()) for cost in costs]
        self.unit = units[:, None] if isinstance(eps, Tensor) else eps * math.log(2)
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
            sums = _without_zeros(contract(powers, self.kernels))
            return [contract(powers * v, self.kernels).div_(sums) for v in values]
        rows, means = self.lines(h / self.unit), [self.lines(v) for v in values]
        for axis in reversed(self.axes):
            lines = (len(rows), -1, axis.column_part.shape[-1])
            weights = AxisWeights(rows.reshape(lines), axis)
            rows, means = weights.log_sum, [weights.mean(v.reshape(lines)) for v in means]
        return [self.unlined(v, h) for v in means]

    def mean_cost(self, h: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return the mean of the cost under the weights of h."""
        if self.is_plain:
            powers, _ = self.powers(h)
            sums = _without_zeros(contract(powers, self.kernels))
            return self._sums_of_costs(powers).div_(sums)
        rows = self.lines(h / self.unit)
        total = torch.zeros_like(rows)
        for axis in reversed(self.axes):
            lines = (len(rows), -1, axis.column_part.shape[-1])
            weights = AxisWeights(rows.reshape(lines), axis)
            rows, total = weights.log_sum, weights.mean(total.reshape(lines)) + weights.mean_cost
        return self.unlined(total, h)

    def _sums_of_costs(self, powers: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        total, K = torch.zeros_like(powers), self.kernels
        for k, cost in enumerate(self._costs):
            total += contract(powers, (*K[:k], K[k] * cost, *K[k + 1 :]))
        return total

    def lines(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "groups lines n"]:
        """Group the instances by their eps."""
        return x.reshape(len(self._units), -1, x.shape[-1])

    def unlined(self, rows: Tensor, like: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Undo `lines`, with all axes before the instances."""
        n = math.prod(len(cost) for cost in self._costs)
        return rows.reshape(len(rows), n, -1).mT.reshape(len(like), n)


def _without_zeros(sums: Tensor) -> Tensor:
    """Return sums to divide by, so that means are zero where there is no mass."""
    return torch.where(sums == 0, torch.inf, sums)


@final
class Separables:
    """The kernels of a grid at the last few eps; tensors of eps are compared by value."""

    def __init__(self, costs: tuple[Tensor, ...]) -> None:
        self._costs = costs
        self._keep = 4 if sum(cost.numel() for cost in costs) <= _KEEP else 1
        self._recent: list[tuple[float | Tensor, Separable]] = []

    def at(self, eps: float | Float[Tensor, "batch"]) -> Separable:
        """Return the kernel at one eps, or at one eps for each instance."""
        for key, kernel in self._recent:
            if _same(key, eps):
                return kernel
        kernel = Separable(self._costs, eps)
        key = eps.clone() if isinstance(eps, Tensor) else eps
        self._recent = [(key, kernel), *self._recent[: self._keep - 1]]
        return kernel


def _same(key: float | Tensor, eps: float | Tensor) -> bool:
    if isinstance(key, Tensor) or isinstance(eps, Tensor):
        return isinstance(key, Tensor) and isinstance(eps, Tensor) and torch.equal(key, eps)
    return key == eps
