"""Sums over the atoms of a grid, axis by axis, as matrix products that are exact to rounding in float64.

Where the whole cost is less than about 1300 eps, exp(-C/eps) and sums with it fit into float64: one power and
one logarithm for each atom, and a matrix product for each axis. Otherwise as in `separable_axis`.
"""

import math
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.separable_axis import AxisKernel, AxisWeights
from metaot.single.softmin import EMPTY, HIGHEST_AXIS_COST, HIGHEST_COST, LOWEST, GridSoftmin

_SMALL = 4096
"""Atoms of a single grid up to which calls take longer than the arithmetic."""
_KEEP = 2**20
"""Entries of the costs of all axes up to which the kernels of more than the last eps are kept: 8 MiB."""


def contract(x: Float[Tensor, "batch m"], kernels: tuple[Tensor, ...]) -> Float[Tensor, "batch n"]:
    """Multiply with the kernels of all axes: each n m, or batch n m with one for each instance.

    The last axis becomes the first one by each product, so that nothing is copied between them.
    """
    batch, n = len(x), math.prod(K.shape[-2] for K in kernels)
    if batch == 1 and len(kernels) == 2 and kernels[0].ndim == 2:
        K, L = kernels  # one image: the same with fewer calls, each of which takes as long as a product of 28 x 28
        return (K @ x.reshape(K.shape[1], -1) @ L.mT).reshape(1, n)
    for K in reversed(kernels):
        lines = (-1, K.shape[-1]) if K.ndim == 2 else (batch, -1, K.shape[-1])
        x = K @ x.reshape(lines).mT
    return x.reshape(n, batch).mT if kernels[0].ndim == 2 else x.reshape(batch, n)


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
        self.is_plain = sum(ranges) <= HIGHEST_COST and max(ranges) <= HIGHEST_AXIS_COST
        """Whether plain products are exact: C/unit fits into the exponents of float64."""
        self.lift = max(0.0, sum(ranges) + LOWEST)
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

    @property
    def blocks(self) -> int:
        """The highest number of blocks of an axis."""
        return 1 if self.is_plain else max(axis.shape[0] for axis in self.axes)

    def softmin(self, h: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        r"""Return $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""
        if len(h) == 1 and h.shape[-1] <= _SMALL and h.device.type == "cpu" and not h.requires_grad:
            return torch.from_numpy(self._alone(h.numpy()[0]))[None]
        if not self.is_plain:
            return self._log_sum(h / self.unit).mul_(-self.unit)
        powers, top = self.powers(h)
        if self.offset:
            top -= self.offset
        return contract(powers, self.kernels).log2_().mul_(-self.unit).sub_(top)

    def softmin_alone(self, h: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Return the softmin of one h, in numpy."""
        return self._alone(h) if len(h) <= _SMALL else self.softmin(torch.from_numpy(h)[None])[0].numpy()

    @cached_property
    def _alone(self) -> GridSoftmin:
        return GridSoftmin([cost.detach().numpy() for cost in self._costs], float(self._units[0]) / math.log(2))

    def powers(self, h: Float[Tensor, "batch n"]) -> tuple[Tensor, Float[Tensor, "batch 1"]]:
        """Return exp((h - top)/eps) and top: such that no plain sum overflows or loses digits."""
        top = h.amax(-1, keepdim=True).clamp_min_(EMPTY)
        if self.lift:
            top -= self.lift * self.unit
        return (h - top).div_(self.unit).exp2_(), top

    def _log_sum(self, z: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        rows = self.lines(z)
        for axis in reversed(self.axes):
            rows = rows.reshape(len(rows), -1, axis.near.shape[-1])
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
            lines = (len(rows), -1, axis.near.shape[-1])
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
            lines = (len(rows), -1, axis.near.shape[-1])
            weights = AxisWeights(rows.reshape(lines), axis)
            rows, total = weights.log_sum, weights.mean(total.reshape(lines)) + weights.mean_cost
        return self.unlined(total, h)

    def _sums_of_costs(self, powers: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        total, K = torch.zeros_like(powers), self.kernels
        for k, cost in enumerate(self._costs):
            total += contract(powers, (*K[:k], K[k] * cost, *K[k + 1 :]))
        return total

    def lines(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "groups lines n"]:
        """Bring the instances of one eps together."""
        return x.reshape(len(self._units), -1, x.shape[-1])

    def unlined(self, rows: Tensor, like: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Undo `lines`, with all axes before the instances."""
        n = math.prod(len(cost) for cost in self._costs)
        return rows.reshape(len(rows), n, -1).mT.reshape(len(like), n)


def _without_zeros(sums: Tensor) -> Tensor:
    """Return what to divide by, for means that are zero where there is no mass."""
    return torch.where(sums == 0, torch.inf, sums)


@final
class Separables:
    """The kernels of a grid at the last few eps; a tensor is known by its values."""

    def __init__(self, costs: tuple[Tensor, ...]) -> None:
        self._costs = costs
        self._keep = 4 if sum(cost.numel() for cost in costs) <= _KEEP else 1
        self._recent: list[tuple[float | Tensor, Separable]] = []

    def at(self, eps: float | Float[Tensor, "batch"]) -> Separable:
        """Return the kernel at this eps, or at these of a batch."""
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
