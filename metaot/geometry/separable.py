"""The softmin weights along one axis, as a matrix product where that is exact, else in the log domain.

A sum of positive products loses digits only by underflow. So each row is scaled by its maximum, multiplied
with the Gibbs kernel in float64, and every sum that comes out far above the smallest number is right to
rounding. The rows with another sum (small eps, mass far away) are done again with a logsumexp.
"""

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_SAFE = 1e-280
"""Terms lost to underflow are below 1e-308 each: no digit of a sum above this bound."""


@final
class AxisWeights:
    r"""Weights $w_{ij} \propto \exp(z_j - c_{ij}/\epsilon)$ over the last axis of z, float64.

    `scaled` is c/eps of one axis, n m or, with an eps for each instance, batch n m with z batch rows m.
    """

    def __init__(
        self, z: Float[Tensor, "batch rows m"], cost: Float[Tensor, "n m"], eps: float | Tensor
    ) -> None:
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
