"""Sums over the atoms of a grid, axis by axis, as matrix products where these are exact.

A sum of positive products loses digits only by underflow. So what is summed is scaled by its maximum and
multiplied with the Gibbs kernel of each axis in float64; every sum that comes out far above the smallest number
is then right to rounding. The others (small eps, mass far away) are done again with more care, in the end with a
logsumexp.
"""

import math
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_SAFE = 1e-280
"""Terms lost to underflow are below 1e-308 each: no digit of a sum above this bound."""


def grid_log_sum(
    z: Float[Tensor, "batch *sizes"], costs: tuple[Tensor, ...], eps: float | Tensor
) -> Float[Tensor, "batch *sizes"]:
    r"""Return $\log \sum_j \exp(z_j - \sum_k c^k_{ij}/\epsilon)$ over all atoms j of a grid, float64.

    `costs` has one matrix for each axis; eps is a number, or one for each of the batch. One exponential and
    one logarithm for each atom; an instance in which a sum may have underflowed is done again, axis by axis.
    """
    top = _finite(z.amax(-1, keepdim=True))
    sums = _contract((z - top).exp(), costs[-1], eps, len(costs) - 1)
    for axis in range(len(costs) - 2, -1, -1):
        highest = top.amax(axis + 1, keepdim=True)
        sums = _contract(sums * (top - highest).exp(), costs[axis], eps, axis)
        top = highest
    result = top + sums.log()
    if sums.numel() and bool(sums.amin() < _SAFE):
        lost = (sums < _SAFE).flatten(1).any(1)
        result[lost] = _careful(z[lost], costs, eps[lost] if isinstance(eps, Tensor) else eps)
    return result


def rows_along(z: Tensor, axis: int, dimension: int) -> Tensor:
    """Bring one of the last `dimension` axes behind the others and flatten those: lead x rows x points."""
    z = z.movedim(axis - dimension, -1)
    lead = z.ndim - dimension
    return z.reshape(*z.shape[:lead], math.prod(z.shape[lead:-1]), z.shape[-1])


def undo_rows(rows: Float[Tensor, "*lead rows points"], like: Tensor, axis: int, dimension: int) -> Tensor:
    """Undo `rows_along` for a tensor that looked like `like`."""
    return rows.reshape(like.movedim(axis - dimension, -1).shape).movedim(-1, axis - dimension)


def _contract(values: Tensor, cost: Tensor, eps: float | Tensor, axis: int) -> Tensor:
    """Multiply with the Gibbs kernel of an axis."""
    kernel = (-cost / (eps[:, None, None] if isinstance(eps, Tensor) else eps)).exp()
    dimension = values.ndim - 1
    return undo_rows(rows_along(values, axis, dimension) @ kernel.mT, values, axis, dimension)


def _careful(z: Tensor, costs: tuple[Tensor, ...], eps: float | Tensor) -> Tensor:
    """Return the logarithm of the sums with a new maximum for each row of each axis."""
    for axis, cost in enumerate(costs):
        rows = AxisWeights(rows_along(z, axis, len(costs)), cost, eps).log_sum
        z = undo_rows(rows, z, axis, len(costs))
    return z


def _finite(top: Tensor) -> Tensor:
    """Return the maximum that a row is scaled by: any number where the row has no mass."""
    return torch.where(top == -torch.inf, _EMPTY, top)


_EMPTY = -1e300
"""Stands for the maximum of a row without mass: far below every other, and finite."""


@final
class AxisWeights:
    r"""Weights $w_{ij} \propto \exp(z_j - c_{ij}/\epsilon)$ over the last axis of z, float64.

    `scaled` is c/eps of one axis, n m or, with an eps for each instance, batch n m with z batch rows m.
    """

    def __init__(self, z: Float[Tensor, "batch rows m"], cost: Float[Tensor, "n m"], eps: float | Tensor) -> None:
        self._cost = cost
        self._scaled = cost / (eps[:, None, None] if isinstance(eps, Tensor) else eps)
        self._kernel = (-self._scaled).exp()
        self._z = z
        highest = z.amax(-1, keepdim=True)
        self._top = torch.where(highest == -torch.inf, 0.0, highest)
        self._scalings = (z - self._top).exp()
        self._total = self._scalings @ self._kernel.mT
        lost = ((self._total < _SAFE) & (highest > -torch.inf)).any(-1)
        self._lost = lost if bool(lost.any()) else None

    @cached_property
    def log_sum(self) -> Float[Tensor, "batch rows n"]:
        """The logarithm of the sum over j, before normalisation; -inf for rows without mass."""
        result = self._top + self._total.log()
        if self._lost is not None:
            result[self._lost] = self._lost_exponents.logsumexp(-1)
        return result

    def mean(self, v: Float[Tensor, "k batch rows m"]) -> Float[Tensor, "k batch rows n"]:
        """Return the mean over j of each of the k values; zero for rows without mass."""
        result = ((self._scalings * v) @ self._kernel.mT) / self._divisor
        if self._lost is not None:
            result[:, self._lost] = (self._lost_weights @ v[:, self._lost, :, None]).squeeze(-1)
        return result

    @cached_property
    def mean_cost(self) -> Float[Tensor, "batch rows n"]:
        """The mean over j of the cost along this axis; zero for rows without mass."""
        result = (self._scalings @ (self._kernel * self._cost).mT) / self._divisor
        if self._lost is not None:
            result[self._lost] = (self._lost_weights * self._cost).sum(-1)
        return result

    @cached_property
    def _divisor(self) -> Tensor:
        return torch.where(self._total > 0, self._total, 1.0)

    @cached_property
    def _lost_exponents(self) -> Float[Tensor, "lost n m"]:
        assert self._lost is not None
        scaled = self._scaled
        if scaled.ndim == 3:
            scaled = scaled[self._lost.nonzero()[:, 0]]
        return self._z[self._lost][:, None, :] - scaled

    @cached_property
    def _lost_weights(self) -> Float[Tensor, "lost n m"]:
        return self._lost_exponents.softmax(-1)
