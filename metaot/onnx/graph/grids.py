"""Sums over the atoms of a grid in graphs that are exported: plain where exp(-C/eps) fits, else line by line.

The same mathematics as `metaot.geometry.separable`, without branches on values.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from metaot.geometry.separable_axis import EMPTY, AxisKernel
from metaot.onnx.graph.axes import along, product

TINY = 1e-300
"""Sums of a Sinkhorn step line by line are kept above it; a buffer, for the exporter makes numbers float32."""

PLAIN = 600.0
"""Cost in units of eps up to which sums over the whole grid are plain products."""

_LEAST = -650.0
"""The logarithm of the least sum that is right: what it may lack is below the smallest number."""

_LIFT = 300.0
"""Scalings are raised by e to this power, so that potentials with a range of 1000 eps lose nothing."""


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
    """One scaling for each instance and plain products: right for costs up to `PLAIN` eps.

    Potentials are not finite where sums are too small, for higher costs.
    """

    def __init__(self, eps: Tensor, costs: Sequence[Tensor], axes: Sequence[int]) -> None:
        self.eps = eps.reshape(-1, *[1] * len(axes))
        self.kernels = kernels(eps, costs, axes)

    def times(self, v: Tensor) -> Tensor:
        """Return exp(-C/eps) v."""
        return product(self.kernels, v)

    def scaling(self, f: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return a exp(f/eps - top), and top, which is one number for each instance."""
        z = f / self.eps
        top = z.amax(list(range(1, z.ndim)), keepdim=True) - _LIFT
        return a * (z - top).exp(), top

    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        w, top = self.scaling(f, a)
        columns = self.times(w)
        rows = self.times(torch.where(b > 0, b / columns, 0))
        return (top - _logarithm(rows)) * self.eps, a - w * rows

    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        w, top = self.scaling(f, a)
        return (_logarithm(self.times(w)) + top) * -self.eps


def _logarithm(sums: Tensor) -> Tensor:
    """Return the logarithm; -inf where sums are too small to be right."""
    z = sums.log()
    return torch.where(z > _LEAST, z, -torch.inf)


@final
class LineSums(Sums):
    """A scaling for each line of the grid; whatever eps of the range."""

    def __init__(
        self,
        eps: Tensor,
        costs: Sequence[Tensor],
        axes: Sequence[int],
        splits: "Sequence[AxisSplit]",
        tiny: Tensor,
    ) -> None:
        self.tiny = tiny
        self.eps = eps.reshape(-1, *[1] * len(axes))
        self.kernels = kernels(eps, costs, axes)
        exact = [split.at(eps) for split in splits]
        self.exact = [exact[k] for k in axes]

    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        start = f / self.eps
        top = start.amax(-1, keepdim=True)
        sums, top = self._transform(a * (start - top).exp(), top)
        lowest = sums.amin(-1, keepdim=True)
        sums, top = self._transform(b * (lowest / sums), -(top + lowest.log()))
        after = -(top + sums.log())
        return after * self.eps, a - a * (start - after).clamp_max(600).exp()

    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        return self.softmin(f / self.eps + a.log()) * -self.eps

    def softmin(self, z: Tensor) -> Tensor:
        """Return log sum_i exp(z_i - C_ij/eps), exact to rounding."""
        sizes = z.shape[1:]
        for axis in reversed(self.exact):
            z = axis(z.reshape(-1, math.prod(sizes) // axis.size, axis.size))
        return z.reshape(-1, *sizes).contiguous()

    def _transform(self, weights: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        last = len(self.kernels) - 1
        sums = along(weights, last, self.kernels[last])
        for axis in range(last - 1, -1, -1):
            highest = top.amax(axis + 1, keepdim=True)
            sums = along(sums * (top - highest).exp(), axis, self.kernels[axis])
            top = highest
        return torch.maximum(sums, self.tiny), top


@final
class AxisSplit(nn.Module):
    """The cost of an axis as far_i + near_j + R_ij in blocks of rows, in which exp(-R/eps) fits into float64.

    With as many blocks as the lowest eps asks for; see `metaot.geometry.separable_axis`.
    """

    def __init__(self, cost: Tensor, lowest: float) -> None:
        super().__init__()
        unit = torch.tensor([lowest * math.log(2)], dtype=torch.float64)
        axis = AxisKernel.of(cost, unit)
        near = axis.near * unit
        rest = axis.costs - near
        far = (rest.amax(-1, keepdim=True) + rest.amin(-1, keepdim=True)) / 2
        rest = rest - far
        worst = float(rest.abs().amax() / unit)
        self.size, self.lift = len(cost), axis.lift * math.log(2)
        self.drop = min(axis.lift, 1010 - worst) * math.log(2)
        self.register_buffer("near", near)
        self.register_buffer("far", far.mT.contiguous())
        self.register_buffer("rest", rest.mT.contiguous())
        self.register_buffer("empty", torch.tensor(EMPTY, dtype=torch.float64))
        self.empty: Tensor
        self.near: Tensor
        self.far: Tensor
        self.rest: Tensor

    def at(self, eps: Tensor) -> "AxisSums":
        """Return the sums at a temperature."""
        scale = eps.reshape(-1, 1, 1, 1)
        kernel = (self.rest / -scale - self.drop).exp()
        return AxisSums(self, kernel, self.near / scale, self.far / scale)


@final
class AxisSums:
    """Exact sums along one axis: k blocks columns rows, and the shifts before and after."""

    def __init__(self, split: AxisSplit, kernel: Tensor, near: Tensor, far: Tensor) -> None:
        self.size, self.lift, self.drop, self.empty = split.size, split.lift, split.drop, split.empty
        self.kernel, self.near, self.far = kernel, near, far

    def __call__(self, z: Tensor) -> Tensor:
        """Return the log of sums over the last axis of batch lines size, as batch size lines."""
        exponents = z[:, None] - self.near
        top = torch.maximum(exponents.amax(-1, keepdim=True), self.empty) - self.lift
        logs = ((exponents - top).exp() @ self.kernel).log() + (top + self.drop) - self.far
        rows = logs.transpose(2, 3).flatten(1, 2)
        return rows if rows.shape[1] == self.size else rows[:, : self.size]


def kernels(eps: Tensor, costs: Sequence[Tensor], axes: Sequence[int]) -> list[Tensor]:
    """Return exp(-cost/eps) of each axis, k size size; axes with one place share it."""
    different = [(cost / -eps[:, None, None]).exp() for cost in costs]
    return [different[k] for k in axes]
