"""Gibbs kernels of costs that are sums over axes, kept for the next problems at the same temperature."""

from collections.abc import Sequence
from functools import cached_property
from typing import final, overload

import torch
from torch import Tensor

from metaot.geometry.base import Eps
from metaot.single import AxesKernel, AxesKernels, Kernels

_KEPT = 4
"""How many temperatures are remembered."""


@final
class KeptKernels:
    """The kernels of an axis-wise cost that were asked for lately."""

    def __init__(self, axis_costs: Sequence[Tensor]) -> None:
        self._costs = axis_costs
        self._by_eps: dict[float, AxesKernel] = {}
        self._last: tuple[Tensor, AxesKernels] | None = None

    @overload
    def at(self, eps: float, largest: float) -> AxesKernel | None: ...

    @overload
    def at(self, eps: Eps, largest: float) -> Kernels | None: ...

    def at(self, eps: Eps, largest: float) -> Kernels | None:
        """Return the kernel, or one for each eps; None where costs are above `largest` in units of eps."""
        if isinstance(eps, Tensor):
            return self._each(eps, largest)
        if self._highest_cost > largest * eps:
            return None
        kernel = self._by_eps.get(eps)
        if kernel is None:
            kernel = AxesKernel([(cost / eps).numpy(force=True) for cost in self._costs])
            if len(self._by_eps) >= _KEPT:
                self._by_eps.clear()
            self._by_eps[eps] = kernel
        return kernel

    def _each(self, eps: Tensor, largest: float) -> AxesKernels | None:
        if eps.numel() == 0 or not self._highest_cost <= largest * float(eps.min()):
            return None
        last = self._last
        if last is not None and torch.equal(last[0], eps):
            return last[1]
        costs = [cost.numpy(force=True) for cost in self._costs]
        kernels = AxesKernels(costs, eps.double().numpy(force=True))
        self._last = eps.clone(), kernels
        return kernels

    @cached_property
    def _highest_cost(self) -> float:
        return sum(float(cost.abs().max()) for cost in self._costs)
