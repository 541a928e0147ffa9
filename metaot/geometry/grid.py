"""Regular grids with a cost that is a sum over axes: everything is done axis by axis, never n x m."""

import math
from collections.abc import Callable
from functools import cached_property, reduce
from operator import iadd
from typing import final, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.axiswise import grid_hardmin, grid_times_cost
from metaot.geometry.base import Eps, Geometry, expand_eps
from metaot.geometry.checks import require_finite
from metaot.geometry.grid_kernel import GridKernel, product
from metaot.geometry.kept_kernels import KeptKernels
from metaot.geometry.separable import Separable, Separables
from metaot.single import AxesKernel, Kernels

AxisCost = Callable[[Tensor, Tensor], Tensor]

AXIS_COSTS: dict[str, AxisCost] = {
    "sqeuclidean": lambda s, t: (s - t).square(),
    "l1": lambda s, t: (s - t).abs(),
}


@final
class Grid(Geometry):
    """A grid of any dimension, the same for source and target; atoms in C order, as `image.flatten()`.

    Each axis is a number of points, evenly spaced on [0, 1], or a vector of coordinates:
    `Grid(28, 28)` is the unit square, `Grid(torch.linspace(0, 2, 64), 32)` a rectangle. `cost` is
    "sqeuclidean" (|x - y|^2), "l1", or a function (s, t) -> cost of one axis, elementwise; the cost of
    the grid is its sum over the axes. The work is done in float64, whatever the dtype of h: float32
    exponents are too short for small eps; results have the dtype of h. Not differentiable by autograd
    (`c_transform` is).
    """

    def __init__(self, *axes: int | Tensor, cost: str | AxisCost = "sqeuclidean") -> None:
        if not axes:
            raise ValueError("a Grid needs at least one axis, such as Grid(28, 28)")
        if isinstance(cost, str) and cost not in AXIS_COSTS:
            raise ValueError(f"cost must be a callable or one of {sorted(AXIS_COSTS)}, got {cost!r}")
        self.axes = tuple(_coordinates(k, axis) for k, axis in enumerate(axes))
        self.cost = cost
        self.axis_costs = tuple(self._axis_cost(t[:, None], t[None, :]) for t in self.axes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of points along each axis."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @cached_property
    def _shape(self) -> tuple[int, int]:
        n = math.prod(self.sizes)
        return n, n

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def _axis_cost(self) -> AxisCost:
        return AXIS_COSTS[self.cost] if isinstance(self.cost, str) else self.cost

    @property
    def T(self) -> "Grid":
        return self._transposed

    @cached_property
    def _transposed(self) -> "Grid":
        cost = self.cost
        if isinstance(cost, str):
            return self
        return Grid(*self.axes, cost=lambda s, t: cost(t, s))

    @property
    def points(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        return self._mesh, self._mesh

    @cached_property
    def _mesh(self) -> Float[Tensor, "n d"]:
        return torch.stack(torch.meshgrid(*self.axes, indexing="ij"), -1).flatten(0, -2)

    @property
    def cost_name(self) -> str | None:
        return self.cost if isinstance(self.cost, str) else None

    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        return self._at(eps, h).softmin(_flat(h)).reshape(h.shape).to(h)

    def softmin_alone(self, h: Float[np.ndarray, "m"], eps: float) -> Float[np.ndarray, "n"]:
        return self._kernels.at(eps).softmin_alone(h)

    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        values = [_flat(column.expand(h.shape)) for column in v.unbind(-1)]
        means = self._at(eps, h).mean(_flat(h), values)
        return torch.stack(means, -1).reshape(*h.shape, len(means)).to(h)

    def mean_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        return self._at(eps, h).mean_cost(_flat(h)).reshape(h.shape).to(h)

    def best_plan(
        self, h: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Eps
    ) -> tuple[Float[Tensor, "batch m"], GridKernel]:
        g = self.T.softmin(h, eps)
        return g, self.kernel(h, g + expand_eps(eps, g) * b.log(), eps)

    def kernel(self, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch m"], eps: Eps) -> GridKernel:
        axes = self._at(eps, f)

        def transposed() -> GridKernel:
            return GridKernel(product(self.T._at(eps, g), _flat(g), _flat(f)), lambda: forward)

        forward = GridKernel(product(axes, _flat(f), _flat(g)), transposed)
        return forward

    @overload
    def axis_kernels(self, eps: float, largest: float) -> AxesKernel | None: ...

    @overload
    def axis_kernels(self, eps: Eps, largest: float) -> Kernels | None: ...

    def axis_kernels(self, eps: Eps, largest: float) -> Kernels | None:
        return self._kept_kernels.at(eps, largest)

    @cached_property
    def _kept_kernels(self) -> KeptKernels:
        return KeptKernels(self.axis_costs)

    @cached_property
    def spacings(self) -> tuple[float, ...]:
        """The largest distance between neighbouring points of each axis."""
        return tuple(float(axis.diff().abs().max()) if len(axis) > 1 else math.inf for axis in self.axes)

    def coarsened(self, by: tuple[int, ...]) -> "tuple[Grid, Separables]":
        """Return the grid of the means of `by` neighbouring points of each axis, and the kernels to it.

        The last mean of an axis may be of fewer points. The kernels are those between the points of this grid and
        of the coarse one.
        """
        coarse = self._coarse.get(by)
        if coarse is None:
            groups = [axis.split(count) for axis, count in zip(self.axes, by, strict=True)]
            axes = [torch.stack([group.mean() for group in along]) for along in groups]
            between = [self._axis_cost(s[:, None], t) for s, t in zip(self.axes, axes, strict=True)]
            coarse = Grid(*axes, cost=self.cost), Separables(tuple(between))
            self._coarse[by] = coarse
        return coarse

    def plain_kernels(self, eps: Eps) -> Separable:
        """Return the kernel at this eps, or at each one of a flat batch."""
        return self._kernels.at(eps)

    @cached_property
    def _coarse(self) -> "dict[tuple[int, ...], tuple[Grid, Separables]]":
        return {}

    def kernel_work(self, eps: Eps) -> int:
        """Count a matrix product as a tenth of a product with a vector, which has to read the matrix.

        In blocks, the numbers read and written around it are the larger part.
        """
        lowest = float(eps.min()) if isinstance(eps, Tensor) else eps
        axes = self._kernels.at(lowest)
        around = 1 if axes.is_plain else 12 * axes.blocks
        return int(self.shape[0] * sum(size / 10 + around for size in self.sizes))

    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        return grid_hardmin(h.double().reshape(-1, *self.sizes), self.axis_costs).reshape(h.shape).to(h)

    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        return grid_times_cost(v.double().reshape(-1, *self.sizes), self.axis_costs).reshape(v.shape).to(v)

    def cost_rows(self, rows: slice) -> Float[Tensor, "r m"]:
        index = torch.arange(self.shape[0], device=self.axes[0].device)[rows]
        total = self.axes[0].new_zeros(len(index), 1)
        for place, cost in zip(torch.unravel_index(index, self.sizes), self.axis_costs, strict=True):
            total = (total[:, :, None] + cost[place][:, None, :]).flatten(1)
        return total

    def cost_block(
        self, rows: Int[Tensor, "batch k"], columns: Int[Tensor, "batch l"]
    ) -> Float[Tensor, "batch k l"]:
        if len(rows) == 1:
            return self._block(rows[0], columns[0])[None]
        blocks = [self._block(i, j) for i, j in zip(rows.unbind(), columns.unbind(), strict=True)]
        return torch.stack(blocks) if blocks else self.axes[0].new_zeros(*rows.shape, columns.shape[-1])

    def _block(self, rows: Int[Tensor, "k"], columns: Int[Tensor, "l"]) -> Float[Tensor, "k l"]:
        if rows.device.type == "cpu":
            i, j = rows.numpy(), columns.numpy()
            blocks = [cost.take(at[j], 1).take(at[i], 0) for cost, at in self._arrays]
            return torch.from_numpy(reduce(iadd, blocks))
        places = zip(self._places, self.axis_costs, strict=True)
        parts = [cost.index_select(1, at[columns]).index_select(0, at[rows]) for at, cost in places]
        return sum(parts[1:], parts[0])

    @cached_property
    def _arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each axis, its costs and the place of every atom along it; of numpy, which is quicker to ask."""
        pairs = zip(self.axis_costs, self._places, strict=True)
        return [(cost.detach().numpy(), at.numpy()) for cost, at in pairs]

    @cached_property
    def _places(self) -> tuple[Int[Tensor, "n"], ...]:
        """For each axis, the place of every atom along it."""
        return torch.unravel_index(torch.arange(self.shape[0], device=self.axes[0].device), self.sizes)

    def tensors(self) -> dict[str, Tensor]:
        return {f"axis{k}": axis for k, axis in enumerate(self.axes)}

    def to(self, like: Tensor) -> "Grid":
        if self.axes[0].device == like.device:
            return self
        return Grid(*(axis.to(like.device) for axis in self.axes), cost=self.cost)

    def __getitem__(self, index: object) -> "Grid":
        return self

    def flat(self) -> "Grid":
        return self

    def _at(self, eps: Eps, h: Tensor) -> Separable:
        """Return the kernel at this eps; one for each instance of h, if they differ."""
        if isinstance(eps, Tensor):
            if eps.numel() > 1:
                return self._kernels.at(eps.double().expand(h.shape[:-1]).reshape(-1))
            eps = float(eps) if eps.numel() else 1.0
        return self._kernels.at(eps)

    @cached_property
    def _kernels(self) -> Separables:
        return Separables(self.axis_costs)

    def __repr__(self) -> str:
        return f"Grid{self.sizes} with cost {self.cost!r}"


def _flat(h: Float[Tensor, "*batch m"]) -> Float[Tensor, "flat m"]:
    return h.double().reshape(math.prod(h.shape[:-1]), h.shape[-1])


def _coordinates(k: int, axis: int | Tensor) -> Float[Tensor, "points"]:
    if isinstance(axis, int):
        if axis < 1:
            raise ValueError(f"axis {k} of a Grid must have at least one point, got {axis}")
        return torch.linspace(0, 1, axis, dtype=torch.float64)
    require_finite(f"axis {k}", axis)
    if axis.ndim != 1 or len(axis) == 0:
        raise ValueError(f"axis {k} of a Grid must be a vector of coordinates, got {tuple(axis.shape)}")
    return axis.double()
