"""A geometry in exported graphs: its costs, and the sums over its atoms at a temperature.

Sums are plain products where exp(-C/eps) fits into float64, else in the log domain: graphs have no branches.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from metaot.geometry import Geometry, Grid

PLAIN = 600.0
"""Cost in units of eps up to which sums over a whole grid are plain products, whatever the potentials."""
_LEAST = -650.0
"""The logarithm of the least plain sum that is right: what it may lack is below the smallest number."""
_LIFT = 300.0
"""Scalings are raised by e to this power, so that potentials with a range of 1000 eps lose nothing."""
_NO_MASS = -1e30
"""The logarithm of a weight of zero: onnxruntime has NaN in sums with minus infinity."""


class Sums(ABC):
    """What a graph asks of a space at a temperature; potentials in the units of the cost, all batch *sizes."""

    @abstractmethod
    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return f after a Sinkhorn step, and the marginal a - P 1 that the plan of f misses."""

    @abstractmethod
    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        """Return the c-transform of f."""


@final
class PlainSums(Sums):
    """One scaling for each instance, and a product with exp(-cost/eps) along each axis of a grid.

    `costs` are symmetric; `axes` says which of them belongs to each axis. Potentials are not finite where sums are
    too small, for large costs in units of eps.
    """

    def __init__(self, eps: Tensor, costs: Sequence[Tensor], axes: Sequence[int]) -> None:
        self.eps = eps.reshape(-1, *[1] * len(axes))
        self.minus = -self.eps
        minus = self.minus if len(axes) == 2 else -eps.reshape(-1, 1, 1)
        different = [(cost / minus).exp() for cost in costs]
        self.kernels = [different[k] for k in axes]

    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        w, top = self._scaling(f, a)
        rows = self._times(b / self._times(w))
        return (_logarithm(rows) - top) * self.minus, a - w * rows

    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        w, top = self._scaling(f, a)
        return (_logarithm(self._times(w)) + top) * self.minus

    def _scaling(self, f: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return a exp(f/eps - top), and top, which is one number for each instance."""
        z = f / self.eps
        top = z.amax(list(range(1, z.ndim)), keepdim=True) - _LIFT
        return a * (z - top).exp(), top

    def _times(self, v: Tensor) -> Tensor:
        """Return exp(-C/eps) v."""
        for axis in range(len(self.kernels) - 1, -1, -1):
            v = _along(v, axis, self.kernels[axis])
        return v


def _along(values: Tensor, axis: int, kernel: Tensor) -> Tensor:
    """Multiply values, batch *sizes, along one axis by a symmetric kernel, in one node of the graph."""
    sizes = values.shape[1:]
    if len(sizes) == 1:
        return (values[:, None] @ kernel)[:, 0]
    if axis == len(sizes) - 1:
        return values @ _lifted(kernel, len(sizes) - 2)
    lines = values if axis == len(sizes) - 2 else values.flatten(axis + 2)
    lines = _lifted(kernel, axis) @ lines
    return lines if axis == len(sizes) - 2 else lines.unflatten(-1, sizes[axis + 1 :])


def _lifted(kernel: Tensor, dims: int) -> Tensor:
    """Return a batch of matrices with dimensions of size one behind the batch."""
    return kernel if dims == 0 else kernel.reshape(-1, *[1] * dims, *kernel.shape[1:])


def _logarithm(sums: Tensor) -> Tensor:
    """Return the logarithm; -inf where sums are too small to be right."""
    z = sums.log()
    return torch.where(z > _LEAST, z, -torch.inf)


@final
class LogSums(Sums):
    """Sums in the log domain, axis by axis, right for every eps; a matrix C is the cost of one axis."""

    def __init__(self, eps: Tensor, costs: Sequence[Tensor]) -> None:
        self.eps = eps.reshape(-1, *[1] * len(costs))
        self.rows = [cost / eps[:, None, None] for cost in costs]
        self.columns = [cost.mT / eps[:, None, None] for cost in costs]

    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        after = self._transform(self.best_g(f, a), b, self.rows)
        return after, a - a * ((f - after) / self.eps).clamp_max(600).exp()

    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        return self._transform(f, a, self.columns)

    def _transform(self, f: Tensor, a: Tensor, costs: Sequence[Tensor]) -> Tensor:
        z = f / self.eps + a.log().clamp_min(_NO_MASS)
        for cost in reversed(costs):  # each sum moves the last axis to the front
            lines = z[:, None] if z.ndim == 2 else z.flatten(1, -2) if z.ndim > 3 else z
            terms = lines[:, None] - cost[:, :, None, :]
            top = terms.amax(-1, keepdim=True)
            sums = (terms - top).exp().sum(-1).log() + top[..., 0]
            z = sums[:, :, 0] if z.ndim == 2 else sums.unflatten(2, z.shape[1:-1]) if z.ndim > 3 else sums
        return z * -self.eps


@final
class Space(nn.Module):
    """The different costs of a grid's axes, or a cost matrix, as the buffers `cost0`, `cost1` ...

    `axes` holds for each axis the index of its cost. `fallback` is whether the plain sums of a grid may be wrong
    at the lowest temperature.
    """

    def __init__(self, geometry: Geometry, lowest: float) -> None:
        super().__init__()
        is_grid = isinstance(geometry, Grid)
        self.sizes = list(geometry.sizes) if is_grid else []
        self.axes: list[int] = []
        costs: list[Tensor] = []
        for cost in geometry.axis_costs or (geometry.cost_rows(slice(None)).detach(),):
            same = [k for k, other in enumerate(costs) if torch.equal(cost, other)]
            self.axes.append(same[0] if same else len(costs))
            if not same:
                costs.append(cost.double().contiguous())
        for k, cost in enumerate(costs):
            self.register_buffer(f"cost{k}", cost)
        self.fallback = is_grid and sum(float(costs[k].amax()) for k in self.axes) > PLAIN * lowest

    def shaped(self, values: Tensor) -> Tensor:
        """Return vectors as functions on the grid."""
        return values.reshape(-1, *self.sizes) if self.sizes else values

    def sums(self, eps: Tensor, *, exact: bool) -> Sums:
        """Return the sums at temperatures eps; not finite where they are not right, unless `exact`."""
        costs = [getattr(self, f"cost{k}") for k in range(max(self.axes) + 1)]
        if exact or not self.sizes:
            return LogSums(eps, [costs[k] for k in self.axes])
        return PlainSums(eps, costs, self.axes)
